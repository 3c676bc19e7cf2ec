// From transformers' words to ours; tools/models/families.py has the same for the converter.
#include "tools/hearth/model_shape.h"

#include <nlohmann/json.hpp>

#include <fstream>

namespace hearth::tools {

namespace {

using nlohmann::json;

/// By the first of config.json's architectures.
struct Kind {
    std::string_view name, family;
    bool tied = false;    // where config.json does not say
};
constexpr Kind kinds[] = {
    {"BambooForCausalLM", "bamboo"},
    {"FalconForCausalLM", "falcon", true},
    {"GemmaForCausalLM", "gemma", true},
    {"Gemma2ForCausalLM", "gemma2", true},
    {"Gemma3ForCausalLM", "gemma3", true},
    {"Gemma3ForConditionalGeneration", "gemma3", true},
    {"GraniteForCausalLM", "granite"},
    {"LlamaForCausalLM", "llama"},
    {"MiniCPMForCausalLM", "minicpm", true},
    {"MistralForCausalLM", "llama"},
    {"MixtralForCausalLM", "llama"},
    {"OPTForCausalLM", "opt", true},
    {"Phi3ForCausalLM", "phi3"},
    {"Qwen2ForCausalLM", "qwen2"},
    {"Qwen3ForCausalLM", "qwen3"},
    {"Qwen3MoeForCausalLM", "qwen3moe"},
    {"RWForCausalLM", "falcon", true},
    {"SparseLlamaForCausalLM", "llama"},
};

/// The sizes of a config.json, by the names that one or another family has for them.
class Words {
  public:
    Words(const json& all, std::string path) : all_(all), path_(std::move(path)) {}

    /// 0 where none of the names is there, or is null.
    uint32_t optional(std::initializer_list<const char*> names) const
    {
        for (const char* name : names) {
            const auto at = all_.find(name);
            if (at == all_.end() || at->is_null()) continue;
            if (!at->is_number_unsigned() || at->get<uint64_t>() > UINT32_MAX)
                throw Error("{}: {} is {}, expected a whole number", path_, name, at->dump());
            return at->get<uint32_t>();
        }
        return 0;
    }
    uint32_t size(std::initializer_list<const char*> names) const
    {
        const uint32_t n = optional(names);
        if (n == 0) throw Error("{} has no {}, or it is 0", path_, *names.begin());
        return n;
    }
    bool flag(const char* name, bool fallback) const
    {
        const auto at = all_.find(name);
        return at != all_.end() && at->is_boolean() ? at->get<bool>() : fallback;
    }
    std::string text(std::initializer_list<const char*> names) const
    {
        for (const char* name : names)
            if (const auto at = all_.find(name); at != all_.end() && at->is_string()) return *at;
        return "";
    }

