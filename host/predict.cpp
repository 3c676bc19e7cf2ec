#include "host/predict.h"

#include <algorithm>

namespace hearth::host {

SignRows::SignRows(Team& team, const Matrix& w, std::span<const uint32_t> rows)
    : rows_(uint32_t(rows.size())), cols_(w.cols), words_((w.cols + 63) / 64), bits_(rows.size() * words_)
{
    parallel_rows(team, rows_, w.mean_row_bytes(), [&](uint32_t first, uint32_t last) {
        std::vector<float> weights(w.cols);
        for (uint32_t j = first; j < last; j++) {
            kernels().of(w.type).decode(w.row(rows[j]), weights.data(), w.cols);
            kernels().pack_signs(weights.data(), &bits_[size_t(j) * words_], w.cols);
        }
    });
}

void predict_sign(Team& team, const SignRows& signs, const float* x, uint32_t agreements, uint32_t* mask)
{
    std::vector<uint64_t> of_x(signs.words());
    kernels().pack_signs(x, of_x.data(), signs.cols());
    const auto differing = kernels().differing_bits;
    const uint32_t neurons = signs.rows();
    parallel_rows(team, (neurons + 31) / 32, 32 * 8ull * signs.words(), [&](uint32_t first, uint32_t last) {
        for (uint32_t g = first; g < last; g++) {
            uint32_t word = 0;
            for (uint32_t j = g * 32; j < std::min(neurons, g * 32 + 32); j++)
                word |= uint32_t(signs.cols() - differing(signs.row(j), of_x.data(), signs.words()) >= agreements)
                        << j % 32;
            mask[g] = word;
        }
    });
}

void predict_lowrank(Team& team, const Matrix& fc1, const Matrix& fc2, std::span<const uint32_t> rows, const float* r,
                     uint32_t tokens, float threshold, uint32_t* mask, LowRankScratch& scratch)
{
    Inputs& x = scratch.inputs;
    std::vector<float>& hidden = scratch.hidden;
    hidden.resize(size_t(tokens) * fc1.rows);
    x.prepare(team, r, tokens, fc1.cols, is_quantised(fc1.type), Work::few);
    multiply(team, fc1, x, hidden.data());
    for (float& h : hidden) h = h < 0 ? 0.0f : h;    // NaN stays, as below
    x.prepare(team, hidden.data(), tokens, fc2.cols, is_quantised(fc2.type), Work::few);
    const uint32_t neurons = uint32_t(rows.size()), words = (neurons + 31) / 32;
    parallel_rows(team, words, 32 * fc2.mean_row_bytes(), [&](uint32_t first, uint32_t last) {
        for (uint32_t t = 0; t < tokens; t++) std::fill(mask + t * words + first, mask + t * words + last, 0);
        const uint32_t begin = first * 32, count = std::min(last * 32, neurons) - begin;
        multiply_some(
            fc2, count, neurons - begin, [&](uint32_t j) { return rows[begin + j]; }, x,
            [&](uint32_t j, const float* scores) {
                for (uint32_t t = 0; t < tokens; t++)
                    mask[t * words + (begin + j) / 32] |= uint32_t(!(scores[t] < threshold)) << (begin + j) % 32;
            });
    });
}

}    // namespace hearth::host
