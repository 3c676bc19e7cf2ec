#!/usr/bin/env python3
"""tools/models/convert.py against tiny checkpoints made here with numpy,
and against the shipped model's expected results.

    python3 tests/convert_test.py          (packages: tools/models/requirements.txt)
"""

import contextlib
import io
import json
import struct
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import numpy as np
from gguf import GGUFReader, quants
from safetensors.numpy import save_file

TESTS = Path(__file__).resolve().parent
DATA = TESTS / "data"
sys.path.insert(0, str(TESTS.parent / "tools" / "models"))
import convert  # noqa: E402

VOCAB = 4096    # of the shipped tokenizer.model
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}
LONGROPE = {"type": "longrope", "short_factor": [1.0 + i / 8 for i in range(8)],
            "long_factor": [2.0 + i for i in range(8)]}


# ---- checkpoints -----------------------------------------------------------------------------------------------------

def tiny_config(**changes):
    config = {"architectures": ["LlamaForCausalLM"], "hidden_act": "relu", "hidden_size": 64, "intermediate_size": 96,
              "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
              "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "rope_theta": 5000.0, "vocab_size": VOCAB,
              "tie_word_embeddings": False, "attention_bias": False, "mlp_bias": False, "rope_scaling": None,
              "bos_token_id": 1, "eos_token_id": 2}
    config.update(changes)
    return config


def random_tensors(config, seed=1):
    rng = np.random.default_rng(seed)
    dim, neurons, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    head_dim = config.get("head_dim") or dim // heads
    q, kv = heads * head_dim, config["num_key_value_heads"] * head_dim

    def matrix(rows, columns):
        return rng.normal(0, columns ** -0.5, (rows, columns)).astype(np.float32)

    def norm(n=dim):
        return rng.uniform(0.5, 1.5, n).astype(np.float32)

    architecture = config["architectures"][0] if config["architectures"] else None
    t = {"model.embed_tokens.weight": matrix(config["vocab_size"], dim), "model.norm.weight": norm()}
    if not config["tie_word_embeddings"]:
        t["lm_head.weight"] = matrix(config["vocab_size"], dim)
    for n in range(config["num_hidden_layers"]):
        p = f"model.layers.{n}."
        t |= {p + "input_layernorm.weight": norm(), p + "post_attention_layernorm.weight": norm(),
              p + "self_attn.q_proj.weight": matrix(q, dim), p + "self_attn.k_proj.weight": matrix(kv, dim),
              p + "self_attn.v_proj.weight": matrix(kv, dim), p + "self_attn.o_proj.weight": matrix(dim, q),
              p + "mlp.gate_proj.weight": matrix(neurons, dim), p + "mlp.up_proj.weight": matrix(neurons, dim),
              p + "mlp.down_proj.weight": matrix(dim, neurons)}
        if architecture == "Qwen2ForCausalLM":
            t |= {f"{p}self_attn.{x}_proj.bias": norm(rows) for x, rows in (("q", q), ("k", kv), ("v", kv))}
        elif architecture == "Qwen3ForCausalLM":
            t |= {f"{p}self_attn.{x}_norm.weight": norm(head_dim) for x in "qk"}
        elif architecture in ("MixtralForCausalLM", "Qwen3MoeForCausalLM"):
            names = dict(zip(("gate", "up", "down"), ("w1", "w3", "w2") if architecture == "MixtralForCausalLM"
                             else ("gate_proj", "up_proj", "down_proj")))
            block = p + ("block_sparse_moe." if architecture == "MixtralForCausalLM" else "mlp.")
            count, width = (config.get("num_local_experts") or config["num_experts"],
                            config.get("moe_intermediate_size", neurons))
            for name in ("gate", "up", "down"):
                del t[f"{p}mlp.{name}_proj.weight"]
                t |= {f"{block}experts.{e}.{names[name]}.weight": matrix(*((dim, width) if name == "down"
                                                                           else (width, dim))) for e in range(count)}
            t[block + "gate.weight"] = matrix(count, dim)
            if architecture == "Qwen3MoeForCausalLM":
                t |= {f"{p}self_attn.{x}_norm.weight": norm(head_dim) for x in "qk"}
        elif (architecture or "").startswith(("Gemma2", "Gemma3")):
            t |= {f"{p}{x}_feedforward_layernorm.weight": norm() for x in ("pre", "post")}
            if architecture.startswith("Gemma3"):
                t |= {f"{p}self_attn.{x}_norm.weight": norm(head_dim) for x in "qk"}
        elif architecture == "Phi3ForCausalLM":
            t[p + "self_attn.qkv_proj.weight"] = np.concatenate([t.pop(f"{p}self_attn.{x}_proj.weight") for x in "qkv"])
            t[p + "mlp.gate_up_proj.weight"] = np.concatenate([t.pop(f"{p}mlp.{x}_proj.weight")
                                                               for x in ("gate", "up")])
    return t


