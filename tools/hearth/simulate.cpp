// hearth simulate: how fast a model would be on a computer that is not here.
#include "engine/plan/cases.h"
#include "engine/vision/tower_weights.h"
#include "engine/vision/vision.h"
#include "tools/hearth/computer.h"
#include "tools/hearth/model_shape.h"
#include "tools/hearth/plot.h"
#include "tools/hearth/units.h"

#include <cmath>
#include <map>

namespace hearth::tools {

namespace {

struct SimulateOptions {
    std::filesystem::path model;
    std::vector<std::string> archs, types, cards = {"RTX 4090"}, ways = {"dense", "predict"};
    std::vector<uint64_t> memories;    // of the card; empty: its own
    ComputerOptions computer;
    std::string firing, residency = "static";
    DecisionOptions decision;
    uint32_t prompt = 512;
    std::vector<uint32_t> images;    // before it; empty: the model sees nothing
    std::optional<double> position;
    std::filesystem::path csv, plot;
    bool sweep = false, cases = false, json = false;
};

/// Models by name and type, each described once; by neurons where some are left out.
class Shapes {
  public:
    explicit Shapes(std::filesystem::path model) : model_(std::move(model)) {}

    const Weights& of(const std::string& arch, const std::string& type, bool by_neurons)
    {
        std::unique_ptr<Weights>& weights = all_[{arch, type, by_neurons}];
        if (!weights)
            weights = std::make_unique<Weights>(
                describe_weights(open_shape({.arch = arch, .type = type, .by_neurons = by_neurons}, model_, {}),
                                 by_neurons ? DownLayout::by_neurons : DownLayout::dense));
        return *weights;
    }

  private:
    std::filesystem::path model_;
    std::map<std::tuple<std::string, std::string, bool>, std::unique_ptr<Weights>> all_;
};

bool leaves_out(Way way) { return way == Way::exact || way == Way::predict || way == Way::routed; }

const WayRow& find_way(const std::string& name)
{
    const auto* const found = std::ranges::find(ways, name, &WayRow::name);
    HEARTH_CHECK(found != std::end(ways));    // the options allow no other
    return *found;
}

struct SimulatedRow {
    std::string model, type, computer, way;
    std::optional<uint32_t> images = {};
    uint64_t memory = 0;    // of the card; 0: none
    Simulated result;

