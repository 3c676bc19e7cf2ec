// How decode goes about it: what it leaves out, and when the device gets its work.
#pragma once

#include "host/cold_ffn.h"

#include <cstdint>

namespace hearth {

enum class Sparsity {
    dense,        // every neuron is computed
    exact,        // up and down only where the gate is positive: the same result
    predict,      // gates too only of neurons that a predictor names, on the host
    threshold,    // up and down only where |act(gate)| is above a cut of the profile: an approximation for models that
                  // never are zero
};

/// Who says which of the host's neurons will fire, before any of their rows are read.
enum class Predictor : uint32_t {
    none,       // nobody: the host looks at every gate
    sign,       // as many signs of x and of the gate's row agree as a profile found to be enough
    lowrank,    // fc2_n . relu(fc1 . r) is large enough
};

/// When the device gets the work of a decode that depends on the host.
enum class SubmitMode {
    just_in_time,    // once the host's share is there: a submit per segment
    ahead,           // before: one submit per token, whose segments wait for a word from the host
};

struct LayerSparsity {
    float cut = host::no_cut;    // see there; gates that are looked at are exact
    Predictor predictor = Predictor::none;
    uint32_t agreements = 0;    // of signs, for Predictor::sign

    bool operator==(const LayerSparsity&) const = default;
};

}    // namespace hearth
