// One conversation on the device: its memory, and the commands recorded for it.
#pragma once

#include "engine/device/model.h"
#include "engine/device/step.h"
#include "engine/plan/session_shape.h"
#include "engine/plan/stats.h"

#include <map>
#include <optional>

namespace hearth {

/// What somebody wants to know of a session's work while it runs.
struct Watching {
    bool timing = false;    // every stage on the device gets timestamps
    bool activity =
        false;    // every layer's inputs and gates come to the host; decode then runs as a prefill of one token does

    bool operator==(const Watching&) const = default;
};

/// Rows of logits that one submit computes.
inline constexpr uint32_t head_rows = 32;

/// Some of the rows of a batch whose logits are wanted, by their number among these.
struct HeadRows {
    uint32_t first = 0, count = 0;
    bool best = false;    // only what is most probable behind each, and the logits stay on the device
};

// What a session has room for, and its commands keep to.
inline constexpr uint32_t most_slices = 16;        // partial sums of a hot FFN at decode
inline constexpr uint32_t most_best_parts = 64;    // workgroups that look for the largest logit
/// Neurons of a block whose h is in memory at once in a prefill: all, or where there are experts so many, which are
/// added up range by range.
uint32_t prefill_neurons(const Config& config);

/// One conversation on the device: KV cache, activations and the commands recorded for them.
class GpuSession {
  public:
    /// Device memory that a model and one session of this shape take, piece by piece.
    static Needs needs(const Weights& weights, const SessionShape& shape);

    GpuSession(GpuModel& model, const SessionShape& shape, Watching watching);

    /// Some cold groups of a layer on their way through a half of the ring.
    struct Streamed {
        uint32_t first;    // of the layer's cold groups
        GpuFfn staged;     // where the host lays them out
        size_t half;
        uint64_t bytes;
        vulkan::Commands copy, compute;
    };

    /// From the join of the layer before up to where the host is needed.
    struct Segment {
        vulkan::Commands
            attention;    // whole layers, and the attention of `split`, which ends with x published to the host
        std::optional<vulkan::Commands> ffn;    // the hot FFN of `split`, while the host does the cold one
        std::optional<uint32_t> split;          // the layer whose cold share the host owes after this segment
        std::vector<Streamed> streamed;         // or what makes it on the device
        uint32_t layer;                         // the last layer in it; the number of layers: what comes after them
    };

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
    /// After that, where the segment's cold groups are streamed: lays them out and submits them, one part after the
    /// other. The host waits only where both halves of the ring are still on their way. Returns the bytes of them.
    uint64_t stream(const Segment& segment, host::Team& team);
    /// Logits of what is wanted now, of the same batch, after wait_all.
    void submit_head();

    /// Waits for x of a split segment, or for all of the last.
    void wait_published(const Segment& segment);
    void wait_all();

    /// With Watching::activity, after wait_all: what the last segment's layer got, and the gates of its slots.
    const float* residual() const
    {
        return static_cast<const float*>(watched_residual_.mapped);
    }                                                                                  // (batch, dim), not normalised
    const float* gates() const { return static_cast<const float*>(gates_.mapped); }    // (batch, slots * group_neurons)

    /// Host memory that the device reads and writes; (batch, dim) each, logits (head_rows, vocab).
    float* input() const { return static_cast<float*>(input_.mapped); }
    float* cold() const { return static_cast<float*>(cold_.mapped); }
    const float* published() const { return static_cast<const float*>(published_.mapped); }
    const float* logits() const { return static_cast<const float*>(logits_.mapped); }
    /// With HeadRows::best, after wait_all: the token with the largest logit of the i-th row, scaled but not capped, as
    /// most_probable finds it; gpu::no_token where one is not finite.
    uint32_t best(uint32_t i) const { return static_cast<const uint32_t*>(best_.mapped)[i]; }
    /// After wait_all: whether a residual of the batch is not finite, or beyond what its norm can take.
    bool broken() const { return *static_cast<const uint32_t*>(broken_.mapped) != 0; }
    /// Once x of a split layer is published, where there is a predictor: of one of few rows a word per group, bit i set
    /// where neuron i may fire.
    std::span<const uint32_t> mask(uint32_t l, uint32_t row) const;
    /// What host::route gives, where there are experts: once x of a split layer is published, or after wait_all.
    const float* expert_weights(uint32_t l) const
    {
        return static_cast<const float*>(expert_weights_.mapped) + l * expert_weight_stride_;
    }
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
    /// What a batch's commands depend on.
    struct Form {
        host::Work work;
        uint32_t capacity;    // rows at the most
        bool streamed;        // cold groups come to the device

