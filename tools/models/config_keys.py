"""What the JSON files of a folder may say: every key that is read, its type and its range, in one place. Keys that
nobody here reads may hold anything.

The ranges are wide: several times what any published model has. They keep a number of a stranger's file from becoming
a loop or an allocation of its size. """

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
    return Kind(f"a number from {low:g} to {high:g}",
                lambda v: type(v) in (int, float) and math.isfinite(v) and low <= v <= high)


def positive(high=1e30):
    return Kind(f"a positive number up to {high:g}", lambda v: type(v) in (int, float) and 0 < v <= high)


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
    for key, inside in (kind.table or {}).items():
        if value.get(key) is not None and not fits(inside, value[key]):
            return False
    return kind.of is None or all(fits(kind.of, v) for v in (value.values() if isinstance(value, dict) else value))


TEXT = Kind("a text", lambda v: isinstance(v, str))
TRUTH = Kind("true or false", lambda v: isinstance(v, bool))
ID = whole(0, (1 << 31) - 1)
ENDS = either(ID, items(ID, 1024))
OBJECT = Kind("an object", lambda v: isinstance(v, dict))

def keys(kind, names):
    """Several keys, apart by spaces, of one kind."""
    return dict.fromkeys(names.split(), kind)


FACTORS = items(positive(1e6), 1 << 16)
ROPE = {
    **keys(TEXT, "rope_type type"),
    **keys(positive(1e6), "factor low_freq_factor high_freq_factor attention_factor beta_fast beta_slow"),
    **keys(number(0, 1e6), "mscale mscale_all_dim"),
    **keys(FACTORS, "short_factor long_factor"),
    "rope_theta": number(1, 1e15),
    "partial_rotary_factor": number(0, 1),
    "original_max_position_embeddings": positive(LONG),
}
ROPES = ROPE | keys(table(ROPE), "full_attention sliding_attention")    # newer configs have one for each kind of layer
SPARSITY = table(keys(TEXT, "format sparsity_structure"))

QUANTIZATION = {
    **keys(TEXT, "quant_method checkpoint_format format"),
    **keys(TRUTH, "sym desc_act is_marlin_format"),
    **keys(OBJECT, "config_groups dynamic"),
    "bits": either(whole(1, 64), TEXT),
    "group_size": either(whole(-1, 1 << 20), TEXT),
    "sparsity_config": SPARSITY,
}

