#!/usr/bin/env python3
"""tools/compare, with small scripts in the place of both benchmarks.

    python3 tests/compare_test.py          (needs nothing but Python)
"""

import contextlib
import importlib.machinery
import importlib.util
import io
import json
import os
import shlex
import struct
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

TOOL = Path(__file__).resolve().parent.parent / "tools" / "compare"
sys.dont_write_bytecode = True    # the tool's name has no ending, and neither would what Python makes of it
loader = importlib.machinery.SourceFileLoader("compare", str(TOOL))
compare = importlib.util.module_from_spec(importlib.util.spec_from_loader("compare", loader))
loader.exec_module(compare)

F32, F16, Q4_0, Q8_0 = 0, 1, 2, 8
TENSORS = {"token_embd.weight": (Q8_0, (64, 320)), "blk.0.ffn_norm.weight": (F32, (64,)),
           "blk.0.ffn_up.weight": (Q4_0, (64, 96)), "blk.0.ffn_down.weight": (Q4_0, (96, 64))}

# Speeds come from a list, one for each run; a run notes that it was there.
# llama-bench's decode is fastest with 2 threads, its prefill with 4.
HEARTH = """#!/bin/sh
echo "ours $*" >> "$LOG"
speed=$(sed -n "$(grep -c ^ours "$LOG")p" "$OURS")
echo '{"summary": "a summary", "results": [{"test": "prefill", "tokens_per_s": 100}, \
{"test": "decode", "tokens_per_s": '$speed'}]}'
"""
LLAMA_BENCH = """#!/bin/sh
entry() { echo '{"n_threads": '$1', "n_gen": '$2', "avg_ts": '$3', "samples_ts": ['$3'], \
"model_type": "llama", "build_number": 7, "backends": "CPU"}'; }
case "$*" in
*-t\\ 1,2,*) echo "sweep $*" >> "$LOG"
    echo "[$(entry 1 0 10), $(entry 1 8 5), $(entry 2 0 20), $(entry 2 8 9), $(entry 4 0 40), $(entry 4 8 8)]" ;;
*-p\\ 0*) echo "peer $*" >> "$LOG"; speed=$(sed -n "$(grep -c ^peer "$LOG")p" "$PEER"); echo "[$(entry 2 8 $speed)]" ;;
*) echo "prefill $*" >> "$LOG"; echo "[$(entry 4 0 50)]" ;;
esac
"""
POWERINFER = """#!/bin/sh
echo "peer $*" >> "$LOG"
echo " a a a and what it wrote"
echo "llama_print_timings:        load time =    10.00 ms" >&2
echo "llama_print_timings: prompt eval time =    80.00 ms /    16 tokens \
(    5.00 ms per token,   200.00 tokens per second)" >&2
echo "llama_print_timings:        eval time =   320.00 ms /     8 runs   \
(   40.00 ms per token,    25.00 tokens per second)" >&2
"""


def write_gguf(path, tensors, magic=b"GGUF"):
    def text(s):
        return struct.pack("<Q", len(s)) + s.encode()

    keys = [text("a.text") + struct.pack("<I", 8) + text("hello"), text("a.number") + struct.pack("<If", 6, 1.5),
            text("texts") + struct.pack("<IIQ", 9, 8, 2) + text("one") + text("two"),
            text("numbers") + struct.pack("<IIQ3h", 9, 3, 3, 1, 2, 3)]
    data = magic + struct.pack("<IQQ", 3, len(tensors), len(keys)) + b"".join(keys)
    for name, (kind, shape) in tensors.items():
        data += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, 0)
    path.write_bytes(data)
    return path


class Case(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)
        self.model, self.peer_model = (write_gguf(self.folder / name, TENSORS) for name in ("ours.gguf", "peer.gguf"))
        self.log = self.folder / "log"
        self.hearth, self.llama_bench, self.powerinfer = (
            self.script(*x) for x in (("hearth", HEARTH), ("llama-bench", LLAMA_BENCH), ("main", POWERINFER)))
        self.speeds((30,) * 9, (20,) * 9)
        self.busy = 0.0
        for patch in (mock.patch.object(compare, "busy_share", lambda: self.busy),
                      mock.patch.object(compare, "thread_counts", lambda: [1, 2, 4]),
                      mock.patch.dict(os.environ, {"LOG": str(self.log), "OURS": str(self.folder / "o"),
                                                   "PEER": str(self.folder / "p")})):
            patch.start()
            self.addCleanup(patch.stop)

    def script(self, name, text):
        path = self.folder / name
        path.write_text(text)
        path.chmod(0o755)
        return path

    def neurons_first(self, path, more={}, magic=b"GGUF"):
        down = {"blk.0.ffn_down_t.weight": (Q4_0, (64, 96))}
        write_gguf(path,
                   {name: t for name, t in TENSORS.items() if name != "blk.0.ffn_down.weight"} | down | more, magic)

    def speeds(self, ours, peer):
        (self.folder / "o").write_text("".join(f"{x}\n" for x in ours))
        (self.folder / "p").write_text("".join(f"{x}\n" for x in peer))

    def run_tool(self, *more, peer=None):
        """Exit code, stdout, stderr."""
        self.log.write_text("")
        out, err = io.StringIO(), io.StringIO()
        peer = peer or ("--llama-bench", str(self.llama_bench))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = compare.main(["--model", str(self.model), "--peer-model", str(self.peer_model),
                                 "--hearth", str(self.hearth), *peer, "-p", "16", "-n", "8", *map(str, more)])
        return code, out.getvalue(), err.getvalue()

    def good(self, *more, **named):
        code, out, err = self.run_tool("--json", *more, **named)
        self.assertEqual(code, 0, err)
        return json.loads(out)

    def refused(self, *says, more=()):
        code, out, err = self.run_tool(*more)
        self.assertEqual((code, out, err.count("\n")), (1, "", 1), err)
        self.assertTrue(err.startswith("compare: "), err)
        for words in says:
            self.assertIn(words, err)

    def ran(self):
        return [line.split()[0] for line in self.log.read_text().splitlines()]


