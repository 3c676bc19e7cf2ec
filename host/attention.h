// Attention of the layers that live on the CPU, over a KV cache in fp16.
#pragma once

#include "host/arena.h"
#include "host/kernels.h"

#include <span>
#include <vector>

namespace hearth::host {

/// Which elements of a head turn together as pair i of rope_dim / 2: (2i, 2i + 1), as in llama GGUF files, or (i, i + rope_dim / 2), as in the others.
enum class PairOrder : uint32_t { neighbours = 0, halves = 1 };

/// Radians that each pair turns from one position to the next, rope_dim / 2 of them, and what the pairs are. The first rope_dim elements of a head are
/// rotated. Source: RoFormer (arXiv 2104.09864).
struct Rope {
    std::span<const double> frequencies;
    PairOrder pairs = PairOrder::neighbours;
    float magnitude = 1;    // what the turned elements are multiplied by
};

/// base^(-2i / rope_dim) for every pair.
std::vector<double> rope_frequencies(uint32_t rope_dim, double base);

/// What becomes of q, k and v before the rotation: biases are added, then every head of q and k is normalised, y_i = norm_i x_i / sqrt(mean(x^2) + eps).
/// What a model has not is empty.
struct HeadWeights {
    std::span<const float> q_bias, k_bias, v_bias;    // (heads or kv_heads, head_dim)
    std::span<const float> q_norm, k_norm;            // (head_dim)
    float eps = 0;
};

/// One attention block.
struct AttentionShape {
    uint32_t heads, kv_heads, head_dim;
    uint32_t context;    // positions in the cache
    float scale;         // of products of q and k
    Rope rope;
    HeadWeights weights = {};
    float softcap = 0;      // scores s become softcap tanh(s / softcap); 0: they stay
    uint32_t window = 0;    // positions that a token looks back over, its own included; 0: all
};

/// Rotates every head in place. x is (heads, head_dim).
void rotate(const Rope& rope, float* x, uint32_t heads, uint32_t head_dim, uint32_t position);

/// For tokens at positions [first, first + tokens): adds biases, normalises, rotates q and k, appends k and v to the cache, then
/// y[t][h] = sum_p softmax_p(cap(scale q[t][h] . k[p])) v[p] over first + t - window < p <= first + t.
/// q (tokens, heads, head_dim) and k, v (tokens, kv_heads, head_dim) are floats and are overwritten;
/// the caches are (kv_heads, context, head_dim) fp16; y is (tokens, heads, head_dim).
void attend(Team& team, const AttentionShape& s, uint32_t first, uint32_t tokens, float* q, float* k, float* v, uint16_t* k_cache, uint16_t* v_cache,
            float* y);

}    // namespace hearth::host
