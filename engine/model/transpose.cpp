#include "engine/model/transpose.h"

#include "host/kernels.h"
#include "host/numbers.h"

#include <atomic>
#include <cstring>
#include <vector>

namespace hearth {

namespace {

/// to[c][first + r] = from[r][c] for `count` rows r of `cols` elements of `size` bytes; a row of `to` has `stride`
/// elements.
template <size_t size>
void transpose(const std::byte* from, uint32_t count, uint32_t cols, std::byte* to, uint32_t first, uint32_t stride)
{
    for (uint32_t c = 0; c < cols; c++)
        for (uint32_t r = 0; r < count; r++)
            std::memcpy(to + (uint64_t(c) * stride + first + r) * size, from + (uint64_t(r) * cols + c) * size, size);
}

/// Whether a column of it cannot be told from its neighbours' without decoding.
bool needs_decoding(WeightType type) { return is_quantised(type) || is_sparse(type); }

}    // namespace

Matrix transposed_shape(const Matrix& stored, uint32_t experts)
{
    return {needs_decoding(stored.type) ? WeightType::f16 : stored.type, stored.cols * experts, stored.rows / experts,
            nullptr};
}

bool transpose_to(const Matrix& out, const Matrix& stored, uint32_t experts, std::byte* data, host::Team& team)
{
    constexpr uint32_t slab = 32;    // stored rows at a time: what they write into a row of the result is a cache line,
                                     // and a slab stays in the cache
    const bool checked =
        needs_decoding(stored.type) && values_of(stored.type) != WeightType::f16 && out.type == WeightType::f16;
    std::atomic<bool> fits = true;
    const host::Kernels& kernels = host::kernels();
    const uint32_t rows = stored.cols, cols = out.cols,
                   slabs = (cols + slab - 1) / slab;    // of one matrix of the result
    team.parallel(experts * slabs, [&](uint32_t i) {
        const uint32_t expert = i / slabs, first = i % slabs * slab, count = std::min(slab, cols - first);
        const uint64_t row = uint64_t(expert) * cols + first;
        const std::byte* from = stored.row(row);
        std::byte* const to = data + uint64_t(expert) * rows * row_bytes(out.type, cols);
        std::vector<float> decoded;
        std::vector<uint16_t> converted;
        if (needs_decoding(stored.type)) {
            const bool halves = out.type == WeightType::f16;
            decoded.resize(halves ? rows : uint64_t(count) * rows);
            converted.resize(halves ? uint64_t(count) * rows : 0);
            for (uint32_t r = 0; r < count; r++) {
                float* const weights = decoded.data() + (halves ? 0 : uint64_t(r) * rows);
                kernels.of(stored.type).decode(stored.row(row + r), weights, rows);
                if (checked && !host::fit_halves({weights, rows})) fits = false;
                if (halves) kernels.to_f16(weights, converted.data() + uint64_t(r) * rows, rows);
            }
            from = halves ? reinterpret_cast<const std::byte*>(converted.data())
                          : reinterpret_cast<const std::byte*>(decoded.data());
        }
        if (out.type == WeightType::f32) transpose<4>(from, count, rows, to, first, cols);
        else transpose<2>(from, count, rows, to, first, cols);
    });
    return fits;
}

}    // namespace hearth
