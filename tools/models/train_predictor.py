#!/usr/bin/env python3
"""Trains predictors for a ReLU model: small networks that say, before a feed-forward block,
which of its neurons will fire.

    python3 tools/models/train_predictor.py MODEL.gguf -f TEXT... -o OUT.gguf [--recall 0.99] [--tokens 200000]
                                            [--ranks 64,128,256]

They are PowerInfer's: neuron n of a layer is looked at iff fc2_n . relu(fc1 . r) >= threshold, where r is the residual
that enters the block's norm. OUT.gguf is the model with two more matrices for each layer (blk.N.fc1.weight,
blk.N.fc2.weight) and their thresholds (hearth.predictor_thresholds); all else is copied byte for byte. A file with
predictors gets new ones. MODEL.gguf is a GGUF or a PowerInfer file of the Llama family whose activation is ReLU, with
weights in any type that the gguf package can read.

How. The model runs over the text, a layer at a time, in windows of 256 tokens (BOS first), and what enters each
feed-forward block is kept on disk, beside the neurons that fired. Three stretches of the text, a tenth of it, are
held out. A predictor starts as the best linear one of its rank, and is trained with cross-entropy, in which a neuron
that fires weighs more than one that does not: as much more as brings the recall at a threshold of 0 to what is asked.
Then the threshold is chosen on the held-out text, for the weights as they are stored. On other kinds of text the
recall may differ by a point.

Rank (the number of rows of fc1). What a layer reads for a token is its predictor and the rows of the neurons
that the predictor names:
    bytes(fc1) + bytes(fc2) + share of neurons named * bytes(gate, up, down)
The ranks of --ranks are tried upwards, each trained for a quarter of the epochs and with the threshold of the recall
that is asked, until two were worse than the best so far. The one with the smallest sum is trained to the end.

Scale. Scores grow in proportion to r, so only a threshold of 0 means the same for every token. A predictor is trained
on r / rms(r), and a threshold that is not 0 there is folded into fc2: the combination a of the hidden units that comes
nearest to rms(r) is found by least squares, and threshold * a is taken from every row. What is left as a threshold in
the file is 0, but for rounding.

Besides tools/models/requirements.txt this needs torch, on the CPU or (--device cuda) on a GPU: python3-torch on Debian
and Ubuntu, torch on PyPI. Tested with 2.6.0. The same seed, machine and number of threads give the same file.
"""

import sentences  # noqa: F401, I001 - first, so that whatever fails after it ends in a sentence

import argparse
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from gguf import GGUFValueType as Kind

from convert import TYPES, Target, check_width, encode, write_head
from llama import WITHOUT_TORCH, Layer, Model, add_hearth_option, copy_keys, device_of, tokens_of, torch, windows_of
from sentences import Refusal, progress, run, say
from whole_file import replacing, scratch_folder

WINDOW = 256          # tokens, BOS included
HELD_OUT = 10         # a tenth of the windows,
STRETCHES = 3         # in so many stretches: windows right beside those trained on would be too easy
BATCH_WINDOWS = 8     # go through the model at a time
BATCH = 512           # positions in a step of training
RATE = 0.1            # of Adam at the start, over the root of what a unit reads
THRESHOLDS = "hearth.predictor_thresholds"


# ---- what is learned from --------------------------------------------------------------------------------------------

@dataclass
class Sample:
    """Of one layer, by positions: r / rms(r) in f16, rms(r), and a bit for each neuron that fired."""
    r: np.ndarray        # (positions, dim) f16
    rms: np.ndarray      # (positions) f32
    fired: np.ndarray    # (positions, neurons / 8, rounded up) u8
    neurons: int
    device: object

    def inputs(self, at):
        return torch.from_numpy(self.r[at].astype(np.float32)).to(self.device)

    def labels(self, at):
        return torch.from_numpy(np.unpackbits(self.fired[at], axis=1, count=self.neurons)).to(self.device)


