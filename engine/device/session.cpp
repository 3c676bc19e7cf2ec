#include "engine/device/session.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace hearth {

using vulkan::aligned;
using vulkan::Commands;
using vulkan::Slice;

// ---- memory ---------------------------------------------------------------------------------------------------------

uint32_t prefill_neurons(const Config& c)
{
    constexpr uint32_t most_of_experts = 1 << 14;
    const uint32_t all = ceil_div(c.neurons, group_neurons) * group_neurons;
    return c.experts ? std::min(all, most_of_experts) : all;
}

namespace {

/// The same of one of few rows: of its experts.
uint32_t decode_neurons(const Config& c)
{
    return c.experts ? c.experts_used * c.neurons_together() : prefill_neurons(c);
}

/// Activations of a batch on the device, each with its floats.
struct ScratchSizes {
    uint64_t residual, head_residual, xn, qkv, mixed, parts, h, u, high, low, scale, attend_parts, attend_counters,
        scores, routed, chosen, row, best_parts;

    ScratchSizes(const Config& c, const SessionShape& shape)
    {
        const uint64_t t = shape.batch, few = shape.few, q_width = uint64_t(c.heads) * c.head_dim,
                       kv_width = uint64_t(c.kv_heads) * c.head_dim;
        const uint64_t neurons = prefill_neurons(c), of_one = decode_neurons(c);
        const uint64_t widest =
            std::max<uint64_t>({c.dim, q_width, neurons});    // neurons: a predictor's hidden layer may be as wide
        residual = xn = t * c.dim;
        head_residual = residual;
        mixed = t * q_width;
        qkv = t * (q_width + 2 * kv_width);
        parts = (std::max<uint64_t>(t, few * most_slices) + (c.parallel ? t : 0)) *
                c.dim;    // with both blocks' until the next layer's join
        h = u = std::max(t * neurons, few * of_one);
        scores = routed = t * c.experts;
        chosen = c.experts ? few * 2 * of_one / group_neurons : 0;
        row = few * c.vocab;
        best_parts = few * 2 * most_best_parts;
        high = low = t * ceil_div(widest, 4);
        scale = t * 4 * ceil_div(widest, 32);
        attend_parts = few * c.heads * most_attend_splits(shape.context) * (c.head_dim + 2);
        attend_counters = few * c.heads;
    }
    template <class F>
    void each(F&& f)
    {
        for (uint64_t* floats : {&residual, &head_residual, &xn, &qkv, &mixed, &parts, &h, &u, &high, &low, &scale,
                                 &attend_parts, &attend_counters, &scores, &routed, &chosen, &row, &best_parts})
            f(*floats * sizeof(float));
    }
    uint64_t bytes()
    {
        uint64_t sum = 0;
        each([&](uint64_t b) { sum += aligned(b); });
        return sum;
    }
};

/// Bytes of keys, or values, of so many positions of one layer as gpu::Rope has them.
struct CacheBytes {
    uint64_t numbers, scales;    // the scales of a quantised cache lie behind the numbers of all pages
};
CacheBytes cache_parts(const Config& c, uint64_t positions, WeightType type)
{
    const uint64_t rows = c.kv_heads * positions;
    if (!is_quantised(type)) return {rows * c.head_dim * sizeof(uint16_t), 0};
    return {rows * c.head_dim, rows * ceil_div(c.head_dim, 64) * sizeof(uint32_t)};
}
uint64_t cache_bytes(const Config& c, uint64_t positions, WeightType type)
{
    const CacheBytes bytes = cache_parts(c, positions, type);
    return bytes.numbers + bytes.scales;
}

}    // namespace

