#include "engine/file/other_format.h"

#include "engine/error.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <system_error>
#include <vector>

namespace hearth {

using namespace std::string_view_literals;

namespace {

/// A format that is known by bytes at a place.
struct Magic {
    std::string_view bytes;
    size_t at;
    std::string_view is;
    std::string_view advice;
};

constexpr std::string_view convert_folder = "convert the whole folder that it is in with tools/models/convert.py";
constexpr std::string_view download_again =
    "download the file itself; sites that want a login or a licence accepted answer with a page";
constexpr std::string_view unpack = "unpack it, and give the .gguf file in it";
constexpr std::string_view other_gguf = "give a GGUF file of the model";
constexpr std::string_view old_ggml =
    "ggml wrote such files before August 2023: get the model as GGUF, or convert it from its original";

constexpr Magic magics[] = {
    {"lmgg"sv, 0, "a model in the old format ggml", old_ggml},
    {"fmgg"sv, 0, "a model in the old format ggmf", old_ggml},
    {"tjgg"sv, 0, "a model in the old format ggjt", old_ggml},
    {"algg"sv, 0, "an adapter (LoRA) in the old format ggla", "give the model that it was made for, as GGUF"},
    {"nsgg"sv, 0, "a saved session of llama.cpp", "give the model that it was made with"},
    {"qsgg"sv, 0, "a saved sequence of llama.cpp", "give the model that it was made with"},
    {"ggml"sv, 0, "a model in the old format ggml, of a big-endian machine", old_ggml},
    {"version https://git-lfs"sv, 0, "a pointer of Git LFS to a file that was not downloaded",
     "run `git lfs pull` in its folder"},
    {"PK\x03\x04"sv, 0, "a zip archive, as PyTorch's .bin and .pt files are",
     "convert the folder of such a model with tools/models/convert.py; other archives are to be unpacked"},
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
    {"\x7f"
     "ELF"sv,
     0, "a program", other_gguf},
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
bool is_pickle(std::string_view bytes)
{
    return bytes.size() > 2 && bytes[0] == '\x80' && bytes[1] >= 2 && bytes[1] <= 5;
}

/// A ModelProto begins with its ir_version, and then has the producer, the graph or the like.
bool is_onnx(std::string_view bytes)
{
    return bytes.size() > 3 && bytes[0] == 0x08 && bytes[1] > 0 && bytes[1] < 0x20 &&
           (bytes[2] == 0x12 || bytes[2] == 0x3a || bytes[2] == 0x42);
}

/// A ModelProto whose first piece is a text with a score.
bool is_sentencepiece(std::string_view bytes)
{
    return bytes.size() > 4 && bytes[0] == 0x0a && uint8_t(bytes[1]) < 0x80 && bytes[2] == 0x0a &&
           uint8_t(bytes[3]) + 2 <= uint8_t(bytes[1]);
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
    const auto but = [](std::string_view is, std::string_view advice) {
        return fmt::format("not a GGUF file but {}: {}", is, advice);
    };
    for (const Magic& m : magics)
        if (bytes.size() >= m.at + m.bytes.size() && bytes.substr(m.at, m.bytes.size()) == m.bytes)
            return but(m.is, m.advice);
    if (is_safetensors(bytes)) return but("weights in safetensors", convert_folder);
    if (is_pickle(bytes)) return but("a pickle, as older .bin and .pt files of PyTorch are", convert_folder);
    if (is_onnx(bytes)) return but("a model of ONNX", other_gguf);
    if (is_sentencepiece(bytes)) return but("a vocabulary of SentencePiece", convert_folder);
    const std::string start = text_start(bytes);
    for (const std::string_view page : {"<!doctype"sv, "<html"sv, "<head"sv, "<?xml"sv})
        if (start.starts_with(page)) return but("a web page", download_again);
    if (start.starts_with('{') || start.starts_with('['))
        return but("JSON, such as a model's configuration, or the answer of a site", "give the model itself, as GGUF");
    constexpr size_t looked_at = 1 << 16;
    const std::string_view some = bytes.substr(0, looked_at);
    if (some.find_first_not_of('\0') == some.npos)
        return but("zeros, such as a download that never came", "download it again");
    return "not a GGUF file; give a model that ends in .gguf, or make one with tools/models/convert.py";
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
    if (!models.empty())
        return fmt::format("a directory; name a GGUF file in it, of {}{}",
                           printable(fmt::format("{}", fmt::join(models, ", "))), more);
    if (checkpoint)
        return "a directory with a model of transformers; make a GGUF file of it with tools/models/convert.py, and "
               "name that";
    return "a directory; name the GGUF file in it";
}

}    // namespace hearth
