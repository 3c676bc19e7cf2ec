// From logits to the next token.
#pragma once

#include "engine/model/tokenizer.h"

#include <random>
#include <span>
#include <vector>

namespace hearth {

struct SamplerOptions {
    float temperature = 0.8f;       // 0: always the most probable token
    uint32_t top_k = 40;            // only the k most probable; 0: all
    float top_p = 0.95f;            // only the fewest whose probabilities reach p
    float min_p = 0.05f;            // only those with at least this share of the best one's probability
    float repeat_penalty = 1.0f;    // logits of the last 64 tokens are divided (if negative: multiplied) by this
    uint64_t seed = 0;
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
    void forget() { recent_.clear(); }

    /// Chooses a token and accepts it.
    Token sample(std::span<const float> logits);

    /// Whether that is always the most probable one, so that the other logits need not be known.
    bool greedy() const { return options_.temperature <= 0 && options_.repeat_penalty == 1.0f; }

  private:
    void penalise();
    Token draw();

    SamplerOptions options_;
    std::mt19937_64 random_;
    std::vector<Token> recent_;

    struct Candidate {
        Token id;
        float logit;
        double weight;    // exp(logit - best logit)
    };
    /// Best first; equal logits by id, so that the order is always the same.
    static bool better(const Candidate& a, const Candidate& b) { return a.logit > b.logit || (a.logit == b.logit && a.id < b.id); }
    std::vector<float> logits_;    // kept from call to call
    std::vector<Candidate> all_;
};

}    // namespace hearth
