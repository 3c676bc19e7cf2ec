"""Reading a folder that a stranger made: which files are read, how much of them, and what JSON may hold. What the
values mean is others' business."""

import json
import os
import re
import stat

from sentences import Refusal

# The most that is read of a JSON file, in bytes, by its name. They are several times what the largest published ones
# have, and keep what a small computer
# has to hold for them in bounds.
MOST = {"tokenizer.json": 128 << 20, "vocab.json": 32 << 20, "tokenizer_config.json": 16 << 20}
MOST_INDEX = 64 << 20
MOST_JSON = 4 << 20
MOST_TEXT = 64 << 20


def file_in(folder, name):
    """The path of a file of the folder, or None if there is none of that name. Only regular files count: no pipes, no
    devices, and no links that lead out of the folder. The one exception are the snapshots of huggingface_hub's cache,
    which are links into the folder of blobs beside them."""
    path = folder / name
    if not os.path.lexists(path):
        return None
    try:
        home, real = folder.resolve(strict=True), path.resolve(strict=True)
        mode = real.stat().st_mode
    except (OSError, RuntimeError):    # a loop of links
        raise Refusal(f"{path} is a link that leads nowhere") from None
    homes = [home] + ([home.parent.parent / "blobs"] if home.parent.name == "snapshots" else [])
    if not any(real.is_relative_to(h) for h in homes):
        raise Refusal(f"{path} is a link that leads out of the folder, to {real}, and is not followed; copy the file "
                      "if it is meant")
    if not stat.S_ISREG(mode):
        raise Refusal(f"{path} is not a regular file")
    return path


def names_in(folder):
    """Of files, sorted."""
    return sorted(os.listdir(folder))


def read_bytes(path, most):
    """All of a regular file."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    fd = os.open(path, flags)
    with os.fdopen(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise Refusal(f"{path} is not a regular file")
        if status.st_size > most:
            raise Refusal(f"{path} has {status.st_size} bytes, and more than {most} are not read")
        data = file.read(most + 1)
    if len(data) > most:
        raise Refusal(f"{path} grows while it is read")
    return data


POINTER = b"version https://git-lfs.github.com/spec/"


def check_pointer(path, data):
    """A clone without Git LFS has small texts in the place of large files."""
    if data.startswith(POINTER):
        raise Refusal(f"{path} is a pointer of Git LFS, not the file itself; fetch it with `git lfs pull`")


def read_text(path, most=MOST_TEXT):
    data = read_bytes(path, most)
    check_pointer(path, data)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise Refusal(f"{path} is not UTF-8 (byte {e.start})") from None


def read_json(path, most=None):
    """The object that a JSON file holds. Refused are values that JSON does not know (NaN), keys that occur twice, and
    halves of surrogate pairs."""
    text = read_text(path, most or MOST.get(path.name, MOST_INDEX if path.name.endswith(".index.json") else MOST_JSON))

    def no_constant(word):
        raise ValueError(f"{word} is no number of JSON")

    def distinct(pairs):
        value = dict(pairs)
        if len(value) != len(pairs):
            seen = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))
            raise ValueError(f"the key {twice[:60]} occurs twice in one object")
        return value

    try:
        value = json.loads(text, parse_constant=no_constant, object_pairs_hook=distinct)
        if re.search(r"\\u[dD][89a-fA-F]", text):
            check_surrogates(value)
    except RecursionError:
        raise Refusal(f"{path} is nested too deeply") from None
    except ValueError as e:
        raise Refusal(f"{path} is not valid JSON: {e}") from None
    if not isinstance(value, dict):
        raise Refusal(f"{path} does not hold a JSON object")
    return value


def check_surrogates(value):
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError:
                raise ValueError("it has half of a surrogate pair") from None


def json_in(folder, name):
    """The object of a file of the folder; an empty one if there is no such file."""
    path = file_in(folder, name)
    return read_json(path) if path else {}
