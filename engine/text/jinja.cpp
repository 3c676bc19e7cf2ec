// The interpreter: runs a template's statements, and works out its expressions.
#include "engine/text/jinja.h"

#include "engine/text/jinja_syntax.h"

#include <algorithm>
#include <deque>

namespace hearth::jinja {

using Type = Object::Type;

namespace {

/// The names of a loop's round, a macro's call and so on; those around are seen, too, but not written.
struct Scope {
    explicit Scope(Scope* around) : around(around) {}
    Scope* around;
    std::vector<std::pair<uint32_t, Value>> values;
    bool kept = false;    // a macro that was defined within sees it

    Value* find(uint32_t name)
    {
        for (auto& [other, value] : values)
            if (other == name) return &value;
        return nullptr;
    }
    void set(uint32_t name, Value value)
    {
        if (Value* old = find(name)) *old = std::move(value);
        else values.emplace_back(name, std::move(value));
    }
};

struct MacroObject : Object {
    MacroObject(const Macro& macro, Scope* scope) : Object(Type::macro), macro(macro), scope(scope) {}
    const Macro& macro;
    Scope* scope;    // where it was defined
};

/// `loop` in a loop's body. Items that `if` leaves out do not count; they are looked at no sooner than needed.
struct LoopObject : Object {
    LoopObject(const Statement& statement, Values source, Scope* scope, int64_t depth)
        : Object(Type::loop), statement(statement), source(std::move(source)), scope(scope), depth(depth)
    {
    }
    const Statement& statement;
    Values source;
    size_t taken = 0;    // of the source
    std::deque<Value> ahead;
    Scope* scope;    // around the loop
    int64_t depth, index0 = -1;
    std::optional<Value> before, now;
    std::optional<Value> last_seen;    // of changed()
};

std::string too_long_text(const Limits& limits)
{
    return fmt::format("its text takes more than {} bytes", limits.output);
}

LoopObject& loop_of(const Value& v) { return *as<LoopObject>(v, {Type::loop}); }

Value loop_cycle(Runtime&, const Value& self, Arguments& a)
{
    if (a.positional.empty() || !a.named.empty()) throw Fault::of("loop.cycle is given no items");
    return a.positional[size_t(loop_of(self).index0) % a.positional.size()];
}

Value loop_changed(Runtime& rt, const Value& self, Arguments& a)
{
    const Value seen = rt.tuple(a.positional);
    LoopObject& loop = loop_of(self);
    const bool changed = !loop.last_seen || !rt.equal(*loop.last_seen, seen);
    if (changed) loop.last_seen = seen;
    return changed;
}

}    // namespace

class Interpreter : public Runtime {
  public:
    Interpreter(const Program& program, const Data::Dict& variables, const Limits& limits)
        : Runtime(limits), program_(program), scope_(new_scope(nullptr))
    {
        for (uint32_t name = 0; name < program.names.size(); name++)
            for (const auto& [known, data] : variables)
                if (known == program.names[name]) scope_->set(name, from(data));
        hide(program.hidden, *scope_);
    }

    Text run()
    {
        Text all;
        out_ = &all;
        execute(program_.body);
        return all;
    }

    uint32_t line() const { return line_; }

    // ---- Runtime's

    Value call(const Value& function, Arguments& arguments) override
    {
        Nested nested(*this);
        work(1);
        if (Function* f = as<Function>(function, {Type::function})) return f->body(*this, f->self, arguments);
        if (MacroObject* m = as<MacroObject>(function, {Type::macro})) return call_macro(*m, arguments);
        if (LoopObject* l = as<LoopObject>(function, {Type::loop})) {
            if (!l->statement.recursive) throw Fault::of("the loop is not marked as recursive, and calls itself");
            const Bound b("loop", "iterable", arguments);
            return text(captured([&] { run_loop(l->statement, items(b.need(0)), l->scope, l->depth + 1); }));
        }
        if (Joiner* j = as<Joiner>(function, {Type::joiner}))
            return std::exchange(j->used, true) ? j->separator : text("");
        if (const auto* u = std::get_if<Undefined>(&function)) throw undefined_fault(*u);
        throw Fault::of("{} cannot be called", type_name(function));
    }

    Value filter(TextView name, const Value& v, Arguments& arguments) override
    {
        const std::string word = to_utf8(name);
        const FilterBody body = find_filter(word);
        if (!body) throw Fault::of("there is no filter '{}' here", printable(word));
        work(1);
        return body(*this, v, arguments);
    }

