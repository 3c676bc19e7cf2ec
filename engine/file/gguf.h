// GGUF v2/v3 files, memory-mapped and read-only. Every count, length and offset is checked before use.
// A model may lie in several files, NAME-00001-of-0000N.gguf and on: the first one has the keys, the tensors are spread
// over all of them. Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md PowerInfer's files have the same
// body after another magic, PWRI: https://github.com/SJTU-IPADS/PowerInfer
#pragma once

#include "engine/error.h"
#include "engine/file/override.h"
#include "engine/system/file_map.h"
#include "host/matrix.h"

#include <cstdint>
#include <deque>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace hearth {

/// Unsigned integers as uint64_t, signed ones as int64_t, floats as double; in arrays integers and bools as int64_t.
using GgufValue = std::variant<bool, int64_t, uint64_t, double, std::string_view, std::vector<int64_t>,
                               std::vector<double>, std::vector<std::string_view>>;

struct GgufTensor {
    std::string_view name;
    uint32_t type = 0;                  // ggml's number of today; see find_format
    std::vector<uint64_t> shape;        // ne of the format: shape[0] is the contiguous one
    const std::byte* data = nullptr;    // aligned to 8
    bool there = true;                  // else `data` lies behind what there is of the file, and must not be read
    uint64_t bytes = 0;                 // 0 where the type is neither one of weight_formats nor I8 or I32

    /// Of a sparse type: Matrix::starts. In the file such a tensor is an I8 one of its rows' bytes and sparse_slack,
    /// and what its starts are is the I32 tensor NAME.starts, which `tensors` leaves out. The keys
    /// hearth.sparse.tensors, .types and .columns are three arrays: the tensors' names, the types of their values
    /// ("F16", "Q8_0"), and how many columns they have.
    const uint32_t* starts = nullptr;

    std::string type_name()
        const;    // "F16"; "IQ4_XS" for types that this program cannot read but knows by name; "type 99" for others
};

/// What becomes of a file that ends before its tensors do.
enum class Cut {
    refused,
    allowed,    // for who asks for shapes only: the first megabytes of a file are enough
};

class Gguf {
  public:
    /// Of a model in parts any of them, which opens all. Throws Error with the path and the first thing that is wrong
    /// with the file, or with the parts: one that is missing, or that does not belong to the others; also where an
    /// override has another type than the file's value, or is of a key that says how the file lies.
    explicit Gguf(const std::filesystem::path& path, const std::vector<Override>& overrides = {},
                  Cut cut = Cut::refused);

    /// A file that is in memory already, aligned to 8 bytes; `bytes` must outlive this. The name is for messages.
    Gguf(const std::filesystem::path& name, std::string_view bytes);

    /// A file of which there is nothing but its header (model_header), which it keeps.
    static Gguf of_header(const std::filesystem::path& name, std::string header,
                          const std::vector<Override>& overrides = {});

    const std::filesystem::path& path() const { return path_; }
    uint32_t version() const { return version_; }
    bool powerinfer() const { return powerinfer_; }    // the magic is PWRI
    uint64_t file_bytes() const;                       // of all parts, what is cut off included
    bool complete() const;                             // all tensors are there
    /// All parts; of a model in one file, that one.
    std::vector<std::filesystem::path> files() const;
    const std::map<std::string_view, GgufValue>& keys() const { return keys_; }
    const std::vector<GgufTensor>& tensors() const { return tensors_; }

    /// What the file consists of as it lies there, for copying: its magic, each key with its value, the table of
    /// tensors, and what follows from the first tensor's data on. Of a model in parts, what the first one consists of.
    struct Raw {
        std::string_view magic;
        std::vector<std::pair<std::string_view, std::string_view>> keys;    // name, bytes
        std::string_view tensors, data;
        uint64_t tensor_count = 0;
    };
    const Raw& raw() const { return raw_; }    // with what was overridden

    /// What was overridden, for a note: "KEY is VALUE instead of VALUE".
    const std::vector<std::string>& overridden() const { return overridden_; }
    uint32_t alignment() const { return u32("general.alignment", 32); }

    /// Throws Error where the bits of a sparse row contradict its length: kernels might read beyond it. To be called
    /// before they read any.
    void check_sparse_rows() const;

    /// Throws Error where a file of it was written to since it was opened.
    void check_unchanged() const;

    /// nullptr where there is no such tensor.
    const GgufTensor* find(std::string_view name) const;

    /// Keys by type: Error (naming file and key) if the value is of another type or, where there is no `fallback`,
    /// missing. Every integer type that holds the value will do for u64 and u32; f32 is finite.
    uint64_t u64(std::string_view key) const;
    uint32_t u32(std::string_view key) const;
    uint32_t u32(std::string_view key, uint32_t fallback) const;
    float f32(std::string_view key) const;
    float f32(std::string_view key, float fallback) const;
    bool boolean(std::string_view key, bool fallback) const;
    std::string_view string(std::string_view key) const;
    std::string_view string(std::string_view key, std::string_view fallback) const;
    const std::vector<std::string_view>& strings(std::string_view key) const;
    /// nullptr where the key is missing.
    const std::vector<double>* floats(std::string_view key) const;
    const std::vector<int64_t>* integers(std::string_view key) const;

    /// A list of `n` numbers that is stored as an I32 tensor. Error (naming file and tensor) where it is missing, of
    /// another type or another shape. Without `n` any number of them will do.
    std::span<const int32_t> numbers(std::string_view tensor, std::optional<uint64_t> n = {}) const;

  private:
    struct Alone {};    // the named file, even if it is one part of several
    Gguf(const std::filesystem::path& path, Alone, Cut cut = Cut::refused);
    Gguf() = default;
    void parse(Cut cut = Cut::refused);
    void open_parts();
    void refuse_overlaps() const;
    void read_sparse();
    void apply(const std::vector<Override>& overrides);    // override.cpp
    const GgufValue* value(std::string_view key) const;
    template <class T>
    const T& get(std::string_view key, const char* expected) const;

    std::filesystem::path path_;        // that was asked for
    std::optional<MappedFile> file_;    // empty where the bytes were given
    std::string_view bytes_;
    uint32_t version_ = 0;
    Raw raw_;
    bool powerinfer_ = false;
    uint64_t whole_bytes_ = 0;    // that it has by its table of tensors
    std::map<std::string_view, GgufValue> keys_;
    std::deque<std::string> owned_;    // what was overridden, for the views of it; its elements never move
    std::vector<std::string> overridden_;
    std::vector<GgufTensor> tensors_;
    std::map<std::string_view, size_t> index_;
    std::filesystem::path first_;    // of a model in parts, the first part
    std::vector<Gguf> parts_;        // all but the first, whose tensors are listed here, too
};

}    // namespace hearth
