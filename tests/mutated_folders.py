#!/usr/bin/env python3
"""Folders of models of which one file was changed: what tools/models/convert.py makes of them.

    python3 tests/mutated_folders.py N [SEED]          (packages: tools/models/requirements.txt)

Prints what must not happen: an exception that is no sentence, a vocabulary that is not the tokenizers library's, more
than SECONDS of CPU time for one folder, more than MEMORY for all. tests/hostile_folder_test.py tries a few hundred.
"""

import json
import random
import resource
import struct
import sys
import time
from pathlib import Path

import tokenizers

TESTS = Path(__file__).resolve().parent
sys.path.insert(0, str(TESTS.parent / "tools" / "models"))
import convert  # noqa: E402
import pretokenizers  # noqa: E402
from convert_test import DATA, Scratch, random_tensors, read_gguf, stderr_of, tiny_config  # noqa: E402

SECONDS, MEMORY = 5, 500 << 20


WORDS = [
    None, True, False, 0, 1, -1, 2, 3, 7, 16, 63, 64, 65, 255, 256, 4096, 1 << 16, 1 << 31, (1 << 31) - 1, 1 << 32,
    1 << 53, 1 << 63, 1 << 64, 10**30, 0.0, 0.5, -0.5, 1.5, 1e-300, 1e300,
    float("inf"),
    float("nan"), "", "a", "true", "1", "silu", "relu", "\x00", "\x1b[2J", "\u202e", "x" * 5000, "<s>", "</s>", "../x",
    "/etc/passwd", "BPE", "Sequence", "ByteLevel", [], {}, [[]], [{}], [None], [1, 2], ["a"], {
        "a": 1
    }, {
        "type": "Sequence"
    }, {
        "content": "<s>"
    }, [["a", "b"]], [0] * 100
]


def places(value):
    """Every (container, key) in a JSON value."""
    found, waiting = [], [value]
    while waiting:
        v = waiting.pop()
        for key in list(v) if isinstance(v, dict) else range(len(v)):
            found.append((v, key))
            if isinstance(v[key], (dict, list)):
                waiting.append(v[key])
    return found


