#include "engine/tune/attention.h"

#include <algorithm>

namespace hearth {

namespace {

/// What a query takes beyond the first, and what is left for the keys.
struct Parts {
    double query = 0, keys = 0;
};

Parts parts_of(const AttentionTimes::Of& us)
{
    const double query = std::clamp((us.shared - us.alone) / (AttentionTimes::sharing - 1), 0.0, 0.9 * us.alone);
    return {query, us.alone - query};
}

/// a + b width, from its values at both widths: at half of the width at least half, and at most all.
struct Line {
    double fixed = 0, of_width = 0;
};

Line line(double at_narrow, double at_wide)
{
    static_assert(2 * AttentionTimes::narrow == AttentionTimes::wide);
    const double narrow = std::clamp(at_narrow, at_wide / 2, at_wide);
    return {2 * narrow - at_wide, (at_wide - narrow) / AttentionTimes::narrow};
}

}    // namespace

AttentionRates attention_rates(const AttentionTimes& times)
{
    const Parts narrow = parts_of(times.narrow_us), wide = parts_of(times.wide_us);
    const Line query = line(narrow.query, wide.query), keys = line(narrow.keys, wide.keys);
    constexpr double bytes = 2 * sizeof(uint16_t), products = 2, most_gb_per_s = 1e6;    // of a unit of width
    return {.kv = keys.of_width > 0 ? std::min(bytes / keys.of_width / 1000, most_gb_per_s) : most_gb_per_s,
            .products = query.of_width > 0 ? products / query.of_width / 1000 : 0,
            .keys_us = keys.fixed,
            .query_us = query.fixed};
}

}    // namespace hearth
