// Matrix times vectors on the CPU.
#pragma once

#include "host/arena.h"
#include "host/kernels.h"
#include "host/rows.h"

#include <algorithm>
#include <functional>
#include <span>
#include <vector>

namespace hearth::host {

/// Calls fn(first, last) for chunks that cover [0, rows): each large enough to pay for handing it out, enough of them
/// to balance. A small matrix stays on the calling thread.
void parallel_rows(Team& team, uint32_t rows, uint64_t row_bytes,
                   const std::function<void(uint32_t first, uint32_t last)>& fn);

/// Largest tile_rows * tile_tokens of any instruction set.
inline constexpr uint32_t max_tile = 512;

/// Tokens side by side, tile by tile, as the tile kernels read them; zeros behind the last token.
struct PackedInputs {
    std::vector<float> x;             // (tiles, n, tile_tokens)
    std::vector<int16_t> pairs;       // (tiles, n / 2, tile_tokens, 2)
    std::vector<float> scale, sum;    // (tiles, n / 32, tile_tokens)
};

/// `tokens` vectors of n floats, prepared for rows of any weight format. Owns its memory; reused from call to call.
class Inputs {
  public:
    /// Prepares x (tokens, n). Fixed-point forms are made only if `quantised` (any row that will read it is of such a
    /// format). x must outlive the reads. `work`: how they are multiplied; of few there are at most most_few.
    void prepare(Team& team, const float* x, uint32_t tokens, uint32_t n, bool quantised, Work work);

    std::span<const Input> span() const { return inputs_; }
    const Input& operator[](uint32_t t) const { return inputs_[t]; }
    uint32_t tokens() const { return uint32_t(inputs_.size()); }
    Work work() const { return work_; }
    /// Whether a matrix of this type is multiplied with them tile by tile, not row by row.
    bool in_tiles(WeightType type) const { return work_ == Work::many && tokens() > kernels().of(type).few_tokens; }

    /// In fixed point or as floats; made when it is first asked for. Not while another thread asks.
    const PackedInputs& packed(Team& team, bool fixed) const;

  private:
    std::vector<Input> inputs_;
    std::vector<int16_t> q_;
    std::vector<float> scale_, sum_;
    std::vector<GroupPlanes> planes_;
    std::vector<GroupWords> words_[2];    // by pairs and by blocks
    std::vector<float> half_sum_;
    uint32_t n_ = 0;
    Work work_ = Work::many;
    mutable PackedInputs packed_;
    mutable bool has_floats_ = false, has_fixed_ = false;    // of packed_
};

/// The plainest reading there is, with all threads: the sum of all words. What it takes is what any kernel takes at
/// least.
uint64_t sum_words(Team& team, std::span<const uint64_t> words);

/// out(j, y) for j < count, in any order: y[t] = w[row(j)] . x[t], on this thread, for at most most_few_tokens. Rows
/// are fetched ahead up to row(known - 1): the caller knows which come after the last that it wants now.
template <class Row, class Out>
void multiply_some(const Matrix& w, uint32_t count, uint32_t known, const Row& row, const Inputs& x, const Out& out)
{
    constexpr uint32_t most = 128;
    const uint32_t tokens = x.tokens();
    const Rows rows_of(w);
    const std::byte* rows[most + rows_together];
    float products[most * most_few_tokens];
    const RowKernels& kernel = kernels().of(w.type);
    const bool one_by_one = tokens == 1 && w.cols <= kernel.most_one_by_one;
    // The i-th of n rows to be computed. Where they are read side by side, the first of each eighth, then the second of
    // each. An eighth is an odd number of rows: rows are usually an even number of cache lines long, and eight of them
    // at a distance of an even number of rows would meet in few sets of L1, or one.
    const auto place = [one_by_one](uint32_t i, uint32_t n) {
        if (one_by_one) return i;
        const uint32_t eighth = n / rows_together, each = eighth ? (eighth - 1) | 1 : 0;
        return i < each * rows_together ? i % rows_together * each + i / rows_together : i;
    };
    for (uint32_t j = 0, here; j < count; j += here) {
        here = std::min(most, count - j);
        const uint32_t after = j + here;
        for (uint32_t i = 0; i < here; i++) rows[i] = rows_of[row(j + place(i, here))];
        for (uint32_t i = 0; i < rows_together; i++)
            rows[here + i] = rows_of[row(std::min(after + place(i, std::min(most, known - after)), known - 1))];
        kernel.dot_rows(rows, here, x.span().data(), tokens, w.cols, products);
        for (uint32_t i = 0; i < here; i++) out(j + place(i, here), products + size_t(i) * tokens);
    }
}

/// y[t][r] = sum_i w[r][i] x[t][i];  y is (x.tokens(), w.rows)
void multiply(Team& team, const Matrix& w, const Inputs& x, float* y);

/// A matrix, and where its product goes.
struct ProductOf {
    const Matrix& w;
    float* y;
};

/// The same for several matrices of equal columns, which few tokens meet in one hand-over to the threads.
void multiply(Team& team, std::initializer_list<ProductOf> products, const Inputs& x);

/// The same for some rows: y[t][j] = sum_i w[rows[j]][i] x[t][i];  y is (x.tokens(), rows.size())
void multiply_rows(Team& team, const Matrix& w, std::span<const uint32_t> rows, const Inputs& x, float* y);

}    // namespace hearth::host
