#!/usr/bin/env python3
"""What somebody types who comes from llama.cpp or ollama: names of options, the environment, overrides, texts and
standard input, perplexity as others count it. On the shipped model, on the CPU.

    python3 tests/flags_test.py build/check/hearth [arguments of unittest]
"""

import json
import math
import os
import pty
import re
import select
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from convert_test import gguf_logits, read_gguf  # noqa: E402

DATA = Path(__file__).resolve().parent / "data"
MODEL = DATA / "fairytale-7m.gguf"
TEXT = DATA / "fairytales-valid.txt"
PROGRAM = Path(sys.argv.pop(1)).resolve() if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else None
CPU = ("--device", "cpu")
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith(("VK_", "HEARTH_"))}
ENVIRONMENT["VK_LOADER_DRIVERS_SELECT"] = "*lvp*"


def hearth(*args, environment=(), **more):
    if "input" not in more:
        more.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.run([PROGRAM, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          env=ENVIRONMENT | dict(environment), timeout=600, **more)


class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.scratch = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.scratch.cleanup)
        cls.folder = Path(cls.scratch.name)

    def write(self, name, data):
        path = self.folder / name
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return path

    def good(self, *args, **more):
        done = hearth(*args, **more)
        self.assertEqual(done.returncode, 0, done.stderr.decode())
        return done

    def refused(self, *args, code=1, says=(), **more):
        """One sentence on stderr, last, and the exit code."""
        done = hearth(*args, **more)
        talk = done.stderr.decode("utf-8", "replace")
        self.assertEqual(done.returncode, code, talk)
        last = talk.splitlines()[-1]
        self.assertTrue(last.startswith("hearth: "), talk)
        for words in says:
            self.assertIn(words, last)
        return talk

    def text_of(self, *args, **more):
        return self.good(*args, **more).stdout.decode()

    def notes(self, *args, **more):
        return [line for line in self.good(*args, **more).stderr.decode().splitlines() if line.startswith("note: ")]


RUN = ("run", MODEL, *CPU, "-p", "Once upon a time", "-n", "8", "--temp", "0")


# ---- names -----------------------------------------------------------------------------------------------------------

class Names(Case):
    def test_a_command_line_of_another_program_is_that_of_ours(self):
        ours = self.text_of(*RUN)
        say = ("-p", "Once upon a time", "-n", "8", "--temp", "0")
        for theirs in (
                ("run", "-m", MODEL, *CPU, *say),
                ("run", "--model", MODEL, *CPU, *say),
                ("run", f"--model={MODEL}", *CPU, *say),
                ("-m", MODEL, *CPU, *say),
                (*CPU, *say, "-m", MODEL),
                ("-m", MODEL, "run", *CPU, *say),
                (MODEL, *CPU, *say),
                ("run", *CPU, *say, MODEL),
                ("run", MODEL, "-dev", "none", *say),
                ("run", MODEL, "-ngl", "0", *say),
                ("run", MODEL, "--n-gpu-layers", "0", *say),
                ("run", MODEL, *CPU, "-p", "Once upon a time", "--n-predict", "8", "--temperature", "0"),
                ("run", MODEL, *CPU, "-p", "Once upon a time", "-n8", "--temp=0"),
                ("run", MODEL, *CPU, *say, "-c", "256", "-b", "512", "-ub", "64", "-t", "2"),
                ("run", MODEL, *CPU, *say, "-ctk", "f16", "-ctv", "f16"),
                ("run", MODEL, *CPU, *say, "--top-k", "40", "--top-p", "0.95", "--min-p", "0.05", "--seed", "7"),
                ("run", MODEL, *CPU, *say, "--repeat-last-n", "64", "--repeat-penalty",
                 "1", "--presence-penalty", "0", "--frequency-penalty", "0.0"),
                ("run", MODEL, *CPU, *say, "-no-cnv", "-fa", "on", "--no-mmap", "--no-warmup")):
            with self.subTest(" ".join(str(a) for a in theirs if a != MODEL)):
                self.assertEqual(self.text_of(*theirs), ours)

    def test_an_escape_is_what_it_stands_for_only_where_asked(self):
        def tokens(text, *more):
            return self.text_of("tokenize", MODEL, "-p", text, "--json", *more)
        self.assertEqual(tokens(r"a\nb\t\"\\\x41\q", "-e"), tokens('a\nb\t"\\A\\q'))
        self.assertEqual(tokens(r"a\nb", "--no-escape"), tokens(r"a\nb"))
        self.assertNotEqual(tokens(r"a\nb", "--escape"), tokens(r"a\nb"))

    def test_the_prompt_can_be_left_out_and_coloured(self):
        whole = self.text_of(*RUN)
        self.assertEqual("Once upon a time" + self.text_of(*RUN, "--no-display-prompt"), whole)
        self.assertEqual(self.text_of(*RUN, "--color"),
                         whole.replace("Once upon a time", "\x1b[33mOnce upon a time\x1b[0m"))
        for off in (("--color", "auto"), ("--color", "off"), ("--color=auto",)):
            self.assertEqual(self.text_of(*RUN, *off), whole)

    def test_a_seed_is_drawn_anew_and_said_so_that_the_run_can_be_repeated(self):
        draw = ("run", MODEL, *CPU, "-p", "Once", "-n", "20", "--seed")
        drawn = [self.good(*draw, "-1") for _ in range(3)]
        self.assertGreater(len({d.stdout for d in drawn}), 1)
        seed = re.search(r"; --seed (\d+)$", drawn[0].stderr.decode().splitlines()[-1]).group(1)
        self.assertEqual(self.text_of(*draw, seed), drawn[0].stdout.decode())
        self.assertNotIn("seed", self.good(*draw, "5").stderr.decode())
        for wrong in ("-2", "x", "1.5", ""):
            self.refused(*draw, wrong, code=2, says=["--seed"])

    def test_penalties_change_what_is_written(self):
        plain = self.text_of("run", MODEL, *CPU, "-p", "the the the the", "-n", "30", "--temp", "0")
        for penalty in (("--presence-penalty", "5"), ("--frequency-penalty", "2"), ("--repeat-penalty", "3")):
            with self.subTest(penalty[0]):
                run = ("run", MODEL, *CPU, "-p", "the the the the", "-n", "30", "--temp", "0", *penalty)
                self.assertNotEqual(self.text_of(*run), plain)
                self.assertEqual(self.text_of(*run, "--repeat-last-n", "0"), plain)
                self.text_of(*run, "--repeat-last-n", "-1")

    def test_layers_go_to_the_device_as_asked(self):
        def device(*args):
            return self.good("run", MODEL, "--device", "llvmpipe", "-p", "Once", "-n", "1", *args).stderr.decode()
        try:
            self.assertIn("all of it", device("-ngl", "99"))
        except AssertionError:
            if "llvmpipe" not in self.text_of("devices"):
                self.skipTest("needs Mesa's software device")
            raise
        self.assertIn("all of it", device("-ngl", "7"))
        self.assertIn("attention of 6 of 6 layers, 100 % of the neurons, ", device("-ngl", "6"))
        self.assertIn("attention of 2 of 6 layers", device("-ngl", "2"))
        self.assertIn("on the CPU", device("-ngl", "0"))
        self.assertIn("all of it", device("-ngl", "all"))
        self.assertIn("has no experts", device("-cmoe"))
        self.assertIn("has no experts", device("-ncmoe", "2"))
        self.refused(*RUN, "-ngl", "some", code=2, says=["--gpu-layers", "some"])

    def test_what_does_nothing_on_the_cpu_says_so(self):
        self.assertTrue(any("-ngl" in n for n in self.notes(*RUN, "-ngl", "99")))
        self.assertTrue(any("--cpu-moe" in n for n in self.notes(*RUN, "-cmoe")))


