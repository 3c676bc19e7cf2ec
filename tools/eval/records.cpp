#include "tools/eval/records.h"

#include "engine/error.h"

#include <algorithm>
#include <cmath>

namespace hearth::eval {

using Json = nlohmann::ordered_json;

std::set<std::pair<std::string, uint32_t>> Run::answered() const
{
    std::set<std::pair<std::string, uint32_t>> keys;
    for (const Sample& s : samples) keys.insert(s.key());
    return keys;
}

uint32_t Run::parts() const
{
    uint32_t parts = 0;
    for (const Sample& s : samples) parts = std::max(parts, s.part + 1);
    return parts;
}

namespace {

// The fields of a sample, by the names that they have in a file: one table for writing and reading.
constexpr std::pair<const char*, uint32_t Sample::*> counts[] = {{"prompt_tokens", &Sample::prompt_tokens},
                                                                 {"shared_tokens", &Sample::shared_tokens},
                                                                 {"cut_tokens", &Sample::cut_tokens},
                                                                 {"tokens", &Sample::tokens},
                                                                 {"part", &Sample::part}};
constexpr std::pair<const char*, double Sample::*> times[] = {
    {"first_token_ms", &Sample::first_ms}, {"token_ms_mean", &Sample::mean_ms}, {"token_ms_p50", &Sample::p50_ms},
    {"token_ms_p95", &Sample::p95_ms},     {"seconds", &Sample::seconds},       {"clock", &Sample::clock}};
constexpr std::pair<const char*, uint64_t Sample::*> sizes[] = {{"host_bytes", &Sample::host_bytes},
                                                                {"device_bytes", &Sample::device_bytes}};

/// JSON has no infinity, which the perplexity of a broken model can be.
double number(const Json& json) { return json.is_null() ? INFINITY : json.get<double>(); }

/// A sample of a line that has what such a line has; else nlohmann's exception.
Sample sample_of(const Json& json)
{
    Sample s = {.problem = json.at("problem"),
                .number = json.at("sample"),
                .answer = json.at("answer"),
                .end = json.at("end"),
                .judgements = {}};
    for (const auto& [name, right] : json.at("right").items())
        s.judgements.push_back({name, right.is_null() ? std::optional<bool>() : right.get<bool>(),
                                json.at("found").at(name).get<std::string>()});
    for (const auto& [name, field] : counts) s.*field = json.at(name).get<uint32_t>();
    for (const auto& [name, field] : times) s.*field = json.at(name).get<double>();
    for (const auto& [name, field] : sizes) s.*field = json.at(name).get<uint64_t>();
    return s;
}

}    // namespace

Json to_json(const Run& run) { return {{"run", run.name}, {"settings", run.settings}}; }

Json to_json(const Run& run, const Sample& s)
{
    Json json = {{"of", run.name}, {"problem", s.problem}, {"sample", s.number}};
    json["right"] = json["found"] = Json::object();
    for (const Judgement& j : s.judgements) {
        json["right"][j.name] = j.right ? Json(*j.right) : Json();
        json["found"][j.name] = j.found;
    }
    for (const auto& [name, field] : counts) json[name] = s.*field;
    for (const auto& [name, field] : times) json[name] = s.*field;
    for (const auto& [name, field] : sizes) json[name] = s.*field;
    json["end"] = s.end;
    json["answer"] = s.answer;
    return json;
}

Json to_json(const Run& run, const Perplexity& p)
{
    return {{"of", run.name}, {"perplexity", p.value}, {"error", p.error}, {"tokens", p.tokens}, {"text", p.text}};
}

std::vector<Run> read_runs(std::string_view text, const std::filesystem::path& path)
{
    std::vector<Run> runs;
    for (const Line& line : read_lines(text, path)) try {
            const Json& json = line.json();
            if (json.contains("run")) {
                runs.push_back(
                    {.name = json.at("run"), .settings = json.at("settings"), .samples = {}, .perplexity = {}});
                continue;
            }
            const auto run = std::ranges::find(runs, json.at("of").get<std::string>(), &Run::name);
            if (run == runs.end()) throw Error("{} belongs to no run that the file names", line.where());
            if (json.contains("perplexity"))
                run->perplexity = {number(json.at("perplexity")), number(json.at("error")), json.at("tokens"),
                                   json.at("text")};
            else run->samples.push_back(sample_of(json));
        } catch (const nlohmann::json::exception& e) {
            throw Error("{} is no record of `hearth eval`: {}", line.where(), e.what());
        }
    return runs;
}

}    // namespace hearth::eval
