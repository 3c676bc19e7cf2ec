// Writes our own small files: ordinary GGUF v3 with keys only, by themselves or added to a model's header.
#pragma once

#include "engine/model/gguf.h"

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

/// Copies a model with `keys` added to its header; keys of the model whose name starts with `prefix` are left out. `out` appears whole or not at all.
/// Throws Error.
void embed_keys(const Gguf& model, std::string_view prefix, const GgufKeys& keys, const std::filesystem::path& out);

/// Writes a file that appears whole or not at all. Throws Error.
void write_whole(const std::filesystem::path& path, std::span<const std::string_view> parts);

}    // namespace hearth
