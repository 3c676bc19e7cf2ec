#!/usr/bin/env python3
"""The program from outside: profiles, plans, predictors, rebalancing and traces.
As program_test.py, whose helpers it uses.

    python3 tests/split_test.py build/check/hearth [--all] [arguments of unittest]

Needs numpy and gguf for the generated model. `--all` adds the counts of 30,000 tokens on the software device (two
minutes and a half on two cores).
"""

import json
import re
import resource
import signal
import struct
import subprocess
import sys
import time
import unittest
import zipfile
from pathlib import Path

import gguf
import numpy as np

import program_test as program
from program_test import (ALL, ARGUMENTS, CPU, DEVICE, LAYERS, MODEL, NEURONS, PROGRAM, TEXT, Case, expected,
                          hearth, setUpModule, share)    # noqa: F401

MAKE_MODEL = Path(__file__).resolve().parent.parent / "tools" / "models" / "make_model.py"


def perplexity_of(result):
    return float(re.match(r"ppl = ([0-9.]+)", result.out)[1])


class Profiles(Case):
    def profile(self, *options, of=MODEL, to="profile"):
        return self.good("profile", of, "-f", TEXT, "-o", self.folder / to, "--json", *options).json

    def check_counts(self, got):
        want = expected("activation")
        self.assertEqual(got["positions"], want["positions"])
        for layer, count in zip(got["layers"], want["counts_sum_per_layer"], strict=True):
            self.assertLess(abs(sum(layer["fired"]) / count - 1), 0.001)

    def test_30000_tokens_give_the_expected_counts(self):
        self.check_counts(self.profile("-n", 30000, *CPU))

    @unittest.skipUnless(ALL, "takes two minutes and a half: --all")
    def test_30000_tokens_give_the_expected_counts_on_a_split(self):
        self.check_counts(self.profile("-n", 30000, *share(0.5, 256)))

    def test_device_and_cpu_count_alike(self):
        cpu, device = self.profile("-n", 600, *CPU, to="a"), self.profile("-n", 600, *share(0.5, 256), to="b")
        self.assertEqual(cpu["positions"], device["positions"])
        for a, b in zip(cpu["layers"], device["layers"], strict=True):
            self.assertLess(sum(abs(x - y) for x, y in zip(a["fired"], b["fired"], strict=True)),
                            0.002 * sum(a["fired"]))

    def test_an_interrupted_profile_goes_on_and_ends_as_if_nothing_had_been(self):
        command = [PROGRAM, "profile", MODEL, "-f", TEXT, "-n", "9000", "-o", self.folder / "cut", "--json", *CPU]
        for _ in range(3):    # the third may find it done
            process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                       env=program.ENVIRONMENT)
            time.sleep(0.7)
            process.send_signal(signal.SIGINT)
            _, talk = process.communicate(timeout=60)
            self.assertEqual(process.returncode, 0, talk)
        self.assertEqual(self.profile("-n", 9000, *CPU, to="cut"), self.profile("-n", 9000, *CPU, to="whole"))

    def test_a_text_counts_once(self):
        first = self.profile("-n", 500, *CPU)
        result = self.good("profile", MODEL, "-f", TEXT, "-o", self.folder / "profile", "--json", "-n", "500", *CPU)
        self.assertEqual(result.json, first)
        self.assertIn("does not count twice", result.talk)

    def test_a_profile_of_another_model_and_a_place_that_cannot_be_written_are_refused(self):
        self.profile("-n", 300, *CPU)
        other = self.generated("tiny")
        self.refused("run", other, "-p", "a", "-n", "1", *CPU, "--profile", self.folder / "profile",
                     says=["another model"])
        self.refused("profile", MODEL, "-f", TEXT, "-n", "300", *CPU, "-o", self.folder / "no" / "profile",
                     says=["no/profile", "cannot be written"], alone=False)
        self.refused("run", MODEL, "-p", "a", *CPU, "--sparsity", "predict", says=["hearth profile"])

    def test_an_embedded_profile_is_used(self):
        self.good("profile", MODEL, "-f", TEXT, "-n", "2000", *CPU, "-o", self.folder / "profile",
                  "--embed", self.folder / "with.gguf")
        self.good("run", self.folder / "with.gguf", "-p", "Once", "-n", "2", *CPU, "--sparsity", "predict")

    def generated(self, shape, *options):
        path = self.folder / f"{shape}{len(options)}.gguf"
        subprocess.run([sys.executable, MAKE_MODEL, path, "--shape", shape, *options], check=True,
                       stdout=subprocess.DEVNULL)
        return path

    def test_prediction_by_signs_keeps_the_perplexity_and_says_what_it_saves(self):
        self.profile("-n", 4000, *CPU)
        common = ("perplexity", MODEL, "-f", TEXT, "-n", "3000", "-b", "1", *CPU)
        dense = perplexity_of(self.good(*common))
        result = self.good(*common, "--sparsity", "predict", "--profile", self.folder / "profile", "--check-predictor")
        self.assertLess(abs(perplexity_of(result) / dense - 1), 0.01)
        said = re.search(r"predictor: ([0-9.]+) % of the CPU's gates looked at, ([0-9.]+) "
                         r"% of its rows skipped; recall ([0-9.]+) %", result.talk)
        self.assertTrue(said, result.talk)
        self.assertLess(float(said[1]), 85)
        self.assertGreater(float(said[3]), 98)

    def test_cuts_for_a_silu_model_are_calibrated_and_used(self):
        model = self.write("silu.gguf", program.GgufFile().put_text("hearth.activation", b"silu").bytes)
        self.refused("run", model, "-p", "a", *CPU, "--sparsity", "threshold", says=["--calibrate"])
        small = self.write("text", TEXT.read_text()[:4000])
        result = self.good("profile", model, "-f", small, *CPU, "--calibrate", "0.5")
        said = re.search(r"leaving out 50 % of the neurons takes the perplexity from ([0-9.]+) to ([0-9.]+)",
                         result.talk)
        self.assertTrue(said, result.talk)
        stats = self.folder / "stats.json"
        run = self.good("perplexity", model, "-f", small, "-b", "1", *CPU, "--sparsity", "threshold", "--stats", stats)
        self.assertAlmostEqual(perplexity_of(run) / float(said[2]), 1, delta=0.01)
        totals = program.json.loads(stats.read_text())["totals"]
        active = sum(layer["active_host"] for layer in totals["layers"]) / totals["tokens"] / NEURONS / LAYERS
        self.assertAlmostEqual(active, 0.5, delta=0.1)    # what is left out of one layer changes the next
        self.refused("profile", MODEL, "-f", small, *CPU, "-o", self.folder / "p", "--calibrate", "0.5", says=["ReLU"],
                     alone=False)

    def test_powerinfers_file_gives_what_the_same_weights_give_as_gguf(self):
        plain, pwri = self.generated("tiny"), self.generated("tiny", "--pwri")
        self.assertEqual(pwri.read_bytes()[:4], b"PWRI")
        run = lambda model, *options: float(re.search("likelihood ([0-9.]+)", self.good(    # noqa: E731
            "perplexity", model, "-f", TEXT, "-n", "300", "-b", "1", "-c", "128", *options).talk)[1])
        want = run(plain, *CPU)
        self.assertAlmostEqual(run(pwri, *CPU), want, delta=1e-5)
        self.assertAlmostEqual(run(pwri, *CPU, "--sparsity", "predict"), want, delta=0.02)
        needs = self.good("inspect", pwri, "-c", "128", "--json").json["device_memory"]
        for budget in (needs["least"] + 1000, (needs["least"] + needs["all"]) // 2, needs["all"]):
            self.assertAlmostEqual(run(pwri, *DEVICE, "--vram-budget", f"{budget}B", "--sparsity", "predict"), want,
                                   delta=0.02)

    def test_a_full_disk_ends_profiling_with_a_message_and_spares_the_profile_that_was_there(self):
        self.profile("-n", 500, *CPU)
        before = (self.folder / "profile").read_bytes()
        result = hearth("profile", MODEL, "-f", TEXT, "-n", "1000", "-o", self.folder / "profile", *CPU, timeout=60,
                        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192)))
        self.assertEqual(result.code, 1, result.talk)
        self.check_one_sentence(result, ["profile", "cannot be written", "make room"], alone=False)
        self.assertEqual((self.folder / "profile").read_bytes(), before)
        self.assertEqual([p.name for p in self.folder.iterdir()], ["profile"])


