"""The tensors of a Hugging Face folder, in files of safetensors or of torch. Their values stay in the files until somebody asks for them."""

import collections
import json
import pickle
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from folder import read_json
from sentences import Refusal


# ---- safetensors -----------------------------------------------------------------------------------------------------
# Read by hand, because numpy has no bf16: eight bytes of header length, a JSON header, then the tensors' bytes.
# Format: https://huggingface.co/docs/safetensors

@dataclass
class SourceTensor:
    path: Path
    dtype: str
    shape: tuple
    offset: int    # in the file

    def raw(self):
        if 0 in self.shape:    # nothing can be mapped
            return np.empty(self.shape, SIZED[self.dtype])
        return np.memmap(self.path, SIZED[self.dtype], "r", self.offset, self.shape)

    def read(self):
        """The values in fp32, which holds all but those of F64 exactly."""
        raw = self.raw()
        if self.dtype == "BF16":    # the upper half of an fp32
            return (raw.astype("<u4") << 16).view("<f4")
        return raw.astype("<f4")


DTYPES = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2"), "F64": np.dtype("<f8")}
SIZED = DTYPES | {"I32": np.dtype("<i4"), "I64": np.dtype("<i8"), "U8": np.dtype("u1"), "BOOL": np.dtype("?")}    # with those that are no weights


def read_safetensors(path):
    """Name -> SourceTensor of one safetensors file."""
    size = path.stat().st_size
    with open(path, "rb") as f:
        length = struct.unpack("<Q", f.read(8).ljust(8, b"\0"))[0]
        if size < 8 or length > size - 8:
            raise Refusal(f"{path} is not a safetensors file, or is cut short")
        header = f.read(length)
    try:
        entries = json.loads(header)
        entries.pop("__metadata__", None)
        tensors = {}
        for name, entry in entries.items():
            begin, end = entry["data_offsets"]
            dtype, shape = entry["dtype"], tuple(entry["shape"])
            if not 0 <= begin <= end <= size - 8 - length:
                raise Refusal(f"{path} is cut short: tensor {name} ends beyond the file's end")
            if dtype in SIZED and int(np.prod(shape)) * SIZED[dtype].itemsize != end - begin:
                raise Refusal(f"{path}: tensor {name} has {end - begin} bytes, which do not fit its shape {list(shape)} of {dtype}")
            tensors[name] = SourceTensor(path, dtype, shape, 8 + length + begin)
        return tensors
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Refusal(f"{path} has no valid safetensors header") from None


# ---- torch's files ---------------------------------------------------------------------------------------------------
# What torch.save writes since torch 1.6: a zip archive, not compressed, of data.pkl and a file for each storage, which tensors are parts of. A pickle may
# call any function that it names, so here it gets none but its own: those that make tensors and the dictionary of them.
# Format: https://pytorch.org/docs/stable/notes/serialization.html

@dataclass
class Storage:
    dtype: str
    offset: int    # in the file
    size: int      # bytes


STORAGES = {"FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16", "IntStorage": "I32", "LongStorage": "I64", "ByteStorage": "U8"}


class TorchUnpickler(pickle.Unpickler):
    def __init__(self, data, path, storage_of):
        super().__init__(data)
        self.path, self.storage_of = path, storage_of

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self.tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *_: tensor
        if module == "torch" and name in STORAGES:
            return name
        raise Refusal(f"{self.path} holds a {module}.{name}, and only dictionaries of tensors of {', '.join(STORAGES.values())} are read")

    def persistent_load(self, said):
        kind, storage, key, _, count = said
        if kind != "storage":
            raise ValueError
        return self.storage_of(str(key), STORAGES[storage])

    def tensor(self, storage, first, shape, strides, *_):
        width, implied = SIZED[storage.dtype].itemsize, 1
        for n, stride in zip(reversed(shape), reversed(strides), strict=True):
            if n > 1 and stride != implied:
                raise Refusal(f"{self.path} holds a tensor whose rows do not follow one another; save it anew, as safetensors or contiguous")
            implied *= n
        if first < 0 or min(shape, default=0) < 0 or (first + implied) * width > storage.size:
            raise ValueError
        return SourceTensor(self.path, storage.dtype, tuple(shape), storage.offset + first * width)


def read_torch(path):
    """Name -> SourceTensor of one torch file."""
    try:
        with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
            entries = {name.partition("/")[2]: entry for name, entry in archive.NameToInfo.items()}    # each in a folder of the file's name
            if "byteorder" in entries and archive.read(entries["byteorder"]) != b"little":
                raise Refusal(f"{path} has its bytes in another order than this computer")

            def storage_of(key, dtype):
                entry = entries["data/" + key]
                if entry.compress_type != zipfile.ZIP_STORED:
                    raise ValueError
                file.seek(entry.header_offset + 26)    # where the local header says how long the name and what follows it are
                name, extra = struct.unpack("<HH", file.read(4))
                return Storage(dtype, entry.header_offset + 30 + name + extra, entry.file_size)

            with archive.open(entries["data.pkl"]) as data:
                tensors = TorchUnpickler(data, path, storage_of).load()
        if not isinstance(tensors, dict) or not all(isinstance(name, str) and isinstance(t, SourceTensor) for name, t in tensors.items()):
            raise Refusal(f"{path} is no dictionary of tensors")
        return dict(tensors)
    except zipfile.BadZipFile:
        raise Refusal(f"{path} is not a torch file of torch 1.6 or later, or is cut short") from None
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, EOFError, struct.error, pickle.UnpicklingError):
        raise Refusal(f"{path} is not a valid torch file") from None


# ---- folders ---------------------------------------------------------------------------------------------------------

FORMS = (("model.safetensors", read_safetensors), ("pytorch_model.bin", read_torch))    # one file, or shards with NAME.index.json


def read_checkpoint(folder):
    for name, read in FORMS:
        if (folder / f"{name}.index.json").exists():
            return read_shards(folder / f"{name}.index.json", read)
        if (folder / name).exists():
            return read(folder / name)
    for file in sorted(folder.glob("gptq_model-*.safetensors")):    # AutoGPTQ's name
        return read_safetensors(file)
    names = [name for name, _ in FORMS]
    raise Refusal(f"{folder} has neither {' nor '.join(names)}, nor their shards with an index.json (other checkpoint formats are not supported)")


def read_shards(index, read):
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise Refusal(f"{index} has no weight_map")
    tensors, folder = {}, index.parent
    for file in sorted(set(weight_map.values())):
        if Path(file).name != file or not (folder / file).is_file():
            raise Refusal(f"{index} names the shard {file}, which is not in the folder")
        tensors.update(read(folder / file))
    for name, file in weight_map.items():
        if name not in tensors:
            raise Refusal(f"{index} promises tensor {name} in {file}, which does not have it")
    return tensors
