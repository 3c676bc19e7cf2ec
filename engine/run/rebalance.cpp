#include "engine/run/rebalance.h"

#include <algorithm>

namespace hearth {

namespace {

constexpr float least_momentum = 0.97f, most_momentum = 0.998f, momentum_step = 0.02f;
constexpr double most_traffic = 0.02;    // of what a token's layers read
constexpr float least_gain = 0.05f;      // neurons for a token that a swap must be worth; less is noise
constexpr float hysteresis = 1.03f;

}    // namespace

Rebalancer::Rebalancer(GpuModel& model, GpuSession& session) : model_(model), session_(session)
{
    for (const GpuModel::Layer& l : model.layers())
        layers_.push_back(
            {.score = std::vector<float>(l.residency.groups()), .now = std::vector<uint32_t>(l.residency.groups())});
}

void Rebalancer::hear(uint32_t l, std::span<const uint32_t> fired, bool host_was_late)
{
    Layer& layer = layers_[l];
    const LayerResidency& residency = model_.layers()[l].residency;
    for (const uint32_t neuron : fired) ++layer.now[residency.group_of(neuron)];
    // Late: what fires has moved away from what is resident, so forget faster. In time: there is nothing to gain, so be
    // steady.
    const float change = host_was_late ? -momentum_step : momentum_step;
    layer.momentum = std::clamp(layer.momentum + change * (1 - layer.momentum), least_momentum, most_momentum);
}

void Rebalancer::after_token(FeedStats& stats)
{
    for (uint32_t l = 0; l < layers_.size(); ++l) {
        Layer& layer = layers_[l];
        const LayerResidency& residency = model_.layers()[l].residency;
        if (!residency.split()) continue;
        session_.add_fired(l, layer.now);
        for (size_t g = 0; g < layer.score.size(); ++g) {
            layer.score[g] = layer.momentum * layer.score[g] + (1 - layer.momentum) * float(layer.now[g]);
            layer.now[g] = 0;
        }
    }
    const uint64_t room = uint64_t(most_traffic * double(stats.bytes()));
    for (const Swap& swap : wanted()) {
        // At least one, or small models would never move.
        if (stats.moved_bytes > 0 && stats.moved_bytes + model_.group_bytes(swap.layer) > room) break;
        if (!session_.replace(swap.layer, swap.slot, swap.group)) break;    // the staging memory is still in use
        ++stats.moved_groups;
        stats.moved_bytes += model_.group_bytes(swap.layer);
    }
}

/// In each layer the hottest cold group for the coldest resident one, where that is worth it; the most gainful first.
std::vector<Rebalancer::Swap> Rebalancer::wanted() const
{
    std::vector<Swap> swaps;
    for (uint32_t l = 0; l < layers_.size(); ++l) {
        const LayerResidency& residency = model_.layers()[l].residency;
        const std::vector<float>& score = layers_[l].score;
        const std::span<const uint32_t> slots = residency.slots(), cold = residency.cold_groups();
        if (slots.empty() || cold.empty()) continue;
        const auto colder = [&](uint32_t a, uint32_t b) { return score[a] < score[b]; };
        const auto out = std::min_element(slots.begin(), slots.end(), colder);
        const uint32_t in = *std::max_element(cold.begin(), cold.end(), colder);
        const float gain = score[in] - hysteresis * score[*out];
        if (gain > least_gain) swaps.push_back({l, uint32_t(out - slots.begin()), in, gain});
    }
    std::sort(swaps.begin(), swaps.end(), [](const Swap& a, const Swap& b) { return a.gain > b.gain; });
    return swaps;
}

}    // namespace hearth
