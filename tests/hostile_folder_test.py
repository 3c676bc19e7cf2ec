#!/usr/bin/env python3
"""A stranger's folder: whatever it holds, tools/models/convert.py ends in one sentence, reads nothing outside of it,
and takes little time and memory.

    python3 tests/hostile_folder_test.py          (packages: tools/models/requirements.txt)
"""

import io
import json
import os
import pickle
import pickletools
import random
import resource
import struct
import subprocess
import sys
import unittest
import zipfile
from pathlib import Path


TESTS = Path(__file__).resolve().parent
TOOLS = TESTS.parent / "tools" / "models"
sys.path.insert(0, str(TOOLS))
import checkpoint  # noqa: E402
import convert  # noqa: E402
import torch_pickle  # noqa: E402
from convert_test import Case, Scratch, random_tensors, save_file, tiny_config  # noqa: E402
from mutated_folders import try_mutations  # noqa: E402
from sentences import Refusal  # noqa: E402


def put_torch(path, steps, files=None, **entry):
    """A torch file with these steps in its pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", steps)
        for name, data in (files if files is not None else {"data/0": bytes(64)}).items():
            archive.writestr(f"archive/{name}", data)


def read_steps(steps):
    """What the machine makes of a pickle whose functions and storages give texts."""
    names = {("collections", "OrderedDict"), ("torch", "FloatStorage")}
    return torch_pickle.Machine(steps, "file", lambda *name: name in names, lambda f, args: {}
                                if f.name == "OrderedDict" else "made", lambda key: "loaded").run()


class Pickles(unittest.TestCase):
    NEEDED = {
        "PROTO", "STOP", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT",
        "BINUNICODE", "MARK", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS",
        "EMPTY_DICT", "SETITEM", "SETITEMS", "GLOBAL", "REDUCE", "BUILD", "BINPERSID", "BINPUT", "LONG_BINPUT",
        "BINGET", "LONG_BINGET"
    }

    def test_every_step_that_no_checkpoint_needs_is_refused_by_its_name_before_it_is_taken(self):
        for op in pickletools.opcodes:
            code = op.code.encode("latin-1")
            with self.subTest(op.name):
                if op.name in self.NEEDED:
                    self.assertIn(code, torch_pickle.STEPS)
                    continue
                for steps in (b"\x80\x02" + code, b"\x80\x02}" + code + bytes(8) + b".",
                              b"\x80\x02]q\x00(K\x01K\x02" + code + b"os\nsystem\n.", code + b"\x00" * 20):
                    with self.assertRaises(Refusal) as caught:
                        read_steps(steps)
                    self.assertEqual(
                        str(caught.exception),
                        f"file holds a pickle with the step {op.name}, which no checkpoint needs, and is not read")
        for code in set(range(256)) - {ord(op.code) for op in pickletools.opcodes}:
            with self.assertRaises(Refusal) as caught:
                read_steps(b"\x80\x02" + bytes([code]))
            self.assertIn(f"the step {code:02x}, which", str(caught.exception))

    def test_every_needed_step_does_what_pythons_own_machine_does(self):
        steps = [
            b"N.", b"\x88.", b"\x89.", b"J\xff\xff\xff\xff.", b"K\xff.", b"M\xff\xff.", b"\x8a\x02\xff\x80.",
            b"\x8a\x00.", b"G?\xf8\0\0\0\0\0\0.", b"X\x02\0\0\0\xc3\xa9.", b").", b"(K\x01K\x02t.", b"K\x01\x85.",
            b"K\x01K\x02\x86.", b"K\x01K\x02K\x03\x87.", b"].", b"]K\x01a.", b"](K\x01K\x02e.", b"}.",
            b"}X\x01\0\0\0aK\x01s.", b"}(X\x01\0\0\0aK\x01X\x01\0\0\0bNu.", b"K\x05q\x00h\x00\x86.",
            b"K\x05r\x00\x00\x00\xffj\x00\x00\x00\xff\x86.", b"ccollections\nOrderedDict\n)R.",
            b"ccollections\nOrderedDict\n)R}X\x01\0\0\0aK\x01sb."
        ]
        for step in steps[:-1] + [steps[-1]]:
            with self.subTest(step):
                self.assertEqual(
                    read_steps(b"\x80\x02" + step),
                    pickle.loads(
                        b"\x80\x02"
                        + step.replace(b"r\x00\x00\x00\xffj\x00\x00\x00\xff", b"r\x00\x00\x00\x00j\x00\x00\x00\x00")))
        self.assertEqual({pickletools.code2op[code.decode("latin-1")].name for code in torch_pickle.STEPS}, self.NEEDED)

    def test_steps_that_do_not_fit_together_are_refused(self):
        for steps in (b"", b".", b"\x80", b"\x80\x02", b"\x80\x02.", b"\x80\x02t.", b"\x80\x02K\x01(a.",
                      b"\x80\x02}K\x01K\x02s.", b"\x80\x02}(X\x01\0\0\0au.", b"\x80\x02h\x00.", b"\x80\x02q\x00.",
                      b"\x80\x02K\x01)R.", b"\x80\x02ctorch\nFloatStorage\n}R.", b"\x80\x02K\x01}b.",
                      b"\x80\x02ctorch\nFloatStorage\n}b.", b"\x80\x02X\xff\xff\xff\xffa.", b"\x80\x02X\x01\0\0\0\xff.",
                      b"\x80\x02\x8a\xff" + b"\xff" * 255 + b".", b"\x80\x02c" + b"a" * 300 + b"\nb\n.",
                      b"\x80\x02K\x01K\x01a.", b"\x80\x02))a.", b"\x80\x02(\x85."):
            with self.subTest(steps[:20]), self.assertRaises(ValueError):
                read_steps(steps)
        for protocol in (0, 1, 3, 4, 5, 255):
            with self.assertRaises(Refusal):
                read_steps(bytes([0x80, protocol]) + b"N.")

    def test_names_are_those_of_tensors_alone(self):
        for module, name in (("os", "system"), ("builtins", "eval"), ("posix", "system"), ("torch", "load"),
                             ("torch._utils", "__globals__"), ("collections", "OrderedDict.x"),
                             ("collections", "namedtuple"), ("", ""), ("torch", "FloatStorage.from_file")):
            with self.subTest(name), self.assertRaises(Refusal) as caught:
                read_steps(b"\x80\x02c" + f"{module}\n{name}\n".encode() + b".")
            self.assertIn(f"holds a {module}.{name}, and only dictionaries of tensors are read", str(caught.exception))

    def test_attributes_are_never_set(self):
        """BUILD would set them on whatever is below."""
        tensor = (b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000"
                  b"X\x03\0\0\0cpuK\x10tQK\x00(K\x04t(K\x01t\x89}tR")
        state = b"}X\x04\0\0\0pathX\x0b\0\0\0/etc/passwds"
        scratch = Scratch("setUp")
        scratch.setUp()
        self.addCleanup(scratch.doCleanups)
        for steps, good in ((b"}X\x01\0\0\0a" + tensor + b"s.",
                             True), (b"}X\x01\0\0\0a" + tensor + state + b"bs.",
                                     False), (b"ccollections\nOrderedDict\n)R" + state + b"b.", True),
                            (b"ctorch\nFloatStorage\n" + state + b"b.", False), (tensor + state + b"b.", False)):
            put_torch(scratch.folder / "x.bin", b"\x80\x02" + steps)
            if good:
                self.assertEqual([t.path for t in checkpoint.read_torch(scratch.folder / "x.bin").values()],
                                 [scratch.folder / "x.bin"] * (b"_rebuild" in steps))
            else:
                with self.assertRaises(Refusal):
                    checkpoint.read_torch(scratch.folder / "x.bin")

    def test_tensors_are_parts_of_their_storages(self):
        scratch = Scratch("setUp")
        scratch.setUp()
        self.addCleanup(scratch.doCleanups)
        path = scratch.folder / "x.bin"

        def tensor(count=16, first=0, shape=(4,), strides=(1,), key="0", kind="storage"):
            class Persistent(pickle.Pickler):
                def persistent_id(self, value):
                    return None
            out = io.BytesIO()
            Persistent(out, protocol=2).dump((first, tuple(shape), tuple(strides)))
            numbers = out.getvalue()[2:-1]
            numbers = b"".join(pickle.dumps(n, protocol=2)[2:-1] for n in (first, tuple(shape), tuple(strides)))
            text = lambda s: b"X" + struct.pack("<I", len(s)) + s.encode()    # noqa: E731
            return (b"\x80\x02}" + text("a") + b"ctorch._utils\n_rebuild_tensor_v2\n((" + text(kind)
                    + b"ctorch\nFloatStorage\n" + text(key) + text("cpu") + pickle.dumps(count, protocol=2)[2:-1]
                    + b"tQ" + numbers + b"\x89}tRs.")

        for good, changes in ((True, {}), (True, {
                "shape": (2, 2),
                "strides": (2, 1)
        }), (True, {
                "shape": (),
                "strides": ()
        }), (True, {
                "shape": (0, 4),
                "strides": (4, 1)
        }), (False, {
                "first": -1
        }), (False, {
                "first": 13
        }), (False, {
                "shape": (17, )
        }), (False, {
                "shape": (-4, )
        }), (False, {
                "shape": (1 << 62, )
        }), (False, {
                "shape": (1 << 40, 1 << 40),
                "strides": (1 << 40, 1)
        }), (False, {
                "count": 17
        }), (False, {
                "count": -1
        }), (False, {
                "count": 1 << 62
        }), (False, {
                "shape": (4.0, )
        }), (False, {
                "shape": (True, )
        }), (False, {
                "strides": (1, 1)
        }), (False, {
                "shape": (1, ) * 9,
                "strides": (1, ) * 9
        }), (False, {
                "key": "1"
        }), (False, {
                "key": "../data.pkl"
        }), (False, {
                "kind": "module"
        })):
            with self.subTest(**changes):
                put_torch(path, tensor(**changes))
                if good:
                    self.assertEqual(checkpoint.read_torch(path)["a"].raw().shape, changes.get("shape", (4,)))
                else:
                    with self.assertRaises(Refusal):
                        checkpoint.read_torch(path)


class Archives(Scratch):
    def refused(self, data, message="is not a valid torch file"):
        path = self.folder / "pytorch_model.bin"
        path.write_bytes(data)
        with self.assertRaises(Refusal) as caught:
            checkpoint.read_torch(path)
        self.assertIn(message, str(caught.exception))

    def archive(self, *entries, method=zipfile.ZIP_STORED):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", method) as archive:
            for name, data in entries:
                archive.writestr(name, data)
        return bytearray(out.getvalue())

    def test_archives_that_torch_does_not_write_are_refused(self):
        good = [("a/data.pkl", b"\x80\x02}."), ("a/data/0", bytes(64))]
        path = self.folder / "pytorch_model.bin"
        path.write_bytes(self.archive(*good))
        self.assertEqual(checkpoint.read_torch(path), {})
        self.refused(self.archive(("a/data.pkl", bytes(100 << 20)), method=zipfile.ZIP_DEFLATED), "is compressed")
        self.refused(self.archive(*good, ("b/data.pkl", b"\x80\x02N.")), "occurs twice")
        data = self.archive(*good)
        directory = data.index(b"PK\1\2")
        self.refused(data[:directory + 8] + b"\1" + data[directory + 9:], "is encrypted")
        second = data.index(b"PK\1\2", directory + 1)
        overlapping = data[:second + 42] + data[directory + 42:directory + 46] + data[second + 46:]
        self.refused(overlapping, "has another name in its own header")
        larger = bytearray(data)
        larger[directory + 20:directory + 28] = struct.pack("<II", 60, 60)
        self.refused(larger, "in it lies within another file")
        larger[directory + 20:directory + 28] = struct.pack("<II", 1 << 30, 1 << 30)
        self.refused(larger, "reaches beyond the archive")
        flipped = bytearray(data)
        flipped[data.index(b"\x80\x02}") + 2] = ord("]")
        self.refused(flipped, "the checksum of data.pkl is another one")
        self.refused(self.archive(("a/data.pkl", b"\x80\x02" + b"N" * (torch_pickle.MOST_BYTES + 1))),
                     "more than 33554432 are not read")
        self.refused(self.archive(("a/data.pkl", b"\x80\x02" + b"N" * (torch_pickle.MOST_STEPS + 1))),
                     "of more than 1048576 steps")
        self.refused(self.archive(("a/x", b"")), "is not a valid torch file")

    def test_an_archive_damaged_at_any_byte_is_refused_or_read(self):
        data, rng = self.archive(("a/data.pkl", b"\x80\x02}."), ("a/byteorder", b"little"),
                                 ("a/data/0", bytes(8))), random.Random(1)
        path = self.folder / "pytorch_model.bin"
        for at in range(len(data)):
            for cut in (True, False):
                bad = bytearray(data[:at]) if cut else bytearray(data)
                if not cut:
                    bad[at] ^= 1 << rng.randrange(8)
                path.write_bytes(bad)
                try:
                    checkpoint.read_torch(path)
                except Refusal:
                    pass


def header(entries, data=b"", pad=0):
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text) + pad) + text + data


class Safetensors(Scratch):
    def test_headers_are_as_the_library_wants_them(self):
        path = self.folder / "model.safetensors"

        def entry(begin, end, **changes):
            return {"dtype": "F32", "shape": [1], "data_offsets": [begin, end]} | changes

        path.write_bytes(
            header({
                "a": entry(4, 8),
                "b": entry(0, 4),
                "c": entry(8, 8, shape=[0, 3])
            }, struct.pack("<2f", 1, 2)))
        tensors = checkpoint.read_safetensors(path)
        self.assertEqual([tensors[name].read().tolist() for name in "abc"], [[2.0], [1.0], []])
        for content in (header({"a": entry(0.5, 4.5)}, bytes(5)), header({
                "a": entry(0, 4),
                "b": entry(0, 4)
        }, bytes(4)), header({"a": entry(4, 8)}, bytes(8)), header({"a": entry(0, 4)}, bytes(8)),
                        header({"a": entry(0, 4)}, bytes(2)), header({"a": entry(0, 4, shape=[-1])}, bytes(4)),
                        header({"a": entry(0, 4, shape=[1 << 62, 4])},
                               bytes(4)), header({"a": entry(0, 4, dtype="X9")},
                                                 bytes(4)), header({"a": entry(0, 4, dtype=4)},
                                                                   bytes(4)), header({"a": entry(4, 0)}, bytes(4)),
                        header({"a": entry(-4, 0)}, bytes(4)), header({"a": {
                            "dtype": "F32"
                        }}), header({"a": 3}), header([1]), header(b"[" * 100000), header(b'{"a":' * 100000),
                        header(b"{}", pad=100), header(b"\xff\xfe"), struct.pack("<Q", 1 << 63),
                        struct.pack("<Q", 200 << 20) + bytes(50), b"", b"{}",
                        header({"a": entry(0, 4, shape=[1] * 100000)}, bytes(4)), header({"__metadata__": {
                            "a": 3
                        }})):
            path.write_bytes(content)
            with self.subTest(content[:60]), self.assertRaises(Refusal):
                checkpoint.read_safetensors(path)


class Folders(Case):
    """The program in a process of its own, so that its time and its memory are bounded."""

    @classmethod
    def setUpClass(cls):
        cls.config = tiny_config(hidden_size=8, intermediate_size=16, num_attention_heads=2, num_key_value_heads=1,
                                 num_hidden_layers=1)
        cls.tensors = random_tensors(cls.config)

    def setUp(self):
        super().setUp()
        self.write(self.config, self.tensors)

    def program(self, memory=300 << 20):
        """Exit code and what it says. Forked, since importing numpy takes longer than all else."""
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.dup2(write, 2)
            sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
            resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
            resource.setrlimit(resource.RLIMIT_CPU, (2, 3))
            code = 99
            try:
                code = convert.main([str(self.folder), str(self.out)])
                sys.stderr.flush()
            finally:
                os._exit(code)
        os.close(write)
        with open(read, encoding="utf-8") as file:
            err = file.read()
        status = os.waitpid(child, 0)[1]
        self.assertTrue(os.WIFEXITED(status), f"ended by signal {status & 127}")
        return os.WEXITSTATUS(status), err

    def refused(self, message):
        code, err = self.program()
        self.assertEqual((code, err.count("\n")), (1, 1), err)
        self.assertIn(message, err)
        self.assertTrue(err[:-1].isprintable())
        self.assertEqual([p.name for p in self.out.parent.iterdir()], ["tiny"])

    def test_a_good_one_is_converted_within_the_limits(self):
        self.assertEqual(self.program()[0], 0)
        command = [sys.executable, TOOLS / "convert.py", self.folder, self.out]
        done = subprocess.run(command, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_what_is_no_regular_file_of_the_folder_is_not_read(self):
        for name in ("config.json", "model.safetensors", "tokenizer.model", "tokenizer_config.json",
                     "chat_template.jinja",
                     "added_tokens.json", "generation_config.json", "model.safetensors.index.json"):
            path = self.folder / name
            kept = path.read_bytes() if path.exists() else None
            path.unlink(missing_ok=True)
            for how, message in (("link", "is a link that leads out of the folder"), ("pipe", "is not a regular file"),
                                 ("device", "is a link that leads out"), ("nowhere", "is a link that leads nowhere"),
                                 ("loop", "is a link that leads nowhere"), ("folder", "is not a regular file")):
                with self.subTest(name, how=how):
                    if how == "pipe":
                        os.mkfifo(path)
                    elif how == "folder":
                        path.mkdir()
                    else:
                        path.symlink_to({
                            "link": "/etc/passwd",
                            "device": "/dev/zero",
                            "nowhere": "lost",
                            "loop": name
                        }[how])
                    with self.assertRaises(Refusal) as caught:
                        convert.convert(self.folder, self.out, None, None, None)
                    self.assertIn(message, str(caught.exception))
                    self.assertIn(name, str(caught.exception))
                    path.rmdir() if how == "folder" else path.unlink()
            if kept is not None:
                path.write_bytes(kept)

    def test_links_within_the_folder_and_the_cache_of_huggingface_hub_are_read(self):
        (self.folder / "config.json").rename(self.folder / "real")
        (self.folder / "config.json").symlink_to("real")
        self.assertEqual(self.run_convert()[0], 0)
        snapshot, blobs = self.out.parent / "models--x/snapshots/0123", self.out.parent / "models--x/blobs"
        snapshot.mkdir(parents=True)
        blobs.mkdir()
        for n, file in enumerate(self.folder.iterdir()):
            if file.name != "real":
                (blobs / str(n)).write_bytes(file.read_bytes())
                (snapshot / file.name).symlink_to(f"../../blobs/{n}")
        self.folder = snapshot
        self.assertEqual(self.run_convert()[0], 0)
        (snapshot / "config.json").unlink()
        (snapshot / "config.json").symlink_to("../../../tiny/real")
        self.assertIn("is a link that leads out of the folder", self.run_convert()[1])

    def test_small_files_that_ask_for_much_end_soon_in_one_sentence(self):
        (self.folder / "tokenizer.model").unlink()
        for name, content, message in (
            ("tokenizer.json", {
                "model": {
                    "type": "BPE",
                    "vocab": {
                        "a": 10**12
                    },
                    "merges": []
                }
            }, 'the token "a" has the id 1000000000000'), ("tokenizer.json", {
                "model": {
                    "type": "BPE",
                    "vocab": {
                        "x": -5,
                        "a": 0
                    },
                    "merges": []
                }
            }, 'the token "x" has the id -5'), ("tokenizer.json",
                                                '{"model": {"type": "BPE", "vocab": {"\\ud800": 0}, "merges": []}}',
                                                "half of a surrogate pair"),
            ("tokenizer.json", '{"model": ' + "[" * 100000, "nested too deeply"), ("config.json", self.config | {
                "num_hidden_layers": 1 << 31
            }, "num_hidden_layers in config.json is 2147483648, expected a whole number from 1 to 4096"),
            ("config.json", self.config | {
                "num_hidden_layers": 4096
            }, "config.json says 4096 layers, and the checkpoint has only 12 tensors"), ("config.json", self.config | {
                "vocab_size": 1 << 40
            }, "vocab_size in config.json is 1099511627776"),
            ("config.json", '{"architectures": ["LlamaForCausalLM"], "hidden_size": 1' + "0" * 5000 + "}",
             "is not valid JSON"), ("config.json", '{"architectures": ["LlamaForCausalLM"], "rope_theta": NaN}',
                                    "NaN is no number of JSON"),
            ("config.json", '{"architectures": ["LlamaForCausalLM"], "rope_theta": 1e999}',
             "rope_theta in config.json is Infinity, expected a number"), ("config.json", '{"a": 1, "a": 2}',
                                                                           "the key a occurs twice"),
            ("config.json", " " *
             (5 << 20), "has 5242880 bytes, and more than 4194304 are not read"), ("model.safetensors.index.json", {
                 "weight_map": {
                     "a": 3
                 }
             }, "says that the tensor a is in 3, which is no name of a file in the folder"),
            ("model.safetensors.index.json", {
                "weight_map": {
                    "a": "../secret"
                }
            }, 'in "../secret", which is no name of a file'), ("model.safetensors.index.json", {
                "weight_map": {
                    "a": "/etc/passwd"
                }
            }, "which is no name of a file"), ("model.safetensors.index.json", {
                "weight_map": {
                    "a": ".."
                }
            }, "leads out of the folder"), ("model.safetensors.index.json", {
                "weight_map": {
                    "a": "x" * 5000
                }
            }, "which is not in the folder"), ("model.safetensors.index.json", {
                "weight_map": {
                    "a\x1b]0;x\x07": "\x9b2J\u202e"
                }
            }, r"names the shard \x9b2J\u202e"),
            ("model.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
             "is a pointer of Git LFS, not the file itself"), ("model.safetensors", header(b"[" * 200000),
                                                               "has no valid safetensors header")):
            path = self.folder / name
            kept = path.read_bytes() if path.exists() else None
            path.write_bytes(content if isinstance(content, bytes) else content.encode(
            ) if isinstance(content, str) else json.dumps(content).encode())
            with self.subTest(message):
                self.refused(message)
            path.unlink()
            if kept is not None:
                path.write_bytes(kept)
        (self.folder / "model.safetensors").unlink()
        for steps, message in ((b"\x80\x02Nr\xff\xff\xff\x7f.", "is no dictionary of tensors"),
                               (b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"x.", "of another protocol"),
                               (b"\x80\x02\x8e" + struct.pack("<Q", 1 << 40) + b"x.",
                                "with the step BINBYTES8"), (b"\x80\x02}" + b"\x85" * 1000000 + b".",
                                                             "is no dictionary"), (b"\x80\x02" + b"}" *
                                                                                   (2 << 20) + b".", "steps"),
                               (b"\x80\x02N" + b"q\x00h\x00\x86" * 100000 + b".", "no dictionary")):
            put_torch(self.folder / "pytorch_model.bin", steps)
            with self.subTest(message):
                self.refused(message)

    def test_shards_say_the_same_as_their_index(self):
        (self.folder / "model.safetensors").unlink()
        names = sorted(self.tensors)
        for file, part in (("a.safetensors", names[:6]), ("b.safetensors", names[5:])):
            save_file({name: self.tensors[name] for name in part}, self.folder / file)
        index = self.folder / "model.safetensors.index.json"
        index.write_text(
            json.dumps(
                {"weight_map": {
                    name: "a.safetensors" if n < 6 else "b.safetensors"
                    for n, name in enumerate(names)
                }}))
        self.refused(f"the tensor {names[5]} is in two shards, a.safetensors and b.safetensors")
        save_file({name: self.tensors[name] for name in names[6:]}, self.folder / "b.safetensors")
        self.assertEqual(self.run_convert()[0], 0)
        index.write_text(
            json.dumps(
                {"weight_map": {
                    name: "a.safetensors" if n < 7 else "b.safetensors"
                    for n, name in enumerate(names)
                }}))
        self.out.unlink()
        self.refused(f"promises tensor {names[6]} in a.safetensors, which does not have it")


class Mutations(unittest.TestCase):
    def test_mutated_folders_are_refused_or_read_rightly(self):
        counts, bad = try_mutations(300)
        self.assertEqual(bad, [], f"{len(bad)} of them")
        self.assertGreater(counts["refused"], 50)
        self.assertGreater(counts["converted"], 50)


if __name__ == "__main__":
    unittest.main()