    bool test(TextView name, const Value& v, Arguments& arguments) override
    {
        const std::string word = to_utf8(name);
        const TestBody body = find_test(word);
        if (!body) throw Fault::of("there is no test '{}' here", printable(word));
        work(1);
        return body(*this, v, arguments);
    }

    std::optional<Value> special(const Value& v, TextView name) override
    {
        if (LoopObject* loop = as<LoopObject>(v, {Type::loop})) return loop_attribute(*loop, v, name);
        if (MacroObject* macro = as<MacroObject>(v, {Type::macro})) {
            if (same(name, "name")) return text(macro->macro.name);
            if (!same(name, "arguments")) return {};
            Values names;
            for (const auto& parameter : macro->macro.parameters) names.push_back(text(parameter.text));
            return tuple(std::move(names));
        }
        return {};
    }

  private:
    enum class Flow { on, leave, go_on };

    // ---- scopes

    Scope* new_scope(Scope* around, const std::vector<uint32_t>& hidden = {})
    {
        hold(sizeof(Scope));
        scopes_.push_back(std::make_unique<Scope>(around));
        hide(hidden, *scopes_.back());
        return scopes_.back().get();
    }

    void hide(const std::vector<uint32_t>& names, Scope& scope)
    {
        for (const uint32_t name : names) scope.set(name, Undefined{&program_.names[name]});
    }

    /// While it lives, names are written to a scope of its own.
    class Within {
      public:
        Within(Interpreter& interpreter, Scope* scope)
            : interpreter_(interpreter), before_(std::exchange(interpreter.scope_, scope))
        {
        }
        ~Within() { interpreter_.scope_ = before_; }

      private:
        Interpreter& interpreter_;
        Scope* before_;
    };

    Value lookup(uint32_t name)
    {
        for (Scope* s = scope_; s; s = s->around)
            if (const Value* found = s->find(name)) return *found;
        if (std::optional<Value> global = find_global(*this, program_.names[name])) return *global;
        return Undefined{&program_.names[name]};
    }

    void assign(const Target& target, const Value& value)
    {
        if (!target.parts.empty()) {
            const Values all = items(value);
            if (all.size() != target.parts.size())
                throw Fault::of("{} names are assigned {} values", target.parts.size(), all.size());
            for (size_t i = 0; i < all.size(); i++) assign(target.parts[i], all[i]);
        } else if (target.attribute.empty()) {
            scope_->set(target.name, value);
        } else {
            const Value space = lookup(target.name);
            Dict* dict = as<Dict>(space, {Type::space});
            if (!dict)
                throw Fault::of("'{}' is no namespace, so that its '{}' cannot be set", program_.names[target.name],
                                target.attribute);
            put(*dict, text(target.attribute), value);
        }
    }

    template <class Write>
    Text captured(const Write& write)
    {
        Text text;
        Text* before = std::exchange(out_, &text);
        try {
            write();
        } catch (...) {
            out_ = before;
            throw;
        }
        out_ = before;
        return text;
    }

    // ---- statements

    Flow execute(const Body& body)
    {
        Nested nested(*this);
        for (const auto& statement : body)
            if (const Flow flow = execute(*statement); flow != Flow::on) return flow;
        return Flow::on;
    }

    void write(const Value& value)
    {
        append_str(value, *out_);
        if (out_->size() > limits().output) throw Fault{too_long_text(limits())};
    }

    Flow execute(const Statement& s)
    {
        line_ = s.line;
        work(1);
        switch (s.kind) {
        case Statement::Kind::data:
            work(s.data.size() / 16);
            *out_ += s.data;
            if (out_->size() > limits().output) throw Fault{too_long_text(limits())};
            break;
        case Statement::Kind::output: write(eval(*s.expr)); break;
        case Statement::Kind::condition: return condition(s);
        case Statement::Kind::loop: run_loop(s, items(eval(*s.expr)), scope_, 0); break;
        case Statement::Kind::set: assign(s.target, eval(*s.expr)); break;
        case Statement::Kind::set_block: set_block(s); break;
        case Statement::Kind::macro: assign(s.target, defined(*s.definition)); break;
        case Statement::Kind::call: write(eval_call(*s.expr, defined(*s.definition))); break;
        case Statement::Kind::filter: filter_block(s); break;
        case Statement::Kind::with: with(s); break;
        case Statement::Kind::scope: {
            const Within within(*this, new_scope(scope_, s.hidden));
            return execute(s.body);
        }
        case Statement::Kind::go_on: return Flow::go_on;
        case Statement::Kind::leave: return Flow::leave;
        }
        return Flow::on;
    }

