// Several sequences in one batch: each gets what it gets alone, whatever the others do.
#include "engine/batcher.h"
#include "tests/device_support.h"
#include "tests/random_model.h"

#include <random>

using namespace hearth;
using namespace hearth::tests;

namespace {

struct Path {
    std::string device = "cpu";
    double resident = 1;    // share of the neurons on the device
    Sparsity sparsity = Sparsity::dense;
    host::KvTypes kv = {};
    uint32_t layers = 1000;    // on the device, at the most
    uint32_t sequences = 1;
    uint32_t few = device == "cpu" || thorough ? host::most_few : 5;
};

EngineOptions options_for(const std::filesystem::path& model, const Path& path)
{
    EngineOptions o = {.model = model, .workshop = workshop};
    o.device = path.device;
    o.sparsity = path.sparsity;
    o.sequences = path.sequences;
    o.few = path.few;
    o.batch = 40;
    o.kv = path.kv;
    if (path.device == "cpu") return o;
    const Needs needs = device_needs(describe_weights(std::make_shared<Gguf>(model)), o);
    o.vram_budget = needs.scratch + (path.layers < needs.layers.size() ? 0 : needs.head);
    for (const LayerNeeds& l : std::span(needs.layers).first(std::min<size_t>(path.layers, needs.layers.size())))
        *o.vram_budget += l.attention + l.kv + uint64_t(std::lround(l.groups * path.resident)) * l.group;
    return o;
}

/// What was done with a session, and the logits that came of it.
struct Deed {
    std::vector<Token> fed;                    // or
    uint32_t rewound_to = 0;                   // where nothing was fed
    std::vector<std::vector<float>> logits;    // of the last tokens of `fed`
};
struct Watched {
    Session session;
    std::vector<Deed> deeds;
};

std::vector<float> copied(std::span<const float> logits) { return {logits.begin(), logits.end()}; }

/// The same deeds, by a session that has the engine for itself, token by token where few were fed.
void check_alone(Engine& alone, const std::vector<Deed>& deeds, double tolerance)
{
    Session session = alone.session();
    for (const Deed& deed : deeds) {
        if (deed.fed.empty()) {
            session.rewind(deed.rewound_to);
            continue;
        }
        std::vector<std::vector<float>> want;
        if (deed.fed.size() > host::most_few) want.push_back(copied(session.feed(deed.fed)));
        else
            for (const Token t : deed.fed) want.push_back(copied(session.feed(std::span(&t, 1))));
        for (size_t i = 0; i < deed.logits.size(); ++i) {
            const std::vector<float>& got = deed.logits[deed.logits.size() - 1 - i];
            const std::vector<float>& expected = want[want.size() - 1 - i];
            if (tolerance == 0) REQUIRE(got == expected);
            else REQUIRE(worst_error(got, expected) < tolerance);
        }
    }
}

/// A random schedule: sessions begin with a prompt or as a fork, decode some tokens together, each its own number of
/// them, go back, and end.
void run_schedule(Engine& together, uint64_t seed, std::vector<std::vector<Deed>>& ended)
{
    const uint32_t vocab = together.config().vocab, context = together.context(), most = together.few();
    std::mt19937_64 random(seed);
    const auto some = [&](size_t count) {
        std::vector<Token> tokens(count);
        for (Token& t : tokens) t = Token(random() % vocab);
        return tokens;
    };
    std::vector<Watched> sessions;
    const auto begin = [&] {
        if (!sessions.empty() && random() % 3 == 0) {
            const Watched& other = sessions[random() % sessions.size()];
            sessions.push_back({other.session.fork(), other.deeds});
            return;
        }
        Watched w = {together.session(), {}};
        // Some cross the end of a page.
        const std::vector<Token> prompt = some(random() % 4 == 0 ? 230 + random() % 40 : 17 + random() % 50);
        w.deeds.push_back({prompt, 0, {copied(w.session.feed(prompt))}});
        sessions.push_back(std::move(w));
    };
    begin();
    for (int step = 0; step < 12; ++step) {
        if (sessions.size() < most && random() % 2 == 0) begin();
        if (sessions.size() > 1 && random() % 5 == 0) {
            const size_t gone = random() % sessions.size();
            ended.push_back(std::move(sessions[gone].deeds));
            sessions.erase(sessions.begin() + ptrdiff_t(gone));
        }
        if (random() % 4 == 0) {
            Watched& w = sessions[random() % sessions.size()];
            const uint32_t to = w.session.position() - uint32_t(random() % std::min(w.session.position(), 20u));
            w.session.rewind(to);
            w.deeds.push_back({{}, to, {}});
        }
        std::vector<Turn> turns;
        std::vector<Deed*> deeds;
        size_t room = together.few();
        for (Watched& w : sessions) {
            const size_t count = random() % 4 == 0 ? 1 + random() % 5 : 1;    // a draft, or a token
            if (count > room || w.session.position() + count > context) continue;
            room -= count;
            Deed& deed = w.deeds.emplace_back(Deed{some(count), 0, {}});
            turns.push_back({.session = &w.session, .tokens = deed.fed, .wanted = 1 + random() % count});
            deeds.push_back(&deed);
        }
        if (turns.empty()) continue;
        for (size_t i = 0; i < turns.size(); ++i)
            turns[i].take = [deed = deeds[i]](size_t, std::span<const float> logits) {
                deed->logits.push_back(copied(logits));
            };
        together.together(turns);
    }
    for (Watched& w : sessions) ended.push_back(std::move(w.deeds));
}

void check_silence(Engine& engine)
{
    for (const std::string& message : engine.take_validation_messages()) FAIL_CHECK(message);
}

/// Random schedules give every session what it gets alone.
void check_schedules(const std::filesystem::path& model, Path path, int schedules, double tolerance, uint64_t seed = 1)
{
    CAPTURE(path.device);
    CAPTURE(path.resident);
    CAPTURE(int(path.sparsity));
    std::vector<std::vector<Deed>> ended;
    {
        Path many = path;
        many.sequences = path.few + 1;
        Engine together(options_for(model, many));
        for (int i = 0; i < schedules; ++i) run_schedule(together, seed + uint64_t(i), ended);
        check_silence(together);
    }
    // Not beside it: engines that are open at once share a budget, and each of them would have other groups.
    Engine alone(options_for(model, path));
    for (const std::vector<Deed>& deeds : ended) check_alone(alone, deeds, tolerance);
    check_silence(alone);
}

const RandomModel tiny = {.layers = 2, .dim = 32, .heads = 2, .kv_heads = 1, .neurons = 96, .context = 320};

/// With predictors, which on random weights are often wrong.
RandomModel relu_model()
{
    RandomModel m = tiny;
    m.predictor = {32, 32};
    return m;
}
RandomModel silu_model()    // with down as most files have it
{
    RandomModel m = tiny;
    m.dim = 64;
    m.type = WeightType::q4_0;
    m.activation = host::Activation::silu;
    m.down_transposed = false;
    return m;
}
RandomModel experts_model()
{
    RandomModel m = tiny;
    m.experts = 4;
    m.neurons = 64;
    m.activation = host::Activation::silu;
    return m;
}

}    // namespace

