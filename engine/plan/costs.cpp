#include "engine/plan/costs.h"

#include <algorithm>

namespace hearth {

namespace {

double us(double bytes, double gb_per_s) { return bytes / std::max(gb_per_s, 1e-9) / 1000; }

double row(const Matrix& m) { return double(m.mean_row_bytes()); }

/// Microseconds to read the projections of one layer's attention, its cache for so many positions, and its router.
double attention_us(const LayerWeights& w, const SideRates& rates, double positions, uint64_t position_bytes)
{
    double sum = 0;
    for (const Matrix* m : {&w.q, &w.k, &w.v, &w.o, &w.router.scores})
        sum += us(double(m->bytes()), rates.of(m->type).dot);
    const double seen = w.window ? std::min(positions, double(w.window)) : positions;
    return sum + us(seen * double(position_bytes), rates.kv);
}

/// Microseconds of one side's share of a feed-forward block: so many gates looked at, of which so many fire.
double ffn_us(const host::FfnWeights& w, const SideRates& rates, const LayerUse& use, double neurons, double looked_at,
              double fired)
{
    const double down = double(w.either_down().bytes()) / w.gate.rows, up_and_down = row(w.up) + down;
    const RowRates& down_rates = rates.of(w.either_down().type);
    if (use.routed) neurons = looked_at = fired;
    if (use.skips)
        return us(looked_at * row(w.gate), rates.of(w.gate.type).gate) + us(fired * up_and_down, down_rates.fired);
    return us(neurons * (row(w.gate) + row(w.up)), rates.of(w.gate.type).dot) +
           us(fired * down, w.down.rows > 0 ? down_rates.dot : down_rates.fired);
}

}    // namespace

Costs expected_costs(const Weights& weights, const Needs& needs, const std::vector<LayerUse>& use,
                     uint64_t position_bytes, const Machine& m, double position)
{
    const Config& c = weights.config;
    const SideRates &host = m.host, &device = m.on_device;
    Costs costs = {
        .submit = m.submit_us, .seam = std::max(m.round_trip_us - m.submit_us, 0.0), .token = m.round_trip_us};
    for (uint32_t l = 0; l < c.layers; ++l) {
        const LayerWeights& w = weights.layers[l];
        const uint32_t groups = needs.layers[l].groups;
        LayerCosts layer;
        layer.activity = use[l].fired;
        double all_fired = 0;
        for (const double fired : use[l].fired) all_fired += fired;

        // Steps on the device as GpuSession records them: two joins, q k v, rope, attend, o, a router's two, then the
        // FFN's two.
        const double vectors = us(double(c.dim) * sizeof(float) * (2 * 4 + 16), device.vector);
        const uint32_t routing = c.experts ? 2 : 0;
        layer.attention =
            attention_us(w, device, position + 1, position_bytes) + (6 + routing) * device.step_us + vectors;
        layer.predict =
            needs.layers[l].predictor > 0 ? us(double(needs.layers[l].predictor), device.signs) + device.step_us : 0;
        double fired = 0;    // of the groups that are resident
        for (uint32_t k = 0; k <= groups; ++k) {
            const double neurons = std::min<double>(double(k) * group_neurons, c.neurons), cold = c.neurons - neurons,
                         cold_fired = all_fired - fired;
            // Without skipping the host reads every down row, the device those whose activation is not zero.
            layer.device_ffn.push_back(k ? ffn_us(w.ffn, device, use[l], neurons, neurons, fired) + 2 * device.step_us
                                         : 0);
            layer.host_ffn.push_back(k < groups ? ffn_us(w.ffn, host, use[l], cold, cold * use[l].looked_at,
                                                         use[l].skips || use[l].routed ? cold_fired : cold) +
                                                      2 * host.step_us
                                                : 0);
            if (k < groups) fired += use[l].fired[k];
        }
        layer.host_layer =
            attention_us(w, host, position + 1, position_bytes) + (4 + routing) * host.step_us + layer.host_ffn[0];
        costs.layers.push_back(std::move(layer));
    }
    const double head = double(weights.output.bytes());
    costs.head_device = us(head, device.of(weights.output.type).dot) + 2 * device.step_us;
    costs.head_host = us(head, host.of(weights.output.type).dot) + host.step_us;
    return costs;
}

std::optional<uint32_t> stream_from(const Weights& weights, const Machine& machine)
{
    const host::FfnWeights& w = weights.layers[0].ffn;
    constexpr uint32_t tile = 64;    // tokens that the device takes at once
    double host = 0, device = 0, laid_out = 0,
           bytes = 0;    // nanoseconds for one token, for a tile of tokens, for all tokens; and what is copied
    for (const Matrix* m : {&w.gate, &w.up, &w.either_down()}) {
        if (m->rows == 0) continue;
        const size_t f = format_number(m->type);
        const double weights_there = double(m->rows) * m->cols;
        auto rates = machine.products[f];
        if (m == &w.down_t) rates[size_t(Product::integers)] = 0;    // every weight of a sum has another scale
        const double rate = std::ranges::max(rates);
        if (rate <= 0 || machine.host_products[f] <= 0 || machine.laid_out[f] <= 0) return {};
        host += weights_there / machine.host_products[f];
        device += weights_there * tile / rate;
        laid_out += double(m->bytes()) / machine.laid_out[f];
        bytes += double(m->bytes());
    }
    const Config& c = weights.config;
    if (c.experts) host *= double(c.experts_used) / c.experts;    // of a token; the device computes all of them
    constexpr uint32_t most = 4096;
    for (uint32_t tokens = 2; tokens <= most; ++tokens) {
        const double copied = bytes / std::max(machine.upload, 1e-9);
        if (std::max(laid_out, copied + ceil_div(tokens, tile) * device) < tokens * host) return tokens;
    }
    return UINT32_MAX;
}

}    // namespace hearth
