#include "engine/run/host_layers.h"

#include "host/norm.h"

#include <algorithm>
#include <bit>
#include <numeric>

namespace hearth {

namespace {

/// Of all rows of x (rows, n); y is of the same shape.
void normalise_rows(host::Team& team, const host::Norm& norm, uint32_t rows, const float* x, float* y)
{
    const size_t n = norm.weight.size();
    host::parallel_rows(team, rows, n * sizeof(float), [&](uint32_t first, uint32_t last) {
        for (size_t t = first; t < last; ++t) host::normalise(norm, x + t * n, y + t * n);
    });
}

/// x += scale y, both (rows, n)
void add_rows(host::Team& team, uint32_t rows, uint32_t n, float scale, const float* y, float* x)
{
    host::parallel_rows(team, rows, n * sizeof(float), [&](uint32_t first, uint32_t last) {
        for (size_t i = size_t(first) * n; i < size_t(last) * n; ++i) x[i] += scale * y[i];
    });
}

/// x[t] += y, or nothing where y is empty.
void add_to_rows(const std::vector<float>& y, uint32_t rows, float* x)
{
    for (size_t t = 0; t < rows; ++t)
        for (size_t i = 0; i < y.size(); ++i) x[t * y.size() + i] += y[i];
}

}    // namespace

HostLayers::HostLayers(const Weights& weights, host::Team& team, Shape shape)
    : weights_(weights), team_(team),
      shape_(std::move(shape)), frequencies_{rope_frequencies(weights.config), rope_frequencies(weights.config, true)},
      all_(weights.config.neurons), groups_(ceil_div(weights.config.neurons, group_neurons))
{
    const Config& c = weights.config;
    const uint32_t batch = shape_.batch, first_layer = shape_.first_layer;
    HEARTH_CHECK(shape_.sparsity.size() == c.layers);
    for (uint32_t l = 0; l < c.layers; ++l) {
        const LayerShape layer = host_shape(c, weights.layers[l], shape_.kv);
        steps_.emplace_back();
        cold_ffn_steps_.emplace_back();
        for (const host::Work work : {host::Work::few, host::Work::many}) {
            steps_[l][size_t(work)] = host_attention_steps(c, layer, shape_.sparsity[l], {work});
            cold_ffn_steps_[l][size_t(work)] = cold_ffn_step(layer, shape_.sparsity[l], {work});
        }
    }
    head_step_ = host_head_step(host_matrix(weights.output));
    std::iota(all_.begin(), all_.end(), 0);
    std::iota(groups_.begin(), groups_.end(), 0);
    for (uint32_t l = first_layer; l < (shape_.one_cache ? first_layer + 1 : c.layers); ++l)
        caches_.emplace_back(shape_.kv, c.kv_heads, shape_.pages, c.head_dim);
    norm_.resize(size_t(batch) * c.dim);
    out_.resize(size_t(batch) * c.dim);
    attended_.resize(out_.size());
    q_.resize(size_t(batch) * c.heads * c.head_dim);
    mixed_.resize(q_.size());
    k_.resize(size_t(batch) * c.kv_heads * c.head_dim);
    v_.resize(k_.size());
    mask_.resize(host::most_few * ((c.neurons + 31) / 32));
    signs_.resize(c.layers - first_layer);
    for (uint32_t l = first_layer; l < c.layers; ++l)
        if (sparsity(l).predictor == Predictor::sign)
            signs_[l - first_layer] = host::SignRows(team, weights.layers[l].ffn.gate, all_);
}

const char* HostLayers::part_name(Part part)
{
    constexpr const char* names[] = {"norm before attention",
                                     "product with attn_q",
                                     "product with attn_k",
                                     "product with attn_v",
                                     "attention",
                                     "product with attn_output",
                                     "norm before the feed-forward block",
                                     "feed-forward block",
                                     "sum with what came before"};
    return names[size_t(part)];
}

void HostLayers::count(FeedStats& stats, uint32_t l, const Step& step, const Load& load, double& start) const
{
    const double end = clock_us();
    stats.stages.push_back({.name = step_name(step.kind),
                            .layer = l,
                            .on_device = false,
                            .bytes = uint64_t(step.bytes(load)),
                            .operations = step.operations(load),
                            .us = end - start,
                            .start_us = start});
    start = end;
}

void HostLayers::embed(const Batch& batch, float* x) const
{
    const Matrix &e = weights_.embedding, &p = weights_.positions;
    std::vector<float> of_position(p.cols);
    for (size_t r = 0; r < batch.size(); ++r) {
        float* const to = x + r * e.cols;
        if (!batch.embeddings.empty() && batch.embeddings[r]) std::copy_n(batch.embeddings[r], e.cols, to);
        else {
            HEARTH_CHECK(batch.tokens[r] < e.rows);
            host::kernels().of(e.type).decode(e.row(batch.tokens[r]), to, e.cols);
            if (const float scale = weights_.config.embedding_scale; scale != 1)
                std::for_each_n(to, e.cols, [scale](float& v) { v *= scale; });
        }
        if (p.rows == 0) continue;
        host::kernels().of(p.type).decode(p.row(first_position_row + batch.rows[r].position), of_position.data(),
                                          p.cols);
        add_to_rows(of_position, 1, to);
    }
}

void HostLayers::copy_page(uint32_t from, uint32_t to)
{
    for (host::KvCache& cache : caches_) cache.copy_page(from, to);
}

/// x += residual_scale norm(y) + bias; without the norm or the bias where they have no weights. y may change.
void HostLayers::add_block(std::vector<float>& y, const std::vector<float>& post_norm, const std::vector<float>& bias,
                           uint32_t tokens, float* x) const
{
    const Config& c = weights_.config;
    if (!post_norm.empty()) normalise_rows(team_, {post_norm, {}, c.norm_eps}, tokens, y.data(), y.data());
    add_rows(team_, tokens, c.dim, c.residual_scale, y.data(), x);
    add_to_rows(bias, tokens, x);
}

void HostLayers::layer(uint32_t l, const Batch& batch, float* x, FeedStats& stats)
{
    const uint32_t tokens = batch.size();
    const host::Work work = batch.work;
    HEARTH_CHECK(l >= shape_.first_layer);
    const Config& c = weights_.config;
    const LayerWeights& w = weights_.layers[l];
    const AttentionWeights& a = w.attention;
    const std::vector<Step>& steps = this->steps(l, work);
    const Load load = {.rows = double(tokens), .positions = double(seen(batch.rows, a.window))};
    double start = clock_us();

    normalise_rows(team_, {w.attn_norm, w.attn_norm_bias, c.norm_eps}, tokens, x, norm_.data());
    inputs_.prepare(team_, norm_.data(), tokens, c.dim,
                    is_quantised(a.q.type) || is_quantised(a.k.type) || is_quantised(a.v.type), work);
    host::multiply(team_, {{a.q, q_.data()}, {a.k, k_.data()}, {a.v, v_.data()}}, inputs_);
    count(stats, l, step_of(steps, StepKind::qkv), load, start);
    const auto show = [&](Part part, const std::vector<float>& of_batch, size_t width) {
        if (parts) parts(l, part, std::span(of_batch).first(tokens * width));
    };
    const size_t q_width = size_t(c.heads) * c.head_dim, kv_width = size_t(c.kv_heads) * c.head_dim;
    show(Part::attn_norm, norm_, c.dim);
    show(Part::q, q_, q_width);
    show(Part::k, k_, kv_width);
    show(Part::v, v_, kv_width);

    const host::AttentionShape shape = {.heads = c.heads,
                                        .kv_heads = c.kv_heads,
                                        .head_dim = c.head_dim,
                                        .scale = c.score_scale,
                                        .rope = {frequencies_[a.window_rope], c.pairs, c.rope_magnitude},
                                        .weights = {.q_bias = a.q_bias,
                                                    .k_bias = a.k_bias,
                                                    .v_bias = a.v_bias,
                                                    .q_norm = a.q_norm,
                                                    .k_norm = a.k_norm,
                                                    .eps = c.norm_eps},
                                        .softcap = c.score_cap,
                                        .window = a.window};
    host::attend(team_, shape, caches_[shape_.one_cache ? 0 : l - shape_.first_layer], batch.rows, q_.data(), k_.data(),
                 v_.data(), mixed_.data(), attend_scratch_);
    count(stats, l, step_of(steps, StepKind::attend), load, start);
    if (cached) cached(l, std::span(k_).first(tokens * kv_width), std::span(v_).first(tokens * kv_width));
    show(Part::attention, mixed_, q_width);
    inputs_.prepare(team_, mixed_.data(), tokens, c.heads * c.head_dim, is_quantised(a.o.type), work);
    host::multiply(team_, a.o, inputs_, attended_.data());
    show(Part::attn_output, attended_, c.dim);
    if (!c.parallel) add_block(attended_, w.post_attn_norm, a.o_bias, tokens, x);
    count(stats, l, step_of(steps, StepKind::attn_out), load, start);

    normalise_rows(team_, {w.ffn_norm, w.ffn_norm_bias, c.norm_eps}, tokens, x, norm_.data());
    show(Part::ffn_norm, norm_, c.dim);
    Cold cold = {.neurons = all_, .may_fire = all_};
    if (c.experts) {
        cold = route(l, work, tokens, norm_.data(), stats);
        if (watch) watch_experts(l, tokens, norm_.data(), x, cold.experts);
    } else {
        if (watch) watch_gates(l, all_, tokens, norm_.data(), x);
        if (work == host::Work::few) cold = predict(l, tokens, norm_.data(), x, stats);
    }
    cold_ffn(l, cold, work, tokens, norm_.data(), stats);
    show(Part::ffn, out_, c.dim);
    if (c.parallel) add_block(attended_, w.post_attn_norm, a.o_bias, tokens, x);
    add_block(out_, w.post_ffn_norm, w.down_bias, tokens, x);
    if (parts) parts(l, Part::sum, {x, size_t(tokens) * c.dim});
}

HostLayers::Cold HostLayers::of_experts(std::span<const uint32_t> neurons, uint32_t rows, const float* experts)
{
    const uint32_t count = weights_.config.experts, together = weights_.config.neurons_together();
    may_fire_.clear();
    for (size_t i = 0; i < neurons.size();) {
        const uint32_t e = neurons[i] / together;
        const auto run = neurons.subspan(i, host::run_of_expert(neurons.subspan(i), together));
        i += run.size();
        bool any = false;
        for (uint32_t r = 0; r < rows; ++r) any |= experts[size_t(r) * count + e] != 0;
        if (any) may_fire_.insert(may_fire_.end(), run.begin(), run.end());
    }
    return {.neurons = neurons, .may_fire = may_fire_, .predicted = {}, .experts = experts};
}

HostLayers::Cold HostLayers::predicted(std::span<const uint32_t> neurons, std::span<const uint32_t> groups,
                                       std::span<const uint32_t> order, std::span<const uint32_t* const> masks)
{
    may_fire_.clear();
    predicted_.clear();
    for (const uint32_t g : groups) {
        const size_t first = size_t(g) * group_neurons;
        uint32_t any = 0;
        for (const uint32_t* const mask : masks) any |= mask[g];
        if (order.size() - first < group_neurons) any &= (1u << (order.size() - first)) - 1;
        for (; any; any &= any - 1) {
            const uint32_t i = uint32_t(std::countr_zero(any));
            may_fire_.push_back(order[first + i]);
            for (size_t r = 0; r < masks.size() && masks.size() > 1; ++r)
                predicted_.push_back(float(masks[r][g] >> i & 1));
        }
    }
    return {.neurons = neurons, .may_fire = may_fire_, .predicted = predicted_};
}

/// Of all the layer's neurons, those that may fire for one of few rows.
HostLayers::Cold HostLayers::predict(uint32_t l, uint32_t rows, const float* x, const float* residual, FeedStats& stats)
{
    const Config& c = weights_.config;
    const LayerWeights& w = weights_.layers[l];
    const Predictor predictor = sparsity(l).predictor;
    if (predictor == Predictor::none) return {.neurons = all_, .may_fire = all_};
    double start = clock_us();
    const size_t words = (c.neurons + 31) / 32;
    if (predictor == Predictor::sign) {
        const host::SignRows& signs = signs_[l - shape_.first_layer];
        for (size_t r = 0; r < rows; ++r)
            host::predict_sign(team_, signs, x + r * c.dim, sparsity(l).agreements, &mask_[r * words]);
    } else {
        host::predict_lowrank(team_, w.fc1, w.fc2, all_, residual, rows, w.predictor_threshold, mask_.data(),
                              predict_scratch_);
    }
    const uint32_t* masks[host::most_few];
    for (size_t r = 0; r < rows; ++r) masks[r] = &mask_[r * words];
    const Cold cold = predicted(all_, groups_, all_, std::span(masks, rows));
    count(stats, l, step_of(steps(l, host::Work::few), StepKind::predict_mask), {.rows = double(rows)}, start);
    return cold;
}

/// Which experts each row goes through; of few rows, their neurons.
HostLayers::Cold HostLayers::route(uint32_t l, host::Work work, uint32_t rows, const float* x, FeedStats& stats)
{
    const Config& c = weights_.config;
    const host::Router& router = weights_.layers[l].router;
    double start = clock_us();
    expert_weights_.resize(size_t(rows) * c.experts);
    inputs_.prepare(team_, x, rows, c.dim, is_quantised(router.scores.type), work);
    host::route(team_, router, inputs_, expert_weights_.data());
    count(stats, l, step_of(steps(l, work), StepKind::route), {.rows = double(rows)}, start);
    if (work == host::Work::many)
        return {.neurons = all_, .may_fire = all_, .predicted = {}, .experts = expert_weights_.data()};
    return of_experts(all_, rows, expert_weights_.data());
}

std::span<const float> HostLayers::cold_ffn(uint32_t l, const Cold& cold, host::Work work, uint32_t rows,
                                            const float* x, FeedStats& stats)
{
    const Config& c = weights_.config;
    const host::FfnWeights& w = weights_.layers[l].ffn;
    const float cut = work == host::Work::few ? shape_.sparsity[l].cut : host::no_cut;
    double start = clock_us();
    host::FfnCounts counts;
    if (cold.experts) {
        counts = host::cold_experts(team_, w, c.experts, cold.may_fire, cold.experts, x, rows, work, cut, out_.data(),
                                    scratch_);
    } else {
        inputs_.prepare(team_, x, rows, c.dim, is_quantised(w.gate.type) || is_quantised(w.up.type), work);
        counts = host::cold_ffn(team_, w, cold.may_fire, inputs_, cut, out_.data(), scratch_.ffn, cold.predicted);
    }
    LayerCounts& layer = stats.layers[l];
    layer.active_host += counts.active;
    layer.host_neurons += cold.neurons.size() * rows;
    layer.host_gates += counts.gates;
    layer.host_us += clock_us() - start;
    const Load load = {.rows = double(rows),
                       .looked_at = double(counts.gates),
                       .fired = double(counts.active),
                       .down_bytes = double(counts.bytes)};    // of all three matrices
    count(stats, l, cold_ffn_steps_[l][size_t(work)], load, start);
    // A router is never wrong.
    if (shape_.check_predictor && work == host::Work::few && !cold.experts) count_missed(l, cold, rows, layer);
    return std::span(out_).first(size_t(rows) * c.dim);
}

/// Neurons that fire for a row that was not expected to need them; inputs_ are those of the block.
void HostLayers::count_missed(uint32_t l, const Cold& cold, uint32_t rows, LayerCounts& counts)
{
    const host::FfnWeights& w = weights_.layers[l].ffn;
    gates_.resize(cold.neurons.size() * rows);
    host::multiply_rows(team_, w.gate, cold.neurons, inputs_, gates_.data());
    size_t said = 0;    // in may_fire, which is in the order of `neurons`
    for (size_t i = 0; i < cold.neurons.size(); ++i) {
        const uint32_t n = cold.neurons[i];
        const bool any = said < cold.may_fire.size() && cold.may_fire[said] == n;
        for (uint32_t r = 0; r < rows; ++r) {
            const bool expected = any && (cold.predicted.empty() || cold.predicted[said * rows + r] != 0);
            if (!expected) counts.missed += gates_[r * cold.neurons.size() + i] + w.bias_of(n) > weights_.config.floor;
        }
        said += any;
    }
}

void HostLayers::watch_experts(uint32_t l, uint32_t tokens, const float* x, const float* residual, const float* weights)
{
    const uint32_t experts = weights_.config.experts;
    watch({.layer = l,
           .tokens = tokens,
           .x = x,
           .residual = residual,
           .neurons = std::span(all_).first(experts),
           .gates = std::span(weights, size_t(tokens) * experts)});
}

void HostLayers::watch_gates(uint32_t l, std::span<const uint32_t> neurons, uint32_t tokens, const float* x,
                             const float* residual)
{
    const Matrix& gate = weights_.layers[l].ffn.gate;
    inputs_.prepare(team_, x, tokens, gate.cols, is_quantised(gate.type), host::Work::many);
    gates_.resize(neurons.size() * tokens);
    host::multiply_rows(team_, gate, neurons, inputs_, gates_.data());
    watch({.layer = l, .tokens = tokens, .x = x, .residual = residual, .neurons = neurons, .gates = gates_});
}

std::span<const float> HostLayers::head(uint32_t rows, const float* x, FeedStats& stats)
{
    const Config& c = weights_.config;
    double start = clock_us();
    logits_.resize(size_t(rows) * c.vocab);
    normalise_rows(team_, {weights_.output_norm, weights_.output_norm_bias, c.norm_eps}, rows, x, norm_.data());
    inputs_.prepare(team_, norm_.data(), rows, c.dim, is_quantised(weights_.output.type), host::Work::few);
    host::multiply(team_, weights_.output, inputs_, logits_.data());
    count(stats, c.layers, head_step_, {.rows = double(rows)}, start);
    return logits_;
}

}    // namespace hearth
