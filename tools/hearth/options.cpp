// The options that subcommands share, by groups of the help.
#include "tools/hearth/cli.h"
#include "tools/hearth/confine.h"
#include "tools/hearth/text.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <random>

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
    throw CLI::ValidationError(option,
                               fmt::format("'{}' is not a size: write 6GiB, 512MiB or a plain number of GiB", text));
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

void group(CLI::App& app, const std::string& name) { app.option_defaults()->group(name); }

// ---- the model ------------------------------------------------------------------------------------------------------

namespace {

/// KEY=TYPE:VALUE
Override parse_override(const std::string& text)
{
    const auto wrong = [&](const std::string& why) {
        return CLI::ValidationError("--override", fmt::format("'{}' {}", printable(text), why));
    };
    const size_t equals = text.find('='), colon = text.find(':', equals == text.npos ? 0 : equals);
    if (equals == 0 || equals == text.npos || colon == text.npos)
        throw wrong("is not KEY=TYPE:VALUE, such as tokenizer.ggml.eos_token_id=int:2");
    const std::string key = text.substr(0, equals), type = text.substr(equals + 1, colon - equals - 1),
                      value = text.substr(colon + 1);
    const auto whole = [&](auto number, const char* what) {
        const auto [end, ec] = std::from_chars(value.data(), value.data() + value.size(), number);
        if (ec != std::errc() || end != value.data() + value.size())
            throw wrong(fmt::format("has no {} behind {}:", what, type));
        return number;
    };
    if (type == "int") return {key, whole(int64_t(), "whole number")};
    if (type == "float") {
        const double x = whole(double(), "number");
        if (!std::isfinite(float(x))) throw wrong("is not a number that a float holds");
        return {key, x};
    }
    if (type == "bool") {
        if (value != "true" && value != "false") throw wrong("is neither bool:true nor bool:false");
        return {key, value == "true"};
    }
    if (type == "str") return {key, value};
    if (type != "arr")
        throw wrong(fmt::format("is of the type '{}': int, float, bool, str and arr are known", printable(type)));
    const nlohmann::json list = nlohmann::json::parse(value, nullptr, false);
    const auto all = [&](auto is) { return list.is_array() && std::all_of(list.begin(), list.end(), is); };
    if (all([](const auto& x) { return x.is_number_integer(); })) return {key, list.get<std::vector<int64_t>>()};
    if (all([](const auto& x) { return x.is_number(); })) return {key, list.get<std::vector<double>>()};
    if (all([](const auto& x) { return x.is_string(); })) return {key, list.get<std::vector<std::string>>()};
    if (all([](const auto& x) { return x.is_boolean(); })) {
        std::vector<int64_t> bits;
        for (const auto& x : list) bits.push_back(x.template get<bool>());
        return {key, bits};
    }
    throw wrong("is no list of values of one type, such as arr:[1,2] or arr:[\"a\",\"b\"]");
}

/// Several by commas; a comma that no KEY=TYPE: follows belongs to the value.
std::vector<Override> parse_overrides(const std::string& text)
{
    const auto begins_one = [](std::string_view rest) {
        const size_t equals = rest.find('=');
        const auto in_key = [](char c) {
            return std::isalnum(uint8_t(c)) || c == '.' || c == '_' || c == '-' || c == '{' || c == '}';
        };
        if (equals == 0 || equals == rest.npos || !std::all_of(rest.begin(), rest.begin() + ptrdiff_t(equals), in_key))
            return false;
        for (const std::string_view type : {"int:", "float:", "bool:", "str:", "arr:"})
            if (rest.substr(equals + 1).starts_with(type)) return true;
        return false;
    };
    std::vector<Override> out;
    for (size_t begin = 0; begin <= text.size();) {
        size_t end = begin;
        do end = std::min(text.find(',', end == begin ? begin : end + 1), text.size());
        while (end < text.size() && !begins_one(std::string_view(text).substr(end + 1)));
        out.push_back(parse_override(text.substr(begin, end - begin)));
        begin = end + 1;
    }
    return out;
}

/// Names of llama.cpp for keys of the model's family.
constexpr struct {
    const char *name, *key, *help;
    bool text;           // else a number with a point, or a whole one where `whole`
    bool whole, over;    // over: the key takes one over it
} rope_options[] = {
    {"--rope-freq-base", "{arch}.rope.freq_base", "the base of the positions' frequencies, instead of the model's",
     false, false, false},
    {"--rope-scaling", "{arch}.rope.scaling.type", "none, linear or yarn, instead of the model's", true, false, false},
    {"--rope-scale", "{arch}.rope.scaling.factor", "how many times as long the context becomes", false, false, false},
    {"--rope-freq-scale", "{arch}.rope.scaling.factor", "1 / --rope-scale", false, false, true},
    {"--yarn-orig-ctx", "{arch}.rope.scaling.original_context_length",
     "positions that the model was trained for before YaRN", false, true, false},
    {"--yarn-ext-factor", "{arch}.rope.scaling.yarn_ext_factor", "of YaRN: how much is extrapolated", false, false,
     false},
    {"--yarn-attn-factor", "{arch}.rope.scaling.yarn_attn_factor", "of YaRN: what turned pairs are multiplied by",
     false, false, false},
    {"--yarn-beta-slow", "{arch}.rope.scaling.yarn_beta_slow", "of YaRN: turns below which all is interpolated", false,
     false, false},
    {"--yarn-beta-fast", "{arch}.rope.scaling.yarn_beta_fast", "of YaRN: turns above which nothing is", false, false,
     false},
};

void add_rope_options(CLI::App& app, std::vector<Override>& overrides)
{
    for (const auto& o : rope_options) {
        CLI::Option* option = app.add_option_function<std::string>(
            o.name,
            [&overrides, o](const std::string& text) {
                Override::Value value = text;
                if (!o.text) {
                    double x = 0;
                    const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), x);
                    if (ec != std::errc() || end != text.data() + text.size() || !std::isfinite(x) ||
                        (o.over && x == 0))
                        throw CLI::ValidationError(o.name,
                                                   fmt::format("'{}' is not a number that it can be", printable(text)));
                    if (o.whole) value = int64_t(x);
                    else value = o.over ? 1 / x : x;
                }
                overrides.push_back({o.key, std::move(value), o.name});
            },
            o.help);
        if (o.text) option->check(CLI::IsMember({"none", "linear", "yarn"}))->type_name("{none,linear,yarn}");
        else option->type_name("N");
    }
}

