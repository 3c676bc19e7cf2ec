// A vision tower on the device: pixels to rows of embeddings, by the language model's kernels and recordings.
//
// Its weights pass through `room` bytes of device memory in parts, each some layers, the last one with the projector:
//
//     part 0 comes | every tile goes through part 0 | part 1 comes | every tile goes through part 1 | ...
//
// Between parts a tile's rows are on the host. Where there is room for all of it there is one part, and that stays.
#pragma once

#include "engine/device/recorder.h"
#include "engine/vision/tower_input.h"

#include <functional>

namespace hearth {

struct TowerLayout {
    uint64_t room;    // for weights; at least the largest piece's of TowerNeeds
    RowVariants row_variants = {};
    ProductRates products = {};
};

class DeviceTower {
  public:
    /// `weights` and `team` must outlive this. Nothing is on the device before the first picture.
    DeviceTower(const TowerWeights& weights, std::shared_ptr<vulkan::Device> device, host::Team& team,
                TowerLayout layout);
    ~DeviceTower();
    DeviceTower(const DeviceTower&) = delete;
    DeviceTower& operator=(const DeviceTower&) = delete;

    static TowerNeeds needs(const TowerWeights& weights);

    /// As Tower::features; `stop` is asked before each tile of each part. Activations are gone when it returns.
    std::vector<float> features(std::span<const float> tiles, const std::function<bool()>& stop = {});

  private:
    /// Neighbouring layers, and in the last one the projector.
    struct Part {
        size_t first, layers;
        bool projector;
    };
    struct Loaded;
    class Work;
    std::unique_ptr<Loaded> load(const Part& part, vulkan::Uploader& uploader);

    const TowerWeights& weights_;
    std::shared_ptr<vulkan::Device> device_;
    host::Team& team_;
    const TowerLayout layout_;
    TowerInput input_;
    GpuKernels kernels_;    // of the projector
    std::vector<Part> parts_;
    std::unique_ptr<Loaded> kept_;    // where there is but one part
};

}    // namespace hearth