# What is accepted and changes nothing, as users of llama.cpp type it.
DECIDED = """
-fa | -fa on | -fa off | -fa auto | -fa 1 | --flash-attn | --flash-attn on | --flash-attn=off | --mmap | --no-mmap
--mlock | -dio | --load-mode mmap | -tb 4 | --threads-batch 4 | --numa distribute | --prio 2 | --poll 50 | -C 0xff
--cpu-mask 0xff | --cpu-range 0-3 | --cpu-strict 1 | -sm none | --split-mode layer | -mg 0 | --main-gpu 0 | -ts 3,1
--tensor-split 1,1 | -nkvo | --no-kv-offload | -kvu | --kv-unified | -np 1 | --parallel 1 | -ot exps=CPU
--override-tensor a=CPU | -fit on | --no-op-offload | --no-repack | -cb | -nocb | -dt 0.1 | --defrag-thold 0.1
--swa-full | --context-shift | --no-context-shift | --keep 4 | --warmup | --no-warmup | --jinja | --no-jinja
--reasoning-format none | -v | --verbose | -lv 3 | --verbosity 1 | --log-disable | --log-prefix | --log-timestamps
--log-colors on | --log-file x.log | --perf | --no-perf | --simple-io | --samplers top_k;temperature | --sampling-seq kt
--display-prompt | --no-escape | -no-cnv | --no-conversation | --no-penalize-nl | --check-tensors | --offline
--mirostat 0 | --typical 1.0 | --xtc-probability 0.0 | --dry-multiplier 0 | --dynatemp-range 0 | --top-nsigma -1
"""

MISSING = """
--mirostat 2 | --typical 0.9 | --xtc-probability 0.5 | --dry-multiplier 0.8 | --grammar root | --grammar-file x
--json-schema {} | -l 5+1 | --lora x.gguf | --control-vector x | --audio x.wav | -md draft.gguf | --draft 8
-hf user/model | --model-url http://x | -r User: | --in-prefix x | --prompt-cache x | --rpc host:1 | -bf x
"""


def flags(table):
    return [tuple(flag.split()) for flag in table.replace("\n", "|").split("|") if flag.strip()]


