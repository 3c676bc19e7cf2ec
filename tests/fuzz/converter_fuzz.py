#!/usr/bin/env python3
"""tools/models/convert.py on a folder one of whose files is the fuzzer's: a GGUF or one sentence, and nothing else
(Atheris, which is libFuzzer for Python).

The first byte says which file, the rest is what it holds; JSON is changed value by value. tools/fuzz runs it; alone:
converter_fuzz.py --seeds FOLDER writes what it starts from, and otherwise the arguments are libFuzzer's.
"""

import json
import os
import random
import resource
import shutil
import struct
import sys
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS), str(TESTS.parent / "tools" / "models")]

import atheris  # noqa: E402
import numpy as np  # noqa: E402

with atheris.instrument_imports(include=["checkpoint", "convert", "config_keys", "families", "folder",
                                         "tokenizer_files", "torch_pickle", "gptq"]):
    import convert  # noqa: E402
import sentences  # noqa: E402
from safetensors.numpy import save_file  # noqa: E402
from torch_file_test import Tensor, save_torch  # noqa: E402

MOST_SECONDS, MOST_BYTES = 2, 500 << 20
WORDS = 20    # of the vocabulary besides the bytes


# ---- what it starts from ---------------------------------------------------------------------------------------------

def byte_letters():
    """GPT-2's alphabet for bytes."""
    itself = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(b) if b in itself else chr(next(others)) for b in range(256)]


def tokenizer():
    tokens = [*byte_letters(), "th", "the", "on", "in", "an"]
    merges = ["t h", "th e", "o n", "i n", "a n"]
    added = [{"id": len(tokens), "content": "<|end|>", "single_word": False, "lstrip": False, "rstrip": False,
              "normalized": False, "special": True}]
    return {"version": "1.0", "added_tokens": added, "normalizer": None,
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
            "post_processor": None,
            "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
            "model": {"type": "BPE", "vocab": {t: i for i, t in enumerate(tokens)}, "merges": merges}}


