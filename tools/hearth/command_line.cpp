#include "tools/hearth/command_line.h"

#include "engine/error.h"
#include "engine/system/program.h"
#include "tools/hearth/help.h"
#include "tools/hearth/other_names.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <span>

namespace hearth::tools {

namespace {

// ---- names ----------------------------------------------------------------------------------------------------------

template <class Row>
std::pair<const Row*, Takes> find_row(std::span<const Row> rows, std::string_view name)
{
    for (const Row& row : rows)
        for (const Entry& e : entries(row.names))
            if (e.name == name) return {&row, e.takes};
    return {nullptr, Takes::nothing};
}

bool contains(std::span<const std::string_view> names, std::string_view name)
{
    return std::ranges::find(names, name) != names.end();
}

/// The name that our option has, whatever it was called.
std::string our_name(std::string_view name)
{
    for (const OtherName& other : other_names)
        if (other.name == name) return std::string(other.ours);
    return std::string(name);
}

const CLI::App* find_subcommand(const CLI::App& app, std::string_view name)
{
    for (const CLI::App* sub : subcommands_of(app))
        if (sub->get_name() == name) return sub;
    return nullptr;
}

// ---- near names -----------------------------------------------------------------------------------------------------

/// Letters to change, put in, leave out, or exchange with a neighbour: the restricted Damerau-Levenshtein distance.
size_t distance(std::string_view a, std::string_view b)
{
    std::vector<std::vector<size_t>> d(a.size() + 1, std::vector<size_t>(b.size() + 1));
    for (size_t i = 0; i <= a.size(); ++i) d[i][0] = i;
    for (size_t j = 0; j <= b.size(); ++j) d[0][j] = j;
    for (size_t i = 1; i <= a.size(); ++i)
        for (size_t j = 1; j <= b.size(); ++j) {
            d[i][j] = std::min({d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + (a[i - 1] != b[j - 1])});
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
        }
    return d[a.size()][b.size()];
}

std::string letters(std::string_view name)
{
    std::string out;
    for (const char c : name.substr(std::min(name.find_first_not_of('-'), name.size())))
        out += c == '_' ? '-' : char(std::tolower(uint8_t(c)));
    return out;
}

/// The nearest of the names, if one is near: a third of its letters may differ, or it goes on where `name` ends.
std::string nearest(std::string_view name, const std::vector<std::string>& names)
{
    const std::string wanted = letters(name);
    std::string best;
    size_t least = wanted.size() < 3 ? 0 : std::max<size_t>(1, wanted.size() / 3);
    for (const std::string& candidate : names) {
        const std::string have = letters(candidate);
        const size_t d = wanted.size() > 2 && have.starts_with(wanted) ? 1 : distance(wanted, have);
        if (d < least || (d == least && best.empty())) best = candidate, least = d;
    }
    return best;
}

std::vector<std::string> option_names(const CLI::App& sub)
{
    std::vector<std::string> names;
    for (const CLI::Option* option : sub.get_options())
        for (const std::string& name : names_of(*option)) names.push_back(name);
    for (const OtherName& other : other_names)
        if (sub.get_option_no_throw(std::string(other.ours))) names.emplace_back(other.name);
    for (const Decided& row : decided)
        for (const Entry& e : entries(row.names)) names.emplace_back(e.name);
    for (const Missing& row : missing)
        for (const Entry& e : entries(row.names)) names.emplace_back(e.name);
    return names;
}

// ---- the environment ------------------------------------------------------------------------------------------------

std::map<std::string, std::string> our_environment()
{
    std::map<std::string, std::string> out;
    for (const auto& [name, value] : environment_variables())
        if (name.starts_with("HEARTH_")) out.emplace(name, value);
    return out;
}

/// What a flag's variable says; nothing where it is neither yes nor no.
std::optional<bool> yes_or_no(const std::string& text)
{
    for (const std::string_view yes : {"1", "true", "yes", "on"})
        if (text == yes) return true;
    for (const std::string_view no : {"", "0", "false", "no", "off"})
        if (text == no) return false;
    return {};
}

// ---- words ----------------------------------------------------------------------------------------------------------

bool is_number(std::string_view text)
{
    double x;
    const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), x);
    return ec == std::errc() && end == text.data() + text.size();
}

bool is_switch(std::string_view text)
{
    return text == "on" || text == "off" || text == "auto" || text == "0" || text == "1";
}

/// A word that is an option, not a text or a lone "-".
bool looks_like_option(std::string_view word) { return word.size() > 1 && word[0] == '-'; }

/// "--name=value", or "-n5"; `value` is empty where none is attached.
struct Word {
    std::string name;
    std::optional<std::string> value;
};

Word split(const std::string& word)
{
    const size_t equals = word.starts_with("--") ? word.find('=') : word.npos;
    if (equals == word.npos) return {word, {}};
    return {word.substr(0, equals), word.substr(equals + 1)};
}