class Measuring(Case):
    def test_the_programs_run_in_turn_and_the_one_that_is_first_changes(self):
        self.good("-r", 3)
        self.assertEqual(self.ran(),
                         ["sweep", "ours", "peer", "prefill", "peer", "prefill", "ours", "ours", "peer", "prefill"])

    def test_figures_are_medians_and_ratios_are_of_a_round(self):
        self.speeds((30, 31, 90, 29, 33), (20, 10, 30, 29, 30))
        tests = self.good("-r", 5)["tests"]
        self.assertEqual(tests["decode"]["ours"], {"median": 31, "least": 29, "most": 90, "runs": [30, 31, 90, 29, 33]})
        self.assertEqual(tests["decode"]["peer"]["median"], 29)
        self.assertEqual({k: round(x, 6) for k, x in tests["decode"]["ratio"].items()},
                         {"median": 1.5, "least": 1.0, "most": 3.1})
        self.assertEqual(tests["prefill"]["ratio"], {"median": 2, "least": 2, "most": 2})

    def test_the_peer_gets_for_each_test_the_threads_that_are_fastest(self):
        result = self.good("-r", 1)
        self.assertEqual([shlex.split(c)[-2:] for c in result["commands"]["peer"]], [["-t", "2"], ["-t", "4"]])
        self.assertEqual([(r["test"], r["threads"], r["tokens_per_s"]) for r in result["threads"]],
                         [("prefill", 1, 10), ("decode", 1, 5), ("prefill", 2, 20), ("decode", 2, 9),
                          ("prefill", 4, 40), ("decode", 4, 8)])
        result = self.good("-r", 1, "--peer-args=-t 3")
        self.assertEqual(result["threads"], [])
        self.assertNotIn("sweep", self.ran())

    def test_commands_are_shown_as_they_were_run_and_options_are_passed_on(self):
        result = self.good("-r", 1, "--device", "cpu", "--args=-t 8 --sparsity exact", "--peer-args=-ngl 9",
                           "--peer-prefix=env A=B", "--peer-path", "/in/there.gguf")
        self.assertEqual(result["commands"]["ours"], [f"{self.hearth} bench {self.model} -p 16 -n 8 -r 1 -o json "
                                                      "--device cpu -t 8 --sparsity exact"])
        self.assertEqual(result["commands"]["peer"][0],
                         f"env A=B {self.llama_bench} -m /in/there.gguf -o json -p 0 -n 8 -r 1 -ngl 9 -t 2")
        ran = [line.split(" ", 1)[1] for line in self.log.read_text().splitlines()]
        self.assertIn(result["commands"]["ours"][0].split(" ", 1)[1], ran)
        for command in result["commands"]["peer"]:
            self.assertIn(command.split(" ", 3)[3], ran)

    def test_the_table_has_medians_spreads_and_commands(self):
        self.speeds((30, 31, 90), (20, 10, 30))
        code, out, err = self.run_tool("-r", 3)
        self.assertEqual(code, 0, err)
        self.assertIn("| decode | 31.00 (30.00 to 90.00) | 20.00 (10.00 to 30.00) | 3.00 (1.50 to 3.10) |", out)
        self.assertIn("ours: a summary\n", out)
        self.assertIn(f"ours: {self.hearth} bench ", out)
        self.assertIn("threads of the peer: prefill by 1: 10.00 tokens/s, ", out)

    def test_powerinfers_timing_lines_are_read(self):
        result = self.good("-r", 2, "--peer-args=-t 4", peer=("--powerinfer", str(self.powerinfer)))
        self.assertEqual(result["peer"], "PowerInfer")
        self.assertEqual((result["tests"]["prefill"]["peer"]["median"], result["tests"]["decode"]["peer"]["median"]),
                         (200, 25))
        self.assertEqual(self.ran(), ["ours", "peer", "peer", "ours"])
        self.script("main", "#!/bin/sh\necho nothing\n")
        code, _, err = self.run_tool(peer=("--powerinfer", str(self.powerinfer)))
        self.assertEqual(code, 1)
        self.assertIn("no timings of decode and prefill", err)

    def test_a_busy_machine_is_waited_for_and_then_mentioned(self):
        self.neurons_first(self.model)
        self.assertEqual(self.good("-r", 1)["notes"], [])
        self.busy = 0.5
        notes = self.good("-r", 1, "--wait", 0)["notes"]
        self.assertEqual(notes, [f"others used 50 % of the machine before {what}"
                                 for what in ("the sweep of threads", "hearth in round 1", "llama.cpp in round 1")])
        shares = iter([0.9, 0.9, 0.0] + [0.0] * 10)
        with mock.patch.object(compare, "busy_share", lambda: next(shares)):
            self.assertEqual(self.good("-r", 1)["notes"], [])


    def test_a_quantised_down_projection_that_is_transposed_at_load_is_mentioned(self):
        self.assertEqual(self.good("-r", 1, "--args=--sparsity dense")["notes"], [])
        self.assertRegex(self.good("-r", 1, "--args=-t 2 --sparsity exact")["notes"][0],
                         r"ours\.gguf has its down projection as other programs store it.*hearth quantize")


