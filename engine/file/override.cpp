#include "engine/file/override.h"

#include "engine/file/bytes.h"
#include "engine/file/gguf.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace hearth {

namespace {

/// The numbers of value types in the format.
enum : int64_t {
    type_u32 = 4,
    type_i32 = 5,
    type_f32 = 6,
    type_bool = 7,
    type_text = 8,
    type_array = 9,
    type_i64 = 11,
    type_f64 = 12
};

/// Integer types: how many bytes, and whether they are signed.
constexpr struct {
    int64_t type;
    uint32_t bytes;
    bool is_signed;
} integers[] = {{0, 1, false}, {1, 1, true}, {2, 2, false},  {3, 2, true},
                {4, 4, false}, {5, 4, true}, {10, 8, false}, {11, 8, true}};

/// False where it does not fit.
bool append_integer(std::string& to, int64_t value, int64_t type)
{
    const auto* const t = std::ranges::find(integers, type, [](const auto& i) { return i.type; });
    if (t == std::end(integers)) return false;
    const int64_t most = t->bytes == 8 ? INT64_MAX : (int64_t(1) << (8 * t->bytes - t->is_signed)) - 1;
    const int64_t least = t->is_signed ? -most - 1 : 0;
    if (value < least || value > most) return false;
    to.append(reinterpret_cast<const char*>(&value), t->bytes);
    return true;
}

struct Encoder {
    int64_t type, element;

    std::string number(int64_t t) const
    {
        std::string out;
        append(out, uint32_t(t));
        return out;
    }

    std::string operator()(bool x) const { return number(type_bool) + char(x); }
    std::string operator()(int64_t x) const
    {
        const int64_t t = type >= 0 ? type : x >= 0 && x <= UINT32_MAX ? type_u32 : type_i64;
        std::string out = number(t);
        return append_integer(out, x, t) ? out : "";
    }
    std::string operator()(double x) const
    {
        std::string out = number(type == type_f64 ? type_f64 : type_f32);
        if (type == type_f64) append(out, x);
        else append(out, float(x));
        return out;
    }
    std::string operator()(const std::string& x) const
    {
        std::string out = number(type_text);
        append_text(out, x);
        return out;
    }
    std::string operator()(const std::vector<int64_t>& list) const
    {
        const bool small = std::ranges::all_of(list, [](int64_t x) { return x >= INT32_MIN && x <= INT32_MAX; });
        const int64_t t = element >= 0 ? element : small ? type_i32 : type_i64;
        std::string out = begin_list(t, list.size());
        for (const int64_t x : list) {
            if (t == type_bool && (x == 0 || x == 1)) out += char(x);
            else if (!append_integer(out, x, t)) return "";
        }
        return out;
    }
    std::string operator()(const std::vector<double>& list) const
    {
        const int64_t t = element == type_f64 ? type_f64 : type_f32;
        std::string out = begin_list(t, list.size());
        for (const double x : list) {
            if (t == type_f64) append(out, x);
            else append(out, float(x));
        }
        return out;
    }
    std::string operator()(const std::vector<std::string>& list) const
    {
        std::string out = begin_list(type_text, list.size());
        for (const std::string& x : list) append_text(out, x);
        return out;
    }

