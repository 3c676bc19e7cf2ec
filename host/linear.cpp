#include "host/linear.h"

#include "host/matmul.h"

#include <algorithm>
#include <atomic>

namespace hearth::host {

void parallel_rows(Team& team, uint32_t rows, uint64_t row_bytes, const std::function<void(uint32_t, uint32_t)>& fn)
{
    if (rows == 0) return;
    // Large chunks first, since a kernel starts each without what it would have fetched ahead; small ones last, so that
    // all threads end together. A chunk costs the team about 0.1 us, and a core reads about 10 KB in a microsecond: 16
    // KB keep the share below a tenth.
    constexpr uint64_t least = 16 << 10;
    constexpr uint32_t most_chunks = 512;
    const uint32_t least_rows =
        uint32_t(std::clamp<uint64_t>(least / std::max<uint64_t>(row_bytes, 1), 1, rows)) + rows / most_chunks;
    uint32_t first[most_chunks + 1], chunks = 0;
    for (uint32_t row = 0; row < rows; chunks++) {
        first[chunks] = row;
        uint32_t some = std::max(least_rows, (rows - row) / (2 * team.size()));
        if (some > rows_together)
            some = (some + rows_together - 1) / rows_together *
                   rows_together;    // fewer may be tokens, for each thread some
        row += std::min(rows - row, some);
    }
    first[chunks] = rows;
    team.parallel(chunks, [&](uint32_t i) { fn(first[i], first[i + 1]); });
}

void Inputs::prepare(Team& team, const float* x, uint32_t tokens, uint32_t n, bool quantised, Work work)
{
    work_ = work;
    const Kernels& cpu = kernels();
    const size_t blocks = n / fixed_block, groups = n / group_numbers;
    q_.resize(quantised ? size_t(tokens) * n : 0);
    scale_.resize(quantised ? tokens * blocks : 0);
    sum_.resize(scale_.size());
    const bool by_rows = quantised && tokens <= most_few_tokens;    // more meet tiles, which read neither
    planes_.resize(by_rows && cpu.reads_planes ? tokens * groups : 0);
    for (std::vector<GroupWords>& words : words_) words.resize(by_rows && cpu.reads_words ? tokens * groups : 0);
    half_sum_.resize(by_rows && cpu.reads_words ? 2 * tokens * blocks : 0);
    inputs_.resize(tokens);
    n_ = n;
    has_floats_ = has_fixed_ = false;
    const bool is_alone = tokens == 1;    // then its planes have an order of their own
    const auto fixed_point = [&](size_t t) {
        GroupPlanes* const planes = planes_.empty() ? nullptr : &planes_[t * groups];
        const auto words = [&](uint32_t order) { return words_[order].empty() ? nullptr : &words_[order][t * groups]; };
        return FixedPoint{.q = &q_[t * n],
                          .scale = &scale_[t * blocks],
                          .sum = &sum_[t * blocks],
                          .planes = is_alone ? nullptr : planes,
                          .alone = is_alone ? planes : nullptr,
                          .by_pairs = words(0),
                          .by_blocks = words(1),
                          .half_sum = half_sum_.empty() ? nullptr : &half_sum_[2 * t * blocks]};
    };
    for (size_t t = 0; t < tokens; t++) inputs_[t] = (quantised ? fixed_point(t) : FixedPoint{}).of(x + t * n);
    if (quantised)
        parallel_rows(team, tokens, n * sizeof(float), [&](uint32_t first, uint32_t last) {
            for (size_t t = first; t < last; t++) cpu.quantise(x + t * n, fixed_point(t), n);
        });
}

const PackedInputs& Inputs::packed(Team& team, bool fixed) const
{
    bool& done = fixed ? has_fixed_ : has_floats_;
    if (done) return packed_;
    const uint32_t width = kernels().tile_tokens, tiles = (tokens() + width - 1) / width, blocks = n_ / fixed_block;
    const size_t floats = size_t(tiles) * n_ * width, of_blocks = size_t(tiles) * blocks * width;
    if (fixed) {
        packed_.pairs.assign(floats, 0);
        packed_.scale.assign(of_blocks, 0.0f);
        packed_.sum.assign(of_blocks, 0.0f);
    } else packed_.x.assign(floats, 0.0f);
    team.parallel(tiles, [&](uint32_t tile) {
        for (uint32_t t = 0; t < std::min(width, tokens() - tile * width); t++) {
            const Input& in = inputs_[tile * width + t];
            if (!fixed) {
                float* const to = &packed_.x[size_t(tile) * n_ * width + t];
                for (uint32_t i = 0; i < n_; i++) to[size_t(i) * width] = in.x[i];
                continue;
            }
            int16_t* const to = &packed_.pairs[size_t(tile) * n_ * width + 2 * t];
            for (uint32_t i = 0; i < n_; i += 2) std::copy_n(in.q + i, 2, to + size_t(i) * width);
            for (uint32_t b = 0; b < blocks; b++) {
                packed_.scale[(size_t(tile) * blocks + b) * width + t] = in.scale[b];
                packed_.sum[(size_t(tile) * blocks + b) * width + t] = in.sum[b];
            }
        }
    });
    done = true;
    return packed_;
}

uint64_t sum_words(Team& team, std::span<const uint64_t> words)
{
    constexpr size_t line = 64 / sizeof(uint64_t), chunk = (256 << 10) / sizeof(uint64_t);
    std::atomic<uint64_t> sum = 0;
    team.parallel(uint32_t((words.size() + chunk - 1) / chunk), [&](uint32_t c) {
        const uint64_t *p = words.data() + c * chunk, *const end =
                                                          words.data() + std::min((c + 1) * chunk, words.size());
        uint64_t part[4] = {};
        for (; p + line <= end; p += line) {
            __builtin_prefetch(p + 4096 / sizeof *p);
            for (size_t i = 0; i < line; i++) part[i % 4] += p[i];
        }
        for (; p < end; p++) part[0] += *p;
        sum.fetch_add(part[0] + part[1] + part[2] + part[3], std::memory_order_relaxed);
    });
    return sum;
}

namespace {

/// y[t][j] = sum_i w[row(j)][i] x[t][i] for first <= j < last of so many rows
template <class Row>
void multiply_range(const Matrix& w, uint32_t first, uint32_t last, uint32_t rows, const Row& row, const Inputs& x,
                    float* y)
{
    multiply_some(
        w, last - first, last - first, [&](uint32_t j) { return row(first + j); }, x,
        [&](uint32_t j, const float* products) {
            for (uint32_t t = 0; t < x.tokens(); t++) y[size_t(t) * rows + first + j] = products[t];
        });
}

/// The same for all rows
template <class Row>
void multiply_each(Team& team, const Matrix& w, uint32_t rows, const Row& row, const Inputs& x, float* y)
{
    if (x.in_tiles(w.type)) {
        multiply_tiled(team, w, rows, row, x, [&](const Products& p) {
            for (uint32_t t = 0; t < p.tokens; t++) {
                float* const to = y + size_t(p.first_token + t) * rows + p.first_row;
                for (uint32_t r = 0; r < p.rows; r++) to[r] = p.of_row[size_t(r) * p.stride + t];
            }
        });
        return;
    }
    parallel_rows(team, rows, w.mean_row_bytes(),
                  [&](uint32_t first, uint32_t last) { multiply_range(w, first, last, rows, row, x, y); });
}

}    // namespace

void multiply(Team& team, const Matrix& w, const Inputs& x, float* y)
{
    multiply_each(
        team, w, w.rows, [](uint32_t r) { return r; }, x, y);
}

void multiply(Team& team, std::initializer_list<ProductOf> products, const Inputs& x)
{
    uint32_t rows = 0;
    uint64_t bytes = 0;
    bool tiled = false;
    for (const ProductOf& p : products) {
        rows += p.w.rows;
        bytes += p.w.bytes();
        tiled |= p.w.rows > 0 && x.in_tiles(p.w.type);
    }
    if (tiled) {
        for (const ProductOf& p : products) multiply(team, p.w, x, p.y);
        return;
    }
    parallel_rows(team, rows, rows ? bytes / rows : 0, [&](uint32_t first, uint32_t last) {
        uint32_t before = 0;    // rows of the matrices that came before
        for (const ProductOf& p : products) {
            const uint32_t end = before + p.w.rows, from = std::clamp(first, before, end) - before,
                           to = std::clamp(last, before, end) - before;
            if (from < to)
                multiply_range(
                    p.w, from, to, p.w.rows, [](uint32_t r) { return r; }, x, p.y);
            before = end;
        }
    });
}

void multiply_rows(Team& team, const Matrix& w, std::span<const uint32_t> rows, const Inputs& x, float* y)
{
    multiply_each(
        team, w, uint32_t(rows.size()), [rows](uint32_t j) { return rows[j]; }, x, y);
}

}    // namespace hearth::host