class Accepted(Case):
    def test_a_flag_that_changes_nothing_says_so_in_one_note(self):
        plain = self.text_of("tokenize", MODEL, "-p", "Once upon a time")
        for flag in flags(DECIDED):
            with self.subTest(" ".join(flag)):
                done = self.good("tokenize", MODEL, *flag, "-p", "Once upon a time")
                self.assertEqual(done.stdout.decode(), plain)
                note, = done.stderr.decode().splitlines()
                self.assertIn("changes nothing", note)
                self.assertIn(flag[0].split("=")[0], note)

    def test_all_of_them_together_change_nothing_and_make_one_note(self):
        once = {flag[0].split("=")[0]: flag for flag in flags(DECIDED)}
        done = self.good(*RUN[:2], *(word for flag in once.values() for word in flag), *RUN[2:])
        self.assertEqual(done.stdout.decode(), self.text_of(*RUN))
        note, = (line for line in done.stderr.decode().splitlines() if "changes nothing" in line)
        for name in once:
            self.assertIn(name, note)

    def test_a_flag_that_would_change_the_result_is_refused_with_what_there_is_instead(self):
        for flag in flags(MISSING):
            with self.subTest(" ".join(flag)):
                self.refused("run", MODEL, *flag, "-p", "Once", code=2, says=[flag[0], "is not there: "])

    def test_a_flag_that_takes_a_value_never_takes_the_model_for_it(self):
        for words in (("-fa", MODEL), ("--color", MODEL), ("--no-mmap", MODEL), ("-cnv", "--help", MODEL)):
            with self.subTest(words[0]):
                self.good("run", *words, *RUN[2:])

    def test_real_options_make_no_such_note(self):
        self.assertEqual([n for n in self.notes(*RUN, "-c", "256", "-ctk",
                         "q8_0", "--top-k", "5") if "changes nothing" in n], [])

    def test_help_stands_in_groups_everyday_options_first(self):
        for command in ("run", "chat", "perplexity", "bench", "profile", "plan", "tokenize", "inspect", "quantize"):
            with self.subTest(command):
                text = self.text_of(command, "--help")
                self.assertLessEqual(max(map(len, text.splitlines())), 100)
                groups = [line[:-1] for line in text.splitlines() if re.fullmatch(r"[A-Z][A-Za-z ]+:", line)]
                order = ["Model", "Text", "Measurement", "Sampling", "Output",
                    "Device and memory", "Sparsity", "Diagnostics", "Experiments"]
                self.assertEqual([g for g in groups if g in order], [g for g in order if g in groups])
                self.assertIn("Model", groups)
        text = self.text_of("run", "--help")
        self.assertRegex(text, r"(?m)^  -m, --model FILE ")
        self.assertRegex(text, r"(?m)^  -ngl, --gpu-layers N ")
        self.assertIn("HEARTH_CTX_SIZE", text)


class Mistyped(Case):
    def test_an_unknown_option_names_the_nearest_one(self):
        for typed, meant in (("--tmep", "--temp"), ("--temprature", "--temperature"), ("-temp", "--temp"),
                             ("--n_predict", "--n-predict"), ("--ctx", "--ctx-size"), ("--gpu-layer", "--gpu-layers"),
                             ("--vram-budgt", "--vram-budget"), ("--flash-atn", "--flash-attn"), ("-nlg", "-ngl"),
                             ("--overide", "--override"), ("--top_k", "--top-k"), ("--thread", "--threads")):
            with self.subTest(typed):
                self.refused("run", MODEL, "-p", "Once", typed, "1", code=2,
                             says=[f"{typed}: did you mean {meant}? `hearth run --help`"])

    def test_what_is_near_to_nothing_names_nothing(self):
        talk = self.refused("run", MODEL, "-p", "Once", "--xyzzy", code=2, says=["--xyzzy"])
        self.assertNotIn("did you mean", talk)

    def test_an_option_of_another_subcommand_is_said_to_be_its(self):
        self.refused("tokenize", MODEL, "-p", "x", "--trace", "t.json", code=2, says=["--trace", "`hearth run`"])

    def test_an_unknown_subcommand_names_the_nearest_one(self):
        for typed, meant in (("rnu", "run"), ("perplex", "perplexity"), ("quantise", "quantize"), ("device", "devices"),
                             ("chta", "chat")):
            with self.subTest(typed):
                self.refused(typed, MODEL, code=2, says=[f"'{typed}': did you mean {meant}?"])

    def test_a_subcommand_of_another_program_says_what_does_it_here(self):
        for typed, instead in (("pull", "downloaded"), ("list", "files"), ("show", "hearth inspect"),
                               ("serve", "server"), ("create", "quantize")):
            with self.subTest(typed):
                self.refused(typed, "llama3", code=2, says=[f"'{typed}'", instead])

    def test_a_missing_value_a_surplus_word_and_a_missing_model_are_told(self):
        self.refused("run", MODEL, "-p", "Once", "-n", code=2, says=["--predict"])
        self.refused("run", MODEL, "surplus", "-p", "Once", code=2, says=["'surplus'", "-p"])
        self.refused("run", "-p", "Once", code=2, says=["MODEL", "-m"])
        self.refused("run", MODEL, "-m", MODEL, "-p", "Once", code=2)


