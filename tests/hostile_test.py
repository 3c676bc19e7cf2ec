#!/usr/bin/env python3
"""What files and names say cannot act on a terminal, and small files cannot ask for much:
every string of a model, one after the other, with escapes in it.

    python3 tests/hostile_test.py build/check/hearth          (packages: tools/models/requirements.txt)
"""

import os
import pty
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import gguf
import numpy as np

TESTS = Path(__file__).resolve().parent
TEXT = TESTS / "data" / "fairytales-valid.txt"
PROGRAM = Path(sys.argv.pop(1)).resolve() if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else None
CPU = ("--device", "cpu", "-t", "1")
HOSTILE = "\x1b[2J\x1b]52;c;aGk=\x07\u009b31m\u009d0;t\u009c\u202eabc\u2066\r\x7f"
ACTING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
DIM, VOCAB = 32, 280


def tokens():
    return ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)),
            *(chr(ord("a") + i) for i in range(VOCAB - 259))]


def keys():
    return {"general.name": "tiny", "llama.block_count": 1, "llama.context_length": 64, "llama.embedding_length": DIM,
            "llama.feed_forward_length": 64, "llama.attention.head_count": 2,
            "llama.attention.layer_norm_rms_epsilon": 1e-5, "llama.rope.scaling.type": "none",
            "hearth.activation": "silu", "tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": tokens(),
            "tokenizer.ggml.scores": [-float(i) for i in range(VOCAB)],
            "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * (VOCAB - 259), "tokenizer.ggml.bos_token_id": 1,
            "tokenizer.ggml.eos_token_id": 2,
            "tokenizer.chat_template":
                "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}"}


