// Texts as Python sees them: a sequence of characters. A character carries a bit that says where it comes from, so that
// whatever is done with a text keeps that.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace hearth::jinja {

using Text = std::u32string;
using TextView = std::u32string_view;

/// Set where a character came in with a value; clear where the template wrote it.
constexpr char32_t foreign = 0x80000000;

/// A byte that is not UTF-8 is the surrogate U+DC00 + byte, as Python's "surrogateescape" has it.
constexpr char32_t stray_byte = 0xdc00;

constexpr char32_t plain(char32_t c) { return c & ~foreign; }
constexpr char32_t with_origin(char32_t c, char32_t of) { return plain(c) | (of & foreign); }

void append_utf8(std::string_view utf8, char32_t origin, Text& out);
void append_utf8(char32_t c, std::string& out);    // its origin is left out
Text from_utf8(std::string_view utf8, char32_t origin = 0);
std::string to_utf8(TextView text);

/// Comparison by characters, whatever their origin: below 0, 0, above 0.
int compare(TextView a, TextView b);
inline bool same(TextView a, TextView b) { return a.size() == b.size() && compare(a, b) == 0; }
bool same(TextView a, std::string_view ascii);

// Python's str.isspace(), isprintable() and so on of one character.
bool is_space(char32_t c);
bool is_printable(char32_t c);
bool is_alpha(char32_t c);
bool is_decimal(char32_t c);
bool is_digit(char32_t c);
bool is_numeric(char32_t c);
bool is_lower(char32_t c);
bool is_upper(char32_t c);
bool is_title(char32_t c);
bool is_word(char32_t c);         // \w of its regular expressions
int decimal_value(char32_t c);    // of is_decimal

/// How a character is written large, small or at the beginning of a word; some become several.
void append_upper(char32_t c, Text& out);
void append_lower(TextView text, size_t at,
                  Text& out);    // of text[at]: a sigma that ends a word has a form of its own
void append_title(char32_t c, Text& out);
Text upper(TextView text);
Text lower(TextView text);
Text capitalize(TextView text);
Text title(TextView text);    // str.title()

TextView strip_left(TextView text);
TextView strip_right(TextView text);
inline TextView strip(TextView text) { return strip_left(strip_right(text)); }

}    // namespace hearth::jinja
