// Model families: what a file of an architecture leaves unsaid. A family made of these parts is one row of the table.
#pragma once

#include "host/attention.h"
#include "host/cold_ffn.h"

#include <span>
#include <string_view>

namespace hearth {

/// Unless a row says otherwise: RMS norms, no biases, rope, a gate. The embedding is the head where a file has no
/// output.weight. Scales, caps and windows are what holds where the file has no key for them (the key of each stands
/// with Config's field).
struct Family {
    std::string_view architecture;    // what stands in `general.architecture`; the file's keys begin with it
    host::PairOrder pairs = host::PairOrder::neighbours;
    // Unless the file says otherwise; silu is relu in PowerInfer's.
    host::Activation activation = host::Activation::silu;
    bool qkv_bias = false;    // blk.N.attn_q.bias, attn_k.bias, attn_v.bias
    // blk.N.attn_q_norm.weight, attn_k_norm.weight: every head of q and k is normalised before it turns.
    bool head_norms = false;
    bool layer_norms = false;    // LayerNorm with a bias: beside each norm's weight there is its .bias
    bool all_biases = false;     // qkv_bias, and attn_output.bias, ffn_up.bias, ffn_down.bias
    bool positions = false;      // position_embd.weight is added to the embedding, and nothing turns
    bool gated = true;           // else blk.N.ffn_up is what decides whether a neuron fires, and there is no ffn_gate
    bool fused = false;    // q, k and v are the rows of blk.N.attn_qkv.weight, gate and up, if there is a gate, those
                           // of blk.N.ffn_up.weight
    bool post_norms = false;    // what a block gives is normalised before it is added:
                                // blk.N.post_attention_norm.weight, post_ffw_norm.weight
    bool parallel = false;      // both blocks read the layer's input, through blk.N.attn_norm, or attention through
                                // attn_norm_2 where that is there.
    // There is no ffn_norm, and no family has attn_output.bias besides
    bool wide_embedding = false;    // the embedding is multiplied by sqrt(dim)
    float embedding_scale = 1;
    float depth_scale = 0;    // what a block gives is multiplied by depth_scale / sqrt(layers); 0: by 1
    float base_width = 0;     // logits are divided by dim / base_width; 0: by 1
    float score_cap = 0, logit_cap = 0;
    uint32_t window = 0;
    uint32_t window_period = 0;    // where there is a window, the last of so many layers has none; 0: all have it
    // Of rope in layers with a window, whose positions are not scaled; 0: no other than elsewhere.
    float window_base = 0;
    // The model of so many layers divides scores by sqrt(dim / heads) instead of sqrt(head_dim).
    uint32_t broad_layers = 0;
    bool experts = false;    // its files may be mixtures of experts, by the key ARCHITECTURE.expert_count
};

std::span<const Family> all_families();

/// nullptr where there is none of this name.
const Family* find_family(std::string_view architecture);

}    // namespace hearth
