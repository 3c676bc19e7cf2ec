#!/usr/bin/env python3
"""The program from outside: what it writes, where, and with which exit code, on the shipped model.
On the CPU and on Mesa's software Vulkan device.

    python3 tests/program_test.py build/check/hearth [--all] [arguments of unittest]

Needs nothing but Python. `--all` adds the slow ones: every prompt at every share of the neurons (4 minutes on two
cores), and the perplexity of the whole text on the CPU (4 minutes), on the device and on both (about half an hour
each).
"""

import csv
import functools
import io
import json
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import unittest
import xml.etree.ElementTree
from pathlib import Path

DATA = Path(__file__).resolve().parent / "data"
MODEL = DATA / "fairytale-7m.gguf"
TEXT = DATA / "fairytales-valid.txt"

ALL = "--all" in sys.argv
ARGUMENTS = [a for a in sys.argv[1:] if a != "--all"]
PROGRAM = Path(ARGUMENTS.pop(0)).resolve() if ARGUMENTS and not ARGUMENTS[0].startswith("-") else None

CPU = ("--device", "cpu")
DEVICE = ("--device", "llvmpipe")
LAYERS, DIM, NEURONS, CONTEXT = 6, 256, 1024, 1024    # of the shipped model
ROW_BYTES = DIM * 2                                   # its weights are F16
LONG = 4 * 3600                                       # seconds; above every run here


def expected(name):
    return json.loads((DATA / "expected" / f"{name}.json").read_text())


# ---- running it ------------------------------------------------------------------------------------------------------

def setUpModule():
    global SCRATCH, ENVIRONMENT
    SCRATCH = tempfile.TemporaryDirectory()
    unittest.addModuleCleanup(SCRATCH.cleanup)
    # Of the Vulkan devices only the software one, which `auto` never takes: the same results on every machine.
    ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith("VK_")}
    ENVIRONMENT |= {"VK_LOADER_DRIVERS_SELECT": "*lvp*", "XDG_CACHE_HOME": str(Path(SCRATCH.name) / "cache")}


class Result:
    def __init__(self, process):
        self.code = process.returncode
        self.raw = process.stdout or b""
        self.talk = process.stderr.decode("utf-8", "replace") if process.stderr else ""

    @property
    def out(self):
        return self.raw.decode()    # strictly: what the program writes is UTF-8

    @property
    def json(self):
        return json.loads(self.out)


def hearth(*args, environment=(), stdout=subprocess.PIPE, **more):
    more.setdefault("timeout", LONG)
    return Result(subprocess.run([PROGRAM, *map(str, args)], stdout=stdout, stderr=subprocess.PIPE,
                                 env=ENVIRONMENT | dict(environment), **more))


@functools.cache
def device_memory(context, batch=256):
    return hearth("inspect", MODEL, "-c", context, "-b", batch, "--json").json["device_memory"]


def share(of_neurons, context=CONTEXT, batch=256):
    """The options that put this share of the neurons, and everything else, on the device."""
    needs = device_memory(context, batch)
    bytes = needs["scratch"] + needs["head"]
    for layer in needs["layers"]:
        bytes += layer["attention"] + layer["kv"] + round(layer["groups"] * of_neurons) * layer["group"]
    return (*DEVICE, "--vram-budget", f"{bytes}B")


class GgufFile:
    """The bytes of a model, and where in them things stand; enough to damage it at a chosen place."""

    NUMBERS = "BbHhIif?\0\0Qqd"    # struct's letters by the type's number; 8 is text, 9 an array

    def __init__(self, path=MODEL):
        self.bytes = bytearray(path.read_bytes())
        self.at = 8
        tensor_count, key_count = self.number("Q"), self.number("Q")
        self.keys, self.key_at, self.value_at = {}, {}, {}
        for _ in range(key_count):
            at = self.at + 8
            key = self.text()
            self.key_at[key] = at
            kind = self.number("I")
            self.value_at[key] = self.at + (8 if kind == 8 else 0)
            self.keys[key] = self.value(kind)
        self.tensors = {}
        for _ in range(tensor_count):
            t = {"name_at": self.at + 8}
            name = self.text()
            rank = self.number("I")
            t["shape_at"] = self.at
            t["shape"] = [self.number("Q") for _ in range(rank)]
            t["type_at"] = self.at
            t["type"] = self.number("I")
            t["offset_at"] = self.at
            self.number("Q")
            self.tensors[name] = t
        self.table_end = self.at

    def number(self, letter):
        value, = struct.unpack_from("<" + letter, self.bytes, self.at)
        self.at += struct.calcsize("<" + letter)
        return value

    def text(self):
        n = self.number("Q")
        self.at += n
        return self.bytes[self.at - n:self.at].decode()

    def value(self, kind):
        if kind == 8:
            return self.text()
        if kind == 9:
            element, count = self.number("I"), self.number("Q")
            return [self.value(element) for _ in range(count)]
        return self.number(self.NUMBERS[kind])

    def put(self, at, data):
        self.bytes[at:at + len(data)] = data
        return self

    def put_text(self, key, text):
        assert len(text) == len(self.keys[key].encode())
        return self.put(self.value_at[key], text)

    def rename_tensor(self, name, new):
        assert len(name) == len(new)
        return self.put(self.tensors[name]["name_at"], new.encode())


class Case(unittest.TestCase):
    maxDiff = 2000

    def setUp(self):
        folder = tempfile.TemporaryDirectory(dir=SCRATCH.name)
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def write(self, name, data):
        path = self.folder / name
        path.write_bytes(data if isinstance(data, (bytes, bytearray)) else data.encode())
        return path

    def good(self, *args, **more):
        result = hearth(*args, **more)
        self.assertEqual(result.code, 0, result.talk)
        return result

    def refused(self, *args, says=(), alone=True, **more):
        """Exit code 1, one sentence that names what is wrong, nothing else: no output, no file. `alone`: found before
        the model was loaded, so that the sentence is all that is said."""
        with tempfile.TemporaryDirectory(dir=self.folder) as here:
            result = hearth(*args, **{"cwd": here, "timeout": 60} | more)
            self.assertEqual(os.listdir(here), [])
        self.assertEqual(result.code, 1, result.talk)
        self.assertEqual(result.raw, b"")
        self.check_one_sentence(result, says, alone)
        return result

    def check_one_sentence(self, result, says=(), alone=True):
        lines = result.talk.splitlines()
        self.assertEqual([line.startswith("hearth: ") for line in lines].count(True), 1, result.talk)
        self.assertTrue(lines[-1].startswith("hearth: "), result.talk)
        if alone:
            self.assertEqual(len(lines), 1, result.talk)
        self.assertTrue(result.talk.endswith("\n"))
        for words in says:
            self.assertIn(words, lines[-1])

    def wrong_use(self, *args, says=()):
        """Exit code 2 and a message: the command line cannot be understood."""
        with tempfile.TemporaryDirectory(dir=self.folder) as here:
            result = hearth(*args, cwd=here, stdin=subprocess.DEVNULL, timeout=60)
            self.assertEqual(os.listdir(here), [])
        self.assertEqual(result.code, 2, result.talk)
        self.assertEqual(result.raw, b"")
        self.assertTrue(result.talk.strip())
        for words in says:
            self.assertIn(words, result.talk)

    def near(self, value, reference, of=1e-3):
        self.assertLess(abs(value / reference - 1), of, f"{value}, expected {reference}")


class DeviceCase(Case):
    @classmethod
    def setUpClass(cls):
        names = [d["name"] for d in hearth("devices", "--json").json["devices"]]
        if not any("llvmpipe" in name for name in names):
            raise AssertionError("these tests need Mesa's software Vulkan device (Debian: mesa-vulkan-drivers)")


# ---- text and tokens -------------------------------------------------------------------------------------------------