def write_model(path, architecture="llama", extra=(), names=None, **changed):
    """A model of one layer; `changed` by keys with two underscores for each point; `names` renames tensors."""
    rng = np.random.default_rng(1)
    writer = gguf.GGUFWriter(path, architecture)
    values = keys() | {name.replace("__", "."): value for name, value in changed.items()} | dict(extra)
    for name, value in values.items():
        if isinstance(value, str):
            writer.add_string(name, value)
        elif isinstance(value, int):
            writer.add_uint32(name, value)
        elif isinstance(value, float):
            writer.add_float32(name, value)
        else:
            writer.add_array(name, value)
    shapes = {"token_embd": (VOCAB, DIM), "output": (VOCAB, DIM), "output_norm": (DIM,), "blk.0.attn_norm": (DIM,),
              "blk.0.ffn_norm": (DIM,), "blk.0.ffn_gate": (64, DIM), "blk.0.ffn_up": (64, DIM),
              "blk.0.ffn_down": (DIM, 64), **{f"blk.0.attn_{x}": (DIM, DIM) for x in ("q", "k", "v", "output")}}
    for name, shape in shapes.items():
        name = (names or {}).get(name, name + ".weight")
        writer.add_tensor(name, rng.standard_normal(shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


class Case(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)

    def hearth(self, *args, **more):
        return subprocess.run([PROGRAM, *map(str, args)], capture_output=True, timeout=120,
                              stdin=more.pop("stdin", subprocess.DEVNULL),
                              env=os.environ | {"XDG_CACHE_HOME": str(self.folder / "cache")}, **more)

    def commands(self, model):
        """Each with whether its stdout is a model's text, which a pipe gets as it is."""
        out = self.folder / "out.gguf"
        return [(True, ("run", model, "-p", "a", "-n", "4", *CPU)), (True, ("chat", model, "-n", "4", *CPU)),
                (False, ("inspect", model)), (False, ("inspect", model, "--json")),
                (False, ("tokenize", model, "-p", "abc def")), (False, ("tokenize", model, "-p", "abc", "--json")),
                (False, ("quantize", model, out, "q8_0")), (False, ("plan", model, *CPU)),
                (False, ("perplexity", model, "-f", TEXT, "-c", "16", "-n", "20", *CPU)),
                (False, ("profile", model, "-f", TEXT, "-n", "20", "-c", "16", "-o", self.folder / "profile",
                         "--anew", *CPU))]

    def check(self, model):
        for text, args in self.commands(model):
            result = self.hearth(*args, input=b"hello\n", stdin=None) if args[0] == "chat" else self.hearth(*args)
            with self.subTest(command=args[0], json="--json" in args):
                self.assertIn(result.returncode, (0, 1, 2), result.stderr)
                said = result.stderr if text else result.stdout + result.stderr
                found = ACTING.search(said.decode("utf-8", "surrogateescape"))
                self.assertIsNone(found, said)


class Escapes(Case):
    def test_the_model_itself_runs(self):
        for _, args in self.commands(write_model(self.folder / "model.gguf")):
            if args[0] not in ("chat",):
                self.assertEqual(self.hearth(*args).returncode, 0, args)

    def test_every_text_of_a_model(self):
        for name, value in keys().items():
            if isinstance(value, str):
                with self.subTest(name):
                    self.check(write_model(self.folder / "model.gguf", **{name.replace(".", "__"): HOSTILE + value}))
        with self.subTest("general.architecture"):
            self.check(write_model(self.folder / "model.gguf", architecture=HOSTILE))

    def test_other_texts_that_are_read(self):
        for name in ("general.type", "tokenizer.ggml.pre", "tokenizer.ggml.normalizer", "llama.rope.scaling.type",
                     "hearth.activation", "general.license", "hearth.profile.model", "powerinfer.x", "split.count"):
            with self.subTest(name):
                self.check(write_model(self.folder / "model.gguf", extra=[(name, HOSTILE)]))

    def test_lists_of_texts(self):
        for place in (0, 1, 3, 259, 270):
            with self.subTest(place):
                hostile = tokens()
                hostile[place] = HOSTILE + str(place)
                self.check(write_model(self.folder / "model.gguf", tokenizer__ggml__tokens=hostile))
        self.check(write_model(self.folder / "model.gguf", tokenizer__ggml__model="gpt2",
                               extra=[("tokenizer.ggml.merges", [HOSTILE, "a b"])]))
        self.check(write_model(self.folder / "model.gguf",
                               extra=[("hearth.sparse.tensors", [HOSTILE]), ("hearth.sparse.types", [HOSTILE]),
                                      ("hearth.sparse.columns", [32])]))

    def test_names_of_keys_and_tensors(self):
        for hostile in (HOSTILE, "\u009b31m\u202e", "\u202eabc"):
            self.check(write_model(self.folder / "model.gguf", extra=[(hostile, 1)]))
            self.check(write_model(self.folder / "model.gguf", extra=[("llama." + hostile, "x")]))
            self.check(write_model(self.folder / "model.gguf", names={"blk.0.ffn_up": hostile}))
            self.check(write_model(self.folder / "model.gguf", names={"output_norm": "output_norm.weight" + hostile}))

    def test_names_of_files(self):
        name = HOSTILE.replace("\x07", "").replace("/", "") + ".gguf"
        self.check(write_model(self.folder / name))
        self.check(self.folder / ("none" + name))
        (self.folder / "folder").mkdir()
        (self.folder / "folder" / name).write_bytes(b"GGUF")
        self.check(self.folder / "folder")
        self.check(self.folder / "folder" / name)
        model = write_model(self.folder / "model.gguf")
        for args in (("quantize", model, self.folder / name / "x", "q8_0"),
                     ("quantize", model, self.folder / name, "q8_0"), ("run", model, "-f", self.folder / ("n" + name)),
                     ("run", model, "-p", "a", "--device", HOSTILE), ("run", model, "-p", "a", "--profile", name),
                     ("run", model, "--" + HOSTILE), (HOSTILE,), ("run", model, "-p", "a", "-n", HOSTILE),
                     ("quantize", model, "x", HOSTILE), ("run", model, "-p", "a", "--machine", name)):
            with self.subTest(args=args):
                result = self.hearth(*args)
                self.assertIsNone(ACTING.search((result.stdout + result.stderr).decode("utf-8", "surrogateescape")),
                                  result.stderr)

    def terminal(self, *args):
        """What a terminal gets of stdout."""
        main, other = pty.openpty()
        with subprocess.Popen([PROGRAM, *map(str, args)], stdin=subprocess.DEVNULL, stdout=other,
                              stderr=subprocess.PIPE) as process:
            os.close(other)
            data = b""
            while True:
                try:
                    some = os.read(main, 65536)
                except OSError:    # the other end was closed
                    break
                if not some:
                    break
                data += some
            process.stderr.read()
        os.close(main)
        self.assertEqual(process.returncode, 0)
        return data.replace(b"\r\n", b"\n")    # which the terminal's driver makes

    def test_on_a_terminal_a_models_text_cannot_act_and_a_pipe_gets_its_bytes(self):
        hostile = tokens()
        for i in range(259, VOCAB):
            hostile[i] = HOSTILE[:i % len(HOSTILE) + 1] + chr(ord("a") + i - 259)
        model = write_model(self.folder / "model.gguf", tokenizer__ggml__tokens=hostile)
        args = ("run", model, "-p", "\x1b]52;c;aGk=\x07 \u009b31m \x7f \r x", "-n", "20", "--temp", "0",
                "--ignore-eos", *CPU)
        piped = self.hearth(*args).stdout
        self.assertIn(b"\x1b]52;c;", piped)
        self.assertIn("\u009b".encode(), piped)
        shown = self.terminal(*args)
        self.assertIn(rb"\x1b]52;c;", shown)
        self.assertIn(rb"\u009b", shown)
        for acting in (b"\x1b", b"\x07", b"\r", b"\x7f", *(f"{chr(c)}".encode() for c in range(0x80, 0xa0))):
            self.assertNotIn(acting, shown)


@unittest.skipUnless(shutil.which("readelf"), "needs readelf")
class Posture(Case):
    def test_the_program_is_built_as_distributions_build(self):
        def readelf(option):
            return subprocess.run(["readelf", "-W", option, PROGRAM], capture_output=True, text=True, check=True).stdout
        self.assertRegex(readelf("-h"), r"Type:\s+DYN")    # position independent
        segments = readelf("-l")
        self.assertIn("GNU_RELRO", segments)
        self.assertRegex(segments, r"GNU_STACK\s+\S+ \S+ \S+ \S+ \S+ RW\s")    # not executable
        self.assertNotIn("RWE", segments)
        dynamic = readelf("-d")
        self.assertRegex(dynamic, r"BIND_NOW|NOW")
        self.assertNotRegex(dynamic, r"RPATH|RUNPATH")
        symbols = readelf("--dyn-syms")
        self.assertIn("__stack_chk_fail", symbols)
        self.assertRegex(symbols, r"__\w+_chk\b")    # FORTIFY
        self.assertIn("__glibcxx_assert_fail", symbols)
        if "X86-64" in readelf("-h"):
            # endbr64, where calls may arrive.
            self.assertGreater(PROGRAM.read_bytes().count(b"\xf3\x0f\x1e\xfa"), 1000)


class Sizes(Case):
    def bounded(self, *args, mib=300, seconds=2):
        def limit():
            resource.setrlimit(resource.RLIMIT_CPU, (seconds * 4, seconds * 4))
        process = subprocess.Popen([PROGRAM, *map(str, args)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                   preexec_fn=limit)
        talk = process.stderr.read().decode()
        process.stderr.close()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        self.assertLess(used.ru_maxrss, mib << 10, talk)
        return process.returncode, talk

    def test_tensors_that_overlap_take_no_memory(self):
        path = self.folder / "model.gguf"
        experts, neurons, layers = 8, 1024, 40
        writer = gguf.GGUFWriter(path, "llama")
        for name, value in keys().items():
            if not name.startswith("tokenizer."):
                (writer.add_string if isinstance(value, str) else writer.add_uint32 if isinstance(value, int)
                 else writer.add_float32)(name, value)
        writer.add_uint32("llama.expert_count", experts)
        for layer in range(layers):
            writer.add_tensor_info(f"blk.{layer}.ffn_down_exps.weight", (experts, DIM, neurons), np.float32, 0,
                                   raw_dtype=gguf.GGMLQuantizationType.Q2_K)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        writer.close()
        with path.open("ab") as file:
            file.write(bytes(1 << 20))
        code, talk = self.bounded("run", path, "-p", "a", *CPU)
        self.assertEqual(code, 1)
        self.assertIn("overlap", talk)

    def test_a_table_that_is_all_there_is_takes_memory_in_proportion(self):
        path = self.folder / "model.gguf"
        count = 300_000    # of the smallest tensors and keys that there are
        with path.open("wb") as file:
            file.write(b"GGUF" + np.array([3], "<u4").tobytes() + np.array([0, count], "<u8").tobytes())
            for i in range(count):
                name = b"%05x" % i
                file.write(np.array([len(name)], "<u8").tobytes() + name + np.array([0], "<u4").tobytes() + b"\1")
        size = path.stat().st_size
        code, talk = self.bounded("run", path, "-p", "a", *CPU, mib=16 + 64 * size // (1 << 20))
        self.assertEqual(code, 1, talk)


if __name__ == "__main__":
    if PROGRAM is None:
        sys.exit("usage: hostile_test.py build/check/hearth [arguments of unittest]")
    unittest.main()