CONFIG = {"architectures": ["LlamaForCausalLM"], "hidden_act": "silu", "hidden_size": 32, "intermediate_size": 32,
          "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64,
          "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "vocab_size": 262, "tie_word_embeddings": True,
          "bos_token_id": 261, "eos_token_id": [261],
          "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                           "original_max_position_embeddings": 32}}


def tensors():
    rng = np.random.default_rng(1)

    def matrix(rows, columns):
        return rng.normal(0, 0.2, (rows, columns)).astype(np.float32)

    p = "model.layers.0."
    return {"model.embed_tokens.weight": matrix(262, 32), "model.norm.weight": np.ones(32, np.float32),
            p + "input_layernorm.weight": np.ones(32, np.float32),
            p + "post_attention_layernorm.weight": np.ones(32, np.float32),
            p + "self_attn.q_proj.weight": matrix(32, 32), p + "self_attn.k_proj.weight": matrix(16, 32),
            p + "self_attn.v_proj.weight": matrix(16, 32), p + "self_attn.o_proj.weight": matrix(32, 32),
            p + "mlp.gate_proj.weight": matrix(32, 32), p + "mlp.up_proj.weight": matrix(32, 32),
            p + "mlp.down_proj.weight": matrix(32, 32)}


class Folder:
    """A model that converts, in two forms: of safetensors in two shards, and of torch."""

    def __init__(self, path):
        self.path = path
        self.forms = []
        for form in ("safetensors", "torch"):
            folder = path / form
            folder.mkdir()
            (folder / "config.json").write_text(json.dumps(CONFIG))
            (folder / "generation_config.json").write_text(
                json.dumps({"bos_token_id": 261, "eos_token_id": [261, 260]}))
            (folder / "tokenizer.json").write_text(json.dumps(tokenizer()))
            (folder / "tokenizer_config.json").write_text(
                json.dumps({"bos_token": "<|end|>", "eos_token": {"content": "<|end|>"},
                            "chat_template": "{{ messages[0]['content'] }}", "add_bos_token": False,
                            "added_tokens_decoder": {"261": {"content": "<|end|>", "special": True}}}))
            (folder / "special_tokens_map.json").write_text(
                json.dumps({"eos_token": "<|end|>", "additional_special_tokens": ["<|end|>"]}))
            (folder / "added_tokens.json").write_text(json.dumps({"<|end|>": 261}))
            self.forms.append(folder)
        all_tensors = tensors()
        save_torch({name: Tensor(w) for name, w in all_tensors.items()}, path / "torch/pytorch_model.bin")
        names, index = sorted(all_tensors), {}
        for no in (1, 2):
            file, part = f"model-0000{no}-of-00002.safetensors", names[no - 1::2]
            save_file({name: all_tensors[name] for name in part}, path / "safetensors" / file)
            index |= {name: file for name in part}
        (path / "safetensors/model.safetensors.index.json").write_text(
            json.dumps({"metadata": {"total_size": 1}, "weight_map": index}))
        self.files = [file for folder in self.forms for file in sorted(folder.iterdir())]
        self.good = [file.read_bytes() for file in self.files]


# ---- changes ---------------------------------------------------------------------------------------------------------

ODD = [None, True, False, 0, 1, -1, 2, 3, 31, 32, 64, 255, 261, 262, 263, 65535, 2**31, 2**32, 2**63, 2**64, -2**63,
       10**40, 0.5, -0.0, 1e308, float("inf"), float("nan"), "", "a", "\ud800", "\u202e\x1b[2J", "../model.safetensors",
       "/etc/passwd", "<|end|>", "F16", "BF16", "I64", [], {}, [0], [[]], ["a"], {"content": "a"}, [1, 2, 3, 4, 5]]


def places(value, out):
    """Every (container, key) below a value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in list(items)[:200]:
        out.append((value, key))
        places(one, out)
    return out


def change_json(text, rng):
    value = json.loads(text)
    for _ in range(rng.randint(1, 3)):
        spots = places(value, [])
        if not spots:
            return json.dumps(rng.choice(ODD))
        container, key = rng.choice(spots)
        match rng.randint(0, 5):
            case 0:
                del container[key]
            case 1:
                other, there = rng.choice(spots)
                try:
                    container[key] = other[there]
                    json.dumps(value)    # no circles
                except (LookupError, ValueError):
                    container[key] = None
            case 2 if isinstance(container, dict):
                container[rng.choice(["a", "", key + "x", "weight_map", "__metadata__", "head_dim",
                                      "quantization_config", "sliding_window"])] = container.pop(key)
            case 3 if isinstance(container[key], int):
                container[key] += rng.choice([-1, 1, 2, -2, 1 << 16, 1 << 31])
            case _:
                container[key] = rng.choice(ODD)
    return json.dumps(value)


def mutate(data, most, seed):
    """libFuzzer's custom mutator."""
    rng = random.Random(seed)
    # All that converts looks alike to libFuzzer, which keeps one of it: the others are found here.
    if rng.randint(0, 2) == 0:
        which = rng.randrange(len(FOLDER.files))
        data = bytes([which]) + FOLDER.good[which]
    if len(data) < 2 or rng.randint(0, 3) == 0:
        return atheris.Mutate(data, most)
    which, content = data[0] % len(FOLDER.files), bytes(data[1:])
    try:
        if FOLDER.files[which].suffix == ".json":
            content = change_json(content, rng).encode("utf-8", "surrogatepass")
        elif FOLDER.files[which].suffix == ".safetensors":
            n = struct.unpack("<Q", content[:8])[0]
            header = change_json(content[8:8 + n], rng).encode("utf-8", "surrogatepass")
            content = struct.pack("<Q", len(header)) + header + content[8 + n:]
        else:
            return atheris.Mutate(data, most)
    except (ValueError, RecursionError, struct.error):
        return atheris.Mutate(data, most)
    return bytes([data[0]]) + content[:most - 1]


# ---- a try -----------------------------------------------------------------------------------------------------------

class Fault(Exception):
    pass


records = {}


def record(what, value, text):
    """As tests/fuzz/fuzz.cpp says it, for tools/fuzz."""
    if value > 1.1 * records.get(what, 0):
        records[what] = value
        os.write(2, f"fuzz: {what} {text}\n".encode())


def try_one(data):
    if not data:
        return
    which = data[0] % len(FOLDER.files)
    file, good = FOLDER.files[which], FOLDER.good[which]
    out = FOLDER.path / "out.gguf"
    file.write_bytes(data[1:])
    began = time.process_time()
    try:
        convert.convert(file.parent, out, "f16", None, None)
    except Exception as e:
        text, code = sentences.sentence_of(e)
        if text.startswith("internal error") or code != 1:
            raise
        if "\n" in sentences.printable(text):
            raise Fault(f"not one line: {text!r}") from e
    finally:
        file.write_bytes(good)
        left = sorted(p.name for p in FOLDER.path.iterdir() if p.name not in ("safetensors", "torch", "out.gguf"))
        out.unlink(missing_ok=True)
    if left:
        raise Fault(f"left behind: {left}")
    took, memory = time.process_time() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    record("slowest", took, f"{took:.3f} s, of {len(data)} bytes")
    record("largest", memory, f"{memory} bytes of memory in all")
    if took > MOST_SECONDS:
        raise Fault(f"{took:.1f} s of the processor")
    if memory > MOST_BYTES:
        raise Fault(f"{memory} bytes of memory")


def main():
    global FOLDER
    # tools/fuzz removes it.
    scratch = Path("/dev/shm" if os.path.isdir("/dev/shm") else tempfile.gettempdir(), f"hearth-fuzz-{os.getpid()}")
    scratch.mkdir()
    FOLDER = Folder(scratch)
    if sys.argv[1:2] == ["--seeds"]:
        for i, good in enumerate(FOLDER.good):
            Path(sys.argv[2], f"file-{i}").write_bytes(bytes([i]) + good)
        shutil.rmtree(scratch)
        return
    for i, good in enumerate(FOLDER.good):    # what it starts from converts
        convert.convert(FOLDER.files[i].parent, FOLDER.path / "out.gguf", "f16", None, None)
    sys.stdout = sys.stderr = open(os.devnull, "w")    # what the converter says; libFuzzer writes past them
    atheris.Setup(sys.argv, try_one, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
