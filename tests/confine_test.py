#!/usr/bin/env python3
"""--confine, from outside: the same results, the named files and no others, and what the kernel says of the process.

    python3 tests/confine_test.py build/check/hearth
"""

import json
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

DATA = Path(__file__).resolve().parent / "data"
MODEL = DATA / "fairytale-7m.gguf"
PROGRAM = Path(sys.argv.pop(1)).resolve() if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else None
CPU = ("--device", "cpu", "-t", "2")
RUN = ("run", MODEL, *CPU, "-p", "Once upon a time", "-n", "8", "--temp", "0")
SECONDS = 300    # above every run here


def hearth(*args, **more):
    return subprocess.run([PROGRAM, *map(str, args)], capture_output=True, text=True, timeout=SECONDS, **more)


def can_confine():
    return hearth(*RUN, "--confine", "on").returncode == 0


class Confine(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        if not can_confine():
            print("left out: this kernel has no Landlock or no seccomp, so nothing is confined")
            raise unittest.SkipTest("nothing to confine with")

    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)

    def good(self, *args):
        result = hearth(*args)
        self.assertEqual(result.returncode, 0, result.stderr)
        return result

    def test_a_run_gives_the_same_text_and_writes_the_files_that_it_was_told(self):
        stats, trace = self.folder / "stats.json", self.folder / "trace.json"
        confined = self.good(*RUN, "--confine", "on", "--stats", stats, "--trace", trace)
        self.assertEqual(confined.stdout, self.good(*RUN).stdout)
        json.loads(stats.read_text())
        json.loads(trace.read_text())
        self.assertEqual(sorted(self.folder.iterdir()), [stats, trace])

    def test_a_run_on_a_device_works_too(self):
        if "llvmpipe" not in hearth("devices").stdout:
            self.skipTest("the software device is not installed")
        on_device = [x if x != "cpu" else "llvmpipe" for x in RUN]
        self.assertEqual(self.good(*on_device, "--confine", "on").stdout, self.good(*RUN).stdout)

    def test_quantize_and_profile_write_what_they_are_named(self):
        small, profile = self.folder / "small.gguf", self.folder / "text.profile"
        self.good("quantize", MODEL, small, "q8_0", "--confine", "on")
        self.good("profile", small, *CPU, "-f", DATA / "fairytales-valid.txt", "-n", "300", "-o", profile,
                  "--confine", "on")
        self.good("run", small, *CPU, "-p", "Once", "-n", "2", "--profile", profile, "--confine", "on")
        self.assertEqual(sorted(self.folder.iterdir()), [small, profile])

    def state_of(self, process, wait):
        """What the kernel says of a process, once it is confined or so many seconds have passed."""
        until = time.monotonic() + wait
        while True:
            status = dict(line.split(":\t", 1)
                          for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if ":\t" in line)
            if status.get("Seccomp") != "0" or time.monotonic() > until:
                return status.get("NoNewPrivs"), status.get("Seccomp")
            time.sleep(0.05)

    def check_state(self, expected, *args):
        """Of a command that waits for its standard input, or for a reader of its output."""
        process = subprocess.Popen([PROGRAM, *map(str, args)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                   stderr=subprocess.DEVNULL)
        with process:
            state = self.state_of(process, 60 if expected != ("0", "0") else 1)
            process.stdin.close()
            process.stdout.read()
        self.assertEqual(state, expected)

    def test_inspect_and_tokenize_are_confined_unless_they_are_told_not_to(self):
        for command in (("inspect", MODEL, "--json"), ("tokenize", MODEL, "-f", "-")):
            with self.subTest(command=command[0]):
                self.check_state(("1", "2"), *command)
                self.check_state(("0", "0"), *command, "--confine", "off")

    def test_a_file_for_which_there_is_no_word_is_not_understood(self):
        self.assertEqual(hearth(*RUN, "--confine", "perhaps").returncode, 2)


if __name__ == "__main__":
    unittest.main()
