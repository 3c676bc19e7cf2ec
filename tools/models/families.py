"""The families of models that convert.py knows: what distinguishes them,
and their config.json in the words of Llama's."""

import math
from dataclasses import dataclass

from llava import ARCHITECTURES as LLAVA
from sentences import Refusal, shown


@dataclass(frozen=True)
class Family:
    """What distinguishes the models of an architecture; engine/model/families.h has the same."""
    name: str                    # GGUF's
    neighbours: bool = False     # elements 2i and 2i + 1 of a head are rotated, so rows of Q and K are interleaved
    qkv_bias: bool = False
    head_norms: bool = False     # every head of Q and K has a norm
    like_opt: bool = False       # LayerNorms, biases everywhere, learned positions, no gate, and names of its own
    like_falcon: bool = False    # LayerNorms, both blocks side by side, no gate, and names of its own
    like_gemma: bool = False     # weights of norms are stored less 1, and the embedding is multiplied by sqrt(dim)
    post_norms: bool = False     # norms of what a block gives
    fused: bool = False          # Q, K and V are one tensor, gate and up another one
    drelu: bool = False          # relu is dReLU: up goes through relu, too
    experts: tuple = ()          # of a mixture of experts: the module, and in an expert its gate, up and down
    always_windowed: bool = True    # sliding_window holds unless use_sliding_window says otherwise;
                                    # else it needs that word
    window_period: int = 0       # every so manieth layer has no window
    partly_turned: bool = False     # its code takes partial_rotary_factor
    words: object = None         # turns its config.json into Llama's words
    usual_activation: str = "silu"    # what other programs take for granted

    @property
    def layer_norms(self):
        return self.like_opt or self.like_falcon


def opts_words(c):
    """Only the 350 M model is built otherwise."""
    for key, only in (("do_layer_norm_before", True), ("enable_bias", True), ("layer_norm_elementwise_affine", True),
                      ("_remove_final_layer_norm", False), ("word_embed_proj_dim", c.get("hidden_size"))):
        if c.get(key, only) != only:
            raise Refusal(f"{key} is {shown(c[key])} in config.json, which is not supported")
    return c | {"num_key_value_heads": None, "head_dim": None, "intermediate_size": c.get("ffn_dim"),
                "rms_norm_eps": 1e-5, "hidden_act": c.get("activation_function", "relu"),
                "tie_word_embeddings": c.get("tie_word_embeddings", True)}


def falcons_words(c):
    """Of 7B, 40B and 180B; the first two had other names once."""
    c = {"hidden_size": c.get("n_embed"), "num_attention_heads": c.get("n_head"), "num_hidden_layers": c.get("n_layer"),
         "num_kv_heads": c.get("n_head_kv")} | c
    grouped = c.get("new_decoder_architecture", False)
    for key, only in ((("alibi", False), ("bias", False))
                      + (() if grouped else (("parallel_attn", True), ("multi_query", True)))):
        if c.get(key, only) != only:
            raise Refusal(f"{key} is {shown(c[key])} in config.json, which is not supported")
    dim = c["hidden_size"]
    return c | {"num_key_value_heads": (c.get("num_kv_heads") or c["num_attention_heads"]) if grouped else 1,
                "two_norms": grouped and (c.get("num_ln_in_parallel_attn") or 2) == 2,
                "max_position_embeddings": c.get("max_position_embeddings", 2048),
                "intermediate_size": c.get("ffn_hidden_size") or (4 * dim if isinstance(dim, int) else None),
                "rms_norm_eps": c.get("layer_norm_epsilon", 1e-5), "hidden_act": c.get("activation", "gelu"),
                "tie_word_embeddings": c.get("tie_word_embeddings")}


def gemmas_words(c):
    # The first Gemma's config.json says gelu, and the code takes gelu_pytorch_tanh all the same.
    act = c.get("hidden_activation") or "gelu_pytorch_tanh"
    scale = c.get("query_pre_attn_scalar")
    c = c | {"hidden_act": act, "tie_word_embeddings": c.get("tie_word_embeddings", True),
             "head_dim": c.get("head_dim", 256)}
    return c | ({"score_scale": scale ** -0.5} if scale else {})


# What the config.json of Gemma 3 leaves out where it is so (transformers' Gemma3TextConfig).
GEMMA3 = {"hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26, "num_attention_heads": 8,
          "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 262208, "max_position_embeddings": 131072,
          "rms_norm_eps": 1e-6, "rope_theta": 1e6, "rope_local_base_freq": 1e4, "sliding_window": 4096,
          "query_pre_attn_scalar": 256}


def gemma3s_words(c):
    c = GEMMA3 | c.get("text_config", {}) | {key: c[key] for key in c if key != "text_config"}
    said = c.get("rope_parameters") or {}
    if "full_attention" in said:    # in newer ones each kind of layer has its own
        c |= {"rope_parameters": said["full_attention"],
              "rope_theta": said["full_attention"].get("rope_theta", c["rope_theta"]),
              "rope_local_base_freq": said.get("sliding_attention", {}).get("rope_theta", c["rope_local_base_freq"])}
    return gemmas_words(c) | {"window_base": c["rope_local_base_freq"]}


