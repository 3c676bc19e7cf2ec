// Model families: what a file of an architecture leaves unsaid. A family made of these parts is one row of the table.
#pragma once

#include "host/attention.h"
#include "host/cold_ffn.h"

#include <span>
#include <string_view>

namespace hearth {

/// Unless a row says otherwise: RMS norms, no biases, rope, a gate. The embedding is the head where a file has no output.weight.
struct Family {
    std::string_view architecture;    // what stands in `general.architecture`; the file's keys begin with it
    host::PairOrder pairs = host::PairOrder::neighbours;
    host::Activation activation = host::Activation::silu;    // unless the file says otherwise; silu is relu in PowerInfer's
    bool qkv_bias = false;                                   // blk.N.attn_q.bias, attn_k.bias, attn_v.bias
    bool head_norms = false;     // blk.N.attn_q_norm.weight, attn_k_norm.weight: every head of q and k is normalised before it turns
    bool layer_norms = false;    // LayerNorm with a bias: beside each norm's weight there is its .bias
    bool all_biases = false;     // qkv_bias, and attn_output.bias, ffn_up.bias, ffn_down.bias
    bool positions = false;      // position_embd.weight is added to the embedding, and nothing turns
    bool gated = true;           // else blk.N.ffn_up is what decides whether a neuron fires, and there is no ffn_gate
    bool fused = false;          // q, k and v are the rows of blk.N.attn_qkv.weight, gate and up those of blk.N.ffn_up.weight
    bool experts = false;        // its files may be mixtures of experts, by the key ARCHITECTURE.expert_count
};

std::span<const Family> all_families();

/// nullptr where there is none of this name.
const Family* find_family(std::string_view architecture);

}    // namespace hearth
