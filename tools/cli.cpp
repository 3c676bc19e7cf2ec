#include "tools/cli.h"
#include "tools/confine.h"

#include <charconv>
#include <chrono>
#include <cmath>
#include <csignal>
#include <fstream>
#include <iostream>
#include <iterator>

#ifdef _WIN32
#include <io.h>
#define isatty _isatty
#define fileno _fileno
#else
#include <fcntl.h>
#include <unistd.h>
#endif

namespace hearth::tools {

uint64_t parse_size(const std::string& option, const std::string& text)
{
    double number = 0;
    const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), number);
    const std::string_view unit(end, size_t(text.data() + text.size() - end));
    static constexpr struct {
        std::string_view name;
        double bytes;
    } units[] = {{"", 0x1p30},  {"GiB", 0x1p30}, {"G", 0x1p30}, {"MiB", 0x1p20}, {"M", 0x1p20}, {"KiB", 0x1p10},
                 {"K", 0x1p10}, {"GB", 1e9},     {"MB", 1e6},   {"KB", 1e3},     {"B", 1}};
    if (ec == std::errc() && std::isfinite(number) && number >= 0)
        for (const auto& u : units)
            if (unit == u.name && number * u.bytes < 0x1p62) return uint64_t(number * u.bytes);
    throw CLI::ValidationError(option, fmt::format("'{}' is not a size: write 6GiB, 512MiB or a plain number of GiB", text));
}

CLI::Validator not_empty()
{
    return {[](std::string& text) { return text.empty() ? std::string("must not be empty") : std::string(); }, ""};
}

CLI::Validator number_between(double least, double most)
{
    const auto check = [least, most](std::string& text) {
        double x = 0;
        const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), x);
        return ec == std::errc() && end == text.data() + text.size() && x >= least && x <= most
                   ? std::string()
                   : fmt::format("{} is not a number from {} to {}", text, least, most);
    };
    return {check, ""};
}

namespace {

const std::map<std::string, Sparsity> sparsities = {
    {"dense", Sparsity::dense}, {"exact", Sparsity::exact}, {"predict", Sparsity::predict}, {"threshold", Sparsity::threshold}};

}    // namespace

void add_device_options(CLI::App& app, EngineOptions& o)
{
    app.add_option("-t,--threads", o.threads, "CPU threads (default: one per physical core)")->check(CLI::Range(0, 1024));
    app.add_option("--device", o.device, "auto (the best GPU), cpu, or an index or part of a name of `hearth devices`")
        ->capture_default_str()
        ->check(not_empty());
}

void add_kv_options(CLI::App& app, host::KvTypes& kv)
{
    const auto add = [&app](const std::string& name, const std::string& what, WeightType& type) {
        app.add_option_function<std::string>(
               name, [&type](const std::string& text) { type = text == "q8_0" ? WeightType::q8_0 : WeightType::f16; },
               what + " are kept in f16, or in q8_0, which takes about half the memory")
            ->check(CLI::IsMember({"f16", "q8_0"}))
            ->default_str("f16");
    };
    add("--cache-type-k", "or -ctk: the keys of the KV cache", kv.k);
    add("--cache-type-v", "or -ctv: the values of the KV cache", kv.v);
}

