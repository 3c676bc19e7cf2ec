#!/usr/bin/env python3
"""hearth.exe under Wine against the program of this system: the same texts, files and tokens, names that are not ASCII,
streams of bytes. Wine is not Windows; what it cannot show is left to a machine that has it.

    tools/windows && xvfb-run -a python3 tests/wine_test.py build/windows/hearth/hearth.exe build/release/hearth
        [--hangs N] [arguments of unittest]

--hangs N: also N runs of `run` and of `quantize`, six at a time, ten seconds each at most (240 take some minutes). The
X server of xvfb-run lets Wine's Vulkan reach the software device.
"""

import concurrent.futures
import json
import os
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

TESTS = Path(__file__).resolve().parent
MODEL = TESTS / "data/fairytale-7m.gguf"
TEXT = TESTS / "data/fairytales-valid.txt"
WINDOWS, LINUX = (Path(p).resolve() for p in sys.argv[1:3]) if len(sys.argv) > 2 else (None, None)
HANGS = int(sys.argv[sys.argv.index("--hangs") + 1]) if "--hangs" in sys.argv else 0
NAME, FOLDER = "Märchen-物語", "Ünï cödé"
PROMPT = ("-p", "Once upon a time", "-n", "50", "--temp", "0")
SPLIT = ("--device", "llvmpipe", "--vram-budget", "8MiB", "--placement", "most")
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith(("VK_", "HEARTH_"))}
ENVIRONMENT.update(VK_LOADER_DRIVERS_SELECT="*lvp*", LC_ALL="C.UTF-8")
WINE = shutil.which("wine64") or "/usr/lib/wine/wine64"
# At random addresses one start in some thousands finds a page taken that Wine must have, and ends with exit code 1.
FIXED = ("setarch", "-R")


def run(program, *args, text=b"", code=0, timeout=120, cwd=None):
    command = [*FIXED, WINE, program] if program == WINDOWS else [program]
    done = subprocess.run([str(a) for a in (*command, *args)], input=text, capture_output=True, env=ENVIRONMENT,
                          timeout=timeout, cwd=cwd)
    if done.returncode != code:
        raise AssertionError(f"{args}: exit code {done.returncode}: {done.stderr.decode(errors='replace')}")
    return done