# ---- the environment -------------------------------------------------------------------------------------------------

class Environment(Case):
    def test_every_option_can_be_set_there_and_the_command_line_comes_first(self):
        variables = {"HEARTH_MODEL": MODEL, "HEARTH_DEVICE": "cpu", "HEARTH_PROMPT": "Once upon a time",
                     "HEARTH_PREDICT": "8", "HEARTH_TEMP": "0", "HEARTH_CTX_SIZE": "300", "HEARTH_IGNORE_EOS": "1",
                     "HEARTH_CACHE_TYPE_K": "f16", "HEARTH_NO_DISPLAY_PROMPT": "0"}
        variables = {k: str(v) for k, v in variables.items()}
        done = self.good("run", environment=variables)
        self.assertEqual(done.stdout.decode(), self.text_of(*RUN, "--ignore-eos"))
        note = done.stderr.decode().splitlines()[0]
        self.assertTrue(note.startswith("note: from the environment: "), note)
        for name in variables:
            if variables[name] != "0":
                self.assertIn(name, note)
        self.assertEqual(self.text_of("run", "-n", "3", environment=variables),
                         self.text_of(*RUN[:-4], "-n", "3", "--temp", "0", "--ignore-eos"))
        file = self.write("text", "The king")
        self.assertTrue(self.text_of("run", "-f", file, environment=variables).startswith("The king"))

    def test_a_wrong_value_names_the_variable(self):
        for variable, value in (("HEARTH_CTX_SIZE", "many"), ("HEARTH_TEMP", "hot"), ("HEARTH_TOP_P", "2"),
                                ("HEARTH_IGNORE_EOS", "perhaps"), ("HEARTH_CACHE_TYPE_K", "q3"),
                                ("HEARTH_OVERRIDE", "x"), ("HEARTH_GPU_LAYERS", "some"), ("HEARTH_SEED", "x")):
            with self.subTest(variable):
                self.refused(*RUN[:-4], environment={variable: value}, code=2, says=[variable])

    def test_flags_that_change_nothing_are_known_there_too(self):
        notes = self.notes(*RUN, environment={"HEARTH_FLASH_ATTN": "on", "HEARTH_NO_MMAP": "1", "HEARTH_MLOCK": "0"})
        self.assertTrue(any("HEARTH_FLASH_ATTN" in n and "HEARTH_NO_MMAP" in n and "MLOCK" not in n for n in notes),
                        notes)

    def test_a_variable_that_is_nearly_an_options_is_told(self):
        self.assertTrue(any("HEARTH_TMEP" in n and "HEARTH_TEMP" in n for n in self.notes(
            *RUN, environment={"HEARTH_TMEP": "1"})))
        self.assertEqual(self.notes(*RUN, environment={"HEARTH_SOURCE_OF_NOTHING": "1"}), self.notes(*RUN))


# ---- without a text --------------------------------------------------------------------------------------------------

def on_terminal(*args, lines=(), seconds=60):
    """Runs on a terminal of its own, types the lines, and Ctrl-D; all that was shown, and the exit code."""
    process, terminal = pty.fork()
    if process == 0:
        os.execve(PROGRAM, [str(PROGRAM), *map(str, args)], ENVIRONMENT |
                  {"TERM": "dumb", "XDG_STATE_HOME": "/nonexistent"})
    shown, waiting, end = b"", [line.encode() + b"\n" for line in lines] + [b"\x04"], time.monotonic() + seconds
    quiet = time.monotonic()
    while time.monotonic() < end:
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                piece = os.read(terminal, 4096)
            except OSError:
                break
            if not piece:
                break
            shown += piece
            quiet = time.monotonic()
        elif waiting and time.monotonic() - quiet > 0.5:
            os.write(terminal, waiting.pop(0))
            quiet = time.monotonic()
    os.close(terminal)
    return shown.decode("utf-8", "replace"), os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


class WithoutText(Case):
    def test_a_pipe_is_continued(self):
        self.assertEqual(self.text_of("run", MODEL, *CPU, "-n", "8", "--temp",
                         "0", input=b"Once upon a time\n"), self.text_of(*RUN))
        self.assertEqual(self.text_of("-m", MODEL, *CPU, "-n", "8", "--temp",
                         "0", input=b"Once upon a time"), self.text_of(*RUN))

    def test_a_terminal_gets_a_conversation_where_the_model_has_a_template(self):
        template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        shown, code = on_terminal("run", MODEL, *CPU, "-n", "4", "--override",
                                  f"tokenizer.chat_template=str:{template}", "--template", "none", lines=["Hello"])
        self.assertEqual(code, 0, shown)
        self.assertIn("turns: 1", shown)

    def test_without_a_template_a_sentence_says_what_to_do(self):
        shown, code = on_terminal("run", MODEL, *CPU)
        self.assertEqual(code, 1, shown)
        self.assertIn("-p TEXT", shown)

    def test_a_terminal_gives_the_text_where_no_conversation_is_wanted(self):
        shown, code = on_terminal("run", MODEL, *CPU, "-no-cnv", "-n", "3", "--temp", "0", lines=["Once upon a time"])
        self.assertEqual(code, 0, shown)
        self.assertIn("answer: 3 tokens", shown)

    def test_what_a_conversation_has_not_is_told(self):
        shown, code = on_terminal("run", MODEL, *CPU, "--trace", "t.json")
        self.assertEqual(code, 2, shown)
        self.assertIn("--trace", shown)


