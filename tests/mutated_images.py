#!/usr/bin/env python3
"""Files of pictures that were damaged, and bombs: what the program that reads them does.

    python3 tests/mutated_images.py build/asan/image_values N [SEED]          (packages: pillow)

Prints what must not happen: an end without an answer, more than SECONDS of CPU time for one file, more memory than
engine/vision/image.h states; and at the end the counts, and what took longest and most. One file in fifty is a picture
of 64 million pixels in few bytes, damaged or as it is. tests/image_test.cpp tries 20,000 small ones without measuring.
"""

import os
import random
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from io import BytesIO
from pathlib import Path

from PIL import Image

TESTS = Path(__file__).resolve().parent
SECONDS = 10
MOST_PIXELS = 64 << 20
SIDE = 8191    # of a bomb: within the limits


def with_right_sums(png):
    """Damage that someone means is not found by a sum."""
    at, out = 8, bytearray(png)
    while at + 12 <= len(out):
        length, = struct.unpack_from(">I", out, at)
        if length > len(out) - at - 12:
            break
        struct.pack_into(">I", out, at + 8 + length, zlib.crc32(out[at + 4:at + 8 + length]))
        at += 12 + length
    return bytes(out)


def bombs():
    plain = Image.new("RGB", (SIDE, SIDE), (200, 100, 50))
    for kind, options in (("PNG", {}), ("JPEG", {"progressive": True, "subsampling": 0}), ("JPEG", {}),
                          ("WEBP", {"lossless": True, "method": 0}), ("WEBP", {"method": 0}), ("GIF", {})):
        out = BytesIO()
        plain.save(out, kind, **options)
        yield out.getvalue()
    out = BytesIO()
    plain.convert("CMYK").save(out, "JPEG", progressive=True)
    yield out.getvalue()
    out = BytesIO()
    Image.new("RGBA", (SIDE, SIDE), (200, 100, 50, 77)).save(out, "WEBP", lossless=True, method=0)
    yield out.getvalue()


def damaged(data, rng, gently):
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        if not out:
            break
        at = rng.randrange(min(len(out), rng.choice((40, 200, 1 << 30))))
        length = min(len(out) - at, rng.randint(1, 16))
        kind = rng.randrange(2 if gently else 7)
        if kind == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            out[at] = rng.randrange(256)
        elif kind == 2:
            del out[at:]
        elif kind == 3:
            del out[at:at + length]
        elif kind == 4:
            out[at:at] = out[at:at + length] * rng.choice((1, 1, 50))
        elif kind == 5:
            out[at:at + length] = bytes([rng.choice((0, 255))]) * length
        else:
            out[at:at + 4] = struct.pack(rng.choice("<>") + "I", rng.choice((0, 1, SIDE, 65535, 65536, 1 << 31)))
    return bytes(out) if rng.random() < 0.5 or out[:4] != b"\x89PNG" else with_right_sums(out)


class Reader:
    """The program, which is started again where it ended."""

    def __init__(self, program):
        self.program = program
        self.start()

    def start(self):
        environment = os.environ | {"ASAN_OPTIONS": "quarantine_size_mb=0:thread_local_quarantine_size_kb=0:"
                                                    "allocator_may_return_null=0"}
        self.process = subprocess.Popen([self.program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        env=environment)
        self.folder = Path("/proc", str(self.process.pid))

    def memory(self, what):
        return int((self.folder / "status").read_text().split(f"{what}:")[1].split()[0]) << 10

    def seconds(self):
        fields = (self.folder / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def read(self, path):
        """The answer, its CPU time, the time on the clock and the most memory beyond what was held before."""
        (self.folder / "clear_refs").write_text("5")
        before, cpu, clock = self.memory("VmRSS"), self.seconds(), time.monotonic()
        self.process.stdin.write(f"rgb\t{path}\t/dev/null\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().strip()
        if not answer:
            return f"ended with {self.process.wait()}", 0, 0, 0
        return answer, self.seconds() - cpu, time.monotonic() - clock, self.memory("VmHWM") - before


def main():
    program, count = Path(sys.argv[1]).resolve(), int(sys.argv[2])
    rng = random.Random(int(sys.argv[3]) if len(sys.argv) > 3 else 1)
    small = [path.read_bytes() for path in sorted((TESTS / "data/images").iterdir()) if path.suffix != ".json"]
    large = list(bombs())
    reader, counts, faults = Reader(program), {"good": 0, "refused": 0}, 0
    longest, slowest, most = (0, ""), (0, ""), (0, "")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        path = Path(folder, "picture")
        for n in range(count):
            if n % 50 == 7:
                data = rng.choice(large)
                data = data if rng.random() < 0.2 else damaged(data, rng, rng.random() < 0.7)
            else:
                data = damaged(rng.choice(small), rng, rng.random() < 0.3)
            path.write_bytes(data)
            answer, cpu, clock, memory = reader.read(path)
            word = answer.split()[0]
            what = f"file {n}, {len(data)} bytes {data[:4]}: {answer[:150].replace(folder, '')}"
            counts[word] = counts.get(word, 0) + 1
            longest, slowest, most = max(longest, (cpu, what)), max(slowest, (clock, what)), max(most, (memory, what))
            stated = 16 * MOST_PIXELS + 2 * len(data) + (1 << 20)
            if word not in ("good", "refused") or cpu > SECONDS or memory > stated:
                faults += 1
                kept = Path(tempfile.gettempdir(), f"hearth-image-{n}")
                kept.write_bytes(data)
                print(f"{kept}: {what}; {cpu:.2f} s, {memory >> 20} MiB", flush=True)
            if word not in ("good", "refused"):
                reader.start()
    print(f"{counts}, {faults} faults\nmost CPU time: {longest[0]:.2f} s, {longest[1]}\nmost time: {slowest[0]:.2f} s, "
          f"{slowest[1]}\nmost memory: {most[0] >> 20} MiB, {most[1]}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
