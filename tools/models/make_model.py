#!/usr/bin/env python3
"""Makes a GGUF file of a random model with the shape of a real one, for measuring speed where
the real one is not at hand.

    python3 tools/models/make_model.py OUT.gguf --shape 7b --type q4_0 [--activity 0.3 --skew 0.43] [--pwri] [--seed 0]

What it writes is nonsense, but it costs what a trained ReLU model costs: the weights are random numbers in the layout
of tools/models/convert.py, and its neurons are as sparse and as unevenly used as asked, by the model's own arithmetic
(nothing but the weights makes it so):
* `--activity` is the share of neurons that fire (gate . x > 0) for a token, the mean over all layers;
  layers differ by up to a quarter.
* `--skew` is the share of neurons that together make 80 % of all firings. Neurons are scattered:
  hot ones stand anywhere in file order.
Known figures of real models: about 0.33 and 0.43 for ReLU-fied LLaMA 7B, about 0.11 for ProSparse 7B.

`--pwri` writes the same model as PowerInfer does: magic PWRI, and in every layer a predictor
fc2 . relu(fc1 . r) >= 0, of the residual r that enters the FFN's norm. It names the neurons that fire almost without
error; `--predictor-noise` makes it worse.

How. The residual of every token is r = sqrt(dim) a c + v. c is one fixed direction, and v is random and orthogonal to
c: the embedding's, of variance b^2 for each component, and what the layers add. A neuron's gate row, the norm's weights
folded in, is q - beta c, with q a unit vector out of a random subspace of `--predictor-rank` dimensions. So q . r is
normal with the deviation s of v's components, and the neuron fires with the chance p where beta sqrt(dim) a = s z,
z = -Phi^-1(p). The chances over the neurons are a normal distribution seen through Phi, p = Phi(mu + sigma xi) with xi
normal: any mean and any skew that is possible at all. What reads the residual for other ends is orthogonal to c, and so
is what the FFN adds, so c lasts.

`--plain` stores the down projection as other programs want it (`ffn_down`), so that llama.cpp takes the file, too,
and a comparison runs the same weights on both. It takes them for a SiLU model, which costs the same where all
neurons are computed.

The same options give the same bytes, on the same machine. Only pieces of one tensor are in memory.
Packages: numpy and gguf.
"""

import sentences  # noqa: F401, I001 - first, so that whatever fails after it ends in a sentence

import argparse
import collections
import concurrent.futures
import functools
import math
import os
import random
import shutil
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

# The threads here do one piece each, in which numpy's own would only be in the way;
# and with one of them the results do not depend on the number of cores.
for variable in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ[variable] = "1"

import gguf
import numpy as np
from gguf import TokenType

from convert import TYPES, Config, Experts, Target, add_keys, check_width, stored_bytes, targets_of, write_file
from families import FAMILIES, LLAMA
from sentences import Refusal, run, say
from tokenizer_files import Piece, Tokenizer
from whole_file import replacing

SHAPES = {    # layers, dim, heads, kv_heads, neurons, vocab
    "tiny": (4, 128, 4, 2, 256, 512),
    "small": (16, 1536, 12, 12, 4096, 32000),    # 1.1 GB in f16
    "1b": (22, 2048, 32, 4, 5632, 32000),
    "7b": (32, 4096, 32, 32, 11008, 32000),
    "13b": (40, 5120, 40, 40, 13824, 32000),
    "33b": (60, 6656, 52, 52, 17920, 32000),
    "70b": (80, 8192, 64, 8, 28672, 32000),
}
SHAPE_FIELDS = ("layers", "dim", "heads", "kv_heads", "neurons", "vocab")
MIN_VOCAB = 320                  # what every vocabulary here has: control tokens, bytes, letters
PIECE_WEIGHTS = 1 << 20          # made at a time, by each thread
THREADS = min(16, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)

CONSTANT = 0.5                   # a^2, b^2: of the embedding's squares, the share of c and of the rest
VARIED = 1 - CONSTANT
FFN_ADDS = 0.5 * VARIED          # to the variance of the residual's components, all layers together
ATTENTION_ADDS = 0.3 * VARIED    # the same, of heads that look at one position each
ATTENTION_MEAN = 0.15            # of that, what is left because they look at several
SHARPNESS = 2.0                  # deviation of the logarithms of attention
LOGITS = 2.5                     # deviation of the logits
LAYER_SPREAD = 0.25              # of the activity over the layers
EXPERT_SPREAD = 0.5              # deviation of the routers' scores from expert to expert; that from token to token is 1
SILU_SQUARE = 0.355              # E[silu(y)^2], y normal
MAX_Z = 4.0                      # neurons beyond it would fire always or never anyway, and a larger beta coarsens
                                 # their quantised rows


