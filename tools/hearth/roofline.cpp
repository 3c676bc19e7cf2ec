// hearth roofline: what every step of a batch reads and computes, what bounds it, and what would make it faster.
#include "engine/plan/roofline.h"
#include "tools/hearth/bench_measure.h"
#include "tools/hearth/computer.h"
#include "tools/hearth/model_shape.h"
#include "tools/hearth/plot.h"

#include <cmath>
#include <random>

namespace hearth::tools {

namespace {

struct RooflineOptions {
    EngineOptions engine;
    ShapeOptions shape;
    ComputerOptions computer;
    std::string card;    // empty: this machine
    uint32_t position = 512, prompt = 0, rows = 1;
    bool measured = false, json = false;
    std::filesystem::path plot;

    PlannedBatch batch() const
    {
        if (prompt > 0) return {.work = host::work_of_text(prompt), .rows = prompt};
        return {.rows = rows, .position = double(position)};
    }
    std::string name() const
    {
        if (prompt > 0) return fmt::format("a prompt of {} tokens", prompt);
        return rows == 1 ? fmt::format("a token at position {}", position)
                         : fmt::format("{} tokens together, from position {} on", rows, position);
    }
};

/// A row with what was measured of it.
struct TimedRow : RooflineRow {
    double measured_us = 0;    // 0: nothing was

