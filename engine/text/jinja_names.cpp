// Which names a body gives values to, and from where on. Jinja decides this before it renders: a name that a body sets
// without having read it before is that body's own from its beginning on, so that bodies within it (a loop, a macro)
// see nothing under that name before it is set, and not a variable of the conversation that happens to be called so.
#include "engine/text/jinja_syntax.h"

#include <map>
#include <set>

namespace hearth::jinja {

namespace {

/// The names of a body, in the order of its text; `around` is that of the body around it, which is known as a whole.
struct Names {
    const Names* around = nullptr;
    std::map<uint32_t, bool> own = {};    // the body's: whether it is undefined until set
    std::set<uint32_t> stored = {};

    bool known(uint32_t name) const
    {
        for (const Names* n = this; n; n = n->around)
            if (n->own.contains(name)) return true;
        return false;
    }
    bool known_around(uint32_t name) const { return around && around->known(name); }
    void load(uint32_t name)
    {
        if (!known(name)) own[name] = false;
    }
    void store(uint32_t name)
    {
        stored.insert(name);
        if (!own.contains(name)) own[name] = !known_around(name);
    }
    void declare(uint32_t name)
    {
        stored.insert(name);
        own[name] = false;
    }
    std::vector<uint32_t> hidden() const
    {
        std::vector<uint32_t> names;
        for (const auto& [name, is_hidden] : own)
            if (is_hidden) names.push_back(name);
        return names;
    }
};

void load(const Expr* e, Names& names)
{
    if (!e) return;
    if (e->kind == Expr::Kind::name) names.load(e->name);
    for (const ExprPtr& item : e->items) load(item.get(), names);
    for (const ExprPtr& argument : e->arguments) load(argument.get(), names);
    for (const auto& [_, argument] : e->named) load(argument.get(), names);
    load(e->star.get(), names);
    load(e->double_star.get(), names);
}

/// `declares`: as a parameter, which has a value from the beginning on.
void store(const Target& target, Names& names, bool declares)
{
    for (const Target& part : target.parts) store(part, names, declares);
    if (!target.parts.empty()) return;
    if (!target.attribute.empty()) names.load(target.name);
    else if (declares) names.declare(target.name);
    else names.store(target.name);
}

void visit(const Body& body, Names& names);

/// A name that is set on every way through an `if` is set; on some ways only, it may be what it was before.
void visit_condition(const Statement& s, Names& names)
{
    Names ways[3] = {names, names, names};    // if, all of elif, else
    for (size_t i = 0; i < s.branches.size(); i++) {
        const auto& [test, body] = s.branches[i];
        if (i == 0) {
            load(test.get(), names);
            for (Names& way : ways) way = names;
            visit(body, ways[0]);
            continue;
        }
        load(test.get(), ways[1]);
        Names inner = ways[1];
        visit(body, inner);
        for (const uint32_t name : inner.stored)
            if (!ways[1].stored.contains(name) && !names.stored.contains(name)) inner.own[name] = false;
        ways[1] = std::move(inner);
    }
    visit(s.other, ways[2]);
    std::map<uint32_t, int> times;
    for (const Names& way : ways)
        for (const uint32_t name : way.stored) times[name] += !names.stored.contains(name);
    for (const Names& way : ways) {
        for (const auto& [name, hidden] : way.own) names.own[name] = hidden;
        names.stored.insert(way.stored.begin(), way.stored.end());
    }
    for (const auto& [name, n] : times)
        if (n > 0 && n < 3) names.own[name] = false;
}

/// What a body itself does; bodies within it come later, when all of this is known.
void visit(const Body& body, Names& names)
{
    for (const auto& s : body) {
        switch (s->kind) {
        case Statement::Kind::condition: visit_condition(*s, names); break;
        case Statement::Kind::set:
            load(s->expr.get(), names);
            store(s->target, names, false);
            break;
        case Statement::Kind::set_block: store(s->target, names, false); break;
        case Statement::Kind::macro: names.store(s->target.name); break;
        case Statement::Kind::with:
            for (const auto& [_, value] : s->assignments) load(value.get(), names);
            break;
        default: load(s->expr.get(), names); break;
        }
    }
}

std::vector<uint32_t> within(const Body& body, Names names);

void macro_within(Macro& macro, const Names& around)
{
    Names names{.around = &around};
    for (const Macro::Parameter& p : macro.parameters) names.declare(p.name);
    for (const uint32_t special : {name_caller, name_varargs, name_kwargs}) names.declare(special);
    for (const Macro::Parameter& p : macro.parameters) load(p.otherwise.get(), names);
    macro.hidden = within(macro.body, std::move(names));
}

/// The bodies within a body.
void descend(const Body& body, const Names& names)
{
    for (const auto& s : body) {
        Names inner{.around = &names};
        switch (s->kind) {
        case Statement::Kind::condition:
            for (const auto& [_, branch] : s->branches) descend(branch, names);
            descend(s->other, names);
            break;
        case Statement::Kind::loop:
            s->hidden_other = within(s->other, inner);
            inner.declare(name_loop);
            store(s->target, inner, true);
            s->hidden = within(s->body, std::move(inner));
            break;
        case Statement::Kind::macro:
        case Statement::Kind::call: macro_within(*s->definition, names); break;
        case Statement::Kind::with:
            for (const auto& [target, _] : s->assignments) store(target, inner, true);
            s->hidden = within(s->body, std::move(inner));
            break;
        case Statement::Kind::set_block:
        case Statement::Kind::filter:
        case Statement::Kind::scope: s->hidden = within(s->body, std::move(inner)); break;
        default: break;
        }
    }
}

std::vector<uint32_t> within(const Body& body, Names names)
{
    visit(body, names);
    descend(body, names);
    return names.hidden();
}

}    // namespace

void find_hidden_names(Program& program) { program.hidden = within(program.body, {}); }

}    // namespace hearth::jinja
