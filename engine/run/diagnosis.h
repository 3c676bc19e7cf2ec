// Why a model's numbers went wrong. Asked once they have, so it may take its time.
#pragma once

#include "engine/run/embedded_rows.h"
#include "engine/text/tokenizer.h"
#include "engine/model/weights.h"
#include "host/attention.h"

#include <span>
#include <vector>

namespace hearth {

/// A batch ended in logits, or in a residual, that are not finite numbers. Thrown by Scheduler::feed, which does not
/// know why.
struct NotFiniteNumbers {};

/// Where the numbers of a batch's texts went wrong, as what is to be said of it: the first tensor with weights that are
/// not finite, in the order in which a model reads them; else the first layer, computed by the host from the first
/// token on, that makes such numbers of others; else the device.
struct Diagnosis {
    const Weights& weights;
    host::Team& team;
    uint32_t batch;
    host::KvTypes kv;
    const RowTable& rows;
    std::string device;    // that computed part of it; empty where none did

    Error of(std::span<const std::vector<Token>> texts) const;
};

}    // namespace hearth
