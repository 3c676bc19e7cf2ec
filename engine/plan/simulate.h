// How fast a model would be on a machine that may not be there: the costs and the placement that a plan has, for what
// is expected to fire instead of what a profile counted.
#pragma once

#include "engine/plan/prefill.h"

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace hearth {

/// How often the neurons, or the experts, of a layer fire: measured or published.
struct FiringCurve {
    std::string_view name;
    double active;       // share of all that fires for a token; of experts the router's, whatever stands here
    double exponent;     // the hottest share h of all makes h^exponent of what fires; 1: all fire alike
    double predicted;    // neurons that a predictor names for each that fires
    std::string_view source;
};
std::span<const FiringCurve> firing_curves();
/// Throws Error with all names.
const FiringCurve& find_firing(std::string_view name);
/// Of a model that nothing else is known of.
const FiringCurve& usual_firing(const Config& config);

/// Neurons of each group that fire for a token, the hottest group first; `active` of all neurons in sum.
std::vector<double> fired_by_group(const FiringCurve& curve, double active, uint32_t neurons, uint32_t groups);

/// What is computed, and on which side.
enum class Way {
    layers,     // all neurons; whole layers are on the device, as many as fit: what other programs do
    dense,      // all neurons, placed to be fast
    exact,      // up and down of neurons that fire
    predict,    // on the host gates, too, only of neurons that are predicted
    routed,     // on both sides only what is predicted: what PowerInfer does, and every mixture of experts
};
struct WayRow {
    std::string_view name, help;
    Way way;
};
inline constexpr WayRow ways[] = {
    {"layers", "whole layers on the card, as many as fit, all neurons: what other programs do", Way::layers},
    {"dense", "all neurons, placed to be fast", Way::dense},
    {"exact", "up and down rows only of neurons that fire", Way::exact},
    {"predict", "on the CPU gates, too, only of neurons that a predictor names", Way::predict},
    {"routed", "on both sides only what a predictor names", Way::routed},
};

/// How a program brings both sides together. Hearth's: at once, with the seam that the machine's figures say.
struct Coupling {
    bool at_once = true;       // both sides work at the same time
    double crossing_us = 0;    // of a split layer, instead of the machine's seam, where it is not 0
    double overhead_us = 0;    // of every layer on the device besides
    double vectors = 0;        // of a float for each neuron, that cross the link for each matrix of a split block
    double predictors = 0;     // of Way::routed: their bytes over a layer's, on the device wherever the layer is
};

/// What a session wants of a device, by its shape; session_needs of engine/engine.h.
using NeedsOf = std::function<Needs(const Weights&, const SessionShape&)>;

struct Scenario {
    const Weights* weights;    // described
    NeedsOf needs_of;
    Machine machine;
    bool shares_memory = false;    // the device is integrated
    uint64_t device_memory = 0;    // bytes that are free there; 0: there is none
    std::optional<uint64_t> host_memory;
    Way way = Way::dense;
    const FiringCurve* firing = nullptr;    // nullptr: usual_firing
    bool moves_experts = false;             // each that was missing is copied to the device, for the next tokens
    Coupling coupling;
    DecisionOptions options;    // of the context, the cache, experts
    uint32_t prompt = 512;      // tokens
    // Before the prompt so many images of one tile, whose rows are tokens, too; with a tower there is room for it.
    const TowerFacts* tower = nullptr;
    uint32_t images = 0;
    std::optional<double> position = {};    // of the token in the context; the middle of a usual conversation
};

struct Simulated {
    double tokens_per_s = 0;
    double looking_s = 0;                         // at the images
    double first_token_s = 0;                     // that, a prompt of Scenario::prompt tokens, and the first behind it
    uint64_t device_bytes = 0, host_bytes = 0;    // of weights, cache and activations
    uint32_t layers_on_device = 0, layers = 0;
    double resident = 0, served = 0;    // shares: of neurons, and of what fires, on the device
    bool fits = true;                   // the host's share in its memory
};

/// What becomes of a scenario's model: what planned_steps asks for, and where it is.
struct PlannedScenario {
    Computation computation;
    Needs needs;
    Decision decision;
};

// Both throw Error where a model cannot have that context, or has no neurons to leave out.
PlannedScenario plan_scenario(const Scenario& scenario);
Simulated simulate(const Scenario& scenario);

}    // namespace hearth
