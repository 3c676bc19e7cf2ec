#include "engine/vision/vision.h"

#include "engine/vision/tower.h"

#include <algorithm>

namespace hearth {

namespace {

TowerWeights read_tower_of(const std::filesystem::path& path, uint32_t dim)
{
    TowerWeights w = read_tower(std::make_shared<const Gguf>(path));
    if (w.width() == dim) return w;
    throw Error("{} makes rows of {} numbers of a picture, and the model takes rows of {}: give the file that belongs "
                "to the model",
                path.string(), w.width(), dim);
}

}    // namespace

struct Vision::Parts {
    TowerWeights weights;
    Tower tower;

    Parts(TowerWeights w, host::Team& team) : weights(std::move(w)), tower(weights, team) {}
};

Vision::Vision(const std::filesystem::path& path, host::Team& team, uint32_t dim)
    : parts_(std::make_unique<Parts>(read_tower_of(path, dim), team))
{
}
Vision::~Vision() = default;

const ImageShape& Vision::shape() const { return parts_->weights.shape; }

std::vector<float> Vision::rows(const Image& image, ImageMode mode, const std::function<bool()>& stop)
{
    return rows(preprocess(image, shape(), mode), stop);
}

std::vector<float> Vision::rows(const Pixels& pixels, const std::function<bool()>& stop)
{
    const TowerWeights& w = parts_->weights;
    const std::vector<float> features = parts_->tower.features(pixels.values, stop);
    if (features.empty()) return {};
    const size_t width = w.width();
    const std::vector<uint32_t> order = arrange(pixels, w.shape, !w.newline.empty());
    std::vector<float> rows(order.size() * width);
    for (size_t r = 0; r < order.size(); ++r)
        std::copy_n(order[r] == image_newline ? w.newline.data() : &features[order[r] * width], width,
                    &rows[r * width]);
    return rows;
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
