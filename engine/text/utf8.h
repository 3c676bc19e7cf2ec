// UTF-8, one character at a time.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace hearth {

enum class Utf8 { whole, unfinished, invalid };

struct Utf8Step {
    Utf8 state;
    size_t bytes;    // of the character; of the maximal subpart (Unicode 3.9, "U+FFFD substitution") where it is
                     // unfinished or invalid
};

/// The first character of a text that is not empty. Surrogates, overlong forms and what lies above U+10FFFF are
/// invalid.
inline Utf8Step first_character(std::string_view text)
{
    const auto at = [&](size_t i) { return uint8_t(text[i]); };
    const uint8_t lead = at(0);
    if (lead < 0x80) return {Utf8::whole, 1};
    const size_t length = lead < 0xc2 ? 0 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : lead < 0xf5 ? 4 : 0;
    if (!length) return {Utf8::invalid, 1};
    // The second byte is bound more closely after these leads.
    const uint8_t low = lead == 0xe0   ? 0xa0
                        : lead == 0xf0 ? 0x90
                                       : 0x80,
                  high = lead == 0xed   ? 0x9f
                         : lead == 0xf4 ? 0x8f
                                        : 0xbf;
    for (size_t i = 1; i < length; i++) {
        if (i == text.size()) return {Utf8::unfinished, i};
        if (at(i) < (i == 1 ? low : 0x80) || at(i) > (i == 1 ? high : 0xbf)) return {Utf8::invalid, i};
    }
    return {Utf8::whole, length};
}

/// Bytes of the first character, 1 where it is none.
inline size_t character_bytes(std::string_view text)
{
    const Utf8Step step = first_character(text);
    return step.state == Utf8::whole ? step.bytes : 1;
}

struct Utf8Run {
    std::string_view text;
    bool valid;
};

/// A text as runs of UTF-8 and of bytes that are none, in turn.
inline std::vector<Utf8Run> utf8_runs(std::string_view text)
{
    std::vector<Utf8Run> runs;
    for (size_t at = 0; at < text.size();) {
        const auto [state, bytes] = first_character(text.substr(at));
        const bool valid = state == Utf8::whole;
        if (runs.empty() || runs.back().valid != valid) runs.push_back({text.substr(at, 0), valid});
        runs.back().text = {runs.back().text.data(), runs.back().text.size() + bytes};
        at += bytes;
    }
    return runs;
}

}    // namespace hearth
