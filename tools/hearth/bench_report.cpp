#include "tools/hearth/bench_report.h"

#include "tools/eval/score.h"
#include "tools/hearth/cli.h"

#include <algorithm>
#include <cmath>

namespace hearth::tools {

namespace {

std::string as_json(const Engine& engine, const Measured& m)
{
    nlohmann::json json = {{"model", engine.config().name},      {"summary", engine.summary()},
                           {"threads", engine.threads()},        {"results", nlohmann::json::array()},
                           {"stages", nlohmann::json::array()},  {"fills", nlohmann::json::array()},
                           {"together", nlohmann::json::array()}};
    for (const TogetherRow& t : m.together)
        json["together"].push_back({{"sequences", t.sequences},
                                    {"tokens_per_s", t.median_rate()},
                                    {"runs", t.tokens_per_s},
                                    {"us_per_token_p50", t.latency(0.5)},
                                    {"us_per_token_p95", t.latency(0.95)},
                                    {"bytes_per_token", t.bytes_per_token}});
    for (const Series& s : m.results)
        json["results"].push_back(
            {{"expected_tokens_per_s", s.expected ? nlohmann::json(*s.expected) : nlohmann::json()},
             {"test", s.name},
             {"tokens", s.tokens},
             {"tokens_per_s", s.mean()},
             {"deviation", s.deviation()},
             {"runs", s.tokens_per_s},
             {"bytes_per_token", s.bytes_per_token},
             {"downloaded_per_token", s.downloaded_per_token},
             {"gb_per_s", s.gb_per_s()},
             {"host_read_gb_per_s", s.read_speed > 0 ? nlohmann::json(s.read_speed) : nlohmann::json()}});
    for (const StageRow& s : m.stages)
        json["stages"].push_back({{"test", s.test},
                                  {"stage", s.name},
                                  {"on", s.on_device ? "device" : "host"},
                                  {"us_per_token", s.us},
                                  {"bytes_per_token", s.bytes},
                                  {"gb_per_s", s.gb_per_s()}});
    for (const FillRow& f : m.fills)
        json["fills"].push_back({{"positions", f.positions},
                                 {"us_per_token", f.us},
                                 {"bytes_per_token", f.bytes},
                                 {"us_by_plain_reading", f.reading_us}});
    return dump(json);
}

std::string as_csv(const Measured& m)
{
    std::string out = "test,stage,on,tokens,tokens_per_s,deviation,us_per_token,bytes_per_token,gb_per_s\n";
    for (const Series& s : m.results)
        out += fmt::format("{},all,both,{},{:.3f},{:.3f},{:.3f},{:.0f},{:.3f}\n", s.name, s.tokens, s.mean(),
                           s.deviation(), 1e6 / s.mean(), s.bytes_per_token, s.gb_per_s());
    for (const StageRow& s : m.stages)
        out += fmt::format("{},{},{},,,,{:.3f},{:.0f},{:.3f}\n", s.test, s.name, s.on_device ? "device" : "host", s.us,
                           s.bytes, s.gb_per_s());
    for (const FillRow& f : m.fills)
        out += fmt::format("decode at {},all,both,1,{:.3f},,{:.3f},{:.0f},{:.3f}\n", f.positions, 1e6 / f.us, f.us,
                           f.bytes, f.bytes / f.us / 1000);
    for (const TogetherRow& t : m.together)
        out += fmt::format("{} together,all,both,1,{:.3f},,{:.3f},{:.0f},{:.3f}\n", t.sequences, t.median_rate(),
                           t.latency(0.5), t.bytes_per_token, t.bytes_per_token * t.median_rate() / 1e9);
    return out;
}

std::string as_markdown(const Engine& engine, const Measured& m)
{
    const double device_read = engine.machine() ? engine.machine()->on_device.read : 0;
    std::string out = engine.summary() + "\n\n";
    if (!m.results.empty())
        out += "| test | tokens | tokens/s | expected | MB/token | GB/s | KB to the host "
               "|\n|---|---:|---:|---:|---:|---:|---:|\n";
    for (const Series& s : m.results)
        out += fmt::format("| {} | {} | {:.2f} ± {:.2f} | {} | {:.2f} | {:.2f} | {:.2f} |\n", s.name, s.tokens,
                           s.mean(), s.deviation(), s.expected ? fmt::format("{:.2f}", *s.expected) : "-",
                           s.bytes_per_token / 1e6, s.gb_per_s(), s.downloaded_per_token / 1e3);
    if (!m.stages.empty())
        out += "\n| test | stage | on | us/token | MB/token | GB/s | of plain reading "
               "|\n|---|---|---|---:|---:|---:|---:|\n";
    for (const StageRow& s : m.stages) {
        const auto series = std::ranges::find(m.results, s.test, &Series::name);
        const double most = s.on_device ? device_read : series->read_speed;
        out += fmt::format("| {} | {} | {} | {:.1f} | {:.3f} | {:.2f} | {} |\n", s.test, s.name,
                           s.on_device ? "device" : "host", s.us, s.bytes / 1e6, s.gb_per_s(),
                           most > 0 && s.test == "decode" ? fmt::format("{:.0f} %", 100 * s.gb_per_s() / most) : "-");
    }
    if (!m.results.empty() && m.results.back().read_speed > 0)
        out += fmt::format("\nPlain reading by the CPU, measured between the tokens: {:.2f} GB/s\n",
                           m.results.back().read_speed);
    if (!m.fills.empty())
        out += "\n| positions | ms/token | MB/token | ms by plain reading | of plain reading "
               "|\n|---:|---:|---:|---:|---:|\n";
    for (const FillRow& f : m.fills)
        out += fmt::format("| {} | {:.3f} | {:.3f} | {:.3f} | {:.0f} % |\n", f.positions, f.us / 1000, f.bytes / 1e6,
                           f.reading_us / 1000, 100 * f.reading_us / f.us);
    if (!m.together.empty())
        out += std::string(m.results.empty() ? "" : "\n") +
               "| together | tokens/s | tokens/s each | times the first | ms/token p50 | p95 | MB/token | GB/s "
               "|\n|---:|---:|---:|---:|---:|---:|---:|---:|\n";
    for (const TogetherRow& t : m.together)
        out += fmt::format("| {} | {:.2f} | {:.2f} | {:.2f} | {:.2f} | {:.2f} | {:.2f} | {:.2f} |\n", t.sequences,
                           t.median_rate(), t.median_rate() / t.sequences,
                           t.median_rate() / m.together[0].median_rate(), t.latency(0.5) / 1000, t.latency(0.95) / 1000,
                           t.bytes_per_token / 1e6, t.bytes_per_token * t.median_rate() / 1e9);
    return out;
}

}    // namespace

double Series::mean() const
{
    double sum = 0;
    for (const double x : tokens_per_s) sum += x;
    return sum / double(tokens_per_s.size());
}

double Series::deviation() const
{
    double sum = 0;
    for (const double x : tokens_per_s) sum += (x - mean()) * (x - mean());
    return tokens_per_s.size() > 1 ? std::sqrt(sum / double(tokens_per_s.size() - 1)) : 0;
}

double TogetherRow::median_rate() const { return eval::quantile(tokens_per_s, 0.5); }
double TogetherRow::latency(double share) const { return eval::quantile(us, share); }

std::string report(const std::string& format, const Engine& engine, const Measured& measured)
{
    return format == "json"  ? as_json(engine, measured)
           : format == "csv" ? as_csv(measured)
                             : as_markdown(engine, measured);
}

}    // namespace hearth::tools
