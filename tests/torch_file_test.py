#!/usr/bin/env python3
"""tools/models/convert.py on files of torch. They are made here from the description of the format, without torch;
families_test.py has some that torch made.

    python3 tests/torch_file_test.py          (packages: tools/models/requirements.txt)
"""

import collections
import copy
import io
import json
import os
import pickle
import sys
import types
import unittest
import zipfile
from unittest import mock

import numpy as np

from convert_test import VOCAB, Case, random_tensors, tiny_config

DTYPES = {"FloatStorage": "<f4", "HalfStorage": "<f2", "BFloat16Storage": "<u2", "DoubleStorage": "<f8",
          "CharStorage": "i1"}


def torch_modules():
    """What a pickle of torch's names; a pickler looks that up."""
    modules = {"torch": types.ModuleType("torch"), "torch._utils": types.ModuleType("torch._utils")}
    for name in DTYPES:
        setattr(modules["torch"], name, type(name, (), {"__module__": "torch"}))
    for name in ("_rebuild_tensor_v2", "_rebuild_parameter"):
        def function(*_):
            raise AssertionError
        function.__module__, function.__name__, function.__qualname__ = "torch._utils", name, name
        setattr(modules["torch._utils"], name, function)
    return modules


class Tensor:
    """A part of a storage, which is an array."""
    def __init__(self, array, storage="FloatStorage", base=None, first=0, strides=None, parameter=False):
        self.array, self.storage, self.first, self.parameter = array, storage, first, parameter
        self.base = np.ascontiguousarray(array).ravel() if base is None else base
        self.strides = tuple(s // array.itemsize
                             for s in np.ascontiguousarray(array).strides) if strides is None else strides


class Pickler(pickle.Pickler):
    def __init__(self, out, modules):
        super().__init__(out, protocol=2)
        self.modules, self.storages = modules, []

    def persistent_id(self, value):
        if not isinstance(value, tuple) or value[:1] != ("a storage",):
            return None
        _, storage, base = value
        keys = [n for n, (_, known) in enumerate(self.storages) if known is base]
        if not keys:
            self.storages.append((storage, base))
        return ("storage", getattr(self.modules["torch"], storage), str(keys[0] if keys else len(self.storages) - 1),
                "cpu", base.size)

    def reducer_override(self, value):
        if not isinstance(value, Tensor):
            return NotImplemented
        utils, tensor = (self.modules["torch._utils"],
                         (("a storage", value.storage, value.base), value.first, value.array.shape, value.strides,
                          False, collections.OrderedDict()))
        if not value.parameter:
            return utils._rebuild_tensor_v2, tensor
        data = copy.copy(value)
        data.parameter = False
        return utils._rebuild_parameter, (data, True, collections.OrderedDict())


def save_torch(content, path, order=b"little", compression=zipfile.ZIP_STORED):
    """As torch.save does."""
    modules, out = torch_modules(), io.BytesIO()
    with mock.patch.dict(sys.modules, modules):
        pickler = Pickler(out, modules)
        pickler.dump(content)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr(f"{path.stem}/data.pkl", out.getvalue())
        archive.writestr(f"{path.stem}/byteorder", order)
        for key, (storage, base) in enumerate(pickler.storages):
            archive.writestr(f"{path.stem}/data/{key}", base.astype(DTYPES[storage], copy=False).tobytes())
        archive.writestr(f"{path.stem}/version", "3\n")


