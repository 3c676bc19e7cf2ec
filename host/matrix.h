// A matrix as it lies in memory: rows of one weight format, one after the other. It owns nothing.
#pragma once

#include "shaders/blocks.h"

#include <cstddef>

namespace hearth {

struct Matrix {
    WeightType type = WeightType::f32;
    uint32_t rows = 0;
    uint32_t cols = 0;
    const std::byte* data = nullptr;
    uint64_t stride = 0;    // bytes from row to row; 0: they lie one behind the other
    /// (rows + 1) of a sparse type: in units of sparse_row_unit from `data`, which ends with sparse_slack. nullptr:
    /// rows are dense.
    const uint32_t* starts = nullptr;

    const std::byte* row(uint64_t r) const
    {
        if (starts) return data + uint64_t(starts[r]) * sparse_row_unit;
        return data + r * (stride ? stride : hearth::row_bytes(type, cols));
    }
    uint64_t row_bytes(uint64_t r) const
    {
        return starts ? uint64_t(starts[r + 1] - starts[r]) * sparse_row_unit : hearth::row_bytes(type, cols);
    }
    uint64_t bytes() const
    {
        return starts ? uint64_t(starts[rows] - starts[0]) * sparse_row_unit : rows * hearth::row_bytes(type, cols);
    }
    /// Of a row, as the mean.
    uint64_t mean_row_bytes() const { return rows ? bytes() / rows : 0; }

    /// Some rows that follow each other.
    Matrix slice(uint32_t first, uint32_t count) const
    {
        return {type, count, cols, starts ? data : row(first), stride, starts ? starts + first : nullptr};
    }

    /// Columns first .. first + count of every row; `first` is a whole number of blocks, and so is `count`. Of dense
    /// rows.
    Matrix columns(uint32_t first, uint32_t count) const
    {
        return {type, rows, count, data + hearth::row_bytes(type, first),
                stride ? stride : hearth::row_bytes(type, cols)};
    }
};

/// The rows of a matrix for a loop over many of them: what follows from its type is looked up once, not for every row.
class Rows {
  public:
    explicit Rows(const Matrix& m)
        : data_(m.data), starts_(m.starts), bytes_(m.rows ? hearth::row_bytes(m.type, m.cols) : 0),
          step_(m.stride ? m.stride : bytes_)
    {
    }

    const std::byte* operator[](uint64_t r) const
    {
        return data_ + (starts_ ? uint64_t(starts_[r]) * sparse_row_unit : r * step_);
    }
    uint64_t bytes(uint64_t r) const
    {
        return starts_ ? uint64_t(starts_[r + 1] - starts_[r]) * sparse_row_unit : bytes_;
    }

  private:
    const std::byte* data_;
    const uint32_t* starts_;
    uint64_t bytes_, step_;
};

}    // namespace hearth
