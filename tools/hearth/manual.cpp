// hearth manual: what --help says, as pages for man and as completions for shells.
//     man-pages(7), groff_man(7)
//     https://www.gnu.org/software/bash/manual/html_node/Programmable-Completion.html
//     https://zsh.sourceforge.io/Doc/Release/Completion-System.html
//     https://fishshell.com/docs/current/cmds/complete.html
//     https://learn.microsoft.com/powershell/module/microsoft.powershell.core/register-argumentcompleter
#include "tools/hearth/cli.h"
#include "tools/hearth/help.h"

namespace hearth::tools {

namespace {

std::string replaced(std::string text, std::string_view what, std::string_view with)
{
    for (size_t at = 0; (at = text.find(what, at)) != text.npos; at += with.size()) text.replace(at, what.size(), with);
    return text;
}

std::vector<OptionHelp> options_of(const CLI::App& app)
{
    std::vector<OptionHelp> all;
    for (const OptionGroup& group : option_groups(app))
        for (const OptionHelp& option : group.options)
            if (option.names[0].starts_with('-')) all.push_back(option);
    return all;
}

std::string all_names(const CLI::App& app)
{
    std::string out;
    for (const OptionHelp& option : options_of(app))
        for (const std::string& name : option.names) out += (out.empty() ? "" : " ") + name;
    return out;
}

std::string command_names(const CLI::App& top)
{
    std::string out;
    for (const CLI::App* sub : subcommands_of(top)) out += (out.empty() ? "" : " ") + sub->get_name();
    return out;
}

// ---- man ------------------------------------------------------------------------------------------------------------

/// Text for groff: a backslash is one, a minus is the one that is typed, and no line is a request.
std::string roff(std::string text)
{
    text = replaced(replaced(std::move(text), "\\", "\\e"), "-", "\\-");
    return text.starts_with('.') || text.starts_with('\'') ? "\\&" + text : text;
}

std::string page_head(const std::string& name, const std::string& text)
{
    return fmt::format(".TH {} 1 \"\" \"hearth " HEARTH_VERSION "\" \"User Commands\"\n.SH NAME\n{} \\- {}\n",
                       roff(name), roff(name), roff(text));
}

std::string main_page(const CLI::App& top)
{
    std::string out = page_head("hearth", "runs language models that are larger than the graphics card");
    out += ".SH SYNOPSIS\n.B hearth\n.I COMMAND\n[options]\n.SH COMMANDS\n";
    for (const CLI::App* sub : subcommands_of(top))
        out += fmt::format(".TP\n.BR hearth\\-{} (1)\n{}\n", sub->get_name(), roff(sub->get_description()));
    return out + ".SH EXIT STATUS\n0, 1 after an error, 2 for a wrong command line. Answers go to stdout, everything "
                 "else to stderr.\n";
}

std::string command_page(const CLI::App& app)
{
    std::string out = page_head("hearth-" + app.get_name(), app.get_description());
    out += fmt::format(".SH SYNOPSIS\n{}\n.SH OPTIONS\n", roff(usage_line(app)));
    for (const OptionGroup& group : option_groups(app)) {
        out += fmt::format(".SS {}\n", group.name);
        for (const OptionHelp& option : group.options) {
            std::string names;
            for (const std::string& name : option.names)
                names += fmt::format("{}\\fB{}\\fR", names.empty() ? "" : ", ", roff(name));
            if (!option.value.empty()) names += fmt::format(" \\fI{}\\fR", roff(option.value));
            out += fmt::format(".TP\n{}\n{}\n", names, roff(option.text));
        }
    }
    out += ".SH NOTES\n";
    for (const std::string& note : help_notes(app)) out += fmt::format("{}\n.PP\n", roff(note));
    return out + ".SH SEE ALSO\n.BR hearth (1)\n";
}

// ---- shells ---------------------------------------------------------------------------------------------------------

bool is_file(const OptionHelp& option)
{
    return option.value.starts_with("FILE") || option.value.starts_with("FOLDER");
}

std::string bash(const CLI::App& top)
{
    std::string options, values;
    for (const CLI::App* sub : subcommands_of(top)) {
        options += fmt::format("    {}) options='{}' ;;\n", sub->get_name(), all_names(*sub));
        for (const OptionHelp& option : options_of(*sub)) {
            if (option.choices.empty()) continue;
            std::string names;
            for (const std::string& name : option.names)
                names += fmt::format("{}{},{}", names.empty() ? "" : " | ", sub->get_name(), name);
            values += fmt::format("    {}) values='{}' ;;\n", names, fmt::join(option.choices, " "));
        }
    }
    return fmt::format(R"(# bash completion for hearth, made by `hearth manual bash`
_hearth()
{{
    local current=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD - 1]}}
    local commands='{0}' command='' options='' values='' word
    COMPREPLY=()
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        if [[ " $commands " == *" $word "* ]]; then
            command=$word
            break
        fi
    done
    case $command,$before in
{2}    esac
    case $command in
{1}    *) options='--help --version' ;;
    esac
    if [[ $values ]]; then
        COMPREPLY=($(compgen -W "$values" -- "$current"))
    elif [[ $current == -* ]]; then
        COMPREPLY=($(compgen -W "$options" -- "$current"))
    elif [[ ! $command && $COMP_CWORD == 1 ]]; then
        COMPREPLY=($(compgen -W "$commands" -- "$current"))
    fi
}}
complete -o bashdefault -o default -F _hearth hearth
)",
                       command_names(top), options, values);
}