void add_engine_options(CLI::App& app, EngineOptions& o)
{
    app.add_option("MODEL", o.model, "the model, a GGUF file")->required()->check(not_empty());
    app.add_option("-c,--ctx-size", o.context, "positions in the context (default: the model's, at most 4096)");
    app.add_option("-b,--batch-size", o.batch, "prompt tokens done at once")->capture_default_str();
    add_kv_options(app, o.kv);
    add_device_options(app, o);
    confinement().add_option(app, false);
    o.machine = [](const std::string& device, const std::string& driver, unsigned threads) -> std::optional<Machine> {
        const std::filesystem::path path = machine_path(device, driver, threads);
        std::error_code ec;
        if (path.empty() || !std::filesystem::exists(path, ec)) return {};
        return read_machine(path);
    };
    app.add_option_function<std::string>(
           "--machine",
           [&o](const std::string& path) {
               o.machine = [path](const std::string&, const std::string&, unsigned) { return std::optional(read_machine(path)); };
           },
           "figures of `hearth tune -o FILE` to plan with (default: those that it measured for this device)")
        ->check(not_empty());
    static const std::map<std::string, Placement> placements = {
        {"auto", Placement::automatic}, {"fastest", Placement::fastest}, {"most", Placement::most}};
    app.add_option("--placement", o.placement,
                   "fastest: the least expected time for a token; most: as much on the GPU as the budget holds; auto: fastest where the machine was "
                   "measured")
        ->transform(CLI::Transformer(placements))
        ->default_str("auto");
    app.add_option_function<std::string>(
           "--submit", [&o](const std::string& text) { o.submit = text == "ahead" ? SubmitMode::ahead : SubmitMode::just_in_time; },
           "when the GPU gets a split layer's successor: just-in-time, or ahead, held until the CPU is done (default: the faster as measured)")
        ->check(CLI::IsMember({"just-in-time", "ahead"}));
    app.add_option_function<std::string>(
        "--vram-budget", [&o](const std::string& text) { o.vram_budget = parse_size("--vram-budget", text); },
        "GPU memory to use, such as 6GiB or 512MiB (default: what is free, less a margin)");
    app.add_option_function<std::string>(
           "--sparsity", [&o](const std::string& text) { o.sparsity = sparsities.at(text); },
           "dense: every neuron; exact: up and down projections only of neurons that fire, the same result (ReLU models); predict: gates too only of "
           "neurons that a predictor names (ReLU models); threshold: an approximation for SiLU models, with the cuts of `hearth profile --calibrate`")
        ->check(CLI::IsMember({"dense", "exact", "predict", "threshold"}))
        ->default_str("dense");
    app.add_option_function<std::string>(
           "--predictor", [&o](const std::string& text) { o.predictor = text == "sign" ? Predictor::sign : Predictor::lowrank; },
           "of --sparsity predict: sign (of the gates' weights; needs a profile) or lowrank (fc1 and fc2 of the model; default where it has them)")
        ->check(CLI::IsMember({"sign", "lowrank"}));
    app.add_option("--recall", o.recall, "of --predictor sign: share of the neurons that fire to be found, on the profile's text")
        ->capture_default_str()
        ->check(number_between(0, 1));
    app.add_option_function<std::string>(
           "--rebalance", [&o](const std::string& text) { o.rebalance = text == "on"; },
           "on: groups of neurons move between RAM and the GPU while a text goes on, as what fires changes")
        ->check(CLI::IsMember({"on", "off"}))
        ->default_str("off");
    app.add_flag("--reset-gpu-index", o.reset_gpu_index, "do not read PowerInfer's MODEL.generated.gpuidx; the split is made anew");
    app.add_flag("--disable-gpu-index", o.disable_gpu_index, "no neurons on the GPU, only attention and what comes after the layers");
    app.add_option("--profile", o.profile, "the model's profile (default: the one in it, or beside it as MODEL.profile)")->check(not_empty());
    app.add_flag("--without-fp16", o.without_fp16, "do not use the GPU's half-precision arithmetic");
    app.add_option(
        "--stream", o.stream,
        "prompts of so many tokens are computed on the GPU alone: neurons that are not resident pass through it; 0: never (default: as measured)");
    app.add_flag("--without-int-dot", o.without_int_dot, "do not use the GPU's integer dot products");
    app.add_flag("--without-matrices", o.without_matrices, "do not use the GPU's cooperative matrices");
}

void add_text_options(CLI::App& app, TextOptions& o)
{
    auto* text = app.add_option("-p,--prompt", o.text, "the text");
    auto* file = app.add_option("-f,--file", o.file, "a file with the text; - is standard input")->check(not_empty());
    text->excludes(file);
    app.parse_complete_callback([text, file] {
        if (text->empty() && file->empty()) throw CLI::RequiredError("-p TEXT or -f FILE");
    });
}

