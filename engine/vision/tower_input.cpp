#include "engine/vision/tower_input.h"

#include "host/norm.h"
#include "host/numbers.h"

#include <algorithm>

namespace hearth {

namespace {

/// The squares that a tile (3, side, side) is cut into: (patches, 3, patch, patch).
void cut(const TowerWeights& w, const float* tile, float* squares)
{
    const size_t side = w.shape.side, patch = w.shape.patch, a_side = w.patches_a_side();
    for (size_t p = 0; p < a_side * a_side; ++p)
        for (size_t channel = 0; channel < 3; ++channel)
            for (size_t y = 0; y < patch; ++y, squares += patch)
                std::copy_n(tile + (channel * side + p / a_side * patch + y) * side + p % a_side * patch, patch,
                            squares);
}

}    // namespace

TowerInput::TowerInput(const TowerWeights& weights, host::Team& team) : weights_(weights), team_(team)
{
    squares_.resize(size_t(weights_.patches()) * weights_.filters.cols);
    patches_.resize(size_t(weights_.patches()) * weights_.config().dim);
}

void TowerInput::embed(const float* tile, float* to)
{
    const TowerWeights& w = weights_;
    const size_t dim = w.config().dim;
    cut(w, tile, squares_.data());
    inputs_.prepare(team_, squares_.data(), w.patches(), w.filters.cols, false, host::Work::many);
    host::multiply(team_, w.filters, inputs_, patches_.data());
    const host::Norm norm = {w.before_norm, w.before_norm_bias, w.config().norm_eps};
    const auto decode = host::kernels().of(w.positions.type).decode;
    host::parallel_rows(team_, 1 + w.patches(), dim * sizeof(float), [&](uint32_t first, uint32_t last) {
        for (size_t r = first; r < last; ++r) {
            float* const x = to + r * dim;
            decode(w.positions.row(r), x, uint32_t(dim));
            const float* const of = r == 0 ? w.class_embedding.data() : &patches_[(r - 1) * dim];
            for (size_t i = 0; i < dim; ++i) x[i] += of[i];
            for (size_t i = 0; r > 0 && i < w.filter_bias.size(); ++i) x[i] += w.filter_bias[i];
            host::normalise(norm, x, x);
        }
    });
}

void check_features(const TowerWeights& weights, std::span<const float> features)
{
    if (!host::all_finite(features))
        throw Error("{} makes numbers that are not finite of a picture: the file is broken, so convert or download it "
                    "again",
                    weights.blocks.file->path().string());
}

}    // namespace hearth
