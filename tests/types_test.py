#!/usr/bin/env python3
"""Every weight type means what gguf-py says: a model of random blocks has the perplexity of the same model with
gguf-py's numbers in F32, on the CPU and on the software device, many tokens at a time (matrix kernels) and one by one
(vector kernels). As program_test.py, whose helpers it uses.

    python3 tests/types_test.py build/check/hearth          (packages: tools/models/requirements.txt)
"""

import struct
import sys
import unittest

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as Type, GGUFReader
from gguf.quants import dequantize

from program_test import ARGUMENTS, CPU, DEVICE, MODEL, PROGRAM, TEXT, Case, setUpModule    # noqa: F401
from split_test import perplexity_of

# Where a block has its fp16 numbers.
HALVES = {Type.Q8_0: (0,), Type.Q4_0: (0,), Type.Q4_1: (0, 2), Type.Q5_0: (0,), Type.Q5_1: (0, 2), Type.IQ4_NL: (0,),
          Type.MXFP4: (), Type.Q2_K: (80, 82), Type.Q3_K: (108,), Type.Q4_K: (0, 2), Type.Q5_K: (0, 2),
          Type.Q6_K: (208,), Type.IQ4_XS: (0,)}


def random_blocks(kind, rows, cols, random):
    """Rows of blocks whose weights have a standard deviation of about 1.5 / sqrt(cols)."""
    weights, size = GGML_QUANT_SIZES[kind]
    blocks = random.integers(0, 256, (rows * cols // weights, size), dtype=np.uint8)

    def deviation(scale):
        for place in HALVES[kind]:
            halves = (scale * random.uniform(0.5, 1, len(blocks))).astype(np.float16)
            # A minimum is near the middle of what it is taken from or added to, so that weights of both signs come out.
            if place and kind in (Type.Q4_1, Type.Q5_1):
                halves = (-halves.astype(np.float32) * (8 if kind == Type.Q4_1 else 16)).astype(np.float16)
            if place == 82:
                halves = (halves.astype(np.float32) * 1.5).astype(np.float16)
            if place == 2 and kind in (Type.Q4_K, Type.Q5_K):
                halves = (halves.astype(np.float32) * (8 if kind == Type.Q4_K else 16)).astype(np.float16)
            blocks[:, place:place + 2] = halves.view(np.uint8).reshape(-1, 2)
        return dequantize(blocks[:1000], kind).std()

    wanted = 1.5 / np.sqrt(cols)
    if kind == Type.MXFP4:
        blocks[:, 0] = random.integers(120, 123, len(blocks))
    else:
        deviation(wanted / deviation(0.01) * 0.01)
    return blocks.reshape(rows, -1)


def write_like(path, model, tensors):
    """The model's keys, and other tensors: (name, type, shape with the contiguous dimension first, bytes)."""
    raw, reader = model.read_bytes(), GGUFReader(model)
    infos, data = b"", bytearray()
    for name, kind, shape, content in tensors:
        infos += struct.pack("<Q", len(name)) + name.encode() + struct.pack(
            f"<I{len(shape)}QIQ", len(shape), *shape, kind, len(data))
        data += content + bytes(-len(content) % 32)
    head = raw[:8] + struct.pack("<Q", len(tensors)) + raw[16:reader.tensors[0].field.offset] + infos
    path.write_bytes(head + bytes(-len(head) % 32) + data)


class Types(Case):
    def perplexity(self, name, tokens, *options):
        return perplexity_of(self.good("perplexity", self.folder / name, "-f", TEXT, "-n", tokens, *options))

    def test_a_model_of_every_type_has_the_perplexity_of_its_weights_in_fp32(self):
        model, random = GGUFReader(MODEL), np.random.default_rng(7)
        for kind in HALVES:
            quantised, floats = [], []
            for t in model.tensors:
                shape = [int(n) for n in t.shape]
                if len(shape) == 1:
                    same = (t.name, Type.F32, shape, np.asarray(t.data, np.float32).tobytes())
                    quantised.append(same)
                    floats.append(same)
                    continue
                blocks = random_blocks(kind, shape[1], shape[0], random)
                quantised.append((t.name, kind, shape, blocks.tobytes()))
                floats.append((t.name, Type.F32, shape, dequantize(blocks, kind).astype(np.float32).tobytes()))
            for name, tensors in (("quantised", quantised), ("floats", floats)):
                write_like(self.folder / name, MODEL, tensors)
            for tokens, ways in ((32, (CPU, DEVICE)), (8, ((*DEVICE, "-b", 1), (*CPU, "-b", 1)))):
                want = np.log(self.perplexity("floats", tokens, *CPU))
                for options in ways:
                    with self.subTest(type=kind.name, options=options):
                        # The device may multiply in fp16.
                        self.assertLess(abs(np.log(self.perplexity("quantised", tokens, *options)) - want), 1e-3 * want)


if __name__ == "__main__":
    if PROGRAM is None:
        sys.exit("usage: types_test.py PROGRAM [arguments of unittest]")
    unittest.main(argv=[sys.argv[0], *ARGUMENTS])
