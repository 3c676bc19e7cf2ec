// From a template's text to its tokens. White space before and after tags goes where transformers' settings
// (trim_blocks, lstrip_blocks) and the signs
// `-` and `+` say.
#include "engine/text/jinja_syntax.h"

#include <algorithm>
#include <charconv>

namespace hearth::jinja {

namespace {

/// A template is a few pages; one of this size is no template.
constexpr size_t most_bytes = 4u << 20;

constexpr std::string_view operators[] = {"//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[",
                                          "]",  "(",  ")",  "{",  "}",  ">",  "<", "=", ".", ":", "|", ",", ";"};

class Lexer {
  public:
    explicit Lexer(std::string_view source)
    {
        if (source.size() > most_bytes)
            throw TemplateError(1, fmt::format("a template of {} bytes is too long", source.size()));
        // Line ends become \n; one at the very end is none of the text.
        std::string lines;
        lines.reserve(source.size());
        for (size_t i = 0; i < source.size(); i++) {
            const bool cr = source[i] == '\r';
            lines += cr ? '\n' : source[i];
            if (cr && i + 1 < source.size() && source[i + 1] == '\n') i++;
        }
        if (lines.ends_with('\n')) lines.pop_back();
        text_ = from_utf8(lines);
    }

    std::vector<TemplateToken> tokens()
    {
        while (at_ < text_.size()) root();
        push(Kind::end);
        return std::move(tokens_);
    }

  private:
    using Kind = TemplateToken::Kind;

    bool starts(size_t at, std::u32string_view word) const
    {
        return TextView(text_).substr(std::min(at, text_.size())).starts_with(word);
    }
    char32_t peek(size_t ahead = 0) const { return at_ + ahead < text_.size() ? text_[at_ + ahead] : U'\0'; }

    void push(Kind kind) { tokens_.push_back({.kind = kind, .line = line_}); }

    [[noreturn]] void fail(const std::string& what) const { throw TemplateError(line_, what); }

    void advance_to(size_t end)
    {
        for (; at_ < end; at_++) line_ += text_[at_] == '\n';
        line_starting_ = at_ > 0 && text_[at_ - 1] == '\n';
    }
    size_t past_space(size_t at) const
    {
        while (at < text_.size() && is_space(text_[at])) at++;
        return at;
    }

    /// The text up to `end`, where a tag begins with this sign ('-', '+' or none).
    void data(size_t end, char32_t sign, bool output_tag)
    {
        TextView text = TextView(text_).substr(at_, end - at_);
        if (sign == '-') text = strip_right(text);
        else if (sign != '+' && !output_tag) {
            const size_t newline = text.rfind(U'\n'), begin = newline == text.npos ? 0 : newline + 1;
            if ((begin > 0 || line_starting_) && strip_left(text.substr(begin)).empty()) text = text.substr(0, begin);
        }
        if (!text.empty()) tokens_.push_back({.kind = Kind::data, .line = line_, .text = Text(text)});
    }

    char32_t sign_at(size_t at) const
    {
        return at < text_.size() && (text_[at] == '-' || text_[at] == '+') ? text_[at] : U'\0';
    }

    /// Behind a tag's end at `at`, where it ends there with this word; nothing otherwise.
    std::optional<size_t> tag_end(size_t at, TextView word, bool trims) const
    {
        if (starts(at, U"-") && starts(at + 1, word)) return past_space(at + 1 + word.size());
        if (trims && starts(at, U"+") && starts(at + 1, word)) return at + 1 + word.size();
        if (!starts(at, word)) return {};
        at += word.size();
        return at + (trims && at < text_.size() && text_[at] == '\n');
    }

    void root()
    {
        size_t at = at_;
        while (at < text_.size() &&
               !(text_[at] == '{' && (starts(at + 1, U"%") || starts(at + 1, U"{") || starts(at + 1, U"#"))))
            at++;
        if (at == text_.size()) {
            tokens_.push_back({.kind = Kind::data, .line = line_, .text = text_.substr(at_)});
            return advance_to(at);
        }
        const char32_t tag = text_[at + 1], sign = sign_at(at + 2);
        const size_t inside = at + 2 + (sign != 0);
        if (tag == '%') {
            if (const std::optional<size_t> body = raw_begin(inside)) {
                data(at, sign, false);
                advance_to(*body);
                return raw();
            }
        }
        data(at, sign, tag == '{');
        advance_to(inside);
        if (tag == '#') return comment();
        push(tag == '%' ? Kind::begin_block : Kind::begin_output);
        const TextView end = tag == '%' ? TextView(U"%}") : TextView(U"}}");
        brackets_.clear();
        while (true) {
            if (at_ >= text_.size()) fail("the tag that begins here does not end");
            if (const std::optional<size_t> behind = tag_end(at_, end, tag == '%'); behind && brackets_.empty()) {
                push(tag == '%' ? Kind::end_block : Kind::end_output);
                return advance_to(*behind);
            }
            token();
        }
    }

