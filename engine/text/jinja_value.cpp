// What Python does with values of every type: truth, equality, order, length, iteration, and how they are written.
#include "engine/text/jinja_value.h"

#include <algorithm>
#include <charconv>
#include <cmath>

namespace hearth::jinja {

using Type = Object::Type;

std::string text_of(const std::vector<Piece>& pieces)
{
    std::string text;
    for (const Piece& piece : pieces) text += piece.text;
    return text;
}

std::optional<double> as_real(const Value& v)
{
    if (const auto* d = std::get_if<double>(&v)) return *d;
    if (const auto i = as_integer(v)) return double(*i);
    return {};
}

int64_t need_integer(const Value& v)
{
    if (const auto i = as_integer(v)) return *i;
    throw Fault::of("{} stands where a whole number is expected", Runtime::type_name(v));
}

const Text& need_text(const Value& v)
{
    if (const Text* text = as_text(v)) return *text;
    throw Fault::of("{} stands where a string is expected", Runtime::type_name(v));
}

int64_t Range::size() const
{
    if (step > 0 ? start >= stop : start <= stop) return 0;
    const uint64_t distance = step > 0 ? uint64_t(stop) - uint64_t(start) : uint64_t(start) - uint64_t(stop);
    const uint64_t stride = step > 0 ? uint64_t(step) : -uint64_t(step);
    return int64_t((distance - 1) / stride + 1);
}

// ---- limits and making ----------------------------------------------------------------------------------------------

Runtime::Runtime(const Limits& limits) : limits_(limits) {}
Runtime::~Runtime() = default;

void Runtime::too_many_steps()
{
    throw Fault::of("it takes more than {} steps: a template of a conversation takes fewer", limits_.steps);
}
void Runtime::too_deep() { throw Fault::of("values, calls or loops are nested too deeply"); }

void Runtime::hold(uint64_t bytes)
{
    memory_ += bytes;
    if (memory_ > limits_.memory) throw Fault::of("its values take more than {} MiB", limits_.memory >> 20);
}

void Runtime::keep(std::unique_ptr<Object> object, uint64_t bytes)
{
    work(1);
    hold(bytes + sizeof object);
    objects_.push_back(std::move(object));
}

void Runtime::check_size(uint64_t characters)
{
    if (characters > limits_.memory / sizeof(char32_t))
        throw Fault::of("a string of {} characters is too long", characters);
}

Value Runtime::text(Text text, bool safe)
{
    const uint64_t bytes = text.size() * sizeof(char32_t) + 128;
    work(1 + text.size() / 16);
    hold(bytes);
    // Given back when nobody has it any more: a template may build a long text piece by piece.
    return String{std::shared_ptr<const Text>(new Text(std::move(text)),
                                              [this, bytes](const Text* gone) {
                                                  memory_ -= bytes;
                                                  delete gone;
                                              }),
                  safe};
}

Value Runtime::from(const Data& data)
{
    Nested nested(*this);
    if (const auto* b = std::get_if<bool>(&data.value)) return *b;
    if (const auto* i = std::get_if<int64_t>(&data.value)) return *i;
    if (const auto* d = std::get_if<double>(&data.value)) return *d;
    if (const auto* pieces = std::get_if<Data::Text>(&data.value)) {
        Text all;
        for (const Piece& piece : *pieces) append_utf8(piece.text, piece.own ? 0 : foreign, all);
        return text(std::move(all));
    }
    if (const auto* list = std::get_if<Data::List>(&data.value)) {
        Values items;
        for (const Data& item : *list) items.push_back(from(item));
        return this->list(std::move(items));
    }
    if (const auto* pairs = std::get_if<Data::Dict>(&data.value)) {
        Dict* dict = make<Dict>();
        for (const auto& [key, value] : *pairs) put(*dict, text(from_utf8(key, foreign)), from(value));
        return dict;
    }
    return None{};
}

// ---- types ----------------------------------------------------------------------------------------------------------

std::string Runtime::type_name(const Value& v)
{
    static constexpr const char* scalars[] = {"Undefined", "NoneType", "bool", "int", "float", "str"};
    if (v.index() < std::size(scalars)) return scalars[v.index()];
    Object* object = std::get<Object*>(v);
    switch (object->type) {
    case Type::list: return "list";
    case Type::tuple: return "tuple";
    case Type::view:
    case Type::generator: return static_cast<Sequence*>(object)->name;
    case Type::range: return "range";
    case Type::dict: return "dict";
    case Type::space: return "Namespace";
    case Type::macro: return "Macro";
    case Type::loop: return "LoopContext";
    case Type::cycler: return "Cycler";
    case Type::joiner: return "Joiner";
    case Type::function: break;
    }
    return "function";
}

Fault Runtime::undefined_fault(const Undefined& u)
{
    if (u.unsafe) return Fault::of("'{}' may not be used by a template", u.name ? printable(*u.name) : "this");
    return u.name ? Fault::of("'{}' is undefined", printable(*u.name))
                  : Fault::of("something that is undefined is used");
}

bool Runtime::truth(const Value& v)
{
    if (is_undefined(v) || is_none(v)) return false;
    if (const auto i = as_integer(v)) return *i != 0;
    if (const auto* d = std::get_if<double>(&v)) return *d != 0;
    if (const Text* t = as_text(v)) return !t->empty();
    if (const Dict* d = as_dict(v)) return !d->items.empty();
    if (const Sequence* s = as<Sequence>(v, {Type::list, Type::tuple, Type::view})) return !s->items.empty();
    if (const Range* r = as<Range>(v, {Type::range})) return r->size() != 0;
    return true;
}

bool Runtime::equal(const Value& a, const Value& b)
{
    work(1);
    if (a.index() == b.index() && (is_none(a) || is_undefined(a))) return true;
    const auto i = as_integer(a), j = as_integer(b);
    if (i && j) return *i == *j;
    const auto x = as_real(a), y = as_real(b);
    if (x && y) return *x == *y;
    const Text *s = as_text(a), *t = as_text(b);
    if (s && t) {
        if (s->size() != t->size()) return false;
        work(s->size() / 16);
        return same(*s, *t);
    }
    if (a.index() != b.index() || !std::holds_alternative<Object*>(a)) return false;
    Object *p = std::get<Object*>(a), *q = std::get<Object*>(b);
    if (p == q) return true;
    if (p->type != q->type) return false;
    Nested nested(*this);
    if (const Sequence* m = as_array(a), *n = as_array(b); m && n) {
        if (m->items.size() != n->items.size()) return false;
        for (size_t k = 0; k < m->items.size(); k++)
            if (!equal(m->items[k], n->items[k])) return false;
        return true;
    }
    if (const Dict* m = as_dict(a)) {
        Dict* n = as_dict(b);
        if (m->items.size() != n->items.size()) return false;
        for (const auto& [key, value] : m->items) {
            const Value* other = find(*n, key);
            if (!other || !equal(value, *other)) return false;
        }
        return true;
    }
    if (const Range* m = as<Range>(a, {Type::range}), *n = as<Range>(b, {Type::range}); m && n)
        return m->size() == n->size() &&
               (m->size() == 0 || (m->start == n->start && (m->size() == 1 || m->step == n->step)));
    return false;
}

bool Runtime::less(const Value& a, const Value& b)
{
    work(1);
    for (const Value* v : {&a, &b})
        if (const auto* u = std::get_if<Undefined>(v)) throw undefined_fault(*u);
    const auto i = as_integer(a), j = as_integer(b);
    if (i && j) return *i < *j;
    const auto x = as_real(a), y = as_real(b);
    if (x && y) return *x < *y;
    const Text *s = as_text(a), *t = as_text(b);
    if (s && t) {
        work(std::min(s->size(), t->size()) / 16);
        return compare(*s, *t) < 0;
    }
    const Sequence *m = as_array(a), *n = as_array(b);
    if (m && n && m->type == n->type) {
        Nested nested(*this);
        for (size_t k = 0; k < std::min(m->items.size(), n->items.size()); k++)
            if (!equal(m->items[k], n->items[k])) return less(m->items[k], n->items[k]);
        return m->items.size() < n->items.size();
    }
    throw Fault::of("{} and {} have no order", type_name(a), type_name(b));
}

bool Runtime::contains(const Value& container, const Value& item)
{
    if (const Text* text = as_text(container)) {
        const Text* part = as_text(item);
        if (const auto* u = std::get_if<Undefined>(&item))
            throw Fault::of("'{}', which is undefined, is looked for in a string", u->name ? *u->name : "?");
        if (!part) throw Fault::of("{} is looked for in a string", type_name(item));
        return find_text(*text, *part) != TextView::npos;
    }
    if (Dict* dict = as_dict(container)) return find(*dict, item);
    if (const Sequence* s = as<Sequence>(container, {Type::list, Type::tuple, Type::view}))
        return std::any_of(s->items.begin(), s->items.end(), [&](const Value& v) { return equal(v, item); });
    if (const Range* r = as<Range>(container, {Type::range})) {
        const auto i = as_integer(item);
        if (!i) return false;
        const uint64_t from_start = r->step > 0 ? uint64_t(*i) - uint64_t(r->start) : uint64_t(r->start) - uint64_t(*i);
        const bool inside = r->step > 0 ? *i >= r->start && *i < r->stop : *i <= r->start && *i > r->stop;
        return inside && from_start % (r->step > 0 ? uint64_t(r->step) : -uint64_t(r->step)) == 0;
    }
    const Values all = items(container);
    return std::any_of(all.begin(), all.end(), [&](const Value& v) { return equal(v, item); });
}

int64_t Runtime::length(const Value& v)
{
    if (is_undefined(v)) return 0;
    if (const Text* t = as_text(v)) return int64_t(t->size());
    if (const Dict* d = as_dict(v)) return int64_t(d->items.size());
    if (const Sequence* s = as<Sequence>(v, {Type::list, Type::tuple, Type::view})) return int64_t(s->items.size());
    if (const Range* r = as<Range>(v, {Type::range})) return r->size();
    throw Fault::of("{} has no length", type_name(v));
}

Values Runtime::items(const Value& v)
{
    if (is_undefined(v)) return {};
    Values all;
    if (const Text* t = as_text(v)) {
        check_size(t->size() * (sizeof(Value) / sizeof(char32_t) + 16));
        work(t->size());
        for (const char32_t c : *t) all.push_back(text(Text(1, c), is_safe(v)));
    } else if (const Dict* d = as_dict(v)) {
        for (const auto& [key, _] : d->items) all.push_back(key);
    } else if (Sequence* s = as<Sequence>(v, {Type::list, Type::tuple, Type::view, Type::generator})) {
        if (s->type == Type::generator) all = std::exchange(s->items, {});
        else all = s->items;
    } else if (const Range* r = as<Range>(v, {Type::range})) {
        check_size(uint64_t(r->size()) * (sizeof(Value) / sizeof(char32_t)));
        for (int64_t k = 0; k < r->size(); k++) all.push_back(r->start + k * r->step);
    } else throw Fault::of("{} is nothing that can be gone through item by item", type_name(v));
    work(all.size() / 4);
    return all;
}

// ---- dictionaries ---------------------------------------------------------------------------------------------------

void Runtime::need_key(const Value& key)
{
    if (as_list(key) || as_dict(key)) throw Fault::of("{} cannot be a key", type_name(key));
    if (const Sequence* view = as<Sequence>(key, {Type::view}); view && view->name != values_view)
        throw Fault::of("{} cannot be a key", type_name(key));
    if (const Sequence* tuple = as_array(key)) {
        Nested nested(*this);
        work(tuple->items.size());
        for (const Value& item : tuple->items) need_key(item);
    }
}

Value* Runtime::find(Dict& dict, const Value& key)
{
    need_key(key);
    work(1 + dict.items.size() / 8);
    const Text* text = as_text(key);
    for (auto& [other, value] : dict.items) {
        if (const Text* t = as_text(other)) {
            if (text && same(*t, *text)) return &value;
        } else if (!text && equal(other, key)) return &value;
    }
    return nullptr;
}

void Runtime::put(Dict& dict, const Value& key, Value value)
{
    if (Value* old = find(dict, key)) *old = std::move(value);
    else {
        hold(2 * sizeof(Value));
        dict.items.emplace_back(key, std::move(value));
    }
}

// ---- texts ----------------------------------------------------------------------------------------------------------

size_t Runtime::find_text(TextView text, TextView part, size_t from)
{
    if (part.empty()) return from <= text.size() ? from : TextView::npos;
    for (size_t at = from; at + part.size() <= text.size(); at++) {
        size_t i = 0;
        while (i < part.size() && plain(text[at + i]) == plain(part[i])) i++;
        if ((at & 15) == 0) work(1);
        if (i >= 16) work(i / 16);
        if (i == part.size()) return at;
    }
    return TextView::npos;
}

size_t Runtime::rfind_text(TextView text, TextView part)
{
    if (part.size() > text.size()) return TextView::npos;
    for (size_t at = text.size() - part.size() + 1; at-- > 0;) {
        if ((at & 15) == 0) work(1 + part.size() / 16);
        if (same(text.substr(at, part.size()), part)) return at;
    }
    return TextView::npos;
}

Text Runtime::replaced(TextView text, TextView from, TextView to, int64_t most)
{
    Text out;
    size_t at = 0;
    for (int64_t done = 0; most < 0 || done < most; done++) {
        const size_t found = find_text(text, from, at);
        if (found == text.npos) break;
        out += text.substr(at, found - at);
        out += to;
        check_size(out.size());
        at = found;
        if (from.empty()) {    // between all characters
            if (at == text.size()) return out;
            out += text[at++];
        } else at += from.size();
    }
    return out += text.substr(std::min(at, text.size()));
}

Text Runtime::escaped(TextView text)
{
    static constexpr std::pair<char32_t, std::string_view> names[] = {
        {'&', "&amp;"}, {'<', "&lt;"}, {'>', "&gt;"}, {'\'', "&#39;"}, {'"', "&#34;"}};
    Text out;
    for (const char32_t c : text) {
        const auto* name =
            std::find_if(std::begin(names), std::end(names), [&](const auto& row) { return row.first == plain(c); });
        if (name == std::end(names)) out += c;
        else append_utf8(name->second, c & foreign, out);
    }
    check_size(out.size());
    return out;
}

namespace {

void append_ascii(std::string_view ascii, Text& out) { append_utf8(ascii, 0, out); }

/// What is written around foreign things is foreign, too: nothing of the two together can become a mark.
void append_frame(std::string_view ascii, Text& out) { append_utf8(ascii, foreign, out); }

void append_hex(char32_t c, int digits, Text& out)
{
    for (int shift = 4 * (digits - 1); shift >= 0; shift -= 4)
        out += char32_t("0123456789abcdef"[plain(c) >> shift & 15]) | foreign;
}

}    // namespace

void Runtime::append_str(const Value& v, Text& out)
{
    if (const Text* text = as_text(v)) {
        work(text->size() / 16);
        check_size(out.size() + text->size());
        out += *text;
    } else if (!is_undefined(v)) append_repr(v, out);
}

Text Runtime::str(const Value& v)
{
    Text out;
    append_str(v, out);
    return out;
}

Text Runtime::repr(const Value& v)
{
    Text out;
    append_repr(v, out);
    return out;
}

void Runtime::append_repr(const Value& v, Text& out)
{
    work(1);
    if (is_undefined(v)) return append_ascii("Undefined", out);
    if (is_none(v)) return append_ascii("None", out);
    if (const auto* b = std::get_if<bool>(&v)) return append_ascii(*b ? "True" : "False", out);
    if (const auto* i = std::get_if<int64_t>(&v)) return append_ascii(fmt::format("{}", *i), out);
    if (const auto* d = std::get_if<double>(&v)) return append_ascii(repr_real(*d), out);
    if (const Text* text = as_text(v)) {
        check_size(out.size() + text->size());
        const auto has = [&](char32_t quote) {
            return std::any_of(text->begin(), text->end(), [&](char32_t c) { return plain(c) == quote; });
        };
        const char32_t quote = has('\'') && !has('"') ? '"' : '\'';
        if (is_safe(v)) append_frame("Markup(", out);
        out += quote | foreign;
        for (const char32_t c : *text) {
            const char32_t p = plain(c);
            static constexpr TextView special = U"\\\n\r\t", letters = U"\\nrt";
            if (p == quote) out += {U'\\' | foreign, c};
            else if (const size_t i = special.find(p); i != special.npos)
                out += {U'\\' | foreign, letters[i] | foreign};
            else if (is_printable(p)) out += c;
            else {
                out += U'\\' | foreign;
                out += char32_t(p < 0x100 ? 'x' : p < 0x10000 ? 'u' : 'U') | foreign;
                append_hex(p, p < 0x100 ? 2 : p < 0x10000 ? 4 : 8, out);
            }
        }
        out += quote | foreign;
        if (is_safe(v)) append_frame(")", out);
        return;
    }

    Nested nested(*this);
    const auto several = [&](const char* before, const Values& items, const char* after) {
        append_frame(before, out);
        for (size_t i = 0; i < items.size(); i++) {
            if (i) append_frame(", ", out);
            append_repr(items[i], out);
        }
        append_frame(after, out);
    };
    Object* object = std::get<Object*>(v);
    switch (object->type) {
    case Type::list: return several("[", static_cast<Sequence*>(object)->items, "]");
    case Type::tuple: {
        const Values& items = static_cast<Sequence*>(object)->items;
        return several("(", items, items.size() == 1 ? ",)" : ")");
    }
    case Type::view: {
        const auto* view = static_cast<Sequence*>(object);
        append_frame(view->name, out);
        return several("([", view->items, "])");
    }
    case Type::space: append_frame("<Namespace ", out); [[fallthrough]];
    case Type::dict: {
        append_frame("{", out);
        bool first = true;
        for (const auto& [key, value] : static_cast<Dict*>(object)->items) {
            if (!std::exchange(first, false)) append_frame(", ", out);
            append_repr(key, out);
            append_frame(": ", out);
            append_repr(value, out);
        }
        return append_frame(object->type == Type::space ? "}>" : "}", out);
    }
    case Type::range: {
        const auto* range = static_cast<Range*>(object);
        return append_frame(range->step == 1 ? fmt::format("range({}, {})", range->start, range->stop)
                                             : fmt::format("range({}, {}, {})", range->start, range->stop, range->step),
                            out);
    }
    default: throw Fault::of("{} is written out, which is not done here", type_name(v));
    }
}

// ---- JSON -----------------------------------------------------------------------------------------------------------

struct JsonStyle {
    bool ascii = false, sorted = false;
    std::optional<Text> indent;    // of one level; none: all on one line
    Text between, colon;
};

Text Runtime::json(const Value& v, Arguments& arguments)
{
    Bound bound("tojson", "ensure_ascii indent separators sort_keys", arguments);
    JsonStyle style{.ascii = bound.flag(*this, 0, false), .sorted = bound.flag(*this, 3, false)};
    const Value indent = bound.get(1, None{});
    if (const Text* text = as_text(indent)) style.indent = *text;
    else if (const auto spaces = as_integer(indent)) {
        check_size(uint64_t(std::max<int64_t>(*spaces, 0)));
        style.indent = Text(size_t(std::max<int64_t>(*spaces, 0)), U' ' | foreign);
    } else if (!is_none(indent)) throw Fault::of("tojson is given {} to indent by", type_name(indent));
    style.between = from_utf8(style.indent ? "," : ", ", foreign);
    style.colon = from_utf8(": ", foreign);
    if (const Value separators = bound.get(2, None{}); !is_none(separators)) {
        const Values two = items(separators);
        if (two.size() != 2) throw Fault::of("tojson is given {} separators, expected 2", two.size());
        style.between = need_text(two[0]);
        style.colon = need_text(two[1]);
    }
    Text out;
    append_json(v, style, 0, out);
    return out;
}

void Runtime::append_json(const Value& v, const JsonStyle& style, uint32_t level, Text& out)
{
    work(1);
    check_size(out.size());
    if (is_none(v)) return append_ascii("null", out);
    if (const auto* b = std::get_if<bool>(&v)) return append_ascii(*b ? "true" : "false", out);
    if (const auto* i = std::get_if<int64_t>(&v)) return append_ascii(fmt::format("{}", *i), out);
    if (const auto* d = std::get_if<double>(&v))
        return append_ascii(std::isnan(*d)   ? "NaN"
                            : std::isinf(*d) ? *d < 0 ? "-Infinity" : "Infinity"
                                             : repr_real(*d),
                            out);
    const auto quoted = [&](TextView text) {
        work(text.size() / 8);
        append_frame("\"", out);
        for (const char32_t c : text) {
            const char32_t p = plain(c);
            static constexpr TextView special = U"\"\\\n\r\t\f\b", letters = U"\"\\nrtfb";
            if (const size_t i = special.find(p); i != special.npos)
                out += {U'\\' | foreign, letters[i] | (c & foreign)};
            else if (p < 0x20 || (style.ascii && p > 0x7e && p < 0x10000)) {
                append_frame("\\u", out);
                append_hex(p, 4, out);
            } else if (style.ascii && p >= 0x10000) {
                append_frame("\\u", out);
                append_hex(0xd800 + ((p - 0x10000) >> 10), 4, out);
                append_frame("\\u", out);
                append_hex(0xdc00 + ((p - 0x10000) & 0x3ff), 4, out);
            } else out += c;
        }
        append_frame("\"", out);
    };
    if (const Text* text = as_text(v)) return quoted(*text);

    Nested nested(*this);
    const auto new_line = [&](uint32_t to) {
        if (!style.indent) return;
        append_frame("\n", out);
        for (uint32_t i = 0; i < to; i++) out += *style.indent;
    };
    if (const Sequence* s = as_array(v)) {
        if (s->items.empty()) return append_frame("[]", out);
        append_frame("[", out);
        for (size_t i = 0; i < s->items.size(); i++) {
            if (i) out += style.between;
            new_line(level + 1);
            append_json(s->items[i], style, level + 1, out);
        }
        new_line(level);
        return append_frame("]", out);
    }
    if (const Dict* d = as_dict(v)) {
        if (d->items.empty()) return append_frame("{}", out);
        std::vector<const std::pair<Value, Value>*> pairs;
        for (const auto& pair : d->items) pairs.push_back(&pair);
        if (style.sorted)
            std::stable_sort(pairs.begin(), pairs.end(),
                             [&](const auto* a, const auto* b) { return less(a->first, b->first); });
        append_frame("{", out);
        for (size_t i = 0; i < pairs.size(); i++) {
            if (i) out += style.between;
            new_line(level + 1);
            const Value& key = pairs[i]->first;
            if (const Text* text = as_text(key)) quoted(*text);
            else if (is_none(key) || as_real(key)) {
                append_frame("\"", out);
                append_json(key, style, level, out);
                append_frame("\"", out);
            } else throw Fault::of("tojson is given a dictionary with a key of the type {}", type_name(key));
            out += style.colon;
            append_json(pairs[i]->second, style, level + 1, out);
        }
        new_line(level);
        return append_frame("}", out);
    }
    throw Fault::of("tojson is given {}, which JSON does not have", type_name(v));
}

// ---- arguments ------------------------------------------------------------------------------------------------------

namespace {

std::vector<std::string_view> words(std::string_view names)
{
    std::vector<std::string_view> all;
    while (!names.empty()) {
        const size_t space = std::min(names.find(' '), names.size());
        if (space) all.push_back(names.substr(0, space));
        names.remove_prefix(std::min(space + 1, names.size()));
    }
    return all;
}

}    // namespace

Bound::Bound(const char* function, const char* names, Arguments& arguments) : function_(function), names_(names)
{
    const std::vector<std::string_view> parameters = words(names);
    values_.resize(parameters.size());
    if (arguments.positional.size() > parameters.size())
        throw Fault::of("{} is given {} arguments, and takes {}", function, arguments.positional.size(),
                        parameters.size());
    for (size_t i = 0; i < arguments.positional.size(); i++) values_[i] = arguments.positional[i];
    for (const auto& [name, value] : arguments.named) {
        const size_t i = size_t(std::find(parameters.begin(), parameters.end(), name) - parameters.begin());
        if (i == parameters.size()) throw Fault::of("{} takes no argument '{}'", function, printable(name));
        if (values_[i]) throw Fault::of("{} is given '{}' twice", function, printable(name));
        values_[i] = value;
    }
}

const Value& Bound::need(size_t i) const
{
    if (!values_[i]) throw Fault::of("{} is not given '{}'", function_, words(names_)[i]);
    return *values_[i];
}

int64_t Bound::integer(size_t i, int64_t otherwise) const { return values_[i] ? need_integer(*values_[i]) : otherwise; }

}    // namespace hearth::jinja
