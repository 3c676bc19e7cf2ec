// Templates: where each part of a text comes from, what is refused, and limits. tests/template_test.py holds them to
// jinja2.
#include "engine/text/jinja.h"

#include <doctest/doctest.h>

#include <functional>

using namespace hearth;
using jinja::Data;

TEST_SUITE_BEGIN("model");

namespace {

/// The text with what was inserted in brackets.
std::string origins(std::string_view source, const std::string& x = "user", const jinja::Limits& limits = {})
{
    const Data::Dict variables = {{"x", Data::text(x)},
                                  {"own", Data::text("<s>", true)},
                                  {"list", Data(Data::List{Data::text("a"), Data::text("b")})},
                                  {"dict", Data(Data::Dict{{"k", Data::text("v")}})},
                                  {"n", Data(int64_t(7))}};
    std::string shown;
    for (const jinja::Piece& piece : jinja::Template(source).render(variables, limits))
        shown += piece.own ? piece.text : "[" + piece.text + "]";
    return shown;
}

std::string failure(const std::function<void()>& run)
{
    try {
        run();
    } catch (const jinja::TemplateError& error) {
        return error.what();
    }
    return "";
}

std::string failure(const std::string& source, const jinja::Limits& limits = {})
{
    return failure([&] { origins(source, "user", limits); });
}

std::string repeated(std::string_view part, int times)
{
    std::string all;
    for (int i = 0; i < times; i++) all += part;
    return all;
}

}    // namespace

TEST_CASE("a text knows what its template wrote and what was inserted, whatever is done with it")
{
    CHECK(origins("<|im|>{{ x }}<|end|>") == "<|im|>[user]<|end|>");
    CHECK(origins("{{ own + 'a' ~ x ~ 1 + 'b' }}") == "<s>a[user]1b");
    CHECK(origins("{{ '<' + x + '>' }}{{ '<|%s|>' % x }}{{ '<|{}|>'.format(x) }}{{ '<|%s|>' | format(x) }}") ==
          "<[user]><|[user]|><|[user]|><|[user]|>");
    CHECK(origins("{{ x[1:] }}{{ x[::-1] }}{{ x[0] }}{{ (x ~ 'abc')[2:6] }}") == "[serresuuer]ab");
    CHECK(origins("{{ x | upper }}{{ x.title() }}{{ x | capitalize }}{{ ('a' ~ x) | upper }}") ==
          "[USERUserUser]A[USER]");
    CHECK(origins("{{ (' ' ~ x ~ ' ') | trim }}{{ ('--' ~ x).strip('-') }}") == "[useruser]");
    CHECK(origins("{{ x | replace('s', 'S') }}{{ x.replace('use', own) }}") == "[u]S[er]<s>[r]");
    CHECK(origins("{{ ('a,' ~ x ~ ',b').split(',') | join('+') }}{{ list | join(', ') }}") == "a+[user]+b[a], [b]");
    CHECK(origins("{% for c in x %}{{ c }}.{% endfor %}") == "[u].[s].[e].[r].");
    CHECK(origins("{% set y %}({{ x }}){% endset %}{{ y }}{% filter upper %}i{{ x }}{% endfilter %}") ==
          "([user])I[USER]");
    CHECK(origins("{% macro m(a, b='d') %}<{{ a }}{{ b }}>{% endmacro %}{{ m(x) }}{{ m('y', x) }}") ==
          "<[user]d><y[user]>");
    CHECK(origins("{% macro m() %}<{{ caller() }}>{% endmacro %}{% call m() %}{{ x }}!{% endcall %}") == "<[user]!>");
    CHECK(
        origins(
            "{% set ns = namespace(t='') %}{% for i in list %}{% set ns.t = ns.t ~ '/' ~ i %}{% endfor %}{{ ns.t }}") ==
        "/[a]/[b]");
    CHECK(origins("{{ x | default('d') }}{{ y | default('d') }}{{ [x, 'l'] | last }}{{ {'a': x}['a'] }}{{ dict.k }}") ==
          "[user]dl[userv]");
    CHECK(origins("{{ x | indent }}{{ x.center(6, '*') }}{{ x | list | first }}{{ [x, 'z'] | sort | join }}{{ [x] | "
                  "map('upper') | join }}") == "[user]*[user]*[uuser]z[USER]");
    CHECK(origins("{{ n }}<|{{ n + 1 }}|>{{ true }}{{ none }}") == "7<|8|>TrueNone");
}

