// hearth: the table of subcommands, and the one catch.
#include "tools/cli.h"

#include <algorithm>
#include <sstream>

using namespace hearth;

namespace {

constexpr tools::Subcommand subcommands[] = {
    {"run", "continue a text", tools::add_run},
    {"chat", "a conversation in the frame that the model was trained for", tools::add_chat},
    {"perplexity", "how well a model predicts a text", tools::add_perplexity},
    {"bench", "speed of prefill and decode, and of every stage", tools::add_bench},
    {"profile", "measure on a text which neurons fire, for better plans and predictors", tools::add_profile},
    {"plan", "who would get what, for one memory budget or several, and the speed to expect", tools::add_plan},
    {"tune", "measure this machine once, so that plans fit it", tools::add_tune},
    {"quantize", "a copy of a model in another weight format", tools::add_quantize},
    {"tokenize", "the tokens of a text", tools::add_tokenize},
    {"template", "the chat template of a model, or what it makes of a conversation", tools::add_template},
    {"devices", "the GPUs that can be used", tools::add_devices},
    {"inspect", "what is in a model file", tools::add_inspect},
};

/// Short names of several letters, which other programs have too: CLI11 would take "-ctk" for "-c tk".
constexpr std::pair<std::string_view, std::string_view> short_names[] = {{"-ctk", "--cache-type-k"}, {"-ctv", "--cache-type-v"}};

/// What was typed, the last word first, as CLI11 wants it.
std::vector<std::string> words(int argc, char** argv)
{
    std::vector<std::string> words(std::reverse_iterator(argv + argc), std::reverse_iterator(argv + std::min(argc, 1)));
    for (std::string& word : words)
        for (const auto& [name, long_name] : short_names)
            if (word == name) word = long_name;
    return words;
}

/// Before the static objects of the libraries, which allocate, too.
[[gnu::constructor(101)]] void be_clear_from_the_start() { end_clearly_on_terminate(); }

int run(int argc, char** argv)
{
    CLI::App app("Hearth runs language models that are larger than the graphics card.", "hearth");
    app.set_version_flag("--version", "hearth " HEARTH_VERSION);
    app.require_subcommand(1);
    tools::Command chosen;
    for (const tools::Subcommand& s : subcommands) {
        CLI::App* sub = app.add_subcommand(s.name, s.help);
        sub->final_callback([&chosen, command = s.add(*sub)] { chosen = command; });
    }
    try {
        app.parse(words(argc, argv));
    } catch (const CLI::ParseError& e) {
        if (argc > 1 && argv[1][0] != '-' && app.get_subcommands([&](CLI::App* sub) { return sub->get_name() == argv[1]; }).empty()) {
            tools::say("hearth: there is no subcommand '{}': `hearth --help` lists them", argv[1]);
            return 2;
        }
        std::ostringstream help;
        std::ostringstream wrong;
        if (app.exit(e, help, wrong) != 0) {
            tools::say("{}", std::string_view(wrong.view()).substr(0, wrong.view().find_last_not_of('\n') + 1));
            return 2;
        }
        chosen = [text = help.str()] { tools::print(text); };
    }
    chosen();
    return 0;
}

}    // namespace

int main(int argc, char** argv)
{
    tools::prepare_streams();
    try {
        return run(argc, argv);
    } catch (const Error& e) {
        tools::say("hearth: {}", e.what());
    } catch (const std::exception& e) {
        if (const char* known = known_failure(e)) tools::say("hearth: {}", known);
        else tools::say("hearth: unexpected: {}; please report this", e.what());
    }
    return 1;
}
