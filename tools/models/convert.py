#!/usr/bin/env python3
"""Converts a Hugging Face folder (of a model of FAMILIES) to a GGUF file for Hearth.

    python3 tools/models/convert.py FOLDER OUT.gguf [--type f16|f32|bf16|q8_0|q4_0] [--by-neurons] [--predictors FOLDER]
                                    [--vision FOLDER]

The folder holds config.json, model.safetensors or pytorch_model.bin (or their shards with an index), and
tokenizer.model (SentencePiece), tokenizer.json or GPT-2's vocab.json and merges.txt (byte-level BPE). One tensor at a
time is in memory, so a large model needs little of it. Nothing that a .bin file may name is run. What this program does
not know, it refuses: a file that loads but computes something else would be worse than none.

Predictors of a ReLU model, which say before a feed-forward block what will fire in it, are taken over from the
checkpoint (TurboSparse-Mistral has them as model.layers.N.mlp.predictor) or from the folder of PowerInfer's beside it
(model_N.pt, --predictors).

A GPTQ checkpoint of 4 or 8 bits (gptq.py says what its tensors mean) is taken over bit for bit where a type of GGUF has
the same scales: symmetric ones as Q4_0 or Q8_0, those of 4 bits with zero points as Q8_0. The rest becomes F16, rounded
as fp16 rounds: matrices whose groups are scattered over the columns by act-order, and a down projection that is stored
by neurons, since its groups run along them and so across its rows. What became of which tensor is said. --type, where
it is given, asks for all matrices in that type, and requantises those that are not in it already.

A checkpoint of compressed-tensors without its zeros (sparse-bitmask, sparse-24-bitmask) gets them back;
`hearth quantize` leaves them out again.

Of a LLaVA (llava.py) the part for images goes to mmproj-OUT.gguf beside OUT.gguf, as llama.cpp has it.

Two layouts differ from the source:
* Rows of Q and K within a head are reordered in the Llama family. Hugging Face rotates element i with element
  i + head_dim/2; a GGUF of that family rotates neighbours, so the source's halves are interleaved.
* The down projection of ReLU models and of experts is stored transposed (`ffn_down_t`), one row per neuron, so that a
  neuron's three rows can be skipped or moved together. That of other models is not, unless --by-neurons asks for it.
"""

import sentences  # noqa: F401, I001 - first, so that whatever fails after it ends in a sentence

import argparse
import collections
import math
import re
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import GGUFValueType as Kind

import gptq
import llava
from checkpoint import DTYPES, read_checkpoint, read_torch
from config_keys import check_file
from families import ACTIVATIONS, FAMILIES, LLAMA, MAKES_ZEROS, Family, read_scales, windowed_layers
from folder import file_in, json_in, read_json
from sentences import Refusal, progress, run, say, shown
from tokenizer_files import read_tokenizer
from whole_file import replacing

