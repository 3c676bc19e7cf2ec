#!/usr/bin/env python3
"""hearth quantize: its files against what the Python package gguf makes of the same weights, bit by bit;
what it keeps, refuses and leaves behind.

    python3 tests/quantize_test.py build/check/hearth          (packages: tools/models/requirements.txt)
"""

import contextlib
import io
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path
from unittest import mock

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS), str(TESTS.parent / "tools" / "models")]
import make_model  # noqa: E402

MODEL, TEXT = TESTS / "data" / "fairytale-7m.gguf", TESTS / "data" / "fairytales-valid.txt"
PROGRAM = Path(sys.argv.pop(1)).resolve() if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else None
TYPES = {"f16": Type.F16, "bf16": Type.BF16, "q8_0": Type.Q8_0, "q4_0": Type.Q4_0, "q4_1": Type.Q4_1,
         "q5_0": Type.Q5_0, "q5_1": Type.Q5_1}


class Case(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)
        self.out = self.folder / "out.gguf"

    def hearth(self, *args, **more):
        return subprocess.run([PROGRAM, *map(str, args)], capture_output=True, text=True, timeout=600,
                              env=os.environ | {"XDG_CACHE_HOME": str(self.folder / "cache")}, **more)

    def quantize(self, *args):
        """What it reports, and what it says."""
        result = self.hearth("quantize", *args, "--json")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(list(Path(args[1]).parent.glob("*.part")), [])
        return json.loads(result.stdout), result.stderr

    def refused(self, *args, says, **more):
        """One sentence; nothing is written, and what was there stays."""
        before = {p: p.lstat().st_mtime_ns for p in self.folder.iterdir()}
        result = self.hearth("quantize", *args, **more)
        self.assertEqual(result.returncode, 1, result.stderr)
        self.assertEqual(result.stdout, "")
        self.assertRegex(result.stderr, r"\Ahearth: [^\n]+\n\Z")
        for words in says:
            self.assertIn(words, result.stderr)
        self.assertEqual({p: p.lstat().st_mtime_ns for p in self.folder.iterdir()}, before)

    def made(self, *options, name="model.gguf"):
        path = self.folder / name
        with contextlib.redirect_stderr(io.StringIO()) as err:
            self.assertEqual(make_model.main([str(path), *options]), 0, err.getvalue())
        return path


def read(path):
    """A file's keys and tensors: name -> (type, rows as bytes or numbers)."""
    data = bytearray(path.read_bytes())
    data[:4] = b"GGUF"    # PWRI's body is the same
    with tempfile.NamedTemporaryFile() as copy:
        copy.write(data)
        copy.flush()
        reader = gguf.GGUFReader(copy.name)
        keys = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
        return keys, {t.name: (t.tensor_type, np.array(t.data)) for t in reader.tensors}


def floats(stored):
    return gguf.quants.dequantize(stored[1], stored[0])


def expected(x, kind):
    """(type, bytes) of floats."""
    stored = gguf.quants.quantize(np.ascontiguousarray(x), kind)
    return kind, np.ascontiguousarray(stored).view(np.uint8).reshape(len(x), -1)


def bytes_of(stored):
    return np.ascontiguousarray(stored[1]).view(np.uint8).reshape(len(stored[1]), -1)


# ---- the weights -----------------------------------------------------------------------------------------------------

