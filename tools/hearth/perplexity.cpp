// hearth perplexity: exp of the mean negative log likelihood of a text.
// Which tokens are predicted from what is in windows.h.
#include "tools/hearth/cli.h"
#include "tools/hearth/text.h"
#include "tools/hearth/windows.h"

#include <algorithm>
#include <cmath>

namespace hearth::tools {

double negative_log_likelihood(std::span<const float> logits, Token id)
{
    const float top = *std::max_element(logits.begin(), logits.end());
    double sum = 0;
    for (const float l : logits) sum += std::exp(l - top);
    return std::log(sum) - (double(logits[id]) - top);
}

namespace {

struct PerplexityOptions {
    EngineOptions engine;
    std::string file, stats;
    int64_t limit = 0;
    WindowShape shape;
    size_t windows = 0;    // only the first so many; 0: all
};

/// How the windows were laid, so that somebody can do the same elsewhere.
std::string convention_text(const WindowShape& s)
{
    if (s.convention == Convention::hearth)
        return s.stride ? fmt::format("windows of {} with BOS, each {} tokens on, which predict what none before did",
                                      s.context, s.stride)
                        : fmt::format("windows of {} with BOS, every token predicted", s.context);
    if (s.stride)
        return fmt::format("windows of {}, each {} tokens on, of which the last {} count: as llama-perplexity -c {} "
                           "--ppl-stride {} counts",
                           positions(s), s.stride, s.stride, s.context, s.stride);
    return fmt::format("windows of {}{}, of which the second half counts: as llama-perplexity -c {} counts", s.context,
                       s.add_bos ? " that begin with BOS" : "", s.context);
}

std::vector<Token> tokens_of(const std::string& text, const PerplexityOptions& o, const Engine& engine,
                             const WindowShape& shape)
{
    std::vector<Token> tokens = engine.tokenizer().encode(text);
    if (o.limit) tokens.resize(std::min(tokens.size(), size_t(o.limit)));
    if (tokens.empty()) throw Error("{} has no tokens to predict: name a file with a text", o.file);
    if (engine.context() < 2) throw Error("windows of {} tokens predict nothing: use -c 2 or more", engine.context());
    if (shape.stride >= positions(shape))
        throw Error("--stride {} is longer than a window of {}: use a smaller one, or a larger -c", shape.stride,
                    positions(shape));
    if (o.shape.convention == Convention::llama_cpp && shape.add_bos)
        tokens.insert(tokens.begin(), engine.tokenizer().bos());
    return tokens;
}

std::vector<Window> windows_of(size_t tokens, const PerplexityOptions& o, const WindowShape& shape)
{
    std::vector<Window> all = windows(shape, tokens);
    if (all.empty())
        throw Error("{} has {} tokens, less than a window of {}: use a smaller -c, or --as hearth, which also counts "
                    "shorter ones",
                    o.file, tokens, positions(shape));
    if (o.shape.convention == Convention::llama_cpp && tokens < 2 * positions(shape))
        say("note: llama-perplexity refuses texts of less than two windows, {} tokens; this one has {}",
            2 * positions(shape), tokens);
    if (o.windows) all.resize(std::min(all.size(), o.windows));
    return all;
}

void say_predictor(const LayerCounts& decode, bool checked)
{
    if (decode.host_gates >= decode.host_neurons) return;
    const double all = double(decode.host_neurons), gates = double(decode.host_gates);
    const double fired = double(decode.active_host);
    say("predictor: {:.1f} % of the CPU's gates looked at, {:.1f} % of its rows skipped{}", 100 * gates / all,
        100 * (1 - (gates + 2 * fired) / (3 * all)),
        checked ? fmt::format("; recall {:.2f} %", 100 * fired / std::max(1.0, fired + double(decode.missed))) : "");
}

void perplexity(const PerplexityOptions& o)
{
    std::optional<OutputFile> stats_file;
    if (!o.stats.empty()) stats_file.emplace(o.stats);
    std::string text = read_text_file(o.file);
    const bool as_llama = o.shape.convention == Convention::llama_cpp;
    if (as_llama && text.ends_with('\n')) text.pop_back();    // as llama.cpp reads its -f
    catch_interrupt();
    EngineOptions options = o.engine;
    WindowShape shape = o.shape;
    shape.context = options.context;
    if (shape.context) options.context = uint32_t(positions(shape));
    Engine engine = load_engine(options);
    if (options.sparsity != Sparsity::dense && options.batch > 1)
        say("note: a prompt is computed with all neurons; -b 1 measures --sparsity as decode runs it");
    const Tokenizer& tokenizer = engine.tokenizer();
    if (shape.context == 0) shape.context = engine.context();
    shape.add_bos = tokenizer.add_bos();
    const std::vector<Token> tokens = tokens_of(text, o, engine, shape);
    const std::vector<Window> all = windows_of(tokens.size(), o, shape);

    Session session = engine.session(stats_file.has_value());
    StatsTotals totals;
    session.on_stats = [&](const FeedStats& s) { totals.add(s); };
    ProgressBar bar("perplexity");
    double sum = 0, squares = 0;
    size_t done = 0, windows_done = 0;
    for (; windows_done < all.size() && !interrupted(); ++windows_done) {
        const Window& w = all[windows_done];
        std::vector<Token> input(tokens.begin() + ptrdiff_t(w.begin), tokens.begin() + ptrdiff_t(w.end));
        if (w.bos == Window::Bos::before) input.insert(input.begin(), tokenizer.bos());
        if (w.bos == Window::Bos::instead) input[0] = tokenizer.bos();
        const size_t next =
            w.bos == Window::Bos::before ? w.begin : w.begin + 1;    // the token that follows the first that is fed
        session.reset();
        session.feed(input, [&](size_t t, std::span<const float> logits) {
            if (next + t < w.first || next + t >= w.end)
                return;    // after the last token there is nothing to compare with
            const double nll = negative_log_likelihood(logits, tokens[next + t]);
            sum += nll;
            squares += nll * nll;
            done += 1;
        });
        bar.show(double(windows_done) / double(all.size()));
    }
    if (done == 0) return say("interrupted before the first window was done");
    const double n = double(done), mean = sum / n;
    const double error = n > 1 ? std::sqrt(std::max(squares / n - mean * mean, 0.0) / (n - 1)) : 0;
    print(fmt::format("ppl = {:.4f} +- {:.4f}\n", std::exp(mean),
                      error > 0 ? std::exp(mean) * error : 0.0));    // a large mean's exp is infinite
    say("{} tokens in {} {}, mean negative log likelihood {:.6f} +- {:.6f}, {:.1f} tokens/s{}", done, windows_done,
        convention_text(shape), mean, error, double(totals.tokens) * 1e6 / totals.us,
        interrupted() ? "; interrupted" : "");
    say_predictor(totals.of_decode, o.engine.check_predictor);
    if (stats_file) {
        const nlohmann::json all = {{"model", engine.config().name},
                                    {"summary", engine.summary()},
                                    {"mean_nll", mean},
                                    {"predicted", done},
                                    {"convention", convention_text(shape)},
                                    {"totals", totals.json()}};
        stats_file->finish(dump(all));
    }
}

}    // namespace

Command add_perplexity(CLI::App& app)
{
    auto o = std::make_shared<PerplexityOptions>();
    o->engine.context = 256;
    add_engine_options(app, o->engine);
    app.get_option("-c")->description("tokens in a window, BOS included (default: 256; 512 with --as llama.cpp)");
    app.add_option("-f,--file", o->file, "the text; - is standard input")
        ->required()
        ->check(not_empty())
        ->type_name("FILE");
    app.add_option("-n,--tokens", o->limit, "only the first n tokens of the text")
        ->check(CLI::Range(int64_t(1), int64_t(1) << 40))
        ->type_name("N");
    auto* as = app.add_option_function<std::string>(
        "--as",
        [o](const std::string& name) {
            o->shape.convention = name == "hearth" ? Convention::hearth : Convention::llama_cpp;
        },
        "how windows are laid. hearth: one after the other, every token predicted; llama.cpp: as llama-perplexity "
        "does, only the second half of each "
        "window counts");
    as->check(CLI::IsMember({"hearth", "llama.cpp"}))->default_str("hearth")->type_name("NAME");
    app.add_option("--stride", o->shape.stride,
                   "windows begin N tokens after each other, and a token counts in the first that predicts it "
                   "(default: a window)")
        ->check(CLI::Range(size_t(1), size_t(1) << 32))
        ->type_name("N");
    auto* ppl_stride = app.add_option_function<size_t>(
        "--ppl-stride", [o](size_t n) { o->shape.stride = n; }, "the same as --as llama.cpp --stride N; 0: none");
    ppl_stride->type_name("N");
    app.add_option("--chunks", o->windows, "only the first N windows")
        ->check(CLI::Range(size_t(1), size_t(1) << 32))
        ->type_name("N");
    group(app, "Diagnostics");
    app.add_flag("--check-predictor", o->engine.check_predictor,
                 "with --sparsity predict: count what the predictor misses, too");
    app.add_option("--stats", o->stats, "write counters and times per layer and stage to a JSON file")
        ->check(not_empty())
        ->type_name("FILE");
    return [o, &app, as, ppl_stride] {
        if (ppl_stride->count() && !as->count()) o->shape.convention = Convention::llama_cpp;
        if (o->shape.convention == Convention::llama_cpp && !app.get_option("-c")->count()) o->engine.context = 512;
        perplexity(*o);
    };
}

}    // namespace hearth::tools
