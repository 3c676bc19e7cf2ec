// hearth devices: what `--device` and `--cpu` can name.
#include "tools/hearth/cli.h"

namespace hearth::tools {

namespace {

/// The instruction sets that this CPU has.
std::vector<std::string> sets_here()
{
    std::vector<std::string> ids;
    for (const InstructionSet& set : instruction_sets())
        if (set.here) ids.emplace_back(set.id);
    return ids;
}

}    // namespace

Command add_devices(CLI::App& app)
{
    auto json = std::make_shared<bool>(false);
    group(app, "Output");
    app.add_flag("--json", *json, "as JSON");
    return [json] {
        const DeviceList list = list_devices("auto", measured_machine);
        const std::vector<std::string> sets = sets_here();
        if (*json) {
            nlohmann::json out = {{"cpu", {{"instruction_set", instruction_set().id}, {"instruction_sets", sets}}},
                                  {"devices", nlohmann::json::array()},
                                  {"auto", list.chosen ? nlohmann::json(*list.chosen) : nlohmann::json()},
                                  {"reason", list.reason}};
            for (const DeviceDescription& d : list.devices)
                out["devices"].push_back({{"name", d.name},
                                          {"driver", d.driver},
                                          {"kind", d.kind},
                                          {"luid", d.luid},
                                          {"memory", d.memory},
                                          {"free_memory", d.free_memory},
                                          {"subgroup_size", d.subgroup_size},
                                          {"min_subgroup_size", d.min_subgroup_size},
                                          {"max_subgroup_size", d.max_subgroup_size},
                                          {"fp16", d.fp16},
                                          {"int_dot", d.int_dot},
                                          {"matrices", d.matrices},
                                          {"unfit", d.unfit}});
            print(dump(out));
            return;
        }
        std::string out;
        for (size_t i = 0; i < list.devices.size(); ++i) {
            const DeviceDescription& d = list.devices[i];
            out += fmt::format("{} {}  {}", i, d.name, d.kind);
            if (!d.unfit.empty()) {
                out += fmt::format(", cannot be used: it {}\n", d.unfit);
                continue;
            }
            out += fmt::format(", {:.1f} of {:.1f} GiB free, subgroups of {}", double(d.free_memory) / 0x1p30,
                               double(d.memory) / 0x1p30, d.subgroup_size);
            if (d.min_subgroup_size != d.max_subgroup_size)
                out += fmt::format(" ({} to {})", d.min_subgroup_size, d.max_subgroup_size);
            out += fmt::format("{}{}{}, {}{}{}\n", d.fp16 ? ", fp16" : "", d.int_dot ? ", integer dot" : "",
                               d.matrices ? ", matrices" : "", d.driver, d.luid.empty() ? "" : ", LUID ", d.luid);
        }
        out += list.chosen ? fmt::format("auto takes {} ({})\n", *list.chosen, list.reason)
                           : fmt::format("auto takes the CPU ({})\n", list.reason);
        out += fmt::format("The CPU uses {}; --cpu takes {}\n", instruction_set().name, fmt::join(sets, ", "));
        print(out);
    };
}

}    // namespace hearth::tools