class Experts(Case):
    def test_experts_of_so_many_layers_stay_on_the_cpu(self):
        if "llvmpipe" not in self.text_of("devices"):
            self.skipTest("needs Mesa's software device")
        model = self.folder / "experts.gguf"
        subprocess.run([sys.executable, DATA.parent.parent / "tools" / "models" / "make_model.py", model,
                        "--shape", "tiny", "--experts", "4"], check=True, capture_output=True)

        def resident(*args):
            plan = json.loads(self.text_of("plan", model, "--device", "llvmpipe", "--json", *args))["plans"][0]
            return [layer["resident"] == layer["groups"] for layer in plan["layers"]]
        layers = len(resident())
        self.assertEqual(resident(), [True] * layers)
        self.assertEqual(resident("-ncmoe", "1"), [False] + [True] * (layers - 1))
        self.assertEqual(resident("-cmoe"), [False] * layers)
        self.assertEqual(resident("-cmoe", "-ngl", "99"), [False] * layers)


class Conversations(Case):
    CHAT = (*CPU, "--template", "none", "-n", "4", "--temp", "0")

    def test_what_is_said_first_can_be_given_and_be_all(self):
        expected = self.text_of("chat", MODEL, *self.CHAT, input=b"Once upon\n")
        file = self.write("first", "\ufeffOnce upon\r\n")
        for args in (("chat", MODEL, "-p", "Once upon"), ("chat", MODEL, "-f", file),
                     ("chat", MODEL, "-p", "Once upon", "--single-turn"),
                     ("run", MODEL, "-cnv", "-p", "Once upon"), ("-m", MODEL, "-i", "-p",
                      "Once upon", "-st"), ("run", MODEL, "-st", "-p", "Once upon"),
                     ("-m", MODEL, "-p", r"Once\x20upon", "-e", "-st")):
            with self.subTest(" ".join(str(a) for a in args if a != MODEL)):
                self.assertEqual(self.text_of(*args, *self.CHAT), expected)
        self.assertEqual(self.text_of("chat", MODEL, *self.CHAT, "-st", input=b"Once upon\nand then\n"), expected)

    def test_a_template_of_the_command_line_is_one_by_name_or_by_file(self):
        file = self.write("own.jinja", "{% for m in messages %}{{ m.content }} {% endfor %}")
        say = ("-p", "Once upon", "-st", *CPU, "-n", "4", "--temp", "0")
        by_file = self.text_of("-m", MODEL, "--chat-template-file", file, *say)
        self.assertEqual(by_file, self.text_of("chat", MODEL, "--template", file, *say))
        self.assertEqual(self.text_of("-m", MODEL, "--chat-template", "chatml", *say),
                         self.text_of("chat", MODEL, "--template", "chatml", *say))
        self.assertEqual(by_file, self.text_of("chat", MODEL, "--override",
                         "tokenizer.chat_template=str:" + file.read_text(), *say))

    def test_a_system_prompt_can_come_from_a_file(self):
        file = self.write("system", "\ufeffBe brief.")
        chat = ("chat", MODEL, *CPU, "--template", "chatml", "-n", "4", "--temp", "0", "-p", "Hello")
        for args in (("--system-file", file), ("-sysf", file), ("-sys", "Be brief."), ("--system-prompt", "Be brief."),
                     ("--system", "Be brief.")):
            with self.subTest(args[0]):
                self.assertIn("\nBe brief.<", self.good(*chat, *args, input=b"/show\n").stderr.decode())


# ---- texts -----------------------------------------------------------------------------------------------------------

LF = "Once upon a time\nthere was a king.\n\nHe had a fox.\n"


