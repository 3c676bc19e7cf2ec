// What the subcommands share: their table, options, files, progress, interruption.
#pragma once

#include "engine/engine.h"
#include "engine/system/program.h"
#include "engine/system/whole_file.h"

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <cstdio>
#include <functional>

namespace hearth::tools {

/// A subcommand adds its options to `app`; what it returns runs after parsing.
using Command = std::function<void()>;
struct Subcommand {
    const char* name;
    const char* help;
    Command (*add)(CLI::App& app);
};

Command add_run(CLI::App& app);
Command add_chat(CLI::App& app);
Command add_perplexity(CLI::App& app);
Command add_bench(CLI::App& app);
Command add_eval(CLI::App& app);
Command add_tokenize(CLI::App& app);
Command add_template(CLI::App& app);
Command add_devices(CLI::App& app);
Command add_doctor(CLI::App& app);
Command add_simulate(CLI::App& app);
Command add_inspect(CLI::App& app);
Command add_manual(CLI::App& app);
Command add_tune(CLI::App& app);
Command add_plan(CLI::App& app);
Command add_roofline(CLI::App& app);
Command add_profile(CLI::App& app);
Command add_quantize(CLI::App& app);

/// Checks of option values: a name that is not empty; a number from `least` to `most`, which NaN is not.
CLI::Validator not_empty();
CLI::Validator number_between(double least, double most);

/// Options that are added from here on stand in this group of the help.
void group(CLI::App& app, const std::string& name);

/// MODEL and --override, for subcommands that only look at the file; and that file, after saying what was overridden.
struct ModelOptions {
    std::filesystem::path model;
    std::vector<Override> overrides;
};
void add_override(CLI::App& app, std::vector<Override>& overrides);
void add_model_options(CLI::App& app, ModelOptions& options);
std::shared_ptr<const Gguf> open_model(const ModelOptions& options);

/// The options that choose a device and the host's threads, and MODEL and the options of every subcommand that runs a
/// model.
void add_device_options(CLI::App& app, EngineOptions& options);
void add_engine_options(CLI::App& app, EngineOptions& options);

/// The same without MODEL, for a subcommand that takes several.
void add_engine_options_of_any(CLI::App& app, EngineOptions& options);

/// What was typed of the options that say how a model runs, as somebody would type it; `without` some of them.
std::string typed_options(const CLI::App& app, std::initializer_list<std::string_view> without);

/// -ctk and -ctv
void add_kv_options(CLI::App& app, host::KvTypes& kv);

/// "6GiB", "512MiB", "6" (GiB, as PowerInfer's users type it). Throws CLI::ValidationError.
uint64_t parse_size(const std::string& option, const std::string& text);

/// A text given by -p or -f ("-": standard input), one of which is `needed`.
struct TextOptions {
    std::string text, file;
    bool escapes = false;    // of -p
};
void add_text_options(CLI::App& app, TextOptions& options, bool needed = true);
std::string read_text(const TextOptions& options);

/// How the next token is chosen.
void add_sampler_options(CLI::App& app, SamplerOptions& options);

/// For a last line: "; --seed 5" where the program drew it, else nothing.
std::string seed_note(const SamplerOptions& options);

/// "12.3 tokens/s", or "-" where there is nothing to divide.
std::string rate(uint64_t tokens, double us);

/// -log softmax_id(logits)
double negative_log_likelihood(std::span<const float> logits, Token id);

/// Loads the model with a progress bar; says on stderr what was loaded where, and what else is to be said in that line.
Engine load_engine(const EngineOptions& options, const std::string& more = "");

/// From here on `interrupted` is true once Ctrl-C was pressed; a second Ctrl-C ends the program at once.
void catch_interrupt();
bool interrupted();

/// One line on stderr, redrawn, once something takes longer than two seconds, with the time that the rest will take; on
/// a terminal only.
class ProgressBar {
  public:
    explicit ProgressBar(std::string what);
    ~ProgressBar();
    void show(double share);

  private:
    std::string what_;
    double start_, drawn_ = 0;
    double first_share_ = -1;    // work that goes on begins with some done
    bool visible_ = false;
};

double seconds();    // of a steady clock

/// A line on stderr, printable whatever is in it; nobody minds if stderr is closed.
template <class... Args>
void say(fmt::format_string<Args...> format, Args&&... args)
{
    std::fputs((printable_lines(fmt::format(format, std::forward<Args>(args)...)) + "\n").c_str(), stderr);
}

/// JSON as text with a newline, in ASCII, so that it is the same wherever it is shown; names in files need not be valid
/// UTF-8. indent -1: in one line.
std::string dump(const nlohmann::json& json, int indent = 1);

/// Writes lines of ours to stdout, printable whatever is in them; throws Error if they cannot be written.
void print(std::string_view lines);

/// Writes what a model wrote to stdout: a pipe or a file gets the bytes; on a terminal control characters are shown,
/// and do not act.
void print_text(std::string_view text);

/// From here on stdout is in the colour of a prompt, or no more.
void colour_prompt(bool on);

/// A file that an option names. What is no ordinary file (a pipe, a device) is written as it is.
class OutputFile : public WholeFile {
  public:
    explicit OutputFile(const std::filesystem::path& path);
    void finish(std::string_view text)
    {
        write(text);
        WholeFile::finish();
    }
};

/// What host and device did when, for Chrome's trace viewer.
class TraceFile {
  public:
    explicit TraceFile(const std::filesystem::path& path);
    void add(const FeedStats& stats);
    void finish();

  private:
    OutputFile file_;
    nlohmann::json events_ = nlohmann::json::array();
};

/// Sums of what batches did, by stage and layer.
class StatsTotals {
  public:
    void add(const FeedStats& stats);
    BATCH_COUNTERS(COUNTER_MEMBER)
    uint64_t feeds = 0, bytes = 0;
    LayerCounts of_decode;    // of all layers, where a batch was one token
    struct StageTotal {
        uint64_t count = 0, bytes = 0;
        double us = 0;
    };
    std::map<std::tuple<bool, std::string, uint32_t>, StageTotal> stages;    // by (on the device, name, layer)
    std::vector<LayerCounts> layers;

    nlohmann::json json() const;
};

nlohmann::json to_json(const FeedStats& stats);

/// The machine's figures: as JSON, from such a file, and where `tune` keeps them (empty where there is no place).
nlohmann::json to_json(const Machine& machine);
Machine read_machine(const std::filesystem::path& path);
std::filesystem::path machine_path(const std::string& device, const std::string& driver, unsigned threads);
/// What lies there, if anything does; a MachineLookup.
std::optional<Machine> measured_machine(const std::string& device, const std::string& driver, unsigned threads);

}    // namespace hearth::tools
