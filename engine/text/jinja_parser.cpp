// From a template's tokens to its statements and expressions. What binds how closely is Jinja's: `~` closer than `+`,
// `|` closer than everything.
#include "engine/text/jinja_syntax.h"

#include <algorithm>
#include <unordered_map>

namespace hearth::jinja {

namespace {

using Kind = TemplateToken::Kind;
using Words = std::initializer_list<std::string_view>;

constexpr uint32_t most_nested = 100;    // tags and brackets in each other
constexpr uint32_t deepest = 300;        // an expression's tree: `a + b + c ...` is as deep as long

class Parser {
  public:
    explicit Parser(std::string_view source) : tokens_(template_tokens(source))
    {
        for (const char* word : {"loop", "caller", "varargs", "kwargs"}) number(word);
    }

    Program parse()
    {
        program_.body = statements({});
        if (!unknown_.empty()) throw TemplateError(unknown_[0].first, unknown_[0].second);
        find_hidden_names(program_);
        return std::move(program_);
    }

  private:
    // ---- tokens

    const TemplateToken& now() const { return tokens_[at_]; }
    const TemplateToken& after() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
    const TemplateToken& next() { return tokens_[at_ + 1 < tokens_.size() ? at_++ : at_]; }
    bool is_op(std::string_view op) const { return now().kind == Kind::op && now().word == op; }
    bool is_word(std::string_view word) const { return now().kind == Kind::name && now().word == word; }
    bool is_any_word(Words words) const
    {
        return now().kind == Kind::name && std::find(words.begin(), words.end(), now().word) != words.end();
    }
    bool skip_op(std::string_view op) { return is_op(op) && (next(), true); }
    bool skip_word(std::string_view word) { return is_word(word) && (next(), true); }

    [[noreturn]] void fail(const std::string& what) const { throw TemplateError(now().line, what); }
    [[noreturn]] void unexpected(std::string_view wanted) const
    {
        fail(fmt::format("expected {}, found {}", wanted, shown(now())));
    }

    static std::string shown(const TemplateToken& token)
    {
        switch (token.kind) {
        case Kind::data: return "text";
        case Kind::begin_output: return "'{{'";
        case Kind::end_output: return "'}}'";
        case Kind::begin_block: return "'{%'";
        case Kind::end_block: return "'%}'";
        case Kind::end: return "the template's end";
        case Kind::text: return "a string";
        case Kind::integer:
        case Kind::real: return "a number";
        default: return fmt::format("'{}'", printable(token.word));
        }
    }

    void expect_op(std::string_view op)
    {
        if (!skip_op(op)) unexpected(fmt::format("'{}'", op));
    }
    void expect_word(std::string_view word)
    {
        if (!skip_word(word)) unexpected(fmt::format("'{}'", word));
    }
    std::string expect_name()
    {
        if (now().kind != Kind::name) unexpected("a name");
        return next().word;
    }
    void expect(Kind kind, std::string_view shown)
    {
        if (now().kind != kind) unexpected(shown);
        next();
    }

    uint32_t number(const std::string& name)
    {
        const auto [found, added] = numbers_.emplace(name, uint32_t(program_.names.size()));
        if (added) program_.names.push_back(name);
        return found->second;
    }

    struct Nested {
        explicit Nested(Parser& parser) : parser(parser)
        {
            if (++parser.nested_ > most_nested) parser.fail("tags or brackets are nested too deeply");
        }
        ~Nested() { parser.nested_--; }
        Parser& parser;
    };

    /// A template may name what is not known where it is careful not to come by it, under a condition.
    void is_unknown(std::string what)
    {
        if (!soft_) unknown_.emplace_back(now().line, std::move(what));
    }

    // ---- statements

    /// Up to a tag that begins with one of these words, which is the next token then; to the template's end where there
    /// are none.
    Body statements(Words ends)
    {
        Nested nested(*this);
        Body body;
        while (now().kind != Kind::end) {
            const uint32_t line = now().line;
            if (now().kind == Kind::data) {
                body.push_back(make(Statement::Kind::data, line));
                body.back()->data = next().text;
            } else if (now().kind == Kind::begin_output) {
                next();
                body.push_back(make(Statement::Kind::output, line));
                body.back()->expr = tuple({});
                expect(Kind::end_output, "'}}'");
            } else {
                expect(Kind::begin_block, "'{%'");
                if (is_any_word(ends)) return body;
                if (auto made = statement()) body.push_back(std::move(made));
                expect(Kind::end_block, "'%}'");
            }
        }
        if (ends.size()) fail(fmt::format("the template ends before '{}'", *(ends.end() - 1)));
        return body;
    }

