"""The pickle in a file of torch: a list of steps for a stack machine, which may do anything that Python can. So
Python's own machine never sees it. This one knows the steps that torch.save writes for a dictionary of tensors and no
others, and builds nothing but numbers, texts, lists, tuples, dictionaries and what `make` gives for the three
functions and the classes of storages that such a file names. Any other step is refused by its name before it is taken.

Format: Python's Lib/pickletools.py; protocol 2, which is torch.save's.
"""

import pickletools
import struct

from sentences import Refusal

MOST_BYTES = 32 << 20
MOST_STEPS = 1 << 20      # of up to 80 bytes in memory each; a tensor takes 32
MOST_INTEGER = 8          # bytes


class NotAPickle(ValueError):
    """The steps do not fit together."""


class Name:
    """What a step GLOBAL names. Has no attributes that a file could set."""
    __slots__ = ("module", "name")

    def __init__(self, module, name):
        self.module, self.name = module, name


class Machine:
    """`allowed(module, name)` says whether a name may occur; `make(name, arguments)` calls one; `load(key)` gives what
    stands for a persistent id."""

    def __init__(self, data, path, allowed, make, load):
        if len(data) > MOST_BYTES:
            raise Refusal(f"{path} has a list of tensors of {len(data)} bytes, and more than {MOST_BYTES} are not read")
        self.data, self.path, self.at = data, path, 0
        self.allowed, self.make, self.load = allowed, make, load
        self.stack, self.marks, self.memo = [], [], {}

    # ---- the file

    def take(self, n):
        if n > len(self.data) - self.at:
            raise NotAPickle("cut short")
        self.at += n
        return self.data[self.at - n:self.at]

    def number(self, form):
        return struct.unpack("<" + form, self.take(struct.calcsize(form)))[0]

    def line(self):
        end = self.data.find(b"\n", self.at, self.at + 256)
        if end < 0:
            raise NotAPickle("a name of more than 255 bytes")
        text, self.at = self.data[self.at:end], end + 1
        return text.decode("utf-8")

    def run(self):
        for _ in range(MOST_STEPS):
            code = self.take(1)
            step = STEPS.get(code)
            if step is None:
                known = pickletools.code2op.get(code.decode("latin-1"))
                raise Refusal(f"{self.path} holds a pickle with the step {known.name if known else code.hex()}, which "
                              "no checkpoint needs, and is not read")
            if step(self):
                return self.pop()
        raise Refusal(f"{self.path} holds a pickle of more than {MOST_STEPS} steps, and is not read")

    # ---- the stack

    def push(self, value):
        self.stack.append(value)

    def pop(self):
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise NotAPickle("nothing to take")
        return self.stack.pop()

    def cut(self, start):
        """All that lies from there on."""
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def top(self, kind):
        value = self.pop()
        self.push(value)
        if not isinstance(value, kind):
            raise NotAPickle("not of the kind that is needed")
        return value

    def to_mark(self):
        if not self.marks:
            raise NotAPickle("no mark")
        return self.cut(self.marks.pop())

    def several(self, n):
        start = len(self.stack) - n
        if start < (self.marks[-1] if self.marks else 0):
            raise NotAPickle("nothing to take")
        return tuple(self.cut(start))

    # ---- the steps

    def protocol(self):
        if self.number("B") != 2:
            raise Refusal(f"{self.path} holds a pickle of another protocol than 2, which torch.save writes; save it "
                          "anew")

    def integer(self):
        n = self.number("B")
        if n > MOST_INTEGER:
            raise NotAPickle("a number of more than 64 bits")
        self.push(int.from_bytes(self.take(n), "little", signed=True))

    def text(self):
        self.push(self.take(self.number("I")).decode("utf-8"))

    def name(self):
        module, name = self.line(), self.line()
        if not self.allowed(module, name):
            raise Refusal(f"{self.path} holds a {module}.{name}, and only dictionaries of tensors are read")
        self.push(Name(module, name))

    def call(self):
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            raise NotAPickle("not a call")
        self.push(self.make(function, arguments))

    def persistent(self):
        self.push(self.load(self.pop()))

    def attributes(self):
        """Of an OrderedDict: torch's _metadata, which nobody here needs. Nothing else may have any."""
        self.pop()
        self.top(dict)

    def put(self, form):
        if not self.stack:
            raise NotAPickle("nothing to keep")
        self.memo[self.number(form)] = self.stack[-1]

    def get(self, form):
        key = self.number(form)
        if key not in self.memo:
            raise NotAPickle("nothing was kept there")
        self.push(self.memo[key])

    def items(self, values):
        target = self.top(dict)
        if len(values) % 2:
            raise NotAPickle("a key without a value")
        for key, value in zip(values[::2], values[1::2]):
            if not isinstance(key, str):
                raise NotAPickle("a key that is no text")
            target[key] = value


STEPS = {    # by their bytes; true ends the list
    b"\x80": Machine.protocol,                                        # PROTO
    b".": lambda m: True,                                             # STOP
    b"N": lambda m: m.push(None),                                     # NONE
    b"\x88": lambda m: m.push(True),                                  # NEWTRUE
    b"\x89": lambda m: m.push(False),                                 # NEWFALSE
    b"J": lambda m: m.push(m.number("i")),                            # BININT
    b"K": lambda m: m.push(m.number("B")),                            # BININT1
    b"M": lambda m: m.push(m.number("H")),                            # BININT2
    b"\x8a": Machine.integer,                                         # LONG1
    b"G": lambda m: m.push(struct.unpack(">d", m.take(8))[0]),        # BINFLOAT
    b"X": Machine.text,                                               # BINUNICODE
    b"(": lambda m: m.marks.append(len(m.stack)),                     # MARK
    b")": lambda m: m.push(()),                                       # EMPTY_TUPLE
    b"t": lambda m: m.push(tuple(m.to_mark())),                       # TUPLE
    b"\x85": lambda m: m.push(m.several(1)),                          # TUPLE1
    b"\x86": lambda m: m.push(m.several(2)),                          # TUPLE2
    b"\x87": lambda m: m.push(m.several(3)),                          # TUPLE3
    b"]": lambda m: m.push([]),                                       # EMPTY_LIST
    b"a": lambda m: (lambda v: m.top(list).append(v))(m.pop()),       # APPEND
    b"e": lambda m: (lambda v: m.top(list).extend(v))(m.to_mark()),   # APPENDS
    b"}": lambda m: m.push({}),                                       # EMPTY_DICT
    b"s": lambda m: m.items(m.several(2)),                            # SETITEM
    b"u": lambda m: m.items(m.to_mark()),                             # SETITEMS
    b"c": Machine.name,                                               # GLOBAL
    b"R": Machine.call,                                               # REDUCE
    b"b": Machine.attributes,                                         # BUILD
    b"Q": Machine.persistent,                                         # BINPERSID
    b"q": lambda m: m.put("B"),                                       # BINPUT
    b"r": lambda m: m.put("I"),                                       # LONG_BINPUT
    b"h": lambda m: m.get("B"),                                       # BINGET
    b"j": lambda m: m.get("I"),                                       # LONG_BINGET
}
