#include "engine/run/scheduler.h"

#include "engine/run/diagnosis.h"
#include "engine/run/sampler.h"
#include "host/numbers.h"

#include <algorithm>
#include <chrono>
#include <cmath>

namespace hearth {

Scheduler::Scheduler(HostLayers& host, GpuModel* gpu, GpuSession* device, Rebalancer* rebalancer, host::Team& team,
                     const Config& config)
    : host_(host), gpu_(gpu), device_(device), rebalancer_(rebalancer), team_(team), config_(config)
{
}

FeedStats Scheduler::feed(const Batch& batch)
{
    HEARTH_CHECK(batch.size() > 0 && batch.tokens.size() == batch.size() && batch.wanted.size() <= batch.size());
    HEARTH_CHECK(batch.work == host::Work::many || batch.size() <= host::most_few);
    const auto start = std::chrono::steady_clock::now();
    FeedStats stats = {.work = batch.work,
                       .position = batch.rows[0].position,
                       .tokens = batch.size(),
                       .layers = std::vector<LayerCounts>(config_.layers)};
    team_.hold([&] {    // the workers stay awake for the whole batch
        if (gpu_) device_layers(batch, stats);
        else {
            residual_.resize(size_t(batch.size()) * config_.dim);
            host_.embed(batch, residual_.data());
        }
        if (!gpu_ || !gpu_->has_head()) host_layers(batch, stats);
    });
    stats.us = std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count();
    return stats;
}

void Scheduler::copy_page(uint32_t from, uint32_t to)
{
    host_.copy_page(from, to);
    if (device_) device_->copy_page(from, to);
}

void Scheduler::device_layers(const Batch& batch, FeedStats& stats)
{
    const uint32_t count = batch.size(), wanted = uint32_t(batch.wanted.size());
    const bool few = batch.work == host::Work::few, head = gpu_->has_head();
    // A cap makes equals of logits that differ little.
    const bool best = head && batch.take_best && config_.logit_cap == 0;
    uint32_t next = 0;    // of the wanted rows
    const uint32_t most = device_->most_wanted(best);
    uint32_t some = head ? std::min(wanted, most) : 0;

    device_->begin(batch.work, batch.rows, batch.wanted);
    device_->want({next, some, best});
    host_.embed(batch, device_->input());
    for (Segment& segment : device_->segments()) {
        device_->submit(segment);
        if (!segment.streamed.empty()) {
            const double from = clock_us();
            const uint64_t bytes = device_->stream(segment, team_);
            stats.stages.push_back({.name = "stream",
                                    .layer = segment.layer,
                                    .on_device = false,
                                    .bytes = bytes,
                                    .operations = 0,
                                    .us = clock_us() - from,
                                    .start_us = from});
        } else if (segment.split) {
            device_->wait_published(segment);    // the hot FFN runs on while the host ...
            const uint32_t l = *segment.split;
            const std::span<const float> cold = host_.cold_ffn(l, cold_work(l, batch), batch.work, count,
                                                               device_->published(), stats);    // ... does the cold one
            std::copy(cold.begin(), cold.end(), device_->cold());
            ++stats.joins;    // by the next segment
            if (rebalancer_ && few) rebalancer_->hear(l, host_.fired(), device_->idle());
        }
        if (host_.watch && segment.layer < gpu_->layers().size()) show_activity(segment.layer, count);
    }
    device_->wait_all();

    if (device_->broken()) throw NotFiniteNumbers();
    while (some > 0) {
        for (uint32_t i = 0; i < some; ++i) {
            const uint32_t row = batch.wanted[next + i];
            if (!best) give(batch, row, {device_->logits() + size_t(i) * config_.vocab, config_.vocab});
            else if (device_->best(i) == gpu::no_token) throw NotFiniteNumbers();
            else batch.take_best(row, device_->best(i));
        }
        next += some;
        some = std::min(wanted - next, most);
        if (some == 0) break;
        device_->want({next, some, best});
        device_->submit_head();
        device_->wait_all();
    }
    if (!head) residual_.assign(device_->published(), device_->published() + size_t(count) * config_.dim);
    device_->report(stats);
    if (rebalancer_ && few) rebalancer_->after_token(stats);
}

/// What is the host's of a split layer, by the word of the device's predictor or router if there is one.
HostLayers::Cold Scheduler::cold_work(uint32_t l, const Batch& batch)
{
    const LayerResidency& residency = gpu_->layers()[l].residency;
    const std::span<const uint32_t> neurons = residency.cold_neurons();
    const float* const experts = config_.experts ? device_->expert_weights(l) : nullptr;
    if (batch.work == host::Work::many)
        return {.neurons = neurons, .may_fire = neurons, .predicted = {}, .experts = experts};
    if (experts) return host_.of_experts(neurons, batch.size(), experts);
    if (host_.sparsity(l).predictor == Predictor::none) return {.neurons = neurons, .may_fire = neurons};
    const uint32_t* masks[host::most_few];
    for (uint32_t r = 0; r < batch.size(); ++r) masks[r] = device_->mask(l, r).data();
    return host_.predicted(neurons, residency.cold_groups(), residency.order(), std::span(masks, batch.size()));
}

/// The device's gates of a layer, then the host's.
void Scheduler::show_activity(uint32_t l, uint32_t rows)
{
    device_->wait_all();
    if (config_.experts)
        return host_.watch_experts(l, rows, device_->published(), device_->residual(), device_->expert_weights(l));
    const LayerResidency& residency = gpu_->layers()[l].residency;
    std::vector<uint32_t> neurons;
    std::vector<uint32_t> columns;    // the last group may not fill its slot
    for (uint32_t s = 0; s < residency.slots().size(); ++s) {
        const std::span<const uint32_t> group = residency.group(residency.slots()[s]);
        for (uint32_t i = 0; i < group.size(); ++i) columns.push_back(s * group_neurons + i);
        neurons.insert(neurons.end(), group.begin(), group.end());
    }
    const size_t stride = residency.slots().size() * group_neurons;
    std::vector<float> gates(rows * neurons.size());
    for (size_t r = 0; r < rows; ++r)
        for (size_t j = 0; j < columns.size(); ++j)
            gates[r * columns.size() + j] = device_->gates()[r * stride + columns[j]];
    if (!neurons.empty())
        host_.watch({.layer = l,
                     .tokens = rows,
                     .x = device_->published(),
                     .residual = device_->residual(),
                     .neurons = neurons,
                     .gates = gates});
    if (residency.split())
        host_.watch_gates(l, residency.cold_neurons(), rows, device_->published(), device_->residual());
}

void Scheduler::host_layers(const Batch& batch, FeedStats& stats)
{
    const size_t dim = config_.dim;
    for (uint32_t l = gpu_ ? uint32_t(gpu_->layers().size()) : 0; l < config_.layers; ++l)
        host_.layer(l, batch, residual_.data(), stats);
    // Logits alone would not tell of rows whose logits nobody wants, and which no window reaches later.
    if (!host::all_finite(residual_)) throw NotFiniteNumbers();
    for (size_t first = 0; first < batch.wanted.size(); first += host::most_few) {
        const size_t count = std::min<size_t>(host::most_few, batch.wanted.size() - first);
        wanted_.resize(count * dim);
        for (size_t i = 0; i < count; ++i)
            std::copy_n(&residual_[batch.wanted[first + i] * dim], dim, &wanted_[i * dim]);
        const std::span<const float> logits = host_.head(uint32_t(count), wanted_.data(), stats);
        for (size_t i = 0; i < count; ++i)
            give(batch, batch.wanted[first + i], logits.subspan(i * config_.vocab, config_.vocab));
    }
}

void Scheduler::give(const Batch& batch, uint32_t row, std::span<const float> logits)
{
    if (!host::all_finite(logits)) throw NotFiniteNumbers();    // before a cap makes numbers of them
    if (batch.take_best) batch.take_best(row, most_probable(finished(logits)));
    else batch.take(row, finished(logits));
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
