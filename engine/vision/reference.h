// The plain fp32 tower: what one computes, with no thought of speed. The oracle of its tests.
#pragma once

#include "engine/vision/tower_weights.h"

#include <span>

namespace hearth {

/// The features (patches, width) of a tile (3, side, side).
std::vector<float> reference_features(const TowerWeights& weights, std::span<const float> tile);

}    // namespace hearth
