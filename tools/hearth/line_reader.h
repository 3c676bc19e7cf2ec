// Lines that somebody types, or that a pipe brings.
#pragma once

#include "tools/hearth/line_editor.h"

namespace hearth::tools {

class LineReader {
  public:
    /// On a terminal lines can be edited, and earlier ones come back with the arrow keys; they are kept in `history`
    /// (empty: nowhere).
    explicit LineReader(std::filesystem::path history);

    /// The next line of standard input, without its end; nothing at the end of the input, or when Ctrl-C was pressed
    /// while it waited. What was pressed before is forgotten.
    std::optional<std::string> read();

    bool on_terminal() const { return on_terminal_; }

  private:
    std::string without_marks(std::string line);

    std::unique_ptr<LineEditor> editor_;    // nullptr where nothing is edited
    bool on_terminal_;
    bool first_ = true;
    std::string read_ahead_;    // by whole blocks, where nobody types
};

}    // namespace hearth::tools