    static std::unique_ptr<Statement> make(Statement::Kind kind, uint32_t line)
    {
        auto made = std::make_unique<Statement>();
        made->kind = kind;
        made->line = line;
        return made;
    }

    /// The body behind a tag's own words.
    Body body_until(Words ends)
    {
        skip_op(":");
        expect(Kind::end_block, "'%}'");
        return statements(ends);
    }

    /// A body with names of its own, in which an unknown filter is an error even where it is not come by.
    Body own_body(Words ends, bool loop)
    {
        const bool soft = std::exchange(soft_, false);
        const uint32_t loops = std::exchange(loops_, loop ? loops_ + 1 : loops_);
        Body body = body_until(ends);
        soft_ = soft;
        loops_ = loops;
        return body;
    }

    using Parse = std::unique_ptr<Statement> (Parser::*)(uint32_t line);
    std::unique_ptr<Statement> statement()
    {
        static constexpr struct {
            std::string_view word;
            Parse parse;
        } known[] = {{"if", &Parser::condition},     {"for", &Parser::loop},        {"set", &Parser::set},
                     {"macro", &Parser::macro},      {"call", &Parser::call_block}, {"filter", &Parser::filter},
                     {"with", &Parser::with},        {"break", &Parser::leave},     {"continue", &Parser::go_on},
                     {"generation", &Parser::scope}, {"print", &Parser::print}};
        if (now().kind != Kind::name) unexpected("the name of a tag");
        const uint32_t line = now().line;
        for (const auto& row : known)
            if (is_word(row.word)) {
                next();
                return (this->*row.parse)(line);
            }
        for (const char* word : {"block", "extends", "include", "import", "from", "autoescape"})
            if (is_word(word)) fail(fmt::format("the tag '{}' is not done here", word));
        fail(fmt::format("there is no tag '{}'", printable(now().word)));
    }

    std::unique_ptr<Statement> condition(uint32_t line)
    {
        auto made = make(Statement::Kind::condition, line);
        const bool soft = std::exchange(soft_, true);
        while (true) {
            ExprPtr test = tuple({}, false);
            Body body = body_until({"elif", "else", "endif"});
            made->branches.emplace_back(std::move(test), std::move(body));
            const std::string word = next().word;
            if (word == "elif") continue;
            if (word == "else") {
                made->other = body_until({"endif"});
                next();
            }
            break;
        }
        soft_ = soft;
        return made;
    }

    std::unique_ptr<Statement> loop(uint32_t line)
    {
        auto made = make(Statement::Kind::loop, line);
        made->target = target({"in"}, false);
        expect_word("in");
        made->expr = tuple({"recursive"}, false);
        if (skip_word("if")) made->test = expression();
        made->recursive = skip_word("recursive");
        made->body = own_body({"endfor", "else"}, true);
        if (next().word == "else") {
            made->other = own_body({"endfor"}, false);
            next();
        }
        return made;
    }

    std::unique_ptr<Statement> set(uint32_t line)
    {
        auto made = make(Statement::Kind::set, line);
        made->target = target({}, true);
        if (skip_op("=")) {
            made->expr = tuple({});
            return made;
        }
        made->kind = Statement::Kind::set_block;
        made->expr = filters(nullptr);
        made->body = own_body({"endset"}, false);
        next();
        return made;
    }

    /// Parameters in brackets, and a body in which nothing of the loops around it can be left.
    void signature(Macro& macro)
    {
        expect_op("(");
        bool defaults = false;
        while (!is_op(")")) {
            if (!macro.parameters.empty()) expect_op(",");
            const std::string name = assignable_name();
            macro.parameters.push_back({number(name), name, nullptr});
            if (skip_op("=")) {
                defaults = true;
                macro.parameters.back().otherwise = expression();
            } else if (defaults) fail("a parameter without a default follows one with a default");
        }
        next();
    }

