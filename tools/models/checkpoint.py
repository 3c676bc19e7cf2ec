"""The tensors of a Hugging Face folder, in files of safetensors or of torch. Their values stay in the files until
somebody asks for them. The folder is a stranger's: every name, number and offset is checked against the files before
it is used. """

import math
import os
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

import torch_pickle
from folder import check_pointer, file_in, names_in, read_json
from sentences import Refusal, shown

MOST_DIMENSIONS = 8
MOST_SIZE = 1 << 40


@dataclass
class SourceTensor:
    path: Path
    dtype: str
    shape: tuple
    offset: int    # in the file

    def raw(self):
        count = math.prod(self.shape)
        with open(self.path, "rb") as file:
            dtype = SIZED[self.dtype]
            values = np.fromfile(file, dtype, count, offset=self.offset) if count else np.empty(0, dtype)
        if values.size != count:
            raise Refusal(f"{self.path} has become shorter while it was read")
        return values.reshape(self.shape)

    def read(self):
        """The values in fp32, which holds all but those of F64 exactly."""
        raw = self.raw()
        if self.dtype == "BF16":    # the upper half of an fp32
            return (raw.astype("<u4") << 16).view("<f4")
        with np.errstate(over="ignore"):
            return raw.astype("<f4")


DTYPES = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2"), "F64": np.dtype("<f8")}
# with those that are no weights
SIZED = DTYPES | {"I32": np.dtype("<i4"), "I64": np.dtype("<i8"), "U8": np.dtype("u1"), "BOOL": np.dtype("?")}


# ---- safetensors -----------------------------------------------------------------------------------------------------
# The safetensors library reads the header, and refuses one that is damaged, too long, too deep, or whose tensors
# overlap or leave holes. So each tensor
# begins where the one before it ends. The values are read here, because numpy has no bf16. Format:
# https://huggingface.co/docs/safetensors

BITS = {"F64": 64, "I64": 64, "U64": 64, "C64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16, "I16": 16,
        "U16": 16, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4}
BITS |= dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8)


def read_safetensors(path):
    """Name -> SourceTensor of one safetensors file."""
    with open(path, "rb") as file:
        head, size = file.read(200), os.fstat(file.fileno()).st_size
    check_pointer(path, head)
    if size < 8:
        raise Refusal(f"{path} is not a safetensors file, or is cut short")
    at = 8 + struct.unpack("<Q", head[:8])[0]
    tensors = {}
    try:
        with safe_open(path, framework="numpy") as file:
            for name in file.offset_keys():
                entry = file.get_slice(name)
                tensor = tensors[name] = SourceTensor(path, entry.get_dtype(), tuple(entry.get_shape()), at)
                if tensor.dtype not in BITS or len(tensor.shape) > MOST_DIMENSIONS:
                    raise Refusal(f"{path}: tensor {name} has the type {tensor.dtype} and {len(tensor.shape)} "
                                  "dimensions, which is not supported")
                at += math.prod(tensor.shape) * BITS[tensor.dtype] // 8
    except SafetensorError as e:
        raise Refusal(f"{path} {header_fault(str(e))} ({e})") from None
    if at != size:
        raise Refusal(f"{path} has {size} bytes, and its tensors end at {at}")
    return tensors


def header_fault(message):
    """What the library's word for a fault means; versions of it call the same fault by different names."""
    if any(word in message for word in ("IncompleteBuffer", "HeaderTooSmall", "InvalidHeaderLength", "header too small",
                                        "invalid header length")):
        return "is cut short"
    if "not fully covered" in message:
        return "is cut short, or longer than its tensors"
    return "has no valid safetensors header"


# ---- torch's files ---------------------------------------------------------------------------------------------------
# What torch.save writes since torch 1.6: a zip archive, not compressed, of data.pkl and a file for each storage,
# which tensors are parts of.
# Format: https://pytorch.org/docs/stable/notes/serialization.html

@dataclass
class Storage:
    dtype: str
    offset: int    # in the file
    size: int      # bytes


STORAGES = {"FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16", "DoubleStorage": "F64",
            "IntStorage": "I32", "LongStorage": "I64", "ByteStorage": "U8", "BoolStorage": "BOOL"}
FUNCTIONS = (("collections", "OrderedDict"), ("torch._utils", "_rebuild_tensor_v2"),
             ("torch._utils", "_rebuild_parameter"))


def stored_parts(path, archive, file):
    """Name within the archive -> (offset, size, CRC) of its files. Refuses what torch.save does not write: compressed
    or encrypted files, files that overlap or reach beyond the directory at the end, and two of one name."""
    def refuse(entry, why):
        raise Refusal(f"{path} is not a valid torch file: {shown(entry.filename)} in it {why}")

    parts, ranges = {}, []
    for entry in archive.infolist():
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            refuse(entry, "is compressed, and torch.save does not compress")
        if entry.flag_bits & 0x41:
            refuse(entry, "is encrypted")
        file.seek(entry.header_offset)
        header = file.read(30)
        if len(header) < 30 or header[:4] != b"PK\x03\x04":
            refuse(entry, "begins with no header")
        name, extra = struct.unpack("<HH", header[26:30])
        begin = entry.header_offset + 30 + name + extra
        if begin + entry.file_size > archive.start_dir:
            refuse(entry, "reaches beyond the archive")
        file.seek(entry.header_offset + 30)
        if file.read(name) not in (entry.orig_filename.encode("utf-8"), entry.orig_filename.encode("cp437", "replace")):
            refuse(entry, "has another name in its own header")
        ranges.append((entry.header_offset, begin + entry.file_size, entry))
        inner = entry.filename.partition("/")[2]    # each is in a folder of the file's name
        if inner in parts:
            refuse(entry, "occurs twice")
        parts[inner] = begin, entry.file_size, entry.CRC
    ranges.sort(key=lambda r: r[:2])
    for (_, end, _), (begin, _, entry) in zip(ranges, ranges[1:]):
        if begin < end:
            refuse(entry, "lies within another file")
    return parts


