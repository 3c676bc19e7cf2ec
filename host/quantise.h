// Weights into the formats of shaders/blocks.h: the way back of RowKernels::decode, done once per model and not per
// token, so in plain C++. Blocks of 32 are rounded as ggml's reference does it (quantize_row_q8_0_ref, for one, in
// ggml-quants.c), so that files equal those of other tools bit by bit. For blocks of 256 and IQ4_NL there is no such
// reference: scales are searched for, and the sum of squared errors decides. Where some columns count more than others
// (an importance matrix), they are searched for in blocks of 32, too.
#pragma once

#include "shaders/blocks.h"

#include <cstddef>

namespace hearth::host {

/// How a row of one format is made of floats. A number that is not finite, or does not fit into F16, gives weights that
/// are not finite: look at what `decode` makes of the row.
struct RowQuantiser {
    WeightType type;
    /// w_i = x_i rounded; n is a multiple of the format's block
    void (*encode)(const float* x, std::byte* row, uint32_t n);
    /// The same, where the error of weight i counts importance_i > 0 times; nullptr where that changes nothing, or
    /// hardly: a Q8_0 has no smaller error to choose.
    void (*encode_weighted)(const float* x, const float* importance, std::byte* row, uint32_t n) = nullptr;
};

/// The quantiser of a format; nullptr where there is none.
const RowQuantiser* find_quantiser(WeightType type);

}    // namespace hearth::host
