// A report as one HTML page that needs nothing else, and as Markdown beside its pictures. Every text may be a
// stranger's: it is made printable and escaped here, in one place for each form.
#include "tools/hearth/report.h"

#include <algorithm>

namespace hearth::tools {

namespace {

// ---- HTML -----------------------------------------------------------------------------------------------------------

std::string html(std::string_view text)
{
    std::string out;
    for (const char c : printable(text)) switch (c) {
        case '<': out += "&lt;"; break;
        case '>': out += "&gt;"; break;
        case '&': out += "&amp;"; break;
        case '"': out += "&quot;"; break;
        case '\'': out += "&#39;"; break;
        default: out += c;
        }
    return out;
}

constexpr const char* page_begin = R"(<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Hearth: benchmark</title>
<style>
:root { color-scheme: light dark; --ink: #1c1c1c; --page: #fff; --line: #ccc; --quiet: #666; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e6; --page: #161616; --line: #444; --quiet: #a0a0a0; } }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; font: 16px/1.5 sans-serif;
       color: var(--ink); background: var(--page); }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 2.5rem; }
p.quiet { color: var(--quiet); }
table { border-collapse: collapse; font-size: 0.85rem; display: block; overflow-x: auto; }
th, td { border-bottom: 1px solid var(--line); padding: 0.25rem 0.7rem; text-align: left; vertical-align: top; }
th.number, td.number { text-align: right; font-variant-numeric: tabular-nums; }
svg.plot { width: 100%; height: auto; color: var(--ink); } svg.plot .paper { fill: none; }
pre { overflow-x: auto; font-size: 0.85rem; border-left: 3px solid var(--line); padding-left: 1rem; }
details { margin: 0.5rem 0; } summary { cursor: pointer; }
</style>
</head>
<body>
)";

std::string html(const Table& table)
{
    std::string out = "<table>\n";
    const auto line = [&](const std::vector<std::string>& cells, const char* tag) {
        out += "<tr>";
        for (size_t i = 0; i < cells.size(); ++i)
            out += fmt::format("<{}{}>{}</{}>", tag, i < table.words ? "" : " class=\"number\"", html(cells[i]), tag);
        out += "</tr>\n";
    };
    line(table.head, "th");
    for (const auto& row : table.rows) line(row, "td");
    return out + "</table>\n";
}

std::string html(const Section& s)
{
    std::string out =
        fmt::format("<section id=\"{}\">\n<h2>{}</h2>\n<p>{}</p>\n", html(s.id), html(s.title), html(s.text));
    if (s.picture.empty()) return out + html(s.table) + "</section>\n";
    return out + fmt::format("{}<details><summary>the figures</summary>\n{}</details>\n</section>\n", s.picture,
                             html(s.table));
}

std::string html(const MachineResult& m)
{
    std::string out = fmt::format("<h2>{}</h2>\n<p class=\"quiet\">{}, Hearth {}, {} ({:.1f} MB)</p>\n", html(m.name),
                                  html(m.date), html(m.hearth), html(m.model), double(m.model_bytes) / 1e6);
    Table facts = {.head = {"what", "this machine"}, .words = 2, .rows = {}};
    for (const Fact& f : m.facts) facts.rows.push_back({f.name, f.value});
    out += html(facts);
    if (!m.findings.empty())
        out += "<p>What keeps it from running well, as <code>hearth doctor</code> says:</p>\n<ul>\n";
    for (const std::string& f : m.findings) out += fmt::format("<li>{}</li>\n", html(f));
    if (!m.findings.empty()) out += "</ul>\n";
    out += "<p>The commands, as a whole and part by part:</p>\n<pre>";
    for (const std::string& c : m.commands) out += html(c) + "\n";
    return out + "</pre>\n";
}

// ---- Markdown -------------------------------------------------------------------------------------------------------

std::string markdown(std::string_view text)
{
    constexpr std::string_view special = "\\`*_[]<>|&#~";
    std::string out;
    for (const char c : printable(text)) {
        if (special.find(c) != special.npos) out += '\\';
        out += c;
    }
    return out;
}

std::string markdown(const Table& table)
{
    std::string out = "|", below = "|";
    for (size_t i = 0; i < table.head.size(); ++i) {
        out += fmt::format(" {} |", markdown(table.head[i]));
        below += i < table.words ? "---|" : "---:|";
    }
    out += "\n" + below + "\n";
    for (const auto& row : table.rows) {
        out += "|";
        for (const std::string& cell : row) out += fmt::format(" {} |", markdown(cell));
        out += "\n";
    }
    return out;
}

std::string markdown(const MachineResult& m)
{
    std::string out = fmt::format("\n## {}\n\n{}, Hearth {}, {} ({:.1f} MB)\n\n", markdown(m.name), markdown(m.date),
                                  markdown(m.hearth), markdown(m.model), double(m.model_bytes) / 1e6);
    Table facts = {.head = {"what", "this machine"}, .words = 2, .rows = {}};
    for (const Fact& f : m.facts) facts.rows.push_back({f.name, f.value});
    out += markdown(facts);
    if (!m.findings.empty()) out += "\nWhat keeps it from running well, as `hearth doctor` says:\n\n";
    for (const std::string& f : m.findings) out += fmt::format("* {}\n", markdown(f));
    out += "\nThe commands, as a whole and part by part:\n\n";
    for (const std::string& c : m.commands) out += "    " + printable(c) + "\n";
    return out;
}

constexpr const char* about =
    "Made by hearth bench --report. The figures are in report.json; hearth bench --report FOLDER --merge FILE... puts "
    "several of these side by side.";

}    // namespace

std::string html_page(const BenchReport& report, const std::vector<Section>& sections)
{
    std::string out = page_begin;
    out += fmt::format("<h1>Hearth: benchmark</h1>\n<p class=\"quiet\">{}</p>\n", html(about));
    for (const Section& s : sections) out += html(s);
    for (const MachineResult& m : report.machines) out += html(m);
    return out + "</body>\n</html>\n";
}

std::string markdown_page(const BenchReport& report, const std::vector<Section>& sections)
{
    std::string out = fmt::format("# Hearth: benchmark\n\n{}\n", about);
    for (const Section& s : sections) {
        out += fmt::format("\n## {}\n\n{}\n\n", markdown(s.title), markdown(s.text));
        if (!s.picture.empty()) out += fmt::format("![{}](report-{}.svg)\n\n", markdown(s.title), s.id);
        out += markdown(s.table);
    }
    for (const MachineResult& m : report.machines) out += markdown(m);
    return out;
}

}    // namespace hearth::tools
