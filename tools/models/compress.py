#!/usr/bin/env python3
"""Makes the matrices of a Llama model smaller, with as little harm as a text can show:
GPTQ rounds them to 4 or 8 bits, SparseGPT sets a part of them to 0.

    python3 tools/models/compress.py gptq MODEL OUT --calibration TEXT [--bits 4] [--group 128]
                                          [--act-order no|static|full]
    python3 tools/models/compress.py sparsegpt MODEL OUT --calibration TEXT [--pattern 0.5|2:4]

MODEL is a Hugging Face folder, or a GGUF file of the Llama family with weights of any type that the gguf package can
read. OUT is a GGUF file where its name ends in .gguf, else a folder (of a folder): with a GPTQ checkpoint (format
gptq_v2), or with the model as it was but for its zeros. Embedding, output matrix and norms stay as they are.

How. Both methods see each matrix W alone, and want W'X to be near WX for the inputs X that the text gives it. That
is a least-squares problem with the Hessian H = 2 X X^T. Going through the columns from left to right, what one
loses by rounding or by a zero is made good in those to its right, as well as is possible: with U the upper Cholesky
factor of H^-1, column j's loss e = (w_j - w'_j) / U_jj takes e U_jk from every column k > j. Columns go in blocks
of 128, and columns beyond a block are brought up to date once for each block. H is damped: 1 % of the mean of its
diagonal is added there.
* GPTQ (https://arxiv.org/abs/2210.17323): w' is w rounded to the grid of its group of columns, chosen when the group is
  reached. --act-order takes the columns in the order of falling H_jj, so that those that matter have most others to
  lean on; `full` also groups them so, which GGUF has no type for, and `static` leaves the groups in place.
* SparseGPT (https://arxiv.org/abs/2301.00774): in every block (or in every 4 columns of a row,
  for 2:4) the weights with the least w^2 / U_jj^2 become 0.

A layer at a time is in memory. The text goes through layer after layer as it has become, so that a layer makes good
what the ones before it have lost, as far as it can. What is between layers is kept on disk, beside OUT. In a GGUF file
the down projection is stored by neurons; there GPTQ forms its groups along those rows, so that the file is Q4_0 or Q8_0
throughout. The folder has them along the neurons, as the format wants it (see convert.py).

Besides tools/models/requirements.txt this needs torch, on the CPU or (--device cuda) on a GPU. Tested with 2.6.0.
"""

import sentences  # noqa: F401, I001 - first, so that whatever fails after it ends in a sentence

import argparse
import contextlib
import dataclasses
import json
import shutil
import struct
import sys
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

import gptq
from checkpoint import read_safetensors
from convert import TYPES, Quantization, add_keys, join_gptq, targets_of, write_model
from folder import file_in, names_in
from llama import (WITHOUT_TORCH, Folder, Layer, Model, add_hearth_option, copy_keys, device_of, rmsnorm, tokens_of,
                   torch, windows_of)
from sentences import Refusal, progress, run, say
from whole_file import new_folder, scratch_folder, target_of

BLOCK = 128           # columns
WINDOW = 512          # tokens, BOS included, where the model's context has room
BATCH_TOKENS = 4096   # go through a layer at a time
SHRINKS = 32          # of a group's grid are tried; the last one leaves
SMALLEST = 0.5        # of the range


# ---- the least-squares problem ---------------------------------------------------------------------------------------

class Inputs:
    """What is to be known of a matrix's inputs x: H = 2 X X^T, as the mean over the tokens."""

    def __init__(self, columns, device):
        self.h, self.count = torch.zeros(columns, columns, device=device), 0

    def add(self, x):
        """x (..., columns)"""
        x = x.flatten(0, -2)
        self.h *= self.count / (self.count + len(x))
        self.count += len(x)
        self.h += 2 / self.count * (x.T @ x)

    def squared(self, w):
        """Mean |w x|^2, but for a factor."""
        return ((w @ self.h) * w).sum().item()