    void macro_body(Macro& macro, std::string_view end)
    {
        Macro* outer = std::exchange(macro_, &macro);
        const uint32_t loops = std::exchange(loops_, 0);
        macro.body = own_body({end}, false);
        next();
        loops_ = loops;
        macro_ = outer;
        if (!outer) return;    // what is spoken of within it counts for the macro around it, too
        outer->takes_caller |= macro.takes_caller;
        outer->takes_more |= macro.takes_more;
        outer->takes_named |= macro.takes_named;
    }

    std::unique_ptr<Statement> macro(uint32_t line)
    {
        auto made = make(Statement::Kind::macro, line);
        made->definition = std::make_unique<Macro>();
        made->definition->name = assignable_name();
        made->target = {.line = line, .name = number(made->definition->name)};
        signature(*made->definition);
        macro_body(*made->definition, "endmacro");
        return made;
    }

    std::unique_ptr<Statement> call_block(uint32_t line)
    {
        auto made = make(Statement::Kind::call, line);
        made->definition = std::make_unique<Macro>();
        if (is_op("(")) signature(*made->definition);
        made->expr = expression();
        if (made->expr->kind != Expr::Kind::call) fail("expected a call");
        macro_body(*made->definition, "endcall");
        return made;
    }

    std::unique_ptr<Statement> filter(uint32_t line)
    {
        auto made = make(Statement::Kind::filter, line);
        made->expr = filters(nullptr, true);
        made->body = own_body({"endfilter"}, false);
        next();
        return made;
    }

    std::unique_ptr<Statement> with(uint32_t line)
    {
        auto made = make(Statement::Kind::with, line);
        while (now().kind != Kind::end_block && !is_op(":")) {
            if (!made->assignments.empty()) expect_op(",");
            Target to = target({}, false);
            expect_op("=");
            made->assignments.emplace_back(std::move(to), expression());
        }
        made->body = own_body({"endwith"}, false);
        next();
        return made;
    }

    /// transformers' `{% generation %}`, which marks what the model says.
    std::unique_ptr<Statement> scope(uint32_t line)
    {
        auto made = make(Statement::Kind::scope, line);
        const uint32_t loops = std::exchange(loops_, 0);
        made->body = own_body({"endgeneration"}, false);
        loops_ = loops;
        next();
        return made;
    }

    std::unique_ptr<Statement> print(uint32_t line)
    {
        auto made = make(Statement::Kind::scope, line);    // several outputs
        while (now().kind != Kind::end_block) {
            if (!made->body.empty()) expect_op(",");
            made->body.push_back(make(Statement::Kind::output, line));
            made->body.back()->expr = expression();
        }
        return made;
    }

    std::unique_ptr<Statement> in_loop(Statement::Kind kind, uint32_t line)
    {
        if (!loops_) throw TemplateError(line, "a loop is left or continued where there is none");
        return make(kind, line);
    }
    std::unique_ptr<Statement> leave(uint32_t line) { return in_loop(Statement::Kind::leave, line); }
    std::unique_ptr<Statement> go_on(uint32_t line) { return in_loop(Statement::Kind::go_on, line); }

    // ---- targets

    static bool is_constant(std::string_view word)
    {
        static constexpr std::string_view words[] = {"true", "false", "none", "True", "False", "None"};
        return std::find(std::begin(words), std::end(words), word) != std::end(words);
    }

    std::string assignable_name()
    {
        if (now().kind == Kind::name && is_constant(now().word))
            fail(fmt::format("'{}' cannot be assigned to", now().word));
        return expect_name();
    }

    Target target(Words ends, bool attributes)
    {
        Nested nested(*this);
        Target all{.line = now().line};
        bool several = false;
        while (true) {
            if (at_tuple_end(ends)) break;
            all.parts.push_back(one_target(attributes));
            if (!skip_op(",")) break;
            several = true;
        }
        if (all.parts.empty()) unexpected("a name to assign to");
        return several ? std::move(all) : Target(std::move(all.parts[0]));
    }

    Target one_target(bool attributes)
    {
        if (skip_op("(")) {
            Target inner = target({}, attributes);
            expect_op(")");
            return inner;
        }
        Target one{.line = now().line};
        const std::string name = assignable_name();
        if (name == "loop" && loops_) fail("'loop' cannot be assigned to within a loop");
        one.name = number(name);
        if (attributes && skip_op(".")) one.attribute = expect_name();
        return one;
    }

    // ---- expressions

