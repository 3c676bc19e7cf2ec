// The CPU's share of a feed-forward block: the neurons that are not on the device (all of them where there is no
// device).
#pragma once

#include "host/linear.h"

namespace hearth::host {

/// What becomes of a neuron's gate; drelu (arXiv 2406.05955) is relu, and its up goes through relu, too. gelu is x
/// Phi(x) (arXiv 1606.08415), gelu_tanh its approximation in section 2 there: x sigmoid(2 sqrt(2 / pi) (x + 0.044715
/// x^3)); quick_gelu is the other one there, x sigmoid(1.702 x), CLIP's.
enum class Activation : uint32_t { relu = 0, silu = 1, drelu = 2, gelu = 3, gelu_tanh = 4, quick_gelu = 5 };

/// Whether most neurons are exactly zero for a token.
constexpr bool makes_zeros(Activation a) { return a == Activation::relu || a == Activation::drelu; }

/// The activation of a gate; `floor` is relu's.
float activate(Activation a, float floor, float x);

/// One feed-forward block: y = sum_i act(gate_i . x + bias_i) (up_i . x) down_t_i.  All (neurons, dim), row i belongs
/// to neuron i. A block without a gate has the matrix that decides whether a neuron fires as its gate, and no rows of
/// up: then that factor is 1. Where no neuron is ever left out, the down projection may be there the other way round,
/// as most files have it: then down has rows, and down_t has none.
struct FfnWeights {
    Matrix gate, up, down_t;
    Activation activation;
    float floor = 0;     // what relu gives 0 up to, and x above: more than 0 in FATReLU (arXiv 2402.13516)
    Matrix bias = {};    // (neurons, 1) floats; no rows: 0
    Matrix down = {};    // (dim, neurons); of experts (experts dim, neurons of one)

    const Matrix& either_down() const { return down.rows > 0 ? down : down_t; }

    float bias_of(uint32_t neuron) const
    {
        return bias.rows > 0 ? reinterpret_cast<const float*>(bias.data)[neuron] : 0.0f;
    }
};

/// A neuron is left out at decode if |act(gate . x + bias)| is no more than this: 0 leaves out exact zeros (the same
/// result), more is an approximation, and less leaves out none.
inline constexpr float no_cut = -1;

struct FfnCounts {
    uint64_t active = 0;    // (token, neuron) pairs whose activation is not zero
    uint64_t bytes = 0;     // weight bytes touched
    uint64_t gates = 0;     // (token, neuron) pairs whose gate was looked at
};

/// Memory that `cold_ffn` keeps from call to call.
struct FfnScratch {
    std::vector<uint32_t> neurons;    // in their order; of few rows, in the end only those that fired for one of them
    std::vector<float> h;             // (neurons, rows): act(gate . x + bias) (up . x)
    std::vector<float> sums;          // of few rows, the later parts of their sums over neurons: (dim) each
    std::vector<float> by_row;        // (rows, neurons): h, where the down projection is stored by its rows
    Inputs inputs;                    // of it
    struct Term {
        uint32_t place;    // in neurons
        float strength;
    };
    std::vector<std::vector<Term>> terms;    // of each of few rows
};

/// y[r] = the share of `neurons` for x[r]; y is (rows, dim) and is overwritten (zeros where there are no neurons). With
/// `down` they follow one another, from a whole block of its columns on, and nothing is cut. Of few rows (Work), up and
/// down_t are touched only where |act(gate . x + bias)| > cut (see no_cut) for any of them; of many, all. A row of
/// weights is read once for all rows of x. The order of addition depends on the neurons that are added for this row of
/// x and on the kind of work, not on threads or other rows. strengths: (neurons, rows) what each one's share is
/// multiplied by, of few rows only; 0 where it is none of that row's; empty: 1.
FfnCounts cold_ffn(Team& team, const FfnWeights& w, std::span<const uint32_t> neurons, const Inputs& x, float cut,
                   float* y, FfnScratch& scratch, std::span<const float> strengths = {});

/// The first half of that: scratch.h, and what it took, without down.
FfnCounts cold_gate_and_up(Team& team, const FfnWeights& w, std::span<const uint32_t> neurons, const Inputs& x,
                           float cut, FfnScratch& scratch, std::span<const float> strengths = {});

}    // namespace hearth::host