    std::optional<size_t> raw_begin(size_t at) const
    {
        at = past_space(at);
        if (!starts(at, U"raw")) return {};
        return tag_end(past_space(at + 3), U"%}", false);
    }

    void raw()
    {
        for (size_t at = at_; at < text_.size(); at++) {
            if (!starts(at, U"{%")) continue;
            const char32_t sign = sign_at(at + 2);
            const size_t word = past_space(at + 2 + (sign != 0));
            if (!starts(word, U"endraw")) continue;
            if (const std::optional<size_t> behind = tag_end(past_space(word + 6), U"%}", true)) {
                data(at, sign, false);
                return advance_to(*behind);
            }
        }
        fail("the raw block that begins here does not end");
    }

    void comment()
    {
        for (size_t at = at_; at < text_.size(); at++)
            if (const std::optional<size_t> behind = tag_end(at, U"#}", true)) return advance_to(*behind);
        fail("the comment that begins here does not end");
    }

    void token()
    {
        const char32_t c = peek();
        if (is_space(c)) return advance_to(past_space(at_));
        if (c >= '0' && c <= '9') return number();
        if (is_word(c) || (c >= 0x80 && c < stray_byte)) return name();
        if (c == '\'' || c == '"') return string(c);
        for (const std::string_view op : operators) {
            if (!same(TextView(text_).substr(at_, op.size()), op)) continue;
            bracket(op);
            tokens_.push_back({.kind = Kind::op, .line = line_, .word = std::string(op)});
            return advance_to(at_ + op.size());
        }
        fail(fmt::format("unexpected character '{}'", printable(to_utf8({&text_[at_], 1}))));
    }

    void bracket(std::string_view op)
    {
        static constexpr std::string_view opening = "([{", closing = ")]}";
        if (const size_t kind = opening.find(op[0]); kind != opening.npos) brackets_ += closing[kind];
        if (closing.find(op[0]) == closing.npos) return;
        if (brackets_.empty()) fail(fmt::format("unexpected '{}'", op));
        if (brackets_.back() != op[0]) fail(fmt::format("unexpected '{}', expected '{}'", op, brackets_.back()));
        brackets_.pop_back();
    }

    void name()
    {
        size_t end = at_;
        while (end < text_.size() && is_word(text_[end])) end++;
        if (end == at_) fail(fmt::format("unexpected character '{}'", printable(to_utf8({&text_[at_], 1}))));
        tokens_.push_back({.kind = Kind::name, .line = line_, .word = to_utf8(TextView(text_).substr(at_, end - at_))});
        advance_to(end);
    }

    /// Digits at `at` that this says are some, single underscores between; the end.
    template <class IsDigit>
    size_t digits(size_t at, const IsDigit& is_digit, std::string& out) const
    {
        while (at < text_.size()) {
            const bool gap = text_[at] == '_' && !out.empty() && at + 1 < text_.size() && is_digit(text_[at + 1]);
            if (!gap && !is_digit(text_[at])) break;
            if (!gap) out += char(text_[at]);
            at++;
        }
        return at;
    }

