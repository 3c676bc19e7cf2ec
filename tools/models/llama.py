"""Llama models in torch, a layer at a time: read from a GGUF file, PowerInfer's, or a Hugging Face folder, and the
forward pass. What train_predictor.py and compress.py share.

Everything is in the layout of a GGUF file: neighbours are rotated (see convert.py on Q and K),
and a neuron's down row is a row.
"""

import sentences  # noqa: F401, I001 - first, so that whatever fails after it ends in a sentence

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
from gguf import GGUFValueType as Kind

try:
    import torch
    import torch.nn.functional as F
except ImportError:
    torch = None

from checkpoint import read_checkpoint
from convert import (LLAMA, Config, Rope, add_keys, check_tensors, read_config, read_tokenizer, targets_of,
                     without_buffers, write_head)
from gguf_header import check_header
from sentences import Refusal, say

WITHOUT_TORCH = "this needs torch; install python3-torch (Debian, Ubuntu), or torch from PyPI in a virtual environment"


# ---- where the weights are -------------------------------------------------------------------------------------------

class Reader(gguf.GGUFReader):
    """Also takes PowerInfer's magic."""

    def __init__(self, path):
        check_header(path)
        with open(path, "rb") as f:
            self.magic = f.read(4)
        try:
            super().__init__(path)
        except (ValueError, IndexError, KeyError, TypeError, OverflowError, ZeroDivisionError) as e:
            raise Refusal(f"{path} is not a GGUF file, or is damaged: {e}") from None

    def _get(self, offset, dtype, count=1, override_order=None):
        if offset == 0 and self.magic == b"PWRI":
            return np.array([gguf.GGUF_MAGIC], dtype)
        return super()._get(offset, dtype, count, override_order)


class Weights:
    """Matrices of a model, decoded when they are asked for."""

    def weight(self, layer, name):
        return torch.from_numpy(self.numpy(f"blk.{layer}.{name}.weight")).to(self.device)