TEST_SUITE("engine")
{
    TEST_CASE("sequences that join, end, fork and go back get the bits on the CPU that they get alone")
    {
        TemporaryFolder folder;
        const auto relu = write_random_model(folder / "relu.gguf", relu_model());
        const auto silu = write_random_model(folder / "silu.gguf", silu_model());
        const auto experts = write_random_model(folder / "experts.gguf", experts_model());
        const int many = thorough ? 1000 : 40;
        for (const Sparsity sparsity : {Sparsity::dense, Sparsity::exact, Sparsity::predict})
            check_schedules(relu, {.sparsity = sparsity}, many, 0);
        for (const WeightType type : {WeightType::q4_0, WeightType::q4_k}) {    // rows that are added up in integers
            RandomModel integers = tiny;
            integers.dim = 512, integers.heads = 8, integers.type = type;
            const auto model = write_random_model(folder / "integers.gguf", integers);
            check_schedules(model, {.sparsity = Sparsity::exact}, many / 4, 0);
        }
        check_schedules(silu, {}, many, 0);
        check_schedules(silu, {.kv = {WeightType::q8_0, WeightType::q8_0}}, many, 0);
        check_schedules(experts, {}, many, 0);
        for (const WeightType type : {WeightType::f32, WeightType::q4_0}) {    // down as other programs store it
            RandomModel plain = experts_model();
            plain.dim = 64, plain.type = type, plain.down_transposed = false;
            check_schedules(write_random_model(folder / "plain.gguf", plain), {}, many, 0);
        }
    }

    TEST_CASE("few rows read the rows of neurons that fire for any of them, once")
    {
        TemporaryFolder folder;
        const auto model = write_random_model(folder / "relu.gguf", tiny);
        Engine engine(options_for(model, {.sparsity = Sparsity::exact, .sequences = 4}));
        std::vector<Session> sessions;
        for (int i = 0; i < 4; ++i) sessions.push_back(engine.session());
        const std::vector<Token> tokens = {10, 20, 30, 40};
        std::vector<FeedStats> alone;
        for (int i = 0; i < 4; ++i) {
            sessions[i].on_stats = [&](const FeedStats& s) { alone.push_back(s); };
            sessions[i].feed(std::span(&tokens[i], 1));
            sessions[i].reset();
        }
        std::vector<Turn> turns;
        for (int i = 0; i < 4; ++i)
            turns.push_back({.session = &sessions[i],
                             .tokens = std::span(&tokens[i], 1),
                             .take = [](size_t, std::span<const float>) {}});
        const FeedStats all = engine.together(turns);
        uint64_t sum = 0, most = 0, fired = 0;
        for (const FeedStats& s : alone) {
            sum += s.bytes();
            most = std::max(most, s.bytes());
            for (const LayerCounts& l : s.layers) fired += l.active_host;
        }
        uint64_t fired_together = 0;
        for (const LayerCounts& l : all.layers) fired_together += l.active_host;
        CHECK(fired_together == fired);
        CHECK(all.bytes() >= most);
        CHECK(all.bytes() < sum / 2);
    }

    TEST_CASE("five tokens verified together read little more than one, and give the logits of each")
    {
        TemporaryFolder folder;
        RandomModel m = tiny;
        m.activation = host::Activation::silu;
        m.dim = 128;
        m.neurons = 512;
        const auto model = write_random_model(folder / "silu.gguf", m);
        Engine engine(options_for(model, {}));
        Session session = engine.session(), one = engine.session();
        const std::vector<Token> prompt(20, 7), draft = {5, 6, 7, 8, 9};
        session.feed(prompt);
        one.feed(prompt);
        uint64_t bytes = 0;
        std::vector<std::vector<float>> want, got;
        one.on_stats = [&](const FeedStats& s) { bytes = s.bytes(); };
        for (const Token& t : draft) want.push_back(copied(one.feed(std::span(&t, 1))));
        const Turn turn[] = {{.session = &session,
                              .tokens = draft,
                              .wanted = draft.size(),
                              .take = [&](size_t, std::span<const float> l) { got.push_back(copied(l)); }}};
        const FeedStats stats = engine.together(turn);
        CHECK(got == want);
        CHECK(double(stats.bytes()) < 1.1 * double(bytes));
    }

    TEST_CASE("a batcher gives each request the tokens that it gets alone, however many run together")
    {
        TemporaryFolder folder;
        const auto model = write_random_model(folder / "model.gguf", tiny);
        std::vector<std::vector<Token>> want;
        for (const uint32_t sequences : {1u, 3u, 16u}) {
            Engine engine(options_for(model, {.sequences = sequences}));
            Batcher batcher(engine);
            std::vector<std::vector<Token>> got(20);
            std::vector<Batcher::End> ends(got.size());
            std::mt19937_64 random(5);
            size_t most = 0;
            for (size_t i = 0; i < got.size(); ++i) {
                Batcher::Request r = {.prompt = std::vector<Token>(1 + random() % 60),
                                      .sampling = {.temperature = i % 2 ? 0.8f : 0.0f, .seed = i},
                                      .count = i == 3 ? 1000 : 1 + random() % 30};
                for (Token& t : r.prompt) t = Token(random() % engine.config().vocab);
                r.on_token = [&got, i](Token t) {
                    got[i].push_back(t);
                    return !(i == 7 && got[i].size() == 4);
                };
                r.on_end = [&ends, i](Batcher::End end) { ends[i] = end; };
                batcher.add(std::move(r));
            }
            const Batcher::Id unwanted = batcher.add({.prompt = {1}, .on_token = [](Token) { return true; }});
            while (batcher.step()) {
                most = std::max(most, batcher.running());
                batcher.cancel(unwanted);
            }
            CHECK(most <= sequences);
            CHECK(ends[3] == Batcher::End::full);
            CHECK(ends[7] == Batcher::End::enough);
            CHECK(ends[0] == Batcher::End::count);
            if (want.empty()) want = got;
            CHECK(got == want);
        }
    }

    TEST_CASE("requests that go on from what a session has read get the tokens of their whole prompts")
    {
        EngineOptions options = on_cpu(shipped_model());
        options.context = 512;
        options.sequences = 4;
        options.few = 4;
        Engine engine(options);
        std::mt19937_64 random(9);
        const auto some = [&](size_t n) {
            std::vector<Token> tokens(n);
            for (Token& t : tokens) t = Token(random() % engine.config().vocab);
            return tokens;
        };
        const std::vector<Token> beginning = some(300);    // ends within a page
        Session read = engine.session();
        read.feed(beginning);
        std::vector<std::vector<Token>> alone(7), together(7);
        std::vector<std::vector<Token>> prompts;
        for (size_t i = 0; i < alone.size(); ++i) {
            prompts.push_back(beginning);
            for (const Token t : some(1 + i * 5)) prompts.back().push_back(t);
        }
        for (auto* got : {&alone, &together}) {
            Batcher batcher(engine);
            size_t writing = 0, next = 0;
            do {
                for (; writing < 3 && next < prompts.size(); ++next, ++writing)
                    batcher.add({.prompt = prompts[next],
                                 .from = got == &together ? &read : nullptr,
                                 .sampling = {.temperature = next % 2 ? 0.8f : 0.0f, .seed = next},
                                 .count = 20,
                                 .on_token = [got, next](Token t) { return (*got)[next].push_back(t), true; },
                                 .on_end = [&writing](Batcher::End) { --writing; }});
            } while (batcher.step() || next < prompts.size());
        }
        CHECK(together == alone);
        CHECK(read.position() == beginning.size());
    }

    TEST_CASE("a KV cache that all sequences together fill is named, and none of them is lost")
    {
        TemporaryFolder folder;
        const auto model = write_random_model(folder / "model.gguf", tiny);
        Engine engine(options_for(model, {.sequences = 1}));    // two pages
        Session first = engine.session(), second = engine.session(), third = engine.session();
        const std::vector<Token> text(30, 9);
        first.feed(text);
        second.feed(text);
        CHECK_THROWS_WITH_AS(third.feed(text), doctest::Contains("the KV cache is full"), Error);
        CHECK(third.position() == 0);
        first.reset();
        third.feed(text);
        CHECK(third.position() == 30);
    }
}

