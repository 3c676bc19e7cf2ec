#!/usr/bin/env python3
"""tools/models/compress.py: its two methods on random matrices, and the whole way through the program on a tiny model.
Needs torch (which the other tests do not), so it is a command of its own; half a minute:

    python3 -m venv build/torch-venv
    build/torch-venv/bin/pip install -r tools/models/requirements.txt torch
    build/torch-venv/bin/python tests/compress_test.py build/release/hearth

Any torch will do; nothing here uses a GPU, so a CPU-only wheel saves gigabytes.
"""

import contextlib
import io
import json
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import numpy as np
from safetensors.numpy import load_file, save_file

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS), str(TESTS.parent / "tools" / "models")]
import compress  # noqa: E402
import convert  # noqa: E402
import gptq  # noqa: E402
import llama  # noqa: E402
from convert_test import DATA, gguf_logits, random_tensors, read_gguf, tiny_config  # noqa: E402

torch = compress.torch
HEARTH = TESTS.parent / "build/release/hearth"
NEEDS_TORCH = unittest.skipIf(torch is None, "torch is not installed; this file's first lines say how to get it")


def run(*args):
    """Exit code, and what went to stderr."""
    err = io.StringIO()
    with contextlib.redirect_stderr(err):
        try:
            code = compress.main([str(a) for a in args])
        except SystemExit as e:    # argparse
            code = e.code
    return code, err.getvalue()


# ---- a matrix --------------------------------------------------------------------------------------------------------