class Refusals(Case):
    def test_a_down_projection_by_neurons_is_the_same_model(self):
        self.neurons_first(self.model, {"blk.0.fc1.weight": (F16, (64, 8)), "blk.0.fc2.weight": (F16, (8, 96))},
                           b"PWRI")
        self.good("-r", 1)
        self.neurons_first(self.peer_model)
        self.refused("peer.gguf", "ffn_down_t", "--peer-model")

    def test_files_that_differ_are_refused_with_the_first_difference(self):
        for change, says in (({"blk.0.ffn_up.weight": (Q8_0, (64, 96))},
                              ("blk.0.ffn_up.weight is Q4_0 64 x 96 in ", "Q8_0 64 x 96 in ", "peer.gguf")),
                             ({"blk.0.ffn_down.weight": (Q4_0, (64, 96))},
                              ("blk.0.ffn_down.weight is Q4_0 96 x 64 in ", "Q4_0 64 x 96")),
                             ({"blk.0.bias": (F32, (64,))}, ("blk.0.bias is in ", "peer.gguf and not in "))):
            write_gguf(self.peer_model, TENSORS | change)
            self.refused(*says)
            self.assertEqual(self.ran(), [])
        write_gguf(self.peer_model, {name: t for name, t in TENSORS.items() if name != "token_embd.weight"})
        self.refused("token_embd.weight is in ", "ours.gguf and not in ")

    def test_what_is_no_model_is_refused(self):
        whole = self.peer_model.read_bytes()
        for data in (b"", b"GGUF", b"not a model", whole[:60], whole[:-1]):
            self.peer_model.write_bytes(data)
            self.refused("peer.gguf")
        self.peer_model.unlink()
        self.refused("peer.gguf")

    def test_programs_that_are_missing_or_fail_are_named(self):
        self.script("llama-bench", "#!/bin/sh\necho too bad >&2\nexit 3\n")
        self.refused("llama-bench", "ended with 3: too bad")
        self.script("llama-bench", "#!/bin/sh\necho words\n")
        self.refused("llama-bench", "did not print JSON")
        self.llama_bench.unlink()
        self.refused("llama-bench cannot be run")
        with mock.patch.dict(os.environ, {"PATH": str(self.folder)}):
            code, _, err = self.run_tool(peer=("--wait", "0"))
        self.assertEqual(code, 1)
        self.assertIn("no llama-bench on PATH", err)

    def test_nothing_to_measure_is_refused(self):
        self.refused("-r 0", more=("-r", 0))
        self.refused("-p", "-n", more=("-p", 0, "-n", 0))


class Machine(unittest.TestCase):
    @unittest.skipUnless(Path("/proc/stat").exists(), "needs /proc/stat")
    def test_a_share_of_the_machine_is_between_none_and_all(self):
        self.assertTrue(0 <= compare.busy_share() <= 1)

    def test_thread_counts_go_from_one_to_all_in_steps(self):
        for cores, counts in ((1, [1]), (2, [1, 2]), (6, [1, 2, 3, 4, 5, 6]), (8, [1, 2, 4, 6, 8]),
                              (24, [1, 2, 4, 8, 12, 16, 18, 24])):
            with mock.patch.object(compare.os, "sched_getaffinity", lambda _, n=cores: set(range(n)), create=True):
                self.assertEqual(compare.thread_counts(), counts)


if __name__ == "__main__":
    unittest.main()