class Tokenize(Case):
    def check(self, case, *args):
        got = self.good("tokenize", MODEL, *args, "--json").json
        self.assertEqual(got["ids"], case["ids"])
        # U+2581 is SentencePiece's mark of a space, so one in the text comes back as a space.
        self.assertEqual(got["text"], case["text"].replace("\u2581", " "))
        self.assertEqual(len(got["pieces"]), len(case["ids"]))

    def test_a_text_on_the_command_line_gives_the_expected_ids_and_comes_back(self):
        for case in expected("tokens"):
            if "\0" not in case["text"]:    # cannot be an argument
                with self.subTest(case["text"]):
                    self.check(case, "-p", case["text"])

    def test_a_text_in_a_file_gives_the_expected_ids_and_comes_back(self):
        for case in expected("tokens"):
            with self.subTest(case["text"]):
                self.check(case, "-f", self.write("text", case["text"]))

    def test_a_line_of_the_plain_output_is_an_id_and_its_piece(self):
        for case in expected("tokens"):
            with self.subTest(case["text"]):
                file = self.write("text", case["text"])
                pieces = self.good("tokenize", MODEL, "-f", file, "--json").json["pieces"]
                lines = [line.split(maxsplit=1)
                         for line in self.good("tokenize", MODEL, "-f", file).out.split("\n")[:-1]]
                self.assertEqual(lines, [[str(id), piece] for id, piece in zip(case["ids"], pieces)])

    def test_a_text_may_look_like_an_option_or_like_a_list(self):
        for text in ("-5 degrees", "--help", "--", "-", "-f", "[a,b]", "[[a,b]]", "[]", "{}", "%%", '"quoted"', "'q'",
                     "`x`", "a=b", "\\n", ""):
            with self.subTest(text):
                on_line = self.good("tokenize", MODEL, "-p", text, "--json").json
                self.assertEqual(on_line["text"], text)
                self.assertEqual(on_line, self.good("tokenize", MODEL, "-f", self.write("text", text), "--json").json)
                self.assertEqual(on_line, self.good("tokenize", MODEL, "-f", "-", "--json", input=text.encode()).json)

    def test_bytes_that_are_not_utf8_become_byte_tokens_and_come_back_as_replacement_characters(self):
        for data in (b"\xff", b"a\xff\xfe", b"caf\xc3", b"\xe2\x82 end", b"\xed\xa0\x80", b"a\x80b\xf0\x9f\x99"):
            with self.subTest(data):
                for args, more in ((("-f", self.write("text", data)), {}), (("-p", os.fsdecode(data)), {}),
                                   (("-f", "-"), {"input": data})):
                    result = self.good("tokenize", MODEL, *args, "--json", **more)
                    self.assertEqual(result.json["text"], data.decode("utf-8", "replace"))

    def test_a_vocabulary_that_is_not_utf8_can_be_shown(self):
        model = GgufFile()
        at = model.bytes.index(struct.pack("<Q", 1) + b"q", model.value_at["tokenizer.ggml.tokens"])
        broken = self.write("broken.gguf", model.put(at + 8, b"\xff").bytes)
        got = self.good("tokenize", broken, "-f", self.write("text", b"a\xff"), "--json").json
        self.assertEqual(got["pieces"], ["\u2581a", "\ufffd"])
        self.good("inspect", broken, "--json").json


# ---- continuing a text -----------------------------------------------------------------------------------------------

class Run(Case):
    PROMPT = ("run", MODEL, *CPU, "-p", "The old woman looked at the fox and said,")

    def test_greedy_text_on_the_cpu_is_the_expected_one(self):
        for case in expected("greedy"):
            for sparsity in ("dense", "exact"):
                with self.subTest(case["prompt"], sparsity=sparsity):
                    result = self.good("run", MODEL, *CPU, "-p", case["prompt"], "-n", len(case["ids"]), "--temp", 0,
                                       "--sparsity", sparsity)
                    self.assertEqual(result.out, case["text"] + "\n")

    def test_every_instruction_set_of_the_cpu_writes_the_expected_text(self):
        case, sets = expected("greedy")[0], self.good("devices", "--json").json["cpu"]
        self.assertEqual(sets["instruction_sets"][0], "plain")
        self.assertEqual(sets["instruction_set"], sets["instruction_sets"][-1])
        for name in sets["instruction_sets"]:
            result = self.good("run", MODEL, *CPU, "--cpu", name, "-p", case["prompt"], "-n", len(case["ids"]),
                               "--temp", 0)
            self.assertEqual(result.out, case["text"] + "\n")
        for name in {"avx2", "avxvnni", "avx512"} - set(sets["instruction_sets"]):
            self.refused("run", MODEL, *CPU, "--cpu", name, "-p", "Once", says=[f"this CPU has no {name}"])

    def test_a_powerinfer_file_is_a_relu_model_and_gives_the_text_of_the_same_gguf(self):
        case, file = expected("greedy")[0], GgufFile()
        # PowerInfer's files do not name it.
        file.put(0, b"PWRI").put(file.key_at["hearth.activation"], b"hearth.something_")
        path = self.write("model.powerinfer.gguf", file.bytes)
        for sparsity in ("dense", "exact"):
            result = self.good("run", path, *CPU, "-p", case["prompt"], "-n", len(case["ids"]), "--temp", 0,
                               "--sparsity", sparsity)
            self.assertEqual(result.out, case["text"] + "\n")
        self.assertIn("PowerInfer GGUF v3", self.good("inspect", path).out)

    def test_a_prompt_done_in_small_batches_gives_the_same_text(self):
        case = expected("greedy")[0]
        for batch in (1, 3, 5):
            result = self.good("run", MODEL, *CPU, "-p", case["prompt"], "-n", len(case["ids"]), "--temp", 0,
                               "-b", batch)
            self.assertEqual(result.out, case["text"] + "\n")

    def test_talk_is_one_line_on_what_runs_where_and_one_of_speeds(self):
        lines = self.good(*self.PROMPT, "-n", 5).talk.splitlines()
        self.assertEqual(len(lines), 2, lines)
        self.assertIn("fairytale-7m", lines[0])
        self.assertIn("on the CPU", lines[0])
        self.assertIn("tokens/s", lines[1])

    def test_the_same_seed_gives_the_same_text_and_another_seed_another(self):
        texts = [self.good(*self.PROMPT, "-n", 40, "--temp", 0.8, "-s", seed).raw for seed in (7, 7, 8)]
        self.assertEqual(texts[0], texts[1])
        self.assertNotEqual(texts[0], texts[2])

    def test_the_number_of_threads_does_not_change_the_text(self):
        texts = {self.good(*self.PROMPT, "-n", 60, "--temp", 0.8, "-s", 7, "-t", threads, "--sparsity", sparsity).raw
                 for threads in (1, 2, 3) for sparsity in ("dense", "exact")}
        self.assertEqual(len(texts), 1)

    def test_no_tokens_wanted_gives_the_prompt_back(self):
        self.assertEqual(self.good("run", MODEL, *CPU, "-p", "Hello, world!", "-n", 0).out, "Hello, world!\n")

    def test_a_prompt_comes_from_the_command_line_a_file_or_standard_input(self):
        case = expected("greedy")[1]
        greedy = ("run", MODEL, *CPU, "-n", len(case["ids"]), "--temp", 0)
        for ending in ("", "\n"):    # the newline that editors put at the end of a file is not part of the text
            data = (case["prompt"] + ending).encode()
            self.assertEqual(self.good(*greedy, "-f", self.write("prompt.txt", data)).out, case["text"] + "\n")
            self.assertEqual(self.good(*greedy, "-f", "-", input=data).out, case["text"] + "\n")

    def test_an_empty_prompt_begins_a_text(self):
        texts = {self.good("run", MODEL, *CPU, "-n", 12, "--temp", 0, *args, input=b"").out
                 for args in (("-p", ""), ("-f", self.write("empty", b"")), ("-f", "-"))}
        self.assertEqual(len(texts), 1)
        self.assertGreater(len(texts.pop()), 5)

    def test_a_prompt_that_is_not_utf8_is_echoed_with_replacement_characters(self):
        data = b"caf\xc3 \xff\xfe"
        out = self.good("run", MODEL, *CPU, "-n", 3, "--temp", 0, "-f", self.write("odd", data)).out
        self.assertTrue(out.startswith(data.decode("utf-8", "replace")), out)

    def test_a_prompt_may_fill_the_context_and_the_text_ends_where_it_is_full(self):
        fits = " ".join(["a"] * 15)    # and BOS
        self.assertEqual(len(self.good("tokenize", MODEL, "-p", fits, "--json").json["ids"]), 15)
        result = self.good("run", MODEL, *CPU, "-p", fits, "-c", 16, "-n", 50, "--temp", 0, "--ignore-eos")
        self.assertTrue(result.out.startswith(fits))
        self.assertGreater(len(result.out), len(fits) + 1)
        self.assertIn("the context of 16 positions is full", result.talk)
        whole = self.good("run", MODEL, *CPU, "-p", "Once", "-c", 64, "-n", -1, "--temp", 0, "--ignore-eos")
        self.assertIn("the context of 64 positions is full", whole.talk)

    def test_a_name_in_the_model_cannot_break_lines_or_output(self):
        for name in (b"fairytal\xff-7m", b"fairy\ntale7m", b"fairy\x1b[2J-7m"):
            with self.subTest(name):
                broken = self.write("broken.gguf", GgufFile().put_text("general.name", name).bytes)
                stats = self.folder / "stats.json"
                result = self.good("run", broken, *CPU, "-p", "Once", "-n", 3, "--stats", stats)
                self.assertEqual(len(result.talk.splitlines()), 2, result.talk)
                self.assertNotIn("\x1b", result.talk)
                json.loads(stats.read_text())
                self.assertGreater(
                    len(self.good("bench", broken, *CPU, "-p", 2, "-n", 1, "-r", 1, "-o", "json").json["results"]), 0)
                self.assertNotIn("\x1b", self.good("inspect", broken).out)
                self.good("inspect", broken, "--json").json


