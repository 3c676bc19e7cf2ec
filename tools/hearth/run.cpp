// hearth run: continues a text.
#include "tools/hearth/cli.h"

namespace hearth::tools {

namespace {

struct RunOptions {
    EngineOptions engine;
    TextOptions prompt;
    SamplerOptions sampler;
    int64_t count = 128;
    bool ignore_eos = false, hide_prompt = false;
    std::string color = "off";
    std::string stats, trace;
};

/// What was done and how fast.
std::string closing_line(const Engine& engine, const StatsTotals& prefill, const StatsTotals& decode, uint64_t written)
{
    const double n = double(std::max<uint64_t>(decode.feeds, 1));
    const uint64_t fired = decode.of_decode.active_device + decode.of_decode.active_host;
    const std::string served =
        fired && engine.on_device()
            ? fmt::format(", {:.0f} % of what fired on the GPU{}",
                          100.0 * double(decode.of_decode.active_device) / double(fired),
                          decode.moved_groups ? fmt::format(", {} groups moved ({:.1f} MB)", decode.moved_groups,
                                                            double(decode.moved_bytes) / 1e6)
                                              : "")
            : "";
    const std::string seam = engine.on_device() ? fmt::format(", {:.1f} submits and {:.1f} joins per token",
                                                              double(decode.submits) / n, double(decode.joins) / n)
                                                : "";
    const std::string streamed =
        prefill.streamed_bytes
            ? fmt::format(", {:.0f} MB of the CPU's neurons copied to the GPU", double(prefill.streamed_bytes) / 1e6)
            : "";
    return fmt::format("prompt: {} tokens, {}{}; answer: {} tokens, {}, {:.2f} GB/s{}{}", prefill.tokens,
                       rate(prefill.tokens, prefill.us), streamed, written, rate(decode.tokens, decode.us),
                       decode.us > 0 ? double(decode.bytes) / decode.us / 1000 : 0, seam, served);
}

void run(const RunOptions& o)
{
    std::optional<OutputFile> stats_file;
    if (!o.stats.empty()) stats_file.emplace(o.stats);
    std::optional<TraceFile> trace_file;
    if (!o.trace.empty()) trace_file.emplace(o.trace);
    std::string prompt = read_text(o.prompt);
    const bool colored = o.color == "on" || o.color == "1" || (o.color == "auto" && on_terminal(stdout));
    if (!o.prompt.file.empty() && prompt.ends_with('\n'))
        prompt.pop_back();    // editors end files with one; it is not part of the text

    catch_interrupt();
    Engine engine = load_engine(o.engine);
    if (engine.weights().file->keys().contains("tokenizer.chat_template"))
        say("note: this model has a chat template: `hearth chat` gives answers in its frame");
    const Tokenizer& tokenizer = engine.tokenizer();
    const std::vector<Token> tokens = tokenizer.encode_prompt(prompt);

    Session session = engine.session(stats_file || trace_file);
    StatsTotals prefill, decode;
    nlohmann::json each = nlohmann::json::array();
    StatsTotals* phase = &prefill;
    session.on_stats = [&](const FeedStats& s) {
        phase->add(s);
        if (stats_file) each.push_back(to_json(s));
        if (trace_file) trace_file->add(s);
    };

    Sampler sampler(o.sampler);
    for (const Token t : tokens) sampler.accept(t);
    std::optional<Token> next = session.next(tokens, sampler, interrupted);

    Decoder decoder(tokenizer);
    if (colored) colour_prompt(true);
    for (const Token t : tokens) {
        const std::string shown = decoder.push(t);
        if (!o.hide_prompt) print_text(shown);
    }
    if (colored) colour_prompt(false);
    phase = &decode;
    std::string why_stopped;
    uint64_t written = 0;
    for (int64_t i = 0; (o.count < 0 || i < o.count) && next; ++i) {
        if (!o.ignore_eos && std::ranges::find(tokenizer.ends(), *next) != tokenizer.ends().end()) break;
        print_text(decoder.push(*next));
        ++written;
        if (i + 1 == o.count) break;    // nobody would read what comes after the last token
        if (session.position() == engine.context()) {
            why_stopped = fmt::format("; the context of {} positions is full", engine.context());
            break;
        }
        if (interrupted()) break;
        const Token input[] = {*next};
        next = session.next(input, sampler);
    }
    print_text(decoder.finish() + "\n");
    if (interrupted()) why_stopped = "; interrupted";

    say("{}{}{}", closing_line(engine, prefill, decode, written), why_stopped, seed_note(o.sampler));
    if (stats_file) {
        const nlohmann::json all = {{"model", engine.config().name}, {"summary", engine.summary()},
                                    {"threads", engine.threads()},   {"prefill", prefill.json()},
                                    {"decode", decode.json()},       {"batches", each}};
        stats_file->finish(dump(all));
    }
    if (trace_file) trace_file->finish();
}

}    // namespace

Command add_run(CLI::App& app)
{
    auto o = std::make_shared<RunOptions>();
    add_engine_options(app, o->engine);
    add_text_options(app, o->prompt, false);
    app.add_option("-n,--predict", o->count, "tokens to write; -1: until the model ends or the context is full")
        ->capture_default_str()
        ->type_name("N");
    app.add_flag("--ignore-eos", o->ignore_eos, "go on when the model ends the text");
    group(app, "Output");
    app.add_flag("--no-display-prompt", o->hide_prompt, "write only what follows the text");
    app.add_option("--color", o->color, "the text in another colour than what follows: on, off, or auto, on a terminal")
        ->expected(0, 1)
        ->check(CLI::IsMember({"on", "off", "auto", "0", "1"}))
        ->default_str("off")
        ->type_name("on|off|auto");
    add_sampler_options(app, o->sampler);
    group(app, "Diagnostics");
    app.add_option("--stats", o->stats, "write counters and times per token, layer and stage to a JSON file")
        ->check(not_empty())
        ->type_name("FILE");
    app.add_option("--trace", o->trace, "write what host and device did when, for chrome://tracing or ui.perfetto.dev")
        ->check(not_empty())
        ->type_name("FILE");
    app.footer("Without -p and -f the text is read from standard input; on a terminal it is a conversation then, as "
               "`hearth chat` is.");
    return [o, &app] {
        if (!app.get_option("--prompt")->count() && o->prompt.file.empty()) {
            o->prompt.file = "-";
            if (on_terminal(stdin)) say("type the text, and Ctrl-D where it ends");
        }
        run(*o);
    };
}

}    // namespace hearth::tools