  private:
    const json& all_;
    std::string path_;
};

json parsed(const std::filesystem::path& path)
{
    std::ifstream file(path, std::ios::binary);
    if (!file) throw Error("{} cannot be read", path.string());
    json all = json::parse(file, nullptr, false);
    if (!all.is_object()) throw Error("{} is no JSON object, as a config.json is", path.string());
    return all;
}

const Kind& kind_of(const json& all, const std::string& path)
{
    const auto at = all.find("architectures");
    const std::string name = at != all.end() && at->is_array() && !at->empty() && at->front().is_string()
                                 ? at->front().get<std::string>()
                                 : "";
    const auto* const kind = std::ranges::find(kinds, name, &Kind::name);
    if (kind != std::end(kinds)) return *kind;
    std::string known;
    for (const Kind& k : kinds) known += (known.empty() ? "" : ", ") + std::string(k.name);
    if (name.empty()) throw Error("{} does not say its `architectures`", path);
    throw Error("{} is of the architecture {:.60}, which this version cannot run; it knows {}", path, name, known);
}

/// Falcon 7B has one head of keys for all; the new ones as many as they say, and two norms.
void read_falcon(const Words& words, Architecture& a)
{
    const bool grouped = words.flag("new_decoder_architecture", false);
    const uint32_t said = words.optional({"num_kv_heads", "n_head_kv"});
    a.kv_heads = !grouped ? 1 : said ? said : a.heads;
    const uint32_t norms = words.optional({"num_ln_in_parallel_attn"});
    a.special.two_norms = grouped && (norms == 0 || norms == 2);
    if (!a.neurons) a.neurons = 4 * a.dim;
    if (!a.context) a.context = 2048;
}

}    // namespace

namespace {

/// The config.json that a path is, or that lies in the folder that it is.
std::optional<std::filesystem::path> config_json_at(const std::filesystem::path& path)
{
    std::error_code ec;
    if (std::filesystem::is_directory(path, ec)) {
        const std::filesystem::path inside = path / "config.json";
        return std::filesystem::exists(inside, ec) ? std::optional(inside) : std::nullopt;
    }
    std::ifstream file(path, std::ios::binary);
    char first = 0;
    file >> first;    // behind blanks
    return first == '{' ? std::optional(path) : std::nullopt;
}

constexpr std::string_view usual_type = "q4_0";

}    // namespace

Architecture read_config_json(const std::filesystem::path& path)
{
    const json whole = parsed(path);
    const std::string name = path.string();
    const Kind& kind = kind_of(whole, name);
    json all = whole;
    if (whole.contains("text_config") && whole["text_config"].is_object()) all.update(whole["text_config"]);
    const Words words(all, name);
    Architecture a = {.name = path.parent_path().filename().string(), .family = std::string(kind.family)};
    if (a.name.empty()) a.name = path.filename().string();
    a.layers = words.size({"num_hidden_layers", "n_layer"});
    a.dim = words.size({"hidden_size", "n_embed", "n_embd"});
    a.heads = words.size({"num_attention_heads", "n_head"});
    a.kv_heads = words.optional({"num_key_value_heads"});
    if (!a.kv_heads) a.kv_heads = a.heads;
    a.head_dim = words.optional({"head_dim"});
    a.special.experts = words.optional({"num_local_experts", "num_experts"});
    if (a.special.experts) a.special.experts_used = words.size({"num_experts_per_tok"});
    a.neurons = a.special.experts ? words.size({"moe_intermediate_size", "intermediate_size"})
                                  : words.optional({"intermediate_size", "ffn_dim", "ffn_hidden_size"});
    a.vocab = words.size({"vocab_size"});
    a.context = words.optional({"max_position_embeddings"});
    a.special.tied = words.flag("tie_word_embeddings", kind.tied);
    a.special.window = words.flag("use_sliding_window", true) ? words.optional({"sliding_window"}) : 0;
    if (kind.family == "falcon") read_falcon(words, a);
    if (!a.neurons || !a.context)
        throw Error("{} has no {}", name, a.neurons ? "max_position_embeddings" : "intermediate_size");
    const std::string act = words.text({"hidden_activation", "hidden_act", "activation_function", "activation"});
    if (act == "relu" || act == "fatrelu") a.special.activation = kind.family == "bamboo" ? "drelu" : "relu";
    a.source = name;
    return a;
}

void add_shape_options(CLI::App& app, ShapeOptions& o)
{
    group(app, "Model");
    CLI::Option* const model = app.get_option("--model");
    model->required(false)->description(
        "the model, a GGUF file or its first megabytes, a config.json of transformers, or a folder with one");
    CLI::Option* const arch = app.add_option("--arch", o.arch, "a model that is known by its name, such as llama-33b")
                                  ->check(not_empty())
                                  ->type_name("NAME");
    model->excludes(arch);
    std::vector<std::string> types;
    for (const Quantisation& q : quantisations) types.emplace_back(q.name);
    app.add_option("--type", o.type, "as if its weights were of this type (default: a file's own, else q4_0)")
        ->check(CLI::IsMember(types))
        ->type_name("TYPE");
    app.parse_complete_callback([model, arch] {
        if (model->empty() && arch->empty()) throw CLI::RequiredError("--model");
    });
}

std::shared_ptr<const Gguf> open_shape(const ShapeOptions& o, const std::filesystem::path& model,
                                       const std::vector<Override>& overrides)
{
    const Quantisation* const how = find_quantisation(o.type.empty() ? usual_type : o.type);
    HEARTH_CHECK(how);    // the options allow no other
    if (!o.arch.empty()) return header_of(find_architecture(o.arch), *how, overrides, o.by_neurons);
    if (const auto config = config_json_at(model))
        return header_of(read_config_json(*config), *how, overrides, o.by_neurons);
    auto file = std::make_shared<const Gguf>(model, overrides, Cut::allowed);
    if (o.type.empty()) return file;
    return std::make_shared<const Gguf>(
        Gguf::of_header(model, requantised_header(file, *how, {.by_neurons = o.by_neurons}), overrides));
}

}    // namespace hearth::tools