TEST_SUITE("device")
{
    TEST_CASE("sequences that join, end, fork and go back get the same on the device and on a split as alone")
    {
        TemporaryFolder folder;
        const auto relu = write_random_model(folder / "relu.gguf", relu_model());
        const int many = thorough ? 20 : 2;
        const double tolerance = 1e-5;
        // Each of them compiles kernels of its own, which takes a software device longer than running them.
        for (const auto& [resident, of_few] : {std::pair(1.0, Sparsity::dense),
                                               {0.67, Sparsity::exact},
                                               {0.34, Sparsity::predict},
                                               {0.0, Sparsity::exact}})
            for (const Sparsity sparsity : {Sparsity::dense, Sparsity::exact, Sparsity::predict})
                if (thorough || sparsity == of_few)
                    check_schedules(relu, {device_name, resident, sparsity}, many, tolerance);
        const auto silu = write_random_model(folder / "silu.gguf", silu_model());
        check_schedules(silu, {device_name, 1, Sparsity::dense, {WeightType::q8_0, WeightType::q8_0}}, many, tolerance);
        if (thorough) check_schedules(silu, {.device = device_name, .layers = 1}, many, tolerance);
        const auto experts = write_random_model(folder / "experts.gguf", experts_model());
        if (thorough) check_schedules(experts, {device_name, 1}, many, tolerance);
        check_schedules(experts, {device_name, 0.5}, many, tolerance);
    }

    TEST_CASE("a model whose vectors do not all begin on 16 bytes gives the same together as alone")
    {
        TemporaryFolder folder;
        RandomModel odd = tiny;
        odd.dim = 34, odd.heads = 1;
        check_schedules(write_random_model(folder / "odd.gguf", odd), {device_name, 0.67}, 2, 1e-5);
        odd.dim = 32, odd.head_dim = 34;
        check_schedules(write_random_model(folder / "heads.gguf", odd), {device_name, 1}, 2, 1e-5);
        odd.head_dim = 0, odd.predictor = {30, 30};
        check_schedules(write_random_model(folder / "predictor.gguf", odd), {device_name, 0.34, Sparsity::predict}, 2,
                        1e-5);
    }

    TEST_CASE("many forks of a long text go on together")
    {
        TemporaryFolder folder;
        RandomModel longer = tiny;
        longer.context = 1100;
        const auto model = write_random_model(folder / "model.gguf", longer);
        for (const std::string& device : {std::string("cpu"), device_name}) {
            Path path = {device};
            path.sequences = 4;
            Engine engine(options_for(model, path));
            Session first = engine.session();
            const std::vector<Token> text(1024, 9);    // whole pages, which all of them share
            first.feed(text);
            std::vector<Session> forks;
            for (uint32_t i = 0; i < engine.few(); ++i) forks.push_back(first.fork());
            std::vector<Token> tokens(forks.size(), 5);
            std::vector<std::vector<float>> got;
            std::vector<Turn> turns;
            for (size_t i = 0; i < forks.size(); ++i)
                turns.push_back({.session = &forks[i],
                                 .tokens = std::span(&tokens[i], 1),
                                 .take = [&](size_t, std::span<const float> l) { got.push_back(copied(l)); }});
            engine.together(turns);
            REQUIRE(got.size() == forks.size());
            for (const std::vector<float>& logits : got) CHECK(logits == got[0]);
            check_silence(engine);
        }
    }
}
