// What a report shows: a picture and a table for each question.
#include "tools/hearth/plot.h"
#include "tools/hearth/report.h"

#include <algorithm>
#include <cmath>
#include <set>

namespace hearth::tools {

namespace {

double median_of(std::vector<double> of)
{
    if (of.empty()) return 0;
    std::ranges::sort(of);
    const size_t half = of.size() / 2;
    return of.size() % 2 ? of[half] : (of[half - 1] + of[half]) / 2;
}

BarValue bar_of(const std::vector<double>& runs)
{
    if (runs.empty()) return {};
    return {median_of(runs), std::ranges::min(runs), std::ranges::max(runs)};
}

void add_point(PlotLine& line, double x, const std::vector<double>& runs)
{
    const BarValue b = bar_of(runs);
    line.points.emplace_back(x, b.value);
    line.bars.emplace_back(b.low, b.high);
}

/// "123.4 (120.1 to 125.0)"
std::string runs_text(const std::vector<double>& runs)
{
    const BarValue b = bar_of(runs);
    return runs.empty() ? "-" : fmt::format("{:.4g} ({:.4g} to {:.4g})", b.value, b.low, b.high);
}

std::string number(double x, const char* nothing = "-") { return x > 0 ? fmt::format("{:.4g}", x) : nothing; }

/// A device with its machine: of several machines each has a letter.
struct Shown {
    const MachineResult* machine;
    const DeviceResult* device;
    std::string name;
    const char* colour;    // the same in all pictures
};

std::string letter_of(size_t machine)
{
    std::string out;
    for (size_t n = machine + 1; n > 0; n = (n - 1) / 26) out.insert(out.begin(), char('A' + (n - 1) % 26));
    return out;
}

std::vector<Shown> shown(const BenchReport& report)
{
    std::vector<Shown> out;
    for (size_t m = 0; m < report.machines.size(); ++m)
        for (const DeviceResult& d : report.machines[m].devices)
            out.push_back({&report.machines[m], &d,
                           report.machines.size() > 1 ? fmt::format("{}: {}", letter_of(m), d.name) : d.name,
                           plot_colour(out.size())});
    return out;
}

// ---- the sections ---------------------------------------------------------------------------------------------------

Section machines(const BenchReport& report)
{
    Section s = {.id = "machines",
                 .title = report.machines.size() > 1 ? "Machines" : "The machine",
                 .text = "Tokens/s are medians of all runs; the model is the same on every device of a machine.",
                 .picture = {},
                 .table = {.head = {"machine", "device", "model", "decode, tokens/s", "prefill, tokens/s",
                                    "the CPU reads, GB/s", "the device reads, GB/s"},
                           .words = 3,
                           .rows = {}}};
    const std::vector<Shown> all = shown(report);
    for (size_t m = 0; m < report.machines.size(); ++m)
        for (const Shown& d : all) {
            if (d.machine != &report.machines[m]) continue;
            const std::string name = report.machines.size() > 1 ? letter_of(m) + ": " : "";
            s.table.rows.push_back(
                {name + d.machine->name, d.device->name, d.machine->model,
                 d.device->decode.empty() ? "-" : number(median_of(d.device->decode[0].tokens_per_s)),
                 d.device->prefill.empty() ? "-" : number(median_of(d.device->prefill.back().tokens_per_s)),
                 number(d.device->figures.host_read), number(d.device->figures.device_read)});
        }
    return s;
}

Section decode(const std::vector<Shown>& all)
{
    Section s = {
        .id = "decode",
        .title = "Decode",
        .text = "One sequence, as much of the model on the device as pays off or fits. The line in a bar goes "
                "from the slowest run to the fastest.",
        .picture = {},
        .table = {.head = {"device", "tokens", "tokens/s", "expected by the plan", "MB/token", "GB/s"}, .rows = {}}};
    BarChart chart = {.title = "Decode",
                      .x = "tokens/s",
                      .series = {{"measured", plot_colour(0)}, {"expected by the plan", plot_colour(1)}},
                      .groups = {}};
    for (const Shown& d : all)
        for (const SpeedResult& r : d.device->decode) {
            chart.groups.push_back({d.name, {bar_of(r.tokens_per_s), {r.expected}}});
            s.table.rows.push_back({d.name, fmt::format("{}", r.tokens), runs_text(r.tokens_per_s), number(r.expected),
                                    fmt::format("{:.4g}", r.bytes_per_token / 1e6),
                                    number(r.bytes_per_token * median_of(r.tokens_per_s) / 1e9)});
        }
    if (!chart.groups.empty()) s.picture = svg(chart);
    return s;
}

Section prefill(const std::vector<Shown>& all)
{
    Section s = {
        .id = "prefill",
        .title = "Prefill",
        .text = "A prompt of random tokens, from an empty context on.",
        .picture = {},
        .table = {.head = {"device", "tokens of the prompt", "tokens/s", "first token after, ms"}, .rows = {}}};
    Plot plot = {.title = "Prefill", .x = "tokens of the prompt", .y = "tokens/s", .lines = {}};
    for (const Shown& d : all) {
        PlotLine line = {.name = d.name, .colour = d.colour};
        for (const SpeedResult& r : d.device->prefill) {
            add_point(line, r.tokens, r.tokens_per_s);
            s.table.rows.push_back({d.name, fmt::format("{}", r.tokens), runs_text(r.tokens_per_s),
                                    fmt::format("{:.4g}", 1000 * r.tokens / median_of(r.tokens_per_s))});
        }
        if (!line.points.empty()) plot.lines.push_back(line);
    }
    if (!plot.lines.empty()) s.picture = svg(plot);
    return s;
}

/// Of one test and device, "stage (CPU)" and what it reaches.
std::string stage_name(const StageRow& r) { return fmt::format("{} ({})", r.name, r.on_device ? "GPU" : "CPU"); }

Section stages(const std::vector<Shown>& all)
{
    Section s = {.id = "stages",
                 .title = "Stages of decode",
                 .text = "What each stage of a token reads in a second, all layers together; plain reading is what no "
                         "stage can exceed by much. Stages that read little are bound by latency, not by memory.",
                 .picture = {},
                 .table = {.head = {"device", "test", "stage", "us/token", "MB/token", "GB/s", "of plain reading"},
                           .words = 3,
                           .rows = {}}};
    BarChart chart = {.title = "What the stages of decode read", .x = "GB/s", .series = {}, .groups = {}};
    std::vector<std::string> names;
    for (const Shown& d : all) {
        if (d.device->stages.empty()) continue;
        chart.series.emplace_back(d.name, d.colour);
        for (const StageRow& r : d.device->stages)
            if (r.test == "decode" && r.bytes > 0 && std::ranges::find(names, stage_name(r)) == names.end())
                names.push_back(stage_name(r));
    }
    for (const std::string& name : names) chart.groups.push_back({name, {}});
    for (const Shown& d : all) {
        if (d.device->stages.empty()) continue;
        for (BarGroup& g : chart.groups) {
            const auto found = std::ranges::find_if(
                d.device->stages, [&](const StageRow& r) { return r.test == "decode" && stage_name(r) == g.name; });
            g.values.push_back({found == d.device->stages.end() ? 0 : found->gb_per_s()});
        }
        for (const StageRow& r : d.device->stages) {
            const double most = r.on_device ? d.device->figures.device_read : d.device->figures.host_read;
            s.table.rows.push_back(
                {d.name, r.test, stage_name(r), fmt::format("{:.1f}", r.us), fmt::format("{:.3f}", r.bytes / 1e6),
                 number(r.gb_per_s()),
                 most > 0 && r.test == "decode" ? fmt::format("{:.0f} %", 100 * r.gb_per_s() / most) : "-"});
        }
    }
    if (!chart.groups.empty()) s.picture = svg(chart);
    return s;
}

Section seam(const std::vector<Shown>& all)
{
    Section s = {.id = "seam",
                 .title = "The seam",
                 .text =
                     "What it costs to bring both sides together in a layer that is split: what hearth tune measures "
                     "of the driver, what the plan expects of it, and what decode took beyond the longer side.",
                 .picture = {},
                 .table = {.head = {"device", "submit, us", "submit and notice, us", "release and notice, us",
                                    "expected of a layer, us", "measured of a layer, us"},
                           .rows = {}}};
    BarChart chart = {.title = "The seam",
                      .x = "us",
                      .series = {{"submit", plot_colour(0)},
                                 {"submit and notice", plot_colour(1)},
                                 {"release and notice", plot_colour(2)},
                                 {"seam of a split layer, measured", plot_colour(3)}},
                      .groups = {}};
    for (const Shown& d : all) {
        const FigureResult& f = d.device->figures;
        if (d.device->is_cpu() || f.round_trip_us <= 0) continue;
        std::vector<double> measured, expected;
        for (const SplitResult& r : d.device->splits)
            if (r.split_layers > 0) measured.push_back(r.seam_us), expected.push_back(r.expected_seam_us);
        chart.groups.push_back({d.name, {{f.submit_us}, {f.round_trip_us}, {f.release_us}, bar_of(measured)}});
        s.table.rows.push_back({d.name, number(f.submit_us), number(f.round_trip_us), number(f.release_us),
                                number(median_of(expected)), runs_text(measured)});
    }
    if (!chart.groups.empty()) s.picture = svg(chart);
    return s;
}

Section splits(const std::vector<Shown>& all)
{
    Section s = {.id = "split",
                 .title = "Split sweep",
                 .text = "Decode with attention on the device and more and more of the neurons, those that fire most "
                         "first where there is a profile. Dashed: what the plan expects.",
                 .picture = {},
                 .table = {.head = {"device", "neurons on it", "MiB there", "split layers", "tokens/s", "expected",
                                    "seam of a layer, us"},
                           .rows = {}}};
    Plot plot = {
        .title = "Decode by what is on the device", .x = "neurons on the device, %", .y = "tokens/s", .lines = {}};
    for (const Shown& d : all) {
        PlotLine line = {.name = d.name, .colour = d.colour},
                 expected = {.name = d.name + ", expected", .colour = d.colour, .dash = Dash::dashed};
        for (const SplitResult& r : d.device->splits) {
            add_point(line, 100 * r.resident, r.decode.tokens_per_s);
            if (r.decode.expected > 0) expected.points.emplace_back(100 * r.resident, r.decode.expected);
            s.table.rows.push_back({d.name, fmt::format("{:.0f} %", 100 * r.resident),
                                    fmt::format("{:.1f}", double(r.device_bytes) / 0x1p20),
                                    fmt::format("{}", r.split_layers), runs_text(r.decode.tokens_per_s),
                                    number(r.decode.expected),
                                    r.split_layers ? fmt::format("{:.1f}", r.seam_us) : "-"});
        }
        if (line.points.empty()) continue;
        plot.lines.push_back(line);
        plot.lines.push_back(expected);
    }
    if (!plot.lines.empty()) s.picture = svg(plot);
    return s;
}

Section together(const std::vector<Shown>& all)
{
    Section s = {
        .id = "batch",
        .title = "Sequences together",
        .text = "Several sequences decode in one batch, and every weight is read once for all of them.",
        .picture = {},
        .table = {.head = {"device", "sequences", "tokens/s of all", "each waits, ms", "95 % at most, ms", "MB/token"},
                  .rows = {}}};
    Plot plot = {
        .title = "Sequences that decode together", .x = "sequences", .y = "tokens/s of all together", .lines = {}};
    for (const Shown& d : all) {
        PlotLine line = {.name = d.name, .colour = d.colour};
        for (const TogetherResult& r : d.device->together) {
            add_point(line, r.sequences, r.tokens_per_s);
            s.table.rows.push_back({d.name, fmt::format("{}", r.sequences), runs_text(r.tokens_per_s),
                                    fmt::format("{:.4g}", r.p50_us / 1000), fmt::format("{:.4g}", r.p95_us / 1000),
                                    fmt::format("{:.4g}", r.bytes_per_token / 1e6)});
        }
        if (!line.points.empty()) plot.lines.push_back(line);
    }
    if (!plot.lines.empty()) s.picture = svg(plot);
    return s;
}

/// What is missing, and why.
Section unfinished(const std::vector<Shown>& all)
{
    Section s = {.id = "unfinished",
                 .title = "What is missing",
                 .text = "These parts were not measured to their end; what they had measured stands above.",
                 .picture = {},
                 .table = {.head = {"device", "part", "state", "why"}, .words = 4, .rows = {}}};
    for (const Shown& d : all)
        for (const PartResult& p : d.device->parts)
            if (p.state != "done")
                s.table.rows.push_back({d.name, p.name, p.state == "running" ? "not finished" : p.state,
                                        p.state == "running" ? "the program ended, or is still at it" : p.problem});
    return s;
}

}    // namespace

std::vector<Section> sections_of(const BenchReport& report)
{
    const std::vector<Shown> all = shown(report);
    std::vector<Section> out = {machines(report)};
    for (const Section& s :
         {decode(all), prefill(all), stages(all), seam(all), splits(all), together(all), unfinished(all)})
        if (!s.table.rows.empty()) out.push_back(s);
    return out;
}

}    // namespace hearth::tools
