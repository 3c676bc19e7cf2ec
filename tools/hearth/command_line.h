// From what was typed, and from the environment, to what CLI11 reads.
#pragma once

#include <CLI/CLI.hpp>

#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace hearth::tools {

/// A wrong command line: one sentence, exit code 2.
struct WrongUse : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct CommandLine {
    std::vector<std::string> words;    // a subcommand, its options, and behind "--" the rest; or --help or --version
    std::vector<std::string> notes;    // what was accepted and changes nothing, and what the environment said
    std::vector<std::pair<std::string, std::string>> environment;    // HEARTH_ variable, and the option that it is
};

/// Every option of a subcommand can be given in the environment, too: --ctx-size as HEARTH_CTX_SIZE. The command line
/// comes first.
std::string environment_name(std::string_view option);

/// `typed` is without the program's name. Other programs' names of our options become ours, options whose meaning
/// Hearth decides itself become a note. Without a subcommand it is `run`; and `run` without a text, on a terminal, is
/// `chat`. Throws WrongUse.
CommandLine read_command_line(const std::vector<std::string>& typed, const CLI::App& app);

/// The same for the words of an option's value that is itself a command line, of `app`; the environment says nothing to
/// it. Throws WrongUse.
std::vector<std::string> read_words(const std::vector<std::string>& typed, const CLI::App& app);

/// A line cut into words as a shell does: by blanks, but for what stands in ' or " or behind a backslash. Throws
/// WrongUse.
std::vector<std::string> split_words(std::string_view line);

}    // namespace hearth::tools
