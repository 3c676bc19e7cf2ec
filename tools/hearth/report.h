// What `hearth bench --report` measures of a machine, keeps as JSON, and shows as HTML and Markdown.
#pragma once

#include "tools/hearth/bench_report.h"

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace hearth::tools {

// Every type lists its fields once, in `each_field`: writing and reading are made of these lists, so that they cannot
// differ. A change of a list is another report_version.
inline constexpr uint32_t report_version = 1;

struct Fact {
    std::string name, value;
};
template <class F>
void each_field(Fact& r, F&& f)
{
    f("name", r.name), f("value", r.value);
}

/// Prefill or decode of so many tokens, run by run.
struct SpeedResult {
    uint32_t tokens = 0;
    std::vector<double> tokens_per_s;
    double expected = 0;    // tokens/s by the plan; 0: it promised nothing
    double bytes_per_token = 0;
};
template <class F>
void each_field(SpeedResult& r, F&& f)
{
    f("tokens", r.tokens), f("tokens_per_s", r.tokens_per_s), f("expected_tokens_per_s", r.expected);
    f("bytes_per_token", r.bytes_per_token);
}

/// A stage of a timed run, all layers together, per token.
template <class F>
void each_field(StageRow& r, F&& f)
{
    f("test", r.test), f("stage", r.name), f("on_device", r.on_device), f("us_per_token", r.us);
    f("bytes_per_token", r.bytes);
}

/// Decode with a part of the neurons on the device. The seam is what both sides take together less what the longer one
/// takes alone, of a split layer and a token.
struct SplitResult {
    uint64_t device_bytes = 0;
    double resident = 0;    // share of the neurons
    SpeedResult decode;
    uint32_t split_layers = 0;
    double seam_us = 0, expected_seam_us = 0;
};
template <class F>
void each_field(SplitResult& r, F&& f)
{
    f("device_bytes", r.device_bytes), f("resident", r.resident), f("decode", r.decode);
    f("split_layers", r.split_layers), f("seam_us", r.seam_us), f("expected_seam_us", r.expected_seam_us);
}

struct TogetherResult {
    uint32_t sequences = 0;
    std::vector<double> tokens_per_s;    // of all of them, run by run
    double p50_us = 0, p95_us = 0;       // that each waits for a token
    double bytes_per_token = 0;
};
template <class F>
void each_field(TogetherResult& r, F&& f)
{
    f("sequences", r.sequences), f("tokens_per_s", r.tokens_per_s), f("us_per_token_p50", r.p50_us);
    f("us_per_token_p95", r.p95_us), f("bytes_per_token", r.bytes_per_token);
}

/// A part of the standard set, and what became of it.
struct PartResult {
    std::string name;
    std::string state;    // one of part_states
    std::string problem;
    double seconds = 0;
};
inline constexpr const char* part_states[] = {"waiting", "running", "done", "failed", "interrupted"};
template <class F>
void each_field(PartResult& r, F&& f)
{
    f("name", r.name), f("state", r.state), f("problem", r.problem), f("seconds", r.seconds);
}

/// The machine's figures with a device, as `tune` measures them; 0: not measured.
struct FigureResult {
    double host_read = 0, device_read = 0, upload = 0, together = 0;    // GB/s; the last one a factor
    double submit_us = 0, round_trip_us = 0, release_us = 0;
};
template <class F>
void each_field(FigureResult& r, F&& f)
{
    f("host_read_gb_per_s", r.host_read), f("device_read_gb_per_s", r.device_read), f("upload_gb_per_s", r.upload);
    f("together", r.together), f("submit_us", r.submit_us), f("round_trip_us", r.round_trip_us);
    f("release_us", r.release_us);
}

struct DeviceResult {
    std::string name, kind, driver;    // the CPU alone has no driver
    uint64_t memory = 0;
    std::vector<PartResult> parts;
    FigureResult figures;
    std::vector<SpeedResult> decode, prefill;    // decode: one, or none yet
    std::vector<StageRow> stages;
    std::vector<SplitResult> splits;
    std::vector<TogetherResult> together;

    bool is_cpu() const { return driver.empty(); }
};
template <class F>
void each_field(DeviceResult& r, F&& f)
{
    f("name", r.name), f("kind", r.kind), f("driver", r.driver), f("memory", r.memory), f("parts", r.parts);
    f("figures", r.figures), f("decode", r.decode), f("prefill", r.prefill), f("stages", r.stages);
    f("splits", r.splits), f("together", r.together);
}

struct MachineResult {
    std::string name;    // its processor and its GPUs
    std::string date, hearth, model;
    uint64_t model_bytes = 0;
    std::vector<Fact> facts;
    std::vector<std::string> findings, commands;    // findings: of `doctor`
    std::vector<DeviceResult> devices;
};
template <class F>
void each_field(MachineResult& r, F&& f)
{
    f("name", r.name), f("date", r.date), f("hearth", r.hearth), f("model", r.model), f("model_bytes", r.model_bytes);
    f("facts", r.facts), f("findings", r.findings), f("commands", r.commands), f("devices", r.devices);
}

struct BenchReport {
    std::vector<MachineResult> machines;
};

std::string to_json_text(const BenchReport& report);
/// Throws Error where the file is anything else than what to_json_text writes; it may be a stranger's.
BenchReport read_report(const std::filesystem::path& path);

/// A table and a picture of one question, the same in HTML and in Markdown. Texts are as they are: not escaped.
struct Table {
    std::vector<std::string> head;
    size_t words = 1;    // the first so many columns are words, the others numbers
    std::vector<std::vector<std::string>> rows;
};
struct Section {
    std::string id, title, text;
    std::string picture;    // SVG; empty: none
    Table table;
};
std::vector<Section> sections_of(const BenchReport& report);

/// `folder`/report.json, report.html (self-contained), report.md and its pictures; each whole or not at all.
std::vector<std::filesystem::path> report_files(const std::filesystem::path& folder);
void write_report(const std::filesystem::path& folder, const BenchReport& report);
std::string html_page(const BenchReport& report, const std::vector<Section>& sections);
std::string markdown_page(const BenchReport& report, const std::vector<Section>& sections);

/// The standard set: of prompts up to so long, answers so long, so many runs, sequences together.
struct StandardSet {
    EngineOptions engine;    // `device`: auto for every device, or names by commas
    uint32_t prompt = 512, count = 128, repetitions = 5;
    float temperature = 0.8f;
    std::vector<uint32_t> together;
    bool given_figures = false;    // those that `engine` finds are taken, and not measured anew
    std::string typed;             // what else was said of `engine`, for the commands
};

/// Measures this machine; `keep` is called whenever there is something new. Ends early where it is interrupted; what
/// fails is in the result.
void measure_machine_report(const StandardSet& set, MachineResult& out, const std::function<void()>& keep);

/// The small model that comes with the sources, where these are found.
std::filesystem::path shipped_model();

/// `hearth bench --report FOLDER`, and with `--merge`.
void make_report(const std::filesystem::path& folder, StandardSet set);
void merge_reports(const std::filesystem::path& folder, const std::vector<std::filesystem::path>& files);

}    // namespace hearth::tools
