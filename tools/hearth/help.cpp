#include "tools/hearth/help.h"

#include "tools/hearth/other_names.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>

namespace hearth::tools {

std::vector<Entry> entries(std::string_view names)
{
    std::vector<Entry> out;
    while (!names.empty()) {
        const size_t end = std::min(names.find(' '), names.size());
        std::string_view name = names.substr(0, end);
        names.remove_prefix(std::min(end + 1, names.size()));
        const Takes takes = name.ends_with('=') ? Takes::value : name.ends_with('?') ? Takes::maybe : Takes::nothing;
        if (takes != Takes::nothing) name.remove_suffix(1);
        if (!name.empty()) out.push_back({name, takes});
    }
    return out;
}

std::vector<const CLI::App*> subcommands_of(const CLI::App& app)
{
    return app.get_subcommands([](const CLI::App*) { return true; });
}

bool is_flag(const CLI::Option& option) { return option.get_items_expected_max() == 0; }

std::vector<std::string> names_of(const CLI::Option& option)
{
    std::vector<std::string> names;
    for (const std::string& s : option.get_snames()) names.push_back("-" + s);
    for (const std::string& l : option.get_lnames()) names.push_back("--" + l);
    return names;
}

// ---- options --------------------------------------------------------------------------------------------------------

namespace {

constexpr std::string_view groups[] = {"Model",       "Text",       "Measurement",       "Sampling",
                                       "Programs",    "Output",     "Device and memory", "Sparsity",
                                       "Diagnostics", "Experiments"};

/// "on|off" and "TYPE:{a,b}" as CLI11 has it; nothing for anything else.
std::vector<std::string> choices_of(const std::string& type)
{
    std::string list = type;
    char separator = '|';
    if (const size_t brace = type.find(":{"); brace != type.npos) {
        list = type.substr(brace + 2, type.rfind('}') - brace - 2);
        separator = ',';
    }
    std::vector<std::string> out;
    for (size_t begin = 0, end; begin <= list.size(); begin = end + 1) {
        end = std::min(list.find(separator, begin), list.size());
        out.push_back(list.substr(begin, end - begin));
    }
    return out.size() > 1 ? out : std::vector<std::string>();
}

OptionHelp help_of(const CLI::Option& option)
{
    OptionHelp help;
    const std::vector<std::string> names = names_of(option);
    for (const std::string& name : names)
        if (!name.starts_with("--")) help.names.push_back(name);
    for (const OtherName& other : other_names)
        if (!other.name.starts_with("--") && std::ranges::find(names, other.ours) != names.end())
            help.names.emplace_back(other.name);
    for (const std::string& name : names)
        if (name.starts_with("--")) help.names.push_back(name);
    help.text = option.get_description();
    if (names.empty()) help.names.push_back(option.get_name(true));
    else if (!is_flag(option)) {
        const std::string type =
            option.get_type_name();    // and what CLI11 says of its values: "N:INT in [0 - 5]", "TYPE:{a,b}"
        help.value = type.substr(0, std::min({type.find(":{"), type.find(":INT in"), type.find(":UINT in")}));
        help.choices = choices_of(type);
    }
    if (!option.get_default_str().empty() && !is_flag(option))
        help.text += fmt::format(" (default: {})", option.get_default_str());
    if (option.get_required()) help.text += " (needed)";
    return help;
}

}    // namespace

std::vector<OptionGroup> option_groups(const CLI::App& app)
{
    std::vector<OptionGroup> out;
    const auto add = [&](const std::string& group) {
        OptionGroup found = {group, {}};
        for (const CLI::Option* option : app.get_options())
            if (option->get_group() == group) found.options.push_back(help_of(*option));
        if (!found.options.empty()) out.push_back(std::move(found));
    };
    const std::set<std::string> known(std::begin(groups), std::end(groups));
    for (const std::string_view group : groups) add(std::string(group));
    for (const std::string& group : app.get_groups())
        if (!group.empty() && !known.contains(group)) add(group);
    return out;
}

std::string usage_line(const CLI::App& app)
{
    std::string out = "hearth " + app.get_name();
    for (const CLI::Option* option : app.get_options())
        if (option->get_positional())
            out += option->get_required() ? " " + option->get_name(true) : fmt::format(" [{}]", option->get_name(true));
    return out + " [options]";
}

std::vector<std::string> help_notes(const CLI::App& app)
{
    std::vector<std::string> out;
    if (!app.get_footer().empty()) out.push_back(app.get_footer());
    out.emplace_back("Every option can be set in the environment, too, as --ctx-size is by HEARTH_CTX_SIZE=2048; the "
                     "command line comes first.");
    if (!app.get_option_no_throw("--ctx-size")) return out;
    std::vector<std::string_view> names;
    for (const Decided& row : decided)
        for (const Entry& e : entries(row.names)) names.push_back(e.name);
    out.push_back(fmt::format("These options of llama.cpp are accepted and change nothing; a note says why: {}",
                              fmt::join(names, " ")));
    return out;
}

// ---- the help -------------------------------------------------------------------------------------------------------

namespace {

constexpr size_t most_columns = 100, text_column = 32;

/// Words in lines of at most most_columns; the first line begins at `column`, the others at `indent`.
std::string wrap(std::string_view text, size_t column, size_t indent)
{
    std::string out;
    bool first = true;
    while (!text.empty()) {
        const size_t end = std::min(text.find(' '), text.size());
        if (!first && column + 1 + end > most_columns) {
            out += "\n" + std::string(indent, ' ');
            column = indent;
        } else if (!first) {
            out += ' ';
            column += 1;
        }
        out += text.substr(0, end);
        column += end;
        first = false;
        text.remove_prefix(std::min(end + 1, text.size()));
    }
    return out + "\n";
}

std::string entry(const std::string& name, const std::string& text)
{
    if (name.size() + 2 > text_column)
        return name + "\n" + std::string(text_column, ' ') + wrap(text, text_column, text_column);
    return name + std::string(text_column - name.size(), ' ') + wrap(text, text_column, text_column);
}

}    // namespace

std::string help_text(const CLI::App& app)
{
    std::string out = app.get_description() + "\n";
    const std::vector<const CLI::App*> subcommands = subcommands_of(app);
    if (!subcommands.empty()) {
        out += "Usage: hearth COMMAND [options]\n       hearth -m MODEL.gguf -p \"Once upon a time\"\n\nCommands:\n";
        for (const CLI::App* sub : subcommands) out += entry("  " + sub->get_name(), sub->get_description());
        out += "\n" + wrap("`hearth COMMAND --help` has every option. Answers go to stdout, everything else to stderr; "
                           "the exit code is 0, 1 after an "
                           "error, 2 for a wrong command line.",
                           0, 0);
        return out;
    }
    out += fmt::format("Usage: {}\n", usage_line(app));
    for (const OptionGroup& group : option_groups(app)) {
        out += fmt::format("\n{}:\n", group.name);
        for (const OptionHelp& option : group.options) {
            const std::string names = fmt::format("{}", fmt::join(option.names, ", "));
            out += entry("  " + names + (option.value.empty() ? "" : " " + option.value), option.text);
        }
    }
    for (const std::string& note : help_notes(app)) out += "\n" + wrap(note, 0, 0);
    return out;
}

}    // namespace hearth::tools
