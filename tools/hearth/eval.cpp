// hearth eval: how many problems of a task a model solves, how fast, and several models or options side by side.
#include "tools/hearth/eval.h"

#include "engine/system/checksum.h"
#include "engine/system/line_file.h"
#include "tools/hearth/command_line.h"
#include "tools/hearth/confine.h"
#include "tools/hearth/conversation.h"
#include "tools/hearth/text.h"

#include <algorithm>

namespace hearth::tools {

namespace {

using Json = nlohmann::ordered_json;

// ---- configurations -------------------------------------------------------------------------------------------------

/// "MODEL [OPTIONS]", with the options of all runs where it has none of its own.
Configuration read_also(const std::string& line, const EngineOptions& shared, const std::string& shared_options)
{
    Configuration out = {.name = {}, .options = {}, .engine = shared};
    CLI::App app("a further run", "eval");
    app.set_help_flag();
    add_engine_options(app, out.engine);
    group(app, "Model");
    app.add_option("--name", out.name);
    out.engine.machine = shared.machine;
    std::vector<std::string> words = read_words(split_words(line), app);
    std::ranges::reverse(words);    // CLI11 wants the last word first
    try {
        app.parse(words);
    } catch (const CLI::ParseError& e) {
        throw WrongUse(fmt::format("--also '{}': {}", printable(line), e.what()));
    }
    const std::string own = typed_options(app, {"--name"});
    if (out.name.empty())
        out.name = fmt::format("{}{}{}", out.engine.model.stem().string(), own.empty() ? "" : " ", own);
    out.options = shared_options.empty() || own.empty() ? shared_options + own : shared_options + " " + own;
    return out;
}

std::vector<Configuration> read_configurations(const EvalOptions& o, const CLI::App& app)
{
    const std::string options = typed_options(app, {"--name"});
    std::vector<Configuration> all;
    for (const std::filesystem::path& model : o.models) {
        all.push_back(
            {.name = o.name.empty() ? model.stem().string() : o.name, .options = options, .engine = o.engine});
        all.back().engine.model = model;
    }
    for (const std::string& line : o.also) all.push_back(read_also(line, o.engine, options));
    for (size_t i = 0; i < all.size(); ++i)
        if (std::ranges::count(all, all[i].name, &Configuration::name) > 1)
            throw WrongUse(fmt::format("two runs are called '{}': give the others a name of their own, in --also "
                                       "\"MODEL [OPTIONS] --name NAME\"",
                                       printable(all[i].name)));
    return all;
}

// ---- what is kept ---------------------------------------------------------------------------------------------------

Json common_settings(const Evaluation& e)
{
    const EvalOptions& o = e.options;
    std::string shots;
    for (const eval::Shot& s : e.shots) shots += s.question + s.answer;
    Json json = {{"task", o.task},       {"chat", e.protocol.chat}, {"data", e.data.checksum},
                 {"samples", o.samples}, {"shots", e.shots.size()}, {"shots_text", checksum(shots)}};
    if (o.tokens) json["tokens"] = *o.tokens;
    return json;
}

Json model_settings(const Evaluation& e, const Configuration& c)
{
    const EvalOptions& o = e.options;
    const SamplerOptions& s = o.sampling;
    Json json = common_settings(e);
    std::error_code ec;
    json["model"] = {{"key", model_key(Gguf(c.engine.model, c.engine.overrides))},
                     {"bytes", std::filesystem::file_size(c.engine.model, ec)}};
    json["options"] = c.options;
    json["parallel"] = o.parallel;
    json["whole_prompts"] = o.whole_prompts;
    if (!o.template_name.empty()) json["template"] = o.template_name;
    json["sampling"] = {{"temperature", s.temperature},
                        {"top_k", s.top_k},
                        {"top_p", s.top_p},
                        {"min_p", s.min_p},
                        {"repeat_penalty", s.repeat_penalty},
                        {"presence_penalty", s.presence_penalty},
                        {"frequency_penalty", s.frequency_penalty},
                        {"repeat_last_n", s.repeat_last_n},
                        {"seed", s.seed}};
    return json;
}

/// The runs of a file and of this process, and the file.
class Keeping {
  public:
    explicit Keeping(const EvalOptions& o)
    {
        if (o.output.empty()) {
            if (o.resume) throw Error("--resume goes on with a file of records: name it with -o");
            return;
        }
        confinement().allow(o.output);
        file_.emplace(o.output, o.resume ? LineFile::Mode::go_on : LineFile::Mode::fresh);
        path_ = o.output;
        runs_ = eval::read_runs(file_->before(), path_);
    }

