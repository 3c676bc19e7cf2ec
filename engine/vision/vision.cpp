#include "engine/vision/vision.h"

#include "engine/vision/device_tower.h"
#include "engine/vision/tower.h"

#include <algorithm>

namespace hearth {

std::shared_ptr<const TowerWeights> read_tower_of(const std::filesystem::path& path, uint32_t dim)
{
    auto w = std::make_shared<const TowerWeights>(read_tower(std::make_shared<const Gguf>(path)));
    if (w->width() == dim) return w;
    throw Error("{} makes rows of {} numbers of a picture, and the model takes rows of {}: give the file that belongs "
                "to the model",
                path.string(), w->width(), dim);
}

/// One of the two towers. Made by `new`, since clang 14 cannot make_unique an aggregate.
struct Vision::Parts {
    std::shared_ptr<const TowerWeights> weights;
    std::optional<Tower> host = {};
    std::optional<DeviceTower> device = {};
};

Vision::Vision(std::shared_ptr<const TowerWeights> weights, host::Team& team) : parts_(new Parts{std::move(weights)})
{
    parts_->host.emplace(*parts_->weights, team);
}
Vision::Vision(std::shared_ptr<const TowerWeights> weights, host::Team& team, std::shared_ptr<vulkan::Device> device,
               const TowerLayout& layout)
    : parts_(new Parts{std::move(weights)})
{
    parts_->device.emplace(*parts_->weights, std::move(device), team, layout);
}
Vision::~Vision() = default;

const ImageShape& Vision::shape() const { return parts_->weights->shape; }
const std::filesystem::path& Vision::file() const { return parts_->weights->blocks.file->path(); }

std::vector<float> Vision::rows(const Image& image, ImageMode mode, const std::function<bool()>& stop)
{
    return rows(preprocess(image, shape(), mode), stop);
}

std::vector<float> Vision::rows(const Pixels& pixels, const std::function<bool()>& stop)
{
    const TowerWeights& w = *parts_->weights;
    const std::vector<float> features =
        parts_->device ? parts_->device->features(pixels.values, stop) : parts_->host->features(pixels.values, stop);
    if (features.empty()) return {};
    const size_t width = w.width();
    const std::vector<uint32_t> order = arrange(pixels, w.shape, !w.newline.empty());
    std::vector<float> rows(order.size() * width);
    for (size_t r = 0; r < order.size(); ++r)
        std::copy_n(order[r] == image_newline ? w.newline.data() : &features[order[r] * width], width,
                    &rows[r * width]);
    return rows;
}

TowerNeeds tower_needs(const TowerWeights& w) { return DeviceTower::needs(w); }
TowerFacts tower_facts(const TowerWeights& w, const TowerNeeds& needs)
{
    return {w.blocks, w.patches(), {&w.projector[0].weight, &w.projector[1].weight}, needs};
}

std::filesystem::path find_tower(const std::filesystem::path& model, uint32_t dim)
{
    const std::filesystem::path folder = model.has_parent_path() ? model.parent_path() : ".";
    std::vector<std::filesystem::path> fitting;
    std::error_code ec;
    for (const auto& entry : std::filesystem::directory_iterator(folder, ec))
        if (entry.path().extension() == ".gguf" &&
            entry.path().filename().string().find("mmproj") != std::string::npos && tower_width(entry.path()) == dim)
            fitting.push_back(entry.path());
    if (fitting.size() == 1) return fitting[0];
    throw Error("images need the part of the model that looks at them, and beside {} there {}: name it with --mmproj",
                model.string(),
                fitting.empty() ? "is no file *mmproj*.gguf that fits"
                                : fmt::format("are {} files *mmproj*.gguf that fit", fitting.size()));
}

std::optional<uint32_t> tower_width(const std::filesystem::path& path)
{
    try {
        const Gguf file(path);
        const GgufTensor* last = file.find(file.find("mm.3.weight") ? "mm.3.weight" : "mm.2.weight");
        if (file.string("general.architecture", "") != "clip" || !last || last->shape.size() < 2) return {};
        return uint32_t(last->shape[1]);
    } catch (const Error&) {
        return {};
    }
}

}    // namespace hearth