def mutate(value, rng):
    """Changes a JSON value in place."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        found = places(value)
        if not found:
            return
        container, key = rng.choice(found)
        kind = rng.random()
        if kind < 0.45:
            container[key] = json.loads(json.dumps(rng.choice(WORDS)))
        elif kind < 0.55 and isinstance(container[key], (int, float)) and not isinstance(container[key], bool):
            container[key] = container[key] + rng.choice(
                (-1, 1, -2, 2, 0.5, 1000)) if rng.random() < 0.8 else container[key] * -1
        elif kind < 0.65:
            del container[key]
        elif kind < 0.8:    # something from elsewhere
            other, place = rng.choice(found)
            try:
                container[key] = json.loads(json.dumps(other[place]))
            except (KeyError, IndexError, RecursionError, ValueError):
                pass
        elif isinstance(container, dict):
            container[rng.choice(
                [str(key) + "x",
                 str(rng.choice(WORDS))[:20], "special", "id", "type",
                 "added_tokens_decoder"])] = json.loads(json.dumps(container[key]))
        else:
            container.insert(key, json.loads(json.dumps(container[key])))


class Seeds:
    """Small folders of several kinds, as {file: bytes}."""

    def __init__(self):
        self.folders = []
        from tokenizers import AddedToken, models, normalizers, pre_tokenizers, processors, trainers
        tokenizer = tokenizers.Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Split(tokenizers.Regex(pretokenizers.LLAMA3), "isolated"),
            pre_tokenizers.ByteLevel(False, use_regex=False)
        ])
        tokenizer.normalizer = normalizers.NFC()
        text = (DATA / "fairytales-valid.txt").read_text(encoding="utf-8")[:20000]
        tokenizer.train_from_iterator([text],
                                      trainers.BpeTrainer(vocab_size=300,
                                                          initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                                          show_progress=False,
                                                          special_tokens=["<s>", "</s>"]))
        tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
        tokenizer.add_tokens([AddedToken("a b", normalized=False)])
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
        source = json.loads(tokenizer.to_str())
        source["model"]["ignore_merges"] = True
        vocab = tokenizer.get_vocab_size() + 3
        small = {
            "hidden_size": 8,
            "intermediate_size": 16,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "num_hidden_layers": 1
        }
        settings = {
            "bos_token": "<s>",
            "eos_token": {
                "content": "<|im_end|>"
            },
            "chat_template": [{
                "name": "default",
                "template": "{{ m }}"
            }],
            "tokenizer_class": "PreTrainedTokenizerFast",
            "added_tokens_decoder": {
                str(i): {
                    "content": t.content,
                    "special": t.special
                }
                for i, t in tokenizer.get_added_tokens_decoder().items()
            }
        }
        beside = {
            "tokenizer_config.json": settings,
            "special_tokens_map.json": {
                "bos_token": "<s>",
                "additional_special_tokens": ["<|im_start|>"]
            },
            "generation_config.json": {
                "eos_token_id": [1, vocab - 5]
            },
            "added_tokens.json": {
                "a b": tokenizer.token_to_id("a b")
            }
        }
        for changes in ({}, {
                "architectures": ["Qwen2ForCausalLM"],
                "use_sliding_window": True,
                "sliding_window": 64,
                "max_window_layers": 0
        }, {
                "architectures": ["MixtralForCausalLM"],
                "num_local_experts": 2,
                "num_experts_per_tok": 1
        }, {
                "architectures": ["Gemma2ForCausalLM"],
                "query_pre_attn_scalar": 16,
                "attn_logit_softcapping": 50.0,
                "tie_word_embeddings": True,
                "head_dim": 4
        }, {
                "architectures": ["Phi3ForCausalLM"],
                "rope_scaling": {
                    "type": "longrope",
                    "short_factor": [1.0, 2.0],
                    "long_factor": [1.0, 3.0]
                },
                "original_max_position_embeddings": 64
        }, {
                "rope_scaling": {
                    "rope_type": "llama3",
                    "factor": 8.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 64
                }
        }, {
                "rope_parameters": {
                    "rope_type": "yarn",
                    "factor": 4.0,
                    "rope_theta": 1e4
                },
                "layer_types": ["full_attention"]
        }):
            config = tiny_config(vocab_size=vocab, bos_token_id=0, eos_token_id=[1, vocab - 5], **small) | changes
            self.add(config, {"tokenizer.json": source, **beside})
        self.add(
            tiny_config(**small), {
                "tokenizer.json": {
                    "added_tokens": [],
                    "model": {
                        "type": "BPE",
                        "vocab": {},
                        "merges": []
                    }
                },
                "tokenizer_config.json": {
                    "add_bos_token": True
                }
            }, (DATA / "tokenizer.model").read_bytes())

    def add(self, config, files, model=None):
        tensors = random_tensors(config)
        names = sorted(tensors)
        folder = {
            name: json.dumps(value).encode()
            for name, value in files.items()
        } | {
            "config.json": json.dumps(config).encode()
        }
        from safetensors.numpy import save
        for file, part in (("a.safetensors", names[::2]), ("b.safetensors", names[1::2])):
            folder[file] = save({name: tensors[name] for name in part})
        folder["model.safetensors.index.json"] = json.dumps({
            "weight_map": {
                name: "a.safetensors" if n % 2 == 0 else "b.safetensors"
                for n, name in enumerate(names)
            }
        }).encode()
        if model:
            folder["tokenizer.model"] = model
        self.folders.append(folder)


def mutated(data, rng):
    """A file's bytes, changed: as JSON, as a header of safetensors, or as bytes."""
    if rng.random() < 0.1 or data[:1] == b"\n":    # a tokenizer.model's
        data = bytearray(data)
        for _ in range(rng.choice((1, 1, 3, 10))):
            at = rng.randrange(min(len(data), 3000))
            if len(data) < 200:
                break
            if rng.random() < 0.5:
                data[at] = rng.randrange(256)
            elif rng.random() < 0.5:
                del data[at:at + rng.choice((1, 5, 100))]
            else:
                data[at:at] = rng.choice(
                    (b"[", b"{", b"\"", b",", b"\\ud800", b"0", b"9" * 30, b"[" * 5000, b"\x00", b"\xff"))
        return bytes(data)
    binary = data[7:8] == b"\0"
    length = struct.unpack("<Q", data[:8])[0] if binary else 0
    value = json.loads(data[8:8 + length] if binary else data)
    mutate(value, rng)
    try:
        text = json.dumps(value).encode()
    except (ValueError, RecursionError):
        return data
    return struct.pack("<Q", len(text)) + text + data[8 + length:] if binary else text


