// What the options of a subcommand are, for people and for shells: from the one table that CLI11 has of them.
#pragma once

#include <CLI/CLI.hpp>

#include <string>
#include <string_view>
#include <vector>

namespace hearth::tools {

enum class Takes { nothing, value, maybe };

/// A name of a table with its = or ?.
struct Entry {
    std::string_view name;
    Takes takes;
};

std::vector<Entry> entries(std::string_view names);

std::vector<const CLI::App*> subcommands_of(const CLI::App& app);
bool is_flag(const CLI::Option& option);
std::vector<std::string> names_of(const CLI::Option& option);

/// An option as the help has it.
struct OptionHelp {
    std::vector<std::string> names;      // "-ngl", "--gpu-layers"; of what has no name, MODEL
    std::string value;                   // "N"; empty for a flag
    std::vector<std::string> choices;    // of values, where there are few
    std::string text;                    // with its default
};
struct OptionGroup {
    std::string name;
    std::vector<OptionHelp> options;
};

/// Everyday groups first.
std::vector<OptionGroup> option_groups(const CLI::App& app);

/// "hearth run MODEL [options]"
std::string usage_line(const CLI::App& app);

/// What is said behind the options, one paragraph each.
std::vector<std::string> help_notes(const CLI::App& app);

/// The help of the program or of a subcommand, in lines of at most 100 columns.
std::string help_text(const CLI::App& app);

}    // namespace hearth::tools
