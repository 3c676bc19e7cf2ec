#include "engine/run/scheduler.h"

#include <algorithm>
#include <chrono>

namespace hearth {

Scheduler::Scheduler(CpuModel& cpu, GpuModel* gpu, GpuSession* session, host::Team& team, const Config& config)
    : cpu_(cpu), gpu_(gpu), session_(session), team_(team), config_(config)
{
}

FeedStats Scheduler::feed(uint32_t position, std::span<const Token> tokens, const WantedLogits& wanted)
{
    HEARTH_CHECK(wanted.count <= tokens.size());
    const auto start = std::chrono::steady_clock::now();
    FeedStats stats = {.position = position, .tokens = uint32_t(tokens.size()), .layers = std::vector<LayerCounts>(config_.layers)};
    team_.hold([&] {    // the workers stay awake for the whole batch
        if (gpu_) device_layers(tokens, wanted, stats);
        else {
            residual_.resize(tokens.size() * config_.dim);
            cpu_.embed(tokens, residual_.data());
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

    session_->begin(stats.position, count, next, rows);
    cpu_.embed(tokens, session_->input());
    for (GpuSession::Segment& segment : session_->segments(count)) {
        session_->submit(segment);
        if (!segment.split) continue;
        session_->wait_published(segment);    // the hot FFN runs on while the host ...
        const uint32_t l = *segment.split;
        const std::span<const float> cold = cpu_.cold_ffn(l, gpu_->layers()[l].cold, count, session_->published(), stats);    // ... does the cold one
        std::copy(cold.begin(), cold.end(), session_->cold());
        ++stats.joins;    // by the next segment
    }
    session_->wait_all();

    while (rows > 0) {
        for (uint32_t r = 0; r < rows; ++r) wanted.take(next + r, {session_->logits() + size_t(r) * config_.vocab, config_.vocab});
        next += rows;
        rows = std::min(count - next, head_rows);
        if (rows > 0) {
            session_->submit_head(next, rows);
            session_->wait_all();
        }
    }
    if (!head) residual_.assign(session_->published(), session_->published() + size_t(count) * config_.dim);
    session_->report(stats);
}

void Scheduler::host_layers(const WantedLogits& wanted, FeedStats& stats)
{
    for (uint32_t l = gpu_ ? uint32_t(gpu_->layers().size()) : 0; l < config_.layers; ++l)
        cpu_.layer(l, stats.position, stats.tokens, residual_.data(), stats);
    for (uint32_t t = stats.tokens - wanted.count; t < stats.tokens; ++t)
        wanted.take(t, cpu_.head(residual_.data() + size_t(t) * config_.dim, stats));
}

}    // namespace hearth
