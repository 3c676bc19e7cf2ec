#!/usr/bin/env python3
"""Files that are no models, files that change under the program, and files that it writes while things fail.

    python3 tests/files_test.py build/check/hearth          (packages: tools/models/requirements.txt)
"""

import contextlib
import fcntl
import io
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
import unittest
import zipfile
from pathlib import Path

import gguf
import numpy as np

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS), str(TESTS.parent / "tools" / "models")]
import make_model  # noqa: E402

MODEL, TEXT = TESTS / "data" / "fairytale-7m.gguf", TESTS / "data" / "fairytales-valid.txt"
PROGRAM = Path(sys.argv.pop(1)).resolve() if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else None
CPU = ("--device", "cpu")
PART = re.compile(r"\.[0-9a-f]{16}\.part\Z")


def heed_signals():
    """Under nohup, or in a shell's background, some are ignored, and the program leaves it at that."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)


class Case(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)

    def environment(self):
        return os.environ | {"XDG_CACHE_HOME": str(self.folder / "cache")}

    def hearth(self, *args, **more):
        return subprocess.run([PROGRAM, *map(str, args)], capture_output=True, text=True, timeout=120,
                              env=self.environment(), stdin=subprocess.DEVNULL, **more)

    def start(self, *args, **more):
        process = subprocess.Popen([PROGRAM, *map(str, args)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, env=self.environment(),
                                   **{"preexec_fn": heed_signals} | more)
        self.addCleanup(process.stderr.close)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def sentence(self, result, *says):
        self.assertEqual(result.returncode, 1, result.stderr)
        self.assertEqual(result.stdout, "")
        self.assertRegex(result.stderr, r"\Ahearth: [^\n]+\n\Z")
        for words in says:
            self.assertIn(words, result.stderr)

    def parts(self):
        return [p.name for p in self.folder.iterdir() if PART.search(p.name)]

    def wait_for(self, what, process):
        for _ in range(6000):
            if found := what():
                return found
            self.assertIsNone(process.poll(), "it ended too soon")
            time.sleep(0.01)
        self.fail("it never came")


def write_gguf(path, architecture, keys=(), tensors=()):
    """keys: (name, value); tensors: names, each of 32 x 32 zeros."""
    writer = gguf.GGUFWriter(path, architecture or "x")
    if not architecture:
        del writer.kv_data[0]["general.architecture"]
    for name, value in keys:
        add = {bool: writer.add_bool, str: writer.add_string, int: writer.add_uint32, float: writer.add_float32,
               list: writer.add_array}[type(value)]
        add(name, value)
    for name in tensors:
        writer.add_tensor(name, np.zeros((32, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


VOCABULARY = [("tokenizer.ggml.model", "llama"),
              ("tokenizer.ggml.tokens", ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "\u2581the",
                                         "\u2581", "t", "h", "e"]),
              ("tokenizer.ggml.scores", [0.0] * 259 + [-1.0, -2.0, -3.0, -4.0, -5.0]),
              ("tokenizer.ggml.token_type", [2, 3, 3] + [6] * 256 + [1] * 5)]


# ---- kinds -----------------------------------------------------------------------------------------------------------

class Kinds(Case):
    GGUF = {
        "adapter": ("llama", [("general.type", "adapter"), ("adapter.type", "lora")],
                    ["blk.0.attn_q.weight.lora_a", "blk.0.attn_q.weight.lora_b"]),
        "older adapter": ("llama", [], ["blk.0.attn_q.weight.lora_a", "blk.0.attn_q.weight.lora_b"]),
        "projector": ("clip", [("general.type", "mmproj"), ("clip.has_vision_encoder", True)],
                      ["v.blk.0.attn_q.weight"]),
        "older projector": ("clip", [("clip.has_vision_encoder", True)], ["v.blk.0.attn_q.weight"]),
        "importance matrix": ("llama", [("general.type", "imatrix"), ("imatrix.datasets", ["a"])],
                              ["blk.0.attn_q.weight.in_sum2"]),
        "importance matrix without an architecture": (None, [("general.type", "imatrix")],
                                                      ["blk.0.attn_q.weight.in_sum2", "blk.0.attn_q.weight.counts"]),
        "control vector": ("controlvector", [("controlvector.model_hint", "llama")], ["direction.1"]),
        "encoder": ("bert", [], ["token_embd.weight"]),
        "encoder with a vocabulary": ("nomic-bert", VOCABULARY, ["token_embd.weight"]),
        "encoder of a known architecture": ("llama", [*VOCABULARY, ("llama.attention.causal", False)],
                                            ["token_embd.weight"]),
        "model that makes images": ("flux", [], ["double_blocks.0.img_attn.qkv.weight"]),
        "diffusion model of text": ("llada", VOCABULARY, ["token_embd.weight"]),
        "model of something else than text": ("nobody-knows", [], ["w"]),
        "vocabulary alone": ("llama", VOCABULARY, []),
        "without weights": ("llama", [], []),
    }
    SAYS = {"older adapter": "adapter", "older projector": "projector",
            "importance matrix without an architecture": "importance matrix", "encoder with a vocabulary": "encoder",
            "encoder of a known architecture": "encoder"}
    OTHERS = {
        "safetensors": struct.pack("<Q", 16) + b"{}              ",
        "old format ggml": b"lmgg" + bytes(100),
        "old format ggmf": b"fmgg" + bytes(100),
        "old format ggjt": b"tjgg" + bytes(100),
        "old format ggla": b"algg" + bytes(100),
        "Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
        "web page": b"\n <!DOCTYPE html><html>",
        "web page ": b"\xef\xbb\xbf<HTML>",
        "zip archive": b"PK\x03\x04" + bytes(50),
        "pickle": b"\x80\x02}q\x00.",
        "zeros": bytes(1_000_000),
        "ONNX": b"\x08\x07\x12\x07pytorch" + bytes(20),
        "tar archive": b"name".ljust(257, b"\0") + b"ustar\x0000" + bytes(300),
        "gzip": b"\x1f\x8b\x08" + bytes(50),
        "zstd": b"\x28\xb5\x2f\xfd" + bytes(50),
        "xz": b"\xfd7zXZ\x00" + bytes(50),
        "7z": b"7z\xbc\xaf\x27\x1c" + bytes(50),
        "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(50),
        "numpy": b"\x93NUMPY\x01\x00" + bytes(50),
        "JSON": b'{"error": "Repository not found"}',
        "SentencePiece": b"\x0a\x0e\x0a\x05<unk>\x15\x00\x00\x00\x00\x18\x02" + bytes(50),
        "a program": b"\x7fELF" + bytes(50),
        "is empty": b"",
        "cut short": b"GGUF",
        "not a GGUF file; give": b"Once upon a time",
    }

    def test_every_command_names_a_gguf_file_of_another_kind_as_what_it_is(self):
        for name, (architecture, keys, tensors) in self.GGUF.items():
            says = self.SAYS.get(name, name)
            path = write_gguf(self.folder / "other.gguf", architecture, keys, tensors)
            for command in (("run", path, "-p", "a", *CPU), ("perplexity", path, "-f", TEXT, *CPU),
                            ("bench", path, *CPU), ("plan", path, *CPU),
                            ("quantize", path, self.folder / "out.gguf", "q8_0"), ("profile", path, "-f", TEXT, *CPU)):
                with self.subTest(name, command=command[0]):
                    self.sentence(self.hearth(*command), "other.gguf", says)
            with self.subTest(name, command="inspect"):
                result = self.hearth("inspect", path)
                self.assertEqual(result.returncode, 0, result.stderr)
                self.assertIn(says, result.stdout[result.stdout.index("cannot be run"):])
            with self.subTest(name, command="tokenize"):
                result = self.hearth("tokenize", path, "-p", "the")
                if keys[:1] == VOCABULARY[:1]:
                    self.assertEqual((result.returncode, result.stdout.split()[-1:]), (0, ["e"]), result.stderr)
                else:
                    self.sentence(result, "other.gguf", says)
        self.assertEqual(sorted(p.name for p in self.folder.iterdir() if p.name != "cache"), ["other.gguf"])

    def test_every_command_names_other_files_as_what_they_are(self):
        path = self.folder / "model.gguf"
        for says, data in self.OTHERS.items():
            path.write_bytes(data)
            for command in (("run", path, "-p", "a", *CPU), ("inspect", path),
                            ("quantize", path, self.folder / "out.gguf", "q8_0"), ("tokenize", path, "-p", "a")):
                with self.subTest(says, command=command[0]):
                    self.sentence(self.hearth(*command), "model.gguf", says.strip())
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", b"x")
        self.sentence(self.hearth("inspect", path), "zip archive", "tools/models/convert.py")

    def test_a_folder_says_what_can_be_done_with_it(self):
        folder = self.folder / "some"
        folder.mkdir()
        self.sentence(self.hearth("inspect", folder), "is a directory")
        (folder / "config.json").write_text("{}")
        self.sentence(self.hearth("inspect", folder), "is a directory", "tools/models/convert.py")
        (folder / "tiny.gguf").write_bytes(b"GGUF")
        self.sentence(self.hearth("run", folder, "-p", "a"), "is a directory", "tiny.gguf")

    def test_a_file_cut_anywhere_is_named_as_cut(self):
        data = MODEL.read_bytes()
        path = self.folder / "half.gguf"
        for length in (5, 30, 1000, len(data) // 2, len(data) - 1):
            path.write_bytes(data[:length])
            self.sentence(self.hearth("run", path, "-p", "a", *CPU), "half.gguf is cut short or damaged")

    def test_types_that_cannot_be_read_have_their_names_and_those_that_can_are_listed(self):
        listed = None
        for number, name in ((4, "Q4_2"), (31, "Q4_0_4_4"), (34, "TQ1_0"), (35, "TQ2_0"), (38, "IQ4_NL_8_8"),
                             (40, "NVFP4"), (41, "Q1_0"), (16, "IQ2_XXS"), (137, "IQ2_K"), (99, "type 99")):
            data = bytearray(MODEL.read_bytes())
            at = data.index(b"blk.0.ffn_up.weight") + len(b"blk.0.ffn_up.weight")
            rank, = struct.unpack_from("<I", data, at)
            struct.pack_into("<I", data, at + 4 + 8 * rank, number)
            path = self.folder / "model.gguf"
            path.write_bytes(data)
            result = self.hearth("run", path, "-p", "a", *CPU)
            self.sentence(result, "blk.0.ffn_up.weight", f"is {name},")
            listed = re.search(r"it reads ([^:]*):", result.stderr)[1].split(", ")
        self.assertIn("Q4_K", listed)
        self.assertIn("MXFP4", listed)
        shutil.copy(MODEL, path)
        for kind in listed:    # what is listed is read
            if kind.lower() in ("f16", "bf16", "q8_0", "q4_0"):
                self.assertEqual(self.hearth("quantize", MODEL, path, kind.lower()).returncode, 0)
                self.assertEqual(self.hearth("run", path, "-p", "a", "-n", "1", *CPU).returncode, 0)


# ---- plain copies ----------------------------------------------------------------------------------------------------

class Plain(Case):
    def made(self, *options, name="model.gguf"):
        path = self.folder / name
        with contextlib.redirect_stderr(io.StringIO()) as err:
            self.assertEqual(make_model.main([str(path), *options]), 0, err.getvalue())
        return path

    def tensors(self, path):
        return {t.name: t for t in gguf.GGUFReader(path).tensors}

    def test_a_plain_copy_has_every_tensor_as_other_programs_want_it(self):
        for options in (("--layers", "2"), ("--layers", "2", "--experts", "4", "--experts-used", "2")):
            with self.subTest(options):
                source, plain, back = (self.made("--type", "f32", *options), self.folder / "plain.gguf",
                                       self.folder / "back.gguf")
                result = self.hearth("quantize", source, back, "f16")
                self.assertEqual(result.returncode, 0, result.stderr)
                self.assertIn("ffn_down_t", result.stderr)
                self.assertIn("--plain", result.stderr)
                result = self.hearth("quantize", back, plain, "f16", "--plain")
                self.assertEqual(result.returncode, 0, result.stderr)
                self.assertNotIn("ffn_down_t", result.stderr)
                mine, theirs = self.tensors(plain), self.tensors(source)
                self.assertFalse([name for name in mine
                                  if "ffn_down_t" in name or ".fc1." in name or ".starts" in name])
                for name, t in mine.items():
                    if "ffn_down" not in name:
                        continue
                    down_t = theirs[
                        name.replace("ffn_down_exps", "ffn_down_t").replace("ffn_down.", "ffn_down_t.")].data
                    count = t.data.shape[0] if t.data.ndim == 3 else 1
                    np.testing.assert_array_equal(
                        t.data.reshape(count, -1, t.data.shape[-1]),
                        down_t.astype(np.float16).reshape(count, -1, down_t.shape[-1]).transpose(0, 2, 1))
                ask = ("-p", "the", "-n", "8", "--temp", "0", *CPU)
                self.assertEqual(self.hearth("run", plain, *ask).stdout, self.hearth("run", back, *ask).stdout)

    def test_the_plain_copy_says_what_other_programs_will_do_wrong(self):
        result = self.hearth("quantize", self.made(), self.folder / "plain.gguf", "q8_0", "--plain")
        self.assertIn("hearth.activation", result.stderr)

    def test_a_predictor_is_left_out(self):
        source = self.made("--pwri", "--layers", "2", "--predictor-rank", "8")
        result = self.hearth("quantize", source, self.folder / "plain.gguf", "f16", "--plain")
        self.assertIn("predictors", result.stderr)
        self.assertEqual((self.folder / "plain.gguf").read_bytes()[:4], b"GGUF")
        self.assertFalse([name for name in self.tensors(self.folder / "plain.gguf")
                          if ".fc1." in name or ".fc2." in name])
        # Still ReLU, which PowerInfer's magic says and a key says now.
        ask = ("-p", "the", "-n", "8", "--temp", "0", *CPU)
        self.assertEqual(self.hearth("run", self.folder / "plain.gguf", *ask).stdout,
                         self.hearth("run", source, *ask).stdout)


# ---- writing ---------------------------------------------------------------------------------------------------------

class Writing(Case):
    def large(self):
        """A model all of whose weights are one hole in the file: quantising it takes some seconds."""
        source = self.folder / "large.gguf"
        c = make_model.Config(layers=1, dim=4096, heads=32, kv_heads=32, head_dim=128, neurons=200_000, vocab=320,
                              context=128, norm_eps=1e-5, rope_base=10000.0, activation="relu", tied=False, raw={})
        writer = gguf.GGUFWriter(source, "llama")
        make_model.add_keys(writer, "large", c, make_model.make_tokenizer(c.vocab, 0), 1)
        targets = make_model.targets_of(c)
        for t in targets:
            writer.add_tensor_info(
                t.name, t.stored_shape(), np.float32, make_model.stored_bytes(t, gguf.GGMLQuantizationType.F16),
                raw_dtype=gguf.GGMLQuantizationType.F16 if len(t.shape) == 2 else gguf.GGMLQuantizationType.F32)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        writer.close()
        os.truncate(source, source.stat().st_size + sum(make_model.stored_bytes(t, gguf.GGMLQuantizationType.F16) + 32
                                                        for t in targets))
        return source

    def quantizing(self, source, out, **more):
        process = self.start("quantize", source, out, "q8_0", "--dense", **more)
        part = self.wait_for(self.parts, process)[0]
        return process, self.folder / part

    def test_signals_remove_what_is_not_finished_and_end_the_program_as_they_do(self):
        source, out = self.large(), self.folder / "out.gguf"
        out.write_text("earlier")
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGINT):
            with self.subTest(number):
                process, part = self.quantizing(source, out)
                process.send_signal(number)
                process.wait(60)
                self.assertEqual(process.returncode, 1 if number == signal.SIGINT else -number)
                self.assertEqual((self.parts(), out.read_text()), ([], "earlier"))

    def test_a_signal_while_a_line_is_edited_leaves_the_terminal_as_it_was(self):
        main, other = pty.openpty()
        self.addCleanup(os.close, main)
        self.addCleanup(os.close, other)
        before = termios.tcgetattr(other)
        process = subprocess.Popen([PROGRAM, "chat", str(MODEL), "--template", "chatml", *CPU], stdin=other,
                                   stdout=other, stderr=other, env=self.environment(), start_new_session=True,
                                   preexec_fn=lambda: fcntl.ioctl(other, termios.TIOCSCTTY, 0))
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        said = b""
        while b"> " not in said:
            said += os.read(main, 1000)
        time.sleep(0.2)
        process.terminate()
        self.assertEqual(process.wait(60), -signal.SIGTERM)
        self.assertEqual(termios.tcgetattr(other), before)

    def test_a_signal_that_is_ignored_stays_ignored(self):
        process, part = self.quantizing(self.large(), self.folder / "out.gguf",
                                        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
        process.send_signal(signal.SIGHUP)
        time.sleep(0.2)
        self.assertIsNone(process.poll())
        process.terminate()

    def test_what_a_killed_writer_left_goes_with_the_next_one(self):
        source, out = self.large(), self.folder / "out.gguf"
        process, part = self.quantizing(source, out)
        process.kill()
        process.wait()
        self.assertEqual(self.parts(), [part.name])
        second, _ = self.quantizing(source, out)
        self.wait_for(lambda: not part.exists(), second)
        self.assertEqual(len(self.parts()), 1)
        third = self.start("quantize", MODEL, out, "q8_0")    # does not touch what the second is at work on
        self.assertEqual(third.wait(60), 0)
        self.assertEqual(len(self.parts()), 1)
        self.assertIsNone(second.poll())
        second.terminate()
        second.wait()
        self.assertEqual(self.hearth("run", out, "-p", "a", "-n", "1", *CPU).returncode, 0)

    def test_many_writers_of_one_file_leave_one_whole_file(self):
        out = self.folder / "out.gguf"
        processes = [self.start("quantize", MODEL, out, kind, *more)
                     for kind, more in (("q8_0", ()), ("f16", ()), ("q4_0", ()), ("bf16", ()))]
        for process in processes:
            self.assertEqual(process.wait(120), 0)
        self.assertEqual([p.name for p in self.folder.iterdir() if p.name != "cache"], ["out.gguf"])
        self.assertEqual(self.hearth("run", out, "-p", "a", "-n", "1", *CPU).returncode, 0)

    def test_the_mode_of_a_file_is_kept(self):
        out = self.folder / "out.gguf"
        for mode in (0o600, 0o640, 0o444):
            out.write_text("earlier")
            out.chmod(mode)
            self.assertEqual(self.hearth("quantize", MODEL, out, "q8_0").returncode, 0)
            self.assertEqual(out.stat().st_mode & 0o7777, mode)
            out.unlink()


# ---- files that change -----------------------------------------------------------------------------------------------

class Changes(Case):
    def running(self, *more):
        model = self.folder / "model.gguf"
        shutil.copyfile(MODEL, model)
        process = self.start("run", model, "-p", "Once upon a time", "-n", "-1", "--ignore-eos", "-c", "512",
                             *CPU, *more)
        self.assertTrue(process.stdout.read(30))
        return model, process

    def end(self, process, *says):
        out, talk = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 1, talk)
        last = talk.decode().splitlines()[-1]
        for words in says:
            self.assertIn(words, last)

    def test_a_model_that_gets_shorter_while_it_is_used_is_an_error_that_names_it(self):
        for length in (0, 4096):
            model, process = self.running("--stats", str(self.folder / "stats.json"))
            os.truncate(model, length)
            self.end(process, "hearth: ", "model.gguf", "changed while it was in use")
            self.assertEqual(sorted(p.name for p in self.folder.iterdir() if p.name != "cache"), ["model.gguf"])

    def test_a_model_that_is_written_to_while_it_is_used_is_an_error_that_names_it(self):
        model, process = self.running()
        with model.open("r+b") as file:
            file.seek(1 << 20)
            file.write(bytes(100))
        self.end(process, "hearth: ", "model.gguf", "changed while it was in use")

    def test_a_model_that_is_replaced_while_it_is_used_is_none(self):
        model, process = self.running()
        (self.folder / "new").write_bytes(b"something else")
        (self.folder / "new").rename(model)
        process.stdout.read()
        self.assertEqual(process.wait(60), 0)

    def test_quantising_what_gets_shorter_leaves_nothing(self):
        large, out = Writing.large(self), self.folder / "out.gguf"
        process, _ = Writing.quantizing(self, large, out)
        os.truncate(large, 100_000)
        self.end(process, "hearth: ", "large.gguf", "while it was in use")
        self.assertEqual((self.parts(), out.exists()), ([], False))

    def test_other_bus_errors_are_what_they_were(self):
        _, process = self.running()
        process.send_signal(signal.SIGBUS)
        process.communicate()
        self.assertEqual(process.returncode, -signal.SIGBUS)


if __name__ == "__main__":
    if PROGRAM is None:
        sys.exit("usage: files_test.py build/check/hearth [arguments of unittest]")
    unittest.main()
