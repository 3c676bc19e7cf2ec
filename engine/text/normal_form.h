// Unicode's normal form C (https://www.unicode.org/reports/tr15): a letter and the marks on it are one character where
// there is one.
#pragma once

#include <string>
#include <string_view>

namespace hearth {

/// A text in normal form C. Bytes that are not UTF-8 stay, and what is before them does not join with what comes after.
/// Throws Error where the text is too long for the memory there is.
std::string normal_form_c(std::string_view text);

}    // namespace hearth
