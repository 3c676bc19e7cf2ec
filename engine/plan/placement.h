// Who gets which neuron: a pure function of plain numbers.
#pragma once

#include <cstdint>
#include <vector>

namespace hearth {

/// Neurons in a group, the unit of placement. A group of a 7B model's neurons in Q4_0 is 220 KB, large enough for a bus transfer at full speed.
inline constexpr uint32_t group_neurons = 32;

/// What one layer wants on the device, in bytes.
struct LayerNeeds {
    uint64_t attention = 0;    // projections and norms
    uint64_t kv = 0;           // cache for the whole context
    uint64_t group = 0;        // one group of neurons: its gate, up and down rows
    uint32_t groups = 0;
};

/// What a model wants on the device, in bytes.
struct Needs {
    uint64_t scratch = 0;    // activations; needed as soon as anything runs there
    std::vector<LayerNeeds> layers;
    uint64_t head = 0;    // output norm and matrix
};

struct LayerPlan {
    std::vector<uint32_t> resident;    // groups on the device, slot by slot; empty: the whole block is the host's
};

/// The device runs attention of layers 0 .. layers.size() - 1 and their resident groups, the host everything else.
struct Plan {
    std::vector<LayerPlan> layers;
    bool head = false;     // on the device; only if all layers are
    uint64_t bytes = 0;    // of device memory; never more than the budget
};

/// Attention and KV come first (layer by layer), then the head if it fits, then neuron groups: in file order, evenly over the layers.
/// A plan without layers means that the budget is too small for any.
Plan place(const Needs& needs, uint64_t budget);

/// The least budget with which `place` puts anything on the device.
uint64_t least_budget(const Needs& needs);

}    // namespace hearth
