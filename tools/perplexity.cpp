// hearth perplexity: exp of the mean negative log likelihood of a text.
// The text's tokens are cut into runs of c - 1; each run is preceded by BOS, and every token of it is predicted. The last run may be shorter.
#include "tools/cli.h"

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
};

void perplexity(const PerplexityOptions& o)
{
    std::optional<OutputFile> stats_file;
    if (!o.stats.empty()) stats_file.emplace(o.stats);
    const std::string text = read_text({.text = "", .file = o.file});
    catch_interrupt();
    Engine engine = load_engine(o.engine);
    if (o.engine.sparsity != Sparsity::dense && o.engine.batch > 1)
        say("note: a prompt is computed with all neurons; -b 1 measures --sparsity as decode runs it");
    std::vector<Token> tokens = engine.tokenizer().encode(text);
    if (o.limit) tokens.resize(std::min(tokens.size(), size_t(o.limit)));
    if (tokens.empty()) throw Error("{} has no tokens to predict: name a file with a text", o.file);
    if (engine.context() < 2) throw Error("windows of {} tokens predict nothing: use -c 2 or more", engine.context());

    Session session = engine.session(stats_file.has_value());
    StatsTotals totals;
    session.on_stats = [&](const FeedStats& s) { totals.add(s); };
    ProgressBar bar("perplexity");
    const size_t run = engine.context() - 1;
    double sum = 0, squares = 0;
    size_t done = 0;
    for (; done < tokens.size() && !interrupted(); done += std::min(run, tokens.size() - done)) {
        const std::span<const Token> predicted = std::span(tokens).subspan(done, std::min(run, tokens.size() - done));
        std::vector<Token> input = {engine.tokenizer().bos()};
        input.insert(input.end(), predicted.begin(), predicted.end());
        session.reset();
        session.feed(input, [&](size_t t, std::span<const float> logits) {
            if (t == predicted.size()) return;    // after the last token there is nothing to compare with
            const double nll = negative_log_likelihood(logits, predicted[t]);
            sum += nll;
            squares += nll * nll;
        });
        bar.show(double(done) / double(tokens.size()));
    }
    if (done == 0) return say("interrupted before the first window was done");
    const double n = double(done), mean = sum / n;
    const double error = n > 1 ? std::sqrt(std::max(squares / n - mean * mean, 0.0) / (n - 1)) : 0;
    print(fmt::format("ppl = {:.4f} +- {:.4f}\n", std::exp(mean), error > 0 ? std::exp(mean) * error : 0.0));    // a large mean's exp is infinite
    say("{} tokens in windows of {}, mean negative log likelihood {:.6f} +- {:.6f}, {:.1f} tokens/s{}", done, engine.context(), mean, error,
        double(totals.tokens) * 1e6 / totals.us, interrupted() ? "; interrupted" : "");
    if (totals.looked_at < totals.host_neurons && totals.host_neurons > 0) {
        const double all = double(totals.host_neurons), fired = double(totals.fired_on_host);
        say("predictor: {:.1f} % of the CPU's gates looked at, {:.1f} % of its rows skipped{}", 100 * double(totals.looked_at) / all,
            100 * (1 - (double(totals.looked_at) + 2 * fired) / (3 * all)),
            o.engine.check_predictor ? fmt::format("; recall {:.2f} %", 100 * fired / std::max(1.0, fired + double(totals.missed))) : "");
    }
    if (stats_file) {
        const nlohmann::json all = {{"model", engine.config().name}, {"summary", engine.summary()}, {"mean_nll", mean}, {"totals", totals.json()}};
        stats_file->finish(dump(all));
    }
}

}    // namespace

Command add_perplexity(CLI::App& app)
{
    auto o = std::make_shared<PerplexityOptions>();
    o->engine.context = 256;
    add_engine_options(app, o->engine);
    app.get_option("-c")->description("tokens in a window, BOS included")->capture_default_str();
    app.add_option("-f,--file", o->file, "the text; - is standard input")->required()->check(not_empty());
    app.add_option("-n,--tokens", o->limit, "only the first n tokens of the text")->check(CLI::Range(int64_t(1), int64_t(1) << 40));
    app.add_flag("--check-predictor", o->engine.check_predictor, "with --sparsity predict: count what the predictor misses, too");
    app.add_option("--stats", o->stats, "write counters and times per layer and stage to a JSON file")->check(not_empty());
    return [o] { perplexity(*o); };
}

}    // namespace hearth::tools
