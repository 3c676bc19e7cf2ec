// What a token is expected to cost, from the model's sizes, what fires in it, and the machine's figures.
#pragma once

#include "engine/model/weights.h"
#include "engine/plan/machine.h"
#include "engine/plan/placement.h"
#include "engine/plan/session_shape.h"

#include <optional>
#include <vector>

namespace hearth {

/// What decode is expected to do in one layer's feed-forward block.
struct LayerUse {
    std::vector<double>
        fired;               // (groups) neurons of each group that fire for a token, on average, in placement order
    double looked_at = 1;    // share of the host's gates that are looked at; less than 1 with a predictor
    bool skips = false;      // up and down rows of what does not fire are left unread
    bool routed = false;     // gates, too: a router says before what fires
};

/// A model that a plan is for: its weights (described or loaded), what it wants on a device as GpuSession::needs gives
/// it, its sessions, and what is expected to fire layer by layer.
struct PlannedModel {
    const Weights& weights;
    const Needs& needs;
    const SessionShape& shape;
    const std::vector<LayerUse>& use;
};

/// The figures as they hold for that model.
Machine figures_for(const Weights& weights, Machine machine);

/// For a token at `position` of the context.
Costs expected_costs(const PlannedModel& model, const Machine& machine, double position);

/// Rows of one sequence, the first of them at `position`.
struct PlannedBatch {
    host::Work work = host::Work::few;
    uint32_t rows = 1;
    double position = 0;
};

/// A step of a batch as it is expected to be: step.bytes(load), step.operations(load).
struct PlannedStep {
    Step step;
    uint32_t layer;    // the number of layers: the head
    bool on_device;
    Load load;
};

/// All steps of a batch under a plan, in their order; the last row's logits are wanted. `machine` tells which kernels
/// the device would take; null: it was not measured.
std::vector<PlannedStep> planned_steps(const PlannedModel& model, const Plan& plan, const Machine* machine,
                                       const PlannedBatch& batch);

/// How many tokens a prompt has at least for which copying the host's neurons to the device and computing them there is
/// expected to take less time than computing them on the host; UINT32_MAX: none has, nothing: the machine's figures do
/// not tell.
std::optional<uint32_t> stream_from(const Weights& weights, const Machine& machine);

}    // namespace hearth
