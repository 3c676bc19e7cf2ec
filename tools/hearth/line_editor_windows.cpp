// Windows' console edits lines itself, and has a history of its own.
#include "tools/hearth/line_editor.h"

#include "engine/system/console.h"
#include "tools/hearth/cli.h"

namespace hearth::tools {

namespace {

class ConsoleEditor : public LineEditor {
  public:
    std::optional<std::string> read() override
    {
        std::fputs("> ", stderr);
        std::optional<std::string> line = read_console_line();
        return interrupted() ? std::nullopt : line;
    }
};

}    // namespace

std::unique_ptr<LineEditor> open_line_editor(std::filesystem::path) { return std::make_unique<ConsoleEditor>(); }

}    // namespace hearth::tools
