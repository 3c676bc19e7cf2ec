// Model families: what a file of an architecture leaves unsaid. A family made of these parts is one row of the table.
#pragma once

#include "host/attention.h"
#include "host/cold_ffn.h"

#include <span>
#include <string_view>

namespace hearth {

/// Every family here has RMS norms, a gate, and the embedding as its head where a file has no output.weight.
struct Family {
    std::string_view architecture;    // what stands in `general.architecture`; the file's keys begin with it
    host::PairOrder pairs = host::PairOrder::neighbours;
    host::Activation activation = host::Activation::silu;    // unless the file is PowerInfer's, or says otherwise
    bool qkv_bias = false;                                   // blk.N.attn_q.bias, attn_k.bias, attn_v.bias
    bool head_norms = false;    // blk.N.attn_q_norm.weight, attn_k_norm.weight: every head of q and k is normalised before it turns
    bool fused = false;         // q, k and v are the rows of blk.N.attn_qkv.weight, gate and up those of blk.N.ffn_up.weight
};

std::span<const Family> all_families();

/// nullptr where there is none of this name.
const Family* find_family(std::string_view architecture);

}    // namespace hearth
