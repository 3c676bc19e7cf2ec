// Mixtures of experts: which of them a token goes through, and the host's share of that. An expert is a run of neurons
// of a feed-forward block.
#pragma once

#include "host/cold_ffn.h"

namespace hearth::host {

/// More than any model has: what one workgroup of the device ranks.
inline constexpr uint32_t most_experts = 1024;

/// A token goes through the `used` experts of the highest scores, of equal ones through the first. Source: Mixtral
/// (arXiv 2401.04088).
struct Router {
    Matrix scores;            // (experts, dim): an expert's score is its row . x; no rows: there are no experts
    uint32_t used = 0;        // experts of a token
    bool normalise = true;    // their weights are the softmax over them alone, else that over all experts
};

/// weights[t][e]: what expert e's share counts for token t, 0 where t does not go through it.  weights is (x.tokens(),
/// experts)
void route(Team& team, const Router& router, const Inputs& x, float* weights);

/// How many of the first neurons are of the first one's expert. There is one at least, and those of an expert, which
/// has `together`, stand together.
size_t run_of_expert(std::span<const uint32_t> neurons, uint32_t together);

/// Memory that `cold_experts` keeps from call to call.
struct ExpertScratch {
    FfnScratch ffn;
    Inputs inputs;
    std::vector<float> x, y, strengths;    // of the rows of one expert; of few rows' neurons
    std::vector<uint32_t> tokens, neurons;

    struct Hidden {    // of an expert whose down projection is stored by its rows, for few rows
        Matrix down;
        std::vector<uint32_t> rows;    // that go through it
        std::vector<float> h;          // (rows, neurons)
        Inputs inputs;                 // of it
    };
    std::vector<Hidden> hidden;
};

/// y[t] = sum over `neurons` of weights[t][their expert] times what cold_ffn gives for them. x and y are (tokens, dim),
/// weights (tokens, experts), and neurons of one expert stand together. Of few rows the neurons should be of experts
/// that one of them goes through. With w.down they are all neurons of their experts, in the file's order. cut, work and
/// counts as of cold_ffn.
FfnCounts cold_experts(Team& team, const FfnWeights& w, uint32_t experts, std::span<const uint32_t> neurons,
                       const float* weights, const float* x, uint32_t tokens, Work work, float cut, float* y,
                       ExpertScratch& scratch);

}    // namespace hearth::host
