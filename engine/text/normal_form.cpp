#include "engine/text/normal_form.h"

#include "engine/error.h"
#include "engine/text/utf8.h"

#include <utf8proc.h>

#include <algorithm>
#include <iterator>
#include <vector>

namespace hearth {

namespace {

/// Appends a text that is UTF-8 in its normal form. utf8proc sorts the marks on a letter by swapping neighbours, in the
/// square of their number, so the sorting is done here.
void append_composed(std::string_view text, std::string& normal)
{
    struct Character {
        utf8proc_int32_t code;
        utf8proc_propval_t order;    // canonical combining class; 0: no mark
    };
    constexpr auto decompose = utf8proc_option_t(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE);
    constexpr auto compose = utf8proc_option_t(UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    std::vector<Character> characters;
    characters.reserve(text.size());
    for (size_t at = 0; at < text.size();) {
        utf8proc_int32_t code = 0, parts[64];    // the longest decomposition has four
        int boundary = UTF8PROC_BOUNDCLASS_START;
        at += size_t(utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()) + at,
                                      utf8proc_ssize_t(text.size() - at), &code));
        const utf8proc_ssize_t count = utf8proc_decompose_char(code, parts, std::size(parts), decompose, &boundary);
        HEARTH_CHECK(count >= 0 && size_t(count) <= std::size(parts));
        for (utf8proc_ssize_t i = 0; i < count; i++)
            characters.push_back({parts[i], utf8proc_get_property(parts[i])->combining_class});
    }
    const auto is_mark = [](const Character& c) { return c.order != 0; };
    for (auto begin = characters.begin(); begin != characters.end();) {
        begin = std::find_if(begin, characters.end(), is_mark);
        const auto end = std::find_if_not(begin, characters.end(), is_mark);
        std::stable_sort(begin, end, [](const Character& a, const Character& b) { return a.order < b.order; });
        begin = end;
    }
    std::vector<utf8proc_int32_t> codes(characters.size() + 1);    // its bytes are written over it, and a zero
    std::ranges::transform(characters, codes.begin(), &Character::code);
    const utf8proc_ssize_t bytes = utf8proc_reencode(codes.data(), utf8proc_ssize_t(characters.size()), compose);
    if (bytes < 0) throw Error("a text of {} bytes is too long to be tokenised at once; split it", text.size());
    normal.append(reinterpret_cast<const char*>(codes.data()), size_t(bytes));
}

}    // namespace

std::string normal_form_c(std::string_view text)
{
    // Nothing below U+0300, whose first byte is this, is changed or joins with a neighbour: most texts are done here.
    if (std::ranges::none_of(text, [](char c) { return uint8_t(c) >= 0xcc; })) return std::string(text);
    std::string normal;
    normal.reserve(text.size());
    for (const Utf8Run& run : utf8_runs(text)) {
        if (!run.valid) {
            normal += run.text;
            continue;
        }
        append_composed(run.text, normal);
    }
    return normal;
}

}    // namespace hearth
