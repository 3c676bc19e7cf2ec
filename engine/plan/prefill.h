// What a prompt is expected to cost.
#pragma once

#include "engine/plan/decide.h"

namespace hearth {

/// Microseconds of a prompt of so many tokens: all neurons, every matrix at the rate of products that a side has for
/// its type, and read once at least. Groups that are not resident are the host's, or stream through the device from
/// Decision::shape.stream_from tokens on; experts are computed by the device all of them, by the host those that the
/// tokens chose.
double prefill_us(const Weights& weights, const Needs& needs, const Decision& decision, const Machine& machine,
                  uint32_t tokens);

/// A vision tower as its price goes: its layers as a model's, whose rows are the class token's and one a patch, and the
/// matrices of its projector.
struct TowerFacts {
    const Weights& layers;
    uint32_t patches;
    std::vector<const Matrix*> projector;
    const TowerNeeds& needs;
};

/// Microseconds of looking at an image of so many tiles: each a prompt of the tower's, which is all of it on one side.
double look_us(const TowerFacts& tower, const TowerPlan& plan, const Machine& machine, uint32_t tiles);

}    // namespace hearth
