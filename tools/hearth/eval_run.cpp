// A model answers problems, several at once.
#include "engine/batcher.h"
#include "engine/system/checksum.h"
#include "engine/system/limits.h"
#include "tools/hearth/conversation.h"
#include "tools/hearth/eval.h"
#include "tools/hearth/text.h"
#include "tools/hearth/windows.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace hearth::tools {

size_t Evaluation::problems() const
{
    return options.limit ? std::min(options.limit, data.problems.size()) : data.problems.size();
}

uint32_t Evaluation::tokens(const eval::Problem& problem) const
{
    return options.tokens ? *options.tokens : problem.tokens ? problem.tokens : protocol.tokens;
}

namespace {

// ---- prompts --------------------------------------------------------------------------------------------------------

/// The prompts of all problems as tokens, and what ends an answer.
struct Prompts {
    std::vector<std::vector<Token>> tokens;
    std::vector<Token> ends;
    bool answer_continues = false;    // a text, rather than a turn
};

Prompts encode_prompts(const Evaluation& e, const Tokenizer& tokenizer, const Gguf& file)
{
    Prompts out = {.tokens = {}, .ends = tokenizer.ends()};
    if (!e.protocol.chat) {
        out.answer_continues = true;
        for (const eval::Problem& p : e.data.problems)
            out.tokens.push_back(tokenizer.encode_prompt(make_prompt(e.protocol, p, e.shots).question));
        return out;
    }
    const ChatTemplate format = choose_template(e.options.template_name, &file);
    ChatEncoder encoder(tokenizer, format);
    try {
        for (const eval::Problem& p : e.data.problems) {
            const eval::Prompt prompt = make_prompt(e.protocol, p, e.shots);
            jinja::Data::List messages;
            for (const eval::Shot& turn : prompt.turns) {
                messages.push_back(chat_message("user", {{turn.question, false}}));
                messages.push_back(chat_message("assistant", {{turn.answer, false}}));
            }
            messages.push_back(chat_message("user", {{prompt.question, false}}));
            std::vector<jinja::Piece> pieces = format.render(messages, true);
            if (!prompt.opening.empty()) pieces.push_back({prompt.opening, false});
            out.tokens.push_back(encoder.encode(pieces));
            out.answer_continues = !prompt.opening.empty();
        }
    } catch (const jinja::TemplateError& error) {
        throw not_rendered(format, error);
    }
    out.ends = encoder.stops();
    say_loose_marks(encoder);
    return out;
}

/// How many tokens all prompts begin with; of each at least one is left.
size_t shared_beginning(const std::vector<std::vector<Token>>& prompts)
{
    size_t shared = prompts[0].size();
    for (const std::vector<Token>& p : prompts) {
        shared = std::min(shared, p.size() - 1);
        shared = size_t(std::mismatch(p.begin(), p.begin() + ptrdiff_t(shared), prompts[0].begin()).first - p.begin());
    }
    constexpr size_t worth_a_fork = 32;
    return shared < worth_a_fork ? 0 : shared;
}

// ---- answers --------------------------------------------------------------------------------------------------------

/// The time that the model was at work.
class Clock {
  public:
    void start() { began_ = seconds(); }
    void stop()
    {
        sum_ += seconds() - began_;
        began_ = 0;
    }
    double now() const { return sum_ + (began_ > 0 ? seconds() - began_ : 0); }

  private:
    double sum_ = 0, began_ = 0;
};

/// One that is being written.
struct Answer {
    const eval::Problem& problem;
    std::vector<std::string> stops;
    eval::Sample sample;
    Decoder decoder;
    double asked, last = 0;
    std::vector<double> gaps;    // ms between tokens
};

/// Runs the problems of one configuration.
class Answering {
  public:
    Answering(const Evaluation& e, Engine& engine, const Prompts& prompts, eval::Run& run,
              std::function<void(const nlohmann::ordered_json&)> keep)
        : e_(e), engine_(engine), prompts_(prompts), run_(run), keep_(std::move(keep)), batcher_(engine),
          part_(run.parts())
    {
    }

