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

/// Neurons [first, first + count).
struct NeuronRange {
    uint32_t first, count;
};

struct FfnCounts {
    uint64_t active = 0;    // (token, neuron) pairs whose activation is not zero
    uint64_t bytes = 0;     // weight bytes touched
};

/// Memory that `cold_ffn` keeps from call to call.
struct FfnScratch {
    std::vector<uint32_t> neurons;    // of the ranges, one after the other; of one token in the end only those that fired
    std::vector<float> h;             // (neurons, tokens): act(gate . x) (up . x)
};

/// y[t] = the ranges' share of the block for x[t]; y is (tokens, dim) and is overwritten (zeros where `ranges` is empty).
/// skip_inactive (ReLU models; no effect with others): up and down_t rows are touched only where the gate is positive; the sums are the same bits,
/// since what is left out is exact zeros. The order of addition is fixed, whatever the number of threads and tokens.
/// With many tokens a row is read once for all of them, and skipping saves arithmetic (the union of what fires is nearly everything).
FfnCounts cold_ffn(Team& team, const FfnWeights& w, std::span<const NeuronRange> ranges, const Inputs& x, bool skip_inactive, float* y,
                   FfnScratch& scratch);

}    // namespace hearth::host
