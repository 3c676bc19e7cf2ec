#include "engine/model/config.h"

#include "engine/model/other_kinds.h"
#include "engine/file/keys.h"

#include <cfloat>
#include <cmath>
#include <numbers>
#include <optional>

namespace hearth {

namespace {

constexpr struct {
    std::string_view name;
    host::Activation activation;
} activations[] = {
    {"relu", host::Activation::relu},           {"silu", host::Activation::silu},
    {"drelu", host::Activation::drelu},         {"gelu", host::Activation::gelu},
    {"gelu_tanh", host::Activation::gelu_tanh}, {"quick_gelu", host::Activation::quick_gelu},
};

constexpr uint32_t softmax_gating = 1;    // of ARCHITECTURE.expert_gating_func

// Far above every model there is; they keep the products of sizes within 64 bits and buffers within reason;
// predict_sign.comp has room for just max_dim.
constexpr uint32_t max_layers = 300, max_dim = 1 << 16, max_heads = 1 << 12, max_head_dim = 256, max_neurons = 1 << 20;

}    // namespace

std::string_view activation_name(host::Activation activation)
{
    return std::ranges::find_if(activations, [&](const auto& row) { return row.activation == activation; })->name;
}

const Family& family_of(const Gguf& file)
{
    refuse_other_kinds(file);
    const std::string_view name = file.string("general.architecture");
    if (const Family* family = find_family(name)) return *family;
    std::string known;
    for (const Family& family : all_families()) known += (known.empty() ? "" : ", ") + std::string(family.architecture);
    throw Error("{} is a model of the architecture {:.60}, which this version cannot run; it runs {}",
                file.path().string(), printable(name), known);
}

uint32_t checked(const Gguf& file, std::string_view what, uint64_t n, uint32_t most)
{
    if (n < 1 || n > most) throw Error("{}: {} is {}, expected 1 to {}", file.path().string(), what, n, most);
    return uint32_t(n);
}

namespace {

host::Activation activation_of(const Gguf& file, const Family& family)
{
    if (!file.keys().contains(activation_key))
        return file.powerinfer() && !host::makes_zeros(family.activation) ? host::Activation::relu : family.activation;
    const std::string_view name = file.string(activation_key);
    for (const auto& row : activations)
        if (row.name == name) return row.activation;
    std::string known;
    for (const auto& row : activations) known += (known.empty() ? "" : ", ") + std::string(row.name);
    throw Error("{}: hearth.activation is {:.60}, which this version does not know; it knows {}", file.path().string(),
                name, known);
}

/// How many experts there are and how many neurons each has: everything about them that is not a tensor.
void read_experts(const Gguf& file, const Family& family, const std::string& prefix, Config& c)
{
    const std::string path = file.path().string();
    const uint32_t experts = file.u32(prefix + "expert_count", 0);
    if (experts == 0) return;
    if (!family.experts)
        throw Error("{} is a mixture of experts of the architecture {}, which this version cannot run", path,
                    c.architecture);
    c.experts = checked(file, prefix + "expert_count", experts, host::most_experts);
    c.experts_used = checked(file, prefix + "expert_used_count", file.u32(prefix + "expert_used_count"), experts);
    c.normalise_experts = file.boolean(prefix + "expert_weights_norm", true);
    const float scale = file.f32(prefix + "expert_weights_scale", 1);
    if (file.u32(prefix + "expert_gating_func", softmax_gating) != softmax_gating ||
        file.u32(prefix + "expert_shared_count", 0) > 0 || file.u32(prefix + "expert_group_count", 1) > 1 ||
        (scale != 0 && scale != 1))    // 0: none
        throw Error("{} is a mixture of experts with a gating other than softmax, shared experts, groups of experts or "
                    "scaled weights, which this "
                    "version cannot run",
                    path);
    if (const std::string of_one = "blk.0.ffn_gate.0.weight"; file.find(of_one))
        throw Error(
            "{} has a tensor for every expert ({}), as files from before April 2024 do; convert the model again", path,
            of_one);
    const std::string key = prefix + "expert_feed_forward_length";
    const uint32_t neurons = file.u32(key, c.neurons);
    if (neurons == 0 || neurons % expert_unit || uint64_t(neurons) * experts > max_neurons)
        throw Error(
            "{} has {} experts of {} neurons, and this version needs a multiple of {}, and at most {} of all of them",
            path, experts, neurons, expert_unit, max_neurons);
    c.neurons = neurons * experts;
}

/// What positions are divided by. A factor without a type means linear scaling, and 0 is written for "none";
/// rope.scale_linear is its older name.
float read_rope_scale(const Gguf& file, const std::string& prefix)
{
    const std::string type = prefix + "rope.scaling.type";
    const std::string_view scaling = file.string(type, "linear");
    if (scaling == "none" || scaling == "longrope" || scaling == "yarn")
        return 1;    // the last two are matters of pairs: see read_rope_factors
    if (scaling != "linear")
        throw Error("{} scales its positions in a way that this version does not know ({} is {:.60}); it knows linear, "
                    "longrope and yarn",
                    file.path().string(), type, scaling);
    for (const char* key : {"rope.scaling.factor", "rope.scale_linear"}) {
        const float factor = file.f32(prefix + key, 0);
        if (factor < 0) throw Error("{}: {}{} is {}, expected more than 0", file.path().string(), prefix, key, factor);
        if (factor > 0) return factor;
    }
    return 1;
}

/// What things are multiplied by and where they are capped.
void read_scales(const Gguf& file, const Family& family, const std::string& prefix, Config& c)
{
    const auto cap = [&](const char* key, float fallback) {
        const float x = file.f32(prefix + key, fallback);
        if (!(x >= 0)) throw Error("{}: {}{} is {}, expected 0 or more", file.path().string(), prefix, key, x);
        return x;
    };
    const auto scale = [&](const char* key, float fallback) {
        const float x = file.f32(prefix + key, fallback);
        if (!(x >= FLT_MIN)) throw Error("{}: {}{} is {}, expected more than 0", file.path().string(), prefix, key, x);
        return x;
    };
    const float width = family.base_width > 0 ? float(c.dim) / family.base_width : 1;
    const uint32_t summed = c.layers == family.broad_layers ? c.dim / c.heads : c.head_dim;
    c.embedding_scale =
        scale("embedding_scale", family.wide_embedding ? std::sqrt(float(c.dim)) : family.embedding_scale);
    c.residual_scale =
        scale("residual_scale", family.depth_scale > 0 ? family.depth_scale / std::sqrt(float(c.layers)) : 1);
    c.logit_scale = 1 / scale("logit_scale", width);
    c.logit_cap = cap("final_logit_softcapping", family.logit_cap);
    c.score_scale = scale("attention.scale", 1 / std::sqrt(float(summed)));
    c.score_cap = cap("attn_logit_softcapping", family.score_cap);
}

}    // namespace

Config read_config(const Gguf& file)
{
    const Family& family = family_of(file);
    const std::string path = file.path().string(), prefix = std::string(family.architecture) + ".";

    const auto size = [&](const char* key, uint32_t most) {
        return checked(file, prefix + key, file.u32(prefix + key), most);
    };
    Config c;
    c.architecture = family.architecture;
    c.name = printable(file.string("general.name", ""));
    if (c.name.empty()) c.name = printable(file.path().stem().string());
    c.layers = size("block_count", max_layers);
    c.dim = size("embedding_length", max_dim);
    c.neurons = size("feed_forward_length", max_neurons);
    read_experts(file, family, prefix, c);
    c.context = size("context_length", max_context);
    c.heads = size("attention.head_count", max_heads);
    c.kv_heads = file.u32(prefix + "attention.head_count_kv", c.heads);
    if (c.kv_heads < 1 || c.heads % c.kv_heads)
        throw Error("{}: {} heads cannot share {} heads of keys and values", path, c.heads, c.kv_heads);
    c.head_dim =
        checked(file, "the width of a head", file.u32(prefix + "attention.key_length", c.dim / c.heads), max_head_dim);
    if (c.head_dim % 2) throw Error("{} has heads of width {}, and this version needs an even width", path, c.head_dim);
    if (const uint32_t value = file.u32(prefix + "attention.value_length", c.head_dim); value != c.head_dim)
        throw Error("{} has keys of width {} and values of width {}, and this version needs them equal", path,
                    c.head_dim, value);
    c.rope_dim = family.positions ? 0 : file.u32(prefix + "rope.dimension_count", c.head_dim);
    if ((c.rope_dim < 2 && !family.positions) || c.rope_dim % 2 || c.rope_dim > c.head_dim)
        throw Error("{}: {}rope.dimension_count is {}, expected an even number from 2 to {}", path, prefix, c.rope_dim,
                    c.head_dim);
    c.rope_base = file.f32(prefix + "rope.freq_base", 10000.0f);
    if (!(c.rope_base > 0)) throw Error("{}: {}rope.freq_base is {}, expected more than 0", path, prefix, c.rope_base);
    c.rope_scale = read_rope_scale(file, prefix);
    c.pairs = family.pairs;
    c.window_base = file.f32(prefix + "rope.freq_base_swa", family.window_base);
    if (!(c.window_base >= 0))
        throw Error("{}: {}rope.freq_base_swa is {}, expected more than 0", path, prefix, c.window_base);
    c.parallel = family.parallel;
    read_scales(file, family, prefix, c);
    c.layer_norm = family.layer_norms;
    const std::string eps =
        prefix + (c.layer_norm ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon");
    c.norm_eps = c.layer_norm ? file.f32(eps, 1e-5f) : file.f32(eps);    // PowerInfer's files of OPT have none
    if (!(c.norm_eps >= 0)) throw Error("{}: {} is {}, expected 0 or more", path, eps, c.norm_eps);
    c.activation = activation_of(file, family);
    c.floor = file.f32("hearth.activation_floor", 0);
    if (c.floor != 0 && (c.floor < 0 || c.activation != host::Activation::relu))
        throw Error("{}: hearth.activation_floor is {}, expected 0 or more, and 0 where hearth.activation is not relu",
                    path, c.floor);
    c.predictor_threshold = file.f32("powerinfer.sparse_threshold", 0);
    refuse_keys(file, prefix);
    return c;
}

std::vector<float> read_thresholds(const Gguf& file, const Config& c)
{
    constexpr const char* key = "hearth.predictor_thresholds";
    const std::vector<double>* own = file.floats(key);
    if (!own) return std::vector<float>(c.layers, c.predictor_threshold);
    if (own->size() != c.layers)
        throw Error("{}: the key {} has {} values, expected {}, one for every layer", file.path().string(), key,
                    own->size(), c.layers);
    for (const double x : *own)
        if (!(std::abs(x) <= FLT_MAX))
            throw Error("{}: the key {} has the value {}, expected finite numbers", file.path().string(), key, x);
    return std::vector<float>(own->begin(), own->end());
}

void read_yarn(const Gguf& file, const std::string& prefix, Config& c)
{
    const auto read = [&](const char* key, std::optional<float> fallback, bool zero = false) {
        const float x = fallback ? file.f32(prefix + key, *fallback) : file.f32(prefix + key);
        if (!(x > 0 || (zero && x == 0)))
            throw Error("{}: {}{} is {}, expected {}", file.path().string(), prefix, key, x,
                        zero ? "0 or more" : "more than 0");
        return double(x);
    };
    const double factor = read("factor", {}),
                 context = checked(file, prefix + "original_context_length",
                                   file.u32(prefix + "original_context_length"), max_context);
    const auto pair_that_turns = [&](double times) {
        return c.rope_dim * std::log(context / (times * 2 * std::numbers::pi)) / (2 * std::log(double(c.rope_base)));
    };
    const double first = std::max(std::floor(pair_that_turns(read("yarn_beta_fast", 32))), 0.0),
                 last = std::min(std::ceil(pair_that_turns(read("yarn_beta_slow", 1))), c.rope_dim - 1.0);
    const float told = file.f32(prefix + "yarn_ext_factor", 1);
    const double kept = told < 0 ? 1 : told;    // -1 is written for "not set"
    for (uint32_t i = 0; i < c.rope_dim / 2; i++) {
        const double slowed = std::clamp((i - first) / std::max(last - first, 0.001), 0.0, 1.0),
                     fast = kept * (1 - slowed);
        c.rope_factors.push_back(float(1 / ((1 - fast) / factor + fast)));
        if (!(c.rope_factors.back() > 0 && c.rope_factors.back() <= FLT_MAX))
            throw Error(
                "{}: {}yarn_ext_factor is {}, with which frequencies of heads are no numbers above 0; expected 0 to 1",
                file.path().string(), prefix, told);
    }
    const auto growth = [factor](double strength) { return factor > 1 ? 1 + 0.1 * strength * std::log(factor) : 1; };
    const double all_dims = read("yarn_log_multiplier", 0, true), implied = kept == 0 ? 1
                                                                            : all_dims > 0
                                                                                ? growth(1) / growth(all_dims)
                                                                                : growth(1);
    const bool says = file.keys().contains(prefix + "yarn_attn_factor");
    c.rope_magnitude = float(read("attn_factor", 1) * (says ? read("yarn_attn_factor", {}) : implied));
}

std::vector<uint32_t> read_windows(const Gguf& file, const Family& family, const Config& c)
{
    const std::string key = c.architecture + ".attention.sliding_window", pattern = key + "_pattern";
    const uint32_t window = file.u32(key, family.window);
    const bool listed =
        file.keys().contains(pattern) && std::holds_alternative<std::vector<int64_t>>(file.keys().at(pattern));
    const std::vector<int64_t>* list = listed ? file.integers(pattern) : nullptr;
    if (list && list->size() != c.layers)
        throw Error("{}: the key {} has {} values, expected {}, one for every layer", file.path().string(), pattern,
                    list->size(), c.layers);
    const uint32_t period = listed ? 0 : file.u32(pattern, family.window_period);
    std::vector<uint32_t> windows;
    for (uint32_t l = 0; l < c.layers; l++)
        windows.push_back(list ? (*list)[l] ? window : 0 : period && (l + 1) % period == 0 ? 0 : window);
    return windows;
}

std::vector<double> rope_frequencies(const Config& c, bool windowed)
{
    if (windowed && c.window_base > 0) return host::rope_frequencies(c.rope_dim, c.window_base);
    std::vector<double> frequencies = host::rope_frequencies(c.rope_dim, c.rope_base);
    for (size_t i = 0; i < frequencies.size(); i++)
        frequencies[i] /= double(c.rope_scale) * (c.rope_factors.empty() ? 1.0 : c.rope_factors[i]);
    return frequencies;
}

}    // namespace hearth