class PowerInferFiles(Case):
    """What PowerInfer keeps beside a model: MODEL.generated.gpuidx and activation/activation_N.pt."""

    def setUp(self):
        super().setUp()
        self.model = self.folder / "model.gguf"
        subprocess.run([sys.executable, MAKE_MODEL, self.model, "--shape", "tiny", "--pwri"], check=True,
                       stdout=subprocess.DEVNULL)
        counts = self.good("profile", self.model, "-f", TEXT, "-n", "1500", "-c", "128", "-o", self.folder / "kept",
                           "--json", *CPU).json
        self.counts = [layer["fired"] for layer in counts["layers"]]
        needs = self.good("inspect", self.model, "-c", "128", "-b", "1", "--json").json["device_memory"]
        budget = needs["scratch"] + needs["head"] + sum(l["attention"] + l["kv"] + l["groups"] // 4 * l["group"]
                                                        for l in needs["layers"])
        self.quarter = (*DEVICE, "-c", "128", "-b", "1", "--vram-budget", f"{budget}B")

    def write_index(self, layers):
        writer = gguf.GGUFWriter(self.folder / "model.gguf.generated.gpuidx", "generic.gpu_index")
        writer.add_uint32("generic.gpu_index.block_count", len(layers))
        writer.add_uint64("split.vram_capacity", 1 << 30)
        for n, hot in enumerate(layers):
            writer.add_tensor(f"blk.{n}.gpu_idx", np.isin(np.arange(len(self.counts[n])), hot).astype(np.int32))
            writer.add_tensor(f"blk.{n}.gpu_bucket", np.sort(hot).astype(np.int32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    def write_statistics(self):
        """As torch.save writes int64 counts; the pickle is that of a plain tensor."""
        (self.folder / "activation").mkdir()
        for n, counts in enumerate(self.counts):
            size = b"M" + struct.pack("<H", len(counts))
            pickle = (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nq\x00((X\x07\x00\x00\x00storageq\x01"
                      b"ctorch\nLongStorage\nq\x02X\x01\x00\x00\x000q\x03"
                      b"X\x03\x00\x00\x00cpuq\x04" + size + b"tq\x05QK\x00" + size
                      + b"\x85q\x06K\x01\x85q\x07\x89ccollections\nOrderedDict\nq\x08)Rq\ttq\nRq\x0b.")
            with zipfile.ZipFile(self.folder / "activation" / f"activation_{n}.pt", "w") as file:
                file.writestr(f"activation_{n}/data.pkl", pickle)
                file.writestr(f"activation_{n}/data/0", np.array(counts, np.int64).tobytes())
                file.writestr(f"activation_{n}/version", "3\n")

    def served(self, *options):
        """Of what fires while a text runs, the share that fires on the device."""
        stats = self.folder / "stats.json"
        result = self.good("perplexity", self.model, "-f", TEXT, "-n", "300", *self.quarter, "--sparsity", "exact",
                           "--stats", stats, *options)
        layers = program.json.loads(stats.read_text())["totals"]["layers"]
        device, host = (sum(layer[f"active_{side}"] for layer in layers) for side in ("device", "host"))
        return device / (device + host), result.talk

    def test_statistics_put_what_fires_most_on_the_device(self):
        unknown, _ = self.served()
        by_profile, _ = self.served("--profile", self.folder / "kept")
        self.write_statistics()
        by_statistics, talk = self.served()
        self.assertIn("activation", talk)
        self.assertGreater(by_statistics, unknown + 0.1)
        self.assertAlmostEqual(by_statistics, by_profile, delta=0.05)

    def test_the_index_is_honoured_reset_and_disabled(self):
        coldest = [np.argsort(c, kind="stable")[:len(c) // 4] for c in self.counts]
        hottest = [np.argsort(c, kind="stable")[-(len(c) // 4):] for c in self.counts]
        unknown, _ = self.served()
        self.write_index(coldest)
        low, talk = self.served()
        self.assertIn("gpuidx", talk)
        self.assertLess(low, unknown - 0.05)
        self.assertAlmostEqual(self.served("--reset-gpu-index")[0], unknown, delta=0.001)
        self.write_index(hottest)
        self.assertGreater(self.served()[0], unknown + 0.1)
        none, talk = self.served("--disable-gpu-index")
        self.assertEqual(none, 0)
        self.assertIn("attention of 4 of 4 layers, 0 % of the neurons", talk)

    def test_a_damaged_index_is_refused_with_the_way_out(self):
        self.write_index([[1, 2, 3]] * len(self.counts))
        path = self.folder / "model.gguf.generated.gpuidx"
        path.write_bytes(path.read_bytes()[:-100])
        self.refused("run", self.model, "-p", "a", *self.quarter, says=["gpuidx", "--reset-gpu-index"])


class Plans(Case):
    def plan(self, *options):
        return self.good("plan", MODEL, *DEVICE, "--json", *options).json["plans"]

    def test_plans_keep_to_their_budgets_and_grow_with_them(self):
        budgets = [5, 7, 9, 11, 13, 15, 17, 19, 21, 23]
        plans = self.plan("--vram-budget", ",".join(f"{b}MiB" for b in budgets))
        before = (0, 0, 0)
        for budget, plan in zip(budgets, plans, strict=True):
            self.assertLessEqual(plan["bytes"], budget << 20)
            layers, groups = (sum(layer[part] for layer in plan["layers"])
                              for part in ("attention_on_device", "resident"))
            # In this order: neurons give way to a layer's attention and to the head.
            now = (layers, plan["head_on_device"], groups)
            self.assertGreaterEqual(now, before)
            before = now
        self.assertEqual(before, (LAYERS, True, sum(layer["groups"] for layer in plans[-1]["layers"])))

    def test_a_measured_machine_makes_plans_tell_the_speed_and_bench_hold_them_to_it(self):
        machine = self.folder / "machine.json"
        self.good("tune", *DEVICE, "-t", "1", "-o", machine)
        options = ("--machine", machine, "-t", "1", "--sparsity", "exact")
        plans = self.plan("--vram-budget", "8MiB,16MiB", *options)
        for plan in plans:
            self.assertGreater(plan["expected_tokens_per_s"], 0)
            self.assertAlmostEqual(plan["expected_us"] * plan["expected_tokens_per_s"], 1e6, delta=1)
        times = [p["expected_us"]
                 for p in self.plan("--vram-budget", "6MiB,8MiB,12MiB,16MiB,24MiB", "--placement", "fastest", *options)]
        self.assertEqual(times, sorted(times, reverse=True))
        result = self.good("bench", MODEL, *DEVICE, "--vram-budget", "8MiB", "-p", "0", "-n", "4", "-r", "1",
                           "-o", "json", *options).json["results"][0]
        self.assertGreater(result["expected_tokens_per_s"], 0)

        # The roofline is of the same steps.
        picture = self.folder / "roofline.svg"
        budget = ("--vram-budget", "8MiB", *options)
        roofline = self.good("roofline", MODEL, *DEVICE, "--measured", "--json", "--plot", picture, "--at", "100",
                             *budget).json
        self.assertEqual({step["on"] for step in roofline["steps"]}, {"device", "host"})
        for step in roofline["steps"]:
            self.assertGreater(step["expected_us"], 0)
            self.assertGreater(step["measured_us"], 0)
        plan = self.plan("--at", "100", *budget)[0]
        self.assertAlmostEqual(sum(step["bytes"] for step in roofline["steps"]),
                               plan["device_bytes_per_token"] + plan["host_bytes_per_token"], delta=1)
        self.assertRegex(picture.read_text(), "(?s)<svg.*cold_ffn.*</svg>")
        shown = self.good("roofline", MODEL, *CPU, "-p", "64", *options).out
        self.assertRegex(shown, r"(?s)a prompt of 64 tokens.*\| qkv \| CPU.*cold_ffn on the CPU, \d+ % of the time")

        measured = json.loads(machine.read_text())
        for name in ("F16", "Q8_0", "Q4_0"):
            self.assertTrue({"host", "laid_out", "floats", "halves"} <= set(measured["products"][name]), name)

        # Its choice of kernels: of whatever it names, and of files from before there was one, the text is the same.
        self.assertEqual(len(measured["row_variants"]), 4)
        classes = measured["row_variants"].values()
        for chosen in classes:
            self.assertEqual(set(chosen), set(measured["on_device"]["rows"]))
        command = ("run", MODEL, "-p", "Once upon a time", "-n", "30", "--temp", "0", *share(0.5), "-t", "1",
                   "--machine")
        texts = {self.good(*command, machine).out}
        one = {"subgroup": next(iter(next(iter(classes)).values()))["subgroup"], "subgroups": 1, "rows": 1,
               "int_dot": True}
        for other in (None, {}, {"few short rows": {"F16": one}}, {"few short rows": {"F16": {**one, "subgroup": 3}}},
                      {"no such rows": 0}):
            changed = {k: v for k, v in measured.items() if k != "row_variants"}
            if other is not None:
                changed["row_variants"] = other
            else:
                del changed["products"]
            texts.add(self.good(*command, self.write("other.json", json.dumps(changed).encode())).out)
        self.assertEqual(len(texts), 1)
        changed["row_variants"] = {"few short rows": {"F16": {**one, "rows": "many"}}}
        self.refused(*command, self.write("other.json", json.dumps(changed).encode()), says=["other.json", "measure"])

    def test_a_machine_without_a_gpu_is_measured_too(self):
        machine = self.folder / "machine.json"
        self.good("tune", *CPU, "-t", "1", "-o", machine)
        def expected(path):
            plans = self.good("plan", MODEL, *CPU, "-t", "1", "--machine", path, "--json").json["plans"]
            return plans[0]["expected_us"]

        self.assertGreater(expected(machine), 0)
        measured = json.loads(machine.read_text())
        self.assertTrue(all(product["host"] > 0 for product in measured["products"].values()))
        self.assertEqual(set(measured["products"]), set(measured["host"]["rows"]))
        # So a prompt is bound by arithmetic, and a token by memory.
        for tokens, bound in ((256, "CPU arithmetic"), (0, "CPU memory")):
            steps = self.good("roofline", MODEL, *CPU, "-t", "1", "--machine", machine, "--json",
                              *(("-p", tokens) if tokens else ())).json["steps"]
            self.assertEqual(next(s["bound"] for s in steps if s["step"] == "cold_ffn"), bound)
        # A file from before a format was added: it is as slow as the slowest.
        rows = measured["host"]["rows"]
        slowest = {kind: min(row[kind] for name, row in rows.items() if name != "F16") for kind in rows["F16"]}
        for name, f16 in (("without", {}), ("slowest", {"F16": slowest})):
            host = {**measured["host"], "rows": {k: v for k, v in rows.items() if k != "F16"} | f16}
            self.write(f"{name}.json", json.dumps(measured | {"host": host}).encode())
        self.assertEqual(expected(self.folder / "without.json"), expected(self.folder / "slowest.json"))
        for wrong in ({"threads": -1}, {"threads": 1e300}, {"threads": 2**32}, {"submit_us": -1}, {"upload": None},
                      {"host": {**measured["host"], "read": -1}}, {"host": {**measured["host"], "rows": {}}},
                      {"host": {**measured["host"], "rows": {"F16": {"dot": 1, "gate": 1, "fired": 0}}}}):
            with self.subTest(wrong=str(wrong)[:40]):
                self.refused("plan", MODEL, *CPU,
                             "--machine", self.write("wrong.json", json.dumps(measured | wrong).encode()),
                             says=["wrong.json", "measure"])

    def test_a_file_that_is_no_measurement_is_refused(self):
        self.refused("plan", MODEL, *DEVICE, "--machine", self.write("m.json", b"{}"),
                     says=["m.json", "hearth tune", "measure"])


class Splits(Case):
    def test_rebalancing_changes_no_word_and_says_what_it_moved(self):
        common = ("run", MODEL, "-p", "Once upon a time", "-n", "40", "--temp", "0", "--sparsity", "exact", *share(0.2))
        off, on = self.good(*common), self.good(*common, "--rebalance", "on")
        self.assertEqual(on.out, off.out)
        self.assertIn("groups moved", on.talk)
        self.assertNotIn("groups moved", off.talk)

    def test_rebalancing_serves_more_of_a_text_that_the_profile_did_not_foresee(self):
        """A profile of fairy tales, a text of which the second half is source code, room for a fifth of the neurons."""
        self.good("profile", MODEL, "-f", TEXT, "-n", "4000", *CPU, "-o", self.folder / "profile")
        text = self.write("text", TEXT.read_text()[-600:] + MAKE_MODEL.read_text()[-900:])
        served, words = {}, {}
        for rebalance in ("off", "on"):
            stats = self.folder / f"{rebalance}.json"
            result = self.good("perplexity", MODEL, "-f", text, "-b", "1", *share(0.2, 256, 1), "-c", "256",
                               "--sparsity", "exact", "--profile", self.folder / "profile", "--rebalance", rebalance,
                               "--stats", stats)
            layers = program.json.loads(stats.read_text())["totals"]["layers"]
            device, host = (sum(layer[f"active_{side}"] for layer in layers) for side in ("device", "host"))
            served[rebalance], words[rebalance] = device / (device + host), perplexity_of(result)
        self.assertGreater(served["on"], served["off"] + 0.005)
        self.assertAlmostEqual(words["on"] / words["off"], 1, delta=1e-4)

    def test_rebalancing_needs_to_see_what_fires(self):
        self.refused("run", MODEL, "-p", "a", *share(0.5), "--rebalance", "on", says=["--rebalance", "--sparsity"])

    def test_both_ways_to_submit_write_the_same(self):
        common = ("run", MODEL, "-p", "Once upon a time", "-n", "20", "--temp", "0", *share(0.5))
        in_time, ahead = self.good(*common, "--submit", "just-in-time"), self.good(*common, "--submit", "ahead")
        self.assertEqual(in_time.out, ahead.out)
        self.assertIn("1.0 submits", ahead.talk)

    def test_a_streamed_prompt_writes_the_same_and_only_prompts_that_are_long_enough_are(self):
        path = self.folder / "stats.json"
        common = ("run", MODEL, "-p", "The old woman looked at the fox and said", "-n", "20", "--temp", "0",
                  *share(0.5), "--stats", path)
        texts, copied = set(), []
        for least in (0, 5, 500):
            result = self.good(*common, "--stream", least)
            texts.add(result.out)
            copied.append(program.json.loads(path.read_text())["prefill"]["streamed_bytes"])
            self.assertEqual("copied to the GPU" in result.talk, least == 5)
        self.assertEqual(len(texts), 1)
        self.assertEqual((copied[0], copied[2]), (0, 0))
        self.assertGreater(copied[1], 0)

    def test_a_trace_shows_host_and_device_at_work_at_once(self):
        """How long they are is for a benchmark to say: a busy machine may stop either.
        One after the other they would never be."""
        path = self.folder / "trace.json"
        self.good("run", MODEL, "-p", "Once", "-n", "40", "--temp", "0", *share(0.2), "--sparsity", "dense",
                  "--trace", path)
        events = [e for e in program.json.loads(path.read_text())["traceEvents"] if e["ph"] == "X"
                  and e["cat"] == "decode"]
        of = lambda names: [(e["args"]["layer"], e["ts"], e["ts"] + e["dur"])    # noqa: E731
                            for e in events if e["name"] in names]
        hot, cold = of(("ffn_up", "ffn_down")), of(("cold_ffn",))
        self.assertGreaterEqual(len(cold), LAYERS * 39)
        at_once = {a[0] for a in cold for b in hot if a[0] == b[0] and a[1] < b[2] and b[1] < a[2]}
        self.assertEqual(at_once, set(range(LAYERS)))


if __name__ == "__main__":
    if PROGRAM is None:
        sys.exit("usage: split_test.py PROGRAM [--all] [arguments of unittest]")
    unittest.main(argv=[sys.argv[0], *ARGUMENTS])
