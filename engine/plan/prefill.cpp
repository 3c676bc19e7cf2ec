#include "engine/plan/prefill.h"

#include <algorithm>

namespace hearth {

namespace {

constexpr uint32_t tile = 64;    // tokens that a side takes at once

double products_of(const Matrix& m) { return double(m.rows) * m.cols; }

/// The fastest way of the device, in billions a second; of sums over neurons, whose weights have scales of their own,
/// not in integers.
double device_rate(const Machine& m, WeightType type, bool sum)
{
    auto rates = m.products[format_number(type)];
    if (sum) rates[size_t(Product::integers)] = 0;
    return std::max(std::ranges::max(rates), 1e-9);
}

struct Work {
    double host = 0, device = 0;    // microseconds for a token
    double bytes = 0;
};

Work work_of(const Matrix& m, const Machine& machine, bool sum)
{
    if (m.rows == 0) return {};
    const double products = products_of(m), host = std::max(machine.host_products[format_number(m.type)], 1e-9);
    return {products / host / 1000, products / device_rate(machine, m.type, sum) / 1000, double(m.bytes())};
}

Work operator+(const Work& a, const Work& b) { return {a.host + b.host, a.device + b.device, a.bytes + b.bytes}; }

/// Microseconds to read so many bytes once.
double read_us(double bytes, double gb_per_s) { return bytes / std::max(gb_per_s, 1e-9) / 1000; }

/// Scores and mixture of one layer: half of all pairs of positions, twice.
double scores(const Config& c, double tokens) { return double(c.heads) * c.head_dim * tokens * tokens; }

}    // namespace

double prefill_us(const Weights& weights, const Needs& needs, const Decision& decision, const Machine& m,
                  uint32_t tokens)
{
    const Config& c = weights.config;
    const double chosen = c.experts ? double(c.experts_used) / c.experts : 1, n = tokens;
    const bool streams = decision.shape.ring_bytes > 0 && tokens >= decision.shape.stream_from;
    const double whole = ceil_div(tokens, tile) * tile;    // tiles are computed whole
    double us = 0;
    for (uint32_t l = 0; l < c.layers; ++l) {
        const LayerWeights& w = weights.layers[l];
        Work attention, ffn;
        for (const Matrix* x : {&w.attention.q, &w.attention.k, &w.attention.v, &w.attention.o})
            attention = attention + work_of(*x, m, false);
        for (const Matrix* x : {&w.ffn.gate, &w.ffn.up}) ffn = ffn + work_of(*x, m, false);
        ffn = ffn + work_of(w.ffn.either_down(), m, w.ffn.down_t.rows > 0);
        const bool on_device = l < decision.plan.layers.size();
        if (!on_device) {
            const double compute =
                n * (attention.host + chosen * ffn.host) +
                scores(c, n) / std::max(m.host_products[format_number(WeightType::f16)], 1e-9) / 1000;
            us += std::max(compute, read_us(attention.bytes + ffn.bytes, m.host.read));
            continue;
        }
        us += std::max(whole * attention.device, read_us(attention.bytes, m.on_device.read)) +
              scores(c, n) / device_rate(m, WeightType::f16, true) / 1000;
        const double here = needs.layers[l].groups
                                ? double(decision.plan.layers[l].resident.size()) / needs.layers[l].groups
                                : 1,
                     there = 1 - here;
        if (streams) us += std::max(whole * ffn.device, read_us(there * ffn.bytes, m.upload));
        else
            us += std::max(std::max(here * whole * ffn.device, read_us(here * ffn.bytes, m.on_device.read)),
                           std::max(there * n * chosen * ffn.host, read_us(there * ffn.bytes, m.host.read)));
    }
    return us;
}

double look_us(const TowerFacts& tower, const TowerPlan& plan, const Machine& m, uint32_t tiles)
{
    const Config& c = tower.layers.config;
    const bool on_device = plan.room > 0;
    const uint32_t groups = ceil_div(c.neurons, group_neurons), rows = 1 + tower.patches;
    Needs needs;
    needs.layers.assign(c.layers, {.groups = groups});
    Decision all;
    if (on_device) all.plan.layers.assign(c.layers, {std::vector<uint32_t>(groups)});
    // Every row sees all others: the other half of the pairs, too.
    const double scores_rate = on_device ? device_rate(m, WeightType::f16, true)
                                         : std::max(m.host_products[format_number(WeightType::f16)], 1e-9);
    double us = prefill_us(tower.layers, needs, all, m, rows) + c.layers * scores(c, rows) / scores_rate / 1000;
    for (const Matrix* x : tower.projector) {
        const Work work = work_of(*x, m, false);
        us += tower.patches * (on_device ? work.device : work.host);
    }
    const double copied = on_device && !plan.kept ? double(tower.needs.weights()) : 0;
    return tiles * us + read_us(copied, m.upload);
}

}    // namespace hearth