class RunOnDevice(DeviceCase):
    def check(self, case, of_neurons, *args):
        result = self.good("run", MODEL, *share(of_neurons), "-p", case["prompt"], "-n", len(case["ids"]),
                           "--temp", 0, *args)
        self.assertEqual(result.out, case["text"] + "\n")
        self.assertIn(", all of it" if of_neurons == 1 else f" {100 * of_neurons:.0f} % of the neurons, head",
                      result.talk)

    def test_greedy_text_is_the_expected_one_with_everything_on_the_device(self):
        for case in expected("greedy")[:2]:
            with self.subTest(case["prompt"]):
                self.check(case, 1)

    def test_greedy_text_is_the_expected_one_with_half_the_neurons_on_the_device(self):
        for case in expected("greedy")[:2]:
            with self.subTest(case["prompt"]):
                self.check(case, 0.5, "--sparsity", "exact")

    @unittest.skipUnless(ALL, "slow: --all")
    def test_greedy_text_is_the_expected_one_at_every_share_of_the_neurons(self):
        for case in expected("greedy"):
            for of_neurons in (1, 0.75, 0.5, 0.25, 0):
                for sparsity in ("dense", "exact"):
                    with self.subTest(case["prompt"], of_neurons=of_neurons, sparsity=sparsity):
                        self.check(case, of_neurons, "--sparsity", sparsity)

    @unittest.skipUnless(ALL, "slow: --all")
    def test_greedy_text_is_the_expected_one_without_the_optional_abilities_of_the_device(self):
        for case in expected("greedy")[:3]:
            for of_neurons in (1, 0.5):
                for without in (("--without-fp16",), ("--without-int-dot",), ("--without-int64",),
                                ("--without-fp16", "--without-int-dot", "--without-int64")):
                    with self.subTest(case["prompt"], of_neurons=of_neurons, without=without):
                        self.check(case, of_neurons, *without)

    def test_a_budget_for_some_layers_leaves_the_others_to_the_cpu(self):
        case, needs = expected("greedy")[2], device_memory(CONTEXT)
        bytes = needs["scratch"] + sum(layer["attention"] + layer["kv"] for layer in needs["layers"][:2])
        result = self.good("run", MODEL, *DEVICE, "--vram-budget", f"{bytes}B", "-p", case["prompt"],
                           "-n", len(case["ids"]), "--temp", 0)
        self.assertEqual(result.out, case["text"] + "\n")
        self.assertIn("attention of 2 of 6 layers", result.talk)


# ---- perplexity ------------------------------------------------------------------------------------------------------

class Perplexity(DeviceCase):
    def perplexity(self, *args, **more):
        result = self.good("perplexity", MODEL, "-f", TEXT, *args, **more)
        self.assertRegex(result.out, r"^ppl = [0-9.]+ \+- [0-9.]+\n$")
        return float(result.out.split()[2])

    def test_one_by_one_and_skipping_is_as_good_as_many_at_once(self):
        args = ("-n", 2550, *CPU)
        many = self.perplexity(*args)
        self.near(self.perplexity(*args, "-b", 1, "--sparsity", "exact"), many)
        self.near(self.perplexity(*args, "-b", 100), many)

    def test_the_device_and_both_together_are_as_good_as_the_cpu(self):
        args = ("-n", 383)    # a whole window of 256, and half a one
        cpu = self.perplexity(*args, *CPU)
        self.near(self.perplexity(*args, *DEVICE), cpu)
        self.near(self.perplexity(*args, *share(0.5, 256)), cpu)

    def test_the_text_may_come_from_standard_input(self):
        args = ("perplexity", MODEL, *CPU, "-n", 100)
        self.assertEqual(self.good(*args, "-f", "-", input=TEXT.read_bytes()[:2000]).out,
                         self.good(*args, "-f", TEXT).out)

    def test_windows_may_be_of_any_size_from_2(self):
        for context in (2, 3, 100, 1024):
            self.assertGreater(self.perplexity(*CPU, "-n", 300, "-c", context), 1)

    @unittest.skipUnless(ALL, "slow: --all")
    def test_the_whole_text_on_the_cpu_is_as_expected(self):
        for context, reference in expected("perplexity").items():
            with self.subTest(context):
                self.near(self.perplexity(*CPU, "-c", context), reference["ppl"])

    @unittest.skipUnless(ALL, "slow: --all")
    def test_the_whole_text_on_the_device_is_as_expected(self):
        self.near(self.perplexity(*DEVICE), expected("perplexity")["256"]["ppl"])

    @unittest.skipUnless(ALL, "slow: --all")
    def test_the_whole_text_on_both_is_as_expected(self):
        self.near(self.perplexity(*share(0.5, 256)), expected("perplexity")["256"]["ppl"])


# ---- counters --------------------------------------------------------------------------------------------------------

