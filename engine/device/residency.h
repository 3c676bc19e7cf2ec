// Which neurons of a layer sit on the device, and where: data that may change between tokens, never code.
#pragma once

#include "engine/plan/placement.h"

#include <cstdint>
#include <span>
#include <vector>

namespace hearth {

/// A layer's neurons in placement order: `order[group_neurons * g]` and the next group_neurons - 1 are group g, the
/// last group may be shorter; bit i of word g of a mask of the layer is that of the i-th of them. A group is in a slot
/// of device memory, or it is cold, which is the host's.
class LayerResidency {
  public:
    LayerResidency(std::vector<uint32_t> order, std::vector<uint32_t> slots);

    uint32_t groups() const { return ceil_div(order_.size(), group_neurons); }
    std::span<const uint32_t> order() const { return order_; }
    std::span<const uint32_t> group(uint32_t g) const;    // its neurons
    uint32_t group_of(uint32_t neuron) const { return place_[neuron] / group_neurons; }
    std::span<const uint32_t> slots() const { return slots_; }    // the group in each slot
    std::span<const uint32_t> cold_groups() const { return cold_; }
    std::span<const uint32_t> cold_neurons() const { return cold_neurons_; }
    bool split() const { return !cold_.empty(); }
    uint32_t resident_neurons() const { return uint32_t(order_.size() - cold_neurons_.size()); }

    uint32_t expert_of(uint32_t g, size_t experts) const
    {
        return uint32_t(order_[size_t(g) * group_neurons] / (order_.size() / experts));
    }

    /// Puts `group`, which was cold, into `slot`; what was there becomes cold.
    void put(uint32_t slot, uint32_t group);

  private:
    void list_cold();

    std::vector<uint32_t> order_, place_, slots_, cold_, cold_neurons_;    // place_: where in the order a neuron is
};

}    // namespace hearth
