#!/usr/bin/env python3
"""Every family of models against transformers: tiny random checkpoints made by transformers, converted to F16, must
give its logits, computed in fp32, within 1e-3 of the largest, and its greedy text, on the reference, the CPU, the
software device, and split between both. Needs torch, so it is a command of its own:

    python3 -m venv build/transformers-venv
    build/transformers-venv/bin/pip install -r tools/models/requirements.txt torch transformers
    build/transformers-venv/bin/python tests/families_test.py build/release/tests [gemma ...] [--no-validation]

Tested with torch 2.6.0 and transformers 4.51.3. Any torch will do;
nothing here uses a GPU, so a CPU-only wheel saves gigabytes.
"""

import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import torch
import transformers

TESTS = Path(__file__).resolve().parent
PROGRAM = TESTS.parent / "build/release/tests"
OPTIONS = []
ONLY = []    # how the names of the variants begin that are wanted; none: all
CASE = "the model of a folder gives the logits and the greedy ids that lie beside it*"

VOCAB = 4096        # of data/tokenizer.model
FOLLOWING = 32
LOUD = 64            # tokens with logits above the others', so that the best two are seldom near one another

SHAPE = {"vocab_size": VOCAB, "hidden_size": 128, "intermediate_size": 320, "num_hidden_layers": 3,
         "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256, "rope_theta": 5000.0,
         "rms_norm_eps": 1e-5, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "attn_implementation": "eager"}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}

# A gate that is just at FATReLU's threshold may fall to either side of it,
# and is worth as much as the threshold if it falls above.
TOLERANCE = {"prosparse": 0.01, "minicpm-s": 0.01}

VARIANTS = {    # the class of transformers, and what differs from SHAPE
    "llama": ("Llama", {}),
    "llama with relu": ("Llama", {"hidden_act": "relu"}),
    "llama with the scaling of Llama 3.1 and a tied head": ("Llama",
                                                            {"rope_scaling": LLAMA3, "tie_word_embeddings": True}),
    "llama with linear scaling": ("Llama", {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
    "prosparse": ("Llama", {"hidden_act": "relu"}),
    "bamboo": ("Mistral", {"hidden_act": "relu"}),
    "bamboo with predictors": ("Mistral", {"hidden_act": "relu"}),    # TurboSparse-Mistral
    "mistral with a window": ("Mistral", {"sliding_window": 20}),
    "qwen2": ("Qwen2", {}),
    "qwen2 with a tied head and one key-value head": ("Qwen2", {"tie_word_embeddings": True, "num_key_value_heads": 1}),
    "qwen3": ("Qwen3", {"head_dim": 48}),
    "qwen2 with YaRN": ("Qwen2",
                        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}}),
    "mixtral": ("Mixtral", {"num_local_experts": 4, "intermediate_size": 160, "sliding_window": None}),
    "qwen3moe": ("Qwen3Moe", {"num_experts": 10, "num_experts_per_tok": 3, "moe_intermediate_size": 96,
                              "norm_topk_prob": True, "head_dim": 48}),
    "qwen3moe with weights that do not add up to 1": ("Qwen3Moe", {"num_experts": 6, "num_experts_per_tok": 2,
                                                                   "moe_intermediate_size": 64}),
    "phi3": ("Phi3", {}),
    "phi3 with a window": ("Phi3", {"sliding_window": 20}),
    "opt": ("OPT", {"ffn_dim": 320, "word_embed_proj_dim": 128, "dropout": 0.0}),
    "phi3 with LongRoPE and heads that turn in part": ("Phi3", {
        "partial_rotary_factor": 0.75, "original_max_position_embeddings": 128,
        "rope_scaling": {"type": "longrope", "short_factor": [1 + i / 6 for i in range(12)],
                         "long_factor": [2 + i for i in range(12)]}}),
    "gemma": ("Gemma", {"head_dim": 48}),
    "gemma2": ("Gemma2", {"head_dim": 48, "sliding_window": 20, "query_pre_attn_scalar": 24}),
    "gemma2 with wide heads and low caps": ("Gemma2", {"head_dim": 256, "query_pre_attn_scalar": 256,
                                                       "attn_logit_softcapping": 1.5, "final_logit_softcapping": 4.0}),
    "gemma3": ("Gemma3", {"head_dim": 48, "sliding_window": 20, "sliding_window_pattern": 2,
                          "query_pre_attn_scalar": 48, "rope_local_base_freq": 700.0,
                          "rope_scaling": {"rope_type": "linear", "factor": 8.0}}),
    "gemma3 with seven layers": ("Gemma3", {"head_dim": 32, "sliding_window": 12, "num_hidden_layers": 7,
                                            "query_pre_attn_scalar": 32}),
    "falcon": ("Falcon", {"ffn_hidden_size": 320}),    # as of 7B
    # As of 40B.
    "falcon with groups of heads": ("Falcon", {"ffn_hidden_size": 320, "new_decoder_architecture": True,
                                               "num_kv_heads": 2}),
    "falcon with relu": ("Falcon", {"ffn_hidden_size": 320, "activation": "relu", "new_decoder_architecture": True,
                                    "num_kv_heads": 2}),
    "granite": ("Granite", {"embedding_multiplier": 6.0, "attention_multiplier": 0.1, "residual_multiplier": 0.22,
                            "logits_scaling": 4.0}),
    "minicpm": ("Llama", {}),
    "minicpm-s": ("Llama", {"hidden_act": "relu", "tie_word_embeddings": True}),
}
# Saved as pytorch_model.bin.
TORCH_FILES = ("opt", "bamboo with predictors", "qwen2 with a tied head and one key-value head")
CONFIGS = {"Gemma3": "Gemma3TextConfig"}    # where its name is not that of the class


