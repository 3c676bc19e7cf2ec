// A matrix as it lies in memory: rows of one weight format, one after the other. It owns nothing.
#pragma once

#include "shaders/blocks.h"

#include <cstddef>

namespace hearth {

struct Matrix {
    WeightType type = WeightType::f32;
    uint32_t rows = 0;
    uint32_t cols = 0;
    const std::byte* data = nullptr;    // rows * row_bytes(type, cols)

    const std::byte* row(uint64_t r) const { return data + r * row_bytes(type, cols); }
    uint64_t bytes() const { return rows * row_bytes(type, cols); }
};

}    // namespace hearth