    void number()
    {
        const auto decimal = [](char32_t c) { return c >= '0' && c <= '9'; };
        std::string whole;
        size_t end = digits(at_, decimal, whole);
        // What follows a point belongs to the number only where it is not an attribute's (`a.0.1`).
        const bool after_point = at_ > 0 && text_[at_ - 1] == '.';
        std::string real = whole;
        size_t real_end = end;
        const auto part = [&](size_t at) {
            std::string more;
            const size_t behind = digits(at, decimal, more);
            real += more;
            return more.empty() ? size_t(0) : behind;
        };
        if (!after_point && starts(end, U".") && end + 1 < text_.size() && decimal(text_[end + 1])) {
            real += '.';
            real_end = part(end + 1);
        }
        if (!after_point && (starts(real_end, U"e") || starts(real_end, U"E"))) {
            const size_t sign = real_end + 1, first = sign + (starts(sign, U"+") || starts(sign, U"-"));
            if (first < text_.size() && decimal(text_[first])) {
                real += first > sign && text_[sign] == '-' ? "e-" : "e";
                real_end = part(first);
            }
        }
        TemplateToken token{.kind = Kind::real, .line = line_};
        if (real_end != end) {
            token.real = std::strtod(real.c_str(), nullptr);
            end = real_end;
        } else {
            token.kind = Kind::integer;
            int base = 10;
            const auto based = [&](char32_t letter, int b) {
                if (whole == "0" && end == at_ + 1 && end < text_.size() && (text_[end] | 32) == letter) base = b;
            };
            based('b', 2), based('o', 8), based('x', 16);
            if (base != 10) {
                std::string more = "0";    // an underscore may stand before the first digit
                const auto in_base = [base](char32_t c) {
                    const int digit = decimal_value(c);
                    const bool letter = base == 16 && (c | 32) >= 'a' && (c | 32) <= 'f';
                    return letter || (c >= '0' && c <= '9' && digit < base);
                };
                const size_t behind = digits(end + 1, in_base, more);
                if (more.size() > 1) whole = more, end = behind;
                else base = 10;
            } else if (whole.size() > 1 && whole[0] == '0' && whole.find_first_not_of('0') != whole.npos) {
                fail(fmt::format("a number begins with 0: {:.40}", whole));
            }
            const auto [stop, ec] = std::from_chars(whole.data(), whole.data() + whole.size(), token.integer, base);
            if (ec != std::errc())
                fail(fmt::format("the number {:.40} is too large: whole numbers have 64 bits here", whole));
        }
        tokens_.push_back(std::move(token));
        advance_to(end);
    }

    void string(char32_t quote)
    {
        TemplateToken token{.kind = Kind::text, .line = line_};
        size_t at = at_ + 1;
        while (true) {
            if (at >= text_.size()) fail("the string that begins here does not end");
            const char32_t c = text_[at++];
            if (c == quote) break;
            if (c != '\\') {
                token.text += c;
                continue;
            }
            if (at >= text_.size()) fail("the string that begins here does not end");
            at = escape(at, token.text);
        }
        tokens_.push_back(std::move(token));
        advance_to(at);
    }

    /// What a backslash before `at` makes of the characters there, as in Python; the end of them.
    size_t escape(size_t at, Text& out) const
    {
        static constexpr TextView letters = U"\\'\"abfnrtv", meant = U"\\'\"\a\b\f\n\r\t\v";
        const char32_t c = text_[at];
        if (const size_t simple = letters.find(c); simple != letters.npos) {
            out += meant[simple];
            return at + 1;
        }
        if (c == '\n') return at + 1;
        const auto number = [&](size_t begin, size_t least, size_t most, int base) {
            std::string digits;
            for (size_t i = begin; i < text_.size() && digits.size() < most; i++) {
                const char32_t d = text_[i];
                const bool good = base == 8
                                      ? d >= '0' && d <= '7'
                                      : (d >= '0' && d <= '9') || ((d | 32) >= 'a' && (d | 32) <= 'f' && d < 0x80);
                if (!good) break;
                digits += char(d);
            }
            if (digits.size() < least) fail("a string has an escape that is cut short");
            uint32_t code = 0;
            std::from_chars(digits.data(), digits.data() + digits.size(), code, base);
            if (code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff))
                fail("a string has an escape that is no character");
            out += char32_t(code);
            return begin + digits.size();
        };
        switch (c) {
        case 'x': return number(at + 1, 2, 2, 16);
        case 'u': return number(at + 1, 4, 4, 16);
        case 'U': return number(at + 1, 8, 8, 16);
        case 'N': fail("a string names a character (\\N), which is not done here");
        default: break;
        }
        if (c >= '0' && c <= '7') return number(at, 1, 3, 8);
        out += U'\\';
        out += c;
        return at + 1;
    }

    Text text_;
    size_t at_ = 0;
    uint32_t line_ = 1;
    bool line_starting_ = true;
    std::string brackets_;    // that are open, by what closes them
    std::vector<TemplateToken> tokens_;
};

}    // namespace

std::vector<TemplateToken> template_tokens(std::string_view source) { return Lexer(source).tokens(); }

}    // namespace hearth::jinja