class Model(Weights):
    """What the forward pass needs of a file."""

    def __init__(self, path, device):
        self.reader, self.path, self.device = Reader(path), path, device
        self.tensors = {t.name: t for t in self.reader.tensors}
        if self.key("general.architecture") != "llama":
            raise Refusal(f"{path} is a model of the architecture {self.key('general.architecture')}; "
                          "this program knows llama")
        self.activation = self.key("hearth.activation", "relu" if self.reader.magic == b"PWRI" else "silu")
        if self.activation not in ("relu", "silu") or self.key("hearth.activation_floor", 0):
            raise Refusal(f"{path} is a model whose activation ({self.activation}) this program does not know")
        if self.key("llama.expert_count", 0):
            raise Refusal(f"{path} is a mixture of experts, which this program does not know")
        if (self.key("llama.rope.scaling.type", "none") != "none"
            or self.key("llama.rope.scale_linear", 1) not in (0, 1)):
            raise Refusal(f"{path} scales its positions, which this program does not know")
        for name in ("rope_freqs.weight", "rope_factors_short.weight"):
            if name in self.tensors:
                raise Refusal(f"{path} scales its positions ({name}), which this program does not know")
        if self.key("llama.attention.sliding_window", 0):
            raise Refusal(f"{path} has a sliding window, which this program does not know")
        self.layers = self.key("llama.block_count")
        self.dim = self.key("llama.embedding_length")
        self.neurons = self.key("llama.feed_forward_length")
        self.heads = self.key("llama.attention.head_count")
        self.kv_heads = self.key("llama.attention.head_count_kv", self.heads)
        self.head_dim = self.key("llama.attention.key_length", self.dim // self.heads)
        self.rope_dim = self.key("llama.rope.dimension_count", self.head_dim)
        self.rope_base = self.key("llama.rope.freq_base", 10000.0)
        self.eps = self.key("llama.attention.layer_norm_rms_epsilon")
        self.context = self.key("llama.context_length")
        self.bos = self.key("tokenizer.ggml.bos_token_id", 1)

    def key(self, name, *default):
        field = self.reader.fields.get(name)
        if field is None:
            if not default:
                raise Refusal(f"{self.path} has no key {name}")
            return default[0]
        return field.contents()

    def numpy(self, name):
        if name not in self.tensors:
            raise Refusal(f"{self.path} has no tensor {name}")
        t = self.tensors[name]
        try:
            w = gguf.quants.dequantize(t.data, t.tensor_type)
        except NotImplementedError:
            raise Refusal(f"{self.path}: {name} is {t.tensor_type.name}, "
                          "which the gguf package cannot decode") from None
        return np.array(w.reshape(tuple(int(n) for n in reversed(t.shape))), np.float32)

    def down_t(self, layer):
        """(neurons, dim), of a file that has it or its transpose."""
        if f"blk.{layer}.ffn_down_t.weight" in self.tensors:
            return self.weight(layer, "ffn_down_t")
        return self.weight(layer, "ffn_down").T

    def neuron_bytes(self, layer):
        down = "ffn_down_t" if f"blk.{layer}.ffn_down_t.weight" in self.tensors else "ffn_down"
        return sum(int(self.tensors[f"blk.{layer}.{name}.weight"].n_bytes)
                   for name in ("ffn_gate", "ffn_up", down)) / self.neurons

    def config(self):
        """As of the folder that the file was made from."""
        vocab = int(self.tensors["token_embd.weight"].shape[1]) if "token_embd.weight" in self.tensors else 0
        return Config(self.layers, self.dim, self.heads, self.kv_heads, self.head_dim, self.neurons, vocab,
                      self.context, self.eps, self.rope_base, self.activation, "output.weight" not in self.tensors, {},
                      by_neurons=True)

    @contextlib.contextmanager
    def vocabulary(self):
        """A file that `hearth tokenize` takes."""
        yield self.path


class Folder(Weights):
    """The same of a Hugging Face folder."""

    def __init__(self, path, device):
        self.path, self.device, self.source = path, device, replace(read_config(path), by_neurons=True)
        c = self.source
        if c.quantization:
            raise Refusal(f"{path} is already quantised; the original is needed")
        if c.experts:
            raise Refusal(f"{path} is a mixture of experts, which this program does not know")
        if c.family is not LLAMA:
            raise Refusal(f"{path} is a model of the architecture {c.family.name}; this program knows llama")
        if c.floor:
            raise Refusal(f"{path} is a FATReLU model, which this program does not know")
        if c.rope != Rope(c.rope_base, c.head_dim) or c.window:
            raise Refusal(f"{path} scales its positions or has a sliding window (rope_scaling and sliding_window in "
                          "config.json), which this program does not know")
        self.tensors, self.targets = (without_buffers(read_checkpoint(path)),
                                      {target.name: target for target in targets_of(c)})
        check_tensors(self.targets.values(), self.tensors, c, gguf.GGMLQuantizationType.F32)
        self.tokenizer = read_tokenizer(path, c)
        self.activation, self.layers, self.dim, self.neurons = c.activation, c.layers, c.dim, c.neurons
        self.heads, self.kv_heads, self.head_dim, self.rope_dim = c.heads, c.kv_heads, c.head_dim, c.head_dim
        self.rope_base, self.eps, self.context, self.bos = c.rope_base, c.norm_eps, c.context, self.tokenizer.bos

    def numpy(self, name):
        target = self.targets[name]
        return np.array(target.stored(self.tensors[target.source].read()), np.float32)

    def down_t(self, layer):
        return self.weight(layer, "ffn_down_t")

    def config(self):
        return self.source

    @contextlib.contextmanager
    def vocabulary(self):
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "vocabulary.gguf"
            with open(path, "xb") as file:
                writer = gguf.GGUFWriter(None, "llama")
                add_keys(writer, self.path.name, self.source, self.tokenizer, gguf.LlamaFileType.ALL_F32)
                write_head(writer, file)
            yield path


def copy_keys(writer, reader, leave_out):
    """All keys of a file but the architecture, which the writer knows, and those of which leave_out(name) holds."""
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture" or leave_out(name):
            continue
        if field.types[0] == Kind.ARRAY and not field.data:
            say(f"{Path(sys.argv[0]).stem}: left out the empty array {name}")
            continue
        writer.add_key_value(name, values_of(field), field.types[0],
                             field.types[-1] if field.types[0] == Kind.ARRAY else None)


def values_of(field):
    """A key's value as GGUFWriter takes it; strings as bytes, which need not be UTF-8."""
    if field.types[0] == Kind.STRING:
        return bytes(field.parts[-1])
    if field.types[0] == Kind.ARRAY:
        if field.types[-1] == Kind.STRING:
            return [bytes(field.parts[i]) for i in field.data]
        return [field.parts[i].item() for i in field.data]
    return field.parts[-1].item()


# ---- the forward pass ------------------------------------------------------------------------------------------------

def rmsnorm(x, weight, eps):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def rope(x, model):
    """x (windows, heads, positions, head_dim): neighbours (2i, 2i + 1) turn by position * base^(-2i / rope_dim)."""
    positions = torch.arange(x.shape[2], dtype=torch.float64, device=x.device)
    turns = model.rope_base ** (-torch.arange(0, model.rope_dim, 2, dtype=torch.float64, device=x.device)
                                / model.rope_dim)
    angles = torch.outer(positions, turns)
    cosine, sine = angles.cos().float(), angles.sin().float()
    even, odd = x[..., 0:model.rope_dim:2], x[..., 1:model.rope_dim:2]
    turned = torch.stack([even * cosine - odd * sine, even * sine + odd * cosine], dim=-1).flatten(-2)
    return torch.cat([turned, x[..., model.rope_dim:]], dim=-1)


class Layer:
    def __init__(self, model, n):
        self.model = model
        for name in ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up"):
            setattr(self, name, model.weight(n, name))
        self.down_t = model.down_t(n)

    def heads(self, x):
        """What the heads read, by attention: the input of the output projection. x (windows, positions, dim)"""
        m = self.model
        x = rmsnorm(x, self.attn_norm, m.eps)

        def by_heads(y, heads):
            return y.unflatten(-1, (heads, m.head_dim)).transpose(1, 2)

        q, k = rope(by_heads(x @ self.attn_q.T, m.heads), m), rope(by_heads(x @ self.attn_k.T, m.kv_heads), m)
        k, v = (y.repeat_interleave(m.heads // m.kv_heads, dim=1) for y in (k, by_heads(x @ self.attn_v.T, m.kv_heads)))
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)

    def attention(self, x):
        """x (windows, positions, dim)"""
        return self.heads(x) @ self.attn_output.T

    def neurons(self, r):
        """What the neurons give, the input of the down projection, and gate . x."""
        x = rmsnorm(r, self.ffn_norm, self.model.eps)
        gate = x @ self.ffn_gate.T
        return {"relu": F.relu, "silu": F.silu}[self.model.activation](gate) * (x @ self.ffn_up.T), gate

    def feed_forward(self, r):
        """The block's output, and which neurons fired."""
        y, gate = self.neurons(r)
        return y @ self.down_t, gate > 0


# ---- text ------------------------------------------------------------------------------------------------------------

def tokens_of(files, model, hearth):
    ids = []
    with model.vocabulary() as vocabulary:
        for file in files:
            try:
                result = subprocess.run([hearth, "tokenize", vocabulary, "-f", file, "--json"], capture_output=True)
            except OSError as e:
                raise Refusal(f"{hearth} cannot be run ({e.strerror}); build Hearth, "
                              "or say with --hearth where the program is") from None
            if result.returncode != 0:
                raise Refusal(result.stderr.decode(errors="replace").strip().removeprefix("hearth: "))
            ids += json.loads(result.stdout)["ids"]
    return np.array(ids, np.int64)


def windows_of(ids, most, window):
    """(windows, window - 1), to be preceded by BOS; evenly spread over the text if there are more tokens than asked."""
    runs = ids[:len(ids) // (window - 1) * (window - 1)].reshape(-1, window - 1)
    wanted = min(len(runs), max(1, most // window))
    return runs[np.arange(wanted) * len(runs) // max(1, wanted)]


# ---- options ---------------------------------------------------------------------------------------------------------

def add_hearth_option(parser):
    """A path is taken from this folder, and a name is looked for, as a shell does."""
    parser.add_argument("--hearth", type=lambda text: Path(shutil.which(text) or text).absolute(),
                        default=Path(__file__).resolve().parents[2] / "build" / "release" / "hearth",
                        help="the program, which cuts text into tokens; default build/release/hearth")


def device_of(name):
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError) as e:    # unknown, or not in this build of torch, or not in this machine
        raise Refusal(f"torch cannot use the device {name}: {str(e).splitlines()[0]}") from None