/// Goes through the words as the subcommand's.
class Walk {
  public:
    Walk(const CLI::App& app, const CLI::App& sub) : app_(app), sub_(sub) {}

    void go(const std::vector<std::string>& typed)
    {
        for (size_t i = 0; i < typed.size(); ++i) {
            if (typed[i] == "--") {
                positionals.insert(positionals.end(), typed.begin() + ptrdiff_t(i) + 1, typed.end());
                break;
            }
            if (!looks_like_option(typed[i])) {
                positionals.push_back(typed[i]);
                continue;
            }
            i += option(split(typed[i]), std::span(typed).subspan(i + 1));
        }
    }

    std::vector<std::string> options, positionals;
    std::set<const CLI::Option*> given;
    bool continues = false;                                     // -no-cnv
    std::vector<std::pair<std::string, std::string>> asides;    // names that change nothing, and why

    /// How many of the next words it takes.
    size_t option(Word word, std::span<const std::string> next)
    {
        if (contains(conversation_options, word.name)) {
            if (sub_.get_name() != "chat") asides.emplace_back(word.name, "`hearth chat` is the conversation");
            return 0;
        }
        continues |= word.name == "-no-cnv" || word.name == "--no-conversation";
        if (const CLI::Option* ours = sub_.get_option_no_throw(our_name(word.name)))
            return own(*ours, std::move(word), next);
        if (const auto [row, takes] = find_row(std::span<const Decided>(decided), word.name); row) {
            asides.emplace_back(word.name, row->why);
            return value_of(word, takes, next).second;
        }
        if (const auto [row, takes] = find_row(std::span<const Missing>(missing), word.name); row) {
            const auto [value, taken] = value_of(word, takes, next);
            if (!value || row->neutral.find(" " + *value + " ") == row->neutral.npos)
                throw WrongUse(fmt::format("{} is not there: {}", word.name, row->why));
            asides.emplace_back(word.name, row->why);
            return taken;
        }
        // -n5, as getopt takes it.
        if (!word.name.starts_with("--") && word.name.size() > 2) {
            const std::string rest = word.name.substr(2);
            const CLI::Option* const letter = sub_.get_option_no_throw(word.name.substr(0, 2));
            if (letter && !is_flag(*letter) && is_number(rest))
                return own(*letter, {word.name.substr(0, 2), rest}, next);
        }
        unknown(word.name);
    }

  private:
    size_t own(const CLI::Option& option, Word word, std::span<const std::string> next)
    {
        given.insert(&option);
        const std::vector<std::string> names = names_of(option);
        const std::string& name = names.back();    // the long one
        if (is_flag(option)) {
            options.push_back(word.value ? name + "=" + *word.value : name);
            return 0;
        }
        const bool may_lack_value = option.get_items_expected_min() == 0;
        if (may_lack_value && !word.value) {
            const bool takes = !next.empty() && is_switch(next[0]);
            options.push_back(name + "=" + (takes ? next[0] : "on"));
            return takes;
        }
        size_t taken = 0;
        if (!word.value && !next.empty()) word.value = next[0], taken = 1;
        options.push_back(name);
        if (word.value) options.push_back(*word.value);
        if (option.get_items_expected_max() > 1 && option.get_allow_extra_args())    // several: up to the next option
            for (; taken > 0 && taken < next.size() && !looks_like_option(next[taken]); ++taken)
                options.push_back(next[taken]);
        return taken;
    }

    static std::pair<std::optional<std::string>, size_t> value_of(const Word& word, Takes takes,
                                                                  std::span<const std::string> next)
    {
        if (word.value || takes == Takes::nothing || next.empty()) return {word.value, 0};
        if (takes == Takes::maybe && !is_switch(next[0])) return {{}, 0};
        return {next[0], 1};
    }

    [[noreturn]] void unknown(const std::string& name) const
    {
        const std::string shown = printable(name), ours = our_name(name);
        std::vector<std::string> elsewhere;
        for (const CLI::App* other : subcommands_of(app_))
            if (other->get_option_no_throw(ours)) elsewhere.push_back("`hearth " + other->get_name() + "`");
        const std::string help = fmt::format("`hearth {} --help` lists them", sub_.get_name());
        if (!elsewhere.empty())
            throw WrongUse(fmt::format("{} is no option of `hearth {}`, but of {}; {}", shown, sub_.get_name(),
                                       fmt::join(elsewhere, ", "), help));
        const std::string near = nearest(name, option_names(sub_));
        throw WrongUse(fmt::format("there is no option {}{} {}", shown,
                                   near.empty() ? ":" : fmt::format(": did you mean {}?", near), help));
    }

    const CLI::App &app_, &sub_;
};

