// What a layer's feed-forward block got and which neurons, or experts, answered: for profiles.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

namespace hearth {

/// One batch in one layer; what the host and what the device computed come one after the other.
struct LayerActivity {
    uint32_t layer, tokens;
    const float* x;                       // (tokens, dim): the normalised input
    const float* residual;                // (tokens, dim): the same before its norm
    std::span<const uint32_t> neurons;    // or all experts, where there are any
    std::span<const float> gates;         // (tokens, neurons): gate . x, or the experts' weights
};
using ActivitySink = std::function<void(const LayerActivity&)>;

}    // namespace hearth
