// hearth bench: tokens/s of prefill and decode over several runs, then one timed run for GB/s per stage; and how decode
// grows with the context.
#include "engine/batcher.h"
#include "tools/hearth/cli.h"
#include "tools/hearth/plot.h"

#include <algorithm>
#include <cmath>
#include <random>

namespace hearth::tools {

namespace {

struct BenchOptions {
    EngineOptions engine;
    uint32_t prompt = 512, count = 128, repetitions = 5;
    float temperature = 0.8f;
    std::string format = "md";
    std::string plot;
    std::vector<uint32_t> together;    // sequences
};

struct Series {
    std::string name;
    uint32_t tokens;
    std::vector<double> tokens_per_s;
    double bytes_per_token = 0, downloaded_per_token = 0;
    double read_speed =
        0;    // of the host, GB/s, measured between the tokens of the timed run; 0: the host read nothing
    std::optional<double> expected = {};    // tokens/s by the plan; of decode, where the machine was measured

    double mean() const
    {
        double sum = 0;
        for (const double x : tokens_per_s) sum += x;
        return sum / double(tokens_per_s.size());
    }
    double deviation() const
    {
        double sum = 0;
        for (const double x : tokens_per_s) sum += (x - mean()) * (x - mean());
        return tokens_per_s.size() > 1 ? std::sqrt(sum / double(tokens_per_s.size() - 1)) : 0;
    }
    double gb_per_s() const { return bytes_per_token * mean() / 1e9; }
};

/// A stage of the timed run, all layers together, per token.
struct StageRow {
    std::string test, name;
    bool on_device;
    double us, bytes;
};

/// Decode where the context holds so many positions.
struct FillRow {
    uint32_t positions;
    double us, bytes;     // of a token
    double reading_us;    // what its bytes take at the speed of plain reading
};

/// Several sequences that decode together.
struct TogetherRow {
    uint32_t sequences;
    std::vector<double> tokens_per_s;    // of all, run by run
    std::vector<double> us;              // that a token took, of every step
    double bytes_per_token = 0;

    double median_rate() const { return middle(tokens_per_s, 0.5); }
    double latency(double share) const { return middle(us, share); }