bool gives_text(const CLI::App& sub, const Walk& walk, const std::map<std::string, std::string>& environment)
{
    for (const char* name : {"--prompt", "--file"})
        if (walk.given.contains(sub.get_option_no_throw(name)) || environment.contains(environment_name(name)))
            return true;
    return false;
}

/// One note for all options that change nothing.
std::string aside_note(const std::vector<std::pair<std::string, std::string>>& asides)
{
    std::vector<std::pair<std::string, std::string>> by_reason;    // why, names
    for (const auto& [name, why] : asides) {
        const auto same = std::ranges::find(by_reason, why, [](const auto& r) { return r.first; });
        if (same == by_reason.end()) by_reason.emplace_back(why, name);
        else if ((", " + same->second + ",").find(", " + name + ",") == std::string::npos) same->second += ", " + name;
    }
    std::string out;
    for (const auto& [why, names] : by_reason) out += fmt::format("{}{} ({})", out.empty() ? "" : "; ", names, why);
    return out;
}

}    // namespace

std::string environment_name(std::string_view option)
{
    std::string name = "HEARTH_";
    for (const char c : option.substr(option.find_first_not_of('-')))
        name += c == '-' ? '_' : char(std::toupper(uint8_t(c)));
    return name;
}

namespace {

/// What the environment says of the subcommand's options, into the words.
void add_environment(CommandLine& line, Walk& walk, const CLI::App& sub,
                     const std::map<std::string, std::string>& environment)
{
    std::vector<std::string> taken;
    for (const CLI::Option* option : sub.get_options()) {
        if (walk.given.contains(option) || option->get_lnames().empty() || option == sub.get_help_ptr()) continue;
        if (option->get_positional() && !walk.positionals.empty()) continue;
        if (std::ranges::any_of(option->get_excludes(),
                                [&](const CLI::Option* other) { return walk.given.contains(other); }))
            continue;
        for (const std::string& long_name : option->get_lnames()) {
            const auto found = environment.find(environment_name(long_name));
            if (found == environment.end()) continue;
            const auto& [variable, value] = *found;
            const std::string name = "--" + long_name;
            if (is_flag(*option)) {
                const std::optional<bool> yes = yes_or_no(value);
                if (!yes)
                    throw WrongUse(fmt::format("{} is '{}', and {} is a flag: set it to 1 or 0", variable,
                                               printable(value), name));
                if (*yes) walk.options.push_back(name);
            } else walk.options.insert(walk.options.end(), {name, value});
            walk.given.insert(option);
            line.environment.emplace_back(variable, name);
            taken.push_back(
                fmt::format("{}={}", variable, printable(value.size() > 60 ? value.substr(0, 60) + "..." : value)));
            break;
        }
    }
    for (const auto& [variable, value] : environment)
        for (const Decided& row : decided)
            for (const Entry& e : entries(row.names))
                if (e.name.starts_with("--") && environment_name(e.name) == variable && yes_or_no(value) != false)
                    walk.asides.emplace_back(variable, row.why);
    if (!taken.empty()) line.notes.push_back(fmt::format("from the environment: {}", fmt::join(taken, ", ")));
}

/// A variable that is no option's, but nearly one's, is a mistake that nobody would notice.
void check_variables(CommandLine& line, const CLI::App& app, const std::map<std::string, std::string>& environment)
{
    std::vector<std::string> known;
    for (const CLI::App* sub : subcommands_of(app))
        for (const std::string& name : option_names(*sub))
            if (name.starts_with("--")) known.push_back(environment_name(name));
    for (const auto& [variable, value] : environment) {
        if (std::ranges::find(known, variable) != known.end()) continue;
        const std::string near = nearest(variable.substr(7), [&] {
            std::vector<std::string> ends;
            ends.reserve(known.size());
            for (const std::string& name : known) ends.push_back(name.substr(7));
            return ends;
        }());
        if (!near.empty())
            line.notes.push_back(fmt::format("{} is no option's variable, and is not used; did you mean HEARTH_{}?",
                                             printable(variable), near));
    }
}

/// Which subcommand it is; its name is taken out of the words.
const CLI::App& take_subcommand(std::vector<std::string>& typed, const CLI::App& app)
{
    const CLI::App& run = *find_subcommand(app, "run");
    const std::string& first = typed.at(0);
    if (const CLI::App* sub = find_subcommand(app, first)) {
        typed.erase(typed.begin());
        return *sub;
    }
    if (first == "--list-devices") {
        typed.erase(typed.begin());
        return *find_subcommand(app, "devices");
    }
    std::error_code ec;
    if (!looks_like_option(first) && !first.ends_with(".gguf") && !std::filesystem::exists(first, ec)) {
        std::vector<std::string> names;
        for (const CLI::App* sub : subcommands_of(app)) names.push_back(sub->get_name());
        const std::string near = nearest(first, names);
        for (const OtherCommand& other : other_commands)
            if (other.name == first)
                throw WrongUse(fmt::format("there is no subcommand '{}': {}", first, other.instead));
        throw WrongUse(fmt::format("there is no subcommand '{}'{} `hearth --help` lists them", printable(first),
                                   near.empty() ? ":" : fmt::format(": did you mean {}?", near)));
    }
    // Options first: the subcommand may come behind them.
    for (size_t i = 0; i < typed.size(); ++i)
        if (const CLI::App* sub = looks_like_option(typed[i]) ? nullptr : find_subcommand(app, typed[i]);
            sub && looks_like_option(first)) {
            Walk before(app, *sub);
            try {
                before.go({typed.begin(), typed.begin() + ptrdiff_t(i) + 1});
            } catch (const WrongUse&) {
                continue;
            }
            if (before.positionals.empty() || before.positionals.back() != typed[i])
                continue;    // it was an option's value
            typed.erase(typed.begin() + ptrdiff_t(i));
            return *sub;
        }
    return run;
}

}    // namespace

