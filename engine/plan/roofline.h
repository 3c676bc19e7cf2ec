// Where the time of a batch goes: what each step reads and computes, against what this machine can read and compute.
// Williams, Waterman, Patterson: Roofline (doi 10.1145/1498765.1498785).
#pragma once

#include "engine/plan/costs.h"

#include <optional>
#include <span>
#include <string_view>
#include <vector>

namespace hearth {

/// What a step would be faster with more of.
enum class Bound { device_memory, device_arithmetic, device_latency, host_memory, host_arithmetic, host_latency };
std::string_view bound_name(Bound bound);
/// What a user can do about it: a clause.
std::string_view bound_advice(Bound bound);

/// Microseconds that a step takes at least for what it reads and for what it computes, which go on at once, and for
/// being started.
struct StepTime {
    double memory = 0, arithmetic = 0, latency = 0;

    double us() const { return std::max(memory, arithmetic) + latency; }
    StepTime& operator+=(const StepTime& other);
};
StepTime expected_time(const PlannedStep& step, host::Work work, const Machine& machine);

/// All steps of one name on one side.
struct RooflineRow {
    std::string_view name;
    bool on_device = false;
    uint32_t steps = 0;
    double bytes = 0, operations = 0;
    StepTime expected;    // zeros where the machine was not measured

    double intensity() const { return bytes > 0 ? operations / bytes : 0; }    // operations per byte
    Bound bound() const;
};

/// In the order in which a layer has them.
std::vector<RooflineRow> roofline(std::span<const PlannedStep> steps, host::Work work, const Machine* machine);

/// What one side computes at most: 10^9 operations a second at so many operations per byte.
struct Roof {
    double gb_per_s = 0, gops = 0;

    double at(double intensity) const { return std::min(gb_per_s * intensity, gops); }
};
Roof roof_of(const Machine& machine, bool device);

}    // namespace hearth