std::string read_text(const TextOptions& o)
{
    if (o.file.empty()) return o.text;
    const auto all = [&](std::istream& in) -> std::string {
        try {
            return {std::istreambuf_iterator<char>(in), {}};
        } catch (const std::ios_base::failure&) {
            throw Error("{} cannot be read to its end: {}", o.file, std::generic_category().message(errno));
        }
    };
    if (o.file == "-") return all(std::cin);
    std::error_code ec;
    if (std::filesystem::is_directory(o.file, ec)) throw Error("{} is a directory, not a text: name a file", o.file);
    std::ifstream file(o.file, std::ios::binary);
    if (!file) throw Error("{} cannot be read: {}", o.file, std::generic_category().message(errno));
    return all(file);
}

void add_sampler_options(CLI::App& app, SamplerOptions& o)
{
    app.add_option("--temp", o.temperature, "temperature; 0: always the most probable token")->capture_default_str()->check(number_between(0, 1e6));
    app.add_option("--top-k", o.top_k, "choose among the k most probable; 0: all")->capture_default_str();
    app.add_option("--top-p", o.top_p, "choose among the fewest that have this probability together")
        ->capture_default_str()
        ->check(number_between(0, 1));
    app.add_option("--min-p", o.min_p, "leave out those less probable than this share of the best")
        ->capture_default_str()
        ->check(number_between(0, 1));
    app.add_option("--repeat-penalty", o.repeat_penalty, "make the last 64 tokens less probable; 1: do not")
        ->capture_default_str()
        ->check(number_between(0.01, 100));
}

std::string rate(uint64_t tokens, double us) { return us > 0 ? fmt::format("{:.1f} tokens/s", double(tokens) * 1e6 / us) : "-"; }

Engine load_engine(const EngineOptions& options, const std::string& more)
{
    ProgressBar bar("loading");
    confinement().files(false, options.device != "cpu");
    Engine engine(options, [&](double share) { bar.show(share); });
    confinement().calls();
    for (const std::string& note : engine.notes()) say("note: {}", note);
    say("{}{}", engine.summary(), more);
    return engine;
}

void prepare_streams()
{
#ifndef _WIN32
    for (const int fd : {0, 1, 2})
        if (fcntl(fd, F_GETFD) == -1) open("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY);    // the wrong way round: to use it is an error
    std::signal(SIGPIPE, SIG_IGN);
    std::signal(SIGXFSZ, SIG_IGN);
    end_clearly_on_signals();
#endif
}

// ---- interruption ------------------------------------------------------------------------------------------------------

namespace {

volatile std::sig_atomic_t interrupt_seen = 0;

void on_interrupt(int)
{
    interrupt_seen = 1;
    end_clearly_on(SIGINT);
}

}    // namespace

void catch_interrupt()
{
    interrupt_seen = 0;
    std::signal(SIGINT, on_interrupt);
}
bool interrupted() { return interrupt_seen != 0; }

// ---- progress ----------------------------------------------------------------------------------------------------------

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

ProgressBar::ProgressBar(std::string what) : what_(std::move(what)), start_(seconds()) {}

ProgressBar::~ProgressBar()
{
    if (visible_) std::fputs("\r\x1b[K", stderr);
}

void ProgressBar::show(double share)
{
    const double now = seconds();
    if (now - start_ < 2 || now - drawn_ < 0.1 || !isatty(fileno(stderr))) return;
    constexpr int width = 30;
    const int full = int(share * width);
    const std::string line = fmt::format("\r{} [{:#<{}}{:.<{}}] {:3.0f} %", what_, "", full, "", width - full, share * 100);
    std::fputs(line.c_str(), stderr);
    drawn_ = now;
    visible_ = true;
}

// ---- output ------------------------------------------------------------------------------------------------------------

std::string dump(const nlohmann::json& json, int indent)
{
    return json.dump(indent, ' ', true, nlohmann::json::error_handler_t::replace) + "\n";
}

namespace {

void write_out(std::string_view text)
{
    if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0)
        throw Error("standard output cannot be written: {}", std::generic_category().message(errno));
}

}    // namespace

void print(std::string_view lines) { write_out(printable_lines(lines)); }

void print_text(std::string_view text)
{
    static const bool terminal = isatty(fileno(stdout));
    if (terminal) write_out(visible(text, "\n\t"));
    else write_out(text);
}

