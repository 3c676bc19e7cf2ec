"""What the JSON files of a folder may say: every key that is read, its type and its range, in one place. Keys that nobody here reads may hold anything.

The ranges are wide: several times what any published model has. They keep a number of a stranger's file from becoming a loop or an allocation of its size.
"""

import math
from dataclasses import dataclass

from sentences import Refusal, shown

LONG = 1 << 31    # positions
MOST_VOCAB = 1 << 21
MOST_LAYERS = 4096


@dataclass(frozen=True)
class Kind:
    words: str
    holds: object    # of a value, whether it is of the kind
    table: dict = None      # of an object: its keys
    of: "Kind" = None       # of a list or an object of any keys: its values


def whole(low, high):
    return Kind(f"a whole number from {low} to {high}", lambda v: type(v) is int and low <= v <= high)


def number(low, high):
    return Kind(f"a number from {low:g} to {high:g}", lambda v: type(v) in (int, float) and math.isfinite(v) and low <= v <= high)


def positive(high=1e30):
    return Kind(f"a positive number up to {high:g}", lambda v: type(v) in (int, float) and 0 < v <= high)


def words(*choices):
    return Kind(" or ".join(choices), lambda v: v in choices)


def items(kind, most=1 << 20):
    return Kind(f"a list of {kind.words}", lambda v: isinstance(v, list) and len(v) <= most, of=kind)


def either(*kinds):
    return Kind(" or ".join(kind.words for kind in kinds), lambda v: any(fits(kind, v) for kind in kinds))


def table(keys):
    return Kind("an object", lambda v: isinstance(v, dict), table=keys)


def mapping(kind):
    return Kind("an object", lambda v: isinstance(v, dict), of=kind)


def fits(kind, value):
    """Whether a value is of a kind, with all that is in it."""
    if not kind.holds(value):
        return False
    if kind.table is not None and not all(value.get(key) is None or fits(inside, value[key]) for key, inside in kind.table.items()):
        return False
    return kind.of is None or all(fits(kind.of, v) for v in (value.values() if isinstance(value, dict) else value))


TEXT = Kind("a text", lambda v: isinstance(v, str))
TRUTH = Kind("true or false", lambda v: isinstance(v, bool))
ID = whole(0, (1 << 31) - 1)
ENDS = either(ID, items(ID, 1024))
OBJECT = Kind("an object", lambda v: isinstance(v, dict))

ROPE = {
    "rope_type": TEXT, "type": TEXT, "rope_theta": number(1, 1e15), "partial_rotary_factor": number(0, 1), "factor": positive(1e6),
    "low_freq_factor": positive(1e6), "high_freq_factor": positive(1e6), "original_max_position_embeddings": positive(LONG),
    "short_factor": items(positive(1e6), 1 << 16), "long_factor": items(positive(1e6), 1 << 16), "attention_factor": positive(1e6),
    "beta_fast": positive(1e6), "beta_slow": positive(1e6), "mscale": number(0, 1e6), "mscale_all_dim": number(0, 1e6),
}
ROPES = ROPE | {"full_attention": table(ROPE), "sliding_attention": table(ROPE)}    # newer configs have one for each kind of layer

QUANTIZATION = {
    "quant_method": TEXT, "bits": either(whole(1, 64), TEXT), "group_size": either(whole(-1, 1 << 20), TEXT), "sym": TRUTH, "desc_act": TRUTH, "checkpoint_format": TEXT,
    "format": TEXT, "is_marlin_format": TRUTH, "config_groups": OBJECT, "dynamic": OBJECT,
    "sparsity_config": table({"format": TEXT, "sparsity_structure": TEXT}),
}

