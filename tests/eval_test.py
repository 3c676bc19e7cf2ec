#!/usr/bin/env python3
"""`hearth eval` from outside: what it makes of answers, what it keeps, and that nothing gets lost.

    python3 tests/eval_test.py build/check/hearth [arguments of unittest]

Needs nothing but Python.
"""

import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

DATA = Path(__file__).resolve().parent / "data"
MODEL = DATA / "fairytale-7m.gguf"
GSM8K, TRAIN = DATA / "eval/gsm8k-test.jsonl", DATA / "eval/gsm8k-train.jsonl"
HUMANEVAL = DATA / "eval/humaneval.jsonl.gz"
PROGRAM = Path(sys.argv.pop(1)).resolve() if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else None
SECONDS = 300    # above every run here
CPU = ("--device", "cpu", "-t", "1")
QUESTIONS = ("--task", "gsm8k", "--data", GSM8K, "--shots-from", TRAIN)


def hearth(*args, **more):
    return subprocess.run([PROGRAM, *map(str, args)], capture_output=True, text=True, timeout=SECONDS, **more)


def lines_of(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def answers_of(path):
    return [line for line in lines_of(path) if "problem" in line]


def timeless(record):
    """What a record says of the answer, without what it took."""
    return {key: record[key] for key in ("of", "problem", "sample", "answer", "end", "right", "found", "tokens")}


class Case(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)

    def file(self, name, lines):
        path = self.folder / name
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return path

    def good(self, *args, **more):
        result = hearth("eval", *args, **more)
        self.assertEqual(result.returncode, 0, result.stderr)
        return result

    def summary(self, *args):
        return json.loads(self.good(*args, "--json").stdout)

    def refused(self, *args, code=1, **more):
        result = hearth("eval", *args, **more)
        self.assertEqual(result.returncode, code, result.stderr)
        return result.stderr


# ---- what counts of an answer ----------------------------------------------------------------------------------------

# As published in lm-evaluation-harness: the expression, and which match counts.
FLEXIBLE = (r"(-?[$0-9.,]{2,})|(-?[0-9]+)", -1)
FILTERS = {
    ("gsm8k",): {"strict-match": (r"#### (\-?[0-9\.\,]+)", 0), "flexible-extract": FLEXIBLE},
    ("gsm8k-cot",): {"strict-match": (r"The answer is (\-?[0-9\.\,]+).", 0), "flexible-extract": FLEXIBLE},
    ("gsm8k-cot", "--chat"): {"strict-match": (r"The final answer is ((-?[$0-9.,]{2,})|(-?[0-9]+))", -1),
                              "flexible-extract": FLEXIBLE},
}
IGNORED = [",", r"\$", r"(?s).*#### ", r"\.$"]


def extracted(expression, which, answer):
    matches = re.findall(expression, answer)
    if not matches:
        return "[invalid]"
    match = matches[which]
    if isinstance(match, tuple):
        match = next((group for group in match if group), "[invalid]")
    return match.strip()


def comparable(text):
    for expression in IGNORED:
        text = re.sub(expression, "", text)
    return text.lower()


HAND_MADE = [
    "", " ", "\n", "#### 18", "#### 18.", "####18", "####  18", "#### $18", "#### 1,234", "#### -7", "#### 3.50",
    "#### 18\n#### 19", "The answer is 18.", "The answer is 18", "The answer is 18!", "The answer is $18.",
    "The answer is 18\n", "The answer is -18..", "The answer is 1,000.", "the answer is 18.", "The answer is\n18.",
    "The final answer is 18", "The final answer is $18.50", "The final answer is -18. The final answer is 19.",
    "The final answer is: 18", "18 ...", "18...", "so 18.", "so -18-", "$$", "..", ",,", "-", "--5", "5-3=2", "1.2.3",
    "18 é 19", "é18", "The answer is 18é", "The answer is 18\U0001F642", "１８", "٣ and 18", "-\u221218", "18\u00a0",
    "18\r\n", "x = 1_000", "0x12", "1e5", "NaN", "18%", "(18)", "<<3*6=18>>18", "[invalid]", "####", "#### ",
    "#### .", "#### ,", "####\n18", "a #### b #### 18", "eighteen", "The answer is 9. The answer is 8.", "7" * 300,
    "#### 18 #### 19.", "$18", "18$", "$1,8.", "18\x00", "\x0018", "#### 18\x85", "\\18", "18\\", "18\u2028",
    "\u202818",
]


def constructed(count):
    """Answers of pieces that the expressions care for."""
    chance = random.Random(20)
    pieces = ["#### ", "The answer is ", "The final answer is ", "Question:", "Q:", " ", "\n", ".", ",", "$", "-",
              "...", "18", "5", "1,234", "-7", "3.5", "é", "18.", "\t", "\r", "x", "####", "$9", "\n\n", "\u2028", "0"]
    return HAND_MADE + ["".join(chance.choices(pieces, k=chance.randint(1, 9))) for _ in range(count)]


class Extraction(Case):
    def test_what_is_found_and_what_is_right_is_what_pythons_re_says(self):
        answers = constructed(400)
        right = [f"thus <<1+17=18>>18\n#### {n}" for n in ("18", "1,234", "-7", "5", "3.5")]
        problems = [{"question": "?", "answer": right[i % len(right)]} for i in range(len(answers))]
        data = self.file("data.jsonl", problems)
        given = self.file("given.jsonl", [{"answer": answer} for answer in answers])
        for task, filters in FILTERS.items():
            with self.subTest(task=task):
                records = self.folder / f"{len(task)}{task[0]}.jsonl"
                self.good("--task", *task, "--data", data, "--shots", 0, "--answers", given, "-o", records)
                found = answers_of(records)
                self.assertEqual(len(found), len(answers))
                for record, answer, problem in zip(found, answers, problems):
                    self.assertEqual(record["answer"], answer)
                    for name, (expression, which) in filters.items():
                        expected = extracted(expression, which, answer)
                        self.assertEqual(record["found"][name], expected, (name, answer))
                        self.assertEqual(record["right"][name],
                                         comparable(expected) == comparable(problem["answer"]), (name, answer))

    def test_right_answers_are_all_right_and_blank_ones_all_wrong(self):
        for answers, right in ((GSM8K, 6), (self.file("blank.jsonl", [{"answer": ""}] * 6), 0)):
            [summary] = self.summary(*QUESTIONS, "--answers", answers)
            for score in summary["scores"].values():
                self.assertEqual((score["right"], score["judged"]), (right, 6))

    def test_own_problems_say_how_their_answers_are_found(self):
        own = self.file("own.jsonl", [
            {"prompt": "Say yes.", "answer": "Yes"},
            {"prompt": "3 + 4 =", "answer": 7, "extract": r"= *(\d+)"},
            {"id": "last", "prompt": "?", "answer": "b", "extract": "[ab]"},
        ])
        given = self.file("given.jsonl", [{"answer": "  yes.\n"}, {"answer": "3 + 4 = 7"},
                                         {"id": "last", "answer": "ab"}])
        [summary] = self.summary("--task", own, "--answers", given)
        self.assertEqual(summary["scores"]["right"]["right"], 3)

    def test_several_answers_to_a_problem_give_pass_at_k(self):
        given = self.file("given.jsonl", [{"id": str(i), "answer": "#### 18" if k < 1 else "#### 3"}
                                          for i in range(6) for k in range(4)])
        [summary] = self.summary(*QUESTIONS, "--answers", given)
        strict = summary["scores"]["strict-match"]
        # Problem 0 is 18, problem 1 is 3; the others are neither: 1 and 3 of 4 samples are right.
        self.assertEqual(strict["right"], 4)
        self.assertAlmostEqual(strict["pass@1"]["value"], (1 / 4 + 3 / 4) / 6)
        self.assertAlmostEqual(strict["pass@2"]["value"], (1 / 2 + 1) / 6)
        self.assertAlmostEqual(strict["pass@4"]["value"], 2 / 6)

    def test_what_is_no_data_is_refused_in_a_sentence(self):
        (self.folder / "cut.gz").write_bytes(HUMANEVAL.read_bytes()[:200])
        for path, what in ((self.file("a", [{"question": "?"}]), '"answer"'), (self.file("b", []), "no problems"),
                           (self.folder / "cut.gz", "cannot be read"), (self.folder / "none", "cannot be read"),
                           (self.folder, "is a folder"), (MODEL, "no JSON")):
            self.assertIn(what, self.refused("--task", "gsm8k", "--data", path, "--shots", 0, "--answers", GSM8K))
        twice = self.file("twice", [{"id": 1, "prompt": "?", "answer": 1}] * 2)
        self.assertIn("again", self.refused("--task", twice, "--answers", GSM8K))
        bad = self.file("bad", [{"prompt": "?", "answer": 1, "extract": "("}])
        self.assertIn("no regular expression", self.refused("--task", bad, "--answers", GSM8K))
        self.assertIn("no answer to problem 3",
                      self.refused(*QUESTIONS, "--answers", self.file("few", [{"answer": ""}] * 3)))


# ---- programs --------------------------------------------------------------------------------------------------------

# Each comes to its end if what it tries succeeds. OUTSIDE is a folder of ours that anybody may write to.
HOSTILE = {
    "an endless loop": "while True: pass",
    "a loop that cannot be interrupted": "import signal, time\n"
        "for n in range(1, 32):\n    try: signal.signal(n, signal.SIG_IGN)\n    except (OSError, ValueError): pass\n"
        "while True:\n    try: time.sleep(9)\n    except BaseException: pass",
    "a fork bomb": "import os\nwhile True: os.fork()",
    "a fork bomb that does not give up": "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
    "a thread bomb": "import threading, time\n"
        "for _ in range(9): threading.Thread(target=time.sleep, args=(9,)).start()",
    "another program": "import subprocess\nsubprocess.run(['/usr/bin/env'])",
    "a file outside": "open(OUTSIDE + '/made', 'w')",
    "a file in the root": "open('/made', 'w')",
    "a file in /usr": "open('/usr/made', 'w')",
    "a file in /etc": "open('/etc/made', 'w')",
    "a program among the system's": "import os\nos.rename('/usr/bin/env', '/usr/bin/env2')",
    "a socket": "import socket\nsocket.socket()",
    "a local socket": "import socket\nsocket.socketpair()",
    "the internet": "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:1/')",
    "10 GB": "x = bytearray(10 << 30)",
    "10 GB that is shared": "import mmap\nx = mmap.mmap(-1, 10 << 30)",
    "memory bit by bit": "x = []\nwhile True: x.append(bytearray(1 << 20))",
    "memory that is a file": "import os\nos.memfd_create('x')",
    "a large file": "f = open('/tmp/x', 'wb')\nfor _ in range(2000): f.write(bytes(1 << 20))",
    "many files": "for i in range(100000): open(f'/tmp/{i}', 'w').write('x' * 4000)",
    "many open files": "x = [open('/dev/null') for _ in range(1000)]",
    "more rights": "import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
    "another user": "import os\nos.setuid(0)",
    "the home folder": "import os\nassert [n for n in os.listdir(HOME) if n not in WAY]",
    "a file of the home folder": "import os\nopen(os.path.join(HOME, '.profile')).read()",
    "users' names": "open('/etc/passwd')",
    "processes": "import os\nos.listdir('/proc/1')",
    "the disk": "import os\nos.stat('/dev/sda'), os.listdir('/sys/block')",
    "a device": "import os\nos.mknod('/tmp/x', 0o20666, os.makedev(1, 1))",
    "a mount": "import ctypes\nassert ctypes.CDLL(None).mount(b'none', b'/tmp', b'tmpfs', 0, None) == 0",
    "a namespace": "import ctypes\nassert ctypes.CDLL(None).unshare(0x10000000) == 0",
    # What looks like a folder of its own becomes a link out of it, over and over, while it writes there.
    "a race of links": "import os, time\nos.chdir('/tmp')\nos.mkdir('a')\nos.symlink(OUTSIDE, 'b')\n"
        "end = time.time() + 0.2\n"
        "while time.time() < end:\n    os.rename('a', 'c'); os.rename('b', 'a')\n"
        "    try: open('a/made', 'w').write('x')\n    except OSError: pass\n"
        "    os.rename('a', 'b'); os.rename('c', 'a')\nassert os.path.exists(OUTSIDE + '/made')",
    "a link to the root": "import os\nos.symlink('/', 'root')\nopen('root/made', 'w')",
    "an early end": "import sys\nsys.exit(0)",
    "a hard end": "import os\nos._exit(0)",
    "an end of its own": "import os\nos.write(1, b'passed')\nos.kill(os.getpid(), 9)",
    "a fault": "import ctypes\nctypes.string_at(0)",
    "no program": "def (",
    "the answer of another": "import os\nfor fd in range(64):\n    try: os.write(fd, b'begun\\npassed')\n"
        "    except OSError: pass\nos._exit(0)",
    "much talk": "import os\nwhile True:\n    for fd in range(3, 9):\n        try: os.write(fd, b'x' * 65536)\n"
        "        except OSError: pass",
}


def works(way):
    """Whether programs can be run so here."""
    result = hearth("eval", "--task", "humaneval", "--data", HUMANEVAL, "--answers", HUMANEVAL, "--limit", 1,
                    "--execute", "--sandbox", way, "--python", sys.executable)
    if result.returncode == 0:
        return True
    print(f"left out: programs in {way}: {result.stderr.strip()}")
    return False


class Programs(Case):
    @classmethod
    def setUpClass(cls):
        cls.ways = [way for way in ("bubblewrap", "namespaces") if works(way)]
        if not cls.ways:
            raise unittest.SkipTest("nothing to keep programs in")

    def run_programs(self, way, programs, *more):
        """What became of programs: in the way of each, nothing where it came to its end."""
        data = self.file("programs.jsonl", [{"prompt": "", "test": "def check(x): pass", "entry_point": "0"}
                                            for _ in programs])
        given = self.file("given.jsonl", [{"answer": p} for p in programs])
        records = self.folder / f"{len(list(self.folder.iterdir()))}.jsonl"
        self.good("--task", data, "--answers", given, "--execute", "--sandbox", way, "--python", sys.executable,
                  "-o", records, *more)
        return [None if r["right"]["right"] else r["found"]["right"] for r in answers_of(records)]

    def test_solutions_pass_and_others_fail(self):
        for way in self.ways:
            with self.subTest(way=way):
                run = ("--task", "humaneval", "--data", HUMANEVAL, "--execute", "--sandbox", way, "--python",
                       sys.executable)
                [right] = self.summary(*run, "--answers", HUMANEVAL)
                [blank] = self.summary(*run, "--answers", self.file("blank.jsonl", [{"completion": ""}] * 5))
                self.assertEqual((right["scores"]["passed"]["right"], blank["scores"]["passed"]["right"]), (5, 0))

    def test_what_is_right_runs_and_what_is_wrong_says_why(self):
        ordinary = ["import hashlib, math, re, typing, itertools, collections, random, json, string, heapq",
                    "open('/tmp/x', 'w').write('x'); assert open('/tmp/x').read() == 'x'", "print('x' * 100000)",
                    "assert __name__ != '__main__'", "assert input() if False else True"]
        wrong = ["assert 1 == 2, 'not so'", "input()", "x = {}['key']"]
        for way in self.ways:
            with self.subTest(way=way):
                self.assertEqual(self.run_programs(way, ordinary), [None] * len(ordinary))
                self.assertEqual(self.run_programs(way, wrong), ["AssertionError: not so", "EOFError: EOF when reading "
                                                                 "a line", "KeyError: 'key'"])

    def test_no_hostile_program_succeeds_or_leaves_anything(self):
        outside = self.folder / "outside"
        outside.mkdir(mode=0o777)
        outside.chmod(0o777)
        home = Path.home()
        way_there = [p.name for p in (Path(sys.base_prefix).resolve(), *Path(sys.base_prefix).resolve().parents)]
        start = f"OUTSIDE, HOME, WAY = {str(outside)!r}, {str(home)!r}, {way_there!r}\n"
        for way in self.ways:
            with self.subTest(way=way):
                results = self.run_programs(way, [start + p for p in HOSTILE.values()], "--execute-seconds", 0.4)
                for name, result in zip(HOSTILE, results):
                    self.assertIsNotNone(result, name)
                self.assertIn("no end after 0.4 s", results[0])
                self.assertEqual(list(outside.iterdir()), [])
                self.assertEqual(self.run_programs(way, ["assert 1 + 1 == 2"]), [None])    # it still works

    def test_a_program_ends_with_the_run_that_is_killed(self):
        for way in self.ways:
            with self.subTest(way=way):
                data = self.file("p.jsonl", [{"prompt": "while True: pass", "test": "x", "entry_point": "f"}])
                given = self.file("g.jsonl", [{"answer": ""}])
                before = self.interpreters()
                process = subprocess.Popen([PROGRAM, "eval", "--task", data, "--answers", given, "--execute",
                                            "--sandbox", way, "--python", sys.executable, "--execute-seconds", "600"],
                                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                self.until(lambda: self.interpreters() - before)
                time.sleep(0.3)    # the first of them may be the proof
                process.kill()
                process.wait()
                self.until(lambda: not self.interpreters() - before)

    def interpreters(self):
        found = set()
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if b"begun" in (process / "cmdline").read_bytes():
                    found.add(process.name)
            except OSError:
                pass
        return found

    def until(self, condition):
        end = time.monotonic() + 60
        while not condition():
            self.assertLess(time.monotonic(), end)
            time.sleep(0.02)

    def test_where_nothing_keeps_programs_in_they_are_not_run(self):
        run = ("--task", "humaneval", "--data", HUMANEVAL, "--answers", HUMANEVAL, "--execute")
        alone = {"PATH": str(self.folder)}
        self.assertIn("bubblewrap is not installed",
                      self.refused(*run, "--sandbox", "bubblewrap", "--python", sys.executable, env=alone))
        self.assertIn("--python", self.refused(*run, env=alone))
        self.assertIn("no Python", self.refused(*run, "--python", "true"))
        # Of a user's namespaces that may not have any.
        command = "echo 0 >/proc/sys/user/max_user_namespaces && exec \"$@\""
        if subprocess.run(["unshare", "-r", "sh", "-c", command, "sh", "true"], capture_output=True).returncode == 0:
            result = subprocess.run(["unshare", "-r", "sh", "-c", command, "sh", PROGRAM, "eval", *map(str, run),
                                     "--sandbox", "namespaces", "--python", sys.executable],
                                    capture_output=True, text=True)
            self.assertEqual(result.returncode, 1, result.stderr)
            self.assertIn("gives no namespaces", result.stderr)
        self.assertIn("--confine", self.refused(*run, "--confine", "on"))

    def test_without_a_word_no_program_is_run(self):
        result = self.good("--task", "humaneval", "--data", HUMANEVAL, "--answers", HUMANEVAL, "--json")
        self.assertEqual(json.loads(result.stdout)[0]["scores"]["passed"]["judged"], 0)
        self.assertIn("--execute", result.stderr)

    def test_records_are_judged_later(self):
        records = self.folder / "r.jsonl"
        self.good(MODEL, *CPU, "--task", "humaneval", "--data", HUMANEVAL, "-n", 4, "--limit", 2, "-o", records)
        [summary] = self.summary("--task", "humaneval", "--data", HUMANEVAL, "--limit", 2, "--answers", records,
                                 "--execute", "--sandbox", self.ways[0], "--python", sys.executable)
        self.assertEqual((summary["scores"]["passed"]["judged"], summary["scores"]["passed"]["right"]), (2, 0))


# ---- a model's answers -----------------------------------------------------------------------------------------------

class Answers(Case):
    RUN = (MODEL, *CPU, *QUESTIONS, "--shots", 1, "-n", 10)

    def test_answers_are_the_same_alone_together_and_read_from_the_first_token_on(self):
        expected = None
        for i, more in enumerate(((), ("-np", 4), ("--whole-prompts",), ("-np", 3, "--whole-prompts"))):
            records = self.folder / f"{i}.jsonl"
            self.good(*self.RUN, *more, "-o", records)
            answers = sorted((timeless(r) for r in answers_of(records)), key=lambda r: r["problem"])
            self.assertEqual(len(answers), 6)
            expected = expected or answers
            self.assertEqual(answers, expected)
            shared = {r["shared_tokens"] > 0 for r in answers_of(records)}
            self.assertEqual(shared, {"--whole-prompts" not in more})

    def test_an_answer_is_what_run_goes_on_with(self):
        own = self.file("own.jsonl", [{"prompt": "Once upon a time", "answer": "x", "tokens": 16}])
        records = self.folder / "r.jsonl"
        self.good(MODEL, *CPU, "--task", own, "-o", records)
        [record] = answers_of(records)
        text = hearth("run", MODEL, *CPU, "-p", "Once upon a time", "-n", 16, "--temp", 0).stdout
        self.assertIn(record["answer"].strip(), text)
        self.assertEqual((record["tokens"], record["end"]), (16, "length"))
        # And ends before a stop.
        stop = record["answer"][len(record["answer"]) // 2:][:3]
        self.file("own.jsonl", [{"prompt": "Once upon a time", "answer": "x", "tokens": 16, "stop": [stop]}])
        self.good(MODEL, *CPU, "--task", own, "-o", self.folder / "s.jsonl")
        [stopped] = answers_of(self.folder / "s.jsonl")
        self.assertEqual(stopped["answer"], record["answer"][:record["answer"].index(stop)])
        self.assertEqual(stopped["end"], "stop")

    def test_a_chat_answers_as_hearth_chat_does(self):
        own = self.file("own.jsonl", [{"prompt": "Tell me a story.", "answer": "x", "tokens": 12}])
        self.good(MODEL, *CPU, "--task", own, "--chat", "--template", "chatml", "-o", self.folder / "r.jsonl")
        [record] = answers_of(self.folder / "r.jsonl")
        chat = hearth("chat", MODEL, *CPU, "--template", "chatml", "-p", "Tell me a story.", "--single-turn", "-n", 12,
                      "--temp", 0)
        self.assertEqual(record["answer"].strip(), chat.stdout.strip())
        self.assertIn(f"prompts: {record['prompt_tokens']} tokens", chat.stderr)

    def test_samples_of_a_problem_differ_and_come_again(self):
        run = (MODEL, *CPU, *QUESTIONS, "--shots", 0, "-n", 12, "--limit", 2, "--samples", 3, "--temp", 1)
        for name in "ab":
            self.good(*run, "-np", 2 if name == "a" else 5, "-o", self.folder / name)
        first, again = (sorted(map(timeless, answers_of(self.folder / n)), key=lambda r: (r["problem"], r["sample"]))
                        for n in "ab")
        self.assertEqual(first, again)
        self.assertEqual(len({r["answer"] for r in first}), 6)

    def test_a_run_that_is_killed_anywhere_goes_on_and_loses_and_repeats_nothing(self):
        whole = self.folder / "whole.jsonl"
        run = (MODEL, *CPU, *QUESTIONS, "--shots", 0, "-n", 8, "-np", 2, "--samples", 2, "--temp", 1)
        self.good(*run, "-o", whole)
        expected = sorted(map(timeless, answers_of(whole)), key=lambda r: (r["problem"], r["sample"]))
        records = self.folder / "killed.jsonl"
        chance, kills = random.Random(1), 0
        for _ in range(40):
            process = subprocess.Popen([PROGRAM, "eval", *map(str, run), "-o", records, "--resume"],
                                       stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            wait = chance.uniform(0.02, 0.2)
            try:
                process.wait(wait)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                kills += 1
            error = process.communicate()[1].decode()
            if process.returncode != -signal.SIGKILL:
                self.assertEqual(process.returncode, 0, error)
                break
        self.good(*run, "-o", records, "--resume")
        self.assertGreater(kills, 0)
        found = sorted(map(timeless, answers_of(records)), key=lambda r: (r["problem"], r["sample"]))
        self.assertEqual(found, expected)

    def test_a_file_cut_at_any_byte_of_its_end_is_gone_on_with(self):
        whole = self.folder / "whole.jsonl"
        run = (MODEL, *CPU, *QUESTIONS, "--shots", 0, "-n", 4, "--limit", 2)
        self.good(*run, "-o", whole)
        text = whole.read_bytes()
        expected = [timeless(r) for r in answers_of(whole)]
        begin = text[:-1].rindex(b"\n")
        for cut in (0, 10, begin - 1, begin, begin + 1, begin + 40, len(text) - 1, len(text)):
            whole.write_bytes(text[:cut])
            self.good(*run, "-o", whole, "--resume")
            self.assertEqual([timeless(r) for r in answers_of(whole)], expected, cut)

    def test_records_of_something_else_are_refused_and_stay(self):
        records = self.folder / "r.jsonl"
        run = (MODEL, *CPU, *QUESTIONS, "-n", 4, "-o", records)
        self.good(*run, "--shots", 0, "--limit", 1)
        before = records.read_bytes()
        self.assertIn("there already", self.refused(*run, "--shots", 0))
        self.assertIn("shots was 0, and now it is 1", self.refused(*run, "--shots", 1, "--resume"))
        self.assertIn("sampling was", self.refused(*run, "--shots", 0, "--temp", 1, "--resume"))
        self.assertEqual(records.read_bytes(), before)
        self.good(*run, "--shots", 0, "--limit", 2, "--resume")
        self.assertEqual([r["problem"] for r in answers_of(records)], ["0", "1"])

    def test_ctrl_c_keeps_what_is_done_and_shows_it(self):
        """And until then a terminal shows how far it is, and how long the rest will take."""
        records = self.folder / "r.jsonl"
        ours, theirs = os.openpty()
        process = subprocess.Popen([PROGRAM, "eval", MODEL, *CPU, "--task", "gsm8k", "--data", GSM8K, "--shots", "0",
                                    "-n", "20", "-o", records, "--samples", "2000", "--temp", "1"],
                                   stdout=subprocess.PIPE, stderr=theirs, text=True)
        os.close(theirs)
        talk, until = b"", time.monotonic() + SECONDS
        while time.monotonic() < until and (b" left" not in talk or len(records.read_bytes().splitlines()) < 3):
            talk += os.read(ours, 1000)
        process.send_signal(signal.SIGINT)
        out = process.communicate(timeout=SECONDS)[0]
        while b"--resume goes on" not in talk:
            talk += os.read(ours, 1000)    # an error where nothing comes any more
        os.close(ours)
        self.assertEqual(process.returncode, 0, talk)
        self.assertRegex(talk.decode(), r"fairytale-7m \[[#.]+\] +[0-9]+ %, about [0-9.]+ (s|min|h) left")
        self.assertIn("strict-match", out)
        self.assertEqual(list(self.folder.iterdir()), [records])
        self.assertGreaterEqual(len(answers_of(records)), 2)

    def test_models_and_options_stand_side_by_side(self):
        records = self.folder / "r.jsonl"
        out = self.summary(MODEL, "--also", f"'{MODEL}' --sparsity exact --name 'only what fires'", "--also",
                           f"'{MODEL}' -c 512", *CPU, *QUESTIONS, "--shots", 0, "-n", 8, "--limit", 2, "--perplexity",
                           DATA / "fairytales-valid.txt", "--perplexity-tokens", 80, "-o", records)
        self.assertEqual([s["run"] for s in out],
                         ["fairytale-7m", "only what fires", "fairytale-7m --ctx-size 512"])
        for summary in out:
            self.assertEqual(summary["problems"], 2)
            self.assertGreater(summary["tokens_per_s"], 0)
            self.assertGreater(summary["host_bytes"], 10 << 20)
        perplexities = [s["perplexity"]["value"] for s in out]
        self.assertAlmostEqual(perplexities[0] / perplexities[1], 1, delta=1e-3)
        expected = hearth("perplexity", MODEL, *CPU, "-f", DATA / "fairytales-valid.txt", "-n", 80).stdout
        self.assertAlmostEqual(perplexities[0], float(expected.split()[2]), delta=1e-3)
        # The file says the same, beside others.
        again = self.summary("--records", records)
        self.assertEqual(again, out)

    def test_wrong_command_lines_say_what_is_wrong(self):
        for args in (("--task", "gsm8k"), (MODEL,), (MODEL, *QUESTIONS, "--also", f"'{MODEL}' --sparsely"),
                     (MODEL, *QUESTIONS, "--also", str(MODEL)), (MODEL, MODEL, *QUESTIONS, "--name", "a")):
            self.refused(*args, code=2)
        self.assertIn("--data", self.refused(MODEL, *CPU, "--task", "gsm8k"))
        self.assertIn("--shots-from", self.refused(MODEL, *CPU, "--task", "gsm8k", "--data", GSM8K))
        self.assertIn("humaneval-instruct",
                      self.refused(MODEL, *CPU, "--task", "humaneval", "--chat", "--data", HUMANEVAL))
        self.assertIn("no chat template",
                      self.refused(MODEL, *CPU, "--task", "humaneval-instruct", "--data", HUMANEVAL))


if __name__ == "__main__":
    unittest.main()
