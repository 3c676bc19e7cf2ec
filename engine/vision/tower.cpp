#include "engine/vision/tower.h"

#include "host/norm.h"

#include <numeric>

namespace hearth {

namespace {

HostLayers::Shape shape_of(const TowerWeights& w, uint32_t rows)
{
    return {.first_layer = 0,
            .batch = rows,
            .pages = ceil_div(rows, host::page_positions),
            .kv = {},
            .sparsity = std::vector<LayerSparsity>(w.config().layers),
            .one_cache = true};
}

}    // namespace

Tower::Tower(const TowerWeights& weights, host::Team& team)
    : weights_(weights), team_(team), rows_(1 + weights_.patches()), input_(weights, team),
      layers_(weights_.blocks, team, shape_of(weights_, rows_)), pages_(ceil_div(rows_, host::page_positions))
{
    std::iota(pages_.begin(), pages_.end(), 0);
    x_.resize(size_t(rows_) * weights_.config().dim);
    hidden_.resize(size_t(weights_.patches()) * weights_.projector[0].weight.rows);
}

std::vector<float> Tower::features(std::span<const float> tiles, const std::function<bool()>& stop)
{
    const size_t of_tile = size_t(3) * weights_.shape.side * weights_.shape.side, count = tiles.size() / of_tile,
                 made = size_t(weights_.patches()) * weights_.width();
    HEARTH_CHECK(tiles.size() % of_tile == 0);
    std::vector<float> features(count * made);
    for (size_t t = 0; t < count; ++t) {
        if (stop && stop()) return {};
        team_.hold([&] {
            input_.embed(&tiles[t * of_tile], x_.data());
            run_layers();
            project(&features[t * made]);
        });
    }
    check_features(weights_, features);
    return features;
}

/// Every row sees all others.
void Tower::run_layers()
{
    Batch batch;
    for (uint32_t r = 0; r < rows_; ++r) batch.rows.push_back({r, rows_, pages_.data()});
    FeedStats stats = {.tokens = rows_, .layers = std::vector<LayerCounts>(weights_.config().layers)};
    for (uint32_t l = 0; l < weights_.config().layers; ++l) layers_.layer(l, batch, x_.data(), stats);
}

/// to (patches, width) = the projector of all rows but the class token's
void Tower::project(float* to)
{
    const TowerWeights& w = weights_;
    const size_t width = w.projector[0].weight.rows;
    project(w.projector[0], &x_[w.config().dim], hidden_.data());
    host::parallel_rows(team_, w.patches(), width * sizeof(float), [&](uint32_t first, uint32_t last) {
        for (size_t i = first * width; i < last * width; ++i)
            hidden_[i] = host::activate(host::Activation::gelu, 0, hidden_[i]);
    });
    project(w.projector[1], hidden_.data(), to);
}

void Tower::project(const Projection& p, const float* x, float* y)
{
    const uint32_t patches = weights_.patches();
    const size_t n = p.weight.rows;
    inputs_.prepare(team_, x, patches, p.weight.cols, is_quantised(p.weight.type), host::Work::many);
    host::multiply(team_, p.weight, inputs_, y);
    host::parallel_rows(team_, patches, n * sizeof(float), [&](uint32_t first, uint32_t last) {
        for (size_t r = first; r < last; ++r) {
            for (size_t i = 0; i < n; ++i) y[r * n + i] += p.bias[i];
            if (!p.norm.empty()) host::normalise({p.norm, p.norm_bias, weights_.projector_eps}, y + r * n, y + r * n);
        }
    });
}

}    // namespace hearth