class Texts(Case):
    KINDS = {"CRLF": LF.replace("\n", "\r\n").encode(), "a byte-order mark": b"\xef\xbb\xbf" + LF.encode(),
             "both": b"\xef\xbb\xbf" + LF.replace("\n", "\r\n").encode()}
    COMMANDS = (("run", MODEL, *CPU, "-n", "3", "--temp", "0"), ("tokenize", MODEL),
                ("perplexity", MODEL, *CPU, "-c", "32"), ("profile", MODEL, *CPU, "-c", "32", "--json", "-o"))

    def test_a_file_with_crlf_or_a_mark_is_the_text_of_one_with_lf(self):
        for command in self.COMMANDS:
            def out(data, name, command=command):
                more = (self.folder / f"{name}.profile",) if command[0] == "profile" else ()
                by_file = self.text_of(*command, *more, "-f", self.write("text", data))
                if command[0] != "profile":
                    self.assertEqual(self.text_of(*command, "-f", "-", input=data), by_file)
                return by_file
            expected = out(LF.encode(), "lf")
            for kind, data in self.KINDS.items():
                with self.subTest(f"{command[0]}: {kind}"):
                    self.assertEqual(out(data, kind), expected)

    def test_a_lone_cr_a_mark_inside_and_the_text_of_p_stay(self):
        for text in ("a\rb", "a\n\ufeffb", "a\r\r\nb"):
            kept = text.replace("\r\n", "\n")
            self.assertEqual(self.text_of("tokenize", MODEL, "-f", self.write("text", text.encode()),
                             "--json"), self.text_of("tokenize", MODEL, "-p", kept, "--json"))
        self.assertNotEqual(self.text_of("tokenize", MODEL, "-p", "a\r\nb"),
                            self.text_of("tokenize", MODEL, "-p", "a\nb"))

    def test_lines_of_a_conversation_are_the_same_with_crlf_and_a_mark(self):
        chat = ("chat", MODEL, *CPU, "--template", "none", "-n", "4", "--temp", "0")
        lines = "Hello\nand again\n".encode()
        expected = self.text_of(*chat, input=lines)
        for data in (lines.replace(b"\n", b"\r\n"), b"\xef\xbb\xbf" + lines,
                     b"\xef\xbb\xbf" + lines.replace(b"\n", b"\r\n")):
            self.assertEqual(self.text_of(*chat, input=data), expected)
        self.refused(*chat, input="Hello\n".encode("utf-16"), says=["UTF-16"])

    def test_utf_16_and_32_are_refused_by_name(self):
        for encoding, name in (("utf-16", "UTF-16"), ("utf-16-be", "UTF-16"), ("utf-32", "UTF-32"),
                               ("utf-32-be", "UTF-32")):
            data = ("\ufeff" + LF).encode(encoding) if encoding.endswith("be") else LF.encode(encoding)
            file = self.write("text", data)
            for command in self.COMMANDS[:3]:
                with self.subTest(f"{command[0]} {encoding}"):
                    self.refused(*command, "-f", file, says=[str(file), name, "iconv"])
                    self.refused(*command, "-f", "-", input=data, says=["standard input", name])


class StandardInput(Case):
    """What cannot be read is an error, not an empty text."""
    COMMANDS = (("run", MODEL, *CPU, "-n", "1"), ("run", MODEL, *CPU, "-n", "1", "-f", "-"),
                ("tokenize", MODEL, "-f", "-"),
                ("tokenize", MODEL, "-0", "-f", "-"), ("perplexity", MODEL, *CPU, "-f",
                 "-"), ("profile", MODEL, *CPU, "-f", "-", "-o", "/nonexistent/p"),
                ("chat", MODEL, *CPU, "--template", "none", "-n", "1"))

    def test_closed(self):
        for command in self.COMMANDS:
            with self.subTest(" ".join(map(str, command))):
                done = subprocess.run(["sh", "-c", 'exec "$0" "$@" <&-', PROGRAM, *map(str, command)],
                                      capture_output=True, env=ENVIRONMENT, timeout=60)
                self.assertEqual(done.returncode, 1, done.stderr.decode())
                self.assertIn("standard input cannot be read", done.stderr.decode().splitlines()[-1])
                self.assertEqual(done.stdout, b"")

    def test_a_directory(self):
        for command in self.COMMANDS:
            with self.subTest(" ".join(map(str, command))):
                folder = os.open(self.folder, os.O_RDONLY)
                try:
                    self.refused(*command, stdin=folder, says=["standard input cannot be read", "directory"])
                finally:
                    os.close(folder)

    def test_a_file_that_fails_half_way(self):
        if not os.path.exists("/proc/self/mem"):
            self.skipTest("needs /proc")
        for command in self.COMMANDS[1:5]:    # /proc/self/mem opens, and its first byte cannot be read
            with self.subTest(" ".join(map(str, command))):
                self.refused(*(("/proc/self/mem" if a == "-" else a)
                             for a in command), says=["/proc/self/mem cannot be read"])


# ---- overrides -------------------------------------------------------------------------------------------------------

