#!/usr/bin/env python3
"""Converted random models in Hearth against the same models in transformers, both in fp32. Slower than the other tests
and needs torch, so it is a command of its own:

    python3 -m venv build/transformers-venv
    build/transformers-venv/bin/pip install -r tools/models/requirements.txt torch transformers sentencepiece
    build/transformers-venv/bin/python tests/transformers_test.py build/release/hearth

Tested with torch 2.6.0, transformers 4.51.3 and 5.23.0, sentencepiece 0.2.1. Any torch will do; nothing here
uses a GPU, so a CPU-only wheel saves gigabytes.
"""

import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import sentencepiece
import torch
from transformers import LlamaConfig, LlamaForCausalLM

TESTS = Path(__file__).resolve().parent
DATA = TESTS / "data"
HEARTH = TESTS.parent / "build/release/hearth"
PIECES = sentencepiece.SentencePieceProcessor(model_file=str(DATA / "tokenizer.model"))

SPECIAL_AND_BYTES = 259    # ids below this are not text by themselves
LEAST_GAP = 0.05           # between the best two logits, whose spread is about 2:
                           # well above what an fp16 KV cache changes

VARIANTS = {
    "relu": {"hidden_act": "relu"},
    "silu": {"hidden_act": "silu"},
    "tied": {"hidden_act": "relu", "tie_word_embeddings": True},
    "one key-value head": {"hidden_act": "silu", "num_key_value_heads": 1},
    "no grouped queries": {"hidden_act": "relu", "num_key_value_heads": 4},
    "head width that is not dim / heads": {"hidden_act": "silu", "head_dim": 48},
    "another rope base and epsilon": {"hidden_act": "relu", "rope_theta": 500000.0, "rms_norm_eps": 1e-3},
}


def random_model(changes):
    torch.manual_seed(1)
    settings = {"vocab_size": PIECES.vocab_size(), "hidden_size": 128, "intermediate_size": 320, "num_hidden_layers": 3,
                "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
                "rms_norm_eps": 1e-5, "initializer_range": 0.18, "bos_token_id": 1, "eos_token_id": 2}
    model = LlamaForCausalLM(LlamaConfig(**settings | changes)).eval().float()
    with torch.no_grad():
        # Greedy text then never holds half a character or ends early.
        model.lm_head.weight[:SPECIAL_AND_BYTES] = 0
        for name, w in model.named_parameters():
            if "norm" in name:
                w.uniform_(0.5, 1.5)
    return model


def hearth(*args):
    result = subprocess.run([HEARTH, *map(str, args)], capture_output=True, timeout=300)
    if result.returncode != 0:
        raise AssertionError(f"hearth {' '.join(map(str, args))} gave {result.returncode}: "
                             f"{result.stderr.decode(errors='replace')}")
    return result.stdout.decode()


def greedy(model, ids, count):
    """The ids that follow, cut before the first step that rounding could decide."""
    ids, start = list(ids), len(ids)
    with torch.no_grad():
        while len(ids) < start + count:
            best = model(torch.tensor([ids])).logits[0, -1].topk(2)
            if best.values[0] - best.values[1] < LEAST_GAP:
                break
            ids.append(best.indices[0].item())
    return ids[start:]


def perplexity(model, ids, window):
    """Over the windows of data/README.md."""
    losses = []
    with torch.no_grad():
        for i in range(0, len(ids), window - 1):
            run = ids[i:i + window - 1]
            logits = model(torch.tensor([[PIECES.bos_id(), *run[:-1]]])).logits[0]
            losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor(run), reduction="none").double())
    return torch.cat(losses).mean().exp().item()


class Transformers(unittest.TestCase):
    def each_variant(self):
        for name, changes in VARIANTS.items():
            with self.subTest(name), tempfile.TemporaryDirectory() as scratch:
                folder, file = Path(scratch) / "model", Path(scratch) / "model.gguf"
                model = random_model(changes)
                model.save_pretrained(folder)
                (folder / "tokenizer.model").write_bytes((DATA / "tokenizer.model").read_bytes())
                subprocess.run([sys.executable, TESTS.parent / "tools/models/convert.py", folder, file,
                                "--type", "f32"], check=True, capture_output=True)
                yield model, file

    def test_greedy_text_is_that_of_transformers(self):
        prompts = ["Once upon a time there was a king", "The fox said: Good morning, mother goose!", "A"]
        compared = 0
        for model, file in self.each_variant():
            for prompt in prompts:
                ids = [PIECES.bos_id(), *PIECES.encode(prompt)]
                following = greedy(model, ids, 32)
                compared += len(following)
                if not following:
                    continue
                text = hearth("run", file, "-p", prompt, "--temp", 0, "-n", len(following), "--device", "cpu")
                self.assertEqual(text.strip(), PIECES.decode(ids + following).strip())
        self.assertGreater(compared, 100)    # or the cut leaves nothing to compare

    def test_perplexity_is_that_of_transformers(self):
        text = (DATA / "fairytales-valid.txt").read_text(encoding="utf-8")[:3000]
        for model, file in self.each_variant():
            sample = file.with_name("sample.txt")
            sample.write_text(text, encoding="utf-8")
            out = hearth("perplexity", file, "-f", sample, "-c", 64, "--device", "cpu")
            found = re.search(r"ppl = (\S+) \+- \S+", out)
            self.assertIsNotNone(found, out)
            self.assertAlmostEqual(float(found[1]) / perplexity(model, PIECES.encode(text), 64), 1, delta=2e-3)


if __name__ == "__main__":
    if len(sys.argv) > 1 and not sys.argv[1].startswith("-"):
        HEARTH = Path(sys.argv.pop(1)).resolve()
    unittest.main()
