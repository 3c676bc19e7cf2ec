// What a batch did, counted step by step.
#include "engine/device/session.h"

#include <bit>

namespace hearth {

using vulkan::Commands;

/// After a batch of few rows: of one of them a word per place, bit i set where neuron i of the group in it fired.
std::span<const uint32_t> GpuSession::fired(uint32_t l, uint32_t row) const
{
    return {static_cast<const uint32_t*>(activations().fired.mapped) +
                (size_t(l) * shape_.few + row) * memory_.group_words,
            places(model_, l)};
}

/// f(place, group) for every place of layer l that was filled for one of few rows.
template <class F>
void GpuSession::each_place(uint32_t l, uint32_t row, F&& f) const
{
    const LayerResidency& residency = model_.layers()[l].residency;
    const uint32_t experts = model_.config().experts;
    const float* const weights = experts ? expert_weights(l) + size_t(row) * experts : nullptr;
    uint32_t place = 0;
    for (const uint32_t group : residency.slots())
        if (!weights || weights[residency.expert_of(group, experts)] != 0) f(place++, group);
}

void GpuSession::add_fired(uint32_t l, std::vector<uint32_t>& groups) const
{
    for (uint32_t row = 0; row < rows_now_.size(); ++row) {
        const std::span<const uint32_t> words = fired(l, row);
        each_place(l, row,
                   [&](uint32_t place, uint32_t group) { groups[group] += uint32_t(std::popcount(words[place])); });
    }
}

/// Of so many rows, those that meet a weight of the block at once.
uint32_t GpuSession::together(uint32_t rows) const
{
    if (!few()) return rows;
    return model_.config().experts ? 1 : tokens_at_once(form_.capacity);    // each row has experts of its own
}

/// Rows of the block's matrices that few rows read: gates of what is looked at, up of neurons that fire for any row
/// that meets it at once, and of down each row's own.
void GpuSession::add_fired_rows(uint32_t l, Load& load) const
{
    const GpuModel::Layer& w = model_.layers()[l];
    const bool skips = shape_.sparsity[l].cut >= 0, all_of_down = w.down.rows > 0;
    const uint32_t rows = uint32_t(rows_now_.size()), together = this->together(rows);
    const auto bytes_of = [](const GpuMatrix& m, uint32_t neurons) {
        return m.rows > 0 ? double(m.part(0, neurons).row_bytes) : 0;
    };
    std::vector<uint32_t> any;
    for (uint32_t first = 0; first < rows; first += together) {
        any.assign(places(model_, l), 0);
        const uint32_t last = std::min(first + together, rows);
        uint32_t groups = 0;    // the same for all of them: with experts there is one row
        each_place(l, first, [&](uint32_t, uint32_t) { ++groups; });
        load.gate_bytes += bytes_of(w.gate, groups * group_neurons);
        if (!skips) load.up_bytes += bytes_of(w.up, groups * group_neurons);
        load.looked_at += double(last - first) * groups * group_neurons;
        if (all_of_down) {
            load.fired += double(last - first) * groups * group_neurons;
            continue;
        }
        for (uint32_t row = first; row < last; ++row) {
            const std::span<const uint32_t> words = fired(l, row);
            each_place(l, row, [&](uint32_t place, uint32_t group) {
                any[place] |= words[place];
                load.fired += std::popcount(words[place]);
                load.down_bytes += double(model_.fired_bytes(l, group, words[place]).down);
            });
        }
        if (skips)
            each_place(l, first, [&](uint32_t place, uint32_t group) {
                load.up_bytes += double(model_.fired_bytes(l, group, any[place]).up);
            });
    }
}

Load GpuSession::load_of(const RecordedStep& recorded) const
{
    const uint32_t rows = uint32_t(rows_now_.size());
    if (recorded.layer == model_.layers().size() && model_.has_head())
        return {.rows = double(head_rows_), .passes = double(head_passes_)};
    Load load = {.rows = double(rows), .passes = few() ? double(ceil_div(rows, tokens_at_once(form_.capacity))) : 1};
    if (recorded.step.position > 0) load.positions = double(seen(rows_now_, model_.layers()[recorded.layer].window));
    if (few() && of_ffn(recorded.step.kind)) add_fired_rows(recorded.layer, load);
    return load;
}

void GpuSession::report(FeedStats& stats) const
{
    stats.submits += submits_;
    stats.waits += waits_;
    stats.downloaded += downloaded();
    count_neurons(stats);
    stats.streamed_bytes += streamed_bytes_;
    const Recording& recording = recordings_.at(form_).recording;
    std::vector<vulkan::StageTime> times;
    const auto add = [&](const Commands& commands) {
        stats.dispatches += commands.dispatches();
        for (const vulkan::StageTime& t : commands.times()) times.push_back(t);
    };
    recording.each_of_segments(add);
    if (head_.count > 0) add(head_.best ? *recording.best : *recording.head);
    match_clocks();
    add_stages(recording, times, stats);
}

/// The host learns of a segment's end a little later than it happens: the shortest delay seen shows how far the clocks
/// are apart.
void GpuSession::match_clocks() const
{
    for (const auto& [commands, noticed] : notices_)
        if (const std::vector<vulkan::StageTime> stages = commands->times(); !stages.empty()) {
            const double offset = noticed - (stages.back().start_us + stages.back().us);
            if (clock_offset_us_ == 0 || offset < clock_offset_us_) clock_offset_us_ = offset;
        }
}

/// Without what is watched.
uint64_t GpuSession::downloaded() const
{
    const Config& c = model_.config();
    const uint64_t rows = rows_now_.size(), x = rows * c.dim * sizeof(float);
    uint64_t bytes = model_.has_head() ? 0 : x;    // the residual
    for (uint32_t l = 0; l < model_.layers().size(); ++l) {
        const GpuModel::Layer& layer = model_.layers()[l];
        bytes += rows * c.experts * sizeof(float);
        if (layer.split() && !form_.streamed) bytes += x;
        if (!few()) continue;
        if (layer.split() && shape_.sparsity[l].predictor != Predictor::none)
            bytes += rows * layer.residency.groups() * sizeof(uint32_t);
        if (layer.down_t.rows > 0) bytes += rows * places(model_, l) * sizeof(uint32_t);
    }
    return bytes + uint64_t(head_rows_) * (head_.best ? 1 : c.vocab) * sizeof(float);
}

void GpuSession::count_neurons(FeedStats& stats) const
{
    const auto& layers = model_.layers();
    for (uint32_t l = 0; l < layers.size(); ++l) {
        LayerCounts& layer = stats.layers[l];
        layer.split = layers[l].split();
        layer.resident = layers[l].residency.resident_neurons();
        if (!few()) continue;
        for (uint32_t row = 0; row < rows_now_.size(); ++row) {
            if (layers[l].down.rows > 0)
                layer.active_device += layer.resident;    // where this is, nothing is ever zero
            else
                for (const uint32_t word : fired(l, row)) layer.active_device += uint32_t(std::popcount(word));
        }
    }
}

void GpuSession::add_stages(const Recording& recording, const std::vector<vulkan::StageTime>& times,
                            FeedStats& stats) const
{
    double hot_start = 0;
    Load block;
    std::optional<uint32_t> block_layer;    // whose it is
    LayerCounts* hot = nullptr;             // the split layer whose join is still to come
    for (const vulkan::StageTime& t : times) {
        const RecordedStep& recorded = recording.steps[t.index];
        const bool of_block = of_ffn(recorded.step.kind);
        // What fired is the same for all steps of a block, and is counted group by group.
        if (of_block && block_layer != recorded.layer) {
            block = load_of(recorded);
            block_layer = recorded.layer;
        }
        const Load load = of_block ? block : load_of(recorded);
        if (hot && !of_block) {    // the join: it starts when both shares are there
            hot->both_us = t.start_us - hot_start;
            hot = nullptr;
        }
        if (of_block) {
            LayerCounts& layer = stats.layers[recorded.layer];
            if (layer.split && recorded.step.kind == StepKind::ffn_up) {
                hot_start = t.start_us;
                hot = &layer;
            }
            layer.device_us += t.us;
        }
        stats.stages.push_back({.name = t.name,
                                .layer = recorded.layer,
                                .on_device = true,
                                .bytes = uint64_t(recorded.step.bytes(load)),
                                .operations = recorded.step.operations(load),
                                .us = t.us,
                                .start_us = t.start_us + clock_offset_us_});
    }
}

}    // namespace hearth