def correlated(columns, tokens=2000, seed=1):
    """Inputs that share a few causes, of unlike sizes."""
    g = torch.Generator().manual_seed(seed)
    causes = torch.randn(tokens, columns // 8, generator=g)
    x = causes @ torch.randn(columns // 8, columns, generator=g) + 0.3 * torch.randn(tokens, columns, generator=g)
    inputs = compress.Inputs(columns, "cpu")
    for part in x.split(300):
        inputs.add(part)
    return x, inputs


def random_matrix(rows, columns, seed=2):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def method(bits=4, group=32, sym=True, act_order="no", across=False):
    return compress.Gptq(convert.Quantization(bits, group, sym, v1=False), act_order, 0.01, across)


def to_the_nearest(w, bits, group, sym):
    size = w.shape[1] if group == -1 else group
    return torch.cat([compress.grid_of(part, bits, sym).round(part) for part in w.split(size, dim=1)], dim=1)


@NEEDS_TORCH
class Matrices(unittest.TestCase):
    def test_inputs_are_summed_as_the_hessian_of_the_mean_square(self):
        x, inputs = correlated(64)
        torch.testing.assert_close(inputs.h, 2 * x.T @ x / len(x), rtol=1e-4, atol=1e-4)
        w = random_matrix(8, 64)
        self.assertAlmostEqual(inputs.squared(w) / (2 * (x @ w.T).square().sum() / len(x)).item(), 1, places=4)

    def test_what_a_column_loses_the_others_make_good_as_well_as_is_possible(self):
        """With one column set to 0 and nothing else lost, the rest must be the least-squares solution."""
        x, inputs = correlated(24)
        w = random_matrix(5, 24)
        found = compress.solve(w, inputs, lambda j, w, u: w[:, j] * (j > 0), 8, 1e-7)
        x, w = x.double(), w.double()
        best = torch.linalg.lstsq(x[:, 1:], x @ w.T).solution.T
        torch.testing.assert_close(found[:, 1:].double(), best, rtol=1e-3, atol=1e-3)
        self.assertEqual(found[:, 0].abs().max(), 0)

    def test_the_size_of_blocks_changes_nothing(self):
        _, inputs = correlated(96)
        w = random_matrix(16, 96)
        results = [compress.solve(w, inputs, lambda j, w, u: torch.round(w[:, j] * 4) / 4, block, 0.01)
                   for block in (1, 32, 96)]
        # A last bit may tip a number to the other side of a half.
        errors = [inputs.squared(w - r) for r in results]
        self.assertLess(max(errors) / min(errors), 1.02)
        self.assertGreater((results[0] == results[2]).float().mean(), 0.98)

    def test_gptq_is_better_than_rounding_to_the_nearest(self):
        _, inputs = correlated(256)
        w = random_matrix(64, 256)
        for bits in (4, 8):
            for group in (32, 64, 128, -1):
                for sym in (True, False):
                    nearest = inputs.squared(w - to_the_nearest(w, bits, group, sym))
                    for act_order in ("no", "static", "full"):
                        with self.subTest(bits=bits, group=group, sym=sym, act_order=act_order):
                            result, (q, scales, zeros, g_idx) = method(bits, group, sym, act_order)(w, inputs, False)
                            self.assertLess(inputs.squared(w - result), 0.5 * nearest)
                            # The numbers are those of the result, bit for bit, and in the groups that were asked for.
                            matrix = gptq.Quantised(gptq.pack(q.T, bits, 0), scales, zeros, g_idx, bits)
                            np.testing.assert_array_equal(matrix.dense(), result.numpy())
                            size = 256 if group == -1 else group
                            self.assertEqual(np.bincount(g_idx).tolist(), [size] * (256 // size))
                            if act_order != "full" or group == -1:
                                np.testing.assert_array_equal(g_idx, np.arange(256) // size)
                            if sym:
                                self.assertEqual(set(zeros.ravel()), {1 << bits - 1})

    def test_groups_across_are_along_the_stored_rows(self):
        _, inputs = correlated(256)
        w = random_matrix(64, 256)
        nearest = inputs.squared(w - to_the_nearest(w.T, 4, 32, True).T)
        for act_order in ("no", "static"):
            result, (q, scales, zeros, g_idx) = method(act_order=act_order, across=True)(w, inputs, True)
            self.assertLess(inputs.squared(w - result), 0.5 * nearest)
            self.assertEqual((q.shape, scales.shape), ((256, 64), (256, 2)))
            matrix = gptq.Quantised(gptq.pack(q.T, 4, 0), scales, zeros, g_idx, 4)
            np.testing.assert_array_equal(matrix.dense().T, result.numpy())
            self.assertEqual(matrix.exact_type()[0].name, "Q4_0")

    def test_zeros_are_as_many_as_asked_and_better_than_the_smallest_weights(self):
        _, inputs = correlated(256)
        w = random_matrix(64, 256)
        for text in ("0.5", "0.3", "2:4", "1:4", "4:8"):
            with self.subTest(text):
                pattern = compress.Pattern.parse(text)
                result, stored = compress.SparseGpt(pattern, 0.01)(w, inputs, False)
                np.testing.assert_array_equal(stored, result.numpy())
                zero = result == 0
                if pattern.of:
                    self.assertTrue((zero.reshape(64, -1, pattern.of).sum(2) == pattern.zeros).all())
                    smallest = (w.abs().reshape(64, -1, pattern.of).argsort(2).argsort(2).reshape(w.shape)
                                < pattern.zeros)
                else:
                    for block in zero.split(compress.BLOCK, dim=1):
                        self.assertEqual(int(block.sum()), round(pattern.share * block.numel()))
                    smallest = w.abs() <= w.abs().flatten().kthvalue(round(pattern.share * w.numel())).values
                self.assertLess(inputs.squared(w - result), 0.5 * inputs.squared(w - w.masked_fill(smallest, 0)))

    def test_inputs_that_are_always_zero(self):
        x, _ = correlated(64)
        x[:, 5] = 0
        x[:, 40:] = 0
        inputs = compress.Inputs(64, "cpu")
        inputs.add(x)
        for m in (method(), method(act_order="full"), method(bits=8, sym=False),
                  compress.SparseGpt(compress.Pattern(2, 4), 0.01)):
            result, _ = m(random_matrix(8, 64), inputs, False)
            self.assertTrue(torch.isfinite(result).all())

    def test_weights_that_are_all_zero(self):
        _, inputs = correlated(64)
        result, (_, scales, _, _) = method()(torch.zeros(8, 64), inputs, False)
        self.assertEqual((result.abs().max(), scales.min()), (0, 1))


# ---- a model ---------------------------------------------------------------------------------------------------------

@NEEDS_TORCH
class Models(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        scratch = tempfile.TemporaryDirectory()
        cls.addClassCleanup(scratch.cleanup)
        cls.folder = Path(scratch.name)
        cls.text = cls.folder / "text.txt"
        cls.text.write_text((DATA / "fairytales-valid.txt").read_text(encoding="utf-8")[:20000], encoding="utf-8")
        for name, changes in (("relu", {}), ("silu", {"hidden_act": "silu", "tie_word_embeddings": True})):
            folder, config = cls.folder / name, tiny_config(hidden_size=128, intermediate_size=256, **changes)
            folder.mkdir()
            (folder / "config.json").write_text(json.dumps(config))
            save_file({n: w.astype(np.float16) for n, w in random_tensors(config).items()},
                      folder / "model.safetensors")
            (folder / "tokenizer.model").write_bytes((DATA / "tokenizer.model").read_bytes())
            with contextlib.redirect_stderr(io.StringIO()):
                # As compress.py stores it.
                assert convert.main([str(folder), str(cls.folder / f"{name}.gguf"), "--by-neurons"]) == 0
        cls.there = {p.name for p in cls.folder.iterdir()}

    def compressed(self, what, model, out, *options):
        code, err = run(what, self.folder / model, self.folder / out, "--calibration", self.text, "--tokens", "4000",
                        "--hearth", HEARTH, *options)
        self.assertEqual(code, 0, err)
        self.there.add(out)
        # Nothing is left but what was asked for.
        self.assertEqual({p.name for p in self.folder.iterdir()}, self.there)
        return err

    def converted(self, folder, *options):
        out = self.folder / f"{folder}-converted.gguf"
        with contextlib.redirect_stderr(io.StringIO()) as err:
            self.assertEqual(convert.main([str(self.folder / folder), str(out), *options]), 0, err.getvalue())
        self.there.add(out.name)
        return out.name

    def perplexity(self, name):
        result = subprocess.run([HEARTH, "perplexity", self.folder / name, "-f", self.text, "-n", "300", "-c", "100",
                                 "--device", "cpu"], capture_output=True, text=True)
        self.assertEqual(result.returncode, 0, result.stderr)
        return float(re.search(r"[\d.]+", result.stdout).group())

    def test_the_residuals_are_those_of_the_reference(self):
        """A method that changes nothing sees the inputs that the forward pass of the converter's test gives,
        and writes the plain conversion."""
        for name in ("relu", "silu"):
            keys, values, _ = read_gguf(self.folder / f"{name}.gguf")
            for source in (name, f"{name}.gguf"):
                with self.subTest(source):
                    seen = []

                    def unchanged(self, w, inputs, down, seen=seen):
                        seen.append(inputs.h.trace().item() / 2)
                        return w, w.numpy()

                    with mock.patch.object(compress.SparseGpt, "__call__", unchanged):
                        self.compressed("sparsegpt", source, "same.gguf")
                    expected = []

                    def watch(layer, x, gate, expected=expected, values=values, keys=keys):
                        x = x / np.sqrt(np.mean(x * x, axis=1, keepdims=True)
                                        + keys["llama.attention.layer_norm_rms_epsilon"])
                        expected.append(np.square(x * values[f"blk.{layer}.ffn_norm.weight"]).sum(axis=1).sum())

                    model = llama.Model(self.folder / f"{name}.gguf", "cpu")
                    windows = llama.windows_of(llama.tokens_of([self.text], model, HEARTH), 4000, 128)
                    for window in windows:
                        gguf_logits(keys, values, np.array([1, *window]), watch)
                    expected = np.array(expected).reshape(len(windows), 2).sum(axis=0) / windows.shape[0] / 128
                    np.testing.assert_allclose([seen[4], seen[11]], expected, rtol=1e-4)
                    _, same, _ = read_gguf(self.folder / "same.gguf")
                    self.assertEqual(same.keys(), values.keys())
                    for tensor in values:
                        np.testing.assert_array_equal(same[tensor], values[tensor], tensor)

    def test_a_gptq_folder_goes_through_the_converter_and_the_program(self):
        dense = self.perplexity("relu.gguf")
        for i, options in enumerate([["--group", "32"], ["--group", "128", "--asymmetric"],
                                     ["--group", "-1", "--bits", "8", "--act-order", "static"],
                                     ["--act-order", "full", "--group", "32"]]):
            with self.subTest(options):
                name = f"gptq{i}"
                err = self.compressed("gptq", "relu", name, *options)
                self.assertEqual(err.count("relative error |W'X - WX|^2"), 2)
                settings = json.loads((self.folder / name / "quantize_config.json").read_text())
                self.assertEqual(json.loads((self.folder / name / "config.json").read_text())["quantization_config"],
                                 settings)
                tensors = load_file(self.folder / name / "model.safetensors")
                self.assertEqual(tensors["model.layers.1.mlp.gate_proj.qweight"].dtype, np.int32)
                kept = read_gguf(self.folder / self.converted(name))[2]["blk.0.ffn_gate.weight"]
                self.assertEqual(kept, ["Q4_0", "Q8_0", "Q8_0", "F16"][i])
                self.assertLess(abs(self.perplexity(f"{name}-converted.gguf") / dense - 1), 0.1)

    def test_gguf_files_are_in_one_type_and_the_same_from_either_source(self):
        for bits, kind in ((4, "Q4_0"), (8, "Q8_0")):
            results = []
            for source in ("relu", "relu.gguf"):
                self.compressed("gptq", source, "out.gguf", "--bits", bits)
                keys, values, types = read_gguf(self.folder / "out.gguf")
                self.assertEqual({t for name, t in types.items() if name.startswith("blk.") and "norm" not in name},
                                 {kind})
                self.assertEqual((types["token_embd.weight"], types["output.weight"]), ("F16", "F16"))
                self.assertEqual(keys["hearth.activation"], "relu")
                self.assertEqual(len(keys["tokenizer.ggml.tokens"]), 4096)
                results.append(values)
                dense = read_gguf(self.folder / "relu.gguf")
                ids = np.random.default_rng(2).integers(0, 4096, 20)
                before, after = gguf_logits(dense[0], dense[1], ids), gguf_logits(keys, values, ids)
                self.assertLess(np.abs(after - before).mean(), (0.3 if bits == 4 else 0.03) * np.abs(before).mean())
            for name in results[0]:
                np.testing.assert_array_equal(results[0][name], results[1][name], name)
            self.assertLess(abs(self.perplexity("out.gguf") / self.perplexity("relu.gguf") - 1), 0.1)

    def test_sparse_models_have_their_zeros_in_either_form(self):
        for text in ("2:4", "0.5"):
            self.compressed("sparsegpt", "silu", "sparse", "--pattern", text)
            tensors = load_file(self.folder / "sparse/model.safetensors")
            self.assertEqual((self.folder / "sparse/config.json").exists(), True)
            _, values, types = read_gguf(self.folder / self.converted("sparse", "--by-neurons"))
            self.compressed("sparsegpt", "silu.gguf", "sparse.gguf", "--pattern", text)
            _, direct, _ = read_gguf(self.folder / "sparse.gguf")
            for name, w in tensors.items():
                if w.ndim < 2 or "embed" in name:
                    continue
                self.assertEqual(w.dtype, np.float16)
                if text == "2:4":
                    self.assertTrue(((w.reshape(len(w), -1, 4) == 0).sum(axis=2) == 2).all(), name)
                self.assertEqual(np.count_nonzero(w) * 2, w.size, name)
            for name in values:
                np.testing.assert_array_equal(values[name], direct[name], name)
            self.perplexity("sparse.gguf")
            shutil.rmtree(self.folder / "sparse")
            self.there.remove("sparse")

    def test_nothing_half_written_stays(self):
        for out in ("stopped.gguf", "stopped"):
            calls = []

            def stops_at_the_second(*args, calls=calls, compress_layer=compress.compress_layer):
                calls.append(args)
                if len(calls) == 2:
                    raise KeyboardInterrupt
                return compress_layer(*args)

            with mock.patch.object(compress, "compress_layer", stops_at_the_second):
                code, err = run("gptq", self.folder / "relu", self.folder / out, "--calibration", self.text,
                                "--tokens", "2000", "--hearth", HEARTH)
            self.assertEqual((code, err.splitlines()[-1]), (130, "compress: interrupted"))
            self.assertEqual({p.name for p in self.folder.iterdir()}, self.there)

    def test_mistakes_are_told_in_one_sentence(self):
        short = self.folder / "short.txt"
        short.write_text("A short text.", encoding="utf-8")
        self.addCleanup(short.unlink)
        for expected, what, model, out, *options in [
            ("shorter than one window", "gptq", "relu", "x.gguf", "--calibration", short),
            ("only of a folder can a folder be made", "gptq", "relu.gguf", "x"),
            ("group of 48 is not a multiple of 32", "gptq", "relu", "x", "--group", "48"),
            ("do not fit groups of 96", "gptq", "relu", "x", "--group", "96"),
            ("damping of 0.0", "sparsegpt", "relu", "x", "--damping", "0"),
            ("exists already", "gptq", "relu", "silu"),
            ("No such file", "gptq", "none.gguf", "x.gguf"),
            ("is not a GGUF file", "gptq", "text.txt", "x.gguf"),
            ("say with --hearth", "gptq", "relu", "x", "--hearth", self.folder / "none"),
            ("notadevice", "gptq", "relu", "x", "--device", "notadevice"),
        ]:
            with self.subTest(expected):
                given = {"--calibration": self.text, "--hearth": HEARTH} | dict(zip(options[::2], options[1::2]))
                code, err = run(what, self.folder / model, self.folder / out,
                                *(x for pair in given.items() for x in pair))
                self.assertEqual(code, 1, err)
                self.assertIn(expected, err)
                self.assertEqual(err.count("\n"), 1, err)
                self.assertFalse([p for p in self.folder.iterdir() if p.name.startswith("x")])
        with contextlib.chdir(self.folder):    # a program here, as a shell takes it
            Path("hearth").symlink_to(HEARTH.absolute())
            code, err = run("gptq", "relu", "x.gguf", "--calibration", short, "--hearth", "./hearth")
            Path("hearth").unlink()
        self.assertIn("shorter than one window", err)
        for pattern in ("0", "1.5", "4:2", "two", "3:5"):
            self.assertEqual(run("sparsegpt", "a", "b", "--calibration", "c", "--pattern", pattern)[0], 2)


class WithoutTorch(unittest.TestCase):
    def test_the_error_says_how_to_get_torch(self):
        with mock.patch.object(compress, "torch", None):
            code, err = run("gptq", "model", "out.gguf", "--calibration", "text.txt")
        self.assertEqual(code, 1)
        self.assertIn("python3-torch", err)


if __name__ == "__main__":
    if len(sys.argv) > 1 and not sys.argv[1].startswith("-"):
        HEARTH = Path(sys.argv.pop(1)).resolve()
    unittest.main()