namespace {

/// Whoever is confined may write there. It is asked for before the file is made.
std::filesystem::path allowed(const std::filesystem::path& path)
{
    const std::filesystem::path target = WholeFile::target_of(path);
    confinement().allow(target);
    return target;
}

}    // namespace

OutputFile::OutputFile(const std::filesystem::path& path) : WholeFile(allowed(path), {.devices = true}) {}

// ---- statistics --------------------------------------------------------------------------------------------------------

void StatsTotals::add(const FeedStats& s)
{
    tokens += s.tokens;
    feeds += 1;
    submits += s.submits;
    dispatches += s.dispatches;
    waits += s.waits;
    joins += s.joins;
    us += s.us;
    bytes += s.bytes();
    downloaded += s.downloaded;
    moved_groups += s.moved_groups;
    moved_bytes += s.moved_bytes;
    streamed_bytes += s.streamed_bytes;
    for (const Stage& stage : s.stages) {
        StageTotal& total = stages[{stage.on_device, std::string(stage.name), stage.layer}];
        total.count += 1;
        total.bytes += stage.bytes;
        total.us += stage.us;
    }
    layers.resize(s.layers.size());
    for (size_t l = 0; l < s.layers.size(); ++l) {
        LayerCounts& sum = layers[l];
        const LayerCounts& add = s.layers[l];
        sum.resident = add.resident;
        sum.split = add.split;
        sum.active_device += add.active_device;
        sum.active_host += add.active_host;
        sum.device_us += add.device_us;
        sum.host_us += add.host_us;
        sum.both_us += add.both_us;
        if (s.tokens > 1) continue;    // of decode only
        sum.host_gates += add.host_gates;
        sum.missed += add.missed;
        neurons_served += add.active_device;
        neurons_fired += add.active_device + add.active_host;
        host_neurons += add.host_neurons;
        looked_at += add.host_gates;
        fired_on_host += add.active_host;
        missed += add.missed;
    }
}

namespace {

nlohmann::json layers_json(const std::vector<LayerCounts>& layers)
{
    nlohmann::json out = nlohmann::json::array();
    for (const LayerCounts& l : layers)
        out.push_back({{"resident", l.resident},
                       {"split", l.split},
                       {"active_device", l.active_device},
                       {"active_host", l.active_host},
                       {"device_us", l.device_us},
                       {"host_gates", l.host_gates},
                       {"missed", l.missed},
                       {"host_us", l.host_us},
                       {"both_us", l.both_us}});
    return out;
}

}    // namespace

nlohmann::json StatsTotals::json() const
{
    nlohmann::json list = nlohmann::json::array();
    for (const auto& [key, total] : stages)
        list.push_back({{"name", std::get<1>(key)},
                        {"layer", std::get<2>(key)},
                        {"on", std::get<0>(key) ? "device" : "host"},
                        {"count", total.count},
                        {"bytes", total.bytes},
                        {"us", total.us}});
    return {{"tokens", tokens},
            {"batches", feeds},
            {"submits", submits},
            {"dispatches", dispatches},
            {"waits", waits},
            {"joins", joins},
            {"bytes", bytes},
            {"downloaded", downloaded},
            {"moved_groups", moved_groups},
            {"moved_bytes", moved_bytes},
            {"streamed_bytes", streamed_bytes},
            {"served", neurons_fired ? double(neurons_served) / double(neurons_fired) : 0.0},
            {"us", us},
            {"stages", list},
            {"layers", layers_json(layers)}};
}

nlohmann::json to_json(const FeedStats& s)
{
    nlohmann::json list = nlohmann::json::array();
    for (const Stage& stage : s.stages)
        list.push_back(
            {{"name", stage.name}, {"layer", stage.layer}, {"on", stage.on_device ? "device" : "host"}, {"bytes", stage.bytes}, {"us", stage.us}});
    return {{"position", s.position},
            {"tokens", s.tokens},
            {"submits", s.submits},
            {"dispatches", s.dispatches},
            {"waits", s.waits},
            {"joins", s.joins},
            {"bytes", s.bytes()},
            {"downloaded", s.downloaded},
            {"us", s.us},
            {"stages", list},
            {"layers", layers_json(s.layers)}};
}

}    // namespace hearth::tools