Needs GpuSession::needs(const Weights& weights, const SessionShape& shape)
{
    Needs needs = GpuModel::needs(weights, shape.sparsity);
    needs.scratch += ScratchSizes(weights.config, shape).bytes();
    for (LayerNeeds& layer : needs.layers)
        for (const WeightType type : {shape.kv.k, shape.kv.v})
            layer.kv += aligned(cache_bytes(weights.config, uint64_t(shape.pages()) * host::page_positions, type));
    // Each of a block's matrices begins a slice of its own, and rows of down are filled up.
    needs.ring_half = 6 * vulkan::slice_alignment + weights.config.dim * 16;
    needs.alignment = vulkan::slice_alignment;
    return needs;
}

GpuSession::GpuSession(GpuModel& model, const SessionShape& shape, Watching watching)
    : model_(model), shape_(shape), watching_(watching), copies_(model.device(), vulkan::Lane::copies),
      queue_(model.device())
{
    using vulkan::Pool, vulkan::Use;
    const Config& c = model.config();
    const auto& device = model.device();

    const uint64_t positions = uint64_t(shape.pages()) * host::page_positions,
                   keys = cache_bytes(c, positions, shape.kv.k), values = cache_bytes(c, positions, shape.kv.v);
    for (size_t l = 0; l < model.layers().size(); ++l) {
        Pool& pool = kv_pools_.emplace_back(device, aligned(keys) + aligned(values), Use::device, "the KV cache");
        keys_.push_back(pool.take(keys));
        values_.push_back(pool.take(values));
    }

    ScratchSizes sizes(c, shape);
    scratch_pool_ = Pool(device, sizes.bytes(), Use::device, "activations");
    Slice* const scratch[] = {
        &residual_, &head_residual_, &xn_,  &qkv_,       &mixed_,        &parts_,           &h_,
        &u_,        &high_,          &low_, &scale_,     &attend_parts_, &attend_counters_, &scores_,
        &routed_,   &chosen_,        &row_, &best_parts_};
    Slice* const* next = scratch;
    sizes.each([&](uint64_t bytes) { **next++ = scratch_pool_.take(bytes); });

    const uint64_t x = uint64_t(shape.batch) * c.dim * sizeof(float),
                   rotations = std::max<uint64_t>(uint64_t(shape.batch) * c.rope_dim * (c.window_base > 0 ? 2 : 1), 1) *
                               sizeof(float);
    const uint64_t step = step_room().bytes();
    upload_pool_ = Pool(device, 2 * aligned(x) + aligned(rotations) + aligned(step), Use::upload, "the host's results");
    input_ = upload_pool_.take(x);
    cold_ = upload_pool_.take(x);
    angles_ = upload_pool_.take(rotations);
    step_ = upload_pool_.take(step);

    const uint64_t logits = uint64_t(std::min(shape.batch, head_rows)) * c.vocab * sizeof(float),
                   gates =
                       watching.activity && !c.experts
                           ? uint64_t(shape.batch) * ceil_div(c.neurons, group_neurons) * group_neurons * sizeof(float)
                           : 0,
                   watched = watching.activity ? x : 0;
    group_words_ = ceil_div(c.neurons, group_neurons);
    const uint64_t groups = model.layers().size() * shape.few * group_words_ * sizeof(uint32_t),
                   best = shape.few * sizeof(uint32_t);
    expert_weight_stride_ = uint64_t(shape.batch) * c.experts;
    const uint64_t experts = model.layers().size() * expert_weight_stride_ * sizeof(float);
    readback_pool_ = Pool(device,
                          aligned(x) + aligned(logits) + aligned(best) + aligned(sizeof(uint32_t)) +
                              2 * aligned(groups) + aligned(gates) + aligned(watched) + aligned(experts),
                          Use::readback, "results for the host");
    published_ = readback_pool_.take(x);
    logits_ = readback_pool_.take(logits);
    best_ = readback_pool_.take(best);
    broken_ = readback_pool_.take(sizeof(uint32_t));
    fired_ = readback_pool_.take(groups);
    mask_ = readback_pool_.take(groups);
    gates_ = readback_pool_.take(gates);
    watched_residual_ = readback_pool_.take(watched);
    expert_weights_ = readback_pool_.take(experts);

    if (shape.ring_bytes > 0 && !watching.activity) {
        uint64_t largest = 0;
        for (uint32_t l = 0; l < model.layers().size(); ++l)
            if (const size_t cold = model.layers()[l].residency.cold_groups().size(); cold > 0)
                largest = std::max(largest, model.cold_block(l, 0, uint32_t(cold), {}).bytes());
        if (const uint64_t half = std::min(aligned(largest), shape.ring_bytes / 2); half > 0) {
            ring_staging_ = Pool(device, 2 * half, Use::upload, "neurons on their way");
            ring_memory_ = Pool(device, 2 * half, Use::device, "neurons on their way");
            for (RingHalf& h : ring_) h = {.staging = ring_staging_.take(half), .memory = ring_memory_.take(half)};
        }
    }
    if (shape.rebalance) {
        constexpr size_t copies = 4;    // under way at once
        uint64_t largest = 0;
        for (uint32_t l = 0; l < model.layers().size(); ++l) largest = std::max(largest, aligned(model.group_bytes(l)));
        staging_pool_ = Pool(device, copies * largest, Use::upload, "groups on their way");
        staging_.resize(copies);
        for (Staging& s : staging_) s.memory = staging_pool_.take(largest);
    }

    frequencies_.push_back(rope_frequencies(c));
    if (c.window_base > 0) frequencies_.push_back(rope_frequencies(c, true));
}

