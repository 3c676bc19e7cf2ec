// hearth: the table of subcommands, and the one catch.
#include "tools/hearth/cli.h"
#include "tools/hearth/command_line.h"
#include "tools/hearth/help.h"

#include <algorithm>
#include <sstream>

using namespace hearth;

namespace {

constexpr tools::Subcommand subcommands[] = {
    {"run", "continue a text", tools::add_run},
    {"chat", "a conversation in the frame that the model was trained for", tools::add_chat},
    {"perplexity", "how well a model predicts a text", tools::add_perplexity},
    {"bench", "speed of prefill and decode, and of every stage", tools::add_bench},
    {"eval", "how many problems a model solves, how fast, and several models side by side", tools::add_eval},
    {"profile", "measure on a text which neurons fire, for better plans and predictors", tools::add_profile},
    {"plan", "who would get what, for one memory budget or several, and the speed to expect", tools::add_plan},
    {"roofline", "what each step reads and computes, what bounds it, and what would make it faster",
     tools::add_roofline},
    {"simulate", "the speed to expect of models, cards and processors that are not here", tools::add_simulate},
    {"tune", "measure this machine once, so that plans fit it", tools::add_tune},
    {"quantize", "a copy of a model in another weight format", tools::add_quantize},
    {"tokenize", "the tokens of a text", tools::add_tokenize},
    {"template", "the chat template of a model, or what it makes of a conversation", tools::add_template},
    {"devices", "the GPUs that can be used", tools::add_devices},
    {"doctor", "what would stop this machine from running well, and what to do", tools::add_doctor},
    {"inspect", "what is in a model file", tools::add_inspect},
    {"manual", "all options as pages for man, or as completions for a shell", tools::add_manual},
};

/// What CLI11 says of a wrong command line, with the variable's name where the environment said it.
std::string complaint(const CLI::ParseError& e, const tools::CommandLine& line)
{
    std::string what = e.what();
    if (dynamic_cast<const CLI::RequiredError*>(&e) && what.starts_with("--model"))
        return "MODEL is missing: name a GGUF file, as it is or with -m";
    if (dynamic_cast<const CLI::ExtrasError*>(&e) && !line.words.empty()) {
        const bool takes_text = line.words[0] == "run" || line.words[0] == "chat" || line.words[0] == "tokenize";
        return fmt::format("'{}' is one word too many{}", line.words.back(),
                           takes_text ? ": a text is given with -p" : "");
    }
    for (const auto& [variable, option] : line.environment)
        if (what.find(option) != what.npos) what = fmt::format("{} is wrong: {}", variable, what);
    return what;
}

/// Before the static objects of the libraries, which allocate, too.
[[gnu::constructor(101)]] void be_clear_from_the_start() { end_clearly_on_terminate(); }

int run(int argc, char** argv)
{
    CLI::App app("Hearth runs language models that are larger than the graphics card.", "hearth");
    app.set_version_flag("--version", "hearth " HEARTH_VERSION);
    app.require_subcommand(1);
    const auto help = [](const CLI::App* a, const std::string&, CLI::AppFormatMode) { return tools::help_text(*a); };
    app.formatter_fn(help);
    tools::Command chosen;
    for (const tools::Subcommand& s : subcommands) {
        CLI::App* sub = app.add_subcommand(s.name, s.help);
        sub->formatter_fn(help);
        sub->get_help_ptr()->group("Output");
        sub->final_callback([&chosen, command = s.add(*sub)] { chosen = command; });
    }
    tools::CommandLine line;
    try {
        line = tools::read_command_line(program_words(argc, argv), app);
        app.parse(
            std::vector<std::string>(line.words.rbegin(), line.words.rend()));    // CLI11 wants the last word first
    } catch (const tools::WrongUse& e) {
        tools::say("hearth: {}", e.what());
        return 2;
    } catch (const CLI::ParseError& e) {
        std::ostringstream help;
        if (e.get_exit_code() != 0) {
            const std::string sub = line.words.empty() ? "" : line.words[0] + " ";
            tools::say("hearth: {}; `hearth {}--help` has every option", complaint(e, line), sub);
            return 2;
        }
        app.exit(e, help, std::cerr);
        chosen = [text = help.str()] { tools::print(text); };
        line.notes.clear();
    }
    for (const std::string& note : line.notes) tools::say("note: {}", note);
    chosen();
    return 0;
}

}    // namespace

int main(int argc, char** argv)
{
    prepare_streams();
    end_clearly_on_signals();
    try {
        return run(argc, argv);
    } catch (const Error& e) {
        speak_alone();
        tools::say("hearth: {}", e.what());
    } catch (const std::exception& e) {
        speak_alone();
        if (const char* known = known_failure(e)) tools::say("hearth: {}", known);
        else tools::say("hearth: unexpected: {}; please report this", e.what());
    }
    return 1;
}
