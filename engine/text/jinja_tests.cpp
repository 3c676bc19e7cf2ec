// Tests, `value is name(arguments)`: https://jinja.palletsprojects.com/en/stable/templates/#list-of-builtin-tests
#include "engine/text/jinja_value.h"

#include <algorithm>

namespace hearth::jinja {

using Type = Object::Type;

namespace {

using Body = bool (*)(Runtime&, const Value&);

/// A test without arguments.
template <Body body>
bool alone(Runtime& rt, const Value& v, Arguments& a)
{
    Bound("the test", "", a);
    return body(rt, v);
}

using Two = bool (*)(Runtime&, const Value&, const Value&);
template <Two body>
bool with_one(Runtime& rt, const Value& v, Arguments& a)
{
    return body(rt, v, Bound("the test", "other", a).need(0));
}

bool divisible(Runtime& rt, const Value& v, const Value& by)
{
    return rt.equal(rt.binary(Runtime::Op::mod, v, by), int64_t(0));
}
bool even(Runtime& rt, const Value& v) { return divisible(rt, v, int64_t(2)); }
bool odd(Runtime& rt, const Value& v) { return rt.equal(rt.binary(Runtime::Op::mod, v, int64_t(2)), int64_t(1)); }

template <bool (*of)(char32_t), bool (*other)(char32_t)>
bool cased(Runtime& rt, const Value& v)
{
    const Text text = rt.str(v);
    return std::any_of(text.begin(), text.end(), of) &&
           std::none_of(text.begin(), text.end(), [](char32_t c) { return other(c) || is_title(c); });
}

bool is_sequence(const Value& v)
{
    return as_text(v) || as_array(v) || as_dict(v) || as<Range>(v, {Type::range}) || is_undefined(v);
}
bool is_iterable(const Value& v)
{
    return is_sequence(v) || as<Sequence>(v, {Type::view, Type::generator}) || as<Object>(v, {Type::loop});
}

bool same_thing(Runtime& rt, const Value& a, const Value& b)
{
    if (a.index() != b.index()) return false;
    if (const auto* object = std::get_if<Object*>(&a)) return *object == std::get<Object*>(b);
    if (const auto* text = std::get_if<String>(&a)) return text->text == std::get<String>(b).text || rt.equal(a, b);
    return rt.equal(a, b);
}

bool name_of(Runtime& rt, const Value& v, bool (*known)(std::string_view))
{
    rt.need_key(v);
    const Text* text = as_text(v);
    return text && known(to_utf8(*text));
}

struct Row {
    std::string_view name;
    TestBody body;
};

constexpr TestBody eq = with_one<[](Runtime& rt, const Value& a, const Value& b) { return rt.equal(a, b); }>;
constexpr TestBody ne = with_one<[](Runtime& rt, const Value& a, const Value& b) { return !rt.equal(a, b); }>;
constexpr TestBody lt = with_one<[](Runtime& rt, const Value& a, const Value& b) { return rt.less(a, b); }>;
constexpr TestBody gt = with_one<[](Runtime& rt, const Value& a, const Value& b) { return rt.less(b, a); }>;
constexpr TestBody le =
    with_one<[](Runtime& rt, const Value& a, const Value& b) { return rt.less(a, b) || rt.equal(a, b); }>;
constexpr TestBody ge =
    with_one<[](Runtime& rt, const Value& a, const Value& b) { return rt.less(b, a) || rt.equal(a, b); }>;

constexpr Row tests[] = {
    {"!=", ne},
    {"<", lt},
    {"<=", le},
    {"==", eq},
    {">", gt},
    {">=", ge},
    {"boolean", alone<[](Runtime&, const Value& v) { return std::holds_alternative<bool>(v); }>},
    {"callable", alone<[](Runtime&, const Value& v) {
         return as<Object>(v, {Type::function, Type::macro, Type::loop, Type::joiner}) || is_undefined(v);
     }>},
    {"defined", alone<[](Runtime&, const Value& v) { return !is_undefined(v); }>},
    {"divisibleby", with_one<divisible>},
    {"eq", eq},
    {"equalto", eq},
    {"escaped", alone<[](Runtime&, const Value& v) { return is_safe(v); }>},
    {"even", alone<even>},
    {"false", alone<[](Runtime&, const Value& v) { return std::holds_alternative<bool>(v) && !std::get<bool>(v); }>},
    {"filter", alone<[](Runtime& rt, const Value& v) {
         return name_of(rt, v, [](std::string_view name) { return find_filter(name) != nullptr; });
     }>},
    {"float", alone<[](Runtime&, const Value& v) { return std::holds_alternative<double>(v); }>},
    {"ge", ge},
    {"greaterthan", gt},
    {"gt", gt},
    {"in", with_one<[](Runtime& rt, const Value& v, const Value& all) { return rt.contains(all, v); }>},
    {"integer", alone<[](Runtime&, const Value& v) { return std::holds_alternative<int64_t>(v); }>},
    {"iterable", alone<[](Runtime&, const Value& v) { return is_iterable(v); }>},
    {"le", le},
    {"lessthan", lt},
    {"lower", alone<cased<is_lower, is_upper>>},
    {"lt", lt},
    {"mapping", alone<[](Runtime&, const Value& v) { return as_dict(v) != nullptr; }>},
    {"ne", ne},
    {"none", alone<[](Runtime&, const Value& v) { return is_none(v); }>},
    {"number", alone<[](Runtime&, const Value& v) { return as_real(v).has_value(); }>},
    {"odd", alone<odd>},
    {"sameas", with_one<same_thing>},
    {"sequence", alone<[](Runtime&, const Value& v) { return is_sequence(v); }>},
    {"string", alone<[](Runtime&, const Value& v) { return as_text(v) != nullptr; }>},
    {"test", alone<[](Runtime& rt, const Value& v) {
         return name_of(rt, v, [](std::string_view name) { return find_test(name) != nullptr; });
     }>},
    {"true", alone<[](Runtime&, const Value& v) { return std::holds_alternative<bool>(v) && std::get<bool>(v); }>},
    {"undefined", alone<[](Runtime&, const Value& v) { return is_undefined(v); }>},
    {"upper", alone<cased<is_upper, is_lower>>},
};

}    // namespace

TestBody find_test(std::string_view name)
{
    const auto found =
        std::find_if(std::begin(tests), std::end(tests), [&](const Row& row) { return row.name == name; });
    return found == std::end(tests) ? nullptr : found->body;
}

}    // namespace hearth::jinja
