#include "engine/run/cpu_model.h"

#include <chrono>

namespace hearth {

namespace {

/// Microseconds since its construction.
class Stopwatch {
  public:
    double us() const { return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start_).count(); }

  private:
    std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}    // namespace

CpuModel::CpuModel(const Weights& weights, host::Team& team, uint32_t first_layer, uint32_t batch, uint32_t context, bool exact)
    : weights_(weights), team_(team), first_layer_(first_layer), context_(context), exact_(exact)
{
    const Config& c = weights.config;
    const size_t cache = size_t(c.kv_heads) * context * c.head_dim;
    keys_.assign(c.layers - first_layer, std::vector<uint16_t>(cache));
    values_ = keys_;
    norm_.resize(size_t(batch) * c.dim);
    out_.resize(size_t(batch) * c.dim);
    q_.resize(size_t(batch) * c.heads * c.head_dim);
    mixed_.resize(q_.size());
    k_.resize(size_t(batch) * c.kv_heads * c.head_dim);
    v_.resize(k_.size());
    logits_.resize(c.vocab);
}

void CpuModel::embed(std::span<const Token> tokens, float* x) const
{
    const Matrix& e = weights_.embedding;
    for (size_t t = 0; t < tokens.size(); ++t) {
        HEARTH_CHECK(tokens[t] < e.rows);
        host::kernels().of(e.type).decode(e.row(tokens[t]), x + t * e.cols, e.cols);
    }
}

void CpuModel::layer(uint32_t l, uint32_t position, uint32_t tokens, float* x, FeedStats& stats)
{
    HEARTH_CHECK(l >= first_layer_);
    const Config& c = weights_.config;
    const LayerWeights& w = weights_.layers[l];
    const Stopwatch watch;

    for (uint32_t t = 0; t < tokens; ++t)
        host::kernels().rmsnorm(x + size_t(t) * c.dim, w.attn_norm.data(), &norm_[size_t(t) * c.dim], c.dim, c.norm_eps);
    inputs_.prepare(team_, norm_.data(), tokens, c.dim, is_quantised(w.q.type) || is_quantised(w.k.type) || is_quantised(w.v.type));
    host::multiply(team_, w.q, inputs_, q_.data());
    host::multiply(team_, w.k, inputs_, k_.data());
    host::multiply(team_, w.v, inputs_, v_.data());

    const host::AttentionShape shape = {
        .heads = c.heads, .kv_heads = c.kv_heads, .head_dim = c.head_dim, .context = context_, .rope_dim = c.rope_dim, .rope_base = c.rope_base};
    host::attend(team_, shape, position, tokens, q_.data(), k_.data(), v_.data(), keys_[l - first_layer_].data(), values_[l - first_layer_].data(),
                 mixed_.data());
    inputs_.prepare(team_, mixed_.data(), tokens, c.heads * c.head_dim, is_quantised(w.o.type));
    host::multiply(team_, w.o, inputs_, out_.data());
    for (size_t i = 0; i < size_t(tokens) * c.dim; ++i) x[i] += out_[i];

    const uint64_t kv = kv_bytes_read(position, tokens, c.kv_heads * c.head_dim);
    stats.stages.push_back(
        {.name = "attention", .layer = l, .on_device = false, .bytes = w.q.bytes() + w.k.bytes() + w.v.bytes() + w.o.bytes() + kv, .us = watch.us()});

    for (uint32_t t = 0; t < tokens; ++t)
        host::kernels().rmsnorm(x + size_t(t) * c.dim, w.ffn_norm.data(), &norm_[size_t(t) * c.dim], c.dim, c.norm_eps);
    const host::NeuronRange all[] = {{0, c.neurons}};
    cold_ffn(l, all, tokens, norm_.data(), stats);
    for (size_t i = 0; i < size_t(tokens) * c.dim; ++i) x[i] += out_[i];
}

std::span<const float> CpuModel::cold_ffn(uint32_t l, std::span<const host::NeuronRange> ranges, uint32_t tokens, const float* x, FeedStats& stats)
{
    const host::FfnWeights& w = weights_.layers[l].ffn;
    const Stopwatch watch;
    inputs_.prepare(team_, x, tokens, weights_.config.dim, is_quantised(w.gate.type) || is_quantised(w.up.type));
    const host::FfnCounts counts = host::cold_ffn(team_, w, ranges, inputs_, exact_ && tokens == 1, out_.data(), scratch_);
    stats.layers[l].active_host += counts.active;
    stats.layers[l].host_us += watch.us();
    stats.stages.push_back({.name = "cold_ffn", .layer = l, .on_device = false, .bytes = counts.bytes, .us = watch.us()});
    return std::span(out_).first(size_t(tokens) * weights_.config.dim);
}

std::span<const float> CpuModel::head(const float* x, FeedStats& stats)
{
    const Config& c = weights_.config;
    const Stopwatch watch;
    host::kernels().rmsnorm(x, weights_.output_norm.data(), norm_.data(), c.dim, c.norm_eps);
    inputs_.prepare(team_, norm_.data(), 1, c.dim, is_quantised(weights_.output.type));
    host::multiply(team_, weights_.output, inputs_, logits_.data());
    stats.stages.push_back({.name = "head", .layer = c.layers, .on_device = false, .bytes = weights_.output.bytes(), .us = watch.us()});
    return logits_;
}

}    // namespace hearth
