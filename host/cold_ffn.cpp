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
    case Activation::quick_gelu: return x / (1.0f + std::exp(-1.702f * x));
    case Activation::relu:
    case Activation::drelu: break;
    }
    return x <= floor ? 0.0f : x;
}

namespace {

/// x_i = act(x_i)
void activate(const FfnWeights& w, float* x, size_t n)
{
    const auto gate = [&](float linear, float cubic) { kernels().gate(x, uint32_t(n), linear, cubic); };
    switch (w.activation) {
    case Activation::silu: return gate(1, 0);
    case Activation::gelu_tanh: return gate(1.5957691f, 1.5957691f * 0.044715f);
    case Activation::quick_gelu: return gate(1.702f, 0);
    case Activation::gelu:
    case Activation::relu:
    case Activation::drelu: break;
    }
    for (size_t i = 0; i < n; i++) x[i] = activate(w.activation, w.floor, x[i]);
}

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
    std::vector<float>& h = scratch.h;    // (neurons, rows of x)

    bool skips() const { return cut >= 0; }
    Matrix columns_of_down() const
    {
        return w.down.columns(neurons.empty() ? 0 : neurons[0], uint32_t(neurons.size()));
    }
    FfnCounts gate_and_up() const;
    void gate_and_up_some(uint32_t first, uint32_t last) const;
    void gate_and_up_tiled() const;
    void list_terms() const;
    void keep_fired() const;
    void down_few(float* y) const;
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
        if (w.bias.rows > 0)
            for (uint32_t p = first; p < end; p++)
                for (uint32_t t = 0; t < tokens; t++) h[size_t(p) * tokens + t] += w.bias_of(neurons[p]);
        activate(w, &h[size_t(first) * tokens], size_t(end - first) * tokens);
        for (uint32_t p = first; p < end; p++) {
            bool fires = !skips();
            for (uint32_t t = 0; t < tokens && skips(); t++) {
                float& gate = h[size_t(p) * tokens + t];
                const bool silent = std::abs(gate) <= cut;    // what is not a number is not: it has to be seen
                gate = silent ? 0.0f : gate;
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
    /// f(place, its h of some tokens, their products)
    const auto each_row = [&](const Products& products, const auto& f) {
        for (uint32_t r = 0; r < products.rows; r++) {
            const uint32_t p = products.first_row + r;
            f(p, &h[size_t(p) * tokens + products.first_token], &products.of_row[size_t(r) * products.stride]);
        }
    };
    multiply_tiled(team, w.gate, count, row, x, [&](const Products& products) {
        each_row(products, [&](uint32_t p, float* gates, const float* of_row) {
            const float bias = w.bias_of(neurons[p]);
            for (uint32_t t = 0; t < products.tokens; t++) gates[t] = of_row[t] + bias;
            activate(w, gates, products.tokens);
            for (uint32_t t = 0; t < products.tokens && skips(); t++)
                if (std::abs(gates[t]) <= cut) gates[t] = 0;
        });
    });
    if (w.up.rows == 0) return;
    multiply_tiled(team, w.up, count, row, x, [&](const Products& products) {
        each_row(products, [&](uint32_t, float* out, const float* of_row) {
            for (uint32_t t = 0; t < products.tokens; t++) out[t] *= activate_up(w, of_row[t]);
        });
    });
}

/// h = act(gate . x + bias) (up . x)
FfnCounts Share::gate_and_up() const
{
    const uint32_t tokens = x.tokens();
    std::atomic<uint64_t> active = 0, touched = 0, looked_at = 0;
    const Rows gates(w.gate), ups(w.up), downs(w.down_t);
    const bool tiled = x.in_tiles(w.gate.type);
    if (tiled) gate_and_up_tiled();

    parallel_rows(team, uint32_t(neurons.size()), w.gate.mean_row_bytes() + (skips() ? 0 : w.up.mean_row_bytes()),
                  [&](uint32_t first, uint32_t last) {
                      if (!tiled) gate_and_up_some(first, last);
                      const size_t begin = size_t(first) * tokens, end = size_t(last) * tokens;
                      uint64_t chunk_touched = 0, chunk_looked_at = end - begin;
                      if (!strengths.empty())
                          for (size_t i = begin; i < end; i++) {
                              h[i] = strengths[i] == 0 ? 0.0f : h[i] * strengths[i];
                              chunk_looked_at -= strengths[i] == 0;
                          }
                      const uint64_t chunk_active =
                          end - begin - uint64_t(std::count(h.data() + begin, h.data() + end, 0.0f));
                      for (uint32_t p = first; p < last; p++) {
                          const float* row = &h[size_t(p) * tokens];
                          const bool fires = !skips() || std::any_of(row, row + tokens, [](float v) { return v != 0; });
                          chunk_touched += gates.bytes(neurons[p]);
                          if (fires) chunk_touched += ups.bytes(neurons[p]) + downs.bytes(neurons[p]);
                      }
                      active.fetch_add(chunk_active, std::memory_order_relaxed);
                      looked_at.fetch_add(chunk_looked_at, std::memory_order_relaxed);
                      touched.fetch_add(chunk_touched, std::memory_order_relaxed);
                  });
    return {active, touched, looked_at};
}

/// What is added for each of few rows, in the order of the neurons. Without a branch that would be mispredicted at
/// every fifth neuron.
void Share::list_terms() const
{
    const size_t rows = x.tokens(), count = neurons.size();
    scratch.terms.resize(std::max(scratch.terms.size(), rows));
    for (size_t r = 0; r < rows; r++) {
        std::vector<FfnScratch::Term>& terms = scratch.terms[r];
        terms.resize(count);
        size_t kept = 0;
        for (size_t p = 0; p < count; p++) {
            const size_t i = p * rows + r;
            terms[kept] = {uint32_t(p), h[i]};
            kept += skips() ? h[i] != 0 : strengths.empty() || strengths[i] != 0;
        }
        terms.resize(kept);
    }
}

/// Keeps the neurons that fired for any of few rows.
void Share::keep_fired() const
{
    const size_t rows = x.tokens();
    size_t kept = 0;
    for (size_t p = 0; p < neurons.size(); p++) {
        bool fired = false;
        for (size_t r = 0; r < rows; r++) fired |= h[p * rows + r] != 0;
        neurons[kept] = neurons[p];
        kept += fired;
    }
    neurons.resize(kept);
}

/// y[r] = sum_p h_pr down_t_p for few rows. Of each row's terms a part after the other, in order, each with a sum of
/// its own; how many parts there are depends on the row alone. Cutting the columns instead would read little pieces of
/// every row of weights. The same part of all rows is one thread's, so that what they share is read once.
void Share::down_few(float* y) const
{
    constexpr uint64_t part_bytes =
        160 << 10;    // a sum is written and read again: at most a tenth of what its rows take
    constexpr uint32_t most_parts = 32, together = 32, rows_ahead = 16;
    const auto axpy = kernels().of(w.down_t.type).axpy;
    const uint32_t dim = w.down_t.cols, rows = x.tokens();
    const uint64_t bytes = w.down_t.mean_row_bytes();
    const Rows downs(w.down_t);

    struct Sums {    // of one row
        std::span<const FfnScratch::Term> terms;
        uint32_t parts, dim;
        float *first, *later;    // (dim), (parts - 1, dim)

        uint32_t begin(uint32_t part) const { return uint32_t(uint64_t(terms.size()) * part / parts); }
        float* sum(uint32_t part) const { return part ? later + size_t(part - 1) * dim : first; }
    } of_row[most_few];
    uint32_t most = 0, all = 0;
    for (uint32_t r = 0; r < rows; r++) {
        const auto& terms = scratch.terms[r];
        const uint32_t parts = uint32_t(std::clamp<uint64_t>(terms.size() * bytes / part_bytes, 1, most_parts));
        of_row[r] = {terms, parts, dim, y + size_t(r) * dim, nullptr};
        most = std::max(most, parts);
        all += parts - 1;
    }
    scratch.sums.resize(size_t(all) * dim);
    float* later = scratch.sums.data();
    for (uint32_t r = 0; r < rows; later += size_t(of_row[r++].parts - 1) * dim) of_row[r].later = later;

    team.parallel(most, [&](uint32_t part) {
        uint32_t next[most_few], end[most_few];    // of each row's terms
        for (uint32_t r = 0; r < rows; r++) {
            const Sums& s = of_row[r];
            next[r] = end[r] = 0;
            if (part >= s.parts) continue;
            next[r] = s.begin(part);
            end[r] = s.begin(part + 1);
            std::fill_n(s.sum(part), dim, 0.0f);
        }
        // Behind its end, the beginning of the part that this thread will probably do next is fetched.
        const auto ahead_of = [&](uint32_t r, uint32_t i) {
            const Sums& s = of_row[r];
            const uint32_t next_part = part + team.size(), ahead = i + rows_ahead,
                           begin = next_part < s.parts ? s.begin(next_part) : 0;
            const uint32_t wanted = ahead < end[r] ? ahead : begin ? begin + (ahead - end[r]) : end[r] - 1;
            return downs[neurons[s.terms[std::min<size_t>(wanted, s.terms.size() - 1)].place]];
        };
        for (;;) {
            // The next few terms of the row whose next neuron comes first: what other rows want of those is then still
            // in the cache. Which terms are added at once depends on their row alone, since a kernel may round them
            // together.
            uint32_t r = 0, place = UINT32_MAX;
            for (uint32_t i = 0; i < rows; i++)
                if (next[i] < end[i] && of_row[i].terms[next[i]].place < place)
                    r = i, place = of_row[i].terms[next[i]].place;
            if (place == UINT32_MAX) break;
            Term terms[together];
            uint32_t count = 0;
            for (; next[r] < end[r] && count < together; next[r]++) {
                const FfnScratch::Term& term = of_row[r].terms[next[r]];
                terms[count++] = {term.strength, downs[neurons[term.place]], ahead_of(r, next[r])};
            }
            axpy(terms, count, of_row[r].sum(part), dim);
        }
    });
    for (const Sums& s : std::span(of_row, rows)) {
        if (s.parts == 1) continue;
        parallel_rows(team, (dim + 15) / 16, s.parts * 16 * sizeof(float), [&](uint32_t first, uint32_t last) {
            const uint32_t begin = first * 16, end = std::min(last * 16, dim);
            for (uint32_t part = 1; part < s.parts; part++) {
                const float* const sum = s.sum(part);
                for (uint32_t i = begin; i < end; i++) s.first[i] += sum[i];
            }
        });
    }
}

/// y[t] = down h[t], down as the file has it.
void Share::down_dense(float* y) const
{
    const uint32_t tokens = x.tokens(), count = uint32_t(neurons.size());
    if (count == 0) {
        std::fill_n(y, size_t(tokens) * w.down.rows, 0.0f);
        return;
    }
    const float* by_row = h.data();
    if (tokens > 1) {
        constexpr uint32_t line = 16;    // neurons: what a token gets of them is a cache line
        scratch.by_row.resize(h.size());
        team.parallel((count + line - 1) / line, [&](uint32_t chunk) {
            const uint32_t first = chunk * line, last = std::min(first + line, count);
            for (uint32_t t = 0; t < tokens; t++)
                for (uint32_t p = first; p < last; p++)
                    scratch.by_row[size_t(t) * count + p] = h[size_t(p) * tokens + t];
        });
        by_row = scratch.by_row.data();
    }
    scratch.inputs.prepare(team, by_row, tokens, count, is_quantised(w.down.type), x.work());
    multiply(team, columns_of_down(), scratch.inputs, y);
}

}    // namespace

FfnCounts cold_gate_and_up(Team& team, const FfnWeights& w, std::span<const uint32_t> neurons, const Inputs& x,
                           float cut, FfnScratch& scratch, std::span<const float> strengths)
{
    scratch.neurons.assign(neurons.begin(), neurons.end());
    scratch.h.resize(neurons.size() * x.tokens());
    return Share{team, w, x, cut, strengths, scratch}.gate_and_up();
}

FfnCounts cold_ffn(Team& team, const FfnWeights& w, std::span<const uint32_t> neurons, const Inputs& x, float cut,
                   float* y, FfnScratch& scratch, std::span<const float> strengths)
{
    FfnCounts counts = cold_gate_and_up(team, w, neurons, x, cut, scratch, strengths);
    const Share share{team, w, x, cut, strengths, scratch};
    if (w.down.rows > 0) {
        share.down_dense(y);
        counts.bytes += share.columns_of_down().bytes();
        return counts;
    }
    if (x.work() == Work::many) {
        multiply_transposed(team, w.down_t, scratch.neurons, scratch.h.data(), x.tokens(), y);
        return counts;
    }
    share.list_terms();
    share.down_few(y);
    if (share.skips() || !strengths.empty()) share.keep_fired();
    return counts;
}

}    // namespace hearth::host
