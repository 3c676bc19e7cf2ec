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

namespace {

/// mask bit j: may_fire(j) for j < neurons
template <class F>
void fill_mask(Team& team, uint32_t neurons, uint64_t bytes, uint32_t* mask, const F& may_fire)
{
    parallel_rows(team, (neurons + 31) / 32, 32 * bytes, [&](uint32_t first, uint32_t last) {
        for (uint32_t g = first; g < last; g++) {
            uint32_t word = 0;
            for (uint32_t j = g * 32; j < std::min(neurons, g * 32 + 32); j++) word |= uint32_t(may_fire(j)) << j % 32;
            mask[g] = word;
        }
    });
}

}    // namespace

void predict_sign(Team& team, const SignRows& signs, const float* x, uint32_t agreements, uint32_t* mask)
{
    std::vector<uint64_t> of_x(signs.words());
    kernels().pack_signs(x, of_x.data(), signs.cols());
    const auto differing = kernels().differing_bits;
    fill_mask(team, signs.rows(), signs.words() * 8, mask, [&](uint32_t j) {
        return signs.cols() - differing(signs.row(j), of_x.data(), signs.words()) >= agreements;
    });
}

void predict_lowrank(Team& team, const Matrix& fc1, const Matrix& fc2, std::span<const uint32_t> rows, const float* r,
                     float threshold, uint32_t* mask)
{
    Inputs inputs;
    std::vector<float> hidden(fc1.rows), scores(rows.size());
    inputs.prepare(team, r, 1, fc1.cols, is_quantised(fc1.type), Work::few);
    multiply(team, fc1, inputs, hidden.data());
    for (float& h : hidden) h = h < 0 ? 0.0f : h;    // NaN stays, as below
    inputs.prepare(team, hidden.data(), 1, fc2.cols, is_quantised(fc2.type), Work::few);
    multiply_rows(team, fc2, rows, inputs, scores.data());
    fill_mask(team, uint32_t(rows.size()), sizeof(float), mask, [&](uint32_t j) { return !(scores[j] < threshold); });
}

}    // namespace hearth::host