class Text:
    """The residuals of all windows between two layers, and what entered the last two feed-forward blocks,
    in files of the scratch folder."""

    def __init__(self, model, windows, scratch):
        self.model, self.scratch = model, scratch
        self.ids = np.concatenate([np.full((len(windows), 1), model.bos), windows], axis=1)    # (windows, WINDOW)
        count, bits = self.ids.size, (model.neurons + 7) // 8
        self.h = self.array("h", np.float32, (*self.ids.shape, model.dim))
        self.samples = [Sample(self.array(f"r{i}", np.float16, (count, model.dim)), np.empty(count, np.float32),
                               self.array(f"fired{i}", np.uint8, (count, bits)), model.neurons, model.device)
                        for i in range(2)]
        embedding = model.numpy("token_embd.weight")
        for at in self.batches():
            self.h[at] = embedding[self.ids[at]]

    def array(self, name, dtype, shape):
        return np.memmap(self.scratch / name, dtype, "w+", shape=shape)

    def batches(self):
        return [slice(i, i + BATCH_WINDOWS) for i in range(0, len(self.ids), BATCH_WINDOWS)]

    def through(self, n):
        """Takes the residuals through layer n; returns what entered its feed-forward block.
        It is overwritten two layers later."""
        m, sample, layer = self.model, self.samples[n % 2], Layer(self.model, n)
        with torch.no_grad():
            for at in self.batches():
                r = torch.from_numpy(self.h[at]).to(m.device)
                r = r + layer.attention(r)
                y, fired = layer.feed_forward(r)
                rms = r.square().mean(-1, keepdim=True).sqrt()
                rows = slice(at.start * WINDOW, at.start * WINDOW + r.shape[0] * WINDOW)
                sample.r[rows] = (r / rms).flatten(0, 1).cpu().numpy()
                sample.rms[rows] = rms.flatten().cpu().numpy()
                sample.fired[rows] = np.packbits(fired.flatten(0, 1).cpu().numpy(), axis=1)
                self.h[at] = (r + y).cpu().numpy()
        return sample


# ---- predictors ------------------------------------------------------------------------------------------------------
# In formulas: x = r / rms(r) (dim), u = relu(fc1 . x) (rank), s = fc2 . u (neurons). A neuron is named where s >= 0.

@dataclass
class Predictor:
    fc1: object    # (rank, dim)
    fc2: object    # (neurons, rank)

    def hidden(self, x):
        return (x @ self.fc1.T).relu_()

    def __call__(self, x):
        return self.hidden(x) @ self.fc2.T


@dataclass
class Quality:
    recall: float       # of the neurons that fired, those that were named
    precision: float    # of the neurons named, those that fired
    named: float        # share of all neurons
    fired: float


class LinearStart:
    """gate . x as well as few linear units can give it, in the mean square over the sample; and units that are linear
    although they end in relu: what they read is moved up by SHIFT of a direction d with d . x near 1, and one unit
    more, d . x itself, takes it off again."""
    SHIFT = 1.5

    def __init__(self, gate, sample, positions):
        dim = gate.shape[1]
        # Moments of x.
        second, mean = torch.zeros(dim, dim, dtype=torch.float64), torch.zeros(dim, dtype=torch.float64)
        for at in np.array_split(positions, math.ceil(len(positions) / 4096)):
            x = sample.inputs(at).cpu()
            second += (x.T @ x).double() / len(positions)
            mean += x.sum(0).double() / len(positions)
        second += 1e-5 * torch.eye(dim, dtype=torch.float64)
        d = torch.linalg.solve(second + 1e-3 * torch.eye(dim, dtype=torch.float64), mean)
        self.d = (d / (d @ mean).clamp(min=1e-6)).float()
        root = torch.linalg.cholesky(second)
        self.gate = gate.cpu()
        gl = self.gate.double() @ root
        # (dim, dim), the most telling column first.
        self.directions = torch.linalg.eigh(gl.T @ gl).eigenvectors.flip(1)
        self.inverse_root = torch.linalg.inv(root)
        self.root = root

    def __call__(self, rank, device):
        v = self.directions[:, :rank - 1]
        reads = (v.T @ self.inverse_root).float()    # of mean square 1 over the sample
        writes = (self.gate.double() @ self.root @ v).float()
        fc1 = torch.cat([reads + self.SHIFT * self.d, self.d[None]])
        fc2 = torch.cat([writes, -self.SHIFT * writes.sum(1, keepdim=True)], 1)
        fc2 *= 3 / fc2[:, :-1].norm(dim=1).mean()    # so that the sigmoid is neither flat nor a step
        return Predictor(fc1.contiguous().to(device), fc2.contiguous().to(device))


