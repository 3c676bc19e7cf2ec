"""Whether the head of a GGUF file can be given to the gguf package's reader, which takes every count in it at its word:
checks them against the file. Needs nothing but Python.
"""

import os
import struct

from sentences import Refusal

WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}    # bytes of a value by its type
TEXT, ARRAY = 8, 9
MOST_ELEMENTS = 16 << 20    # of all arrays together: the reader makes an object of each
MOST_DIMENSIONS = 4
MAGICS = (b"GGUF", b"PWRI")


class Head:
    def __init__(self, file, path):
        self.file, self.path, self.size, self.elements = file, path, os.fstat(file.fileno()).st_size, 0

    def refuse(self, why):
        raise Refusal(f"{self.path} is not a GGUF file, or is damaged: {why}")

    def skip(self, n):
        if n > self.size - self.file.tell():
            self.refuse("it is cut short")
        self.file.seek(n, os.SEEK_CUR)

    def number(self, form):
        data = self.file.read(struct.calcsize(form))
        if len(data) < struct.calcsize(form):
            self.refuse("it is cut short")
        return struct.unpack("<" + form, data)[0]

    def value(self, kind):
        if kind == TEXT:
            self.skip(self.number("Q"))
        elif kind == ARRAY:
            element, count = self.number("I"), self.number("Q")
            self.elements += count
            if self.elements > MOST_ELEMENTS:
                self.refuse(f"its arrays have more than {MOST_ELEMENTS} elements")
            if element == TEXT:
                for _ in range(count):
                    self.value(TEXT)
            elif element in WIDTHS:
                self.skip(count * WIDTHS[element])
            else:
                self.refuse(f"it has an array of the type {element}")
        elif kind in WIDTHS:
            self.skip(WIDTHS[kind])
        else:
            self.refuse(f"it has a value of the type {kind}")

    def check(self):
        if self.file.read(4) not in MAGICS:
            self.refuse("it does not begin as one")
        version, tensors, keys = self.number("I"), self.number("Q"), self.number("Q")
        if version not in (2, 3):
            self.refuse(f"its version is {version}, expected 2 or 3")
        for _ in range(keys):
            self.skip(self.number("Q"))
            self.value(self.number("I"))
        for _ in range(tensors):
            self.skip(self.number("Q"))
            dimensions = self.number("I")
            if dimensions > MOST_DIMENSIONS:
                self.refuse(f"a tensor has {dimensions} dimensions")
            self.skip(dimensions * 8 + 12)


def check_header(path):
    with open(path, "rb") as file:
        Head(file, path).check()
