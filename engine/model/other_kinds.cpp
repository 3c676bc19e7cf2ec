#include "engine/model/other_kinds.h"

#include "engine/model/families.h"

#include <optional>

namespace hearth {

namespace {

struct Kind {
    std::string_view name;    // of an architecture, or of general.type
    std::string_view is;
    std::string_view advice;
};

constexpr std::string_view other_gguf = "give a GGUF file of the model";
constexpr std::string_view give_model = "give the model that it belongs to";
constexpr Kind adapter = {"adapter", "an adapter (LoRA), which changes a model and is none",
                          "merge it into its model (llama-export-lora does), and give that"};
constexpr Kind projector = {"mmproj", "a projector, the part of a model that looks at images or listens",
                            "give the model that it belongs to, and this with --mmproj"};
constexpr Kind importances = {"imatrix", "an importance matrix, made for quantising a model", give_model};
constexpr Kind control = {"controlvector", "a control vector, which steers a model and is none", give_model};
constexpr std::string_view encoder = "an encoder, which makes vectors of texts and writes none",
                           images = "a model that makes images or films",
                           diffusion = "a diffusion model of text, which does not write token by token",
                           sound = "a model of sound";
constexpr std::string_view other_model = "give a language model that writes text";

constexpr Kind types[] = {adapter, projector, importances, control};

// As llama.cpp, stable-diffusion.cpp, ComfyUI-GGUF and whisper.cpp write them.
constexpr Kind architectures[] = {
    {"clip", projector.is, projector.advice},
    {"imatrix", importances.is, importances.advice},
    {"controlvector", control.is, control.advice},
    {"generic.gpu_index", "PowerInfer's list of a model's neurons for the GPU",
     "give the model; a list beside it is found by itself"},
    {"bert", encoder, other_model},
    {"modern-bert", encoder, other_model},
    {"nomic-bert", encoder, other_model},
    {"nomic-bert-moe", encoder, other_model},
    {"neo-bert", encoder, other_model},
    {"eurobert", encoder, other_model},
    {"jina-bert-v2", encoder, other_model},
    {"jina-bert-v3", encoder, other_model},
    {"t5encoder", encoder, other_model},
    {"gemma-embedding", encoder, other_model},
    {"llama-embed", encoder, other_model},
    {"t5", "a model with an encoder and a decoder", "give a language model with a decoder alone"},
    {"dream", diffusion, other_model},
    {"llada", diffusion, other_model},
    {"llada-moe", diffusion, other_model},
    {"rnd1", diffusion, other_model},
    {"diffusion", images, other_model},
    {"flux", images, other_model},
    {"sd1", images, other_model},
    {"sd3", images, other_model},
    {"sdxl", images, other_model},
    {"aura", images, other_model},
    {"chroma", images, other_model},
    {"cosmos", images, other_model},
    {"hidream", images, other_model},
    {"hyvid", images, other_model},
    {"ltxv", images, other_model},
    {"lumina2", images, other_model},
    {"pig", images, other_model},
    {"qwen_image", images, other_model},
    {"wan", images, other_model},
    {"whisper", sound, other_model},
    {"wavtokenizer-dec", sound, other_model},
    {"kokoro", sound, other_model},
};

/// A text key, whatever else may be under its name.
std::string_view text_of(const Gguf& file, std::string_view key)
{
    const auto found = file.keys().find(key);
    const std::string_view* text = found == file.keys().end() ? nullptr : std::get_if<std::string_view>(&found->second);
    return text ? *text : std::string_view();
}

bool is_true(const Gguf& file, std::string_view key)
{
    const auto found = file.keys().find(key);
    const bool* value = found == file.keys().end() ? nullptr : std::get_if<bool>(&found->second);
    return value && *value;
}

bool has_tensors(const Gguf& file, std::string_view end)
{
    return std::ranges::any_of(file.tensors(), [&](const GgufTensor& t) { return t.name.ends_with(end); });
}

bool has_keys(const Gguf& file, std::string_view prefix)
{
    const auto first = file.keys().lower_bound(prefix);
    return first != file.keys().end() && first->first.starts_with(prefix);
}

/// What a file is by what is in it.
std::optional<Kind> kind_of(const Gguf& file)
{
    const std::string_view type = text_of(file, "general.type"), architecture = text_of(file, "general.architecture");
    for (const Kind& kind : types)
        if (type == kind.name) return kind;
    if (has_keys(file, "adapter.") || has_tensors(file, ".lora_a") || has_tensors(file, ".lora_b")) return adapter;
    if (has_keys(file, "clip.") || has_tensors(file, "mm.0.weight")) return projector;
    if (has_keys(file, "imatrix.") || has_tensors(file, ".in_sum2")) return importances;
    if (has_keys(file, "controlvector.")) return control;
    for (const Kind& kind : architectures)
        if (architecture == kind.name) return kind;
    const bool vocabulary =
        file.keys().contains("tokenizer.ggml.model") || file.keys().contains("tokenizer.ggml.tokens");
    if (file.tensors().empty()) {
        if (has_keys(file, "hearth.profile."))
            return Kind{"", "a profile, which says what fires in a model", "give the model, and this with --profile"};
        if (vocabulary)
            return Kind{"", "a vocabulary alone, without weights",
                        "`hearth tokenize` and `hearth inspect` read it; to run a model give the model itself"};
        return Kind{"", "a GGUF file without weights", other_gguf};
    }
    const std::string prefix = std::string(architecture) + ".";
    const auto causal = file.keys().find(prefix + "attention.causal");
    const bool sees_all = causal != file.keys().end() && std::holds_alternative<bool>(causal->second) &&
                          !is_true(file, prefix + "attention.causal");
    if (sees_all) return Kind{"", encoder, other_model};
    if (!vocabulary && !file.find("token_embd.weight") && !architecture.empty() && !find_family(architecture))
        return Kind{"", "a model of something else than text, since it has no vocabulary", other_model};
    return {};
}

}    // namespace

void refuse_other_kinds(const Gguf& file)
{
    const std::optional<Kind> kind = kind_of(file);
    if (!kind) return;
    const std::string architecture = printable(text_of(file, "general.architecture").substr(0, 60));
    throw Error("{} is no language model but {}{}: {}", printable(file.path().string()), kind->is,
                architecture.empty() || architecture == kind->name
                    ? ""
                    : fmt::format(" (its architecture is {})", architecture),
                kind->advice);
}

}    // namespace hearth
