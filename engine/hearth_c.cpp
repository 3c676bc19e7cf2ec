// The C interface: exceptions become a sentence of the thread, a model is an Engine and its one Session.
#include "engine/hearth.h"

#include "engine/engine.h"
#include "engine/error.h"
#include "engine/system/signals.h"

#include <algorithm>
#include <atomic>

using namespace hearth;

struct hearth_model {
    explicit hearth_model(const EngineOptions& options) : engine(options), session(engine.session()) {}

    Engine engine;
    Session session;
    std::atomic_flag busy;
};

namespace {

thread_local std::string sentence;
thread_local const char* last_error = "";

void remember(const char* what) noexcept
{
    try {
        sentence = what;
        last_error = sentence.c_str();
    } catch (const std::exception&) {
        last_error = "there is not enough memory even to say what failed";
    }
}

/// Does the work; an exception of it becomes the thread's sentence, and `failed` is returned.
template <class Result, class Work>
Result without_exceptions(Result failed, const Work& work) noexcept
{
    try {
        return work();
    } catch (const std::exception& e) {
        const char* known = known_failure(e);
        remember(known ? known : e.what());
    } catch (...) {
        remember("something unexpected was thrown; please report this");
    }
    return failed;
}

void check_given(const void* argument, const char* function, const char* name)
{
    if (!argument) throw Error("{} was called with {} NULL", function, name);
}

/// A model while one call uses it.
class Use {
  public:
    Use(hearth_model* model, const char* function) : model_(model)
    {
        check_given(model, function, "model");
        if (model->busy.test_and_set())
            throw Error("{} was called while another call uses the model: wait for that, or open it twice", function);
    }
    ~Use() { model_->busy.clear(); }
    Use(const Use&) = delete;
    Use& operator=(const Use&) = delete;

  private:
    hearth_model* model_;
};

int64_t generate(hearth_model& model, const char* prompt, const SamplerOptions& options, uint64_t count,
                 hearth_piece piece, void* user)
{
    const Tokenizer& tokenizer = model.engine.tokenizer();
    const std::vector<Token> tokens = tokenizer.encode_prompt(prompt);
    Sampler sampler(options);
    for (const Token t : tokens) sampler.accept(t);
    Decoder decoder(tokenizer, true);
    const auto enough = [&](const std::string& text) {
        return !text.empty() && piece(text.c_str(), text.size(), user) != 0;
    };

    model.session.reset();
    if (count == 0) return 0;
    Token next = model.session.next(tokens, sampler).value();
    for (uint64_t written = 0;;) {
        const bool ended = std::ranges::find(tokenizer.ends(), next) != tokenizer.ends().end();
        if (!ended) {
            ++written;
            if (enough(decoder.push(next))) return int64_t(written);
        }
        if (ended || written == count || model.session.position() == model.engine.context()) {
            enough(decoder.finish());
            return int64_t(written);
        }
        next = model.session.next({&next, 1}, sampler).value();
    }
}

}    // namespace

const char* hearth_error(void) { return last_error; }

hearth_model* hearth_open(const char* path, const char* device, int64_t budget)
{
    return without_exceptions<hearth_model*>(nullptr, [&] {
        check_given(path, "hearth_open", "path");
        if (budget < -1) throw Error("hearth_open was called with a budget of {} bytes: give -1 or more", budget);
        EngineOptions options;
        options.model = path;
        if (device) options.device = device;
        if (budget >= 0) options.vram_budget = uint64_t(budget);
        return new hearth_model(options);
    });
}

void hearth_close(hearth_model* model) { delete model; }

int64_t hearth_tokenize(hearth_model* model, const char* text, int32_t* tokens, size_t room)
{
    return without_exceptions<int64_t>(-1, [&] {
        const Use use(model, "hearth_tokenize");
        check_given(text, "hearth_tokenize", "text");
        if (room) check_given(tokens, "hearth_tokenize", "tokens");
        const std::vector<Token> all = model->engine.tokenizer().encode_prompt(text);
        std::copy_n(all.begin(), std::min(room, all.size()), tokens);
        return int64_t(all.size());
    });
}

hearth_sampling hearth_default_sampling(void)
{
    const SamplerOptions o;
    return {o.temperature, o.top_k, o.top_p, o.min_p, o.seed};
}

int64_t hearth_generate(hearth_model* model, const char* prompt, const hearth_sampling* sampling, int64_t count,
                        hearth_piece piece, void* user)
{
    return without_exceptions<int64_t>(-1, [&] {
        const Use use(model, "hearth_generate");
        check_given(prompt, "hearth_generate", "prompt");
        check_given(reinterpret_cast<const void*>(piece), "hearth_generate", "piece");
        if (count < -1) throw Error("hearth_generate was called for {} tokens: ask for -1 or more", count);
        const hearth_sampling s = sampling ? *sampling : hearth_default_sampling();
        const SamplerOptions options = {
            .temperature = s.temperature, .top_k = s.top_k, .top_p = s.top_p, .min_p = s.min_p, .seed = s.seed};
        return generate(*model, prompt, options, count < 0 ? UINT64_MAX : uint64_t(count), piece, user);
    });
}
