// Attention of the layers that live on the CPU, over a KV cache in fp16.
#pragma once

#include "host/arena.h"
#include "host/kernels.h"

namespace hearth::host {

/// Shapes of one attention block.
struct AttentionShape {
    uint32_t heads, kv_heads, head_dim;
    uint32_t context;     // positions in the cache
    uint32_t rope_dim;    // leading elements of a head that are rotated
    float rope_base;
};

/// Rotates pairs (2i, 2i+1) of the first rope_dim elements of every head by position * base^(-2i / rope_dim), in place.
/// x is (heads, head_dim). Source: RoFormer (arXiv 2104.09864), in the interleaved order of llama GGUF files.
void rope(float* x, uint32_t heads, uint32_t head_dim, uint32_t rope_dim, float base, uint32_t position);

/// For tokens at positions [first, first + tokens): rotates q and k, appends k and v to the cache, then
/// y[t][h] = sum_p softmax_p(q[t][h] . k[p] / sqrt(head_dim)) v[p] over p <= first + t.
/// q (tokens, heads, head_dim) and k, v (tokens, kv_heads, head_dim) are floats, q and k are overwritten;
/// the caches are (kv_heads, context, head_dim) fp16; y is (tokens, heads, head_dim).
void attend(Team& team, const AttentionShape& s, uint32_t first, uint32_t tokens, float* q, float* k, const float* v, uint16_t* k_cache,
            uint16_t* v_cache, float* y);

}    // namespace hearth::host
