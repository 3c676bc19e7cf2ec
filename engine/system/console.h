// Windows' console, which edits lines itself and brings back earlier ones with the arrow keys.
#pragma once

#include <optional>
#include <string>

namespace hearth {

/// The next line that is typed, without its end; nothing at the end of the input (Ctrl-Z), or where Ctrl-C came first.
/// Throws Error.
std::optional<std::string> read_console_line();

}    // namespace hearth