    Flow condition(const Statement& s)
    {
        for (const auto& [test, body] : s.branches)
            if (truth(eval(*test))) return execute(body);
        return execute(s.other);
    }

    Value defined(const Macro& macro)
    {
        for (Scope* s = scope_; s && !s->kept; s = s->around) s->kept = true;
        return make<MacroObject>(macro, scope_);
    }

    void set_block(const Statement& s)
    {
        Value value = text(captured([&] {
            const Within within(*this, new_scope(scope_, s.hidden));
            execute(s.body);
        }));
        if (s.expr) value = eval_filters(*s.expr, value);
        assign(s.target, value);
    }

    void filter_block(const Statement& s)
    {
        const Value value = text(captured([&] {
            const Within within(*this, new_scope(scope_, s.hidden));
            execute(s.body);
        }));
        write(eval_filters(*s.expr, value));
    }

    void with(const Statement& s)
    {
        Scope* inner = new_scope(scope_, s.hidden);
        for (const auto& [target, expr] : s.assignments) {
            const Value value = eval(*expr);
            const Within within(*this, inner);
            assign(target, value);
        }
        const Within within(*this, inner);
        execute(s.body);
    }

    // ---- loops

    void run_loop(const Statement& s, Values source, Scope* around, int64_t depth)
    {
        Nested nested(*this);
        LoopObject* loop = make<LoopObject>(s, std::move(source), around, depth);
        hold(loop->source.size() * sizeof(Value));
        Scope* inner = nullptr;
        while (pull(*loop)) {
            loop->before = std::move(loop->now);
            loop->now = std::move(loop->ahead.front());
            loop->ahead.pop_front();
            loop->index0++;
            if (!inner || inner->kept) inner = new_scope(around);
            inner->values.clear();
            hide(s.hidden, *inner);
            const Within within(*this, inner);
            inner->set(name_loop, loop);
            assign(s.target, *loop->now);
            if (execute(s.body) == Flow::leave) break;
        }
        if (loop->index0 >= 0) return;
        const Within within(*this, new_scope(around, s.hidden_other));
        execute(s.other);
    }

    /// Whether there is a next item; it is in `ahead` then.
    bool pull(LoopObject& loop)
    {
        if (!loop.ahead.empty()) return true;
        return pull_more(loop);
    }

    bool pull_more(LoopObject& loop)
    {
        while (loop.taken < loop.source.size()) {
            work(1);
            Value item = loop.source[loop.taken++];
            if (const ExprPtr& test = loop.statement.test) {
                const Within within(*this, new_scope(loop.scope));
                assign(loop.statement.target, item);
                if (!truth(eval(*test))) continue;
            }
            loop.ahead.push_back(std::move(item));
            return true;
        }
        return false;
    }

    int64_t remaining(LoopObject& loop)
    {
        while (pull_more(loop)) {}
        return int64_t(loop.ahead.size());
    }

    std::optional<Value> loop_attribute(LoopObject& loop, const Value& self, TextView name)
    {
        if (same(name, "index")) return loop.index0 + 1;
        if (same(name, "index0")) return loop.index0;
        if (same(name, "first")) return loop.index0 == 0;
        if (same(name, "last")) return !pull(loop);
        if (same(name, "length")) return loop.index0 + 1 + remaining(loop);
        if (same(name, "revindex")) return 1 + remaining(loop);
        if (same(name, "revindex0")) return remaining(loop);
        if (same(name, "previtem")) return loop.before ? *loop.before : Value(Undefined{});
        if (same(name, "nextitem")) return pull(loop) ? loop.ahead.front() : Value(Undefined{});
        if (same(name, "depth")) return loop.depth + 1;
        if (same(name, "depth0")) return loop.depth;
        if (same(name, "cycle")) return make<Function>("cycle", loop_cycle, self);
        if (same(name, "changed")) return make<Function>("changed", loop_changed, self);
        return {};
    }

    // ---- macros

