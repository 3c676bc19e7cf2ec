// Pictures as what a language model reads: rows of embeddings.
#pragma once

#include "engine/plan/prefill.h"
#include "engine/vision/preprocess.h"

#include <functional>
#include <memory>
#include <optional>

namespace hearth {

namespace host {
class Team;
}
namespace vulkan {
class Device;
}
struct TowerLayout;
struct TowerWeights;

/// Reads an mmproj file; `dim` is the width of the language model's embeddings. Throws Error, also where they do not
/// belong together.
std::shared_ptr<const TowerWeights> read_tower_of(const std::filesystem::path& path, uint32_t dim);

class Vision {
  public:
    /// By the CPU; `team` must outlive this.
    Vision(std::shared_ptr<const TowerWeights> weights, host::Team& team);
    /// By a device.
    Vision(std::shared_ptr<const TowerWeights> weights, host::Team& team, std::shared_ptr<vulkan::Device> device,
           const TowerLayout& layout);
    ~Vision();

    const ImageShape& shape() const;
    const std::filesystem::path& file() const;

    /// The rows (any number, dim) of a picture; empty if `stop`, asked before each tile, says so.
    std::vector<float> rows(const Image& image, ImageMode mode, const std::function<bool()>& stop = {});
    /// The same of what was made of one for the tower.
    std::vector<float> rows(const Pixels& pixels, const std::function<bool()>& stop = {});

  private:
    struct Parts;
    std::unique_ptr<Parts> parts_;
};

/// What a tower wants of a device, and what its price rests on; both must outlive the result.
TowerNeeds tower_needs(const TowerWeights& weights);
TowerFacts tower_facts(const TowerWeights& weights, const TowerNeeds& needs);

/// The one mmproj file in a model's folder that makes rows of such a width. Throws Error where there is none, or
/// several.
std::filesystem::path find_tower(const std::filesystem::path& model, uint32_t dim);

/// The width of the rows that a file's tower makes of pictures; nothing where the file is no mmproj file.
std::optional<uint32_t> tower_width(const std::filesystem::path& path);

}    // namespace hearth