void add_model(CLI::App& app, std::filesystem::path& model)
{
    group(app, "Model");
    app.add_option("-m,--model,MODEL", model, "the model, a GGUF file")
        ->required()
        ->check(not_empty())
        ->type_name("FILE");
}

}    // namespace

void add_override(CLI::App& app, std::vector<Override>& overrides)
{
    app.add_option_function<std::vector<std::string>>(
           "--override",
           [&overrides](const std::vector<std::string>& texts) {
               for (const std::string& text : texts)
                   for (Override& o : parse_overrides(text)) overrides.push_back(std::move(o));
           },
           "takes the place of a key of the model, or adds it; TYPE is int, float, bool, str or arr (arr:[1,2]); "
           "several by commas, or again")
        ->allow_extra_args(false)
        ->type_name("KEY=TYPE:VALUE");
}

void add_model_options(CLI::App& app, ModelOptions& o)
{
    add_model(app, o.model);
    add_override(app, o.overrides);
}

std::shared_ptr<const Gguf> open_model(const ModelOptions& o)
{
    auto file = std::make_shared<const Gguf>(o.model, o.overrides);
    for (const std::string& what : file->overridden()) say("note: overridden: {}", what);
    return file;
}

// ---- device and memory ----------------------------------------------------------------------------------------------

void add_device_options(CLI::App& app, EngineOptions& o)
{
    app.add_option_function<int>(
           "-t,--threads", [&o](int n) { o.threads = unsigned(std::max(n, 0)); },
           "CPU threads (default: one per physical core)")
        ->check(CLI::Range(-1, 1024))
        ->type_name("N");
    std::vector<std::string> sets;
    for (const InstructionSet& set : instruction_sets()) sets.emplace_back(set.id);
    app.add_option_function<std::string>(
           "--cpu", [](const std::string& id) { choose_instruction_set(id); },
           "the CPU's instruction set (default: the fastest that it has)")
        ->check(CLI::IsMember(sets))
        ->type_name("SET");
    app.add_option_function<std::string>(
           "--device", [&o](const std::string& name) { o.device = name == "none" ? "cpu" : name; },
           "auto (the best GPU), cpu, or an index or part of a name of `hearth devices`")
        ->default_str("auto")
        ->check(not_empty())
        ->type_name("NAME");
}