CommandLine read_command_line(const std::vector<std::string>& all, const CLI::App& app)
{
    CommandLine line;
    std::vector<std::string> typed = all;
    if (typed.empty() || typed[0] == "--help" || typed[0] == "-h" || typed[0] == "--version") {
        line.words = typed;
        return line;
    }
    const std::map<std::string, std::string> environment = our_environment();
    const CLI::App* sub = &take_subcommand(typed, app);
    for (const std::string& word : typed)    // before anything that might be wrong with the rest
        if (word == "--list-devices") return {.words = {"devices"}, .notes = {}, .environment = {}};
        else if (looks_like_option(word) && word == "--version")
            return {.words = {"--version"}, .notes = {}, .environment = {}};

    const bool terminal = on_terminal(stdin);
    std::optional<Walk> walk;
    if (sub->get_name() == "run") {
        // A first look: does anything say that it is a conversation?
        const CLI::App& chat = *find_subcommand(app, "chat");
        bool converses = false, helps = false;
        for (const std::string& word : typed) {
            const Word w = split(word);
            converses |= contains(conversation_options, w.name) ||
                         (contains(of_conversations, our_name(w.name)) && chat.get_option_no_throw(our_name(w.name)));
            helps |= word == "--help" || word == "-h";
        }
        if (converses && !helps) sub = &chat;
        else {
            walk.emplace(app, *sub);
            walk->go(typed);
            if (terminal && !helps && !walk->continues && !gives_text(*sub, *walk, environment)) {
                for (const CLI::Option* option : walk->given)
                    if (!chat.get_option_no_throw(names_of(*option).back()))
                        throw WrongUse(fmt::format("{} is for texts: give one with -p TEXT or -f FILE; without one "
                                                   "`hearth run` is a conversation, as "
                                                   "`hearth chat` is",
                                                   names_of(*option).back()));
                sub = &chat;
                walk.reset();
            }
        }
    }
    if (!walk) {
        walk.emplace(app, *sub);
        walk->go(typed);
    }
    add_environment(line, *walk, *sub, environment);
    check_variables(line, app, environment);
    if (!walk->asides.empty())
        line.notes.push_back(fmt::format("accepted, and changes nothing: {}", aside_note(walk->asides)));
    line.words = {sub->get_name()};
    line.words.insert(line.words.end(), walk->options.begin(), walk->options.end());
    if (!walk->positionals.empty()) line.words.emplace_back("--");
    line.words.insert(line.words.end(), walk->positionals.begin(), walk->positionals.end());
    return line;
}

std::vector<std::string> read_words(const std::vector<std::string>& typed, const CLI::App& app)
{
    Walk walk(app, app);
    walk.go(typed);
    std::vector<std::string> words = walk.options;
    if (!walk.positionals.empty()) words.emplace_back("--");
    words.insert(words.end(), walk.positionals.begin(), walk.positionals.end());
    return words;
}

std::vector<std::string> split_words(std::string_view line)
{
    std::vector<std::string> words;
    bool in_word = false;
    char quote = 0;
    for (size_t i = 0; i < line.size(); ++i) {
        const char c = line[i];
        if (!quote && (c == ' ' || c == '\t' || c == '\n')) {
            in_word = false;
            continue;
        }
        if (!in_word) words.emplace_back();
        in_word = true;
        if (quote && c == quote) quote = 0;
        else if (!quote && (c == '\'' || c == '"')) quote = c;
        else if (quote != '\'' && c == '\\' && i + 1 < line.size()) words.back() += line[++i];
        else words.back() += c;
    }
    if (quote) throw WrongUse(fmt::format("{} is not closed in: {}", quote, printable(line)));
    return words;
}

}    // namespace hearth::tools
