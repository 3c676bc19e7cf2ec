// A batch as the device's commands: recorded once for each kind of batch, submitted again for every one of that kind.
#pragma once

#include "engine/device/activations.h"
#include "engine/device/kv_pool.h"
#include "engine/device/model.h"
#include "engine/device/ring.h"

#include <optional>

namespace hearth {

/// What somebody wants to know of a session's work while it runs.
struct Watching {
    bool timing = false;    // every stage on the device gets timestamps
    // Every layer's inputs and gates come to the host; decode then runs as a prefill of one token does.
    bool activity = false;

    bool operator==(const Watching&) const = default;
};

/// What a batch's commands depend on.
struct Form {
    host::Work work;
    uint32_t capacity;    // rows at the most
    bool streamed;        // cold groups come to the device

    auto operator<=>(const Form&) const = default;
};

/// From the join of the layer before up to where the host is needed.
struct Segment {
    /// Whole layers, and the attention of `split`, which ends with x published to the host.
    vulkan::Commands attention;
    std::optional<vulkan::Commands> ffn;    // the hot FFN of `split`, while the host does the cold one
    std::optional<uint32_t> split;          // the layer whose cold share the host owes after this segment
    std::vector<Streamed> streamed;         // or what makes it on the device
    uint32_t layer;                         // the last layer in it; the number of layers: what comes after them
};

/// A step as it was recorded: stage i of the commands, by StageTime::index, is steps[i] of the recording.
struct RecordedStep {
    Step step;
    uint32_t layer;
};

struct Recording {
    std::vector<Segment> segments;
    std::optional<vulkan::Commands> head, best;    // logits, and the largest of each row's
    std::vector<RecordedStep> steps;

    /// f(commands) for those of the segments that run kernels.
    template <class F>
    void each_of_segments(F&& f) const
    {
        for (const Segment& segment : segments) {
            f(segment.attention);
            if (segment.ffn) f(*segment.ffn);
            for (const Streamed& part : segment.streamed) f(part.compute);
        }
    }
    /// And for both heads, too.
    template <class F>
    void each(F&& f) const
    {
        each_of_segments(f);
        for (const auto* const last : {&head, &best})
            if (*last) f(**last);
    }
};

/// How fast the device is taken to be when its commands are cut into pieces.
struct Pace {
    double of_slow = 1;    // its time for a step over Step::slow_us
    bool timed = false;    // the pieces get timestamps, but for those of the head
};

/// A session's memory on the device.
struct SessionMemory {
    Activations activations;
    KvPool kv;
    Ring ring;
    uint32_t group_words;    // of a layer in Activations::fired and mask: one per group
};

/// Groups that the hot FFN of layer l computes for one of few rows: those in all slots, or as many as its experts can
/// have.
uint32_t places(const GpuModel& model, uint32_t l);

/// Writes down what the device does with a batch, in the order of its steps.
Recording record(GpuModel& model, const SessionShape& shape, const SessionMemory& memory, Watching watching,
                 const Form& form, Pace pace);

}    // namespace hearth
