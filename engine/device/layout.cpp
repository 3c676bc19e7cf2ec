#include "engine/device/layout.h"

#include "host/kernels.h"
#include "host/sparse.h"

#include <algorithm>
#include <cstring>
#include <numeric>

namespace hearth {

using vulkan::aligned;

GpuMatrix GpuMatrix::part(uint32_t first, uint32_t count) const
{
    GpuMatrix out = *this;
    out.rows = count;
    const uint64_t offset = RowLayout::bytes(first);
    out.row_bytes = rows ? row_bytes * count / rows : 0;
    out.memory = memory.part(offset, out.bytes());
    return out;
}

namespace {

/// Where a block's scales lie in the file, and how many bytes each block's take on the device.
struct ScaleBytes {
    uint32_t offset = 0, bytes = 0, stride = bytes;
};

/// Of a format with blocks: one or two runs of scales, as row.glsl has them.
struct BlockLayout {
    WeightType type;
    ScaleBytes scales[2];
    uint32_t ready = 0;    // where the file's block has the low bits as the device wants them; 0: nowhere
};

constexpr BlockLayout block_layouts[] = {
    {WeightType::q8_0, {{0, 2}}, offsetof(BlockQ8_0, q)},
    {WeightType::q4_0, {{0, 2}}, offsetof(BlockQ4_0, q)},
    {WeightType::q4_1, {{0, 4}}, offsetof(BlockQ4_1, q)},
    {WeightType::q5_0, {{0, 2}}},
    {WeightType::q5_1, {{0, 4}}},
    {WeightType::iq4_nl, {{0, 2}}, offsetof(BlockIQ4_NL, q)},
    {WeightType::mxfp4, {{0, 1}}, offsetof(BlockMXFP4, q)},
    {WeightType::q2_k, {{offsetof(BlockQ2_K, scale), 16}, {offsetof(BlockQ2_K, d), 4}}},
    {WeightType::q3_k, {{offsetof(BlockQ3_K, scale), 14, 16}}},
    {WeightType::q4_k, {{offsetof(BlockQ4_K, d), 16}}},
    {WeightType::q5_k, {{offsetof(BlockQ5_K, d), 16}}},
    {WeightType::q6_k, {{offsetof(BlockQ6_K, scale), 16}, {offsetof(BlockQ6_K, d), 2}}},
    {WeightType::iq4_xs, {{0, 8}}, offsetof(BlockIQ4_XS, q)},
};

const BlockLayout& block_layout_of(WeightType type)
{
    return *std::ranges::find(block_layouts, type, &BlockLayout::type);
}

/// `bits` bits of each of 32 integers, from bit `shift` on, as row.glsl has them: four bytes at a time.
template <uint32_t bits>
void pack(const uint8_t* q, uint32_t shift, std::byte* to)
{
    constexpr uint32_t mask = 0x01010101u * ((1u << bits) - 1), words = 8 / bits;    // that share one
    uint32_t four[8];
    std::memcpy(four, q, sizeof four);
    for (uint32_t k = 0; k < bits; ++k) {
        uint32_t word = 0;
        for (uint32_t j = 0; j < words; ++j)
            word |= (four[bits == 4 ? k + 4 * j : words * k + j] >> shift & mask) << bits * j;
        std::memcpy(to + 4 * k, &word, sizeof word);
    }
}

void pack(const uint8_t* q, uint32_t bits, uint32_t shift, std::byte* to)
{
    switch (bits) {
    case 8: std::memcpy(to, q, 32); break;
    case 4: pack<4>(q, shift, to); break;
    case 2: pack<2>(q, shift, to); break;
    case 1: pack<1>(q, shift, to); break;
    }
}

/// The same bytes of so many blocks. Returns what comes behind them.
template <uint32_t bytes>
std::byte* copy_blocks(const std::byte* from, uint32_t step, uint32_t blocks, uint32_t stride, std::byte* to)
{
    for (; blocks > 0; --blocks, from += step, to += stride) std::memcpy(to, from, bytes);
    return to;
}

/// The copy_blocks of so many bytes.
auto copier(uint32_t bytes)
{
    switch (bytes) {
    case 1: return copy_blocks<1>;
    case 2: return copy_blocks<2>;
    case 4: return copy_blocks<4>;
    case 8: return copy_blocks<8>;
    case 14: return copy_blocks<14>;
    case 16: return copy_blocks<16>;
    case 32: return copy_blocks<32>;
    default: HEARTH_CHECK(bytes == 128); return copy_blocks<128>;
    }
}

}    // namespace

uint64_t device_bytes(WeightType type, uint32_t n)
{
    if (!is_quantised(type)) return row_bytes(type, n);
    const WeightFormat& f = format_of(type);
    const BlockLayout& l = block_layout_of(type);
    return uint64_t(n) / 32 * 4 * (f.low + f.high) + uint64_t(n) / f.block * (l.scales[0].stride + l.scales[1].stride);
}

uint32_t row_quads(WeightType type, uint32_t n) { return ceil_div(device_bytes(type, n), 16); }

static_assert(group_neurons % gpu::sparse_pack == 0);    // a slot has whole packs

RowLayout layout_of(const Matrix& m)
{
    const RowLayout dense = {values_of(m.type), row_quads(values_of(m.type), m.cols)};
    if (!is_sparse(m.type)) return dense;
    constexpr uint32_t pack = gpu::sparse_pack;
    std::vector<uint32_t> quads(std::max(m.rows, pack));
    for (uint32_t r = 0; r < m.rows; ++r) quads[r] = uint32_t(m.row_bytes(r) / 16);
    std::ranges::nth_element(quads, quads.begin() + (pack - 1), std::greater());
    // A pack takes whole slices, as 32 dense rows do, so that all slots together take as often as much as one.
    const uint64_t longest =
        std::accumulate(quads.begin(), quads.begin() + pack, uint64_t(pack * sizeof(uint32_t) / 16));
    const uint32_t stride = uint32_t(aligned(16 * longest) / 16);
    return stride < pack * dense.stride ? RowLayout{m.type, stride} : dense;
}

uint64_t lay_out_unit(const Matrix& m, const RowLayout& layout, std::span<const uint64_t> row_numbers, std::byte* to)
{
    if (!is_sparse(layout.type)) {
        const uint64_t r = row_numbers[0];
        std::vector<std::byte> dense;
        if (r < m.rows && is_sparse(m.type))
            host::expand_row(m, r, (dense.resize(row_bytes(layout.type, m.cols)), dense.data()));
        if (r < m.rows) lay_out_row(layout.type, dense.empty() ? m.row(r) : dense.data(), m.cols, to);
        else std::memset(to, 0, layout.unit_bytes());
        return layout.unit_bytes();
    }
    uint32_t starts[gpu::sparse_pack];
    uint64_t at = sizeof starts;
    std::memset(to, 0, layout.unit_bytes());
    for (uint32_t i = 0; i < gpu::sparse_pack; ++i) {
        const uint64_t r = i < row_numbers.size() ? row_numbers[i] : m.rows;
        starts[i] = uint32_t(at / 16);
        if (r < m.rows) std::memcpy(to + at, m.row(r), m.row_bytes(r));
        at += r < m.rows ? m.row_bytes(r) : sparse_row_bytes(m.type, m.cols, 0);
    }
    HEARTH_CHECK(at <= layout.unit_bytes());
    std::memcpy(to, starts, sizeof starts);
    return at;
}

uint32_t chunk_weights(WeightType type)
{
    const uint32_t low = format_of(values_of(type)).low;
    return low < 8 ? 32 : 128 / low;
}

void lay_out_row(WeightType type, const std::byte* row, uint32_t n, std::byte* to)
{
    std::byte* const end = to + uint64_t(row_quads(type, n)) * 16;
    if (!is_quantised(type)) {
        const uint64_t bytes = row_bytes(type, n);
        std::memcpy(to, row, bytes);
        std::fill(to + bytes, end, std::byte(0));
        return;
    }
    const WeightFormat& f = format_of(type);
    const BlockLayout& l = block_layout_of(type);
    const auto integers = host::kernels().of(type).integers;
    std::byte *low = to, *high = to + n / 8 * f.low, *scales = high + n / 8 * f.high;
    std::fill(scales, end, std::byte(0));
    const uint32_t low_bytes = f.block / 8 * f.low;    // of a block
    if (l.ready) copier(low_bytes)(row + l.ready, f.block_bytes, n / f.block, low_bytes, low);
    constexpr uint32_t span = 256;    // weights at a time; no format has larger blocks
    uint8_t q[span];
    for (uint32_t first = 0; first < n && !l.ready; first += span) {
        const uint32_t count = std::min(span, n - first);
        integers(row + row_bytes(type, first), q, count);
        for (uint32_t i = 0; i < count; i += 32, low += 4 * f.low, high += 4 * f.high) {
            pack(q + i, f.low, 0, low);
            pack(q + i, f.high, f.low, high);
        }
    }
    for (const ScaleBytes& s : l.scales) {
        if (s.bytes > 0) scales = copier(s.bytes)(row + s.offset, f.block_bytes, n / f.block, s.stride, scales);
    }
}

}    // namespace hearth