void add_kv_options(CLI::App& app, host::KvTypes& kv)
{
    const auto add = [&app](const std::string& name, const std::string& what, WeightType& type) {
        app.add_option_function<std::string>(
               name, [&type](const std::string& text) { type = text == "q8_0" ? WeightType::q8_0 : WeightType::f16; },
               what + " are kept in f16, or in q8_0, which takes about half the memory")
            ->check(CLI::IsMember({"f16", "q8_0"}))
            ->default_str("f16")
            ->type_name("TYPE");
    };
    add("--cache-type-k", "the keys of the KV cache", kv.k);
    add("--cache-type-v", "the values of the KV cache", kv.v);
}

namespace {

/// -ngl N|auto|all
void set_gpu_layers(EngineOptions& o, const std::string& text)
{
    int64_t n = 0;
    const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), n);
    const bool number = ec == std::errc() && end == text.data() + text.size();
    if (text == "auto" || (number && n == -1)) o.gpu_layers.reset();
    else if (text == "all" || (number && (n == -2 || n > UINT32_MAX))) o.gpu_layers = UINT32_MAX;
    else if (number && n >= 0) o.gpu_layers = uint32_t(n);
    else
        throw CLI::ValidationError("--gpu-layers",
                                   fmt::format("'{}' is not a number of layers, auto or all", printable(text)));
}

void add_memory_options(CLI::App& app, EngineOptions& o)
{
    group(app, "Device and memory");
    app.add_option_function<std::string>(
           "--gpu-layers", [&o](const std::string& text) { set_gpu_layers(o, text); },
           "so many layers at the most go to the GPU, as far as the budget holds them, and from one more than there "
           "are on the output matrix, too; 0: all "
           "on the CPU; all: as much as the budget holds; auto: what is fastest")
        ->default_str("auto")
        ->type_name("N");
    add_device_options(app, o);
    app.add_option_function<std::string>(
           "--large-pages", [&o](const std::string& text) { o.large_pages = text == "on"; },
           "what the CPU reads moves from the mapped file to memory in pages of 2 MB while the first tokens are "
           "computed "
           "(default: where the memory holds it beside the file)")
        ->check(CLI::IsMember({"on", "off"}))
        ->type_name("on|off");
    app.add_option_function<std::string>(
           "--vram-budget", [&o](const std::string& text) { o.vram_budget = parse_size("--vram-budget", text); },
           "GPU memory to use, such as 6GiB or 512MiB (default: what is free, less a margin)")
        ->type_name("SIZE");
    app.add_option("-b,--batch-size", o.batch, "prompt tokens done at once")->capture_default_str()->type_name("N");
    app.add_option_function<uint32_t>(
           "--ubatch-size",
           [&app, &o](uint32_t n) { o.batch = app.get_option("--batch-size")->count() ? std::min(o.batch, n) : n; },
           "the same; of both the smaller one counts")
        ->type_name("N");
    add_kv_options(app, o.kv);
    app.add_option("--n-cpu-moe", o.cpu_experts, "the first N layers keep their experts on the CPU")->type_name("N");
    app.add_flag_callback(
        "--cpu-moe", [&o] { o.cpu_experts = UINT32_MAX; }, "all layers keep their experts on the CPU");
    static const std::map<std::string, Placement> placements = {
        {"auto", Placement::automatic}, {"fastest", Placement::fastest}, {"most", Placement::most}};
    app.add_option_function<std::string>(
           "--placement", [&o](const std::string& text) { o.placement = placements.at(text); },
           "fastest: the least expected time for a token; most: as much on the GPU as the budget holds; auto: fastest "
           "where the machine was "
           "measured")
        ->check(CLI::IsMember({"auto", "fastest", "most"}))
        ->default_str("auto")
        ->type_name("HOW");
    app.add_option_function<std::string>(
           "--machine",
           [&o](const std::string& path) {
               o.machine = [path](const std::string&, const std::string&, unsigned) {
                   return std::optional(read_machine(path));
               };
           },
           "figures of `hearth tune -o FILE` to plan with (default: those that it measured for this device)")
        ->check(not_empty())
        ->type_name("FILE");
}

