// A vision tower on the CPU: pixels to rows of embeddings, with the kernels of the language model's layers.
#pragma once

#include "engine/run/host_layers.h"
#include "engine/vision/tower_input.h"

#include <functional>

namespace hearth {

class Tower {
  public:
    /// Both must outlive this.
    Tower(const TowerWeights& weights, host::Team& team);
    Tower(const Tower&) = delete;
    Tower& operator=(const Tower&) = delete;

    /// The features of tiles (tiles, 3, side, side), normalised: (tiles, patches, width), row by row of each. `stop` is
    /// asked before each; if it says true, the result is empty. Throws Error where a number is not finite.
    std::vector<float> features(std::span<const float> tiles, const std::function<bool()>& stop = {});

  private:
    void run_layers();
    void project(float* to);
    void project(const Projection& p, const float* x, float* y);

    const TowerWeights& weights_;
    host::Team& team_;
    const uint32_t rows_;    // the class token's and one a patch
    TowerInput input_;
    HostLayers layers_;
    std::vector<uint32_t> pages_;
    host::Inputs inputs_;
    std::vector<float> x_, hidden_;    // reused from tile to tile
};

}    // namespace hearth
