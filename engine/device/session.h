// The batches of one model on the device, one after the other: what is under way, and what came of it.
#pragma once

#include "engine/device/recorder.h"
#include "engine/device/staging.h"
#include "engine/plan/stats.h"

#include <map>

namespace hearth {

/// Some of the rows of a batch whose logits are wanted, by their number among these.
struct HeadRows {
    uint32_t first = 0, count = 0;
    bool best = false;    // only what is most probable behind each, and the logits stay on the device
};

/// KV cache, activations and the commands recorded for them.
class GpuSession {
  public:
    /// Device memory that a model and one session of this shape take, piece by piece.
    static Needs needs(const Weights& weights, const SessionShape& shape);

    GpuSession(GpuModel& model, const SessionShape& shape, Watching watching);

    /// Starts a batch: where its rows stand, and which ones' logits may be wanted. The caller then says with `want`
    /// which are computed with it, and fills `input`.
    void begin(host::Work work, std::span<const host::Row> rows, std::span<const uint32_t> wanted);
    void want(HeadRows head);
    /// Rows whose logits, or whose best token, can be wanted at once.
    uint32_t most_wanted(bool best) const { return best ? shape_.few : std::min(shape_.batch, head_rows); }

    /// The segments of the batch, recorded when first needed.
    std::vector<Segment>& segments() { return recording().segments; }

    /// Submits the next segment, with the last one the wanted logits too.
    void submit(Segment& segment);
    /// After that, where the segment's cold groups are streamed: lays them out and submits them. Returns the bytes of
    /// them.
    uint64_t stream(const Segment& segment, host::Team& team);
    /// Logits of what is wanted now, of the same batch, after wait_all.
    void submit_head();

    /// Waits for x of a split segment, or for all of the last.
    void wait_published(const Segment& segment);
    void wait_all();

    /// With Watching::activity, after wait_all: what the last segment's layer got, (batch, dim) and not normalised, and
    /// the gates of its slots, (batch, slots * group_neurons).
    const float* residual() const { return static_cast<const float*>(activations().watched_residual.mapped); }
    const float* gates() const { return static_cast<const float*>(activations().watched_gates.mapped); }

    /// Host memory that the device reads and writes; (batch, dim) each, logits (head_rows, vocab).
    float* input() const { return static_cast<float*>(activations().input.mapped); }
    float* cold() const { return static_cast<float*>(activations().cold.mapped); }
    const float* published() const { return static_cast<const float*>(activations().published.mapped); }
    const float* logits() const { return static_cast<const float*>(activations().logits.mapped); }
    /// With HeadRows::best, after wait_all: the token with the largest logit of the i-th row, scaled but not capped, as
    /// most_probable finds it; gpu::no_token where one is not finite.
    uint32_t best(uint32_t i) const { return static_cast<const uint32_t*>(activations().best.mapped)[i]; }
    /// After wait_all: whether a residual of the batch is not finite, or beyond what its norm can take.
    bool broken() const { return *static_cast<const uint32_t*>(activations().broken.mapped) != 0; }
    /// Once x of a split layer is published, where there is a predictor: of one of few rows a word per group, bit i set
    /// where neuron i may fire.
    std::span<const uint32_t> mask(uint32_t l, uint32_t row) const;
    /// What host::route gives, where there are experts: once x of a split layer is published, or after wait_all.
    const float* expert_weights(uint32_t l) const;
    /// After a batch of few rows: adds to each group of layer l how many of its neurons fired on the device.
    void add_fired(uint32_t l, std::vector<uint32_t>& groups) const;

    /// Puts a cold group of a split layer into a slot: the copy runs before the next submit, nothing waits for it.
    /// False, and nothing happens, while the staging memory is still in use.
    bool replace(uint32_t l, uint32_t slot, uint32_t group);

    /// Copies a page of the KV cache in every layer; the next batch finds it done.
    void copy_page(uint32_t from, uint32_t to);

    /// Whether the device has nothing left to do.
    bool idle() const { return queue_.done() >= last_work_; }

    /// Adds what the device did in this batch to `stats`; call after wait_all.
    void report(FeedStats& stats) const;

  private:
    const Activations& activations() const { return memory_.activations; }
    bool few() const { return form_.work == host::Work::few; }
    /// A recording, and the pace by which it was cut.
    struct Paced {
        Recording recording;
        double pace;
        bool finest = false;            // it cannot be cut further
        std::optional<double> other;    // by which it will be cut the next time
    };
    Paced record_at(double pace) const;
    void look_at_pace();
    void submit(std::span<const vulkan::Queue::Work> work);
    Recording& recording();
    const vulkan::Commands& head_commands();
    void write_rotations(std::span<const host::Row> rows);

    // report.cpp
    std::span<const uint32_t> fired(uint32_t l, uint32_t row) const;
    template <class F>
    void each_place(uint32_t l, uint32_t row, F&& f) const;
    uint32_t together(uint32_t rows) const;
    Load load_of(const RecordedStep& step) const;
    void add_fired_rows(uint32_t l, Load& load) const;
    uint64_t downloaded() const;
    void count_neurons(FeedStats& stats) const;
    void add_stages(const Recording& recording, const std::vector<vulkan::StageTime>& times, FeedStats& stats) const;
    void match_clocks() const;

    GpuModel& model_;
    SessionShape shape_;
    Watching watching_;
    SessionMemory memory_;
    std::vector<std::vector<double>> frequencies_;    // of rope, per pair; of a model with a window_base both sets
    std::map<Form, Paced> recordings_;
    Staging staging_;

    // of the batch under way
    Form form_ = {};
    std::vector<host::Row> rows_now_;
    uint32_t wanted_count_ = 0;
    uint32_t submits_ = 0, waits_ = 0;
    uint64_t streamed_bytes_ = 0;
    uint64_t last_work_ = 0, first_held_ = 0;
    bool whole_ = false;                         // all its segments are submitted
    std::vector<uint64_t> published_numbers_;    // of the work after which a segment's x is published
    HeadRows head_;
    uint32_t head_rows_ = 0, head_passes_ = 0;    // of logits, so far, and times that their weights were read for them
    // Host clock less device clock, as the shortest notice of a finished segment shows it.
    mutable double clock_offset_us_ = 0;
    std::vector<std::pair<const vulkan::Commands*, double>> notices_;    // segments waited for, and when the host knew

    vulkan::Queue copies_;    // of the ring
    vulkan::Queue queue_;     // last, so that it goes first: it waits for what is under way in all of the above
};

}    // namespace hearth
