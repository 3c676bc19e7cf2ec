#include "engine/plan/host_reads.h"

#include "engine/plan/steps.h"

namespace hearth {

std::vector<std::span<const std::byte>> read_by_host(const Weights& weights, const Plan& plan)
{
    std::vector<std::span<const std::byte>> parts;
    const auto add = [&](const Matrix& m) {
        const bool made = std::ranges::any_of(weights.owned, [&](const auto& data) { return data.get() == m.data; });
        if (m.rows > 0 && !made) parts.emplace_back(m.row(0), m.row(m.rows - 1) + m.row_bytes(m.rows - 1));
    };
    for (size_t l = 0; l < weights.layers.size(); l++) {
        const LayerWeights& layer = weights.layers[l];
        if (l >= plan.layers.size()) {
            each_matrix(layer, add);
            continue;
        }
        const uint64_t resident = uint64_t(plan.layers[l].resident.size()) * group_neurons;
        if (2 * resident > weights.config.neurons) continue;
        for (const Matrix* m : {&layer.ffn.gate, &layer.ffn.up, &layer.ffn.either_down()}) add(*m);
    }
    if (!plan.head) add(weights.output);
    return parts;
}

}    // namespace hearth