def whole_numbers(values, most):
    return all(type(v) is int and 0 <= v <= most for v in values)


def tensor_of(path, storage, first, shape, strides):
    """A part of a storage."""
    if not isinstance(storage, Storage) or not isinstance(shape, tuple) or not isinstance(strides, tuple) \
            or len(shape) != len(strides) or len(shape) > MOST_DIMENSIONS \
            or not whole_numbers((first, *shape, *strides), MOST_SIZE):
        raise torch_pickle.NotAPickle("not a tensor")
    width, implied = SIZED[storage.dtype].itemsize, 1
    for n, stride in zip(reversed(shape), reversed(strides)):
        if n > 1 and stride != implied:
            raise Refusal(f"{path} holds a tensor whose rows do not follow one another; save it anew, as safetensors "
                          "or contiguous")
        implied *= n
    if (first + implied) * width > storage.size:
        raise torch_pickle.NotAPickle("a tensor ends beyond its storage")
    return SourceTensor(path, storage.dtype, shape, storage.offset + first * width)


def read_torch(path):
    """Name -> SourceTensor of one torch file."""
    with open(path, "rb") as file:
        check_pointer(path, file.read(200))
        try:
            with zipfile.ZipFile(file) as archive:
                parts = stored_parts(path, archive, file)
        except (zipfile.BadZipFile, NotImplementedError, EOFError, struct.error, ValueError, OverflowError, OSError):
            raise Refusal(f"{path} is not a torch file of torch 1.6 or later, or is cut short") from None

        def content(name, most):
            begin, size, crc = parts.get(name, (0, 0, 0))
            if size > most:
                raise Refusal(f"{path} has {size} bytes of {name}, and more than {most} are not read")
            file.seek(begin)
            data = file.read(size)
            if name in parts and zlib.crc32(data) != crc:
                raise Refusal(f"{path} is damaged: the checksum of {name} is another one")
            return data

        if "byteorder" in parts and content("byteorder", 64) != b"little":
            raise Refusal(f"{path} has its bytes in another order than this computer")
        steps = content("data.pkl", torch_pickle.MOST_BYTES)

    def allowed(module, name):
        return (module, name) in FUNCTIONS or (module == "torch" and name in STORAGES)

    def load(key):
        if not isinstance(key, tuple) or len(key) != 5:
            raise torch_pickle.NotAPickle("not a storage")
        kind, storage, name, _, count = key
        if kind != "storage" or not isinstance(storage, torch_pickle.Name) or storage.name not in STORAGES \
                or not isinstance(name, str) or not whole_numbers([count], MOST_SIZE) or f"data/{name}" not in parts:
            raise torch_pickle.NotAPickle("not a storage")
        offset, size, _ = parts[f"data/{name}"]
        dtype = STORAGES[storage.name]
        if count * SIZED[dtype].itemsize > size:
            raise torch_pickle.NotAPickle("a storage is larger than its file")
        return Storage(dtype, offset, size)

    def make(function, arguments):
        if function.name == "OrderedDict" and arguments == ():
            return {}
        if function.name == "_rebuild_tensor_v2" and len(arguments) >= 4:
            return tensor_of(path, *arguments[:4])
        if function.name == "_rebuild_parameter" and arguments and isinstance(arguments[0], SourceTensor):
            return arguments[0]
        raise torch_pickle.NotAPickle("not a call that torch.save writes")

    try:
        tensors = torch_pickle.Machine(steps, path, allowed, make, load).run()
    except (ValueError, struct.error) as e:
        raise Refusal(f"{path} is not a valid torch file ({e})") from None
    if not isinstance(tensors, dict) or not all(isinstance(t, SourceTensor) for t in tensors.values()):
        raise Refusal(f"{path} is no dictionary of tensors")
    return tensors


# ---- folders ---------------------------------------------------------------------------------------------------------

# one file, or shards with NAME.index.json
FORMS = (("model.safetensors", read_safetensors), ("pytorch_model.bin", read_torch))


def read_checkpoint(folder):
    for name, read in FORMS:
        if index := file_in(folder, f"{name}.index.json"):
            return read_shards(index, read)
        if file := file_in(folder, name):
            return read(file)
    for name in names_in(folder):    # AutoGPTQ's name
        if name.startswith("gptq_model-") and name.endswith(".safetensors"):
            return read_safetensors(file_in(folder, name))
    names = [name for name, _ in FORMS]
    raise Refusal(f"{folder} has neither {' nor '.join(names)}, nor their shards with an index.json (other checkpoint "
                  "formats are not supported)")


def read_shards(index, read):
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise Refusal(f"{index} has no weight_map")
    for name, file in weight_map.items():
        if not isinstance(file, str) or not file or "\0" in file or Path(file).name != file:
            raise Refusal(f"{index} says that the tensor {name} is in {shown(file)}, which is no name of a file in the "
                          "folder")
    tensors, folder = {}, index.parent
    for file in sorted(set(weight_map.values())):
        path = file_in(folder, file) if len(os.fsencode(file)) < 256 else None
        if path is None:
            raise Refusal(f"{index} names the shard {file[:80]}, which is not in the folder")
        for name, tensor in read(path).items():
            if name in tensors:
                raise Refusal(f"the tensor {name} is in two shards, {tensors[name].path.name} and {file}")
            tensors[name] = tensor
    for name, file in weight_map.items():
        if name not in tensors or tensors[name].path.name != file:
            raise Refusal(f"{index} promises tensor {name} in {file}, which does not have it")
    return tensors