void add_sparsity_options(CLI::App& app, EngineOptions& o)
{
    group(app, "Sparsity");
    static const std::map<std::string, Sparsity> sparsities = {{"dense", Sparsity::dense},
                                                               {"exact", Sparsity::exact},
                                                               {"predict", Sparsity::predict},
                                                               {"threshold", Sparsity::threshold}};
    app.add_option_function<std::string>(
           "--sparsity", [&o](const std::string& text) { o.sparsity = sparsities.at(text); },
           "dense: every neuron; exact: up and down projections only of neurons that fire, the same result (ReLU "
           "models); predict: gates too only of "
           "neurons that a predictor names (ReLU models); threshold: an approximation for SiLU models, with the cuts "
           "of `hearth profile --calibrate`")
        ->check(CLI::IsMember({"dense", "exact", "predict", "threshold"}))
        ->default_str("dense")
        ->type_name("MODE");
    app.add_option("--profile", o.profile,
                   "the model's profile (default: the one in it, or beside it as MODEL.profile)")
        ->check(not_empty())
        ->type_name("FILE");
    app.add_option_function<std::string>(
           "--predictor",
           [&o](const std::string& text) { o.predictor = text == "sign" ? Predictor::sign : Predictor::lowrank; },
           "of --sparsity predict: sign (of the gates' weights; needs a profile) or lowrank (fc1 and fc2 of the model; "
           "default where it has them)")
        ->check(CLI::IsMember({"sign", "lowrank"}))
        ->type_name("NAME");
    app.add_option("--recall", o.recall,
                   "of --predictor sign: share of the neurons that fire to be found, on the profile's text")
        ->capture_default_str()
        ->check(number_between(0, 1))
        ->type_name("SHARE");
    app.add_option_function<std::string>(
           "--rebalance", [&o](const std::string& text) { o.rebalance = text == "on"; },
           "on: groups of neurons move between RAM and the GPU while a text goes on, as what fires changes")
        ->check(CLI::IsMember({"on", "off"}))
        ->default_str("off")
        ->type_name("on|off");
}

void add_experiments(CLI::App& app, EngineOptions& o)
{
    group(app, "Experiments");
    app.add_option("--stream", o.stream,
                   "prompts of so many tokens are computed on the GPU alone: neurons that are not resident pass "
                   "through it; 0: never (default: as measured)")
        ->type_name("N");
    app.add_option_function<std::string>(
           "--submit",
           [&o](const std::string& text) { o.submit = text == "ahead" ? SubmitMode::ahead : SubmitMode::just_in_time; },
           "when the GPU gets a split layer's successor: just-in-time, or ahead, held until the CPU is done (default: "
           "the faster as measured)")
        ->check(CLI::IsMember({"just-in-time", "ahead"}))
        ->type_name("WHEN");
    app.add_flag("--reset-gpu-index", o.reset_gpu_index,
                 "do not read PowerInfer's MODEL.generated.gpuidx; the split is made anew");
    app.add_flag("--disable-gpu-index", o.disable_gpu_index,
                 "no neurons on the GPU, only attention and what comes after the layers");
    add_rope_options(app, o.overrides);
    app.add_flag("--without-fp16", o.without_fp16, "do not use the GPU's half-precision arithmetic");
    app.add_flag("--without-int-dot", o.without_int_dot, "do not use the GPU's integer dot products");
    app.add_flag("--without-int64", o.without_int64, "do not use the GPU's integers of 64 bits");
    app.add_flag("--without-matrices", o.without_matrices, "do not use the GPU's cooperative matrices");
}

}    // namespace

void add_engine_options(CLI::App& app, EngineOptions& o)
{
    add_model(app, o.model);
    add_engine_options_of_any(app, o);
}

std::string typed_options(const CLI::App& app, std::initializer_list<std::string_view> without)
{
    std::string out;
    for (const CLI::Option* option : app.get_options()) {
        const std::string& group = option->get_group();
        if (option->count() == 0 || option->get_positional()) continue;
        if (std::ranges::find(without, option->get_name()) != without.end()) continue;
        if (group != "Model" && group != "Device and memory" && group != "Sparsity" && group != "Experiments") continue;
        const bool flag = option->get_items_expected_max() == 0;
        out += fmt::format("{}{}{}{}", out.empty() ? "" : " ", option->get_name(), flag ? "" : " ",
                           flag ? "" : fmt::format("{}", fmt::join(option->results(), ",")));
    }
    return out;
}

