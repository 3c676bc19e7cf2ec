"""How every tool here speaks and ends: in one sentence on stderr, with an exit code. Needs nothing but Python, and is
imported before anything that may fail, so that no traceback reaches a user.
"""

import os
import signal
import sys

HERE = os.path.dirname(os.path.realpath(__file__))
IS_TOOL = bool(sys.argv) and os.path.dirname(os.path.realpath(sys.argv[0])) == HERE    # not a test
# Until run(), nothing is to be cleaned up, and an end without a word is better than a traceback out of an import.
if IS_TOOL and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import errno  # noqa: E402
import json  # noqa: E402
from pathlib import Path  # noqa: E402

LONGEST = 1000    # characters of a message; what files say may be longer


class Refusal(Exception):
    """What the user is told, in one sentence."""


class Stopped(BaseException):
    """A signal that ends the program came."""

    def __init__(self, number):
        super().__init__(number)
        self.number = number


def printable(text):
    """Without anything that moves a cursor, sets colours or turns the direction of writing: all of that is spelled
    out."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def shown(value):
    """A value of a JSON file, for a message."""
    try:
        text = json.dumps(value)
    except (RecursionError, ValueError, TypeError):    # too deep, or a number of too many digits
        return "too large to be shown"
    return text if len(text) <= 80 else text[:77] + "..."


def say(text):
    """The one way to stderr; what comes from files is in `text` as it is."""
    text = printable(str(text))
    try:
        print(text if len(text) <= LONGEST else text[:LONGEST - 3] + "...", file=sys.stderr, flush=True)
    except (OSError, ValueError):    # nobody listens
        pass


def progress(text):
    """Shown on a terminal only, until the next one; "" takes it away."""
    try:
        if sys.stderr.isatty():
            print(f"\r{printable(text):46}" if text else "\r" + " " * 46 + "\r", end="", file=sys.stderr, flush=True)
    except (OSError, ValueError):
        pass


ADVICE = {
    errno.ENOSPC: "make room, or name another place",
    errno.EDQUOT: "make room, or name another place",
    errno.EFBIG: "files may not be that large here: raise `ulimit -f`, or name another place",
    errno.EACCES: "ask for the right to it, or name another place",
    errno.EPERM: "ask for the right to it, or name another place",
    errno.EROFS: "name another place",
    errno.ENAMETOOLONG: "give it a shorter name",
    errno.EMFILE: "raise `ulimit -n`",
}


def system_error(e, path=None):
    """A sentence for an OSError."""
    path = e.filename if path is None and e.filename is not None else path
    reason, advice = e.strerror or str(e) or type(e).__name__, ADVICE.get(e.errno)
    place = f"{os.fsdecode(path)}: " if isinstance(path, (str, bytes, os.PathLike)) else ""
    return place + reason + (f"; {advice}" if advice else "")


def sentence_of(e):
    """What is said of an exception, and the exit code."""
    if isinstance(e, Refusal):
        return str(e), 1
    if isinstance(e, OSError):
        return system_error(e), 1
    if isinstance(e, KeyboardInterrupt):
        return "interrupted", 130
    if isinstance(e, Stopped):
        return f"stopped by {signal.Signals(e.number).name}", 128 + e.number
    if isinstance(e, MemoryError):
        return "the memory does not suffice; close other programs, or raise `ulimit -v`", 1
    if isinstance(e, RecursionError):
        return "a file is nested too deeply", 1
    if isinstance(e, ModuleNotFoundError):
        requirements = Path(__file__).with_name("requirements.txt")
        return f"the Python package {e.name} is missing: python3 -m pip install -r {requirements}", 1
    place = e.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = f"{Path(place.tb_frame.f_code.co_filename).name}:{place.tb_lineno}: " if place is not None else ""
    return f"internal error: {where}{type(e).__name__}: {e}; please report this", 1


ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGINT") if hasattr(signal, name)]


def stop(number, _):
    for other in ENDING:    # what is cleaned up now is cleaned up once, whatever else comes
        signal.signal(other, signal.SIG_IGN)
    raise KeyboardInterrupt if number == signal.SIGINT else Stopped(number)


def run(program, work, *args):
    """Exit code of work(*args); what goes wrong is told in one sentence."""
    before = {number: signal.getsignal(number) for number in ENDING}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:    # as nohup sets it
            signal.signal(number, stop)
    try:
        work(*args)
        sys.stdout.flush()
    except BrokenPipeError:    # who read what we print has gone
        silence()
        return 1
    except BaseException as e:
        if isinstance(e, (SystemExit, GeneratorExit)):
            raise
        progress("")
        text, code = sentence_of(e)
        say(f"{program}: {text}")
        return code
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 0


def silence():
    """Keeps Python from complaining, at its end, of a stdout that cannot be flushed."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        pass


def last_resort(kind, e, _):
    """For what happens outside of run(): imports, arguments."""
    if isinstance(e, BrokenPipeError):
        silence()
    else:
        say(f"{Path(sys.argv[0]).stem}: {sentence_of(e)[0]}")


if IS_TOOL:
    sys.excepthook = last_resort