    double low() const { return result.tokens_per_s / usual_spread; }
    double high() const { return result.tokens_per_s * usual_spread; }
};

/// What is simulated: a point of the sweep.
struct Point {
    std::string arch, type, card;
    uint64_t memory;
    const WayRow& way;
    std::optional<uint32_t> images;
};

SimulatedRow simulated_row(const SimulateOptions& o, Shapes& shapes, const Point& p)
{
    const auto& [arch, type, card, memory, way, images] = p;
    const Computer computer = computer_of(o.computer, card);
    const Weights& weights = shapes.of(arch, type, leaves_out(way.way));
    const TowerWeights tower = describe_usual_tower(weights.config.dim);
    const TowerNeeds tower_needs = hearth::tower_needs(tower);
    const TowerFacts tower_facts = hearth::tower_facts(tower, tower_needs);
    Scenario s = {.weights = &weights,
                  .needs_of = session_needs,
                  .machine = {},
                  .host_memory = {},
                  .way = way.way,
                  .firing = o.firing.empty() ? nullptr : &find_firing(o.firing),
                  .options = o.decision,
                  .prompt = o.prompt,
                  .tower = images ? &tower_facts : nullptr,
                  .images = images.value_or(0),
                  .position = o.position};
    set_computer(s, o.computer, computer, memory);
    if (weights.config.experts && o.firing.empty()) {
        if (o.residency == "none") s.options.cpu_experts = UINT32_MAX;
        s.firing = &find_firing(o.residency == "recency" ? "experts-recency" : "experts-static");
        s.moves_experts = o.residency == "recency";
    }
    return {.model = weights.config.name,
            .type = type,
            .computer = computer.name(),
            .way = std::string(way.name),
            .images = images,
            .memory = s.device_memory,
            .result = simulate(s)};
}

std::vector<SimulatedRow> rows_of(const SimulateOptions& o)
{
    Shapes shapes(o.model);
    std::vector<SimulatedRow> rows;
    const std::vector<std::string> archs = o.archs.empty() ? std::vector<std::string>{""} : o.archs,
                                   types = o.types.empty() ? std::vector<std::string>{""} : o.types;
    const std::vector<std::optional<uint32_t>> images =
        o.images.empty() ? std::vector<std::optional<uint32_t>>(1)
                         : std::vector<std::optional<uint32_t>>(o.images.begin(), o.images.end());
    const std::vector<uint64_t> memories = o.memories.empty() ? std::vector<uint64_t>{0} : o.memories;
    ProgressBar bar("simulating");
    const double count =
        double(archs.size() * types.size() * o.cards.size() * memories.size() * o.ways.size() * images.size());
    for (const std::string& arch : archs)
        for (const std::string& type : types)
            for (const std::string& way : o.ways)
                for (const std::string& card : o.cards)
                    for (const uint64_t memory : memories)
                        for (const std::optional<uint32_t>& n : images) {
                            bar.show(double(rows.size()) / count);
                            rows.push_back(simulated_row(o, shapes, {arch, type, card, memory, find_way(way), n}));
                        }
    return rows;
}

std::string table(const std::vector<SimulatedRow>& rows)
{
    const bool sees = std::ranges::any_of(rows, [](const SimulatedRow& r) { return r.images.has_value(); });
    std::string out = fmt::format(
        "| model | type | computer | GPU GiB | way |{} tokens/s | from | to | first token s | on the GPU GiB | "
        "in RAM GiB | of what fires |\n|---|---|---|---:|---|{}---:|---:|---:|---:|---:|---:|---:|\n",
        sees ? " images | looking s |" : "", sees ? "---:|---:|" : "");
    for (const SimulatedRow& r : rows)
        out += fmt::format(
            "| {} | {} | {} | {:.0f} | {} |{} {:.2f}{} | {:.2f} | {:.2f} | {:.2f} | {:.1f} | {:.1f} | {:.0f} % "
            "|\n",
            r.model, r.type.empty() ? "-" : r.type, r.computer, double(r.memory) / gib, r.way,
            r.images ? fmt::format(" {} | {:.2f} |", *r.images, r.result.looking_s) : "", r.result.tokens_per_s,
            r.result.fits ? "" : " (more than the RAM)", r.low(), r.high(), r.result.first_token_s,
            double(r.result.device_bytes) / gib, double(r.result.host_bytes) / gib, 100 * r.result.served);
    return out;
}

std::string csv(const std::vector<SimulatedRow>& rows)
{
    std::string out = "model,type,computer,gpu_bytes,way,tokens_per_s,low,high,first_token_s,device_bytes,host_bytes,"
                      "served,fits,images,looking_s\n";
    for (const SimulatedRow& r : rows)
        out += fmt::format("\"{}\",{},\"{}\",{},{},{:.6g},{:.6g},{:.6g},{:.6g},{},{},{:.4f},{},{},{:.6g}\n", r.model,
                           r.type, r.computer, r.memory, r.way, r.result.tokens_per_s, r.low(), r.high(),
                           r.result.first_token_s, r.result.device_bytes, r.result.host_bytes, r.result.served,
                           r.result.fits ? 1 : 0, r.images ? std::to_string(*r.images) : "", r.result.looking_s);
    return out;
}

nlohmann::json json_of(const std::vector<SimulatedRow>& rows)
{
    nlohmann::json out = nlohmann::json::array();
    for (const SimulatedRow& r : rows)
        out.push_back({{"model", r.model},
                       {"type", r.type},
                       {"computer", r.computer},
                       {"gpu_bytes", r.memory},
                       {"way", r.way},
                       {"tokens_per_s", r.result.tokens_per_s},
                       {"low", r.low()},
                       {"high", r.high()},
                       {"first_token_s", r.result.first_token_s},
                       {"device_bytes", r.result.device_bytes},
                       {"host_bytes", r.result.host_bytes},
                       {"served", r.result.served},
                       {"fits", r.result.fits}});
    for (size_t i = 0; i < rows.size(); ++i)
        if (rows[i].images) out[i].update({{"images", *rows[i].images}, {"looking_s", rows[i].result.looking_s}});
    return out;
}

/// tokens/s by the card's memory: a colour for each model and type, a way of dashing for each way.
std::string picture(const std::vector<SimulatedRow>& rows)
{
    Plot plot = {.title = "tokens/s expected, with the spread of published cases",
                 .x = "GPU memory, GiB",
                 .y = "tokens/s",
                 .lines = {},
                 .logarithmic_y = true};
    std::vector<std::string> models;
    for (const SimulatedRow& r : rows) {
        const std::string model = fmt::format("{} {}", r.model, r.type),
                          name = model + " " + r.way + (r.images ? fmt::format(", {} images", *r.images) : "");
        if (std::ranges::find(models, model) == models.end()) models.push_back(model);
        auto line = std::ranges::find(plot.lines, name, &PlotLine::name);
        if (line == plot.lines.end()) {
            const auto colour = size_t(std::ranges::find(models, model) - models.begin());
            plot.lines.push_back({.name = name,
                                  .colour = plot_colour(colour),
                                  .dash = r.way == "layers"  ? Dash::dotted
                                          : r.way == "dense" ? Dash::dashed
                                                             : Dash::none});
            line = plot.lines.end() - 1;
        }
        line->points.emplace_back(double(r.memory) / gib, r.result.tokens_per_s);
        line->bars.emplace_back(r.low(), r.high());
    }
    return svg(plot);
}

/// A published figure beside what is simulated of the same.
struct Compared {
    const Case* of;
    double simulated;