class Stats(DeviceCase):
    COUNT = 16

    def stats(self, command, *args):
        file = self.folder / "stats.json"
        self.good(command, MODEL, *args, "--stats", file)
        self.assertEqual(os.listdir(self.folder), ["stats.json"])
        return json.loads(file.read_text())

    def run_stats(self, *args):
        stats = self.stats("run", "-p", expected("greedy")[0]["prompt"], "-n", self.COUNT, "--temp", 0, *args)
        prefill, *decode = stats["batches"]
        self.assertEqual(prefill["tokens"], 14)
        # After the last token nothing is computed.
        self.assertEqual([b["tokens"] for b in decode], [1] * (self.COUNT - 1))
        self.assertEqual([b["position"] for b in decode], list(range(14, 14 + self.COUNT - 1)))
        for name in ("tokens", "submits", "waits", "joins", "bytes", "downloaded"):
            self.assertEqual(stats["decode"][name], sum(b[name] for b in decode), name)
            self.assertEqual(stats["prefill"][name], prefill[name], name)
        for batch in stats["batches"]:
            self.assertGreater(batch["us"], 0)
            self.assertEqual(batch["bytes"], sum(s["bytes"] for s in batch["stages"]))
            self.assertEqual(len(batch["layers"]), LAYERS)
        return stats, decode

    def active(self, decode):
        return [sum(b["layers"][l][side] for b in decode for side in ("active_device", "active_host"))
                for l in range(LAYERS)]

    def test_submits_waits_and_joins_are_as_few_as_the_split_allows(self):
        _, cpu = self.run_stats(*CPU)
        for b in cpu:
            self.assertEqual((b["submits"], b["waits"], b["joins"]), (0, 0, 0))
            self.assertTrue(all(s["on"] == "host" for s in b["stages"]))

        _, whole = self.run_stats(*share(1))
        for b in whole:
            self.assertEqual((b["submits"], b["waits"], b["joins"]), (1, 1, 0))
            self.assertTrue(all(s["on"] == "device" for s in b["stages"]))
            self.assertTrue(all(not l["split"] and l["resident"] == NEURONS and l["active_host"] == 0
                                for l in b["layers"]))

        _, half = self.run_stats(*share(0.5))
        for b in half:
            self.assertEqual((b["submits"], b["waits"], b["joins"]), (LAYERS + 1, LAYERS + 1, LAYERS))
            self.assertTrue(all(l["split"] and l["resident"] == NEURONS // 2 for l in b["layers"]))
            self.assertTrue(all(l["device_us"] > 0 and l["host_us"] > 0 and l["both_us"] > 0 for l in b["layers"]))
            cold = [s for s in b["stages"] if s["name"] == "cold_ffn"]
            self.assertEqual([(s["on"], s["layer"]) for s in cold], [("host", l) for l in range(LAYERS)])
            self.assertEqual({s["bytes"] for s in cold}, {NEURONS // 2 * 3 * ROW_BYTES})

        # The same text, so the same neurons fire, wherever they are; a gate within rounding of zero may differ.
        for l, reference in enumerate(self.active(cpu)):
            self.near(self.active(whole)[l], reference, of=0.01)
            self.near(self.active(half)[l], reference, of=0.01)

    def test_neurons_fire_as_often_as_expected_and_only_their_rows_are_read(self):
        reference = expected("activation")
        totals = self.stats("perplexity", "-f", TEXT, *CPU, "--sparsity", "exact", "-b", 1, "-n", 30000)["totals"]
        positions = reference["positions"]
        self.assertEqual((totals["tokens"], totals["batches"]), (positions, positions))
        cold = {s["layer"]: s for s in totals["stages"] if s["name"] == "cold_ffn"}
        for l, count in enumerate(reference["counts_sum_per_layer"]):
            with self.subTest(layer=l):
                active = totals["layers"][l]["active_host"]
                self.near(active, count)
                self.assertEqual(cold[l]["count"], positions)
                self.assertEqual(cold[l]["bytes"], (NEURONS * positions + 2 * active) * ROW_BYTES)

    def test_dense_reads_every_row(self):
        totals = self.stats("perplexity", "-f", TEXT, *CPU, "-b", 1, "-n", 200)["totals"]
        for stage in totals["stages"]:
            if stage["name"] == "cold_ffn":
                self.assertEqual(stage["bytes"], 3 * NEURONS * totals["tokens"] * ROW_BYTES)


# ---- without a device ------------------------------------------------------------------------------------------------

class WithoutDevice(Case):
    def machines(self):
        """Environments in which there is no Vulkan device."""
        yield "no driver", {"VK_LOADER_DRIVERS_SELECT": "none-of-these"}
        yield "drivers that are not there", {"VK_DRIVER_FILES": str(self.folder / "none.json"),
                                             "VK_ICD_FILENAMES": str(self.folder / "none.json")}
        if sys.platform == "linux":
            fake = self.folder / "fake"    # dlopen takes the first file of that name, and this one is no library
            fake.mkdir()
            for name in ("libvulkan.so.1", "libvulkan.so"):
                (fake / name).touch()
            yield ("no loader",
                   {"LD_LIBRARY_PATH": os.pathsep.join(filter(None, [str(fake), os.environ.get("LD_LIBRARY_PATH")]))})

    def test_it_runs_on_the_cpu_and_says_why_once(self):
        case = expected("greedy")[0]
        for name, environment in self.machines():
            with self.subTest(name):
                result = self.good("run", MODEL, "-p", case["prompt"], "-n", len(case["ids"]), "--temp", 0,
                                   environment=environment)
                self.assertEqual(result.out, case["text"] + "\n")
                about = [line for line in result.talk.splitlines() if "CPU" in line or "Vulkan" in line]
                self.assertEqual(len(about), 1, result.talk)
                self.assertIn("on the CPU (", about[0])
                self.assertNotIn("error -", about[0])    # a machine without a GPU has no error

    def test_asking_for_the_cpu_needs_no_vulkan(self):
        for name, environment in self.machines():
            with self.subTest(name):
                result = self.good("run", MODEL, "-p", "Once", "-n", 3, *CPU, environment=environment)
                self.assertIn("on the CPU, as asked", result.talk)
                self.assertNotIn("Vulkan", result.talk)

    def test_devices_lists_none_and_says_why(self):
        for name, environment in self.machines():
            with self.subTest(name):
                plain = self.good("devices", environment=environment)
                self.assertTrue(plain.out.startswith("auto takes the CPU ("), plain.out)
                self.assertEqual(plain.out.count("\n"), 2)
                self.assertEqual(plain.talk, "")
                listed = self.good("devices", "--json", environment=environment).json
                self.assertEqual((listed["devices"], listed["auto"]), ([], None))
                self.assertTrue(listed["reason"])
                self.assertIn(listed["reason"], plain.out)

    def test_naming_a_device_is_an_error(self):
        for name, environment in self.machines():
            for device in ("llvmpipe", "0"):
                with self.subTest(name, device=device):
                    self.refused("run", MODEL, "-p", "Once", "-n", 3, "--device", device, environment=environment,
                                 says=["--device cpu"])


class Devices(DeviceCase):
    def test_the_software_device_is_listed_and_not_taken_by_itself(self):
        listed = self.good("devices", "--json").json
        self.assertIsNone(listed["auto"])
        found = [d for d in listed["devices"] if "llvmpipe" in d["name"]]
        self.assertEqual(len(found), 1)
        self.assertEqual((found[0]["kind"], found[0]["unfit"]), ("software device", ""))
        self.assertGreater(found[0]["memory"], 0)
        plain = self.good("devices").out.splitlines()
        self.assertEqual(len(plain), len(listed["devices"]) + 2)
        for index, device in enumerate(listed["devices"]):
            self.assertTrue(plain[index].startswith(f"{index} {device['name']}"))
        self.assertTrue(plain[-2].startswith("auto takes the CPU ("))
        self.assertTrue(plain[-1].startswith("The CPU uses "))
        self.assertIn("on the CPU (", self.good("run", MODEL, "-p", "Once", "-n", 1).talk)

    def test_a_plan_needs_no_more_of_a_model_than_its_sizes(self):
        def plan(*args):
            result = hearth("plan", *DEVICE, "--vram-budget", "600MiB", "--json", *args)
            self.assertEqual(result.code, 0, result.talk)
            self.assertIn("only the header", result.talk)
            return result.json["plans"]

        folder = Path(SCRATCH.name) / "llama"
        folder.mkdir()
        config = {"architectures": ["LlamaForCausalLM"], "hidden_size": 6656, "intermediate_size": 17920,
                  "num_hidden_layers": 60, "num_attention_heads": 52, "vocab_size": 32000,
                  "max_position_embeddings": 2048, "tie_word_embeddings": False, "hidden_act": "silu"}
        (folder / "config.json").write_text(json.dumps(config))
        named = plan("--arch", "llama-33b", "--type", "q4_k_m")
        self.assertEqual(plan(folder, "--type", "q4_k_m"), named)
        self.assertEqual(plan(folder / "config.json", "--type", "q4_k_m"), named)
        self.assertNotEqual(plan(folder), named)    # q4_0
        (folder / "cut.gguf").write_bytes(MODEL.read_bytes()[:600_000])
        whole = hearth("plan", *DEVICE, "--vram-budget", "600MiB", "--json", MODEL).json["plans"]
        self.assertEqual(plan(folder / "cut.gguf"), whole)
        for config, what in (({"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel"), ({}, "architectures"),
                             ([], "no JSON object"), (config | {"hidden_size": -1}, "hidden_size"),
                             (config | {"num_hidden_layers": 0}, "num_hidden_layers")):
            (folder / "config.json").write_text(" " + json.dumps(config))
            refused = hearth("plan", folder, *CPU)
            self.assertEqual(refused.code, 1)
            self.assertIn(what, refused.talk)
        self.assertEqual(hearth("plan", *CPU).code, 2)
        self.assertEqual(hearth("plan", MODEL, "--arch", "llama-33b").code, 2)

    def test_the_doctor_ends_with_1_where_something_stops_the_machine_and_says_what(self):
        good = hearth("doctor", MODEL, "--json")
        self.assertEqual(good.code, 0, good.talk)
        facts = {f["name"]: f["value"] for f in good.json["facts"]}
        self.assertIn("llvmpipe", facts["device"])
        self.assertFalse(any(f["stops"] for f in good.json["findings"]))
        chosen = hearth("doctor", *DEVICE, environment={"VK_INSTANCE_LAYERS": "VK_LAYER_none_of_that_name"})
        self.assertEqual(chosen.code, 1)
        self.assertRegex(chosen.out, "(?m)^stops: llvmpipe.* is chosen")
        self.assertNotIn("stops", chosen.out.split("\n")[1])    # the worst first
        self.assertRegex(chosen.out, "(?m)^slows: VK_INSTANCE_LAYERS=.*: unset VK_INSTANCE_LAYERS$")
        self.assertRegex(chosen.talk, "1 of [0-9]+ findings above keeps this machine from running well")
        missing = hearth("doctor", "nowhere.gguf")
        self.assertEqual(missing.code, 1)
        self.assertRegex(missing.out, "(?m)^stops: .*nowhere.gguf")

    def test_a_device_has_an_index_and_a_part_of_a_name_in_any_case(self):
        index = next(i for i, d in enumerate(self.good("devices", "--json").json["devices"]) if "llvmpipe" in d["name"])
        for name in (str(index), "LLVMpipe"):
            self.assertIn("on llvmpipe", self.good("run", MODEL, "-p", "Once", "-n", 1, "--device", name).talk)

    def test_a_device_that_is_not_there_is_an_error(self):
        for name in ("nosuchgpu", "99"):
            self.refused("run", MODEL, "-p", "Once", "--device", name, says=[name, "hearth devices"])

    def test_a_budget_in_which_nothing_fits_is_an_error(self):
        for budget in ("1KiB", "0"):
            self.refused("run", MODEL, "-p", "Once", *DEVICE, "--vram-budget", budget, says=["--vram-budget"])


# ---- bad files -------------------------------------------------------------------------------------------------------

class BadFiles(Case):
    COMMANDS = (("run", "-p", "Once", "-n", "1", *CPU), ("perplexity", "-f", str(TEXT), "-n", "10", *CPU),
                ("bench", "-p", "2", "-n", "1", "-r", "1", *CPU), ("tokenize", "-p", "Once"), ("inspect",),
                ("inspect", "--json"))

    def test_what_is_not_a_model_is_refused_by_every_command(self):
        models = {"missing": self.folder / "missing.gguf", "a directory": self.folder,
                  "empty": self.write("empty.gguf", b""), "a text": TEXT, "a device": Path("/dev/null"),
                  "below a file": TEXT / "model.gguf", "a bare PWRI": self.write("p.gguf", b"PWRI" + bytes(100))}
        os.mkfifo(self.folder / "pipe")
        models["a pipe"] = self.folder / "pipe"
        for what, path in models.items():
            for command, *options in self.COMMANDS:
                with self.subTest(what, command=command):
                    self.refused(command, path, *options, says=[str(path)])

    def test_a_model_cut_short_anywhere_is_refused(self):
        model = GgufFile()
        path = self.write("cut.gguf", model.bytes)
        size, table = len(model.bytes), model.table_end
        lengths = {size - 1, size - 31, table + 100, table, table - 1, 1, 3, 4, 8, 24}
        lengths |= {size * i // 16 for i in range(1, 16)} | {table * i // 16 for i in range(1, 16)}
        for length in sorted(lengths, reverse=True):
            os.truncate(path, length)
            for command, *options in self.COMMANDS if length in (size - 1, table, 24) else self.COMMANDS[:1]:
                with self.subTest(length=length, command=command):
                    self.refused(command, path, *options, says=[str(path)])

    def test_a_model_that_is_not_as_it_should_be_is_refused_by_name(self):
        def model(edit):
            file = GgufFile()
            edit(file)
            return self.write("edited.gguf", file.bytes)

        def reshape(name, *shape):
            return lambda f: f.put(f.tensors[name]["shape_at"], struct.pack(f"<{len(shape)}Q", *shape))

        def retype(name, number):
            return lambda f: f.put(f.tensors[name]["type_at"], struct.pack("<I", number))

        def number(key, letter, value):
            return lambda f: f.put(f.value_at[key], struct.pack("<" + letter, value))

        def rename_key(key, new):
            return lambda f: f.put(f.key_at[key], new.encode())

        gate, up = "blk.2.ffn_gate.weight", "blk.3.ffn_up.weight"
        for edit, says in (
                (reshape(gate, 1024, 256), [gate, "1024 x 256", "256 x 1024"]),
                (reshape(gate, 256, 512), [gate, "256 x 512", "256 x 1024"]),
                (reshape("output_norm.weight", 128), ["output_norm.weight", "128", "256"]),
                (reshape("token_embd.weight", 256, 2048), ["token_embd.weight", "2048", "4096"]),
                (reshape(gate, 1 << 40, 1 << 40), [gate]),
                (lambda f: f.rename_tensor(up, "blk.3.ffn_uq.weight"), [up]),
                (lambda f: f.rename_tensor(up, "blk.2.ffn_up.weight"), ["blk.2.ffn_up.weight", "twice"]),
                (lambda f: f.put_text("general.architecture", b"lxxma"), ["lxxma", "llama"]),
                (retype(up, 4), [up, "Q4_2"]),
                (retype(up, 99), [up, "99"]),
                (retype("output_norm.weight", 8), ["output_norm.weight", "Q8_0"]),
                (lambda f: f.put_text("hearth.activation", b"mish"), ["hearth.activation", "mish", "gelu_tanh"]),
                (lambda f: f.put_text("tokenizer.ggml.model", b"gpt-2"), ["gpt-2", "llama"]),
                (lambda f: f.put(4, struct.pack("<I", 9)), ["version 9"]),
                (lambda f: f.put(4, struct.pack(">I", 3)), ["big-endian"]),
                (rename_key("llama.block_count", "llama.block_cxunt"), ["llama.block_count"]),
                (number("llama.block_count", "I", 7), ["blk.6."]),
                (number("llama.block_count", "I", 5), ["blk.5."]),
                (number("llama.attention.head_count", "I", 0), ["llama.attention.head_count"]),
                (number("llama.attention.head_count_kv", "I", 3), ["heads"]),
                (number("llama.rope.freq_base", "f", float("nan")), ["llama.rope.freq_base"]),
                (number("llama.attention.layer_norm_rms_epsilon", "f", -1.0),
                 ["llama.attention.layer_norm_rms_epsilon"]),
                (number("tokenizer.ggml.bos_token_id", "I", 4096), ["tokenizer.ggml.bos_token_id", "4096"])):
            with self.subTest(says):
                path = model(edit)
                self.refused("run", path, *CPU, "-p", "Once", "-n", 1, says=[str(path), *says])

    def test_exact_sparsity_of_a_model_that_is_never_exactly_zero_is_refused(self):
        path = self.write("silu.gguf", GgufFile().put_text("hearth.activation", b"silu").bytes)
        for command in (("run", path, "-p", "Once", "-n", 1), ("perplexity", path, "-f", TEXT), ("bench", path)):
            self.refused(*command, *CPU, "--sparsity", "exact", says=["--sparsity", "never zero", "dense"])
        self.good("run", path, *CPU, "-p", "Once", "-n", 1, "--sparsity", "dense")

    def test_a_text_that_cannot_be_read_is_refused(self):
        for text in (self.folder / "missing.txt", self.folder, TEXT / "below"):
            for command in (("run", MODEL, *CPU), ("perplexity", MODEL, *CPU), ("tokenize", MODEL)):
                with self.subTest(command=command[0], text=text):
                    self.refused(*command, "-f", text, says=[str(text)])

    @unittest.skipUnless(os.path.exists("/proc/self/mem"), "needs a file that opens and cannot be read")
    def test_a_text_whose_reading_breaks_off_is_refused(self):
        for command in (("run", MODEL, *CPU, "-n", 1), ("perplexity", MODEL, *CPU), ("tokenize", MODEL)):
            with self.subTest(command=command[0]):
                self.refused(*command, "-f", "/proc/self/mem", says=["/proc/self/mem"])

    def test_an_empty_name_is_not_a_file_or_device(self):
        for args in (("run", MODEL, "-f", ""), ("tokenize", MODEL, "-f", ""), ("perplexity", MODEL, "-f", ""),
                     ("inspect", ""), ("run", MODEL, "-p", "Once", "-n", 1, "--device", ""),
                     ("run", MODEL, "-p", "Once", "-n", 1, "--stats", "")):
            with self.subTest(args[0], option=args[-2]):
                result = hearth(*args, stdin=subprocess.DEVNULL)
                self.assertIn(result.code, (1, 2), result.talk)
                self.assertEqual(result.raw, b"")
                self.assertNotIn("  ", result.talk.splitlines()[0])    # the gap where a name should stand


# ---- what does not fit, what is not understood -----------------------------------------------------------------------

class InParts(DeviceCase):
    def parts(self, count=3):
        """The shipped model in parts, the keys in the first one, as llama.cpp's gguf-split makes them."""
        model, align = GgufFile(), lambda n: -n % 32
        keys_end = next(iter(model.tensors.values()))["name_at"] - 8
        begin = model.table_end + align(model.table_end)
        offset = {name: struct.unpack_from("<Q", model.bytes, t["offset_at"])[0] for name, t in model.tensors.items()}
        ends = dict(zip(offset, [*list(offset.values())[1:], len(model.bytes) - begin]))
        paths, names = [], list(model.tensors)
        for i in range(count):
            own = names[len(names) * i // count:len(names) * (i + 1) // count]
            table = data = b""
            for name in own:
                t = model.tensors[name]
                data += bytes(align(len(data)))
                table += model.bytes[t["name_at"] - 8:t["offset_at"]] + struct.pack("<Q", len(data))
                data += model.bytes[begin + offset[name]:begin + ends[name]]
            keys = b"".join(struct.pack("<Q", len(key)) + key + struct.pack("<I" + letter, kind, value)
                            for key, kind, letter, value in ((b"split.no", 2, "H", i), (b"split.count", 2, "H", count),
                                                             (b"split.tensors.count", 5, "i", len(names))))
            head = (b"GGUF" + struct.pack("<IQQ", 3, len(own), 3 + (len(model.keys) if i == 0 else 0))
                    + (model.bytes[24:keys_end] if i == 0 else b"") + keys + table)
            paths.append(self.write(f"fairytale-{i + 1:05}-of-{count:05}.gguf", head + bytes(align(len(head))) + data))
        return paths

    def test_any_part_runs_as_the_whole_does_and_quantize_joins_them(self):
        parts = self.parts()
        ask = ("-p", "Once upon a time", "-n", "12", "--temp", "0")
        whole = self.good("run", MODEL, *CPU, *ask).out
        for part in parts:
            self.assertEqual(self.good("run", part, *CPU, *ask).out, whole)
        self.assertEqual(self.good("run", parts[1], *share(0.5), *ask).out, whole)
        self.assertEqual(len(self.good("inspect", parts[2], "--json").json["tensors"]), len(GgufFile().tensors))
        joined, again = self.folder / "joined.gguf", self.folder / "again.gguf"
        self.good("quantize", parts[1], joined, "q8_0")
        self.good("quantize", MODEL, again, "q8_0")
        self.assertEqual(joined.read_bytes(), again.read_bytes())
        self.refused("quantize", parts[1], parts[2], "q8_0", says=["is the model that is read"])

    def test_a_part_that_is_missing_is_named(self):
        parts = self.parts()
        parts[1].unlink()
        for part in (parts[0], parts[2]):
            self.refused("run", part, *CPU, "-p", "x", says=[part.name, "fairytale-00002-of-00003.gguf is missing"])


class BadOptions(Case):
    def test_a_prompt_longer_than_the_context_is_refused_with_the_length_it_needs(self):
        prompt = " ".join(["a"] * 16)    # and BOS
        self.refused("run", MODEL, *CPU, "-c", 16, "-p", prompt, alone=False, says=["17", "16", "-c 17"])
        self.refused("run", MODEL, *CPU, "-p", " ".join(["a"] * 2000), alone=False, says=["2001", "1024"])

    def test_a_context_longer_than_the_models_is_refused(self):
        for command in (("run", "-p", "Once"), ("perplexity", "-f", TEXT), ("bench",)):
            self.refused(command[0], MODEL, *command[1:], *CPU, "-c", 1025, says=["1025", "1024"])

    def test_a_benchmark_that_does_not_fit_names_what_was_asked_for(self):
        result = self.refused("bench", MODEL, *CPU, "-p", 4, "-n", 2000, says=["1024"])
        self.assertNotIn("-c asks", result.talk)    # nobody gave -c

    def test_the_cache_can_be_of_8_bits_in_every_command_that_runs_a_model(self):
        short = self.write("short.txt", "Once upon a time there was a fox.")
        for command in (("run", "-p", "Once", "-n", 3), ("perplexity", "-f", short),
                        ("bench", "-p", 4, "-n", 2, "-r", 1)):
            for names in (("-ctk", "-ctv"), ("--cache-type-k", "--cache-type-v")):
                self.good(command[0], MODEL, *command[1:], *CPU, names[0], "q8_0", names[1], "q8_0")
        wide, narrow = (json.loads(self.good("inspect", MODEL, "--json", *more).out)["device_memory"]["layers"][0]["kv"]
                        for more in ((), ("-ctk", "q8_0", "-ctv", "q8_0")))
        self.assertLess(narrow, 0.6 * wide)
        self.wrong_use("run", MODEL, "-p", "Once", "-ctk", "q3", says=["--cache-type-k", "q3", "q8_0"])

    def test_bench_draws_the_time_of_a_token_as_the_context_fills(self):
        picture = self.folder / "fills.svg"
        fills = self.good("bench", MODEL, *CPU, "-p", 0, "-n", 0, "--plot", picture, "-o", "json").json["fills"]
        self.assertEqual([f["positions"] for f in fills], [512, 1024])
        self.assertGreater(fills[1]["bytes_per_token"], fills[0]["bytes_per_token"])
        for f in fills:
            self.assertGreater(f["us_per_token"], 0)
            self.assertGreater(f["us_by_plain_reading"], 0)
        root = xml.etree.ElementTree.parse(picture).getroot()
        self.assertEqual(len(root.findall("{*}circle")), 4)
        self.assertEqual(len(root.findall("{*}polyline")), 2)
        text = " ".join(t.text or "" for t in root.findall("{*}text"))
        self.assertIn("ms per token", text)
        self.assertIn("positions", text)
        self.refused("bench", MODEL, *CPU, "-p", 0, "-n", 0, "-c", 100, "--plot", picture, alone=False,
                     says=["512", "-c"])

    def test_batches_of_nothing_are_refused(self):
        for command in (("run", "-p", "Once"), ("perplexity", "-f", TEXT), ("bench",)):
            self.refused(command[0], MODEL, *command[1:], *CPU, "-b", 0, says=["-b"])

    def test_perplexity_of_nothing_is_refused(self):
        empty = self.write("empty.txt", b"")
        self.refused("perplexity", MODEL, *CPU, "-f", empty, alone=False, says=[str(empty)])
        self.refused("perplexity", MODEL, *CPU, "-f", TEXT, "-c", 1, alone=False, says=["-c 2"])

    def test_a_command_line_that_cannot_be_understood_ends_with_2(self):
        run, short = ("run", MODEL, "-p", "Once"), self.write("short.txt", "Once upon a time")
        for args, says in (
                ((), ["subcommand"]),
                (("nonsense",), ["nonsense"]),
                (("run",), ["MODEL"]),
                (("tokenize", MODEL), ["-p", "-f"]),
                (("perplexity", MODEL), ["--file"]),
                ((*run, "-f", TEXT), ["--prompt", "--file"]),
                ((*run, "--nonsense"), ["--nonsense"]),
                ((*run, "surplus"), ["surplus"]),
                ((*run, "-n"), ["--predict"]),
                ((*run, "-n", "x"), ["--predict", "x"]),
                ((*run, "-n", "1.5"), ["--predict", "1.5"]),
                ((*run, "-c", "-1"), ["--ctx-size"]),
                ((*run, "-b", "99999999999"), ["--batch-size"]),
                ((*run, "-t", "-2"), ["--threads"]),
                ((*run, "-t", "100000"), ["--threads"]),
                ((*run, "--temp", "-1"), ["--temp"]),
                ((*run, "--temp", "hot"), ["--temp", "hot"]),
                ((*run, "--top-p", "1.5"), ["--top-p"]),
                ((*run, "--repeat-penalty", "0"), ["--repeat-penalty"]),
                ((*run, "--sparsity", "none"), ["--sparsity", "none", "dense", "exact"]),
                (("perplexity", MODEL, *CPU, "-f", short, "--tokens=-5"), ["--tokens"]),
                (("bench", MODEL, "-o", "xml"), ["xml", "csv"]),
                (("bench", MODEL, "-r", "0"), ["--repetitions"])):
            with self.subTest(" ".join(str(a) for a in args if a not in (MODEL, short, TEXT))):
                self.wrong_use(*args, says=says)

    def test_what_is_not_a_number_is_not_understood(self):
        for option in ("--temp", "--top-p", "--min-p", "--repeat-penalty"):
            with self.subTest(option):
                self.wrong_use("run", MODEL, *CPU, "-p", "Once", "-n", 1, option, "nan", says=[option])

    def test_a_size_that_cannot_be_understood_is_named_with_its_option(self):
        for size in ("6x", "x", "", "-1", "GiB", "1e400", "nan", "6 GiB", "6GiBs"):
            with self.subTest(size):
                self.wrong_use("run", MODEL, "-p", "Once", "--vram-budget", size, says=["--vram-budget", size, "6GiB"])

    def test_help_and_version_go_to_standard_output(self):
        version = self.good("--version")
        self.assertRegex(version.out, r"^hearth [0-9]+\.[0-9]+\.[0-9]+\n$")
        self.assertEqual(version.talk, "")
        commands = ("run", "perplexity", "bench", "tokenize", "devices", "inspect")
        for args in ((), *((c,) for c in commands)):
            for flag in ("--help", "-h"):
                result = self.good(*args, flag)
                self.assertEqual(result.talk, "")
                self.assertIn("Usage: hearth " + " ".join(args), result.out)
        for command in commands:
            self.assertIn(command, self.good("--help").out)


# ---- where output goes -----------------------------------------------------------------------------------------------

class Output(Case):
    COMMANDS = (("run", MODEL, *CPU, "-p", "Once", "-n", "3"), ("perplexity", MODEL, *CPU, "-f", TEXT, "-n", "10"),
                ("tokenize", MODEL, "-p", "Once"), ("bench", MODEL, *CPU, "-p", "2", "-n", "1", "-r", "1"),
                ("devices",), ("inspect", MODEL), ("--help",), ("run", "--help"), ("--version",))

    @unittest.skipUnless(os.path.exists("/dev/full"), "needs /dev/full")
    def test_a_full_disk_behind_standard_output_is_an_error(self):
        for command in self.COMMANDS:
            with self.subTest(command[0]), open("/dev/full", "wb") as full:
                result = hearth(*command, stdout=full)
                self.assertEqual(result.code, 1)
                self.check_one_sentence(result, ["standard output"], alone=False)

    def closed(self, *args):
        return Result(subprocess.run(["sh", "-c", 'exec "$0" "$@" >&-', PROGRAM, *map(str, args)],
                                     stderr=subprocess.PIPE, env=ENVIRONMENT, timeout=60))

    def test_a_closed_standard_output_is_an_error(self):
        for command in self.COMMANDS:
            with self.subTest(command[0]):
                result = self.closed(*command)
                self.assertEqual(result.code, 1)
                self.check_one_sentence(result, ["standard output"], alone=False)

    def test_text_never_goes_into_another_file_where_standard_output_is_closed(self):
        stats = self.folder / "stats.json"
        result = self.closed(*self.COMMANDS[0], "--stats", stats)
        self.assertEqual(result.code, 1)
        self.assertEqual(os.listdir(self.folder), [])

    def test_a_reader_that_goes_away_ends_the_program_and_leaves_no_file(self):
        stats = self.folder / "stats.json"
        with subprocess.Popen([PROGRAM, *map(str, self.COMMANDS[0][:-1]), "-1", "--ignore-eos", "--stats", stats],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT, bufsize=0) as process:
            self.assertEqual(process.stdout.read(4), b"Once")
            process.stdout.close()
            talk = process.stderr.read()
            process.wait(timeout=20)
        self.assertIn(process.returncode, (1, -signal.SIGPIPE), talk)
        self.assertEqual(os.listdir(self.folder), [])

    def test_a_statistics_file_that_cannot_be_written_is_refused_before_the_work(self):
        for path in (self.folder / "missing" / "stats.json", self.folder, TEXT / "stats.json"):
            for command in self.COMMANDS[:2]:
                with self.subTest(command[0], path=path.name):
                    self.refused(*command, "--stats", path, says=[str(path)])

    def test_a_failed_run_leaves_the_statistics_of_an_earlier_one(self):
        stats = self.write("stats.json", "earlier")
        self.refused("run", MODEL, *CPU, "-p", " ".join(["a"] * 2000), "--stats", stats, alone=False)
        self.refused("run", self.folder / "missing.gguf", *CPU, "-p", "Once", "--stats", stats)
        self.assertEqual(stats.read_text(), "earlier")
        self.assertEqual(os.listdir(self.folder), ["stats.json"])

    def test_a_disk_that_is_full_before_the_statistics_are_whole_is_an_error_and_leaves_no_file(self):
        def limit():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)    # then writing fails instead
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 14, 1 << 14))
        stats = self.write("stats.json", "earlier")
        result = hearth("run", MODEL, *CPU, "-p", "Once", "-n", 30, "--ignore-eos", "--stats", stats, preexec_fn=limit)
        self.assertEqual(result.code, 1, result.talk)
        self.check_one_sentence(result, [str(stats)], alone=False)
        self.assertEqual(stats.read_text(), "earlier")
        self.assertEqual(os.listdir(self.folder), ["stats.json"])

    def test_statistics_never_take_the_place_of_a_pipe_or_a_device(self):
        # A pipe stands for /dev/null, which a program that writes beside it and renames would destroy.
        pipe = self.folder / "pipe"
        os.mkfifo(pipe)
        reader = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
        self.addCleanup(os.close, reader)
        result = hearth("run", MODEL, *CPU, "-p", "Once", "-n", 1, "--stats", pipe, timeout=60)
        self.assertTrue(pipe.is_fifo(), "it is a file now")
        self.assertEqual(os.listdir(self.folder), ["pipe"])
        if result.code == 0:
            json.loads(os.read(reader, 1 << 16))
        else:
            self.check_one_sentence(result, [str(pipe)], alone=False)

    def test_statistics_go_to_where_a_link_points(self):
        stats, link = self.write("stats.json", "earlier"), self.folder / "link.json"
        link.symlink_to("stats.json")
        self.good(*self.COMMANDS[0], "--stats", link)
        self.assertTrue(link.is_symlink())
        json.loads(stats.read_text())


# ---- Ctrl-C ----------------------------------------------------------------------------------------------------------

class Interrupt(DeviceCase):
    def interrupt(self, *args, after, read_stdout=True):
        """Ctrl-C once `after` bytes have come (on standard error: once a line has)."""
        with subprocess.Popen([PROGRAM, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              stdin=subprocess.DEVNULL, env=ENVIRONMENT, bufsize=0) as process:
            self.addCleanup(process.kill)
            begin = talk = b""
            if read_stdout:
                while len(begin) < after and (more := process.stdout.read(100)):
                    begin += more
            else:
                while not talk.endswith(b"\n") and (more := process.stderr.read(1)):
                    talk += more
                time.sleep(after)
            self.assertIsNone(process.poll(), "it ended by itself")
            process.send_signal(signal.SIGINT)
            start = time.monotonic()
            rest, more_talk = process.communicate(timeout=60)
            seconds = time.monotonic() - start
        self.assertEqual(process.returncode, 0, more_talk)
        self.assertLess(seconds, 2)
        talk = (talk + more_talk).decode()
        self.assertIn("interrupted", talk.splitlines()[-1])
        self.assertNotIn("hearth: ", talk)
        return (begin + rest).decode()

    def test_a_run_ends_well_and_its_statistics_are_whole(self):
        stats = self.folder / "stats.json"
        for where in (CPU, DEVICE):
            with self.subTest(where):
                out = self.interrupt("run", MODEL, *where, "-p", "Once upon a time", "-n", 100000, "-c", 1024,
                                     "--ignore-eos", "--stats", stats, after=60)
                self.assertTrue(out.startswith("Once upon a time"))
                self.assertTrue(out.endswith("\n"))
                whole = json.loads(stats.read_text())
                self.assertGreater(whole["decode"]["tokens"], 3)
                self.assertEqual(os.listdir(self.folder), ["stats.json"])
                stats.unlink()

    def test_a_prompt_need_not_be_done_first(self):
        stats = self.folder / "stats.json"
        prompt = self.write("prompt.txt", " ".join(["a"] * 1000))
        # The software device compiles kernels when they first run, and keeps them.
        self.good("run", MODEL, *DEVICE, "-b", 16, "-p", " ".join(["a"] * 40), "-n", 1)
        out = self.interrupt("run", MODEL, *DEVICE, "-b", 16, "-f", prompt, "--stats", stats, after=1,
                             read_stdout=False)
        self.assertLess(len(out), 2100)
        self.assertEqual(json.loads(stats.read_text())["decode"]["tokens"], 0)

    def test_a_perplexity_is_that_of_the_text_so_far(self):
        stats = self.folder / "stats.json"
        out = self.interrupt("perplexity", MODEL, *CPU, "-c", 32, "-f", TEXT, "--stats", stats, after=1.5,
                             read_stdout=False)
        self.assertRegex(out, r"^ppl = [0-9.]+ ")
        self.assertGreater(json.loads(stats.read_text())["totals"]["tokens"], 0)

    def test_a_perplexity_of_nothing_yet_says_so(self):
        self.interrupt("perplexity", MODEL, *CPU, "-c", 1024, "-f", TEXT, after=0, read_stdout=False)

    def test_a_second_one_ends_it_at_once(self):
        with subprocess.Popen([PROGRAM, "perplexity", MODEL, *DEVICE, "-c", "1024", "-b", "1024", "-f", TEXT],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT, bufsize=0) as process:
            self.addCleanup(process.kill)
            while process.stderr.read(1) != b"\n":
                pass
            time.sleep(1)    # now it is in the first window, which takes many seconds
            process.send_signal(signal.SIGINT)
            time.sleep(0.3)
            process.send_signal(signal.SIGINT)
            start = time.monotonic()
            process.wait(timeout=60)
            self.assertLess(time.monotonic() - start, 1)
        self.assertIn(process.returncode, (-signal.SIGINT, 0))    # 0: the first was enough


# ---- bench and inspect -----------------------------------------------------------------------------------------------

class Bench(DeviceCase):
    SMALL = ("bench", MODEL, "-p", 16, "-n", 8, "-r", 2)

    def test_json_holds_speeds_and_stages_that_add_up(self):
        for where, sides, submitted in ((CPU, {"host"}, False), (DEVICE, {"device"}, True)):
            with self.subTest(where):
                got = self.good(*self.SMALL, *where, "-o", "json").json
                self.assertEqual([(r["test"], r["tokens"], len(r["runs"])) for r in got["results"]],
                                 [("prefill", 16, 2), ("decode", 8, 2)])
                self.assertEqual({s["on"] for s in got["stages"]}, sides)
                for result in got["results"]:
                    self.assertGreater(result["tokens_per_s"], 0)
                    self.assertGreaterEqual(result["deviation"], 0)
                    self.near(result["tokens_per_s"], sum(result["runs"]) / 2)
                    self.near(result["gb_per_s"], result["bytes_per_token"] * result["tokens_per_s"] / 1e9)
                    stages = [s for s in got["stages"] if s["test"] == result["test"]]
                    self.near(sum(s["bytes_per_token"] for s in stages), result["bytes_per_token"])
                    for stage in stages:
                        self.assertGreater(stage["us_per_token"], 0, stage)
                        self.assertGreater(stage["bytes_per_token"], 0, stage)
                        self.near(stage["gb_per_s"], stage["bytes_per_token"] / stage["us_per_token"] / 1000)

    def test_only_the_most_probable_token_leaves_the_device_where_nobody_wants_more(self):
        vocabulary = self.good("inspect", MODEL, "--json").json["keys"]["llama.vocab_size"]
        drawn, greedy = (self.good("bench", MODEL, *DEVICE, "-p", 0, "-n", 4, "-r", 1, "--temp", t,
                                   "-o", "json").json["results"][0] for t in (1, 0))
        self.assertEqual(drawn["downloaded_per_token"] - greedy["downloaded_per_token"], 4 * (vocabulary - 1))
        # A bit for each neuron, and the token.
        self.assertLess(greedy["downloaded_per_token"], LAYERS * NEURONS / 8 + 5)
        self.assertEqual(self.good("bench", MODEL, *CPU, "-p", 0, "-n", 1, "-r", 1, "--temp", 0,
                                   "-o", "json").json["results"][0]["downloaded_per_token"], 0)

    def test_a_token_reads_every_weight_once(self):
        got = self.good(*self.SMALL, *CPU, "-o", "json").json
        weights = sum(t["bytes"] for t in self.good("inspect", MODEL, "--json").json["tensors"] if t["type"] == "F16")
        self.near(got["results"][1]["bytes_per_token"], weights, of=0.01)    # and a few positions of the cache

    def test_csv_has_a_header_and_numbers(self):
        rows = list(csv.DictReader(io.StringIO(self.good(*self.SMALL, *CPU, "-o", "csv").out)))
        self.assertEqual([(r["test"], r["stage"], r["tokens"]) for r in rows[:2]],
                         [("prefill", "all", "16"), ("decode", "all", "8")])
        self.assertGreater(len(rows), 4)
        for row in rows:
            self.assertNotIn(None, row)    # surplus columns
            self.assertNotIn(None, row.values())
            for column in ("us_per_token", "bytes_per_token", "gb_per_s"):
                self.assertGreater(float(row[column]), 0)
        for row in rows[:2]:
            self.assertGreater(float(row["tokens_per_s"]), 0)

    def test_sequences_that_run_together_are_a_table_of_their_own(self):
        out = self.good("bench", MODEL, *CPU, "-p", "0", "-n", "2", "-r", "1", "-np", "1,2").out
        rows = [[cell.strip() for cell in line.strip("|").split("|")]
                for line in out.splitlines() if line.startswith("|")]
        self.assertEqual(rows[0], ["together", "tokens/s", "tokens/s each", "times the first", "ms/token p50", "p95",
                                   "MB/token", "GB/s"])
        self.assertEqual([row[0] for row in rows[2:]], ["1", "2"])
        self.assertLess(float(rows[3][6]), 0.6 * float(rows[2][6]))    # weights are read once for both

    def test_markdown_holds_two_tables(self):
        out = self.good(*self.SMALL, *CPU).out
        rows = [[cell.strip() for cell in line.strip("|").split("|")]
                for line in out.splitlines() if line.startswith("|")]
        speeds, stages = rows[:4], rows[4:]
        self.assertEqual({len(row) for row in speeds}, {7})
        self.assertEqual({len(row) for row in stages}, {7})
        self.assertEqual(speeds[0][3], "expected")
        self.assertEqual([row[:2] for row in speeds[2:]], [["prefill", "16"], ["decode", "8"]])
        for row in speeds[2:]:
            self.assertGreater(float(row[2].split("±")[0]), 0)
        self.assertEqual({row[1] for row in stages[2:]}, {"qkv", "attend", "attn_out", "cold_ffn", "head"})
        for row in stages[2:]:
            self.assertGreater(float(row[3]), 0)
            if row[0] == "decode":
                self.assertGreater(int(row[6].removesuffix(" %")), 0)    # of plain reading
        self.assertRegex(out, r"Plain reading by the CPU, measured between the tokens: [1-9][0-9.]* GB/s")

    def test_a_test_of_no_tokens_is_left_out(self):
        self.assertEqual([r["test"] for r in self.good("bench", MODEL, *CPU, "-p", 0, "-n", 2, "-r", 1,
                                                       "-o", "json").json["results"]], ["decode"])
        self.assertEqual([r["test"] for r in self.good("bench", MODEL, *CPU, "-p", 2, "-n", 0, "-r", 1,
                                                       "-o", "json").json["results"]], ["prefill"])

    def test_nothing_to_do_is_refused(self):
        self.refused("bench", MODEL, *CPU, "-p", 0, "-n", 0, says=["-p"], alone=False)


class Inspect(Case):
    def test_json_holds_every_key_and_tensor_and_what_a_device_would_need(self):
        got, model = self.good("inspect", MODEL, "--json").json, GgufFile()
        self.assertEqual((got["version"], got["bytes"]), (3, MODEL.stat().st_size))
        self.assertEqual(set(got["keys"]), set(model.keys))
        for key, value in model.keys.items():
            if isinstance(value, float):
                self.near(got["keys"][key], value, of=1e-6)
            elif key == "tokenizer.ggml.tokens":
                self.assertEqual(len(got["keys"][key]), len(value))
            elif not (isinstance(value, list) and isinstance(value[0], float)):
                self.assertEqual(got["keys"][key], value, key)
        self.assertEqual([(t["name"], t["shape"]) for t in got["tensors"]],
                         [(name, t["shape"]) for name, t in model.tensors.items()])
        self.assertEqual({t["type"] for t in got["tensors"]}, {"F16", "F32"})
        needs = got["device_memory"]
        self.assertEqual(len(needs["layers"]), LAYERS)
        self.assertEqual(needs["all"], needs["scratch"] + needs["head"]
                         + sum(l["attention"] + l["kv"] + l["groups"] * l["group"] for l in needs["layers"]))
        self.assertEqual(needs["least"], needs["scratch"] + needs["layers"][0]["attention"] + needs["layers"][0]["kv"])

    def test_plain_output_names_every_key_and_tensor(self):
        out, model = self.good("inspect", MODEL).out, GgufFile()
        first = [line.split()[0] for line in out.splitlines() if line]
        self.assertEqual(first[1:-1], [*sorted(model.keys), *model.tensors])
        self.assertIn(f"{len(model.keys)} keys, {len(model.tensors)} tensors", out.splitlines()[0])
        self.assertTrue(out.splitlines()[-1].startswith("GPU memory: "))

    def test_a_model_that_cannot_be_run_is_still_shown_with_the_reason(self):
        path = self.write("other.gguf", GgufFile().put_text("general.architecture", b"lxxma").bytes)
        self.assertIn("lxxma", self.good("inspect", path).out.splitlines()[-1])
        got = self.good("inspect", path, "--json").json
        self.assertNotIn("device_memory", got)
        self.assertIn("lxxma", got["cannot_run"])

    def test_a_context_longer_than_the_models_is_refused(self):
        self.refused("inspect", MODEL, "-c", 1025, says=["1025", "1024"])


if __name__ == "__main__":
    if PROGRAM is None:
        sys.exit("usage: program_test.py PROGRAM [--all] [arguments of unittest]")
    unittest.main(argv=[sys.argv[0], *ARGUMENTS])
