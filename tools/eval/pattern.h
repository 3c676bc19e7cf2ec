// Regular expressions as published protocols write them, for Python's `re`, by PCRE2. Where both know an expression
// they agree: matching is of characters, `.` is any but a newline, `$` also stands before the last one.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace hearth::eval {

class Pattern {
  public:
    /// Throws Error where it is none.
    explicit Pattern(std::string_view expression);
    Pattern(Pattern&&) noexcept;
    Pattern& operator=(Pattern&&) noexcept;
    ~Pattern();

    /// As `re.findall`: of every match its groups, or the whole match where the expression has none.
    std::vector<std::vector<std::string>> find_all(std::string_view text) const;

    /// As `re.sub(expression, "", text)`.
    std::string without(std::string_view text) const;

  private:
    struct Match;
    struct Code;
    std::vector<Match> matches(std::string_view text) const;

    std::unique_ptr<Code> code_;
};

}    // namespace hearth::eval