def train(p, sample, positions, epochs, recall, rng):
    """Adam on the cross-entropy in which a neuron that fires weighs w; w follows the recall at s >= 0. Changes p."""
    rank, dim = p.fc1.shape
    adam = torch.optim.Adam([{"params": [p.fc1], "rate": RATE / math.sqrt(dim)},
                             {"params": [p.fc2], "rate": RATE / math.sqrt(rank)}], betas=(0.9, 0.99))
    steps, step, log_w = max(1, round(epochs * len(positions) / BATCH)), 0, math.log(20)
    while step < steps:
        order = rng.permutation(positions)
        for start in range(0, len(order) - BATCH + 1, BATCH)[:steps - step]:
            at = np.sort(order[start:start + BATCH])
            warm, cool = min(1, (step + 1) / 50), (1 + math.cos(math.pi * step / steps)) / 2
            for group in adam.param_groups:
                group["lr"] = group["rate"] * warm * cool
            x, fired = sample.inputs(at), sample.labels(at).bool()
            u = p.hidden(x)
            s = u @ p.fc2.T
            missed = (fired & (s < 0)).sum().item() / max(1, fired.sum().item())
            w = math.exp(log_w)
            g = s.sigmoid_()                                                           # d loss / d s
            g = torch.where(fired, w * (g - 1), g) / (BATCH * math.sqrt(w))
            p.fc2.grad, p.fc1.grad = g.T @ u, ((g @ p.fc2) * (u > 0)).T @ x
            adam.step()
            log_w += min(0.05, max(-0.05, 0.02 * (missed / (1 - recall) - 1)))
            step += 1


def pieces(positions):
    return np.array_split(positions, max(1, math.ceil(len(positions) / 2048)))


def lower_bound(score, sample, positions, recall):
    """The largest threshold at which `score(at)` names that share of the neurons that fired."""
    found = [score(at)[sample.labels(at).bool()].cpu().numpy() for at in pieces(positions)]
    found = np.concatenate(found)
    if not len(found):
        return 0.0
    k = int((1 - recall) * len(found))
    return float(np.partition(found, k)[k])


def fold(p, sample, positions, recall):
    """Moves s so that s >= 0 has the recall, whatever the size of r:
    a . u is nearly rms(r), and t of it is taken off."""
    squares, sums = 0, 0
    for at in pieces(positions):
        u = p.hidden(sample.inputs(at))
        squares, sums = squares + u.T @ u, sums + u.sum(0)
    squares += 1e-4 * squares.diagonal().mean() * torch.eye(len(sums), device=sums.device)
    a = torch.linalg.solve(squares, sums)    # least squares of a . u = 1

    def score(at):    # in units of a . u, as that is what t is multiplied by
        u = p.hidden(sample.inputs(at))
        return (u @ p.fc2.T) / (u @ a).clamp(min=0.1)[:, None]

    t = lower_bound(score, sample, positions, recall)
    return Predictor(p.fc1, p.fc2 - t * a)


def raw_scores(p, sample):
    """Of r itself, as the engine computes them."""
    return lambda at: p(sample.inputs(at)) * torch.from_numpy(sample.rms[at]).to(sample.device)[:, None]


def measure(p, sample, positions, threshold):
    score, fired, named, both = raw_scores(p, sample), 0, 0, 0
    for at in pieces(positions):
        f, n = sample.labels(at).bool(), score(at) >= threshold
        fired, named, both = fired + f.sum().item(), named + n.sum().item(), both + (f & n).sum().item()
    everything = len(positions) * sample.neurons
    return Quality(both / max(1, fired), both / max(1, named), named / everything, fired / everything)


# ---- a layer ---------------------------------------------------------------------------------------------------------

@dataclass
class Split:
    train: np.ndarray    # positions
    held: np.ndarray     # to choose thresholds and ranks
    test: np.ndarray     # what the table is about


def stored(p, n, type_name):
    """The file's two tensors, encoded, and the predictor that they decode to."""
    weight_type, result, decoded = TYPES[type_name][0], {}, []
    for name, w in (("fc1", p.fc1), ("fc2", p.fc2)):
        target = Target(f"blk.{n}.{name}.weight", f"blk.{n}.{name}.weight", tuple(w.shape))
        result[target.name] = target, encode(target, w.cpu().numpy(), weight_type)
        decoded.append(torch.from_numpy(
            gguf.quants.dequantize(result[target.name][1], weight_type).reshape(w.shape).astype(np.float32)
        ).to(w.device))
    return result, Predictor(*decoded)


@dataclass
class Trained:
    predictor: Predictor
    tensors: dict
    threshold: float
    bytes: int
    held: Quality


def trained(n, start, rank, sample, split, epochs, options, rng):
    p = start(rank, sample.device)
    train(p, sample, split.train, epochs, options.recall, rng)
    tensors, p = stored(fold(p, sample, split.held, options.recall), n, options.type)
    threshold = lower_bound(raw_scores(p, sample), sample, split.held, options.recall)
    return Trained(p, tensors, threshold, sum(data.nbytes for _, data in tensors.values()),
                   measure(p, sample, split.held, threshold))


