// Errors of the user's world: a file, a device, memory, a flag. Thrown anywhere, caught once in main, exit code 1.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <string_view>

namespace hearth {

/// A text from a file, a name or a command line as part of one line: what could move the cursor, colour, hide or turn
/// around what stands beside it (control characters C0 and C1, line ends, marks of direction, invalid UTF-8) becomes
/// '?'.
std::string printable(std::string_view text);

/// The same for several lines: line ends and tabs stay.
std::string printable_lines(std::string_view text);

/// A text with control characters and invalid UTF-8 as they would be typed in a program: \x1b, \n. Those of `kept` stay
/// as they are; a \r is left out where \n is kept.
std::string visible(std::string_view text, std::string_view kept = "");

/// One sentence: what is wrong, where, and what to do. Whatever it names is made printable here, in one place for all.
class Error : public std::runtime_error {
  public:
    template <class... Args>
    explicit Error(fmt::format_string<Args...> format, Args&&... args)
        : std::runtime_error(printable(fmt::format(format, std::forward<Args>(args)...)))
    {
    }
};

[[noreturn]] void broken(const char* what, const char* file, int line);

/// A promise of our own code, held in release builds too. A failure is a bug in Hearth: message and abort.
#define HEARTH_CHECK(condition) ((condition) ? void() : ::hearth::broken(#condition, __FILE__, __LINE__))

}    // namespace hearth
