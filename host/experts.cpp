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

size_t run_of_expert(std::span<const uint32_t> neurons, uint32_t together)
{
    const uint32_t first = neurons[0] / together * together;
    const auto most = neurons.first(std::min<size_t>(neurons.size(), together));
    return size_t(std::ranges::partition_point(most, [&](uint32_t n) { return n - first < together; }) - most.begin());
}

namespace {

/// One of the experts as a block of its own.
FfnWeights expert_of(const FfnWeights& w, uint32_t experts, uint32_t e)
{
    const auto part = [&](const Matrix& m) { return m.rows > 0 ? m.slice(m.rows / experts * e, m.rows / experts) : m; };
    return {.gate = part(w.gate),
            .up = part(w.up),
            .down_t = part(w.down_t),
            .activation = w.activation,
            .floor = w.floor,
            .bias = part(w.bias),
            .down = part(w.down)};
}

/// y[r] = sum over experts of down h[r] for few rows, expert by expert in their order; h, as cold_gate_and_up leaves
/// it, has the experts' weights in it. Returns the bytes that were read.
uint64_t down_of_experts(Team& team, const FfnWeights& w, uint32_t experts, uint32_t rows, float* y,
                         ExpertScratch& scratch)
{
    const uint32_t together = w.down.cols, dim = w.down.rows / experts;
    const std::vector<uint32_t>& neurons = scratch.ffn.neurons;
    const size_t count = neurons.size() / together;
    scratch.hidden.resize(std::max(scratch.hidden.size(), count));
    uint64_t bytes = 0;
    for (size_t i = 0; i < count; i++) {
        const size_t first = i * together;
        ExpertScratch::Hidden& to = scratch.hidden[i];
        to.down = expert_of(w, experts, neurons[first] / together).down;
        to.rows.clear();
        for (uint32_t r = 0; r < rows; r++)
            if (scratch.strengths[first * rows + r] != 0) to.rows.push_back(r);
        to.h.resize(to.rows.size() * together);
        for (uint32_t t = 0; t < to.rows.size(); t++)
            for (uint32_t p = 0; p < together; p++)
                to.h[size_t(t) * together + p] = scratch.ffn.h[(first + p) * rows + to.rows[t]];
        to.inputs.prepare(team, to.h.data(), uint32_t(to.rows.size()), together, is_quantised(w.down.type), Work::few);
        bytes += to.down.bytes();
    }
    parallel_rows(team, dim, count * w.down.mean_row_bytes(), [&](uint32_t first, uint32_t last) {
        for (uint32_t r = 0; r < rows; r++) std::fill(y + size_t(r) * dim + first, y + size_t(r) * dim + last, 0.0f);
        for (const ExpertScratch::Hidden& from : std::span(scratch.hidden).first(count))
            multiply_some(
                from.down, last - first, last - first, [&](uint32_t j) { return first + j; }, from.inputs,
                [&](uint32_t j, const float* products) {
                    for (size_t t = 0; t < from.rows.size(); t++)
                        y[size_t(from.rows[t]) * dim + first + j] += products[t];
                });
    });
    return bytes;
}

}    // namespace

FfnCounts cold_experts(Team& team, const FfnWeights& w, uint32_t experts, std::span<const uint32_t> neurons,
                       const float* weights, const float* x, uint32_t tokens, Work work, float cut, float* y,
                       ExpertScratch& scratch)
{
    const uint32_t dim = w.gate.cols, together = w.gate.rows / experts;
    const bool quantised = is_quantised(w.gate.type) || is_quantised(w.up.type);
    if (work == Work::few) {    // all their experts at once
        scratch.strengths.resize(neurons.size() * tokens);
        for (size_t i = 0; i < neurons.size();) {
            const size_t end = i + run_of_expert(neurons.subspan(i), together);
            const float* const of_expert = weights + neurons[i] / together;
            for (; i < end; i++)
                for (uint32_t r = 0; r < tokens; r++)
                    scratch.strengths[i * tokens + r] = of_expert[size_t(r) * experts];
        }
        scratch.inputs.prepare(team, x, tokens, dim, quantised, work);
        if (w.down.rows == 0) return cold_ffn(team, w, neurons, scratch.inputs, cut, y, scratch.ffn, scratch.strengths);
        FfnCounts counts = cold_gate_and_up(team, w, neurons, scratch.inputs, cut, scratch.ffn, scratch.strengths);
        counts.bytes += down_of_experts(team, w, experts, tokens, y, scratch);
        return counts;
    }
    // Expert by expert, those tokens that go through it.
    FfnCounts counts;
    std::fill_n(y, size_t(tokens) * dim, 0.0f);
    for (size_t first = 0, last; first < neurons.size(); first = last) {
        const uint32_t e = neurons[first] / together;
        last = first + run_of_expert(neurons.subspan(first), together);
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
        scratch.neurons.assign(neurons.begin() + ptrdiff_t(first), neurons.begin() + ptrdiff_t(last));
        for (uint32_t& n : scratch.neurons) n -= e * together;
        const FfnCounts more = cold_ffn(team, expert_of(w, experts, e), scratch.neurons, scratch.inputs, cut,
                                        scratch.y.data(), scratch.ffn);
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