class Overrides(Case):
    def override(self, *texts):
        return [word for text in texts for word in ("--override", text)]

    def keys(self, *args):
        return json.loads(self.text_of("inspect", MODEL, "--json", *args))["keys"]

    def test_a_key_is_replaced_or_added_with_its_type(self):
        keys = self.keys()
        cases = {"tokenizer.ggml.eos_token_id=int:2": 2, "general.name=str:a, b=c:d": "a, b=c:d",
                 "llama.rope.freq_base=float:1e6": 1e6, "new.flag=bool:false": False, "new.text=str:": "",
                 "new.number=int:-3": -3, "new.list=arr:[1,2]": [1, 2], 'new.texts=arr:["a","b"]': ["a", "b"],
                 "new.floats=arr:[1.5,2]": [1.5, 2]}
        for text, value in cases.items():
            with self.subTest(text):
                key = text.split("=")[0]
                changed = self.keys("--override", text)
                self.assertEqual(changed[key], value)
                self.assertEqual({k: v for k, v in changed.items() if k != key},
                                 {k: v for k, v in keys.items() if k != key})
                note, = self.notes("inspect", MODEL, "--override", text)
                self.assertIn(f"overridden: {key} is ", note)
                self.assertIn(" instead of " if key in keys else "which the file does not have", note)

    def test_several_come_by_commas_or_again(self):
        for args in (["--override-kv", "a=int:1,b=str:x,y,c=bool:true"],
                     self.override("a=int:1", "b=str:x,y", "c=bool:true")):
            keys = self.keys(*args)
            self.assertEqual((keys["a"], keys["b"], keys["c"]), (1, "x,y", True))

    def test_what_is_overridden_is_used(self):
        keys = read_gguf(MODEL)[0]
        first = self.text_of(*RUN)
        plain = re.search(r"^ppl = ([0-9.]+)", self.text_of("perplexity", MODEL,
                          *CPU, "-f", TEXT, "-n", "60", "-c", "64")).group(1)
        other = re.search(r"^ppl = ([0-9.]+)",
                          self.text_of("perplexity", MODEL, *CPU, "-f", TEXT, "-n", "60", "-c", "64",
                                       "--rope-freq-base", keys["llama.rope.freq_base"] * 4)).group(1)
        self.assertNotEqual(plain, other)
        self.assertEqual(other, re.search(r"^ppl = ([0-9.]+)", self.text_of(
            "perplexity", MODEL, *CPU, "-f", TEXT, "-n", "60", "-c", "64",
            "--override", f"llama.rope.freq_base=float:{keys['llama.rope.freq_base'] * 4}")).group(1))
        def ppl(*args):
            return self.text_of("perplexity", MODEL, *CPU, "-f", TEXT, "-n", "60", "-c", "64", *args)
        key = "llama.rope.scaling."
        linear = ppl("--override", f"{key}type=str:linear,{key}factor=float:2")
        self.assertNotIn(plain, linear)
        self.assertEqual(ppl("--rope-scaling", "linear", "--rope-scale", "2"), linear)
        self.assertEqual(ppl("--rope-scaling", "linear", "--rope-freq-scale", "0.5"), linear)
        yarn = (f"{key}type=str:yarn,{key}factor=float:2,{key}original_context_length=int:512,"
                f"{key}yarn_beta_fast=float:16")
        self.assertEqual(ppl("--rope-scaling", "yarn", "--rope-scale", "2", "--yarn-orig-ctx", "512",
                             "--yarn-beta-fast", "16"), ppl("--override", yarn))
        tokens = self.text_of("tokenize", MODEL, "-p", first.strip()).splitlines()
        last = tokens[-1].split()[0]    # a token of the answer, which now ends it
        self.assertLess(len(self.text_of(*RUN, "--override", f"tokenizer.ggml.eos_token_id=int:{last}")), len(first))

    def test_all_subcommands_that_open_a_model_take_it(self):
        wrong = self.override("general.name=int:1")
        for command in (("run", MODEL, *CPU, "-p", "x"), ("chat", MODEL, *CPU), ("perplexity", MODEL, *CPU, "-f", TEXT),
                        ("bench", MODEL, *CPU), ("profile", MODEL, *CPU, "-f", TEXT, "-o", self.folder / "p"),
                        ("plan", MODEL, *CPU), ("inspect", MODEL), ("tokenize", MODEL, "-p", "x"),
                        ("quantize", MODEL, self.folder / "out.gguf", "q8_0")):
            with self.subTest(command[0]):
                self.refused(*command, *wrong, says=["general.name", "is int", "is str"])

    def test_another_type_than_the_files_is_refused(self):
        for text, says in (("general.name=int:5", "str"), ("llama.block_count=float:6", "int"),
                           ("llama.block_count=str:6", "int"), ("llama.rope.freq_base=int:10000", "float"),
                           ("tokenizer.ggml.tokens=str:a", "list of strs"),
                           ("tokenizer.ggml.tokens=arr:[1]", "list of strs"),
                           ("general.alignment=int:64", "how the bytes"), ("split.count=int:2", "how the bytes"),
                           ("hearth.sparse.tensors=arr:[]", "how the bytes"),
                           ("llama.block_count=int:99999999999", "does not fit")):
            with self.subTest(text):
                self.refused("inspect", MODEL, "--override", text, says=[text.split("=")[0], says])

    def test_what_is_no_override_is_a_wrong_command_line(self):
        for text in ("x", "", "=int:1", "a=1", "a=int:", "a=int:1.5", "a=int:x", "a=float:x", "a=float:nan",
                     "a=float:1e400", "a=bool:1", "a=text:x", "a=arr:1", "a=arr:[1,\"b\"]", "a=arr:[[1]]", "a=arr:[1"):
            with self.subTest(text):
                self.refused("inspect", MODEL, "--override", text, code=2, says=["--override"])

    def test_a_copy_has_it(self):
        out = self.folder / "copy.gguf"
        self.good("quantize", MODEL, out, "q8_0", *self.override("general.name=str:another name",
                  "new.key=float:0.5", "tokenizer.ggml.eos_token_id=int:5"))
        keys = read_gguf(out)[0]
        self.assertEqual((keys["general.name"], keys["new.key"],
                         keys["tokenizer.ggml.eos_token_id"]), ("another name", 0.5, 5))
        self.assertEqual(self.text_of("inspect", out, "--json").count("another name"), 1)


