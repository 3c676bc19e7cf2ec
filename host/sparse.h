// Sparse rows (SparseParts in shaders/blocks.h) made of dense ones, and back: plainly, since it is done once per model.
// Kernels read them as they are.
#pragma once

#include "host/matrix.h"

#include <cstddef>
#include <vector>

namespace hearth::host {

/// Weights of a dense row of n that are zero; -0 is. `values` is a type that has a sparse one, n a multiple of 32.
uint32_t count_zeros(WeightType values, const std::byte* row, uint32_t n);

/// Adds the sparse form of a dense row to `out`; n is at most sparse_most.
void compress_row(WeightType values, const std::byte* row, uint32_t n, std::vector<std::byte>& out);

/// Row r of a sparse matrix as a dense row of its values' type, which takes row_bytes(values_of(m.type), m.cols).
void expand_row(const Matrix& m, uint64_t r, std::byte* dense);

/// The first row of a sparse matrix whose bits, counts and length contradict each other, so that a kernel might read
/// beyond it; m.rows where there is none. Rows that lie within the file are looked at, no values.
uint64_t first_broken_row(const Matrix& m);

}    // namespace hearth::host
