// hearth bench: tokens/s of prefill and decode over several runs, then one timed run for GB/s per stage; and how decode
// grows with the context.
#include "tools/hearth/bench_image.h"
#include "tools/hearth/bench_measure.h"
#include "tools/hearth/cli.h"
#include "tools/hearth/plot.h"
#include "tools/hearth/report.h"

#include <algorithm>

namespace hearth::tools {

namespace {

struct BenchOptions {
    EngineOptions engine;
    ImageOptions images;
    bool agreement = false;
    uint32_t prompt = 512, count = 128, repetitions = 5;
    float temperature = 0.8f;
    std::string format = "md";
    std::string plot;
    std::vector<uint32_t> together;    // sequences
    std::filesystem::path report;      // a folder; empty: none
    std::vector<std::filesystem::path> merged;
    bool given_figures = false;    // by --machine
    std::string typed;             // other options of the engine
};

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

/// The model, with a context that has room for what is wanted.
Engine load_for(const BenchOptions& o)
{
    EngineOptions options = o.engine;
    const uint32_t wanted = std::max(o.prompt, o.count);
    const bool plots = !o.plot.empty();
    if (wanted == 0 && !plots) throw Error("-p 0 and -n 0 leave nothing to measure: give one of them");
    if (!o.together.empty() && o.count == 0) throw Error("-np writes texts, and -n 0 asks for none: give a larger -n");
    for (const uint32_t n : o.together) options.sequences = std::max(options.sequences, n);
    const uint32_t room = wanted + (o.together.empty() ? 0 : 16 + options.sequences);
    if (options.context == 0) {
        const Config config = describe_weights(std::make_shared<Gguf>(options.model, options.overrides)).config;
        const uint32_t most = config.context;
        options.context = std::max(room, plots ? std::min(config.most_positions(), most_fill) : 2u);
        if (wanted > most)
            throw Error("-p {} and -n {} need {} positions, and the model has {}: use smaller numbers", o.prompt,
                        o.count, wanted, most);
    }
    Engine engine = load_engine(options);
    if (wanted > engine.context())
        throw Error("-p {} and -n {} need {} positions, and -c gives {}: use a larger -c", o.prompt, o.count, wanted,
                    engine.context());
    if (plots && engine.context() < least_fill)
        throw Error("--plot starts at {} positions, and the context has {}: use a larger -c, or a model that has more",
                    least_fill, engine.context());
    engine.settle();
    return engine;
}

void bench(const BenchOptions& o)
{
    if (!o.merged.empty()) return merge_reports(o.report, o.merged);
    if (!o.report.empty())
        return make_report(o.report, {.engine = o.engine,
                                      .prompt = o.prompt,
                                      .count = o.count,
                                      .repetitions = o.repetitions,
                                      .temperature = o.temperature,
                                      .together = o.together,
                                      .given_figures = o.given_figures,
                                      .typed = o.typed});
    if (!o.images.images.empty()) {
        Engine engine = load_engine(seeing(o.engine));
        engine.settle();
        std::optional<Engine> dense;
        if (o.agreement) {
            EngineOptions options = o.engine;
            options.device = "cpu", options.sparsity = Sparsity::dense;
            dense.emplace(load_engine(options));
        }
        catch_interrupt();
        return print(bench_images(engine, {.images = o.images,
                                           .prompt = o.prompt,
                                           .count = o.count,
                                           .repetitions = o.repetitions,
                                           .temperature = o.temperature,
                                           .format = o.format,
                                           .dense = dense ? &*dense : nullptr}));
    }
    std::optional<OutputFile> plot_file;
    if (!o.plot.empty()) plot_file.emplace(o.plot);
    Engine engine = load_for(o);

    const BenchTexts texts(engine, std::max(o.prompt, least_fill), o.temperature);

    // With -np only that is measured.
    std::vector<Test> tests;
    if (o.together.empty()) tests = {texts.prefill(o.prompt), texts.decode(o.count)};
    Measured measured;
    catch_interrupt();
    for (const Test& test : tests) {
        if (test.tokens == 0) continue;
        measured.results.push_back(measure_speed(engine, test, o.repetitions));
        measure_stages(engine, test, measured.results.back(), measured.stages);
    }
    if (plot_file) {
        measured.fills = measure_fills(engine, texts.prompt());
        plot_file->finish(picture(engine, measured.fills));
    }
    if (!o.together.empty()) {
        ProgressBar bar("sequences together");
        measured.together = measure_together(engine, {o.together, o.count, o.repetitions, o.temperature},
                                             [&](double share) { bar.show(share); });
    }
    print(report(o.format, engine, measured));
}

}    // namespace

Command add_bench(CLI::App& app)
{
    auto o = std::make_shared<BenchOptions>();
    add_engine_options(app, o->engine);
    add_tower_options(app, o->engine);
    add_image_options(app, o->images);
    app.get_option("--image")->description("instead: this picture (again for another), by itself: how long looking at "
                                           "it takes, reading its tokens with the "
                                           "prompt behind them, until the first token, and how fast the answer is");
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
    app.add_flag("--agreement", o->agreement,
                 "with --image: also how far the answer agrees with that of the CPU with all neurons: how many of the "
                 "most probable tokens are the same, how many of them before the first other one, and the "
                 "Kullback-Leibler divergence of the probabilities, in nats")
        ->needs(app.get_option("--image"));
    group(app, "Output");
    app.add_option("-o,--output", o->format, "md, json or csv")
        ->capture_default_str()
        ->check(CLI::IsMember({"md", "json", "csv"}));
    app.add_option("--plot", o->plot,
                   "draw, as SVG, the time of a decoded token where the context holds 512, 1024, ... positions, up to "
                   "-c (default: the model's, at most "
                   "32768), beside what its bytes take at the speed of plain reading")
        ->check(not_empty());
    CLI::Option* const report =
        app.add_option("--report", o->report,
                       "instead: the standard set on the CPU alone and on every device but software ones (--device "
                       "cpu,NAME: on those), as report.json, report.html and report.md in FOLDER")
            ->check(not_empty())
            ->type_name("FOLDER");
    app.add_option("--merge", o->merged,
                   "nothing is measured: reports of several machines side by side, in the FOLDER of --report")
        ->needs(report)
        ->type_name("FILE...");
    for (const char* other : {"--report", "--plot", "--parallel"})
        app.get_option("--image")->excludes(app.get_option(other));
    app.get_option("--model")->required(false);
    app.parse_complete_callback([o, &app] {
        o->given_figures = app.get_option("--machine")->count() > 0;
        o->typed = typed_options(app, {"--device", "--machine"});
        if (!o->engine.model.empty() || !o->merged.empty()) return;
        if (o->report.empty()) throw CLI::RequiredError("--model");
        o->engine.model = shipped_model();
    });
    return [o] { bench(*o); };
}

}    // namespace hearth::tools
