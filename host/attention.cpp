#include "host/attention.h"

#include "host/linear.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace hearth::host {
namespace {

/// cos and sin of position * base^(-2i / rope_dim), one pair after the other. In double: at position 4096 a float's angle is off by 2e-4.
std::vector<float> rotation(uint32_t rope_dim, float base, uint32_t position)
{
    std::vector<float> pairs(rope_dim);
    const double ratio = std::pow(double(base), -2.0 / rope_dim);
    double angle = position;
    for (uint32_t i = 0; i + 1 < rope_dim; i += 2, angle *= ratio) {
        pairs[i] = float(std::cos(angle));
        pairs[i + 1] = float(std::sin(angle));
    }
    return pairs;
}

void rotate(float* x, uint32_t heads, uint32_t head_dim, const std::vector<float>& pairs)
{
    for (uint32_t h = 0; h < heads; h++, x += head_dim)
        for (size_t i = 0; i + 1 < pairs.size(); i += 2) {
            const float a = x[i], b = x[i + 1], c = pairs[i], s = pairs[i + 1];
            x[i] = a * c - b * s;
            x[i + 1] = a * s + b * c;
        }
}

/// y = sum_p softmax_p(q . k[p] / sqrt(n)) v[p] for p < positions; k and v are (positions, n)
void attend_head(const float* q, const uint16_t* k, const uint16_t* v, uint32_t positions, uint32_t n, float* y)
{
    const Kernels& cpu = kernels();
    thread_local std::vector<float> score;
    score.resize(positions);

    const float scale = 1.0f / std::sqrt(float(n));
    for (size_t p = 0; p < positions; p++) score[p] = scale * cpu.dot_f16(q, k + p * n, n);
    const float largest = *std::max_element(score.begin(), score.end());

    float sum = 0;
    std::fill_n(y, n, 0.0f);
    for (size_t p = 0; p < positions; p++) {
        const float e = std::exp(score[p] - largest);
        sum += e;
        cpu.axpy_f16(e, v + p * n, y, n);
    }
    for (uint32_t i = 0; i < n; i++) y[i] /= sum;
}

}    // namespace

void rope(float* x, uint32_t heads, uint32_t head_dim, uint32_t rope_dim, float base, uint32_t position)
{
    rotate(x, heads, head_dim, rotation(rope_dim, base, position));
}

void attend(Team& team, const AttentionShape& s, uint32_t first, uint32_t tokens, float* q, float* k, const float* v, uint16_t* k_cache,
            uint16_t* v_cache, float* y)
{
    const size_t q_size = size_t(s.heads) * s.head_dim, kv_size = size_t(s.kv_heads) * s.head_dim, cache_size = size_t(s.context) * s.head_dim;

    parallel_rows(team, tokens, (q_size + 2 * kv_size) * sizeof(float), [&](uint32_t begin, uint32_t end) {
        for (size_t t = begin; t < end; t++) {
            const std::vector<float> pairs = rotation(s.rope_dim, s.rope_base, uint32_t(first + t));
            rotate(q + t * q_size, s.heads, s.head_dim, pairs);
            rotate(k + t * kv_size, s.kv_heads, s.head_dim, pairs);
            for (uint32_t h = 0; h < s.kv_heads; h++) {
                const size_t from = t * kv_size + h * s.head_dim, to = h * cache_size + (first + t) * s.head_dim;
                kernels().to_f16(k + from, k_cache + to, s.head_dim);
                kernels().to_f16(v + from, v_cache + to, s.head_dim);
            }
        }
    });

    // Tokens of one head lie side by side, so that a chunk finds the head's keys and values in its cache.
    const uint64_t bytes = 2 * sizeof(uint16_t) * uint64_t(first + tokens) * s.head_dim;
    parallel_rows(team, s.heads * tokens, bytes, [&](uint32_t begin, uint32_t end) {
        for (uint32_t i = begin; i < end; i++) {
            const size_t h = i / tokens, t = i % tokens, kv = h / (s.heads / s.kv_heads), at = t * q_size + h * s.head_dim;
            attend_head(q + at, k_cache + kv * cache_size, v_cache + kv * cache_size, uint32_t(first + t + 1), s.head_dim, y + at);
        }
    });
}

}    // namespace hearth::host