def inverse_factor(h, damping):
    """U, upper triangular, with U^T U = (h + damping mean(diagonal))^-1. Changes h."""
    h = h.double()
    diagonal = h.diagonal()
    mean = diagonal.mean().clamp(min=1e-30)
    diagonal += damping * mean
    while True:    # inputs that are nearly dependent may need more
        root, failed = torch.linalg.cholesky_ex(h)
        if not failed:
            inverse, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(root), upper=True)
        if not failed:
            return inverse.float()
        diagonal += damping * mean


def solve(w, inputs, rule, block, damping, order=None):
    """w' for w (rows, columns). `rule(j, w, u)` says what becomes of column j, of a w that is up to date in j's block.
    `order` of the columns: as the rule counts them, which is as they come."""
    h, w = inputs.h.clone(), w.clone()
    dead = h.diagonal() == 0    # inputs that are always 0
    h.diagonal()[dead] = 1
    w[:, dead] = 0
    if order is not None:
        w, h = w[:, order], h[order][:, order]
    u = inverse_factor(h, damping)
    for start in range(0, w.shape[1], block):
        part, beyond = slice(start, start + block), slice(start + block, None)
        inside, factor = w[:, part], u[part, part]
        losses = torch.zeros_like(inside)
        for i in range(inside.shape[1]):
            kept = rule(start + i, w, u)
            losses[:, i] = (inside[:, i] - kept) / factor[i, i]
            inside[:, i + 1:] -= losses[:, i, None] * factor[i, i + 1:]
            inside[:, i] = kept
        w[:, beyond] -= losses @ u[part, beyond]
    return w if order is None else w[:, torch.argsort(order)]


# ---- GPTQ ------------------------------------------------------------------------------------------------------------

@dataclass
class Grid:
    """What weights are rounded to: scale (q - zero), q = 0 .. 2^bits - 1; a scale and a zero for each row."""
    scale: object    # (rows, 1), fp16 numbers in f32
    zero: object
    top: int

    def q(self, w):
        return (torch.round(w / self.scale) + self.zero).clamp(0, self.top)

    def round(self, w):
        return self.scale * (self.q(w) - self.zero)


