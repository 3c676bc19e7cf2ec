// hearth run: continues a text.
#include "tools/hearth/cli.h"
#include "tools/hearth/conversation.h"
#include "tools/hearth/images.h"

namespace hearth::tools {

namespace {

struct RunOptions {
    EngineOptions engine;
    TextOptions prompt;
    ImageOptions images;
    SamplerOptions sampler;
    int64_t count = 128;
    bool ignore_eos = false, hide_prompt = false;
    std::string color = "off";
    std::string stats, trace;
};

/// What was done and how fast.
std::string closing_line(const Engine& engine, const Eyes& eyes, const StatsTotals& prefill, const StatsTotals& decode,
                         uint64_t written)
{
    const std::string images = eyes.images() ? fmt::format(" ({})", images_note(eyes)) : "";
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
    return fmt::format("prompt: {} tokens{}, {}{}; answer: {} tokens, {}, {:.2f} GB/s{}{}", prefill.tokens, images,
                       rate(prefill.tokens, prefill.us), streamed, written, rate(decode.tokens, decode.us),
                       decode.us > 0 ? double(decode.bytes) / decode.us / 1000 : 0, seam, served);
}

/// What is fed, and which tokens end what follows.
struct Prompt {
    std::vector<Token> tokens;
    std::vector<Token> ends;
};

/// The text as it is; with images that have no places in it, a user's turn in the model's frame. Nothing where Ctrl-C
/// was pressed while they were looked at.
std::optional<Prompt> prompt_of(const RunOptions& o, const std::string& text, const Engine& engine, Eyes& eyes,
                                Images& images)
{
    const Tokenizer& tokenizer = engine.tokenizer();
    const size_t wanted = o.images.images.size(), places = places_for_images(text);
    if (wanted > 0 && places > 0 && places != wanted)
        throw Error("the text has {} for images ({}) and {} given: name as many with --image",
                    places == 1 ? "1 place" : fmt::format("{} places", places), image_mark,
                    wanted == 1 ? "1 is" : fmt::format("{} are", wanted));
    for (const std::filesystem::path& path : o.images.images) {
        images.push_back(eyes.look(path));
        if (!images.back()) return {};
    }
    if (wanted == 0) return Prompt{tokenizer.encode_prompt(text), tokenizer.ends()};
    if (places > 0) return Prompt{encode_with_images(tokenizer, text, images), tokenizer.ends()};
    const Gguf& file = *engine.weights().file;
    const ChatTemplate format = choose_template(file_templates(file).empty() ? "llava" : "", &file);
    ChatEncoder encoder(tokenizer, format);
    try {
        const auto pieces = format.render({format.user_message(text, wanted)}, true);
        return Prompt{encoder.encode(pieces, tokens_of(images)), encoder.stops()};
    } catch (const jinja::TemplateError& error) {
        throw not_rendered(format, error);
    }
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
    Engine engine = load_engine(o.images.images.empty() ? o.engine : seeing(o.engine));
    if (o.images.images.empty() && engine.weights().file->keys().contains("tokenizer.chat_template"))
        say("note: this model has a chat template: `hearth chat` gives answers in its frame");
    const Tokenizer& tokenizer = engine.tokenizer();
    Eyes eyes(engine, o.images.mode);
    Images images;
    const std::optional<Prompt> read = prompt_of(o, prompt, engine, eyes, images);
    if (!read) return say("interrupted");
    const std::vector<Token>& tokens = read->tokens;

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
        if (!o.ignore_eos && std::ranges::find(read->ends, *next) != read->ends.end()) break;
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

    say("{}{}{}", closing_line(engine, eyes, prefill, decode, written), why_stopped, seed_note(o.sampler));
    if (stats_file) {
        const nlohmann::json all = {
            {"model", engine.config().name},
            {"summary", engine.summary()},
            {"threads", engine.threads()},
            {"prefill", prefill.json()},
            {"images", {{"count", eyes.images()}, {"tokens", eyes.tokens()}, {"us", eyes.us()}}},
            {"decode", decode.json()},
            {"batches", each}};
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
    add_tower_options(app, o->engine);
    add_image_options(app, o->images);
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
