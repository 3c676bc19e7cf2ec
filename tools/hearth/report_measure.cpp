// The standard set of `hearth bench --report`: the same parts on every device of this machine. A part that fails is
// written down, and the next one begins.
#include "engine/system/limits.h"
#include "tools/hearth/bench_measure.h"
#include "tools/hearth/doctor.h"
#include "tools/hearth/report.h"

#include <algorithm>
#include <cstdlib>
#include <ctime>
#include <fstream>

namespace hearth::tools {

namespace {

/// One device, part by part; an engine is loaded where a part first needs one.
class DeviceRun {
  public:
    using Progress = std::function<void(double)>;

    /// `device` as --device has it.
    DeviceRun(const StandardSet& set, const std::string& device, DeviceResult& out, std::function<void()> keep)
        : set_(set), options_(set.engine), out_(out), keep_(std::move(keep))
    {
        options_.device = device;
        options_.sequences = std::ranges::max(set.together);
        options_.machine = [this](const std::string&, const std::string&, unsigned) { return machine_; };
    }

    void figures(const Progress& progress);
    void decode(const Progress& progress);
    void prefill(const Progress& progress);
    void together(const Progress& progress);
    void splits(const Progress& progress);

  private:
    Engine& engine();
    std::vector<uint64_t> budgets() const;
    SplitResult split(uint64_t budget);

