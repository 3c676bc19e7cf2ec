#!/usr/bin/env python3
"""The program on devices as users have them: their kinds, their memory, and what goes wrong with them. A Vulkan layer
(tests/other_device.cpp) makes each of a software device.

    python3 tests/devices_test.py build/check/hearth          (packages: mesa-vulkan-drivers)
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

MODEL = Path(__file__).resolve().parent / "data" / "fairytale-7m.gguf"
PROGRAM = Path(sys.argv.pop(1)).resolve() if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else None
LAYERS = PROGRAM.parent / "layers" if PROGRAM else None
LAVAPIPE = next(Path("/usr/share/vulkan/icd.d").glob("lvp_icd*.json"), None)
MIB = 1 << 20

LOCAL, VISIBLE, COHERENT, CACHED, PROTECTED, UNCACHED_AMD = 1, 2, 4, 8, 32, 128
MAPPED = VISIBLE | COHERENT
HOST = [{"heap": 1, "flags": MAPPED}, {"heap": 1, "flags": MAPPED | CACHED}]

DISCRETE = {"name": "Other", "kind": "discrete", "heaps": [{"mib": 8192, "local": True}, {"mib": 16384}],
            "types": [{"heap": 0, "flags": LOCAL}, *HOST, {"heap": 0, "flags": LOCAL | MAPPED}]}
WITHOUT_BAR = {**DISCRETE, "heaps": [*DISCRETE["heaps"], {"mib": 256, "local": True}],
               "types": [{"heap": 0, "flags": LOCAL}, *HOST, {"heap": 2, "flags": LOCAL | MAPPED}]}
INTEGRATED = {"name": "Other", "kind": "integrated", "heaps": [{"mib": 12288, "local": True}],
              "types": [{"heap": 0, "flags": LOCAL | MAPPED}, {"heap": 0, "flags": LOCAL | MAPPED | CACHED}]}
SPECIAL = {**DISCRETE, "types": [{"heap": 0, "flags": LOCAL | PROTECTED}, {"heap": 0, "flags": LOCAL | UNCACHED_AMD},
                                 *DISCRETE["types"]]}


def with_budget(device, mib):
    heaps = [dict(heap) for heap in device["heaps"]]
    heaps[0]["budget"] = mib
    return {**device, "heaps": heaps}


class Case(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)

    def run_on(self, device, *arguments):
        """Of the program on such a device: exit code, output, and what it says."""
        description = self.folder / "device.json"
        description.write_text(json.dumps(device))
        environment = {**os.environ, "HEARTH_OTHER_DEVICE": str(description), "VK_LAYER_PATH": str(LAYERS),
                       "VK_INSTANCE_LAYERS": "VK_LAYER_HEARTH_other_device",
                       "XDG_CACHE_HOME": str(self.folder / "cache")}
        if isinstance(device, list):    # as many drivers
            drivers = [self.folder / f"driver{i}.json" for i in range(len(device))]
            for driver in drivers:
                driver.write_text(LAVAPIPE.read_text())
            environment["VK_DRIVER_FILES"] = ":".join(map(str, drivers))
        else:
            environment["VK_LOADER_DRIVERS_SELECT"] = "*lvp*"
        done = subprocess.run([PROGRAM, *map(str, arguments)], env=environment, stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=300)
        return done.returncode, done.stdout, done.stderr

    def described(self, device):
        code, out, err = self.run_on(device, "devices", "--json")
        self.assertEqual(code, 0, err)
        return json.loads(out)

    def written(self, device, tokens=12):
        return self.run_on(device, "run", MODEL, "-p", "Once upon a time", "-n", tokens, "--temp", 0)


class Kinds(Case):
    def test_an_integrated_or_discrete_gpu_is_what_auto_takes(self):
        for device in (DISCRETE, INTEGRATED):
            described = self.described(device)
            self.assertEqual(described["auto"], 0)
            self.assertEqual(described["devices"][0]["kind"], device["kind"] + " GPU")
            self.assertEqual(described["reason"], "the best of 1 Vulkan device")

    def test_memory_is_that_of_the_largest_heap_of_the_device_with_and_without_a_resizable_bar(self):
        for device in (DISCRETE, WITHOUT_BAR):
            self.assertEqual(self.described(device)["devices"][0]["memory"], 8192 * MIB)
        self.assertEqual(self.described(INTEGRATED)["devices"][0]["memory"], 12288 * MIB)

    def test_free_is_what_the_driver_leaves_to_the_program(self):
        self.assertEqual(self.described(with_budget(DISCRETE, 3000))["devices"][0]["free_memory"], 3000 * MIB)

    def test_the_text_is_the_same_on_every_kind_of_memory(self):
        _, want, _ = self.run_on(DISCRETE, "run", MODEL, "-p", "Once upon a time", "-n", 12, "--temp", 0, "--device",
                                 "cpu")
        for device in (DISCRETE, WITHOUT_BAR, INTEGRATED, SPECIAL):
            code, out, err = self.written(device)
            self.assertEqual((code, out), (0, want), err)
            self.assertIn("Other", err)


class Several(Case):
    """Two discrete cards and what is in the processor."""
    DEVICES = [{**INTEGRATED, "name": "Inside"}, {**DISCRETE, "name": "Small"},
               {**DISCRETE, "name": "Large", "heaps": [{"mib": 24576, "local": True}, {"mib": 16384}]}]

    def test_one_is_used_and_the_others_are_named(self):
        self.assertEqual(self.described(self.DEVICES)["reason"],
                         "the best of 3 Vulkan devices; unused: Inside (--device 0), Small (--device 1)")
        code, out, err = self.written(self.DEVICES)
        self.assertEqual(code, 0, err)
        self.assertIn("on Large", err)
        code, again, err = self.run_on(self.DEVICES, "run", MODEL, "-p", "Once upon a time", "-n", 12, "--temp", 0,
                                       "--device", "small")
        self.assertEqual((code, again), (0, out), err)
        self.assertIn("on Small", err)

    def test_what_was_measured_decides_and_not_the_size_of_the_memory(self):
        driver = self.described(self.DEVICES)["devices"][0]["driver"]
        for name, read in (("Large", 300), ("Small", 400)):
            self.measure(name, driver, read)
        self.assertRegex(self.described(self.DEVICES)["reason"], r"measured: 400 GB/s, where Large has 300; unused: ")
        code, _, err = self.written(self.DEVICES)
        self.assertEqual(code, 0, err)
        self.assertIn("on Small", err)

    def measure(self, name, driver, read):
        """Writes what `hearth tune` would have written, for any number of threads."""
        def side(rate):
            return {"rows": {"F16": {"dot": rate, "gate": rate, "fired": rate}}, "read": rate, "kv": rate,
                    "vector": rate, "signs": rate, "step_us": 1}
        figures = {"device": name, "driver": driver, "kernels": "AVX2", "software": False, "host": side(5),
                   "on_device": side(read), "submit_us": 1, "round_trip_us": 1, "release_us": 1, "upload": 10,
                   "together": 1}
        folder = self.folder / "cache" / "hearth"
        folder.mkdir(parents=True, exist_ok=True)
        for threads in range(1, 257):
            file = re.sub("[^a-zA-Z0-9]", "-", f"machine {name} {driver} {threads}") + ".json"
            (folder / file).write_text(json.dumps({**figures, "threads": threads}))


class Troubles(Case):
    def test_a_plan_keeps_to_what_other_programs_leave(self):
        code, _, err = self.run_on(with_budget(DISCRETE, 263), "plan", MODEL)
        self.assertEqual(code, 0, err)
        code, out, err = self.written(with_budget(DISCRETE, 263))    # of which 256 are left for the desktop
        self.assertEqual(code, 0, err)
        self.assertRegex(err, r"of 7\.0 MiB")

    def test_memory_that_another_program_takes_meanwhile_is_told_once(self):
        device = {**DISCRETE, "taken_after": 4, "left": 1}
        code, _, err = self.written(device, 60)
        self.assertEqual(code, 0, err)
        self.assertEqual(err.count("warning: Other has 1 MiB left for this program, which holds"), 1, err)
        self.assertIn("--vram-budget 1MiB", err)
        self.assertNotIn("warning", self.written(DISCRETE)[2])

    def test_what_is_larger_than_the_driver_allocates_at_once_is_an_error_that_says_so(self):
        code, _, err = self.written({**DISCRETE, "allocation": 1})
        self.assertEqual(code, 1)
        self.assertRegex(err, r"hearth: Other has no room for [^\n]+: its buffers end at 1\.0 MiB; [^\n]+\n\Z")

    def test_memory_that_the_host_cannot_reach_is_an_error_that_says_what_for(self):
        code, _, err = self.written({**DISCRETE, "mapped": 0})
        self.assertEqual(code, 1)
        self.assertRegex(err, r"hearth: Other lets this program reach no more of its memory, and [^\n]+\n\Z")

    def test_a_device_lost_at_any_submit_ends_the_program_with_a_sentence(self):
        for after in (1, 2, 4, 9):
            code, _, err = self.written({**DISCRETE, "lost_after": after})
            self.assertEqual(code, 1, err)
            self.assertRegex(err, r"hearth: the GPU was lost during [^\n]+\n\Z")


if __name__ == "__main__":
    unittest.main()