void add_engine_options_of_any(CLI::App& app, EngineOptions& o)
{
    group(app, "Model");
    app.add_option("-c,--ctx-size", o.context, "positions in the context (default: the model's, at most 4096)")
        ->type_name("N");
    add_override(app, o.overrides);
    confinement().add_option(app, false);
    o.machine = measured_machine;
    add_memory_options(app, o);
    add_sparsity_options(app, o);
    add_experiments(app, o);
    group(app, "Text");
}

// ---- text and sampling ----------------------------------------------------------------------------------------------

void add_text_options(CLI::App& app, TextOptions& o, bool needed)
{
    group(app, "Text");
    auto* text = app.add_option("-p,--prompt", o.text, "the text")->type_name("TEXT");
    auto* file = app.add_option("-f,--file", o.file, "a file with the text; - is standard input")
                     ->check(not_empty())
                     ->type_name("FILE");
    app.add_flag("-e,--escape", o.escapes,
                 "in the text of -p, \\n, \\t, \\\\, \\', \\\" and \\xHH stand for what they mean");
    text->excludes(file);
    if (needed)
        app.parse_complete_callback([text, file] {
            if (text->empty() && file->empty()) throw CLI::RequiredError("-p TEXT or -f FILE");
        });
}

std::string read_text(const TextOptions& o)
{
    if (o.file.empty()) return o.escapes ? unescape(o.text) : o.text;
    return read_text_file(o.file);
}

void add_sampler_options(CLI::App& app, SamplerOptions& o)
{
    group(app, "Sampling");
    app.add_option_function<std::string>(
           "-s,--seed",
           [&o](const std::string& text) {
               const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), o.seed);
               if (text == "-1") {
                   o.seed = std::random_device()();
                   o.seed_drawn = true;
               } else if (ec != std::errc() || end != text.data() + text.size()) {
                   throw CLI::ValidationError(
                       "--seed", fmt::format("'{}' is neither a number from 0 to 2^64 - 1 nor -1", printable(text)));
               }
           },
           "seed of the random choice; -1: another one each time, which is said at the end")
        ->default_str(fmt::format("{}", o.seed))
        ->type_name("N");
    app.add_option("--temp", o.temperature, "temperature; 0: always the most probable token")
        ->capture_default_str()
        ->check(number_between(0, 1e6))
        ->type_name("T");
    app.add_option_function<int64_t>(
           "--top-k",
           [&o](int64_t k) {
               if (k > UINT32_MAX)
                   throw CLI::ValidationError("--top-k", fmt::format("{} is more than there are tokens", k));
               o.top_k = k > 0 ? uint32_t(k) : 0;
           },
           "choose among the k most probable; 0: all")
        ->default_str(fmt::format("{}", o.top_k))
        ->type_name("K");
    app.add_option("--top-p", o.top_p, "choose among the fewest that have this probability together")
        ->capture_default_str()
        ->check(number_between(0, 1))
        ->type_name("P");
    app.add_option("--min-p", o.min_p, "leave out those less probable than this share of the best")
        ->capture_default_str()
        ->check(number_between(0, 1))
        ->type_name("P");
    app.add_option("--repeat-penalty", o.repeat_penalty, "make the last tokens less probable; 1: do not")
        ->capture_default_str()
        ->check(number_between(0.01, 100))
        ->type_name("R");
    app.add_option("--presence-penalty", o.presence_penalty, "taken from the logits of the last tokens, once")
        ->capture_default_str()
        ->check(number_between(-100, 100))
        ->type_name("X");
    app.add_option("--frequency-penalty", o.frequency_penalty,
                   "taken from the logits of the last tokens, as often as they came")
        ->capture_default_str()
        ->check(number_between(-100, 100))
        ->type_name("X");
    app.add_option("--repeat-last-n", o.repeat_last_n,
                   "how many last tokens the penalties look at, the prompt's included; 0: none; -1: all")
        ->capture_default_str()
        ->check(CLI::Range(-1, INT32_MAX))
        ->type_name("N");
    group(app, "Text");
}

std::string seed_note(const SamplerOptions& o) { return o.seed_drawn ? fmt::format("; --seed {}", o.seed) : ""; }

}    // namespace hearth::tools