EPS = number(0, 1)
CONFIG = {
    "architectures": items(TEXT, 64),
    # widths and counts
    "hidden_size": whole(1, 1 << 20), "n_embed": whole(1, 1 << 20), "word_embed_proj_dim": whole(1, 1 << 20),
    "intermediate_size": whole(1, 1 << 24), "ffn_dim": whole(1, 1 << 24), "ffn_hidden_size": whole(1, 1 << 24), "moe_intermediate_size": whole(1, 1 << 24),
    "num_hidden_layers": whole(1, MOST_LAYERS), "n_layer": whole(1, MOST_LAYERS),
    "num_attention_heads": whole(1, 1 << 14), "n_head": whole(1, 1 << 14), "num_key_value_heads": whole(1, 1 << 14), "num_kv_heads": whole(1, 1 << 14),
    "n_head_kv": whole(1, 1 << 14), "head_dim": whole(1, 1 << 16), "vocab_size": whole(1, MOST_VOCAB),
    "max_position_embeddings": whole(1, LONG), "original_max_position_embeddings": positive(LONG),
    "num_local_experts": whole(1, 1 << 14), "num_experts": whole(0, 1 << 14), "num_experts_per_tok": whole(0, 1 << 14),    # MiniCPM's dense ones say 0
    "decoder_sparse_step": whole(0, MOST_LAYERS), "mlp_only_layers": items(whole(0, MOST_LAYERS)), "num_ln_in_parallel_attn": whole(1, 2),
    # words and truths
    "hidden_act": TEXT, "hidden_activation": TEXT, "activation_function": TEXT, "activation": TEXT, "model_type": TEXT,
    "attention_bias": TRUTH, "mlp_bias": TRUTH, "tie_word_embeddings": TRUTH, "norm_topk_prob": TRUTH, "do_layer_norm_before": TRUTH, "enable_bias": TRUTH,
    "layer_norm_elementwise_affine": TRUTH, "_remove_final_layer_norm": TRUTH, "new_decoder_architecture": TRUTH, "alibi": TRUTH, "bias": TRUTH,
    "parallel_attn": TRUTH, "multi_query": TRUTH, "use_sliding_window": TRUTH,
    # numbers
    "rms_norm_eps": EPS, "layer_norm_epsilon": EPS, "hidden_act_param": number(0, 1e30), "rope_theta": number(1, 1e15),
    "rope_local_base_freq": number(1, 1e15), "partial_rotary_factor": number(0, 1),
    "query_pre_attn_scalar": positive(), "attn_logit_softcapping": positive(), "final_logit_softcapping": positive(),
    "embedding_multiplier": positive(), "residual_multiplier": positive(), "attention_multiplier": positive(), "logits_scaling": positive(),
    "scale_emb": positive(), "scale_depth": positive(), "dim_model_base": positive(),
    # windows
    "sliding_window": whole(0, LONG), "sliding_window_pattern": whole(1, MOST_LAYERS), "max_window_layers": whole(0, MOST_LAYERS),
    "layer_types": items(TEXT, MOST_LAYERS),
    # tokens
    "bos_token_id": ID, "eos_token_id": ENDS, "eot_token_id": ID, "eom_token_id": ID, "unk_token_id": ID,
    # objects
    "rope_scaling": table(ROPES), "rope_parameters": table(ROPES), "quantization_config": table(QUANTIZATION),
    "sparsity_config": table({"format": TEXT, "sparsity_structure": TEXT}),
}
CONFIG["text_config"] = table(dict(CONFIG))

TOKEN = either(TEXT, Kind("an object with its content", lambda v: isinstance(v, dict) and isinstance(v.get("content"), str)))
ADDED = {"content": TEXT, "special": TRUTH, "single_word": TRUTH, "lstrip": TRUTH, "rstrip": TRUTH, "normalized": TRUTH}
TEMPLATE = table({"name": TEXT, "template": TEXT})
NAMES = {f"{name}_token": TOKEN for name in ("bos", "eos", "unk", "eot", "eom")}

# Each file, and what is read of it.
FILES = {
    "config.json": CONFIG,
    "quantize_config.json": QUANTIZATION,
    "predictors' config.json": {"sparse_threshold": number(-1e30, 1e30)},
    "generation_config.json": {"bos_token_id": ID, "eos_token_id": ENDS, "eot_token_id": ID, "eom_token_id": ID, "unk_token_id": ID},
    "tokenizer_config.json": NAMES | {
        "add_bos_token": TRUTH, "add_eos_token": TRUTH, "add_prefix_space": TRUTH, "tokenizer_class": TEXT, "chat_template": either(TEXT, items(TEMPLATE, 1024)),
        "added_tokens_decoder": mapping(table(ADDED)), "additional_special_tokens": items(TOKEN), "extra_special_tokens": either(items(TOKEN), mapping(TOKEN)),
    },
    "special_tokens_map.json": NAMES | {"additional_special_tokens": items(TOKEN)},
    "added_tokens.json": None,    # every key is a text, and every value its id
    "chat_template.json": {"chat_template": either(TEXT, items(TEMPLATE, 1024))},
}


def check(value, keys, place):
    """Refuses an object of which a key that is read is of another type or range. null stands for a key that is not there."""
    for key, kind in keys.items():
        if value.get(key) is not None:
            check_value(value[key], kind, key, place)


def check_value(value, kind, key, place):
    if not kind.holds(value):
        raise Refusal(f"{key} in {place} is {shown(value)}, expected {kind.words}")
    if kind.table is not None:
        check(value, kind.table, f"{key} of {place}")
    if kind.of is not None:
        for name, inside in value.items() if isinstance(value, dict) else ((key, v) for v in value):
            if inside is None and isinstance(value, dict):
                continue
            check_value(inside, kind.of, str(name)[:60], place if name == key else f"{key} of {place}")


def check_file(name, value, path):
    """`value` is what the file `name` at `path` holds."""
    keys = FILES[name]
    if keys is None:
        for text, i in value.items():
            check_value(i, ID, text[:60], str(path))
    else:
        check(value, keys, str(path))
    return value
