#!/usr/bin/env python3
"""GPTQ checkpoints through tools/models/convert.py. The checkpoints are packed here, number by number, from the
description of the format, not with tools/models/gptq.py.

    python3 tests/gptq_test.py [build/release/hearth]

Packages: tools/models/requirements.txt. With a program, its results are compared, too.
"""

import json
import re
import struct
import subprocess
import sys
import unittest
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from gguf import GGUFReader

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS), str(TESTS.parent / "tools" / "models")]
import gptq  # noqa: E402
from convert_test import DATA, Case, gguf_logits, random_tensors, read_gguf, source_logits, tiny_config  # noqa: E402

PROGRAM = Path(sys.argv.pop(1)).resolve() if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else None
CONFIG = tiny_config(hidden_size=128, intermediate_size=256)
MATRICES = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj",
            "mlp.up_proj", "mlp.down_proj")
EXPERT_MATRICES = (".w1", ".w2", ".w3")    # Mixtral's gate, down and up
OURS = dict(zip(MATRICES, ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down_t")))


# ---- checkpoints -----------------------------------------------------------------------------------------------------

@dataclass
class Form:
    bits: int = 4
    group: int = 128
    sym: bool = True
    act_order: bool = False
    v1: bool = True

    def settings(self):
        return {"bits": self.bits, "group_size": self.group, "desc_act": self.act_order, "sym": self.sym,
                "quant_method": "gptq", "checkpoint_format": "gptq" if self.v1 else "gptq_v2"}


@dataclass
class Matrix:
    """What a quantiser decided."""
    q: np.ndarray         # (out, in)
    scales: np.ndarray    # (groups, out) f16
    zeros: np.ndarray     # (groups, out)
    g_idx: np.ndarray     # (in)

    def dense(self):
        scales, zeros = (x.astype(np.float32)[self.g_idx].T for x in (self.scales, self.zeros))
        return scales * (self.q - zeros).astype(np.float32)


def rounded(w, form, rng):
    """w (out, in) to the nearest, with both ends of the range in use somewhere."""
    out, columns = w.shape
    size, top = columns if form.group == -1 else form.group, (1 << form.bits) - 1
    g_idx = np.arange(columns) // size
    if form.act_order:
        g_idx = rng.permutation(g_idx)
    groups = g_idx.max() + 1
    scales, zeros, q = (np.empty((groups, out), np.float16), np.empty((groups, out), np.int64),
                        np.empty((out, columns), np.int64))
    for g in range(groups):
        part = w[:, g_idx == g]
        if form.sym:
            scales[g], zeros[g] = np.abs(part).max(axis=1) * 2 / top, (top + 1) // 2
        else:
            low, high = np.minimum(part.min(axis=1), 0), np.maximum(part.max(axis=1), 0)
            scales[g] = (high - low) / top
            zeros[g] = np.clip(np.round(-low / scales[g].astype(np.float64)), 1, top)    # an old packer cannot write 0
        q[:, g_idx == g] = np.clip(np.round(part / scales[g].astype(np.float64)[:, None]) + zeros[g][:, None], 0, top)
    q[::5, ::7], q[1::5, ::7] = 0, top
    return Matrix(q, scales, zeros, g_idx)


def packed_along_rows(numbers, bits):
    """(n, m) -> i32 (n / 32 * bits, m): number r + j of a column lies in bits j * bits and up of its word r."""
    n, m = numbers.shape
    each = 32 // bits
    words = np.zeros((n // each, m), np.int64)
    for row in range(n):
        words[row // each] |= (numbers[row].astype(np.int64) & ((1 << bits) - 1)) << bits * (row % each)
    return words.astype(np.uint32).view(np.int32)


def packed(m, form):
    zeros = m.zeros - 1 if form.v1 else m.zeros
    return {"qweight": packed_along_rows(m.q.T, form.bits),
            "qzeros": np.ascontiguousarray(packed_along_rows(zeros.T, form.bits).T), "scales": m.scales,
            "g_idx": m.g_idx.astype(np.int32)}


def checkpoint(form, config=CONFIG):
    """The tensors of a GPTQ checkpoint, those of the model that it decodes to, and the matrices by name."""
    rng, matrices = np.random.default_rng(3), {}
    # What is not quantised is fp16 in such files.
    dense = {name: w.astype(np.float16).astype(np.float32) for name, w in random_tensors(config).items()}
    tensors = dict(dense)
    for name in list(dense):
        prefix = name.removesuffix(".weight")
        if prefix.endswith(MATRICES + EXPERT_MATRICES):
            m = matrices[prefix] = rounded(tensors.pop(name), form, rng)
            dense[name] = m.dense()
            tensors |= {f"{prefix}.{part}": w for part, w in packed(m, form).items()}
    return tensors, dense, matrices


def q4_0(w, d):
    """Blocks of rows q (rows, columns) with scales d (rows, blocks), from the description in shaders/blocks.h."""
    rows, columns = w.shape
    out = bytearray()
    for row in range(rows):
        for block in range(columns // 32):
            q = w[row, block * 32:block * 32 + 32]
            out += struct.pack("<e", d[row, block]) + bytes(int(q[i]) | int(q[i + 16]) << 4 for i in range(16))
    return bytes(out)


def q8_0(w, d):
    rows, columns = w.shape
    return b"".join(struct.pack("<e32b", d[row, block], *map(int, w[row, block * 32:block * 32 + 32]))
                    for row in range(rows) for block in range(columns // 32))


def interleaved(rows, heads):
    """Where the rows of Q or K come from."""
    width = rows // heads
    return np.concatenate([head * width + np.arange(width).reshape(2, -1).T.ravel() for head in range(heads)])


# ---- the tests -------------------------------------------------------------------------------------------------------

class GptqCase(Case):
    def write_form(self, form, in_config=True, change=None, config=CONFIG):
        """Writes the checkpoint; the model that it decodes to, and its matrices."""
        tensors, dense, matrices = checkpoint(form, config)
        if change:
            change(tensors)
        self.write(config | ({"quantization_config": form.settings()} if in_config else {}), tensors)
        if not in_config:
            (self.folder / "quantize_config.json").write_text(json.dumps(form.settings()))
        return dense, matrices

    def told(self, *options):
        code, err = self.run_convert(*options)
        self.assertEqual(code, 0, err)
        return err

    def perplexity(self, path):
        result = subprocess.run([PROGRAM, "perplexity", path, "-f", DATA / "fairytales-valid.txt", "-n", "200",
                                 "-c", "100", "--device", "cpu"], capture_output=True, text=True, timeout=120)
        self.assertEqual(result.returncode, 0, result.stderr)
        return float(re.search(r"[\d.]+", result.stdout).group())

    def check_equal(self, dense, keys, values):
        """Logits, and perplexity through the program, are those of the decoded model but for the rounding of what
        became F16 (each weight by 1/2048)."""
        ids = np.random.default_rng(2).integers(0, CONFIG["vocab_size"], 20)
        expected = source_logits(CONFIG, dense, ids)
        self.assertLess(np.abs(gguf_logits(keys, values, ids) - expected).max(), 2e-3 * np.abs(expected).max())
        if PROGRAM:
            found = self.perplexity(self.out)
            self.write(CONFIG, dense)
            (self.folder / "quantize_config.json").unlink(missing_ok=True)
            self.converted("--type", "f32")
            plain = self.perplexity(self.out)
            self.assertLess(abs(found / plain - 1), 1e-3)


class Converted(GptqCase):
    def test_every_form_computes_what_the_decoded_model_does(self):
        forms = [Form(bits, group, sym, act_order) for bits in (4, 8) for group in (32, 128, -1)
                 for sym in (True, False) for act_order in (False, True)]
        for i, form in enumerate(forms):
            with self.subTest(form):
                dense, matrices = self.write_form(form, in_config=bool(i % 2))
                keys, values, types = self.converted()
                # One group is in order however it is shuffled, and so is a matrix whose columns are one group.
                for prefix, m in matrices.items():
                    layer, name = re.fullmatch(r"model\.layers\.(\d+)\.(.*)", prefix).groups()
                    ordered = not form.act_order or m.g_idx.max() == 0
                    fits = form.bits == 4 or (np.abs(m.q - m.zeros[m.g_idx].T + 0.5) < 128).all()
                    kind = ("F16" if name == "mlp.down_proj" or not ordered or not fits
                            else "Q4_0" if form.sym and form.bits == 4 else "Q8_0")
                    ours = f"blk.{layer}.{OURS[name]}.weight"
                    self.assertEqual(types[ours], kind, ours)
                    w = dense[prefix + ".weight"]
                    w = (w.T if OURS[name] == "ffn_down_t"
                         else w[interleaved(len(w), 4 if "q_proj" in name else 2)] if name[10] in "qk" else w)
                    if kind == "F16":
                        np.testing.assert_array_equal(values[ours], w.astype(np.float16).astype(np.float32), ours)
                    else:
                        np.testing.assert_array_equal(values[ours], w, ours)
                file = self.out.read_bytes()
                self.write_form(replace(form, v1=False), in_config=bool(i % 2))
                self.told()
                self.assertEqual(self.out.read_bytes(), file)
                self.check_equal(dense, keys, values)

    def test_symmetric_matrices_are_taken_over_bit_for_bit(self):
        for bits, kind, encode, middle in ((4, "Q4_0", q4_0, 0), (8, "Q8_0", q8_0, 128)):
            for group in (32, 64, 128, -1):
                with self.subTest(bits=bits, group=group):
                    _, matrices = self.write_form(Form(bits, group))
                    self.told()
                    tensors = {t.name: t for t in GGUFReader(self.out).tensors}
                    for name, heads in (("self_attn.q_proj", 4), ("self_attn.k_proj", 2), ("self_attn.o_proj", 0),
                                        ("mlp.gate_proj", 0)):
                        m = matrices["model.layers.1." + name]
                        d = m.scales[m.g_idx[::32]].T
                        rows = interleaved(len(m.q), heads) if heads else np.arange(len(m.q))
                        t = tensors[f"blk.1.{OURS[name]}.weight"]
                        self.assertEqual(t.tensor_type.name, kind)
                        self.assertEqual(t.data.tobytes(), encode(m.q[rows] - middle, d[rows]), name)

    def test_a_down_projection_that_stays_as_it_is_is_taken_over_bit_for_bit_too(self):
        _, matrices = self.write_form(Form(4, 32), config=CONFIG | {"hidden_act": "silu"})
        self.assertIn("convert: blk.*.ffn_down.weight (2): Q4_0, bit for bit\n", self.told())
        m = matrices["model.layers.1.mlp.down_proj"]
        t = next(t for t in GGUFReader(self.out).tensors if t.name == "blk.1.ffn_down.weight")
        self.assertEqual(t.data.tobytes(), q4_0(m.q, m.scales[m.g_idx[::32]].T))

    def test_matrices_may_have_bits_and_groups_of_their_own(self):
        """GPTQModel's `dynamic`."""
        form, rng = Form(4, 32), np.random.default_rng(5)
        own = {"model.layers.0.self_attn.v_proj": Form(8, 32), "model.layers.1.mlp.up_proj": Form(4, 64),
               "model.layers.1.mlp.gate_proj": Form(4, -1)}
        made = {}

        def change(tensors):
            for prefix, other in own.items():
                made[prefix] = rounded(random_tensors(CONFIG)[prefix + ".weight"].astype(np.float16).astype(np.float32),
                                       other, rng)
                tensors.update({f"{prefix}.{part}": w for part, w in packed(made[prefix], other).items()})

        dense, _ = self.write_form(form, change=change)
        self.assertIn("v_proj.qzeros has the shape [4, 16], but 4 bits in groups of 32 imply [8, 8]",
                      self.run_convert()[1])
        settings = form.settings() | {"dynamic": {"+:.*v_proj.*": {"bits": 8}, "(a+)+$": {"group_size": 64}}}
        (self.folder / "config.json").write_text(json.dumps(CONFIG | {"quantization_config": settings}))
        self.told()
        _, values, types = read_gguf(self.out)
        self.assertEqual((types["blk.0.attn_v.weight"], types["blk.1.attn_v.weight"], types["blk.1.ffn_up.weight"]),
                         ("Q8_0", "Q4_0", "Q4_0"))
        for prefix, ours in zip(own, ("blk.0.attn_v.weight", "blk.1.ffn_up.weight", "blk.1.ffn_gate.weight")):
            np.testing.assert_array_equal(values[ours], made[prefix].dense())
        np.testing.assert_array_equal(values["blk.0.ffn_up.weight"], dense["model.layers.0.mlp.up_proj.weight"])

    def test_experts_are_taken_over_bit_for_bit_where_the_format_allows_it(self):
        config = CONFIG | {"architectures": ["MixtralForCausalLM"], "num_local_experts": 3, "num_experts_per_tok": 2}
        dense, _ = self.write_form(Form(4, 32), config=config)
        told = self.told()
        _, values, types = read_gguf(self.out)
        for layer in range(CONFIG["num_hidden_layers"]):
            experts = [f"model.layers.{layer}.block_sparse_moe.experts.{e}." for e in range(3)]
            for ours, theirs in (("ffn_gate_exps", "w1"), ("ffn_up_exps", "w3")):
                self.assertEqual(types[f"blk.{layer}.{ours}.weight"], "Q4_0")
                np.testing.assert_array_equal(values[f"blk.{layer}.{ours}.weight"],
                                              np.stack([dense[f"{e}{theirs}.weight"] for e in experts]))
            self.assertEqual(types[f"blk.{layer}.ffn_down_t.weight"], "F16")
            np.testing.assert_allclose(values[f"blk.{layer}.ffn_down_t.weight"],
                                       np.concatenate([dense[f"{e}w2.weight"].T for e in experts]), rtol=1e-3)
        self.assertIn("blk.*.ffn_gate_exps.weight (2): Q4_0, bit for bit", told)
        self.assertIn("blk.*.ffn_down_t.weight (2): F16, groups run along the neurons", told)

    def test_zero_points_of_4_bits_are_q8_0_bit_for_bit(self):
        _, matrices = self.write_form(Form(4, 32, sym=False))
        self.told()
        m = matrices["model.layers.0.mlp.up_proj"]
        t = next(t for t in GGUFReader(self.out).tensors if t.name == "blk.0.ffn_up.weight")
        self.assertEqual(t.data.tobytes(), q8_0(m.q - m.zeros[m.g_idx].T, m.scales.T))

    def test_it_is_said_what_becomes_of_which_tensor(self):
        self.write_form(Form(4, 128))
        err = self.told()
        self.assertIn("convert: blk.*.ffn_gate.weight (2): Q4_0, bit for bit\n", err)
        self.assertIn("convert: blk.*.ffn_down_t.weight (2): F16, groups run along the neurons", err)
        self.assertEqual(read_gguf(self.out)[0]["general.file_type"], 1)    # most is the embedding, in F16
        self.write_form(Form(4, 32, act_order=True))
        self.assertIn("convert: blk.*.attn_q.weight (2): F16, act-order scatters", self.told())

    def test_a_type_that_is_asked_for_is_given(self):
        dense, matrices = self.write_form(Form(4, 32))
        self.told()
        exact = read_gguf(self.out)[1]
        for kind in ("q8_0", "q4_0", "f32"):
            with self.subTest(kind):
                err = self.told("--type", kind)
                _, values, types = read_gguf(self.out)
                self.assertEqual({t for name, t in types.items() if values[name].ndim == 2}, {kind.upper()})
                self.assertEqual("requantised, as --type asks" in err, kind != "f32")
                if kind == "q4_0":
                    self.assertIn("ffn_up.weight (2): Q4_0, bit for bit", err)
                    np.testing.assert_array_equal(values["blk.1.ffn_up.weight"], exact["blk.1.ffn_up.weight"])
                if kind == "f32":
                    np.testing.assert_array_equal(values["blk.1.ffn_down_t.weight"],
                                                  dense["model.layers.1.mlp.down_proj.weight"].T)

    def test_parts_that_may_be_missing_or_different(self):
        def without_g_idx(tensors):
            for name in [n for n in tensors if n.endswith("g_idx")]:
                del tensors[name]

        def one_matrix_left_alone(tensors):
            for part in gptq.PARTS:
                del tensors[f"model.layers.0.mlp.up_proj.{part}"]
            tensors["model.layers.0.mlp.up_proj.weight"] = plain["model.layers.0.mlp.up_proj.weight"].astype(np.float16)

        def zero_biases(tensors):
            tensors["model.layers.0.mlp.up_proj.bias"] = np.zeros(256, np.float16)

        def wide_scales(tensors):
            for name in [n for n in tensors if n.endswith("scales")]:
                tensors[name] = tensors[name].astype(np.float32)

        plain = random_tensors(CONFIG)
        for change in (without_g_idx, one_matrix_left_alone, zero_biases, wide_scales):
            with self.subTest(change.__name__):
                self.write_form(Form(4, 32), change=change)
                _, _, types = self.converted()
                self.assertEqual(types["blk.0.ffn_gate.weight"], "Q4_0")
                self.assertEqual(types["blk.0.ffn_up.weight"], "F16" if change == one_matrix_left_alone else "Q4_0")

    def test_scales_that_are_not_fp16_numbers_are_decoded(self):
        gate = "model.layers.0.mlp.gate_proj.scales"
        self.write_form(Form(4, 32), change=lambda t: t.update({gate: t[gate].astype(np.float32) * np.float32(1.0001)}))
        self.assertIn("blk.*.ffn_gate.weight (1): F16, scales are not fp16 numbers", self.told())

    def test_autogptqs_name_of_the_file(self):
        self.write_form(Form())
        (self.folder / "model.safetensors").rename(self.folder / "gptq_model-4bit-128g.safetensors")
        self.converted()


class ZeroPoints(GptqCase):
    def spoilt(self, masked):
        """A v1 file with zero points of 0, as old packers wrote it: minus one, all 32 bits,
        ran over the numbers above it in the word; or as new ones did."""
        form = Form(4, 32, sym=False)

        def change(tensors):
            zeros = matrices["model.layers.0.mlp.up_proj"].zeros.copy()
            zeros[::2, ::8] = 0
            words = np.zeros((zeros.shape[0], zeros.shape[1] // 8), np.int64)
            for column in range(zeros.shape[1]):
                stored = zeros[:, column] - 1
                words[:, column // 8] |= ((stored & 15 if masked else stored & 0xFFFFFFFF) << 4 * (column % 8)
                                          & 0xFFFFFFFF)
            tensors["model.layers.0.mlp.up_proj.qzeros"] = words.astype(np.uint32).view(np.int32)

        matrices = checkpoint(form)[2]
        self.write_form(form, change=change)
        return self.told()

    def test_zero_points_spoilt_by_an_old_packer_are_recognised(self):
        err = self.spoilt(masked=False)
        self.assertIn("warning: the zero points of model.layers.0.mlp.up_proj (1 matrices) "
                      "look as an old packer spoilt them", err)
        self.assertNotIn("warning", self.spoilt(masked=True))

    def test_symmetric_files_with_the_wrong_label_are_recognised(self):
        for v1 in (True, False):
            form = Form(4, 32, v1=v1)
            dense, _ = self.write_form(form)
            config = CONFIG | {"quantization_config": replace(form, v1=not v1).settings()}
            (self.folder / "config.json").write_text(json.dumps(config))
            err = self.told()
            self.assertIn("off by 1, as if checkpoint_format were wrong", err)
            self.check_equal(dense, *read_gguf(self.out)[:2])

    def test_a_file_without_a_format_is_the_older_one(self):
        form = Form(4, 32, sym=False, v1=True)
        dense, _ = self.write_form(form)
        settings = form.settings()
        del settings["checkpoint_format"]
        (self.folder / "config.json").write_text(json.dumps(CONFIG | {"quantization_config": settings}))
        self.told()
        self.check_equal(dense, *read_gguf(self.out)[:2])


class Refusals(GptqCase):
    def refused(self, message):
        code, err = self.run_convert()
        self.assertEqual(code, 1, err)
        self.assertIn(message, err)
        self.assertEqual(err.count("\n"), 1, err)    # one sentence
        self.assertFalse(self.out.exists())

    def test_other_methods_and_settings(self):
        self.write_form(Form())
        for changes, message in [
            ({"quant_method": "awq"}, "already quantised, by awq"),
            ({"quant_method": None}, "already quantised, by a method without a name"),
            ({"quant_method": "compressed-tensors"}, "already quantised, by compressed-tensors"),
            ({"bits": 3}, "GPTQ of 3 bits is not supported (supported: 4, 8)"),
            ({"bits": 2}, "GPTQ of 2 bits is not supported"),
            ({"group_size": 48}, "group_size of 48"),
            ({"group_size": 0}, "group_size of 0"),
            ({"checkpoint_format": "marlin"}, "checkpoint_format marlin"),
            ({"is_marlin_format": True}, "checkpoint_format marlin"),
        ]:
            with self.subTest(message):
                (self.folder / "config.json").write_text(
                    json.dumps(CONFIG | {"quantization_config": Form().settings() | changes}))
                self.refused(message)

    def test_tensors_that_do_not_fit(self):
        up = "model.layers.1.mlp.up_proj."
        for message, change in {
            f"lacks {up}qzeros": lambda t: t.pop(up + "qzeros"),
            f"{up}scales has the shape [2, 256]": lambda t: t.update({up + "scales": np.ones((2, 256), np.float16)}),
            f"{up}qweight has the type F32": lambda t: t.update({up + "qweight": np.ones((16, 256), np.float32)}),
            f"{up}weight has the shape [64, 128], but config.json implies [256, 128]": lambda t: t.update(
                {up + "qweight": np.ones((16, 64), np.int32), up + "qzeros": np.ones((4, 8), np.int32),
                 up + "scales": np.ones((4, 64), np.float16)}),
            f"{up}g_idx names the group 4, and there are 4": lambda t: t.update({
                up + "g_idx": np.full(128, 4, np.int32)}),
            f"{up}g_idx names the group -1": lambda t: t.update({up + "g_idx": np.full(128, -1, np.int32)}),
            f"has the tensor {up}bias, which": lambda t: t.update({up + "bias": np.ones(256, np.float16)}),
            f"has the tensor {up}qscales, which": lambda t: t.update({up + "qscales": np.ones(256, np.float16)}),
        }.items():
            with self.subTest(message):
                self.write_form(Form(4, 32), change=change)
                self.refused(message)


class Format(unittest.TestCase):
    def test_packing_is_that_of_the_description(self):
        rng = np.random.default_rng(4)
        for bits in gptq.BITS:
            numbers = rng.integers(0, 1 << bits, (64, 16)).astype(np.uint8)
            np.testing.assert_array_equal(gptq.pack(numbers, bits, 0), packed_along_rows(numbers, bits))
            np.testing.assert_array_equal(gptq.pack(numbers.T, bits, 1), packed_along_rows(numbers, bits).T)
            np.testing.assert_array_equal(gptq.unpack(packed_along_rows(numbers, bits), bits, 0), numbers)
        self.assertEqual(int(gptq.pack(np.arange(8, dtype=np.uint8)[:, None], 4, 0).view(np.uint32)[0, 0]), 0x76543210)


if __name__ == "__main__":
    unittest.main()
