// Rows of weights as they lie on the device: every type laid out anew, so that 16 aligned bytes are read at a time.
#pragma once

#include "engine/plan/placement.h"
#include "engine/vulkan/device.h"
#include "host/matrix.h"
#include "shaders/kernels.h"

#include <span>

namespace hearth {

/// How the rows of a matrix lie on the device: see shaders/row.glsl.
struct RowLayout {
    WeightType type = WeightType::f32;
    uint32_t stride = 0;    // uvec4 from row to row, of a sparse type from pack to pack

    /// Rows that are laid out together.
    uint32_t unit() const { return is_sparse(type) ? gpu::sparse_pack : 1; }
    uint64_t unit_bytes() const { return uint64_t(stride) * 16; }
    uint64_t bytes(uint64_t rows) const { return (rows + unit() - 1) / unit() * unit_bytes(); }
};

/// A matrix in device memory.
struct GpuMatrix : RowLayout {
    uint32_t rows = 0, cols = 0;
    vulkan::Slice memory;
    uint64_t row_bytes = 0;    // of all its rows alone: what reading them reads
    bool halves = true;        // as halves its weights are as exact as halves are: none is too large, few are too small

    uint64_t bytes() const { return RowLayout::bytes(rows); }
    /// So many of its rows, from one that begins a unit; row_bytes in proportion.
    GpuMatrix part(uint32_t first, uint32_t count) const;
};

/// A sparse matrix stays one, with room in a pack for its longest rows, where that is less than its dense rows take;
/// else it becomes dense.
RowLayout layout_of(const Matrix& m);

/// What a row of n weights takes on the device; and in uvec4, filled up.
uint64_t device_bytes(WeightType type, uint32_t n);
uint32_t row_quads(WeightType type, uint32_t n);

/// Writes a unit of rows of m, of which row_numbers[i] is the number i; one that m does not have is a row of zeros.
/// Returns the bytes of the rows alone.
uint64_t lay_out_unit(const Matrix& m, const RowLayout& layout, std::span<const uint64_t> row_numbers, std::byte* to);

/// Weights that an invocation reads at once; row.glsl knows the same.
uint32_t chunk_weights(WeightType type);

/// Writes a row as the file has it (row_bytes) to `to` as the device wants it (row_quads uvec4).
void lay_out_row(WeightType type, const std::byte* row, uint32_t n, std::byte* to);

}    // namespace hearth
