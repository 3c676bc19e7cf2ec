#include "engine/run/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace hearth {

Token most_probable(std::span<const float> logits)
{
    Token best = 0;
    for (Token i = 1; i < logits.size(); ++i)
        if (logits[i] > logits[best] ||
            (std::isnan(logits[best]) && logits[i] > -std::numeric_limits<float>::infinity()))
            best = i;
    return best;
}

void Sampler::accept(Token token)
{
    if (!penalises() || is_row(token)) return;    // which no sampler can choose
    recent_.push_back(token);
    ++counts_[token];
    if (options_.repeat_last_n < 0 || recent_.size() <= size_t(options_.repeat_last_n)) return;
    const auto oldest = counts_.find(recent_.front());
    if (--oldest->second == 0) counts_.erase(oldest);
    recent_.pop_front();
}

Token Sampler::sample(std::span<const float> logits)
{
    logits_.assign(logits.begin(), logits.end());
    for (float& logit : logits_)
        if (std::isnan(logit)) logit = -std::numeric_limits<float>::infinity();    // has no place in an order
    if (penalises()) penalise();
    const Token chosen = options_.temperature <= 0 ? most_probable(logits_) : draw();
    accept(chosen);
    return chosen;
}

void Sampler::penalise()
{
    for (const auto& [id, n] : counts_) {
        float& x = logits_[id];
        x = x > 0 ? x / options_.repeat_penalty : x * options_.repeat_penalty;
        x -= float(n) * options_.frequency_penalty + options_.presence_penalty;
    }
}

Token Sampler::draw()
{
    std::vector<Candidate>& all = all_;
    all.resize(logits_.size());
    for (uint32_t i = 0; i < logits_.size(); ++i) all[i] = {i, logits_[i], 0};
    const size_t k = options_.top_k ? std::min<size_t>(options_.top_k, all.size()) : all.size();
    std::partial_sort(all.begin(), all.begin() + ptrdiff_t(k), all.end(), better);
    all.resize(k);

    double total = 0;
    for (Candidate& c : all) total += c.weight = std::exp(double(c.logit) - all[0].logit);
    double reached = 0;
    size_t kept = 0;
    while (kept < all.size() && (kept == 0 || (reached < options_.top_p * total && all[kept].weight >= options_.min_p)))
        reached += all[kept++].weight;
    all.resize(kept);

    total = 0;
    for (Candidate& c : all) total += c.weight = std::exp((double(c.logit) - all[0].logit) / options_.temperature);
    // 53 random bits as a double in [0, 1): std::uniform_real_distribution differs from library to library.
    double pick = double(random_() >> 11) * 0x1p-53 * total;
    size_t i = 0;
    while (i + 1 < all.size() && (pick -= all[i].weight) >= 0) ++i;
    return all[i].id;
}

}    // namespace hearth