    Value call_macro(const MacroObject& object, Arguments& a)
    {
        const Macro& macro = object.macro;
        const uint32_t line = line_;
        const auto take_named = [&](std::string_view name) -> std::optional<Value> {
            for (size_t i = 0; i < a.named.size(); i++)
                if (a.named[i].first == name) {
                    Value value = std::move(a.named[i].second);
                    a.named.erase(a.named.begin() + ptrdiff_t(i));
                    return value;
                }
            return {};
        };
        Scope* inner = new_scope(object.scope, macro.hidden);
        const Within within(*this, inner);
        const size_t given = std::min(a.positional.size(), macro.parameters.size());
        for (size_t i = 0; i < given; i++) inner->set(macro.parameters[i].name, a.positional[i]);
        std::vector<std::optional<Value>> named(macro.parameters.size());
        for (size_t i = given; i < macro.parameters.size(); i++) named[i] = take_named(macro.parameters[i].text);
        const std::string shown =
            macro.name.empty() ? "a call's body" : fmt::format("the macro '{}'", printable(macro.name));
        if (macro.takes_caller)
            inner->set(name_caller, take_named("caller").value_or(Undefined{&program_.names[name_caller]}));
        if (macro.takes_named) {
            Dict* more = make<Dict>();
            for (const auto& [name, value] : a.named) put(*more, text(name), value);
            inner->set(name_kwargs, more);
        } else if (!a.named.empty()) throw Fault::of("{} takes no argument '{}'", shown, printable(a.named[0].first));
        if (macro.takes_more)
            inner->set(name_varargs, tuple(Values(a.positional.begin() + ptrdiff_t(given), a.positional.end())));
        else if (a.positional.size() > given)
            throw Fault::of("{} is given {} arguments, and takes {}", shown, a.positional.size(), given);
        for (size_t i = given; i < macro.parameters.size(); i++) {
            const Macro::Parameter& p = macro.parameters[i];
            inner->set(p.name, named[i]      ? *named[i]
                               : p.otherwise ? eval(*p.otherwise)
                                             : Value(Undefined{&program_.names[p.name]}));
        }
        Value result = text(captured([&] { execute(macro.body); }));
        line_ = line;
        return result;
    }

    // ---- expressions

    Value eval(const Expr& e)
    {
        work(1);
        line_ = e.line;
        switch (e.kind) {
        case Expr::Kind::constant: return e.value;
        case Expr::Kind::name: return lookup(e.name);
        default: break;
        }
        Nested nested(*this);
        switch (e.kind) {
        case Expr::Kind::list: return list(eval_all(e.items));
        case Expr::Kind::tuple: return tuple(eval_all(e.items));
        case Expr::Kind::dict: return eval_dict(e);
        case Expr::Kind::both: {
            Value left = eval(*e.items[0]);
            return truth(left) ? eval(*e.items[1]) : left;
        }
        case Expr::Kind::either: {
            Value left = eval(*e.items[0]);
            return truth(left) ? left : eval(*e.items[1]);
        }
        case Expr::Kind::negation: return !truth(eval(*e.items[0]));
        case Expr::Kind::condition:
            if (truth(eval(*e.items[1]))) return eval(*e.items[0]);
            return e.items[2] ? eval(*e.items[2]) : Value(Undefined{});
        case Expr::Kind::comparison: return eval_comparison(e);
        case Expr::Kind::binary: {
            const Value left = eval(*e.items[0]), right = eval(*e.items[1]);
            return binary(e.op, left, right);
        }
        case Expr::Kind::concat: return concatenated(eval_all(e.items));
        case Expr::Kind::minus: return negative(eval(*e.items[0]));
        case Expr::Kind::plus: return positive(eval(*e.items[0]));
        case Expr::Kind::attribute: return attribute(eval(*e.items[0]), e.value, &e.text);
        case Expr::Kind::item: {
            const Value v = eval(*e.items[0]), key = eval(*e.items[1]);
            return item(v, key, nullptr);
        }
        case Expr::Kind::slice: return eval_slice(e);
        case Expr::Kind::call: return eval_call(e, std::nullopt);
        case Expr::Kind::filter: return eval_filter(e, eval(*e.items[0]));
        case Expr::Kind::test: return eval_test(e);
        case Expr::Kind::constant:
        case Expr::Kind::name: break;
        }
        return Undefined{};
    }

    Values eval_all(const std::vector<ExprPtr>& items)
    {
        Values values;
        values.reserve(items.size());
        for (const ExprPtr& item : items) values.push_back(eval(*item));
        return values;
    }

    Value eval_dict(const Expr& e)
    {
        Dict* dict = make<Dict>();
        for (size_t i = 0; i < e.items.size(); i += 2) {
            const Value key = eval(*e.items[i]);
            put(*dict, key, eval(*e.items[i + 1]));
        }
        return dict;
    }

