#include "engine/file/keys.h"

#include <algorithm>
#include <optional>

namespace hearth {

namespace {

/// All of https://github.com/ggml-org/llama.cpp/blob/master/gguf-py/gguf/constants.py but `alpha`, which is of one
/// family's own way to choose a base.
constexpr std::string_view scaling_keys[] = {
    "type",
    "factor",
    "attn_factor",
    "original_context_length",
    "finetuned",    // says how the model was trained, which changes nothing
    "yarn_log_multiplier",
    "yarn_ext_factor",
    "yarn_attn_factor",
    "yarn_beta_fast",
    "yarn_beta_slow",
};

/// A key that changes what is computed, and the value with which it does not.
struct Changing {
    std::string_view name;
    double neutral;
    const char* type;    // of that value, as --override has it
};

constexpr Changing changing_keys[] = {
    {"attention.causal", 1, "bool"},
    {"attention.clamp_kqv", 0, "float"},
    {"attention.max_alibi_bias", 0, "float"},
    {"attention.output_scale", 0, "float"},
    {"attention.temperature_scale", 0, "float"},
    {"attention.temperature_length", 0, "int"},
    {"attention.shared_kv_layers", 0, "int"},
    {"attention.q_lora_rank", 0, "int"},
    {"attention.kv_lora_rank", 0, "int"},
    {"attention.key_length_mla", 0, "int"},
    {"attention.value_length_mla", 0, "int"},
    {"attention.relative_buckets_count", 0, "int"},
    {"router_logit_softcapping", 0, "float"},
    {"swin_norm", 0, "bool"},
    {"rescale_every_n_layers", 0, "int"},
    {"full_attention_interval", 0, "int"},
    {"activation_sparsity_scale", 0, "float"},
    {"swiglu_clamp_exp", 0, "float"},
    {"swiglu_clamp_shexp", 0, "float"},
    {"embedding_length_per_layer_input", 0, "int"},
    {"altup.num_inputs", 0, "int"},
    {"n_deepstack_layers", 0, "int"},
    {"moe_latent_size", 0, "int"},
    {"expert_group_scale", 0, "float"},
};

/// Nothing for a text.
std::optional<bool> all_are(const GgufValue& value, double neutral)
{
    return std::visit(
        [&](const auto& v) -> std::optional<bool> {
            using T = std::decay_t<decltype(v)>;
            if constexpr (std::is_arithmetic_v<T>) return double(v) == neutral;
            else if constexpr (std::is_same_v<T, std::vector<int64_t>> || std::is_same_v<T, std::vector<double>>)
                return std::ranges::all_of(v, [&](auto x) { return double(x) == neutral; });
            else return std::nullopt;
        },
        value);
}

}    // namespace

void refuse_keys(const Gguf& file, std::string_view prefix)
{
    const std::string path = file.path().string(), scaling = std::string(prefix) + "rope.scaling.";
    for (const auto& [key, value] : file.keys()) {
        if (!key.starts_with(prefix)) continue;
        if (key.starts_with(scaling) &&
            std::ranges::find(scaling_keys, key.substr(scaling.size())) == std::end(scaling_keys))
            throw Error("{} has the key {}, which this version does not know, and what scales positions changes the "
                        "text: it knows {} under {}",
                        path, printable(key), fmt::join(scaling_keys, ", "), scaling);
        const auto changing = std::ranges::find(changing_keys, key.substr(prefix.size()), &Changing::name);
        if (changing == std::end(changing_keys) || all_are(value, changing->neutral).value_or(false)) continue;
        const std::string_view flag =
            changing->type == std::string_view("bool") ? changing->neutral != 0 ? "true" : "false" : "0";
        throw Error("{} has the key {}, by which its model computes what this version cannot: --override {}={}:{} runs "
                    "it without, and the text may be wrong",
                    path, key, key, changing->type, flag);
    }
}

}    // namespace hearth