/// Within '...' of zsh.
std::string single_quoted(const std::string& text) { return replaced(text, "'", "'\\''"); }

std::string zsh(const CLI::App& top)
{
    std::string commands, cases;
    for (const CLI::App* sub : subcommands_of(top)) {
        commands += fmt::format("        '{}:{}'\n", sub->get_name(), single_quoted(sub->get_description()));
        cases += fmt::format("    {})\n        options=(\n", sub->get_name());
        for (const OptionHelp& option : options_of(*sub)) {
            // [text] ends at a bracket, and :message:action at a colon.
            std::string text = option.text;
            for (const char* mark : {"\\", "[", "]", ":"}) text = replaced(text, mark, std::string("\\") + mark);
            std::string value;
            if (!option.choices.empty())
                value = fmt::format(":{}:({})", replaced(option.value, ":", "\\:"), fmt::join(option.choices, " "));
            else if (!option.value.empty())
                value = fmt::format(":{}:{}", replaced(option.value, ":", "\\:"), is_file(option) ? "_files" : "");
            for (const std::string& name : option.names)
                cases += fmt::format("            '*{}[{}]{}'\n", name, single_quoted(text), single_quoted(value));
        }
        cases += "        ) ;;\n";
    }
    return fmt::format(R"(#compdef hearth
# zsh completion for hearth, made by `hearth manual zsh`
local -a commands options
local command=''
commands=(
{})
for word in ${{words[2,CURRENT-1]}}; do
    if [[ -n ${{commands[(r)$word:*]}} ]]; then
        command=$word
        break
    fi
done
case $command in
{}    *) options=('--help[the commands]' '--version[the version]') ;;
esac
if [[ -z $command && $CURRENT == 2 && ${{words[CURRENT]}} != -* ]]; then
    _describe command commands
    _files
else
    _arguments $options '*:file:_files'
fi
)",
                       replaced(commands, "        '", "    '"), cases);
}

std::string fish(const CLI::App& top)
{
    const auto escaped = [](const std::string& text) { return replaced(replaced(text, "\\", "\\\\"), "'", "\\'"); };
    std::string out = "# fish completion for hearth, made by `hearth manual fish`\n";
    for (const CLI::App* sub : subcommands_of(top))
        out += fmt::format("complete -c hearth -n __fish_use_subcommand -a {} -d '{}'\n", sub->get_name(),
                           escaped(sub->get_description()));
    for (const CLI::App* sub : subcommands_of(top))
        for (const OptionHelp& option : options_of(*sub)) {
            std::string names, value;
            for (const std::string& name : option.names)    // --name, -n, or -name
                names += name.starts_with("--") ? " -l " + name.substr(2)
                         : name.size() == 2     ? " -s " + name.substr(1)
                                                : " -o " + name.substr(1);
            if (!option.choices.empty()) value = fmt::format(" -x -a '{}'", fmt::join(option.choices, " "));
            else if (!option.value.empty()) value = is_file(option) ? " -r -F" : " -x";
            out += fmt::format("complete -c hearth -n '__fish_seen_subcommand_from {}'{}{} -d '{}'\n", sub->get_name(),
                               names, value, escaped(option.text));
        }
    return out;
}

