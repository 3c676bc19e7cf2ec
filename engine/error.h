// Errors of the user's world: a file, a device, memory, a flag. Thrown anywhere, caught once in main, exit code 1.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <string_view>

namespace hearth {

/// One sentence: what is wrong, where, and what to do.
class Error : public std::runtime_error {
  public:
    template <class... Args>
    explicit Error(fmt::format_string<Args...> format, Args&&... args) : std::runtime_error(fmt::format(format, std::forward<Args>(args)...))
    {
    }
};

/// A text from a file or a command line as part of a one-line message: control characters and invalid UTF-8 become '?'.
std::string printable(std::string_view text);

[[noreturn]] void broken(const char* what, const char* file, int line);

/// A promise of our own code, held in release builds too. A failure is a bug in Hearth: message and abort.
#define HEARTH_CHECK(condition) ((condition) ? void() : ::hearth::broken(#condition, __FILE__, __LINE__))

}    // namespace hearth