        auto operator<=>(const Form&) const = default;
    };
    struct Recording {
        std::vector<Segment> segments;
        std::optional<vulkan::Commands> head, best;    // logits, and the largest of each row's
    };
    class Recorder;
    Form form() const;    // of the batch
    bool few() const { return form_.work == host::Work::few; }
    Recording record(const Form& form);    // recorder.cpp
    Recording& recording();
    const vulkan::Commands& head_commands();
    StepRoom step_room() const
    {
        // Forks share pages, and each has a table of them: there may be more of these than sequences of full length.
        const uint32_t tables = std::min(shape_.batch, std::max(shape_.few, shape_.sequences));
        return {shape_.batch, tables * shape_.pages_of_one()};
    }
    void write_rotations(std::span<const host::Row> rows);
    uint64_t downloaded() const;
    uint32_t places(uint32_t l) const;
    std::span<const uint32_t> fired(uint32_t l, uint32_t row) const;
    template <class F>
    void each_place(uint32_t l, uint32_t row, F&& f) const;
    GpuModel::FiredBytes fired_bytes(uint32_t l) const;
    uint32_t chosen_neurons(uint32_t l, uint32_t row) const;
    void count_neurons(FeedStats& stats) const;
    void add_stages(const std::vector<vulkan::StageTime>& times, FeedStats& stats) const;

    GpuModel& model_;
    SessionShape shape_;
    Watching watching_;
    std::vector<vulkan::Pool> kv_pools_;    // one per layer: all together may be larger than a driver allocates at once
    vulkan::Pool scratch_pool_, upload_pool_, readback_pool_;
    std::vector<vulkan::Slice> keys_, values_;    // per device layer
    vulkan::Slice residual_, head_residual_, xn_, qkv_, mixed_, parts_, h_, u_, high_, low_, scale_, attend_parts_,
        attend_counters_, scores_, routed_, chosen_, row_, best_parts_;
    vulkan::Slice input_, cold_, angles_, step_;
    vulkan::Slice published_, logits_, best_, broken_, fired_, mask_, watched_residual_, gates_, expert_weights_;
    uint64_t expert_weight_stride_ = 0;               // floats from layer to layer
    uint32_t group_words_ = 0;                        // of a layer in fired_ and mask_: one per group
    std::vector<std::vector<double>> frequencies_;    // of rope, per pair; of a model with a window_base both sets
    /// Floats in angles_ that belong to one of them.
    uint64_t angle_set() const { return uint64_t(shape_.batch) * model_.config().rope_dim; }
    std::map<Form, Recording> recordings_;

    /// Memory for copies of groups into slots, each with the commands that copy from it and their number.
    struct Staging {
        vulkan::Slice memory;
        std::optional<vulkan::Commands> commands;
        uint64_t work = 0;
    };
    /// Memory that cold groups pass through, host's and device's: one half is laid out while the other is copied and
    /// computed.
    struct RingHalf {
        vulkan::Slice staging, memory;
        uint64_t copied = 0, computed = 0;    // the last work that reads them
    };
    vulkan::Pool ring_staging_, ring_memory_;
    RingHalf ring_[2];

    vulkan::Pool staging_pool_;
    std::vector<Staging> staging_;
    size_t next_staging_ = 0;

    // of the batch under way
    Form form_ = {};
    std::vector<host::Row> rows_now_;
    uint32_t wanted_count_ = 0;
    uint32_t submits_ = 0, waits_ = 0;
    uint64_t streamed_bytes_ = 0;
    uint64_t last_work_ = 0, first_held_ = 0;
    std::vector<uint64_t> published_numbers_;    // of the work after which a segment's x is published
    HeadRows head_;
    uint32_t head_rows_ = 0;    // of logits, so far
    mutable double clock_offset_us_ =
        0;    // host clock less device clock, as the shortest notice of a finished segment shows it
    std::vector<std::pair<const vulkan::Commands*, double>> notices_;    // segments waited for, and when the host knew

    vulkan::Queue copies_;    // of the ring
    vulkan::Queue queue_;     // last, so that it goes first: it waits for what is under way in all of the above
};

}    // namespace hearth