TEST_CASE("what is written around inserted things by JSON or Python is not the template's: no mark comes of the two")
{
    CHECK(origins("{{ list }}|{{ dict }}|{{ dict | tojson }}|{{ list | tojson(indent=1) }}") ==
          "[['a', 'b']]|[{'k': 'v'}]|[{\"k\": \"v\"}]|[[\n \"a\",\n \"b\"\n]]");
    CHECK(origins("{{ {'a': '<s>'} | tojson }}") == "[{\"]a[\": \"]<s>[\"}]");
    CHECK(origins("{% for k, v in dict.items() %}<{{ k }}={{ v }}>{% endfor %}") == "<[k]=[v]>");
}

TEST_CASE("a template cannot make marks of parts that it is given")
{
    CHECK(origins("{{ '<|' ~ x ~ '|>' }}", "im_end") == "<|[im_end]|>");
    CHECK(origins("{{ x | replace('X', '<|') }}", "Xim_end|>") == "<|[im_end|>]");
}

TEST_CASE("bytes that are not UTF-8 come out as they went in")
{
    CHECK(origins("{{ x }}{{ x | length }}", "a\xff\xc3z\xed\xa0\x80") == "[a\xff\xc3z\xed\xa0\x80]7");
}

TEST_CASE("an error names the line and what is not done")
{
    CHECK(failure("a\n{% include 'x' %}") == "line 2: the tag 'include' is not done here");
    CHECK(failure("a\n\n{{ x | nonsense }}") == "line 3: there is no filter 'nonsense' here");
    CHECK(failure("{{ x is nonsense }}") == "line 1: there is no test 'nonsense' here");
    CHECK(failure("{% if false %}{{ x | nonsense }}{% endif %}") == "");
    CHECK(failure("\n{{ x.encode() }}") == "line 2: the method 'encode' of str is not done here");
    CHECK(failure("{{ list.append(1) }}") == "line 1: 'append' may not be used by a template");
    CHECK(failure("{{ dict\n.update({}) }}").find("'update' may not be used by a template") != std::string::npos);
    CHECK(failure("{{ nothing.x }}") == "line 1: 'nothing' is undefined");
    CHECK(failure("{{ x.nothing.y }}") == "line 1: 'nothing' is undefined");
    CHECK(failure("{{ nothing() }}") == "line 1: 'nothing' is undefined");
    CHECK(failure("{{ 1 + 'a' }}") == "line 1: '+' is not between int and str");
    CHECK(failure("{{ 9223372036854775807 + 1 }}") == "line 1: a whole number has more than 64 bits");
    CHECK(failure("{{ 99999999999999999999 }}").find("too large") != std::string::npos);
    CHECK(failure("{{ raise_exception('No\nline') }}") == "line 1: No?line");
    CHECK(failure("{% if x %}") == "line 1: the template ends before 'endif'");
    CHECK(failure("{% endfor %}").find("there is no tag 'endfor'") != std::string::npos);
    CHECK(failure("{{ 'a }}").find("the string that begins here does not end") != std::string::npos);
    CHECK(failure("{% break %}").find("loop") != std::string::npos);
    CHECK_THROWS_AS(origins("{{ raise_exception('x') }}"), jinja::TemplateRefusal);
}