    /// `shared`: tokens that all prompts begin with.
    void all(size_t shared, ProgressBar& bar)
    {
        std::vector<std::pair<size_t, uint32_t>> open;    // problem and sample
        const auto answered = run_.answered();
        for (uint32_t s = 0; s < e_.options.samples; ++s)
            for (size_t i = 0; i < e_.problems(); ++i)
                if (!answered.contains({e_.data.problems[i].id, s})) open.emplace_back(i, s);
        const size_t asked = e_.problems() * e_.options.samples;
        if (shared > 0 && !open.empty()) {
            beginning_.emplace(engine_.session());
            clock_.start();
            beginning_->feed(std::span(prompts_.tokens[0]).first(shared), [] { return interrupted(); });
            clock_.stop();
        }
        for (size_t next = 0; (next < open.size() || writing_ > 0) && !interrupted();) {
            for (; writing_ < e_.options.parallel && next < open.size(); ++next)
                ask(open[next].first, open[next].second);
            clock_.start();
            batcher_.step();
            clock_.stop();
            take_done();
            bar.show(double(asked - open.size() + next - writing_) / double(asked));
        }
    }

  private:
    void ask(size_t index, uint32_t number)
    {
        const eval::Problem& problem = e_.data.problems[index];
        std::vector<Token> prompt = prompts_.tokens[index];
        const uint32_t tokens = e_.tokens(problem);
        const size_t room = engine_.context() > tokens ? engine_.context() - tokens : 1;
        auto answer =
            std::make_shared<Answer>(Answer{.problem = problem,
                                            .stops = e_.protocol.stops,
                                            .sample = {.problem = problem.id, .number = number},
                                            .decoder = Decoder(engine_.tokenizer(), prompts_.answer_continues),
                                            .asked = clock_.now()});
        answer->stops.insert(answer->stops.end(), problem.stops.begin(), problem.stops.end());
        eval::Sample& sample = answer->sample;
        sample.part = part_;
        if (prompt.size() > room) {    // as lm-evaluation-harness does
            sample.cut_tokens = uint32_t(prompt.size() - room);
            prompt.erase(prompt.begin(), prompt.begin() + ptrdiff_t(sample.cut_tokens));
        }
        sample.prompt_tokens = uint32_t(prompt.size());
        SamplerOptions sampling = e_.options.sampling;
        sampling.seed +=
            0x9e3779b97f4a7c15u * (uint64_t(index) << 20 | number);    // one of its own, whatever else is asked
        Batcher::Request request = {.prompt = std::move(prompt), .sampling = sampling, .count = tokens};
        if (beginning_ && sample.cut_tokens == 0) {
            request.from = &*beginning_;
            sample.shared_tokens = beginning_->position();
        }
        request.on_token = [this, answer](Token t) { return take(*answer, t); };
        request.on_end = [this, answer](Batcher::End end) {
            if (answer->sample.end.empty()) answer->sample.end = end == Batcher::End::full ? "context" : "length";
            done_.push_back(answer);
        };
        batcher_.add(std::move(request));
        ++writing_;
    }

    /// False where the answer ends.
    bool take(Answer& a, Token token)
    {
        eval::Sample& s = a.sample;
        const double now = clock_.now();
        if (s.tokens == 0) s.first_ms = 1000 * (now - a.asked);
        else a.gaps.push_back(1000 * (now - a.last));
        a.last = now;
        ++s.tokens;
        if (std::ranges::find(prompts_.ends, token) != prompts_.ends.end()) {
            s.end = "end";
            return false;
        }
        s.answer += a.decoder.push(token);
        if (!eval::stopped_at(s.answer, a.stops)) return true;
        s.end = "stop";
        return false;
    }

    void take_done()
    {
        for (const auto& a : done_) {
            eval::Sample& s = a->sample;
            s.answer += a->decoder.finish();
            s.answer.resize(eval::stopped_at(s.answer, a->stops).value_or(s.answer.size()));
            s.seconds = a->last - a->asked;
            s.clock = a->last;
            if (!a->gaps.empty()) s.mean_ms = std::reduce(a->gaps.begin(), a->gaps.end()) / double(a->gaps.size());
            s.p50_ms = eval::quantile(a->gaps, 0.5);
            s.p95_ms = eval::quantile(a->gaps, 0.95);
            s.host_bytes = peak_memory().value_or(0);
            s.device_bytes = engine_.device_bytes();
            s.judgements = eval::judge(e_.protocol, a->problem, s.answer, e_.sandbox);
            keep_(to_json(run_, s));
            run_.samples.push_back(s);
            --writing_;
        }
        done_.clear();
    }

