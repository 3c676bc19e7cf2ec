#include "engine/file/gguf_writer.h"

#include "engine/file/bytes.h"

#include <system_error>
#include <utility>

namespace hearth {

namespace {

// Numbers of value types in the format.
constexpr uint32_t type_u32 = 4, type_f32 = 6, type_text = 8, type_array = 9, type_u64 = 10, type_f64 = 12;

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

void GgufKeys::copy(std::string_view key_and_value)
{
    bytes_ += key_and_value;
    ++count_;
}

// ---- files ----------------------------------------------------------------------------------------------------------

namespace {

std::string padding(uint64_t size, uint32_t alignment)
{
    return std::string((alignment - size % alignment) % alignment, '\0');
}

}    // namespace

std::string model_header(std::string_view magic, const GgufKeys& keys, uint32_t alignment,
                         std::span<const GgufEntry> tensors)
{
    std::string begin = header(magic, tensors.size(), keys.count()) + keys.bytes();
    uint64_t offset = 0;
    for (const GgufEntry& t : tensors) {
        append_text(begin, t.name);
        append(begin, uint32_t(t.shape.size()));
        for (const uint64_t n : t.shape) append(begin, n);
        append(begin, t.type);
        append(begin, offset);
        offset += t.bytes + padding(t.bytes, alignment).size();
    }
    return begin + padding(begin.size(), alignment);
}

ModelFile::ModelFile(const std::filesystem::path& path, std::string_view magic, const GgufKeys& keys,
                     uint32_t alignment, std::vector<GgufEntry> tensors)
    : file_(path), alignment_(alignment), tensors_(std::move(tensors))
{
    const std::string begin = model_header(magic, keys, alignment, tensors_);
    bytes_ = begin.size();
    for (const GgufEntry& t : tensors_) bytes_ += t.bytes + padding(t.bytes, alignment).size();

    std::error_code ec;
    const std::filesystem::space_info disk = std::filesystem::space(std::filesystem::absolute(path).parent_path(), ec);
    if (!ec && disk.available < bytes_)
        throw Error("{} takes {:.1f} MB, and its disk has room for {:.1f} MB: make room, or name another file",
                    path.string(), double(bytes_) / 1e6, double(disk.available) / 1e6);
    file_.write(begin);
}

void ModelFile::write(std::string_view bytes)
{
    HEARTH_CHECK(tensor_ < tensors_.size() && bytes.size() <= tensors_[tensor_].bytes - written_);
    file_.write(bytes);
    written_ += bytes.size();
    if (written_ < tensors_[tensor_].bytes) return;
    file_.write(padding(written_, alignment_));
    written_ = 0;
    ++tensor_;
}

void ModelFile::finish()
{
    HEARTH_CHECK(tensor_ == tensors_.size());
    file_.finish();
}

void embed_keys(const Gguf& model, std::string_view prefix, const GgufKeys& keys, const std::filesystem::path& out)
{
    if (model.files().size() > 1)
        throw Error("{} is in parts, and keys can only be added to a model in one file: join them with "
                    "llama-gguf-split --merge",
                    model.path().string());
    const Gguf::Raw& raw = model.raw();
    uint64_t kept = 0;
    for (const auto& [name, bytes] : raw.keys) kept += !name.starts_with(prefix);
    const std::string begin = header(raw.magic, raw.tensor_count, kept + keys.count());
    std::vector<std::string_view> parts = {begin};
    for (const auto& [name, bytes] : raw.keys)
        if (!name.starts_with(prefix)) parts.push_back(bytes);
    parts.insert(parts.end(), {keys.bytes(), raw.tensors});
    uint64_t size = 0;
    for (const std::string_view part : parts) size += part.size();
    const std::string gap = padding(size, model.alignment());
    parts.insert(parts.end(), {gap, raw.data});
    write_whole(out, parts);
}

}    // namespace hearth
