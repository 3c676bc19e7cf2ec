#include "engine/tune/profiler.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

namespace hearth {

Profiler::Profiler(Profile& profile, const Weights& weights, host::Team& team)
    : profile_(profile), weights_(weights), team_(team)
{
    discard();
    if (weights.config.experts) return;    // whose router needs no other predictor
    std::vector<uint32_t> all(weights.config.neurons);
    std::iota(all.begin(), all.end(), 0);
    for (const LayerWeights& l : weights.layers) signs_.emplace_back(team, l.ffn.gate, all);
    signs_of_x_.resize(signs_[0].words());
}

void Profiler::discard()
{
    heard_ =
        empty_profile(*weights_.file, weights_.config.layers, weights_.config.firing(), weights_.config.dim).layers;
}

void Profiler::hear(const LayerActivity& a)
{
    LayerProfile& layer = heard_[a.layer];
    const size_t n = a.neurons.size(), words = ceil_div(weights_.config.firing(), 32);
    counts_.assign(n, 0);
    for (size_t t = 0; t < a.tokens; ++t) {
        for (size_t j = 0; j < n; ++j) counts_[j] += fires(a, t, j);
    }
    for (size_t j = 0; j < n; ++j) layer.fired[a.neurons[j]] += counts_[j];

    uint64_t row = 0;
    for (uint32_t t = 0; t < a.tokens; ++t) {
        if ((profile_.positions + t) % profile_.stride) continue;
        layer.samples.resize(std::max(layer.samples.size(), (row + 1) * words));
        sample(a, t, &layer.samples[row++ * words]);
    }
}

/// Whether neuron a.neurons[j] fires for token t, whatever its up says; or whether t goes through that expert.
bool Profiler::fires(const LayerActivity& a, size_t t, size_t j) const
{
    const float gate = a.gates[t * a.neurons.size() + j];
    if (weights_.config.experts) return gate != 0;
    return gate + weights_.layers[a.layer].ffn.bias_of(a.neurons[j]) > weights_.config.floor;
}

/// One sampled position: who fired, and what the predictors would have said.
void Profiler::sample(const LayerActivity& a, uint32_t t, uint32_t* row)
{
    const Config& c = weights_.config;
    const LayerWeights& w = weights_.layers[a.layer];
    LayerProfile& layer = heard_[a.layer];
    const size_t n = a.neurons.size();
    if (c.experts) {
        for (size_t j = 0; j < n; ++j) row[j / 32] |= uint32_t(fires(a, t, j)) << j % 32;
        return;
    }
    const host::SignRows& signs = signs_[a.layer];
    const float* gates = a.gates.data() + t * n;
    host::kernels().pack_signs(a.x + size_t(t) * c.dim, signs_of_x_.data(), c.dim);
    const bool lowrank = w.fc1.rows > 0;
    if (lowrank) {
        mask_.resize(ceil_div(n, 32));
        host::predict_lowrank(team_, w.fc1, w.fc2, a.neurons, a.residual + size_t(t) * c.dim, 1, w.predictor_threshold,
                              mask_.data(), predict_scratch_);
    }
    const auto differing = host::kernels().differing_bits;
    for (size_t j = 0; j < n; ++j) {
        const uint32_t neuron = a.neurons[j];
        const bool fired = fires(a, t, j);
        row[neuron / 32] |= uint32_t(fired) << neuron % 32;
        const uint32_t agreeing = c.dim - differing(signs.row(neuron), signs_of_x_.data(), signs.words());
        ++layer.agreeing[agreeing];
        layer.agreeing_fired[agreeing] += fired;
        if (lowrank && (mask_[j / 32] >> j % 32 & 1)) {
            ++layer.predicted;
            layer.predicted_fired += fired;
        }
        if (!host::makes_zeros(c.activation))
            ++layer.activation[activation_bin(std::abs(host::activate(c.activation, c.floor, gates[j])))];
    }
}

void Profiler::commit(uint32_t positions)
{
    const auto add = [](auto& to, const auto& more) {
        std::transform(to.begin(), to.end(), more.begin(), to.begin(), std::plus());
    };
    for (size_t l = 0; l < heard_.size(); ++l) {
        LayerProfile &to = profile_.layers[l], &from = heard_[l];
        add(to.fired, from.fired);
        add(to.agreeing, from.agreeing);
        add(to.agreeing_fired, from.agreeing_fired);
        add(to.activation, from.activation);
        to.predicted += from.predicted;
        to.predicted_fired += from.predicted_fired;
        to.samples.insert(to.samples.end(), from.samples.begin(), from.samples.end());
    }
    profile_.sampled = profile_.layers[0].samples.size() / ceil_div(weights_.config.firing(), 32);
    profile_.positions += positions;
    thin_samples(profile_);
    discard();
}

}    // namespace hearth
