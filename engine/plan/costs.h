// What a token is expected to cost, from the model's sizes, what fires in it, and the machine's figures.
#pragma once

#include "engine/model/weights.h"
#include "engine/plan/machine.h"
#include "engine/plan/placement.h"

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

/// Needs as GpuModel::needs and GpuSession::needs give them; position: of the token in the context; position_bytes:
/// what a layer's KV cache has of each. `needs.layers[l].predictor` tells what a predictor reads.
Costs expected_costs(const Weights& weights, const Needs& needs, const std::vector<LayerUse>& use,
                     uint64_t position_bytes, const Machine& machine, double position);

/// How many tokens a prompt has at least for which copying the host's neurons to the device and computing them there is
/// expected to take less time than computing them on the host; UINT32_MAX: none has, nothing: the machine's figures do
/// not tell.
std::optional<uint32_t> stream_from(const Weights& weights, const Machine& machine);

}    // namespace hearth
