// Pictures as what a language model reads: rows of embeddings.
#pragma once

#include "engine/vision/preprocess.h"

#include <functional>
#include <memory>
#include <optional>

namespace hearth {

namespace host {
class Team;
}

class Vision {
  public:
    /// Reads an mmproj file; `dim` is the width of the language model's embeddings, `team` must outlive this. Throws
    /// Error, also where they do not belong together.
    Vision(const std::filesystem::path& path, host::Team& team, uint32_t dim);
    ~Vision();

    const ImageShape& shape() const;

    /// The rows (any number, dim) of a picture; empty if `stop`, asked between tiles, says so.
    std::vector<float> rows(const Image& image, ImageMode mode, const std::function<bool()>& stop = {});
    /// The same of what was made of one for the tower.
    std::vector<float> rows(const Pixels& pixels, const std::function<bool()>& stop = {});

  private:
    struct Parts;
    std::unique_ptr<Parts> parts_;
};

/// The width of the rows that a file's tower makes of pictures; nothing where the file is no mmproj file.
std::optional<uint32_t> tower_width(const std::filesystem::path& path);

}    // namespace hearth
