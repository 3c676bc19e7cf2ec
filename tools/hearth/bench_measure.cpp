#include "tools/hearth/bench_measure.h"

#include "engine/batcher.h"

#include <algorithm>
#include <random>

namespace hearth::tools {

namespace {

/// What `work` does, as the totals of its batches.
StatsTotals measure(Session& session, const std::function<void()>& work)
{
    StatsTotals totals;
    session.on_stats = [&](const FeedStats& s) { totals.add(s); };
    work();
    session.on_stats = {};
    return totals;
}

bool reads_on_host(const FeedStats& s)
{
    return std::ranges::any_of(s.stages, [](const Stage& stage) { return !stage.on_device && stage.bytes > 0; });
}

}    // namespace

BenchTexts::BenchTexts(const Engine& engine, uint32_t longest, float temperature)
    : prompt_{engine.tokenizer().bos()}, begin_(engine.tokenizer().bos()), temperature_(temperature)
{
    std::mt19937_64 random(0);
    while (prompt_.size() < longest) prompt_.push_back(Token(random() % engine.config().vocab));
}

Test BenchTexts::prefill(uint32_t tokens) const
{
    return {"prefill", tokens, [this, tokens](Session& s) {
                s.reset();
                s.feed(std::span<const Token>(prompt_).first(tokens));
            }};
}

Test BenchTexts::decode(uint32_t tokens) const
{
    return {"decode", tokens, [this, tokens](Session& s) {
                s.reset();
                Sampler sampler({.temperature = temperature_, .seed = 1});
                Token next = begin_;
                for (uint32_t i = 0; i < tokens; ++i) next = *s.next(std::span(&next, 1), sampler);
            }};
}

Series measure_speed(Engine& engine, const Test& test, uint32_t repetitions)
{
    Series series = {.name = test.name, .tokens = test.tokens, .tokens_per_s = {}};
    Session session = engine.session();
    test.work(session);    // warm caches, compiled kernels
    for (uint32_t r = 0; r < repetitions && !interrupted(); ++r) {
        const StatsTotals totals = measure(session, [&] { test.work(session); });
        series.tokens_per_s.push_back(double(totals.tokens) * 1e6 / totals.us);
        series.bytes_per_token = double(totals.bytes) / double(totals.tokens);
        series.downloaded_per_token = double(totals.downloaded) / double(totals.tokens);
    }
    if (interrupted()) throw Error("interrupted");
    if (const auto us = engine.expected_us(test.tokens / 2.0); us && std::string_view(test.name) == "decode")
        series.expected = 1e6 / *us;
    return series;
}

double stamp_us(const StatsTotals& timed, double longer_us)
{
    uint64_t stamps = 0;
    double shortest = INFINITY;
    for (const auto& [key, total] : timed.stages)
        if (std::get<bool>(key)) stamps += total.count, shortest = std::min(shortest, total.us / double(total.count));
    return stamps > 0 && longer_us > 0 ? std::min(longer_us / double(stamps), 0.9 * shortest) : 0;
}

StatsTotals measure_stages(Engine& engine, const Test& test, Series& series, std::vector<StageRow>& stages)
{
    Session session = engine.session(true);
    test.work(session);
    engine.read_speed();    // what it reads may not be in memory yet
    StatsTotals totals;
    uint32_t readings = 0;
    double seconds_per_gb = 0;
    session.on_stats = [&](const FeedStats& s) {
        totals.add(s);
        if (!reads_on_host(s)) return;
        seconds_per_gb += 1 / engine.read_speed();
        readings++;
    };
    test.work(session);
    if (readings > 0) series.read_speed = readings / seconds_per_gb;
    const double stamp = stamp_us(totals, totals.us - 1e6 * double(totals.tokens) / series.mean());
    std::map<std::pair<bool, std::string>, StageRow> rows;
    for (const auto& [key, total] : totals.stages) {
        const auto& [on_device, name, layer] = key;
        StageRow& row = rows.try_emplace({on_device, name}, StageRow{test.name, name, on_device, 0, 0}).first->second;
        row.us += (total.us - (on_device ? double(total.count) * stamp : 0)) / double(totals.tokens);
        row.bytes += double(total.bytes) / double(totals.tokens);
    }
    for (const auto& [key, row] : rows) stages.push_back(row);
    return totals;
}

std::vector<TogetherRow> measure_together(Engine& engine, const TogetherTest& o,
                                          const std::function<void(double)>& progress)
{
    constexpr uint32_t prompt = 8;
    std::vector<TogetherRow> rows;
    for (const uint32_t sequences : o.sequences) rows.push_back({.sequences = sequences});
    for (uint32_t r = 0; r <= o.repetitions; ++r) {    // the first one to warm up
        for (TogetherRow& row : rows) {
            Batcher batcher(engine);
            uint32_t prompts = row.sequences;
            double us = 0, bytes = 0;
            uint64_t tokens = 0;
            batcher.on_stats = [&](const FeedStats& s) {
                if (prompts > 0) return;    // only while all of them write
                us += s.us;
                tokens += s.tokens;
                bytes += double(s.bytes());
                if (r > 0) row.us.push_back(s.us);
            };
            for (uint32_t i = 0; i < row.sequences; ++i) {
                std::mt19937_64 random(i);
                Batcher::Request request = {.prompt = {engine.tokenizer().bos()},
                                            .sampling = {.temperature = o.temperature, .seed = i + 1},
                                            .count = o.count + row.sequences};
                while (request.prompt.size() < prompt)
                    request.prompt.push_back(Token(random() % engine.config().vocab));
                request.on_token = [&, first = true](Token) mutable {
                    if (first) --prompts;
                    first = false;
                    return tokens < uint64_t(o.count) * row.sequences;
                };
                batcher.add(std::move(request));
            }
            while (batcher.step())
                if (interrupted()) throw Error("interrupted");
            if (r == 0) continue;
            row.tokens_per_s.push_back(double(tokens) * 1e6 / us);
            row.bytes_per_token = bytes / double(tokens);
        }
        progress(double(r + 1) / (o.repetitions + 1));
    }
    return rows;
}

}    // namespace hearth::tools
