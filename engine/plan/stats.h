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

struct LayerCounts {
    uint32_t resident = 0;    // neurons on the device
    // Of them, how many had an activation that is not zero (decode; a prefill does not count).
    uint64_t active_device = 0;
    uint64_t active_host = 0;     // likewise of the others
    uint64_t host_neurons = 0;    // (token, neuron) pairs of the host
    uint64_t host_gates = 0;      // gates that the host looked at: without a predictor, of all its neurons
    // Neurons that fired without having been predicted; counted only where the predictor is checked.
    uint64_t missed = 0;
    bool split = false;      // part here, part there: one join
    double device_us = 0;    // the device's share of the feed-forward block
    double host_us = 0;      // the host's share
    double both_us = 0;      // from the start of the one to the end of the later, where both ran and timing is on
};

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
    uint32_t position = 0;      // of the first row
    uint32_t tokens = 0;        // rows
    uint32_t submits = 0;       // vkQueueSubmit2 calls
    uint32_t dispatches = 0;    // of kernels, on the device
    uint32_t waits = 0;         // times the host waited for the device (polling; there are no fences)
    uint32_t joins = 0;         // layers whose two shares were added
    uint64_t downloaded = 0;    // bytes that the device wrote into the host's memory: what the host's shares need, bits
                                // of what fired, results
    uint64_t streamed_bytes = 0;    // of cold groups, copied to the device for this batch
    uint32_t moved_groups = 0;      // into slots, by rebalancing
    uint64_t moved_bytes = 0;
    double us = 0;    // wall time
    std::vector<LayerCounts> layers;
    std::vector<Stage> stages;

    uint64_t bytes() const
    {
        uint64_t sum = 0;
        for (const Stage& s : stages) sum += s.bytes;
        return sum;
    }
};

}    // namespace hearth
