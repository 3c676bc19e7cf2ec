// What becomes of a model on this machine, decided from plain values: nothing here opens a device, reads a file or asks
// the system. Two steps, because what a model wants of a device's memory depends on what is computed of it:
//     decide_computation(options, weights, sources)    what is computed, on whatever machine
//     decide(options, model, machine, position)        where, when, and what is said of it
#pragma once

#include "engine/plan/costs.h"
#include "engine/plan/session_shape.h"
#include "engine/plan/sources.h"

#include <optional>
#include <string>
#include <vector>

namespace hearth {

enum class Placement {
    automatic,    // fastest where a GPU and its figures are known, else most
    fastest,      // the least expected time for a token
    most,         // as much on the device as the budget holds, what fires most first
};

/// What a user may ask of a model, as far as decisions hang on it.
struct DecisionOptions {
    std::string device = "auto";            // auto, cpu, an index or a part of a name
    std::optional<uint64_t> vram_budget;    // bytes, of all models of a workshop together; what is free, less a margin,
                                            // where not given
    Sparsity sparsity = Sparsity::dense;
    Predictor predictor = Predictor::none;    // of Sparsity::predict; none: the model's own if it has one, else signs
    double recall = 0.99;                     // that Predictor::sign is held to on the profile's text
    bool disable_gpu_index = false;           // no neurons go to the device, only attention and the head
    std::optional<uint32_t> gpu_layers;       // so many layers at the most go to the device, and one more is the head;
                                              // then Placement::automatic is most
    uint32_t cpu_experts = 0;                 // the first so many layers keep their experts on the host
    // Groups follow what fires; then which sums are made where, and the last bits, depend on timing.
    bool rebalance = false;
    Placement placement = Placement::automatic;
    // Prompts of so many tokens and more are the device's alone: the host's neurons are copied there; 0: none.
    std::optional<uint32_t> stream;
    uint64_t ring_bytes = 64 << 20;    // device memory that they pass through, at the most
    // A vision tower's weights stay on the device, or pass through it picture by picture; they stay where the model's
    // plan loses nothing by it, where not given.
    std::optional<bool> keep_vision;
    std::optional<SubmitMode> submit;    // the faster by the machine's figures where not given
    uint32_t context = 0;                // positions of a session; 0: the model's, at most 4096
    uint32_t sequences = 1;              // sessions of that length that the KV cache has room for at once
    uint32_t few = 1;        // rows that are verified or decoded together, at the most; at least `sequences`, up to 16
    uint32_t batch = 256;    // prompt tokens done at once
    host::KvTypes kv;        // of the cache, on host and device
};

/// A session's room: tokens at once, positions and cache. Nothing is left out in it yet. Throws Error where a model
/// cannot have it.
SessionShape session_shape(const DecisionOptions& options, const Config& config);

/// What is computed of a model, wherever it runs, and what is expected to fire.
struct Computation {
    SessionShape shape;    // where sessions are the same on every machine
    Hotness hotness;
    std::vector<LayerUse> use;
    std::vector<std::string> notes;    // what the user should know, a sentence each

    /// Placement order of every layer's neurons.
    std::vector<std::vector<uint32_t>> orders() const;
};

/// `weights` may be described only. Throws Error where options contradict the model or each other, or want what nobody
/// has measured.
Computation decide_computation(const DecisionOptions& options, const Weights& weights, const FiringSources& sources);

/// A model that it was decided for, by its weights (described or loaded), that computation, and what it wants on a
/// device as GpuSession::needs gives it.
struct ModelFacts {
    const Weights& weights;
    const Computation& computation;
    const Needs& needs;
    const TowerNeeds* tower = nullptr;    // of its vision tower, as DeviceTower::needs gives it; null: it sees nothing
};

struct DeviceFacts {
    std::string name;
    bool software = false;    // it computes on the host's cores
    uint64_t free = 0;        // bytes, as the driver says
    uint64_t promised = 0;    // of these, to other models
};

struct MachineFacts {
    std::optional<DeviceFacts> device;    // the one to use
    std::string why_none;                 // else a clause that says why; empty: none was asked for
    std::optional<Machine> figures;       // with that device, where it was measured
    std::optional<uint64_t> memory;       // bytes that the process can still have, where the system says
};

/// What of the device is set aside for a vision tower, for as long as the model is loaded.
struct TowerPlan {
    uint64_t room = 0;     // for its weights, or as many of them as are there at once; 0: images are the CPU's
    uint64_t bytes = 0;    // with its activations
    bool kept = false;     // the room is for all of them

    bool operator==(const TowerPlan&) const = default;
};

/// Whether a model can be loaded, how, and what it promises.
struct Decision {
    SessionShape shape;
    uint64_t budget = 0;    // bytes of device memory that could be used
    TowerPlan tower;
    Plan plan;    // who gets what; its bytes are the weights', a session's and the ring's
    Costs costs;
    std::optional<double> expected_us;    // of a token; nothing where the machine was not measured
    std::vector<double> served;           // layer by layer: the share of what fires that fires on the device
    std::string place;                    // a clause: "on the CPU (why)" or "on DEVICE: what"
    std::string unfit;                    // a sentence: why it cannot be loaded; empty where it can
    std::vector<std::string> notes;       // what else the user should know, a sentence each

    bool operator==(const Decision&) const = default;
};

/// For a token at `position` of the context. Never more device memory, the tower's included, than the budget: what was
/// asked for, or what is free less a margin, in either case without what was promised to other models.
Decision decide(const DecisionOptions& options, const ModelFacts& model, const MachineFacts& machine, double position);

/// The same costs for another position.
Costs costs_at(const ModelFacts& model, const MachineFacts& machine, SubmitMode submit, double position);

/// Where a model is for which there is no device: "on the CPU", and why.
std::string place_without(const MachineFacts& machine);

/// The middle of a usual conversation.
double usual_position(const SessionShape& shape);

}    // namespace hearth
