// From an answer's text to what counts of it, and whether that is right: the filters and the exact match of
// lm-evaluation-harness (https://github.com/EleutherAI/lm-evaluation-harness), quirks included, so that numbers can be
// compared with published ones.
#pragma once

#include <string>
#include <string_view>

namespace hearth::eval {

/// One way to find the result in an answer. Of a match with groups the first that is not empty counts.
struct Extraction {
    std::string name, pattern;
    bool last = false;    // of several matches the last one counts, not the first
};

inline constexpr std::string_view nothing_found = "[invalid]";

/// What an answer says, without white space around it; nothing_found where it says nothing.
std::string extract(const Extraction& how, std::string_view answer);

/// A result as it is compared: without commas, dollars, what stands before "#### " and a full stop at the end; in small
/// letters.
std::string comparable(std::string_view result);

}    // namespace hearth::eval
