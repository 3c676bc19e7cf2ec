// What attention takes of a token, from the times of a few shapes of it.
#pragma once

#include "engine/plan/machine.h"

namespace hearth {

/// Microseconds that the keys and values of one key group at one position take: of narrow and wide keys in F16, which
/// meet one query or `sharing` of them.
struct AttentionTimes {
    static constexpr uint32_t narrow = 64, wide = 128, sharing = 8;
    struct Of {
        double alone = 0, shared = 0;
    };
    Of narrow_us, wide_us;
};

/// time = bytes / kv + products / rate + keys_us + queries query_us,    so that the wide times come out as they are
///
/// and the narrow ones as nearly as no figure becomes negative.
AttentionRates attention_rates(const AttentionTimes& times);

}    // namespace hearth