def cost(t, neuron_bytes, neurons):
    """Bytes read for a token."""
    return t.bytes + t.held.named * neurons * neuron_bytes


def best_rank(n, start, sample, split, model, options, rng):
    best, best_cost, worse = None, math.inf, 0
    for rank in options.ranks:
        if len(options.ranks) == 1:
            return rank
        progress(f"layer {n}: rank {rank}")
        found = cost(trained(n, start, rank, sample, split, options.epochs / 4, options, rng), model.neuron_bytes(n),
                     model.neurons)
        best, best_cost, worse = (rank, found, 0) if found < best_cost else (best, best_cost, worse + 1)
        if worse == 2:
            break
    return best


# ---- the program -----------------------------------------------------------------------------------------------------

def positions_of(windows):
    return (np.asarray(windows, np.int64)[:, None] * WINDOW + np.arange(WINDOW)).ravel()


def write(model, file, tensors, thresholds):
    """The model with its predictors: `tensors` has name -> (Target, encoded values)."""
    writer = gguf.GGUFWriter(None, "llama")
    copy_keys(writer, model.reader, lambda name: name in ("powerinfer.sparse_threshold", THRESHOLDS))
    writer.data_alignment = int(model.reader.alignment)
    writer.add_float32("powerinfer.sparse_threshold", 0.0)
    writer.add_key_value(THRESHOLDS, thresholds, Kind.ARRAY, Kind.FLOAT32)

    everything = []    # arrays in the file's order
    for t in model.reader.tensors:
        if t.name in tensors or t.name.endswith((".fc1.weight", ".fc2.weight")):
            continue
        writer.add_tensor_info(t.name, [int(n) for n in reversed(t.shape)], np.float32, int(t.n_bytes),
                               raw_dtype=t.tensor_type)
        everything.append(t.data)
        if t.name.endswith((".ffn_down_t.weight", ".ffn_down.weight")):
            for name in ("fc1", "fc2"):
                target, data, weight_type = tensors[f"{t.name.rsplit('.', 2)[0]}.{name}.weight"]
                writer.add_tensor_info(target.name, target.shape, np.float32, data.nbytes, raw_dtype=weight_type)
                everything.append(data)
    write_head(writer, file)
    for data in everything:
        writer.write_tensor_data(data)
    if model.reader.magic == b"PWRI":
        file.seek(0)
        file.write(model.reader.magic)


def default_ranks(dim, block):
    """Sixteenths of the model's width."""
    return sorted({math.ceil(dim * n / 16 / block) * block for n in (1, 2, 3, 4, 6, 8)})


def check(model, options):
    block = gguf.GGML_QUANT_SIZES[TYPES[options.type][0]][0]
    options.ranks = sorted(set(options.ranks or default_ranks(model.dim, block)))
    for rank in options.ranks:
        if not 2 <= rank <= model.dim:
            raise Refusal(f"a rank of {rank} is not between 2 and the model's width of {model.dim}")
        check_width(Target(f"blk.0.fc2.weight of rank {rank}", "", (model.neurons, rank)), TYPES[options.type][0])
    check_width(Target("blk.0.fc1.weight", "", (options.ranks[0], model.dim)), TYPES[options.type][0])
    if not 0.5 <= options.recall < 1:
        raise Refusal(f"a recall of {options.recall} is not between 0.5 and 1")
    if not options.epochs > 0:
        raise Refusal(f"{options.epochs} epochs are not more than 0")