std::string powershell(const CLI::App& top)
{
    const auto escaped = [](const std::string& text) { return replaced(text, "'", "''"); };
    std::string commands, options, values;
    for (const CLI::App* sub : subcommands_of(top)) {
        commands += fmt::format("    '{}' = '{}'\n", sub->get_name(), escaped(sub->get_description()));
        options += fmt::format("    '{}' = [ordered]@{{\n", sub->get_name());
        for (const OptionHelp& option : options_of(*sub))
            for (const std::string& name : option.names) {
                options += fmt::format("        '{}' = '{}'\n", name, escaped(option.text));
                if (!option.choices.empty())
                    values +=
                        fmt::format("    '{} {}' = '{}'\n", sub->get_name(), name, fmt::join(option.choices, " "));
            }
        options += "    }\n";
    }
    return fmt::format(R"PS(# PowerShell completion for hearth, made by `hearth manual powershell`: add it to $PROFILE
$hearthCommands = [ordered]@{{
{}}}
$hearthOptions = @{{
{}}}
$hearthValues = @{{
{}}}
Register-ArgumentCompleter -Native -CommandName hearth, hearth.exe -ScriptBlock {{
    param($current, $line, $position)
    $words = @($line.CommandElements | Select-Object -Skip 1 | Where-Object {{ $_.Extent.EndOffset -lt $position }} |
        ForEach-Object {{ $_.ToString() }})
    $command = $words | Where-Object {{ $hearthCommands.Contains($_) }} | Select-Object -First 1
    $found = [ordered]@{{}}
    if (-not $command) {{
        $found = $hearthCommands
    }} elseif ($words.Count -and $hearthValues.ContainsKey("$command $($words[-1])")) {{
        $hearthValues["$command $($words[-1])"].Split(' ') | ForEach-Object {{ $found[$_] = $_ }}
    }} elseif ($current.StartsWith('-')) {{
        $found = $hearthOptions[$command]
    }}
    $found.GetEnumerator() | Where-Object {{ $_.Key.StartsWith($current) }} | ForEach-Object {{
        [System.Management.Automation.CompletionResult]::new($_.Key, $_.Key, 'ParameterName', $_.Value)
    }}
}}
)PS",
                       commands, options, values);
}

// ---- the command ----------------------------------------------------------------------------------------------------

constexpr struct {
    const char *shell, *path;    // where it is looked for, below a prefix
    std::string (*text)(const CLI::App& top);
} shells[] = {{"bash", "share/bash-completion/completions/hearth", bash},
              {"zsh", "share/zsh/site-functions/_hearth", zsh},
              {"fish", "share/fish/vendor_completions.d/hearth.fish", fish},
              {"powershell", "share/powershell/hearth.ps1", powershell}};

void write_text(const std::filesystem::path& path, const std::string& text)
{
    std::filesystem::create_directories(path.parent_path());
    const std::string_view parts[] = {text};
    write_whole(path, parts);
}

void write_all(const CLI::App& top, const std::filesystem::path& prefix)
{
    for (const auto& s : shells) write_text(prefix / s.path, s.text(top));
    write_text(prefix / "share/man/man1/hearth.1", main_page(top));
    for (const CLI::App* sub : subcommands_of(top))
        write_text(prefix / fmt::format("share/man/man1/hearth-{}.1", sub->get_name()), command_page(*sub));
}

}    // namespace

Command add_manual(CLI::App& app)
{
    struct Options {
        std::string kind = "man", command;
        std::filesystem::path prefix;
    };
    auto o = std::make_shared<Options>();
    app.add_option("KIND", o->kind, "man, bash, zsh, fish or powershell")
        ->check(CLI::IsMember({"man", "bash", "zsh", "fish", "powershell"}));
    app.add_option("COMMAND", o->command, "for man: the command that the page is of, by default hearth itself");
    group(app, "Output");
    app.add_option("--prefix", o->prefix, "all of them are written to where they are looked for below this folder")
        ->check(not_empty())
        ->type_name("FOLDER");
    return [o, &top = *app.get_parent()] {
        if (!o->prefix.empty()) return write_all(top, o->prefix);
        for (const auto& s : shells)
            if (o->kind == s.shell) return print_text(s.text(top));
        if (o->command.empty()) return print_text(main_page(top));
        for (const CLI::App* sub : subcommands_of(top))
            if (sub->get_name() == o->command) return print_text(command_page(*sub));
        throw Error("there is no subcommand {}: `hearth --help` lists them", o->command);
    };
}

}    // namespace hearth::tools
