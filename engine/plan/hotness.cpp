#include "engine/plan/hotness.h"

#include <algorithm>
#include <numeric>

namespace hearth {

namespace {

std::vector<uint32_t> file_order(uint32_t neurons)
{
    std::vector<uint32_t> order(neurons);
    std::iota(order.begin(), order.end(), 0);
    return order;
}

}    // namespace

std::vector<double> LayerHotness::by_group() const
{
    std::vector<double> groups(ceil_div(order.size(), group_neurons));
    for (size_t i = 0; i < order.size(); ++i) groups[i / group_neurons] += fires[order[i]];
    return groups;
}

Hotness even_hotness(uint32_t layers, uint32_t neurons, double share)
{
    return Hotness(layers, {file_order(neurons), std::vector<double>(neurons, share)});
}

Hotness hotness_of(const Profile& profile, uint32_t together)
{
    Hotness hotness;
    for (const LayerProfile& layer : profile.layers) {
        LayerHotness& h = hotness.emplace_back();
        for (const uint32_t counted : placement_order(layer, profile.sampled))
            for (uint32_t i = 0; i < together; ++i) h.order.push_back(counted * together + i);
        for (const uint64_t fired : layer.fired)
            h.fires.insert(h.fires.end(), together, double(fired) / double(profile.positions));
    }
    return hotness;
}

Hotness hotness_of(const GpuIndex* index, const ActivationStatistics* statistics, uint32_t neurons, double share)
{
    constexpr double of_the_hot = 0.8;    // PowerInfer (arXiv 2312.12456), section 3
    double most = 0;
    if (statistics)
        for (const std::vector<double>& layer : *statistics)
            most = std::max(most, *std::max_element(layer.begin(), layer.end()));

    Hotness hotness = even_hotness(uint32_t(index ? index->layers.size() : statistics->size()), neurons, share);
    for (size_t l = 0; l < hotness.size(); ++l) {
        LayerHotness& h = hotness[l];
        std::vector<bool> hot(neurons);
        if (index)
            for (const uint32_t n : index->layers[l]) hot[n] = true;
        const double k = index ? double(index->layers[l].size()) : 0;
        for (uint32_t n = 0; n < neurons; ++n) {
            if (statistics) h.fires[n] = most > 0 ? (*statistics)[l][n] / most : 0;
            else if (k > 0 && k < neurons)
                h.fires[n] =
                    std::min(1.0, share * neurons * (hot[n] ? of_the_hot / k : (1 - of_the_hot) / (neurons - k)));
        }
        std::stable_sort(h.order.begin(), h.order.end(),
                         [&](uint32_t a, uint32_t b) { return hot[a] != hot[b] ? hot[a] : h.fires[a] > h.fires[b]; });
    }
    return hotness;
}

}    // namespace hearth
