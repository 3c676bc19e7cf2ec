"""The one way in which the tools write files and folders: whole or not at all, whatever fails.

What is written stands beside PATH as PATH.0123456789abcdef.part, a name that nobody can guess, until it is complete
and synced; then it takes PATH's name and mode. Of several writers of one PATH the last one wins, with all of it. Parts
are locked while they are written, so that the next writer of PATH can tell and remove what a killed one left behind.
`hearth` does the same (engine/system/whole_file.h).
"""

import contextlib
import errno
import os
import re
import secrets
import shutil
import stat
import time
from pathlib import Path

from sentences import ADVICE, Refusal, say

try:
    import fcntl
except ImportError:    # Windows: no locks, so that nothing is taken for a left-over
    fcntl = None

DIGITS = 16
END = ".part"
MOST_NAME = 255    # bytes of a name
JUST_MADE = 2      # seconds


def stem_of(path):
    name = os.fsencode(path.name)[:MOST_NAME - 1 - DIGITS - len(END)]
    return os.fsdecode(name) + "."


def locked(fd):
    """False: somebody else has it. True where a file system knows no locks."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        return e.errno not in (errno.EWOULDBLOCK, errno.EAGAIN)
    return True


def remove_leftovers(path):
    """What writers of `path` that were killed have left."""
    if fcntl is None:
        return
    pattern = re.compile(re.escape(stem_of(path)) + f"[0-9a-f]{{{DIGITS}}}" + re.escape(END))
    with contextlib.suppress(OSError):
        for name in os.listdir(path.parent):
            if not pattern.fullmatch(name):
                continue
            with contextlib.suppress(OSError):
                left = path.parent / name
                fd = os.open(left, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    status = os.fstat(fd)
                    folder = stat.S_ISDIR(status.st_mode)
                    if not folder and not stat.S_ISREG(status.st_mode):
                        continue
                    empty = not os.listdir(left) if folder else status.st_size == 0
                    if empty and time.time() - status.st_mtime < JUST_MADE:    # and not yet locked
                        continue
                    shutil.rmtree(left) if folder else os.unlink(left)
                    say(f"removed {left}, which a run that was killed had left")
                finally:
                    os.close(fd)


def cannot_write(path, e):
    lost = e.errno in (errno.ENOENT, errno.ENOTDIR)
    advice = ADVICE.get(e.errno, "make its folder first" if lost else "name another place")
    return Refusal(f"{path} cannot be written: {e.strerror or e}; {advice}")


def sync(fd):
    try:
        os.fsync(fd)
    except OSError as e:
        if e.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):    # which some network file systems say
            raise


def sync_folder(path):
    if not hasattr(os, "O_DIRECTORY"):
        return
    with contextlib.suppress(PermissionError):    # whoever may write to a folder need not be allowed to read it
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            sync(fd)
        finally:
            os.close(fd)


def target_of(path):
    """Where a path leads, if it is a link; refuses what is not a file."""
    path = Path(path)
    try:
        if path.is_symlink():
            path = Path(os.path.realpath(path))
        mode = path.stat().st_mode
    except FileNotFoundError:
        return path, None
    except OSError as e:
        raise cannot_write(path, e) from None
    if stat.S_ISDIR(mode):
        raise Refusal(f"{path} is a folder; the name of a file is expected")
    if not stat.S_ISREG(mode):
        raise Refusal(f"{path} is a pipe or a device; the name of a file is expected")
    return path, stat.S_IMODE(mode)


def free_name(path):
    return path.parent / f"{stem_of(path)}{secrets.token_hex(DIGITS // 2)}{END}"


@contextlib.contextmanager
def replacing(path):
    """A file to write and read, which takes the place of `path` at the end; nothing is left of it after an error."""
    path, mode = target_of(path)
    remove_leftovers(path)
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    part = file = None
    try:
        try:
            while file is None:
                part = free_name(path)
                try:
                    fd = os.open(part, flags, 0o666 if mode is None else mode & 0o777)
                except FileExistsError:
                    part = None
                    continue
                file = os.fdopen(fd, "w+b")
                # Another writer saw it before it was locked: it removes it, or has found it too young to be left over.
                if not locked(fd) or os.fstat(fd).st_nlink == 0:
                    with contextlib.suppress(FileNotFoundError):
                        part.unlink()
                    file.close()
                    file = None
            if mode is not None and hasattr(os, "fchmod"):
                with contextlib.suppress(PermissionError):
                    os.fchmod(fd, mode)
            yield file
            file.flush()
            sync(fd)
            os.replace(part, path)
            part = None
            sync_folder(path.parent)
        except OSError as e:
            if e.filename is not None and str(e.filename) != str(part):    # of what is read
                raise
            raise cannot_write(path, e) from None
    finally:
        if part is not None:
            with contextlib.suppress(OSError):
                part.unlink()
        if file is not None:
            with contextlib.suppress(OSError):    # what could not be flushed is not wanted any more
                file.close()


@contextlib.contextmanager
def scratch_folder(path):
    """A folder beside `path` for what is needed while it is made."""
    remove_leftovers(path)
    part, fd = None, None
    try:
        try:
            part = free_name(path)
            part.mkdir(mode=0o700)
            if fcntl is not None:
                fd = os.open(part, os.O_RDONLY | os.O_CLOEXEC)
                locked(fd)
        except OSError as e:
            raise cannot_write(path, e) from None
        yield part
    finally:
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)
        if fd is not None:
            os.close(fd)


@contextlib.contextmanager
def new_folder(path):
    """A folder to fill, which becomes `path` at the end; nothing is left of it after an error. `path` may be an empty
    folder."""
    if os.path.lexists(path) and (path.is_symlink() or not path.is_dir() or any(path.iterdir())):
        raise Refusal(f"{path} exists already")
    with scratch_folder(path) as part:
        yield part
        for file in part.iterdir():
            with open(file, "rb") as f:
                sync(f.fileno())
        mask = os.umask(0)
        os.umask(mask)
        part.chmod(0o777 & ~mask)
        sync_folder(part)
        try:
            os.rename(part, path)    # takes the place of an empty one
        except OSError as e:
            raise cannot_write(path, e) from None
        sync_folder(path.parent)
