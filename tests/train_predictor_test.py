#!/usr/bin/env python3
"""tools/models/train_predictor.py on the shipped model, by a short training: what its predictors find is measured here
again with numpy alone. Takes a minute and needs torch (which the other tests do not), so it is a command of its own:

    python3 -m venv build/torch-venv
    build/torch-venv/bin/pip install -r tools/models/requirements.txt torch
    build/torch-venv/bin/python tests/train_predictor_test.py build/release/hearth

Any torch will do; nothing here uses a GPU, so a CPU-only wheel saves gigabytes.
"""

import contextlib
import io
import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import numpy as np

TESTS = Path(__file__).resolve().parent
DATA = TESTS / "data"
MODEL = DATA / "fairytale-7m.gguf"
sys.path[:0] = [str(TESTS), str(TESTS.parent / "tools" / "models")]
import llama  # noqa: E402
import train_predictor  # noqa: E402
from convert_test import read_gguf, rope_neighbours  # noqa: E402

HEARTH = TESTS.parent / "build/release/hearth"
RECALL = 0.98
LEARNED = 0.7      # of the text; the rest is measured on
OTHER = 20000      # characters of the rest
OPTIONS = ["--recall", str(RECALL), "--tokens", "20000", "--epochs", "2", "--ranks", "32,64", "--threads", "1"]


def run(out, *options, model=MODEL):
    """Exit code, and what went to stdout and stderr."""
    texts = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(texts[0]), contextlib.redirect_stderr(texts[1]):
        try:
            code = train_predictor.main([str(model), "-o", str(out), "--hearth", str(HEARTH), *map(str, options)])
        except SystemExit as e:    # argparse
            code = e.code
    return code, texts[0].getvalue(), texts[1].getvalue()


