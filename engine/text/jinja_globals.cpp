// What every template can call: range, dict, namespace, cycler, joiner, and transformers' raise_exception and
// strftime_now.
#include "engine/system/program.h"
#include "engine/text/jinja_value.h"

#include <algorithm>
#include <ctime>

namespace hearth::jinja {

using Type = Object::Type;

namespace {

constexpr int64_t longest_range = 100000;    // the sandbox's

Value range(Runtime& rt, const Value&, Arguments& a)
{
    const Bound b("range", "start stop step", a);
    const int64_t start = b.get(1) ? need_integer(b.need(0)) : 0, stop = need_integer(b.get(1) ? b.need(1) : b.need(0)),
                  step = b.integer(2, 1);
    if (step == 0) throw Fault::of("range has a step of zero");
    Range* made = rt.make<Range>(start, stop, step);
    if (made->size() > longest_range || made->size() < 0)
        throw Fault::of("a range has more than {} numbers", longest_range);
    return made;
}

/// What dict() and namespace() are made of.
void fill(Runtime& rt, Dict& dict, const Arguments& a)
{
    if (a.positional.size() > 1) throw Fault::of("a dictionary is made of {} arguments", a.positional.size());
    for (const Value& from : a.positional) {
        if (const Dict* other = as_dict(from)) {
            for (const auto& [key, value] : other->items) rt.put(dict, key, value);
            continue;
        }
        for (const Value& pair : rt.items(from)) {
            const Values two = rt.items(pair);
            if (two.size() != 2) throw Fault::of("a dictionary is made of something that is no pair");
            rt.put(dict, two[0], two[1]);
        }
    }
    for (const auto& [name, value] : a.named) rt.put(dict, rt.text(name), value);
}

template <Type type>
Value dictionary(Runtime& rt, const Value&, Arguments& a)
{
    Dict* dict = rt.make<Dict>(type);
    fill(rt, *dict, a);
    return dict;
}

Value cycler(Runtime& rt, const Value&, Arguments& a)
{
    if (!a.named.empty() || a.positional.empty()) throw Fault::of("cycler is given no items");
    return rt.make<Cycler>(a.positional);
}

Value joiner(Runtime& rt, const Value&, Arguments& a)
{
    const Bound b("joiner", "sep", a);
    return rt.make<Joiner>(b.get(0, rt.text(", ")));
}

Value raise_exception(Runtime& rt, const Value&, Arguments& a)
{
    const Bound b("raise_exception", "message", a);
    throw Fault{to_utf8(rt.str(b.need(0))), true};
}

Value strftime_now(Runtime& rt, const Value&, Arguments& a)
{
    const Bound b("strftime_now", "format", a);
    const std::string format = to_utf8(need_text(b.need(0)));
    if (format.size() > 1024) throw Fault::of("strftime_now is given a format of {} bytes", format.size());
    const std::time_t now = rt.limits().now.value_or(std::time(nullptr));
    const std::tm local = local_time(now);
    std::string out(64 * format.size() + 64, '\0');
    out.resize(std::strftime(out.data(), out.size(), format.c_str(), &local));
    return rt.text(out);
}

constexpr struct {
    const char* name;
    Function::Body body;
} globals[] = {
    {"range", range},
    {"dict", dictionary<Type::dict>},
    {"namespace", dictionary<Type::space>},
    {"cycler", cycler},
    {"joiner", joiner},
    {"raise_exception", raise_exception},
    {"strftime_now", strftime_now},
};

}    // namespace

std::optional<Value> find_global(Runtime& runtime, std::string_view name)
{
    for (const auto& global : globals)
        if (name == global.name) return runtime.make<Function>(global.name, global.body, Undefined{});
    return {};
}

}    // namespace hearth::jinja
