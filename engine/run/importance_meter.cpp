#include "engine/run/importance_meter.h"

#include "engine/run/sequence.h"
#include "host/norm.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace hearth {

namespace {

uint32_t pages_for(uint32_t positions) { return ceil_div(positions, host::page_positions); }

}    // namespace

void ImportanceMeter::Sums::add(size_t expert, size_t rows, const float* x, size_t stride, size_t step)
{
    const size_t columns = of_column.size() / count.size();
    double* const sums = &of_column[expert * columns];
    for (size_t r = 0; r < rows; ++r)
        for (size_t i = 0; i < columns; ++i) sums[i] += double(x[r * stride + i * step]) * x[r * stride + i * step];
    count[expert] += rows;
}

ImportanceMeter::ImportanceMeter(const Weights& weights, host::Team& team, uint32_t window)
    : weights_(weights), team_(team), window_(window),
      layers_(weights, team,
              {.first_layer = 0,
               .batch = window,
               .pages = pages_for(window),
               .kv = {},
               .sparsity = std::vector<LayerSparsity>(weights.config.layers),
               .one_cache = true}),
      output_(weights.config.dim), x_(size_t(window) * weights.config.dim)
{
    const Config& c = weights.config;
    const size_t experts = std::max(c.experts, 1u);
    for (uint32_t l = 0; l < c.layers; ++l)
        sums_.push_back({Sums(c.dim), Sums(size_t(c.heads) * c.head_dim), Sums(c.dim, experts),
                         Sums(c.neurons / experts, experts)});
    layers_.parts = [this](uint32_t l, HostLayers::Part part, std::span<const float> x) {
        Sums* const sums = part == HostLayers::Part::attn_norm   ? &sums_[l].attention
                           : part == HostLayers::Part::attention ? &sums_[l].attn_output
                                                                 : nullptr;
        if (sums) sums->add(0, x.size() / sums->of_column.size(), x.data(), sums->of_column.size(), 1);
    };
    layers_.watch = [this](const LayerActivity& activity) { block(activity); };
}

/// A feed-forward block, expert by expert; half of it is computed a second time, for what its down projection reads.
void ImportanceMeter::block(const LayerActivity& a)
{
    const Config& c = weights_.config;
    const host::FfnWeights& w = weights_.layers[a.layer].ffn;
    Layer& layer = sums_[a.layer];
    const uint32_t experts = std::max(c.experts, 1u), together = c.neurons / experts;
    std::vector<uint32_t> neurons(together);
    for (uint32_t e = 0; e < experts; ++e) {
        rows_.clear();
        for (uint32_t t = 0; t < a.tokens; ++t)
            if (c.experts == 0 || a.gates[size_t(t) * experts + e] != 0)
                rows_.insert(rows_.end(), a.x + size_t(t) * c.dim, a.x + size_t(t + 1) * c.dim);
        const uint32_t rows = uint32_t(rows_.size() / c.dim);
        if (rows == 0) continue;
        layer.ffn.add(e, rows, rows_.data(), c.dim, 1);
        std::iota(neurons.begin(), neurons.end(), e * together);
        inputs_.prepare(team_, rows_.data(), rows, c.dim, is_quantised(w.gate.type) || is_quantised(w.up.type),
                        host::Work::many);
        host::cold_gate_and_up(team_, w, neurons, inputs_, host::no_cut, scratch_);
        layer.ffn_down.add(e, rows, scratch_.h.data(), 1, rows);
    }
}

void ImportanceMeter::window(std::span<const Token> tokens)
{
    HEARTH_CHECK(!tokens.empty() && tokens.size() <= window_);
    const Config& c = weights_.config;
    PagePool pool(pages_for(window_));
    Sequence sequence(pool);
    sequence.make_room(uint32_t(tokens.size()), {});
    Batch batch = {.work = host::Work::many};
    sequence.add_rows(tokens, batch);
    FeedStats stats = {.layers = std::vector<LayerCounts>(c.layers)};
    team_.hold([&] {
        layers_.embed(batch, x_.data());
        for (uint32_t l = 0; l < c.layers; ++l) layers_.layer(l, batch, x_.data(), stats);
        for (size_t t = 0; t < tokens.size(); ++t)
            host::normalise({weights_.output_norm, weights_.output_norm_bias, c.norm_eps}, &x_[t * c.dim],
                            &x_[t * c.dim]);
    });
    output_.add(0, tokens.size(), x_.data(), c.dim, 1);
    if (!std::isfinite(std::accumulate(output_.of_column.begin(), output_.of_column.end(), 0.0)))
        throw Error("{} computes numbers that are not finite: `hearth run` says where they come from",
                    weights_.file->path().string());
    ++windows_;
}

const ImportanceMeter::Sums* ImportanceMeter::inputs_of(std::string_view tensor) const
{
    const bool tied = weights_.output.data == weights_.embedding.data;
    if (tensor == (tied ? "token_embd.weight" : "output.weight")) return &output_;
    const auto at = layer_part(tensor);
    if (!at || at->layer >= sums_.size()) return nullptr;
    constexpr std::pair<std::string_view, Sums Layer::*> readers[] = {
        {"attn_q.weight", &Layer::attention},
        {"attn_k.weight", &Layer::attention},
        {"attn_v.weight", &Layer::attention},
        {"attn_qkv.weight", &Layer::attention},
        {"attn_output.weight", &Layer::attn_output},
        {"ffn_gate.weight", &Layer::ffn},
        {"ffn_up.weight", &Layer::ffn},
        {"ffn_gate_exps.weight", &Layer::ffn},
        {"ffn_up_exps.weight", &Layer::ffn},
        {"ffn_down.weight", &Layer::ffn_down},
        {"ffn_down_exps.weight", &Layer::ffn_down},
    };
    const auto found = std::ranges::find(readers, at->part, &std::pair<std::string_view, Sums Layer::*>::first);
    return found == std::end(readers) ? nullptr : &(sums_[at->layer].*found->second);
}

Importance ImportanceMeter::measured() const
{
    Importance all = {.matrices = {}, .texts = {}, .windows = windows_, .window = window_};
    for (const GgufTensor& t : weights_.file->tensors()) {
        const std::string name = name_by_columns(t.name, weights_.config.experts > 0);
        const Sums* const sums = inputs_of(name);
        if (!sums) continue;
        all.matrices[name] = {.columns = sums->of_column.size() / sums->count.size(),
                              .sums = {sums->of_column.begin(), sums->of_column.end()},
                              .counts = {sums->count.begin(), sums->count.end()}};
    }
    return all;
}

}    // namespace hearth
