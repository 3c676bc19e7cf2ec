#!/usr/bin/env python3
"""tools/models/whole_file.py and tools/models/sentences.py: files that appear whole or not at all,
and programs that end in one sentence.

    python3 tests/whole_file_test.py          (packages: tools/models/requirements.txt)
"""

import contextlib
import errno
import json
import os
import resource
import signal
import stat
import struct
import subprocess
import sys
import threading
import time
import unittest
from pathlib import Path
from unittest import mock

TESTS = Path(__file__).resolve().parent
TOOLS = TESTS.parent / "tools" / "models"
sys.path.insert(0, str(TOOLS))
import sentences  # noqa: E402
import whole_file  # noqa: E402
from convert_test import Case, Scratch, random_tensors, stderr_of, tiny_config  # noqa: E402
from gguf_header import check_header  # noqa: E402
from sentences import Refusal, printable, run  # noqa: E402
from whole_file import new_folder, replacing, scratch_folder  # noqa: E402


class Stop(Exception):
    pass


class Files(Scratch):
    def names(self):
        return sorted(p.name for p in self.out.parent.iterdir() if p.name != "tiny")

    def write(self, data, out=None):
        with replacing(out or self.out) as file:
            file.write(data)

    def test_a_file_appears_with_its_last_byte_and_not_before(self):
        with replacing(self.out) as file:
            file.write(b"new")
            self.assertFalse(self.out.exists())
            self.assertRegex(self.names()[0], r"^tiny\.gguf\.[0-9a-f]{16}\.part$")
        self.assertEqual((self.names(), self.out.read_bytes()), (["tiny.gguf"], b"new"))

    def test_nothing_is_left_of_it_after_any_error_and_the_old_file_stays(self):
        self.out.write_bytes(b"old")
        for error in (Stop(), KeyboardInterrupt(), sentences.Stopped(15), MemoryError(),
                      OSError(errno.ENOSPC, "No space left on device"), Refusal("no")):
            with contextlib.suppress(type(error), Refusal), replacing(self.out) as file:
                file.write(b"half")
                raise error
            self.assertEqual((self.names(), self.out.read_bytes()), (["tiny.gguf"], b"old"))

    def test_failures_of_the_system_are_told_and_leave_the_old_file(self):
        for name, after in (("fsync", 0), ("fsync", 1), ("replace", 0), ("open", 0), ("fdopen", 0)):
            self.out.write_bytes(b"old")
            calls, real = [], getattr(os, name)

            def fails(*args, calls=calls, real=real, after=after, **more):
                calls.append(args)
                if len(calls) <= after:
                    return real(*args, **more)
                raise OSError(errno.EIO, "Input/output error")

            with self.subTest(name, after=after), mock.patch.object(whole_file.os, name,
                                                                    fails), self.assertRaises(Refusal) as caught:
                self.write(b"new")
            self.assertIn("cannot be written: Input/output error", str(caught.exception))
            self.assertEqual(self.names(), ["tiny.gguf"])
            self.assertEqual(self.out.read_bytes(), b"new" if
                             (name, after) == ("fsync", 1) else b"old")    # the folder's sync comes after

    def test_a_limit_of_file_sizes_ends_in_a_sentence(self):
        self.out.write_bytes(b"old")
        code = (
            "import signal, sys; sys.path.insert(0, sys.argv[1]); from sentences import run; from whole_file import "
            "replacing; from pathlib import Path\n"
            "def work():\n with replacing(Path(sys.argv[2])) as file: file.write(bytes(1 << 20))\nsys.exit(run('x', "
            "work))"
        )
        done = subprocess.run([sys.executable, "-c", code, TOOLS, self.out], capture_output=True, text=True,
                              preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16)))
        self.assertEqual(
            (done.returncode, done.stderr),
            (1, f"x: {self.out} cannot be written: File too large; files may not be that large here: raise "
             "`ulimit -f`, or name another place\n"))
        self.assertEqual((self.names(), self.out.read_bytes()), (["tiny.gguf"], b"old"))

    def test_data_are_synced_before_the_name_and_the_folder_after(self):
        order = []
        real = {name: getattr(os, name) for name in ("fsync", "replace")}

        def noted(name):
            def call(*args):
                order.append(
                    (name, "folder" if name == "fsync" and stat.S_ISDIR(os.fstat(args[0]).st_mode) else "file"))
                return real[name](*args)
            return call

        with mock.patch.multiple(whole_file.os, fsync=noted("fsync"), replace=noted("replace")):
            self.write(b"new")
        self.assertEqual(order, [("fsync", "file"), ("replace", "file"), ("fsync", "folder")])

    def test_the_mode_of_the_old_file_is_kept_and_a_new_one_obeys_umask(self):
        for mode in (0o600, 0o640, 0o444, 0o755):
            self.out.write_bytes(b"old")
            self.out.chmod(mode)
            self.write(b"new")
            self.assertEqual(stat.S_IMODE(self.out.stat().st_mode), mode)
            self.out.unlink()
        before = os.umask(0o027)
        self.addCleanup(os.umask, before)
        self.write(b"new")
        self.assertEqual(stat.S_IMODE(self.out.stat().st_mode), 0o640)

    def test_links_are_followed_and_what_is_no_file_is_refused(self):
        real, link = self.folder / "real.gguf", self.out.with_name("link.gguf")
        link.symlink_to("tiny/real.gguf")
        for data in (b"1", b"2"):    # a link that leads nowhere, and one that leads to a file
            self.write(data, link)
            self.assertEqual((link.is_symlink(), real.read_bytes(), [p.name for p in self.folder.iterdir()]),
                             (True, data, ["real.gguf"]))
        pipe, loop = self.folder / "pipe", self.folder / "loop"
        os.mkfifo(pipe)
        loop.symlink_to("loop")
        for path, message in ((self.folder, "is a folder; the name of a file is expected"),
                              (pipe, "is a pipe or a device"), (Path("/dev/null"), "is a pipe or a device"),
                              (self.folder / "lost/x",
                               "cannot be written: No such file or directory; make its folder first"),
                              (loop, "cannot be written"),
                              (self.folder /
                               ("x" * 300), "cannot be written: File name too long; give it a shorter name")):
            with self.subTest(message), self.assertRaises(Refusal) as caught:
                self.write(b"", path)
            self.assertIn(message, str(caught.exception))
        self.assertTrue(stat.S_ISCHR(os.stat("/dev/null").st_mode))

    def test_names_as_long_as_they_may_be_can_be_written(self):
        for name in ("x" * 255, "\u00e9" * 127):
            self.write(b"new", self.folder / name)
            self.assertEqual((self.folder / name).read_bytes(), b"new")

    def test_what_a_planted_link_points_to_is_not_touched(self):
        """Names of parts cannot be guessed; and where one is, the file is not opened."""
        victim = self.folder / "victim"
        victim.write_bytes(b"dear")
        names = iter(["0" * 16, "1" * 16])
        self.out.with_name(f"tiny.gguf.{'0' * 16}.part").symlink_to(victim)
        with mock.patch.object(whole_file.secrets, "token_hex", lambda _: next(names)):
            self.write(b"new")
        self.assertEqual((victim.read_bytes(), self.out.read_bytes()), (b"dear", b"new"))

    def test_of_many_writers_of_one_file_the_last_wins_with_all_of_its_file(self):
        wrong = []

        def writer(n):
            for _ in range(20):
                try:
                    with replacing(self.out) as file:
                        for _ in range(50):
                            file.write(bytes([n]) * 1000)
                except Exception as e:    # noqa: BLE001
                    wrong.append(e)

        def reader():
            while any(t.is_alive() for t in threads):
                if self.out.exists():
                    data = self.out.read_bytes()
                    if len(data) != 50000 or len(set(data)) != 1:
                        wrong.append(len(data))

        threads = [threading.Thread(target=writer, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        reader()
        for thread in threads:
            thread.join()
        self.assertEqual((wrong, self.names()), ([], ["tiny.gguf"]))

    def test_what_a_killed_writer_left_is_removed_by_the_next_and_told(self):
        code = (
            "import sys, time; sys.path.insert(0, sys.argv[1]); from whole_file import *; from pathlib import Path\n"
            "with replacing(Path(sys.argv[2])) as file, scratch_folder(Path(sys.argv[2])) as folder:\n"
            " (folder / 'x').write_text('x'); file.write(b'half'); file.flush(); print('ready', flush=True); "
            "time.sleep(60)"
        )
        writer = subprocess.Popen([sys.executable, "-c", code, TOOLS, self.out], stdout=subprocess.PIPE)
        self.addCleanup(writer.stdout.close)
        writer.stdout.readline()
        self.assertEqual(stderr_of(lambda: self.write(b"new"))[1], "")    # it is at work
        self.assertEqual(len(self.names()), 3)
        writer.kill()
        writer.wait()
        self.out.with_name("tiny.gguf.notes.part").write_text("mine")
        fresh = self.out.with_name(f"tiny.gguf.{'a' * 16}.part")
        fresh.touch()    # somebody is about to lock it
        err = stderr_of(lambda: self.write(b"newer"))[1]
        self.assertEqual((err.count("which a run that was killed had left"), self.names()),
                         (2, ["tiny.gguf", fresh.name, "tiny.gguf.notes.part"]))
        os.utime(fresh, (time.time() - 60,) * 2)    # nobody did
        self.assertIn(fresh.name, stderr_of(lambda: self.write(b"newer"))[1])
        self.assertEqual(self.out.read_bytes(), b"newer")

    def test_a_folder_appears_whole_or_not_at_all(self):
        out = self.folder / "new"
        with contextlib.suppress(Stop), new_folder(out) as part:
            (part / "x").write_text("x")
            raise Stop
        self.assertEqual(list(self.folder.iterdir()), [])
        out.mkdir()
        with new_folder(out) as part, scratch_folder(out) as scratch:
            (part / "x").write_text("x")
            (scratch / "y").write_text("y")
        self.assertEqual([p.relative_to(self.folder).as_posix() for p in sorted(self.folder.rglob("*"))],
                         ["new", "new/x"])
        with self.assertRaises(Refusal), new_folder(out):
            pass
        (self.folder / "link").symlink_to(out)
        with self.assertRaises(Refusal), new_folder(self.folder / "link"):
            pass


class Sentences(unittest.TestCase):
    def run_it(self, work):
        return stderr_of(lambda: run("tool", work))

    def test_whatever_happens_is_told_in_one_sentence(self):
        def raising(e):
            def work():
                raise e
            return work

        deep = []
        for _ in range(5000):
            deep = [deep]
        for e, code, text in (
            (Refusal("no"), 1, "no"), (OSError(errno.ENOSPC, "No space left on device",
                                               "x"), 1, "x: No space left on device; make room, or name another place"),
            (KeyboardInterrupt(), 130, "interrupted"), (sentences.Stopped(15), 143, "stopped by SIGTERM"),
            (MemoryError(), 1, "the memory does not suffice; close other programs, or raise `ulimit -v`"),
            (RecursionError(), 1, "a file is nested too deeply"),
            (Refusal("a\nb\x1b[2J\x9b\u202e\u2066\ud800\u200b"),
             1, r"a\nb\x1b[2J\x9b\u202e\u2066\ud800\u200b"), (Refusal("x" * 100000), 1, "x" *
                                                              (sentences.LONGEST - len("tool: ...")) + "..."),
            (ModuleNotFoundError("no", name="gguf"), 1,
             f"the Python package gguf is missing: python3 -m pip install -r {TOOLS / 'requirements.txt'}")):
            with self.subTest(text[:40]):
                self.assertEqual(self.run_it(raising(e)), (code, f"tool: {text}\n"))
        code, err = self.run_it(lambda: {}["key"])
        self.assertEqual(code, 1)
        self.assertRegex(err, r"^tool: internal error: whole_file_test.py:\d+: KeyError: 'key'; please report this\n$")
        self.assertEqual(self.run_it(lambda: json.dumps(deep)), (1, "tool: a file is nested too deeply\n"))
        self.assertEqual(sentences.shown(deep), "too large to be shown")

    def test_names_and_texts_of_people_stay_readable(self):
        for text in ("caf\u00e9", "\u4f60\u597d", "\U0001F642", "a b\u3002", "Stra\u00dfe"):
            self.assertEqual(printable(text), text)

    def test_a_reader_that_has_gone_is_no_traceback(self):
        for stream in (1, 2):
            code = ("import os, sys; sys.path.insert(0, sys.argv[1]); from sentences import *\n"
                    f"r, w = os.pipe(); os.close(r); os.dup2(w, {stream})\n"
                    "def work():\n print('x' * 100000); say('y' * 100000); progress('z')\nsys.exit(run('tool', work))")
            done = subprocess.run([sys.executable, "-c", code, TOOLS], capture_output=True, text=True)
            self.assertEqual((done.returncode, "Traceback" in done.stderr, "Exception" in done.stderr),
                             (1 if stream == 1 else 0, False, False), done.stderr)

    def test_say_is_the_only_way_to_stderr(self):
        for file in sorted(TOOLS.glob("*.py")):
            if file.name != "sentences.py":
                text = file.read_text(encoding="utf-8")
                self.assertNotIn("sys.stderr", text, file.name)


class Program(Case):
    """The converter as a process."""

    def start(self, *args, code=None, **more):
        command = [sys.executable, TOOLS / "convert.py", self.folder, self.out, *args]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)

    def test_signals_end_it_and_leave_nothing(self):
        config = tiny_config(num_hidden_layers=16)
        self.write(config, random_tensors(config))
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            with self.subTest(number.name):
                self.out.write_text("old")
                heard = lambda: signal.signal(number, signal.SIG_DFL)    # noqa: E731: these tests may have it ignored
                process, until = self.start("--type", "q4_0", preexec_fn=heard), time.monotonic() + 60
                while not list(self.out.parent.glob("*.part")) and process.poll() is None and time.monotonic() < until:
                    time.sleep(0.002)
                process.send_signal(number)
                err = process.communicate(timeout=60)[1]
                self.assertEqual((process.returncode, err.count("\n")), (128 + number, 1), err)
                self.assertEqual(([p.name for p in sorted(self.out.parent.iterdir())], self.out.read_text()),
                                 (["tiny", "tiny.gguf"], "old"))

    def test_a_package_that_is_missing_is_named(self):
        done = subprocess.run([sys.executable, "-S", "-s", TOOLS / "convert.py", self.folder, self.out],
                              capture_output=True,
                              text=True)
        self.assertEqual(
            (done.returncode, done.stderr),
            (1,
             f"convert: the Python package gguf is missing: python3 -m pip install -r {TOOLS / 'requirements.txt'}\n"))

    def test_too_little_memory_is_a_sentence(self):
        config = tiny_config()
        self.write(config, random_tensors(config))
        limit = 64 << 20
        process = self.start(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit)),
                             env=os.environ | {"OPENBLAS_NUM_THREADS": "1"})
        err = process.communicate(timeout=60)[1]
        self.assertEqual((process.returncode, "Traceback" in err), (1, False), err)


