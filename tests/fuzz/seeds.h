// The model that targets and their seeds agree on: as small as one can be.
#pragma once

#include "tests/random_model.h"

namespace hearth::fuzz {

inline const RandomModel seed_model = {
    .layers = 1, .dim = 32, .heads = 2, .kv_heads = 1, .neurons = 32, .vocab = 20, .context = 16};

}    // namespace hearth::fuzz
