#include "host/matmul.h"

#include <algorithm>
#include <cstring>

namespace hearth::host {

namespace {

constexpr uint32_t bytes_of_a_panel = 16 << 10;

uint32_t ceil_to(uint32_t n, uint32_t unit) { return (n + unit - 1) / unit * unit; }

/// Rows unpacked at a time: they are read once per tile of tokens, from L2.
uint32_t block_rows(uint32_t bytes_per_row)
{
    constexpr uint32_t room = 400 << 10;
    const uint32_t unit = kernels().tile_rows;
    return std::clamp(room / bytes_per_row / unit * unit, unit, 8 * unit);
}

/// From row to row, in elements of so many bytes: an odd number of cache lines, so that the rows of a tile, which are
/// read side by side, are not all in the same few places of L1, as rows of 4096 numbers one behind the other would be.
template <class T>
size_t row_stride(uint32_t n)
{
    constexpr size_t line = 64;
    return ((n * sizeof(T) + line - 1) / line | 1) * line / sizeof(T);
}

/// Some rows of a matrix, unpacked for the kernels.
struct UnpackedRows {
    std::vector<float> w, d, added;
    std::vector<int16_t> q;
    std::vector<float> c;    // their products with one tile of tokens
};

}    // namespace

void multiply_tiled(Team& team, const Matrix& w, uint32_t rows, const std::function<uint32_t(uint32_t)>& row,
                    const Inputs& x, const ProductSink& out)
{
    const Kernels& cpu = kernels();
    const RowKernels& format = cpu.of(w.type);
    const uint32_t n = w.cols, tokens = x.tokens(), width = cpu.tile_tokens, tiles = (tokens + width - 1) / width,
                   blocks = n / fixed_block;
    const bool fixed = format.fixed;
    const PackedInputs& packed = x.packed(team, fixed);
    const size_t stride = fixed ? row_stride<int16_t>(n) : row_stride<float>(n);
    // So much of a tile of tokens at a time as stays in L1 while all rows go by.
    const uint32_t panel = bytes_of_a_panel / width / uint32_t(fixed ? sizeof(int16_t) : sizeof(float));
    const uint32_t together = block_rows(n * uint32_t(fixed ? sizeof(int16_t) : sizeof(float)));

    team.parallel((rows + together - 1) / together, [&](uint32_t chunk) {
        const uint32_t first = chunk * together, count = std::min(together, rows - first),
                       padded = ceil_to(count, cpu.tile_rows);
        thread_local UnpackedRows unpacked;
        UnpackedRows& u = unpacked;
        if (fixed) {
            u.q.resize(padded * stride);
            u.d.resize(size_t(padded) * blocks);
            u.added.resize(size_t(padded) * blocks);
        } else {
            u.w.resize(padded * stride);
        }
        u.c.resize(size_t(padded) * width);
        for (uint32_t r = 0; r < padded; r++) {    // the rows behind the last are the last once more
            const std::byte* const from = w.row(row(first + std::min(r, count - 1)));
            if (fixed) format.fixed(from, &u.q[r * stride], &u.d[size_t(r) * blocks], &u.added[size_t(r) * blocks], n);
            else format.decode(from, &u.w[r * stride], n);
        }
        for (uint32_t tile = 0; tile < tiles; tile++) {
            std::ranges::fill(u.c, 0.0f);
            for (uint32_t k = 0; k < n; k += panel) {
                const uint32_t inner = std::min(panel, n - k);
                for (uint32_t r = 0; r < count; r += cpu.tile_rows) {
                    const size_t of_x = (size_t(tile) * n + k) * width, block = size_t(r) * blocks + k / fixed_block,
                                 block_of_x = (size_t(tile) * blocks + k / fixed_block) * width;
                    if (fixed && format.has_minima)    // sum_b added[r][b] (the sum of block b of x[t])
                        cpu.float_tile({.w = &u.added[block],
                                        .row_stride = blocks,
                                        .step = 1,
                                        .x = &packed.sum[block_of_x],
                                        .x_stride = width,
                                        .inner = inner / fixed_block,
                                        .c = &u.c[size_t(r) * width]});
                    if (fixed)
                        cpu.fixed_tile({.q = &u.q[r * stride + k],
                                        .row_stride = stride,
                                        .d = &u.d[block],
                                        .block_stride = blocks,
                                        .x = &packed.pairs[of_x],
                                        .scale = &packed.scale[block_of_x],
                                        .inner = inner,
                                        .halves = format.halves,
                                        .c = &u.c[size_t(r) * width]});
                    else
                        cpu.float_tile({.w = &u.w[r * stride + k],
                                        .row_stride = stride,
                                        .step = 1,
                                        .x = &packed.x[of_x],
                                        .x_stride = width,
                                        .inner = inner,
                                        .c = &u.c[size_t(r) * width]});
                }
            }
            out({first, count, tile * width, std::min(width, tokens - tile * width), u.c.data(), width});
        }
    });
}

void multiply_transposed(Team& team, const Matrix& w, std::span<const uint32_t> rows, const float* h, uint32_t tokens,
                         float* y)
{
    const Kernels& cpu = kernels();
    const auto decode = cpu.of(w.type).decode_part;
    const auto add = cpu.of(WeightType::f32).axpy;
    const uint32_t dim = w.cols, unit = std::max({format_of(w.type).block, cpu.tile_tokens, 32u});
    constexpr uint32_t inner = 128, most_cols = 256;    // decoded, they take 128 KB of L2
    const uint32_t wanted = ceil_to((dim + 3 * team.size() - 1) / (3 * team.size()), unit),
                   cols = std::clamp(wanted, unit, std::max(most_cols, unit));
    const uint32_t row_tiles = (tokens + cpu.tile_rows - 1) / cpu.tile_rows;

    team.parallel((dim + cols - 1) / cols, [&](uint32_t slice) {
        const uint32_t first = slice * cols, count = std::min(cols, dim - first),
                       padded = ceil_to(count, cpu.tile_tokens);
        thread_local std::vector<float> decoded, strengths;    // strengths: (row_tiles, inner, tile_rows)
        decoded.assign(size_t(inner) * padded, 0.0f);
        strengths.assign(size_t(inner) * row_tiles * cpu.tile_rows, 0.0f);
        for (uint32_t t = 0; t < tokens; t++) std::fill_n(y + size_t(t) * dim + first, count, 0.0f);
        alignas(64) float c[max_tile];
        for (size_t p = 0; p < rows.size(); p += inner) {
            const uint32_t here = uint32_t(std::min<size_t>(inner, rows.size() - p));
            for (uint32_t i = 0; i < here; i++) {
                decode(w.row(rows[p + i]), dim, first, count, &decoded[size_t(i) * padded]);
                const float* const from = h + (p + i) * tokens;
                for (uint32_t t = 0; t < tokens; t += cpu.tile_rows)
                    std::copy_n(from + t, std::min(cpu.tile_rows, tokens - t),
                                &strengths[size_t(t) * inner + i * cpu.tile_rows]);
            }
            for (uint32_t t = 0; t < tokens; t += cpu.tile_rows)
                for (uint32_t col = 0; col < count; col += cpu.tile_tokens) {
                    std::fill_n(c, cpu.tile_rows * cpu.tile_tokens, 0.0f);
                    cpu.float_tile({.w = &strengths[size_t(t) * inner],
                                    .row_stride = 1,
                                    .step = cpu.tile_rows,
                                    .x = &decoded[col],
                                    .x_stride = padded,
                                    .inner = here,
                                    .c = c});
                    const uint32_t some = std::min(cpu.tile_tokens, count - col);
                    for (uint32_t r = 0; r < std::min(cpu.tile_rows, tokens - t); r++) {
                        const std::byte* const products = reinterpret_cast<const std::byte*>(c + r * cpu.tile_tokens);
                        const Term term{1, products, products};
                        add(&term, 1, y + size_t(t + r) * dim + first + col, some);
                    }
                }
        }
    });
}

}    // namespace hearth::host