def minicpms_words(c):
    """arXiv 2404.06395; the factors are those of modeling_minicpm.py beside the models."""
    if c.get("num_experts"):
        raise Refusal("num_experts in config.json: mixtures of experts of MiniCPM are not supported")
    layers, dim = c.get("num_hidden_layers"), c.get("hidden_size")
    scales = {}
    if isinstance(layers, int) and isinstance(dim, int) and layers > 0:
        scales = {"embedding_scale": c.get("scale_emb", 1),
                  "residual_scale": c.get("scale_depth", 1) / math.sqrt(layers),
                  "logit_scale": dim / c.get("dim_model_base", 1)}
    return c | scales | {"tie_word_embeddings": c.get("tie_word_embeddings")}


def granites_words(c):
    return c | {"embedding_scale": c.get("embedding_multiplier", 1), "residual_scale": c.get("residual_multiplier", 1),
                "score_scale": c.get("attention_multiplier", 1), "logit_scale": c.get("logits_scaling", 1)}


LLAMA = Family("llama", neighbours=True)
GEMMA3_FAMILY = Family("gemma3", like_gemma=True, post_norms=True, head_norms=True, window_period=6,
                       words=gemma3s_words, usual_activation="gelu_tanh")
FAMILIES = {    # by the first of config.json's architectures
    "BambooForCausalLM": Family("bamboo", neighbours=True, drelu=True, usual_activation="drelu"),
    "FalconForCausalLM": Family("falcon", like_falcon=True, fused=True, words=falcons_words, usual_activation="gelu"),
    "GemmaForCausalLM": Family("gemma", like_gemma=True, words=gemmas_words, usual_activation="gelu_tanh"),
    "Gemma2ForCausalLM": Family("gemma2", like_gemma=True, post_norms=True, window_period=2, words=gemmas_words,
                                usual_activation="gelu_tanh"),
    "Gemma3ForCausalLM": GEMMA3_FAMILY,
    "Gemma3ForConditionalGeneration": GEMMA3_FAMILY,    # with a part for images, which is left out
    "GraniteForCausalLM": Family("granite", neighbours=True, words=granites_words),
    "LlamaForCausalLM": LLAMA,
    **dict.fromkeys(LLAVA, LLAMA),    # with a part for images, which goes to a file of its own
    "MiniCPMForCausalLM": Family("minicpm", neighbours=True, words=minicpms_words),
    "MistralForCausalLM": LLAMA,
    "MixtralForCausalLM": Family("llama", neighbours=True, experts=("block_sparse_moe", "w1", "w3", "w2")),
    "OPTForCausalLM": Family("opt", qkv_bias=True, like_opt=True, words=opts_words, usual_activation="relu"),
    "Phi3ForCausalLM": Family("phi3", fused=True, partly_turned=True),
    "Qwen2ForCausalLM": Family("qwen2", qkv_bias=True, always_windowed=False),
    "Qwen3ForCausalLM": Family("qwen3", head_norms=True, always_windowed=False),
    "Qwen3MoeForCausalLM": Family("qwen3moe", head_norms=True, experts=("mlp", "gate_proj", "up_proj", "down_proj"),
                                  always_windowed=False),
    # Falcon's first name.
    "RWForCausalLM": Family("falcon", like_falcon=True, fused=True, words=falcons_words, usual_activation="gelu"),
    "SparseLlamaForCausalLM": LLAMA,    # ProSparse's
}
# config.json's word: ours
ACTIVATIONS = {"relu": "relu", "fatrelu": "relu", "silu": "silu", "swish": "silu", "gelu": "gelu",
               "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}
MAKES_ZEROS = ("relu", "drelu")    # of GGUF's names
SCALES = ("embedding_scale", "residual_scale", "logit_scale", "score_scale", "attn_logit_softcapping",
          "final_logit_softcapping", "window_base")


def read_scales(c):
    """What config.json multiplies things by and caps them at; what is 1, or not there, is left out."""
    scales = {}
    for key in SCALES:
        value = c.get(key)
        if value is None:
            continue
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < math.inf:
            raise Refusal(f"{key} in config.json is {shown(value)}, not a positive number")
        scales[key] = float(value)
    return scales


def windowed_layers(c, family, layers):
    """Whether each layer has the window: a list for all of them."""
    kinds, first = c.get("layer_types"), c.get("max_window_layers")
    if kinds is not None:
        if not isinstance(kinds, list) or len(kinds) != layers or set(kinds) - {"full_attention", "sliding_attention"}:
            raise Refusal(
                f"layer_types in config.json is not a list of full_attention and sliding_attention for {layers} layers")
        return [kind == "sliding_attention" for kind in kinds]
    if not family.always_windowed and isinstance(first, int):    # Qwen's
        return [n >= first for n in range(layers)]
    period = c.get("sliding_window_pattern") or family.window_period
    return [not period or (n + 1) % period != 0 for n in range(layers)]