class Weights(Case):
    def check(self, source, out, name, kind, before=None):
        """`out` has the source's weights, transposed where they are a plain down projection,
        as gguf rounds them to that type."""
        _, tensors = read(source)
        before = tensors[before or name]
        stored = read(out)[1][name]
        x = floats(before)
        if name not in tensors:
            x = x.T
        self.assertEqual(stored[0], kind, name)
        np.testing.assert_array_equal(bytes_of(stored), expected(x, kind)[1], name)
        return x, floats(stored)

    def hard(self):
        """A model in F32 with rows that are hard to round: of zeros, of ties, of the largest and the least numbers,
        of one value only."""
        source = self.made("--type", "f32", "--layers", "1")
        rng = np.random.default_rng(1)
        w = rng.standard_normal((256, 128)).astype(np.float32)
        w[0] = 0
        w[1] = np.arange(128) - 64            # multiples of the scale
        w[2] = (np.arange(128) - 64) / 2      # and halves of it
        w[3] = -1.5
        w[4, ::2] = -w[4, 1::2]               # the largest magnitude twice, with both signs
        w[5] *= np.float32(1e-6)              # scales below what fp16 holds exactly
        w[6] *= np.float32(1e-9)              # or at all
        w[7] *= np.float32(1e-36)             # whose inverses are about the largest float
        w[8] = 0
        w[8, 5] = 3
        w[9] = 60000 * np.sign(w[9])
        w[10:14] = np.float32(127) * np.nextafter(np.float32(0.5), np.float32(0)) * np.sign(w[10:14]) / 64
        w[10:14, ::32] = 127 / 64
        data = bytearray(source.read_bytes())
        at = next(t for t in gguf.GGUFReader(source).tensors if t.name == "blk.0.ffn_gate.weight").data_offset
        data[at:at + w.nbytes] = w.tobytes()
        source.write_bytes(data)
        return source

    def test_matrices_are_rounded_as_gguf_does_it_to_the_bit(self):
        source = self.hard()
        for name, kind in TYPES.items():
            self.quantize(source, self.out, name, "--output-type", name)
            for tensor, (before, x) in read(source)[1].items():
                with self.subTest(name, tensor=tensor):
                    self.check(source, self.out, tensor, kind if x.ndim == 2 else Type.F32)

    def test_a_plain_down_projection_is_stored_by_neurons_whatever_its_type(self):
        for kind in ("f32", "f16", "bf16", "q8_0", "q4_0"):
            source = self.made("--plain", "--type", kind, "--layers", "2", "--neurons", "288", name=f"{kind}.gguf")
            for to in ("f16", "q8_0", "q4_0"):
                with self.subTest(kind, to=to):
                    self.quantize(source, self.out, to)
                    for layer in range(2):
                        self.check(source, self.out, f"blk.{layer}.ffn_down_t.weight", TYPES[to],
                                   before=f"blk.{layer}.ffn_down.weight")
                    self.assertNotIn("transposed",
                                     self.hearth("run", self.out, "--device", "cpu", "-p", "a", "-n", 1).stderr)

    def test_a_plain_down_projection_stays_where_no_neuron_is_left_out_unless_asked_for(self):
        source = self.made("--plain", "--silu", "--type", "f16", "--layers", "2")
        for to in ("q8_0", "q4_0"):
            self.quantize(source, self.out, to)
            self.check(source, self.out, "blk.1.ffn_down.weight", TYPES[to])
            self.assertNotIn("transposed", self.hearth("run", self.out, "--device", "cpu", "-p", "a", "-n", 1).stderr)
            self.quantize(source, self.out, to, "--by-neurons")
            self.check(source, self.out, "blk.1.ffn_down_t.weight", TYPES[to], before="blk.1.ffn_down.weight")

    def test_a_plain_down_projection_with_many_zeros_is_stored_by_neurons_and_without_them(self):
        source = self.made("--plain", "--silu", "--type", "f16", "--layers", "2")
        data = bytearray(source.read_bytes())
        t = next(t for t in gguf.GGUFReader(source).tensors if t.name == "blk.1.ffn_down.weight")
        w = np.array(t.data)
        w[np.random.default_rng(4).random(w.shape) < 0.75] = 0
        data[t.data_offset:t.data_offset + w.nbytes] = w.tobytes()
        source.write_bytes(data)
        report, _ = self.quantize(source, self.out, "f16")
        stored = {t["name"]: t["to"] for t in report["tensors"]}
        self.assertEqual((stored["blk.0.ffn_down.weight"], stored["blk.1.ffn_down_t.weight"]), ("F16", "F16_SPARSE"))
        results = [self.hearth("run", path, "--device", "cpu", "-p", "a", "-n", 20, "--temp", 0)
                   for path in (source, self.out)]
        self.assertEqual(results[0].stdout, results[1].stdout)
        self.assertNotIn("transposed", results[1].stderr)

    def test_any_number_of_threads_gives_the_same_bytes(self):
        source = self.made("--plain", "--type", "f32", "--dim", "256", "--heads", "8", "--kv-heads", "8")
        for kind in ("q4_0", "q4_k_m"):
            results = []
            for threads in (1, 2, 7):
                report, _ = self.quantize(source, self.out, kind, "-t", threads)
                results.append((report, self.out.read_bytes()))
            self.assertEqual(results[0], results[1])
            self.assertEqual(results[0], results[2])

    def test_a_mixture_has_more_bits_where_errors_count_more(self):
        source = self.made("--plain", "--type", "f16", "--dim", "256", "--heads", "4", "--kv-heads", "2",
                           "--layers", "9", "--neurons", "768")
        report, _ = self.quantize(source, self.out, "q4_k_m")
        for t in report["tensors"]:
            *_, layer, part = t["name"].removesuffix(".weight").rjust(80, ".").split(".")
            # As llama-quantize chooses of 9 layers.
            better = part == "output" or part in ("attn_v", "ffn_down_t") and int(layer) in (0, 3, 6, 7, 8)
            norm = part.endswith("norm")
            self.assertEqual(t["to"], "F32" if norm else "Q6_K" if better else "Q4_K", t["name"])
            # Theirs lose 0.0183 and 0.0733.
            self.assertLess(t["error"], 1e-9 if norm else 0.018 if better else 0.075, t["name"])
        rows, stored = read(source)[1], read(self.out)[1]
        for t in report["tensors"]:    # as gguf understands the blocks, too
            if not t["name"].endswith("norm.weight"):
                x, y = floats(rows[t["name"].replace("down_t", "down")]), floats(stored[t["name"]])
                x = x.T if t["name"].endswith("ffn_down_t.weight") else x
                self.assertAlmostEqual(t["error"],
                                       np.sqrt(np.sum((x - y) ** 2, dtype=float) / np.sum(x ** 2, dtype=float)),
                                       places=6)

    def test_every_type_loses_less_than_others_files_of_that_name_do(self):
        # What llama-quantize's lose of the shipped model's weights, format by format.
        theirs = {"Q2_K": 0.297, "Q3_K": 0.151, "Q4_K": 0.0717, "Q5_K": 0.0363, "Q6_K": 0.0182, "IQ4_NL": 0.0764,
                  "Q4_1": 0.0786, "Q5_0": 0.0431, "Q5_1": 0.0381}
        rows, seen = read(MODEL)[1], set()
        for kind in ("q2_k", "q3_k_m", "q5_k_m", "q4_1", "q5_0", "q5_1", "iq4_nl"):
            self.quantize(MODEL, self.out, kind)
            stored = read(self.out)[1]
            sums = {}
            for name, (before, x) in rows.items():    # as gguf understands the blocks
                if x.ndim == 2:
                    sum_ = sums.setdefault(stored[name][0].name, [0, 0])
                    sum_[0] += np.sum((floats(stored[name]) - x.astype(np.float32)) ** 2, dtype=float)
                    sum_[1] += np.sum(x.astype(np.float32) ** 2, dtype=float)
            for name, (lost, whole) in sums.items():
                with self.subTest(kind, format=name):
                    self.assertLess(np.sqrt(lost / whole), theirs[name])
            seen |= set(sums)
        self.assertEqual(seen, set(theirs))

    def test_rows_that_are_no_blocks_of_256_get_blocks_of_32(self):
        source = self.made("--plain", "--type", "f32", "--dim", "96", "--heads", "3", "--kv-heads", "3",
                           "--layers", "3")
        for kind, common, better in (("q4_k_m", Type.Q5_0, Type.Q8_0), ("q6_k", Type.Q8_0, Type.Q8_0),
                                     ("q3_k_s", Type.Q4_0, Type.Q4_0), ("q5_k_s", Type.Q5_1, Type.Q5_1)):
            report, _ = self.quantize(source, self.out, kind)
            for t in report["tensors"]:
                if t["name"].endswith("norm.weight"):
                    continue
                more = t["name"] == "output.weight" or t["name"] in ("blk.2.attn_v.weight", "blk.2.ffn_down_t.weight")
                self.check(source, self.out, t["name"],
                           Type.Q8_0 if t["name"] == "output.weight" else better if more else common,
                           before=t["name"].replace("down_t", "down"))
                self.assertEqual(t["note"], "its rows are no whole blocks of 256")

    def test_the_report_has_types_bytes_and_the_error(self):
        report, _ = self.quantize(MODEL, self.out, "q4_0")
        before, after = read(MODEL)[1], read(self.out)[1]
        self.assertEqual([t["name"] for t in report["tensors"]], list(after))
        lost = whole = 0
        for t in report["tensors"]:
            x, y = floats(before[t["name"]]).astype(np.float64), floats(after[t["name"]])
            self.assertEqual((t["from"], t["to"], t["weights"]),
                             (before[t["name"]][0].name, after[t["name"]][0].name, x.size))
            self.assertEqual((t["bytes_before"], t["bytes"]), (before[t["name"]][1].nbytes, after[t["name"]][1].nbytes))
            self.assertAlmostEqual(t["error"], np.sqrt(np.sum((x - y) ** 2) / np.sum(x ** 2)), places=6)
            lost, whole = lost + np.sum((x - y) ** 2), whole + np.sum(x ** 2)
        self.assertAlmostEqual(report["total"]["error"], np.sqrt(lost / whole), places=6)
        self.assertEqual(report["total"]["bytes"], sum(t["bytes"] for t in report["tensors"]))
        table = self.hearth("quantize", MODEL, self.out, "q4_0")
        for t in report["tensors"]:
            self.assertRegex(table.stdout,
                             rf"(?m)^{t['name']} +(F16 > )?{t['to']} +{t['bytes']} +{100 * t['error']:.3f} %")
        self.assertRegex(table.stdout, r"(?m)^13906944 bytes of weights before, 4445184 now")


