#include "engine/run/sampler.h"
#include "tests/support.h"

#include <set>

using namespace hearth;

TEST_SUITE("sampler")
{
    TEST_CASE("temperature 0 takes the most probable token, the first of equals")
    {
        Sampler sampler({.temperature = 0});
        CHECK(sampler.sample(std::vector<float>{1, 5, 3, 5}) == 1);
    }

    TEST_CASE("a logit that is not a number is never chosen while another is left")
    {
        const float nan = NAN, least = -INFINITY;
        CHECK(most_probable(std::vector<float>{nan, 1, nan, 2, 2}) == 3);
        CHECK(most_probable(std::vector<float>{nan, least, least}) == 0);
        CHECK(most_probable(std::vector<float>{least, nan, -3e38f}) == 2);
        CHECK(most_probable(std::vector<float>{-0.0f, 0.0f}) == 0);
        for (const float temperature : {0.0f, 1.0f})
            CHECK(Sampler({.temperature = temperature}).sample(std::vector<float>{nan, 50, nan}) == 1);
    }

    TEST_CASE("a sampler is greedy if nothing but the largest logit matters")
    {
        CHECK(Sampler({.temperature = 0}).greedy());
        CHECK(Sampler({.temperature = 0, .top_k = 5, .seed = 3}).greedy());
        CHECK(!Sampler({.temperature = 0.1f}).greedy());
        CHECK(!Sampler({.temperature = 0, .repeat_penalty = 1.1f}).greedy());
        CHECK(!Sampler({.temperature = 0, .presence_penalty = 0.1f}).greedy());
        CHECK(!Sampler({.temperature = 0, .frequency_penalty = 0.1f}).greedy());
        CHECK(Sampler({.temperature = 0, .repeat_penalty = 1.1f, .repeat_last_n = 0}).greedy());
    }

    TEST_CASE("a seed gives the same tokens again, another seed others")
    {
        const std::vector<float> logits = tests::random_floats(500, 1);
        const auto draw = [&](uint64_t seed) {
            Sampler sampler({.seed = seed});
            std::vector<Token> ids;
            for (int i = 0; i < 50; ++i) ids.push_back(sampler.sample(logits));
            return ids;
        };
        CHECK(draw(1) == draw(1));
        CHECK(draw(1) != draw(2));
    }

    TEST_CASE("tokens come as often as their probabilities say")
    {
        const std::vector<float> logits = {std::log(0.5f), std::log(0.3f), std::log(0.2f)};
        Sampler sampler({.temperature = 1, .top_k = 0, .top_p = 1, .min_p = 0});
        int counts[3] = {};
        for (int i = 0; i < 30000; ++i) ++counts[sampler.sample(logits)];
        CHECK(std::abs(counts[0] - 15000) < 400);
        CHECK(std::abs(counts[1] - 9000) < 400);
        CHECK(std::abs(counts[2] - 6000) < 400);
    }

    TEST_CASE("top-k, top-p and min-p each leave out what they promise")
    {
        const std::vector<float> logits = {std::log(0.4f), std::log(0.3f), std::log(0.2f), std::log(0.1f)};
        const auto drawn = [&](SamplerOptions options) {
            options.temperature = 1;
            Sampler sampler(options);
            std::set<Token> ids;
            for (int i = 0; i < 2000; ++i) ids.insert(sampler.sample(logits));
            return ids;
        };
        CHECK(drawn({.top_k = 2, .top_p = 1, .min_p = 0}) == std::set<Token>{0, 1});
        CHECK(drawn({.top_k = 0, .top_p = 0.6f, .min_p = 0}) == std::set<Token>{0, 1});
        CHECK(drawn({.top_k = 0, .top_p = 1, .min_p = 0.45f}) == std::set<Token>{0, 1, 2});
        CHECK(drawn({.top_k = 0, .top_p = 0, .min_p = 0}) == std::set<Token>{0});
    }

    TEST_CASE("whatever was passed over, the tokens are those of all logits in order")
    {
        /// By the formulas, with all logits sorted.
        const auto plain = [](std::span<const float> logits, const SamplerOptions& o, double random) {
            std::vector<std::pair<double, Token>> all;    // smallest first
            for (Token i = 0; i < logits.size(); ++i)
                if (logits[i] > -INFINITY) all.push_back({-double(logits[i]), i});
            std::ranges::sort(all);
            if (o.top_k && o.top_k < all.size()) all.resize(o.top_k);
            const double best = all[0].first;
            double total = 0, reached = 0;
            for (const auto& [x, id] : all) total += std::exp(best - x);
            size_t kept = 0;
            for (; kept < all.size(); ++kept) {
                if (kept && (reached >= o.top_p * total || std::exp(best - all[kept].first) < o.min_p)) break;
                reached += std::exp(best - all[kept].first);
            }
            all.resize(kept);
            total = 0;
            for (const auto& [x, id] : all) total += std::exp((best - x) / o.temperature);
            double pick = random * total;
            for (const auto& [x, id] : all)
                if ((pick -= std::exp((best - x) / o.temperature)) < 0) return id;
            return all.back().second;
        };
        std::vector<SamplerOptions> options(6);
        options[1] = {.temperature = 1.5f, .top_k = 0, .top_p = 0.9f, .min_p = 0};
        options[2] = {.temperature = 1, .top_k = 0, .top_p = 0.9999f, .min_p = 0};
        options[3] = {.temperature = 0.5f, .top_k = 1000, .top_p = 1, .min_p = 0.01f};
        options[4] = {.temperature = 2, .top_k = 1, .top_p = 1, .min_p = 0};
        options[5] = {.temperature = 0.7f, .top_k = 300, .top_p = 1, .min_p = 0};
        for (const size_t n : {1, 2, 255, 256, 257, 5000, 70000}) {
            std::vector<float> logits = tests::random_floats(n, 7);
            for (size_t i = 0; i < n; ++i) {
                logits[i] *= 6;
                if (i % 3 == 1) logits[i] = std::round(logits[i]);    // many alike
                if (i % 7 == 2) logits[i] = NAN;
                if (i % 11 == 3) logits[i] = -INFINITY;
            }
            for (SamplerOptions& o : options) {
                CAPTURE(n);
                CAPTURE(&o - options.data());
                o.seed = 5;
                Sampler sampler(o);
                std::mt19937_64 random(o.seed);
                for (int i = 0; i < 20; ++i)
                    CHECK(sampler.sample(logits) == plain(logits, o, double(random() >> 11) * 0x1p-53));
            }
            const Token best = most_probable(logits);
            CHECK(best == plain(logits, {.temperature = 1, .top_k = 1}, 0));
        }
    }

    TEST_CASE("what the penalty was made to forget is as probable as ever")
    {
        Sampler sampler({.temperature = 0, .repeat_penalty = 2});
        CHECK(sampler.sample(std::vector<float>{4, 3}) == 0);
        CHECK(sampler.sample(std::vector<float>{4, 3}) == 1);
        sampler.forget();
        CHECK(sampler.sample(std::vector<float>{4, 3}) == 0);
    }

    TEST_CASE("the repeat penalty makes a token of the last 64 less probable, whatever the sign of its logit")
    {
        Sampler sampler({.temperature = 0, .repeat_penalty = 2});
        sampler.accept(0);
        CHECK(sampler.sample(std::vector<float>{4, 3}) == 1);
        Sampler negative({.temperature = 0, .repeat_penalty = 2});
        negative.accept(0);
        CHECK(negative.sample(std::vector<float>{-2, -3}) == 1);
        for (int i = 0; i < 64; ++i) negative.accept(1);
        CHECK(negative.sample(std::vector<float>{4, 3}) == 0);
    }

    // With one logit just below and one just above what the formula gives, the better of the two is the other token
    // once each.
    TEST_CASE("penalties are those of the formula: x / r or x r, less n f + p")
    {
        struct Case {
            SamplerOptions options;
            std::vector<Token> before;    // of tokens 0 and 2; 1 is the one to compare with
            float logit, expected;        // of token 0
        };
        const Case cases[] = {
            {{.presence_penalty = 0.5f}, {0}, 4, 3.5f},
            {{.presence_penalty = 0.5f}, {0, 0, 0}, 4, 3.5f},
            {{.frequency_penalty = 0.25f}, {0, 2, 0, 0}, 4, 3.25f},
            {{.presence_penalty = 0.5f, .frequency_penalty = 0.25f}, {0, 0}, -1, -2},
            {{.repeat_penalty = 2, .presence_penalty = 0.5f, .frequency_penalty = 0.25f}, {0, 0}, 4, 1},
            {{.repeat_penalty = 2, .presence_penalty = 0.5f, .frequency_penalty = 0.25f}, {0, 0}, -4, -9},
            {{.presence_penalty = -1}, {0}, 4, 5},
            {{.presence_penalty = 1}, {2}, 4, 4},
            {{.frequency_penalty = 1, .repeat_last_n = 2}, {0, 0, 0, 2}, 4, 3},
            {{.frequency_penalty = 1, .repeat_last_n = 1}, {0, 0, 0, 2}, 4, 4},
            {{.repeat_penalty = 3, .presence_penalty = 1, .frequency_penalty = 1, .repeat_last_n = 0}, {0, 0}, 4, 4},
        };
        for (const Case& c : cases)
            for (const bool less : {false, true}) {
                SamplerOptions options = c.options;
                options.temperature = 0;
                Sampler sampler(options);
                for (const Token t : c.before) sampler.accept(t);
                const float other = c.expected + (less ? -0.125f : 0.125f);
                CHECK(sampler.sample(std::vector<float>{c.logit, other, -100}) == (less ? 0u : 1u));
            }
    }

    TEST_CASE("penalties of the last -1 tokens know all of them")
    {
        for (const int32_t last : {-1, 64}) {
            Sampler sampler({.temperature = 0, .presence_penalty = 10, .repeat_last_n = last});
            sampler.accept(0);
            for (int i = 0; i < 100; ++i) sampler.accept(1);
            CHECK(sampler.sample(std::vector<float>{3, -1, 2}) == (last < 0 ? 2u : 0u));
        }
    }
}
