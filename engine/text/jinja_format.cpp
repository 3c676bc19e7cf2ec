// Numbers and texts by format: Python's repr of floats, `'%5.2f' % x`, and `'{:>8}'.format(x)`.
#include "engine/text/jinja_value.h"

#include <algorithm>
#include <charconv>
#include <cmath>

namespace hearth::jinja {

namespace {

constexpr int64_t most_wide = 1 << 20;    // of a width or a precision

std::string chars(double d, std::chars_format format, int precision)
{
    std::string out(size_t(precision) + 512, '\0');
    const auto [end, ec] = std::to_chars(out.data(), out.data() + out.size(), d, format, precision);
    out.resize(ec == std::errc() ? size_t(end - out.data()) : 0);
    return out;
}

/// A finite number that is not negative in one of the ways e, f, g; `alternate`: a point always, and zeros at the end
/// stay; `early`: g goes over to an exponent one digit earlier, so that there is room for ".0".
std::string real_digits(double d, char way, int precision, bool alternate, bool early = false)
{
    if (way == 'f') {
        std::string out = chars(d, std::chars_format::fixed, precision);
        return alternate && precision == 0 ? out + "." : out;
    }
    if (way == 'e') {
        std::string out = chars(d, std::chars_format::scientific, precision);
        if (alternate && precision == 0) out.insert(out.find('e'), 1, '.');
        return out;
    }
    if (precision == 0) precision = 1;
    const std::string scientific = chars(d, std::chars_format::scientific, precision - 1);
    const size_t e = scientific.find('e');
    const int exponent = std::atoi(scientific.c_str() + e + 1);
    std::string digits, tail;
    if (exponent < -4 || exponent >= precision - early) {
        digits = scientific.substr(0, e);
        tail = scientific.substr(e);
    } else digits = chars(d, std::chars_format::fixed, precision - 1 - exponent);
    if (digits.find('.') == digits.npos) digits += '.';
    if (!alternate) {
        digits.resize(digits.find_last_not_of('0') + 1);
        if (digits.ends_with('.')) digits.pop_back();
    }
    return digits + tail;
}

std::string in_base(uint64_t n, int base)
{
    char digits[64];
    const auto [end, ec] = std::to_chars(digits, digits + sizeof digits, n, base);
    return {digits, end};
}

uint64_t magnitude(int64_t n) { return n < 0 ? -uint64_t(n) : uint64_t(n); }

std::string upper_ascii(std::string text)
{
    for (char& c : text)
        if (c >= 'a' && c <= 'z') c = char(c - 32);
    return text;
}

/// The characters of a format, one after the other.
struct Reader {
    TextView rest;
    bool end() const { return rest.empty(); }
    char32_t peek(size_t ahead = 0) const { return ahead < rest.size() ? plain(rest[ahead]) : U'\0'; }
    char32_t take()
    {
        const char32_t c = peek();
        if (!rest.empty()) rest.remove_prefix(1);
        return c;
    }
    bool skip(char32_t c) { return peek() == c && !rest.empty() && (take(), true); }
    std::optional<int64_t> number()
    {
        if (peek() < '0' || peek() > '9') return {};
        int64_t n = 0;
        while (peek() >= '0' && peek() <= '9') {
            n = n * 10 + int64_t(take() - '0');
            if (n > most_wide) throw Fault::of("a format has a width of more than {}", most_wide);
        }
        return n;
    }
};

/// How wide, and on which side, with what.
struct Layout {
    char32_t fill = ' ', align = 0;    // '<', '>', '^' or '=', between sign and digits
    int64_t width = 0;
};

Text laid_out(const Text& sign, const Text& body, const Layout& layout)
{
    const int64_t missing = layout.width - int64_t(sign.size() + body.size());
    if (missing <= 0) return sign + body;
    const auto fill = [&](int64_t n) { return Text(size_t(n), layout.fill); };
    switch (layout.align) {
    case '=': return sign + fill(missing) + body;
    case '^': return fill(missing / 2) + sign + body + fill(missing - missing / 2);
    case '<': return sign + body + fill(missing);
    default: return fill(missing) + sign + body;
    }
}

/// `1234567` with a sign between thousands.
std::string grouped(std::string digits, char sign, size_t group)
{
    const size_t whole = std::min(digits.find_first_not_of("0123456789abcdefABCDEF"), digits.size());
    for (size_t at = whole; at > group;) digits.insert(at -= group, 1, sign);
    return digits;
}

}    // namespace

std::string Runtime::repr_real(double d)
{
    if (std::isnan(d)) return "nan";
    if (std::isinf(d)) return d < 0 ? "-inf" : "inf";
    char buffer[64];
    const auto [end, ec] = std::to_chars(buffer, buffer + sizeof buffer, std::abs(d), std::chars_format::scientific);
    std::string digits(buffer, end);
    const size_t e = digits.find('e');
    const int exponent = std::atoi(digits.c_str() + e + 1);
    const std::string tail = digits.substr(e);
    digits.resize(e);
    std::erase(digits, '.');
    if (exponent < -4 || exponent >= 16) {
        if (digits.size() > 1) digits.insert(1, 1, '.');
        digits += tail;
    } else if (exponent < 0) digits = fmt::format("0.{:0>{}}", digits, size_t(-exponent - 1) + digits.size());
    else if (int(digits.size()) <= exponent + 1)
        digits += std::string(size_t(exponent + 1) - digits.size(), '0') + ".0";
    else digits.insert(size_t(exponent) + 1, 1, '.');
    return fmt::format("{}{}", std::signbit(d) ? "-" : "", digits);
}

std::string Runtime::fixed_real(double d, int digits)
{
    return fmt::format("{}{}", std::signbit(d) ? "-" : "", real_digits(std::abs(d), 'f', digits, false));
}

// ---- 'a %s' % x -----------------------------------------------------------------------------------------------------

Text Runtime::percent(TextView format, const Value& arguments)
{
    const Sequence* tuple = as<Sequence>(arguments, {Object::Type::tuple});
    Dict* dict = as_dict(arguments);
    const Values values = tuple ? tuple->items : Values{arguments};
    size_t used = 0;
    bool by_name = false;
    const auto next = [&]() -> const Value& {
        if (used >= values.size()) throw Fault::of("a format asks for more values than there are");
        return values[used++];
    };

    Text out;
    Reader in{format};
    while (!in.end()) {
        check_size(out.size());
        if (in.peek() != '%') {
            out += in.rest[0];
            in.take();
            continue;
        }
        in.take();
        std::optional<Value> named;
        if (in.skip('(')) {
            const size_t close = in.rest.find(U')');
            if (close == in.rest.npos) throw Fault::of("a format has a name that does not end");
            if (!dict) throw Fault::of("a format names its values, and is given {}", type_name(arguments));
            const Value* found = find(*dict, text(Text(in.rest.substr(0, close))));
            if (!found)
                throw Fault::of("a format names '{}', which is not there",
                                printable(to_utf8(in.rest.substr(0, close))));
            named = *found;
            by_name = true;
            in.rest.remove_prefix(close + 1);
        }
        bool minus = false, plus = false, space = false, zero = false, alternate = false;
        for (bool more = true; more;) {
            if (in.skip('-')) minus = true;
            else if (in.skip('+')) plus = true;
            else if (in.skip(' ')) space = true;
            else if (in.skip('0')) zero = true;
            else if (in.skip('#')) alternate = true;
            else more = false;
        }
        Layout layout;
        const auto star = [&] {
            const int64_t n = need_integer(next());
            if (n > most_wide || n < -most_wide) throw Fault::of("a format has a width of more than {}", most_wide);
            return n;
        };
        layout.width = in.skip('*') ? star() : in.number().value_or(0);
        if (layout.width < 0) minus = true, layout.width = -layout.width;
        std::optional<int64_t> precision;
        if (in.skip('.')) precision = in.skip('*') ? std::max<int64_t>(star(), 0) : in.number().value_or(0);
        while (in.peek() == 'l' || in.peek() == 'h' || in.peek() == 'L') in.take();
        if (in.end()) throw Fault::of("a format ends within a '%'");
        const char32_t way = in.take();
        if (way == '%') {
            out += U'%';
            continue;
        }
        const Value value = named ? *named : next();
        layout.align = minus ? '<' : '>';
        Text sign, body;
        const auto signed_by = [&](bool negative) { sign = negative ? U"-" : plus ? U"+" : space ? U" " : U""; };
        const auto padded_with_zeros = [&] {
            if (zero && !minus) layout.align = '=', layout.fill = '0';
        };
        switch (way) {
        case 's': body = str(value); break;
        case 'r': body = repr(value); break;
        case 'a': throw Fault::of("the format %a is not done here");
        case 'c':
            if (const Text* t = as_text(value)) {
                if (t->size() != 1) throw Fault::of("the format %c is given a string of {} characters", t->size());
                body = *t;
            } else {
                const int64_t c = need_integer(value);
                if (c < 0 || c > 0x10ffff || (c >= 0xd800 && c < 0xe000))
                    throw Fault::of("the format %c is given {}, which is no character", c);
                body = Text(1, char32_t(c));
            }
            break;
        case 'd':
        case 'i':
        case 'u':
        case 'x':
        case 'X':
        case 'o': {
            auto n = as_integer(value);
            const bool decimal = way == 'd' || way == 'i' || way == 'u';
            if (!n && decimal && as_real(value)) {
                const double whole = std::trunc(*as_real(value));
                if (!(std::abs(whole) < 0x1p63)) throw Fault::of("a format is given a number that is too large");
                n = int64_t(whole);
            }
            if (!n) throw Fault::of("the format %{} is given {}", char(way), type_name(value));
            std::string digits = in_base(magnitude(*n), decimal ? 10 : way == 'o' ? 8 : 16);
            if (precision && int64_t(digits.size()) < *precision)
                digits.insert(0, size_t(*precision) - digits.size(), '0');
            signed_by(*n < 0);
            if (alternate && !decimal) append_utf8(way == 'o' ? "0o" : "0x", 0, sign);
            if (way == 'X') digits = upper_ascii(digits), sign = upper(sign);
            append_utf8(digits, 0, body);
            precision.reset();
            padded_with_zeros();
            break;
        }
        case 'e':
        case 'E':
        case 'f':
        case 'F':
        case 'g':
        case 'G': {
            const auto d = as_real(value);
            if (!d) throw Fault::of("the format %{} is given {}", char(way), type_name(value));
            const bool finite = std::isfinite(*d);
            std::string digits = !finite
                                     ? std::isnan(*d) ? "nan" : "inf"
                                     : real_digits(std::abs(*d), char(way | 32), int(precision.value_or(6)), alternate);
            if (way < 'a') digits = upper_ascii(digits);
            signed_by(std::signbit(*d) && !std::isnan(*d));
            append_utf8(digits, 0, body);
            precision.reset();
            padded_with_zeros();
            break;
        }
        default: throw Fault::of("there is no format %{}", printable(to_utf8({&way, 1})));
        }
        if (precision && (way == 's' || way == 'r') && int64_t(body.size()) > *precision)
            body.resize(size_t(*precision));
        out += laid_out(sign, body, layout);
    }
    check_size(out.size());
    if (!dict && !by_name && used < values.size() && !(as_list(arguments) || is_undefined(arguments)))
        throw Fault::of("a format is given more values than it asks for");
    if (!by_name && used == 0 && is_undefined(arguments))
        throw Fault::of("a format is given more values than it asks for");
    return out;
}

// ---- '{}'.format(x) -------------------------------------------------------------------------------------------------

Text Runtime::format_value(const Value& v, TextView spec)
{
    if (spec.empty()) return str(v);
    Reader in{spec};
    Layout layout;
    static constexpr TextView aligns = U"<>^=";
    if (spec.size() > 1 && aligns.find(plain(spec[1])) != aligns.npos) {
        layout.fill = spec[0];
        in.take();
        layout.align = in.take();
    } else if (aligns.find(in.peek()) != aligns.npos) layout.align = in.take();
    char32_t sign_way = '-';
    if (in.peek() == '+' || in.peek() == '-' || in.peek() == ' ') sign_way = in.take();
    const bool alternate = in.skip('#');
    const bool is_string = as_text(v);
    if (in.skip('0') && !layout.align) {
        layout.fill = '0';
        layout.align = is_string ? '<' : '=';
    }
    layout.width = in.number().value_or(0);
    char group = 0;
    if (in.peek() == ',' || in.peek() == '_') group = char(in.take());
    std::optional<int64_t> precision;
    if (in.skip('.')) {
        precision = in.number();
        if (!precision) throw Fault::of("a format has a point and no precision");
    }
    const char32_t way = in.take();
    if (!in.end()) throw Fault::of("a format '{}' is none", printable(to_utf8(spec)));

    Text sign, body;
    if (is_string) {
        if ((way && way != 's') || sign_way != '-' || alternate || group || layout.align == '=')
            throw Fault::of("a format for numbers is given a string");
        body = *as_text(v);
        if (precision && int64_t(body.size()) > *precision) body.resize(size_t(*precision));
        if (!layout.align) layout.align = '<';
        return laid_out({}, body, layout);
    }
    const auto n = as_integer(v);
    const auto d = as_real(v);
    if (!d) throw Fault::of("a format with a width or a way is given {}", type_name(v));
    std::string digits, prefix;
    bool negative;
    const bool real_way = way && TextView(U"eEfFgG%").find(way) != TextView::npos;
    if (n && !real_way) {
        if (way == 'c') throw Fault::of("the format '{{:c}}' is not done here");
        const int base = way == 'x' || way == 'X' ? 16 : way == 'o' ? 8 : way == 'b' ? 2 : 10;
        if (way && TextView(U"dnxXob").find(way) == TextView::npos)
            throw Fault::of("a format is given a whole number, which it is not for");
        if (precision) throw Fault::of("a format gives a whole number a precision");
        negative = *n < 0;
        digits = in_base(magnitude(*n), base);
        if (alternate && base != 10) prefix = base == 16 ? "0x" : base == 8 ? "0o" : "0b";
        if (way == 'X') digits = upper_ascii(digits), prefix = upper_ascii(prefix);
        if (group) digits = grouped(digits, group, base == 10 ? 3 : 4);
    } else {
        if (way && !real_way && way != 'n') throw Fault::of("a format is given a float, which it is not for");
        negative = std::signbit(*d) && !std::isnan(*d);
        const double size = std::abs(*d) * (way == '%' ? 100 : 1);
        if (!std::isfinite(size)) digits = std::isnan(size) ? "nan" : "inf";
        else if (!way && !precision) digits = repr_real(size);
        else if (!way) {
            digits = real_digits(size, 'g', int(*precision), alternate, true);
            if (digits.find_first_of(".e") == digits.npos) digits += ".0";
        } else
            digits = real_digits(size,
                                 way == '%'   ? 'f'
                                 : way == 'n' ? 'g'
                                              : char(way | 32),
                                 int(precision.value_or(6)), alternate);
        if (way == '%') digits += '%';
        if (way && way < 'a' && way != '%') digits = upper_ascii(digits);
        if (group) digits = grouped(digits, group, 3);
    }
    sign = negative ? U"-" : sign_way == '+' ? U"+" : sign_way == ' ' ? U" " : U"";
    append_utf8(prefix, 0, sign);
    append_utf8(digits, 0, body);
    if (group && layout.align == '=' && layout.fill == '0')
        throw Fault::of("a format with both zeros and groups of digits is not done here");
    if (!layout.align) layout.align = '>';
    return laid_out(sign, body, layout);
}

Text Runtime::formatted(TextView format, const Arguments& arguments)
{
    Nested nested(*this);
    Text out;
    Reader in{format};
    size_t next = 0;
    while (!in.end()) {
        check_size(out.size());
        const char32_t origin = in.rest[0];
        const char32_t c = in.take();
        if (c != '{' && c != '}') {
            out += origin;
            continue;
        }
        if (in.skip(c)) {
            out += origin;
            continue;
        }
        if (c == '}') throw Fault::of("a format has a single '}}'");
        // {name.attribute[item]!conversion:spec}, and the spec may hold fields itself.
        size_t end = 0, open = 1;
        while (end < in.rest.size() && open) {
            open += plain(in.rest[end]) == '{';
            open -= plain(in.rest[end]) == '}';
            end++;
        }
        if (open) throw Fault::of("a format has a '{{' that does not end");
        TextView field = in.rest.substr(0, end - 1), spec;
        in.rest.remove_prefix(end);
        char32_t conversion = 0;
        size_t name_end = 0, square = 0;
        while (name_end < field.size() &&
               (square || (plain(field[name_end]) != ':' && plain(field[name_end]) != '!'))) {
            square += plain(field[name_end]) == '[';
            square -= square && plain(field[name_end]) == ']';
            name_end++;
        }
        Reader tail{field.substr(name_end)};
        field = field.substr(0, name_end);
        if (tail.skip('!')) {
            conversion = tail.take();
            if (!tail.end() && tail.peek() != ':') throw Fault::of("a format has a conversion of more than one letter");
        }
        if (tail.skip(':')) spec = tail.rest;

        Reader path{field};
        size_t first = 0;
        while (first < field.size() && plain(field[first]) != '.' && plain(field[first]) != '[') first++;
        const TextView name = field.substr(0, first);
        path.rest.remove_prefix(first);
        Value value;
        const bool digits = !name.empty() && std::all_of(name.begin(), name.end(),
                                                         [](char32_t x) { return plain(x) >= '0' && plain(x) <= '9'; });
        if (name.empty() || digits) {
            const size_t i = name.empty() ? next++ : size_t(Reader{name}.number().value_or(0));
            if (i >= arguments.positional.size())
                throw Fault::of("a format asks for the value {}, which is not there", i);
            value = arguments.positional[i];
        } else {
            const std::string word = to_utf8(name);
            const auto found = std::find_if(arguments.named.begin(), arguments.named.end(),
                                            [&](const auto& n) { return n.first == word; });
            if (found == arguments.named.end())
                throw Fault::of("a format asks for '{}', which is not there", printable(word));
            value = found->second;
        }
        while (!path.end()) {
            const bool dotted = path.skip('.');
            if (!dotted && !path.skip('[')) throw Fault::of("a format has a field that is none");
            size_t stop = 0;
            while (stop < path.rest.size() && (dotted ? plain(path.rest[stop]) != '.' && plain(path.rest[stop]) != '['
                                                      : plain(path.rest[stop]) != ']'))
                stop++;
            if (!dotted && stop == path.rest.size()) throw Fault::of("a format has a '[' that does not end");
            const TextView word = path.rest.substr(0, stop);
            path.rest.remove_prefix(stop + !dotted);
            Reader number{word};
            const auto index = dotted ? std::nullopt : number.number();
            const Value key = index && number.end() ? Value(*index) : text(Text(word));
            value = dotted ? attribute(value, key, nullptr) : item(value, key, nullptr);
        }
        if (conversion == 'r') value = text(repr(value));
        else if (conversion == 's') value = text(str(value));
        else if (conversion)
            throw Fault::of("the conversion !{} is not done here", printable(to_utf8({&conversion, 1})));
        const bool nested_spec = std::any_of(spec.begin(), spec.end(), [](char32_t x) { return plain(x) == '{'; });
        out += format_value(value, nested_spec ? TextView(formatted(spec, arguments)) : spec);
    }
    return out;
}

}    // namespace hearth::jinja
