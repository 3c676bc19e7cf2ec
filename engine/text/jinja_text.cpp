#include "engine/text/jinja_text.h"

#include "engine/text/utf8.h"

#include <algorithm>
#include <utf8proc.h>

namespace hearth::jinja {

namespace {

/// The characters whose capital form is several characters (Unicode's SpecialCasing.txt, what holds in every language).
constexpr struct {
    char32_t small;
    TextView capitals;
} long_capitals[] = {
    {0xdf, U"SS"},
    {0x149, U"\u02bcN"},
    {0x1f0, U"J\u030c"},
    {0x390, U"\u0399\u0308\u0301"},
    {0x3b0, U"\u03a5\u0308\u0301"},
    {0x587, U"\u0535\u0552"},
    {0x1e96, U"H\u0331"},
    {0x1e97, U"T\u0308"},
    {0x1e98, U"W\u030a"},
    {0x1e99, U"Y\u030a"},
    {0x1e9a, U"A\u02be"},
    {0x1f50, U"\u03a5\u0313"},
    {0x1f52, U"\u03a5\u0313\u0300"},
    {0x1f54, U"\u03a5\u0313\u0301"},
    {0x1f56, U"\u03a5\u0313\u0342"},
    {0x1f80, U"\u1f08\u0399"},
    {0x1f81, U"\u1f09\u0399"},
    {0x1f82, U"\u1f0a\u0399"},
    {0x1f83, U"\u1f0b\u0399"},
    {0x1f84, U"\u1f0c\u0399"},
    {0x1f85, U"\u1f0d\u0399"},
    {0x1f86, U"\u1f0e\u0399"},
    {0x1f87, U"\u1f0f\u0399"},
    {0x1f88, U"\u1f08\u0399"},
    {0x1f89, U"\u1f09\u0399"},
    {0x1f8a, U"\u1f0a\u0399"},
    {0x1f8b, U"\u1f0b\u0399"},
    {0x1f8c, U"\u1f0c\u0399"},
    {0x1f8d, U"\u1f0d\u0399"},
    {0x1f8e, U"\u1f0e\u0399"},
    {0x1f8f, U"\u1f0f\u0399"},
    {0x1f90, U"\u1f28\u0399"},
    {0x1f91, U"\u1f29\u0399"},
    {0x1f92, U"\u1f2a\u0399"},
    {0x1f93, U"\u1f2b\u0399"},
    {0x1f94, U"\u1f2c\u0399"},
    {0x1f95, U"\u1f2d\u0399"},
    {0x1f96, U"\u1f2e\u0399"},
    {0x1f97, U"\u1f2f\u0399"},
    {0x1f98, U"\u1f28\u0399"},
    {0x1f99, U"\u1f29\u0399"},
    {0x1f9a, U"\u1f2a\u0399"},
    {0x1f9b, U"\u1f2b\u0399"},
    {0x1f9c, U"\u1f2c\u0399"},
    {0x1f9d, U"\u1f2d\u0399"},
    {0x1f9e, U"\u1f2e\u0399"},
    {0x1f9f, U"\u1f2f\u0399"},
    {0x1fa0, U"\u1f68\u0399"},
    {0x1fa1, U"\u1f69\u0399"},
    {0x1fa2, U"\u1f6a\u0399"},
    {0x1fa3, U"\u1f6b\u0399"},
    {0x1fa4, U"\u1f6c\u0399"},
    {0x1fa5, U"\u1f6d\u0399"},
    {0x1fa6, U"\u1f6e\u0399"},
    {0x1fa7, U"\u1f6f\u0399"},
    {0x1fa8, U"\u1f68\u0399"},
    {0x1fa9, U"\u1f69\u0399"},
    {0x1faa, U"\u1f6a\u0399"},
    {0x1fab, U"\u1f6b\u0399"},
    {0x1fac, U"\u1f6c\u0399"},
    {0x1fad, U"\u1f6d\u0399"},
    {0x1fae, U"\u1f6e\u0399"},
    {0x1faf, U"\u1f6f\u0399"},
    {0x1fb2, U"\u1fba\u0399"},
    {0x1fb3, U"\u0391\u0399"},
    {0x1fb4, U"\u0386\u0399"},
    {0x1fb6, U"\u0391\u0342"},
    {0x1fb7, U"\u0391\u0342\u0399"},
    {0x1fbc, U"\u0391\u0399"},
    {0x1fc2, U"\u1fca\u0399"},
    {0x1fc3, U"\u0397\u0399"},
    {0x1fc4, U"\u0389\u0399"},
    {0x1fc6, U"\u0397\u0342"},
    {0x1fc7, U"\u0397\u0342\u0399"},
    {0x1fcc, U"\u0397\u0399"},
    {0x1fd2, U"\u0399\u0308\u0300"},
    {0x1fd3, U"\u0399\u0308\u0301"},
    {0x1fd6, U"\u0399\u0342"},
    {0x1fd7, U"\u0399\u0308\u0342"},
    {0x1fe2, U"\u03a5\u0308\u0300"},
    {0x1fe3, U"\u03a5\u0308\u0301"},
    {0x1fe4, U"\u03a1\u0313"},
    {0x1fe6, U"\u03a5\u0342"},
    {0x1fe7, U"\u03a5\u0308\u0342"},
    {0x1ff2, U"\u1ffa\u0399"},
    {0x1ff3, U"\u03a9\u0399"},
    {0x1ff4, U"\u038f\u0399"},
    {0x1ff6, U"\u03a9\u0342"},
    {0x1ff7, U"\u03a9\u0342\u0399"},
    {0x1ffc, U"\u03a9\u0399"},
    {0xfb00, U"FF"},
    {0xfb01, U"FI"},
    {0xfb02, U"FL"},
    {0xfb03, U"FFI"},
    {0xfb04, U"FFL"},
    {0xfb05, U"ST"},
    {0xfb06, U"ST"},
    {0xfb13, U"\u0544\u0546"},
    {0xfb14, U"\u0544\u0535"},
    {0xfb15, U"\u0544\u053b"},
    {0xfb16, U"\u054e\u0546"},
    {0xfb17, U"\u0544\u053d"},
};

constexpr char32_t capital_iota = 0x399, iota_below = 0x345, capital_sigma = 0x3a3, small_sigma = 0x3c3,
                   final_sigma = 0x3c2, dotted_i = 0x130, quote_n = 0x149, dot_above = 0x307;

/// The several capitals of a character; empty where it has one.
TextView capitals_of(char32_t c)
{
    const auto found = std::lower_bound(std::begin(long_capitals), std::end(long_capitals), c,
                                        [](const auto& row, char32_t x) { return row.small < x; });
    return found != std::end(long_capitals) && found->small == c ? found->capitals : TextView();
}

utf8proc_category_t category(char32_t c)
{
    return c < 0x110000 ? utf8proc_category(utf8proc_int32_t(c)) : UTF8PROC_CATEGORY_CN;
}
char32_t simple_upper(char32_t c) { return char32_t(utf8proc_toupper(utf8proc_int32_t(c))); }
char32_t simple_lower(char32_t c) { return char32_t(utf8proc_tolower(utf8proc_int32_t(c))); }

bool is_cased(char32_t c) { return is_lower(c) || is_upper(c) || is_title(c); }

/// Unicode's Case_Ignorable, near enough: what may stand within a word without being a letter of it.
bool is_ignorable(char32_t c)
{
    const auto kind = category(plain(c));
    return kind == UTF8PROC_CATEGORY_MN || kind == UTF8PROC_CATEGORY_ME || kind == UTF8PROC_CATEGORY_CF ||
           kind == UTF8PROC_CATEGORY_LM || kind == UTF8PROC_CATEGORY_SK ||
           TextView(U"'.:\u00b7\u0387\u2018\u2019\u2024\u2027").find(plain(c)) != TextView::npos;
}

bool ends_word(TextView text, size_t at)
{
    size_t before = at;
    while (before > 0 && is_ignorable(text[before - 1])) before--;
    if (before == 0 || !is_cased(text[before - 1])) return false;
    size_t after = at + 1;
    while (after < text.size() && is_ignorable(text[after])) after++;
    return after == text.size() || !is_cased(text[after]);
}

}    // namespace

void append_utf8(std::string_view utf8, char32_t origin, Text& out)
{
    out.reserve(out.size() + utf8.size());
    for (size_t at = 0; at < utf8.size();) {
        const auto byte = [&](size_t i) { return char32_t(uint8_t(utf8[at + i])); };
        if (byte(0) < 0x80) {
            out += byte(0) | origin;
            at++;
            continue;
        }
        const auto [state, bytes] = first_character(utf8.substr(at));
        if (state != Utf8::whole) {
            for (size_t i = 0; i < bytes; i++) out += char32_t(stray_byte + byte(i)) | origin;
        } else {
            char32_t c = byte(0) & (0xffu >> (bytes + 1));
            for (size_t i = 1; i < bytes; i++) c = c << 6 | (byte(i) & 63);
            out += c | origin;
        }
        at += bytes;
    }
}

void append_utf8(char32_t c, std::string& out)
{
    c = plain(c);
    if (c < 0x80) out += char(c);
    else if (c < 0x800) out += {char(0xc0 | c >> 6), char(0x80 | (c & 63))};
    else if (c >= stray_byte + 0x80 && c <= stray_byte + 0xff) out += char(c - stray_byte);
    else if (c < 0x10000) out += {char(0xe0 | c >> 12), char(0x80 | (c >> 6 & 63)), char(0x80 | (c & 63))};
    else out += {char(0xf0 | c >> 18), char(0x80 | (c >> 12 & 63)), char(0x80 | (c >> 6 & 63)), char(0x80 | (c & 63))};
}

Text from_utf8(std::string_view utf8, char32_t origin)
{
    Text text;
    append_utf8(utf8, origin, text);
    return text;
}

std::string to_utf8(TextView text)
{
    std::string bytes;
    bytes.reserve(text.size());
    for (const char32_t c : text) append_utf8(c, bytes);
    return bytes;
}

int compare(TextView a, TextView b)
{
    const size_t shared = std::min(a.size(), b.size());
    for (size_t i = 0; i < shared; i++)
        if (plain(a[i]) != plain(b[i])) return plain(a[i]) < plain(b[i]) ? -1 : 1;
    return a.size() == b.size() ? 0 : a.size() < b.size() ? -1 : 1;
}

bool same(TextView a, std::string_view ascii)
{
    return a.size() == ascii.size() && std::equal(a.begin(), a.end(), ascii.begin(),
                                                  [](char32_t x, char y) { return plain(x) == char32_t(uint8_t(y)); });
}

bool is_space(char32_t c)
{
    c = plain(c);
    return (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

bool is_printable(char32_t c)
{
    c = plain(c);
    if (c == ' ') return true;
    switch (category(c)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_ZS: return false;
    default: return true;
    }
}

bool is_alpha(char32_t c)
{
    const auto kind = category(plain(c));
    return kind >= UTF8PROC_CATEGORY_LU && kind <= UTF8PROC_CATEGORY_LO;
}

bool is_decimal(char32_t c) { return category(plain(c)) == UTF8PROC_CATEGORY_ND; }

bool is_digit(char32_t c)
{
    c = plain(c);
    // Superscripts and what is encircled: digits that no number is written with.
    return is_decimal(c) || c == 0xb2 || c == 0xb3 || c == 0xb9 || c == 0x2070 || (c >= 0x2074 && c <= 0x2079) ||
           (c >= 0x2080 && c <= 0x2089) || (c >= 0x2460 && c <= 0x2468) || (c >= 0x2474 && c <= 0x247c) ||
           (c >= 0x2488 && c <= 0x2490) || c == 0x24ea || (c >= 0x24f5 && c <= 0x24fd) || c == 0x24ff ||
           (c >= 0x2776 && c <= 0x277e) || (c >= 0x2780 && c <= 0x2788) || (c >= 0x278a && c <= 0x2792);
}

bool is_numeric(char32_t c)
{
    const auto kind = category(plain(c));
    return kind >= UTF8PROC_CATEGORY_ND && kind <= UTF8PROC_CATEGORY_NO;
}

// By what becomes of them, which finds what is written small without being a letter (the Roman numeral U+2170), too.
bool is_lower(char32_t c)
{
    c = plain(c);
    return category(c) == UTF8PROC_CATEGORY_LL ||
           (category(c) != UTF8PROC_CATEGORY_LT && c < 0x110000 && simple_upper(c) != c && c != iota_below);
}

bool is_upper(char32_t c)
{
    c = plain(c);
    return category(c) == UTF8PROC_CATEGORY_LU ||
           (category(c) != UTF8PROC_CATEGORY_LT && c < 0x110000 && simple_lower(c) != c);
}

bool is_title(char32_t c) { return category(plain(c)) == UTF8PROC_CATEGORY_LT; }
bool is_word(char32_t c) { return is_alpha(c) || is_numeric(c) || plain(c) == '_'; }

int decimal_value(char32_t c)
{
    c = plain(c);
    if (c < 0x80) return int(c - '0');
    char32_t zero = c;    // decimal digits stand in runs of ten
    while (zero > 0 && is_decimal(zero - 1)) zero--;
    return int((c - zero) % 10);
}

void append_upper(char32_t c, Text& out)
{
    const TextView several = capitals_of(plain(c));
    if (several.empty()) out += with_origin(simple_upper(plain(c)), c);
    for (const char32_t capital : several) out += with_origin(capital, c);
}

void append_lower(TextView text, size_t at, Text& out)
{
    const char32_t c = plain(text[at]);
    if (c == capital_sigma) out += with_origin(ends_word(text, at) ? final_sigma : small_sigma, text[at]);
    else if (c == dotted_i) out += {with_origin('i', text[at]), with_origin(dot_above, text[at])};
    else out += with_origin(simple_lower(c), text[at]);
}

void append_title(char32_t c, Text& out)
{
    const TextView several = capitals_of(plain(c));
    const char32_t one = char32_t(utf8proc_totitle(utf8proc_int32_t(plain(c))));
    if (several.empty() || one != plain(c) || is_title(c)) {
        out += with_origin(one, c);
        return;
    }
    for (size_t i = 0; i < several.size(); i++) {
        const char32_t next = i == 0 || plain(c) == quote_n ? several[i]
                              : several[i] == capital_iota  ? iota_below
                                                            : simple_lower(several[i]);
        out += with_origin(next, c);
    }
}

Text upper(TextView text)
{
    Text out;
    for (const char32_t c : text) append_upper(c, out);
    return out;
}

Text lower(TextView text)
{
    Text out;
    for (size_t i = 0; i < text.size(); i++) append_lower(text, i, out);
    return out;
}

Text capitalize(TextView text)
{
    Text out;
    if (!text.empty()) append_title(text[0], out);
    for (size_t i = 1; i < text.size(); i++) append_lower(text, i, out);
    return out;
}

Text title(TextView text)
{
    Text out;
    bool in_word = false;
    for (size_t i = 0; i < text.size(); i++) {
        if (in_word) append_lower(text, i, out);
        else append_title(text[i], out);
        in_word = is_cased(text[i]);
    }
    return out;
}

TextView strip_left(TextView text)
{
    while (!text.empty() && is_space(text.front())) text.remove_prefix(1);
    return text;
}

TextView strip_right(TextView text)
{
    while (!text.empty() && is_space(text.back())) text.remove_suffix(1);
    return text;
}

}    // namespace hearth::jinja
