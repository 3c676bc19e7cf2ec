// Which neurons fire, from the best source there is: a profile, what PowerInfer keeps beside a model, or nothing.
#pragma once

#include "engine/model/powerinfer.h"
#include "engine/plan/profile.h"

#include <vector>

namespace hearth {

struct LayerHotness {
    std::vector<uint32_t> order;    // the neurons in placement order
    std::vector<double> fires;      // (neurons) for which share of the tokens neuron i fires

    /// (groups) neurons of each group that fire for a token, on average.
    std::vector<double> by_group() const;
};
using Hotness = std::vector<LayerHotness>;    // layer by layer

/// Every neuron fires for that share of the tokens, and the file's order is as good as any.
Hotness even_hotness(uint32_t layers, uint32_t neurons, double share);

/// Of a profile that has counted something: neurons, or experts that have so many neurons each.
Hotness hotness_of(const Profile& profile, uint32_t together = 1);

/// Of PowerInfer's files; either may be missing. The neurons of the index come first. The statistics say how often
/// neurons fire; their counts do not tell of how many tokens, so the hottest neuron of all is taken to fire for each.
/// Without them, the neurons of the index are taken for those that make 80 % of what fires, which is what PowerInfer
/// calls hot, and the average neuron to fire for `share` of the tokens.
Hotness hotness_of(const GpuIndex* index, const ActivationStatistics* statistics, uint32_t neurons, double share);

}    // namespace hearth