    const StandardSet& set_;
    EngineOptions options_;
    DeviceResult& out_;
    std::function<void()> keep_;
    std::optional<Machine> machine_;
    std::unique_ptr<Engine> engine_;
};

/// In their order, with about how much of the time each takes.
struct ReportPart {
    const char* name;
    double share;
    void (DeviceRun::*work)(const DeviceRun::Progress&);
    bool on_cpu;    // the CPU alone has it, too
};
constexpr ReportPart report_parts[] = {
    {"figures", 4, &DeviceRun::figures, true},     {"decode", 2, &DeviceRun::decode, true},
    {"prefill", 2, &DeviceRun::prefill, true},     {"sequences together", 4, &DeviceRun::together, true},
    {"split sweep", 5, &DeviceRun::splits, false},
};

SpeedResult result_of(const Series& s)
{
    return {.tokens = s.tokens,
            .tokens_per_s = s.tokens_per_s,
            .expected = s.expected.value_or(0),
            .bytes_per_token = s.bytes_per_token};
}

void DeviceRun::figures(const Progress& progress)
{
    if (set_.given_figures) machine_ = set_.engine.machine(out_.is_cpu() ? "" : out_.name, out_.driver, 0);
    else machine_ = measure_machine(options_, progress, [](const std::string& what) { say("warning: {}", what); });
    const Machine& m = *machine_;
    if (!out_.is_cpu() && m.device != out_.name)
        throw Error("the figures of --machine are of {}, not of {}", m.has_device() ? m.device : "a CPU alone",
                    out_.name);
    out_.figures = {.host_read = m.host.read};
    if (!out_.is_cpu())
        out_.figures = {.host_read = m.host.read,
                        .device_read = m.on_device.read,
                        .upload = m.upload,
                        .together = m.together,
                        .submit_us = m.submit_us,
                        .round_trip_us = m.round_trip_us,
                        .release_us = m.release_us};
}

Engine& DeviceRun::engine()
{
    if (!engine_) engine_ = std::make_unique<Engine>(options_);
    engine_->settle();
    return *engine_;
}

void DeviceRun::decode(const Progress& progress)
{
    Engine& e = engine();
    const BenchTexts texts(e, 1, set_.temperature);
    const Test test = texts.decode(std::min(set_.count, e.context()));
    Series series = measure_speed(e, test, set_.repetitions);
    out_.decode = {result_of(series)};
    keep_();
    progress(0.7);
    measure_stages(e, test, series, out_.stages);
}

void DeviceRun::prefill(const Progress& progress)
{
    Engine& e = engine();
    const BenchTexts texts(e, set_.prompt, set_.temperature);
    for (const uint32_t part : {16u, 4u, 1u}) {
        const uint32_t tokens = std::min(std::max(set_.prompt / part, 1u), e.context());
        if (!out_.prefill.empty() && out_.prefill.back().tokens == tokens) continue;
        const Test test = texts.prefill(tokens);
        Series series = measure_speed(e, test, set_.repetitions);
        out_.prefill.push_back(result_of(series));
        keep_();
        progress(0.9 / part);
        if (part > 1) continue;
        measure_stages(e, test, series, out_.stages);
    }
}

void DeviceRun::together(const Progress& progress)
{
    Engine& e = engine();
    const uint32_t room = e.context() - std::min(e.context(), 16 + options_.sequences);
    for (const TogetherRow& t :
         measure_together(e, {set_.together, std::min(set_.count, room), set_.repetitions, set_.temperature}, progress))
        out_.together.push_back({t.sequences, t.tokens_per_s, t.latency(0.5), t.latency(0.95), t.bytes_per_token});
}

/// From the least with which all of attention is there to what is free, or what the model wants.
std::vector<uint64_t> DeviceRun::budgets() const
{
    constexpr int steps = 4;
    EngineOptions options = options_;
    options.placement = Placement::most;
    options.sequences = 1;    // as `split` has it
    const Planner planner(options);
    const Needs& needs = planner.needs();
    uint64_t least = needs.scratch + needs.head, most = least;
    for (const LayerNeeds& l : needs.layers) {
        least += l.attention + l.kv;
        most += l.attention + l.kv + l.predictor + uint64_t(l.groups) * l.group;
    }
    most = std::min(most, planner.plan(options_.vram_budget, 0).budget);
    if (least >= most) least = most / 2;    // not all layers' attention fits
    std::vector<uint64_t> out;
    for (int i = 0; i <= steps; ++i) out.push_back(least + (most - least) / steps * uint64_t(i));
    return out;
}

/// What both sides took together less what the longer one took, of a split layer and a token.
double seam_of(const StatsTotals& totals, uint32_t& split_layers)
{
    double us = 0;
    split_layers = 0;
    for (const LayerCounts& l : totals.layers) {
        if (!l.split) continue;
        us += std::max(l.both_us - std::max(l.device_us, l.host_us), 0.0);
        ++split_layers;
    }
    return split_layers ? us / split_layers / double(totals.tokens) : 0;
}

SplitResult DeviceRun::split(uint64_t budget)
{
    EngineOptions options = options_;
    options.vram_budget = budget;
    options.placement = Placement::most;
    options.sequences = 1;
    Engine e(options);
    e.settle();
    const BenchTexts texts(e, 1, set_.temperature);
    const Test test = texts.decode(std::min(set_.count, e.context()));
    Series series = measure_speed(e, test, set_.repetitions);
    SplitResult out = {.device_bytes = e.plan().bytes, .decode = result_of(series)};
    double groups = 0, resident = 0;
    for (const LayerNeeds& l : e.needs().layers) groups += l.groups;
    for (const LayerPlan& l : e.plan().layers) resident += double(l.resident.size());
    out.resident = groups > 0 ? std::min(resident / groups, 1.0) : 0;
    std::vector<StageRow> stages;
    out.seam_us = seam_of(measure_stages(e, test, series, stages), out.split_layers);
    if (machine_) out.expected_seam_us = Planner(options).plan(budget, test.tokens / 2.0).costs.seam;
    return out;
}

void DeviceRun::splits(const Progress& progress)
{
    engine_.reset();
    const std::vector<uint64_t> all = budgets();
    for (const uint64_t budget : all) {
        const SplitResult result = split(budget);
        if (out_.splits.empty() || out_.splits.back().device_bytes != result.device_bytes)
            out_.splits.push_back(result);
        keep_();
        progress(double(out_.splits.size()) / double(all.size()));
    }
}

// ---- the machine ----------------------------------------------------------------------------------------------------

std::string today()
{
    const std::time_t now = std::time(nullptr);
    char text[32] = {};
    std::strftime(text, sizeof text, "%Y-%m-%d %H:%M UTC", std::gmtime(&now));
    return text;
}

/// What to measure on: as --device has it, and how it is called.
struct NamedDevice {
    std::string option;
    DeviceResult result;
};

NamedDevice cpu_alone() { return {"cpu", {.name = "CPU alone", .kind = "processor", .driver = ""}}; }

NamedDevice device_at(const DeviceList& list, size_t i)
{
    const DeviceDescription& d = list.devices[i];
    return {fmt::format("{}", i), {.name = d.name, .kind = d.kind, .driver = d.driver, .memory = d.memory}};
}

/// The CPU alone and every device but software ones; or those that are named, by commas.
std::vector<NamedDevice> devices_of(const std::string& wanted)
{
    std::vector<NamedDevice> out;
    if (wanted == "auto") {
        out.push_back(cpu_alone());
        const DeviceList list = list_devices("auto", measured_machine);
        for (size_t i = 0; i < list.devices.size(); ++i) {
            const DeviceDescription& d = list.devices[i];
            if (!d.unfit.empty()) say("note: {} is left out: it {}", d.name, d.unfit);
            else if (d.kind.starts_with("software"))
                say("note: {} is left out: a software device is measured only where --device names it", d.name);
            else out.push_back(device_at(list, i));
        }
        return out;
    }
    for (size_t at = 0; at <= wanted.size();) {
        const size_t comma = std::min(wanted.find(',', at), wanted.size());
        const std::string name = wanted.substr(at, comma - at);
        at = comma + 1;
        if (name == "cpu") {
            out.push_back(cpu_alone());
            continue;
        }
        const DeviceList list = list_devices(name, measured_machine);
        if (!list.refused.empty() || !list.chosen) throw Error("{}", list.refused.empty() ? list.reason : list.refused);
        out.push_back(device_at(list, *list.chosen));
    }
    return out;
}

std::vector<std::string> commands_of(const StandardSet& set, const std::vector<NamedDevice>& devices)
{
    const std::string bench = "hearth bench " + set.engine.model.filename().string(),
                      sizes = fmt::format("-n {} -r {}{}{}", set.count, set.repetitions, set.typed.empty() ? "" : " ",
                                          set.typed),
                      together = fmt::format("-np {}", fmt::join(set.together, ","));
    std::vector<std::string> out = {fmt::format("{} --report FOLDER --device {} -p {} {} {}", bench, set.engine.device,
                                                set.prompt, together, sizes)};
    for (const NamedDevice& d : devices) {
        out.push_back("hearth tune --device " + d.option);
        out.push_back(fmt::format("{} --device {} -p {} {}", bench, d.option, set.prompt, sizes));
        out.push_back(fmt::format("{} --device {} {} {}", bench, d.option, together, sizes));
        if (d.option != "cpu")
            out.push_back(
                fmt::format("{} --device {} -p 0 {} --placement most --vram-budget SIZE", bench, d.option, sizes));
    }
    return out;
}

void describe(const StandardSet& set, const std::vector<NamedDevice>& devices, MachineResult& out)
{
    EngineOptions without_model;
    without_model.threads = set.engine.threads;
    DoctorFacts facts = doctor_facts(without_model);
    facts.measured.clear();
    for (const NamedDevice& d : devices)    // this report measures anew
        facts.measured.push_back({.device = d.result.driver.empty() ? "" : d.result.name,
                                  .driver = d.result.driver,
                                  .system = facts.system.system,
                                  .threads = facts.threads});
    std::string name = printable(processor_name());
    if (name.empty()) name = "a processor without a name";
    out.facts = {{"processor", name}};
    for (const auto& [key, value] : described(facts))
        if (key != "measured") out.facts.push_back({key, value});
    for (const Finding& f : findings(facts))
        out.findings.push_back(
            fmt::format("{}: {}{}", f.stops ? "stops" : "slows", f.what, f.fix.empty() ? "" : ": " + f.fix));
    for (const NamedDevice& d : devices)
        if (!d.result.is_cpu()) name += ", " + d.result.name;
    out.name = name;
    out.date = today();
    out.hearth = HEARTH_VERSION;
    out.model = set.engine.model.filename().string();
    std::error_code ec;
    const uintmax_t bytes = std::filesystem::file_size(set.engine.model, ec);
    out.model_bytes = ec ? 0 : bytes;
    out.commands = commands_of(set, devices);
}

}    // namespace

void measure_machine_report(const StandardSet& set, MachineResult& out, const std::function<void()>& keep)
{
    const std::vector<NamedDevice> devices = devices_of(set.engine.device);
    describe(set, devices, out);
    double all = 0, done = 0;
    for (const NamedDevice& d : devices) {
        out.devices.push_back(d.result);
        for (const ReportPart& p : report_parts) {
            if (d.result.is_cpu() && !p.on_cpu) continue;
            out.devices.back().parts.push_back({.name = p.name, .state = "waiting", .problem = {}});
            all += p.share;
        }
    }
    keep();
    ProgressBar bar("measuring");
    for (size_t i = 0; i < devices.size(); ++i) {
        DeviceResult& device = out.devices[i];
        DeviceRun run(set, devices[i].option, device, keep);
        for (PartResult& part : device.parts) {
            const auto* const how = std::ranges::find(report_parts, part.name, &ReportPart::name);
            const double begin = seconds();
            part.state = "running";
            keep();
            try {
                (run.*how->work)([&](double share) {
                    if (interrupted()) throw Error("interrupted");
                    bar.show((done + share * how->share) / all);
                });
                part.state = "done";
            } catch (const std::exception& e) {
                part.state = interrupted() ? "interrupted" : "failed";
                part.problem = printable(e.what());
            }
            part.seconds = seconds() - begin;
            done += how->share;
            bar.show(done / all);
            keep();
            if (interrupted()) return;
        }
    }
}

}    // namespace hearth::tools
