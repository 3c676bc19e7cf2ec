#include "engine/error.h"

#include <cstdio>
#include <cstdlib>

namespace hearth {

namespace {

/// The character that `text` begins with, and its bytes; none where those are no UTF-8.
struct Character {
    char32_t code = 0;
    size_t length = 0;
};

Character first_character(std::string_view text)
{
    const auto byte = [&](size_t k) { return k < text.size() ? uint8_t(text[k]) : 0u; };
    const unsigned first = byte(0);
    const size_t length = first < 0x80 ? 1 : first >> 5 == 6 ? 2 : first >> 4 == 14 ? 3 : first >> 3 == 30 ? 4 : 0;
    if (length < 2) return {char32_t(first), length};
    char32_t code = first & (0x7fu >> length);
    for (size_t k = 1; k < length; ++k) {
        if (byte(k) >> 6 != 2) return {};
        code = code << 6 | (byte(k) & 0x3f);
    }
    constexpr char32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    const bool surrogate = code >= 0xd800 && code < 0xe000;
    if (code < least[length] || code > 0x10ffff || surrogate) return {};
    return {code, length};
}

bool is_control(char32_t c) { return c < 0x20 || (c >= 0x7f && c < 0xa0); }

/// What changes how the characters beside it look: marks of direction, ends of lines and paragraphs, annotations, tags.
bool is_deceptive(char32_t c)
{
    constexpr struct {
        char32_t first, last;
    } ranges[] = {{0x61c, 0x61c},   {0x200e, 0x200f}, {0x2028, 0x202e},  {0x2066, 0x2069},
                  {0xfeff, 0xfeff}, {0xfff9, 0xfffb}, {0xe0000, 0xe007f}};
    for (const auto& r : ranges)
        if (c >= r.first && c <= r.last) return true;
    return false;
}

/// `text` with what `bad` says of its characters replaced by what `instead` makes of them.
template <class Bad, class Instead>
std::string replaced(std::string_view text, Bad bad, Instead instead)
{
    std::string out;
    out.reserve(text.size());
    for (size_t i = 0; i < text.size();) {
        const Character c = first_character(text.substr(i));
        if (c.length > 0 && !bad(c.code)) out += text.substr(i, c.length);
        else out += instead(c.length > 0 ? c.code : char32_t(uint8_t(text[i])), c.length > 0);
        i += c.length > 0 ? c.length : 1;
    }
    return out;
}

}    // namespace

std::string printable(std::string_view text)
{
    return replaced(
        text, [](char32_t c) { return is_control(c) || is_deceptive(c); }, [](char32_t, bool) { return "?"; });
}

std::string printable_lines(std::string_view text)
{
    return replaced(
        text, [](char32_t c) { return c != '\n' && c != '\t' && (is_control(c) || is_deceptive(c)); },
        [](char32_t, bool) { return "?"; });
}

std::string visible(std::string_view text, std::string_view kept)
{
    const auto is_kept = [&](char32_t c) { return c < 0x80 && kept.find(char(c)) != kept.npos; };
    return replaced(
        text, [&](char32_t c) { return is_control(c) && !is_kept(c); },
        [&](char32_t c, bool whole) -> std::string {
            if (c == '\r' && is_kept('\n')) return "";
            if (c == '\n') return "\\n";
            if (c == '\r') return "\\r";
            if (c == '\t') return "\\t";
            return whole && c >= 0x80 ? fmt::format("\\u{:04x}", uint32_t(c)) : fmt::format("\\x{:02x}", uint32_t(c));
        });
}

void broken(const char* what, const char* file, int line)
{
    fmt::print(stderr, "hearth: internal error: {} does not hold ({}:{}); please report this\n", what, file, line);
    std::abort();
}

}    // namespace hearth