class Torch(Case):
    def start(self, config=None):
        """The same model in safetensors, which is converted, and its tensors."""
        config = config or tiny_config()
        tensors = {name: w.astype(np.float16).astype(np.float32) for name, w in random_tensors(config).items()}
        self.write(config, tensors)
        expected = self.converted()
        for file in (self.folder / "model.safetensors", self.out):
            file.unlink()
        return expected, tensors

    def check(self, expected, *options, more=()):
        _, values, kinds = self.converted(*options)
        self.assertEqual(kinds, expected[2] | dict.fromkeys(more, "F16"))
        for name, w in expected[1].items():
            np.testing.assert_array_equal(values[name], w, name)
        return values

    def refused(self, message, *options):
        code, err = self.run_convert(*options)
        self.assertEqual((code, len(err.splitlines())), (1, 1), err)
        self.assertIn(message, err)
        self.assertFalse(self.out.exists())

    def test_a_file_gives_what_safetensors_give(self):
        expected, tensors = self.start()
        for storage, convert in (("FloatStorage", lambda w: w), ("HalfStorage", lambda w: w.astype("<f2"))):
            save_torch(collections.OrderedDict({name: Tensor(convert(w), storage, parameter="norm" in name)
                                                for name, w in tensors.items()}), self.folder / "pytorch_model.bin")
            self.check(expected)

    def test_bf16_and_parts_of_a_storage_and_shards_are_read(self):
        config = tiny_config()
        tensors = {name: (w.view(np.uint32) & 0xFFFF0000).view(np.float32)
                   for name, w in random_tensors(config).items()}
        self.write(config, tensors)
        expected = self.converted("--type", "f32")
        (self.folder / "model.safetensors").unlink()
        names, weight_map = sorted(tensors), {}
        for shard in range(2):
            file = f"pytorch_model-{shard + 1:05}-of-00002.bin"
            part = names[shard::2]
            # All in one storage.
            base = np.concatenate([(tensors[name].view(np.uint32) >> 16).astype("<u2").ravel() for name in part])
            firsts = np.cumsum([0] + [tensors[name].size for name in part]).tolist()
            save_torch({name: Tensor(base[first:first + tensors[name].size].reshape(tensors[name].shape),
                                     "BFloat16Storage", base, first) for name, first in zip(part, firsts)},
                       self.folder / file)
            weight_map |= dict.fromkeys(part, file)
        (self.folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
        self.check(expected, "--type", "f32")

    def test_the_first_opts_names_lack_their_beginning(self):
        dim, neurons = 32, 64
        config = {"architectures": ["OPTForCausalLM"], "hidden_size": dim, "ffn_dim": neurons, "num_hidden_layers": 1,
                  "num_attention_heads": 2, "max_position_embeddings": 64, "vocab_size": VOCAB,
                  "word_embed_proj_dim": dim, "do_layer_norm_before": True, "activation_function": "relu"}
        shapes = {"embed_tokens.weight": (VOCAB, dim), "embed_positions.weight": (66, dim),
                  "final_layer_norm.weight": (dim,), "final_layer_norm.bias": (dim,)}
        for name, rows, columns in (("self_attn.q_proj", dim, dim), ("self_attn.k_proj", dim, dim),
                                    ("self_attn.v_proj", dim, dim), ("self_attn.out_proj", dim, dim),
                                    ("fc1", neurons, dim), ("fc2", dim, neurons)):
            shapes |= {f"layers.0.{name}.weight": (rows, columns), f"layers.0.{name}.bias": (rows,)}
        for name in ("self_attn_layer_norm", "final_layer_norm"):
            shapes |= {f"layers.0.{name}.weight": (dim,), f"layers.0.{name}.bias": (dim,)}
        rng = np.random.default_rng(5)
        tensors = {f"decoder.{name}": rng.normal(0, 1, shape).astype(np.float16).astype(np.float32)
                   for name, shape in shapes.items()}
        self.write(config, {"model." + name: w for name, w in tensors.items()})
        expected = self.converted()
        (self.folder / "model.safetensors").unlink()
        save_torch({name: Tensor(w) for name, w in tensors.items()}, self.folder / "pytorch_model.bin")
        self.check(expected)

    def predictors(self, rank=16):
        rng = np.random.default_rng(6)
        return [{"fc1.weight": rng.normal(0, 1, (rank + 16 * n, 64)).astype(np.float16),
                 "fc2.weight": rng.normal(0, 1, (96, rank + 16 * n)).astype(np.float16)} for n in range(2)]

    def check_predictors(self, expected, predictors, *options):
        values = self.check(expected, *options, more=[f"blk.{n}.fc{i}.weight" for n in range(2) for i in (1, 2)])
        for n, predictor in enumerate(predictors):
            for name, w in predictor.items():
                np.testing.assert_array_equal(values[f"blk.{n}.{name}"], w)

    def test_predictors_come_with_the_checkpoint_or_from_powerinfers_files(self):
        expected, tensors = self.start(tiny_config(architectures=["BambooForCausalLM"]))
        predictors = self.predictors()
        inside = {f"model.layers.{n}.mlp.predictor.{name}": w for n, predictor in enumerate(predictors)
                  for name, w in predictor.items()}
        save_torch({name: Tensor(w, "FloatStorage" if w.itemsize == 4 else "HalfStorage")
                    for name, w in (tensors | inside).items()}, self.folder / "pytorch_model.bin")
        self.check_predictors(expected, predictors)

        save_torch({name: Tensor(w) for name, w in tensors.items()}, self.folder / "pytorch_model.bin")
        for n, predictor in enumerate(predictors):
            save_torch({name: Tensor(w, "HalfStorage") for name, w in predictor.items()}, self.folder / f"model_{n}.pt")
        self.check_predictors(expected, predictors, "--predictors", str(self.folder))
        self.out.unlink()

        (self.folder / "model_1.pt").unlink()
        self.refused("has no model_1.pt; a predictor for each of 2 layers is expected",
                     "--predictors", str(self.folder))
        save_torch({"fc1.weight": Tensor(predictors[1]["fc1.weight"], "HalfStorage")}, self.folder / "model_1.pt")
        self.refused("lacks the tensor model.layers.1.mlp.predictor.fc2.weight", "--predictors", str(self.folder))

    def test_predictors_are_for_relu_models_and_have_a_threshold(self):
        expected, tensors = self.start()
        save_torch({name: Tensor(w) for name, w in tensors.items()}, self.folder / "pytorch_model.bin")
        beside = self.folder / "predictors"
        beside.mkdir()
        for n, predictor in enumerate(self.predictors()):
            save_torch({name: Tensor(w, "HalfStorage") for name, w in predictor.items()}, beside / f"model_{n}.pt")
        (beside / "config.json").write_text('{"sparse_threshold": 0.25}')
        keys, _, _ = self.converted("--predictors", str(beside))
        self.assertEqual(keys["powerinfer.sparse_threshold"], 0.25)
        self.out.unlink()
        (beside / "config.json").write_text('{"sparse_threshold": "low"}')
        self.refused('config.json is "low", expected a number', "--predictors", str(beside))
        (self.folder / "config.json").write_text(json.dumps(tiny_config(hidden_act="silu")))
        self.refused("--predictors are for ReLU models", "--predictors", str(beside))
        self.refused("lost is not a folder", "--predictors", "lost")

    def test_a_file_that_names_a_function_is_refused_and_runs_nothing(self):
        _, tensors = self.start()

        class Trap:
            def __reduce__(self):
                return os.mkdir, (str(trapped),)

        trapped = self.folder / "trapped"
        save_torch({name: Tensor(w) for name, w in tensors.items()} | {"trap": Trap()},
                   self.folder / "pytorch_model.bin")
        self.refused(f"holds a {os.mkdir.__module__}.mkdir, and only dictionaries of tensors")
        self.assertFalse(trapped.exists())

    def test_files_that_are_not_what_they_seem(self):
        _, tensors = self.start()
        file, name = self.folder / "pytorch_model.bin", "model.norm.weight"
        good = {name: Tensor(w) for name, w in tensors.items()}
        w = tensors["model.layers.0.mlp.up_proj.weight"]
        for content, message, how in (
                (good | {name: Tensor(tensors[name], "CharStorage")}, "holds a torch.CharStorage", {}),
                (good | {name: Tensor(tensors[name], first=1)}, "is not a valid torch file", {}),
                (good | {"model.layers.0.mlp.up_proj.weight": Tensor(w, strides=(1, 96))},
                 "whose rows do not follow one another", {}),
                (good | {"step": 7}, "is no dictionary of tensors", {}),
                ([1, 2], "is no dictionary of tensors", {}),
                (good, "has its bytes in another order", {"order": b"big"}),
                (good, "is not a valid torch file", {"compression": zipfile.ZIP_DEFLATED})):
            with self.subTest(message):
                save_torch(content, file, **how)
                self.refused(message)
        save_torch(good, file)
        data = file.read_bytes()
        for bad, message in ((data[:-100], "or is cut short"), (data[:5000], "or is cut short"),
                             (b"\x80\x02}q\x00.", "is not a torch file of torch 1.6"), (b"", "or is cut short")):
            file.write_bytes(bad)
            self.refused(message)


if __name__ == "__main__":
    unittest.main()
