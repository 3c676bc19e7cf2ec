#include "host/experts.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace hearth::host {

void route(Team& team, const Router& router, const Inputs& x, float* weights)
{
    const uint32_t experts = router.scores.rows;
    multiply(team, router.scores, x, weights);
    std::vector<uint32_t> ranked(experts);
    for (uint32_t t = 0; t < x.tokens(); t++) {
        float* const w = weights + size_t(t) * experts;
        // What is not a number is chosen first, so that it shows, and has a place in the order.
        std::replace_if(
            w, w + experts, [](float score) { return std::isnan(score); }, INFINITY);
        std::iota(ranked.begin(), ranked.end(), 0);
        std::stable_sort(ranked.begin(), ranked.end(), [w](uint32_t a, uint32_t b) { return w[a] > w[b]; });
        const float top = w[ranked[0]];
        float sum = 0;
        for (uint32_t i = 0; i < experts; i++) {
            float& e = w[ranked[i]];
            e = std::exp(e - top);
            if (i < router.used || !router.normalise) sum += e;
            if (i >= router.used) e = 0;
        }
        for (uint32_t i = 0; i < router.used; i++) w[ranked[i]] /= sum;
    }
}

FfnCounts cold_experts(Team& team, const FfnWeights& w, uint32_t experts, std::span<const uint32_t> neurons,
                       const float* weights, const float* x, uint32_t tokens, Work work, float cut, float* y,
                       ExpertScratch& scratch)
{
    const uint32_t dim = w.gate.cols, together = w.gate.rows / experts;
    const bool quantised = is_quantised(w.gate.type) || is_quantised(w.up.type);
    if (work == Work::few) {    // all their experts at once
        scratch.strengths.clear();
        for (const uint32_t n : neurons)
            for (uint32_t r = 0; r < tokens; r++)
                scratch.strengths.push_back(weights[size_t(r) * experts + n / together]);
        scratch.inputs.prepare(team, x, tokens, dim, quantised, work);
        return cold_ffn(team, w, neurons, scratch.inputs, cut, y, scratch.ffn, scratch.strengths);
    }
    // Expert by expert, those tokens that go through it.
    FfnCounts counts;
    std::fill_n(y, size_t(tokens) * dim, 0.0f);
    for (size_t first = 0, last; first < neurons.size(); first = last) {
        const uint32_t e = neurons[first] / together;
        for (last = first + 1; last < neurons.size() && neurons[last] / together == e;) last++;
        scratch.tokens.clear();
        for (uint32_t t = 0; t < tokens; t++)
            if (weights[size_t(t) * experts + e] != 0) scratch.tokens.push_back(t);
        const uint32_t count = uint32_t(scratch.tokens.size());
        if (count == 0) continue;
        scratch.x.resize(size_t(count) * dim);
        scratch.y.resize(size_t(count) * dim);
        for (uint32_t i = 0; i < count; i++)
            std::copy_n(x + size_t(scratch.tokens[i]) * dim, dim, &scratch.x[size_t(i) * dim]);
        scratch.inputs.prepare(team, scratch.x.data(), count, dim, quantised,
                               count == 1 ? Work::few : work);    // a row alone is done sooner so
        const FfnCounts more =
            cold_ffn(team, w, neurons.subspan(first, last - first), scratch.inputs, cut, scratch.y.data(), scratch.ffn);
        counts.active += more.active;
        counts.bytes += more.bytes;
        counts.gates += more.gates;
        for (uint32_t i = 0; i < count; i++) {
            const float weight = weights[size_t(scratch.tokens[i]) * experts + e];
            float* const to = y + size_t(scratch.tokens[i]) * dim;
            const float* const from = &scratch.y[size_t(i) * dim];
            for (uint32_t c = 0; c < dim; c++) to[c] += weight * from[c];
        }
    }
    return counts;
}

}    // namespace hearth::host
