// What enters the layers of a vision tower, wherever they are run: made on the CPU, as a token's embedding is.
#pragma once

#include "engine/vision/tower_weights.h"
#include "host/linear.h"

namespace hearth {

class TowerInput {
  public:
    /// Both must outlive this.
    TowerInput(const TowerWeights& weights, host::Team& team);

    /// x (1 + patches, dim) = norm(the class token, then what the filters make of each patch, all plus their
    /// positions), of a tile (3, side, side).
    void embed(const float* tile, float* x);

  private:
    const TowerWeights& weights_;
    host::Team& team_;
    host::Inputs inputs_;
    std::vector<float> squares_, patches_;    // reused from tile to tile
};

/// Throws Error where a number of `features` is not finite.
void check_features(const TowerWeights& weights, std::span<const float> features);

}    // namespace hearth