    std::string begin_list(int64_t t, size_t count) const
    {
        std::string out = number(type_array) + number(t);
        append(out, uint64_t(count));
        return out;
    }
};

/// What --override calls the type of a value.
constexpr std::string_view override_kinds[] = {
    "bool", "int", "float", "str", "a list of ints", "a list of floats", "a list of strs"};

/// The same of a value in a file, whose integers may be of two kinds.
std::string_view kind_of(const GgufValue& value)
{
    constexpr std::string_view names[] = {
        "bool", "int", "int", "float", "str", "a list of ints", "a list of floats", "a list of strs"};
    static_assert(std::size(names) == std::variant_size_v<GgufValue>);
    return names[value.index()];
}

std::string shorten(std::string_view text)
{
    constexpr size_t most = 60;
    return printable(text.size() > most ? std::string(text.substr(0, most)) + "..." : std::string(text));
}

struct Shown {
    std::string operator()(bool x) const { return x ? "true" : "false"; }
    std::string operator()(int64_t x) const { return fmt::format("{}", x); }
    std::string operator()(uint64_t x) const { return fmt::format("{}", x); }
    std::string operator()(double x) const { return fmt::format("{:g}", x); }
    std::string operator()(std::string_view x) const { return fmt::format("'{}'", shorten(x)); }
    template <class T>
    std::string operator()(const std::vector<T>& x) const
    {
        return fmt::format("a list of {}", x.size());
    }
};

/// A list without a point in it may be one of numbers with a point, and an empty one is one of anything.
Override::Value as_list_of(const Override::Value& value, const GgufValue& old)
{
    const auto* const list = std::get_if<std::vector<int64_t>>(&value);
    if (list && std::holds_alternative<std::vector<double>>(old))
        return std::vector<double>(list->begin(), list->end());
    if (list && list->empty() && std::holds_alternative<std::vector<std::string_view>>(old))
        return std::vector<std::string>();
    return value;
}

uint32_t number_at(std::string_view bytes, size_t at)
{
    uint32_t x;
    std::memcpy(&x, bytes.data() + at, sizeof x);
    return x;
}

}    // namespace

bool describes_layout(std::string_view key)
{
    return key == "general.alignment" || key.starts_with("split.") || key.starts_with("hearth.sparse.");
}

std::string encode_value(const Override::Value& value, int64_t type, int64_t element)
{
    return std::visit(Encoder{type, element}, value);
}

void Gguf::apply(const std::vector<Override>& overrides)
{
    const std::string file = path_.string();
    for (const Override& o : overrides) {
        std::string name = o.key;
        constexpr std::string_view own = "{arch}";
        if (name.starts_with(own)) name = std::string(string("general.architecture")) + name.substr(own.size());
        const std::string what = fmt::format("{} {}", o.option, printable(name));
        if (describes_layout(name))
            throw Error("{} is refused: the key says how the bytes of {} lie, which no option changes", what, file);

        const GgufValue* const old = value(name);
        const Override::Value given = old ? as_list_of(o.value, *old) : o.value;
        const std::string_view kind = override_kinds[given.index()];
        if (old && kind_of(*old) != kind)
            throw Error("{} is {}, and in {} that key is {}: give a value of that type", what, kind, file,
                        kind_of(*old));
        const auto raw = std::ranges::find(raw_.keys, std::string_view(name), [](const auto& k) { return k.first; });
        int64_t type = -1, element = -1;
        if (old && raw != raw_.keys.end()) {
            const size_t at = sizeof(uint64_t) + name.size();
            type = number_at(raw->second, at);
            if (type == type_array && kind_of(*old) == kind) element = number_at(raw->second, at + sizeof(uint32_t));
        }
        std::string bytes;
        append_text(bytes, name);
        const std::string stored = encode_value(given, type, element);
        if (stored.empty())
            throw Error("{} does not fit into the integer that {} has there: give a smaller one", what, file);
        bytes += stored;

        // What views name must stay where it is, however this object moves.
        const auto keep = [this](std::string text) -> std::string_view { return owned_.emplace_back(std::move(text)); };
        const std::string_view kept_bytes = keep(std::move(bytes)),
                               key = kept_bytes.substr(sizeof(uint64_t), name.size());
        const auto as_read = [&](const auto& x) -> GgufValue {
            using T = std::decay_t<decltype(x)>;
            if constexpr (std::is_same_v<T, double>) return type == type_f64 ? x : double(float(x));
            else if constexpr (std::is_same_v<T, std::string>) return keep(x);
            else if constexpr (std::is_same_v<T, std::vector<std::string>>) {
                std::vector<std::string_view> views;
                views.reserve(x.size());
                for (const std::string& text : x) views.push_back(keep(text));
                return views;
            } else return x;
        };
        const GgufValue now = std::visit(as_read, given);
        overridden_.push_back(fmt::format("{} is {}{}", printable(name), std::visit(Shown(), now),
                                          old ? fmt::format(" instead of {}", std::visit(Shown(), *old))
                                              : ", which the file does not have"));
        if (old) keys_.at(std::string_view(name)) = now;
        else keys_.emplace(key, now);
        if (raw != raw_.keys.end()) raw->second = kept_bytes;
        else raw_.keys.emplace_back(key, kept_bytes);
    }
}

}    // namespace hearth
