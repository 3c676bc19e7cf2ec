#include "engine/model/file_kind.h"

#include "engine/model/families.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <system_error>
#include <vector>

namespace hearth {

using namespace std::string_view_literals;

namespace {

// ---- other formats -----------------------------------------------------------------------------------------------------

/// A format that is known by bytes at a place.
struct Magic {
    std::string_view bytes;
    size_t at;
    std::string_view is;
    std::string_view advice;
};

constexpr std::string_view convert_folder = "convert the whole folder that it is in with tools/convert.py";
constexpr std::string_view download_again = "download the file itself; sites that want a login or a licence accepted answer with a page";
constexpr std::string_view unpack = "unpack it, and give the .gguf file in it";
constexpr std::string_view other_gguf = "give a GGUF file of the model";
constexpr std::string_view old_ggml = "ggml wrote such files before August 2023: get the model as GGUF, or convert it from its original";

constexpr Magic magics[] = {
    {"lmgg"sv, 0, "a model in the old format ggml", old_ggml},
    {"fmgg"sv, 0, "a model in the old format ggmf", old_ggml},
    {"tjgg"sv, 0, "a model in the old format ggjt", old_ggml},
    {"algg"sv, 0, "an adapter (LoRA) in the old format ggla", "give the model that it was made for, as GGUF"},
    {"nsgg"sv, 0, "a saved session of llama.cpp", "give the model that it was made with"},
    {"qsgg"sv, 0, "a saved sequence of llama.cpp", "give the model that it was made with"},
    {"ggml"sv, 0, "a model in the old format ggml, of a big-endian machine", old_ggml},
    {"version https://git-lfs"sv, 0, "a pointer of Git LFS to a file that was not downloaded", "run `git lfs pull` in its folder"},
    {"PK\x03\x04"sv, 0, "a zip archive, as PyTorch's .bin and .pt files are", "convert the folder of such a model with tools/convert.py; other archives are to be unpacked"},
    {"PK\x05\x06"sv, 0, "an empty zip archive", other_gguf},
    {"\x89HDF\r\n\x1a\n"sv, 0, "a file of HDF5, as Keras writes it", other_gguf},
    {"\x93NUMPY"sv, 0, "an array of numpy", other_gguf},
    {"\x1f\x8b"sv, 0, "packed with gzip", unpack},
    {"\xfd\x37zXZ\0"sv, 0, "packed with xz", unpack},
    {"\x28\xb5\x2f\xfd"sv, 0, "packed with zstd", unpack},
    {"BZh"sv, 0, "packed with bzip2", unpack},
    {"\x04\x22\x4d\x18"sv, 0, "packed with lz4", unpack},
    {"7z\xbc\xaf\x27\x1c"sv, 0, "a 7z archive", unpack},
    {"Rar!\x1a\x07"sv, 0, "a RAR archive", unpack},
    {"ustar"sv, 257, "a tar archive", unpack},
    {"TFL3"sv, 4, "a model of TensorFlow Lite", other_gguf},
    {"%PDF-"sv, 0, "a PDF document", other_gguf},
    {"\x7f" "ELF"sv, 0, "a program", other_gguf},
    {"MZ"sv, 0, "a program (a llamafile has the model in it)", other_gguf},
    {"#!"sv, 0, "a script", other_gguf},
};

bool is_safetensors(std::string_view bytes)
{
    uint64_t header = 0;
    if (bytes.size() < sizeof header + 2) return false;
    std::memcpy(&header, bytes.data(), sizeof header);
    return header >= 2 && header <= (uint64_t(1) << 30) && bytes[sizeof header] == '{';
}

/// Protocol 2 and on; those before are texts, which nobody saves weights as.
bool is_pickle(std::string_view bytes) { return bytes.size() > 2 && bytes[0] == '\x80' && bytes[1] >= 2 && bytes[1] <= 5; }

/// A ModelProto begins with its ir_version, and then has the producer, the graph or the like.
bool is_onnx(std::string_view bytes)
{
    return bytes.size() > 3 && bytes[0] == 0x08 && bytes[1] > 0 && bytes[1] < 0x20 && (bytes[2] == 0x12 || bytes[2] == 0x3a || bytes[2] == 0x42);
}

/// A ModelProto whose first piece is a text with a score.
bool is_sentencepiece(std::string_view bytes)
{
    return bytes.size() > 4 && bytes[0] == 0x0a && uint8_t(bytes[1]) < 0x80 && bytes[2] == 0x0a && uint8_t(bytes[3]) + 2 <= uint8_t(bytes[1]);
}

/// The first of a text that is no blank, in small letters, behind a byte-order mark.
std::string text_start(std::string_view bytes)
{
    if (bytes.starts_with("\xef\xbb\xbf")) bytes.remove_prefix(3);
    const size_t first = bytes.find_first_not_of(" \t\r\n");
    std::string start(first == bytes.npos ? "" : bytes.substr(first, 64));
    for (char& c : start)
        if (c >= 'A' && c <= 'Z') c = char(c - 'A' + 'a');
    return start;
}

}    // namespace

std::string other_format(std::string_view bytes)
{
    const auto but = [](std::string_view is, std::string_view advice) { return fmt::format("not a GGUF file but {}: {}", is, advice); };
    for (const Magic& m : magics)
        if (bytes.size() >= m.at + m.bytes.size() && bytes.substr(m.at, m.bytes.size()) == m.bytes) return but(m.is, m.advice);
    if (is_safetensors(bytes)) return but("weights in safetensors", convert_folder);
    if (is_pickle(bytes)) return but("a pickle, as older .bin and .pt files of PyTorch are", convert_folder);
    if (is_onnx(bytes)) return but("a model of ONNX", other_gguf);
    if (is_sentencepiece(bytes)) return but("a vocabulary of SentencePiece", convert_folder);
    const std::string start = text_start(bytes);
    for (const std::string_view page : {"<!doctype"sv, "<html"sv, "<head"sv, "<?xml"sv})
        if (start.starts_with(page)) return but("a web page", download_again);
    if (start.starts_with('{') || start.starts_with('[')) return but("JSON, such as a model's configuration, or the answer of a site", "give the model itself, as GGUF");
    constexpr size_t looked_at = 1 << 16;
    const std::string_view some = bytes.substr(0, looked_at);
    if (some.find_first_not_of('\0') == some.npos) return but("zeros, such as a download that never came", "download it again");
    return "not a GGUF file; give a model that ends in .gguf, or make one with tools/convert.py";
}

std::string what_folder(const std::filesystem::path& folder)
{
    std::vector<std::string> models;
    bool checkpoint = false;
    std::error_code ec;
    for (std::filesystem::directory_iterator entry(folder, ec), end; !ec && entry != end; entry.increment(ec)) {
        const std::string name = entry->path().filename().string();
        if (name.ends_with(".gguf")) models.push_back(name);
        checkpoint = checkpoint || name == "config.json";
    }
    std::ranges::sort(models);
    constexpr size_t shown = 5;
    const std::string more = models.size() > shown ? fmt::format(" and {} more", models.size() - shown) : "";
    models.resize(std::min(models.size(), shown));
    if (!models.empty()) return fmt::format("a directory; name a GGUF file in it, of {}{}", printable(fmt::format("{}", fmt::join(models, ", "))), more);
    if (checkpoint) return "a directory with a model of transformers; make a GGUF file of it with tools/convert.py, and name that";
    return "a directory; name the GGUF file in it";
}

// ---- other kinds of GGUF -----------------------------------------------------------------------------------------------

namespace {

struct Kind {
    std::string_view name;    // of an architecture, or of general.type
    std::string_view is;
    std::string_view advice;
};

constexpr std::string_view give_model = "give the model that it belongs to";
constexpr Kind adapter = {"adapter", "an adapter (LoRA), which changes a model and is none", "merge it into its model (llama-export-lora does), and give that"};
constexpr Kind projector = {"mmproj", "a projector, the part of a model that looks at images or listens", give_model};
constexpr Kind importances = {"imatrix", "an importance matrix, made for quantising a model", give_model};
constexpr Kind control = {"controlvector", "a control vector, which steers a model and is none", give_model};
constexpr std::string_view encoder = "an encoder, which makes vectors of texts and writes none", images = "a model that makes images or films",
                           diffusion = "a diffusion model of text, which does not write token by token", sound = "a model of sound";
constexpr std::string_view other_model = "give a language model that writes text";

constexpr Kind types[] = {adapter, projector, importances, control};

// As llama.cpp, stable-diffusion.cpp, ComfyUI-GGUF and whisper.cpp write them.
constexpr Kind architectures[] = {
    {"clip", projector.is, projector.advice},
    {"imatrix", importances.is, importances.advice},
    {"controlvector", control.is, control.advice},
    {"generic.gpu_index", "PowerInfer's list of a model's neurons for the GPU", "give the model; a list beside it is found by itself"},
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
    const bool vocabulary = file.keys().contains("tokenizer.ggml.model") || file.keys().contains("tokenizer.ggml.tokens");
    if (file.tensors().empty()) {
        if (has_keys(file, "hearth.profile."))
            return Kind{"", "a profile, which says what fires in a model", "give the model, and this with --profile"};
        if (vocabulary) return Kind{"", "a vocabulary alone, without weights", "`hearth tokenize` and `hearth inspect` read it; to run a model give the model itself"};
        return Kind{"", "a GGUF file without weights", other_gguf};
    }
    const std::string prefix = std::string(architecture) + ".";
    const auto causal = file.keys().find(prefix + "attention.causal");
    const bool sees_all = causal != file.keys().end() && std::holds_alternative<bool>(causal->second) && !is_true(file, prefix + "attention.causal");
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
                architecture.empty() || architecture == kind->name ? "" : fmt::format(" (its architecture is {})", architecture), kind->advice);
}

}    // namespace hearth
