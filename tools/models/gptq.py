"""What the tensors of a GPTQ checkpoint mean, how they are packed, and which of GGUF's types can hold them bit for bit.
Read by convert.py, written by compress.py; knows no files.

A matrix of `out` rows and `in` columns is kept in four tensors, the first two as unsigned numbers of `bits` bits,
the lowest bits of a word first:

    qweight   i32 (in / 32 * bits, out)         q: 32 / bits rows in a word
    qzeros    i32 (groups, out / 32 * bits)     z: 32 / bits columns in a word;
                                                the older form ("gptq", v1) stores z - 1, "gptq_v2" stores z
    scales    f16 (groups, out)                 s
    g_idx     i32 (in)                          g: each column's group; column // group_size where it is missing

    w[o, i] = s[g(i), o] (q[i, o] - z[g(i), o])

Source: the packing is that of AutoGPTQ and GPTQModel, the method that of https://arxiv.org/abs/2210.17323.
"""

from dataclasses import dataclass

import numpy as np
from gguf import GGMLQuantizationType as Type

BITS = (4, 8)
BLOCK = 32    # weights of a row that share a scale in Q4_0 and Q8_0
PARTS = ("qweight", "qzeros", "scales", "g_idx")


def unpack(words, bits, axis):
    """Words -> the numbers in them, as u8; `axis` grows by 32 / bits."""
    words = np.moveaxis(np.asarray(words).view(np.uint32), axis, -1)
    numbers = words[..., None] >> np.arange(0, 32, bits, dtype=np.uint32) & np.uint32((1 << bits) - 1)
    return np.moveaxis(numbers.astype(np.uint8).reshape(*words.shape[:-1], -1), -1, axis)


def pack(numbers, bits, axis):
    """The inverse of unpack; i32, as safetensors files have it."""
    numbers = np.moveaxis(numbers, axis, -1)
    numbers = numbers.reshape(*numbers.shape[:-1], -1, 32 // bits).astype(np.uint32)
    words = np.bitwise_or.reduce(numbers << np.arange(0, 32, bits, dtype=np.uint32), axis=-1)
    return np.ascontiguousarray(np.moveaxis(words, -1, axis)).view(np.int32)


def shapes(out, columns, bits, groups):
    """Shapes of the four tensors."""
    return {"qweight": (columns * bits // 32, out), "qzeros": (groups, out * bits // 32), "scales": (groups, out),
            "g_idx": (columns,)}


def group_count(columns, group_size):
    return 1 if group_size == -1 else -(-columns // group_size)


def spilled_words(qzeros, bits):
    """Words of a v1 file's zero points that an old packer spoilt. It stored z - 1 of z = 0 as 32 ones, which ran over
    into all numbers above it in the word: what came after a zero point of 0 is lost. Such a word has ones from some
    number to its end. Where a number of ones is followed by another one the packer knew better, and nothing is
    suspected. One at the very end of a word is harmless."""
    ones = unpack(qzeros, bits, 1).reshape(-1, 32 // bits) == (1 << bits) - 1
    runs_to_the_end = np.logical_and.accumulate(ones[:, ::-1], axis=1)[:, ::-1]
    return 0 if (ones & ~runs_to_the_end).any() else int(runs_to_the_end[:, -2].sum())


@dataclass
class Quantised:
    """One matrix."""
    qweight: np.ndarray    # i32 (in / 32 * bits, out); perhaps still in its file
    scales: np.ndarray     # f32 (out, groups)
    zeros: np.ndarray      # u8 (out, groups)
    g_idx: np.ndarray      # (in)
    bits: int

    def q(self):
        """(out, in) u8"""
        return np.ascontiguousarray(unpack(self.qweight, self.bits, 0).T)

    def levels(self):
        """q - z, (out, in)"""
        return self.q().astype(np.int16) - self.zeros.astype(np.int16)[:, self.g_idx]

    def dense(self):
        """The weights in fp32, which holds them exactly: 11 bits of an fp16 scale times 9 bits."""
        return self.levels() * self.scales[:, self.g_idx]

    def exact_type(self):
        """The smallest type that holds the matrix bit for bit, or None; and why."""
        columns, middle = len(self.g_idx), 1 << self.bits - 1
        if columns % BLOCK:
            return None, f"rows are not a multiple of {BLOCK}"
        if (self.g_idx.reshape(-1, BLOCK) != self.g_idx[::BLOCK, None]).any():
            return None, "act-order scatters the groups over the columns"
        with np.errstate(over="ignore"):
            if (self.scales.astype(np.float16) != self.scales).any():
                return None, "scales are not fp16 numbers"
        if (self.zeros == middle).all():
            return (Type.Q4_0 if self.bits == 4 else Type.Q8_0), "bit for bit"
        if self.bits == 4:    # q - z is -15 to 15
            return Type.Q8_0, "bit for bit, since Q4_0 has no zero points"
        levels = self.levels()
        if levels.min() < -128 or levels.max() > 127:
            return None, "with their zero points, the numbers do not fit in 8 bits"
        return Type.Q8_0, "bit for bit"

    def blocks(self, weight_type):
        """The bytes of the rows in an exact type, u8 (out, bytes of a row)."""
        out, blocks = len(self.scales), len(self.g_idx) // BLOCK
        d = self.scales[:, self.g_idx[::BLOCK]].astype("<f2")[..., None].view(np.uint8)    # (out, blocks, 2)
        if weight_type == Type.Q4_0:    # w = d (q - 8), the first half of a block in the low nibbles
            low, high = np.split(self.q().reshape(out, blocks, BLOCK), 2, axis=2)
            q = low | high << 4
        else:
            q = self.levels().astype(np.int8).view(np.uint8).reshape(out, blocks, BLOCK)
        return np.concatenate([d, q], axis=2).reshape(out, -1)

    def parts(self):
        """The four tensors, v2."""
        return {"qweight": self.qweight, "qzeros": pack(self.zeros.T, self.bits, 1),
                "scales": np.ascontiguousarray(self.scales.T.astype(np.float16)), "g_idx": self.g_idx.astype(np.int32)}


def zero_points(qzeros, bits, v1):
    """u8 (out, groups)"""
    zeros = unpack(qzeros, bits, 1).T + np.uint8(v1)
    return np.ascontiguousarray(zeros & np.uint8((1 << bits) - 1))
