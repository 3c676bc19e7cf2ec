// Lines that somebody types on a terminal.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

namespace hearth::tools {

class LineEditor {
  public:
    LineEditor() = default;
    virtual ~LineEditor() = default;
    LineEditor(const LineEditor&) = delete;
    LineEditor& operator=(const LineEditor&) = delete;

    /// The next line, without its end; nothing at the end of the input, or when Ctrl-C was pressed.
    virtual std::optional<std::string> read() = 0;
};

/// nullptr where there is none, which is said. Lines are kept in `history` (empty: nowhere).
std::unique_ptr<LineEditor> open_line_editor(std::filesystem::path history);

}    // namespace hearth::tools