// ---- a batch --------------------------------------------------------------------------------------------------------

void GpuSession::begin(host::Work work, std::span<const host::Row> rows, std::span<const uint32_t> wanted)
{
    const bool few = work == host::Work::few && !watching_.activity;
    HEARTH_CHECK(!rows.empty() && rows.size() <= shape_.batch && wanted.size() <= rows.size());
    HEARTH_CHECK(!few || rows.size() <= shape_.few);
    queue_.release_all();    // after an error, a batch may have been left under way, or held
    queue_.wait(last_work_);
    published_numbers_.resize(model_.layers().size() + 1);
    rows_now_.assign(rows.begin(), rows.end());
    wanted_count_ = uint32_t(wanted.size());
    const uint32_t count = uint32_t(rows.size());
    // Few sizes, each recorded once: a workgroup of a row that is not there ends at once.
    form_ = {few ? host::Work::few : host::Work::many,
             few           ? std::min(std::bit_ceil(count), shape_.few)
             : count <= 16 ? std::min(16u, shape_.batch)
                           : shape_.batch,
             !few && count >= shape_.stream_from && ring_[0].memory.bytes > 0};
    submits_ = waits_ = head_rows_ = 0;
    streamed_bytes_ = 0;
    notices_.clear();
    *static_cast<uint32_t*>(broken_.mapped) = 0;

    for (const host::Row& row : rows) HEARTH_CHECK(row.position < shape_.context && row.sees <= shape_.context);
    write_step(step_room(), step_.mapped, step_.address, rows, attend_tile(model_.config(), few).tokens, wanted,
               broken_.address);
    head_ = {};
    write_rotations(rows);
}

void GpuSession::write_rotations(std::span<const host::Row> rows)
{
    const double magnitude = model_.config().rope_magnitude;
    for (size_t set = 0; set < frequencies_.size(); ++set) {
        float* out = static_cast<float*>(angles_.mapped) + set * angle_set();
        for (const host::Row& row : rows)
            for (const double frequency : frequencies_[set]) {
                *out++ = float(magnitude * std::cos(row.position * frequency));
                *out++ = float(magnitude * std::sin(row.position * frequency));
            }
    }
}

void GpuSession::want(HeadRows head)
{
    HEARTH_CHECK(head.count == 0 || model_.has_head());
    HEARTH_CHECK(head.first + head.count <= wanted_count_ && head.count <= most_wanted(head.best));
    auto* const step = static_cast<gpu::Step*>(step_.mapped);
    step->head_first = head.first;
    step->head_tokens = head.count;
    head_ = head;
    head_rows_ += head.count;
}