class Importance(Case):
    def measured(self, model, *options):
        path = self.folder / "x.imatrix"
        result = self.hearth("profile", model, "-f", TEXT, "--imatrix", path, "-n", 2000, *options)
        self.assertEqual((result.returncode, result.stdout), (0, ""), result.stderr)
        return path, result.stderr

    def test_a_matrix_in_others_form_makes_errors_smaller_where_they_count(self):
        source = self.folder / "model.gguf"
        self.quantize(MODEL, source, "f16", "--plain")
        path, talk = self.measured(MODEL)
        self.assertRegex(talk, r"x\.imatrix: 43 matrices, measured on 2000 tokens in 8 windows\n\Z")
        self.assertEqual([p.name for p in self.folder.iterdir() if p.suffix in (".profile", ".part")], [])
        keys, tensors = read(path)
        self.assertEqual(keys, {"general.type": "imatrix", "imatrix.datasets": [str(TEXT)], "imatrix.chunk_count": 8,
                                "imatrix.chunk_size": 256})
        rows = read(source)[1]
        matrices = {name for name, (_, x) in rows.items() if x.ndim == 2}
        self.assertEqual({n.rpartition(".")[0] for n in tensors}, matrices)
        for name in matrices:
            (kind, sums), (_, counts) = tensors[f"{name}.in_sum2"], tensors[f"{name}.counts"]
            self.assertEqual((kind, sums.shape, counts.tolist()), (Type.F32, (1, rows[name][1].shape[1]), [[2008]]))
        for kind in ("q2_k", "q4_0"):
            lost = []
            for options in ((), ("--imatrix", path)):
                _, talk = self.quantize(source, self.out, kind, "--plain", *options)
                self.assertNotIn("imatrix", talk)
                stored = read(self.out)[1]
                lost.append(sum(np.sum((floats(stored[n]) - floats(rows[n])) ** 2 * tensors[f"{n}.in_sum2"][1],
                                       dtype=float) / np.mean(tensors[f"{n}.in_sum2"][1]) for n in matrices))
            self.assertLess(lost[1], 0.9 * lost[0], kind)
        _, talk = self.quantize(source, self.out, "q8_0", "--imatrix", path)
        self.assertIn("x.imatrix changed nothing", talk)

    def test_a_matrix_of_another_model_or_a_broken_one_is_refused(self):
        path, _ = self.measured(MODEL)
        other = self.made("--plain", "--type", "f16", "--dim", "96", "--heads", "3", "--kv-heads", "3")
        self.refused(other, self.out, "q4_0", "--imatrix", path, says=[str(path), "belongs to another model"])
        whole = path.read_bytes()
        for cut in (0, 10, 500, len(whole) - 31):    # behind come 28 bytes of padding
            path.write_bytes(whole[:cut])
            self.refused(MODEL, self.out, "q4_0", "--imatrix", path, says=[str(path)])
        self.refused(MODEL, self.out, "q4_0", "--imatrix", MODEL, says=["its general.type is", "llama-imatrix"])
        self.refused(MODEL, self.out, "q4_0", "--imatrix", self.folder / "none", says=["none"])

    def test_an_interrupted_measurement_leaves_what_was_there(self):
        self.out.write_text("earlier")
        many = [x for _ in range(20) for x in ("-f", TEXT)]
        with subprocess.Popen([PROGRAM, "profile", MODEL, *many, "--imatrix", self.out], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True) as process:
            self.addCleanup(process.kill)
            time.sleep(1.5)
            process.send_signal(signal.SIGINT)
            out, talk = process.communicate(timeout=60)
        self.assertEqual((process.returncode, out), (1, ""), talk)
        self.assertRegex(talk, r"hearth: interrupted[^\n]*\n\Z")
        self.assertEqual(self.out.read_text(), "earlier")
        self.assertEqual([p.name for p in self.folder.iterdir() if p.name.endswith(".part")], [])


