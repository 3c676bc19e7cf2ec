#include "host/cold_ffn.h"

#include <algorithm>
#include <atomic>
#include <cmath>

namespace hearth::host {
namespace {

float activate(const FfnWeights& w, float x) { return w.activation == Activation::silu ? x / (1.0f + std::exp(-x)) : x <= w.floor ? 0.0f : x; }
float activate_up(const FfnWeights& w, float x) { return w.activation == Activation::drelu && x <= 0 ? 0.0f : x; }

void prefetch(const std::byte* p, uint64_t bytes)
{
    for (uint64_t i = 0; i < bytes; i += 64) __builtin_prefetch(p + i);
}

/// One call: place p of h belongs to neurons[p].
struct Share {
    Team& team;
    const FfnWeights& w;
    const Inputs& x;
    float cut;
    std::vector<uint32_t>& neurons;
    std::vector<float>& h;    // (neurons, tokens)

    bool skips() const { return cut >= 0; }
    FfnCounts gate_and_up() const;
    uint32_t slice_width(uint64_t rows) const;
    void down_one(float* y) const;
    void down_many(float* y) const;
};

/// h = act(gate . x + bias) (up . x)
FfnCounts Share::gate_and_up() const
{
    const uint32_t tokens = x.tokens(), dim = w.gate.cols;
    const uint64_t gate_bytes = row_bytes(w.gate.type, dim), up_bytes = row_bytes(w.up.type, dim);
    const auto gate_dots = kernels().of(w.gate.type).dot_many, up_dots = kernels().of(w.up.type).dot_many;
    std::atomic<uint64_t> active = 0, touched = 0;

    parallel_rows(team, uint32_t(neurons.size()), gate_bytes + (skips() ? 0 : up_bytes), [&](uint32_t first, uint32_t last) {
        for (uint32_t t = 0; t < tokens; t += token_block)
            for (uint32_t p = first; p < last; p++) {
                float gate[token_block], up[token_block];
                Input fired[token_block];    // tokens for which the neuron fires
                uint32_t which[token_block], count = 0;
                const uint32_t together = std::min(token_block, tokens - t);
                float* out = &h[size_t(p) * tokens + t];
                const float bias = w.bias_of(neurons[p]);
                gate_dots(w.gate.row(neurons[p]), &x[t], together, dim, gate);
                for (uint32_t i = 0; i < together; i++) {
                    out[i] = 0;
                    gate[i] = activate(w, gate[i] + bias);
                    if (std::abs(gate[i]) <= cut) continue;
                    fired[count] = x[t + i];
                    which[count++] = i;
                }
                if (count == 0) continue;
                if (w.up.rows == 0) {
                    for (uint32_t i = 0; i < count; i++) out[which[i]] = gate[which[i]];
                    continue;
                }
                up_dots(w.up.row(neurons[p]), fired, count, dim, up);
                for (uint32_t i = 0; i < count; i++) out[which[i]] = gate[which[i]] * activate_up(w, up[i]);
            }

        uint64_t chunk_active = 0, chunk_touched = 0;
        for (uint32_t p = first; p < last; p++) {
            const float* row = &h[size_t(p) * tokens];
            const uint64_t nonzero = uint64_t(tokens - std::count(row, row + tokens, 0.0f));
            chunk_active += nonzero;
            chunk_touched += nonzero > 0 || !skips();
        }
        active.fetch_add(chunk_active, std::memory_order_relaxed);
        touched.fetch_add(chunk_touched, std::memory_order_relaxed);
    });
    return {active, neurons.size() * gate_bytes + touched * (up_bytes + row_bytes(w.down_t.type, w.down_t.cols))};
}

/// Columns in a slice of y when that many rows of down_t are added up: about three slices per worker, fewer if they would be tiny.
uint32_t Share::slice_width(uint64_t rows) const
{
    constexpr uint32_t least_bytes = 16 << 10;
    const uint32_t unit = std::max(format_of(w.down_t.type).block, 32u);
    const uint32_t units = (w.down_t.cols + unit - 1) / unit;
    const uint64_t slices = std::clamp<uint64_t>(rows * row_bytes(w.down_t.type, w.down_t.cols) / least_bytes, 1, 3 * team.size());
    return uint32_t((units + slices - 1) / slices) * unit;
}

/// y = sum_p h_p down_t_p for one token. Every slice of columns adds all rows in ascending order.
void Share::down_one(float* y) const
{
    constexpr size_t ahead = 4;    // rows; the next active one may be anywhere, so the hardware cannot guess it
    const auto axpy = kernels().of(w.down_t.type).axpy;
    const uint32_t dim = w.down_t.cols, width = slice_width(neurons.size());
    team.parallel((dim + width - 1) / width, [&](uint32_t slice) {
        const uint32_t first = slice * width, count = std::min(width, dim - first);
        const uint64_t offset = row_bytes(w.down_t.type, first), bytes = row_bytes(w.down_t.type, count);
        std::fill_n(y + first, count, 0.0f);
        for (size_t p = 0; p < neurons.size(); p++) {
            if (p + ahead < neurons.size()) prefetch(w.down_t.row(neurons[p + ahead]) + offset, bytes);
            axpy(w.down_t.row(neurons[p]), h[p], y, first, count);
        }
    });
}

/// The same for many tokens, with the same bits: a tile of rows is decoded once and added to every token's slice.
void Share::down_many(float* y) const
{
    constexpr uint32_t tile_rows = 16, tile_cols = 256;    // 16 KB: half of L1
    const auto decode = kernels().of(w.down_t.type).decode;
    const uint32_t tokens = x.tokens(), dim = w.down_t.cols, width = std::min(slice_width(neurons.size() * tokens), tile_cols);
    team.parallel((dim + width - 1) / width, [&](uint32_t slice) {
        const uint32_t first = slice * width, count = std::min(width, dim - first);
        const uint64_t offset = row_bytes(w.down_t.type, first);
        alignas(64) float tile[tile_rows][tile_cols];
        for (size_t t = 0; t < tokens; t++) std::fill_n(y + t * dim + first, count, 0.0f);
        for (size_t p = 0; p < neurons.size(); p += tile_rows) {
            const size_t rows = std::min<size_t>(tile_rows, neurons.size() - p);
            for (size_t r = 0; r < rows; r++) decode(w.down_t.row(neurons[p + r]) + offset, tile[r], count);
            for (size_t t = 0; t < tokens; t++) {
                const float* fired[tile_rows];
                float factor[tile_rows];
                uint32_t n = 0;
                for (size_t r = 0; r < rows; r++) {
                    fired[n] = tile[r];
                    factor[n] = h[(p + r) * tokens + t];
                    n += !skips() || factor[n] != 0;
                }
                kernels().axpy_rows(fired, factor, n, y + t * dim + first, count);
            }
        }
    });
}

}    // namespace

FfnCounts cold_ffn(Team& team, const FfnWeights& w, std::span<const uint32_t> wanted, const Inputs& x, float cut, float* y, FfnScratch& scratch)
{
    std::vector<uint32_t>& neurons = scratch.neurons;
    neurons.assign(wanted.begin(), wanted.end());
    scratch.h.resize(neurons.size() * x.tokens());

    const Share share{team, w, x, cut, neurons, scratch.h};
    const FfnCounts counts = share.gate_and_up();
    if (x.tokens() != 1) {
        share.down_many(y);
        return counts;
    }
    if (share.skips()) {    // keep those that fired, in order; without a branch that would be mispredicted at every fifth neuron
        size_t kept = 0;
        for (size_t p = 0; p < neurons.size(); p++) {
            neurons[kept] = neurons[p];
            scratch.h[kept] = scratch.h[p];
            kept += scratch.h[p] != 0;
        }
        neurons.resize(kept);
    }
    share.down_one(y);
    return counts;
}

}    // namespace hearth::host
