// Texts as they come in: from files and from standard input.
#pragma once

#include <string>
#include <string_view>

namespace hearth::tools {

/// All bytes of a file ("-": of standard input). Throws Error, also where reading fails half way.
std::string read_bytes(const std::string& file);

/// The same as a text: without a byte-order mark, lines ended by LF alone. Throws Error where it is UTF-16 or UTF-32.
std::string read_text_file(const std::string& file);

/// What `read_text_file` makes of bytes; `name` is for the error.
std::string plain_text(std::string bytes, std::string_view name);

/// \n \r \t \\ \' \" and \xHH become what they stand for; other backslashes stay.
std::string unescape(std::string_view text);

}    // namespace hearth::tools
