// Several files as one input.
#pragma once

#include <string_view>
#include <vector>

namespace hearth::fuzz {

inline constexpr std::string_view part_separator = "--PART--";

/// At least one part, at most nine.
inline std::vector<std::string_view> split_parts(std::string_view bytes)
{
    std::vector<std::string_view> parts;
    for (size_t end = 0; parts.size() < 8 && (end = bytes.find(part_separator)) != bytes.npos;
         bytes.remove_prefix(end + part_separator.size()))
        parts.push_back(bytes.substr(0, end));
    parts.push_back(bytes);
    return parts;
}

}    // namespace hearth::fuzz
