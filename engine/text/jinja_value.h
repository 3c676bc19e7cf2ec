// Values of a template while it is rendered, and what Python does with them.
#pragma once

#include "engine/text/jinja.h"
#include "engine/text/jinja_text.h"

#include <functional>

namespace hearth::jinja {

struct Expr;
struct Macro;
class Interpreter;
class Runtime;

/// What goes wrong while a template is rendered; the interpreter adds the line.
struct Fault {
    std::string what;
    bool refusal = false;    // raise_exception

    template <class... Args>
    static Fault of(fmt::format_string<Args...> format, Args&&... args)
    {
        return {fmt::format(format, std::forward<Args>(args)...)};
    }
};

/// What everything but numbers and texts is. Objects live as long as the rendering, so that they may refer to each
/// other in circles.
struct Object {
    enum class Type { list, tuple, view, generator, range, dict, space, function, macro, loop, cycler, joiner };
    const Type type;
    explicit Object(Type type) : type(type) {}
    virtual ~Object() = default;
};

struct Undefined {
    const std::string* name = nullptr;    // for messages, where known; it belongs to the program
    bool unsafe = false;                  // it is there, but a template may not use it
};
struct None {};

/// A text. `safe` is what `| safe` and `| escape` make: joined with `+` to others, it has them escaped.
struct String {
    std::shared_ptr<const Text> text;
    bool safe = false;
};

using Value = std::variant<Undefined, None, bool, int64_t, double, String, Object*>;

inline bool is_undefined(const Value& v) { return std::holds_alternative<Undefined>(v); }
inline bool is_none(const Value& v) { return std::holds_alternative<None>(v); }
inline const Text* as_text(const Value& v)
{
    const auto* s = std::get_if<String>(&v);
    return s ? s->text.get() : nullptr;
}
inline bool is_safe(const Value& v)
{
    const auto* s = std::get_if<String>(&v);
    return s && s->safe;
}
/// A whole number; True and False are 1 and 0.
inline std::optional<int64_t> as_integer(const Value& v)
{
    if (const auto* b = std::get_if<bool>(&v)) return int64_t(*b);
    if (const auto* i = std::get_if<int64_t>(&v)) return *i;
    return {};
}
std::optional<double> as_real(const Value& v);    // any number

using Values = std::vector<Value>;

struct Arguments {
    Values positional;
    std::vector<std::pair<std::string, Value>> named;
};

/// The name of the tuples that the filter groupby makes; their items are called grouper and list, too.
inline constexpr char group_name[] = "group";

/// What dict.values() gives, which Python can hash, unlike its sisters.
inline constexpr char values_view[] = "dict_values";

/// A list, a tuple, what dict.items() and its like give (view, named `name`), or what a filter gives piece by piece
/// (generator: what was taken from it is gone).
struct Sequence : Object {
    Sequence(Type type, Values items, const char* name = "") : Object(type), items(std::move(items)), name(name) {}
    Values items;
    const char* name;
};

struct Range : Object {
    Range(int64_t start, int64_t stop, int64_t step) : Object(Type::range), start(start), stop(stop), step(step) {}
    int64_t start, stop, step;
    int64_t size() const;
};

struct Dict : Object {
    explicit Dict(Type type = Type::dict) : Object(type) {}
    std::vector<std::pair<Value, Value>> items;
};

/// A function, or a method with the value that it belongs to.
struct Function : Object {
    using Body = Value (*)(Runtime&, const Value& self, Arguments& arguments);
    Function(const char* name, Body body, Value self)
        : Object(Type::function), name(name), body(body), self(std::move(self))
    {
    }
    const char* name;
    Body body;
    Value self;
};

struct Cycler : Object {
    explicit Cycler(Values items) : Object(Type::cycler), items(std::move(items)) {}
    Values items;
    size_t at = 0;
};

struct Joiner : Object {
    explicit Joiner(Value separator) : Object(Type::joiner), separator(std::move(separator)) {}
    Value separator;
    bool used = false;
};

/// The object of that type, nullptr where the value is another.
template <class T>
T* as(const Value& v, std::initializer_list<Object::Type> types)
{
    Object* const* object = std::get_if<Object*>(&v);
    if (!object) return nullptr;
    for (const Object::Type type : types)
        if ((*object)->type == type) return static_cast<T*>(*object);
    return nullptr;
}
inline Dict* as_dict(const Value& v) { return as<Dict>(v, {Object::Type::dict}); }
inline Sequence* as_list(const Value& v) { return as<Sequence>(v, {Object::Type::list}); }
/// A list or tuple.
inline Sequence* as_array(const Value& v) { return as<Sequence>(v, {Object::Type::list, Object::Type::tuple}); }

/// What the values of one rendering live in, and everything that is done with them. Members throw Fault.
class Runtime {
  public:
    explicit Runtime(const Limits& limits);
    virtual ~Runtime();
    Runtime(const Runtime&) = delete;
    Runtime& operator=(const Runtime&) = delete;

    // ---- limits: jinja_value.cpp
    void work(uint64_t steps)
    {
        if ((steps_ += steps) > limits_.steps) too_many_steps();
    }
    /// Lives while something that may be nested is gone into.
    class Nested {
      public:
        explicit Nested(Runtime& runtime) : runtime_(runtime)
        {
            if (++runtime_.depth_ > most_nested) runtime_.too_deep();
        }
        ~Nested() { runtime_.depth_--; }

      private:
        Runtime& runtime_;
    };
    const Limits& limits() const { return limits_; }

