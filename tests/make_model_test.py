#!/usr/bin/env python3
"""tools/models/make_model.py: what it promises, measured with a plain forward pass in numpy,
and whether the program takes its files.

    python3 tests/make_model_test.py [build/check/hearth]          (packages: tools/models/requirements.txt)
"""

import contextlib
import io
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import numpy as np

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS), str(TESTS.parent / "tools" / "models")]
import make_model  # noqa: E402
from convert_test import gguf_logits, read_gguf  # noqa: E402

PROGRAM = Path(sys.argv.pop(1)).resolve() if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else None
TOKENS = 300


class Case(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.out = Path(scratch.name) / "model.gguf"

    def run_make(self, *options):
        """Exit code and what went to stderr."""
        err = io.StringIO()
        with contextlib.redirect_stderr(err):
            try:
                code = make_model.main([str(self.out), *options])
            except SystemExit as e:    # argparse
                code = e.code
        return code, err.getvalue()

    def made(self, *options):
        """The file's bytes."""
        code, err = self.run_make(*options)
        self.assertEqual(code, 0, err)
        self.assertEqual([p.name for p in self.out.parent.iterdir()], ["model.gguf"])
        return self.out.read_bytes()

    def read(self, *options):
        """Keys, fp32 values and type names."""
        data = self.made(*options)
        self.assertEqual(data[:4], b"PWRI" if "--pwri" in options else b"GGUF")
        self.out.write_bytes(b"GGUF" + data[4:])    # the rest is the same format
        return read_gguf(self.out)


# ---- the file --------------------------------------------------------------------------------------------------------

class Content(Case):
    def test_the_same_options_give_the_same_bytes_and_another_seed_others(self):
        for options in ((), ("--pwri", "--type", "q4_0")):
            data = self.made(*options)
            with mock.patch.object(make_model, "THREADS", 1):
                self.assertEqual(self.made(*options), data)
            self.assertNotEqual(self.made("--seed", "1", *options), data)

    def test_keys_and_tensors_have_the_shape_that_was_asked_for(self):
        keys, values, types = self.read("--layers", "2", "--dim", "96", "--heads", "6", "--kv-heads", "3",
                                        "--neurons", "160", "--vocab", "400", "--type", "q8_0", "--context", "777")
        expected = {"general.architecture": "llama", "general.file_type": 7, "llama.block_count": 2,
                    "llama.context_length": 777, "llama.embedding_length": 96, "llama.feed_forward_length": 160,
                    "llama.attention.head_count": 6, "llama.attention.head_count_kv": 3,
                    "llama.attention.key_length": 16, "llama.rope.dimension_count": 16, "llama.vocab_size": 400,
                    "hearth.activation": "relu"}
        self.assertEqual({key: keys.get(key) for key in expected}, expected)
        shapes = {"token_embd": (400, 96), "output_norm": (96,), "output": (400, 96)}
        for n in range(2):
            for name, shape in {"attn_norm": (96,), "attn_q": (96, 96), "attn_k": (48, 96), "attn_v": (48, 96),
                                "attn_output": (96, 96), "ffn_norm": (96,), "ffn_gate": (160, 96), "ffn_up": (160, 96),
                                "ffn_down_t": (160, 96)}.items():
                shapes[f"blk.{n}.{name}"] = shape
        self.assertEqual({name: w.shape for name, w in values.items()},
                         {name + ".weight": shape for name, shape in shapes.items()})
        for name, kind in types.items():
            self.assertEqual(kind, "Q8_0" if values[name].ndim == 2 else "F32")

    def test_shapes_have_the_parameters_of_the_models_they_are_named_for(self):
        for shape, billions in {"7b": 6.74, "13b": 13.02, "33b": 32.53, "70b": 68.98, "1b": 1.10,
                                "small": 0.55}.items():
            layers, dim, heads, kv_heads, neurons, vocab = make_model.SHAPES[shape]
            attention = 2 * dim * dim + 2 * dim * (dim // heads * kv_heads)
            self.assertAlmostEqual((layers * (attention + 3 * dim * neurons) + 2 * vocab * dim) / 1e9, billions,
                                   delta=0.01, msg=shape)

    def test_weights_are_random_not_zero_and_no_two_rows_are_alike(self):
        _, values, _ = self.read("--pwri", "--type", "q8_0")
        for name, w in values.items():
            self.assertTrue(np.isfinite(w).all(), name)
            self.assertLess(np.mean(w == 0), 0.06, name)    # of Q8_0: what is within half a step of it
            if w.ndim == 2 and "fc1" not in name:           # which has copies of one row
                self.assertEqual(len(np.unique(w, axis=0)), len(w), name)

    def test_routers_choose_by_token_and_favour_some_experts(self):
        keys, tensors, _ = self.read("--experts", "16", "--experts-used", "3")
        self.assertEqual((keys["llama.expert_count"], keys["llama.expert_used_count"],
                          keys["llama.expert_feed_forward_length"]), (16, 3, 256))
        self.assertEqual([tensors[f"blk.0.{name}.weight"].shape
                          for name in ("ffn_gate_exps", "ffn_up_exps", "ffn_down_t")],
                         [(16, 256, 128), (16, 256, 128), (16 * 256, 128)])
        x = np.stack([row / np.sqrt(np.mean(row ** 2))
                      for row in tensors["token_embd.weight"]]) * tensors["blk.0.ffn_norm.weight"]
        scores = x @ tensors["blk.0.ffn_gate_inp.weight"].T
        self.assertAlmostEqual(scores.std(axis=0).mean(), 1, delta=0.2)               # from token to token
        # From expert to expert.
        self.assertAlmostEqual(scores.mean(axis=0).std(), make_model.EXPERT_SPREAD, delta=0.25)

    def test_the_vocabulary_is_one_of_sentencepiece(self):
        keys, _, _ = self.read("--vocab", "1000")
        tokens, scores, kinds = (keys[f"tokenizer.ggml.{key}"] for key in ("tokens", "scores", "token_type"))
        self.assertEqual(tokens[:4] + tokens[258:260], ["<unk>", "<s>", "</s>", "<0x00>", "<0xFF>", "\u2581"])
        self.assertEqual(kinds, [2, 3, 3] + [6] * 256 + [1] * 741)
        self.assertEqual(len(set(tokens)), 1000)
        self.assertEqual(scores[259:], sorted(scores[259:], reverse=True))
        known = set(tokens[259:])
        for text in tokens[259:]:    # every piece can be reached by merging
            self.assertTrue(len(text) == 1
                            or any(text[:i] in known and text[i:] in known for i in range(1, len(text))), text)

    def test_a_powerinfer_file_is_the_same_model_with_predictors(self):
        for kind in ("f16", "q4_0"):
            keys, values, _ = self.read("--type", kind)
            more_keys, more_values, _ = self.read("--type", kind, "--pwri", "--predictor-rank", "20")
            self.assertEqual({k for k in more_keys if more_keys[k] != keys.get(k) and not k.startswith("GGUF.")},
                             {"powerinfer.sparse_threshold"})
            self.assertEqual(more_keys["powerinfer.sparse_threshold"], 0.0)
            predictors = {f"blk.{n}.fc{i}.weight": shape for n in range(4)
                          for i, shape in ((1, (64, 128)), (2, (256, 64)))}
            self.assertEqual({name: w.shape for name, w in more_values.items() if name not in values}, predictors)
            # The rank decides the gates too, so the same one is needed for the same logits.
            _, values, _ = self.read("--type", kind, "--predictor-rank", "20")
            for name, w in values.items():
                np.testing.assert_array_equal(more_values[name], w, name)


    def test_a_plain_file_has_the_same_weights_with_the_down_projection_the_other_way_round(self):
        shape = ("--layers", "2", "--dim", "96", "--heads", "3", "--kv-heads", "3", "--neurons", "1600",
                 "--type", "f32")
        with mock.patch.object(make_model, "PIECE_WEIGHTS", 1 << 14):    # ten rows at a time
            plain_keys, plain, _ = self.read(*shape, "--plain")
            keys, values, _ = self.read(*shape)
        self.assertEqual(plain_keys, keys)
        self.assertEqual(list(plain), [name.replace("ffn_down_t", "ffn_down") for name in values])
        for name, w in values.items():
            np.testing.assert_array_equal(plain[name.replace("ffn_down_t", "ffn_down")],
                                          w.T if "ffn_down_t" in name else w, name)
        experts = ("--experts", "3", "--experts-used", "2", "--type", "f32", "--neurons", "160")
        with mock.patch.object(make_model, "PIECE_WEIGHTS", 1 << 14):
            _, plain, _ = self.read(*experts, "--plain")
            _, values, _ = self.read(*experts)
        w = values["blk.1.ffn_down_t.weight"].reshape(3, 160, -1).swapaxes(1, 2)
        np.testing.assert_array_equal(plain["blk.1.ffn_down_exps.weight"], w)
        self.assertEqual(self.read(*shape, "--silu")[0]["hearth.activation"], "silu")
        self.assertEqual(self.run_make("--plain", "--pwri")[0], 2)
        self.assertEqual(self.run_make("--silu", "--pwri")[0], 2)


# ---- what the model does ---------------------------------------------------------------------------------------------

def share_of_80(chances):
    """The share of the neurons, the most active ones, that make 80 % of all firings."""
    reached = np.cumsum(np.sort(chances)[::-1]) / chances.sum()
    return (np.searchsorted(reached, 0.8) + 1) / len(chances)


class Behaviour(Case):
    def measure(self, *options):
        """Chances of firing (layers, neurons), recall of the predictor,
        the share of neurons that it names, and logits."""
        keys, values, _ = self.read(*options)
        ids = np.random.default_rng(3).integers(0, keys["llama.vocab_size"], TOKENS)
        chances, hits, named = [], 0, []

        def watch(layer, residual, gate):
            nonlocal hits
            fires = gate > 0
            chances.append(fires.mean(axis=0))
            if "--pwri" in options:
                hidden = np.maximum(residual @ values[f"blk.{layer}.fc1.weight"].T, 0)
                predicted = hidden @ values[f"blk.{layer}.fc2.weight"].T >= keys["powerinfer.sparse_threshold"]
                hits += (predicted & fires).sum()
                named.append(predicted.mean())

        logits = gguf_logits(keys, values, ids, watch)
        chances = np.array(chances)
        return chances, hits / (chances.sum() * TOKENS), np.mean(named) if named else None, logits

    def check_sparsity(self, chances, activity, skew):
        self.assertAlmostEqual(chances.mean(), activity, delta=activity / 10)
        self.assertAlmostEqual(share_of_80(chances.ravel()), skew, delta=0.05)
        self.assertAlmostEqual(np.mean([share_of_80(layer) for layer in chances]), skew, delta=0.05)

    def test_activity_and_skew_are_those_asked_for(self):
        for activity, skew in ((0.1, 0.43), (0.3, 0.43), (0.1, 0.2), (0.05, 0.6)):
            for kind in ("f16", "q4_0"):
                with self.subTest(f"{activity}, {skew}, {kind}"):
                    chances, _, _, _ = self.measure("--activity", str(activity), "--skew", str(skew), "--type", kind)
                    self.check_sparsity(chances, activity, skew)

    def test_they_are_the_same_with_every_seed_and_in_other_shapes(self):
        for options in (("--seed", "1"), ("--seed", "2"), ("--layers", "80", "--dim", "64", "--heads", "2"),
                        ("--layers", "1", "--neurons", "1024"), ("--dim", "512", "--neurons", "1024", "--layers", "3")):
            with self.subTest(" ".join(options)):
                self.check_sparsity(self.measure(*options)[0], 0.1, 0.43)

    def test_layers_differ_and_hot_neurons_are_scattered(self):
        chances, _, _, _ = self.measure("--layers", "6", "--activity", "0.2")
        layers = chances.mean(axis=1)
        self.assertGreater(layers.max() / layers.min(), 1.3)
        for layer in chances:
            self.assertLess(abs(np.corrcoef(layer, np.arange(len(layer)))[0, 1]), 0.25)
            groups = layer.reshape(-1, 32).mean(axis=1)
            self.assertLess(groups.max(), 2 * layer.mean())
        self.assertLess(abs(np.corrcoef(chances[0], chances[1])[0, 1]), 0.25)    # and elsewhere in each layer

    def test_the_predictor_names_the_neurons_that_fire(self):
        for options, lowest, highest, named in ((("--type", "f16"), 0.995, 1, 0.1), (("--type", "q8_0"), 0.97, 1, 0.1),
                                                (("--type", "q4_0"), 0.85, 1, 0.12),
                                                (("--predictor-noise", "0.3"), 0.7, 0.95, 0.12),
                                                (("--predictor-noise", "1"), 0.4, 0.75, 0.18)):
            with self.subTest(" ".join(options)):
                _, recall, share, _ = self.measure("--pwri", *options)
                self.assertGreaterEqual(recall, lowest)
                self.assertLessEqual(recall, highest)
                self.assertAlmostEqual(share, named, delta=0.02)

    def test_logits_are_sane_at_any_depth_and_depend_on_more_than_the_last_token(self):
        for layers in ("2", "80"):
            with self.subTest(layers):
                _, _, _, logits = self.measure("--layers", layers, "--dim", "64", "--heads", "2", "--vocab", "600")
                words = logits[:, 259:]
                self.assertTrue(1.5 < words.std() < 4, words.std())
                self.assertLess(logits[:, :259].max(), words.max(axis=1).min())    # no control tokens and no bytes
                self.assertGreater(len(np.unique(logits.argmax(axis=1))), TOKENS // 5)
        keys, values, _ = self.read()
        one, other = (gguf_logits(keys, values, np.array(ids))[-1] for ids in ([1, 300, 400], [1, 310, 400]))
        self.assertGreater(np.abs(one - other).max(), 0.1)


# ---- what is refused -------------------------------------------------------------------------------------------------

class Refusals(Case):
    def test_bad_requests_get_one_sentence_and_leave_nothing(self):
        cases = {
            ("--dim", "100"): "a width of 100, 4 heads and 2 key-value heads do not fit together",
            ("--heads", "0"): "heads is 0",
            ("--layers", "-1"): "layers is -1",
            ("--vocab", "300"): "the vocabulary has 300 tokens, expected at least 320",
            ("--dim", "144", "--type", "q4_0"): "rows of 144 weights, which is not a multiple of 32 as Q4_0 needs",
            ("--activity", "0"): "the activity is 0.0",
            ("--activity", "nan"): "the activity is nan",
            ("--activity", "0.3", "--skew", "0.1"): "no distribution with a skew of 0.1 exists",
            ("--skew", "0.9"): "no distribution with a skew of 0.9 exists",
            ("--predictor-rank", "128"): "the predictor's rank is 128, expected 1 to 127",
            ("--predictor-noise", "-1"): "the predictor's noise is -1.0",
            ("--seed", "-1"): "the seed is -1",
            ("--context", "0"): "the context is 0",
            ("--experts", "4", "--experts-used", "5"): "5 of 4 experts are used for a token, expected 1 to 4",
        }
        for options, message in cases.items():
            with self.subTest(message):
                self.refused(message, *options)

    def refused(self, message, *options):
        code, err = self.run_make(*options)
        self.assertEqual(code, 1, err)
        self.assertIn(message, err)
        self.assertEqual(err.count("\n"), 1, err)
        self.assertEqual(list(self.out.parent.iterdir()), [])

    def test_full_disks(self):
        with mock.patch("shutil.disk_usage", return_value=mock.Mock(free=1000)):
            self.refused("the disk has room for 0.0 GB")
        # Another program was faster.
        with mock.patch.object(make_model.Weights, "ffn_up", side_effect=OSError(28, "No space left on device")):
            self.refused("No space left on device")

    def test_folders_that_do_not_exist(self):
        self.out = self.out.parent / "nowhere" / "model.gguf"
        code, err = self.run_make()
        self.assertEqual(code, 1)
        self.assertIn("nowhere is not a folder", err)


# ---- the program -----------------------------------------------------------------------------------------------------

@unittest.skipIf(PROGRAM is None, "no program was given")
class Program(Case):
    def hearth(self, *args):
        result = subprocess.run([PROGRAM, *map(str, args)], capture_output=True, text=True, timeout=60)
        self.assertEqual(result.returncode, 0, result.stderr)
        return result.stdout

    def test_the_program_runs_what_was_made(self):
        for kind in ("f16", "q8_0", "q4_0"):
            with self.subTest(kind):
                self.made("--type", kind)
                self.assertIn("blk.3.ffn_down_t.weight", self.hearth("inspect", self.out, "--json"))
                text = self.hearth("run", self.out, "--device", "cpu", "-p", "a banana, or two?", "-n", "20",
                                   "--temp", "0")
                exact = self.hearth("run", self.out, "--device", "cpu", "-p", "a banana, or two?", "-n", "20",
                                    "--temp", "0", "--sparsity", "exact")
                self.assertEqual(text, exact)
                self.assertTrue(text.startswith("a banana, or two?"))
                self.assertGreater(len(set(text)), 8)

    def test_the_program_runs_a_mixture_of_experts(self):
        self.made("--experts", "6", "--experts-used", "2")
        text = self.hearth("run", self.out, "--device", "cpu", "-p", "a banana, or two?", "-n", "20", "--temp", "0")
        self.assertTrue(text.startswith("a banana, or two?"))
        self.assertGreater(len(set(text)), 8)

    def test_a_text_goes_through_its_tokenizer_and_back(self):
        self.made()
        text = "a banana, or two? Ü 3"
        self.assertEqual(self.hearth("run", self.out, "--device", "cpu", "-p", text, "-n", "1").startswith(text), True)
        self.assertTrue(self.hearth("tokenize", self.out, "-p", text))


if __name__ == "__main__":
    unittest.main()
