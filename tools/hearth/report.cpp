// hearth bench --report: a benchmark of all devices of this machine, and of several machines side by side.
#include "tools/hearth/report.h"

#include "tools/hearth/cli.h"
#include "tools/hearth/confine.h"

#include <algorithm>

namespace hearth::tools {

namespace {

constexpr const char* pictures[] = {"decode", "prefill", "stages", "seam", "split", "batch"};

/// Makes the folder, and asks for the files before there is something to write.
void prepare(const std::filesystem::path& folder)
{
    std::error_code ec;
    std::filesystem::create_directories(folder, ec);
    if (!std::filesystem::is_directory(folder, ec))
        throw Error("{} cannot be made a folder: name another place for the report", folder.string());
    for (const std::filesystem::path& file : report_files(folder)) confinement().allow(file);
}

}    // namespace

std::filesystem::path shipped_model()
{
    const std::filesystem::path model = "tests/data/fairytale-7m.gguf";
    std::error_code ec;
    // Where the sources are: here, or above the folder that the program was built in.
    std::vector<std::filesystem::path> folders = {std::filesystem::current_path(ec)};
    const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", ec);
    for (std::filesystem::path at = program; at.has_relative_path(); at = at.parent_path()) folders.push_back(at);
    for (const std::filesystem::path& folder : folders)
        if (std::filesystem::is_regular_file(folder / model, ec)) return folder / model;
    throw Error("there is no {} here or above the program: name a model to measure", model.string());
}

std::vector<std::filesystem::path> report_files(const std::filesystem::path& folder)
{
    std::vector<std::filesystem::path> out = {folder / "report.json", folder / "report.html", folder / "report.md"};
    for (const char* const id : pictures) out.push_back(folder / fmt::format("report-{}.svg", id));
    return out;
}

void write_report(const std::filesystem::path& folder, const BenchReport& report)
{
    const std::vector<Section> sections = sections_of(report);
    OutputFile(folder / "report.json").finish(to_json_text(report));    // first: the others are made of it
    OutputFile(folder / "report.html").finish(html_page(report, sections));
    OutputFile(folder / "report.md").finish(markdown_page(report, sections));
    for (const Section& s : sections)
        if (!s.picture.empty()) OutputFile(folder / fmt::format("report-{}.svg", s.id)).finish(s.picture);
}

void make_report(const std::filesystem::path& folder, StandardSet set)
{
    prepare(folder);
    confinement().files(false, set.engine.device != "cpu");
    if (set.together.empty()) set.together = {1, 2, 4, 8};
    const uint32_t sequences = std::ranges::max(set.together);
    if (set.engine.context == 0) {
        const Config config = describe_weights(std::make_shared<Gguf>(set.engine.model, set.engine.overrides)).config;
        const uint32_t room = std::max(set.prompt, set.count + 16 + sequences);
        set.engine.context = std::min(room, config.context);
    }
    BenchReport report = {.machines = {{}}};
    catch_interrupt();
    measure_machine_report(set, report.machines[0], [&] { write_report(folder, report); });
    size_t all = 0, missing = 0;
    for (const DeviceResult& d : report.machines[0].devices)
        for (const PartResult& p : d.parts) all += 1, missing += p.state != "done";
    print(markdown_page(report, sections_of(report)));
    const std::string place = (folder / "report.html").string();
    if (interrupted()) throw Error("interrupted: {} of {} parts are in {}", all - missing, all, place);
    if (missing > 0) throw Error("{} of {} parts failed; {} has the others, and says why", missing, all, place);
    say("kept in {}", place);
}

void merge_reports(const std::filesystem::path& folder, const std::vector<std::filesystem::path>& files)
{
    BenchReport all;
    for (const std::filesystem::path& file : files)
        for (MachineResult& m : read_report(file).machines) all.machines.push_back(std::move(m));
    if (all.machines.empty()) throw Error("these reports have no machines: measure one with `hearth bench --report`");
    prepare(folder);
    write_report(folder, all);
    say("kept in {}: {} machines", (folder / "report.html").string(), all.machines.size());
}

}    // namespace hearth::tools