GpuSession::Recording& GpuSession::recording()
{
    auto found = recordings_.find(form_);
    if (found == recordings_.end()) found = recordings_.emplace(form_, record(form_)).first;
    return found->second;
}

void GpuSession::submit(Segment& segment)
{
    Recording& recording = this->recording();
    const size_t number = size_t(&segment - recording.segments.data());
    // Ahead: all at once, each but the first held until the host comes to it.
    const bool ahead = shape_.submit == SubmitMode::ahead && few();
    if (ahead && number > 0) return queue_.release(first_held_ + number);
    if (ahead) first_held_ = queue_.released();
    std::vector<vulkan::Queue::Work> work;
    for (size_t s = number; s < (ahead ? recording.segments.size() : number + 1); ++s) {
        const uint64_t held = ahead && s > 0 ? first_held_ + s : 0;
        const Segment& part = recording.segments[s];
        work.push_back({&part.attention, held});
        published_numbers_[s] = work.size();
        if (part.ffn) work.push_back({&*part.ffn});
        if (s + 1 == recording.segments.size() && head_.count > 0) work.push_back({&head_commands()});
    }
    last_work_ = queue_.submit(work);
    for (size_t s = number; s < (ahead ? recording.segments.size() : number + 1); ++s)
        published_numbers_[s] += last_work_ - work.size();
    ++submits_;
}

uint64_t GpuSession::stream(const Segment& segment, host::Team& team)
{
    uint64_t bytes = 0;
    for (const Streamed& part : segment.streamed) {
        RingHalf& half = ring_[part.half];
        copies_.wait(half.copied);
        model_.lay_out(*segment.split, part.first, part.staged, team);
        const vulkan::Queue::Work copy[] = {{.commands = &part.copy, .after = &queue_, .after_number = half.computed}};
        half.copied = copies_.submit(copy);
        const vulkan::Queue::Work compute[] = {
            {.commands = &part.compute, .after = &copies_, .after_number = half.copied}};
        half.computed = last_work_ = queue_.submit(compute);
        submits_ += 2;
        bytes += part.bytes;
    }
    streamed_bytes_ += bytes;
    return bytes;
}

const Commands& GpuSession::head_commands()
{
    const Recording& recording = this->recording();
    return head_.best ? *recording.best : *recording.head;
}

void GpuSession::submit_head()
{
    HEARTH_CHECK(head_.count > 0);
    const vulkan::Queue::Work work[] = {{&head_commands()}};
    last_work_ = queue_.submit(work);
    ++submits_;
}

void GpuSession::copy_page(uint32_t from, uint32_t to)
{
    queue_.release_all();
    queue_.wait(last_work_);
    Commands commands(model_.device(), false);
    const auto copy = [&](const Slice& cache, uint64_t first, uint64_t page_bytes) {
        if (page_bytes > 0)
            commands.copy(cache.part(first + from * page_bytes, page_bytes),
                          cache.part(first + to * page_bytes, page_bytes), page_bytes);
    };
    for (size_t l = 0; l < keys_.size(); ++l) {
        commands.stage("copy_page", uint32_t(l), 0);
        for (const auto& [cache, type] : {std::pair(&keys_[l], shape_.kv.k), {&values_[l], shape_.kv.v}}) {
            const CacheBytes page = cache_parts(model_.config(), host::page_positions, type);
            copy(*cache, 0, page.numbers);
            copy(*cache, shape_.pages() * page.numbers, page.scales);
        }
    }
    commands.end();
    const vulkan::Queue::Work work[] = {{&commands}};
    last_work_ = queue_.submit(work);
    queue_.wait(last_work_);
}

