// What a batch of tokens did: the counters behind --stats, bench and the closing line.
#pragma once

#include "host/rows.h"

#include <chrono>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace hearth {

/// One step on one side. Times are 0 where timing is off.
struct Stage {
    std::string_view name;
    uint32_t layer;    // the number of layers: the head
    bool on_device;
    uint64_t bytes;       // of weights and KV cache read, and of activations on the device
    double operations;    // multiplications and additions
    double us;
    double start_us = 0;    // of the host's steady clock; device times are brought onto it
};

/// What is counted of a layer, and of a batch. A row here is all that a counter needs: it becomes a member of
/// LayerCounts or FeedStats, a sum over batches and a field of JSON.
#define LAYER_COUNTERS(COUNTER)                                                                                        \
    COUNTER(uint64_t, active_device, "resident neurons that fired: their activation was not zero; not in a prefill")   \
    COUNTER(uint64_t, active_host, "others that did")                                                                  \
    COUNTER(uint64_t, host_neurons, "pairs of a token and a neuron of the host")                                       \
    COUNTER(uint64_t, host_gates, "gates that the host looked at: without a predictor, of all its neurons")            \
    COUNTER(uint64_t, missed, "neurons that fired without having been predicted, where the predictor is checked")      \
    COUNTER(double, device_us, "the device's share of the feed-forward block")                                         \
    COUNTER(double, host_us, "the host's share")                                                                       \
    COUNTER(double, both_us, "from the start of the one to the end of the later, where both ran and timing is on")

#define BATCH_COUNTERS(COUNTER)                                                                                        \
    COUNTER(uint64_t, tokens, "rows")                                                                                  \
    COUNTER(uint64_t, submits, "vkQueueSubmit2 calls")                                                                 \
    COUNTER(uint64_t, dispatches, "of kernels, on the device")                                                         \
    COUNTER(uint64_t, waits, "times the host waited for the device (polling; there are no fences)")                    \
    COUNTER(uint64_t, joins, "layers whose two shares were added")                                                     \
    COUNTER(uint64_t, downloaded, "bytes that the device wrote into the host's memory: for its shares, and results")   \
    COUNTER(uint64_t, streamed_bytes, "of cold groups, copied to the device for this batch")                           \
    COUNTER(uint64_t, moved_groups, "into slots, by rebalancing")                                                      \
    COUNTER(uint64_t, moved_bytes, "their bytes")                                                                      \
    COUNTER(double, us, "wall time")

#define COUNTER_MEMBER(type, name, meaning) type name = 0;

struct LayerCounts {
    uint32_t resident = 0;    // neurons on the device
    bool split = false;       // part here, part there: one join
    LAYER_COUNTERS(COUNTER_MEMBER)

    LayerCounts& operator+=(const LayerCounts& more)
    {
#define COUNTER(type, name, meaning) name += more.name;
        LAYER_COUNTERS(COUNTER)
#undef COUNTER
        resident = more.resident;    // these are as they were last
        split = more.split;
        return *this;
    }
};

/// f(name, value) for each counter.
template <class F>
void each_counter(const LayerCounts& counts, F&& f)
{
#define COUNTER(type, name, meaning) f(#name, counts.name);
    LAYER_COUNTERS(COUNTER)
#undef COUNTER
}

/// Positions of one layer's KV cache that rows see, each over no more of them than `window` says (0: all).
inline uint64_t seen(std::span<const host::Row> rows, uint32_t window)
{
    uint64_t positions = 0;
    for (const host::Row& row : rows)
        positions += row.sees - (window && row.position + 1 > window ? row.position + 1 - window : 0);
    return positions;
}

/// Microseconds of the steady clock.
inline double clock_us()
{
    return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct FeedStats {
    host::Work work = host::Work::few;
    uint32_t position = 0;    // of the first row
    BATCH_COUNTERS(COUNTER_MEMBER)
    std::vector<LayerCounts> layers;
    std::vector<Stage> stages;

    uint64_t bytes() const
    {
        uint64_t sum = 0;
        for (const Stage& s : stages) sum += s.bytes;
        return sum;
    }
};

/// f(name, value) for each counter; also of sums, which have the same members.
template <class Stats, class F>
void each_counter(const Stats& stats, F&& f)
{
#define COUNTER(type, name, meaning) f(#name, stats.name);
    BATCH_COUNTERS(COUNTER)
#undef COUNTER
}

}    // namespace hearth
