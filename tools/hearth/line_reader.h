// Lines that somebody types, or that a pipe brings.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

namespace hearth::tools {

class LineReader {
  public:
    /// On a terminal lines can be edited, and earlier ones come back with the arrow keys; they are kept in `history`
    /// (empty: nowhere).
    explicit LineReader(std::filesystem::path history);
    ~LineReader();

    /// The next line of standard input, without its end; nothing at the end of the input, or when Ctrl-C was pressed
    /// while it waited. What was pressed before is forgotten.
    std::optional<std::string> read();

    bool on_terminal() const { return on_terminal_; }

  private:
    class Editor;
    std::unique_ptr<Editor> editor_;    // nullptr where nothing is edited
    std::string without_marks(std::string line);

    bool on_terminal_;
    bool first_ = true;
    std::string read_ahead_;    // by whole blocks, where nobody types
};

/// $XDG_STATE_HOME/hearth/chat_history, by default in ~/.local/state; empty where there is no such place.
std::filesystem::path chat_history_path();

}    // namespace hearth::tools
