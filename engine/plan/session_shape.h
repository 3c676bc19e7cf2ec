// What the sessions of a model are like: decided once, the same for all of them.
#pragma once

#include "engine/model/sparsity.h"
#include "engine/plan/placement.h"
#include "host/attention.h"

#include <cstdint>
#include <vector>

namespace hearth {

/// Rows done at once at the most, what the KV cache has room for and is kept in, and what is left out of few rows,
/// layer by layer.
struct SessionShape {
    uint32_t batch;
    uint32_t context;          // positions of a sequence
    uint32_t sequences = 1;    // so many of that length have room, and as many can be in one batch
    uint32_t few = 1;          // rows that are done as few (host::Work), at the most
    host::KvTypes kv = {};
    std::vector<LayerSparsity> sparsity = {};
    SubmitMode submit = SubmitMode::just_in_time;
    // That a submit is to take at the most, and what the device's steps are taken to need at first (pace_of). One that
    // takes twice as long is cut into more pieces the next time. Windows resets a GPU after two seconds.
    double longest_submit_us = 250'000;
    double pace = 1;
    bool rebalance = false;    // groups may be replaced
    // Device memory that cold groups pass through in batches of `stream_from` rows and more, which are then computed on
    // the device alone; 0 bytes: none are.
    uint64_t ring_bytes = 0;
    uint32_t stream_from = 2;
    bool matrices = false;    // the device has cooperative ones, which many rows can meet

    uint32_t pages_of_one() const { return ceil_div(context, host::page_positions); }
    uint32_t pages() const { return sequences * pages_of_one(); }

    bool operator==(const SessionShape&) const = default;
};

}    // namespace hearth