def grid_of(w, bits, sym):
    """For each row of w, the grid over a part of its range that rounds it with the least squared error."""
    top = (1 << bits) - 1
    low, high = w.amin(1, keepdim=True).clamp(max=0), w.amax(1, keepdim=True).clamp(min=0)
    if sym:
        high = torch.maximum(high, -low)
        low = -high
    best, least = None, None
    for i in range(SHRINKS):
        part = 1 - (1 - SMALLEST) * i / SHRINKS
        scale = ((high - low) * part / top).half().float()
        scale[scale == 0] = 1
        zero = torch.full_like(scale, (top + 1) // 2) if sym else torch.round(-low * part / scale).clamp(0, top)
        grid = Grid(scale, zero, top)
        error = (grid.round(w) - w).square().sum(1, keepdim=True)
        if best is None:
            best, least = grid, error
            continue
        better = error < least
        best = Grid(torch.where(better, scale, best.scale), torch.where(better, zero, best.zero), top)
        least = torch.minimum(error, least)
    return best


class Rounding:
    """The rule of GPTQ with groups of columns: j's group is `groups[j]`."""

    def __init__(self, w, form, groups, ahead=False):
        rows, self.form, self.groups = len(w), form, groups
        count = int(groups.max()) + 1
        self.scales, self.zeros = torch.empty(rows, count, device=w.device), torch.empty(rows, count, device=w.device)
        self.q = torch.empty(w.shape, dtype=torch.uint8, device=w.device)
        self.fitted = set()
        if ahead:    # on w as it is
            for group in range(count):
                self.fit(group, w[:, groups == group])

    def fit(self, group, w):
        grid = grid_of(w, self.form.bits, self.form.sym)
        self.scales[:, group], self.zeros[:, group] = grid.scale[:, 0], grid.zero[:, 0]
        self.fitted.add(group)

    def __call__(self, j, w, u):
        group = int(self.groups[j])
        if group not in self.fitted:    # its columns come next, and are up to date
            self.fit(group, w[:, j:j + int((self.groups == group).sum())])
        grid = Grid(self.scales[:, group], self.zeros[:, group], (1 << self.form.bits) - 1)
        self.q[:, j] = grid.q(w[:, j]).byte()
        return grid.round(w[:, j])

    def result(self, order):
        """(q, scales, zeros, g_idx) with the columns in their own order."""
        back = slice(None) if order is None else torch.argsort(order)
        return self.q[:, back], self.scales, self.zeros, self.groups[back]


class RoundingAcross:
    """The rule of GPTQ with groups of rows: for each column, a scale for every `size` rows.
    The result is the transposed matrix."""

    def __init__(self, w, form, size):
        rows, columns = w.shape
        self.form, self.size = form, rows if size == -1 else size
        self.scales, self.zeros = (torch.empty(columns, rows // self.size, device=w.device) for _ in range(2))
        self.q = torch.empty(columns, rows, dtype=torch.uint8, device=w.device)

    def __call__(self, j, w, u):
        column = w[:, j].reshape(-1, self.size)
        grid = grid_of(column, self.form.bits, self.form.sym)
        self.scales[j], self.zeros[j] = grid.scale[:, 0], grid.zero[:, 0]
        self.q[j] = grid.q(column).byte().flatten()
        return grid.round(column).flatten()

    def result(self, order):
        back = slice(None) if order is None else torch.argsort(order)
        return self.q[back], self.scales[back], self.zeros[back], torch.arange(self.q.shape[1]) // self.size


def whole_groups(group):
    """Columns in a block: BLOCK, or so many that no group goes on into the next block before it is up to date."""
    return BLOCK if group == -1 or group % BLOCK == 0 else group * max(1, BLOCK // group)


@dataclass
class Gptq:
    form: Quantization
    act_order: str
    damping: float
    across: bool    # the groups of the down projection run across its columns

    def __call__(self, w, inputs, down):
        """W', and the matrix as convert.py's checkpoints have it:
        gptq.Quantised (of W^T, where the groups run across)."""
        columns, size = w.shape[1], self.form.group_size
        groups = torch.zeros(columns, dtype=torch.long) if size == -1 else torch.arange(columns) // size
        order = None
        if self.act_order != "no":
            order = torch.argsort(inputs.h.diagonal(), descending=True, stable=True)
        if down and self.across:
            rule = RoundingAcross(w, self.form, size)
        elif self.act_order == "static":
            rule = Rounding(w[:, order], self.form, groups[order.cpu()], ahead=True)
        else:
            rule = Rounding(w, self.form, groups)
        result = solve(w, inputs, rule, whole_groups(size), self.damping, order)
        q, scales, zeros, g_idx = (x.cpu().numpy() for x in rule.result(None if order is None else order.cpu()))
        return result, (q, scales, zeros.astype(np.uint8), g_idx)


# ---- SparseGPT -------------------------------------------------------------------------------------------------------

@dataclass
class Pattern:
    """`zeros` of every `of` columns in each row, or a share of all weights in each block of columns."""
    zeros: int = 0
    of: int = 0
    share: float = 0

    @staticmethod
    def parse(text):
        try:
            if ":" in text:
                zeros, of = map(int, text.split(":"))
                if 0 < zeros < of <= BLOCK and BLOCK % of == 0:
                    return Pattern(zeros, of)
            elif 0 < float(text) < 1:
                return Pattern(share=float(text))
        except ValueError:
            pass
        raise argparse.ArgumentTypeError(f"{text} is neither a share between 0 and 1 nor a pattern such as 2:4")


class Pruning:
    """The rule of SparseGPT."""

    def __init__(self, w, pattern):
        self.pattern, self.zero = pattern, torch.zeros(w.shape, dtype=torch.bool, device=w.device)

    def __call__(self, j, w, u):
        p = self.pattern
        width = p.of or BLOCK
        if j % width == 0:
            part = slice(j, j + width)
            harm = w[:, part].square() / u.diagonal()[part].square()
            zero = self.zero[:, part]
            if p.of:
                zero.scatter_(1, harm.topk(p.zeros, dim=1, largest=False).indices, True)
            else:
                chosen = harm.flatten().topk(round(p.share * harm.numel()), largest=False).indices
                zero |= (torch.zeros(harm.numel(), dtype=torch.bool, device=w.device).scatter_(0, chosen, True)
                         .view(harm.shape))
        return w[:, j].masked_fill(self.zero[:, j], 0)


@dataclass
class SparseGpt:
    pattern: Pattern
    damping: float

    def __call__(self, w, inputs, down):
        result = solve(w, inputs, Pruning(w, self.pattern), BLOCK, self.damping)
        return result, result.cpu().numpy()


# ---- the model, layer by layer ---------------------------------------------------------------------------------------

MATRICES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down_t")


class Text:
    """What is between two layers, for all windows, in a file of the scratch folder."""

    def __init__(self, model, windows, scratch):
        self.model = model
        ids = np.concatenate([np.full((len(windows), 1), model.bos), windows], axis=1)
        self.h = np.memmap(scratch / "h", np.float32, "w+", shape=(*ids.shape, model.dim))
        self.batch = max(1, BATCH_TOKENS // ids.shape[1])
        embedding = model.numpy("token_embd.weight")
        for at in self.batches():
            self.h[at] = embedding[ids[at]]

    def batches(self):
        return [slice(i, i + self.batch) for i in range(0, len(self.h), self.batch)]

    def __iter__(self):
        for at in self.batches():
            yield at, torch.from_numpy(self.h[at]).to(self.model.device)

    def inputs(self, columns, of):
        """Inputs of what `of` gives for the residual."""
        inputs = Inputs(columns, self.model.device)
        for _, x in self:
            inputs.add(of(x))
        return inputs

    def change(self, by):
        for at, x in self:
            self.h[at] = by(x).cpu().numpy()


def compress_layer(model, n, text, method, tell):
    """Takes the text through layer n while its matrices are compressed.
    Returns, by name, what the method made of each."""
    layer, made, eps = Layer(model, n), {}, model.eps

    def compress(names, inputs):
        for name in names:
            down = name == "ffn_down_t"
            w = layer.down_t.T if down else getattr(layer, name)
            progress(f"layer {n + 1} of {model.layers}: {name}")
            result, made[name] = method(w, inputs, down)
            tell(n, name, inputs.squared(w - result) / max(inputs.squared(w), 1e-30))
            if down:
                layer.down_t = result.T
            else:
                setattr(layer, name, result)

    with torch.no_grad():
        progress(f"layer {n + 1} of {model.layers}")
        compress(MATRICES[:3], text.inputs(model.dim, lambda x: rmsnorm(x, layer.attn_norm, eps)))
        compress(MATRICES[3:4], text.inputs(model.heads * model.head_dim, layer.heads))
        text.change(lambda x: x + layer.attention(x))
        compress(MATRICES[4:6], text.inputs(model.dim, lambda x: rmsnorm(x, layer.ffn_norm, eps)))
        compress(MATRICES[6:], text.inputs(model.neurons, lambda x: layer.neurons(x)[0]))
        text.change(lambda x: x + layer.feed_forward(x)[0])
    return made


# ---- what is written -------------------------------------------------------------------------------------------------

class CheckpointWriter:
    """A safetensors file, tensor by tensor, in the order of `entries`: name -> (dtype, shape)."""
    SIZES = {"F32": 4, "F16": 2, "BF16": 2, "I32": 4}

    def __init__(self, path, entries):
        header, at = {"__metadata__": {"format": "pt"}}, 0
        for name, (dtype, shape) in entries.items():
            size = int(np.prod(shape)) * self.SIZES[dtype]
            header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
            at += size
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        self.file, self.left = open(path, "xb"), dict(entries)
        self.file.write(struct.pack("<Q", len(text)) + text)

    def add(self, name, w):
        """fp32 values, or such as are in the entry's dtype already."""
        expected = next(iter(self.left))
        dtype, shape = self.left.pop(expected)
        assert (name, tuple(w.shape)) == (expected, tuple(shape)), (name, w.shape, expected, shape)
        if w.dtype == np.float32 and dtype != "F32":
            w = gguf.quants.quantize(np.ascontiguousarray(w), Type[dtype])
        self.file.write(np.ascontiguousarray(w))

    def close(self):
        self.file.close()


def is_compressed(target):
    return target.name.removesuffix(".weight").rsplit(".", 1)[-1] in MATRICES


@dataclass
class Plan:
    """What the checkpoint holds."""
    targets: list
    form: Quantization    # None: dense
    across: bool

    def target_shape(self, target):
        """The matrix's, as the checkpoint has it."""
        return target.shape[::-1] if self.across and target.transposed else target.shape

    def entries(self, dtype_of):
        entries = {}
        for target in self.targets:
            if self.form and is_compressed(target):
                out, columns = self.target_shape(target)
                shapes = gptq.shapes(out, columns, self.form.bits, gptq.group_count(columns, self.form.group_size))
                dtypes = {"scales": "F16"}
                prefix = target.source.removesuffix("weight")
                entries |= {prefix + part: (dtypes.get(part, "I32"), shape) for part, shape in shapes.items()}
            else:
                entries[target.source] = dtype_of(target), target.shape
        return entries

    def stored_targets(self):
        """As write_model is to take them: a down projection that is by neurons already is not transposed again."""
        return [dataclasses.replace(t, shape=self.target_shape(t), transposed=False) if self.across and t.transposed
                else t for t in self.targets]


def source_rows(target, w):
    """Rows of Q and K as a folder has them, of those of a GGUF file."""
    if not target.heads:
        return w
    rows, columns = w.shape
    return w.reshape(target.heads, rows // target.heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def write_checkpoint(path, model, text, method, plan, tell):
    def dtype_of(target):
        dtype = model.tensors[target.source].dtype if isinstance(model, Folder) else "F32"
        return "F32" if dtype == "F64" else dtype

    writer, layer, made = CheckpointWriter(path, plan.entries(dtype_of)), None, {}
    try:
        for target in plan.targets:
            if not is_compressed(target):
                source = model.tensors[target.source] if isinstance(model, Folder) else None
                writer.add(target.source, model.numpy(target.name) if source is None
                           else source.read() if source.dtype == "F64" else source.raw())
                continue
            _, n, name, _ = target.name.split(".")
            if layer != n:
                layer, made = n, compress_layer(model, int(n), text, method, tell)
            if not plan.form:
                writer.add(target.source, source_rows(target, made.pop(name)))
                continue
            q, scales, zeros, g_idx = made.pop(name)
            q, scales, zeros = (source_rows(target, x) for x in (q, scales, zeros))
            matrix = gptq.Quantised(gptq.pack(q.T, plan.form.bits, 0), scales, zeros, g_idx, plan.form.bits)
            for part, w in matrix.parts().items():
                writer.add(target.source.removesuffix("weight") + part, w)
    finally:
        writer.close()


def write_settings(folder, model, method):
    """All of a folder that is not its weights."""
    raw = dict(model.source.raw)
    if isinstance(method, Gptq):
        settings = {"bits": method.form.bits, "group_size": method.form.group_size,
                    "desc_act": method.act_order != "no", "static_groups": method.act_order == "static",
                    "sym": method.form.sym, "damp_percent": method.damping, "true_sequential": True,
                    "quant_method": "gptq", "checkpoint_format": "gptq_v2"}
        raw["quantization_config"] = settings
        (folder / "quantize_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    (folder / "config.json").write_text(json.dumps(raw, indent=2) + "\n")
    for name in names_in(model.path):
        if (Path(name).suffix in (".json", ".model", ".jinja") and name not in ("config.json", "quantize_config.json")
            and not name.endswith(".index.json")):
            shutil.copyfile(file_in(model.path, name), folder / name)


def write_gguf(out, checkpoint, model, plan, type_name):
    tensors = read_safetensors(checkpoint)
    if plan.form:
        tensors = join_gptq(tensors, plan.form)

    def add_all_keys(writer, file_type):
        if isinstance(model, Folder):
            add_keys(writer, model.path.resolve().name, model.source, model.tokenizer, file_type)
            return
        copy_keys(writer, model.reader,
                  lambda name: name.startswith(("hearth.", "powerinfer.", "split.")) or name in keys)
        writer.add_file_type(file_type)
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        writer.add_string("hearth.activation", model.activation)

    keys = ("general.file_type", "general.quantization_version")
    write_model(out, plan.stored_targets(), tensors, type_name, add_all_keys)


# ---- the program -----------------------------------------------------------------------------------------------------

class Report:
    """A line for each layer."""

    def __init__(self):
        self.row, self.sums = [], []

    def __call__(self, n, name, error):
        self.row.append(error)
        self.sums.append(error)
        if len(self.row) == len(MATRICES):
            progress("")
            errors = ", ".join(f"{name.removeprefix('attn_').removeprefix('ffn_').removesuffix('_t')} {error:.2e}"
                               for name, error in zip(MATRICES, self.row))
            say(f"compress: layer {n}: relative error |W'X - WX|^2 / |WX|^2: {errors}")
            self.row = []


def check(model, plan, method):
    """What can be refused before the work."""
    known = set()
    for target in plan.targets:
        known |= {target.name, target.name.replace("ffn_down_t", "ffn_down")}
        if not is_compressed(target):
            continue
        out, columns = plan.target_shape(target)
        if isinstance(method, Gptq):
            size = columns if method.form.group_size == -1 else method.form.group_size
            if columns % size or columns % gptq.BLOCK or out * method.form.bits % 32:
                raise Refusal(f"{target.source} has {columns} columns and {out} rows, which do not fit groups of "
                              f"{size} and words of 32 bits")
        elif columns % (method.pattern.of or 1):
            raise Refusal(f"{target.source} has {columns} columns, which is not a multiple of {method.pattern.of}")
    if isinstance(model, Model):
        for name in model.tensors:
            if name not in known and not name.endswith((".fc1.weight", ".fc2.weight")):
                raise Refusal(f"{model.path} has the tensor {name}, which this program does not know")
        if any(name.endswith(".fc1.weight") for name in model.tensors):
            say("compress: the predictors are left out, since they are of the model as it was; "
                "train_predictor.py makes new ones")


def method_of(options, to_gguf):
    if options.method == "sparsegpt":
        return SparseGpt(options.pattern, options.damping)
    size = options.group or (gptq.BLOCK if to_gguf else 128)    # smaller ones cost nothing in GGUF
    if size != -1 and (size < 0 or size % gptq.BLOCK):
        raise Refusal(f"a group of {size} is not a multiple of {gptq.BLOCK}, and not -1 for the whole row")
    form = Quantization(options.bits, size, sym=not options.asymmetric, v1=False)
    return Gptq(form, options.act_order, options.damping, across=to_gguf)


def compress(options):
    if torch is None:
        raise Refusal(WITHOUT_TORCH)
    if options.threads:
        torch.set_num_threads(options.threads)
    if not 0 < options.damping <= 1:
        raise Refusal(f"a damping of {options.damping} is not between 0 and 1")
    out, to_gguf, device = options.out, options.out.suffix == ".gguf", device_of(options.device)
    model = Folder(options.model, device) if options.model.is_dir() else Model(options.model, device)
    if isinstance(model, Model) and not to_gguf:
        raise Refusal(f"{out} does not end in .gguf, and only of a folder can a folder be made")
    method = method_of(options, to_gguf)
    plan = Plan(targets_of(model.config()), method.form if isinstance(method, Gptq) else None,
                isinstance(method, Gptq) and method.across)
    check(model, plan, method)
    window = min(WINDOW, model.context)
    windows = windows_of(tokens_of(options.calibration, model, options.hearth), options.tokens, window)
    if not len(windows):
        raise Refusal(f"the text is shorter than one window of {window} tokens")
    if windows.size < model.neurons:
        say(f"compress: warning: {windows.size} tokens are few for matrices of {model.neurons} columns; "
            "give more text, or raise --tokens")

    tell = Report()
    with contextlib.ExitStack() as stack:
        if not to_gguf:
            folder = stack.enter_context(new_folder(out))
        else:
            target_of(out)    # what cannot be written is told before the work
        scratch = stack.enter_context(scratch_folder(out.absolute()))
        checkpoint = (scratch if to_gguf else folder) / "model.safetensors"
        write_checkpoint(checkpoint, model, Text(model, windows, scratch), method, plan, tell)
        if to_gguf:
            write_gguf(out, checkpoint, model, plan, options.type)
        else:
            write_settings(folder, model, method)
    say(f"compress: {windows.size} tokens; mean relative error {np.mean(tell.sums):.2e}")
    if to_gguf:
        say("compress: note: the down projection is stored by neurons (ffn_down_t), which other programs do not read")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    methods = parser.add_subparsers(dest="method", required=True, metavar="METHOD")
    both = argparse.ArgumentParser(add_help=False)
    both.add_argument("model", type=Path, help="a Hugging Face folder or a GGUF file")
    both.add_argument("out", type=Path, help="a GGUF file to write, where it ends in .gguf, else a folder")
    both.add_argument("--calibration", type=Path, nargs="+", required=True, metavar="TEXT",
                      help="what the model is to stay good at")
    both.add_argument("--tokens", type=int, default=65536, metavar="N",
                      help="at most, of the text; default %(default)s")
    both.add_argument("--damping", type=float, default=0.01, metavar="SHARE",
                      help="of the mean of H's diagonal; default %(default)s")
    both.add_argument("--type", choices=TYPES,
                      help="of a GGUF file's matrices; default f16, or what holds GPTQ's exactly")
    add_hearth_option(both)
    both.add_argument("--device", default="cpu", help="torch's name of what computes; default %(default)s")
    both.add_argument("--threads", type=int, metavar="N", help="of the CPU")
    rounding = methods.add_parser("gptq", parents=[both], help="4 or 8 bits")
    rounding.add_argument("--bits", type=int, choices=gptq.BITS, default=4, help="default %(default)s")
    rounding.add_argument("--group", type=int, metavar="N",
                          help="columns that share a scale, or -1 for the whole row; default 128, in a GGUF file 32")
    rounding.add_argument("--asymmetric", action="store_true",
                          help="a zero point for each group; in GGUF files this takes 8 bits")
    rounding.add_argument("--act-order", choices=("no", "static", "full"), default="no",
                          help="the columns that matter first (see above); default %(default)s")
    pruning = methods.add_parser("sparsegpt", parents=[both], help="zeros")
    pruning.add_argument("--pattern", type=Pattern.parse, default="0.5",
                         help="the share of zeros, or such as 2:4, 2 of every 4; default %(default)s")
    return run("compress", compress, parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