    double us() const { return measured_us > 0 ? measured_us : expected.us(); }
};

/// Microseconds of each step, over all layers, as the median of some runs; and the decision that they ran under.
struct Measurement {
    Plan plan;
    std::map<std::pair<bool, std::string>, double> us;
    double all_us = 0;
};

double median(std::vector<double> v)
{
    std::nth_element(v.begin(), v.begin() + v.size() / 2, v.end());
    return v[v.size() / 2];
}

double median_us(const std::vector<FeedStats>& feeds)
{
    std::vector<double> us;
    for (const FeedStats& f : feeds) us.push_back(f.us);
    return median(std::move(us));
}

Measurement measure(const RooflineOptions& o)
{
    const PlannedBatch batch = o.batch();
    const uint32_t room = uint32_t(batch.position) + batch.rows;
    Engine engine = load_engine(o.engine);
    engine.check_room(room);
    engine.settle();
    std::mt19937_64 random(0);
    std::vector<Token> text;
    while (text.size() < room) text.push_back(Token(random() % engine.config().vocab));
    const std::span<const Token> before = std::span(text).first(size_t(batch.position)),
                                 rows = std::span(text).subspan(before.size());
    catch_interrupt();
    const auto feeds = [&](bool timing) {
        Session session = engine.session(timing);
        if (!before.empty()) session.feed(before);
        constexpr int runs = 7;
        std::vector<FeedStats> all;
        for (int run = 0; run <= runs; ++run) {    // the first warms caches
            FeedStats stats;
            if (o.prompt > 0) {
                session.on_stats = [&](const FeedStats& s) { stats = s; };
                session.feed(rows);
            } else {
                const Turn turn = {.session = &session, .tokens = rows, .take = [](size_t, std::span<const float>) {}};
                stats = engine.together({&turn, 1});
            }
            session.rewind(before.size());
            if (interrupted()) throw Error("interrupted");
            if (run > 0) all.push_back(std::move(stats));
        }
        return all;
    };
    const std::vector<FeedStats> plain = feeds(false), timed = feeds(true);
    Measurement out = {.plan = engine.plan(), .us = {}, .all_us = median_us(plain)};
    StatsTotals totals;
    for (const FeedStats& stats : timed) totals.add(stats);
    const double longer = (median_us(timed) - out.all_us) * double(timed.size()), stamp = stamp_us(totals, longer);
    struct Timed {
        std::vector<double> us;    // of each run
        double stamps = 0;         // in a run
    };
    std::map<std::pair<bool, std::string>, Timed> steps;
    for (size_t run = 0; run < timed.size(); ++run)
        for (const Stage& stage : timed[run].stages) {
            Timed& step = steps[{stage.on_device, std::string(stage.name)}];
            step.us.resize(timed.size());
            step.us[run] += stage.us;
            if (stage.on_device) step.stamps += 1 / double(timed.size());
        }
    // A timestamp is less than a step's mean; but one run that was disturbed makes that longer than the median.
    for (const auto& [key, step] : steps) {
        const double us = median(step.us);
        out.us[key] = us - std::min(step.stamps * stamp, 0.9 * us);
    }
    return out;
}

/// The steps that take longest, and what would make each faster.
std::string bottlenecks(std::vector<TimedRow> rows)
{
    constexpr size_t most = 3;
    double all = 0;
    for (const TimedRow& r : rows) all += r.us();
    std::ranges::sort(rows, std::greater(), &TimedRow::us);
    std::string out;
    for (const TimedRow& r : std::span(rows).first(std::min(rows.size(), most)))
        out +=
            fmt::format("{} on the {}, {:.0f} % of the time, is bound by {}: {}\n", r.name, r.on_device ? "GPU" : "CPU",
                        100 * r.us() / all, bound_name(r.bound()), bound_advice(r.bound()));
    return out;
}

std::string table(const RooflineOptions& o, const std::vector<TimedRow>& rows, bool timed)
{
    std::string out = fmt::format("{}\n\n| step | on | MB | million operations | operations/byte |", o.name()),
                line = "|---|---|---:|---:|---:|";
    if (timed) out += " bound by | expected us |", line += "---|---:|";
    if (o.measured) out += " measured us | GB/s | expected/measured |", line += "---:|---:|---:|";
    out += "\n" + line + "\n";
    for (const TimedRow& r : rows) {
        out += fmt::format("| {} | {} | {:.3f} | {:.3f} | {:.2f} |", r.name, r.on_device ? "GPU" : "CPU", r.bytes / 1e6,
                           r.operations / 1e6, r.intensity());
        if (timed) out += fmt::format(" {} | {:.1f} |", bound_name(r.bound()), r.expected.us());
        if (o.measured)
            out += fmt::format(
                " {:.1f} | {:.1f} | {} |", r.measured_us, r.measured_us > 0 ? r.bytes / r.measured_us / 1000 : 0.0,
                timed && r.measured_us > 0 ? fmt::format("{:.0f} %", 100 * r.expected.us() / r.measured_us) : "-");
        out += "\n";
    }
    return out;
}

nlohmann::json json_of(const std::vector<TimedRow>& rows, bool timed)
{
    nlohmann::json list = nlohmann::json::array();
    for (const TimedRow& r : rows) {
        nlohmann::json row = {{"step", r.name},
                              {"on", r.on_device ? "device" : "host"},
                              {"steps", r.steps},
                              {"bytes", r.bytes},
                              {"operations", r.operations}};
        if (timed)
            row.update({{"bound", bound_name(r.bound())},
                        {"memory_us", r.expected.memory},
                        {"arithmetic_us", r.expected.arithmetic},
                        {"latency_us", r.expected.latency},
                        {"expected_us", r.expected.us()}});
        if (r.measured_us > 0) row["measured_us"] = r.measured_us;
        list.push_back(row);
    }
    return list;
}

/// Steps that lie in one place share a label.
void add_step(PlotLine& steps, std::pair<double, double> point, const std::string& name)
{
    for (size_t i = 0; i < steps.points.size(); ++i) {
        const auto [x, y] = steps.points[i];
        if (std::abs(std::log10(point.first / x)) > 0.1 || std::abs(std::log10(point.second / y)) > 0.1) continue;
        if (!steps.labels[i].empty()) {
            steps.labels[i] += ", " + name;
            steps.points.push_back(point);
            steps.labels.emplace_back();
            return;
        }
    }
    steps.points.push_back(point);
    steps.labels.push_back(name);
}

/// Both roofs, and every step that computes something where it is expected, or was measured, to be.
std::string picture(const std::string& title, const std::vector<TimedRow>& rows, const Machine& machine)
{
    Plot plot = {.title = title, .x = "operations per byte", .y = "10^9 operations/s", .lines = {}};
    plot.logarithmic_x = plot.logarithmic_y = true;
    double first = 1, last = 10;    // operations per byte
    for (const TimedRow& r : rows) {
        if (r.operations == 0) continue;
        const Roof roof = roof_of(machine, r.on_device);
        first = std::min(first, std::pow(10, std::floor(std::log10(r.intensity()))));
        last = std::max({last, r.intensity(), roof.gb_per_s > 0 ? roof.gops / roof.gb_per_s : 0});
    }
    last = std::pow(10, std::ceil(std::log10(last)));
    for (const bool device : {true, false}) {
        const Roof roof = roof_of(machine, device);
        if (roof.gops <= 0 || std::ranges::none_of(rows, [&](const TimedRow& r) { return r.on_device == device; }))
            continue;
        PlotLine limit = {.name = device ? "GPU: at most" : "CPU: at most", .colour = device ? "#c33" : "#36c"},
                 steps = {.name = device ? "steps on the GPU" : "steps on the CPU",
                          .colour = device ? "#e88" : "#69e",
                          .joined = false};
        for (const double x : {first, roof.gops / roof.gb_per_s, last}) limit.points.emplace_back(x, roof.at(x));
        for (const TimedRow& r : rows) {
            if (r.on_device != device || r.operations == 0 || r.us() <= 0) continue;
            add_step(steps, {r.intensity(), r.operations / r.us() / 1000}, std::string(r.name));
        }
        plot.lines.push_back(limit);
        plot.lines.push_back(steps);
    }
    return svg(plot);
}

/// What is looked at: a model with its plan on a machine; and what to keep for as long as its steps are used.
struct Look {
    std::string model, device;
    std::optional<Machine> machine;
    std::vector<RooflineRow> rows;
};

/// On this machine.
Look look_here(const RooflineOptions& o, const std::optional<Measurement>& measured)
{
    const Planner planner(o.engine, open_shape(o.shape, o.engine.model, o.engine.overrides));
    for (const std::string& note : planner.notes()) say("note: {}", note);
    const Machine* const machine = planner.machine() ? &*planner.machine() : nullptr;
    const PlannedBatch batch = o.batch();
    const Plan plan = measured ? measured->plan : planner.plan(o.engine.vram_budget, batch.position).plan;
    return {.model = planner.config().name,
            .device = planner.device(),
            .machine = planner.machine(),
            .rows =
                hearth::roofline(planned_steps(planner.planned_model(), plan, machine, batch), batch.work, machine)};
}

/// On a computer that is not here, with what fires as `hearth simulate` takes it.
Look look_elsewhere(const RooflineOptions& o)
{
    static constexpr std::pair<Sparsity, Way> ways[] = {
        {Sparsity::dense, Way::dense}, {Sparsity::exact, Way::exact}, {Sparsity::predict, Way::predict}};
    const auto* const way = std::ranges::find(ways, o.engine.sparsity, &std::pair<Sparsity, Way>::first);
    if (way == std::end(ways)) throw Error("--card knows --sparsity dense, exact and predict: use one of them");
    const bool by_neurons = way->second != Way::dense;
    ShapeOptions shape = o.shape;
    shape.by_neurons = by_neurons;
    const Weights weights = describe_weights(open_shape(shape, o.engine.model, o.engine.overrides),
                                             by_neurons ? DownLayout::by_neurons : DownLayout::dense);
    const Computer computer = computer_of(o.computer, o.card);
    const PlannedBatch batch = o.batch();
    Scenario s = {.weights = &weights,
                  .needs_of = session_needs,
                  .machine = {},
                  .host_memory = {},
                  .way = way->second,
                  .options = o.engine,
                  .position = batch.position};
    s.options.vram_budget.reset();
    set_computer(s, o.computer, computer, o.engine.vram_budget.value_or(0));
    const PlannedScenario planned = plan_scenario(s);
    const PlannedModel model = {weights, planned.needs, planned.computation.shape, planned.computation.use};
    return {.model = weights.config.name,
            .device = computer.name() + ", simulated",
            .machine = s.machine,
            .rows = hearth::roofline(planned_steps(model, planned.decision.plan, &s.machine, batch), batch.work,
                                     &s.machine)};
}

void roofline(RooflineOptions& o)
{
    // The plan is made for such a batch, too.
    o.engine.few = std::max(o.engine.few, o.prompt > 0 ? 1 : o.rows);
    o.engine.batch = std::max(o.engine.batch, o.prompt);
    std::optional<OutputFile> file;
    if (!o.plot.empty()) file.emplace(o.plot);
    std::optional<Measurement> measured;
    if (o.measured) measured = measure(o);
    const Look look = o.card.empty() ? look_here(o, measured) : look_elsewhere(o);
    say("{}: {}", look.model, look.device);
    const Machine* const machine = look.machine ? &*look.machine : nullptr;
    if (!machine) say("this machine was not measured: run `hearth tune` first to see times");
    if (!machine && file) throw Error("--plot shows what this machine can do: run `hearth tune` first");
    std::vector<TimedRow> rows;
    for (const RooflineRow& r : look.rows) {
        TimedRow& row = rows.emplace_back(TimedRow{r});
        if (!measured) continue;
        const auto found = measured->us.find({r.on_device, std::string(r.name)});
        if (found != measured->us.end()) row.measured_us = found->second;
    }
    if (file) file->finish(picture(fmt::format("{} on {}: {}", look.model, look.device, o.name()), rows, *machine));
    const PlannedBatch batch = o.batch();
    if (o.json)
        return print(dump({{"model", look.model},
                           {"device", look.device},
                           {"rows", batch.rows},
                           {"position", batch.position},
                           {"prompt", o.prompt > 0},
                           {"measured_us", measured ? nlohmann::json(measured->all_us) : nlohmann::json()},
                           {"steps", json_of(rows, machine)}}));
    std::string out = table(o, rows, machine);
    if (machine || measured) out += "\n" + bottlenecks(rows);
    print(out);
}

}    // namespace

Command add_roofline(CLI::App& app)
{
    auto o = std::make_shared<RooflineOptions>();
    add_engine_options(app, o->engine);
    add_shape_options(app, o->shape);
    group(app, "Device and memory");
    CLI::Option* const card =
        app.add_option("--card", o->card,
                       "instead of this machine a computer with such a card, as `hearth simulate` has it; cpu: without")
            ->check(not_empty())
            ->type_name("NAME");
    add_computer_options(app, o->computer);
    for (const char* const part : {"--processor", "--ram", "--ram-size", "--link"}) app.get_option(part)->needs(card);
    group(app, "Batch");
    app.add_option("--at", o->position, "position in the context of the token that is looked at")
        ->capture_default_str()
        ->check(number_between(0, 1 << 24));
    app.add_option("-p,--prompt", o->prompt, "look at a prompt of so many tokens instead")
        ->check(number_between(1, 1 << 20));
    app.add_option("--rows", o->rows, "so many tokens together")->capture_default_str()->check(number_between(1, 16));
    group(app, "Output");
    app.add_flag("--measured", o->measured, "run it, and put the times of its steps beside what is expected")
        ->excludes(card)
        ->excludes(app.get_option("--arch"));
    app.add_option("--plot", o->plot, "both roofs and all steps, as SVG")->type_name("FILE");
    app.add_flag("--json", o->json, "print JSON");
    return [o] { roofline(*o); };
}

}    // namespace hearth::tools
