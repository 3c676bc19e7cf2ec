// Who gets which neuron: a pure function of plain numbers.
#pragma once

#include "engine/plan/steps.h"

#include <cstdint>
#include <vector>

namespace hearth {

/// What one layer wants on the device, in bytes.
struct LayerNeeds {
    uint64_t attention = 0;    // projections and norms
    uint64_t kv = 0;           // cache for the whole context
    uint64_t predictor = 0;    // only where the layer is split
    uint64_t group = 0;        // one group of neurons: its gate, up and down rows
    uint32_t groups = 0;
    uint32_t together = 1;    // so many neighbours are resident or none of them; `groups` is a multiple
    LayerShape shape = {};    // with all its neurons there, as far as it is known before
};

/// What a model wants on the device, in bytes.
struct Needs {
    uint64_t scratch = 0;    // activations; needed as soon as anything runs there
    std::vector<LayerNeeds> layers;
    uint64_t head = 0;         // the output matrix
    StepMatrix output = {};    // the same
    uint64_t ring_half = 0;    // in each half of a ring, beside the groups that pass through it
    uint64_t alignment = 1;    // of the halves
};

/// What a vision tower wants on the device, in bytes.
struct TowerNeeds {
    uint64_t scratch = 0;            // activations, while a picture goes through it
    std::vector<uint64_t> pieces;    // its weights, in the order in which a picture meets them: layers, the projector

    uint64_t weights() const
    {
        uint64_t sum = 0;
        for (const uint64_t bytes : pieces) sum += bytes;
        return sum;
    }
};

/// Expected microseconds of one token in one layer. k: so many groups are resident, the first k of the layer's
/// placement order.
struct LayerCosts {
    double host_layer = 0;             // the whole layer on the host
    double attention = 0;              // its attention on the device
    double predict = 0;                // the predictor there, where the layer is split
    std::vector<double> device_ffn;    // (groups + 1) the hot FFN with k groups; [0] is 0
    std::vector<double> host_ffn;      // (groups + 1) the cold FFN with k groups resident; [groups] is 0
    std::vector<double> activity;      // (groups) neurons of the group that fire for a token, on average

    bool operator==(const LayerCosts&) const = default;
};

struct Costs {
    std::vector<LayerCosts> layers;
    double submit = 0;    // of a split layer: hidden while the hot FFN runs
    double seam = 0;      // of a split layer: what nothing hides
    double token = 0;     // once, if the device does anything
    double head_device = 0, head_host = 0;

    bool operator==(const Costs&) const = default;
};

struct LayerPlan {
    std::vector<uint32_t> resident;    // groups on the device, slot by slot; empty: the whole block is the host's

    bool operator==(const LayerPlan&) const = default;
};

/// The device runs attention of layers 0 .. layers.size() - 1 and their resident groups, the host everything else.
struct Plan {
    std::vector<LayerPlan> layers;
    bool head = false;     // on the device; only if all layers are
    uint64_t bytes = 0;    // of device memory; never more than the budget

    bool operator==(const Plan&) const = default;
};

/// What a plan promises of one layer, in microseconds.
struct LayerEstimate {
    double device = 0;    // attention, predictor and hot FFN
    double host = 0;      // cold FFN, or the whole layer
    double seam = 0;
    double total = 0;    // attention + max(hot, cold + submit) + seam where the layer is split
};
LayerEstimate estimate_layer(const Costs& costs, const Plan& plan, uint32_t layer);

/// Microseconds that a token is expected to take: the layers one after the other, and the head.
double expected_us(const Costs& costs, const Plan& plan);

/// What a plan may not do, whatever the budget.
struct Limits {
    uint32_t layers = UINT32_MAX;    // on the device at the most
    bool head = true;                // may be on the device
    uint32_t host_ffn = 0;           // the first so many layers keep their neurons on the host
};

/// The fastest plan within the budget by that estimate, which may put nothing on the device. Exact: more memory is
/// never slower. (For models of more than 128 groups a layer, among evenly spaced numbers of them; sizes are rounded up
/// to a 32768th of the model.)
Plan place_fastest(const Needs& needs, const Costs& costs, uint64_t budget, const Limits& limits = {});

/// As much on the device as the budget holds: attention and KV layer by layer, then the head, then the groups that fire
/// most. What PowerInfer's solver amounts to. A plan without layers means that the budget is too small for any.
Plan place_most(const Needs& needs, const Costs& costs, uint64_t budget, const Limits& limits = {});

/// The least budget with which `place_most` puts anything on the device.
uint64_t least_budget(const Needs& needs);

/// Device memory of a plan.
uint64_t plan_bytes(const Needs& needs, const Plan& plan);

/// Device memory of a ring, both halves: of at most so many bytes of groups, unless not even one unit would fit.
uint64_t ring_bytes(const Needs& needs, uint64_t most);

/// Costs that know nothing: every group is as good as any other.
Costs even_costs(const Needs& needs);

}    // namespace hearth