TEST_CASE("a template that takes too much is stopped: steps, memory, text, depth")
{
    const std::string greedy[] = {
        "{{ 'x' * 10**9 }}",
        "{{ 'x' * 10**18 }}",
        "{{ ([1] * 10**9) | length }}",
        "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
        "{% set ns = namespace(x='ab') %}{% for i in range(64) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(64) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{% set ns = namespace(x=[]) %}{% for i in range(100000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}",
        "{% set ns = namespace() %}{% set ns.self = ns %}{{ ns }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% macro m(n) %}{% for i in range(100) %}{{ m(n + 1) }}{% endfor %}{% endmacro %}{{ m(0) }}",
        "{% for i in range(100000) %}{{ 'x' * 100000 }}{% endfor %}",
        "{{ ('a' * 1000000 ~ 'b') in 'a' * 10000000 }}",
        "{{ ('a' * 4000000).split('a') | length }}",
        "{{ ('a' * 1000000).replace('', 'b' * 1000) | length }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '{:1000000000}'.format(1) }}",
        "{{ 'x'.center(10**12) }}",
        "{{ 'x' | indent(10**12) }}",
        "{{ range(10**9) | list | length }}",
        "{{ [1] | batch(10**12, 0) | list }}",
        "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
        "{% for i in range(90000) %}{% set y = {'a': {}, 'b': [1, 2, 3] * 3000} %}{% endfor %}",
        "{% for i in range(100000) %}{% for j in range(100) %}{{ ('a' * 10000) is string }}{% endfor %}{% endfor %}",
    };
    for (const std::string& source : greedy) {
        CAPTURE(source);
        CHECK(failure(source) != "");
    }
    CHECK(failure("{{ x }}{{ x }}", {.output = 6}).find("its text takes more than") != std::string::npos);
    CHECK(failure("{% for i in range(200) %}{% endfor %}", {.steps = 100}).find("more than 100 steps") !=
          std::string::npos);
}

TEST_CASE("brackets, tags and operators may nest, and deep ones are refused")
{
    CHECK(origins("{{ " + repeated("(", 20) + "x" + repeated(")", 20) + " }}") == "[user]");
    for (const int n : {1000, 100000}) {
        CHECK(failure("{{ " + repeated("(", n) + "x" + repeated(")", n) + " }}").find("nested too deeply") !=
              std::string::npos);
        CHECK(failure("{{ " + repeated("[", n) + " }}") != "");
        CHECK(failure("{{ " + repeated("not ", n) + "x }}") != "");
        CHECK(failure("{{ " + repeated("-", n) + "1 }}") != "");
        CHECK(failure("{{ x" + repeated(" + x", n) + " }}").find("too long or too deep") != std::string::npos);
        CHECK(failure("{{ x" + repeated(" if x else x", n) + " }}") != "");
        CHECK(failure("{{ x" + repeated(" | upper", n) + " }}") != "");
        CHECK(failure("{{ x" + repeated("[0]", n) + " }}") != "");
        CHECK(failure(repeated("{% if x %}", n) + repeated("{% endif %}", n)).find("nested too deeply") !=
              std::string::npos);
        CHECK(failure("{% for " + repeated("(", n) + "a" + repeated(")", n) + " in [] %}{% endfor %}") != "");
    }
    CHECK(failure("{{ x" + repeated(" ~ x", 1000) + " }}") == "");
    CHECK(failure("{% if false %}" + repeated("{% elif false %}", 1000) + "{% endif %}") == "");
}

TEST_CASE("any piece of a template is refused or rendered, never more")
{
    const std::string whole = "{%- set ns = namespace(a=1) -%}{% for m in list[::-1] if m is string %}{{ loop.index ~ "
                              "m|upper|tojson }}{% if not loop.last %},{% endif %}"
                              "{% else %}none{% endfor %}{# c #}{% raw %}{{ x }}{% endraw %}{% macro f(a, b=2, *c) "
                              "%}{% endmacro %}{{ {'a': [1, 2.5e3]}['a'][0] }}";
    for (size_t cut = 0; cut <= whole.size(); cut++) {
        for (size_t skipped : {size_t(1), size_t(3), whole.size()}) {
            const std::string source =
                whole.substr(0, cut) + (cut + skipped < whole.size() ? whole.substr(cut + skipped) : "");
            CAPTURE(source);
            failure(source);
        }
    }
}

TEST_CASE("the time of day can be set")
{
    const jinja::Limits noon = {.now = 1700000000};
    CHECK(origins("{{ strftime_now('%Y') }}", "", noon) == "2023");
}

TEST_SUITE_END();