def vocabulary_of(path):
    keys, _, _ = read_gguf(path)
    return {
        text: i
        for i, (text, kind) in enumerate(zip(keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.token_type"]))
        if kind != 5
    }


def try_mutations(count, seed=18, tell=lambda n, counts: None):
    """Counts of what became of `count` mutated folders, and a list of what must not happen."""
    seeds, counts, bad = Seeds(), {"refused": 0, "converted": 0, "refused by the library alone": 0}, []
    scratch = Scratch("setUp")
    scratch.setUp()
    folder, out = scratch.folder, scratch.out
    current, slowest = None, 0.0
    try:
        for n in range(-len(seeds.folders), count):    # first the seeds as they are
            rng = random.Random(seed * 1000003 + n)
            chosen = rng.randrange(len(seeds.folders)) if n >= 0 else n
            files = dict(seeds.folders[chosen])
            name = rng.choice([*files, "config.json", "tokenizer.json", "config.json", "tokenizer.json"])
            if n >= 0:
                files[name] = mutated(files[name], rng)
            if current != chosen:
                for file in folder.iterdir():
                    file.unlink()
                for file, data in files.items():
                    (folder / file).write_bytes(data)
            else:
                (folder / name).write_bytes(files[name])
            start = time.process_time()
            code, err = stderr_of(lambda: convert.main([str(folder), str(out)]))
            took = time.process_time() - start
            slowest = max(slowest, took)
            (folder / name).write_bytes(seeds.folders[chosen][name])
            current = chosen
            counts["converted" if code == 0 else "refused"] += 1
            what = (n, name)
            if n < 0 and code != 0:
                bad.append((*what, "a seed is refused", err))
            if code not in (0, 1) or "internal error" in err or "Traceback" in err or (
                    code == 1 and err.count("convert: ") - err.count("convert: note") - err.count("convert: left") < 1):
                bad.append((*what, code, err[-300:]))
            if not all(line.isprintable() for line in err.splitlines()):
                bad.append((*what, "not printable"))
            if took > SECONDS:
                bad.append((*what, f"{took:.1f} s", err[-200:]))
            if code == 0:
                if name == "tokenizer.json" and "tokenizer.model" not in files:
                    try:
                        theirs = tokenizers.Tokenizer.from_str(files[name].decode()).get_vocab()
                    except BaseException:    # noqa: BLE001 - it panics, too
                        counts["refused by the library alone"] += 1
                    else:
                        ours = vocabulary_of(out)
                        if any(ours.get(text) != i for text, i in theirs.items() if i < len(ours) + 3):
                            bad.append(
                                (*what, "another vocabulary", sorted(set(theirs.items()) ^ set(ours.items()))[:5]))
                out.unlink()
            if list(out.parent.glob("*.part")):
                bad.append((*what, "a part is left"))
            tell(n, counts)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        if peak > MEMORY:
            bad.append(("all", f"{peak >> 20} MB"))
        return counts | {"slowest": round(slowest, 2), "peak MB": peak >> 20}, bad
    finally:
        scratch.doCleanups()


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)

    def tell(n, counts):
        if n % 500 == 499:
            print(n + 1, counts, flush=True)

    counts, bad = try_mutations(int(sys.argv[1]), *map(int, sys.argv[2:]), tell=tell)
    for line in bad[:200]:
        print(*line)
    print(counts, len(bad), "bad")
    sys.exit(bool(bad))
