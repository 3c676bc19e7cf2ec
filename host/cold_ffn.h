// The CPU's share of a feed-forward block: the neurons that are not on the device (all of them where there is no device).
#pragma once

#include "host/linear.h"

namespace hearth::host {

enum class Activation : uint32_t { relu = 0, silu = 1 };

/// One feed-forward block: y = sum_i act(gate_i . x) (up_i . x) down_t_i.  All (neurons, dim), row i belongs to neuron i.
struct FfnWeights {
    Matrix gate, up, down_t;
    Activation activation;
};

/// A neuron is left out at decode if |act(gate . x)| is no more than this: 0 leaves out exact zeros (the same result), more is an approximation, and
/// less leaves out none.
inline constexpr float no_cut = -1;

struct FfnCounts {
    uint64_t active = 0;    // (token, neuron) pairs whose activation is not zero
    uint64_t bytes = 0;     // weight bytes touched
};

/// Memory that `cold_ffn` keeps from call to call.
struct FfnScratch {
    std::vector<uint32_t> neurons;    // in their order; of one token, with a cut, in the end only those that fired
    std::vector<float> h;             // (neurons, tokens): act(gate . x) (up . x)
    std::vector<float> sums;          // (parts - 1, dim): of one token, the later parts of the sum over neurons
};

/// y[t] = the share of `neurons` for x[t]; y is (tokens, dim) and is overwritten (zeros where there are no neurons).
/// up and down_t rows are touched only where |act(gate . x)| > cut (see no_cut). The order of addition depends on the neurons that are added and on whether
/// there is one token or many, not on threads. With many tokens a row is read once for all of them, and skipping saves arithmetic only.
FfnCounts cold_ffn(Team& team, const FfnWeights& w, std::span<const uint32_t> neurons, const Inputs& x, float cut, float* y, FfnScratch& scratch);

}    // namespace hearth::host