IDS = keys(ID, "bos_token_id eot_token_id eom_token_id unk_token_id") | {"eos_token_id": ENDS}
CONFIG = IDS | {
    "architectures": items(TEXT, 64),
    **keys(whole(1, 1 << 20), "hidden_size n_embed word_embed_proj_dim"),
    **keys(whole(1, 1 << 24), "intermediate_size ffn_dim ffn_hidden_size moe_intermediate_size"),
    **keys(whole(1, MOST_LAYERS), "num_hidden_layers n_layer sliding_window_pattern"),
    **keys(whole(0, MOST_LAYERS), "decoder_sparse_step max_window_layers"),
    **keys(whole(1, 1 << 14), "num_attention_heads n_head num_key_value_heads num_kv_heads n_head_kv"),
    "num_local_experts": whole(1, 1 << 14),
    **keys(whole(0, 1 << 14), "num_experts num_experts_per_tok"),    # MiniCPM's without experts say 0
    "head_dim": whole(1, 1 << 16),
    "vocab_size": whole(1, MOST_VOCAB),
    "max_position_embeddings": whole(1, LONG),
    "original_max_position_embeddings": positive(LONG),
    "sliding_window": whole(0, LONG),
    "num_ln_in_parallel_attn": whole(1, 2),
    "mlp_only_layers": items(whole(0, MOST_LAYERS)),
    "layer_types": items(TEXT, MOST_LAYERS),
    **keys(TEXT, "hidden_act hidden_activation activation_function activation model_type"),
    **keys(TRUTH, "attention_bias mlp_bias tie_word_embeddings norm_topk_prob do_layer_norm_before enable_bias"),
    **keys(TRUTH, "layer_norm_elementwise_affine _remove_final_layer_norm new_decoder_architecture alibi bias"),
    **keys(TRUTH, "parallel_attn multi_query use_sliding_window"),
    **keys(number(0, 1), "rms_norm_eps layer_norm_epsilon partial_rotary_factor"),
    **keys(number(1, 1e15), "rope_theta rope_local_base_freq"),
    "hidden_act_param": number(0, 1e30),
    **keys(positive(), "query_pre_attn_scalar attn_logit_softcapping final_logit_softcapping embedding_multiplier"),
    **keys(positive(), "residual_multiplier attention_multiplier logits_scaling scale_emb scale_depth dim_model_base"),
    **keys(table(ROPES), "rope_scaling rope_parameters"),
    "quantization_config": table(QUANTIZATION),
    "sparsity_config": SPARSITY,
}
PIXELS = whole(1, 1 << 13)
CONFIG |= {    # of models for images
    "vision_config": table({
        **keys(whole(1, 1 << 20), "hidden_size intermediate_size projection_dim"),
        **keys(whole(1, 1 << 10), "num_hidden_layers num_attention_heads num_channels"),
        **keys(PIXELS, "image_size patch_size"),
        **keys(TEXT, "hidden_act model_type"),
        "layer_norm_eps": number(0, 1),
    }),
    **keys(either(whole(-1 << 10, 1 << 10), items(whole(-1 << 10, 1 << 10), 64)),
           "vision_feature_layer mm_vision_select_layer"),
    **keys(TEXT, "vision_feature_select_strategy projector_hidden_act mm_projector_type mm_vision_select_feature"),
    **keys(TEXT, "mm_vision_tower mm_patch_merge_type image_aspect_ratio"),
    **keys(TRUTH, "multimodal_projector_bias mm_use_im_start_end mm_use_im_patch_token"),
    "image_grid_pinpoints": items(items(PIXELS, 2), 64),
}
CONFIG["text_config"] = table(dict(CONFIG))
PICTURES = keys(items(number(0, 1e6), 3), "image_mean image_std")

CONTENT = Kind("an object with its content", lambda v: isinstance(v, dict) and isinstance(v.get("content"), str))
TOKEN = either(TEXT, CONTENT)
TOKENS = items(TOKEN)
ADDED = table({"content": TEXT} | keys(TRUTH, "special single_word lstrip rstrip normalized"))
TEMPLATES = either(TEXT, items(table(keys(TEXT, "name template")), 1024))
NAMES = keys(TOKEN, "bos_token eos_token unk_token eot_token eom_token pad_token cls_token sep_token mask_token")

# Each file, and what is read of it.
FILES = {
    "config.json": CONFIG,
    "quantize_config.json": QUANTIZATION,
    "predictors' config.json": {"sparse_threshold": number(-1e30, 1e30)},
    "generation_config.json": IDS,
    "tokenizer_config.json": NAMES | {
        **keys(TRUTH, "add_bos_token add_eos_token add_prefix_space"),
        "tokenizer_class": TEXT,
        "chat_template": TEMPLATES,
        "added_tokens_decoder": mapping(ADDED),
        "additional_special_tokens": TOKENS,
        "extra_special_tokens": either(TOKENS, mapping(TOKEN)),
    },
    "special_tokens_map.json": NAMES | {"additional_special_tokens": TOKENS},
    "added_tokens.json": None,    # every key is a text, and every value its id
    "chat_template.json": {"chat_template": TEMPLATES},
    "preprocessor_config.json": PICTURES,
    "processor_config.json": PICTURES | {"image_processor": table(PICTURES)},
}


def check(value, known, place):
    """Refuses an object of which a key that is read is of another type or range. null stands for a key that is not
    there."""
    for key, kind in known.items():
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
    known = FILES[name]
    if known is None:
        for text, i in value.items():
            check_value(i, ID, text[:60], str(path))
    else:
        check(value, known, str(path))
    return value
