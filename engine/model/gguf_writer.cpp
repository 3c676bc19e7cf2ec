#include "engine/model/gguf_writer.h"

#include <cstdio>
#include <cstring>
#include <system_error>

namespace hearth {

namespace {

// Numbers of value types in the format.
constexpr uint32_t type_u32 = 4, type_f32 = 6, type_text = 8, type_array = 9, type_u64 = 10, type_f64 = 12;

template <class T>
void append(std::string& to, const T& value)
{
    to.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void append_text(std::string& to, std::string_view text)
{
    append(to, uint64_t(text.size()));
    to += text;
}

std::string header(std::string_view magic, uint64_t tensors, uint64_t keys)
{
    std::string out(magic);
    append(out, uint32_t(3));
    append(out, tensors);
    append(out, keys);
    return out;
}

}    // namespace

void GgufKeys::begin(std::string_view key, uint32_t type)
{
    append_text(bytes_, key);
    put(type);
    ++count_;
}

template <class T>
void GgufKeys::array(std::string_view key, uint32_t type, std::span<const T> values)
{
    begin(key, type_array);
    put(type);
    put(uint64_t(values.size()));
    bytes_.append(reinterpret_cast<const char*>(values.data()), values.size_bytes());
}

void GgufKeys::add(std::string_view key, uint32_t value) { begin(key, type_u32), put(value); }
void GgufKeys::add(std::string_view key, uint64_t value) { begin(key, type_u64), put(value); }
void GgufKeys::add(std::string_view key, double value) { begin(key, type_f64), put(value); }
void GgufKeys::add(std::string_view key, std::string_view value) { begin(key, type_text), append_text(bytes_, value); }
void GgufKeys::add(std::string_view key, std::span<const uint32_t> values) { array(key, type_u32, values); }
void GgufKeys::add(std::string_view key, std::span<const uint64_t> values) { array(key, type_u64, values); }
void GgufKeys::add(std::string_view key, std::span<const float> values) { array(key, type_f32, values); }

void GgufKeys::add(std::string_view key, std::span<const std::string> values)
{
    begin(key, type_array);
    put(type_text);
    put(uint64_t(values.size()));
    for (const std::string& text : values) append_text(bytes_, text);
}

std::string GgufKeys::file() const { return header("GGUF", 0, count_) + bytes_; }

void write_whole(const std::filesystem::path& path, std::span<const std::string_view> parts)
{
    const std::filesystem::path part = path.string() + ".part";
    const auto fail = [&](int error) {
        std::error_code ec;
        std::filesystem::remove(part, ec);
        throw Error("{} cannot be written: {}; make room, or name another file", path.string(), std::generic_category().message(error));
    };
    std::FILE* file = std::fopen(part.string().c_str(), "wb");
    if (!file) fail(errno);
    bool good = true;
    for (const std::string_view bytes : parts) good = good && std::fwrite(bytes.data(), 1, bytes.size(), file) == bytes.size();
    const int error = errno;
    if (std::fclose(file) != 0 || !good) fail(good ? errno : error);
    std::error_code ec;
    std::filesystem::rename(part, path, ec);
    if (ec) fail(ec.value());
}

void embed_keys(const Gguf& model, std::string_view prefix, const GgufKeys& keys, const std::filesystem::path& out)
{
    const Gguf::Raw& raw = model.raw();
    uint64_t kept = 0;
    for (const auto& [name, bytes] : raw.keys) kept += !name.starts_with(prefix);
    const std::string begin = header(raw.magic, model.tensors().size(), kept + keys.count());
    std::vector<std::string_view> parts = {begin};
    for (const auto& [name, bytes] : raw.keys)
        if (!name.starts_with(prefix)) parts.push_back(bytes);
    parts.insert(parts.end(), {keys.bytes(), raw.tensors});
    uint64_t size = 0;
    for (const std::string_view part : parts) size += part.size();
    const std::string padding((model.alignment() - size % model.alignment()) % model.alignment(), '\0');
    parts.insert(parts.end(), {padding, raw.data});
    write_whole(out, parts);
}

}    // namespace hearth