    ExprPtr node(Expr::Kind kind, uint32_t line) const
    {
        return std::make_unique<Expr>(Expr{.kind = kind, .line = line});
    }

    /// A node of these operands.
    template <class... Operands>
    ExprPtr node(Expr::Kind kind, uint32_t line, Operands... operands) const
    {
        ExprPtr made = node(kind, line);
        (add(*made, std::move(operands)), ...);
        return made;
    }
    void add(Expr& parent, ExprPtr child) const
    {
        grow(parent, child.get());
        parent.items.push_back(std::move(child));
    }
    void grow(Expr& parent, const Expr* child) const
    {
        if (!child) return;
        parent.depth = std::max(parent.depth, child->depth + 1);
        if (parent.depth > deepest) fail("an expression is too long or too deep");
    }

    bool at_tuple_end(Words ends) const
    {
        return now().kind == Kind::end_output || now().kind == Kind::end_block || is_op(")") || is_any_word(ends);
    }

    /// An expression, or several with commas, which are a tuple.
    ExprPtr tuple(Words ends, bool conditions = true, bool in_brackets = false)
    {
        const uint32_t line = now().line;
        ExprPtr all = node(Expr::Kind::tuple, line);
        bool several = false;
        while (!at_tuple_end(ends)) {
            add(*all, conditions ? expression() : either());
            if (!skip_op(",")) break;
            several = true;
        }
        if (several) return all;
        if (!all->items.empty()) return std::move(all->items[0]);
        if (!in_brackets) unexpected("an expression");
        return all;
    }

    ExprPtr expression()
    {
        Nested nested(*this);
        const uint32_t line = now().line;
        const size_t unknown = unknown_.size();
        ExprPtr value = either();
        while (skip_word("if")) {
            ExprPtr test = either(), other;
            if (skip_word("else")) other = expression();
            value = node(Expr::Kind::condition, line, std::move(value), std::move(test), std::move(other));
            unknown_.resize(unknown);
        }
        return value;
    }

    ExprPtr either()
    {
        ExprPtr left = both();
        while (is_word("or")) {
            const uint32_t line = next().line;
            left = node(Expr::Kind::either, line, std::move(left), both());
        }
        return left;
    }

    ExprPtr both()
    {
        ExprPtr left = negation();
        while (is_word("and")) {
            const uint32_t line = next().line;
            left = node(Expr::Kind::both, line, std::move(left), negation());
        }
        return left;
    }

    ExprPtr negation()
    {
        if (!is_word("not")) return comparison();
        Nested nested(*this);
        const uint32_t line = next().line;
        return node(Expr::Kind::negation, line, negation());
    }

    std::optional<Expr::Compare> compare_sign()
    {
        static constexpr std::pair<std::string_view, Expr::Compare> signs[] = {
            {"==", Expr::Compare::eq}, {"!=", Expr::Compare::ne}, {"<", Expr::Compare::lt},
            {"<=", Expr::Compare::le}, {">", Expr::Compare::gt},  {">=", Expr::Compare::ge}};
        for (const auto& [sign, compare] : signs)
            if (skip_op(sign)) return compare;
        if (skip_word("in")) return Expr::Compare::in;
        if (is_word("not") && after().kind == Kind::name && after().word == "in") {
            next(), next();
            return Expr::Compare::not_in;
        }
        return {};
    }

    ExprPtr comparison()
    {
        const uint32_t line = now().line;
        ExprPtr first = sum();
        ExprPtr all;
        while (const auto sign = compare_sign()) {
            if (!all) all = node(Expr::Kind::comparison, line, std::move(first));
            all->compares.push_back(*sign);
            add(*all, sum());
        }
        return all ? std::move(all) : std::move(first);
    }

    using Signs = std::initializer_list<std::pair<std::string_view, Runtime::Op>>;
    /// Operands of `part` with these signs between, from left to right.
    ExprPtr chain(Signs signs, ExprPtr (Parser::*part)())
    {
        ExprPtr left = (this->*part)();
        while (true) {
            const auto sign = std::find_if(signs.begin(), signs.end(), [&](const auto& s) { return is_op(s.first); });
            if (sign == signs.end()) return left;
            const uint32_t line = next().line;
            left = node(Expr::Kind::binary, line, std::move(left), (this->*part)());
            left->op = sign->second;
        }
    }