class Requirements(unittest.TestCase):
    def test_the_lock_has_every_requirement_with_hashes_at_a_version_that_will_do(self):
        def number(version):
            return [int(part) for part in version.split(".")]

        locked = {}
        for line in (TOOLS / "requirements.lock").read_text().replace(" \\\n", " ").splitlines():
            if not line.startswith("#"):
                self.assertRegex(line, r"^[\w.-]+==[\w.]+ .*--hash=sha256:[0-9a-f]{64}")
                name, version = line.split()[0].split("==")
                locked.setdefault(name, []).append(version)
        for line in (TOOLS / "requirements.txt").read_text().splitlines():
            if not line.startswith("#"):
                name, least = line.split()[0].split(">=")
                self.assertTrue(all(number(version) >= number(least) for version in locked[name]), name)


class OtherTools(Scratch):
    def test_a_trace_is_drawn_or_refused(self):
        trace, picture = self.folder / "trace.json", self.folder / "picture.svg"
        event = {"ph": "X", "cat": "decode", "name": "ffn_up", "ts": 10, "dur": 90, "tid": 1, "args": {"layer": 3}}

        def draw(content, *args):
            trace.write_text(content if isinstance(content, str) else json.dumps(content))
            command = [sys.executable, TOOLS / "trace_picture.py", trace, picture, *args]
            done = subprocess.run(command, capture_output=True, text=True)
            return done.returncode, done.stderr

        self.assertEqual(draw({"traceEvents": [event, event | {"tid": 2, "ts": 50}]}), (0, ""))
        self.assertIn("ffn_up 3: 90 us", picture.read_text())
        picture.unlink()
        for content in ("", "[", "[]", '{"traceEvents": 3}', {"traceEvents": []},
                        {"traceEvents": [event | {"ts": "x"}]},
                        {"traceEvents": [event | {"tid": 9}]}, {"traceEvents": [event | {"args": 4}]}, "[" * 100000):
            code, err = draw(content)
            self.assertEqual((code, err.count("\n"), err[:15]), (1, 1, "trace_picture: "), err)
        self.assertEqual(draw({"traceEvents": [event]}, "--for", "1e9")[0], 1)
        self.assertEqual([p.name for p in self.folder.iterdir()], ["trace.json"])

    def test_a_gguf_file_is_read_in_python_only_if_its_counts_fit_it(self):
        def text(data):
            return struct.pack("<Q", len(data)) + data

        def file(keys=b"", tensors=b"", counts=None, version=3, magic=b"GGUF"):
            n, k = counts or (bool(tensors), bool(keys))
            return magic + struct.pack("<IQQ", version, n, k) + keys + tensors

        path, key = self.folder / "x.gguf", text(b"key")
        def array(element, count):
            return key + struct.pack("<IIQ", 9, element, count)

        for data in (file(), file(key + struct.pack("<IB", 7, 1)), file(key + struct.pack("<I", 8) + text(b"x")),
                     file(magic=b"PWRI"), file(array(4, 2) + bytes(8)), file(array(8, 2) + text(b"a") * 2),
                     file(tensors=text(b"t") + struct.pack("<IQQIQ", 2, 1, 1, 0, 0)), file(version=2)):
            path.write_bytes(data)
            check_header(path)
            for cut in range(len(data)):
                path.write_bytes(data[:cut])
                self.assertRaises(Refusal, check_header, path)
        for data in (file(magic=b"gguf"), file(version=1), file(counts=(0, 1 << 60)), file(counts=(1 << 60, 0)),
                     file(struct.pack("<Q", 1 << 63)), file(array(0, 1 << 60)), file(array(8, 1 << 60)),
                     file(array(9, 1)), file(key + struct.pack("<I", 99)),
                     file(tensors=text(b"t") + struct.pack("<I", 1 << 31)), file(array(0, 17 << 20) + bytes(17 << 20))):
            path.write_bytes(data)
            self.assertRaises(Refusal, check_header, path)


if __name__ == "__main__":
    unittest.main()
