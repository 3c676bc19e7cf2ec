// What the numbers of a matrix or a vector are like: whether they are finite, and whether halves (fp16) hold them.
#pragma once

#include "host/arena.h"
#include "host/matrix.h"

#include <optional>
#include <span>

namespace hearth::host {

bool all_finite(std::span<const float> x);

/// Whether halves hold weights as exactly as halves can: none is beyond 65504, and no more than half of those that are
/// not zero are below 2^-15. A half has 11 bits from 2^-14 on; below it loses one with every halving.
bool fit_halves(std::span<const float> weights);

/// Weights that are NaN or infinite: how many, and the first of them, row by row.
struct NotFinite {
    uint64_t count = 0;
    uint64_t row = 0;
    uint32_t column = 0;
    float value = 0;
};

/// Nothing where all weights are finite. Reads all of the matrix.
std::optional<NotFinite> find_not_finite(Team& team, const Matrix& m);

/// What becomes of a matrix whose weights are rounded to halves.
struct AsHalves {
    bool overflows = false;    // a weight is beyond 65504
    uint32_t rows_lost = 0;    // for which most of their weights are too small, as above
    uint32_t columns_lost = 0;
};

/// Reads all of the matrix, unless its weights are halves.
AsHalves as_halves(Team& team, const Matrix& m);

}    // namespace hearth::host
