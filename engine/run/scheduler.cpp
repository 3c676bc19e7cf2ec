#include "engine/run/scheduler.h"

#include "engine/run/diagnosis.h"
#include "engine/run/sampler.h"
#include "host/numbers.h"

#include <algorithm>
#include <chrono>
#include <cmath>

namespace hearth {

Scheduler::Scheduler(CpuModel& cpu, GpuModel* gpu, GpuSession* session, Rebalancer* rebalancer, host::Team& team,
                     const Config& config)
    : cpu_(cpu), gpu_(gpu), session_(session), rebalancer_(rebalancer), team_(team), config_(config)
{
}

FeedStats Scheduler::feed(uint32_t position, std::span<const Token> tokens, const WantedLogits& wanted)
{
    HEARTH_CHECK(wanted.count <= tokens.size() && (!wanted.take_best || wanted.count <= 1));
    const auto start = std::chrono::steady_clock::now();
    FeedStats stats = {
        .position = position, .tokens = uint32_t(tokens.size()), .layers = std::vector<LayerCounts>(config_.layers)};
    team_.hold([&] {    // the workers stay awake for the whole batch
        if (gpu_) device_layers(tokens, wanted, stats);
        else {
            residual_.resize(tokens.size() * config_.dim);
            cpu_.embed(tokens, position, residual_.data());
        }
        if (!gpu_ || !gpu_->has_head()) host_layers(wanted, stats);
    });
    stats.us = std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count();
    return stats;
}

void Scheduler::device_layers(std::span<const Token> tokens, const WantedLogits& wanted, FeedStats& stats)
{
    const uint32_t count = uint32_t(tokens.size());
    const bool head = gpu_->has_head();
    uint32_t next = count - wanted.count;    // the next token whose logits are wanted
    uint32_t rows = head ? std::min(wanted.count, head_rows) : 0;
    const bool best =
        rows > 0 && wanted.take_best && config_.logit_cap == 0;    // a cap makes equals of logits that differ little

    session_->begin(stats.position, count, {next, rows, best});
    cpu_.embed(tokens, stats.position, session_->input());
    for (GpuSession::Segment& segment : session_->segments(count)) {
        session_->submit(segment);
        if (!segment.streamed.empty()) {
            const double from = clock_us();
            const uint64_t bytes = session_->stream(segment, team_);
            stats.stages.push_back({.name = "stream",
                                    .layer = segment.layer,
                                    .on_device = false,
                                    .bytes = bytes,
                                    .us = clock_us() - from,
                                    .start_us = from});
        } else if (segment.split) {
            session_->wait_published(segment);    // the hot FFN runs on while the host ...
            const uint32_t l = *segment.split;
            const std::span<const float> cold =
                cpu_.cold_ffn(l, cold_work(l, count), count, session_->published(), stats);    // ... does the cold one
            std::copy(cold.begin(), cold.end(), session_->cold());
            ++stats.joins;    // by the next segment
            if (rebalancer_ && count == 1) rebalancer_->hear(l, cpu_.fired(), session_->idle());
        }
        if (cpu_.watch && segment.layer < gpu_->layers().size()) show_activity(segment.layer, count);
    }
    session_->wait_all();

    if (session_->broken()) throw NotFiniteNumbers();
    if (best && session_->best() == gpu::no_token) throw NotFiniteNumbers();
    if (best) wanted.take_best(session_->best());
    while (rows > 0 && !best) {
        for (uint32_t r = 0; r < rows; ++r)
            give(wanted, next + r, {session_->logits() + size_t(r) * config_.vocab, config_.vocab});
        next += rows;
        rows = std::min(count - next, head_rows);
        if (rows > 0) {
            session_->submit_head({next, rows});
            session_->wait_all();
        }
    }
    if (!head) residual_.assign(session_->published(), session_->published() + size_t(count) * config_.dim);
    session_->report(stats);
    if (rebalancer_ && count == 1) rebalancer_->after_token(stats);
}

/// What is the host's of a split layer, by the word of the device's predictor or router if there is one.
CpuModel::Cold Scheduler::cold_work(uint32_t l, uint32_t tokens)
{
    const LayerResidency& residency = gpu_->layers()[l].residency;
    CpuModel::Cold cold = {.neurons = residency.cold_neurons(), .may_fire = residency.cold_neurons()};
    if (config_.experts) cold.experts = session_->expert_weights(l);
    if (tokens > 1) return cold;
    if (cold.experts) residency.of_experts({cold.experts, config_.experts}, predicted_);
    else if (cpu_.sparsity(l).predictor != Predictor::none) residency.masked(session_->mask(l), predicted_);
    else return cold;
    cold.may_fire = predicted_;
    return cold;
}

/// The device's gates of a layer, then the host's.
void Scheduler::show_activity(uint32_t l, uint32_t tokens)
{
    session_->wait_all();
    if (config_.experts)
        return cpu_.watch_experts(l, tokens, session_->published(), session_->residual(), session_->expert_weights(l));
    const LayerResidency& residency = gpu_->layers()[l].residency;
    std::vector<uint32_t> neurons;
    std::vector<uint32_t> columns;    // the last group may not fill its slot
    for (uint32_t s = 0; s < residency.slots().size(); ++s) {
        const std::span<const uint32_t> group = residency.group(residency.slots()[s]);
        for (uint32_t i = 0; i < group.size(); ++i) columns.push_back(s * group_neurons + i);
        neurons.insert(neurons.end(), group.begin(), group.end());
    }
    const size_t stride = residency.slots().size() * group_neurons;
    std::vector<float> gates(tokens * neurons.size());
    for (size_t t = 0; t < tokens; ++t)
        for (size_t j = 0; j < columns.size(); ++j)
            gates[t * columns.size() + j] = session_->gates()[t * stride + columns[j]];
    if (!neurons.empty())
        cpu_.watch({.layer = l,
                    .tokens = tokens,
                    .x = session_->published(),
                    .residual = session_->residual(),
                    .neurons = neurons,
                    .gates = gates});
    if (residency.split())
        cpu_.watch_gates(l, residency.cold_neurons(), tokens, session_->published(), session_->residual());
}

void Scheduler::host_layers(const WantedLogits& wanted, FeedStats& stats)
{
    for (uint32_t l = gpu_ ? uint32_t(gpu_->layers().size()) : 0; l < config_.layers; ++l)
        cpu_.layer(l, stats.position, stats.tokens, residual_.data(), stats);
    // Logits alone would not tell of tokens whose logits nobody wants, and which no window reaches later.
    if (!host::all_finite(residual_)) throw NotFiniteNumbers();
    for (uint32_t t = stats.tokens - wanted.count; t < stats.tokens; ++t)
        give(wanted, t, cpu_.head(residual_.data() + size_t(t) * config_.dim, stats));
}

void Scheduler::give(const WantedLogits& wanted, uint32_t t, std::span<const float> logits)
{
    if (!host::all_finite(logits)) throw NotFiniteNumbers();    // before a cap makes numbers of them
    if (wanted.take_best) wanted.take_best(most_probable(finished(logits)));
    else wanted.take(t, finished(logits));
}

/// Logits as the model means them: scaled and capped.
std::span<const float> Scheduler::finished(std::span<const float> logits)
{
    const float scale = config_.logit_scale, cap = config_.logit_cap;
    if (scale == 1 && cap == 0) return logits;
    logits_.resize(logits.size());
    host::parallel_rows(team_, uint32_t(logits.size()), 16 * sizeof(float), [&](uint32_t first, uint32_t last) {
        for (uint32_t i = first; i < last; ++i)
            logits_[i] = cap > 0 ? cap * std::tanh(scale * logits[i] / cap) : scale * logits[i];
    });
    return logits_;
}

}    // namespace hearth
