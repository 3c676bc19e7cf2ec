#include "host/numbers.h"

#include "host/linear.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <mutex>
#include <vector>

namespace hearth::host {

namespace {

constexpr uint32_t magnitude_bits = 0x7fffffff, infinity_bits = 0x7f800000,
                   largest_half = std::bit_cast<uint32_t>(65504.0f), least_half = std::bit_cast<uint32_t>(0x1p-15f);

uint32_t magnitude(float x) { return std::bit_cast<uint32_t>(x) & magnitude_bits; }

/// f(r, weights of row r) for all rows, by all threads, each with a state of its own that is given to `done` once its
/// rows are.
template <class State, class F, class Done>
void each_row(Team& team, const Matrix& m, const State& start, const F& f, const Done& done)
{
    std::mutex one_at_a_time;
    parallel_rows(team, m.rows, m.mean_row_bytes(), [&](uint32_t first, uint32_t last) {
        thread_local std::vector<float> weights;
        weights.resize(m.cols);
        State state = start;
        const auto decode = kernels().of(m.type).decode;
        for (uint32_t r = first; r < last; r++) {
            decode(m.row(r), weights.data(), m.cols);
            f(state, r, std::span<const float>(weights));
        }
        const std::lock_guard lock(one_at_a_time);
        done(state);
    });
}

}    // namespace

bool all_finite(std::span<const float> x)
{
    uint32_t highest = 0;    // bit 31 once an exponent has all its bits
    for (const float v : x) highest |= (std::bit_cast<uint32_t>(v) & infinity_bits) + 0x00800000;
    return highest >> 31 == 0;
}

bool fit_halves(std::span<const float> weights)
{
    uint32_t largest = 0, there = 0, small = 0;
    for (const float w : weights) {
        const uint32_t bits = magnitude(w), is_there = bits > 0;
        largest = std::max(largest, bits);
        there += is_there;
        small += is_there & (bits < least_half);
    }
    return largest <= largest_half && 2 * small <= there;
}

std::optional<NotFinite> find_not_finite(Team& team, const Matrix& m)
{
    NotFinite all;
    each_row(
        team, m, NotFinite{},
        [](NotFinite& found, uint32_t r, std::span<const float> weights) {
            if (all_finite(weights)) return;
            for (uint32_t c = 0; c < weights.size(); c++) {
                if (std::isfinite(weights[c])) continue;
                if (found.count++ == 0) found = {1, r, c, weights[c]};
            }
        },
        [&](const NotFinite& found) {
            if (found.count == 0) return;
            const uint64_t count = all.count + found.count;
            if (all.count == 0 || found.row < all.row) all = found;
            all.count = count;
        });
    return all.count > 0 ? std::optional(all) : std::nullopt;
}

AsHalves as_halves(Team& team, const Matrix& m)
{
    AsHalves all;
    if (values_of(m.type) == WeightType::f16) return all;
    struct Counts {
        uint32_t largest = 0, rows_lost = 0;
        std::vector<uint32_t> there, small;    // of every column
    };
    std::vector<uint32_t> there(m.cols), small(m.cols);
    each_row(
        team, m, Counts{0, 0, there, small},
        [](Counts& counts, uint32_t, std::span<const float> weights) {
            uint32_t largest = 0, there_in_row = 0, small_in_row = 0;
            for (uint32_t c = 0; c < weights.size(); c++) {
                const uint32_t bits = magnitude(weights[c]), is_there = bits > 0,
                               is_small = is_there & (bits < least_half);
                largest = std::max(largest, bits);
                there_in_row += is_there;
                small_in_row += is_small;
                counts.there[c] += is_there;
                counts.small[c] += is_small;
            }
            counts.largest = std::max(counts.largest, largest);
            counts.rows_lost += 2 * small_in_row > there_in_row;
        },
        [&](const Counts& counts) {
            all.overflows |= counts.largest > largest_half;
            all.rows_lost += counts.rows_lost;
            for (uint32_t c = 0; c < m.cols; c++) there[c] += counts.there[c], small[c] += counts.small[c];
        });
    for (uint32_t c = 0; c < m.cols; c++) all.columns_lost += 2ull * small[c] > there[c];
    return all;
}

}    // namespace hearth::host