def feed_forward_inputs(keys, values, ids):
    """For each layer, of one window: the residual that enters the block's norm, and which neurons fired.
    Formulas as in convert_test.forward."""
    heads, kv_heads, width = (keys["llama.attention." + key] for key in ("head_count", "head_count_kv", "key_length"))
    eps, base, n = keys["llama.attention.layer_norm_rms_epsilon"], keys["llama.rope.freq_base"], len(ids)

    def norm(x, weight):
        return x / np.sqrt(np.mean(x * x, axis=1, keepdims=True) + eps) * weight

    x, found = values["token_embd.weight"][ids].astype(np.float64), []
    for layer in range(keys["llama.block_count"]):
        w = {name: values[f"blk.{layer}.{name}.weight"]
             for name in ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up",
                          "ffn_down_t")}
        h = norm(x, w["attn_norm"])
        q, k = (rope_neighbours((h @ w[name].T).reshape(n, count, width), base)
                for name, count in (("attn_q", heads), ("attn_k", kv_heads)))
        k, v = (np.repeat(a, heads // kv_heads, axis=1) for a in (k, (h @ w["attn_v"].T).reshape(n, kv_heads, width)))
        scores = np.exp(np.einsum("ihd,jhd->hij", q, k) / np.sqrt(width) + np.triu(np.full((n, n), -np.inf), 1))
        scores /= scores.sum(axis=2, keepdims=True)
        r = x + np.einsum("hij,jhd->ihd", scores, v).reshape(n, -1) @ w["attn_output"].T
        h = norm(r, w["ffn_norm"])
        gate = h @ w["ffn_gate"].T
        x = r + (np.maximum(gate, 0) * (h @ w["ffn_up"].T)) @ w["ffn_down_t"]
        found.append((r, gate > 0))
    return found


def as_powerinfer(folder):
    """The shipped model as PowerInfer would write it: another magic, and no key for the activation."""
    path = folder / "pwri.gguf"
    data = bytearray(MODEL.read_bytes())
    data[:4] = b"PWRI"
    at = data.index(b"hearth.activation")
    data[at:at + 17] = b"hearth.activatioN"    # a key that means nothing
    path.write_bytes(data)
    return path


@unittest.skipIf(train_predictor.torch is None, "torch is not installed; this file's first lines say how to get it")
class Trained(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        scratch = tempfile.TemporaryDirectory()
        cls.addClassCleanup(scratch.cleanup)
        cls.folder = Path(scratch.name)
        text = (DATA / "fairytales-valid.txt").read_text(encoding="utf-8")
        cut = text.index("\n", int(len(text) * LEARNED)) + 1
        cls.learned, cls.other = cls.folder / "learned.txt", cls.folder / "other.txt"
        cls.learned.write_text(text[:cut], encoding="utf-8")
        cls.other.write_text(text[cut:cut + OTHER], encoding="utf-8")
        cls.out = cls.folder / "out.gguf"
        code, cls.table, err = run(cls.out, "-f", cls.learned, "--test", cls.other, *OPTIONS)
        assert code == 0, err
        cls.keys, cls.values, cls.types = read_gguf(cls.out)

    def rows(self):
        return [line.strip("| ").split(" | ") for line in self.table.splitlines() if re.match(r"\| \d", line)]

    def test_the_file_is_the_model_with_predictors(self):
        before, after = (llama.Reader(path) for path in (MODEL, self.out))
        tensors = {t.name: t for t in after.tensors}
        for t in before.tensors:
            found = tensors.pop(t.name)
            self.assertEqual((found.tensor_type, found.shape.tolist(), found.data.tobytes()),
                             (t.tensor_type, t.shape.tolist(), t.data.tobytes()), t.name)
        layers = self.keys["llama.block_count"]
        self.assertEqual(sorted(tensors),
                         sorted(f"blk.{n}.{name}.weight" for n in range(layers) for name in ("fc1", "fc2")))
        for n in range(layers):
            rank, dim = self.values[f"blk.{n}.fc1.weight"].shape
            self.assertIn(rank, (32, 64))
            self.assertEqual((dim, self.values[f"blk.{n}.fc2.weight"].shape), (256, (1024, rank)))
            self.assertEqual(self.types[f"blk.{n}.fc2.weight"], "F16")
        added = {"powerinfer.sparse_threshold", "hearth.predictor_thresholds"}
        self.assertEqual({k: v for k, v in self.keys.items() if k not in added and not k.startswith("GGUF.")},
                         {k: f.contents() for k, f in before.fields.items() if not k.startswith("GGUF.")})
        self.assertEqual(self.keys["powerinfer.sparse_threshold"], 0)
        self.assertEqual(len(self.keys["hearth.predictor_thresholds"]), layers)
        self.assertEqual(sorted(p.name for p in self.folder.iterdir() if p.name.startswith("out.gguf")), ["out.gguf"])

    def test_the_recall_holds_on_other_text(self):
        model = train_predictor.Model(MODEL, "cpu")
        ids = train_predictor.tokens_of([self.other], model, HEARTH)
        ids = ids[:len(ids) // 255 * 255].reshape(-1, 255)
        thresholds = self.keys["hearth.predictor_thresholds"]
        counts = np.zeros((len(thresholds), 3))    # fired, named, both
        for run_of_ids in ids:
            for n, (r, fired) in enumerate(feed_forward_inputs(self.keys, self.values, [1, *run_of_ids])):
                named = (np.maximum(r @ self.values[f"blk.{n}.fc1.weight"].T, 0)
                         @ self.values[f"blk.{n}.fc2.weight"].T >= thresholds[n])
                counts[n] += fired.sum(), named.sum(), (fired & named).sum()
        for row, (fired, named, both) in zip(self.rows(), counts, strict=True):
            printed_recall, printed_named = (float(row[i].removesuffix(" %")) / 100 for i in (3, 5))
            self.assertAlmostEqual(both / fired, RECALL, delta=0.03)
            self.assertAlmostEqual(both / fired, printed_recall, delta=0.002)
            self.assertAlmostEqual(named / ids.shape[0] / 256 / 1024, printed_named, delta=0.002)
            self.assertLess(printed_named, 0.8)    # naming everything is no art

    def test_thresholds_are_zero_but_for_rounding(self):
        self.assertLess(np.abs(self.keys["hearth.predictor_thresholds"]).max(), 0.1)    # scores are several units

    def test_the_same_seed_gives_the_same_file(self):
        quick = ["-f", self.learned, "--tokens", 8000, "--epochs", "0.5", "--ranks", "16", "--threads", 1]
        for name in ("a.gguf", "b.gguf"):
            self.assertEqual(run(self.folder / name, *quick)[0], 0)
        self.assertEqual((self.folder / "a.gguf").read_bytes(), (self.folder / "b.gguf").read_bytes())

    def test_a_powerinfer_file_stays_one_and_gets_new_predictors(self):
        quick = ["-f", self.learned, "--tokens", 8000, "--epochs", "0.5", "--ranks", "32", "--type", "q8_0",
                 "--threads", 1]
        model, out = as_powerinfer(self.folder), self.folder / "twice.gguf"
        for i in range(2):
            code, _, err = run(out, *quick, model=model)
            self.assertEqual(code, 0, err)
            self.assertEqual(out.read_bytes()[:4], b"PWRI")
            model = out
        names = [t.name for t in llama.Reader(out).tensors]
        self.assertEqual(len(names), len(set(names)))
        self.assertIn("blk.5.fc2.weight", names)

    def test_the_program_takes_the_file(self):
        result = subprocess.run([HEARTH, "run", self.out, "-p", "Once upon a time", "-n", "8", "--temp", "0",
                                 "--device", "cpu", "--sparsity", "predict", "--predictor", "lowrank"],
                                capture_output=True, text=True)
        self.assertEqual(result.returncode, 0, result.stderr)

    def test_mistakes_are_told_in_one_sentence(self):
        short, silu = self.folder / "short.txt", self.folder / "silu.gguf"
        short.write_text("A short text.", encoding="utf-8")
        silu.write_bytes(MODEL.read_bytes().replace(b"\x04\0\0\0\0\0\0\0relu", b"\x04\0\0\0\0\0\0\0silu"))
        for expected, options, model in [
            ("windows of 256 tokens", ["-f", short], MODEL),
            ("is a silu model", ["-f", self.learned], silu),
            ("is not a GGUF file", ["-f", self.learned], short),
            ("No such file", ["-f", self.learned], self.folder / "none.gguf"),
            ("nowhere.txt", ["-f", self.folder / "nowhere.txt"], MODEL),
            ("rank of 300", ["-f", self.learned, "--ranks", "300"], MODEL),
            ("multiple of 32", ["-f", self.learned, "--ranks", "40", "--type", "q4_0"], MODEL),
            ("recall of 1.0", ["-f", self.learned, "--recall", "1"], MODEL),
            ("say with --hearth", ["-f", self.learned, "--hearth", self.folder / "none"], MODEL),
            ("notadevice", ["-f", self.learned, "--device", "notadevice"], MODEL),
        ]:
            with self.subTest(expected):
                code, _, err = run(self.folder / "bad.gguf", *options, model=model)
                self.assertEqual(code, 1, err)
                self.assertIn(expected, err)
                self.assertEqual(err.count("\n"), 1, err)
                self.assertFalse([p for p in self.folder.iterdir() if p.name.startswith("bad.gguf")])


class WithoutTorch(unittest.TestCase):
    def test_the_error_says_how_to_get_torch(self):
        with mock.patch.object(train_predictor, "torch", None):
            code, _, err = run("out.gguf", "-f", "text.txt")
        self.assertEqual(code, 1)
        self.assertIn("python3-torch", err)


if __name__ == "__main__":
    if len(sys.argv) > 1 and not sys.argv[1].startswith("-"):
        HEARTH = Path(sys.argv.pop(1)).resolve()
    unittest.main()
