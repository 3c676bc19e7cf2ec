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

    const std::byte* row(uint64_t r) const { return data + r * (stride ? stride : row_bytes(type, cols)); }
    uint64_t bytes() const { return rows * row_bytes(type, cols); }

    /// Columns first .. first + count of every row; `first` is a whole number of blocks, and so is `count`.
    Matrix columns(uint32_t first, uint32_t count) const
    {
        return {type, rows, count, data + row_bytes(type, first), stride ? stride : row_bytes(type, cols)};
    }
};

}    // namespace hearth
