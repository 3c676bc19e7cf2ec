#!/usr/bin/env python3
"""Pictures in Hearth against Pillow and the image processors of transformers, at CLIP's real size: a hundred random
sizes on every path. It needs torch, so it is a command of its own:

    build/transformers-venv/bin/pip install torch transformers 'pillow<13'
    build/transformers-venv/bin/python tests/image_processors_test.py build/check/image_values

Tested with Pillow 12.3.0 and transformers 5.24.0. tests/image_test.cpp has a table of what they gave (make_images.py).
"""

import random
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import numpy as np
import PIL
from PIL import Image

from make_images import GRID, processors, rows_of

PROGRAM = Path(sys.argv.pop(1)).resolve() if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else None
SIDE, PATCH = 336, 14
TILES = ",".join(f"{height * SIDE}x{width * SIDE}" for height, width in GRID)
MODES = {"pad": ("pad", "-"), "crop": ("crop", "-"), "tiles": ("pad", TILES)}


def answers(tasks):
    lines = "".join("\t".join(map(str, task)) + "\n" for task in tasks)
    done = subprocess.run([PROGRAM], input=lines, stdout=subprocess.PIPE, text=True, check=True, timeout=600)
    return [line.split(" ") for line in done.stdout.splitlines()]


class Processors(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        scratch = tempfile.TemporaryDirectory()
        cls.addClassCleanup(scratch.cleanup)
        cls.folder = Path(scratch.name)
        cls.random, cls.noise = random.Random(7), np.random.default_rng(7)

    def picture(self, width, height):
        """Noise, or noise made smooth: what a resize must not get wrong, and what photos are like."""
        image = Image.fromarray(self.noise.integers(0, 256, (height, width, 3), dtype=np.uint8))
        if self.random.random() < 0.5:
            image = image.resize((max(1, width // 8), max(1, height // 8))).resize((width, height))
        return image

    def test_every_number_and_every_token_is_that_of_transformers_at_random_sizes(self):
        sizes = [(336, 336), (672, 336), (640, 480), (1920, 1080), (2000, 500), (1, 1), (1, 900), (900, 1)]
        sizes += [tuple(int(2 ** self.random.uniform(0, 11)) for _ in "wh") for _ in range(100)]
        by_mode, out = processors(SIDE), self.folder / "values"
        for width, height in sizes:
            image, path = self.picture(width, height), self.folder / "picture.png"
            image.save(path, compress_level=1)
            for mode, (word, grid) in MODES.items():
                with self.subTest(mode, width=width, height=height):
                    answer, = answers([("pixels", path, out, word, SIDE, PATCH, grid)])
                    self.assertEqual(answer[0], "good")
                    want = np.asarray(by_mode[mode](image, return_tensors="np")["pixel_values"][0], np.float32)
                    got = np.fromfile(out, np.float32)
                    self.assertEqual((got.size, float(np.abs(got - want.ravel()).max())), (want.size, 0))
            with self.subTest("tokens", width=width, height=height):
                answer, = answers([("rows", path, "newline", SIDE, PATCH, TILES)])
                self.assertEqual([int(row) for row in answer[1:]], rows_of(width, height, SIDE, PATCH))

    def test_photos_are_decoded_to_the_bits_of_pillow(self):
        kinds = {"plain.jpg": {"quality": 90, "subsampling": 0}, "usual.jpg": {"quality": 75, "subsampling": 2},
                 "half.jpg": {"quality": 85, "subsampling": 1}, "progressive.jpg": {"quality": 80, "progressive": True},
                 "lossy.webp": {"quality": 80}, "lossless.webp": {"lossless": True}, "colours.png": {}, "rows.bmp": {}}
        for name, options in kinds.items():
            for _ in range(5):
                path, out = self.folder / name, self.folder / "rgb"
                self.picture(self.random.randint(1, 900), self.random.randint(1, 900)).save(path, **options)
                with self.subTest(name), Image.open(path) as image:
                    self.assertEqual(answers([("rgb", path, out)]), [["good", *map(str, image.size)]])
                    self.assertEqual(out.read_bytes(), image.convert("RGB").tobytes())


if __name__ == "__main__":
    if PROGRAM is None:
        sys.exit("usage: image_processors_test.py build/check/image_values [arguments of unittest]")
    if int(PIL.__version__.split(".")[0]) >= 13:
        sys.exit("Pillow 13 resizes high pictures in another order (engine/vision/resize.h): install 'pillow<13'")
    unittest.main()
