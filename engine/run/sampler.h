// From logits to the next token.
#pragma once

#include "engine/text/tokenizer.h"

#include <deque>
#include <random>
#include <span>
#include <unordered_map>
#include <vector>

namespace hearth {

struct SamplerOptions {
    float temperature = 0.8f;    // 0: always the most probable token
    uint32_t top_k = 40;         // only the k most probable; 0: all
    float top_p = 0.95f;         // only the fewest whose probabilities reach p
    float min_p = 0.05f;         // only those with at least this share of the best one's probability
    // Penalties, as llama.cpp's: of a token that came n > 0 times among the last repeat_last_n, the prompt's included,
    // a logit x becomes (x > 0 ? x / repeat_penalty : x * repeat_penalty) - n frequency_penalty - presence_penalty.
    float repeat_penalty = 1.0f;
    float presence_penalty = 0.0f;
    float frequency_penalty = 0.0f;
    int32_t repeat_last_n = 64;    // -1: all; 0: no penalties
    uint64_t seed = 0;
    bool seed_drawn = false;    // by the program, which then says it
};

/// The first of those with the largest logit; NaN is taken for -inf.
Token most_probable(std::span<const float> logits);

/// Same logits, same options, same seed: same tokens, on every platform.
class Sampler {
  public:
    explicit Sampler(const SamplerOptions& options) : options_(options), random_(options.seed) {}

    /// Tokens that the penalty shall know of: the prompt's.
    void accept(Token token);

    /// Takes back what was accepted; the random choice goes on.
    void forget()
    {
        recent_.clear();
        counts_.clear();
    }

    /// Chooses a token and accepts it.
    Token sample(std::span<const float> logits);

    /// Whether that is always the most probable one, so that the other logits need not be known.
    bool greedy() const { return options_.temperature <= 0 && !penalises(); }

  private:
    bool penalises() const
    {
        return options_.repeat_last_n != 0 &&
               (options_.repeat_penalty != 1 || options_.presence_penalty != 0 || options_.frequency_penalty != 0);
    }
    void penalise();
    Token draw(std::span<const float> logits);
    void find_best(std::span<const float> logits, size_t count);

    SamplerOptions options_;
    std::mt19937_64 random_;
    std::deque<Token> recent_;                      // the last repeat_last_n
    std::unordered_map<Token, uint32_t> counts_;    // of them

    struct Candidate {
        Token id;
        float logit;
        double weight;    // exp(logit - best logit)
    };
    /// Best first; equal logits by id, so that the order is always the same.
    static bool better(const Candidate& a, const Candidate& b)
    {
        return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
    }
    // Kept from call to call.
    std::vector<float> logits_, largest_, ordered_;    // with penalties; of each block, and the same in order
    std::vector<Candidate> best_;
};

}    // namespace hearth