  private:
    static double middle(std::vector<double> of, double share)
    {
        const auto at = of.begin() + std::ptrdiff_t(share * double(of.size() - 1));
        std::nth_element(of.begin(), at, of.end());
        return *at;
    }
};

/// Texts of `count` tokens each, of prompts and seeds of their own, as many together as each of `sequences` says; in
/// turn, so that all meet the machine in the same state.
std::vector<TogetherRow> measure_together(Engine& engine, const BenchOptions& o)
{
    constexpr uint32_t prompt = 8;
    std::vector<TogetherRow> rows;
    for (const uint32_t sequences : o.together) rows.push_back({.sequences = sequences});
    ProgressBar bar("sequences together");
    for (uint32_t r = 0; r <= o.repetitions; ++r) {    // the first one to warm up
        for (TogetherRow& row : rows) {
            Batcher batcher(engine);
            uint32_t prompts = row.sequences;
            double us = 0, bytes = 0;
            uint64_t tokens = 0;
            batcher.on_stats = [&](const FeedStats& s) {
                if (prompts > 0) return;    // only while all of them write
                us += s.us;
                tokens += s.tokens;
                bytes += double(s.bytes());
                if (r > 0) row.us.push_back(s.us);
            };
            for (uint32_t i = 0; i < row.sequences; ++i) {
                std::mt19937_64 random(i);
                Batcher::Request request = {.prompt = {engine.tokenizer().bos()},
                                            .sampling = {.temperature = o.temperature, .seed = i + 1},
                                            .count = o.count + row.sequences};
                while (request.prompt.size() < prompt)
                    request.prompt.push_back(Token(random() % engine.config().vocab));
                request.on_token = [&, first = true](Token) mutable {
                    if (first) --prompts;
                    first = false;
                    return tokens < uint64_t(o.count) * row.sequences;
                };
                batcher.add(std::move(request));
            }
            while (batcher.step())
                if (interrupted()) throw Error("interrupted");
            if (r == 0) continue;
            row.tokens_per_s.push_back(double(tokens) * 1e6 / us);
            row.bytes_per_token = bytes / double(tokens);
        }
        bar.show(double(r + 1) / (o.repetitions + 1));
    }
    return rows;
}

constexpr uint32_t least_fill = 512, most_fill = 32768;

/// Decode at 512, 1024, ... positions, up to the context. What is in it comes from random tokens that were really fed.
std::vector<FillRow> measure_fills(Engine& engine, const std::vector<Token>& some)
{
    constexpr uint32_t tokens = 8;    // whose median counts
    const double device_read = engine.machine() ? engine.machine()->on_device.read : 0;
    if (engine.on_device() && device_read == 0)
        throw Error("--plot compares with how fast the GPU reads, which was not measured: run `hearth tune` first");
    Session session = engine.session();
    std::vector<FillRow> rows;
    ProgressBar bar("filling the context");
    for (uint32_t fill = least_fill; fill <= engine.context(); fill *= 2) {
        std::vector<Token> more;
        while (session.position() + more.size() < fill - tokens) more.push_back(some[more.size() % some.size()]);
        session.feed(more, [&] {
            bar.show(double(session.position()) / engine.context());
            return interrupted();
        });
        if (interrupted()) throw Error("interrupted");
        std::vector<FillRow> runs;
        std::vector<double> readings;
        session.on_stats = [&](const FeedStats& s) {
            const double host_read = engine.read_speed();
            double reading = 0;
            for (const Stage& stage : s.stages)
                reading += double(stage.bytes) / (stage.on_device ? device_read : host_read) / 1000;
            runs.push_back({fill, s.us, double(s.bytes()), 0});
            readings.push_back(reading);
        };
        for (uint32_t t = 0; t < tokens; ++t) session.feed(std::span(&some[t], 1));
        session.on_stats = {};
        std::ranges::sort(runs, {}, &FillRow::us);
        std::ranges::sort(readings);
        rows.push_back(runs[tokens / 2]);
        rows.back().reading_us = readings[tokens / 2];
    }
    return rows;
}

std::string picture(const Engine& engine, const std::vector<FillRow>& fills)
{
    Plot plot = {.title = fmt::format("{}: decode as the context fills", engine.config().name),
                 .x = "positions in the context",
                 .y = "ms per token",
                 .lines = {{"measured", "#2b7bd9", {}}, {"its bytes at the speed of plain reading", "#d9822b", {}}}};
    for (const FillRow& f : fills) {
        plot.lines[0].points.emplace_back(f.positions, f.us / 1000);
        plot.lines[1].points.emplace_back(f.positions, f.reading_us / 1000);
    }
    return svg(plot);
}

/// What `work` does, as the totals of its batches.
StatsTotals measure(Session& session, const std::function<void()>& work)
{
    StatsTotals totals;
    session.on_stats = [&](const FeedStats& s) { totals.add(s); };
    work();
    session.on_stats = {};
    return totals;
}

bool reads_on_host(const FeedStats& s)
{
    return std::ranges::any_of(s.stages, [](const Stage& stage) { return !stage.on_device && stage.bytes > 0; });
}

std::string report(const std::string& format, const Engine& engine, const std::vector<Series>& results,
                   const std::vector<StageRow>& stages, const std::vector<FillRow>& fills,
                   const std::vector<TogetherRow>& together)
{
    const double device_read = engine.machine() ? engine.machine()->on_device.read : 0;

    const auto gb_per_s = [](const StageRow& s) { return s.us > 0 ? s.bytes / s.us / 1000 : 0; };
    std::string out;
    if (format == "json") {
        nlohmann::json json = {{"model", engine.config().name},      {"summary", engine.summary()},
                               {"threads", engine.threads()},        {"results", nlohmann::json::array()},
                               {"stages", nlohmann::json::array()},  {"fills", nlohmann::json::array()},
                               {"together", nlohmann::json::array()}};
        for (const TogetherRow& t : together)
            json["together"].push_back({{"sequences", t.sequences},
                                        {"tokens_per_s", t.median_rate()},
                                        {"runs", t.tokens_per_s},
                                        {"us_per_token_p50", t.latency(0.5)},
                                        {"us_per_token_p95", t.latency(0.95)},
                                        {"bytes_per_token", t.bytes_per_token}});
        for (const Series& s : results)
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
        for (const StageRow& s : stages)
            json["stages"].push_back({{"test", s.test},
                                      {"stage", s.name},
                                      {"on", s.on_device ? "device" : "host"},
                                      {"us_per_token", s.us},
                                      {"bytes_per_token", s.bytes},
                                      {"gb_per_s", gb_per_s(s)}});
        for (const FillRow& f : fills)
            json["fills"].push_back({{"positions", f.positions},
                                     {"us_per_token", f.us},
                                     {"bytes_per_token", f.bytes},
                                     {"us_by_plain_reading", f.reading_us}});
        out = dump(json);
    } else if (format == "csv") {
        out = "test,stage,on,tokens,tokens_per_s,deviation,us_per_token,bytes_per_token,gb_per_s\n";
        for (const Series& s : results)
            out += fmt::format("{},all,both,{},{:.3f},{:.3f},{:.3f},{:.0f},{:.3f}\n", s.name, s.tokens, s.mean(),
                               s.deviation(), 1e6 / s.mean(), s.bytes_per_token, s.gb_per_s());
        for (const StageRow& s : stages)
            out += fmt::format("{},{},{},,,,{:.3f},{:.0f},{:.3f}\n", s.test, s.name, s.on_device ? "device" : "host",
                               s.us, s.bytes, gb_per_s(s));
        for (const FillRow& f : fills)
            out += fmt::format("decode at {},all,both,1,{:.3f},,{:.3f},{:.0f},{:.3f}\n", f.positions, 1e6 / f.us, f.us,
                               f.bytes, f.bytes / f.us / 1000);
        for (const TogetherRow& t : together)
            out += fmt::format("{} together,all,both,1,{:.3f},,{:.3f},{:.0f},{:.3f}\n", t.sequences, t.median_rate(),
                               t.latency(0.5), t.bytes_per_token, t.bytes_per_token * t.median_rate() / 1e9);
    } else {
        out = engine.summary() + "\n\n";
        if (!results.empty())
            out += "| test | tokens | tokens/s | expected | MB/token | GB/s | KB to the host "
                   "|\n|---|---:|---:|---:|---:|---:|---:|\n";
        for (const Series& s : results)
            out += fmt::format("| {} | {} | {:.2f} ± {:.2f} | {} | {:.2f} | {:.2f} | {:.2f} |\n", s.name, s.tokens,
                               s.mean(), s.deviation(), s.expected ? fmt::format("{:.2f}", *s.expected) : "-",
                               s.bytes_per_token / 1e6, s.gb_per_s(), s.downloaded_per_token / 1e3);
        if (!stages.empty())
            out += "\n| test | stage | on | us/token | MB/token | GB/s | of plain reading "
                   "|\n|---|---|---|---:|---:|---:|---:|\n";
        for (const StageRow& s : stages) {
            const auto series = std::ranges::find(results, s.test, &Series::name);
            const double most = s.on_device ? device_read : series->read_speed;
            out +=
                fmt::format("| {} | {} | {} | {:.1f} | {:.3f} | {:.2f} | {} |\n", s.test, s.name,
                            s.on_device ? "device" : "host", s.us, s.bytes / 1e6, gb_per_s(s),
                            most > 0 && s.test == "decode" ? fmt::format("{:.0f} %", 100 * gb_per_s(s) / most) : "-");
        }
        if (!results.empty() && results.back().read_speed > 0)
            out += fmt::format("\nPlain reading by the CPU, measured between the tokens: {:.2f} GB/s\n",
                               results.back().read_speed);
        if (!fills.empty())
            out += "\n| positions | ms/token | MB/token | ms by plain reading | of plain reading "
                   "|\n|---:|---:|---:|---:|---:|\n";
        for (const FillRow& f : fills)
            out += fmt::format("| {} | {:.3f} | {:.3f} | {:.3f} | {:.0f} % |\n", f.positions, f.us / 1000,
                               f.bytes / 1e6, f.reading_us / 1000, 100 * f.reading_us / f.us);
        if (!together.empty())
            out += std::string(results.empty() ? "" : "\n") +
                   "| together | tokens/s | tokens/s each | times the first | ms/token p50 | p95 | MB/token | GB/s "
                   "|\n|---:|---:|---:|---:|---:|---:|---:|---:|\n";
        for (const TogetherRow& t : together)
            out += fmt::format(
                "| {} | {:.2f} | {:.2f} | {:.2f} | {:.2f} | {:.2f} | {:.2f} | {:.2f} |\n", t.sequences, t.median_rate(),
                t.median_rate() / t.sequences, t.median_rate() / together[0].median_rate(), t.latency(0.5) / 1000,
                t.latency(0.95) / 1000, t.bytes_per_token / 1e6, t.bytes_per_token * t.median_rate() / 1e9);
    }
    return out;
}

void bench(const BenchOptions& o)
{
    EngineOptions options = o.engine;
    const uint32_t wanted = std::max(o.prompt, o.count);
    std::optional<OutputFile> plot_file;
    if (!o.plot.empty()) plot_file.emplace(o.plot);
    if (wanted == 0 && !plot_file) throw Error("-p 0 and -n 0 leave nothing to measure: give one of them");
    if (!o.together.empty() && o.count == 0) throw Error("-np writes texts, and -n 0 asks for none: give a larger -n");
    for (const uint32_t n : o.together) options.sequences = std::max(options.sequences, n);
    const uint32_t room = wanted + (o.together.empty() ? 0 : 16 + options.sequences);
    if (options.context == 0) {
        const Config config = describe_weights(std::make_shared<Gguf>(options.model, options.overrides)).config;
        const uint32_t most = config.context;
        options.context = std::max(room, plot_file ? std::min(config.most_positions(), most_fill) : 2u);
        if (wanted > most)
            throw Error("-p {} and -n {} need {} positions, and the model has {}: use smaller numbers", o.prompt,
                        o.count, wanted, most);
    }
    Engine engine = load_engine(options);
    if (wanted > engine.context())
        throw Error("-p {} and -n {} need {} positions, and -c gives {}: use a larger -c", o.prompt, o.count, wanted,
                    engine.context());

    if (plot_file && engine.context() < least_fill)
        throw Error("--plot starts at {} positions, and the context has {}: use a larger -c, or a model that has more",
                    least_fill, engine.context());

    // Random tokens for the prompt; the answer is the model's own, so that its neurons fire as they do in use.
    std::mt19937_64 random(0);
    std::vector<Token> prompt = {engine.tokenizer().bos()};
    while (prompt.size() < std::max(o.prompt, least_fill)) prompt.push_back(Token(random() % engine.config().vocab));
    const auto prefill = [&](Session& s) {
        s.reset();
        s.feed(std::span<const Token>(prompt).first(o.prompt));
    };
    const auto decode = [&](Session& s) {
        s.reset();
        Sampler sampler({.temperature = o.temperature, .seed = 1});
        Token next = engine.tokenizer().bos();
        for (uint32_t i = 0; i < o.count; ++i) next = *s.next(std::span(&next, 1), sampler);
    };

    struct Test {
        const char* name;
        uint32_t tokens;
        std::function<void(Session&)> work;
    };
    // With -np only that is measured.
    const Test tests[] = {{"prefill", o.together.empty() ? o.prompt : 0, prefill},
                          {"decode", o.together.empty() ? o.count : 0, decode}};
    std::vector<Series> results;
    std::vector<StageRow> stages;
    catch_interrupt();
    for (const Test& test : tests) {
        if (test.tokens == 0) continue;
        Series series = {.name = test.name, .tokens = test.tokens, .tokens_per_s = {}};
        {
            Session session = engine.session();
            test.work(session);    // warm caches, compiled kernels
            for (uint32_t r = 0; r < o.repetitions && !interrupted(); ++r) {
                const StatsTotals totals = measure(session, [&] { test.work(session); });
                series.tokens_per_s.push_back(double(totals.tokens) * 1e6 / totals.us);
                series.bytes_per_token = double(totals.bytes) / double(totals.tokens);
                series.downloaded_per_token = double(totals.downloaded) / double(totals.tokens);
            }
        }
        if (interrupted()) throw Error("interrupted");
        if (const auto us = engine.expected_us(test.tokens / 2.0); us && std::string_view(test.name) == "decode")
            series.expected = 1e6 / *us;

        Session session = engine.session(true);
        test.work(session);
        engine.read_speed();    // what it reads may not be in memory yet
        StatsTotals totals;
        uint32_t readings = 0;
        double seconds_per_gb = 0;
        session.on_stats = [&](const FeedStats& s) {
            totals.add(s);
            if (!reads_on_host(s)) return;
            seconds_per_gb += 1 / engine.read_speed();
            readings++;
        };
        test.work(session);
        if (readings > 0) series.read_speed = readings / seconds_per_gb;
        results.push_back(series);
        std::map<std::pair<bool, std::string>, StageRow> rows;
        for (const auto& [key, total] : totals.stages) {
            const auto& [on_device, name, layer] = key;
            StageRow& row =
                rows.try_emplace({on_device, name}, StageRow{test.name, name, on_device, 0, 0}).first->second;
            row.us += total.us / double(totals.tokens);
            row.bytes += double(total.bytes) / double(totals.tokens);
        }
        for (const auto& [key, row] : rows) stages.push_back(row);
    }

    std::vector<FillRow> fills;
    if (plot_file) {
        fills = measure_fills(engine, prompt);
        plot_file->finish(picture(engine, fills));
    }
    const std::vector<TogetherRow> together =
        o.together.empty() ? std::vector<TogetherRow>() : measure_together(engine, o);
    print(report(o.format, engine, results, stages, fills, together));
}

}    // namespace

Command add_bench(CLI::App& app)
{
    auto o = std::make_shared<BenchOptions>();
    add_engine_options(app, o->engine);
    group(app, "Measurement");
    app.add_option("-p,--prompt", o->prompt, "tokens of the prompt; 0: no prefill test")->capture_default_str();
    app.add_option("-n,--predict", o->count, "tokens of the answer; 0: no decode test")->capture_default_str();
    app.add_option("-r,--repetitions", o->repetitions, "runs of each test, after one to warm up")
        ->capture_default_str()
        ->check(CLI::Range(1, 1000));
    app.add_option("--temp", o->temperature,
                   "temperature of the answer; 0: the most probable token, which a GPU that holds the output matrix "
                   "finds itself")
        ->capture_default_str()
        ->check(number_between(0, 1e6));
    app.add_option("--parallel", o->together,
                   "instead: so many sequences decode together, such as 1,2,4,8, each with a prompt and a seed of its "
                   "own: what all of them write in a second, and how long each waits for a token")
        ->delimiter(',')
        ->check(CLI::Range(1, 256))
        ->type_name("N,...");
    group(app, "Output");
    app.add_option("-o,--output", o->format, "md, json or csv")
        ->capture_default_str()
        ->check(CLI::IsMember({"md", "json", "csv"}));
    app.add_option("--plot", o->plot,
                   "draw, as SVG, the time of a decoded token where the context holds 512, 1024, ... positions, up to "
                   "-c (default: the model's, at most "
                   "32768), beside what its bytes take at the speed of plain reading")
        ->check(not_empty());
    return [o] { bench(*o); };
}

}    // namespace hearth::tools