# ---- what stays ------------------------------------------------------------------------------------------------------

class Kept(Case):
    def test_keys_stay_but_for_the_type_of_the_file(self):
        for name, number in (("f16", 1), ("bf16", 32), ("q8_0", 7), ("q6_k", 18), ("q4_k_m", 15), ("q4_0", 2),
                             ("q2_k", 10), ("q2_k_s", 21), ("iq4_nl", 25)):
            self.quantize(MODEL, self.out, name)
            self.assertEqual(read(self.out)[0], read(MODEL)[0] | {"general.file_type": number})

    def test_an_alignment_stays(self):
        def with_alignment(writer, *rest):
            add_keys(writer, *rest)
            writer.add_custom_alignment(256)
        add_keys = make_model.add_keys
        with mock.patch.object(make_model, "add_keys", with_alignment):
            source = self.made("--type", "f16", "--plain", "--dim", "96", "--heads", "3", "--kv-heads", "3")
        self.quantize(source, self.out, "q4_0")
        tensors = gguf.GGUFReader(self.out).tensors
        self.assertTrue(any(t.n_bytes % 256 for t in tensors))
        self.assertTrue(all(t.data_offset % 256 == 0 for t in tensors))
        for t in tensors:
            if t.name.endswith("ffn_up.weight"):
                before = next(s for s in gguf.GGUFReader(source).tensors if s.name == t.name)
                np.testing.assert_array_equal(t.data, gguf.quants.quantize(before.data.astype(np.float32), Type.Q4_0))

    def test_the_text_of_a_copy_in_the_same_type_is_the_same(self):
        source = self.made("--plain", "--type", "f16")
        self.quantize(source, self.out, "f16")
        texts = [self.hearth("run", path, "--device", "cpu", "-p", "a", "-n", 20, "--temp", 0).stdout
                 for path in (source, self.out)]
        self.assertEqual(*texts)

    def test_the_output_and_predictors_are_more_exact_than_q4_0(self):
        source = self.made("--pwri", "--type", "f16", "--layers", "2")
        for options, kind in (((), Type.Q8_0), (("--output-type", "q4_0"), Type.Q4_0),
                              (("--output-type", "f16"), Type.F16)):
            self.quantize(source, self.out, "q4_0", *options)
            self.assertEqual(self.out.read_bytes()[:4], b"PWRI")
            for name, (stored, x) in read(self.out)[1].items():
                more = name.split(".")[-2] in ("output", "fc1", "fc2")
                self.assertEqual(stored, Type.F32 if x.ndim == 1 else kind if more else Type.Q4_0, name)
            self.assertIn(" tok/s", self.hearth("run", self.out, "--device", "cpu", "-p", "a",
                                                "-n", 2).stderr.replace("tokens/s", "tok/s"))

    def test_an_embedding_is_an_output_where_there_is_no_other(self):
        self.quantize(MODEL, self.out, "q4_0")
        self.assertEqual(read(self.out)[1]["token_embd.weight"][0], Type.Q8_0)

    def test_nothing_grows_for_the_sake_of_exactness_and_what_is_of_its_type_is_copied(self):
        source = self.made("--type", "q4_0", "--pwri")
        report, talk = self.quantize(source, self.out, "q4_0")
        self.assertNotIn("quantised already", talk)
        self.assertEqual(report["total"]["error"], 0)
        before, after = read(source)[1], read(self.out)[1]
        for name in before:
            np.testing.assert_array_equal(before[name][1], after[name][1], name)

    def test_errors_of_a_quantised_source_are_said_to_add_up(self):
        _, talk = self.quantize(self.made("--type", "q8_0"), self.out, "q4_0")
        self.assertRegex(talk, r"note: .*model\.gguf is quantised already.* add up")

    def test_rows_that_are_no_whole_blocks_become_f16(self):
        source = self.made("--type", "f32", "--dim", "80", "--heads", "5", "--kv-heads", "5")
        for kind in ("q4_0", "q4_k_m"):
            report, _ = self.quantize(source, self.out, kind)
            for t in report["tensors"]:
                matrix = t["weights"] > 80
                self.assertEqual((t["to"], t["note"]),
                                 ("F16", "its rows are no whole blocks") if matrix else ("F32", ""), t["name"])

    def test_a_profile_stays_only_where_no_weight_changed(self):
        with_profile = self.folder / "with.gguf"
        result = self.hearth("profile", MODEL, "-f", TEXT, "-n", 50, "-o", self.folder / "p", "--embed", with_profile,
                             "--device", "cpu")
        self.assertEqual(result.returncode, 0, result.stderr)
        _, talk = self.quantize(with_profile, self.out, "q8_0")
        self.assertIn("the profile in", talk)
        self.assertEqual([k for k in read(self.out)[0] if k.startswith("hearth.profile.")], [])
        self.assertEqual(self.hearth("run", self.out, "--device", "cpu", "-p", "a", "-n", 1).returncode, 0)
        _, talk = self.quantize(with_profile, self.out, "f16")
        self.assertNotIn("profile", talk)
        self.assertEqual(read(self.out)[0], read(with_profile)[0])

    def test_a_link_is_followed(self):
        link = self.folder / "link.gguf"
        link.symlink_to("out.gguf")
        self.out.write_text("earlier")
        self.quantize(MODEL, link, "q8_0")
        self.assertTrue(link.is_symlink())
        self.assertEqual(read(self.out)[0]["general.file_type"], 7)


