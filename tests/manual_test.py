#!/usr/bin/env python3
"""Pages for man and completions for shells have every option of --help, and no other. Shells that are not installed
cannot be asked; their completions are read.

    python3 tests/manual_test.py build/check/hearth [arguments of unittest]
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

PROGRAM = Path(sys.argv.pop(1)).resolve() if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else None
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith("HEARTH_")}


def run(*args, text=None):
    done = subprocess.run([str(a) for a in args], input=text, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          env=ENVIRONMENT, encoding="utf-8", timeout=60)
    if done.returncode:
        raise AssertionError(f"{args}: {done.stderr}")
    return done.stdout


def commands_of(help_text):
    return re.findall(r"^  (\w+) {2,}", help_text.partition("Commands:")[2], re.MULTILINE)


def options_of(help_text):
    """Every name that --help has, with its value's name."""
    names = {}
    for line in re.findall(r"^  (-\S.*?)(?: {2,}.*)?$", help_text, re.MULTILINE):
        all_names, _, value = line.partition(" ") if ", " not in line else (
            ", ".join([*line.split(", ")[:-1], line.split(", ")[-1].partition(" ")[0]]), "",
            line.split(", ")[-1].partition(" ")[2])
        names.update({name: value for name in all_names.split(", ")})
    return names


def words(text):
    return " ".join(text.split())


class Manual(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.commands = {name: run(PROGRAM, name, "--help") for name in commands_of(run(PROGRAM, "--help"))}
        scratch = tempfile.TemporaryDirectory()
        cls.addClassCleanup(scratch.cleanup)
        cls.prefix = Path(scratch.name)
        run(PROGRAM, "manual", "--prefix", cls.prefix)

    def text(self, path):
        return (self.prefix / path).read_text(encoding="utf-8")

    def same_options(self, found):
        """found: by command, the names."""
        self.assertGreater(len(self.commands), 15)
        self.assertEqual(set(found), set(self.commands))
        for command, help_text in self.commands.items():
            with self.subTest(command):
                names = set(options_of(help_text))
                self.assertGreater(len(names), 1)
                self.assertEqual(set(found[command]), names)

    def test_every_command_has_a_page_with_the_words_of_its_help(self):
        page = self.text("share/man/man1/hearth.1")
        self.assertEqual(re.findall(r"^\.BR hearth\\-(\w+) \(1\)$", page, re.MULTILINE), list(self.commands))
        for command, help_text in self.commands.items():
            with self.subTest(command):
                page = self.text(f"share/man/man1/hearth-{command}.1")
                self.assertEqual(page, run(PROGRAM, "manual", "man", command))
                plain = re.sub(r"\\f[BIR]|\\&", "", page).replace("\\-", "-").replace("\\e", "\\")
                self.assertTrue(words(help_text.splitlines()[0]) in words(plain))
                options = help_text.partition("\n\n")[2]
                for paragraph in re.split(r"\n(?=  \S|\n|\S)", options):
                    if paragraph.strip() and not paragraph.strip().endswith(":"):
                        self.assertIn(words(paragraph), words(plain))
        self.assertEqual(len(list((self.prefix / "share/man/man1").iterdir())), len(self.commands) + 1)

    @unittest.skipUnless(shutil.which("groff"), "needs groff")
    def test_groff_reads_the_pages_without_a_warning(self):
        for page in sorted((self.prefix / "share/man/man1").iterdir()):
            with self.subTest(page.name):
                done = subprocess.run(["groff", "-man", "-Tutf8", "-ww", page], capture_output=True, timeout=60)
                self.assertEqual((done.returncode, done.stderr.decode()), (0, ""))

    def test_bash_completes_commands_options_and_values(self):
        script = self.text("share/bash-completion/completions/hearth")

        def complete(*typed):
            asked = ("source /dev/stdin; COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); _hearth;"
                     "printf '%s\\n' \"${COMPREPLY[@]}\"")
            return run("bash", "-c", asked, "bash", "hearth", *typed, text=script).split()

        self.assertEqual(complete(""), list(self.commands))
        self.assertEqual(complete("per"), ["perplexity"])
        self.assertEqual(complete("run", "--confine", ""), ["on", "off"])
        self.assertEqual(complete("plan", "-ctk", "q"), ["q8_0"])
        self.assertEqual(complete("run", "--prompt", "wo"), [])
        self.same_options({command: complete(command, "-") for command in self.commands})

    def test_zsh_has_every_option(self):
        script = self.text("share/zsh/site-functions/_hearth")
        cases = re.findall(r"^    (\w+)\)\n(.*?)^        \) ;;$", script, re.MULTILINE | re.DOTALL)
        self.same_options({command: re.findall(r"^ +'\*(-[^\[]+)\[", body, re.MULTILINE) for command, body in cases})
        if shutil.which("zsh"):
            run("zsh", "-n", self.prefix / "share/zsh/site-functions/_hearth")

    def test_fish_has_every_option(self):
        found = {command: [] for command in self.commands}
        script = self.text("share/fish/vendor_completions.d/hearth.fish")
        for command, names in re.findall(r"__fish_seen_subcommand_from (\w+)'((?: -[slo] \S+)+)", script):
            for kind, name in re.findall(r"-([slo]) (\S+)", names):
                found[command].append(("--" if kind == "l" else "-") + name)
        self.same_options(found)
        self.assertEqual(re.findall(r"__fish_use_subcommand -a (\w+)", script), list(self.commands))
        if shutil.which("fish"):
            run("fish", "--no-execute", self.prefix / "share/fish/vendor_completions.d/hearth.fish")

    def test_powershell_has_every_option(self):
        script = self.text("share/powershell/hearth.ps1")
        tables = re.findall(r"^    '(\w+)' = \[ordered\]@\{\n(.*?)^    \}", script, re.MULTILINE | re.DOTALL)
        self.same_options({command: re.findall(r"^ +'(-\S+)' = ", body, re.MULTILINE) for command, body in tables})
        if shutil.which("pwsh"):
            run("pwsh", "-NoProfile", "-File", self.prefix / "share/powershell/hearth.ps1")

    def test_an_unknown_command_is_a_sentence(self):
        done = subprocess.run([PROGRAM, "manual", "man", "none"], capture_output=True, encoding="utf-8", timeout=60,
                              env=ENVIRONMENT)
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertIn("no subcommand none", done.stderr)


if __name__ == "__main__":
    if PROGRAM is None:
        sys.exit("usage: manual_test.py PROGRAM [arguments of unittest]")
    unittest.main()
