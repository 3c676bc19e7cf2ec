// Matrix times vectors on the CPU.
#pragma once

#include "host/arena.h"
#include "host/kernels.h"

#include <functional>
#include <span>
#include <vector>

namespace hearth::host {

/// Calls fn(first, last) for chunks that cover [0, rows): each large enough to pay for handing it out, enough of them to balance. A small matrix
/// stays on the calling thread.
void parallel_rows(Team& team, uint32_t rows, uint64_t row_bytes, const std::function<void(uint32_t first, uint32_t last)>& fn);

/// `tokens` vectors of n floats, prepared for rows of any weight format. Owns its memory; reused from call to call.
class Inputs {
  public:
    /// Prepares x (tokens, n). Fixed-point forms are made only if `quantised` (any row that will read it is of such a format).
    /// x must outlive the reads.
    void prepare(Team& team, const float* x, uint32_t tokens, uint32_t n, bool quantised);

    std::span<const Input> span() const { return inputs_; }
    const Input& operator[](uint32_t t) const { return inputs_[t]; }
    uint32_t tokens() const { return uint32_t(inputs_.size()); }

  private:
    std::vector<Input> inputs_;
    std::vector<int16_t> q_;
    std::vector<float> scale_, sum_;
    std::vector<FixedGroup> groups_;
};

/// Which of a list of rows to fetch while number `at` is computed, so that it is there in time: about 4 KB further, within the list.
uint32_t row_ahead(uint32_t at, uint32_t end, uint64_t row_bytes);

/// y[t][r] = sum_i w[r][i] x[t][i];  y is (x.tokens(), w.rows)
void multiply(Team& team, const Matrix& w, const Inputs& x, float* y);

/// The same for some rows: y[t][j] = sum_i w[rows[j]][i] x[t][i];  y is (x.tokens(), rows.size())
void multiply_rows(Team& team, const Matrix& w, std::span<const uint32_t> rows, const Inputs& x, float* y);

}    // namespace hearth::host
