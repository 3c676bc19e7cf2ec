// What others have measured, or computed as a bound, and what a simulation says of the same: how far it can be trusted.
#pragma once

#include "engine/plan/cards.h"
#include "engine/plan/simulate.h"

#include <span>
#include <string_view>
#include <vector>

namespace hearth {

/// How a program that was measured brings GPU and CPU together.
struct Program {
    std::string_view name;
    Coupling coupling;
    Placement placement;    // of neurons
    std::string_view source;
};

struct Case {
    std::string_view arch, type;
    std::string_view card, processor, memory;    // no card: the CPU alone
    double gib;                                  // of the card that can be used
    Way way;
    std::string_view firing;    // empty: the usual one
    double exponent;            // instead of its own, where it was measured what the device served; else 0
    const Program* program;
    uint32_t position;      // of the token in the context
    double tokens_per_s;    // measured
    std::string_view source;
    std::string_view miss;    // what explains a large difference; empty where none was expected
};
std::span<const Case> published_cases();

/// Tables of bounds: a machine of nothing but bandwidths, without latencies but a seam for each split layer.
struct PublishedBound {
    std::string_view arch, type;
    double gib, device_gb_per_s;
    double dense, reglu, drelu, threshold;    // tokens/s
};
std::span<const PublishedBound> published_bounds();
/// As a case of one of the four columns.
struct BoundCase {
    const PublishedBound* bound;
    std::string_view column;
    double tokens_per_s;
};
std::vector<BoundCase> bound_cases();

/// `weights` are those of the case's architecture and type, described; their down projections by neurons where the way
/// leaves any out.
double simulated(const Case& c, const Weights& weights, const NeedsOf& needs_of);
double simulated(const BoundCase& c, const Weights& weights, const NeedsOf& needs_of);

/// Of the ratios of simulated to measured tokens/s.
struct Spread {
    double middle = 1;    // their geometric mean
    double factor = 1;    // e to the standard deviation of their logarithms: two thirds lie within
    size_t within_25 = 0, within_35 = 0, count = 0;
};
Spread spread_of(std::span<const double> ratios);

/// What error bars are made of: Spread::factor of `published_cases`, which a test holds it to.
inline constexpr double usual_spread = 1.4;

}    // namespace hearth
