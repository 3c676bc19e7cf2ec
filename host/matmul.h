// Matrices times many tokens: tiles of rows and tokens, so that a weight that was read and unpacked serves many
// products.
#pragma once

#include "host/linear.h"

namespace hearth::host {

/// Products of rows first_row .. first_row + rows with tokens first_token .. first_token + tokens.
struct Products {
    uint32_t first_row, rows, first_token, tokens;
    const float* of_row;    // (rows, stride)
    uint32_t stride;
};
/// Called once for every row and token, in pieces, on any thread.
using ProductSink = std::function<void(const Products&)>;

/// The rows number row(0) to row(rows - 1) of w times all tokens of x. Every product is one sum in the order of the
/// columns, whatever the threads.
void multiply_tiled(Team& team, const Matrix& w, uint32_t rows, const std::function<uint32_t(uint32_t)>& row,
                    const Inputs& x, const ProductSink& out);

/// y[t][c] = sum_p h[p][t] w[rows[p]][c];  h is (rows.size(), tokens), y (tokens, w.cols) and is overwritten
void multiply_transposed(Team& team, const Matrix& w, std::span<const uint32_t> rows, const float* h, uint32_t tokens,
                         float* y);

}    // namespace hearth::host