    /// The run of this name, begun or to be gone on with.
    eval::Run run(const std::string& name, const Json& settings)
    {
        const auto found = std::ranges::find(runs_, name, &eval::Run::name);
        if (found == runs_.end()) {
            eval::Run run = {.name = name, .settings = settings, .samples = {}, .perplexity = {}};
            add(to_json(run));
            return run;
        }
        for (const auto& [key, value] : settings.items())
            if (!found->settings.contains(key) || found->settings[key] != value)
                throw Error("{} has a run '{}' whose {} was {}, and now it is {}: name another file, or do as before",
                            path_, name, key, found->settings.value(key, Json()).dump(), value.dump());
        return *found;
    }

    void add(const Json& line)
    {
        if (file_) file_->add(line.dump(-1, ' ', true, Json::error_handler_t::replace));
    }

  private:
    std::optional<LineFile> file_;
    std::string path_;
    std::vector<eval::Run> runs_;
};

// ---- given answers --------------------------------------------------------------------------------------------------

/// Answers that somebody gave are judged; no model is run.
eval::Run judge_answers(const Evaluation& e, Keeping& keeping)
{
    const std::string& file = e.options.answers;
    Json settings = common_settings(e);
    settings["answers"] = checksum(read_bytes(file));
    eval::Run run = keeping.run(std::filesystem::path(file).filename().string(), settings);
    const auto answers = eval::read_answers(file, e.data.problems);
    const auto done = run.answered();
    ProgressBar bar("judging");
    for (size_t i = 0; i < e.problems() && !interrupted(); ++i) {
        if (answers[i].empty()) throw Error("{} has no answer to problem {}", file, e.data.problems[i].id);
        for (uint32_t s = 0; s < answers[i].size() && !interrupted(); ++s) {
            if (done.contains({e.data.problems[i].id, s})) continue;
            eval::Sample sample = {
                .problem = e.data.problems[i].id, .number = s, .answer = answers[i][s], .end = "given"};
            sample.judgements = eval::judge(e.protocol, e.data.problems[i], sample.answer, e.sandbox);
            keeping.add(to_json(run, sample));
            run.samples.push_back(std::move(sample));
        }
        bar.show(double(i + 1) / double(e.problems()));
    }
    return run;
}

// ---- all of it ------------------------------------------------------------------------------------------------------

std::optional<Sandbox> make_sandbox(const EvalOptions& o)
{
    if (!o.execute) return {};
    if (confinement().asked())
        throw Error("--confine on leaves no programs to be started, and --execute starts them: judge the records "
                    "afterwards, by --answers");
    std::optional<Sandbox> sandbox(std::in_place, o.python, o.way, o.limits);
    say("programs run in {}", sandbox->description());
    return sandbox;
}

void evaluate(const EvalOptions& o, const std::vector<Configuration>& configurations)
{
    std::vector<eval::Run> runs;
    if (!o.task.empty()) {
        const eval::Protocol& protocol = eval::find_protocol(o.task, o.chat);
        const bool known = eval::is_known(o.task);
        if (known && o.data.empty())
            throw Error("{} needs its problems: name a file of them with --data; `hearth eval --help` says which",
                        o.task);
        const eval::Data data = eval::read_data(known ? o.data : o.task, protocol);
        const std::vector<eval::Shot> shots =
            eval::read_shots(protocol, o.shots.value_or(protocol.shots), o.shots_from);
        const std::optional<Sandbox> sandbox = make_sandbox(o);
        const Evaluation e = {o, protocol, data, shots, sandbox ? &*sandbox : nullptr};
        Keeping keeping(o);
        const auto on_cpu = [](const Configuration& c) { return c.engine.device == "cpu"; };
        if (!configurations.empty()) confinement().files(false, !std::ranges::all_of(configurations, on_cpu));
        if (o.samples > 1 && o.sampling.temperature <= 0)
            say("note: without --temp all {} samples of a problem are the same", o.samples);
        catch_interrupt();
        if (!o.answers.empty()) runs.push_back(judge_answers(e, keeping));
        for (const Configuration& c : configurations) {
            if (interrupted()) break;
            runs.push_back(keeping.run(c.name, model_settings(e, c)));
            answer_problems(e, c, runs.back(), [&](const Json& line) { keeping.add(line); });
        }
        if (interrupted())
            say("interrupted: {} of {} answers{}", runs.back().samples.size(), e.problems() * o.samples,
                o.output.empty() ? "" : fmt::format("; --resume goes on with {}", o.output));
        if (protocol.judge == eval::Judge::run && !e.sandbox)
            say("note: no program was run: --execute runs them in a sandbox");
    }
    for (const std::string& file : o.shown)
        for (eval::Run& run : eval::read_runs(read_bytes(file), file)) runs.push_back(std::move(run));
    std::vector<eval::Summary> all;
    all.reserve(runs.size());
    for (const eval::Run& run : runs) all.push_back(summarise(run));
    if (!o.json) return print(eval::table(all));
    Json list = Json::array();
    for (const eval::Summary& s : all) list.push_back(to_json(s));
    print(list.dump(1, ' ', true, Json::error_handler_t::replace) + "\n");
}

void add_task_options(CLI::App& app, EvalOptions& o)
{
    group(app, "Text");
    app.add_option("--task", o.task,
                   "gsm8k, gsm8k-cot, humaneval or humaneval-instruct, as lm-evaluation-harness asks and judges, or a "
                   "FILE of your own problems")
        ->check(not_empty())
        ->type_name("NAME");
    app.add_option("--data", o.data, "the task's problems, JSON lines as published, packed by gzip or not")
        ->check(not_empty())
        ->type_name("FILE");
    app.add_option("--shots", o.shots, "worked examples before each question (default: 5 of gsm8k, 8 of gsm8k-cot)")
        ->type_name("N");
    app.add_option("--shots-from", o.shots_from, "of gsm8k: training problems, of which the first are the examples")
        ->check(not_empty())
        ->type_name("FILE");
    app.add_flag(
        "--chat", o.chat,
        "questions and examples are turns of the model's chat template; gsm8k-cot then asks as gsm8k_cot_llama "
        "does (always so: humaneval-instruct)");
    app.add_option("--template", o.template_name, "of --chat: another chat template; `hearth template --help`")
        ->type_name("NAME");
    app.add_option("--limit", o.limit, "only the first N problems")->check(CLI::Range(1, 1 << 30))->type_name("N");
    app.add_option("-n,--predict", o.tokens, "tokens of an answer at the most (default: 256, of programs 1024)")
        ->check(CLI::Range(1, 1 << 20))
        ->type_name("N");
    app.add_option("--samples", o.samples, "answers to each problem, for pass@k; with --temp")
        ->capture_default_str()
        ->check(CLI::Range(1, 1 << 16))
        ->type_name("N");
}

void add_execution_options(CLI::App& app, EvalOptions& o)
{
    group(app, "Programs");
    app.add_flag("--execute", o.execute,
                 "run the programs that answers are, each in a process of its own without network, other files or "
                 "further processes; refused where that cannot be had (Linux)");
    static const std::map<std::string, Sandbox::Way> ways = {{"auto", Sandbox::Way::automatic},
                                                             {"bubblewrap", Sandbox::Way::bubblewrap},
                                                             {"namespaces", Sandbox::Way::namespaces}};
    app.add_option_function<std::string>(
           "--sandbox", [&o](const std::string& name) { o.way = ways.at(name); },
           "what keeps them in: bubblewrap, namespaces of Hearth's own, or auto, the first of these that works here")
        ->check(CLI::IsMember({"auto", "bubblewrap", "namespaces"}))
        ->default_str("auto")
        ->type_name("HOW");
    app.add_option("--python", o.python, "the interpreter")->capture_default_str()->type_name("PROGRAM");
    app.add_option("--execute-seconds", o.limits.seconds, "time of a program")
        ->capture_default_str()
        ->check(number_between(0.1, 3600))
        ->type_name("S");
    app.add_option_function<std::string>(
           "--execute-memory",
           [&o](const std::string& text) { o.limits.memory = parse_size("--execute-memory", text); },
           "memory of a program")
        ->default_str("1GiB")
        ->type_name("SIZE");
}

}    // namespace

Command add_eval(CLI::App& app)
{
    auto o = std::make_shared<EvalOptions>();
    o->sampling = {.temperature = 0, .top_k = 0, .top_p = 1, .min_p = 0};
    group(app, "Model");
    app.add_option("-m,--model,MODEL", o->models, "models, GGUF files, each a line of the table")
        ->check(not_empty())
        ->type_name("FILE");
    app.add_option("--also", o->also,
                   "a further line: a model with options of its own, such as \"MODEL.gguf --sparsity predict --name "
                   "'hot and cold'\"")
        ->allow_extra_args(false)
        ->type_name("LINE");
    app.add_option("--name", o->name, "what the only MODEL is called in the table")->type_name("NAME");
    add_engine_options_of_any(app, o->engine);
    app.get_option("-c")->description("positions in the context (default: what the longest problem needs)");
    add_task_options(app, *o);
    add_sampler_options(app, o->sampling);
    add_execution_options(app, *o);
    group(app, "Measurement");
    app.add_option("--parallel", o->parallel, "so many problems at once")
        ->capture_default_str()
        ->check(CLI::Range(1, 255))
        ->type_name("N");
    app.add_flag("--whole-prompts", o->whole_prompts,
                 "read every prompt from its first token on, also what all of them begin with");
    app.add_option("--answers", o->answers,
                   "instead of a model's: judge the answers of this file, JSON lines with \"answer\" or \"completion\"")
        ->check(not_empty())
        ->type_name("FILE");
    app.add_option("--perplexity", o->perplexity_file,
                   "also the perplexity of a text, with the sparsity that answers are written with")
        ->check(not_empty())
        ->type_name("FILE");
    app.add_option("--perplexity-tokens", o->perplexity_tokens, "of it, only the first N tokens")
        ->capture_default_str()
        ->check(CLI::Range(uint64_t(1), uint64_t(1) << 32))
        ->type_name("N");
    group(app, "Output");
    app.add_option("-o,--output", o->output, "keep every answer, with what it took, as a line of JSON in this file")
        ->check(not_empty())
        ->type_name("FILE");
    app.add_flag("--resume", o->resume, "go on with that file: what it has is not done again");
    app.add_option("--records", o->shown, "also show the runs of such a file, of earlier or elsewhere")
        ->allow_extra_args(false)
        ->check(not_empty())
        ->type_name("FILE");
    app.add_flag("--json", o->json, "print the table as JSON");
    app.footer("hearth eval MODEL.gguf --task gsm8k --data gsm8k_test.jsonl --shots-from gsm8k_train.jsonl -np 4 -o "
               "RECORDS.jsonl. tools/README.md says how answers are judged and what own problems look like.");
    auto configurations = std::make_shared<std::vector<Configuration>>();
    app.parse_complete_callback([o, configurations, &app] {
        if (app.get_help_ptr()->count()) return;
        if (o->task.empty() && o->shown.empty()) throw CLI::RequiredError("--task");
        if (!o->task.empty() && o->models.empty() && o->also.empty() && o->answers.empty())
            throw CLI::RequiredError("--model");
        if (!o->name.empty() && o->models.size() > 1) throw WrongUse("--name is for a single MODEL: use --also");
        *configurations = read_configurations(*o, app);
    });
    return [o, configurations] { evaluate(*o, *configurations); };
}

}    // namespace hearth::tools
