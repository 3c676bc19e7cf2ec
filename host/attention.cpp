#include "host/attention.h"

#include "host/linear.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace hearth::host {
namespace {

/// cos and sin of a position's angle, times the magnitude, one pair after the other. In double: at position 4096 a float's angle is off by 2e-4.
std::vector<float> rotation(const Rope& rope, uint32_t position)
{
    std::vector<float> turns;
    turns.reserve(2 * rope.frequencies.size());
    for (const double frequency : rope.frequencies) {
        turns.push_back(float(rope.magnitude * std::cos(position * frequency)));
        turns.push_back(float(rope.magnitude * std::sin(position * frequency)));
    }
    return turns;
}

void turn(float* x, uint32_t heads, uint32_t head_dim, const std::vector<float>& turns, PairOrder order)
{
    const size_t pairs = turns.size() / 2;
    const size_t step = order == PairOrder::neighbours ? 2 : 1, apart = order == PairOrder::neighbours ? 1 : pairs;
    for (uint32_t h = 0; h < heads; h++, x += head_dim)
        for (size_t i = 0; i < pairs; i++) {
            float &first = x[step * i], &second = x[step * i + apart];
            const float a = first, b = second, c = turns[2 * i], s = turns[2 * i + 1];
            first = a * c - b * s;
            second = a * s + b * c;
        }
}

void add(float* x, std::span<const float> bias)
{
    for (size_t i = 0; i < bias.size(); i++) x[i] += bias[i];
}

void normalise(float* x, uint32_t heads, uint32_t head_dim, std::span<const float> weight, float eps)
{
    if (weight.empty()) return;
    for (uint32_t h = 0; h < heads; h++, x += head_dim) kernels().rmsnorm(x, weight.data(), x, head_dim, eps);
}

/// y = sum_p softmax_p(cap(scale q . k[p])) v[p] for p < positions; k and v are (positions, n)
void attend_head(const AttentionShape& s, const float* q, const uint16_t* k, const uint16_t* v, uint32_t positions, float* y)
{
    const Kernels& cpu = kernels();
    const uint32_t n = s.head_dim;
    thread_local std::vector<float> score;
    score.resize(positions);

    for (size_t p = 0; p < positions; p++) score[p] = s.scale * cpu.dot_f16(q, k + p * n, n);
    if (s.softcap > 0)
        for (float& x : score) x = s.softcap * std::tanh(x / s.softcap);
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

std::vector<double> rope_frequencies(uint32_t rope_dim, double base)
{
    std::vector<double> frequencies(rope_dim / 2);
    for (size_t i = 0; i < frequencies.size(); i++) frequencies[i] = std::pow(base, -2.0 * double(i) / rope_dim);
    return frequencies;
}

void rotate(const Rope& rope, float* x, uint32_t heads, uint32_t head_dim, uint32_t position)
{
    turn(x, heads, head_dim, rotation(rope, position), rope.pairs);
}

void attend(Team& team, const AttentionShape& s, uint32_t first, uint32_t tokens, float* q, float* k, float* v, uint16_t* k_cache, uint16_t* v_cache,
            float* y)
{
    const size_t q_size = size_t(s.heads) * s.head_dim, kv_size = size_t(s.kv_heads) * s.head_dim, cache_size = size_t(s.context) * s.head_dim;

    parallel_rows(team, tokens, (q_size + 2 * kv_size) * sizeof(float), [&](uint32_t begin, uint32_t end) {
        for (size_t t = begin; t < end; t++) {
            add(q + t * q_size, s.weights.q_bias);
            add(k + t * kv_size, s.weights.k_bias);
            add(v + t * kv_size, s.weights.v_bias);
            normalise(q + t * q_size, s.heads, s.head_dim, s.weights.q_norm, s.weights.eps);
            normalise(k + t * kv_size, s.kv_heads, s.head_dim, s.weights.k_norm, s.weights.eps);
            const std::vector<float> turns = rotation(s.rope, uint32_t(first + t));
            turn(q + t * q_size, s.heads, s.head_dim, turns, s.rope.pairs);
            turn(k + t * kv_size, s.kv_heads, s.head_dim, turns, s.rope.pairs);
            for (uint32_t h = 0; h < s.kv_heads; h++) {
                const size_t from = t * kv_size + h * s.head_dim, to = h * cache_size + (first + t) * s.head_dim;
                kernels().to_f16(k + from, k_cache + to, s.head_dim);
                kernels().to_f16(v + from, v_cache + to, s.head_dim);
            }
        }
    });

    // Tokens of one head lie side by side, so that a chunk finds the head's keys and values in its cache.
    const uint32_t most = s.window ? std::min(first + tokens, s.window) : first + tokens;
    const uint64_t bytes = 2 * sizeof(uint16_t) * uint64_t(most) * s.head_dim;
    parallel_rows(team, s.heads * tokens, bytes, [&](uint32_t begin, uint32_t end) {
        for (uint32_t i = begin; i < end; i++) {
            const size_t h = i / tokens, t = i % tokens, kv = h / (s.heads / s.kv_heads), at = t * q_size + h * s.head_dim;
            const uint32_t positions = uint32_t(first + t + 1), seen = s.window ? std::min(positions, s.window) : positions;
            const size_t from = kv * cache_size + size_t(positions - seen) * s.head_dim;
            attend_head(s, q + at, k_cache + from, v_cache + from, seen, y + at);
        }
    });
}

}    // namespace hearth::host