class Wine(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        scratch = tempfile.TemporaryDirectory(prefix="wine-")
        cls.addClassCleanup(scratch.cleanup)
        cls.folder = Path(scratch.name, FOLDER)
        cls.folder.mkdir()
        cls.model = cls.folder / f"{NAME}.gguf"
        shutil.copy(MODEL, cls.model)
        ENVIRONMENT.update(WINEPREFIX=f"{scratch.name}/prefix", WINEDEBUG="-all",
                           WINEDLLOVERRIDES="mscoree=d;mshtml=d", XDG_CACHE_HOME=f"{scratch.name}/cache")
        run(WINDOWS, "--version", timeout=600)
        cls.addClassCleanup(subprocess.run, [Path(WINE).with_name("wineserver"), "-k"], env=ENVIRONMENT, check=False)

    def same(self, *args, **more):
        ours, theirs = (run(p, *args, **more).stdout for p in (WINDOWS, LINUX))
        self.assertEqual(ours, theirs)
        return ours

    def test_a_text_is_the_same_on_the_cpu_on_the_device_and_split(self):
        texts = set()
        for name, options in (("cpu", ("--device", "cpu")), ("device", ("--device", "llvmpipe")), ("split", SPLIT)):
            with self.subTest(name):
                texts.add(self.same("run", self.model, *PROMPT, *options))
        for text in texts:
            self.assertGreater(len(text), 100)
            self.assertNotIn(b"\r", text)

    def test_quantize_writes_the_same_bytes(self):
        for kind in ("q8_0", "q4_0"):
            with self.subTest(kind):
                for program, name in ((WINDOWS, "windows"), (LINUX, "linux")):
                    run(program, "quantize", self.model, self.folder / f"{NAME}-{name}.gguf", kind)
                ours, theirs = ((self.folder / f"{NAME}-{name}.gguf").read_bytes() for name in ("windows", "linux"))
                self.assertTrue(ours == theirs)
        self.assertEqual([p.name for p in self.folder.iterdir() if p.name.endswith(".part")], [])

    def test_words_and_streams_are_bytes(self):
        for text in ("Ünï → 物", "\"a b\" \\ c\\\\\" d", "*", "%PATH%"):
            with self.subTest(text):
                self.same("tokenize", self.model, "-p", text)
        for text in (b"before\x1aafter\n", b"a\r\nb\r\n", b"\xef\xbb\xbfwith a mark\n", "Ünï → 物".encode() * 10000):
            with self.subTest(text[:20]):
                self.assertNotIn(b"\r", self.same("tokenize", self.model, "-f", "-", text=text))
                path = self.folder / f"{NAME}.txt"
                path.write_bytes(text)
                self.same("tokenize", self.model, "-f", path)
        for encoding in ("utf-16-le", "utf-16-be"):
            path.write_bytes("\ufefftext".encode(encoding))
            done = run(WINDOWS, "tokenize", self.model, "-f", path, code=1)
            self.assertIn("is UTF-16", done.stderr.decode())
            self.assertIn(NAME, done.stderr.decode())

    def test_every_command_takes_such_names(self):
        text = self.folder / f"{NAME}.txt"
        text.write_bytes(TEXT.read_bytes()[:6000])
        self.same("inspect", self.model)
        self.same("template", self.model, "-p", "Hello", "--template", "chatml")
        self.same("perplexity", self.model, "-f", text, "-c", "128", "--device", "cpu")
        self.same("simulate", "--arch", "llama-33b", "--card", "7900 XTX", "--cpu", "7700X", "--ram", "DDR5-6000")
        self.same("chat", self.model, "--temp", "0", "-n", "20", "--template", "chatml", "--device", "cpu",
                  text="Once\r\nMärchen\n".encode())
        for args in (("tune", "--device", "cpu"), ("plan", self.model), ("doctor", self.model),
                     ("devices",), ("bench", self.model, "-p", "32", "-n", "8", "-r", "1", "--device", "cpu"),
                     ("roofline", self.model), ("manual", "powershell"),
                     ("profile", self.model, "-f", text, "--device", "cpu")):
            with self.subTest(args[0]):
                done = run(WINDOWS, *args, timeout=300)
                self.assertTrue(done.stdout + done.stderr)
        stats, trace = self.folder / f"{NAME}.json", self.folder / f"{NAME}-trace.json"
        run(WINDOWS, "run", self.model, *PROMPT, "--device", "cpu", "--stats", stats, "--trace", trace)
        for path in (stats, trace):
            json.loads(path.read_text(encoding="utf-8"))

    def test_eval_counts_what_linux_counts(self):
        answers = []
        for program, name in ((WINDOWS, "windows"), (LINUX, "linux")):
            out = self.folder / f"{NAME}-{name}.jsonl"
            run(program, "eval", self.model, "--task", "gsm8k", "--data", TESTS / "data/eval/gsm8k-test.jsonl",
                "--shots-from", TESTS / "data/eval/gsm8k-train.jsonl", "--shots", "1", "--limit", "2", "-n", "16",
                "--device", "cpu", "-o", out, timeout=300)
            lines = [json.loads(line) for line in out.read_bytes().splitlines()]
            answers.append([(line["problem"], line["answer"], line["right"]) for line in lines if "problem" in line])
        self.assertEqual(answers[0], answers[1])
        self.assertEqual(len(answers[0]), 2)

    def test_a_report_is_made(self):
        folder = self.folder / f"{NAME}-report"
        run(WINDOWS, "bench", self.model, "--report", folder, "--device", "cpu", timeout=600)
        self.assertLessEqual({"report.json", "report.html", "report.md"}, {p.name for p in folder.iterdir()})
        self.assertNotIn(b"\r", (folder / "report.md").read_bytes())

    def test_errors_name_the_file_as_it_is_called(self):
        for args in (("run", self.folder / f"{NAME}-none.gguf", *PROMPT), ("run", self.folder, *PROMPT),
                     ("quantize", self.model, self.folder / f"none/{NAME}.gguf", "q8_0")):
            with self.subTest(args[0]):
                done = run(WINDOWS, *args, code=1)
                self.assertIn(args[-1].name if args[0] == "none" else FOLDER, done.stderr.decode())
                self.assertTrue(done.stderr.endswith(b"\n"))
                self.assertNotIn(b"\r", done.stderr)
        run(WINDOWS, "run", self.model, "--no-such-option", code=2)

    def test_confinement_is_refused_where_a_trial_shows_that_it_does_nothing(self):
        """Wine takes the calls, and a process that has given up writing goes on writing."""
        done = run(WINDOWS, "inspect", self.model, "--confine", "on", code=1)
        self.assertRegex(done.stderr.decode(), r"(?s)\Ahearth: this system cannot keep files from being written "
                                               r"\(a low level of integrity[^\n]*: use --confine off\n\Z")
        self.same("inspect", self.model, "--confine", "off")

    @unittest.skipUnless(HANGS, "asked for by --hangs")
    def test_no_run_hangs(self):
        subprocess.run([Path(WINE).with_name("wineserver"), "-p"], env=ENVIRONMENT, check=True)    # which stays
        # Wine's services begin with the first program, stay as long, and hold its pipes: whoever reads one waits for
        # them, whatever the program is.
        subprocess.run([*FIXED, WINE, WINDOWS, "--version"], env=ENVIRONMENT, check=True, stdin=subprocess.DEVNULL,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

        def one(i):
            out = self.folder / f"{i}.gguf"
            args = ("quantize", self.model, out, "q8_0")
            if i % 2:
                args = ("run", self.model, *PROMPT, "--device", "cpu", "-t", "2")
            try:
                run(WINDOWS, *args, timeout=10)
            except subprocess.TimeoutExpired:
                return args[0]
            finally:
                out.unlink(missing_ok=True)

        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            hung = [name for name in pool.map(one, range(2 * HANGS)) if name]
        self.assertEqual(hung, [])


if __name__ == "__main__":
    if WINDOWS is None:
        sys.exit("usage: wine_test.py HEARTH.EXE HEARTH [--hangs N] [arguments of unittest]")
    del sys.argv[1:3]
    if HANGS:
        at = sys.argv.index("--hangs")
        del sys.argv[at:at + 2]
    unittest.main()
