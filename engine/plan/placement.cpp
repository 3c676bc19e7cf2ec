#include "engine/plan/placement.h"

#include <cstddef>

namespace hearth {

uint64_t least_budget(const Needs& needs) { return needs.scratch + needs.layers.at(0).attention + needs.layers.at(0).kv; }

Plan place(const Needs& needs, uint64_t budget)
{
    Plan plan;
    if (budget < least_budget(needs)) return plan;

    plan.bytes = needs.scratch;
    const auto take = [&](uint64_t bytes) {
        if (bytes > budget - plan.bytes) return false;
        plan.bytes += bytes;
        return true;
    };
    for (const LayerNeeds& layer : needs.layers) {
        if (!take(layer.attention + layer.kv)) return plan;
        plan.layers.emplace_back();
    }
    plan.head = take(needs.head);

    for (bool more = true; more;) {
        more = false;
        for (std::size_t l = 0; l < plan.layers.size(); ++l) {
            std::vector<uint32_t>& resident = plan.layers[l].resident;
            if (resident.size() == needs.layers[l].groups || !take(needs.layers[l].group)) continue;
            resident.push_back(uint32_t(resident.size()));
            more = true;
        }
    }
    return plan;
}

}    // namespace hearth
