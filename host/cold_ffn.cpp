#include "host/cold_ffn.h"

#include "host/matmul.h"

#include <algorithm>
#include <atomic>
#include <cmath>

namespace hearth::host {

float activate(Activation a, float floor, float x)
{
    switch (a) {
    case Activation::silu: return x / (1.0f + std::exp(-x));
    case Activation::gelu: return 0.5f * x * (1.0f + std::erf(x * 0.70710678f));
    case Activation::gelu_tanh: return x / (1.0f + std::exp(-1.5957691f * (x + 0.044715f * x * x * x)));
    case Activation::relu:
    case Activation::drelu: break;
    }
    return x <= floor ? 0.0f : x;
}

namespace {

float activate(const FfnWeights& w, float x) { return activate(w.activation, w.floor, x); }
float activate_up(const FfnWeights& w, float x) { return w.activation == Activation::drelu && x <= 0 ? 0.0f : x; }

/// One call: place p of h belongs to neurons[p].
struct Share {
    Team& team;
    const FfnWeights& w;
    const Inputs& x;
    float cut;
    std::span<const float> strengths;
    FfnScratch& scratch;
    std::vector<uint32_t>& neurons = scratch.neurons;
    std::vector<float>& h = scratch.h;    // (neurons, tokens)

    bool skips() const { return cut >= 0; }
    Matrix columns_of_down() const
    {
        return w.down.columns(neurons.empty() ? 0 : neurons[0], uint32_t(neurons.size()));
    }
    FfnCounts gate_and_up() const;
    void gate_and_up_some(uint32_t first, uint32_t last) const;
    void gate_and_up_tiled() const;
    void down_one(float* y) const;
    void down_dense(float* y) const;
};

/// Some neurons of few tokens: all gates, then up where they fired for any token, each time with the rows known that
/// come next.
void Share::gate_and_up_some(uint32_t first, uint32_t last) const
{
    constexpr uint32_t most = 256;
    const uint32_t tokens = x.tokens();
    for (; first < last; first += most) {
        uint32_t fired[most], count = 0;
        const uint32_t end = std::min(first + most, last);
        multiply_some(
            w.gate, end - first, last - first, [&](uint32_t j) { return neurons[first + j]; }, x,
            [&](uint32_t j, const float* products) {
                for (uint32_t t = 0; t < tokens; t++) h[size_t(first + j) * tokens + t] = products[t];
            });
        for (uint32_t p = first; p < end; p++) {
            bool fires = false;
            for (uint32_t t = 0; t < tokens; t++) {
                float& strength = h[size_t(p) * tokens + t];
                const float gate = activate(w, strength + w.bias_of(neurons[p]));
                const bool silent = std::abs(gate) <= cut;    // what is not a number is not: it has to be seen
                strength = silent ? 0.0f : gate;
                fires |= !silent;
            }
            fired[count] = p;
            count += fires;
        }
        if (w.up.rows == 0 || count == 0) continue;
        multiply_some(
            w.up, count, count, [&](uint32_t i) { return neurons[fired[i]]; }, x,
            [&](uint32_t i, const float* products) {
                for (uint32_t t = 0; t < tokens; t++) h[size_t(fired[i]) * tokens + t] *= activate_up(w, products[t]);
            });
    }
}

/// The same for so many tokens that all gates and ups are computed, tile by tile.
void Share::gate_and_up_tiled() const
{
    const uint32_t tokens = x.tokens(), count = uint32_t(neurons.size());
    const auto row = [&](uint32_t p) { return neurons[p]; };
    /// f(h, product) for every row and token
    const auto each = [&](const Products& products, const auto& f) {
        for (uint32_t r = 0; r < products.rows; r++) {
            const uint32_t p = products.first_row + r;
            float* const to = &h[size_t(p) * tokens + products.first_token];
            for (uint32_t t = 0; t < products.tokens; t++)
                f(p, to[t], products.of_row[size_t(r) * products.stride + t]);
        }
    };
    multiply_tiled(team, w.gate, count, row, x, [&](const Products& products) {
        each(products, [&](uint32_t p, float& out, float product) {
            const float gate = activate(w, product + w.bias_of(neurons[p]));
            out = std::abs(gate) <= cut ? 0.0f : gate;
        });
    });
    if (w.up.rows == 0) return;
    multiply_tiled(team, w.up, count, row, x, [&](const Products& products) {
        each(products, [&](uint32_t, float& out, float product) { out *= activate_up(w, product); });
    });
}

/// h = act(gate . x + bias) (up . x)
FfnCounts Share::gate_and_up() const
{
    const uint32_t tokens = x.tokens();
    std::atomic<uint64_t> active = 0, touched = 0;
    const Rows gates(w.gate), ups(w.up), downs(w.down_t);
    const bool tiled = tokens > kernels().of(w.gate.type).few_tokens;
    if (tiled) gate_and_up_tiled();

    parallel_rows(team, uint32_t(neurons.size()), w.gate.mean_row_bytes() + (skips() ? 0 : w.up.mean_row_bytes()),
                  [&](uint32_t first, uint32_t last) {
                      if (!tiled) gate_and_up_some(first, last);
                      for (uint32_t p = first; p < last && !strengths.empty(); p++) h[p] *= strengths[p];

                      uint64_t chunk_active = 0, chunk_touched = 0;
                      for (uint32_t p = first; p < last; p++) {
                          const float* row = &h[size_t(p) * tokens];
                          const uint64_t nonzero = uint64_t(tokens - std::count(row, row + tokens, 0.0f));
                          chunk_active += nonzero;
                          chunk_touched += gates.bytes(neurons[p]);
                          if (nonzero > 0 || !skips()) chunk_touched += ups.bytes(neurons[p]) + downs.bytes(neurons[p]);
                      }
                      active.fetch_add(chunk_active, std::memory_order_relaxed);
                      touched.fetch_add(chunk_touched, std::memory_order_relaxed);
                  });
    return {active, touched + (w.down.rows > 0 ? columns_of_down().bytes() : 0), neurons.size() * tokens};
}

/// y = sum_p h_p down_t_p for one token. A part of the rows after the other, in order, each with a sum of its own; how
/// many parts there are depends on the rows alone. Cutting the columns instead would read little pieces of every row.
void Share::down_one(float* y) const
{
    constexpr uint64_t part_bytes =
        160 << 10;    // a sum is written and read again: at most a tenth of what its rows take
    constexpr uint32_t most_parts = 32, together = 32, rows_ahead = 16;
    const auto axpy = kernels().of(w.down_t.type).axpy;
    const uint32_t dim = w.down_t.cols, rows = uint32_t(neurons.size());
    const uint64_t bytes = w.down_t.mean_row_bytes();
    const uint32_t parts = uint32_t(std::clamp<uint64_t>(rows * bytes / part_bytes, 1, most_parts));
    const Rows downs(w.down_t);
    std::vector<float>& sums = scratch.sums;
    sums.resize(size_t(parts - 1) * dim);
    const auto sum_of = [&](uint32_t part) { return part ? &sums[size_t(part - 1) * dim] : y; };

    const auto first_of = [&](uint32_t part) { return uint32_t(uint64_t(rows) * part / parts); };

    team.parallel(parts, [&](uint32_t part) {
        float* const sum = sum_of(part);
        std::fill_n(sum, dim, 0.0f);
        const uint32_t last = first_of(part + 1);
        // Behind its end, the beginning of the part that this thread will probably do next is fetched.
        const uint32_t next = part + team.size() < parts ? first_of(part + team.size()) : 0;
        const auto ahead_of = [&](uint32_t p) {
            return p + rows_ahead < last ? p + rows_ahead : next ? next + (p + rows_ahead - last) : last - 1;
        };
        for (uint32_t p = first_of(part); p < last; p += together) {
            Term terms[together];
            const uint32_t count = std::min(together, last - p);
            for (uint32_t i = 0; i < count; i++)
                terms[i] = {h[p + i], downs[neurons[p + i]], downs[neurons[std::min(ahead_of(p + i), rows - 1)]]};
            axpy(terms, count, sum, dim);
        }
    });
    if (parts == 1) return;
    parallel_rows(team, (dim + 15) / 16, parts * 16 * sizeof(float), [&](uint32_t first, uint32_t last) {
        const uint32_t begin = first * 16, end = std::min(last * 16, dim);
        for (uint32_t part = 1; part < parts; part++) {
            const float* const sum = sum_of(part);
            for (uint32_t i = begin; i < end; i++) y[i] += sum[i];
        }
    });
}

/// y[t] = down h[t], down as the file has it.
void Share::down_dense(float* y) const
{
    const uint32_t tokens = x.tokens(), count = uint32_t(neurons.size());
    if (count == 0) {
        std::fill_n(y, size_t(tokens) * w.down.rows, 0.0f);
        return;
    }
    const float* by_token = h.data();
    if (tokens > 1) {
        constexpr uint32_t line = 16;    // neurons: what a token gets of them is a cache line
        scratch.by_token.resize(h.size());
        team.parallel((count + line - 1) / line, [&](uint32_t chunk) {
            const uint32_t first = chunk * line, last = std::min(first + line, count);
            for (uint32_t t = 0; t < tokens; t++)
                for (uint32_t p = first; p < last; p++)
                    scratch.by_token[size_t(t) * count + p] = h[size_t(p) * tokens + t];
        });
        by_token = scratch.by_token.data();
    }
    scratch.inputs.prepare(team, by_token, tokens, count, is_quantised(w.down.type));
    multiply(team, columns_of_down(), scratch.inputs, y);
}

}    // namespace

FfnCounts cold_ffn(Team& team, const FfnWeights& w, std::span<const uint32_t> wanted, const Inputs& x, float cut,
                   float* y, FfnScratch& scratch, std::span<const float> strengths)
{
    std::vector<uint32_t>& neurons = scratch.neurons;
    neurons.assign(wanted.begin(), wanted.end());
    scratch.h.resize(neurons.size() * x.tokens());

    const Share share{team, w, x, cut, strengths, scratch};
    const FfnCounts counts = share.gate_and_up();
    if (w.down.rows > 0) {
        share.down_dense(y);
        return counts;
    }
    if (x.tokens() != 1) {
        multiply_transposed(team, w.down_t, neurons, scratch.h.data(), x.tokens(), y);
        return counts;
    }
    if (share.skips()) {    // keep those that fired, in order; without a branch that would be mispredicted at every
                            // fifth neuron
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
