#!/usr/bin/env python3
"""tools/gpu-day, with programs that only pretend to measure: what it keeps, whatever becomes of its parts.

    python3 tests/gpu_day_test.py build/check/hearth          (packages: tools/models/requirements.txt)
"""

import shutil
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

TOOLS = Path(__file__).resolve().parent.parent / "tools"
PROGRAM = Path(sys.argv.pop(1)).resolve() if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else None

GOOD = """#!/bin/sh
echo "| test | tokens/s |"
echo "| decode | 12.5 |"
case "$*" in *--report*) for word; do case $last in --report) mkdir -p $word; echo '{}' >$word/report.json;; esac
last=$word; done;; quantize*) cp "$2" "$3";; esac
"""


class Case(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name) / "day"
        (self.folder / "models").mkdir(parents=True)
        shutil.copy(TOOLS / "gpu-day", self.folder)
        (self.folder / "models/make_model.py").write_text("import sys; open(sys.argv[1], 'w').write('x' * 4096)")
        self.program("hearth", GOOD)
        self.program("tests", "#!/bin/sh\necho '[doctest] test cases: 3 | 3 passed | 0 failed'\n")
        self.out = Path(scratch.name) / "out"

    def program(self, name, text):
        (self.folder / name).write_text(text)
        (self.folder / name).chmod(0o755)

    def day(self, *options, code=0):
        began = time.monotonic()
        done = subprocess.run([sys.executable, self.folder / "gpu-day", "run", self.out, *options], capture_output=True,
                              text=True, timeout=60)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        self.seconds = time.monotonic() - began
        return done

    def ended(self):
        rows = [row.split(" | ") for row in (self.out / "gpu-day.md").read_text().splitlines() if row.startswith("| ")]
        return {row[0][2:]: row[1] for row in rows if row[-1].endswith("` |")}


class Days(Case):
    def test_every_part_ends_well_and_its_figures_are_kept(self):
        self.day("--minutes", "1")
        ended = self.ended()
        self.assertGreater(len(ended), 15)
        self.assertEqual(set(ended.values()), {"well"})
        self.assertIn("| decode | 12.5 |", (self.out / "gpu-day.md").read_text())
        self.assertTrue((self.out / "report/report.json").exists())
        self.assertFalse((self.out / "models").exists())

    def test_a_part_that_crashes_leaves_the_others(self):
        self.program("tests", "#!/bin/sh\nkill -SEGV $$\n")
        self.day("--minutes", "1", "--only", "tests,formats", code=1)
        ended = self.ended()
        self.assertEqual(ended["tests of kernels"], "with exit code -11")
        self.assertEqual(ended["format f16"], "well")

    def test_the_end_of_the_time_loses_nothing_measured(self):
        self.program("hearth", GOOD.replace("echo", 'case "$*" in bench*q8_0.gguf*) sleep 60;; esac\necho', 1))
        self.day("--minutes", "0.12", "--only", "formats", code=1)
        ended = self.ended()
        self.assertLess(self.seconds, 30)
        self.assertEqual(ended["format q4_k_m"], "well")
        self.assertRegex(ended["format q8_0"], "stopped after|no time was left")
        self.assertIn("## format q4_k_m", (self.out / "gpu-day.md").read_text())

    def test_without_a_card_every_part_says_so(self):
        self.program("hearth", "#!/bin/sh\necho 'hearth: no device' >&2\nexit 1\n")
        self.day("--minutes", "1", "--only", "look,report,sparse", code=1)
        self.assertEqual(self.ended()["devices"], "with exit code 1")
        self.assertIn("no device", (self.out / "00-devices.log").read_text())

    def test_what_cannot_be_is_said_in_a_sentence(self):
        self.assertIn("there is no part", self.day("--only", "weather", code=1).stderr)
        (self.folder / "hearth").unlink()
        self.assertIn("is not a folder that", self.day(code=1).stderr)


class Packing(unittest.TestCase):
    def test_a_folder_that_exists_is_not_packed_into(self):
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run([TOOLS / "gpu-day", "pack", folder, "--build", PROGRAM.parent], capture_output=True,
                                  text=True)
        self.assertEqual(done.returncode, 1)
        self.assertIn("exists", done.stderr)


if __name__ == "__main__":
    unittest.main()