def table(rows, columns):
    lines = ["| " + " | ".join(columns) + " |", "|" + "---:|" * len(columns)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def percent(x):
    return f"{100 * x:.1f} %"


def train_all(options):
    if torch is None:
        raise Refusal(WITHOUT_TORCH)
    if options.threads:
        torch.set_num_threads(options.threads)
    rng = np.random.default_rng(options.seed)
    model = Model(options.model, device_of(options.device))
    if model.activation != "relu":
        raise Refusal(f"{options.model} is a {model.activation} model, whose neurons are never quite zero; "
                      "predictors are for models of the ReLU family")
    check(model, options)
    learned = windows_of(tokens_of(options.file, model, options.hearth), options.tokens, WINDOW)
    tested = windows_of(tokens_of(options.test or [], model, options.hearth), options.tokens, WINDOW)
    if len(learned) < HELD_OUT * STRETCHES:
        raise Refusal(f"the text has {len(learned)} windows of {WINDOW} tokens, "
                      f"and training needs at least {HELD_OUT * STRETCHES}; better are a thousand")
    held = np.arange(len(learned)) // max(1, len(learned) // (HELD_OUT * STRETCHES)) % HELD_OUT == HELD_OUT - 1
    split = Split(positions_of(np.flatnonzero(~held)), positions_of(np.flatnonzero(held)),
                  positions_of(np.arange(len(learned), len(learned) + len(tested))
                               if len(tested) else np.flatnonzero(held)))

    with scratch_folder(options.out.absolute()) as scratch, replacing(options.out) as file:
        text = Text(model, np.concatenate([learned, tested]), scratch)
        tensors, thresholds, rows, total, before = {}, [], [], 0, None
        for n in range(model.layers):
            progress(f"layer {n}: the model")
            sample = text.through(n)
            gate = model.weight(n, "ffn_gate") * model.weight(n, "ffn_norm")
            start = LinearStart(gate, sample, split.train)
            rank = best_rank(n, start, sample, split, model, options, rng)
            progress(f"layer {n}: rank {rank}, to the end")
            t = trained(n, start, rank, sample, split, options.epochs, options, rng)
            for name, (target, data) in t.tensors.items():
                np.save(text.scratch / f"{name}.npy", data)
                tensors[name] = target, np.load(text.scratch / f"{name}.npy", mmap_mode="r"), TYPES[options.type][0]
            thresholds.append(t.threshold)
            total += t.bytes
            q = measure(t.predictor, sample, split.test, t.threshold)
            row = [str(n), percent(q.fired), str(rank), percent(q.recall), percent(q.precision), percent(q.named),
                   percent(1 - q.named), f"{t.bytes / 1e6:.2f}", f"{t.threshold:.2g}"]
            if options.adjacent:
                if before is None:
                    row += ["", "", ""]
                else:
                    progress(f"layer {n}: from the layer before")
                    across = Sample(before.r, before.rms, sample.fired, sample.neurons, sample.device)
                    other = trained(n, LinearStart(gate, across, split.train), rank, across, split, options.epochs,
                                    options, rng)
                    q = measure(other.predictor, across, split.test, other.threshold)
                    row += [percent(q.recall), percent(q.precision), percent(q.named)]
            rows.append(row)
            before = sample
            progress("")
            say(f"train_predictor: layer {n}: rank {rank}, recall {row[3]}, {row[5]} looked at")
        write(model, file, tensors, thresholds)
    print(table(rows, ["layer", "fire", "rank", "recall", "precision", "looked at", "skipped", "MB", "threshold"]
                + (["from the layer before: recall", "precision", "looked at"] if options.adjacent else [])))
    print(f"\nmeasured on {len(split.test)} tokens that were not trained on; predictors of {total / 1e6:.2f} MB")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a GGUF or PowerInfer file of a ReLU model")
    parser.add_argument("-f", "--file", type=Path, nargs="+", required=True, metavar="TEXT",
                        help="what to learn from; the more like later use, the better")
    parser.add_argument("-o", "--out", type=Path, required=True, help="the file to write: the model with predictors")
    parser.add_argument("--recall", type=float, default=0.99, metavar="SHARE",
                        help="of the firing neurons that must be named; default %(default)s")
    parser.add_argument("--tokens", type=int, default=200000, metavar="N",
                        help="at most, of the text; default %(default)s")
    parser.add_argument("--ranks", type=lambda s: [int(n) for n in s.split(",")], metavar="N,N,...",
                        help="numbers of rows of fc1 to try; default 1, 2, 3, 4, 6 and 8 "
                             "sixteenths of the model's width")
    parser.add_argument("--epochs", type=float, default=8, metavar="N", help="default %(default)s")
    parser.add_argument("--type", choices=TYPES, default="f16", help="of the predictors' matrices; default %(default)s")
    parser.add_argument("--test", type=Path, nargs="+", metavar="TEXT",
                        help="measure on this text, not on the tenth that was held out")
    parser.add_argument("--adjacent", action="store_true",
                        help="also train every predictor on what enters the layer before, and print how well it does; "
                             "takes twice as long and changes nothing in the file")
    add_hearth_option(parser)
    parser.add_argument("--device", default="cpu", help="torch's name of what computes; default %(default)s")
    parser.add_argument("--threads", type=int, metavar="N", help="of the CPU")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default %(default)s")
    return run("train_predictor", train_all, parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