# ---- perplexity as others count it -----------------------------------------------------------------------------------

class Perplexity(Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.model_keys, cls.values, _ = read_gguf(MODEL)
        cls.text = TEXT.read_text(encoding="utf-8")[:1500]
        cls.bos = int(cls.model_keys["tokenizer.ggml.bos_token_id"])
        file = cls.folder / "text"
        file.write_text(cls.text, encoding="utf-8")
        lines = hearth("tokenize", MODEL, "-f", file).stdout.decode("utf-8", "replace").split("\n")[:-1]
        cls.ids = [int(line.split()[0]) for line in lines]
        cls.file = file

    def nlls(self, ids):
        """-log p of ids[1:], each from those before it, by the plain forward pass in numpy."""
        logits = gguf_logits(self.model_keys, self.values, np.array(ids))
        top = logits.max(axis=1, keepdims=True)
        log_p = logits - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True))
        return [-log_p[i, ids[i + 1]] for i in range(len(ids) - 1)]

    def measured(self, *args):
        done = self.good("perplexity", MODEL, *CPU, "-f", self.file, *args)
        return (float(re.match(r"ppl = ([0-9.]+) \+- ", done.stdout.decode()).group(1)),
                done.stderr.decode().splitlines()[-1])

    def check(self, nlls, *args, says):
        ppl, talk = self.measured(*args)
        self.assertLess(abs(ppl / math.exp(np.mean(nlls)) - 1), 2e-3)
        self.assertIn(f"{len(nlls)} tokens in ", talk)
        self.assertIn(says, talk)

    # Written after tools/perplexity of llama.cpp: tokens with BOS, chunks of n_ctx, BOS in the place of each one's
    # first token, and of the logits of a chunk those from n_ctx / 2 on.
    def test_the_half_window_convention_is_llama_cpps(self):
        n_ctx = 64
        tokens = [self.bos, *self.ids]
        nlls = []
        for i in range(len(tokens) // n_ctx):
            chunk = [self.bos, *tokens[i * n_ctx + 1:(i + 1) * n_ctx]]
            nlls += self.nlls(chunk)[n_ctx // 2:]
        self.check(nlls, "--as", "llama.cpp", "-c", n_ctx, says=f"llama-perplexity -c {n_ctx}")

    # There, a stride makes the windows longer by its half, and what it writes in the place of the first token
    # comes after that was read.
    def test_the_strided_convention_is_llama_cpps(self):
        n_ctx, stride = 64, 48
        tokens = [self.bos, *self.ids]
        length = n_ctx + stride // 2
        nlls = []
        for i in range((len(tokens) - length + stride - 1) // stride):
            nlls += self.nlls(tokens[i * stride:i * stride + length])[length - stride - 1:]
        for args in (("--as", "llama.cpp", "--stride", stride), ("--ppl-stride", stride)):
            self.check(nlls, *args, "-c", n_ctx, says=f"--ppl-stride {stride}")

    def test_our_own_stride_predicts_each_token_once_from_more(self):
        context, stride = 64, 24
        nlls, done, begin = [], 0, 0
        while done < len(self.ids):
            end = min(begin + context - 1, len(self.ids))
            nlls += self.nlls([self.bos, *self.ids[begin:end]])[done - begin:]
            done, begin = end, begin + stride
        self.assertEqual(len(nlls), len(self.ids))
        self.check(nlls, "-c", context, "--stride", stride, says=f"each {stride} tokens on")
        self.assertLess(self.measured("-c", context, "--stride", stride)[0], self.measured("-c", context)[0])

    def test_windows_that_do_not_fit_are_told(self):
        self.refused("perplexity", MODEL, *CPU, "-f", self.file, "--stride", 64, "-c", 64, says=["--stride"])
        self.refused("perplexity", MODEL, *CPU, "-f", self.write("short", "Once upon"),
                     "--as", "llama.cpp", "-c", 64, says=["tokens"])
        self.refused("perplexity", MODEL, *CPU, "-f", self.file, "--as", "other", code=2, says=["--as"])
        ppl, talk = self.measured("--as", "llama.cpp", "-c", 64, "--chunks", 1)
        self.assertIn("31 tokens in 1 windows", talk)


if __name__ == "__main__":
    if PROGRAM is None:
        sys.exit("usage: flags_test.py PROGRAM [arguments of unittest]")
    unittest.main()
