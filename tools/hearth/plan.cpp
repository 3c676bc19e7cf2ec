// hearth plan: who would get what for a memory budget, and the speed to expect. Loads nothing.
#include "tools/hearth/cli.h"
#include "tools/hearth/confine.h"
#include "tools/hearth/images.h"
#include "tools/hearth/model_shape.h"
#include "tools/hearth/units.h"

#include <cmath>
#include <sstream>

namespace hearth::tools {

namespace {

struct PlanOptions {
    EngineOptions engine;
    ShapeOptions shape;
    std::vector<std::optional<uint64_t>> budgets;
    std::optional<double> position;
    bool json = false;
};

std::string speed(const Decision& r)
{
    return r.expected_us ? fmt::format("{:.2f} tokens/s", 1e6 / *r.expected_us)
                         : "speed unknown: run `hearth tune` first";
}

uint64_t used(const Decision& r) { return r.plan.bytes + r.tower.bytes; }

struct BytesRead {
    double device = 0, host = 0;
};

/// Of weights and KV cache, and of activations on the device, by one token at `position`.
BytesRead bytes_read(const Planner& planner, const Decision& r, double position)
{
    const Machine* const machine = planner.machine() ? &*planner.machine() : nullptr;
    BytesRead sum;
    for (const PlannedStep& p :
         planned_steps(planner.planned_model(), r.plan, machine, {.position = std::floor(position)}))
        (p.on_device ? sum.device : sum.host) += p.step.bytes(p.load);
    return sum;
}

/// Who looks at images, and in how much memory.
std::string images_line(const Planner& planner, const Decision& r)
{
    const std::optional<double> us = planner.look_us(r.tower, 1);
    const std::string time = us ? fmt::format("; {:.1f} ms for an image of one tile", *us / 1000) : "";
    if (r.tower.room == 0) return "images: the CPU looks at them" + time;
    return fmt::format("images: the GPU looks at them, in {:.1f} MiB of that: {:.1f} MiB for weights, which {}{}",
                       double(r.tower.bytes) / mib, double(r.tower.room) / mib,
                       r.tower.kept ? "stay there" : "pass through for each image", time);
}

std::string table(const Planner& planner, const Decision& r, double position)
{
    const Needs& needs = planner.needs();
    const BytesRead read = bytes_read(planner, r, position);
    std::string out = fmt::format("budget {:.1f} MiB, used {:.1f} MiB: attention of {} of {} layers{}; {}\n",
                                  double(r.budget) / mib, double(used(r)) / mib, r.plan.layers.size(),
                                  needs.layers.size(), r.plan.head ? ", head" : "", speed(r));
    if (planner.sees()) out += images_line(planner, r) + "\n";
    out += fmt::format("a token reads {:.1f} MiB on the GPU and {:.1f} MiB on the CPU\n\n", read.device / mib,
                       read.host / mib);
    out += "| layer | groups on the GPU | of what fires | GPU us | CPU us | seam us | all us "
           "|\n|---:|---:|---:|---:|---:|---:|---:|\n";
    for (uint32_t l = 0; l < needs.layers.size(); ++l) {
        const size_t resident = l < r.plan.layers.size() ? r.plan.layers[l].resident.size() : 0;
        out += fmt::format("| {} | {} of {}{} | {:.0f} % |", l, resident, needs.layers[l].groups,
                           l < r.plan.layers.size() ? "" : ", attention on the CPU", 100 * r.served[l]);
        if (r.expected_us) {
            const LayerEstimate e = estimate_layer(r.costs, r.plan, l);
            out += fmt::format(" {:.1f} | {:.1f} | {:.1f} | {:.1f} |\n", e.device, e.host, e.seam, e.total);
        } else {
            out += " - | - | - | - |\n";
        }
    }
    return out;
}

nlohmann::json json_of(const Planner& planner, const Decision& r, double position)
{
    const BytesRead read = bytes_read(planner, r, position);
    nlohmann::json layers = nlohmann::json::array();
    for (uint32_t l = 0; l < planner.needs().layers.size(); ++l) {
        const bool on_device = l < r.plan.layers.size();
        nlohmann::json layer = {{"attention_on_device", on_device},
                                {"groups", planner.needs().layers[l].groups},
                                {"resident", on_device ? r.plan.layers[l].resident.size() : 0},
                                {"served", r.served[l]}};
        if (r.expected_us) {
            const LayerEstimate e = estimate_layer(r.costs, r.plan, l);
            layer.update({{"device_us", e.device}, {"host_us", e.host}, {"seam_us", e.seam}, {"us", e.total}});
        }
        layers.push_back(layer);
    }
    nlohmann::json json = {{"budget", r.budget},
                           {"bytes", used(r)},
                           {"head_on_device", r.plan.head},
                           {"device_bytes_per_token", std::llround(read.device)},
                           {"host_bytes_per_token", std::llround(read.host)},
                           {"layers", layers}};
    if (planner.sees())
        json["images"] = {{"on_device", r.tower.room > 0},
                          {"kept", r.tower.kept},
                          {"bytes", r.tower.bytes},
                          {"weight_bytes", r.tower.room}};
    if (const auto us = planner.look_us(r.tower, 1)) json["images"]["us_of_tile"] = *us;
    if (r.expected_us) json.update({{"expected_us", *r.expected_us}, {"expected_tokens_per_s", 1e6 / *r.expected_us}});
    return json;
}

void plan(const PlanOptions& o)
{
    confinement().files(false, o.engine.device != "cpu");
    const Planner planner(o.engine, open_shape(o.shape, o.engine.model, o.engine.overrides));
    confinement().calls();
    for (const std::string& note : planner.notes()) say("note: {}", note);
    say("{}: {}", planner.config().name, planner.device());
    std::vector<Decision> reports;
    const double position = o.position.value_or(128);
    for (const auto& budget : o.budgets.empty() ? std::vector<std::optional<uint64_t>>(1) : o.budgets)
        reports.push_back(planner.plan(budget, position));
    for (const Decision& r : reports)
        if (planner.sees())
            for (const std::string& note : r.notes) say("note: {}", note);
    if (o.json) {
        nlohmann::json all = nlohmann::json::array();
        for (const Decision& r : reports) all.push_back(json_of(planner, r, position));
        return print(dump({{"model", planner.config().name}, {"device", planner.device()}, {"plans", all}}));
    }
    if (reports.size() == 1) return print(table(planner, reports[0], position));
    std::string out = planner.sees()
                          ? "| budget MiB | used MiB | images | attention | groups | of what fires | expected |\n"
                            "|---:|---:|---:|---:|---:|---:|---:|\n"
                          : "| budget MiB | used MiB | attention | groups | of what fires | expected |\n"
                            "|---:|---:|---:|---:|---:|---:|\n";
    for (const Decision& r : reports) {
        uint64_t groups = 0, all = 0;
        double served = 0;
        for (size_t l = 0; l < planner.needs().layers.size(); ++l) {
            all += planner.needs().layers[l].groups;
            if (l < r.plan.layers.size()) groups += r.plan.layers[l].resident.size();
            served += r.served[l] / double(r.served.size());
        }
        const std::string images = r.tower.room == 0 ? "CPU" : r.tower.kept ? "GPU, kept" : "GPU, passing";
        out += fmt::format("| {:.1f} | {:.1f} |{} {} of {} layers{} | {:.0f} % | {:.0f} % | {} |\n",
                           double(r.budget) / mib, double(used(r)) / mib,
                           planner.sees() ? fmt::format(" {} |", images) : "", r.plan.layers.size(), r.served.size(),
                           r.plan.head ? ", head" : "", 100.0 * double(groups) / double(all), 100 * served, speed(r));
    }
    print(out);
}

}    // namespace

Command add_plan(CLI::App& app)
{
    auto o = std::make_shared<PlanOptions>();
    add_engine_options(app, o->engine);
    add_shape_options(app, o->shape);
    add_tower_options(app, o->engine);
    app.remove_option(app.get_option("--vram-budget"));
    group(app, "Device and memory");
    app.add_option_function<std::vector<std::string>>(
           "--vram-budget",
           [o](const std::vector<std::string>& budgets) {
               for (const std::string& b : budgets) o->budgets.emplace_back(parse_size("--vram-budget", b));
           },
           "GPU memory to plan for, or several: 2GiB,4GiB,8GiB (default: what is free, less a margin)")
        ->delimiter(',')
        ->type_name("SIZE");
    group(app, "Output");
    app.add_option("--at", o->position, "position in the context to expect the speed of (default: 128)")
        ->check(number_between(0, 1 << 24));
    app.add_flag("--json", o->json, "print JSON");
    return [o] { plan(*o); };
}

}    // namespace hearth::tools
