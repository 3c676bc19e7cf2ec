#include "tools/hearth/line_reader.h"

#include "engine/system/program.h"
#include "tools/hearth/cli.h"
#include "tools/hearth/text.h"

namespace hearth::tools {

LineReader::LineReader(std::filesystem::path history) : on_terminal_(hearth::on_terminal(stdin))
{
    if (on_terminal_ && hearth::on_terminal(stderr)) editor_ = open_line_editor(std::move(history));
}

std::optional<std::string> LineReader::read()
{
    catch_interrupt();
    if (editor_) {
        std::optional<std::string> line = editor_->read();
        if (!line) say("");    // what comes next stands on a line of its own
        return line;
    }
    if (on_terminal_) std::fputs("> ", stderr);
    size_t end;
    while ((end = read_ahead_.find('\n')) == read_ahead_.npos) {
        char block[4096];
        const size_t count = read_input(block, sizeof block, interrupted);
        if (interrupted() || (!count && read_ahead_.empty())) return {};
        if (!count) {    // the last line may lack its end
            end = read_ahead_.size();
            break;
        }
        read_ahead_.append(block, count);
    }
    std::string line = read_ahead_.substr(0, end);
    read_ahead_.erase(0, end + 1);
    return without_marks(std::move(line));
}

/// A line of a pipe or a file, whose end may be CRLF, and which may be the first one, with a byte-order mark.
std::string LineReader::without_marks(std::string line)
{
    if (line.ends_with('\r')) line.pop_back();
    return std::exchange(first_, false) ? plain_text(std::move(line), "standard input") : line;
}

}    // namespace hearth::tools
