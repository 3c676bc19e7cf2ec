// Records that must survive: a file that grows by whole lines.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace hearth {

/// A file of lines, each added by one write to its end: whatever kills the program, what was added stays, and at most
/// the last line is cut short, which the next to open it removes. Only one process at a time has it open. Throws Error.
class LineFile {
  public:
    enum class Mode {
        fresh,    // a file that has something in it already is refused
        go_on,    // it may have
    };
    LineFile(std::filesystem::path path, Mode mode);
    ~LineFile();
    LineFile(const LineFile&) = delete;
    LineFile& operator=(const LineFile&) = delete;

    /// What it held when it was opened: whole lines.
    const std::string& before() const { return before_; }

    /// Appends a line and its end. Where there is no room for all of it, nothing of it stays.
    void add(std::string_view line);

  private:
    [[noreturn]] void fail(const char* what, int error) const;

    std::filesystem::path path_;
    int file_ = -1;
    std::string before_;
    double synced_ = 0;    // when, by the steady clock
};

}    // namespace hearth
