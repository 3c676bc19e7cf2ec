#include "engine/plan/placement.h"

#include <algorithm>
#include <cstddef>
#include <limits>
#include <numeric>

namespace hearth {

namespace {

constexpr double never = std::numeric_limits<double>::infinity();

/// Of a layer on the device with k groups resident.
LayerEstimate estimate(const Costs& costs, const LayerCosts& layer, size_t k)
{
    LayerEstimate e = {.device = layer.attention + layer.device_ffn[k], .total = layer.attention + layer.device_ffn[k]};
    if (k + 1 == layer.device_ffn.size()) return e;
    e.host = layer.host_ffn[k];
    e.seam = costs.seam;
    e.device += layer.predict;
    e.total =
        layer.attention + layer.predict + std::max(layer.device_ffn[k], costs.submit + layer.host_ffn[k]) + costs.seam;
    return e;
}

uint64_t layer_bytes(const LayerNeeds& layer, uint64_t k)
{
    return layer.attention + layer.kv + k * layer.group + (k < layer.groups ? layer.predictor : 0);
}

std::vector<uint32_t> first_groups(uint32_t count)
{
    std::vector<uint32_t> groups(count);
    std::iota(groups.begin(), groups.end(), 0);
    return groups;
}

/// Numbers of resident groups to choose from.
std::vector<uint32_t> choices(const LayerNeeds& layer, bool host_ffn)
{
    if (host_ffn) return {0};
    const uint32_t units = layer.groups / layer.together, most = std::min(units, 128u);
    std::vector<uint32_t> k;
    for (uint32_t i = 0; i <= most; ++i) k.push_back(uint32_t(uint64_t(units) * i / most) * layer.together);
    return k;
}

/// Memory is counted in units that depend on the model only, so that a larger budget has every choice of a smaller one.
uint64_t memory_unit(const Needs& needs)
{
    uint64_t unit = std::gcd(needs.scratch, needs.head), total = needs.scratch + needs.head;
    for (const LayerNeeds& l : needs.layers) {
        for (const uint64_t bytes : {l.attention + l.kv, l.predictor, l.group}) unit = std::gcd(unit, bytes);
        total += layer_bytes(l, l.groups) + l.predictor;
    }
    constexpr uint64_t most = 32768;
    return unit > 0 && total / unit <= most ? unit : std::max<uint64_t>(1, (total + most - 1) / most);
}

}    // namespace

uint64_t least_budget(const Needs& needs) { return needs.scratch + layer_bytes(needs.layers.at(0), 0); }

uint64_t plan_bytes(const Needs& needs, const Plan& plan)
{
    if (plan.layers.empty()) return 0;
    uint64_t bytes = needs.scratch + (plan.head ? needs.head : 0);
    for (size_t l = 0; l < plan.layers.size(); ++l)
        bytes += layer_bytes(needs.layers[l], plan.layers[l].resident.size());
    return bytes;
}

uint64_t ring_bytes(const Needs& needs, uint64_t most)
{
    uint64_t half = 0;
    for (const LayerNeeds& layer : needs.layers)
        half = std::max(half, std::max(std::min(layer.groups * layer.group, most / 2), layer.together * layer.group));
    half += needs.ring_half;
    return 2 * ((half + needs.alignment - 1) / needs.alignment * needs.alignment);
}

Costs even_costs(const Needs& needs)
{
    Costs costs;
    for (const LayerNeeds& l : needs.layers)
        costs.layers.push_back({.device_ffn = std::vector<double>(l.groups + 1),
                                .host_ffn = std::vector<double>(l.groups + 1),
                                .activity = std::vector<double>(l.groups, 1.0)});
    return costs;
}

LayerEstimate estimate_layer(const Costs& costs, const Plan& plan, uint32_t layer)
{
    const LayerCosts& c = costs.layers[layer];
    if (layer >= plan.layers.size()) return {.host = c.host_layer, .total = c.host_layer};
    return estimate(costs, c, plan.layers[layer].resident.size());
}

double expected_us(const Costs& costs, const Plan& plan)
{
    double us = plan.head ? costs.head_device : costs.head_host;
    if (!plan.layers.empty()) us += costs.token;
    for (uint32_t l = 0; l < costs.layers.size(); ++l) us += estimate_layer(costs, plan, l).total;
    return us;
}

// best[b]: the least time of the device's layers so far within b units of memory.
Plan place_fastest(const Needs& needs, const Costs& costs, uint64_t budget, const Limits& limits)
{
    const uint64_t unit = memory_unit(needs);
    const auto units = [unit](uint64_t bytes) { return size_t((bytes + unit - 1) / unit); };
    uint64_t all = units(needs.scratch) + units(needs.head);
    for (const LayerNeeds& l : needs.layers)
        all += units(l.attention + l.kv) + units(l.predictor) + units(l.groups * l.group);
    const size_t room = size_t(std::min<uint64_t>(budget / unit, all)), layers = needs.layers.size();

    double host_rest = costs.head_host;    // what follows after the device's layers
    for (const LayerCosts& l : costs.layers) host_rest += l.host_layer;
    double fastest = host_rest;
    Plan plan;
    if (units(needs.scratch) > room) return plan;

    std::vector<double> best(room + 1, never);
    std::fill(best.begin() + std::ptrdiff_t(units(needs.scratch)), best.end(), costs.token);
    std::vector<std::vector<uint8_t>> chosen(layers, std::vector<uint8_t>(room + 1));    // which of `choices`
    size_t device_layers = 0;
    for (size_t l = 0; l < std::min<size_t>(layers, limits.layers); ++l) {
        const LayerNeeds& n = needs.layers[l];
        std::vector<double> next(room + 1, never);
        const std::vector<uint32_t> ks = choices(n, l < limits.host_ffn);
        for (size_t i = 0; i < ks.size(); ++i) {
            const uint32_t k = ks[i];
            const size_t bytes =
                units(n.attention + n.kv) + units(k * n.group) + (k < n.groups ? units(n.predictor) : 0);
            const double us = estimate(costs, costs.layers[l], k).total;
            for (size_t b = bytes; b <= room; ++b)
                if (best[b - bytes] + us < next[b]) {
                    next[b] = best[b - bytes] + us;
                    chosen[l][b] = uint8_t(i);
                }
        }
        best = std::move(next);
        if (best[room] == never) break;
        host_rest -= costs.layers[l].host_layer;
        const auto consider = [&](double us, bool head) {
            if (!(us < fastest)) return;
            fastest = us;
            plan.head = head;
            device_layers = l + 1;
        };
        consider(best[room] + host_rest, false);
        if (l + 1 == layers && limits.head && units(needs.head) <= room && best[room - units(needs.head)] < never)
            consider(best[room - units(needs.head)] + costs.head_device, true);
    }

    plan.layers.resize(device_layers);
    size_t b = room - (plan.head ? units(needs.head) : 0);
    for (size_t l = device_layers; l-- > 0;) {
        const LayerNeeds& n = needs.layers[l];
        const uint32_t k = choices(n, l < limits.host_ffn)[chosen[l][b]];
        plan.layers[l].resident = first_groups(k);
        b -= units(n.attention + n.kv) + units(k * n.group) + (k < n.groups ? units(n.predictor) : 0);
    }
    plan.bytes = plan_bytes(needs, plan);
    return plan;
}

Plan place_most(const Needs& needs, const Costs& costs, uint64_t budget, const Limits& limits)
{
    Plan plan;
    if (budget < least_budget(needs) || limits.layers == 0) return plan;
    uint64_t bytes = needs.scratch;
    for (const LayerNeeds& layer : needs.layers) {
        if (plan.layers.size() == limits.layers || bytes + layer_bytes(layer, 0) > budget) break;
        bytes += layer_bytes(layer, 0);
        plan.layers.emplace_back();
    }
    if (limits.head && plan.layers.size() == needs.layers.size() && bytes + needs.head <= budget) {
        plan.head = true;
        bytes += needs.head;
    }
    // The next group of the layer where it serves most for its bytes; of equals, the layer that has the smallest share
    // so far.
    std::vector<uint32_t> k(plan.layers.size());
    for (;;) {
        const auto worth = [&](size_t l) {
            return costs.layers[l].activity[k[l]] / double(std::max<uint64_t>(needs.layers[l].group, 1));
        };
        size_t best = k.size();
        for (size_t l = 0; l < k.size(); ++l) {
            const LayerNeeds& n = needs.layers[l];
            if (l < limits.host_ffn || k[l] == n.groups ||
                bytes - layer_bytes(n, k[l]) + layer_bytes(n, k[l] + n.together) > budget)
                continue;
            if (best == k.size() || worth(l) > worth(best) ||
                (worth(l) == worth(best) && double(k[l]) / n.groups < double(k[best]) / needs.layers[best].groups))
                best = l;
        }
        if (best == k.size()) break;
        const LayerNeeds& n = needs.layers[best];
        bytes = bytes - layer_bytes(n, k[best]) + layer_bytes(n, k[best] + n.together);
        k[best] += n.together;
    }
    for (size_t l = 0; l < k.size(); ++l) plan.layers[l].resident = first_groups(k[l]);
    plan.bytes = plan_bytes(needs, plan);
    return plan;
}

}    // namespace hearth
