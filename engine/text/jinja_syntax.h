// A template as its text says it: statements and expressions.
#pragma once

#include "engine/text/jinja_value.h"

namespace hearth::jinja {

struct Expr;
using ExprPtr = std::unique_ptr<Expr>;

struct Expr {
    enum class Kind {
        constant,      // value
        name,          // text
        list,          // items
        tuple,         // items
        dict,          // items: key, value, key, value ...
        both,          // items[0] and items[1]
        either,        // items[0] or items[1]
        negation,      // not items[0]
        condition,     // items[0] if items[1] else items[2], which may be nullptr
        comparison,    // items[0] compares[0] items[1] compares[1] items[2] ...
        binary,        // items[0] op items[1]
        concat,        // items joined by ~
        minus,         // -items[0]
        plus,          // +items[0]
        attribute,     // items[0].text
        item,          // items[0][items[1]]
        slice,         // items[0][items[1]:items[2]:items[3]], each of which may be nullptr
        call,          // items[0](arguments)
        filter,        // items[0] | text(arguments); items[0] is nullptr in a filter block
        test,          // items[0] is text(arguments)
    };
    enum class Compare { eq, ne, lt, le, gt, ge, in, not_in };

    Kind kind;
    uint32_t line;
    uint32_t depth = 1;    // of the tree below
    std::vector<ExprPtr> items = {};
    Value value = Undefined{};
    std::string text = {};
    uint32_t name = 0;    // of `name`: its number in the program
    Runtime::Op op = Runtime::Op::add;
    std::vector<Compare> compares = {};
    // of call, filter and test
    std::vector<ExprPtr> arguments = {};
    std::vector<std::pair<std::string, ExprPtr>> named = {};
    ExprPtr star = {}, double_star = {};    // *args, **kwargs
};

/// What is assigned to: a name, an attribute of a namespace, or several of them.
struct Target {
    uint32_t line = 0;
    uint32_t name = 0;
    std::string attribute = {};        // of the namespace `name`; empty: the name itself
    std::vector<Target> parts = {};    // where not empty, a tuple
};

struct Statement;
using Body = std::vector<std::unique_ptr<Statement>>;

struct Macro {
    std::string name;
    struct Parameter {
        uint32_t name;
        std::string text;
        ExprPtr otherwise;    // may be nullptr
    };
    std::vector<Parameter> parameters = {};
    bool takes_caller = false, takes_more = false, takes_named = false;    // its body speaks of caller, varargs, kwargs
    Body body = {};
    std::vector<uint32_t> hidden = {};
};

struct Statement {
    enum class Kind {
        data,         // text
        output,       // expr
        condition,    // branches; body: else
        loop,         // target in expr, if test; body, other
        set,          // target = expr
        set_block,    // target = body, through expr, a filter
        macro,        // definition
        call,         // expr, a call whose caller is `definition`
        filter,       // expr, a filter, of body
        with,         // targets and values, body
        scope,        // body, whose names are its own
        go_on,        // continue
        leave,        // break
    };
    Kind kind;
    uint32_t line;
    Text data = {};
    ExprPtr expr = {}, test = {};
    Target target = {};
    Body body = {}, other = {};
    bool recursive = false;
    std::vector<std::pair<ExprPtr, Body>> branches = {};
    std::vector<std::pair<Target, ExprPtr>> assignments = {};
    std::unique_ptr<Macro> definition = {};
    std::vector<uint32_t> hidden = {},
                          hidden_other =
                              {};    // names that are undefined in the body until it sets them, whatever is around it
};

struct Program {
    std::vector<std::string> names;    // by number
    Body body;
    std::vector<uint32_t> hidden;
};

/// Names that the interpreter knows by their number.
enum WellKnown : uint32_t { name_loop, name_caller, name_varargs, name_kwargs, well_known_names };

struct TemplateToken {
    enum class Kind { data, begin_output, end_output, begin_block, end_block, name, text, integer, real, op, end };
    Kind kind;
    uint32_t line;
    Text text = {};           // of data and text
    std::string word = {};    // of name and op, as written
    int64_t integer = 0;
    double real = 0;
};

/// Throws TemplateError.
std::vector<TemplateToken> template_tokens(std::string_view source);
Program parse_template(std::string_view source);
void find_hidden_names(Program& program);

}    // namespace hearth::jinja