class FatRelu(torch.nn.Module):
    def forward(self, x):
        return torch.where(x > 0.25, x, 0.0)


class DRelu(torch.nn.Module):
    """In the place of an MLP."""
    def __init__(self, mlp):
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = mlp.gate_proj, mlp.up_proj, mlp.down_proj

    def forward(self, x):
        return self.down_proj(torch.relu(self.gate_proj(x)) * torch.relu(self.up_proj(x)))


class Predicted(torch.nn.Module):
    """The MLP of TurboSparse-Mistral: round(sigmoid(fc2 . relu(fc1 . r))) of what enters the norm before it
    says which neurons count."""
    def __init__(self, layer, rank=16, kinds=8):
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = layer.mlp.gate_proj, layer.mlp.up_proj, layer.mlp.down_proj
        dim, neurons = self.down_proj.weight.shape
        self.predictor = torch.nn.ModuleDict({"fc1": torch.nn.Linear(dim, rank, bias=False),
                                              "fc2": torch.nn.Linear(rank, neurons, bias=False)})
        # Few different ones, so that a text can be found where no score is near 0.
        rows = torch.randn(kinds, rank)[torch.randint(kinds, (neurons,))]
        self.predictor["fc1"].weight.data = torch.randn(rank, dim).half().float()
        self.predictor["fc2"].weight.data = rows.half().float()
        layer.post_attention_layernorm.register_forward_pre_hook(self.look)

    def look(self, norm, inputs):
        scores = self.predictor["fc2"](torch.relu(self.predictor["fc1"](inputs[0])))
        self.mask = torch.round(torch.sigmoid(scores))
        self.least = (scores.abs() / scores.square().mean(-1, keepdim=True).sqrt()).min()

    def forward(self, x):
        return self.down_proj(self.mask * torch.relu(self.gate_proj(x)) * torch.relu(self.up_proj(x)))


def scale_like_minicpm(model, depth, embedding, base_width):
    def scaled(factor):
        return lambda module, inputs, result: (
            (result[0] * factor, *result[1:]) if isinstance(result, tuple) else result * factor)
    model.model.embed_tokens.register_forward_hook(scaled(embedding))
    for layer in model.model.layers:
        layer.self_attn.register_forward_hook(scaled(depth / len(model.model.layers) ** 0.5))
        layer.mlp.register_forward_hook(scaled(depth / len(model.model.layers) ** 0.5))
    model.lm_head.register_forward_hook(scaled(base_width / model.config.hidden_size))


def custom(variant, model):
    """What transformers does not have. Returns what config.json says of it."""
    if variant in ("prosparse", "minicpm-s"):
        for layer in model.model.layers:
            layer.mlp.act_fn = FatRelu()
    if variant.startswith("minicpm"):
        scale_like_minicpm(model, 1.4, 12, 32)
        said = {"architectures": ["MiniCPMForCausalLM"], "scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 32}
        return said | ({"hidden_act": "fatrelu", "hidden_act_param": 0.25} if variant == "minicpm-s" else {})
    if variant == "prosparse":
        return {"architectures": ["SparseLlamaForCausalLM"], "hidden_act": "fatrelu", "hidden_act_param": 0.25}
    if variant.startswith("bamboo"):
        for layer in model.model.layers:
            layer.mlp = Predicted(layer) if variant == "bamboo with predictors" else DRelu(layer.mlp)
        return {"architectures": ["BambooForCausalLM"]}
    return {}


def random_model(name, changes):
    """Weights that F16 holds exactly; all that is not a matrix far from its initial 0 or 1."""
    torch.manual_seed(1)
    model = getattr(transformers, f"{name}ForCausalLM")(
        getattr(transformers, CONFIGS.get(name, f"{name}Config"))(**SHAPE | changes)).eval().float()
    with torch.no_grad():
        for part, w in model.named_parameters():
            if part.endswith("bias"):
                w.normal_(std=0.5)
            elif w.dim() == 1:
                w.uniform_(0.5, 1.5)
                if "q_norm" in part or "k_norm" in part:
                    w /= 2    # as below
                if name.startswith("Gemma"):
                    w -= 1    # which its norms add
            else:
                # No larger: what attention sees would decide too sharply for a KV cache in fp16.
                w.normal_(std=0.7 * w.shape[1] ** -0.5)
        model.get_output_embeddings().weight[LOUD:] /= 4
        for w in model.parameters():
            if w.dim() > 1:
                w.copy_(w.half().float())
    return model


def logits_of(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids]), use_cache=False).logits[0, -1]