    double ratio() const { return simulated / of->tokens_per_s; }
};

std::vector<Compared> compared_cases(Shapes& shapes)
{
    std::vector<Compared> out;
    for (const Case& c : published_cases())
        out.push_back(
            {&c, simulated(c, shapes.of(std::string(c.arch), std::string(c.type), leaves_out(c.way)), session_needs)});
    return out;
}

/// By program: measured from left to right, simulated upwards, with lines a third off on both sides.
std::string picture(const std::vector<Compared>& cases)
{
    Plot plot = {.title = "Published measurements beside what is simulated of the same",
                 .x = "measured, tokens/s",
                 .y = "simulated, tokens/s",
                 .lines = {{.name = "the same", .colour = "#888", .points = {}}},
                 .logarithmic_x = true,
                 .logarithmic_y = true};
    plot.lines.push_back({.name = "35 % more", .colour = "#888", .dash = Dash::dashed});
    plot.lines.push_back({.name = "35 % less", .colour = "#888", .dash = Dash::dotted});
    double least = INFINITY, most = 0;
    for (const Compared& c : cases) {
        least = std::min(least, c.of->tokens_per_s), most = std::max(most, c.of->tokens_per_s);
        auto line = std::ranges::find(plot.lines, c.of->program->name, &PlotLine::name);
        if (line == plot.lines.end()) {
            plot.lines.push_back({.name = std::string(c.of->program->name),
                                  .colour = plot_colour(plot.lines.size() - 3),
                                  .joined = false});
            line = plot.lines.end() - 1;
        }
        line->points.emplace_back(c.of->tokens_per_s, c.simulated);
    }
    for (const double x : {least, most}) {
        plot.lines[0].points.emplace_back(x, x);
        plot.lines[1].points.emplace_back(x, 1.35 * x);
        plot.lines[2].points.emplace_back(x, 0.65 * x);
    }
    return svg(plot);
}

/// What was published beside what is simulated, and how far it can be trusted.
std::string case_table(const std::vector<Compared>& cases, Shapes& shapes)
{
    std::vector<double> ratios;
    std::string out = "| model | type | computer | GPU GiB | program | measured | simulated | ratio | what explains it "
                      "|\n|---|---|---|---:|---|---:|---:|---:|---|\n";
    for (const Compared& compared : cases) {
        const Case& c = *compared.of;
        ratios.push_back(compared.ratio());
        out += fmt::format("| {} | {} | {}{}{}, {} | {:.0f} | {} | {:.2f} | {:.2f} | {:.2f} | {} |\n", c.arch, c.type,
                           c.card, c.card.empty() ? "" : ", ", c.processor, c.memory, c.gib, c.program->name,
                           c.tokens_per_s, compared.simulated, ratios.back(), c.miss);
    }
    const Spread measured = spread_of(ratios);
    ratios.clear();
    for (const BoundCase& c : bound_cases()) {
        const Weights& w = shapes.of(std::string(c.bound->arch), std::string(c.bound->type), c.column != "dense");
        const double now = simulated(c, w, session_needs);
        ratios.push_back(now / c.tokens_per_s);
        out += fmt::format("| {} | {} | {:.0f} GB/s | {:.0f} | bound, {} | {:.2f} | {:.2f} | {:.2f} | |\n",
                           c.bound->arch, c.bound->type, c.bound->device_gb_per_s, c.bound->gib, c.column,
                           c.tokens_per_s, now, ratios.back());
    }
    const auto summary = [](const char* what, const Spread& s) {
        return fmt::format(
            "{}: {} of {} within 25 %, {} within 35 %; middle {:.2f}, two thirds within a factor of {:.2f}\n", what,
            s.within_25, s.count, s.within_35, s.middle, s.factor);
    };
    return out + "\n" + summary("measured", measured) + summary("bounds", spread_of(ratios));
}

/// 33B and 70B over memory: what this program was asked to settle.
void set_sweep(SimulateOptions& o)
{
    if (o.archs.empty()) o.archs = {"llama-33b", "relullama-70b"};
    if (o.types.empty()) o.types = {"f16", "q4_0"};
    if (o.memories.empty()) o.memories = {8ull << 30, 12ull << 30, 16ull << 30, 24ull << 30};
    o.ways = {"layers", "dense", "predict"};
}

void write(const std::filesystem::path& path, const std::string& text)
{
    if (path.empty()) return;
    OutputFile(path).finish(text);
    say("kept in {}", path.string());
}

void run_simulate(SimulateOptions o)
{
    if (o.cases) {
        Shapes shapes({});
        const std::vector<Compared> cases = compared_cases(shapes);
        if (!o.plot.empty()) write(o.plot, picture(cases));
        return print(case_table(cases, shapes));
    }
    if (o.sweep) set_sweep(o);
    const std::vector<SimulatedRow> rows = rows_of(o);
    write(o.csv, csv(rows));
    write(o.plot, picture(rows));
    print(o.json ? dump(json_of(rows)) : table(rows));
}

template <class T>
std::vector<std::string> names_of(const T& rows)
{
    std::vector<std::string> names;
    for (const auto& row : rows) names.emplace_back(row.name);
    return names;
}

}    // namespace

Command add_simulate(CLI::App& app)
{
    auto o = std::make_shared<SimulateOptions>();
    group(app, "Model");
    CLI::Option* const model =
        app.add_option("-m,--model,MODEL", o->model, "a GGUF file or its first megabytes, or a config.json")
            ->check(not_empty())
            ->type_name("FILE");
    CLI::Option* const arch =
        app.add_option("--arch", o->archs, "models that are known by their names: llama-33b,opt-30b")
            ->delimiter(',')
            ->type_name("NAME");
    model->excludes(arch);
    app.add_option("--type", o->types, "types of the weights: f16,q4_0 (default: a file's own, else q4_0)")
        ->delimiter(',')
        ->check(CLI::IsMember(names_of(quantisations)))
        ->type_name("TYPE");
    app.add_option("-c,--ctx-size", o->decision.context,
                   "positions in the context (default: the model's, at most 4096)")
        ->type_name("N");
    group(app, "Device and memory");
    app.add_option("--card", o->cards, "cards such as 4090,\"7900 XTX\"; cpu: none (default: RTX 4090)")
        ->delimiter(',')
        ->type_name("NAME");
    app.add_option_function<std::vector<std::string>>(
           "--vram-budget",
           [o](const std::vector<std::string>& sizes) {
               for (const std::string& s : sizes) o->memories.push_back(parse_size("--vram-budget", s));
           },
           "as if the card had so much memory: 8GiB,12GiB (default: its own)")
        ->delimiter(',')
        ->type_name("SIZE");
    add_computer_options(app, o->computer, "--cpu,--processor");
    add_kv_options(app, o->decision.kv);
    group(app, "Sparsity");
    std::string ways_help = "what is computed where:";
    for (const WayRow& w : ways) ways_help += fmt::format(" {}: {};", w.name, w.help);
    ways_help.back() = ' ';
    app.add_option("--way", o->ways, ways_help + "(default: dense,predict)")
        ->delimiter(',')
        ->check(CLI::IsMember(names_of(ways)))
        ->type_name("WAY");
    app.add_option("--firing", o->firing,
                   "how often neurons fire (default: as published for the model, or one like it)")
        ->check(CLI::IsMember(names_of(firing_curves())))
        ->type_name("NAME");
    app.add_option("--residency", o->residency,
                   "experts on the GPU: none, static (those used most), recency (those used last)")
        ->check(CLI::IsMember({"none", "static", "recency"}))
        ->capture_default_str()
        ->type_name("HOW");
    group(app, "Output");
    app.add_flag("--sweep", o->sweep, "33B and 70B in F16 and 4 bit over 8, 12, 16 and 24 GiB, dense and hot/cold");
    app.add_flag("--cases", o->cases, "what others have published beside what is simulated, with what explains misses");
    app.add_option("--prompt", o->prompt, "tokens of the prompt, for the time to the first token")
        ->capture_default_str()
        ->check(CLI::Range(1, 1 << 20))
        ->type_name("N");
    app.add_option("--images", o->images,
                   "images before the prompt, each 576 tokens, as LLaVA 1.5 has them; several counts: 0,1,4 (default: "
                   "the model sees nothing)")
        ->delimiter(',')
        ->check(CLI::Range(0, 1000))
        ->type_name("N");
    app.add_option("--at", o->position,
                   "position in the context to expect the speed of (default: a quarter, at most 512)")
        ->check(number_between(0, 1 << 24));
    app.add_option("--csv", o->csv, "also write a CSV file")->check(not_empty())->type_name("FILE");
    app.add_option("--plot", o->plot, "also draw, as SVG, tokens/s by GPU memory; of --cases both figures of each")
        ->check(not_empty())
        ->type_name("FILE");
    app.add_flag("--json", o->json, "print JSON");
    app.parse_complete_callback([o] {
        if (o->model.empty() && o->archs.empty() && !o->sweep && !o->cases)
            throw CLI::RequiredError("--arch NAME, MODEL, --sweep or --cases");
    });
    return [o] { run_simulate(*o); };
}

}    // namespace hearth::tools
