// What of a model's file the host reads again and again.
#pragma once

#include "engine/model/weights.h"
#include "engine/plan/placement.h"

#include <span>
#include <vector>

namespace hearth {

/// The bytes of each matrix that the host reads under that plan: of its own layers all, of a split layer the neurons'
/// where at least half of them are the host's, and the output. Not what was made at load, and not the embedding, of
/// which a token reads one row.
std::vector<std::span<const std::byte>> read_by_host(const Weights& weights, const Plan& plan);

}    // namespace hearth
