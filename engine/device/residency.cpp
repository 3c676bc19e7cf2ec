#include "engine/device/residency.h"

#include "engine/error.h"

#include <algorithm>
#include <bit>

namespace hearth {

LayerResidency::LayerResidency(std::vector<uint32_t> order, std::vector<uint32_t> slots)
    : order_(std::move(order)), slots_(std::move(slots))
{
    place_.resize(order_.size());
    for (uint32_t i = 0; i < order_.size(); ++i) place_.at(order_[i]) = i;
    list_cold();
}

std::span<const uint32_t> LayerResidency::group(uint32_t g) const
{
    const size_t first = size_t(g) * group_neurons;
    return std::span(order_).subspan(first, std::min<size_t>(group_neurons, order_.size() - first));
}

void LayerResidency::put(uint32_t slot, uint32_t group)
{
    HEARTH_CHECK(std::find(cold_.begin(), cold_.end(), group) != cold_.end());
    slots_.at(slot) = group;
    list_cold();
}

void LayerResidency::list_cold()
{
    std::vector<bool> resident(groups());
    for (const uint32_t g : slots_) {
        HEARTH_CHECK(g < groups() && !resident[g]);
        resident[g] = true;
    }
    cold_.clear();
    cold_neurons_.clear();
    for (uint32_t g = 0; g < groups(); ++g) {
        if (resident[g]) continue;
        cold_.push_back(g);
        const std::span<const uint32_t> neurons = group(g);
        cold_neurons_.insert(cold_neurons_.end(), neurons.begin(), neurons.end());
    }
}

}    // namespace hearth