    const Evaluation& e_;
    Engine& engine_;
    const Prompts& prompts_;
    eval::Run& run_;
    const std::function<void(const nlohmann::ordered_json&)> keep_;
    std::optional<Session> beginning_;    // has read what all prompts begin with
    Batcher batcher_;
    Clock clock_;
    const uint32_t part_;
    size_t writing_ = 0;
    std::vector<std::shared_ptr<Answer>> done_;
};

// ---- perplexity -----------------------------------------------------------------------------------------------------

/// Of a text's first tokens, in windows of 256 as `hearth perplexity` has them; with sparsity one token at a time, as
/// answers are written.
std::optional<eval::Perplexity> text_perplexity(const EvalOptions& o, Engine& engine, bool sparse)
{
    const std::string text = read_text_file(o.perplexity_file);
    std::vector<Token> tokens = engine.tokenizer().encode(text);
    tokens.resize(std::min<size_t>(tokens.size(), o.perplexity_tokens));
    if (tokens.empty()) throw Error("{} has no tokens to predict: name a file with a text", o.perplexity_file);
    const WindowShape shape = {.context = std::min(256u, engine.context())};
    Session session = engine.session();
    double sum = 0, squares = 0;
    ProgressBar bar("perplexity");
    for (const Window& w : windows(shape, tokens.size())) {
        if (interrupted()) return {};
        std::vector<Token> input = {engine.tokenizer().bos()};
        input.insert(input.end(), tokens.begin() + ptrdiff_t(w.begin), tokens.begin() + ptrdiff_t(w.end));
        session.reset();
        for (size_t at = 0; at < input.size();) {
            const size_t count = sparse ? 1 : input.size();
            session.feed(std::span(input).subspan(at, count), [&](size_t t, std::span<const float> logits) {
                if (w.begin + at + t == w.end) return;    // behind the last one there is nothing to compare with
                const double nll = negative_log_likelihood(logits, tokens[w.begin + at + t]);
                sum += nll;
                squares += nll * nll;
            });
            at += count;
        }
        bar.show(double(w.end) / double(tokens.size()));
    }
    const double n = double(tokens.size()), mean = sum / n;
    const double error = n > 1 ? std::sqrt(std::max(squares / n - mean * mean, 0.0) / (n - 1)) : 0;
    return eval::Perplexity{std::exp(mean), std::exp(mean) * error, tokens.size(), checksum(text)};
}

}    // namespace

void answer_problems(const Evaluation& e, const Configuration& configuration, eval::Run& run,
                     const std::function<void(const nlohmann::ordered_json&)>& keep)
{
    forget_peak_memory();
    EngineOptions options = configuration.engine;
    Prompts prompts;
    {
        const auto file = std::make_shared<const Gguf>(options.model, options.overrides);
        prompts = encode_prompts(e, Tokenizer(*file), *file);
        if (options.context == 0) {
            size_t longest = 0;
            for (size_t i = 0; i < e.data.problems.size(); ++i)
                longest = std::max(longest, prompts.tokens[i].size() + e.tokens(e.data.problems[i]));
            const Config config = describe_weights(file).config;
            options.context = uint32_t(std::min<size_t>(longest, config.context));
            if (!e.options.perplexity_file.empty()) options.context = std::max(options.context, 256u);
        }
    }
    const size_t shared = e.options.whole_prompts ? 0 : shared_beginning(prompts.tokens);
    options.sequences = e.options.parallel + (shared > 0);
    Engine engine = load_engine(options);
    if (!e.options.perplexity_file.empty() && !run.perplexity) {
        run.perplexity = text_perplexity(e.options, engine, options.sparsity != Sparsity::dense);
        if (run.perplexity) keep(to_json(run, *run.perplexity));
    }
    ProgressBar bar(run.name);
    // Where there is no room for the longest prompt its beginning is left out, and with that what all share.
    const size_t before = run.samples.size();
    Answering(e, engine, prompts, run, keep).all(shared < engine.context() ? shared : 0, bar);
    const auto cut = std::ranges::count_if(run.samples, [](const eval::Sample& s) { return s.cut_tokens > 0; });
    if (cut > 0)
        say("note: {} of {} prompts did not fit into {} positions with their answers, and lost their beginning, as in "
            "lm-evaluation-harness",
            cut, run.samples.size(), engine.context());
    say("{}: {} answers{}", run.name, run.samples.size() - before, seed_note(e.options.sampling));
}

}    // namespace hearth::tools
