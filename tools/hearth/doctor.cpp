// hearth doctor: what would stop this machine from running well, and what to do about it.
#include "tools/hearth/doctor.h"

#include "engine/plan/profile.h"
#include "engine/system/folders.h"
#include "engine/system/limits.h"
#include "tools/hearth/cli.h"
#include "tools/hearth/confine.h"

#include <algorithm>

namespace hearth::tools {

namespace {

struct DoctorOptions {
    EngineOptions engine;    // without a model: only the machine is looked at
    bool facts = false, json = false;
};

std::string environment_value(const std::string& name) { return environment_variable(name).value_or(""); }

/// What `tune` has kept; files that are none are left out.
std::vector<MeasuredMachine> measured_machines()
{
    std::vector<MeasuredMachine> all;
    std::error_code ec;
    for (std::filesystem::directory_iterator at(cache_folder(), ec), end; !ec && at != end; at.increment(ec)) {
        const std::filesystem::path& path = at->path();
        if (!path.filename().string().starts_with("machine-") || path.extension() != ".json") continue;
        try {
            const Machine m = read_machine(path);
            all.push_back({m.device, m.driver, m.system, m.threads});
        } catch (const Error&) {
        }
    }
    return all;
}

ModelState model_state(const EngineOptions& o)
{
    ModelState state = {.name = o.model.filename().string()};
    try {
        const Gguf file(o.model);
        state.bytes = file.file_bytes();
        const Planner planner(o);
        const Decision d = planner.plan(o.vram_budget, 128);
        state.problem = d.unfit;
        state.device_bytes = d.plan.bytes;
        const Config& c = planner.config();
        state.firing_matters = c.experts > 0 || host::makes_zeros(c.activation);
        std::error_code ec;
        const std::filesystem::path beside = o.profile.empty() ? profile_path(o.model) : o.profile;
        state.has_profile = has_profile(file) || std::filesystem::exists(beside, ec);
        const auto profile_time = std::filesystem::last_write_time(beside, ec);
        if (!ec) state.profile_is_older = profile_time < std::filesystem::last_write_time(o.model, ec) && !ec;
    } catch (const Error& e) {
        state.problem = e.what();
    }
    return state;
}

}    // namespace

DoctorFacts doctor_facts(const EngineOptions& o)
{
    std::error_code ec;
    const std::filesystem::path& model = o.model;
    DoctorFacts f = {.system = read_system_facts("/", environment_value,
                                                 model.empty() ? model : std::filesystem::weakly_canonical(model, ec)),
                     .vulkan = list_devices(o.device, measured_machine),
                     .measured = measured_machines(),
                     .threads = threads_for(o.threads)};
    if (!model.empty()) f.model = model_state(o);
    return f;
}

namespace {

std::string size_in_gib(const std::optional<uint64_t>& bytes)
{
    return bytes ? fmt::format("{:.1f} GiB", double(*bytes) / 0x1p30) : "unknown";
}

}    // namespace

std::vector<std::pair<std::string, std::string>> described(const DoctorFacts& f)
{
    const SystemFacts& s = f.system;
    std::vector<std::pair<std::string, std::string>> out = {
        {"system", s.system.empty() ? "unknown" : s.system},
        {"memory", fmt::format("{} free of {}, {} of {} of swap in use", size_in_gib(s.available),
                               size_in_gib(s.memory), size_in_gib(s.swap_used), size_in_gib(s.swap))},
        {"processors", fmt::format("{} cores, {} threads are used{}", s.cores, f.threads,
                                   s.quota ? fmt::format(", quota {:.1f}", *s.quota) : "")}};
    for (const CpuClock& c : s.clocks)
        out.emplace_back("clock",
                         fmt::format("{} with {}{}, up to {:.1f} GHz", c.governor, c.driver,
                                     c.preference.empty() ? "" : ", " + c.preference, double(c.limit_khz) / 1e6));
    for (const BusGpu& g : s.gpus)
        out.emplace_back("bus",
                         fmt::format("{} {:04x}:{:04x}, kernel driver {}, {} of {} lanes, window {:.0f} MiB", g.slot,
                                     g.vendor, g.number, g.kernel_driver.empty() ? "none" : g.kernel_driver, g.lanes,
                                     g.most_lanes, double(g.window) / 0x1p20));
    out.emplace_back("Vulkan", f.vulkan.loader ? "loader found" : "no loader");
    for (size_t i = 0; i < f.vulkan.devices.size(); ++i) {
        const DeviceDescription& d = f.vulkan.devices[i];
        out.emplace_back("device", fmt::format("{} {}, {}, {}{}", i, d.name, d.kind, d.driver,
                                               f.vulkan.chosen == i ? ", chosen" : ""));
    }
    for (const MeasuredMachine& m : f.measured)
        out.emplace_back("measured", fmt::format("{} {}, {} threads", m.device.empty() ? "the CPU alone" : m.device,
                                                 m.driver, m.threads));
    if (s.storage) out.emplace_back("model's disk", fmt::format("{} ({})", s.storage->name, s.storage->filesystem));
    return out;
}

namespace {

std::string as_text(const DoctorFacts& facts, const std::vector<Finding>& found, bool with_facts)
{
    std::string out;
    if (with_facts)
        for (const auto& [name, value] : described(facts)) out += printable(fmt::format("{}: {}", name, value)) + "\n";
    for (const Finding& f : found) {
        const std::string fix = f.fix.empty() ? "" : ": " + f.fix;
        out += printable(fmt::format("{}: {}{}", f.stops ? "stops" : "slows", f.what, fix)) + "\n";
    }
    return out;
}

nlohmann::json as_json(const DoctorFacts& facts, const std::vector<Finding>& found)
{
    nlohmann::json out = {{"facts", nlohmann::json::array()}, {"findings", nlohmann::json::array()}};
    for (const auto& [name, value] : described(facts)) out["facts"].push_back({{"name", name}, {"value", value}});
    for (const Finding& f : found) out["findings"].push_back({{"stops", f.stops}, {"what", f.what}, {"fix", f.fix}});
    return out;
}

void doctor(const DoctorOptions& o)
{
    confinement().files(false, o.engine.device != "cpu");
    const DoctorFacts facts = doctor_facts(o.engine);
    confinement().calls();
    const std::vector<Finding> found = findings(facts);
    print(o.json ? dump(as_json(facts, found)) : as_text(facts, found, o.facts));
    if (const auto stopping = std::ranges::count(found, true, &Finding::stops); stopping > 0)
        throw Error("{} of {} finding{} above keep{} this machine from running well", stopping, found.size(),
                    found.size() == 1 ? "" : "s", stopping == 1 ? "s" : "");
}

}    // namespace

Command add_doctor(CLI::App& app)
{
    auto o = std::make_shared<DoctorOptions>();
    add_engine_options(app, o->engine);
    app.get_option("--model")->required(false)->description("a model, whose file, profile and plan are looked at, too");
    group(app, "Output");
    app.add_flag("--facts", o->facts, "say what was looked at, too: devices, drivers, memory, clocks");
    app.add_flag("--json", o->json, "as JSON");
    return [o] { doctor(*o); };
}

}    // namespace hearth::tools
