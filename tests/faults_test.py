#!/usr/bin/env python3
"""The program where memory, threads, file handles or the disk fail:
one sentence, exit code 1, no file half written, nothing left behind.

    python3 tests/faults_test.py build/check/hearth [--all]          (packages: tools/models/requirements.txt)

--all: every allocation fails once, alone and with all after it, instead of a sample of them: those of the command line,
which every command begins with, and those of each command's own work; takes half an hour.
"""

import concurrent.futures
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

TESTS = Path(__file__).resolve().parent
MODEL, TEXT = TESTS / "data" / "fairytale-7m.gguf", TESTS / "data" / "fairytales-valid.txt"
PROGRAM = Path(sys.argv.pop(1)).resolve() if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else None
ALL = "--all" in sys.argv
if ALL:
    sys.argv.remove("--all")
CPU = ("--device", "cpu", "-t", "2")
PART = re.compile(r"\.[0-9a-f]{16}\.part\Z")
SENTENCE = r"(?s)\A(?:.*\n)?hearth: [^\n]+\n\Z"

# What each writes to OUT, if it does.
COMMANDS = {
    "run": ("run", MODEL, "-p", "Once", "-n", "2", "--temp", "0", "--stats", "OUT", *CPU),
    "quantize": ("quantize", MODEL, "OUT", "q8_0", "-t", "2"),
    "profile": ("profile", MODEL, "-f", TEXT, "-n", "100", "-c", "64", "-o", "OUT", *CPU),
    "inspect": ("inspect", MODEL),
    "tokenize": ("tokenize", MODEL, "-p", "Once upon a time"),
}


class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        scratch = tempfile.TemporaryDirectory()
        cls.addClassCleanup(scratch.cleanup)
        cls.base = Path(scratch.name)
        cls.faults = cls.base / "faults.so"
        compiler = os.environ.get("CXX", "c++")
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-std=c++20", "-o", cls.faults, TESTS / "faults.cpp",
                        "-ldl"], check=True)

    def setUp(self):
        scratch = tempfile.TemporaryDirectory(dir=self.base)
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)

    def hearth(self, args, out, prefix=(), faults=None, **more):
        environment = os.environ | {"XDG_CACHE_HOME": str(self.folder / "cache")}
        if faults is not None:
            environment |= {"LD_PRELOAD": str(self.faults)} | {f"HEARTH_{name}": str(value)
                                                               for name, value in faults.items()}
        args = [str(out) if a == "OUT" else str(a) for a in args]
        return subprocess.run([*prefix, str(PROGRAM), *args], capture_output=True, text=True, timeout=120,
                              env=environment, stdin=subprocess.DEVNULL, **more)

    def allocations(self, args, code=0):
        count = self.folder / "count"
        for path in (count, self.folder / "first"):    # profile would go on with what it finds
            path.unlink(missing_ok=True)
        result = self.hearth(args, self.folder / "first", faults={"COUNT": count})
        self.assertEqual(result.returncode, code, result.stderr)
        return int(count.read_text())

    def own_work(self, args):
        """Its first allocation and its last: before them the command line is read, which takes many more."""
        missing = [self.folder / "missing.gguf" if a == MODEL else a for a in args]
        return self.allocations(missing, 1), self.allocations(args)

    def nothing_left(self, folder):
        self.assertEqual([p.name for p in folder.iterdir() if PART.search(p.name)], [])