# ---- what is refused -------------------------------------------------------------------------------------------------

class Refused(Case):
    def test_the_model_itself_under_whatever_name(self):
        source = self.made()
        os.link(source, self.folder / "hard.gguf")
        (self.folder / "soft.gguf").symlink_to(source)
        for name in ("model.gguf", "hard.gguf", "soft.gguf"):
            self.refused(source, self.folder / name, "q8_0", says=[name, "the model that is read"])

    def test_types_that_are_not_there(self):
        result = self.hearth("quantize", MODEL, self.out, "q3_9")
        self.assertEqual(result.returncode, 2)
        self.assertIn("q3_9", result.stderr)
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_places_that_cannot_be_written_are_told_at_once(self):
        source = self.made()
        os.mkfifo(self.folder / "pipe")
        for path in (self.folder / "missing" / "out.gguf", self.folder, self.folder / "pipe", source / "out.gguf"):
            self.refused(source, path, "q8_0", says=[str(path), "cannot be written"])

    def test_what_is_not_a_model_that_can_be_run(self):
        bad = self.folder / "bad.gguf"
        bad.write_bytes(b"GGUF")
        self.refused(bad, self.out, "q8_0", says=["bad.gguf"])
        self.refused(self.folder / "none.gguf", self.out, "q8_0", says=["none.gguf"])

    def test_a_disk_that_gets_full_leaves_what_was_there(self):
        def limit():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)    # then writing fails instead
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        self.out.write_text("earlier")
        self.refused(MODEL, self.out, "q8_0", says=[str(self.out), "cannot be written", "make room"], preexec_fn=limit)
        self.assertEqual(self.out.read_text(), "earlier")

    def test_weights_that_the_type_cannot_hold(self):
        source = self.made("--type", "f32", "--layers", "1")
        data = bytearray(source.read_bytes())
        at = next(t for t in gguf.GGUFReader(source).tensors if t.name == "blk.0.ffn_up.weight").data_offset
        for value, kind, says in ((1e9, "f16", "use bf16"), (1e9, "q8_0", "use bf16"), (1e9, "q4_0", "use bf16"),
                                  (np.nan, "bf16", "not a finite number, the first"),
                                  (np.inf, "q8_0", "not a finite number, the first")):
            with self.subTest(kind, value=value):
                data[at:at + 4] = np.float32(value).tobytes()
                source.write_bytes(data)
                self.refused(source, self.out, kind, says=["blk.0.ffn_up.weight", says])

    def test_an_interrupted_run_leaves_what_was_there(self):
        source = self.folder / "large.gguf"    # all of its weights are one hole in the file
        c = make_model.Config(layers=1, dim=4096, heads=32, kv_heads=32, head_dim=128, neurons=200_000, vocab=320,
                              context=128, norm_eps=1e-5, rope_base=10000.0, activation="relu", tied=False, raw={})
        writer = gguf.GGUFWriter(source, "llama")
        make_model.add_keys(writer, "large", c, make_model.make_tokenizer(c.vocab, 0), 1)
        targets = make_model.targets_of(c)
        for t in targets:
            writer.add_tensor_info(t.name, t.stored_shape(), np.float32, make_model.stored_bytes(t, Type.F16),
                                   raw_dtype=Type.F16 if len(t.shape) == 2 else Type.F32)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        writer.close()
        os.truncate(source, source.stat().st_size + sum(make_model.stored_bytes(t, Type.F16) + 32 for t in targets))
        self.out.write_text("earlier")
        parts = lambda: list(self.folder.glob("out.gguf.*.part"))    # noqa: E731
        with subprocess.Popen([PROGRAM, "quantize", source, self.out, "q8_0"], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True) as process:
            self.addCleanup(process.kill)
            while process.poll() is None and not (parts() and parts()[0].stat().st_size > 1 << 20):
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            out, talk = process.communicate(timeout=60)
        self.assertEqual((process.returncode, out), (1, ""), talk)
        self.assertRegex(talk, r"\Ahearth: interrupted[^\n]*\n\Z")
        self.assertEqual(self.out.read_text(), "earlier")
        self.assertEqual(parts(), [])


if __name__ == "__main__":
    if PROGRAM is None:
        sys.exit("usage: quantize_test.py build/check/hearth [arguments of unittest]")
    unittest.main()
