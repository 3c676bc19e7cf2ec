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

}    // namespace hearth