TYPES = {
    "f32": (Type.F32, gguf.LlamaFileType.ALL_F32),
    "f16": (Type.F16, gguf.LlamaFileType.MOSTLY_F16),
    "bf16": (Type.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    "q8_0": (Type.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
    "q4_0": (Type.Q4_0, gguf.LlamaFileType.MOSTLY_Q4_0),
}
QUANTISED = {t for t, _ in TYPES.values() if gguf.GGML_QUANT_SIZES[t][0] > 1}


# ---- config.json -----------------------------------------------------------------------------------------------------

@dataclass
class Rope:
    """How far pair i of a head turns from one position to the next: base^(-2i / dim) / scale / factors_i."""
    base: float
    dim: int
    scale: float = 1.0
    factors: dict = field(default_factory=dict)    # by the file's tensor; those of LongRoPE are two
    context: int = 0          # of LongRoPE: positions that the short factors are for;
                              # of YaRN: that the model was first trained for
    magnitude: float = 1.0    # of LongRoPE: what q and k are multiplied by when they are turned;
                              # of YaRN: besides its own
    yarn: dict = None         # of YaRN: the numbers that its factors follow from, by their names in the file


@dataclass
class Experts:
    count: int
    used: int          # of a token
    neurons: int       # of one
    normalised: bool   # the weights of those that are used add up to 1


@dataclass
class Config:
    layers: int
    dim: int
    heads: int
    kv_heads: int
    head_dim: int
    neurons: int
    vocab: int
    context: int
    norm_eps: float
    rope_base: float
    activation: str
    tied: bool               # None: if the checkpoint has no lm_head
    raw: dict
    quantization: object = None    # Quantization of a GPTQ checkpoint
    family: Family = LLAMA
    rope: Rope = None              # None: all of a head turns, by rope_base alone
    floor: float = 0.0             # what relu gives 0 up to, and x above: more than 0 in FATReLU
    window: int = 0                # positions that a token looks back over, where they are fewer than the context
    windowed: list = ()            # whether each layer has the window
    scales: dict = field(default_factory=dict)    # of families.SCALES
    two_norms: bool = False        # Falcon 40B's
    experts: object = None         # Experts of a mixture of experts
    by_neurons: bool = False       # the down projection, also where no neuron is left out
    plain: bool = False            # the down projection as other programs have it
    predictor_threshold: float = 0.0


def without_nulls(value):
    """null stands for a key that is not there."""
    return {key: without_nulls(v) for key, v in value.items() if v is not None} if isinstance(value, dict) else value


def read_config(folder):
    path = file_in(folder, "config.json")
    if path is None:
        raise Refusal(f"{folder} has no config.json; the folder of a Hugging Face model is expected")
    c = read_json(path)
    architectures = c.get("architectures")
    architecture = (architectures[0] if isinstance(architectures, list) and architectures
                    and isinstance(architectures[0], str) else "none")
    if architecture not in FAMILIES:
        raise Refusal(f"architecture {architecture} is not supported (supported: {', '.join(sorted(FAMILIES))})")
    family = FAMILIES[architecture]
    check_file("config.json", c, "config.json")
    c = without_nulls(llava.words(c) if architecture in llava.ARCHITECTURES else c)
    if family.words:
        c = family.words(c)
    for key in ("attention_bias", "mlp_bias"):
        if c.get(key):
            raise Refusal(f"{key} is true in config.json, and biases are not supported")
    if c.get("hidden_act", "silu") not in ACTIVATIONS:
        raise Refusal(f"hidden_act {c['hidden_act']} is not supported (supported: {', '.join(ACTIVATIONS)})")
    activation, floor = ACTIVATIONS[c.get("hidden_act", "silu")], 0.0
    if c.get("hidden_act") == "fatrelu":
        floor = c.get("hidden_act_param")
        if not isinstance(floor, (int, float)) or isinstance(floor, bool) or not 0 <= floor < math.inf:
            raise Refusal(f"hidden_act_param in config.json is {shown(floor)}, and fatrelu needs its threshold there")
    if family.drelu:
        if c.get("hidden_act") != "relu":
            raise Refusal(f"hidden_act {c.get('hidden_act')} is not supported in the architecture "
                          f"{architecture} (supported: relu)")
        activation = "drelu"
    def integer(key, default=None):
        value = c.get(key)
        value = default if value is None else value
        if not isinstance(value, int) or value <= 0:
            raise Refusal(f"{key} in config.json is {shown(value)}, not a positive integer")
        return value

    dim, heads, context = integer("hidden_size"), integer("num_attention_heads"), integer("max_position_embeddings")
    windowed = c.get("use_sliding_window", family.always_windowed) and c.get("sliding_window") is not None
    window = integer("sliding_window") if windowed else 0
    # It never cuts anything off; where some layers have one, it may decide how they turn.
    if window >= context and not family.window_period:
        window = 0
    kv_heads = integer("num_key_value_heads", heads)
    head_dim = integer("head_dim", dim // heads)
    if heads % kv_heads or head_dim % 2:
        raise Refusal(f"{heads} heads, {kv_heads} key-value heads and a head width of {head_dim} do not fit together")
    rope = read_rope(c, family, head_dim, context)
    experts = None
    if family.experts and "num_local_experts" in c:    # Mixtral's words
        experts = Experts(integer("num_local_experts"), integer("num_experts_per_tok"),
                          integer("intermediate_size"), True)
    elif family.experts:
        if c.get("mlp_only_layers") or c.get("decoder_sparse_step", 1) != 1:
            raise Refusal("mlp_only_layers or decoder_sparse_step in config.json leave some layers without experts, "
                          "which is not supported")
        experts = Experts(integer("num_experts"), integer("num_experts_per_tok"), integer("moe_intermediate_size"),
                          bool(c.get("norm_topk_prob", False)))
    if experts and experts.used > experts.count:
        raise Refusal(f"num_experts_per_tok in config.json is {experts.used}, and there are {experts.count} experts")
    if rope.yarn:
        context = max(context, int(rope.context * rope.yarn["factor"]))
    layers = integer("num_hidden_layers")
    return Config(layers=layers, dim=dim, heads=heads, kv_heads=kv_heads, head_dim=head_dim,
                  neurons=integer("intermediate_size"), vocab=integer("vocab_size"), context=context,
                  norm_eps=float(c.get("rms_norm_eps", 1e-6)), rope_base=rope.base, activation=activation,
                  floor=float(floor), tied=c.get("tie_word_embeddings"), raw=c,
                  quantization=read_quantization(folder, c), family=family, rope=rope, window=window,
                  windowed=windowed_layers(c, family, layers), scales=read_scales(c),
                  two_norms=c.get("two_norms", False), experts=experts)


def read_rope(c, family, head_dim, context):
    """Newer configs keep all of it in rope_parameters, older ones the base at the top level and
    the rest in rope_scaling."""
    said = c.get("rope_parameters") or c.get("rope_scaling") or {}
    rotated = c.get("partial_rotary_factor", said.get("partial_rotary_factor", 1))
    if rotated != 1 and not family.partly_turned:
        raise Refusal("partial_rotary_factor in config.json is not supported")
    base = float(c.get("rope_theta") or said.get("rope_theta", 10000.0))
    # "default" is transformers' word for plain RoPE.
    kind = said.get("rope_type", said.get("type", "unnamed")) if said else "default"
    kind = "default" if kind == "unnamed" and said.keys() <= {"rope_theta", "partial_rotary_factor"} else kind

    def number(key, value=None):
        value = said.get(key) if value is None else value
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < math.inf:
            raise Refusal(f"{key} of rope_scaling in config.json is {shown(value)}, not a positive number")
        return float(value)

    rope = Rope(base, int(head_dim * number("partial_rotary_factor", rotated)))
    if rope.dim < 2 or rope.dim % 2 or rope.dim > head_dim:
        raise Refusal(f"partial_rotary_factor {rotated} in config.json turns {rope.dim} elements of {head_dim}, "
                      "and an even number is needed")
    if kind == "linear":
        rope.scale = number("factor")
    elif kind == "llama3":
        rope.factors = {"rope_freqs.weight": llama3_factors(
            rope, *map(number, ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")))}
    elif kind in ("longrope", "su"):
        for tensor, key in (("rope_factors_short.weight", "short_factor"), ("rope_factors_long.weight", "long_factor")):
            factors = said.get(key)
            if not isinstance(factors, list) or len(factors) != rope.dim // 2:
                raise Refusal(f"{key} of rope_scaling in config.json is not a list of {rope.dim // 2} numbers")
            rope.factors[tensor] = np.array([number(key, factor) for factor in factors], np.float32)
        trained = c.get("original_max_position_embeddings") or said.get("original_max_position_embeddings")
        rope.context = int(number("original_max_position_embeddings", trained or context))
        longer = context / rope.context if trained else number("factor")
        # Section 3.2 of Phi-3's report (arXiv 2404.14219) refers to LongRoPE's authors for it;
        # transformers has the formula.
        implied = math.sqrt(1 + math.log(longer) / math.log(rope.context)) if longer > 1 else 1.0
        rope.magnitude = number("attention_factor", implied if said.get("attention_factor") is None else None)
    elif kind == "yarn":
        if not said.get("truncate", True):
            raise Refusal("truncate false of rope_scaling in config.json is not supported: GGUF has no key for it")
        factor, rope.context = number("factor"), int(number("original_max_position_embeddings",
                                                            said.get("original_max_position_embeddings") or context))
        rope.yarn = {"factor": factor, "beta_fast": number("beta_fast", said.get("beta_fast") or 32),
                     "beta_slow": number("beta_slow", said.get("beta_slow") or 1)}

        def growth(strength):
            return 0.1 * strength * math.log(factor) + 1 if factor > 1 else 1.0

        # As transformers has it: a factor that is said, else DeepSeek's pair of mscales, else that of the paper,
        # which whoever reads the file takes by itself.
        both = said.get("mscale") and said.get("mscale_all_dim")
        implied = growth(number("mscale")) / growth(number("mscale_all_dim")) if both else growth(1)
        rope.magnitude = number("attention_factor", said.get("attention_factor") or implied) / growth(1)
    elif kind != "default":
        raise Refusal(f"rope_scaling of type {kind} in config.json is not supported (supported: default, linear, "
                      "llama3, longrope, yarn)")
    return rope


def llama3_factors(rope, factor, low, high, context):
    """Waves that are longer than context / low turn `factor` times slower, those shorter than context / high as before;
    between them it is interpolated."""
    if not low < high:
        raise Refusal(f"low_freq_factor {low} of rope_scaling in config.json is not below high_freq_factor {high}")
    frequencies = rope.base ** (-np.arange(0, rope.dim, 2) / rope.dim)
    smooth = np.clip((context * frequencies / (2 * np.pi) - low) / (high - low), 0, 1)
    return (1 / ((1 - smooth) / factor + smooth)).astype(np.float32)


# ---- bitmasks --------------------------------------------------------------------------------------------------------

BITMASK_FORMATS = ("dense", "sparse-bitmask", "sparse-24-bitmask")    # of a sparsity_config: its `format`
# The tensors of such a matrix, and their types.
BITMASK_PARTS = {"shape": ("I64",), "compressed": tuple(DTYPES), "bitmask": ("U8",), "row_offsets": ("I64",)}


@dataclass
class BitmaskTensor:
    """A matrix of a checkpoint of compressed-tensors (https://pypi.org/project/compressed-tensors) without its zeros:
    the values of all rows, and a bit for each weight, the first in the lowest of a byte. To who wants its values it is
    like a SourceTensor."""
    name: str
    parts: dict    # by BITMASK_PARTS: SourceTensors; row_offsets may be missing
    shape: tuple

    @property
    def dtype(self):
        return self.parts["compressed"].dtype

    def read(self):
        stored = np.unpackbits(self.parts["bitmask"].raw(), axis=1, count=self.shape[1], bitorder="little").astype(bool)
        counts, values = stored.sum(axis=1), self.parts["compressed"].read().ravel()
        if "row_offsets" in self.parts and not np.array_equal(self.parts["row_offsets"].raw(),
                                                              np.cumsum(counts) - counts):
            raise Refusal(f"the row_offsets of {self.name} are not those that its bitmask implies")
        if values.size != counts.sum():
            raise Refusal(f"the bitmask of {self.name} is of {counts.sum()} weights, and {values.size} are there")
        w = np.zeros(self.shape, np.float32)
        w[stored] = values
        return w


def join_bitmasks(tensors):
    """The checkpoint's tensors, NAME.bitmask and what belongs to it joined to a NAME.weight.
    Older files say NAME.weight.bitmask."""
    result = dict(tensors)
    for name in [name.removesuffix(".bitmask") for name in tensors if name.endswith(".bitmask")]:
        parts = {part: result.pop(f"{name}.{part}") for part in BITMASK_PARTS if f"{name}.{part}" in result}
        for part in BITMASK_PARTS:
            if part not in parts and part != "row_offsets":
                raise Refusal(f"the checkpoint has the tensor {name}.bitmask, but lacks {name}.{part}")
        for part, tensor in parts.items():
            if tensor.dtype not in BITMASK_PARTS[part]:
                raise Refusal(f"tensor {name}.{part} has the type {tensor.dtype}, which is not supported")
        shape = tuple(int(n) for n in parts["shape"].raw().ravel())
        if len(shape) != 2 or parts["bitmask"].shape != (shape[0], -(-shape[1] // 8)):
            raise Refusal(f"tensor {name}.bitmask has the shape {list(parts['bitmask'].shape)}, "
                          f"which does not fit a matrix of {list(shape)}")
        weight = name.removesuffix(".weight") + ".weight"
        result[weight] = BitmaskTensor(weight, parts, shape)
    return result


# ---- GPTQ ------------------------------------------------------------------------------------------------------------

@dataclass
class Quantization:
    bits: int
    group_size: int    # -1: the whole row
    sym: bool
    v1: bool
    varied: bool = False    # some matrices have other bits and groups (`dynamic` says which);
                            # the shapes of their tensors tell


def read_quantization(folder, c):
    """What a GPTQ checkpoint says of itself, in config.json or quantize_config.json or both;
    None of one that is not quantised."""
    beside, said = without_nulls(check_file("quantize_config.json", json_in(folder, "quantize_config.json"),
                                            "quantize_config.json")), c.get("quantization_config")
    if not said and not beside:
        return None
    q = beside | (said or {})
    method = q.get("quant_method", None if said else "gptq")    # older files of AutoGPTQ have no quant_method
    if (method == "compressed-tensors" and not q.get("config_groups")
        and (q.get("sparsity_config") or {}).get("format") in BITMASK_FORMATS):
        return None    # zeros are left out, and nothing is rounded: see join_bitmasks
    if method != "gptq":
        raise Refusal(f"the checkpoint is already quantised, by {method or 'a method without a name'} "
                      "(quantization_config in config.json); only GPTQ and the bitmasks of compressed-tensors are "
                      "supported, so convert the original one")
    bits, group_size = q.get("bits"), q.get("group_size", 128)
    if bits not in gptq.BITS:
        raise Refusal(f"GPTQ of {shown(bits)} bits is not supported (supported: {', '.join(map(str, gptq.BITS))})")
    if not isinstance(group_size, int) or (group_size != -1 and (group_size <= 0 or group_size % gptq.BLOCK)):
        raise Refusal(f"GPTQ with a group_size of {shown(group_size)} is not supported (supported: "
                      f"-1 and multiples of {gptq.BLOCK})")
    form = "marlin" if q.get("is_marlin_format") else q.get("checkpoint_format") or q.get("format") or "gptq"
    if form not in ("gptq", "gptq_v2"):
        raise Refusal(f"GPTQ's checkpoint_format {form} is not supported (supported: gptq, gptq_v2)")
    return Quantization(bits, group_size, bool(q.get("sym", True)), v1=form == "gptq", varied=bool(q.get("dynamic")))


@dataclass
class GptqTensor:
    """A matrix of a GPTQ checkpoint. To who wants its values it is like a SourceTensor."""
    name: str
    parts: dict            # by gptq.PARTS: SourceTensors; g_idx may be missing
    form: Quantization
    shape: tuple           # of the matrix
    dtype: str = "F16"

    def matrix(self):
        out, columns = self.shape
        groups = gptq.group_count(columns, self.form.group_size)
        if "g_idx" in self.parts:
            g_idx = np.array(self.parts["g_idx"].raw())
            if g_idx.min() < 0 or g_idx.max() >= groups:
                raise Refusal(f"tensor {self.name}.g_idx names the group "
                              f"{g_idx.min() if g_idx.min() < 0 else g_idx.max()}, and there are {groups}")
        else:
            g_idx = np.arange(columns) // (columns if groups == 1 else self.form.group_size)
        return gptq.Quantised(self.parts["qweight"].raw(), np.ascontiguousarray(self.parts["scales"].read().T),
                              self.zeros(), g_idx, self.form.bits)

    def zeros(self):
        zeros, middle = (gptq.zero_points(self.parts["qzeros"].raw(), self.form.bits, self.form.v1),
                         1 << self.form.bits - 1)
        return np.full_like(zeros, middle) if self.mislabelled(zeros) else zeros

    def mislabelled(self, zeros=None):
        """Symmetric, so that all zero points are the middle, but they are that only in the other form,
        with or without the 1 that v1 takes off."""
        if zeros is None:
            zeros = gptq.zero_points(self.parts["qzeros"].raw(), self.form.bits, self.form.v1)
        middle = 1 << self.form.bits - 1
        return self.form.sym and bool((zeros == (middle + 1 if self.form.v1 else middle - 1)).all())

    def spilled_words(self):
        return gptq.spilled_words(self.parts["qzeros"].raw(), self.form.bits) if self.form.v1 else 0

    def read(self):
        return self.matrix().dense()


def form_of(parts, form):
    """Of one matrix, where they differ: GPTQModel's `dynamic` names them by regular expressions,
    but the shapes of the four tensors say the same."""
    (groups, out), words, zeros = parts["scales"].shape, parts["qweight"].shape[0], parts["qzeros"].shape[1]
    bits = zeros * 32 // out if form.varied and out else form.bits
    if not form.varied or bits not in gptq.BITS or not groups:
        return form
    columns = words * 32 // bits
    return replace(form, bits=bits, group_size=-1 if groups == 1
                   else columns // groups if columns % (groups * gptq.BLOCK) == 0 else form.group_size)


def join_gptq(tensors, asked, wanted=()):
    """The checkpoint's tensors, NAME.qweight and what belongs to it joined to a NAME.weight.
    Biases of zeros that are not wanted are left out."""
    result = dict(tensors)
    for name in [name.removesuffix(".qweight") for name in tensors if name.endswith(".qweight")]:
        parts = {part: result.pop(f"{name}.{part}") for part in gptq.PARTS if f"{name}.{part}" in result}
        for part in gptq.PARTS[:3]:
            if part not in parts:
                raise Refusal(f"the checkpoint has the tensor {name}.qweight, but lacks {name}.{part}")
        if any(len(parts[part].shape) != 2 for part in gptq.PARTS[:3]):
            raise Refusal(f"a tensor of {name} is not a matrix")
        form = form_of(parts, asked)
        out, columns = parts["scales"].shape[1], parts["qweight"].shape[0] * 32 // form.bits
        implied = gptq.shapes(out, columns, form.bits, gptq.group_count(columns, form.group_size))
        for part, tensor in parts.items():
            if tensor.dtype not in (DTYPES if part == "scales" else ("I32",)):
                raise Refusal(f"tensor {name}.{part} has the type {tensor.dtype}, which is not supported")
            if tensor.shape != implied[part]:
                raise Refusal(f"tensor {name}.{part} has the shape {list(tensor.shape)}, "
                              f"but {form.bits} bits in groups of {form.group_size} imply {list(implied[part])}")
        bias = result.get(f"{name}.bias") if f"{name}.bias" not in wanted else None
        # Some packers add one to every matrix.
        if bias is not None and bias.dtype in DTYPES and not bias.read().any():
            del result[f"{name}.bias"]
        result[f"{name}.weight"] = GptqTensor(name, parts, form, (out, columns))
    return result


def keep_exact(targets, tensors, asked):
    """Gives targets the type that holds their GPTQ matrix bit for bit, where there is one and no other type was asked
    for; tells what becomes of which."""
    notes, spoilt, mislabelled = collections.Counter(), [], []
    for target in targets:
        parts = [part for part in parts_of(tensors[target.source]) if isinstance(part, GptqTensor)]
        if not parts:
            continue
        kinds = {part.matrix().exact_type() for part in parts}
        exact, why = kinds.pop() if len(kinds) == 1 else (None, "experts differ in what holds them exactly")
        if target.transposed:
            exact, why = None, "groups run along the neurons, across the rows of this file"
        if exact and asked in (None, exact):
            target.kept = exact
        elif asked:
            why = "requantised, as --type asks" if asked in QUANTISED else "decoded, as --type asks"
        notes[re.sub(r"\.\d+\.", ".*.", target.name), (target.kept or asked or Type.F16).name, why] += 1
        spoilt += [part.name for part in parts if part.spilled_words()]
        mislabelled += [part.name for part in parts if part.mislabelled()]
    for (name, kind, why), count in notes.items():
        say(f"convert: {name} ({count}): {kind}, {why}")
    if mislabelled:
        say(f"convert: warning: the zero points of {mislabelled[0]} ({len(mislabelled)} matrices) are off by 1, "
            "as if checkpoint_format were wrong; since the checkpoint is symmetric, the middle is taken")
    if spoilt:
        say(f"convert: warning: the zero points of {spoilt[0]} ({len(spoilt)} matrices) look as an old packer spoilt "
            "them (a zero point of 0 less 1 overwrote its neighbours); what it lost is wrong in any program, and a "
            "checkpoint in gptq_v2 format would be better")


# ---- tensors ---------------------------------------------------------------------------------------------------------

@dataclass
class Target:
    name: str
    source: str
    shape: tuple           # of the source
    heads: int = 0         # Q and K: heads whose rows are interleaved
    transposed: bool = False
    groups: int = 0        # Falcon's Q, K and V: groups of heads, each with its rows of Q, a head of K and one of V
    group_heads: int = 0   # heads in a group, K and V included
    plus: float = 0.0      # Gemma's norms: their weights are stored less 1
    kept: Type = None      # the type in which the source's own blocks are taken over
    precise: bool = False  # f32, whatever the other matrices are

    def is_matrix(self):
        return len(self.shape) > 1

    def stored_shape(self):
        if not self.transposed:
            return self.shape
        *experts, rows, columns = self.shape
        return math.prod(experts) * columns, rows

    def stored(self, w):
        """The source's values in the file's layout."""
        if self.heads:
            rows, columns = w.shape
            w = w.reshape(self.heads, 2, rows // self.heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)
        if self.groups:    # all of Q, then K, then V
            w = w.reshape(self.groups, self.group_heads, -1, w.shape[1])
            w = np.concatenate([part.reshape(-1, w.shape[3]) for part in (w[:, :-2], w[:, -2], w[:, -1])])
        if self.transposed:
            w = w.T
        if self.plus:
            w = w + np.float32(self.plus)
        return np.ascontiguousarray(w)


def with_bias(targets):
    """A matrix or a norm, and its bias."""
    return [t for w in targets for t in (w, Target(w.name.removesuffix("weight").replace("_t.", ".") + "bias",
                                                   w.source.removesuffix("weight") + "bias", w.shape[:1]))]


def down_target(c, to, source):
    """By neurons where some of them are left out; else as everywhere, which is faster where all are needed."""
    by_neurons = (c.by_neurons or c.activation in MAKES_ZEROS) and not c.plain
    return Target(to + ("ffn_down_t" if by_neurons else "ffn_down") + ".weight", source, (c.dim, c.neurons),
                  transposed=by_neurons)


def targets_of_opt(c):
    model = "model.decoder."
    result = [Target("token_embd.weight", model + "embed_tokens.weight", (c.vocab, c.dim)),
              # The first two rows are for padding.
              Target("position_embd.weight", model + "embed_positions.weight", (c.context + 2, c.dim))]
    for n in range(c.layers):
        to, of = f"blk.{n}.", f"{model}layers.{n}."
        result += with_bias([
            Target(to + "attn_norm.weight", of + "self_attn_layer_norm.weight", (c.dim,)),
            *(Target(f"{to}attn_{x}.weight", f"{of}self_attn.{x}_proj.weight", (c.dim, c.dim)) for x in "qkv"),
            Target(to + "attn_output.weight", of + "self_attn.out_proj.weight", (c.dim, c.dim)),
            Target(to + "ffn_norm.weight", of + "final_layer_norm.weight", (c.dim,)),
            Target(to + "ffn_up.weight", of + "fc1.weight", (c.neurons, c.dim)),
            down_target(c, to, of + "fc2.weight"),
        ])
    result += with_bias([Target("output_norm.weight", model + "final_layer_norm.weight", (c.dim,))])
    return result if c.tied else [*result, Target("output.weight", "lm_head.weight", (c.vocab, c.dim))]


def targets_of_falcon(c):
    model = "transformer."
    result = [Target("token_embd.weight", model + "word_embeddings.weight", (c.vocab, c.dim))]
    group_heads = c.heads // c.kv_heads + 2
    for n in range(c.layers):
        to, of = f"blk.{n}.", f"{model}h.{n}."
        norms = ((("attn_norm", "ln_mlp"), ("attn_norm_2", "ln_attn")) if c.two_norms
                 else (("attn_norm", "input_layernorm"),))
        result += with_bias([Target(f"{to}{name}.weight", f"{of}{source}.weight", (c.dim,)) for name, source in norms])
        result += [
            Target(to + "attn_qkv.weight", of + "self_attention.query_key_value.weight",
                   (c.kv_heads * group_heads * c.head_dim, c.dim), groups=c.kv_heads,
                   group_heads=group_heads),
            Target(to + "attn_output.weight", of + "self_attention.dense.weight", (c.dim, c.dim)),
            Target(to + "ffn_up.weight", of + "mlp.dense_h_to_4h.weight", (c.neurons, c.dim)),
            down_target(c, to, of + "mlp.dense_4h_to_h.weight"),
        ]
    result += with_bias([Target("output_norm.weight", model + "ln_f.weight", (c.dim,))])
    return result if c.tied else [*result, Target("output.weight", "lm_head.weight", (c.vocab, c.dim))]


def norm_targets(c, to, of):
    """The norms of a layer's blocks: before them, or before and after."""
    names = {"ffn_norm": "post_attention_layernorm"}
    if c.family.post_norms:
        names = {"post_attention_norm": "post_attention_layernorm", "ffn_norm": "pre_feedforward_layernorm",
                 "post_ffw_norm": "post_feedforward_layernorm"}
    return [Target(f"{to}{name}.weight", f"{of}{source}.weight", (c.dim,), plus=c.family.like_gemma)
            for name, source in names.items()]


def targets_of(c):
    """The file's tensors, in its order."""
    if c.family.like_opt:
        return targets_of_opt(c)
    if c.family.like_falcon:
        return targets_of_falcon(c)
    result = [Target("token_embd.weight", "model.embed_tokens.weight", (c.vocab, c.dim))]
    if c.rope:
        result += [Target(name, MADE + name, factors.shape) for name, factors in c.rope.factors.items()]
    for n in range(c.layers):
        to, of = f"blk.{n}.", f"model.layers.{n}."
        result += [
            Target(to + "attn_norm.weight", of + "input_layernorm.weight", (c.dim,), plus=c.family.like_gemma),
            *attention_targets(c, to, of + "self_attn."),
            Target(to + "attn_output.weight", of + "self_attn.o_proj.weight", (c.dim, c.heads * c.head_dim)),
            *norm_targets(c, to, of),
        ]
        if c.experts:
            result += expert_targets(c, to, of)
            continue
        if c.family.fused:    # gate's rows, then up's
            result.append(Target(to + "ffn_up.weight", of + "mlp.gate_up_proj.weight", (2 * c.neurons, c.dim)))
        else:
            result += [Target(to + "ffn_gate.weight", of + "mlp.gate_proj.weight", (c.neurons, c.dim)),
                       Target(to + "ffn_up.weight", of + "mlp.up_proj.weight", (c.neurons, c.dim))]
        result.append(down_target(c, to, of + "mlp.down_proj.weight"))
    result.append(Target("output_norm.weight", "model.norm.weight", (c.dim,), plus=c.family.like_gemma))
    if not c.tied:
        result.append(Target("output.weight", "lm_head.weight", (c.vocab, c.dim)))
    return result


PREDICTOR = "model.layers.{}.mlp.predictor."    # begins the names of its tensors


def predictor_targets(c, tensors):
    """fc2 . relu(fc1 . r), above 0, says which neurons fire, where r is what enters the norm before the block (or the
    layer, if its blocks are parallel)."""
    if PREDICTOR.format(0) + "fc1.weight" not in tensors or c.activation not in MAKES_ZEROS or c.experts:
        return []
    result = []
    for n in range(c.layers):
        fc1, fc2 = (f"{PREDICTOR.format(n)}fc{i}.weight" for i in (1, 2))
        rank = tensors[fc1].shape[0] if fc1 in tensors and tensors[fc1].shape else 0
        result += [Target(f"blk.{n}.fc1.weight", fc1, (rank, c.dim)),
                   Target(f"blk.{n}.fc2.weight", fc2, (c.neurons, rank))]
    return result


def read_predictors(folder, c):
    """PowerInfer's files of predictors, by the names of TurboSparse-Mistral's; sets their threshold."""
    if c.activation not in MAKES_ZEROS or c.experts:
        raise Refusal("--predictors are for ReLU models without experts; this one is no such model")
    c.predictor_threshold = check_file("predictors' config.json", json_in(folder, "config.json"),
                                       str(folder / "config.json")).get("sparse_threshold") or 0.0
    for n in range(c.layers):
        if file_in(folder, f"model_{n}.pt") is None:
            raise Refusal(f"{folder} has no model_{n}.pt; a predictor for each of {c.layers} layers is expected")
    return {PREDICTOR.format(n) + name: tensor for n in range(c.layers)
            for name, tensor in read_torch(folder / f"model_{n}.pt").items()}


def expert_targets(c, to, of):
    """The feed-forward block of a layer of experts. Gate and up are stored expert by expert,
    down as one matrix of all neurons."""
    module, gate, up, down = c.family.experts
    of, count, neurons = f"{of}{module}.", c.experts.count, c.experts.neurons
    return [Target(to + "ffn_gate_inp.weight", of + "gate.weight", (count, c.dim), precise=True),
            Target(to + "ffn_gate_exps.weight", f"{of}{EXPERTS}{gate}.weight", (count, neurons, c.dim)),
            Target(to + "ffn_up_exps.weight", f"{of}{EXPERTS}{up}.weight", (count, neurons, c.dim)),
            Target(to + ("ffn_down_exps" if c.plain else "ffn_down_t") + ".weight", f"{of}{EXPERTS}{down}.weight",
                   (count, c.dim, neurons), transposed=not c.plain)]


def attention_targets(c, to, of):
    """Q, K and V of a layer."""
    q, kv = c.heads * c.head_dim, c.kv_heads * c.head_dim
    if c.family.fused:
        return [Target(to + "attn_qkv.weight", of + "qkv_proj.weight", (q + 2 * kv, c.dim))]
    turned = c.family.neighbours
    result = [Target(to + "attn_q.weight", of + "q_proj.weight", (q, c.dim), heads=turned * c.heads),
              Target(to + "attn_k.weight", of + "k_proj.weight", (kv, c.dim), heads=turned * c.kv_heads),
              Target(to + "attn_v.weight", of + "v_proj.weight", (kv, c.dim))]
    if c.family.qkv_bias:
        result += [Target(f"{to}attn_{x}.bias", f"{of}{x}_proj.bias", (rows,))
                   for x, rows in (("q", q), ("k", kv), ("v", kv))]
    if c.family.head_norms:
        result += [Target(f"{to}attn_{x}_norm.weight", f"{of}{x}_norm.weight", (c.head_dim,), plus=c.family.like_gemma)
                   for x in ("q", "k")]
    return result


EXPERTS = "experts.*."    # in the names of tensors that are one for each expert


@dataclass
class ExpertTensor:
    """A tensor of every expert, one after the other."""
    parts: list

    @property
    def dtype(self):
        return next((part.dtype for part in self.parts if part.dtype not in DTYPES), self.parts[0].dtype)

    @property
    def shape(self):
        return len(self.parts), *self.parts[0].shape


def parts_of(source):
    return source.parts if isinstance(source, ExpertTensor) else [source]


def join_experts(tensors, targets):
    """The checkpoint's tensors, those of a layer's experts joined to one."""
    result = dict(tensors)
    for target in targets:
        if EXPERTS not in target.source:
            continue
        names = [target.source.replace(EXPERTS, EXPERTS.replace("*", str(e))) for e in range(target.shape[0])]
        for name in names:
            if name not in result:
                raise Refusal(f"the checkpoint lacks the tensor {name}")
            if result[name].shape != target.shape[1:]:
                raise Refusal(f"tensor {name} has the shape {list(result[name].shape)}, "
                              f"but config.json implies {list(target.shape[1:])}")
        result[target.source] = ExpertTensor([result.pop(name) for name in names])
    return result


MADE = "config.json's "    # begins the names of tensors that are not the checkpoint's


@dataclass
class MadeTensor:
    """What follows from config.json, as if it were of the checkpoint."""
    values: np.ndarray
    dtype: str = "F32"

    @property
    def shape(self):
        return self.values.shape

    def read(self):
        return self.values


def made_tensors(c):
    return {MADE + name: MadeTensor(factors) for name, factors in c.rope.factors.items()}


def check_width(target, weight_type):
    width, block = target.stored_shape()[-1], gguf.GGML_QUANT_SIZES[weight_type][0]
    if target.is_matrix() and not target.precise and width % block:
        raise Refusal(f"{target.name} has rows of {width} weights, which is not a multiple of {block} as "
                      f"{weight_type.name} needs")


def check_tensors(targets, tensors, config, weight_type):
    for target in targets:
        source = tensors.get(target.source)
        if source is None:
            raise Refusal(f"the checkpoint lacks the tensor {target.source}")
        if source.dtype not in DTYPES:
            raise Refusal(f"tensor {target.source} has the type {source.dtype}, "
                          f"which is not supported (supported: {', '.join(DTYPES)})")
        if source.shape != target.shape:
            raise Refusal(f"tensor {target.source} has the shape {list(source.shape)}, "
                          f"but config.json implies {list(target.shape)}")
        check_width(target, weight_type)
    used = {target.source for target in targets}
    if config.tied:
        used.add("lm_head.weight")    # see check_tied
    for name in sorted(tensors):
        if name not in used:
            raise Refusal(f"the checkpoint has the tensor {name}, which this program does not know")


# Tables that old versions of transformers saved: they follow from config.json, or are masks of what a token may see.
BUFFERS = re.compile(
    r".*\.(rotary_emb\.(inv_freq|cos_cached|sin_cached)|attn\.rope\.freqs|rope\.freqs|masked_bias|position_ids)")
MASK = re.compile(r".*\.(attn|self_attn|attention|self_attention)\.bias")


def without_buffers(tensors):
    def is_buffer(name, tensor):
        mask = (MASK.fullmatch(name) and tensor.dtype in ("BOOL", "U8") and len(tensor.shape) == 4
                and tensor.shape[:2] == (1, 1))
        return mask or BUFFERS.fullmatch(name)

    return {name: tensor for name, tensor in tensors.items() if not is_buffer(name, tensor)}


def without_predictors(tensors):
    kept = {name: tensor for name, tensor in tensors.items()
            if not re.fullmatch(re.escape(PREDICTOR).replace(r"\{\}", r"\d+") + r"fc[12]\.weight", name)}
    if len(kept) < len(tensors):
        say("convert: note: the predictors are left out, as --plain asks")
    return kept


def check_tied(tensors, config, targets):
    """Some checkpoints keep a copy of the embedding as lm_head.weight, which transformers does not read.
    One that is no copy means that config.json lies."""
    if not config.tied or "lm_head.weight" not in tensors:
        return
    head, embedding = (tensors["lm_head.weight"],
                       tensors[next(target.source for target in targets if target.name == "token_embd.weight")])
    same = head.shape == embedding.shape and head.dtype in DTYPES and np.array_equal(
        head.read(), embedding.read(), equal_nan=True)
    if not same:
        raise Refusal("tie_word_embeddings is true in config.json, and the checkpoint has an lm_head.weight that is "
                      "not its embedding; say false there to use it, or leave the tensor out to use the embedding")


def encode(target, w, weight_type):
    """fp32 values -> the bytes of the file; blocks that are kept (u8) already are."""
    if w.dtype == np.uint8:
        return w
    if not np.isfinite(w).all():
        raise Refusal(f"tensor {target.source} has values that are not finite")
    with np.errstate(over="ignore"):
        data = gguf.quants.quantize(w, weight_type)
    if weight_type == Type.F16 and not np.isfinite(data).all():
        raise Refusal(f"tensor {target.source} has values beyond the range of f16; use --type bf16")
    return data


# ---- the file --------------------------------------------------------------------------------------------------------

def add_keys(writer, name, c, tokenizer, file_type):
    writer.add_name(name)
    writer.add_file_type(file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_block_count(c.layers)
    writer.add_context_length(c.context)
    writer.add_embedding_length(c.dim)
    writer.add_feed_forward_length(c.neurons)
    if c.experts:
        writer.add_expert_count(c.experts.count)
        writer.add_expert_used_count(c.experts.used)
        writer.add_expert_feed_forward_length(c.experts.neurons)
        writer.add_expert_weights_norm(c.experts.normalised)
    writer.add_head_count(c.heads)
    writer.add_head_count_kv(c.kv_heads)
    writer.add_key_length(c.head_dim)
    writer.add_value_length(c.head_dim)
    (writer.add_layer_norm_eps if c.family.layer_norms else writer.add_layer_norm_rms_eps)(c.norm_eps)
    rope = c.rope or Rope(c.rope_base, c.head_dim)
    if not c.family.like_opt:
        writer.add_rope_dimension_count(rope.dim)
        writer.add_rope_freq_base(c.rope_base)
    if rope.scale != 1:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope.scale)
    if rope.context:
        writer.add_rope_scaling_orig_ctx_len(rope.context)
        writer.add_rope_scaling_attn_factors(rope.magnitude)
    if rope.yarn:
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope.yarn["factor"])
        writer.add_rope_scaling_yarn_beta_fast(rope.yarn["beta_fast"])
        writer.add_rope_scaling_yarn_beta_slow(rope.yarn["beta_slow"])
    add_windows(writer, c)
    for key, value in c.scales.items():
        SCALE_KEYS[key](writer, value)
    writer.add_vocab_size(c.vocab)
    writer.add_string("hearth.activation", c.activation)    # GGUF's architectures imply one and have no key for it
    if c.floor:
        writer.add_float32("hearth.activation_floor", c.floor)
    if c.predictor_threshold:
        writer.add_float32("powerinfer.sparse_threshold", c.predictor_threshold)

    writer.add_tokenizer_model(tokenizer.model)
    writer.add_token_list([p.text for p in tokenizer.pieces])
    writer.add_token_types([p.kind for p in tokenizer.pieces])
    if tokenizer.merges is None:
        writer.add_token_scores([p.score for p in tokenizer.pieces])
    else:
        writer.add_tokenizer_pre(tokenizer.pre)
        writer.add_token_merges(tokenizer.merges)
        # GGUF has no key for it, and the same cuts come with and without.
        writer.add_bool("hearth.tokenizer.nfc", tokenizer.nfc)
        writer.add_bool("hearth.tokenizer.whole_words", tokenizer.whole_words)
    for add, i in ((writer.add_bos_token_id, tokenizer.bos), (writer.add_eos_token_id, tokenizer.eos),
                   (writer.add_unk_token_id, tokenizer.unk), (writer.add_eot_token_id, tokenizer.eot),
                   (writer.add_eom_token_id, tokenizer.eom)):
        if i is not None:
            add(i)
    if tokenizer.ends:
        writer.add_key_value("tokenizer.ggml.eos_token_ids", tokenizer.ends, Kind.ARRAY, Kind.UINT32)
    writer.add_add_bos_token(tokenizer.add_bos)
    writer.add_add_eos_token(tokenizer.add_eos)
    writer.add_add_space_prefix(tokenizer.space_prefix)
    if tokenizer.prefix_first is not None:
        writer.add_bool("hearth.tokenizer.prefix_first", tokenizer.prefix_first)
    if tokenizer.rstrip:
        writer.add_key_value("hearth.tokenizer.rstrip", tokenizer.rstrip, Kind.ARRAY, Kind.UINT32)
    if tokenizer.single_spaces:
        writer.add_remove_extra_whitespaces(True)
    if tokenizer.charsmap:
        writer.add_precompiled_charsmap(tokenizer.charsmap)
    templates = {"default": tokenizer.chat_template} | tokenizer.templates
    writer.add_chat_template([{"name": name, "template": text} for name, text in templates.items() if text])


SCALE_KEYS = {
    "embedding_scale": gguf.GGUFWriter.add_embedding_scale,
    "residual_scale": gguf.GGUFWriter.add_residual_scale,
    "logit_scale": gguf.GGUFWriter.add_logit_scale,
    "score_scale": gguf.GGUFWriter.add_attention_scale,
    "attn_logit_softcapping": gguf.GGUFWriter.add_attn_logit_softcapping,
    "final_logit_softcapping": gguf.GGUFWriter.add_final_logit_softcapping,
    "window_base": gguf.GGUFWriter.add_rope_freq_base_swa,
}


def add_windows(writer, c):
    """The window, and which layers have it where the family does not imply that."""
    if not c.window or not any(c.windowed):
        return
    writer.add_sliding_window(c.window)
    period = c.family.window_period
    if list(c.windowed) == [not period or (n + 1) % period != 0 for n in range(c.layers)]:
        return
    for period in range(2, c.layers + 1):
        if list(c.windowed) == [(n + 1) % period != 0 for n in range(c.layers)]:
            return writer.add_sliding_window_pattern(period)
    writer.add_sliding_window_pattern(list(c.windowed))


def write_head(writer, file):
    """All of a GGUF file but its tensors' data, into a file that is open: GGUFWriter would open one by its name."""
    writer.fout, writer.state = [file], gguf.gguf_writer.WriterState.EMPTY
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()


def type_of(target, weight_type):
    return target.kept or (weight_type if target.is_matrix() and not target.precise else Type.F32)    # norms, routers


def stored_bytes(target, weight_type):
    block, block_bytes = gguf.GGML_QUANT_SIZES[type_of(target, weight_type)]
    return int(np.prod(target.shape)) // block * block_bytes


def write_file(writer, file, targets, weight_type, pieces):
    """All of the file, which is open, after the keys were added. `pieces(target)` yields the fp32 values in the file's
    layout, some rows at a time."""
    for target in targets:
        target_type, size = type_of(target, weight_type), stored_bytes(target, weight_type)
        writer.add_tensor_info(target.name, target.stored_shape(), np.float32, size, raw_dtype=target_type)
    total = sum(stored_bytes(target, weight_type) for target in targets)
    write_head(writer, file)
    written = 0
    for target in targets:
        writer.write_padding(file, file.tell())
        for piece in pieces(target):
            data = encode(target, piece, type_of(target, weight_type))
            file.write(np.ascontiguousarray(data))
            written += data.nbytes
            progress(f"{written * 100 // total:3d} %  {target.name:32}")
    writer.write_padding(file, file.tell())
    progress("")


def stored_pieces(target, source):
    for part in parts_of(source):
        yield target.stored(part.matrix().blocks(target.kept) if target.kept else part.read())


def write_model(out, targets, tensors, type_name, add_all_keys, architecture=LLAMA.name):
    """The whole file. `add_all_keys(writer, file_type)`; without a type_name, what GPTQ made is kept."""
    keep_exact(targets, tensors, type_name and TYPES[type_name][0])
    weight_type = TYPES[type_name or "f16"][0]
    weights = collections.Counter()
    for target in targets:
        if target.is_matrix() and not target.precise:
            weights[type_of(target, weight_type)] += int(np.prod(target.shape))
    most = weights.most_common(1)[0][0]
    with replacing(out) as file:
        writer = gguf.GGUFWriter(None, architecture)
        add_all_keys(writer, next(file_type for t, file_type in TYPES.values() if t == most))
        write_file(writer, file, targets, weight_type, lambda target: stored_pieces(target, tensors[target.source]))
    say(f"{out}: {len(targets)} tensors, {', '.join(t.name for t, _ in weights.most_common())}, "
        f"{out.stat().st_size / 1e6:.1f} MB")


def tell_who_reads(c, targets):
    """What holds for other programs."""
    if any(target.name.endswith(".ffn_down_t.weight") for target in targets):
        say("convert: note: the down projection is stored by neurons (ffn_down_t), which other programs do not read; "
            "--plain stores it as they do")
    if c.plain and (c.floor or c.activation != c.family.usual_activation):
        say(f"convert: note: other programs take the activation of every {c.family.name} model for "
            f"{c.family.usual_activation}, and this one has {c.activation}{f' above {c.floor:g}' if c.floor else ''}: "
            "they read the file, but what they compute is not this model")


def text_part(tensors):
    """Of a model for text and images the tensors for text, by the names that they have in one for text."""
    images = [name for name in tensors if re.match(r"(model\.)?(vision_tower|multi_modal_projector)\.", name)]
    if images:
        say(f"convert: left out {len(images)} tensors for images; the file is for text only")
    return {re.sub(r"^language_model\.|^model\.language_model\.",
                   lambda m: "model." if m[0].startswith("model.") else "", name): tensor
            for name, tensor in tensors.items() if name not in images}


def with_base(tensors, c):
    """The first OPT models were saved without their heads, so that the names lack what stands for the rest."""
    if not c.family.like_opt:
        return tensors
    return {f"model.{name}" if name.startswith("decoder.") else name: tensor for name, tensor in tensors.items()}


def check_counts(c, tensors):
    """Refuses what would be long lists of tensors that cannot be there."""
    experts = c.experts.count if c.experts else 1
    if c.layers * experts > len(tensors):
        raise Refusal(f"config.json says {c.layers} layers{f' of {experts} experts' if c.experts else ''}, "
                      f"and the checkpoint has only {len(tensors)} tensors")


def read_tower(folder, config, images, vision, type_name):
    """A LLaVA's part for images, checked against the part for text; None of other models."""
    if config.raw["architectures"][0] not in llava.ARCHITECTURES:
        if vision:
            raise Refusal("--vision is for a LLaVA, and this is none")
        return None
    tower = llava.Tower(folder, config.raw, images, vision)
    tower.leave_unused()
    targets = [Target(*target) for target in tower.targets()]
    check_tensors(targets, tower.images, replace(config, tied=False), tower_type(type_name)[0])
    if tower.width() != config.dim:
        raise Refusal(f"the projector gives {tower.width()} numbers, and the language model takes {config.dim}")
    return tower, targets


def tower_type(type_name):
    """A tower is small beside its language model, and stays in F16 where that is quantised."""
    return TYPES[type_name if type_name in ("f32", "bf16") else "f16"]


def write_tower(out, name, tower, targets, type_name):
    name_of_type = next(key for key, value in TYPES.items() if value == tower_type(type_name))
    write_model(out, targets, tower.images, name_of_type,
                lambda writer, file_type: tower.add_keys(writer, name, file_type), "clip")


def convert(folder, out, type_name, layout, predictors, vision=None):
    for path in (folder, predictors or folder, vision or folder):
        if not path.is_dir():
            raise Refusal(f"{path} is not a folder")
    config = replace(read_config(folder), by_neurons=layout == "neurons", plain=layout == "plain")
    tensors, images = join_bitmasks(read_checkpoint(folder)), {}
    if config.raw["architectures"][0] in llava.ARCHITECTURES:
        images, tensors = llava.part_of(tensors)
    tower = read_tower(folder, config, images, vision, type_name)
    tensors = with_base(text_part(tensors), config)
    check_counts(config, tensors)
    if predictors:
        tensors |= read_predictors(predictors, config)
    if config.plain:
        tensors = without_predictors(tensors)
    tensors = without_buffers(tensors)
    if config.tied is None:
        config.tied = "lm_head.weight" not in tensors
    targets = targets_of(config) + predictor_targets(config, tensors)
    if config.quantization:
        tensors = join_gptq(tensors, config.quantization, {target.source for target in targets})
    tensors = join_experts(tensors, targets) | made_tensors(config)
    check_tensors(targets, tensors, config, TYPES[type_name or "f16"][0])
    check_tied(tensors, config, targets)
    tokenizer = read_tokenizer(folder, config)
    write_model(out, targets, tensors, type_name,
                lambda writer, file_type: add_keys(writer, folder.resolve().name, config, tokenizer, file_type),
                config.family.name)
    tell_who_reads(config, targets)
    if tower:
        write_tower(llava.file_beside(out), folder.resolve().name, *tower, type_name)


def main(argv=None):
    parser = argparse.ArgumentParser(description="Converts a Hugging Face folder to a GGUF file for Hearth.")
    parser.add_argument("folder", type=Path,
                        help="with config.json, model.safetensors or pytorch_model.bin, "
                             "and tokenizer.model or tokenizer.json")
    parser.add_argument("out", type=Path, help="the GGUF file to write")
    parser.add_argument("--type", choices=TYPES,
                        help="of the matrices (norms stay f32); default f16, "
                             "or for a GPTQ checkpoint what holds it exactly")
    layout = parser.add_mutually_exclusive_group()
    layout.add_argument("--by-neurons", dest="layout", action="store_const", const="neurons",
                        help="store the down projection by neurons in any model: for --sparsity threshold")
    layout.add_argument("--plain", dest="layout", action="store_const", const="plain",
                        help="store the down projection of ReLU models and of experts as other programs read it, too, "
                             "and leave predictors out")
    parser.add_argument("--predictors", type=Path, metavar="FOLDER",
                        help="of a ReLU model: PowerInfer's predictors, model_0.pt and so on")
    parser.add_argument("--vision", type=Path, metavar="FOLDER",
                        help="of a LLaVA whose folder has no vision tower: that of its tower, such as "
                             "openai/clip-vit-large-patch14-336")
    args = parser.parse_args(argv)
    if args.layout == "plain" and args.predictors:
        parser.error("--plain and --predictors: other programs do not read predictors")
    return run("convert", convert, args.folder, args.out, args.type, args.layout, args.predictors,
               args.vision)


if __name__ == "__main__":
    sys.exit(main())
