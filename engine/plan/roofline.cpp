#include "engine/plan/roofline.h"

#include <algorithm>
#include <cmath>

namespace hearth {

namespace {

struct BoundText {
    std::string_view name, advice;
};
constexpr BoundText texts[] = {
    {"GPU memory", "weights of fewer bits (hearth quantize), or --sparsity exact or predict where the model has zeros"},
    {"GPU arithmetic", "a type that the GPU multiplies faster (see hearth tune), or fewer rows at once (-b)"},
    {"GPU latency", "more rows at once: several sequences together (-np)"},
    {"CPU memory", "more of the model on the GPU (--vram-budget), weights of fewer bits, or --sparsity predict"},
    {"CPU arithmetic", "more threads (-t), or prompts that the GPU computes alone (--stream)"},
    {"CPU latency", "fewer threads (-t), or more rows at once: several sequences together (-np)"},
};

/// The fastest way in which a side multiplies weights of this type, in products per microsecond; 0: not measured.
double product_rate(const Machine& m, bool device, WeightType type)
{
    const size_t f = format_number(type);
    const double billions_per_s = device ? std::ranges::max(m.products[f]) : m.host_products[f];
    return billions_per_s * 1000;
}

}    // namespace

std::string_view bound_name(Bound bound) { return texts[size_t(bound)].name; }
std::string_view bound_advice(Bound bound) { return texts[size_t(bound)].advice; }

StepTime& StepTime::operator+=(const StepTime& other)
{
    memory += other.memory;
    arithmetic += other.arithmetic;
    latency += other.latency;
    return *this;
}

StepTime expected_time(const PlannedStep& p, host::Work work, const Machine& m)
{
    const SideRates& rates = p.on_device ? m.on_device : m.host;
    StepTime time = {.latency = p.step.least_us(rates)};
    // Of few rows the kernels' own rates are known; tiles of many rows read weights as fast as anything can.
    SideRates of_work = rates;
    if (work == host::Work::many) {
        of_work.rows.fill({rates.read, rates.read, rates.read});
        AttentionRates& a = of_work.attention;
        a.keys_us = 0;    // many queries meet a key at once
        if (a.products > 0) a.kv = INFINITY;
        if (a.prompt > 0) a.products = a.prompt, a.query_us = 0;
    }
    time.memory = p.step.us(p.load, of_work) - time.latency;
    for (const Read& r : p.step.reads)
        if (const double rate = product_rate(m, p.on_device, r.type); rate > 0)
            time.arithmetic += products_of(r, p.load) / rate;
    if (!p.on_device)
        for (const Read& r : p.step.reads) time.arithmetic += sums_of(r, p.load) * m.host_sum_us[format_number(r.type)];
    // The rates of one row were measured with its arithmetic, and the products of many in other kernels.
    if (work == host::Work::few && p.load.rows <= 1) time.arithmetic = std::min(time.arithmetic, time.memory);
    return time;
}

Bound RooflineRow::bound() const
{
    const size_t first = size_t(on_device ? Bound::device_memory : Bound::host_memory);
    if (expected.latency > std::max(expected.memory, expected.arithmetic)) return Bound(first + 2);
    return Bound(first + (expected.arithmetic > expected.memory));
}

std::vector<RooflineRow> roofline(std::span<const PlannedStep> steps, host::Work work, const Machine* machine)
{
    std::vector<RooflineRow> rows;
    for (const PlannedStep& p : steps) {
        const std::string_view name = step_name(p.step.kind);
        auto row = std::ranges::find_if(
            rows, [&](const RooflineRow& r) { return r.name == name && r.on_device == p.on_device; });
        if (row == rows.end()) row = rows.insert(row, {.name = name, .on_device = p.on_device});
        ++row->steps;
        row->bytes += p.step.bytes(p.load);
        row->operations += p.step.operations(p.load);
        if (machine) row->expected += expected_time(p, work, *machine);
    }
    return rows;
}

Roof roof_of(const Machine& m, bool device)
{
    double products = 0;    // the fastest of any type
    for (const WeightFormat& f : weight_formats) products = std::max(products, product_rate(m, device, f.type));
    return {.gb_per_s = (device ? m.on_device : m.host).read, .gops = 2 * products / 1000};
}

}    // namespace hearth
