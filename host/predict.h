// Who will fire: predictors on the CPU. A group is 32 neurons; a mask has a word per group, bit i set where its neuron
// i may fire.
#pragma once

#include "host/linear.h"

namespace hearth::host {

/// Signs of rows of weights, a bit each, as `Kernels::pack_signs` has them.
/// Source: SparseInfer (arXiv 2411.12692): a gate whose row has the signs of x in few places is unlikely to be
/// positive.
class SignRows {
  public:
    SignRows() = default;
    /// Row j is rows[j] of w.
    SignRows(Team& team, const Matrix& w, std::span<const uint32_t> rows);

    uint32_t rows() const { return rows_; }
    uint32_t cols() const { return cols_; }
    uint32_t words() const { return words_; }    // of a row
    const uint64_t* row(uint32_t j) const { return &bits_[size_t(j) * words_]; }

  private:
    uint32_t rows_ = 0, cols_ = 0, words_ = 0;
    std::vector<uint64_t> bits_;
};

/// Neuron j of `signs` may fire if the signs of at least `agreements` of its weights are those of x. `mask`: ceil(rows
/// / 32) words.
void predict_sign(Team& team, const SignRows& signs, const float* x, uint32_t agreements, uint32_t* mask);

/// Memory of predict_lowrank, reused from call to call.
struct LowRankScratch {
    Inputs inputs;
    std::vector<float> hidden;    // (tokens, fc1's rows)
};

/// For each of few tokens: neuron rows[j] may fire if fc2_row . relu(fc1 . r) >= threshold; r (tokens, dim) is the
/// residual before its norm. `mask`: (tokens, ceil(rows / 32)) words.
/// Source: PowerInfer (arXiv 2312.12456).
void predict_lowrank(Team& team, const Matrix& fc1, const Matrix& fc2, std::span<const uint32_t> rows, const float* r,
                     uint32_t tokens, float threshold, uint32_t* mask, LowRankScratch& scratch);

}    // namespace hearth::host
