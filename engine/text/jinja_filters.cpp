// Filters, `value | name(arguments)`: https://jinja.palletsprojects.com/en/stable/templates/#list-of-builtin-filters
#include "engine/text/jinja_value.h"

#include <algorithm>
#include <charconv>
#include <cmath>

namespace hearth::jinja {

using Type = Object::Type;

namespace {

/// A text stays one, safe or not; others are written out.
Value soft(Runtime& rt, const Value& v) { return as_text(v) ? v : rt.text(rt.str(v)); }
Value like(Runtime& rt, const Value& v, Text text) { return rt.text(std::move(text), is_safe(v)); }

const Text& need_string(const Value& v)
{
    if (const auto* u = std::get_if<Undefined>(&v)) throw Runtime::undefined_fault(*u);
    return need_text(v);
}

/// Where a value's part is found: "name.0.other" as names and numbers; nothing for the value itself.
Values path(Runtime& rt, const Value& attribute)
{
    if (is_none(attribute)) return {};
    const Text* text = as_text(attribute);
    if (!text) return {attribute};
    Values parts;
    for (size_t at = 0; at <= text->size();) {
        const size_t end = std::min(text->find(U'.', at), text->size());
        const Text part = text->substr(at, end - at);
        int64_t number = 0;
        const bool digits = !part.empty() && part.size() < 18 && std::all_of(part.begin(), part.end(), is_decimal);
        for (const char32_t c : part)
            if (digits) number = number * 10 + decimal_value(c);
        parts.push_back(digits ? Value(number) : rt.text(part));
        at = end + 1;
    }
    return parts;
}

Value at_path(Runtime& rt, Value v, const Values& parts, const Value* otherwise = nullptr)
{
    for (const Value& part : parts) {
        v = rt.item(v, part, nullptr);
        if (otherwise && !is_none(*otherwise) && is_undefined(v)) v = *otherwise;
    }
    return v;
}

Value without_case(Runtime& rt, const Value& v)
{
    const Text* text = as_text(v);
    return text ? rt.text(lower(*text)) : v;
}

// ---- texts

template <Text (*change)(TextView)>
Value changed(Runtime& rt, const Value& v, Arguments& a)
{
    Bound("the filter", "", a);
    const Value text = soft(rt, v);
    return like(rt, text, change(need_text(text)));
}

/// jinja2's own title(): words begin after white space and opening brackets, not after every letter that is none.
Text titled(TextView text)
{
    Text out;
    bool in_word = false;
    for (size_t i = 0; i < text.size(); i++) {
        const bool between = is_space(text[i]) || TextView(U"-({[<").find(plain(text[i])) != TextView::npos;
        if (between) out += text[i];
        else if (in_word) append_lower(text, i, out);
        else append_upper(text[i], out);
        in_word = !between;
    }
    return out;
}

Value trim(Runtime& rt, const Value& v, Arguments& a)
{
    const Bound b("trim", "chars", a);
    const Value text = soft(rt, v);
    const Value chars = b.get(0, None{});
    TextView rest = need_text(text);
    const Text* given = is_none(chars) ? nullptr : &need_text(chars);
    const auto goes = [&](char32_t c) {
        return given ? std::any_of(given->begin(), given->end(), [&](char32_t x) { return plain(x) == plain(c); })
                     : is_space(c);
    };
    while (!rest.empty() && goes(rest.front())) rest.remove_prefix(1);
    while (!rest.empty() && goes(rest.back())) rest.remove_suffix(1);
    return like(rt, text, Text(rest));
}

Value replace(Runtime& rt, const Value& v, Arguments& a)
{
    const Bound b("replace", "old new count", a);
    const Value count = b.get(2, None{});
    return rt.text(
        rt.replaced(rt.str(v), rt.str(b.need(0)), rt.str(b.need(1)), is_none(count) ? -1 : need_integer(count)));
}

Value string(Runtime& rt, const Value& v, Arguments& a)
{
    Bound("string", "", a);
    return soft(rt, v);
}

Value safe(Runtime& rt, const Value& v, Arguments& a)
{
    Bound("safe", "", a);
    return rt.text(rt.str(v), true);
}

Value escape(Runtime& rt, const Value& v, Arguments& a)
{
    Bound("escape", "", a);
    return is_safe(v) ? v : rt.text(rt.escaped(rt.str(v)), true);
}

Value forceescape(Runtime& rt, const Value& v, Arguments& a)
{
    Bound("forceescape", "", a);
    return rt.text(rt.escaped(rt.str(v)), true);
}

Value center(Runtime& rt, const Value& v, Arguments& a)
{
    const Bound b("center", "width", a);
    const Value text = soft(rt, v);
    Arguments width{{b.get(0, int64_t(80))}, {}};
    return rt.call(*rt.method(text, U"center"), width);
}

Value format(Runtime& rt, const Value& v, Arguments& a)
{
    if (!a.positional.empty() && !a.named.empty())
        throw Fault::of("format is given arguments both with and without names");
    const Value text = soft(rt, v);
    if (a.named.empty()) return like(rt, text, rt.percent(need_text(text), rt.tuple(a.positional)));
    Dict* dict = rt.make<Dict>();
    for (const auto& [name, value] : a.named) rt.put(*dict, rt.text(name), value);
    return like(rt, text, rt.percent(need_text(text), dict));
}

Value indent(Runtime& rt, const Value& v, Arguments& a)
{
    const Bound b("indent", "width first blank", a);
    const Value width = b.get(0, int64_t(4));
    Text by;
    if (const Text* given = as_text(width)) by = *given;
    else {
        const int64_t n = std::max<int64_t>(need_integer(width), 0);
        rt.check_size(uint64_t(n));
        by.assign(size_t(n), U' ');
    }
    const bool first = b.flag(rt, 1, false), blank = b.flag(rt, 2, false);
    const Value with_end = rt.binary(Runtime::Op::add, rt.text(Text(need_string(v)), is_safe(v)), rt.text("\n"));
    Arguments none;
    Text out;
    bool begun = false;
    for (const Value& line : rt.items(rt.call(*rt.method(with_end, U"splitlines"), none))) {
        const Text& text = need_text(line);
        if (begun) out += U'\n';
        if (begun ? blank || !text.empty() : first) out += by;
        out += text;
        rt.check_size(out.size());
        begun = true;
    }
    return like(rt, v, std::move(out));
}

Value truncate(Runtime& rt, const Value& v, Arguments& a)
{
    const Bound b("truncate", "length killwords end leeway", a);
    const Text& text = need_string(v);
    const Text end = as_text(b.get(2, None{})) ? *as_text(b.need(2)) : U"...";
    const int64_t length = b.integer(0, 255), leeway = is_none(b.get(3, None{})) ? 5 : b.integer(3, 5);
    if (length < int64_t(end.size()) || leeway < 0)
        throw Fault::of("truncate is given a length of {} and a leeway of {}", length, leeway);
    if (int64_t(text.size()) <= length || int64_t(text.size()) - length <= leeway) return v;
    TextView kept = TextView(text).substr(0, size_t(length) - end.size());
    if (!b.flag(rt, 1, false))
        for (size_t at = kept.size(); at-- > 0;)
            if (plain(kept[at]) == ' ') {
                kept = kept.substr(0, at);
                break;
            }
    return like(rt, v, Text(kept) + end);
}

Value wordcount(Runtime& rt, const Value& v, Arguments& a)
{
    Bound("wordcount", "", a);
    int64_t n = 0;
    bool in_word = false;
    for (const char32_t c : rt.str(v)) {
        n += is_word(c) && !in_word;
        in_word = is_word(c);
    }
    return n;
}

/// `form`: as in a form's data, where a space is a plus.
void append_url(const std::string& bytes, std::string_view kept, bool form, std::string& out)
{
    for (const char c : bytes) {
        if (form && c == ' ') {
            out += '+';
            continue;
        }
        const bool stays = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
                           std::string_view("_.-~").find(c) != std::string_view::npos ||
                           kept.find(c) != std::string_view::npos;
        out += stays ? std::string(1, c) : fmt::format("%{:02X}", uint8_t(c));
    }
}

Value urlencode(Runtime& rt, const Value& v, Arguments& a)
{
    Bound("urlencode", "", a);
    std::string out;
    if (as_text(v) || !std::holds_alternative<Object*>(v)) append_url(to_utf8(rt.str(v)), "/", false, out);
    else {
        Values pairs;
        if (const Dict* dict = as_dict(v))
            for (const auto& [key, value] : dict->items) pairs.push_back(rt.tuple({key, value}));
        else pairs = rt.items(v);
        for (const Value& pair : pairs) {
            const Values two = rt.items(pair);
            if (two.size() != 2) throw Fault::of("urlencode is given something that is no pair");
            if (!out.empty()) out += '&';
            append_url(to_utf8(rt.str(two[0])), "", true, out);
            out += '=';
            append_url(to_utf8(rt.str(two[1])), "", true, out);
        }
    }
    return rt.text(from_utf8(out, foreign));
}

Value tojson(Runtime& rt, const Value& v, Arguments& a) { return rt.text(rt.json(v, a)); }

// ---- numbers

Value absolute(Runtime& rt, const Value& v, Arguments& a)
{
    Bound("abs", "", a);
    if (const auto* d = std::get_if<double>(&v)) return std::abs(*d);
    if (const auto* u = std::get_if<Undefined>(&v)) throw Runtime::undefined_fault(*u);
    const int64_t i = need_integer(v);
    return i < 0 ? rt.negative(i) : Value(i);
}

/// A text's digits in ASCII, without the white space around them and the single underscores between.
std::optional<std::string> number_text(TextView text)
{
    text = strip(text);
    std::string out;
    for (size_t i = 0; i < text.size(); i++) {
        const char32_t c = plain(text[i]);
        if (c == '_') {
            const auto alnum = [](char32_t x) { return is_decimal(x) || (plain(x) < 0x80 && is_alpha(x)); };
            if (i == 0 || i + 1 == text.size() || !alnum(text[i - 1]) || !alnum(text[i + 1])) return {};
        } else if (is_decimal(c)) out += char('0' + decimal_value(c));
        else if (c < 0x80) out += char(c);
        else return {};
    }
    return out;
}

std::optional<double> real_of(TextView text)
{
    std::optional<std::string> word = number_text(text);
    if (!word || word->empty()) return {};
    std::string_view rest = *word;
    const bool minus = rest[0] == '-';
    if (rest[0] == '+' || rest[0] == '-') rest.remove_prefix(1);
    std::string low(rest);
    for (char& c : low)
        if (c >= 'A' && c <= 'Z') c = char(c + 32);
    double d = 0;
    if (low == "inf" || low == "infinity") d = INFINITY;
    else if (low == "nan") d = NAN;
    else {
        if (low.empty() || low.find_first_not_of("0123456789.e+-") != low.npos ||
            !(low[0] == '.' || (low[0] >= '0' && low[0] <= '9')))
            return {};
        char* end = nullptr;
        d = std::strtod(low.c_str(), &end);
        if (end != low.c_str() + low.size()) return {};
    }
    return minus ? -d : d;
}

std::optional<int64_t> integer_of(TextView text, int64_t base)
{
    const std::optional<std::string> word = number_text(text);
    if (!word || base < 0 || base == 1 || base > 36) return {};
    std::string_view rest = *word;
    const bool minus = rest.starts_with('-');
    if (minus || rest.starts_with('+')) rest.remove_prefix(1);
    static constexpr std::pair<char, int64_t> prefixes[] = {{'b', 2}, {'o', 8}, {'x', 16}};
    for (const auto& [letter, of] : prefixes)
        if ((base == of || base == 0) && rest.size() > 2 && rest[0] == '0' && (rest[1] | 32) == letter) {
            rest.remove_prefix(2);
            base = of;
        }
    if (base == 0) {
        if (rest.size() > 1 && rest[0] == '0' && rest.find_first_not_of('0') != rest.npos) return {};
        base = 10;
    }
    uint64_t n = 0;
    const auto [end, ec] = std::from_chars(rest.data(), rest.data() + rest.size(), n, int(base));
    if (rest.empty() || end != rest.data() + rest.size() || ec == std::errc::invalid_argument) return {};
    if (ec != std::errc() || n > uint64_t(INT64_MAX)) throw Fault::of("a whole number has more than 64 bits");
    return minus ? -int64_t(n) : int64_t(n);
}

Value whole(double d)
{
    if (!(std::abs(d) < 0x1p63)) throw Fault::of("a whole number has more than 64 bits");
    return int64_t(d);
}

Value integer(Runtime&, const Value& v, Arguments& a)
{
    const Bound b("int", "default base", a);
    Value otherwise = b.get(0, int64_t(0));
    if (const auto* u = std::get_if<Undefined>(&v)) throw Runtime::undefined_fault(*u);
    if (const auto i = as_integer(v)) return *i;
    if (const auto* d = std::get_if<double>(&v)) return std::isnan(*d) ? otherwise : whole(*d);
    const Text* text = as_text(v);
    if (!text) return otherwise;
    if (const auto i = integer_of(*text, b.integer(1, 10))) return *i;
    const auto d = real_of(*text);
    return d && std::isfinite(*d) ? whole(*d) : otherwise;
}

Value real(Runtime&, const Value& v, Arguments& a)
{
    const Bound b("float", "default", a);
    if (const auto* u = std::get_if<Undefined>(&v)) throw Runtime::undefined_fault(*u);
    if (const auto d = as_real(v)) return *d;
    if (const Text* text = as_text(v))
        if (const auto d = real_of(*text)) return *d;
    return b.get(0, 0.0);
}

Value rounded(Runtime& rt, const Value& v, Arguments& a)
{
    const Bound b("round", "precision method", a);
    const int64_t precision = b.integer(0, 0);
    const Value method = b.get(1, rt.text("common"));
    const Text& way = need_text(method);
    if (precision > 300 || precision < -300) throw Fault::of("round is given a precision of {}", precision);
    const auto number = as_real(v);
    if (!number)
        throw is_undefined(v) ? Runtime::undefined_fault(std::get<Undefined>(v))
                              : Fault::of("round is given {}", Runtime::type_name(v));
    const double scale = std::pow(10.0, double(precision));
    if (same(way, "common")) {
        if (as_integer(v)) {
            const int64_t i = *as_integer(v);
            if (precision >= 0) return i;
            if (precision < -18) return int64_t(0);
            int64_t ten = 1;
            for (int64_t k = precision; k < 0; k++) ten *= 10;
            const int64_t low = i - ((i % ten) + ten) % ten,
                          rest = i - low;    // to the even one of two that are equally near
            return rest * 2 < ten || (rest * 2 == ten && low / ten % 2 == 0) ? low : low + ten;
        }
        if (!std::isfinite(*number)) return *number;
        if (precision >= 0) return std::strtod(Runtime::fixed_real(*number, int(precision)).c_str(), nullptr);
        return std::nearbyint(*number * scale) / scale;
    }
    if (!same(way, "ceil") && !same(way, "floor")) throw Fault::of("round knows the ways common, ceil and floor");
    if (!std::isfinite(*number)) throw Fault::of("round is given a number that is not finite");
    const double scaled = *number * scale;
    return (same(way, "ceil") ? std::ceil(scaled) : std::floor(scaled)) / scale +
           0.0;    // Python's ceil and floor give whole numbers, which have no -0
}

Value sum(Runtime& rt, const Value& v, Arguments& a)
{
    const Bound b("sum", "attribute start", a);
    const Values parts = path(rt, b.get(0, None{}));
    Value total = b.get(1, int64_t(0));
    if (as_text(total)) throw Fault::of("sum begins with a string");
    for (const Value& item : rt.items(v)) total = rt.binary(Runtime::Op::add, total, at_path(rt, item, parts));
    return total;
}

// ---- sequences

Value length(Runtime& rt, const Value& v, Arguments& a)
{
    Bound("length", "", a);
    return rt.length(v);
}

Value list(Runtime& rt, const Value& v, Arguments& a)
{
    Bound("list", "", a);
    return rt.list(rt.items(v));
}

Value first(Runtime& rt, const Value& v, Arguments& a)
{
    Bound("first", "", a);
    if (Sequence* s = as<Sequence>(v, {Type::generator})) {
        if (s->items.empty()) return Undefined{};
        Value one = s->items.front();
        s->items.erase(s->items.begin());
        return one;
    }
    const Values all = rt.items(v);
    return all.empty() ? Value(Undefined{}) : all.front();
}

Value last(Runtime& rt, const Value& v, Arguments& a)
{
    Bound("last", "", a);
    if (as<Sequence>(v, {Type::generator})) throw Fault::of("last is given a generator");
    const Values all = rt.items(v);
    return all.empty() ? Value(Undefined{}) : all.back();
}

Value reverse(Runtime& rt, const Value& v, Arguments& a)
{
    Bound("reverse", "", a);
    if (const Text* text = as_text(v)) return like(rt, v, Text(text->rbegin(), text->rend()));
    Values all = rt.items(v);
    std::reverse(all.begin(), all.end());
    return as<Sequence>(v, {Type::generator}) ? rt.list(std::move(all)) : rt.generator(std::move(all));
}

Value join(Runtime& rt, const Value& v, Arguments& a)
{
    const Bound b("join", "d attribute", a);
    const Text between = b.get(0) ? rt.str(b.need(0)) : Text();
    const Values parts = path(rt, b.get(1, None{}));
    Text out;
    bool begun = false;
    for (const Value& item : rt.items(v)) {
        if (std::exchange(begun, true)) out += between;
        rt.append_str(at_path(rt, item, parts), out);
        rt.check_size(out.size());
    }
    return rt.text(std::move(out));
}

/// Items with what they are ordered by.
struct Keyed {
    Value item;
    Values keys;
};

Value sorted(Runtime& rt, std::vector<Keyed> keyed, bool reverse)
{
    const auto before = [&](const Keyed& x, const Keyed& y) {
        for (size_t i = 0; i < x.keys.size(); i++)
            if (!rt.equal(x.keys[i], y.keys[i])) return rt.less(x.keys[i], y.keys[i]);
        return false;
    };
    // What is equal keeps its order in both directions.
    std::stable_sort(keyed.begin(), keyed.end(),
                     [&](const Keyed& x, const Keyed& y) { return reverse ? before(y, x) : before(x, y); });
    Values out;
    for (Keyed& k : keyed) out.push_back(std::move(k.item));
    return rt.list(std::move(out));
}

Value sort(Runtime& rt, const Value& v, Arguments& a)
{
    const Bound b("sort", "reverse case_sensitive attribute", a);
    const bool by_case = b.flag(rt, 1, false);
    const Value attribute = b.get(2, None{});
    std::vector<Values> paths;
    if (const Text* text = as_text(attribute)) {
        for (size_t at = 0; at <= text->size();) {
            const size_t end = std::min(text->find(U',', at), text->size());
            paths.push_back(path(rt, rt.text(text->substr(at, end - at))));
            at = end + 1;
        }
    } else paths.push_back(path(rt, attribute));
    std::vector<Keyed> keyed;
    for (const Value& item : rt.items(v)) {
        Keyed k{item, {}};
        for (const Values& parts : paths) {
            const Value key = at_path(rt, item, parts);
            k.keys.push_back(by_case ? key : without_case(rt, key));
        }
        keyed.push_back(std::move(k));
    }
    return sorted(rt, std::move(keyed), b.flag(rt, 0, false));
}

Value dictsort(Runtime& rt, const Value& v, Arguments& a)
{
    const Bound b("dictsort", "case_sensitive by reverse", a);
    const Dict* dict = as_dict(v);
    if (!dict) throw Fault::of("dictsort is given {}", Runtime::type_name(v));
    const bool by_case = b.flag(rt, 0, false);
    const Value by = b.get(1, rt.text("key"));
    const bool by_value = as_text(by) && same(*as_text(by), "value");
    if (!by_value && !(as_text(by) && same(*as_text(by), "key"))) throw Fault::of("dictsort sorts by key or by value");
    std::vector<Keyed> keyed;
    for (const auto& [key, value] : dict->items) {
        const Value& k = by_value ? value : key;
        keyed.push_back({rt.tuple({key, value}), {by_case ? k : without_case(rt, k)}});
    }
    return sorted(rt, std::move(keyed), b.flag(rt, 2, false));
}

template <bool largest>
Value extreme(Runtime& rt, const Value& v, Arguments& a)
{
    const Bound b(largest ? "max" : "min", "case_sensitive attribute", a);
    const bool by_case = b.flag(rt, 0, false);
    const Values parts = path(rt, b.get(1, None{}));
    std::optional<Keyed> best;
    for (const Value& item : rt.items(v)) {
        const Value found = at_path(rt, item, parts), key = by_case ? found : without_case(rt, found);
        if (!best || (largest ? rt.less(best->keys[0], key) : rt.less(key, best->keys[0]))) best = Keyed{item, {key}};
    }
    return best ? best->item : Value(Undefined{});
}

Value unique(Runtime& rt, const Value& v, Arguments& a)
{
    const Bound b("unique", "case_sensitive attribute", a);
    const bool by_case = b.flag(rt, 0, false);
    const Values parts = path(rt, b.get(1, None{}));
    Dict* seen = rt.make<Dict>();
    Values out;
    for (const Value& item : rt.items(v)) {
        const Value found = at_path(rt, item, parts), key = by_case ? found : without_case(rt, found);
        if (rt.find(*seen, key)) continue;
        rt.put(*seen, key, None{});
        out.push_back(item);
    }
    return rt.generator(std::move(out));
}

Value groupby(Runtime& rt, const Value& v, Arguments& a)
{
    const Bound b("groupby", "attribute default case_sensitive", a);
    const Values parts = path(rt, b.need(0));
    const Value otherwise = b.get(1, None{});
    const bool by_case = b.flag(rt, 2, false);
    const auto key = [&](const Value& item) { return at_path(rt, item, parts, &otherwise); };
    const auto ordered_by = [&](const Value& item) { return by_case ? key(item) : without_case(rt, key(item)); };
    std::vector<Keyed> keyed;
    for (const Value& item : rt.items(v)) keyed.push_back({item, {ordered_by(item)}});
    const Values items = rt.items(sorted(rt, std::move(keyed), false));
    Values groups;
    for (size_t i = 0; i < items.size();) {
        const Value name = ordered_by(items[i]);
        Values members;
        size_t end = i;
        while (end < items.size() && rt.equal(ordered_by(items[end]), name)) members.push_back(items[end++]);
        if (end == i) members.push_back(items[end++]);    // what does not equal itself is a group of its own
        groups.push_back(
            rt.make<Sequence>(Type::tuple, Values{key(items[i]), rt.list(std::move(members))}, group_name));
        i = end;
    }
    return rt.list(std::move(groups));
}

Value batch(Runtime& rt, const Value& v, Arguments& a)
{
    const Bound b("batch", "linecount fill_with", a);
    const int64_t n = need_integer(b.need(0));
    const Value fill = b.get(1, None{});
    Values rows, row;
    for (const Value& item : rt.items(v)) {
        if (int64_t(row.size()) == n) rows.push_back(rt.list(std::exchange(row, {})));
        row.push_back(item);
    }
    if (!row.empty()) {
        if (!is_none(fill) && n > int64_t(row.size())) {
            rt.check_size(uint64_t(n) * sizeof(Value));
            row.resize(size_t(n), fill);
        }
        rows.push_back(rt.list(std::move(row)));
    }
    return rt.generator(std::move(rows));
}

Value slice(Runtime& rt, const Value& v, Arguments& a)
{
    const Bound b("slice", "slices fill_with", a);
    const int64_t slices = need_integer(b.need(0));
    const Value fill = b.get(1, None{});
    const Values all = rt.items(v);
    if (slices == 0) throw Fault::of("a division by zero");
    rt.check_size(uint64_t(std::max<int64_t>(slices, 0)) * sizeof(Value));
    const int64_t each = int64_t(all.size()) / slices, longer = int64_t(all.size()) % slices;
    Values rows;
    size_t at = 0;
    for (int64_t i = 0; i < slices; i++) {
        const size_t end = at + size_t(each + (i < longer));
        Values row(all.begin() + ptrdiff_t(at), all.begin() + ptrdiff_t(end));
        if (!is_none(fill) && i >= longer) row.push_back(fill);
        rows.push_back(rt.list(std::move(row)));
        at = end;
    }
    return rt.generator(std::move(rows));
}

/// The rest of a filter's arguments, behind the name of another.
Arguments rest(const Arguments& a, size_t from)
{
    return {Values(a.positional.begin() + ptrdiff_t(std::min(from, a.positional.size())), a.positional.end()), a.named};
}

Value map(Runtime& rt, const Value& v, Arguments& a)
{
    if (!rt.truth(v)) return rt.generator({});
    Values out;
    if (a.positional.empty()) {
        Arguments named = a;
        named.positional.clear();
        const Bound b("map", "attribute default", named);
        const Values parts = path(rt, b.need(0));
        const Value otherwise = b.get(1, None{});
        for (const Value& item : rt.items(v)) out.push_back(at_path(rt, item, parts, &otherwise));
        return rt.generator(std::move(out));
    }
    const Text name = need_text(a.positional[0]);
    for (const Value& item : rt.items(v)) {
        Arguments more = rest(a, 1);
        out.push_back(rt.filter(name, item, more));
    }
    return rt.generator(std::move(out));
}

template <bool keep, bool by_attribute>
Value select(Runtime& rt, const Value& v, Arguments& a)
{
    if (!rt.truth(v)) return rt.generator({});
    constexpr size_t at = by_attribute ? 1 : 0;
    if (by_attribute && a.positional.empty()) throw Fault::of("selectattr is not given an attribute");
    const Values parts = by_attribute ? path(rt, a.positional[0]) : Values();
    Values out;
    for (const Value& item : rt.items(v)) {
        const Value looked_at = at_path(rt, item, parts);
        Arguments more = rest(a, at + 1);
        const bool good =
            a.positional.size() > at ? rt.test(need_text(a.positional[at]), looked_at, more) : rt.truth(looked_at);
        if (good == keep) out.push_back(item);
    }
    return rt.generator(std::move(out));
}

// ---- others

Value otherwise(Runtime& rt, const Value& v, Arguments& a)
{
    const Bound b("default", "default_value boolean", a);
    return is_undefined(v) || (b.flag(rt, 1, false) && !rt.truth(v)) ? b.get(0, rt.text("")) : v;
}

Value pairs(Runtime& rt, const Value& v, Arguments& a)
{
    Bound("items", "", a);
    if (is_undefined(v)) return rt.generator({});
    const Dict* dict = as_dict(v);
    if (!dict) throw Fault::of("items is given {}, expected a dictionary", Runtime::type_name(v));
    Values out;
    for (const auto& [key, value] : dict->items) out.push_back(rt.tuple({key, value}));
    return rt.generator(std::move(out));
}

Value attr(Runtime& rt, const Value& v, Arguments& a)
{
    const Bound b("attr", "name", a);
    if (as_dict(v)) {
        const Text& name = need_text(b.need(0));
        if (rt.unsafe_method(v, name)) return Undefined{nullptr, true};
        const std::optional<Value> found = rt.method(v, name);
        return found ? *found : Value(Undefined{});
    }
    return rt.attribute(v, b.need(0), nullptr);
}

struct Row {
    std::string_view name;
    FilterBody body;
};

constexpr Row filters[] = {
    {"abs", absolute},
    {"attr", attr},
    {"batch", batch},
    {"capitalize", changed<capitalize>},
    {"center", center},
    {"count", length},
    {"d", otherwise},
    {"default", otherwise},
    {"dictsort", dictsort},
    {"e", escape},
    {"escape", escape},
    {"first", first},
    {"float", real},
    {"forceescape", forceescape},
    {"format", format},
    {"groupby", groupby},
    {"indent", indent},
    {"int", integer},
    {"items", pairs},
    {"join", join},
    {"last", last},
    {"length", length},
    {"list", list},
    {"lower", changed<lower>},
    {"map", map},
    {"max", extreme<true>},
    {"min", extreme<false>},
    {"reject", select<false, false>},
    {"rejectattr", select<false, true>},
    {"replace", replace},
    {"reverse", reverse},
    {"round", rounded},
    {"safe", safe},
    {"select", select<true, false>},
    {"selectattr", select<true, true>},
    {"slice", slice},
    {"sort", sort},
    {"string", string},
    {"sum", sum},
    {"title", changed<titled>},
    {"tojson", tojson},
    {"trim", trim},
    {"truncate", truncate},
    {"unique", unique},
    {"upper", changed<upper>},
    {"urlencode", urlencode},
    {"wordcount", wordcount},
};

}    // namespace

FilterBody find_filter(std::string_view name)
{
    const auto found =
        std::find_if(std::begin(filters), std::end(filters), [&](const Row& row) { return row.name == name; });
    return found == std::end(filters) ? nullptr : found->body;
}

}    // namespace hearth::jinja
