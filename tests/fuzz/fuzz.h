// What the fuzz targets share. A target is one reader: it takes any bytes, and gives a result or throws Error.
// Everything else that comes of them is a fault: another exception, a broken promise (HEARTH_CHECK), what the
// sanitizers see, more than two seconds, more than 64 times the input's memory. tools/fuzz builds and runs them;
// tests/fuzz/make_corpus.cpp makes what they start from.
#pragma once

#include "engine/error.h"

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace hearth::fuzz {

/// The target, which ends where the reader is done. The bytes lie at a multiple of 16, and nothing before or behind
/// them may be read.
void read(std::string_view bytes);

/// What the target may allocate beyond 64 times its input: what a reader needs whatever the file.
extern const uint64_t base_memory;

/// Of an Error that an input came to; shown where HEARTH_FUZZ_SAY is set.
void refused(const Error& error);

/// Runs a part of the work whose refusal does not end the rest.
template <class F>
void try_to(F&& f)
{
    try {
        f();
    } catch (const Error& error) {
        refused(error);
    }
}

/// So that a sum over what was read is not left out.
inline void use(const volatile uint64_t&) {}

/// A promise that the target makes of what was read.
#define FUZZ_CHECK(condition) HEARTH_CHECK(condition)

/// A file in memory with these bytes, for readers that want a path; gone with this. One at a time of each name.
class TemporaryFile {
  public:
    TemporaryFile(const std::string& name, std::string_view bytes);
    ~TemporaryFile();
    TemporaryFile(const TemporaryFile&) = delete;
    TemporaryFile& operator=(const TemporaryFile&) = delete;
    const std::filesystem::path& path() const { return path_; }

    /// Where such files lie: a folder of this process.
    static const std::filesystem::path& folder();

  private:
    std::filesystem::path path_;
};

}    // namespace hearth::fuzz
