// The one way in which files are written: whole or not at all.
#pragma once

#include "engine/system/signals.h"

#include <cstdio>
#include <filesystem>
#include <span>
#include <string_view>
#include <utility>

namespace hearth {

/// A file that appears whole or not at all, under whatever fails: an error, a signal, a kill, a loss of power. It is
/// written beside PATH as PATH.0123456789abcdef.part, a name that nobody can guess, is synced, and takes PATH's name
/// and mode. Of several writers of one file the last one wins, with a whole file. What a killed writer left behind, the
/// next writer of the same file removes. It is opened at once, so that a place that cannot be written is told before
/// the work. A link is followed. Throws Error.
class WholeFile {
  public:
    struct Options {
        bool devices = false;      // a pipe or a device is written as it is; else it is an error
        bool for_owner = false;    // nobody else may read it, whatever was there before
    };
    explicit WholeFile(std::filesystem::path path) : WholeFile(std::move(path), Options()) {}
    WholeFile(std::filesystem::path path, const Options& options);
    ~WholeFile();
    WholeFile(const WholeFile&) = delete;
    WholeFile& operator=(const WholeFile&) = delete;

    /// The file that a path's links lead to, whether it is there or not.
    static std::filesystem::path target_of(std::filesystem::path path);

    void write(std::string_view bytes);
    void finish();

  private:
    [[noreturn]] void fail(int error) const;
    void create(bool for_owner);

    std::filesystem::path path_, part_;    // part_: empty where the bytes go to `path_` itself
    std::FILE* file_ = nullptr;
    SignalNote note_;
};

void write_whole(const std::filesystem::path& path, std::span<const std::string_view> parts);

}    // namespace hearth