def save_bf16(tensors, path):
    """The safetensors package has no bf16 for numpy. The values must be exact in bf16 (see to_bf16)."""
    header, data = {}, b""
    for name, w in tensors.items():
        raw = (w.view(np.uint32) >> 16).astype("<u2").tobytes()
        header[name] = {"dtype": "BF16", "shape": list(w.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def to_bf16(w):
    return (w.view(np.uint32) & 0xFFFF0000).view(np.float32)


def stderr_of(work):
    """What work() gives, and what it says."""
    err = io.StringIO()
    with contextlib.redirect_stderr(err):
        result = work()
    return result, err.getvalue()


class Scratch(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name) / "tiny"
        self.folder.mkdir()
        self.out = Path(scratch.name) / "tiny.gguf"


class Case(Scratch):
    def write(self, config, tensors, tokenizer=DATA / "tokenizer.model"):
        (self.folder / "config.json").write_text(json.dumps(config))
        save_file(tensors, self.folder / "model.safetensors")
        (self.folder / "tokenizer.model").write_bytes(tokenizer.read_bytes())

    def run_convert(self, *options):
        """Exit code and what went to stderr."""
        err = io.StringIO()
        with contextlib.redirect_stderr(err):
            try:
                code = convert.main([str(self.folder), str(self.out), *options])
            except SystemExit as e:    # argparse
                code = e.code
        return code, err.getvalue()

    def converted(self, *options):
        code, err = self.run_convert(*options)
        self.assertEqual(code, 0, err)
        self.assertEqual(sorted(p.name for p in self.out.parent.iterdir()), ["tiny", "tiny.gguf"])
        return read_gguf(self.out)


def with_zeros():
    """The tiny model with 2 of every 4 weights of its layers' matrices 0."""
    tensors = random_tensors(tiny_config())
    for name, w in tensors.items():
        if w.ndim == 2 and "layers" in name:
            fours = w.reshape(-1, 4)
            np.put_along_axis(fours, np.abs(fours).argsort(axis=1)[:, :2], 0, axis=1)
    return tensors


def as_bitmasks(tensors, form, older):
    """As compressed-tensors stores them; older files have the names of the weights in front."""
    result = {}
    for name, w in tensors.items():
        if w.ndim != 2 or "layers" not in name:
            result[name] = w
            continue
        stored, prefix = w != 0, name if older else name.removesuffix(".weight")
        counts = stored.sum(axis=1)
        values = w[stored]
        result |= {prefix + ".shape": np.array(w.shape),
                   prefix + ".bitmask": np.packbits(stored, axis=1, bitorder="little"),
                   prefix + ".compressed": values.reshape(len(w), -1) if form == "sparse-24-bitmask" else values}
        if form == "sparse-bitmask":
            result[prefix + ".row_offsets"] = np.cumsum(counts) - counts
    return result


def read_gguf(path):
    """Keys, fp32 values and type names of a GGUF file."""
    reader = GGUFReader(path)
    keys = {name: field.contents() for name, field in reader.fields.items()}
    values = {
        t.name: quants.dequantize(t.data, t.tensor_type).reshape(tuple(reversed(t.shape.tolist()))).astype(np.float32)
        for t in reader.tensors}
    types = {t.name: t.tensor_type.name for t in reader.tensors}
    return keys, values, types


# ---- a forward pass, once for each layout ----------------------------------------------------------------------------

def angles(positions, head_dim, base):
    # (positions, 1, head_dim / 2)
    return np.outer(np.arange(positions), base ** (-np.arange(0, head_dim, 2) / head_dim))[:, None, :]


def rope_halves(x, base):
    """Hugging Face: element i turns with element i + head_dim/2."""
    a = angles(x.shape[0], x.shape[2], base)
    left, right = np.split(x, 2, axis=2)
    return np.concatenate([left * np.cos(a) - right * np.sin(a), right * np.cos(a) + left * np.sin(a)], axis=2)


def rope_neighbours(x, base):
    """GGUF: element 2i turns with element 2i + 1."""
    a = angles(x.shape[0], x.shape[2], base)
    even, odd = x[:, :, 0::2], x[:, :, 1::2]
    return np.stack([even * np.cos(a) - odd * np.sin(a), odd * np.cos(a) + even * np.sin(a)], axis=3).reshape(x.shape)


def forward(w, ids, rope, layers, heads, kv_heads, head_dim, eps, base, activation, watch=None):
    """Logits of all positions. w(name, layer) gives a matrix in GGUF's naming, with `ffn_down` as (dim, neurons).
    `watch` is told of every layer, the residual that enters the FFN's norm, and gate . x of the neurons."""
    def norm(x, weight):
        return x / np.sqrt(np.mean(x * x, axis=1, keepdims=True) + eps) * weight

    act = {"relu": lambda g: np.maximum(g, 0), "silu": lambda g: g / (1 + np.exp(-g))}[activation]
    n = len(ids)
    x = w("token_embd")[ids].astype(np.float64)
    for layer in range(layers):
        h = norm(x, w("attn_norm", layer))
        q = rope((h @ w("attn_q", layer).T).reshape(n, heads, head_dim), base)
        k = rope((h @ w("attn_k", layer).T).reshape(n, kv_heads, head_dim), base)
        v = (h @ w("attn_v", layer).T).reshape(n, kv_heads, head_dim)
        k, v = (np.repeat(a, heads // kv_heads, axis=1) for a in (k, v))
        scores = np.einsum("ihd,jhd->hij", q, k) / np.sqrt(head_dim)
        scores += np.triu(np.full((n, n), -np.inf), 1)
        scores = np.exp(scores - scores.max(axis=2, keepdims=True))
        scores /= scores.sum(axis=2, keepdims=True)
        x = x + np.einsum("hij,jhd->ihd", scores, v).reshape(n, -1) @ w("attn_output", layer).T
        h = norm(x, w("ffn_norm", layer))
        gate = h @ w("ffn_gate", layer).T
        if watch:
            watch(layer, x, gate)
        x = x + (act(gate) * (h @ w("ffn_up", layer).T)) @ w("ffn_down", layer).T
    return norm(x, w("output_norm")) @ w("output").T


def source_logits(config, tensors, ids):
    names = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head",
             "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
             "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
             "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}

    def w(name, layer=None):
        if name == "output" and config["tie_word_embeddings"]:
            name = "token_embd"
        return tensors[("" if layer is None else f"model.layers.{layer}.") + names[name] + ".weight"]

    heads = config["num_attention_heads"]
    return forward(w, ids, rope_halves, config["num_hidden_layers"], heads, config["num_key_value_heads"],
                   config.get("head_dim") or config["hidden_size"] // heads, config["rms_norm_eps"],
                   config["rope_theta"], config["hidden_act"])


def gguf_logits(keys, values, ids, watch=None):
    def w(name, layer=None):
        if name == "output" and "output.weight" not in values:
            name = "token_embd"
        if name == "ffn_down" and f"blk.{layer}.ffn_down_t.weight" in values:
            return values[f"blk.{layer}.ffn_down_t.weight"].T
        return values[("" if layer is None else f"blk.{layer}.") + name + ".weight"]

    return forward(w, ids, rope_neighbours, keys["llama.block_count"], keys["llama.attention.head_count"],
                   keys["llama.attention.head_count_kv"], keys["llama.attention.key_length"],
                   keys["llama.attention.layer_norm_rms_epsilon"], keys["llama.rope.freq_base"],
                   keys["hearth.activation"], watch)


# ---- what is written -------------------------------------------------------------------------------------------------

class Content(Case):
    def check_forward(self, config, tensors, keys, values):
        ids = np.random.default_rng(2).integers(0, config["vocab_size"], 20)
        expected = source_logits(config, tensors, ids)
        self.assertLess(np.abs(gguf_logits(keys, values, ids) - expected).max(), 1e-5 * max(1, np.abs(expected).max()))

    def test_the_forward_pass_in_either_layout_is_the_same(self):
        variants = {
            "grouped queries, untied, relu": {},
            "tied, silu": {"tie_word_embeddings": True, "hidden_act": "silu"},
            "head width that is not dim / heads": {"head_dim": 24},
            "one key-value head": {"num_key_value_heads": 1},
            "as many key-value heads as heads": {"num_key_value_heads": 4},
            "mistral": {"architectures": ["MistralForCausalLM"], "sliding_window": None, "hidden_act": "silu"},
        }
        for name, changes in variants.items():
            with self.subTest(name):
                config = tiny_config(**changes)
                tensors = random_tensors(config)
                self.write(config, tensors)
                keys, values, _ = self.converted("--type", "f32")
                self.check_forward(config, tensors, keys, values)

    def test_rows_of_q_and_k_are_interleaved_and_down_is_transposed(self):
        config = tiny_config()
        tensors = random_tensors(config)
        self.write(config, tensors)
        _, values, _ = self.converted("--type", "f32")
        head_dim = 16
        for source, name, heads in (("q_proj", "attn_q", 4), ("k_proj", "attn_k", 2)):
            w = tensors[f"model.layers.1.self_attn.{source}.weight"]
            for head in range(heads):
                for i in range(head_dim):
                    row = head * head_dim + i // 2 + i % 2 * head_dim // 2
                    np.testing.assert_array_equal(values[f"blk.1.{name}.weight"][head * head_dim + i], w[row])
        np.testing.assert_array_equal(values["blk.1.ffn_down_t.weight"],
                                      tensors["model.layers.1.mlp.down_proj.weight"].T)
        np.testing.assert_array_equal(values["blk.1.ffn_up.weight"], tensors["model.layers.1.mlp.up_proj.weight"])
        np.testing.assert_array_equal(values["output.weight"], tensors["lm_head.weight"])

    def test_down_stays_as_it_is_where_no_neuron_is_left_out_unless_asked_for(self):
        config = tiny_config(hidden_act="silu")
        tensors = random_tensors(config)
        self.write(config, tensors)
        down = tensors["model.layers.1.mlp.down_proj.weight"]
        for options, name, w in (((), "ffn_down", down), (("--by-neurons",), "ffn_down_t", down.T)):
            _, values, _ = self.converted("--type", "f32", *options)
            np.testing.assert_array_equal(values[f"blk.1.{name}.weight"], w)
            self.assertEqual([n for n in values if n.startswith("blk.1.ffn_down")], [f"blk.1.{name}.weight"])

    def test_the_keys_say_what_config_json_says(self):
        config = tiny_config(head_dim=24)
        self.write(config, random_tensors(config))
        keys, values, _ = self.converted()
        expected = {"general.architecture": "llama", "general.name": "tiny", "general.file_type": 1,
                    "general.quantization_version": 2, "llama.block_count": 2, "llama.context_length": 128,
                    "llama.embedding_length": 64, "llama.feed_forward_length": 96, "llama.attention.head_count": 4,
                    "llama.attention.head_count_kv": 2, "llama.attention.key_length": 24,
                    "llama.attention.value_length": 24, "llama.rope.dimension_count": 24,
                    "llama.rope.freq_base": 5000.0, "llama.vocab_size": VOCAB, "hearth.activation": "relu"}
        self.assertEqual({key: keys.get(key) for key in expected}, expected)
        self.assertAlmostEqual(keys["llama.attention.layer_norm_rms_epsilon"], 1e-5)
        self.assertEqual(len(values), 3 + 2 * 9)

    def test_a_tied_head_is_written_once(self):
        config = tiny_config(tie_word_embeddings=True)
        tensors = random_tensors(config)
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]    # some checkpoints keep the copy
        self.write(config, tensors)
        _, values, _ = self.converted()
        self.assertNotIn("output.weight", values)

    def test_newer_configs_keep_the_rope_base_in_rope_parameters(self):
        config = tiny_config(rope_parameters={"rope_theta": 777.0, "rope_type": "default"})
        del config["rope_theta"], config["rope_scaling"]
        self.write(config, random_tensors(config))
        self.assertEqual(self.converted()[0]["llama.rope.freq_base"], 777.0)

    def test_sharded_bf16_checkpoints_are_read_exactly(self):
        config = tiny_config()
        tensors = {name: to_bf16(w) for name, w in random_tensors(config).items()}
        self.write(config, tensors)
        _, expected, _ = self.converted("--type", "f32")

        (self.folder / "model.safetensors").unlink()
        names, weight_map = sorted(tensors), {}
        for shard in range(3):
            file = f"model-{shard + 1:05}-of-00003.safetensors"
            part = {name: tensors[name] for name in names[shard::3]}
            save_bf16(part, self.folder / file)
            weight_map |= dict.fromkeys(part, file)
        (self.folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        keys, values, types = self.converted("--type", "bf16")
        self.check_forward(config, tensors, keys, values)
        self.assertEqual(values.keys(), expected.keys())
        for name, w in values.items():
            np.testing.assert_array_equal(w, expected[name], name)
            self.assertEqual(types[name], "BF16" if w.ndim == 2 else "F32")

    def test_fp16_checkpoints_pass_unchanged(self):
        config = tiny_config()
        tensors = {name: w.astype(np.float16) for name, w in random_tensors(config).items()}
        self.write(config, tensors)
        keys, values, types = self.converted()
        self.check_forward(config, {name: w.astype(np.float32) for name, w in tensors.items()}, keys, values)
        self.assertEqual({t for name, t in types.items() if values[name].ndim == 2}, {"F16"})

    def test_bitmask_checkpoints_get_their_zeros_back(self):
        dense = with_zeros()
        self.write(tiny_config(), dense)
        want = self.converted()[1]
        for form in ("sparse-bitmask", "sparse-24-bitmask"):
            for older in (False, True):
                with self.subTest(form, older=older):
                    settings = {"quant_method": "compressed-tensors",
                                "sparsity_config": {"format": form, "sparsity_structure": "2:4"}}
                    key = ({"sparsity_config": settings["sparsity_config"]} if older
                           else {"quantization_config": settings})
                    self.write(tiny_config(**key), as_bitmasks(dense, form, older))
                    values = self.converted()[1]
                    self.assertEqual(values.keys(), want.keys())
                    for name, w in want.items():
                        np.testing.assert_array_equal(values[name], w, name)

    def test_every_type_is_within_its_rounding_of_the_source(self):
        config = tiny_config()
        self.write(config, random_tensors(config))
        _, exact, _ = self.converted("--type", "f32")
        for type_name, file_type in (("f16", 1), ("bf16", 32), ("q8_0", 7), ("q4_0", 2)):
            with self.subTest(type_name):
                keys, values, types = self.converted("--type", type_name)
                self.assertEqual(keys["general.file_type"], file_type)
                for name, w in exact.items():
                    if w.ndim == 1:
                        self.assertEqual(types[name], "F32")
                        np.testing.assert_array_equal(values[name], w, name)
                        continue
                    self.assertEqual(types[name], type_name.upper())
                    error = np.abs(values[name] - w)
                    # Of each block.
                    largest = np.abs(w.reshape(-1, 32)).max(axis=1, keepdims=True).repeat(32, axis=1).reshape(w.shape)
                    bound = {"f16": np.abs(w) / 2048 + 1e-7, "bf16": np.abs(w) / 256,
                             # Half a step, and the fp16 scale's rounding times 127 steps.
                             "q8_0": largest / 127 * 0.57,
                             # A whole step: 16 levels of which one is spent on the largest value's sign.
                             "q4_0": largest / 8 * 1.01}[type_name]
                    self.assertTrue((error <= bound).all(), name)
                    self.assertGreater(error.max(), 0, name)

    def test_tables_that_old_versions_saved_are_ignored(self):
        config = tiny_config()
        tensors, layer = random_tensors(config), "model.layers.0.self_attn."
        tensors |= {layer + "rotary_emb.inv_freq": np.ones(8, np.float32),
                    layer + "rotary_emb.cos_cached": np.ones((1, 1, 4, 4), np.float32),
                    layer + "masked_bias": np.array(-1e9, np.float32), layer + "bias": np.ones((1, 1, 4, 4), bool),
                    "model.position_ids": np.ones((1, 4), np.int64)}
        self.write(config, tensors)
        self.converted()
        tensors[layer + "bias"] = np.ones(64, np.float32)    # this one is a bias
        self.write(config, tensors)
        self.assertIn(f"has the tensor {layer}bias, which this program does not know", self.run_convert()[1])

    def test_numbers_of_64_bits_are_rounded_to_32(self):
        config = tiny_config()
        tensors = random_tensors(config)
        self.write(config, {name: w.astype(np.float64) for name, w in tensors.items()})
        _, values, _ = self.converted("--type", "f32")
        np.testing.assert_array_equal(values["blk.1.ffn_up.weight"], tensors["model.layers.1.mlp.up_proj.weight"])
        tensors = {name: w.astype(np.float64) for name, w in tensors.items()}
        tensors["model.norm.weight"][3] = 1e300
        self.write(config, tensors)
        self.assertIn("model.norm.weight has values that are not finite", self.run_convert()[1])

    def test_whether_the_head_is_tied_is_what_the_checkpoint_says_where_the_config_is_silent(self):
        for tied in (True, False):
            config = tiny_config(tie_word_embeddings=tied)
            tensors = random_tensors(config)
            for said in ({}, {"tie_word_embeddings": None}):
                silent = {key: value for key, value in config.items() if key != "tie_word_embeddings"} | said
                self.write(silent, tensors)
                self.assertEqual("output.weight" in self.converted()[1], not tied)

    def test_plain_files_have_the_down_projection_as_other_programs_read_it_and_say_what_these_make_of_it(self):
        note, other = ("convert: note: the down projection is stored by neurons (ffn_down_t), "
                       "which other programs do not read; --plain", "not this model")
        for changes, names, differs in (
            ({}, ("ffn_down_t", "ffn_down"), True), ({"hidden_act": "silu"}, ("ffn_down", "ffn_down"), False),
            ({"architectures": ["MixtralForCausalLM"], "num_local_experts": 3, "num_experts_per_tok": 2,
              "hidden_act": "silu"}, ("ffn_down_t", "ffn_down_exps"), False)):
            config = tiny_config(**changes)
            tensors = random_tensors(config)
            self.write(config, tensors)
            for options, name in zip(((), ("--plain",)), names):
                code, err = self.run_convert("--type", "f32", *options)
                self.assertEqual((code, note in err, other in err),
                                 (0, name == "ffn_down_t", bool(options) and differs), err)
                values = read_gguf(self.out)[1]
                self.assertEqual([n for n in values if n.startswith("blk.1.ffn_down")], [f"blk.1.{name}.weight"])
            if name == "ffn_down_exps":
                np.testing.assert_array_equal(
                    values["blk.1.ffn_down_exps.weight"],
                    np.stack([tensors[f"model.layers.1.block_sparse_moe.experts.{e}.w2.weight"] for e in range(3)]))
        self.assertEqual(self.run_convert("--plain", "--by-neurons")[0], 2)
        self.assertEqual(self.run_convert("--plain", "--predictors", "x")[0], 2)

    def test_plain_files_have_no_predictors(self):
        config = tiny_config(architectures=["BambooForCausalLM"])
        tensors = random_tensors(config)
        tensors |= {f"model.layers.{n}.mlp.predictor.fc{i}.weight": np.ones(shape, "f4") for n in range(2)
                    for i, shape in ((1, (32, 64)), (2, (96, 32)))}
        self.write(config, tensors)
        self.assertIn("blk.0.fc1.weight", self.converted()[1])
        code, err = self.run_convert("--plain")
        self.assertEqual((code, "the predictors are left out, as --plain asks" in err), (0, True), err)
        self.assertNotIn("blk.0.fc1.weight", read_gguf(self.out)[1])


class Families(Case):
    def file(self, architecture, **changes):
        """The source's tensors, and the file's keys and values."""
        config = tiny_config(architectures=[architecture], **changes)
        tensors = random_tensors(config)
        self.write(config, tensors)
        keys, values, _ = self.converted("--type", "f32")
        return tensors, keys, values

    def check_copies(self, architecture, name, copies):
        """`copies` are the last parts of names, ours: the source's. All else is as in every family."""
        tensors, keys, values = self.file(architecture)
        self.assertEqual(keys["general.architecture"], name)
        self.assertEqual(keys[f"{name}.block_count"], 2)
        copies = copies | {"attn_norm.weight": "input_layernorm.weight",
                           "attn_output.weight": "self_attn.o_proj.weight",
                           "ffn_norm.weight": "post_attention_layernorm.weight"}
        for layer in range(2):
            for ours, theirs in copies.items():
                np.testing.assert_array_equal(values.pop(f"blk.{layer}.{ours}"),
                                              tensors[f"model.layers.{layer}.{theirs}"])
            np.testing.assert_array_equal(values.pop(f"blk.{layer}.ffn_down_t.weight"),
                                          tensors[f"model.layers.{layer}.mlp.down_proj.weight"].T)
        self.assertEqual(sorted(values), ["output.weight", "output_norm.weight", "token_embd.weight"])

    GATE_UP = {"ffn_gate.weight": "mlp.gate_proj.weight", "ffn_up.weight": "mlp.up_proj.weight"}
    QKV = {f"attn_{x}.weight": f"self_attn.{x}_proj.weight" for x in "qkv"}

    def test_qwen2_keeps_the_order_of_rows_and_has_biases(self):
        self.check_copies("Qwen2ForCausalLM", "qwen2",
                          self.GATE_UP | self.QKV | {f"attn_{x}.bias": f"self_attn.{x}_proj.bias" for x in "qkv"})

    def test_qwen3_has_norms_of_heads(self):
        self.check_copies("Qwen3ForCausalLM", "qwen3", self.GATE_UP | self.QKV
                          | {f"attn_{x}_norm.weight": f"self_attn.{x}_norm.weight" for x in "qk"})

    def test_phi3_stays_fused(self):
        self.check_copies("Phi3ForCausalLM", "phi3",
                          {"attn_qkv.weight": "self_attn.qkv_proj.weight", "ffn_up.weight": "mlp.gate_up_proj.weight"})

    def check_experts(self, block, names, architecture, **changes):
        """Returns the file's keys."""
        tensors, keys, values = self.file(architecture, **changes)
        for layer in range(2):
            of, to = f"model.layers.{layer}.{block}.", f"blk.{layer}."
            gate, up, down = ([tensors[f"{of}experts.{e}.{name}.weight"] for e in range(3)] for name in names)
            np.testing.assert_array_equal(values[to + "ffn_gate_inp.weight"], tensors[of + "gate.weight"])
            np.testing.assert_array_equal(values[to + "ffn_gate_exps.weight"], np.stack(gate))
            np.testing.assert_array_equal(values[to + "ffn_up_exps.weight"], np.stack(up))
            # All neurons, one after the other.
            np.testing.assert_array_equal(values[to + "ffn_down_t.weight"], np.concatenate([w.T for w in down]))
            self.assertNotIn(to + "ffn_gate.weight", values)
        return keys

    def test_mixtrals_experts_are_one_block_of_neurons(self):
        keys = self.check_experts("block_sparse_moe", ("w1", "w3", "w2"), "MixtralForCausalLM", num_local_experts=3,
                                  num_experts_per_tok=2)
        self.assertEqual([keys[f"llama.{key}"] for key in ("expert_count", "expert_used_count",
                                                           "expert_feed_forward_length", "expert_weights_norm")],
                         [3, 2, 96, True])

    def test_qwen3s_experts_are_one_block_of_neurons(self):
        for norm in (True, False):
            keys = self.check_experts("mlp", ("gate_proj", "up_proj", "down_proj"), "Qwen3MoeForCausalLM",
                                      num_experts=3, num_experts_per_tok=1, moe_intermediate_size=32,
                                      norm_topk_prob=norm)
            self.assertEqual([keys[f"qwen3moe.{key}"]
                              for key in ("expert_count", "expert_used_count", "expert_feed_forward_length",
                                          "feed_forward_length", "expert_weights_norm")], [3, 1, 32, 96, norm])

    def test_a_router_stays_f32_whatever_the_type(self):
        config = tiny_config(architectures=["MixtralForCausalLM"], num_local_experts=3, num_experts_per_tok=2)
        self.write(config, random_tensors(config))
        for name in ("f16", "q8_0"):
            _, _, kinds = self.converted("--type", name)
            self.assertEqual(kinds["blk.0.ffn_gate_inp.weight"], "F32")
            self.assertEqual({kinds[f"blk.1.{x}.weight"] for x in ("ffn_gate_exps", "ffn_up_exps", "ffn_down_t")},
                             {name.upper()})

    OPT = {"architectures": ["OPTForCausalLM"], "activation_function": "relu", "do_layer_norm_before": True,
           "ffn_dim": 96, "hidden_size": 64, "max_position_embeddings": 128, "num_attention_heads": 4,
           "num_hidden_layers": 2, "vocab_size": VOCAB, "word_embed_proj_dim": 64, "bos_token_id": 2, "eos_token_id": 2}

    def test_opt_has_biases_everywhere_and_positions(self):
        rng = np.random.default_rng(3)
        shapes = {"embed_tokens.weight": (VOCAB, 64), "embed_positions.weight": (130, 64),
                  "final_layer_norm.weight": (64,), "final_layer_norm.bias": (64,)}
        names = {"attn_norm": "self_attn_layer_norm", "attn_output": "self_attn.out_proj",
                 "ffn_norm": "final_layer_norm", "ffn_up": "fc1", "ffn_down": "fc2", "attn_q": "self_attn.q_proj",
                 "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj"}
        for layer in range(2):
            for name in names.values():
                rows, columns = {"fc1": (96, 64), "fc2": (64, 96)}.get(name, (64, 64))
                shapes[f"layers.{layer}.{name}.weight"] = (rows,) if "norm" in name else (rows, columns)
                shapes[f"layers.{layer}.{name}.bias"] = (rows,)
        tensors = {"model.decoder." + name: rng.normal(0, 1, shape).astype("f4") for name, shape in shapes.items()}
        self.write(self.OPT, tensors)
        keys, values, types = self.converted()
        self.assertEqual((keys["general.architecture"], keys["hearth.activation"], keys["opt.context_length"]),
                         ("opt", "relu", 128))
        self.assertAlmostEqual(keys["opt.attention.layer_norm_epsilon"], 1e-5)
        keys, values, _ = self.converted("--type", "f32")
        for layer in range(2):
            for ours, theirs in names.items():
                w, of = (values.pop(f"blk.{layer}.{ours}{'_t' if ours == 'ffn_down' else ''}.weight"),
                         f"model.decoder.layers.{layer}.{theirs}")
                np.testing.assert_array_equal(w.T if ours == "ffn_down" else w, tensors[of + ".weight"])
                np.testing.assert_array_equal(values.pop(f"blk.{layer}.{ours}.bias"), tensors[of + ".bias"])
        for ours, theirs in (("position_embd.weight", "embed_positions.weight"),
                             ("token_embd.weight", "embed_tokens.weight"),
                             ("output_norm.weight", "final_layer_norm.weight"),
                             ("output_norm.bias", "final_layer_norm.bias")):
            np.testing.assert_array_equal(values.pop(ours), tensors["model.decoder." + theirs])
        self.assertEqual(values, {})    # the head is tied
        for change in ({"do_layer_norm_before": False}, {"word_embed_proj_dim": 32}, {"enable_bias": False}):
            (self.folder / "config.json").write_text(json.dumps(self.OPT | change))
            code, err = self.run_convert()
            self.assertEqual(code, 1)
            self.assertIn(f"{next(iter(change))} is {json.dumps(next(iter(change.values())))} in config.json, "
                          "which is not supported", err)

    def test_linear_scaling_is_a_key(self):
        for scaling in ({"type": "linear", "factor": 4.0}, {"rope_type": "linear", "factor": 4}):
            _, keys, values = self.file("LlamaForCausalLM", rope_scaling=scaling)
            self.assertEqual((keys["llama.rope.scaling.type"], keys["llama.rope.scaling.factor"]), ("linear", 4.0))
            self.assertNotIn("rope_freqs.weight", values)
        self.assertNotIn("llama.rope.scaling.type", self.file("LlamaForCausalLM")[1])

    def test_llama3s_scaling_is_a_factor_for_each_pair(self):
        """Waves shorter than 64 / 4 positions as they are, those longer than 64 / 1 eight times slower,
        and a blend of the two between."""
        _, keys, values = self.file("LlamaForCausalLM", rope_scaling=LLAMA3)
        self.assertNotIn("llama.rope.scaling.type", keys)
        for i, factor in enumerate(values["rope_freqs.weight"]):
            wave = 2 * np.pi * 5000 ** (2 * i / 16)
            blend = (64 / wave - 1) / (4 - 1)
            expected = 1 if wave < 16 else 8 if wave > 64 else 1 / (blend + (1 - blend) / 8)
            self.assertAlmostEqual(factor, expected, places=5)
        self.assertEqual(len(values["rope_freqs.weight"]), 8)
        # Each of the cases occurs.
        self.assertGreater(len({round(float(x), 3) for x in values["rope_freqs.weight"]}), 2)

    def test_longropes_factors_and_magnitude_are_kept(self):
        _, keys, values = self.file("Phi3ForCausalLM", rope_scaling=LONGROPE, original_max_position_embeddings=32)
        np.testing.assert_array_equal(values["rope_factors_short.weight"], np.array(LONGROPE["short_factor"], "f4"))
        np.testing.assert_array_equal(values["rope_factors_long.weight"], np.array(LONGROPE["long_factor"], "f4"))
        self.assertEqual(keys["phi3.rope.scaling.original_context_length"], 32)
        self.assertAlmostEqual(keys["phi3.rope.scaling.attn_factor"], (1 + np.log(4) / np.log(32)) ** 0.5, places=6)
        _, keys, _ = self.file("Phi3ForCausalLM", rope_scaling=LONGROPE | {"attention_factor": 1.5},
                               original_max_position_embeddings=32)
        self.assertEqual(keys["phi3.rope.scaling.attn_factor"], 1.5)

    def test_yarn_is_kept_as_numbers_and_lengthens_the_context(self):
        scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
        _, keys, values = self.file("Qwen2ForCausalLM", rope_scaling=scaling)
        expected = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0,
                    "rope.scaling.original_context_length": 128, "rope.scaling.attn_factor": 1.0,
                    "rope.scaling.yarn_beta_fast": 32.0, "rope.scaling.yarn_beta_slow": 1.0, "context_length": 512}
        self.assertEqual({key: keys[f"qwen2.{key}"] for key in expected}, expected)
        self.assertNotIn("rope_freqs.weight", values)
        _, keys, _ = self.file("Qwen2ForCausalLM", rope_scaling=scaling | {"attention_factor": 2.0})
        self.assertAlmostEqual(keys["qwen2.rope.scaling.attn_factor"], 2 / (1 + 0.1 * np.log(4)), places=6)
        # DeepSeek's; one alone says nothing.
        _, keys, _ = self.file("Qwen2ForCausalLM", rope_scaling=scaling | {"mscale": 1.0, "mscale_all_dim": 0.707})
        self.assertAlmostEqual(keys["qwen2.rope.scaling.attn_factor"], 1 / (1 + 0.0707 * np.log(4)), places=6)
        _, keys, _ = self.file("Qwen2ForCausalLM", rope_scaling=scaling | {"mscale": 1.0})
        self.assertEqual(keys["qwen2.rope.scaling.attn_factor"], 1)

    def test_gemmas_norms_have_their_1_and_what_config_json_scales_and_caps_are_keys(self):
        changes = {"hidden_act": None, "head_dim": 16, "query_pre_attn_scalar": 64, "sliding_window": 32,
                   "tie_word_embeddings": True}
        for architecture, name, more in (
            ("Gemma2ForCausalLM", "gemma2", {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}),
            ("Gemma3ForCausalLM", "gemma3", {"rope_local_base_freq": 700.0, "sliding_window_pattern": 2,
                                             "rope_scaling": {"rope_type": "linear", "factor": 8.0}})):
            with self.subTest(name):
                tensors, keys, values = self.file(architecture, **changes | more)
                self.assertEqual((keys["general.architecture"], keys["hearth.activation"]), (name, "gelu_tanh"))
                self.assertEqual((keys[f"{name}.attention.scale"], keys[f"{name}.attention.sliding_window"]),
                                 (0.125, 32))
                norms = {"attn_norm": "input_layernorm", "post_attention_norm": "post_attention_layernorm",
                         "ffn_norm": "pre_feedforward_layernorm", "post_ffw_norm": "post_feedforward_layernorm"}
                if name == "gemma3":
                    norms |= {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
                    self.assertEqual((keys["gemma3.rope.freq_base_swa"],
                                      keys["gemma3.attention.sliding_window_pattern"]), (700.0, 2))
                    self.assertEqual((keys["gemma3.rope.scaling.type"], keys["gemma3.rope.scaling.factor"]),
                                     ("linear", 8.0))
                else:
                    self.assertEqual((keys["gemma2.attn_logit_softcapping"], keys["gemma2.final_logit_softcapping"]),
                                     (50.0, 30.0))
                    self.assertNotIn("gemma2.attention.sliding_window_pattern", keys)    # the family's own
                for ours, theirs in norms.items():
                    np.testing.assert_array_equal(values[f"blk.1.{ours}.weight"],
                                                  tensors[f"model.layers.1.{theirs}.weight"] + 1)
                np.testing.assert_array_equal(values["output_norm.weight"], tensors["model.norm.weight"] + 1)
                self.assertNotIn("output.weight", values)

    def test_of_gemma3_with_images_the_text_part_is_taken_with_what_its_config_leaves_out(self):
        text = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": VOCAB, "head_dim": 16,
                "sliding_window": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "rope_scaling": None}
        tensors = random_tensors(tiny_config(architectures=["Gemma3ForCausalLM"], **text)
                                 | {"tie_word_embeddings": True})
        for prefix in ("language_model.", ""):    # older and newer checkpoints
            renamed = {(prefix + name if prefix else name.replace("model.", "model.language_model.", 1)): w
                       for name, w in tensors.items()}
            renamed |= {f"{'' if prefix else 'model.'}vision_tower.x.weight": np.ones((2, 2), "f4"),
                        "multi_modal_projector.y": np.ones(2, "f4")}
            self.write({"architectures": ["Gemma3ForConditionalGeneration"], "text_config": text}, renamed)
            keys, values, _ = self.converted("--type", "f32")
            self.assertEqual((keys["gemma3.context_length"], keys["gemma3.rope.freq_base"],
                              keys["gemma3.rope.freq_base_swa"]), (131072, 1e6, 1e4))
            self.assertEqual((keys["gemma3.attention.scale"], keys["gemma3.attention.sliding_window"]), (1 / 16, 32))
            np.testing.assert_array_equal(values["token_embd.weight"], tensors["model.embed_tokens.weight"])
            np.testing.assert_array_equal(values["blk.1.ffn_up.weight"], tensors["model.layers.1.mlp.up_proj.weight"])

    FALCON = {"architectures": ["FalconForCausalLM"], "hidden_size": 64, "num_attention_heads": 4,
              "num_hidden_layers": 2, "vocab_size": VOCAB, "layer_norm_epsilon": 1e-5, "multi_query": True,
              "parallel_attn": True, "bias": False, "alibi": False, "bos_token_id": 1, "eos_token_id": 2}

    def test_falcons_heads_are_put_in_order_and_its_norms_named_by_what_reads_them(self):
        rng = np.random.default_rng(3)
        for name, changes, kv, norms in (("7b", {}, 1, {"attn_norm": "input_layernorm"}),
                                         ("40b", {"new_decoder_architecture": True, "num_kv_heads": 2}, 2,
                                          {"attn_norm": "ln_mlp", "attn_norm_2": "ln_attn"})):
            with self.subTest(name):
                shapes = {"word_embeddings.weight": (VOCAB, 64), "ln_f.weight": (64,), "ln_f.bias": (64,)}
                for layer in range(2):
                    of = f"h.{layer}."
                    shapes |= {of + "self_attention.query_key_value.weight": ((4 + 2 * kv) * 16, 64),
                               of + "self_attention.dense.weight": (64, 64), of + "mlp.dense_h_to_4h.weight": (256, 64),
                               of + "mlp.dense_4h_to_h.weight": (64, 256)}
                    shapes |= {f"{of}{norm}.{part}": (64,) for norm in norms.values() for part in ("weight", "bias")}
                tensors = {"transformer." + tensor: rng.normal(0, 1, shape).astype("f4")
                           for tensor, shape in shapes.items()}
                self.write(self.FALCON | changes, tensors)
                keys, values, _ = self.converted("--type", "f32")
                self.assertEqual((keys["general.architecture"], keys["falcon.attention.head_count_kv"],
                                  keys["hearth.activation"]), ("falcon", kv, "gelu"))
                groups = tensors["transformer.h.1.self_attention.query_key_value.weight"].reshape(kv, -1, 16, 64)
                np.testing.assert_array_equal(values["blk.1.attn_qkv.weight"], np.concatenate(
                    [part.reshape(-1, 64) for part in (groups[:, :-2], groups[:, -2:-1], groups[:, -1:])]))
                for ours, theirs in norms.items():
                    for part in ("weight", "bias"):
                        np.testing.assert_array_equal(values[f"blk.1.{ours}.{part}"],
                                                      tensors[f"transformer.h.1.{theirs}.{part}"])
                np.testing.assert_array_equal(values["blk.1.ffn_down.weight"],
                                              tensors["transformer.h.1.mlp.dense_4h_to_h.weight"])
                self.assertNotIn("output.weight", values)    # the checkpoint has no lm_head
        for change in ({"alibi": True}, {"bias": True}, {"parallel_attn": False}, {"multi_query": False}):
            (self.folder / "config.json").write_text(json.dumps(self.FALCON | change))
            code, err = self.run_convert()
            self.assertEqual(code, 1)
            self.assertIn(f"{next(iter(change))} is {json.dumps(next(iter(change.values())))} in config.json, "
                          "which is not supported", err)

    def test_the_scales_of_minicpm_and_granite_are_keys(self):
        scales = ("embedding_scale", "residual_scale", "logit_scale")
        _, keys, _ = self.file("MiniCPMForCausalLM", scale_emb=12, scale_depth=1.4, dim_model_base=16,
                               hidden_act="fatrelu", hidden_act_param=0.01)
        for scale, value in zip(scales, (12, 1.4 / 2 ** 0.5, 4)):
            self.assertAlmostEqual(keys[f"minicpm.{scale}"], value, places=6)
        self.assertAlmostEqual(keys["hearth.activation_floor"], 0.01, places=6)
        _, keys, _ = self.file("GraniteForCausalLM", embedding_multiplier=12.0, residual_multiplier=0.25,
                               logits_scaling=8.0, attention_multiplier=0.125)
        self.assertEqual([keys[f"granite.{scale}"] for scale in (*scales, "attention.scale")], [12, 0.25, 8, 0.125])

    def test_windows_of_some_layers_are_a_pattern(self):
        for changes, pattern in (({"max_window_layers": 1}, [False, True]), ({"max_window_layers": 0}, None),
                                 ({"layer_types": ["sliding_attention", "full_attention"]}, 2)):
            with self.subTest(**changes):
                _, keys, _ = self.file("Qwen2ForCausalLM", sliding_window=64, use_sliding_window=True, **changes)
                self.assertEqual(keys.get("qwen2.attention.sliding_window_pattern"), pattern)

    def test_relu_of_bamboo_is_drelu_and_fatrelu_has_a_floor(self):
        _, keys, _ = self.file("BambooForCausalLM")
        self.assertEqual((keys["general.architecture"], keys["hearth.activation"]), ("bamboo", "drelu"))
        _, keys, _ = self.file("SparseLlamaForCausalLM", hidden_act="fatrelu", hidden_act_param=0.01)
        self.assertEqual((keys["general.architecture"], keys["hearth.activation"]), ("llama", "relu"))
        self.assertAlmostEqual(keys["hearth.activation_floor"], 0.01, places=6)

    def test_phi3_may_turn_a_part_of_a_head(self):
        self.assertEqual(self.file("Phi3ForCausalLM", partial_rotary_factor=0.75)[1]["phi3.rope.dimension_count"], 12)

    def test_a_window_is_written_where_it_cuts_something_off(self):
        for architecture, changes, window in (
            ("MistralForCausalLM", {"sliding_window": 64}, 64), ("MistralForCausalLM", {"sliding_window": 128}, None),
            ("Qwen2ForCausalLM", {"sliding_window": 64}, None), ("Phi3ForCausalLM", {"sliding_window": 63}, 63),
            ("Qwen2ForCausalLM", {"sliding_window": 64, "use_sliding_window": True}, 64)):
            with self.subTest(architecture, **changes):
                _, keys, _ = self.file(architecture, **changes)
                self.assertEqual(keys.get(keys["general.architecture"] + ".attention.sliding_window"), window)


class TokenizerContent(Case):
    def keys(self, vocab=VOCAB, settings=None, added=None, **config):
        config = tiny_config(vocab_size=vocab, **config)
        self.write(config, random_tensors(config))
        if settings is not None:
            (self.folder / "tokenizer_config.json").write_text(json.dumps(settings))
        if added is not None:
            (self.folder / "added_tokens.json").write_text(json.dumps(added))
        return self.converted()[0]

    def test_the_vocabulary_is_that_of_tokenizer_model(self):
        keys = self.keys()
        tokens, kinds = keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.token_type"]
        self.assertEqual(tokens[:4], ["<unk>", "<s>", "</s>", "<0x00>"])
        self.assertEqual((len(tokens), len(kinds), len(keys["tokenizer.ggml.scores"])), (VOCAB,) * 3)
        self.assertEqual(kinds[:259], [2, 3, 3] + [6] * 256)
        self.assertEqual(set(kinds[259:]), {1})
        ranks = keys["tokenizer.ggml.scores"][259:]
        self.assertEqual(ranks, sorted(ranks, reverse=True))
        expected = {"model": "llama", "bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0,
                    "add_bos_token": True, "add_eos_token": False, "add_space_prefix": True}
        self.assertEqual({key: keys[f"tokenizer.ggml.{key}"] for key in expected}, expected)

    def test_the_pieces_of_known_ids_spell_the_text(self):
        tokens = self.keys()["tokenizer.ggml.tokens"]
        for case in json.loads((DATA / "expected/tokens.json").read_text()):
            spelled = b""
            for i in case["ids"]:
                byte = 3 <= i < 259
                spelled += bytes([int(tokens[i][3:5], 16)]) if byte else tokens[i].replace("\u2581", " ").encode()
            if case["ids"]:    # the leading space is the tokenizer's, and it reads its own sign for a space as one
                self.assertEqual(spelled.decode(), " " + case["text"].replace("\u2581", " "))

    def test_added_tokens_come_in_with_their_kind(self):
        keys = self.keys(vocab=VOCAB + 4, added={"<word>": VOCAB},
                         settings={"eos_token": {"content": "<|end|>"}, "bos_token": "<s>", "add_bos_token": False,
                                   "chat_template": "{{ x }}",
                                   "added_tokens_decoder": {"1": {"content": "<s>", "special": True},
                                                            str(VOCAB + 2): {"content": "<|end|>", "special": True},
                                                            str(VOCAB + 9): {"content": "<beyond>", "special": True}}})
        self.assertEqual(keys["tokenizer.ggml.tokens"][VOCAB:],
                         ["<word>", f"<unused {VOCAB + 1}>", "<|end|>", f"<unused {VOCAB + 3}>"])
        self.assertEqual(keys["tokenizer.ggml.token_type"][VOCAB:], [4, 5, 3, 5])
        self.assertEqual(keys["tokenizer.ggml.token_type"][:4], [2, 3, 3, 6])
        self.assertEqual(keys["tokenizer.ggml.eos_token_id"], VOCAB + 2)
        self.assertFalse(keys["tokenizer.ggml.add_bos_token"])
        self.assertEqual(keys["tokenizer.chat_template"], "{{ x }}")

    def test_gpt2s_two_files_are_a_byte_level_tokenizer(self):
        config = tiny_config()
        self.write(config, random_tensors(config))
        (self.folder / "tokenizer.model").unlink()
        texts = ["<s>", "<pad>", "</s>", "a", "b", "ab", "\u0120", "\u0120ab"]
        (self.folder / "vocab.json").write_text(json.dumps({text: i for i, text in enumerate(texts)}))
        (self.folder / "merges.txt").write_text("#version: 0.2\na b\n\u0120 ab\n", encoding="utf-8")
        (self.folder / "special_tokens_map.json").write_text(json.dumps({"pad_token": {"content": "<pad>"}}))
        settings = {"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True, "bos_token": {"content": "</s>"},
                    "eos_token": "</s>"}
        (self.folder / "tokenizer_config.json").write_text(json.dumps(settings))
        keys = self.converted()[0]
        self.assertEqual((keys["tokenizer.ggml.model"], keys["tokenizer.ggml.pre"]), ("gpt2", "gpt-2"))
        self.assertEqual(keys["tokenizer.ggml.tokens"][:8], texts)
        self.assertEqual(keys["tokenizer.ggml.token_type"][:9], [1, 3, 3, 1, 1, 1, 1, 1, 5])
        self.assertEqual(keys["tokenizer.ggml.merges"], ["a b", "\u0120 ab"])
        self.assertEqual((keys["tokenizer.ggml.bos_token_id"], keys["tokenizer.ggml.eos_token_id"],
                          keys["tokenizer.ggml.add_bos_token"]), (2, 2, True))
        (self.folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "RobertaTokenizer"}))
        code, err = self.run_convert()
        self.assertEqual(code, 1)
        self.assertIn("has vocab.json and merges.txt of a RobertaTokenizer, which is not supported", err)

    def test_the_chat_template_may_be_one_of_several_or_stand_in_a_file_of_its_own(self):
        several = {"chat_template": [{"name": "tool_use", "template": "{{ t }}"},
                                     {"name": "default", "template": "{{ d }}"}]}
        self.assertEqual(self.keys(settings=several)["tokenizer.chat_template"], "{{ d }}")
        self.assertNotIn("tokenizer.chat_template", self.keys(settings={"chat_template": several["chat_template"][:1]}))
        (self.folder / "chat_template.jinja").write_text("{{ 'caf\u00e9' }}\n", encoding="utf-8")
        self.assertEqual(self.keys(settings=several)["tokenizer.chat_template"], "{{ 'caf\u00e9' }}\n")

    def test_a_list_of_ends_gives_its_first_and_all_of_it(self):
        keys = self.keys(eos_token_id=[7, 2])
        self.assertEqual((keys["tokenizer.ggml.eos_token_id"], keys["tokenizer.ggml.eos_token_ids"]), (7, [7, 2]))
        self.assertNotIn("tokenizer.ggml.eos_token_ids", self.keys())

    def test_ends_of_turns_and_messages_are_keys_where_they_are_named(self):
        keys = self.keys(vocab=VOCAB + 2, added={"<|eot|>": VOCAB, "<|eom|>": VOCAB + 1},
                         settings={"eot_token": "<|eot|>", "eom_token": {"content": "<|eom|>"}})
        self.assertEqual((keys["tokenizer.ggml.eot_token_id"], keys["tokenizer.ggml.eom_token_id"]), (VOCAB, VOCAB + 1))
        self.assertNotIn("tokenizer.ggml.eot_token_id", self.keys(settings={}, added={}))

    def test_further_chat_templates_are_keys_by_their_names(self):
        several = {"chat_template": [{"name": "tool_use", "template": "{{ t }}"},
                                     {"name": "default", "template": "{{ d }}"}]}
        keys = self.keys(settings=several)
        self.assertEqual((keys["tokenizer.chat_template"], keys["tokenizer.chat_template.tool_use"],
                          keys["tokenizer.chat_templates"]), ("{{ d }}", "{{ t }}", ["tool_use"]))


class ShippedModel(unittest.TestCase):
    def test_the_shipped_file_gives_the_expected_logits(self):
        keys, values, _ = read_gguf(DATA / "fairytale-7m.gguf")
        for case in json.loads((DATA / "expected/logits.json").read_text()):
            logits = gguf_logits(keys, values, np.array(case["ids"]))[-1]
            self.assertLess(np.abs(logits - np.array(case["logits"])).max(), 1e-3)


# ---- what is refused -------------------------------------------------------------------------------------------------

class Refusals(Case):
    def refused(self, message, *options, code=1):
        self.out.write_text("what was here before")
        actual, err = self.run_convert(*options)
        self.assertEqual(actual, code, err)
        self.assertIn(message, err)
        self.assertEqual(err.count("\n"), 1, err)    # one sentence
        self.assertEqual(self.out.read_text(), "what was here before")
        self.assertEqual(list(self.out.parent.glob("*.part")), [])

    def start(self, **changes):
        config = tiny_config(**changes)
        tensors = random_tensors(config)
        self.write(config, tensors)
        return tensors

    def test_configs_of_other_models(self):
        cases = [
            ({"architectures": ["GPT2LMHeadModel"]}, "architecture GPT2LMHeadModel is not supported"),
            ({"architectures": None}, "architecture none is not supported"),
            ({"attention_bias": True}, "attention_bias is true"),
            ({"mlp_bias": True}, "mlp_bias is true"),
            ({"rope_scaling": {"type": "dynamic", "factor": 2}},
             "rope_scaling of type dynamic in config.json is not supported"),
            ({"rope_scaling": {"factor": 2}}, "rope_scaling of type unnamed"),
            ({"rope_scaling": {"type": "linear", "factor": 0}},
             "factor in rope_scaling of config.json is 0, expected a positive number"),
            ({"rope_scaling": {"rope_type": "llama3", "factor": 8}},
             "low_freq_factor of rope_scaling in config.json is null, not a positive number"),
            ({"rope_scaling": LLAMA3 | {"low_freq_factor": 4}},
             "low_freq_factor 4.0 of rope_scaling in config.json is not below high_freq_factor 4.0"),
            ({"rope_scaling": LONGROPE | {"short_factor": [1.0] * 7}},
             "short_factor of rope_scaling in config.json is not a list of 8 numbers"),
            ({"rope_parameters": {"rope_type": "dynamic"}}, "rope_scaling of type dynamic"),
            ({"rope_parameters": {"rope_type": "yarn"}}, "factor of rope_scaling in config.json is null"),
            ({"rope_scaling": {"rope_type": "yarn", "factor": 4, "mscale": 1, "mscale_all_dim": -1}},
             "mscale_all_dim in rope_scaling of config.json is -1"),
            ({"rope_scaling": {"rope_type": "yarn", "factor": 4, "truncate": False}}, "truncate false of rope_scaling"),
            ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
            ({"architectures": ["Phi3ForCausalLM"], "partial_rotary_factor": 0.2},
             "partial_rotary_factor 0.2 in config.json turns 3 elements of 16"),
            ({"hidden_act": "mish"}, "hidden_act mish is not supported"),
            ({"hidden_act": "fatrelu"}, "hidden_act_param in config.json is null"),
            ({"architectures": ["BambooForCausalLM"], "hidden_act": "silu"},
             "hidden_act silu is not supported in the architecture BambooForCausalLM"),
            ({"sliding_window": 0}, "sliding_window in config.json is 0, not a positive integer"),
            ({"architectures": ["Qwen3ForCausalLM"], "attention_bias": True}, "attention_bias is true"),
            ({"architectures": ["MixtralForCausalLM"], "num_local_experts": 2, "num_experts_per_tok": 3},
             "num_experts_per_tok in config.json is 3, and there are 2 experts"),
            ({"architectures": ["Qwen3MoeForCausalLM"]}, "num_experts in config.json is null"),
            ({"architectures": ["Qwen3MoeForCausalLM"], "mlp_only_layers": [0]},
             "leave some layers without experts, which is not supported"),
            ({"architectures": ["Qwen2MoeForCausalLM"]}, "architecture Qwen2MoeForCausalLM is not supported"),
            ({"quantization_config": {"bits": 4}}, "already quantised"),
            ({"num_hidden_layers": 0}, "num_hidden_layers in config.json is 0"),
            ({"vocab_size": None}, "vocab_size in config.json is null"),
        ]
        self.start()
        for changes, message in cases:
            with self.subTest(message):
                (self.folder / "config.json").write_text(json.dumps(tiny_config(**changes)))
                self.refused(message)

    def test_tensors_that_do_not_fit_the_config(self):
        gate, bias, surplus = ("model.layers.1.mlp.gate_proj.weight", "model.layers.0.self_attn.q_proj.bias",
                               "model.layers.2.mlp.up_proj.weight")
        cases = {
            f"lacks the tensor {gate}": lambda t: t.pop(gate),
            "lacks the tensor lm_head.weight": lambda t: t.pop("lm_head.weight"),
            f"has the tensor {bias}, which": lambda t: t.update({bias: np.ones(64, "f4")}),
            f"has the tensor {surplus}, which": lambda t: t.update({surplus: np.ones((96, 64), "f4")}),
            f"{gate} has the shape [64, 96], but config.json implies [96, 64]": lambda t: t.update({
                gate: np.ascontiguousarray(t[gate].T)}),
            f"{gate} has the type I8": lambda t: t.update({gate: t[gate].astype(np.int8)}),
            f"{gate} has values that are not finite": lambda t: t[gate].__setitem__((3, 3), np.nan),
            "tie_word_embeddings is true in config.json, and the checkpoint has an lm_head.weight "
            "that is not its embedding":
                lambda t: (self.folder / "config.json").write_text(json.dumps(tiny_config(tie_word_embeddings=True))),
            f"{gate} has values beyond the range of f16": lambda t: t[gate].__setitem__((3, 3), 1e6),
        }
        for message, damage in cases.items():
            with self.subTest(message):
                tensors = self.start()
                damage(tensors)
                save_file(tensors, self.folder / "model.safetensors")
                self.refused(message)

    def test_bitmasks_that_contradict_themselves(self):
        p = "model.layers.0.mlp.down_proj."
        cases = {
            f"has the tensor {p}bitmask, but lacks {p}compressed": lambda t: t.pop(p + "compressed"),
            f"has the tensor {p}bitmask, but lacks {p}shape": lambda t: t.pop(p + "shape"),
            f"{p}bitmask has the type I32": lambda t: t.update({p + "bitmask": t[p + "bitmask"].astype(np.int32)}),
            f"{p}bitmask has the shape [64, 12], which does not "
            "fit a matrix of [64, 104]": lambda t: t[p + "shape"].__setitem__(1, 104),
            f"the row_offsets of {p}weight are not those": lambda t: t[p + "row_offsets"].__setitem__(3, 7),
            f"the bitmask of {p}weight is of 3072 weights, and 3071 are there": lambda t: t.update({
                p + "compressed": t[p + "compressed"][1:]}),
            f"the row_offsets of {p}weight": lambda t: t[p + "bitmask"].__setitem__((2, 2), 255),
        }
        for message, damage in cases.items():
            with self.subTest(message):
                tensors = as_bitmasks(with_zeros(), "sparse-bitmask", False)
                damage(tensors)
                self.write(tiny_config(), tensors)
                self.refused(message)

    def test_experts_that_are_missing_or_of_other_shapes(self):
        experts = {"architectures": ["MixtralForCausalLM"], "num_local_experts": 3, "num_experts_per_tok": 2}
        name = "model.layers.1.block_sparse_moe.experts.2.w2.weight"
        for message, change in ((f"lacks the tensor {name}", lambda t: t.pop(name)),
                                (f"tensor {name} has the shape [96, 64], but config.json implies [64, 96]",
                                 lambda t: t.update({name: np.zeros((96, 64), "f4")})),
                                ("has the type I8", lambda t: t.update({name: np.zeros((64, 96), "i1")}))):
            tensors = self.start(**experts)
            change(tensors)
            save_file(tensors, self.folder / "model.safetensors")
            self.refused(message)

    def test_widths_that_quantised_types_cannot_hold(self):
        self.start(hidden_size=80, head_dim=16)
        self.refused("rows of 80 weights, which is not a multiple of 32", "--type", "q8_0")
        self.start(head_dim=12)    # o_proj's rows are heads * head_dim wide
        self.refused("blk.0.attn_output.weight has rows of 48 weights", "--type", "q4_0")

    def test_tokenizers_of_other_kinds(self):
        self.start()
        model = self.folder / "tokenizer.model"
        good = model.read_bytes()
        model.unlink()
        self.refused("has neither tokenizer.model (SentencePiece) nor tokenizer.json; there is no tokenizer at all")
        (self.folder / "vocab.txt").write_text("a")
        self.refused("there is vocab.txt")
        # In protobuf the last value of a field wins, so a setting is changed by appending a message (its number,
        # its length, field and value).
        trainer, normalizer = (lambda b: b"\x12" + bytes([len(b)]) + b), (lambda b: b"\x1a" + bytes([len(b)]) + b)
        for data, message in ((good + trainer(b"\x18\x03"), "neither a BPE nor a unigram model"),
                              (good + trainer(b"\x18\x02\xc0\x01\x01"), "treats spaces"),
                              (good + normalizer(b"\x28\x00"), "treats spaces"),
                              (good[:1000], "not a SentencePiece model"), (b"\xff" * 100, "not a SentencePiece model"),
                              (b"", "has no tokens")):
            with self.subTest(message):
                model.write_bytes(data)
                self.refused(message)

    def test_more_tokens_than_the_model_has_rows(self):
        self.start(vocab_size=4000)
        self.refused("has 4096 tokens, but vocab_size in config.json is 4000")

    def test_folders_that_are_not_models(self):
        self.refused("has no config.json")
        self.start()
        weights = self.folder / "model.safetensors"
        good = weights.read_bytes()
        for data, message in ((good[:-5], "is cut short"), (good[:100], "is cut short"), (b"", "is cut short"),
                              (b"\x02" + bytes(7) + b"[]", "no valid safetensors header")):
            weights.write_bytes(data)
            self.refused(message)
        weights.unlink()
        self.refused("has neither model.safetensors nor pytorch_model.bin, nor their shards")
        index = self.folder / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": {"model.norm.weight": "lost.safetensors"}}))
        self.refused("names the shard lost.safetensors, which is not in the folder")
        index.write_text(json.dumps({"weight_map": {"model.norm.weight": "../tiny/config.json"}}))
        self.refused("which is no name of a file in the folder")
        (self.folder / "config.json").write_text("{")
        self.refused("config.json is not valid JSON")

    def test_an_unknown_type_is_a_usage_error(self):
        self.start()
        self.assertEqual(self.run_convert("--type", "q3_k")[0], 2)

    def test_nothing_half_written_stays(self):
        self.start()
        for error, code, message in ((KeyboardInterrupt(), 130, "interrupted"),
                                     (OSError(28, "No space left on device"), 1, "No space left")):
            written = []

            def stops_at_the_fifth(target, *rest, encode=convert.encode, error=error, written=written):
                if len(written) == 4:
                    raise error
                written.append(target)
                return encode(target, *rest)

            with self.subTest(message), mock.patch.object(convert, "encode", stops_at_the_fifth):
                self.refused(message, code=code)
                self.assertEqual(len(written), 4)


if __name__ == "__main__":
    unittest.main()