def decided(model, ids):
    """Whether no choice of experts or of neurons hangs on so small a difference of scores that the rounding of a KV
    cache in fp16 could turn it round."""
    predicted = [part for part in model.modules() if isinstance(part, Predicted)]
    if predicted:
        logits_of(model, ids)
        return min(part.least for part in predicted) > 2e-3
    used = getattr(model.config, "num_experts_per_tok", None)
    if not used:
        return True
    with torch.no_grad():
        routers = model(torch.tensor([ids]), use_cache=False, output_router_logits=True).router_logits
    best = torch.stack(routers).topk(used + 1).values
    return (best[..., -2] - best[..., -1]).min() > 2e-3


def decided_ids(model, length):
    return next(ids for ids in (random_ids(length, length + 1000 * seed) for seed in range(200)) if decided(model, ids))


def greedy(model, prompt, tolerance):
    """The ids that follow, or None where rounding could decide one of them:
    both of the best two logits may be off by the tolerance."""
    ids = list(prompt)
    for _ in range(FOLLOWING):
        logits = logits_of(model, ids)
        best = logits.topk(2)
        if best.values[0] - best.values[1] < 3 * tolerance * logits.abs().max():
            return None
        ids.append(best.indices[0].item())
    return ids[len(prompt):] if decided(model, ids) else None


def random_ids(length, seed):
    return torch.randint(VOCAB, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


class Families(unittest.TestCase):
    def check(self, variant, name, changes):
        with tempfile.TemporaryDirectory() as scratch:
            folder, tolerance = Path(scratch) / "model", TOLERANCE.get(variant, 0.001)
            model = random_model(name, changes)
            said = custom(variant, model)
            model.save_pretrained(folder, safe_serialization=variant not in TORCH_FILES)
            config = folder / "config.json"
            config.write_text(json.dumps(json.loads(config.read_text()) | said))
            (folder / "tokenizer.model").write_bytes((TESTS / "data/tokenizer.model").read_bytes())
            subprocess.run([sys.executable, TESTS.parent / "tools/models/convert.py", folder, folder / "model.gguf",
                            "--type", "f16"], check=True, capture_output=True)
            for seed in range(200):
                prompt = random_ids(8, seed)
                following = greedy(model, prompt, tolerance)
                if following:
                    break
            else:
                self.fail("no prompt has a text that rounding cannot decide")
            cases = [decided_ids(model, length) for length in (1, 7, 60)]
            (folder / "expected.json").write_text(
                json.dumps({"tolerance": tolerance, "predict": "predictors" in variant,
                            "logits": [{"ids": ids, "logits": logits_of(model, ids).tolist()} for ids in cases],
                            "prompt": prompt, "greedy": following}))
            result = subprocess.run([PROGRAM, "--no-skip", f"--test-case={CASE}", f"--case={folder}", *OPTIONS],
                                    capture_output=True, text=True, timeout=600)
            self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
            self.assertRegex(result.stdout, r"test cases: +1 \| +1 passed")

    def test_every_family(self):
        for variant, (name, changes) in VARIANTS.items():
            if ONLY and not variant.startswith(tuple(ONLY)):
                continue
            with self.subTest(variant):
                self.check(variant, name, changes)


if __name__ == "__main__":
    if "--no-validation" in sys.argv:
        sys.argv.remove("--no-validation")
        OPTIONS.append("--no-validation")
    if len(sys.argv) > 1 and not sys.argv[1].startswith("-"):
        PROGRAM = Path(sys.argv.pop(1)).resolve()
    while len(sys.argv) > 1 and not sys.argv[-1].startswith("-"):
        ONLY.append(sys.argv.pop())
    unittest.main()