    ExprPtr sum() { return chain({{"+", Runtime::Op::add}, {"-", Runtime::Op::sub}}, &Parser::concat); }
    ExprPtr product()
    {
        return chain(
            {{"*", Runtime::Op::mul}, {"/", Runtime::Op::div}, {"//", Runtime::Op::floordiv}, {"%", Runtime::Op::mod}},
            &Parser::power);
    }
    ExprPtr power() { return chain({{"**", Runtime::Op::pow}}, &Parser::filtered_unary); }
    ExprPtr filtered_unary() { return unary(true); }

    ExprPtr concat()
    {
        ExprPtr first = product();
        if (!is_op("~")) return first;
        ExprPtr all = node(Expr::Kind::concat, now().line, std::move(first));
        while (skip_op("~")) add(*all, product());
        return all;
    }

    ExprPtr unary(bool with_filters)
    {
        Nested nested(*this);
        ExprPtr made;
        if (is_op("-") || is_op("+")) {
            const bool minus = is_op("-");
            const uint32_t line = next().line;
            made = node(minus ? Expr::Kind::minus : Expr::Kind::plus, line, unary(false));
        } else made = primary();
        made = postfix(std::move(made));
        return with_filters ? filters_and_tests(std::move(made)) : std::move(made);
    }

    ExprPtr constant(Value value)
    {
        ExprPtr made = node(Expr::Kind::constant, now().line);
        made->value = std::move(value);
        return made;
    }

    ExprPtr primary()
    {
        const uint32_t line = now().line;
        switch (now().kind) {
        case Kind::name: {
            const std::string word = next().word;
            if (is_constant(word)) {
                if (word == "none" || word == "None") return constant(None{});
                return constant(word == "true" || word == "True");
            }
            ExprPtr made = node(Expr::Kind::name, line);
            made->name = number(word);
            if (macro_) {
                macro_->takes_caller |= made->name == name_caller;
                macro_->takes_more |= made->name == name_varargs;
                macro_->takes_named |= made->name == name_kwargs;
            }
            made->text = word;
            return made;
        }
        case Kind::text: {
            auto text = std::make_shared<Text>();
            while (now().kind == Kind::text) *text += next().text;    // neighbours are one
            return constant(String{std::move(text)});
        }
        case Kind::integer: return constant(next().integer);
        case Kind::real: return constant(next().real);
        default: break;
        }
        if (skip_op("(")) {
            ExprPtr made = tuple({}, true, true);
            expect_op(")");
            return made;
        }
        if (is_op("[")) return bracketed(Expr::Kind::list, "]");
        if (is_op("{")) return bracketed(Expr::Kind::dict, "}");
        unexpected("a value");
    }

    ExprPtr bracketed(Expr::Kind kind, std::string_view end)
    {
        ExprPtr made = node(kind, next().line);
        while (!is_op(end)) {
            if (!made->items.empty()) expect_op(",");
            if (is_op(end)) break;
            add(*made, expression());
            if (kind != Expr::Kind::dict) continue;
            expect_op(":");
            add(*made, expression());
        }
        next();
        return made;
    }

    ExprPtr postfix(ExprPtr value)
    {
        while (true) {
            if (is_op(".")) value = dotted(std::move(value));
            else if (is_op("[")) value = subscript(std::move(value));
            else if (is_op("(")) value = call(std::move(value));
            else return value;
        }
    }

    ExprPtr dotted(ExprPtr value)
    {
        const uint32_t line = next().line;
        if (now().kind == Kind::integer)
            return node(Expr::Kind::item, line, std::move(value), constant(next().integer));
        ExprPtr made = node(Expr::Kind::attribute, line, std::move(value));
        made->text = expect_name();
        made->value = String{std::make_shared<Text>(from_utf8(made->text))};
        return made;
    }

    ExprPtr subscript(ExprPtr value)
    {
        const uint32_t line = next().line;
        if (is_op(":")) return slice(std::move(value), nullptr, line);
        ExprPtr key = node(Expr::Kind::tuple, line);
        while (!is_op("]")) {
            if (!key->items.empty()) expect_op(",");
            ExprPtr one = expression();
            if (is_op(":") && key->items.empty()) return slice(std::move(value), std::move(one), line);
            add(*key, std::move(one));
        }
        next();
        if (key->items.size() == 1) key = std::move(key->items[0]);
        return node(Expr::Kind::item, line, std::move(value), std::move(key));
    }

