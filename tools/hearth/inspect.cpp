// hearth inspect: a model file's keys and tensors, and what the model wants of a GPU's memory.
#include "tools/hearth/cli.h"
#include "tools/hearth/confine.h"

namespace hearth::tools {

namespace {

std::string shorten(const std::string& text)
{
    constexpr size_t most = 60;
    return printable(text.size() > most ? text.substr(0, most) + "..." : text);
}

struct Shown {    // a key's value for reading: long arrays by their length
    std::string operator()(bool x) const { return x ? "true" : "false"; }
    std::string operator()(int64_t x) const { return fmt::format("{}", x); }
    std::string operator()(uint64_t x) const { return fmt::format("{}", x); }
    std::string operator()(double x) const { return fmt::format("{:g}", x); }
    std::string operator()(std::string_view x) const { return shorten(std::string(x)); }
    template <class T>
    std::string operator()(const std::vector<T>& x) const
    {
        return fmt::format("{} values", x.size());
    }
};

struct AsJson {
    template <class T>
    nlohmann::json operator()(const T& x) const
    {
        return x;
    }
};

std::string shape_text(const GgufTensor& t)
{
    std::string out;
    for (auto n = t.shape.rbegin(); n != t.shape.rend(); ++n) out += fmt::format("{}{}", out.empty() ? "" : " x ", *n);
    return out;
}

void inspect(const ModelOptions& model, uint32_t context, uint32_t batch, host::KvTypes kv, bool as_json)
{
    confinement().all(true);
    const auto file = open_model(model);

    // A file can be listed even where the model cannot be run; then the reason takes the place of its needs.
    std::optional<Weights> weights;
    std::optional<Needs> needs;
    std::string unfit;
    try {
        weights = describe_weights(file, DownLayout::dense);
    } catch (const Error& e) {
        unfit = e.what();
    }
    if (weights) needs = device_needs(*weights, {.context = context, .batch = batch, .kv = kv});
    uint64_t all = 0;
    if (needs) {
        all = needs->scratch + needs->head;
        for (const LayerNeeds& l : needs->layers) all += l.attention + l.kv + l.groups * l.group;
    }

    if (as_json) {
        nlohmann::json json = {{"version", file->version()},
                               {"bytes", file->file_bytes()},
                               {"keys", nlohmann::json::object()},
                               {"tensors", nlohmann::json::array()}};
        for (const auto& [key, value] : file->keys()) json["keys"][std::string(key)] = std::visit(AsJson(), value);
        for (const GgufTensor& t : file->tensors())
            json["tensors"].push_back(
                {{"name", t.name}, {"type", t.type_name()}, {"shape", t.shape}, {"bytes", t.bytes}});
        if (needs) {
            nlohmann::json layers = nlohmann::json::array();
            for (const LayerNeeds& l : needs->layers)
                layers.push_back({{"attention", l.attention}, {"kv", l.kv}, {"group", l.group}, {"groups", l.groups}});
            json["device_memory"] = {{"all", all},
                                     {"least", least_budget(*needs)},
                                     {"scratch", needs->scratch},
                                     {"head", needs->head},
                                     {"layers", layers}};
        } else {
            json["cannot_run"] = unfit;
        }
        print(dump(json));
        return;
    }
    std::string out =
        fmt::format("{} v{}, {} bytes, {} keys, {} tensors\n\n", file->powerinfer() ? "PowerInfer GGUF" : "GGUF",
                    file->version(), file->file_bytes(), file->keys().size(), file->tensors().size());
    for (const auto& [key, value] : file->keys()) out += fmt::format("{:44} {}\n", key, std::visit(Shown(), value));
    out += "\n";
    for (const GgufTensor& t : file->tensors())
        out += fmt::format("{:32} {:8} {:20} {:>12} bytes\n", t.name, t.type_name(), shape_text(t), t.bytes);
    if (needs)
        out += fmt::format("\nGPU memory: {:.1f} MiB for all of it, {:.1f} MiB are the least that help\n",
                           double(all) / 0x1p20, double(least_budget(*needs)) / 0x1p20);
    else out += fmt::format("\ncannot be run: {}\n", unfit);
    print(out);
}

}    // namespace

Command add_inspect(CLI::App& app)
{
    struct Options {
        ModelOptions model;
        uint32_t context = 0, batch = EngineOptions().batch;
        host::KvTypes kv;
        bool json = false;
    };
    auto o = std::make_shared<Options>();
    add_model_options(app, o->model);
    group(app, "Device and memory");
    app.add_option("-c,--ctx-size", o->context,
                   "positions in the context, for the memory needed (default: the model's, at most 4096)");
    app.add_option("-b,--batch-size", o->batch, "prompt tokens done at once, for the memory needed")
        ->capture_default_str();
    add_kv_options(app, o->kv);
    confinement().add_option(app, true);
    group(app, "Output");
    app.add_flag("--json", o->json, "everything, as JSON");
    return [o] { inspect(o->model, o->context, o->batch, o->kv, o->json); };
}

}    // namespace hearth::tools
