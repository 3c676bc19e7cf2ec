// Operators: arithmetic as Python's, attributes and items as Jinja's sandbox looks them up, slices.
#include "engine/text/jinja_value.h"

#include <algorithm>
#include <cmath>

namespace hearth::jinja {

using Type = Object::Type;

namespace {

constexpr const char* op_signs[] = {"+", "-", "*", "/", "//", "%", "**"};

[[noreturn]] void no_operator(Runtime::Op op, const Value& a, const Value& b)
{
    throw Fault::of("'{}' is not between {} and {}", op_signs[int(op)], Runtime::type_name(a), Runtime::type_name(b));
}

[[noreturn]] void too_large() { throw Fault::of("a whole number has more than 64 bits"); }

int64_t floor_div(int64_t a, int64_t b)
{
    int64_t q;
    if (b == -1) {
        if (__builtin_sub_overflow(int64_t(0), a, &q)) too_large();
        return q;
    }
    q = a / b;
    return q - (a % b != 0 && (a < 0) != (b < 0));
}

int64_t floor_mod(int64_t a, int64_t b)
{
    if (b == -1) return 0;
    const int64_t r = a % b;
    return r != 0 && (r < 0) != (b < 0) ? r + b : r;
}

int64_t power(int64_t base, int64_t exponent)
{
    int64_t result = 1;
    while (exponent) {
        if (exponent & 1)
            if (__builtin_mul_overflow(result, base, &result)) too_large();
        exponent >>= 1;
        if (exponent && __builtin_mul_overflow(base, base, &base)) too_large();
    }
    return result;
}

double real_mod(double a, double b)
{
    double r = std::fmod(a, b);
    if (r == 0) return std::copysign(0.0, b);
    return (r < 0) != (b < 0) ? r + b : r;
}

double real_floor_div(double a, double b)
{
    const double r = std::fmod(a, b);
    double q = (a - r) / b;
    if (r != 0 && (r < 0) != (b < 0)) q -= 1;
    if (q == 0) return std::copysign(0.0, a / b);
    const double whole = std::floor(q);
    return q - whole > 0.5 ? whole + 1 : whole;
}

Value integers(Runtime::Op op, int64_t a, int64_t b)
{
    using Op = Runtime::Op;
    int64_t result = 0;
    switch (op) {
    case Op::add:
        if (__builtin_add_overflow(a, b, &result)) too_large();
        return result;
    case Op::sub:
        if (__builtin_sub_overflow(a, b, &result)) too_large();
        return result;
    case Op::mul:
        if (__builtin_mul_overflow(a, b, &result)) too_large();
        return result;
    case Op::div:
        if (b == 0) throw Fault::of("a division by zero");
        return double(a) / double(b);
    case Op::floordiv:
        if (b == 0) throw Fault::of("a division by zero");
        return floor_div(a, b);
    case Op::mod:
        if (b == 0) throw Fault::of("a division by zero");
        return floor_mod(a, b);
    case Op::pow:
        if (b >= 0) return power(a, b);
        if (a == 0) throw Fault::of("a division by zero");
        return std::pow(double(a), double(b));
    }
    return result;
}

Value reals(Runtime::Op op, double a, double b)
{
    using Op = Runtime::Op;
    if ((op == Op::div || op == Op::floordiv || op == Op::mod) && b == 0) throw Fault::of("a division by zero");
    switch (op) {
    case Op::add: return a + b;
    case Op::sub: return a - b;
    case Op::mul: return a * b;
    case Op::div: return a / b;
    case Op::floordiv: return real_floor_div(a, b);
    case Op::mod: return real_mod(a, b);
    case Op::pow: {
        if (a == 0 && b < 0) throw Fault::of("a division by zero");
        const double result = std::pow(a, b);
        if (std::isnan(result) && !std::isnan(a) && !std::isnan(b)) throw Fault::of("a power that is no real number");
        if (std::isinf(result) && std::isfinite(a) && std::isfinite(b)) throw Fault::of("a number is too large");
        return result;
    }
    }
    return 0.0;
}

/// A place in a sequence of n, from its end where negative; nothing where there is none.
std::optional<size_t> place(int64_t index, int64_t n)
{
    if (index < 0) index += n;
    if (index < 0 || index >= n) return {};
    return size_t(index);
}

}    // namespace

Value Runtime::binary(Op op, const Value& a, const Value& b)
{
    work(1);
    const auto i = as_integer(a), j = as_integer(b);
    if (i && j) return integers(op, *i, *j);
    const auto x = as_real(a), y = as_real(b);
    if (x && y) return reals(op, *x, *y);
    if (op == Op::mod && as_text(a)) return text(percent(*as_text(a), b), is_safe(a));
    for (const Value* v : {&a, &b})
        if (const auto* u = std::get_if<Undefined>(v)) throw undefined_fault(*u);

    if (op == Op::add) {
        if (const Text* s = as_text(a), *t = as_text(b); s && t) {
            check_size(s->size() + t->size());
            const bool safe = is_safe(a) || is_safe(b);
            if (safe && is_safe(a) != is_safe(b))
                return text((is_safe(a) ? *s : escaped(*s)) + (is_safe(b) ? *t : escaped(*t)), true);
            return text(*s + *t, safe);
        }
        const Sequence *s = as_array(a), *t = as_array(b);
        if (s && t && s->type == t->type) {
            Values all = s->items;
            all.insert(all.end(), t->items.begin(), t->items.end());
            work(all.size() / 4);
            return make<Sequence>(s->type, std::move(all));
        }
    }
    if (op == Op::mul && (i || j)) {
        const Value& repeated = i ? b : a;
        const uint64_t times = uint64_t(std::max<int64_t>(i ? *i : *j, 0));
        const auto grown = [&](uint64_t size) {
            uint64_t all;
            if (__builtin_mul_overflow(size, times, &all)) all = UINT64_MAX;
            check_size(all);
        };
        if (const Text* t = as_text(repeated)) {
            grown(t->size());
            Text all;
            all.reserve(t->size() * times);
            if (!t->empty())
                for (uint64_t k = 0; k < times; k++) all += *t;    // text() below counts the work
            return text(std::move(all), is_safe(repeated));
        }
        if (const Sequence* s = as_array(repeated)) {
            grown(s->items.size() * sizeof(Value));
            Values all;
            if (!s->items.empty())
                for (uint64_t k = 0; k < times; k++) all.insert(all.end(), s->items.begin(), s->items.end());
            work(all.size());
            return make<Sequence>(s->type, std::move(all));
        }
    }
    no_operator(op, a, b);
}

Value Runtime::negative(const Value& v)
{
    if (const auto i = as_integer(v)) return integers(Op::sub, 0, *i);
    if (const auto x = as_real(v)) return -*x;
    if (const auto* u = std::get_if<Undefined>(&v)) throw undefined_fault(*u);
    throw Fault::of("'-' is not before {}", type_name(v));
}

Value Runtime::positive(const Value& v)
{
    if (const auto i = as_integer(v)) return *i;
    if (as_real(v)) return v;
    if (const auto* u = std::get_if<Undefined>(&v)) throw undefined_fault(*u);
    throw Fault::of("'+' is not before {}", type_name(v));
}

Value Runtime::concatenated(const Values& parts)
{
    Text all;
    for (const Value& part : parts) append_str(part, all);
    return text(std::move(all));
}

Value Runtime::attribute(const Value& v, const Value& name, const std::string* known)
{
    if (const auto* u = std::get_if<Undefined>(&v)) throw undefined_fault(*u);
    const Text& word = need_text(name);
    if (unsafe_method(v, word)) return Undefined{known, true};
    if (std::optional<Value> found = method(v, word)) return *found;
    if (Dict* dict = as_dict(v))
        if (const Value* found = find(*dict, name)) return *found;
    return Undefined{known};
}

Value Runtime::item(const Value& v, const Value& key, const std::string* known)
{
    work(1);
    if (const auto* u = std::get_if<Undefined>(&v)) throw undefined_fault(*u);
    if (Dict* dict = as_dict(v); dict && !as_list(key) && !as_dict(key))
        if (const Value* found = find(*dict, key)) return *found;
    if (const auto index = as_integer(key)) {
        if (const Text* t = as_text(v)) {
            if (const auto at = place(*index, int64_t(t->size()))) return text(t->substr(*at, 1), is_safe(v));
        } else if (const Sequence* s = as_array(v)) {
            if (const auto at = place(*index, int64_t(s->items.size()))) return s->items[*at];
        } else if (const Range* r = as<Range>(v, {Type::range})) {
            if (const auto at = place(*index, r->size())) return r->start + int64_t(*at) * r->step;
        }
    }
    if (const Text* word = as_text(key)) {
        if (unsafe_method(v, *word)) return Undefined{known, true};
        if (std::optional<Value> found = method(v, *word)) return *found;
    }
    return Undefined{known};
}

Value Runtime::slice(const Value& v, const Value& start, const Value& stop, const Value& step)
{
    if (const auto* u = std::get_if<Undefined>(&v)) throw undefined_fault(*u);
    const auto bound = [](const Value& x) -> std::optional<int64_t> {
        if (is_none(x)) return {};
        return need_integer(x);
    };
    const Text* t = as_text(v);
    const Sequence* s = as_array(v);
    const Range* r = as<Range>(v, {Type::range});
    if (!t && !s && !r) throw Fault::of("{} cannot be sliced", type_name(v));
    const int64_t n = t ? int64_t(t->size()) : s ? int64_t(s->items.size()) : r->size();
    const int64_t by = bound(step).value_or(1);
    if (by == 0) throw Fault::of("a slice has a step of zero");

    // As PySlice_AdjustIndices has it.
    const auto adjusted = [&](std::optional<int64_t> x, int64_t otherwise) {
        if (!x) return otherwise;
        if (*x < 0) return std::max(*x + n, by < 0 ? int64_t(-1) : int64_t(0));
        return std::min(*x, by < 0 ? n - 1 : n);
    };
    const int64_t from = adjusted(bound(start), by < 0 ? n - 1 : 0), to = adjusted(bound(stop), by < 0 ? -1 : n);
    const Range taken(from, to, by);
    const int64_t count = taken.size();
    work(uint64_t(count) / 4);
    if (r) {
        const int64_t scaled = by > n ? n + 1 : by < -n ? -n - 1 : by;    // a longer step takes one item at most
        return make<Range>(r->start + from * r->step, r->start + to * r->step, r->step * scaled);
    }
    if (t) {
        Text out;
        out.reserve(size_t(count));
        for (int64_t k = 0; k < count; k++) out += (*t)[size_t(from + k * by)];
        return text(std::move(out), is_safe(v));
    }
    Values out;
    out.reserve(size_t(count));
    for (int64_t k = 0; k < count; k++) out.push_back(s->items[size_t(from + k * by)]);
    return make<Sequence>(s->type, std::move(out));
}

}    // namespace hearth::jinja
