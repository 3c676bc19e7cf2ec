#include "engine/device/session.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <utility>

namespace hearth {

using vulkan::Commands;

Needs GpuSession::needs(const Weights& weights, const SessionShape& shape)
{
    Needs needs = GpuModel::needs(weights, shape.sparsity);
    needs.scratch += Activations::device_bytes(weights.config, shape);
    for (LayerNeeds& layer : needs.layers) {
        layer.kv += KvPool::layer_bytes(weights.config, shape);
        layer.shape.position_bytes = KvPool::position_bytes(weights.config, shape.kv);
    }
    // Each of a block's matrices begins a slice of its own, and rows of down are filled up.
    needs.ring_half = 6 * vulkan::slice_alignment + weights.config.dim * 16;
    needs.alignment = vulkan::slice_alignment;
    return needs;
}

GpuSession::GpuSession(GpuModel& model, const SessionShape& shape, Watching watching)
    : model_(model), shape_(shape),
      watching_(watching), memory_{.activations = {model.device(), model.config(), shape, model.layers().size(),
                                                   watching.activity},
                                   .kv = {model.device(), model.config(), shape, model.layers().size()},
                                   .ring = {model, watching.activity ? 0 : shape.ring_bytes},
                                   .group_words = ceil_div(model.config().neurons, group_neurons)},
      staging_(model, shape.rebalance), copies_(model.device(), vulkan::Lane::copies), queue_(model.device())
{
    frequencies_.push_back(rope_frequencies(model.config()));
    if (model.config().window_base > 0) frequencies_.push_back(rope_frequencies(model.config(), true));
}

// ---- a batch --------------------------------------------------------------------------------------------------------

void GpuSession::begin(host::Work work, std::span<const host::Row> rows, std::span<const uint32_t> wanted)
{
    const bool few = work == host::Work::few && !watching_.activity;
    HEARTH_CHECK(!rows.empty() && rows.size() <= shape_.batch && wanted.size() <= rows.size());
    HEARTH_CHECK(!few || rows.size() <= shape_.few);
    queue_.release_all();    // after an error, a batch may have been left under way, or held
    queue_.wait(last_work_);
    if (std::exchange(whole_, false)) look_at_pace();
    published_numbers_.resize(model_.layers().size() + 1);
    rows_now_.assign(rows.begin(), rows.end());
    wanted_count_ = uint32_t(wanted.size());
    const uint32_t count = uint32_t(rows.size());
    // Few sizes, each recorded once: a workgroup of a row that is not there ends at once.
    form_ = {few ? host::Work::few : host::Work::many,
             few           ? std::min(std::bit_ceil(count), shape_.few)
             : count <= 16 ? std::min(16u, shape_.batch)
                           : shape_.batch,
             !few && count >= shape_.stream_from && !memory_.ring.empty()};
    submits_ = waits_ = head_rows_ = head_passes_ = 0;
    streamed_bytes_ = 0;
    notices_.clear();
    *static_cast<uint32_t*>(activations().broken.mapped) = 0;

    for (const host::Row& row : rows) HEARTH_CHECK(row.position < shape_.context && row.sees <= shape_.context);
    write_step(step_room(shape_), activations().step.mapped, activations().step.address, rows,
               attend_tile(model_.device()->info(), model_.config(), few).tokens, wanted, activations().broken.address);
    head_ = {};
    write_rotations(rows);
}

void GpuSession::write_rotations(std::span<const host::Row> rows)
{
    const double magnitude = model_.config().rope_magnitude;
    const uint64_t angle_set = uint64_t(shape_.batch) * model_.config().rope_dim;    // floats
    for (size_t set = 0; set < frequencies_.size(); ++set) {
        float* out = static_cast<float*>(activations().angles.mapped) + set * angle_set;
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
    auto* const step = static_cast<gpu::Step*>(activations().step.mapped);
    step->head_first = head.first;
    step->head_tokens = head.count;
    head_ = head;
    head_rows_ += head.count;
    head_passes_ += few() ? ceil_div(head.count, tokens_at_once(form_.capacity)) : head.count > 0;
}

// ---- pieces ---------------------------------------------------------------------------------------------------------

namespace {

struct PieceCount {
    size_t commands = 0, pieces = 0;
};
PieceCount count_pieces(const Recording& recording)
{
    PieceCount count;
    recording.each([&](const Commands& c) { ++count.commands, count.pieces += c.pieces().size(); });
    return count;
}

}    // namespace

GpuSession::Paced GpuSession::record_at(double pace) const
{
    const auto record = [&](bool timed) {
        return hearth::record(model_, shape_, memory_, watching_, form_, {pace, timed});
    };
    Paced out = {.recording = record(!few()), .pace = pace};
    // Few rows hardly ever take long, and are not timed where even a slow card is quick.
    if (const PieceCount count = count_pieces(out.recording); few() && count.pieces > count.commands)
        out.recording = record(true);
    return out;
}

/// Once the last batch is done: whether one of its pieces took too long, or they are finer than this device needs.
void GpuSession::look_at_pace()
{
    Paced& paced = recordings_.at(form_);
    double longest = 0, factor = 0;
    paced.recording.each([&](const Commands& commands) {
        for (const vulkan::PieceTime& piece : commands.piece_times()) {
            longest = std::max(longest, piece.us);
            // Of what is short, little can be said.
            factor = std::max(factor, piece.us / std::max(piece.expected_us, shape_.longest_submit_us / 4));
        }
    });
    const PieceCount count = count_pieces(paced.recording);
    const bool too_long = longest > 2 * shape_.longest_submit_us && factor > 1 && !paced.finest,
               too_fine = factor > 0 && factor < 0.5 && count.pieces > count.commands;
    if (too_long || too_fine) paced.other = paced.pace * factor;
}

Recording& GpuSession::recording()
{
    auto found = recordings_.find(form_);
    if (found == recordings_.end()) found = recordings_.emplace(form_, record_at(shape_.pace)).first;
    Paced& paced = found->second;
    if (paced.other) {
        const size_t pieces = count_pieces(paced.recording).pieces;
        const bool finer = *paced.other > paced.pace;
        paced = record_at(*paced.other);
        paced.finest = finer && count_pieces(paced.recording).pieces <= pieces;
    }
    return paced.recording;
}

void GpuSession::submit(std::span<const vulkan::Queue::Work> work)
{
    const uint64_t calls = queue_.calls();
    last_work_ = queue_.submit(work);
    submits_ += uint32_t(queue_.calls() - calls);
}

// ---- submits --------------------------------------------------------------------------------------------------------

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
    submit(work);
    for (size_t s = number; s < (ahead ? recording.segments.size() : number + 1); ++s)
        published_numbers_[s] += last_work_ - work.size();
    whole_ = ahead || number + 1 == recording.segments.size();
}

uint64_t GpuSession::stream(const Segment& segment, host::Team& team)
{
    const uint64_t calls = queue_.calls() + copies_.calls();
    last_work_ = memory_.ring.send(model_, *segment.split, segment.streamed, copies_, queue_, team);
    submits_ += uint32_t(queue_.calls() + copies_.calls() - calls);
    uint64_t bytes = 0;
    for (const Streamed& part : segment.streamed) bytes += part.bytes;
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
    submit(work);
}

void GpuSession::copy_page(uint32_t from, uint32_t to)
{
    queue_.release_all();
    queue_.wait(last_work_);
    Commands commands(model_.device(), false);
    memory_.kv.copy_page(commands, from, to);
    commands.end();
    const vulkan::Queue::Work work[] = {{&commands}};
    last_work_ = queue_.submit(work);
    queue_.wait(last_work_);
}

bool GpuSession::replace(uint32_t l, uint32_t slot, uint32_t group)
{
    const uint64_t work = staging_.replace(model_, l, slot, group, queue_);
    if (work > 0) last_work_ = work;
    return work > 0;
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
    return {static_cast<const uint32_t*>(activations().mask.mapped) +
                (size_t(l) * shape_.few + row) * memory_.group_words,
            memory_.group_words};
}

const float* GpuSession::expert_weights(uint32_t l) const
{
    const uint64_t of_layer = uint64_t(shape_.batch) * model_.config().experts;
    return static_cast<const float*>(activations().expert_weights.mapped) + l * of_layer;
}

}    // namespace hearth