void GpuSession::wait_published(const Segment& segment)
{
    queue_.wait(published_numbers_[size_t(&segment - segments().data())]);
    ++waits_;
    if (watching_.timing) notices_.emplace_back(&segment.attention, clock_us());
}

void GpuSession::wait_all()
{
    queue_.wait(last_work_);
    ++waits_;
}

std::span<const uint32_t> GpuSession::mask(uint32_t l, uint32_t row) const
{
    return {static_cast<const uint32_t*>(mask_.mapped) + (size_t(l) * shape_.few + row) * group_words_, group_words_};
}

/// Groups that the hot FFN of layer l computes for one of few rows: those in all slots, or as many as its experts can
/// have.
uint32_t GpuSession::places(uint32_t l) const
{
    const uint32_t slots = uint32_t(model_.layers()[l].residency.slots().size()),
                   most = decode_neurons(model_.config()) / group_neurons;
    return model_.config().experts ? std::min(slots, most) : slots;
}

/// After a batch of few rows: of one of them a word per place, bit i set where neuron i of the group in it fired.
std::span<const uint32_t> GpuSession::fired(uint32_t l, uint32_t row) const
{
    return {static_cast<const uint32_t*>(fired_.mapped) + (size_t(l) * shape_.few + row) * group_words_, places(l)};
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

/// What was read of up and down of neurons that fired: of down each row's own, of up those of any row that met the same
/// weights at once.
GpuModel::FiredBytes GpuSession::fired_bytes(uint32_t l) const
{
    const uint32_t rows = uint32_t(rows_now_.size()), experts = model_.config().experts;
    const uint32_t together = experts ? 1 : tokens_at_once(form_.capacity);
    GpuModel::FiredBytes sum = {};
    std::vector<uint32_t> any;
    for (uint32_t first = 0; first < rows; first += together) {
        any.assign(places(l), 0);
        for (uint32_t row = first; row < std::min(first + together, rows); ++row) {
            const std::span<const uint32_t> words = fired(l, row);
            each_place(l, row, [&](uint32_t place, uint32_t group) {
                any[place] |= words[place];
                sum.down += model_.fired_bytes(l, group, words[place]).down;
            });
        }
        each_place(l, first,
                   [&](uint32_t place, uint32_t group) { sum.up += model_.fired_bytes(l, group, any[place]).up; });
    }
    return sum;
}

/// Resident neurons that were looked at for one of few rows.
uint32_t GpuSession::chosen_neurons(uint32_t l, uint32_t row) const
{
    if (model_.config().experts == 0) return model_.layers()[l].gate.rows;
    uint32_t groups = 0;
    each_place(l, row, [&](uint32_t, uint32_t) { ++groups; });
    return groups * group_neurons;
}

bool GpuSession::replace(uint32_t l, uint32_t slot, uint32_t group)
{
    Staging& staging = staging_[next_staging_];
    if (queue_.done() < staging.work) return false;
    next_staging_ = (next_staging_ + 1) % staging_.size();
    model_.lay_out_group(l, group, static_cast<std::byte*>(staging.memory.mapped));
    staging.commands.emplace(model_.device(), false);
    staging.commands->stage("rebalance", l, model_.group_bytes(l));
    const GpuModel::Layer& layer = model_.layers()[l];
    Slice from = staging.memory;
    for (const GpuMatrix* m : {&layer.gate, &layer.up, &layer.down_t, &layer.bias}) {
        const uint64_t bytes = m->RowLayout::bytes(group_neurons);
        if (bytes == 0) continue;
        staging.commands->copy(from, m->memory.from(slot * bytes), bytes);
        from = from.from(bytes);
    }
    if (model_.config().experts) {
        constexpr uint64_t bytes = sizeof(uint32_t);
        staging.commands->copy(from.part(0, bytes), layer.group_experts.part(slot * bytes, bytes), bytes);
    }
    staging.commands->end();
    const vulkan::Queue::Work work[] = {{&*staging.commands}};
    staging.work = last_work_ = queue_.submit(work);
    model_.put(l, slot, group);
    return true;
}

// ---- statistics -----------------------------------------------------------------------------------------------------

void GpuSession::report(FeedStats& stats) const
{
    stats.submits += submits_;
    stats.waits += waits_;
    stats.downloaded += downloaded();
    count_neurons(stats);
    stats.streamed_bytes += streamed_bytes_;
    const Recording& recording = recordings_.at(form_);
    std::vector<vulkan::StageTime> times;
    const auto add = [&](const Commands& commands) {
        stats.dispatches += commands.dispatches();
        for (const vulkan::StageTime& t : commands.times()) times.push_back(t);
    };
    for (const Segment& segment : recording.segments) {
        add(segment.attention);
        if (segment.ffn) add(*segment.ffn);
        for (const Streamed& part : segment.streamed) add(part.compute);
    }
    if (head_.count > 0) add(head_.best ? *recording.best : *recording.head);
    // The host learns of a segment's end a little later than it happens: the shortest delay seen shows how far the
    // clocks are apart.
    for (const auto& [commands, noticed] : notices_)
        if (const std::vector<vulkan::StageTime> stages = commands->times(); !stages.empty()) {
            const double offset = noticed - (stages.back().start_us + stages.back().us);
            if (clock_offset_us_ == 0 || offset < clock_offset_us_) clock_offset_us_ = offset;
        }
    add_stages(times, stats);
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
        if (layer.down_t.rows > 0) bytes += rows * places(l) * sizeof(uint32_t);
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

/// The recorded byte counts are of the most that a stage can read; here they become what it did read.
void GpuSession::add_stages(const std::vector<vulkan::StageTime>& times, FeedStats& stats) const
{
    const Config& c = model_.config();
    double hot_start = 0;
    LayerCounts* hot = nullptr;    // the split layer whose join is still to come
    for (const vulkan::StageTime& t : times) {
        Stage stage = {.name = t.name,
                       .layer = t.index,
                       .on_device = true,
                       .bytes = t.bytes,
                       .us = t.us,
                       .start_us = t.start_us + clock_offset_us_};
        const bool of_ffn = t.name == "ffn_up" || t.name == "glu" || t.name == "ffn_down";
        if (hot && !of_ffn) {    // the join: it starts when both shares are there
            hot->both_us = t.start_us - hot_start;
            hot = nullptr;
        }
        if (t.name == "attend")
            stage.bytes = kv_bytes_read(rows_now_, cache_bytes(c, 1, shape_.kv.k) + cache_bytes(c, 1, shape_.kv.v),
                                        model_.layers()[t.index].window);
        if (of_ffn) {
            const GpuModel::Layer& w = model_.layers()[t.index];
            LayerCounts& layer = stats.layers[t.index];
            if (few() && t.name == "ffn_down" && w.down_t.rows > 0)
                stage.bytes = fired_bytes(t.index).down;    // zeros are never read
            if (few() && t.name == "ffn_up") {
                const uint32_t rows = uint32_t(rows_now_.size()),
                               together = c.experts ? 1 : tokens_at_once(form_.capacity);
                const bool skips = shape_.sparsity[t.index].cut >= 0;
                const auto bytes_of = [](const GpuMatrix& m, uint32_t neurons) {
                    return m.rows > 0 ? m.part(0, neurons).row_bytes : 0;
                };
                stage.bytes = skips ? fired_bytes(t.index).up : 0;
                for (uint32_t row = 0; row < rows; row += together) {
                    const uint32_t looked_at = chosen_neurons(t.index, row);
                    stage.bytes += bytes_of(w.gate, looked_at) + (skips ? 0 : bytes_of(w.up, looked_at));
                }
            }
            if (layer.split && t.name == "ffn_up") {
                hot_start = t.start_us;
                hot = &layer;
            }
            layer.device_us += t.us;
        }
        stats.stages.push_back(stage);
    }
}

}    // namespace hearth
