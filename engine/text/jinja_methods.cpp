// Methods of strings, lists and dictionaries, and other attributes, as a template reaches them by `value.name`.
#include "engine/text/jinja_value.h"

#include <algorithm>

namespace hearth::jinja {

using Type = Object::Type;

namespace {

const Text& self_text(const Value& self) { return need_text(self); }

/// A method's text keeps whether it is safe to be joined with others.
Value made(Runtime& rt, const Value& self, Text text) { return rt.text(std::move(text), is_safe(self)); }
Value made(Runtime& rt, const Value& self, TextView text) { return rt.text(Text(text), is_safe(self)); }

void no_arguments(const char* name, Arguments& a) { Bound(name, "", a); }

template <Text (*change)(TextView)>
Value changed(Runtime& rt, const Value& self, Arguments& a)
{
    no_arguments("the method", a);
    return made(rt, self, change(self_text(self)));
}

Text swapped_case(TextView text)
{
    Text out;
    for (size_t i = 0; i < text.size(); i++) {
        if (is_upper(text[i])) append_lower(text, i, out);
        else append_upper(text[i], out);
    }
    return out;
}

/// strip, lstrip, rstrip
template <bool left, bool right>
Value stripped(Runtime& rt, const Value& self, Arguments& a)
{
    const Bound b("strip", "chars", a);
    TextView text = self_text(self);
    const Value chars = b.get(0, None{});
    const Text* given = is_none(chars) ? nullptr : &need_text(chars);
    const auto goes = [&](char32_t c) {
        return given ? std::any_of(given->begin(), given->end(), [&](char32_t x) { return plain(x) == plain(c); })
                     : is_space(c);
    };
    while (left && !text.empty() && goes(text.front())) text.remove_prefix(1);
    while (right && !text.empty() && goes(text.back())) text.remove_suffix(1);
    return made(rt, self, text);
}

Value split(Runtime& rt, const Value& self, Arguments& a)
{
    const Bound b("split", "sep maxsplit", a);
    const TextView text = self_text(self);
    const int64_t most = b.integer(1, -1);
    Values parts;
    const auto push = [&](TextView part) { parts.push_back(made(rt, self, part)); };
    size_t at = 0;
    const Value separator = b.get(0, None{});
    if (!is_none(separator)) {
        const Text& sep = need_text(separator);
        if (sep.empty()) throw Fault::of("split is given an empty separator");
        while (most < 0 || int64_t(parts.size()) < most) {
            const size_t found = rt.find_text(text, sep, at);
            if (found == text.npos) break;
            push(text.substr(at, found - at));
            at = found + sep.size();
        }
        push(text.substr(at));
        return rt.list(std::move(parts));
    }
    while (true) {
        while (at < text.size() && is_space(text[at])) at++;
        if (at == text.size()) break;
        if (most >= 0 && int64_t(parts.size()) >= most) {
            push(text.substr(at));
            break;
        }
        size_t end = at;
        while (end < text.size() && !is_space(text[end])) end++;
        push(text.substr(at, end - at));
        at = end;
    }
    return rt.list(std::move(parts));
}

Value rsplit(Runtime& rt, const Value& self, Arguments& a)
{
    const Bound b("rsplit", "sep maxsplit", a);
    TextView text = self_text(self);
    const int64_t most = b.integer(1, -1);
    Values parts;
    const auto push = [&](TextView part) { parts.push_back(made(rt, self, part)); };
    const Value separator = b.get(0, None{});
    if (!is_none(separator)) {
        const Text& sep = need_text(separator);
        if (sep.empty()) throw Fault::of("rsplit is given an empty separator");
        while (most < 0 || int64_t(parts.size()) < most) {
            const size_t found = rt.rfind_text(text, sep);
            if (found == text.npos) break;
            push(text.substr(found + sep.size()));
            text = text.substr(0, found);
        }
        push(text);
    } else {
        while (!(text = strip_right(text)).empty()) {
            if (most >= 0 && int64_t(parts.size()) >= most) {
                push(text);
                break;
            }
            size_t begin = text.size();
            while (begin > 0 && !is_space(text[begin - 1])) begin--;
            push(text.substr(begin));
            text = text.substr(0, begin);
        }
    }
    std::reverse(parts.begin(), parts.end());
    return rt.list(std::move(parts));
}

bool ends_line(char32_t c)
{
    c = plain(c);
    return (c >= 10 && c <= 13) || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 || c == 0x2029;
}

Value splitlines(Runtime& rt, const Value& self, Arguments& a)
{
    const Bound b("splitlines", "keepends", a);
    const TextView text = self_text(self);
    const bool keep = b.flag(rt, 0, false);
    Values lines;
    for (size_t at = 0; at < text.size();) {
        size_t end = at;
        while (end < text.size() && !ends_line(text[end])) end++;
        size_t next = std::min(end + 1, text.size());
        if (end + 1 < text.size() && plain(text[end]) == '\r' && plain(text[end + 1]) == '\n') next++;
        lines.push_back(made(rt, self, text.substr(at, (keep ? next : end) - at)));
        at = next;
    }
    return rt.list(std::move(lines));
}

template <bool at_end>
Value partition(Runtime& rt, const Value& self, Arguments& a)
{
    const Bound b("partition", "sep", a);
    const TextView text = self_text(self);
    const Text& sep = need_text(b.need(0));
    if (sep.empty()) throw Fault::of("partition is given an empty separator");
    const size_t found = at_end ? rt.rfind_text(text, sep) : rt.find_text(text, sep);
    const TextView none;
    if (found == text.npos)
        return rt.tuple(at_end ? Values{made(rt, self, none), made(rt, self, none), self}
                               : Values{self, made(rt, self, none), made(rt, self, none)});
    return rt.tuple({made(rt, self, text.substr(0, found)), made(rt, self, TextView(sep)),
                     made(rt, self, text.substr(found + sep.size()))});
}

/// The part of a text that the arguments `start` and `end` name; nothing where it begins behind the text's end.
std::optional<TextView> window(TextView text, const Bound& b, size_t first, size_t& begin)
{
    const int64_t n = int64_t(text.size());
    const auto bound = [&](size_t i, int64_t otherwise) {
        const Value v = b.get(i, None{});
        if (is_none(v)) return otherwise;
        int64_t x = need_integer(v);
        if (x < 0) x = std::max<int64_t>(x + n, 0);
        return x;
    };
    const int64_t from = bound(first, 0), to = std::min(bound(first + 1, n), n);
    if (from > n || from > to) return {};
    begin = size_t(from);
    return text.substr(size_t(from), size_t(to - from));
}

template <bool at_end>
Value begins_or_ends(Runtime& rt, const Value& self, Arguments& a)
{
    const Bound b(at_end ? "endswith" : "startswith", "affix start end", a);
    size_t begin = 0;
    const std::optional<TextView> text = window(self_text(self), b, 1, begin);
    const auto fits = [&](const Value& affix) {
        const Text& part = need_text(affix);
        if (!text || part.size() > text->size()) return false;
        rt.work(part.size() / 16);
        return same(at_end ? text->substr(text->size() - part.size()) : text->substr(0, part.size()), part);
    };
    if (const Sequence* several = as<Sequence>(b.need(0), {Type::tuple}))
        return std::any_of(several->items.begin(), several->items.end(), fits);
    return fits(b.need(0));
}

template <bool from_end, bool must>
Value found_at(Runtime& rt, const Value& self, Arguments& a)
{
    const Bound b("find", "sub start end", a);
    const Text& part = need_text(b.need(0));
    size_t begin = 0;
    const std::optional<TextView> text = window(self_text(self), b, 1, begin);
    const size_t found = !text ? TextView::npos : from_end ? rt.rfind_text(*text, part) : rt.find_text(*text, part);
    if (found != TextView::npos) return int64_t(begin + found);
    if (must) throw Fault::of("index does not find a string in another");
    return int64_t(-1);
}

Value counted(Runtime& rt, const Value& self, Arguments& a)
{
    const Bound b("count", "sub start end", a);
    const Text& part = need_text(b.need(0));
    size_t begin = 0;
    const std::optional<TextView> text = window(self_text(self), b, 1, begin);
    if (!text) return int64_t(0);
    if (part.empty()) return int64_t(text->size() + 1);
    int64_t n = 0;
    for (size_t at = 0; (at = rt.find_text(*text, part, at)) != TextView::npos; at += part.size()) n++;
    return n;
}

Value replace(Runtime& rt, const Value& self, Arguments& a)
{
    const Bound b("replace", "old new count", a);
    return made(rt, self, rt.replaced(self_text(self), need_text(b.need(0)), need_text(b.need(1)), b.integer(2, -1)));
}

Value join(Runtime& rt, const Value& self, Arguments& a)
{
    const Bound b("join", "iterable", a);
    Text out;
    bool first = true;
    for (const Value& part : rt.items(b.need(0))) {
        const Text* text = as_text(part);
        if (!text) throw Fault::of("join is given {}, expected strings", Runtime::type_name(part));
        if (!std::exchange(first, false)) out += self_text(self);
        rt.check_size(out.size() + text->size());
        out += is_safe(self) && !is_safe(part) ? rt.escaped(*text) : *text;
    }
    return made(rt, self, std::move(out));
}

template <bool prefix>
Value affix_removed(Runtime& rt, const Value& self, Arguments& a)
{
    const Bound b(prefix ? "removeprefix" : "removesuffix", "affix", a);
    TextView text = self_text(self);
    const Text& part = need_text(b.need(0));
    if (part.size() <= text.size()) {
        if (prefix && same(text.substr(0, part.size()), part)) text.remove_prefix(part.size());
        else if (!prefix && same(text.substr(text.size() - part.size()), part)) text.remove_suffix(part.size());
    }
    return made(rt, self, text);
}

/// ljust, rjust, center: the share of what is filled that goes to the left is 0, 1 or a half.
template <int halves_left>
Value justified(Runtime& rt, const Value& self, Arguments& a)
{
    const Bound b("center", "width fillchar", a);
    const Text& text = self_text(self);
    const Value fill = b.get(1, rt.text(" "));
    if (need_text(fill).size() != 1) throw Fault::of("a text is filled with a string that is not one character");
    const int64_t width = need_integer(b.need(0)), missing = std::max<int64_t>(width - int64_t(text.size()), 0);
    rt.check_size(uint64_t(missing) + text.size());
    const int64_t left = halves_left == 1 ? missing / 2 + (missing & width & 1) : halves_left == 2 ? missing : 0;
    const char32_t c = need_text(fill)[0];
    return made(rt, self, Text(size_t(left), c) + text + Text(size_t(missing - left), c));
}

Value zfill(Runtime& rt, const Value& self, Arguments& a)
{
    const Bound b("zfill", "width", a);
    Text text = self_text(self);
    const int64_t missing = std::max<int64_t>(need_integer(b.need(0)) - int64_t(text.size()), 0);
    rt.check_size(uint64_t(missing) + text.size());
    const bool sign = !text.empty() && (plain(text[0]) == '-' || plain(text[0]) == '+');
    text.insert(sign ? 1 : 0, size_t(missing), U'0');
    return made(rt, self, std::move(text));
}

Value expandtabs(Runtime& rt, const Value& self, Arguments& a)
{
    const Bound b("expandtabs", "tabsize", a);
    const int64_t size = b.integer(0, 8);
    if (size > 1024) throw Fault::of("a tab of {} columns is too wide", size);
    Text out;
    int64_t column = 0;
    for (const char32_t c : self_text(self)) {
        if (plain(c) == '\t') {
            const int64_t n = size > 0 ? size - column % size : 0;
            out.append(size_t(n), with_origin(' ', c));
            column += n;
        } else {
            out += c;
            column = plain(c) == '\n' || plain(c) == '\r' ? 0 : column + 1;
        }
        rt.check_size(out.size());
    }
    return made(rt, self, std::move(out));
}

Value format(Runtime& rt, const Value& self, Arguments& a) { return made(rt, self, rt.formatted(self_text(self), a)); }

/// isalpha() and its like: every character, and there is one.
template <bool (*good)(char32_t)>
Value all_are(Runtime&, const Value& self, Arguments& a)
{
    no_arguments("the method", a);
    const Text& text = self_text(self);
    return !text.empty() && std::all_of(text.begin(), text.end(), good);
}
bool is_alnum(char32_t c) { return is_alpha(c) || is_numeric(c); }

Value only_ascii(Runtime&, const Value& self, Arguments& a)
{
    no_arguments("isascii", a);
    const Text& text = self_text(self);
    return std::all_of(text.begin(), text.end(), [](char32_t c) { return plain(c) < 0x80; });
}

Value isprintable(Runtime&, const Value& self, Arguments& a)
{
    no_arguments("isprintable", a);
    const Text& text = self_text(self);
    return std::all_of(text.begin(), text.end(), is_printable);
}

Value isidentifier(Runtime&, const Value& self, Arguments& a)
{
    no_arguments("isidentifier", a);
    const Text& text = self_text(self);
    return !text.empty() && !is_numeric(text[0]) && std::all_of(text.begin(), text.end(), is_word);
}

/// islower, isupper: a cased character, and none of the other kinds.
template <bool (*wanted)(char32_t), bool (*other)(char32_t)>
Value cased(Runtime&, const Value& self, Arguments& a)
{
    no_arguments("the method", a);
    const Text& text = self_text(self);
    return std::any_of(text.begin(), text.end(), wanted) &&
           std::none_of(text.begin(), text.end(), [](char32_t c) { return other(c) || is_title(c); });
}

Value istitle(Runtime&, const Value& self, Arguments& a)
{
    no_arguments("istitle", a);
    bool any = false, in_word = false;
    for (const char32_t c : self_text(self)) {
        const bool large = is_upper(c) || is_title(c), small = is_lower(c);
        if ((large && in_word) || (small && !in_word)) return false;
        any |= large || small;
        in_word = large || small;
    }
    return any;
}

// ---- lists and dictionaries -----------------------------------------------------------------------------------------

Value list_index(Runtime& rt, const Value& self, Arguments& a)
{
    const Bound b("index", "value start stop", a);
    const Values items = rt.items(self);
    const int64_t n = int64_t(items.size());
    const auto place = [&](size_t i, int64_t otherwise) {
        const int64_t x = b.integer(i, otherwise);
        return x < 0 ? std::max<int64_t>(x + n, 0) : std::min(x, n);
    };
    for (int64_t i = place(1, 0); i < place(2, n); i++)
        if (rt.equal(items[size_t(i)], b.need(0))) return i;
    throw Fault::of("index does not find a value in a list");
}

Value list_count(Runtime& rt, const Value& self, Arguments& a)
{
    const Bound b("count", "value", a);
    int64_t n = 0;
    for (const Value& item : rt.items(self)) n += rt.equal(item, b.need(0));
    return n;
}

Value list_copy(Runtime& rt, const Value& self, Arguments& a)
{
    no_arguments("copy", a);
    return rt.list(rt.items(self));
}

Value dict_get(Runtime& rt, const Value& self, Arguments& a)
{
    const Bound b("get", "key default", a);
    const Value* found = rt.find(*as_dict(self), b.need(0));
    return found ? *found : b.get(1, None{});
}

Value view(Runtime& rt, const Value& self, Arguments& a, const char* name, bool keys, bool values)
{
    no_arguments(name, a);
    Values all;
    for (const auto& [key, value] : as_dict(self)->items)
        all.push_back(keys && values ? rt.tuple({key, value}) : keys ? key : value);
    return rt.make<Sequence>(Type::view, std::move(all), name);
}
Value dict_items(Runtime& rt, const Value& self, Arguments& a) { return view(rt, self, a, "dict_items", true, true); }
Value dict_keys(Runtime& rt, const Value& self, Arguments& a) { return view(rt, self, a, "dict_keys", true, false); }
Value dict_values(Runtime& rt, const Value& self, Arguments& a) { return view(rt, self, a, values_view, false, true); }

Value dict_copy(Runtime& rt, const Value& self, Arguments& a)
{
    no_arguments("copy", a);
    Dict* copy = rt.make<Dict>();
    rt.hold(as_dict(self)->items.size() * 2 * sizeof(Value));
    copy->items = as_dict(self)->items;
    return copy;
}

Value cycler_next(Runtime&, const Value& self, Arguments& a)
{
    no_arguments("next", a);
    Cycler* c = as<Cycler>(self, {Type::cycler});
    Value now = c->items[c->at];
    c->at = (c->at + 1) % c->items.size();
    return now;
}

Value cycler_reset(Runtime&, const Value& self, Arguments& a)
{
    no_arguments("reset", a);
    as<Cycler>(self, {Type::cycler})->at = 0;
    return None{};
}

struct Method {
    const char* name;
    Function::Body body;    // nullptr: Python has it, but it is not done here
};

constexpr Method text_methods[] = {
    {"capitalize", changed<capitalize>},
    {"casefold", nullptr},
    {"center", justified<1>},
    {"count", counted},
    {"encode", nullptr},
    {"endswith", begins_or_ends<true>},
    {"expandtabs", expandtabs},
    {"find", found_at<false, false>},
    {"format", format},
    {"format_map", nullptr},
    {"index", found_at<false, true>},
    {"isalnum", all_are<is_alnum>},
    {"isalpha", all_are<is_alpha>},
    {"isascii", only_ascii},
    {"isdecimal", all_are<is_decimal>},
    {"isdigit", all_are<is_digit>},
    {"isidentifier", isidentifier},
    {"islower", cased<is_lower, is_upper>},
    {"isnumeric", all_are<is_numeric>},
    {"isprintable", isprintable},
    {"isspace", all_are<is_space>},
    {"istitle", istitle},
    {"isupper", cased<is_upper, is_lower>},
    {"join", join},
    {"ljust", justified<0>},
    {"lower", changed<lower>},
    {"lstrip", stripped<true, false>},
    {"maketrans", nullptr},
    {"partition", partition<false>},
    {"removeprefix", affix_removed<true>},
    {"removesuffix", affix_removed<false>},
    {"replace", replace},
    {"rfind", found_at<true, false>},
    {"rindex", found_at<true, true>},
    {"rjust", justified<2>},
    {"rpartition", partition<true>},
    {"rsplit", rsplit},
    {"rstrip", stripped<false, true>},
    {"split", split},
    {"splitlines", splitlines},
    {"startswith", begins_or_ends<false>},
    {"strip", stripped<true, true>},
    {"swapcase", changed<swapped_case>},
    {"title", changed<title>},
    {"translate", nullptr},
    {"upper", changed<upper>},
    {"zfill", zfill},
};
constexpr Method list_methods[] = {{"copy", list_copy}, {"count", list_count}, {"index", list_index}};
constexpr Method tuple_methods[] = {{"count", list_count}, {"index", list_index}};
constexpr Method dict_methods[] = {{"copy", dict_copy},   {"fromkeys", nullptr}, {"get", dict_get},
                                   {"items", dict_items}, {"keys", dict_keys},   {"values", dict_values}};
constexpr Method cycler_methods[] = {{"next", cycler_next}, {"reset", cycler_reset}};

/// What changes a value in place: a template may not, in the sandbox.
constexpr std::string_view list_changes[] = {"append", "clear", "pop", "reverse", "insert", "sort", "extend", "remove"};
constexpr std::string_view dict_changes[] = {"clear", "pop", "popitem", "setdefault", "update"};

template <size_t n>
std::optional<Value> find_method(Runtime& rt, const Value& self, TextView name, const Method (&methods)[n])
{
    for (const Method& m : methods) {
        if (!same(name, m.name)) continue;
        if (!m.body) throw Fault::of("the method '{}' of {} is not done here", m.name, Runtime::type_name(self));
        return rt.make<Function>(m.name, m.body, self);
    }
    return {};
}

template <size_t n>
bool is_one_of(TextView name, const std::string_view (&names)[n])
{
    return std::any_of(std::begin(names), std::end(names), [&](std::string_view x) { return same(name, x); });
}

}    // namespace

bool Runtime::unsafe_method(const Value& v, TextView name) const
{
    // What begins with a line is Python's own: where there is such a thing, it is not for templates.
    if (name.size() >= 2 && plain(name[0]) == '_' && plain(name[1]) == '_' &&
        same(name.substr(name.size() - 2), "__")) {
        for (const char* known : {"__class__", "__init__", "__doc__", "__dict__", "__len__", "__str__", "__repr__",
                                  "__eq__", "__hash__", "__iter__", "__getitem__", "__contains__", "__add__", "__new__",
                                  "__reduce__", "__subclasshook__", "__dir__"})
            if (same(name, known)) return true;
        return false;
    }
    return (as_list(v) && is_one_of(name, list_changes)) || (as_dict(v) && is_one_of(name, dict_changes));
}

std::optional<Value> Runtime::method(const Value& v, TextView name)
{
    if (as_text(v)) return find_method(*this, v, name, text_methods);
    if (as_dict(v)) return find_method(*this, v, name, dict_methods);
    if (as_list(v)) return find_method(*this, v, name, list_methods);
    if (const Sequence* s = as_array(v)) {
        if (s->name == group_name && same(name, "grouper")) return s->items[0];
        if (s->name == group_name && same(name, "list")) return s->items[1];
        return find_method(*this, v, name, tuple_methods);
    }
    if (const Range* r = as<Range>(v, {Type::range})) {
        if (same(name, "start")) return r->start;
        if (same(name, "stop")) return r->stop;
        if (same(name, "step")) return r->step;
        return find_method(*this, v, name, tuple_methods);
    }
    if (Dict* space = as<Dict>(v, {Type::space})) {
        const Value* found = find(*space, text(Text(name)));
        return found ? std::optional(*found) : std::nullopt;
    }
    if (Cycler* c = as<Cycler>(v, {Type::cycler})) {
        if (same(name, "current")) return c->items[c->at];
        return find_method(*this, v, name, cycler_methods);
    }
    return special(v, name);
}

}    // namespace hearth::jinja