    // ---- making values: jinja_value.cpp
    Value text(Text text, bool safe = false);
    Value text(std::string_view utf8) { return text(from_utf8(utf8)); }    // the template's own
    Value list(Values items) { return make<Sequence>(Object::Type::list, std::move(items)); }
    Value tuple(Values items) { return make<Sequence>(Object::Type::tuple, std::move(items)); }
    Value generator(Values items) { return make<Sequence>(Object::Type::generator, std::move(items), "generator"); }
    Value from(const Data& data);
    template <class T, class... Args>
    T* make(Args&&... args)
    {
        auto owned = std::make_unique<T>(std::forward<Args>(args)...);
        T* object = owned.get();
        keep(std::move(owned), sizeof(T));
        if constexpr (std::is_base_of_v<Sequence, T>) hold(object->items.size() * sizeof(Value));
        return object;
    }
    void hold(uint64_t bytes);    // counts them as memory to the end of the rendering

    // ---- Python's own: jinja_value.cpp
    bool truth(const Value& v);
    bool equal(const Value& a, const Value& b);
    bool less(const Value& a, const Value& b);    // Fault where they have no order
    bool contains(const Value& container, const Value& item);
    int64_t length(const Value& v);
    Values items(const Value& v);    // what `for` runs through
    Text str(const Value& v);
    void append_str(const Value& v, Text& out);
    Text repr(const Value& v);
    void append_repr(const Value& v, Text& out);
    static std::string type_name(const Value& v);       // Python's
    Text json(const Value& v, Arguments& arguments);    // of tojson: ensure_ascii, indent, separators, sort_keys
    void need_key(const Value& key);                    // Fault where Python could not hash it
    Value* find(Dict& dict, const Value& key);          // nullptr where it is not there
    void put(Dict& dict, const Value& key, Value value);
    static Fault undefined_fault(const Undefined& u);

    // ---- operators: jinja_operators.cpp
    enum class Op { add, sub, mul, div, floordiv, mod, pow };
    Value binary(Op op, const Value& a, const Value& b);
    Value negative(const Value& v);
    Value positive(const Value& v);
    Value attribute(const Value& v, const Value& name, const std::string* known);    // v.name; `known`: for messages
    Value item(const Value& v, const Value& key, const std::string* known);          // v[key]
    Value slice(const Value& v, const Value& start, const Value& stop, const Value& step);
    std::optional<Value> method(const Value& v, TextView name);    // also data attributes; jinja_methods.cpp
    bool unsafe_method(const Value& v, TextView name) const;
    Value concatenated(const Values& parts);    // ~

    // ---- formats: jinja_format.cpp
    Text percent(TextView format, const Value& arguments);          // 'a %s' % x
    Text formatted(TextView format, const Arguments& arguments);    // 'a {}'.format(x)
    Text format_value(const Value& v, TextView spec);
    static std::string repr_real(double d);
    static std::string fixed_real(double d, int digits);

    // ---- searching texts, at the price of what is looked at: jinja_value.cpp
    size_t find_text(TextView text, TextView part, size_t from = 0);    // npos where it is not there
    size_t rfind_text(TextView text, TextView part);
    Text replaced(TextView text, TextView from, TextView to, int64_t most = -1);
    Text escaped(TextView text);             // & < > " ' as HTML
    void check_size(uint64_t characters);    // of a text to be made: Fault rather than bad_alloc

    // ---- of the interpreter
    virtual std::optional<Value> special(const Value& v, TextView name) = 0;    // an attribute of a loop or a macro
    virtual Value call(const Value& function, Arguments& arguments) = 0;
    virtual Value filter(TextView name, const Value& v, Arguments& arguments) = 0;
    virtual bool test(TextView name, const Value& v, Arguments& arguments) = 0;

  private:
    static constexpr uint32_t most_nested = 400;
    [[noreturn]] void too_many_steps();
    [[noreturn]] void too_deep();
    void keep(std::unique_ptr<Object> object, uint64_t bytes);
    void append_json(const Value& v, const struct JsonStyle& style, uint32_t level, Text& out);

    const Limits limits_;
    uint64_t steps_ = 0, memory_ = 0;
    uint32_t depth_ = 0;
    std::vector<std::unique_ptr<Object>> objects_;
};

/// Arguments by the names of parameters.
class Bound {
  public:
    /// `names`: parameters in order, spaces between. Throws Fault where there are more arguments, or others.
    Bound(const char* function, const char* names, Arguments& arguments);
    const Value* get(size_t i) const { return values_[i] ? &*values_[i] : nullptr; }
    const Value& need(size_t i) const;
    Value get(size_t i, const Value& otherwise) const { return values_[i] ? *values_[i] : otherwise; }
    bool flag(Runtime& runtime, size_t i, bool otherwise) const
    {
        return values_[i] ? runtime.truth(*values_[i]) : otherwise;
    }
    int64_t integer(size_t i, int64_t otherwise) const;

  private:
    const char *function_, *names_;
    std::vector<std::optional<Value>> values_;
};

int64_t need_integer(const Value& v);    // Fault where it is none
const Text& need_text(const Value& v);

/// Tables by name, each in its file; nullptr where there is no such.
using FilterBody = Value (*)(Runtime&, const Value&, Arguments&);
using TestBody = bool (*)(Runtime&, const Value&, Arguments&);
FilterBody find_filter(std::string_view name);
TestBody find_test(std::string_view name);
/// range, dict, namespace and so on; none where there is no such.
std::optional<Value> find_global(Runtime& runtime, std::string_view name);

}    // namespace hearth::jinja