    /// From its first colon on.
    ExprPtr slice(ExprPtr value, ExprPtr start, uint32_t line)
    {
        ExprPtr stop, step;
        expect_op(":");
        if (!is_op(":") && !is_op("]")) stop = expression();
        if (skip_op(":") && !is_op("]")) step = expression();
        if (is_op(",")) fail("a slice among several is not done here");
        expect_op("]");
        return node(Expr::Kind::slice, line, std::move(value), std::move(start), std::move(stop), std::move(step));
    }

    ExprPtr call(ExprPtr function)
    {
        ExprPtr made = node(Expr::Kind::call, now().line, std::move(function));
        arguments(*made);
        return made;
    }

    void arguments(Expr& made)
    {
        expect_op("(");
        bool first = true;
        const auto must = [&](bool good) {
            if (!good) fail("the arguments of a call are in no order that is allowed");
        };
        const auto value = [&] {
            ExprPtr one = expression();
            grow(made, one.get());
            return one;
        };
        while (!is_op(")")) {
            if (!first) expect_op(",");
            if (!first && is_op(")")) break;
            first = false;
            if (skip_op("*")) {
                must(!made.star && !made.double_star);
                made.star = value();
            } else if (skip_op("**")) {
                must(!made.double_star);
                made.double_star = value();
            } else if (now().kind == Kind::name && after().kind == Kind::op && after().word == "=") {
                must(!made.double_star);
                std::string name = next().word;
                next();
                for (const auto& [other, _] : made.named)
                    if (other == name) fail(fmt::format("the argument '{}' is given twice", name));
                made.named.emplace_back(std::move(name), value());
            } else {
                must(!made.star && !made.double_star && made.named.empty());
                made.arguments.push_back(value());
            }
        }
        next();
    }

    std::string dotted_name()
    {
        std::string name = expect_name();
        while (skip_op(".")) name.append(1, '.').append(expect_name());
        return name;
    }

    ExprPtr filters(ExprPtr value, bool begins_here = false)
    {
        while (begins_here || is_op("|")) {
            if (!begins_here) next();
            begins_here = false;
            ExprPtr made = node(Expr::Kind::filter, now().line, std::move(value));
            made->text = dotted_name();
            if (!find_filter(made->text))
                is_unknown(fmt::format("there is no filter '{}' here", printable(made->text)));
            if (is_op("(")) arguments(*made);
            value = std::move(made);
        }
        return value;
    }

    ExprPtr filters_and_tests(ExprPtr value)
    {
        while (true) {
            if (is_op("|")) value = filters(std::move(value));
            else if (is_word("is")) value = test(std::move(value));
            else if (is_op("(")) value = call(std::move(value));
            else return value;
        }
    }

    ExprPtr test(ExprPtr value)
    {
        const uint32_t line = next().line;
        const bool negated = skip_word("not");
        ExprPtr made = node(Expr::Kind::test, line, std::move(value));
        made->text = dotted_name();
        if (!find_test(made->text)) is_unknown(fmt::format("there is no test '{}' here", printable(made->text)));
        if (is_op("(")) arguments(*made);
        else if ((now().kind == Kind::name && !is_any_word({"else", "or", "and"})) || now().kind == Kind::text ||
                 now().kind == Kind::integer || now().kind == Kind::real || is_op("[") || is_op("{")) {
            if (is_word("is")) fail("two tests cannot follow each other");
            ExprPtr argument = postfix(primary());
            grow(*made, argument.get());
            made->arguments.push_back(std::move(argument));
        }
        return negated ? node(Expr::Kind::negation, line, std::move(made)) : std::move(made);
    }

    std::vector<TemplateToken> tokens_;
    size_t at_ = 0;
    uint32_t nested_ = 0;
    uint32_t loops_ = 0;    // around here
    bool soft_ = false;     // under a condition
    std::vector<std::pair<uint32_t, std::string>>
        unknown_;               // filters and tests that are used unconditionally, by line
    Macro* macro_ = nullptr;    // whose body this is
    Program program_;
    std::unordered_map<std::string, uint32_t> numbers_;
};

}    // namespace

Program parse_template(std::string_view source) { return Parser(source).parse(); }

}    // namespace hearth::jinja