class Memory(Case):
    def check(self, name, on, command_line=False):
        args = COMMANDS[name]
        begin, end = self.own_work(args)
        self.assertLess(begin, end)
        if command_line:
            begin, end = 0, begin
        numbers = range(begin, end) if ALL else sorted({*range(begin, end, max((end - begin) // 10, 1)),
                                                        *range(begin, min(begin + 4, end)), *range(end - 4, end)})
        whole = (self.folder / "first").read_bytes() if "OUT" in args else None
        results = {}

        def one(n):
            folder = self.folder / f"{name}-{on}-{n}"
            folder.mkdir()
            out = folder / "out"
            out.write_bytes(b"earlier")
            if name == "profile":
                out.unlink()    # it would go on with it
            result = self.hearth(args, out, faults={"FAIL_NEW": n, "FAIL_ON": int(on)})
            left = sorted(p.name for p in folder.iterdir())
            written = out.read_bytes() if out.exists() else None
            shutil.rmtree(folder)
            return n, result, left, written
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            for n, result, left, written in pool.map(one, numbers):
                results[result.returncode] = results.get(result.returncode, 0) + 1
                with self.subTest(name, on=on, n=n):
                    self.assertIn(result.returncode, (0, 1), result.stderr)
                    self.assertIn(left, ([], ["out"]))
                    if result.returncode == 1:
                        self.assertRegex(result.stderr, SENTENCE)
                        self.assertIn("memory", result.stderr.splitlines()[-1])
                    if name == "quantize" and written != b"earlier":    # whole, or what was there
                        self.assertEqual(written, whole)
        if ALL:
            print(f"{'command line' if command_line else name}, {'from the Nth on' if on else 'the Nth alone'}: "
                  f"{len(numbers)} allocations failed, exit codes {results}", file=sys.stderr)

    def test_an_allocation_that_fails_ends_in_the_sentence(self):
        self.check("inspect", False, command_line=True)
        for name in COMMANDS:
            self.check(name, False)

    def test_memory_that_runs_out_for_good_ends_in_the_sentence(self):
        self.check("inspect", True, command_line=True)
        for name in COMMANDS:
            self.check(name, True)

    def test_an_address_space_that_is_too_small_ends_in_a_sentence(self):
        results = set()
        for mib in (*range(20, 200, 20), 300, 500):
            def limit(mib=mib):
                resource.setrlimit(resource.RLIMIT_AS, (mib << 20, mib << 20))
            result = self.hearth(COMMANDS["run"], self.folder / "out", preexec_fn=limit)
            if "error while loading shared libraries" in result.stderr or result.returncode == 127:
                continue    # it has not begun
            results.add(result.returncode)
            with self.subTest(mib=mib):
                self.assertIn(result.returncode, (0, 1), result.stderr)
                if result.returncode == 1:
                    self.assertRegex(result.stderr, SENTENCE)
        self.assertIn(1, results)


class Threads(Case):
    def test_threads_that_cannot_be_had_are_an_error_that_names_the_option(self):
        for n in (0, 1):
            result = self.hearth(("run", MODEL, "-p", "a", "-n", "2", "--device", "cpu", "-t", "4"), None,
                                 faults={"FAIL_THREAD": n})
            with self.subTest(n):
                self.assertIn(result.returncode, (0, 1), result.stderr)    # fewer threads may do as well
                if result.returncode == 1:
                    self.assertRegex(result.stderr, SENTENCE)
                    self.assertIn("-t", result.stderr.splitlines()[-1])
                self.assertNotIn("terminate", result.stderr)

    def test_too_few_open_files_end_in_a_sentence(self):
        for most in range(3, 12):
            def limit(most=most):
                resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
            result = self.hearth(COMMANDS["quantize"], self.folder / "out", preexec_fn=limit)
            if "error while loading shared libraries" in result.stderr:
                continue
            with self.subTest(most):
                self.assertIn(result.returncode, (0, 1), result.stderr)
                if result.returncode == 1:
                    self.assertRegex(result.stderr, SENTENCE)
                    self.assertIn("ulimit -n", result.stderr)
            self.nothing_left(self.folder)


@unittest.skipUnless(shutil.which("strace")
                     and subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True).returncode == 0,
                     "needs strace")
class Calls(Case):
    WRITERS = ("run", "quantize", "profile")

    def traced(self, name, out, *options):
        log = self.folder / "trace"
        result = self.hearth(COMMANDS[name], out, ("strace", "-f", "-y", "-o", str(log),
                                                   "-e", "trace=openat,write,fsync,rename,unlink", *options))
        calls = []
        for line in log.read_text().splitlines():
            if match := re.match(r"\d+ +(\w+)\((.*)", line):
                calls.append((match[1], match[2]))
        return result, calls

    def test_bytes_are_synced_before_the_name_and_the_name_after(self):
        for name in self.WRITERS:
            out = self.folder / "out"
            result, calls = self.traced(name, out)
            self.assertEqual(result.returncode, 0, result.stderr)
            mine = [(call, text) for call, text in calls if str(self.folder) in text]
            opened = [i for i, (call, text) in enumerate(mine) if call == "openat" and ".part" in text]
            self.assertTrue(opened)
            for i in opened:
                part = re.search(r'"([^"]*\.part)"', mine[i][1])[1]
                self.assertTrue("O_EXCL" in mine[i][1] and "O_NOFOLLOW" in mine[i][1] and PART.search(part), mine[i])
                rest = [call for call, text in mine[i + 1:] if part in text
                        or (call == "fsync" and f"<{self.folder}>" in text)]
                until = rest[:rest.index("rename") + 2]
                self.assertEqual(until[-3:], ["fsync", "rename", "fsync"], (name, rest))
                self.assertNotIn("write", rest[rest.index("rename"):])
            out.unlink()

    def test_any_call_that_fails_leaves_the_old_file_or_the_new_one_whole(self):
        for name in self.WRITERS:
            whole = self.folder / f"whole-{name}"
            self.assertEqual(self.hearth(COMMANDS[name], whole).returncode, 0)
            for call, error in (("fsync", "EIO"), ("fsync", "ENOSPC"), ("rename", "EACCES"), ("rename", "EIO"),
                                ("write", "ENOSPC"), ("fchmod", "EIO")):
                for when in (1, 2, 3):
                    if call == "write" and name != "quantize":
                        continue    # answers are written, too
                    folder = self.folder / f"{name}-{call}-{error}-{when}"
                    folder.mkdir()
                    out = folder / "out"
                    if name == "quantize":
                        out.write_bytes(b"earlier")
                    result, _ = self.traced(name, out, "-e", f"trace={call}",
                                            "-e", f"inject={call}:error={error}:when={when}")
                    with self.subTest(name, call=call, error=error, when=when):
                        self.assertIn(result.returncode, (0, 1), result.stderr)
                        self.assertLessEqual({p.name for p in folder.iterdir()}, {"out"})
                        if result.returncode == 1:
                            self.assertRegex(result.stderr, SENTENCE)
                            self.assertIn("written", result.stderr.splitlines()[-1])
                        if name == "quantize":
                            self.assertIn(out.read_bytes(), (b"earlier", whole.read_bytes()))


if __name__ == "__main__":
    if PROGRAM is None:
        sys.exit("usage: faults_test.py build/check/hearth [--all] [arguments of unittest]")
    unittest.main()
