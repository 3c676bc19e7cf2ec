// Writes our own files: ordinary GGUF v3, of keys only, or models whose tensors come piece by piece.
#pragma once

#include "engine/file/gguf.h"
#include "engine/system/whole_file.h"

#include <span>

namespace hearth {

/// Keys in the order they were added, as the format stores them.
class GgufKeys {
  public:
    void add(std::string_view key, uint32_t value);
    void add(std::string_view key, uint64_t value);
    void add(std::string_view key, double value);
    void add(std::string_view key, std::string_view value);
    void add(std::string_view key, std::span<const uint32_t> values);
    void add(std::string_view key, std::span<const uint64_t> values);
    void add(std::string_view key, std::span<const float> values);
    void add(std::string_view key, std::span<const std::string> values);
    void copy(std::string_view key_and_value);    // as they lie in a file: see Gguf::Raw

    /// A GGUF file of these keys.
    std::string file() const;

    uint64_t count() const { return count_; }
    const std::string& bytes() const { return bytes_; }

  private:
    void begin(std::string_view key, uint32_t type);
    template <class T>
    void array(std::string_view key, uint32_t type, std::span<const T> values);
    template <class T>
    void put(const T& value)
    {
        bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
    }

    std::string bytes_;
    uint64_t count_ = 0;
};

/// What the table of tensors says of one.
struct GgufEntry {
    std::string name;
    uint32_t type = 0;
    std::vector<uint64_t> shape;    // shape[0] is the contiguous one
    uint64_t bytes = 0;
};

/// The beginning of a model's file, up to the first tensor's bytes; what ModelFile writes.
std::string model_header(std::string_view magic, const GgufKeys& keys, uint32_t alignment,
                         std::span<const GgufEntry> tensors);

/// A model's file: the header at once, then the tensors' bytes in the order of the table.
class ModelFile {
  public:
    /// Throws Error where the place cannot be written or has no room. `magic` is GGUF or PWRI; an alignment other than
    /// 32 must be among the keys.
    ModelFile(const std::filesystem::path& path, std::string_view magic, const GgufKeys& keys, uint32_t alignment,
              std::vector<GgufEntry> tensors);

    /// The next bytes, in pieces that do not reach beyond the end of a tensor.
    void write(std::string_view bytes);
    void finish();

    /// The file's.
    uint64_t bytes() const { return bytes_; }

  private:
    WholeFile file_;
    uint32_t alignment_;
    std::vector<GgufEntry> tensors_;
    size_t tensor_ = 0;       // that comes next
    uint64_t written_ = 0;    // of it
    uint64_t bytes_ = 0;
};

/// Copies a model with `keys` added to its header; keys of the model whose name starts with `prefix` are left out.
/// `out` appears whole or not at all. Throws Error.
void embed_keys(const Gguf& model, std::string_view prefix, const GgufKeys& keys, const std::filesystem::path& out);

}    // namespace hearth