@dataclass(frozen=True)
class Recipe:
    """What is asked beyond the shape."""
    activity: float
    skew: float
    rank: int
    noise: float
    seed: int
    pwri: bool
    plain: bool
    zeros: str = ""    # "2:4", or a share of each row


# ---- how often the neurons fire --------------------------------------------------------------------------------------

STANDARD = NormalDist()


def normal_quantiles(n):
    """n numbers that are spread as a normal distribution is, ascending."""
    half = [STANDARD.inv_cdf((i + 0.5) / n) for i in range(n // 2)]
    return np.array(half + [0.0] * (n % 2) + [-x for x in reversed(half)])


def tail(z):
    """Phi(-z): the chance that a normal number is above z."""
    return np.array([0.5 * math.erfc(x / math.sqrt(2)) for x in z])


def thresholds(activity, skew, quantiles):
    """z of the neurons, descending: mean chance `activity`, and the `skew` share of the most active
    has 80 % of all chances."""
    def z_of(sigma, xi):
        return np.clip(-(math.sqrt(1 + sigma * sigma) * STANDARD.inv_cdf(activity) + sigma * xi), -MAX_Z, MAX_Z)

    coarse = normal_quantiles(400)

    def share_of_80(sigma):
        chances = tail(z_of(sigma, coarse))[::-1]    # the most active first
        reached = np.concatenate([[0], np.cumsum(chances) / chances.sum()])
        return np.interp(0.8, reached, np.arange(len(reached)) / len(chances))

    low, high = 0.0, 20.0    # the more sigma, the smaller the share
    if not share_of_80(high) < skew < share_of_80(low):
        raise Refusal(f"no distribution with a skew of {skew} exists where {activity:.3g} of a layer's neurons fire; "
                      f"it must lie between {share_of_80(high):.3f} and {share_of_80(low):.3f}")
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (middle, high) if share_of_80(middle) > skew else (low, middle)
    return z_of(low, quantiles)


def mean_square_above(z):
    """The mean over neurons of E[relu(y - z)^2], y normal."""
    return float(np.mean((1 + z * z) * tail(z) - z * np.exp(-z * z / 2) / math.sqrt(2 * math.pi)))


# ---- the weights -----------------------------------------------------------------------------------------------------

def without(rows, direction):
    """The rows' part that is orthogonal to a direction (a unit vector)."""
    rows -= np.outer(rows @ direction, direction)
    return rows


class Weights:
    """Every tensor's values, from its name alone: each has its own source of random numbers."""

    def __init__(self, config, recipe):
        self.c, self.recipe, self.threads = config, recipe, concurrent.futures.ThreadPoolExecutor(THREADS)
        self.direction = self.random("c").choice(np.float32([-1, 1]), config.dim) / np.float32(math.sqrt(config.dim))
        self.activities = [
            recipe.activity
            * (1 + LAYER_SPREAD * (math.cos(2 * math.pi * (n + 0.5) / config.layers) if config.layers > 1 else 0))
            for n in range(config.layers)]
        quantiles = normal_quantiles(config.neurons)
        self.z = [
            self.random(f"z.{n}").permutation(thresholds(self.activities[n], recipe.skew, quantiles)).astype(np.float32)
            for n in range(config.layers)]
        # Sums over the neurons, in units of v's variance.
        self.gate_squares = [config.neurons * mean_square_above(z) for z in self.z]

    def random(self, name):
        return np.random.Generator(np.random.SFC64([self.recipe.seed, zlib.crc32(name.encode())]))

    def variance(self, layer, attention):
        """Of the components of v where a layer begins, or behind its attention."""
        return VARIED + (FFN_ADDS * layer + ATTENTION_ADDS * ATTENTION_MEAN * (layer + attention)) / self.c.layers

    def rms(self, variance):
        return math.sqrt(CONSTANT + variance)

    @functools.lru_cache(maxsize=1)
    def subspace(self, layer):
        """(rank, dim): orthonormal rows, which are orthogonal to c too."""
        start = self.random(f"subspace.{layer}").standard_normal((self.c.dim, self.recipe.rank + 1), dtype=np.float32)
        start[:, 0] = self.direction
        return np.ascontiguousarray(np.linalg.qr(start)[0][:, 1:].T)

    @functools.lru_cache(maxsize=4)
    def norm(self, name):
        return self.random(name).uniform(0.75, 1.25, self.c.dim).astype(np.float32)

    def coordinates(self, layer, start, rows, rng):
        """The gate's rows within the subspace, unit vectors (rows, rank), and their betas (rows, 1)."""
        part = rng.standard_normal((rows, self.recipe.rank), dtype=np.float32)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
        s = math.sqrt(self.variance(layer, 1))
        return part, self.z[layer][start:start + rows, None] * np.float32(s / math.sqrt(self.c.dim * CONSTANT))

    def pieces(self, target):
        zeros = self.recipe.zeros if target.name.startswith("blk.") and len(target.shape) == 2 else ""
        for rows in self.dense_pieces(target):
            if zeros:
                parts = rows.reshape(-1, 4 if ":" in zeros else rows.shape[1])
                count = 2 if ":" in zeros else round(float(zeros) * parts.shape[1])
                np.put_along_axis(parts, np.abs(parts).argpartition(count - 1, axis=1)[:, :count], 0, axis=1)
            yield rows

    def dense_pieces(self, target):
        """fp32 rows in file order, some at a time. They are made by several threads;
        every piece has its own random numbers."""
        shape = target.stored_shape()
        if len(shape) == 1:
            yield self.norm(target.name)
            return
        total = math.prod(shape[:-1])    # experts' matrices lie one below the other
        parts = target.name.split(".")
        if parts[-2] in ("ffn_down", "ffn_down_exps"):
            yield from self.turned_down(int(parts[1]))
            return
        make, layer = getattr(self, parts[-2]), None
        if parts[0] == "blk":
            layer = int(parts[1])
            self.subspace(layer)    # once, not by every thread
        step = max(1, PIECE_WEIGHTS // self.c.dim)
        waiting = collections.deque()
        for start in range(0, total, step):
            if len(waiting) == THREADS:
                yield waiting.popleft().result()
            waiting.append(self.threads.submit(make, layer, start, min(step, total - start),
                                               self.random(f"{target.name} {start}")))
        while waiting:
            yield waiting.popleft().result()

    def turned_down(self, layer):
        """ffn_down and ffn_down_exps: all of ffn_down_t, expert by expert the other way round, some rows at a time."""
        c = self.c
        experts, neurons = (c.experts.count, c.experts.neurons) if c.experts else (1, c.neurons)
        same = Target(f"blk.{layer}.ffn_down_t.weight", "", (experts * neurons, c.dim))
        whole = np.concatenate(list(self.pieces(same))).reshape(experts, neurons, c.dim)
        step = max(1, PIECE_WEIGHTS // neurons)
        for expert in whole:
            for start in range(0, c.dim, step):
                yield np.ascontiguousarray(expert[:, start:start + step].T)

    def normal(self, rng, rows, columns, deviation):
        w = rng.standard_normal((rows, columns), dtype=np.float32)
        w *= np.float32(deviation)
        return w

    def reading(self, rows, rng, norm, variance, deviation):
        """Rows that read a normed residual whose v has that variance:
        what comes out has `deviation`, and nothing of c is in it."""
        w = self.normal(rng, rows, self.c.dim, deviation * self.rms(variance) / math.sqrt(variance * self.c.dim))
        w = without(w, self.direction)
        w /= self.norm(norm)
        return w

    # One for each matrix, named as the file names it: rows `start` to `start + rows`.

    def token_embd(self, layer, start, rows, rng):
        w = without(self.normal(rng, rows, self.c.dim, math.sqrt(VARIED)), self.direction)
        w += self.direction * np.float32(math.sqrt(CONSTANT * self.c.dim))
        return w

    def attention_input(self, layer, rows, rng, deviation):
        return self.reading(rows, rng, f"blk.{layer}.attn_norm.weight", self.variance(layer, 0), deviation)

    def attn_q(self, layer, start, rows, rng):
        return self.attention_input(layer, rows, rng, math.sqrt(SHARPNESS))

    attn_k = attn_q

    def attn_v(self, layer, start, rows, rng):
        return self.attention_input(layer, rows, rng, 1)

    def attn_output(self, layer, start, rows, rng):
        columns = self.c.heads * self.c.head_dim
        return self.normal(rng, rows, columns, math.sqrt(ATTENTION_ADDS / self.c.layers / columns))

    def ffn_gate(self, layer, start, rows, rng):
        part, beta = self.coordinates(layer, start, rows, rng)
        w = part @ self.subspace(layer)
        w -= beta * self.direction
        w /= self.norm(f"blk.{layer}.ffn_norm.weight")
        return w

    def ffn_up(self, layer, start, rows, rng):
        return self.reading(rows, rng, f"blk.{layer}.ffn_norm.weight", self.variance(layer, 1), 1)

    def ffn_down_t(self, layer, start, rows, rng):
        v, experts = self.variance(layer, 1), self.c.experts
        # The sum of the squares of act(gate . x); up . x has the variance 1. Experts are taken to have the same weight.
        squares = (experts.neurons * SILU_SQUARE / experts.used if experts
                   else self.gate_squares[layer] * v / self.rms(v) ** 2)
        return without(self.normal(rng, rows, self.c.dim, math.sqrt(FFN_ADDS / self.c.layers / squares)),
                       self.direction)

    def ffn_gate_inp(self, layer, start, rows, rng):
        norm, v = f"blk.{layer}.ffn_norm.weight", self.variance(layer, 1)
        favour = rng.standard_normal((rows, 1), dtype=np.float32) * np.float32(
            EXPERT_SPREAD * self.rms(v) / math.sqrt(CONSTANT * self.c.dim))
        return self.reading(rows, rng, norm, v, 1) + favour * (self.direction / self.norm(norm))

    ffn_gate_exps = ffn_up_exps = ffn_up

    def output(self, layer, start, rows, rng):
        v = self.variance(self.c.layers, 0)
        w = self.reading(rows, rng, "output_norm.weight", v, LOGITS)
        # Control tokens and bytes never come out: a text of pieces reads better, and no end comes by chance.
        muted = max(0, min(rows, 3 + 256 - start))
        w[:muted] -= self.direction / self.norm("output_norm.weight") * np.float32(
            12 * LOGITS * self.rms(v) / math.sqrt(CONSTANT * self.c.dim))
        return w

    # The predictor: fc1's rows give y and -y (relu(y) - relu(-y) = y) within the subspace, and copies of c . r,
    # which is positive. These are scaled so that fc2's columns for them are as large as the others, and several,
    # because quantised ones err.

    def copies(self, layer):
        """How many rows of fc1 are c, and their scale."""
        count = predictor_width(self.recipe.rank) - 2 * self.recipe.rank
        s = math.sqrt(self.variance(layer, 1))
        return count, s * math.sqrt(self.recipe.rank / (self.c.dim * CONSTANT)) / count

    def fc1(self, layer, start, rows, rng):
        b, (count, scale) = self.subspace(layer), self.copies(layer)
        c = np.tile(self.direction * np.float32(scale), (count, 1))
        return np.concatenate([b, -b, c])[start:start + rows]

    def fc2(self, layer, start, rows, rng):
        # The gate's.
        part, beta = self.coordinates(layer, start, rows, self.random(f"blk.{layer}.ffn_gate.weight {start}"))
        part += self.normal(rng, rows, self.recipe.rank, self.recipe.noise / math.sqrt(self.recipe.rank))
        count, scale = self.copies(layer)
        return np.concatenate([part, -part, np.tile(beta / np.float32(-count * scale), count)], axis=1)


def predictor_width(rank):
    """Two rows for each dimension and at least eight for c, rounded up to whole blocks of the quantised types."""
    return (2 * rank + 8 + 31) // 32 * 32


# ---- the tokenizer ---------------------------------------------------------------------------------------------------

def make_tokenizer(vocab, seed):
    """A SentencePiece vocabulary of made-up words: every piece but the letters is a union of two earlier ones,
    as BPE makes them."""
    pieces = [Piece("<unk>", 0.0, int(TokenType.UNKNOWN)), Piece("<s>", 0.0, int(TokenType.CONTROL)),
              Piece("</s>", 0.0, int(TokenType.CONTROL))]
    pieces += [Piece(f"<0x{i:02X}>", 0.0, int(TokenType.BYTE)) for i in range(256)]
    vowels, consonants, mark = "aeiou", "bcdfghjklmnpqrstvwxyz", "\u2581"
    texts = [mark, *vowels, *consonants, *".,?!'-"]
    texts += [mark + letter for letter in vowels + consonants]
    texts = texts[:vocab - len(pieces)]
    known = set(texts)
    choice = random.Random(seed)
    while len(pieces) + len(texts) < vocab:
        # Early ones, which are short, more often.
        left, right = (texts[int(len(texts) * choice.random() ** 2)] for _ in range(2))
        text = left + right
        # A word has its mark in front, at most ten letters, and vowels and consonants in turn.
        good = len(text) <= 11 and right[0] != mark and text[-1].isalpha() and right[0].isalpha() and (
            left == mark or left[-1].isalpha())
        if good and text not in known and (left == mark or (left[-1] in vowels) != (right[0] in vowels)):
            known.add(text)
            texts.append(text)
    first = len(pieces)
    pieces += [Piece(text, float(first - i), int(TokenType.NORMAL)) for i, text in enumerate(texts, first)]
    return Tokenizer(pieces, bos=1, eos=2, unk=0, add_bos=True, add_eos=False, space_prefix=True, chat_template=None)


# ---- the file --------------------------------------------------------------------------------------------------------

def turned(target):
    """The same weights as other programs store them."""
    if not target.name.endswith(".ffn_down_t.weight"):
        return target
    plain = "ffn_down_exps" if len(target.shape) == 3 else "ffn_down"
    return Target(target.name.replace("ffn_down_t", plain), target.source, target.shape)


def with_predictors(targets, c, rank):
    """fc1 and fc2 behind every layer's last tensor."""
    width = predictor_width(rank)
    for target in targets:
        yield target
        if target.name.endswith(".ffn_down_t.weight"):
            prefix = target.name.removesuffix("ffn_down_t.weight")
            yield Target(prefix + "fc1.weight", "", (width, c.dim))
            yield Target(prefix + "fc2.weight", "", (c.neurons, width))


def share_of(text):
    try:
        return 0 < float(text) < 1
    except ValueError:
        return False


def check(c, recipe):
    for field in SHAPE_FIELDS:
        if getattr(c, field) < 1:
            raise Refusal(f"{field} is {getattr(c, field)}, expected at least 1")
    if c.context < 1:
        raise Refusal(f"the context is {c.context}, expected at least 1")
    if c.dim % c.heads or c.head_dim % 2 or c.heads % c.kv_heads:
        raise Refusal(f"a width of {c.dim}, {c.heads} heads and {c.kv_heads} key-value heads do not fit together")
    if c.vocab < MIN_VOCAB:
        raise Refusal(f"the vocabulary has {c.vocab} tokens, expected at least {MIN_VOCAB}")
    if not 1 <= recipe.rank < c.dim:
        raise Refusal(f"the predictor's rank is {recipe.rank}, expected 1 to {c.dim - 1}")
    if not 0 < recipe.activity < 1 / (1 + LAYER_SPREAD):
        raise Refusal(f"the activity is {recipe.activity}, expected more than 0 and less than {1 / (1 + LAYER_SPREAD)}")
    if not 0 <= recipe.noise < 100:
        raise Refusal(f"the predictor's noise is {recipe.noise}, expected 0 to 100")
    if recipe.zeros and recipe.zeros != "2:4" and not share_of(recipe.zeros):
        raise Refusal(f"zeros of {recipe.zeros} are neither 2:4 nor a share between 0 and 1")
    if recipe.zeros and recipe.plain:
        raise Refusal("zeros lie along the neurons' rows, which --plain does not store")
    if c.experts and not 1 <= c.experts.used <= c.experts.count:
        raise Refusal(f"{c.experts.used} of {c.experts.count} experts are used for a token, "
                      f"expected 1 to {max(1, c.experts.count)}")
    if recipe.seed < 0:
        raise Refusal(f"the seed is {recipe.seed}, expected 0 or more")


def make(out, name, c, type_name, recipe):
    weight_type, file_type = TYPES[type_name]
    check(c, recipe)
    targets = targets_of(c)
    if recipe.pwri:
        targets = list(with_predictors(targets, c, recipe.rank))
    if recipe.plain:
        targets = [turned(target) for target in targets]
    for target in targets:
        check_width(target, weight_type)
    size = sum(stored_bytes(target, weight_type) for target in targets)
    if not out.absolute().parent.is_dir():
        raise Refusal(f"{out.absolute().parent} is not a folder")
    free = shutil.disk_usage(out.absolute().parent).free
    if size > free:
        raise Refusal(f"{out} takes {size / 1e9:.1f} GB, and the disk has room for {free / 1e9:.1f} GB")
    weights = Weights(c, recipe)

    with replacing(out) as file:
        writer = gguf.GGUFWriter(None, "llama")
        add_keys(writer, name, c, make_tokenizer(c.vocab, recipe.seed), file_type)
        if recipe.pwri:
            writer.add_float32("powerinfer.sparse_threshold", 0.0)
        write_file(writer, file, targets, weight_type, weights.pieces)
        if recipe.pwri:
            file.seek(0)
            file.write(b"PWRI")
    say(f"{out}: {len(targets)} tensors, {weight_type.name}, {out.stat().st_size / 1e6:.1f} MB")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the GGUF file to write")
    parser.add_argument("--shape", choices=SHAPES, default="tiny",
                        help="of a LLaMA model; default %(default)s. What follows changes parts of it:")
    for field in SHAPE_FIELDS:
        parser.add_argument("--" + field.replace("_", "-"), type=int, metavar="N")
    parser.add_argument("--context", type=int, default=4096, metavar="N", help="default %(default)s")
    parser.add_argument("--type", choices=TYPES, default="f16",
                        help="of the matrices (norms stay f32); default %(default)s")
    parser.add_argument("--activity", type=float, default=0.1, metavar="SHARE",
                        help="of the neurons that fire for a token; default %(default)s")
    parser.add_argument("--skew", type=float, default=0.43, metavar="SHARE",
                        help="of the neurons that make 80 %% of all firings; default %(default)s")
    parser.add_argument("--pwri", action="store_true", help="write a PowerInfer file, with predictors")
    parser.add_argument("--plain", action="store_true",
                        help="store the down projection as llama.cpp and others read it")
    parser.add_argument("--silu", action="store_true",
                        help="a SiLU model, as most are: none of its activations is zero")
    parser.add_argument("--experts", type=int, metavar="N",
                        help="a mixture of experts like Mixtral, each with the shape's neurons; a SiLU model")
    parser.add_argument("--experts-used", type=int, default=2, metavar="N",
                        help="of them for a token; default %(default)s")
    parser.add_argument("--predictor-rank", type=int, metavar="R",
                        help="dimensions that decide what fires; the predictor's width is about 2R; "
                             "default R makes it a quarter of the model's")
    parser.add_argument("--predictor-noise", type=float, default=0.0, metavar="SHARE",
                        help="added to what the predictor foresees, in deviations of it; default %(default)s")
    parser.add_argument("--zeros", default="", metavar="2:4|SHARE",
                        help="set the least weights of every row of the layers' matrices to 0 (activity and skew are "
                             "then not quite as asked); default none")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default %(default)s")
    args = parser.parse_args(argv)

    shape = {field: default if getattr(args, field) is None else getattr(args, field)
             for field, default in zip(SHAPE_FIELDS, SHAPES[args.shape])}
    if args.heads is not None and args.kv_heads is None:
        shape["kv_heads"] = args.heads
    experts = None if args.experts is None else Experts(args.experts, args.experts_used, shape["neurons"], True)
    c = Config(**shape, head_dim=shape["dim"] // max(1, shape["heads"]), context=args.context, norm_eps=1e-5,
               rope_base=10000.0, activation="silu" if args.silu or experts else "relu", tied=False, raw={},
               family=FAMILIES["MixtralForCausalLM"] if experts else LLAMA, experts=experts)
    rank = max(28, c.dim // 8 - 4) if args.predictor_rank is None else args.predictor_rank
    if args.plain and args.pwri:
        parser.error("--plain and --pwri: PowerInfer's files have ffn_down_t")
    if args.silu and args.pwri:
        parser.error("--silu and --pwri: PowerInfer's files are of ReLU models")
    if experts and (args.pwri or args.zeros):
        parser.error("--experts: their models have no predictors, and are stored dense")
    recipe = Recipe(activity=args.activity, skew=args.skew, rank=rank, noise=args.predictor_noise, seed=args.seed,
                    pwri=args.pwri, plain=args.plain, zeros=args.zeros)
    return run("make_model", make, args.out, f"random {args.shape}, seed {args.seed}", c, args.type, recipe)


if __name__ == "__main__":
    sys.exit(main())
