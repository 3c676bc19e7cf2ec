#include "engine/run/sampler.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

namespace hearth {

namespace {

constexpr float nothing = -std::numeric_limits<float>::infinity();
constexpr size_t block = 256;    // logits that are passed over together where their largest is too small

/// The largest of some numbers, among which NaN does not count; of none -inf. Lane by lane, so that it becomes vectors.
float largest(std::span<const float> x)
{
    constexpr size_t lanes = 16;
    float most[lanes];
    std::ranges::fill(most, nothing);
    const auto take = [](float& most, float x) { most = x > most ? x : most; };
    size_t i = 0;
    for (; i + lanes <= x.size(); i += lanes)
        for (size_t lane = 0; lane < lanes; ++lane) take(most[lane], x[i + lane]);
    for (; i < x.size(); ++i) take(most[0], x[i]);
    for (const float lane : most) take(most[0], lane);
    return most[0];
}

std::span<const float> block_at(std::span<const float> logits, size_t first)
{
    return logits.subspan(first, std::min(block, logits.size() - first));
}

}    // namespace

Token most_probable(std::span<const float> logits)
{
    float best = nothing;
    size_t of_block = 0;
    for (size_t i = 0; i < logits.size(); i += block)
        if (const float here = largest(block_at(logits, i)); here > best) {
            best = here;
            of_block = i;
        }
    if (best == nothing) return 0;
    return Token(std::ranges::find(logits.subspan(of_block), best) - logits.begin());
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
    if (penalises()) {
        logits_.assign(logits.begin(), logits.end());
        penalise();
        logits = logits_;
    }
    const Token chosen = options_.temperature <= 0 ? most_probable(logits) : draw(logits);
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

/// The `count` best, or as many as there are, in order. The largest of each block are looked at first: `count` of these
/// are no less than the least of them, and so no number below it can be among the best.
void Sampler::find_best(std::span<const float> logits, size_t count)
{
    largest_.clear();
    for (size_t i = 0; i < logits.size(); i += block) largest_.push_back(largest(block_at(logits, i)));
    float least = nothing;
    if (count < largest_.size()) {
        ordered_ = largest_;
        const auto last = ordered_.begin() + ptrdiff_t(count - 1);
        std::nth_element(ordered_.begin(), last, ordered_.end(), std::greater());
        least = *last;
    }
    best_.clear();
    for (size_t b = 0; b < largest_.size(); ++b) {
        if (largest_[b] < least) continue;
        const std::span<const float> here = block_at(logits, b * block);
        for (size_t i = 0; i < here.size(); ++i)
            if (here[i] >= least && here[i] > nothing) best_.push_back({Token(b * block + i), here[i], 0});
    }
    if (best_.empty()) best_.push_back({0, nothing, 0});
    count = std::min(count, best_.size());
    std::partial_sort(best_.begin(), best_.begin() + ptrdiff_t(count), best_.end(), better);
    best_.resize(count);
    for (Candidate& c : best_) c.weight = std::exp(double(c.logit) - best_[0].logit);
}

Token Sampler::draw(std::span<const float> logits)
{
    // Of all tokens only few can be chosen as a rule, but how many that is shows when they lie in order.
    size_t looked_at = std::min<size_t>(options_.top_k ? options_.top_k : 256, logits.size());
    find_best(logits, looked_at);
    double total = 0, reached = 0;
    if (options_.top_k)
        for (const Candidate& c : best_) total += c.weight;
    else
        for (const float logit : logits)
            if (logit > nothing) total += std::exp(double(logit) - best_[0].logit);
    size_t kept = 0;
    for (;;) {
        while (kept < best_.size() &&
               (kept == 0 || (reached < options_.top_p * total && best_[kept].weight >= options_.min_p)))
            reached += best_[kept++].weight;
        if (options_.top_k || kept < looked_at || looked_at == logits.size()) break;
        looked_at = std::min(16 * looked_at, logits.size());
        find_best(logits, looked_at);
    }
    best_.resize(kept);

    total = 0;
    for (Candidate& c : best_) total += c.weight = std::exp((double(c.logit) - best_[0].logit) / options_.temperature);
    // 53 random bits as a double in [0, 1): std::uniform_real_distribution differs from library to library.
    double pick = double(random_() >> 11) * 0x1p-53 * total;
    size_t i = 0;
    while (i + 1 < best_.size() && (pick -= best_[i].weight) >= 0) ++i;
    return best_[i].id;
}

}    // namespace hearth
