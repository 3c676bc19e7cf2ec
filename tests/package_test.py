#!/usr/bin/env python3
"""What `cmake --install` puts into a folder is enough for programs of others: those of tests/examples are built with it
and write what `hearth run` writes. On the shipped model.

    python3 tests/package_test.py build/check/hearth [arguments of unittest]
"""

import os
import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

TESTS = Path(__file__).resolve().parent
MODEL = TESTS / "data/fairytale-7m.gguf"
PROGRAM = Path(sys.argv.pop(1)).resolve() if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else None
PROMPT = "Once upon a time"
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith(("VK_", "HEARTH_"))}
ENVIRONMENT["VK_LOADER_DRIVERS_SELECT"] = "*lvp*"    # which nobody chooses who does not name it: the CPU alone


def run(*args):
    return subprocess.run([str(a) for a in args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, env=ENVIRONMENT, timeout=600)


class Package(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        scratch = tempfile.TemporaryDirectory()
        cls.addClassCleanup(scratch.cleanup)
        cls.prefix, cls.examples = Path(scratch.name, "prefix"), Path(scratch.name, "examples")
        cls.must("cmake", "--install", PROGRAM.parent, "--prefix", cls.prefix)
        cls.must("cmake", "-G", "Ninja", "-S", TESTS / "examples", "-B", cls.examples,
                 f"-DCMAKE_PREFIX_PATH={cls.prefix}", "-DCMAKE_C_FLAGS=-O0 -Wall -Wextra -Werror -pedantic -std=c99",
                 "-DCMAKE_CXX_FLAGS=-O0 -Wall -Wextra -Werror")
        cls.must("cmake", "--build", cls.examples)

    @staticmethod
    def must(*args):
        done = run(*args)
        if done.returncode:
            raise AssertionError(f"{args[:3]}: {(done.stdout + done.stderr).decode()}")
        return done.stdout.decode()

    def test_the_examples_write_what_the_installed_program_writes(self):
        text = self.must(self.prefix / "bin/hearth", "run", MODEL, "-p", PROMPT, "-n", "64", "--temp", "0")
        self.assertTrue(text.startswith(PROMPT))
        self.assertGreater(len(text), len(PROMPT) + 64)
        for name in ("hello_c", "hello_cpp"):
            with self.subTest(name):
                self.assertEqual(self.must(self.examples / name, MODEL, PROMPT), text)

    def test_a_file_that_is_not_there_is_a_sentence_and_exit_code_1(self):
        missing = self.prefix / "no such model.gguf"
        program = run(PROGRAM, "run", missing, "-p", PROMPT)
        sentence = program.stderr.decode().splitlines()[-1].removeprefix("hearth: ")
        self.assertIn(missing.name, sentence)
        for name in ("hello_c", "hello_cpp"):
            with self.subTest(name):
                done = run(self.examples / name, missing, PROMPT)
                self.assertEqual((done.returncode, done.stdout.decode(), done.stderr.decode()),
                                 (1, "", f"{name}: {sentence}\n"))

    def test_every_header_that_an_installed_one_includes_is_installed(self):
        include = self.prefix / "include/hearth"
        headers = list(include.rglob("*.h"))
        for door in ("engine", "batcher", "hearth"):
            self.assertIn(include / f"engine/{door}.h", headers)
        for header in headers:
            for name in re.findall(r'^#include "(.*)"', header.read_text(encoding="utf-8"), re.MULTILINE):
                with self.subTest(header.relative_to(include)):
                    self.assertTrue((include / name).is_file(), name)

    def test_nothing_installed_names_the_folder_it_was_built_in(self):
        files = list(self.prefix.rglob("*.cmake"))
        self.assertIn("hearthConfig.cmake", [file.name for file in files])
        for file in files:
            with self.subTest(file.name):
                self.assertNotIn(str(TESTS.parent), file.read_text(encoding="utf-8"))


if __name__ == "__main__":
    if PROGRAM is None:
        sys.exit("usage: package_test.py PROGRAM [arguments of unittest]")
    unittest.main()