    Value eval_comparison(const Expr& e)
    {
        Value left = eval(*e.items[0]);
        for (size_t i = 0; i < e.compares.size(); i++) {
            Value right = eval(*e.items[i + 1]);
            bool good = false;
            switch (e.compares[i]) {
            case Expr::Compare::eq: good = equal(left, right); break;
            case Expr::Compare::ne: good = !equal(left, right); break;
            case Expr::Compare::lt: good = less(left, right); break;
            case Expr::Compare::le: good = less(left, right) || equal(left, right); break;
            case Expr::Compare::gt: good = less(right, left); break;
            case Expr::Compare::ge: good = less(right, left) || equal(left, right); break;
            case Expr::Compare::in: good = contains(right, left); break;
            case Expr::Compare::not_in: good = !contains(right, left); break;
            }
            if (!good) return false;
            left = std::move(right);
        }
        return true;
    }

    Value eval_slice(const Expr& e)
    {
        const Value v = eval(*e.items[0]);
        const auto bound = [&](size_t i) { return e.items[i] ? eval(*e.items[i]) : Value(None{}); };
        const Value start = bound(1), stop = bound(2), step = bound(3);
        return slice(v, start, stop, step);
    }

    Arguments arguments_of(const Expr& e)
    {
        Arguments a;
        a.positional = eval_all(e.arguments);
        for (const auto& [name, expr] : e.named) a.named.emplace_back(name, eval(*expr));
        if (e.star) {
            const Values more = items(eval(*e.star));
            a.positional.insert(a.positional.end(), more.begin(), more.end());
        }
        if (e.double_star) {
            const Value more = eval(*e.double_star);
            const Dict* dict = as_dict(more);
            if (!dict) throw Fault::of("{} is given as arguments with names", type_name(more));
            for (const auto& [key, value] : dict->items) {
                std::string name = to_utf8(need_text(key));
                for (const auto& [other, _] : a.named)
                    if (other == name) throw Fault::of("the argument '{}' is given twice", printable(name));
                a.named.emplace_back(std::move(name), value);
            }
        }
        return a;
    }

    Value eval_call(const Expr& e, std::optional<Value> caller)
    {
        const Value function = eval(*e.items[0]);
        Arguments a = arguments_of(e);
        if (caller) a.named.emplace_back("caller", *caller);
        line_ = e.line;
        return call(function, a);
    }

    Value eval_filter(const Expr& e, const Value& v)
    {
        Arguments a = arguments_of(e);
        line_ = e.line;
        const FilterBody body = find_filter(e.text);
        if (!body) throw Fault::of("there is no filter '{}' here", printable(e.text));
        return body(*this, v, a);
    }

    /// Filters of a block, of which the innermost has no operand.
    Value eval_filters(const Expr& e, const Value& v)
    {
        return eval_filter(e, e.items[0] ? eval_filters(*e.items[0], v) : v);
    }

    Value eval_test(const Expr& e)
    {
        const Value v = eval(*e.items[0]);
        Arguments a = arguments_of(e);
        line_ = e.line;
        const TestBody body = find_test(e.text);
        if (!body) throw Fault::of("there is no test '{}' here", printable(e.text));
        return body(*this, v, a);
    }

    const Program& program_;
    std::vector<std::unique_ptr<Scope>> scopes_;
    Scope* scope_;
    Text* out_ = nullptr;
    uint32_t line_ = 1;
};

// ---- the door -------------------------------------------------------------------------------------------------------

Template::Template(std::string_view source) : program_(std::make_unique<const Program>(parse_template(source))) {}
Template::Template(Template&&) noexcept = default;
Template& Template::operator=(Template&&) noexcept = default;
Template::~Template() = default;

std::vector<Piece> Template::render(const Data::Dict& variables, const Limits& limits) const
{
    uint32_t line = 1;
    Text text;
    try {
        Interpreter interpreter(*program_, variables, limits);
        try {
            text = interpreter.run();
        } catch (const Fault&) {
            line = interpreter.line();
            throw;
        }
    } catch (const Fault& fault) {
        if (fault.refusal) throw TemplateRefusal(line, fault.what);
        throw TemplateError(line, fault.what);
    }
    std::vector<Piece> pieces;
    uint64_t bytes = 0;
    for (const char32_t c : text) {
        const bool own = !(c & foreign);
        if (pieces.empty() || pieces.back().own != own) {
            bytes += pieces.empty() ? 0 : pieces.back().text.size();
            pieces.push_back({"", own});
        }
        append_utf8(c, pieces.back().text);
        if (bytes + pieces.back().text.size() > limits.output) throw TemplateError(line, too_long_text(limits));
    }
    return pieces;
}

}    // namespace hearth::jinja
