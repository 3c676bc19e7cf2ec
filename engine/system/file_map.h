// A file's bytes, mapped read-only.
#pragma once

#include "engine/system/signals.h"

#include <cstdint>
#include <filesystem>
#include <string_view>
#include <utility>

namespace hearth {

/// Move-only. A page that cannot be read any more (the file was made shorter, its disk failed) ends a program that has
/// called end_clearly_on_signals with a sentence that names the file. A file that is replaced by another of its name
/// stays what it was.
class MappedFile {
  public:
    /// Throws Error where the file cannot be read, and where it is none.
    explicit MappedFile(const std::filesystem::path& path);
    MappedFile(MappedFile&& other) noexcept { *this = std::move(other); }
    MappedFile& operator=(MappedFile&& other) noexcept
    {
        std::swap(path_, other.path_);
        std::swap(identity_, other.identity_);
        std::swap(data_, other.data_);
        std::swap(size_, other.size_);
        std::swap(note_, other.note_);
        return *this;
    }
    ~MappedFile();
    std::string_view bytes() const { return {data_, size_}; }

    /// Throws Error where the file was written to since it was mapped: what was read and what will be read may not
    /// belong together.
    void check_unchanged() const;

  private:
    /// What a file is known by, and what changes with its bytes.
    struct Identity {
        uint64_t device = 0, node = 0, size = 0;
        int64_t seconds = 0, nanoseconds = 0;
    };

    std::filesystem::path path_;
    Identity identity_;
    const char* data_ = nullptr;
    size_t size_ = 0;
    SignalNote note_;
};

}    // namespace hearth
