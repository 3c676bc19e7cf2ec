// The down projection by neurons, of a file that has it by columns.
#pragma once

#include "host/arena.h"
#include "host/matrix.h"

namespace hearth {

/// What (rows, cols) will be made of a matrix that is stored as (cols, rows), or of as many such matrices as there are
/// experts, one below the other.
Matrix transposed_shape(const Matrix& stored, uint32_t experts);

/// The transposed matrix `out`, in `data`. False where halves, of which it is to be, do not hold what is stored: some
/// weight is beyond them, or a row is of weights so small that halves are much less exact for them than its blocks are.
bool transpose_to(const Matrix& out, const Matrix& stored, uint32_t experts, std::byte* data, host::Team& team);

}    // namespace hearth
