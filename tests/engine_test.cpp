// The whole model on every path, against the expected results and the reference.
#include "engine/model/requantise.h"
#include "engine/plan/hotness.h"
#include "engine/device/session.h"
#include "engine/system/large_pages.h"
#include "engine/tune/profiler.h"
#include "engine/run/reference.h"
#include "engine/run/scheduler.h"
#include "tests/paths.h"

#include <algorithm>
#include <map>
#include <random>

using namespace hearth;
using namespace hearth::tests;

namespace {

std::vector<Token> greedy(Engine& engine, const std::vector<Token>& prompt, size_t count)
{
    Session session = engine.session();
    Sampler sampler({.temperature = 0});
    std::vector<Token> ids = {session.next(prompt, sampler).value()};
    while (ids.size() < count) ids.push_back(session.next(std::span(&ids.back(), 1), sampler).value());
    return ids;
}

/// The first `prompts` of expected/greedy.json.
void check_greedy(const Path& path, size_t prompts = 100)
{
    INFO(path.name());
    Engine engine(options_for(shipped_model(), path));
    CHECK(engine.on_device() == (path.device != "cpu"));
    for (const auto& c : expected("greedy.json")) {
        const auto want = c["ids"].get<std::vector<Token>>();
        const auto prompt = c["prompt_ids"].get<std::vector<Token>>();
        if (prompts-- > 0) CHECK(greedy(engine, prompt, want.size()) == want);
        else break;
    }
    check_silence(engine);
}

/// Last-token logits, through prefill and, of texts of at most `by_token` tokens, token by token.
void check_logits(const Path& path, const std::filesystem::path& model,
                  const std::vector<std::pair<std::vector<Token>, std::vector<float>>>& cases, double tolerance,
                  size_t by_token = 64)
{
    INFO(path.name());
    Engine engine(options_for(model, path));
    for (const auto& [ids, want] : cases) {
        Session session = engine.session();
        CHECK(worst_error(session.feed(ids), want) < tolerance);
        if (ids.size() > by_token) continue;
        Session again = engine.session();
        std::span<const float> logits;
        for (const Token& id : ids) logits = again.feed(std::span(&id, 1));
        CHECK(worst_error(logits, want) < tolerance);
    }
    check_silence(engine);
}

/// The cases of expected/logits.json of at most so many tokens: the last one, of 600, takes a software device long.
std::vector<std::pair<std::vector<Token>, std::vector<float>>> expected_logits(size_t most = 100)
{
    std::vector<std::pair<std::vector<Token>, std::vector<float>>> cases;
    for (const auto& c : expected("logits.json"))
        if (c["ids"].size() <= most)
            cases.emplace_back(c["ids"].get<std::vector<Token>>(), c["logits"].get<std::vector<float>>());
    return cases;
}

std::vector<float> reference_logits(const std::filesystem::path& model, const std::vector<Token>& ids)
{
    const Weights weights = load_weights(std::make_shared<Gguf>(model));
    Reference reference(weights);
    std::vector<float> logits;
    for (const Token id : ids) logits = reference.feed(id);
    return logits;
}

/// Feeds and goes back, within a batch and over several, and feeds something else.
void check_rewind(const Path& path)
{
    INFO(path.name());
    Engine engine(options_for(shipped_model(), path));
    const std::vector<Token> kept = random_ids(4096, 20, 6), forgotten = random_ids(4096, 150, 7),
                             instead = random_ids(4096, 10, 8);
    const auto logits = [&](Session& session) {
        const auto got = session.feed(instead);
        return std::vector<float>(got.begin(), got.end());
    };
    Session never_there = engine.session(), back = engine.session();
    never_there.feed(kept);
    back.feed(kept);
    back.feed(forgotten);
    back.rewind(100);
    back.feed(forgotten);
    back.rewind(20);
    CHECK(back.position() == 20);
    CHECK(logits(back) == logits(never_there));
    check_silence(engine);
}

constexpr host::KvTypes eight_bit_caches[] = {
    {WeightType::q8_0, WeightType::q8_0}, {WeightType::q8_0, WeightType::f16}, {WeightType::f16, WeightType::q8_0}};

/// Keys and values of 8 bits are noticed in the logits, and no more than that.
void check_cache(const Path& path)
{
    INFO(path.name());
    INFO(format_of(path.kv.k).name << " " << format_of(path.kv.v).name);
    Engine engine(options_for(shipped_model(), path));
    for (const auto& [ids, want] : expected_logits()) {
        if (ids.size() < 2) continue;    // of one position the softmax is 1, whatever the key
        Session session = engine.session(), slow = engine.session();
        const double error = worst_error(session.feed(ids), want);
        CHECK(error > 5e-4);
        CHECK(error < 3e-2);
        std::span<const float> logits;
        for (const Token& id : ids) logits = slow.feed(std::span(&id, 1));
        CHECK(worst_error(logits, want) < 3e-2);
    }
    check_silence(engine);
}

/// Shapes that differ from the shipped model's in every way that a file can say.
std::vector<RandomModel> odd_models()
{
    return {
        {.layers = 3,
         .dim = 96,
         .heads = 3,
         .kv_heads = 1,
         .head_dim = 48,
         .neurons = 200,
         .vocab = 333,
         .type = WeightType::f16,
         .activation = host::Activation::silu,
         .down_transposed = false},
        {.layers = 2,
         .dim = 64,
         .heads = 4,
         .kv_heads = 4,
         .neurons = 130,
         .vocab = 300,
         .type = WeightType::bf16,
         .tied_head = true,
         .down_transposed = false},
        {.layers = 2,
         .dim = 128,
         .heads = 2,
         .kv_heads = 2,
         .neurons = 96,
         .vocab = 320,
         .type = WeightType::f32,
         .seed = 3},
        {.layers = 2,
         .dim = 160,
         .heads = 5,
         .kv_heads = 5,
         .neurons = 352,
         .vocab = 320,
         .type = WeightType::q8_0,
         .down_transposed = false,
         .seed = 4},
        {.layers = 2,
         .dim = 256,
         .heads = 8,
         .kv_heads = 2,
         .neurons = 352,
         .vocab = 320,
         .type = WeightType::q4_0,
         .activation = host::Activation::silu,
         .down_transposed = false,
         .seed = 5},
        {.layers = 2,
         .dim = 256,
         .heads = 8,
         .kv_heads = 2,
         .neurons = 512,
         .vocab = 320,
         .type = WeightType::q6_k,
         .activation = host::Activation::silu,
         .down_transposed = false,
         .seed = 8},
        {.layers = 2,
         .dim = 256,
         .heads = 4,
         .kv_heads = 2,
         .neurons = 200,
         .vocab = 320,
         .type = WeightType::q4_k,
         .tied_head = true,
         .seed = 6},
        {.layers = 2,
         .dim = 512,
         .heads = 8,
         .kv_heads = 4,
         .neurons = 256,
         .vocab = 320,
         .type = WeightType::q6_k,
         .down_transposed = false,
         .seed = 7},
    };
}

/// The next text that does not hang on a choice between two experts of nearly the same score, which rounding could turn
/// round.
std::pair<std::vector<Token>, std::vector<float>> decided_case(const std::filesystem::path& model, uint32_t vocab,
                                                               size_t length)
{
    const Weights weights = load_weights(std::make_shared<Gguf>(model));
    for (uint64_t seed = 0;; ++seed) {
        std::vector<Token> ids = random_ids(vocab, length, 1000 * length + seed);
        Reference reference(weights);
        std::vector<float> logits;
        for (const Token id : ids) logits = reference.feed(id);
        if (reference.closest_choice() > 1e-3f) return {ids, logits};
        REQUIRE(seed < 100);
    }
}

void check_experts(const std::vector<Path>& paths)
{
    TemporaryFolder folder;
    for (const RandomModel& m : expert_models()) {
        const auto model = write_random_model(folder / "random.gguf", m);
        std::vector<std::pair<std::vector<Token>, std::vector<float>>> cases;
        for (const size_t length : {1, 7, 20}) cases.push_back(decided_case(model, m.vocab, length));
        CAPTURE(m.architecture);
        CAPTURE(format_of(m.type).name);
        for (Path path : paths) {
            check_logits(path, model, cases, 3e-3);
            path.sparsity = Sparsity::exact;
            if (host::makes_zeros(m.activation)) check_logits(path, model, cases, 3e-3);
        }
    }
}

/// The reference on the very weights of each, at a short text and at one longer than a batch of the device's smaller
/// recording.
void check_odd_models(const std::vector<Path>& paths)
{
    TemporaryFolder folder;
    for (const RandomModel& m : odd_models()) {
        const auto model = write_random_model(folder / "random.gguf", m);
        std::vector<std::pair<std::vector<Token>, std::vector<float>>> cases;
        for (const size_t length : {1, 7, 40}) {
            const std::vector<Token> ids = random_ids(m.vocab, length, length);
            cases.emplace_back(ids, reference_logits(model, ids));
        }
        INFO(format_of(m.type).name);
        for (Path path : paths) {
            if (!host::makes_zeros(m.activation)) path.sparsity = Sparsity::dense;
            check_logits(path, model, cases,
                         3e-3);    // random weights do not damp the rounding of the KV cache as trained ones do
        }
    }
}

/// Each model on one of the paths, in turn, since `family_models` has two of each family; --thorough: on all of them.
void check_families(const std::vector<Path>& paths)
{
    TemporaryFolder folder;
    size_t turn = 0;
    for (const RandomModel& m : family_models()) {
        const auto model = write_random_model(folder / "random.gguf", m);
        std::vector<std::pair<std::vector<Token>, std::vector<float>>> cases;
        for (const size_t length : {1, 7, 40}) {
            const std::vector<Token> ids = random_ids(m.vocab, length, length);
            cases.emplace_back(ids, reference_logits(model, ids));
        }
        CAPTURE(m.architecture);
        CAPTURE(format_of(m.type).name);
        const double tolerance =
            m.floor > 0 ? 3e-2
                        : 3e-3;    // as of odd_models; a gate that is just at the floor may fall to either side of it
        const Path in_turn = paths[turn++ % paths.size()];
        for (Path path : thorough ? paths : std::vector{in_turn}) {
            check_logits(path, model, cases, tolerance,
                         10);    // a software device takes long to walk through the longest
            path.sparsity = Sparsity::exact;
            if (host::makes_zeros(m.activation)) check_logits(path, model, cases, tolerance, 10);
        }
    }
}

/// Models with zeros: one of ReLU, and one of SiLU whose down projection lies by columns, as other tools write it.
std::vector<RandomModel> models_with_zeros()
{
    const RandomModel relu = {.dim = 256,
                              .heads = 4,
                              .kv_heads = 2,
                              .neurons = 200,
                              .type = WeightType::f32,
                              .zeros_below = 0.84f,
                              .seed = 21};
    RandomModel silu = relu;
    silu.activation = host::Activation::silu;
    silu.down_transposed = false;
    return {relu, silu};
}

/// Such a model in two forms, of which the second leaves the zeros out.
struct BothForms {
    TemporaryFolder folder;
    std::filesystem::path dense = folder / "dense.gguf", sparse = folder / "sparse.gguf";

    BothForms(const RandomModel& model, const char* type)
    {
        const auto source = write_random_model(folder / "x.gguf", model);
        const auto none = [](double) {};
        for (const bool zeros : {true, false})
            requantise(std::make_shared<const Gguf>(source), *find_quantisation(type), {.dense = zeros},
                       zeros ? dense : sparse, none);
    }
};

/// f(model, type) for those that can be stored without zeros
template <class F>
void each_with_zeros(F&& f)
{
    for (const RandomModel& m : models_with_zeros())
        for (const char* type : {"f16", "q8_0"}) {
            CAPTURE(host::makes_zeros(m.activation));
            CAPTURE(type);
            f(m, type);
        }
}

uint64_t matrix_bytes(const Weights& w)
{
    uint64_t sum = w.output.bytes();
    for (const LayerWeights& l : w.layers)
        for (const Matrix* m :
             {&l.attention.q, &l.attention.k, &l.attention.v, &l.attention.o, &l.ffn.gate, &l.ffn.up, &l.ffn.down_t})
            sum += m->bytes();
    return sum;
}

/// The logits of the dense form's weights, whatever the path.
void check_zeros(const std::vector<Path>& paths)
{
    each_with_zeros([&](const RandomModel& m, const char* type) {
        const BothForms model(m, type);
        const Weights weights = load_weights(std::make_shared<Gguf>(model.sparse));
        for (const LayerWeights& l : weights.layers)
            for (const Matrix* w : {&l.attention.q, &l.attention.k, &l.attention.v, &l.attention.o, &l.ffn.gate,
                                    &l.ffn.up, &l.ffn.down_t})
                CHECK(is_sparse(w->type));
        std::vector<std::pair<std::vector<Token>, std::vector<float>>> cases;
        for (const size_t length : {1, 7, 40}) {
            const std::vector<Token> ids = random_ids(320, length, length);
            cases.emplace_back(ids, reference_logits(model.dense, ids));
            CHECK(reference_logits(model.sparse, ids) == cases.back().second);
        }
        for (Path path : paths) {
            if (!host::makes_zeros(m.activation)) path.sparsity = Sparsity::dense;
            check_logits(path, model.sparse, cases, 3e-3, 10);
        }
    });
}

/// What decoding a token reads.
FeedStats decode_stats(const std::filesystem::path& model, const Path& path)
{
    Engine engine(options_for(model, path));
    Session session = engine.session(true);
    FeedStats stats;
    session.on_stats = [&](const FeedStats& s) { stats = s; };
    const Token id = 5;
    session.feed(std::span(&id, 1));
    return stats;
}

}    // namespace

TEST_SUITE("engine")
{
    TEST_CASE("a model without its zeros gives the logits of its dense form on the CPU, and decoding reads as many "
              "bytes less as it has")
    {
        check_zeros({{.device = "cpu"}, {.device = "cpu", .sparsity = Sparsity::exact}});
        each_with_zeros([](const RandomModel& m, const char* type) {
            const BothForms model(m, type);
            uint64_t bytes[2], weights[2];
            for (const bool sparse : {false, true}) {
                const auto& file = sparse ? model.sparse : model.dense;
                bytes[sparse] = decode_stats(file, {.device = "cpu"}).bytes();
                weights[sparse] = matrix_bytes(load_weights(std::make_shared<Gguf>(file)));
            }
            CHECK(bytes[0] - bytes[1] == weights[0] - weights[1]);
            CHECK(double(weights[1]) < 0.65 * double(weights[0]));
        });
    }

    TEST_CASE("a model of each family gives the reference's logits on the CPU") { check_families({{.device = "cpu"}}); }

    TEST_CASE("a mixture of experts gives the reference's logits on the CPU") { check_experts({{.device = "cpu"}}); }

    TEST_CASE("a context longer than rope's short factors are for is refused, and none asked for is no longer")
    {
        TemporaryFolder folder;
        random_model({.context = 256, .long_rope = true}).write(folder / "long.gguf");
        EngineOptions options = on_cpu(folder / "long.gguf");
        CHECK(Engine(options).context() == 128);
        options.context = 129;
        CHECK_THROWS_WITH_AS(Engine{options},
                             "random turns its heads in another way beyond 128 positions, and -c asks for 129: longer "
                             "contexts cannot be run, use -c 128 or less",
                             Error);
    }

    TEST_CASE("the reference gives the expected logits")
    {
        for (const auto& [ids, want] : expected_logits())
            CHECK(worst_error(reference_logits(shipped_model(), ids), want) < 1e-5);
    }

    TEST_CASE("the CPU writes the expected greedy text, dense and exact")
    {
        check_greedy({.device = "cpu"});
        check_greedy({.device = "cpu", .sparsity = Sparsity::exact});
    }

    TEST_CASE("weights that move to large pages while tokens are computed give the same text")
    {
        EngineOptions options = options_for(shipped_model(), {.device = "cpu"});
        options.large_pages = true;
        const auto first = expected("greedy.json")[0];
        const auto want = first["ids"].get<std::vector<Token>>();
        Engine engine(options);
        for (int i = 0; i < 3; i++) {
            CHECK(greedy(engine, first["prompt_ids"].get<std::vector<Token>>(), want.size()) == want);
            engine.settle();
        }
        CHECK((engine.large_page_bytes() > 0) == (large_pages_to_be_had() && engine.notes().empty()));
    }

    TEST_CASE("the CPU gives the expected logits, also of 600 tokens in batches")
    {
        check_logits({.device = "cpu"}, shipped_model(), expected_logits(600), 1e-3);
        check_logits({.device = "cpu", .sparsity = Sparsity::exact}, shipped_model(), expected_logits(600), 1e-3);
    }

    TEST_CASE("the CPU gives the reference's logits on quantised weights")
    {
        TemporaryFolder folder;
        for (const char* type : {"q8_0", "q4_0", "q4_k_m"}) {
            CAPTURE(type);
            const auto model = folder / "quantised.gguf";
            requantise(std::make_shared<const Gguf>(shipped_model()), *find_quantisation(type), {}, model,
                       [](double) {});
            std::vector<std::pair<std::vector<Token>, std::vector<float>>> cases;
            for (const auto& [ids, logits] : expected_logits()) cases.emplace_back(ids, reference_logits(model, ids));
            check_logits({.device = "cpu"}, model, cases, 2e-3);
            check_logits({.device = "cpu", .sparsity = Sparsity::exact}, model, cases, 2e-3);
        }
    }

    TEST_CASE("models of odd shapes and every weight type give the reference's logits on the CPU")
    {
        check_odd_models({{.device = "cpu"}});
    }

    TEST_CASE("the logits of every token of several batches are the reference's")
    {
        Engine engine(options_for(shipped_model(), {.device = "cpu"}));
        const std::vector<Token> ids =
            engine.tokenizer().encode(read_file(data("fairytales-valid.txt")).substr(0, 2000));
        Reference reference(engine.weights());
        Session session = engine.session();
        std::vector<std::vector<float>> got;
        session.feed(ids, [&](size_t t, std::span<const float> logits) {
            CHECK(t == got.size());
            got.emplace_back(logits.begin(), logits.end());
        });
        REQUIRE(got.size() == ids.size());
        for (size_t t = 0; t < ids.size(); ++t) REQUIRE(worst_error(got[t], reference.feed(ids[t])) < 1e-3);
    }

    TEST_CASE("exact reads only the rows of neurons that fire, as the reference counts them")
    {
        Engine engine(options_for(shipped_model(), {.device = "cpu", .sparsity = Sparsity::exact}));
        const std::vector<Token> ids =
            engine.tokenizer().encode("Once upon a time there was a king who had three daughters.");
        Reference reference(engine.weights());
        Session session = engine.session();
        FeedStats stats;
        session.on_stats = [&](const FeedStats& s) { stats = s; };
        const uint64_t row = row_bytes(WeightType::f16, engine.config().dim);
        for (const Token& id : ids) {
            session.feed(std::span(&id, 1));
            reference.feed(id);
            for (const Stage& stage : stats.stages) {
                if (stage.name != "cold_ffn") continue;
                const uint32_t active = reference.active()[stage.layer];
                // A gate within rounding of zero may fall on either side.
                CHECK(std::abs(int(stats.layers[stage.layer].active_host) - int(active)) <= 1);
                CHECK(stage.bytes == (engine.config().neurons + 2 * stats.layers[stage.layer].active_host) * row);
            }
        }
    }

    TEST_CASE("two runs give the same bits, with any number of threads")
    {
        const std::vector<Token> ids = random_ids(4096, 300, 1);
        std::vector<float> first;
        for (const unsigned threads : {1u, 2u, 2u, 3u}) {
            EngineOptions options = options_for(shipped_model(), {.device = "cpu", .sparsity = Sparsity::exact});
            options.workshop = std::make_shared<Workshop>(WorkshopOptions{.threads = threads});
            Engine engine(options);
            Session session = engine.session();
            session.feed(std::span(ids).first(280));
            std::vector<float> logits;
            for (const Token& id : std::span(ids).subspan(280)) {
                const auto now = session.feed(std::span(&id, 1));
                logits.assign(now.begin(), now.end());
            }
            if (first.empty()) first = logits;
            CHECK(logits == first);
        }
    }

    TEST_CASE("a session that went back gives the bits of one that was never there")
    {
        check_rewind({.device = "cpu"});
    }

    TEST_CASE("a text longer than the context is refused and a session can be used again")
    {
        EngineOptions options = options_for(shipped_model(), {.device = "cpu"});
        options.context = 32;
        Engine engine(options);
        Session session = engine.session();
        const std::vector<Token> ids = random_ids(4096, 33, 1);
        CHECK_THROWS_WITH_AS(session.feed(ids), "the text needs 33 positions and the context has 32: use -c 33 or more",
                             Error);
        session.feed(std::span(ids).first(32));
        CHECK(session.position() == 32);
        CHECK_THROWS_AS(session.feed(std::span(ids).first(1)), Error);
        session.reset();
        session.feed(std::span(ids).first(1));
    }

    TEST_CASE(
        "a KV cache in q8_0 moves the CPU's logits by its rounding and no more, keys and values alone and together")
    {
        for (const host::KvTypes kv : eight_bit_caches) check_cache({.device = "cpu", .kv = kv});
    }

    TEST_CASE("a KV cache in q8_0 is refused where heads are no whole blocks")
    {
        TemporaryFolder folder;
        EngineOptions options =
            on_cpu(write_random_model(folder / "odd.gguf", {.dim = 96, .heads = 2, .head_dim = 48}));
        Engine{options};
        options.kv.v = WeightType::q8_0;
        CHECK_THROWS_WITH_AS(Engine{options}, doctest::Contains("blocks of 32 numbers"), Error);
    }

    TEST_CASE("a KV cache that memory cannot hold is refused, with what it needs")
    {
        TemporaryFolder folder;
        const uint32_t context = 1u << 24;    // of 128 KB each: 2 TiB
        EngineOptions options = on_cpu(write_random_model(
            folder / "long.gguf",
            {.layers = 8, .dim = 32, .heads = 16, .kv_heads = 16, .head_dim = 256, .context = context}));
        options.context = context;
        CHECK_THROWS_WITH_AS(Engine{options},
                             doctest::Contains("the KV cache of 16777216 positions needs 2097152.0 MiB"), Error);
    }

    TEST_CASE("what cannot be run is refused with a sentence that says what to do")
    {
        TemporaryFolder folder;
        EngineOptions options = on_cpu(shipped_model());
        options.context = 5000;
        CHECK_THROWS_AS(Engine{options}, Error);
        options.context = 0;
        options.batch = 0;
        CHECK_THROWS_AS(Engine{options}, Error);
        options = on_cpu(write_random_model(folder / "silu.gguf", {.activation = host::Activation::silu}));
        options.sparsity = Sparsity::exact;
        CHECK_THROWS_AS(Engine{options}, Error);
        options = on_cpu(write_random_model(folder / "experts.gguf", {.experts = 4}));
        options.sparsity = Sparsity::predict;
        CHECK_THROWS_WITH_AS(Engine{options},
                             "--sparsity predict is for models without experts, and the router of random says already "
                             "what fires: use --sparsity dense",
                             Error);
        options = {.model = shipped_model()};
        options.device = "no such device";
        CHECK_THROWS_AS(Engine{options}, Error);
    }
}

TEST_SUITE("device")
{
    TEST_CASE("the device writes the expected greedy text with every share of the neurons resident, dense and exact")
    {
        for (const double resident : {1.0, 0.75, 0.25, 0.0})
            check_greedy({.device = device_name,
                          .resident = resident,
                          .sparsity = resident == 1 ? Sparsity::dense : Sparsity::exact},
                         1);
        if (thorough)
            for (const auto& [resident, sparsity] : {std::pair(1.0, Sparsity::exact), {0.5, Sparsity::dense}})
                check_greedy({.device = device_name, .resident = resident, .sparsity = sparsity}, 1);
        check_greedy({.device = device_name, .resident = 0.5, .sparsity = Sparsity::exact});
    }

    TEST_CASE("any split of neurons between CPU and device gives the expected logits")
    {
        for (const double resident : {1.0, 0.75, 0.5, 0.25, 0.0})
            for (const Sparsity sparsity : {Sparsity::dense, Sparsity::exact})
                check_logits({.device = device_name, .resident = resident, .sparsity = sparsity}, shipped_model(),
                             expected_logits(), 1e-3);
    }

    TEST_CASE("600 tokens in batches give the expected logits on the device and on a split")
    {
        for (const double resident : {1.0, 0.5})
            check_logits({.device = device_name, .resident = resident}, shipped_model(), expected_logits(600), 1e-3);
    }

    TEST_CASE("the expected logits come without fp16 arithmetic too")
    {
        check_logits({.device = device_name, .resident = 0.5, .without_fp16 = true}, shipped_model(), expected_logits(),
                     1e-3);
    }

    TEST_CASE("quantised weights give the reference's logits, with and without integer dot products")
    {
        TemporaryFolder folder;
        for (const char* type : {"q8_0", "q4_0", "q4_k_m"}) {
            CAPTURE(type);
            const auto model = folder / "quantised.gguf";
            requantise(std::make_shared<const Gguf>(shipped_model()), *find_quantisation(type), {}, model,
                       [](double) {});
            std::vector<std::pair<std::vector<Token>, std::vector<float>>> cases;
            for (const auto& [ids, logits] : expected_logits()) cases.emplace_back(ids, reference_logits(model, ids));
            for (const double resident : {1.0, 0.5, 0.0})
                for (const bool without_int_dot : {false, true})
                    if (thorough || without_int_dot == (resident == 0.5))    // each of both ways once
                        check_logits({.device = device_name,
                                      .resident = resident,
                                      .sparsity = Sparsity::exact,
                                      .without_int_dot = without_int_dot},
                                     model, cases, 2e-3);
        }
    }

    TEST_CASE("models of odd shapes and every weight type give the reference's logits on the device")
    {
        check_odd_models(
            {{.device = device_name}, {.device = device_name, .resident = 0.6, .sparsity = Sparsity::exact}});
    }

    TEST_CASE(
        "a model of each family gives the reference's logits on the device, and with neurons and layers on both sides")
    {
        check_families({{.device = device_name}, {.device = device_name, .resident = 0.5, .layers = 1}});
    }

    TEST_CASE("a mixture of experts gives the reference's logits on the device, at any split")
    {
        check_experts({{.device = device_name},
                       {.device = device_name, .resident = 0.1},
                       {.device = device_name, .resident = 0},
                       {.device = device_name, .cpu_experts = true},
                       {.device = device_name, .resident = 0.7, .layers = 1}});
        if (thorough) check_experts({{.device = device_name, .resident = 0.5}});
    }

    TEST_CASE("prompts whose cold neurons pass through the device, in parts or at once, give the expected logits")
    {
        for (const auto& [resident, ring] : {std::pair(0.5, 1 << 20), {0.5, 64 << 20}, {0.0, 256 << 10}}) {
            const Path path = {.device = device_name, .resident = resident, .ring = uint64_t(ring)};
            check_logits(path, shipped_model(), expected_logits(), 1e-3);
            if (resident > 0) check_logits(path, shipped_model(), expected_logits(600), 1e-3);
        }
    }

    TEST_CASE("models of odd shapes, with experts and without their zeros give the reference's logits so, too")
    {
        const Path some = {.device = device_name, .resident = 0.5, .ring = 1},
                   first = {.device = device_name, .layers = 1, .ring = 64 << 20},
                   none = {.device = device_name, .resident = 0, .ring = 64 << 20};
        if (thorough) check_families({some, none});
        check_odd_models({some});
        check_experts({thorough ? first : some});
        check_zeros({some});
    }

    TEST_CASE(
        "a streamed prompt joins nothing, copies the cold neurons once for each batch, and stays within the budget")
    {
        Engine engine(
            options_for(shipped_model(), {.device = device_name, .resident = 0.25, .batch = 16, .ring = 512 << 10}));
        Session session = engine.session();
        std::vector<FeedStats> batches;
        session.on_stats = [&](const FeedStats& s) { batches.push_back(s); };
        session.feed(random_ids(4096, 33, 1));
        REQUIRE(batches.size() == 3);
        const Weights weights = describe_weights(std::make_shared<Gguf>(shipped_model()));
        uint64_t cold = 0;
        for (const LayerWeights& l : weights.layers)
            cold += (l.ffn.gate.bytes() + l.ffn.up.bytes() + l.ffn.down_t.bytes()) * 3 / 4;
        for (const FeedStats& s : std::span(batches).first(2)) {
            CHECK(s.joins == 0);
            CHECK(s.waits == 1);
            CHECK(s.streamed_bytes == cold);
            for (const LayerCounts& l : s.layers) CHECK(l.host_neurons == 0);
        }
        CHECK(batches[2].tokens == 1);    // a token alone is shared, as any that is generated
        CHECK(batches[2].joins == engine.config().layers);
        CHECK(batches[2].streamed_bytes == 0);
        CHECK(engine.device_bytes() <= engine.plan().bytes);
        check_silence(engine);
    }

    TEST_CASE("the model of a folder gives the logits and the greedy ids that lie beside it, on every path" *
              doctest::skip())
    {
        const std::filesystem::path folder(case_folder), model = folder / "model.gguf";
        const auto want = nlohmann::json::parse(read_file(folder / "expected.json"));
        std::vector<std::pair<std::vector<Token>, std::vector<float>>> cases;
        for (const auto& c : want["logits"])
            cases.emplace_back(c["ids"].get<std::vector<Token>>(), c["logits"].get<std::vector<float>>());
        const double tolerance = want["tolerance"];
        const auto prompt = want["prompt"].get<std::vector<Token>>(),
                   following = want["greedy"].get<std::vector<Token>>();
        REQUIRE(!cases.empty());
        REQUIRE(!following.empty());

        if (want.value("predict",
                       false)) {    // what the model's own predictors do not name adds nothing; that is left out by the
                                    // CPU, token by token
            EngineOptions options = options_for(model, {.device = "cpu", .sparsity = Sparsity::predict});
            options.batch = 1;
            Engine engine(options);
            for (const auto& [ids, logits] : cases) CHECK(worst_error(engine.session().feed(ids), logits) < tolerance);
            CHECK(greedy(engine, prompt, following.size()) == following);
            return;
        }
        const Weights weights = load_weights(std::make_shared<Gguf>(model));
        for (const auto& [ids, logits] : cases) {
            Reference reference(weights);
            std::vector<float> got;
            for (const Token id : ids) got = reference.feed(id);
            CHECK(worst_error(got, logits) < 1e-3);
        }
        Reference reference(weights);
        std::vector<Token> ids = prompt;
        for (size_t i = 0; i + 1 < prompt.size() + following.size(); ++i) {
            const std::vector<float> logits = reference.feed(ids[i]);
            if (i + 1 == ids.size())
                ids.push_back(Token(std::max_element(logits.begin(), logits.end()) - logits.begin()));
        }
        CHECK(std::vector(ids.begin() + prompt.size(), ids.end()) == following);

        const bool sparse = host::makes_zeros(weights.config.activation);
        for (const Path& path : {Path{.device = "cpu"},
                                 {.device = device_name},
                                 {.device = device_name, .resident = 0.5},
                                 {.device = device_name, .resident = 0},
                                 {.device = device_name, .resident = 0.5, .layers = 1}}) {
            for (const Sparsity sparsity : {Sparsity::dense, Sparsity::exact}) {
                if (sparsity == Sparsity::exact && !sparse) continue;
                Path with = path;
                with.sparsity = sparsity;
                INFO(with.name());
                check_logits(with, model, cases, tolerance);
                Engine engine(options_for(model, with));
                CHECK(greedy(engine, prompt, following.size()) == following);
                check_silence(engine);
            }
        }
    }

    TEST_CASE("the token of a greedy sampler is the one that the logits say, plain, scaled and capped, and without a "
              "cap only it leaves the device")
    {
        TemporaryFolder folder;
        for (const std::string architecture : {"llama", "granite", "gemma2"}) {
            GgufWriter file =
                random_model({.architecture = architecture, .vocab = 1333, .activation = host::Activation::silu});
            if (architecture == "granite") file.key("granite.logit_scale", 0.3f);
            file.write(folder / "random.gguf");
            for (const auto& [resident, layers] : {std::pair(1.0, 1000u), {0.5, 1000u}, {1.0, 1u}}) {
                CAPTURE(architecture);
                CAPTURE(resident);
                CAPTURE(layers);
                Engine engine(options_for(folder / "random.gguf",
                                          {.device = device_name, .resident = resident, .layers = layers}));
                const bool capped = engine.config().logit_cap > 0, here = engine.plan().head && !capped;
                CHECK(capped == (architecture == "gemma2"));
                CHECK((engine.config().logit_scale != 1) == (architecture == "granite"));
                CHECK(engine.plan().head == (layers > 2));
                Session by_logits = engine.session(), by_device = engine.session();
                FeedStats stats;
                for (Session* session : {&by_logits, &by_device})
                    session->on_stats = [&](const FeedStats& s) { stats = s; };
                Sampler greedy({.temperature = 0}), penalised({.temperature = 0, .repeat_penalty = 1.5f}),
                    same({.temperature = 0, .repeat_penalty = 1.5f});
                for (uint32_t length : {1, 40, 1, 1, 7}) {    // two kinds of batch, in turn
                    const std::vector<Token> ids = random_ids(1333, length, 100 * by_logits.position() + length);
                    const Token want = most_probable(by_logits.feed(ids));
                    const uint64_t all = stats.downloaded;
                    CHECK(by_device.next(ids, greedy) == want);
                    CHECK(all - stats.downloaded == (here ? 1333 * sizeof(float) - sizeof(uint32_t) : 0));
                }
                const std::vector<Token> more =
                    random_ids(1333, 3, 1);    // logits again, for a sampler that needs them
                for (const Token& id : more)
                    CHECK(by_device.next(std::span(&id, 1), penalised) ==
                          same.sample(by_logits.feed(std::span(&id, 1))));
                CHECK(!by_device.next(more, greedy, [] { return true; }));
                CHECK(by_device.position() == by_logits.position());
                check_silence(engine);
            }
        }
    }

    TEST_CASE("what leaves the device is counted: inputs of split layers, bits of what fired, and the token")
    {
        for (const double resident : {1.0, 0.5}) {
            Engine engine(options_for(shipped_model(),
                                      {.device = device_name, .resident = resident, .sparsity = Sparsity::exact}));
            Session session = engine.session();
            uint64_t downloaded = 0;
            session.on_stats = [&](const FeedStats& s) { downloaded = s.downloaded; };
            Sampler greedy({.temperature = 0});
            const uint64_t x = engine.config().dim * sizeof(float), bits = uint64_t(1024 * resident) / 8,
                           token = sizeof(uint32_t);
            session.next(random_ids(4096, 10, 1), greedy);
            CHECK(downloaded == (resident < 1 ? 6 * 10 * x : 0) + token);
            session.next(random_ids(4096, 1, 2), greedy);
            CHECK(downloaded == 6 * ((resident < 1 ? x : 0) + bits) + token);
            session.feed(random_ids(4096, 70, 3),
                         [](size_t, std::span<const float>) {});    // logits of each, in three submits
            CHECK(downloaded == (resident < 1 ? 6 * 70 * x : 0) + 70 * 4096 * sizeof(float));
        }
    }

    TEST_CASE("a model computes the same however its matrices are gone over, each class of them in its own way")
    {
        // q has as many rows as its class can have, and with k and v it is of another; the output matrix has more rows,
        // that of attention long ones.
        TemporaryFolder folder;
        const auto device = test_device();
        Machine machine;
        const auto measured = std::make_shared<Workshop>(WorkshopOptions{
            .threads = 2, .machine = [&](auto&&...) { return std::optional(machine); }, .validation = validation});
        for (const WeightType type : {WeightType::q8_0, WeightType::f16}) {
            const auto model = write_random_model(
                folder / "wide.gguf",
                {.dim = 64, .heads = 128, .kv_heads = 2, .head_dim = 64, .neurons = 96, .vocab = 9000, .type = type});
            const std::vector<Token> ids = random_ids(9000, 5, 3);
            const std::vector<float> want = reference_logits(model, ids);
            const std::vector<RowVariant> variants = row_variants(*device, type);
            std::mt19937_64 random(1);
            for (int again = 0; again < 4; ++again) {
                machine = {.device = device->info().name};
                for (size_t c = 0; c < std::size(matrix_classes); ++c)
                    for (auto& choice : machine.row_variants.choice[c]) {
                        choice = variants[random() % variants.size()];
                        choice->int_dot =
                            is_quantised(type) && (again < 2 ? (c % 2 == 0) == (again == 0) : random() % 2 == 0);
                    }
                EngineOptions options = options_for(model, {.device = device_name, .resident = again % 2 ? 1 : 0.5});
                options.workshop = measured;
                Engine engine(options);
                CHECK(engine.plan().head);
                Session session = engine.session();
                std::span<const float> logits;
                for (const Token& id : ids) logits = session.feed(std::span(&id, 1));
                CHECK(worst_error(logits, want) < 3e-3);
                check_silence(engine);
            }
        }
    }

    TEST_CASE("exact gives what dense gives")
    {
        const std::vector<Token> ids = random_ids(4096, 40, 2);
        for (const double resident : {1.0, 0.5}) {
            std::vector<std::vector<float>> results;
            for (const Sparsity sparsity : {Sparsity::dense, Sparsity::exact}) {
                Engine engine(
                    options_for(shipped_model(), {.device = device_name, .resident = resident, .sparsity = sparsity}));
                Session session = engine.session();
                std::span<const float> logits;
                for (const Token& id : ids) logits = session.feed(std::span(&id, 1));
                results.emplace_back(logits.begin(), logits.end());
            }
            CHECK(worst_error(results[1], results[0]) < 1e-5);
        }
    }

    TEST_CASE("layers that do not fit stay on the host, and the logits stay the same")
    {
        const Needs needs = device_needs(describe_weights(std::make_shared<Gguf>(shipped_model())), {.sequences = 2});
        uint64_t budget = needs.scratch;
        for (size_t l = 0; l < needs.layers.size(); ++l) {
            budget += needs.layers[l].attention + needs.layers[l].kv;
            EngineOptions options = options_for(shipped_model(), {.device = device_name});
            options.vram_budget = budget;
            Engine engine(options);
            CHECK(engine.plan().layers.size() == l + 1);
            CHECK(!engine.plan().head);
            for (const auto& [ids, want] : expected_logits()) {
                Session session = engine.session();
                CHECK(worst_error(session.feed(ids), want) < 1e-3);
            }
            check_silence(engine);
        }
    }

    TEST_CASE("a KV cache in q8_0 does the same on the device, on a split, and with layers on both sides")
    {
        for (const host::KvTypes kv : std::span(eight_bit_caches).first(thorough ? std::size(eight_bit_caches) : 1))
            for (const double resident : {1.0, 0.5})
                check_cache({.device = device_name, .resident = resident, .kv = kv});
        for (const host::KvTypes kv : eight_bit_caches)
            check_cache({.device = device_name, .resident = 0.5, .layers = 3, .kv = kv});
    }

    TEST_CASE("a KV cache in q8_0 takes the memory that the plan counts, about half of f16's")
    {
        const Weights weights = describe_weights(std::make_shared<Gguf>(shipped_model()));
        const Needs f16 = device_needs(weights),
                    q8 = device_needs(weights, {.kv = {WeightType::q8_0, WeightType::q8_0}});
        CHECK(double(q8.layers[0].kv) / double(f16.layers[0].kv) == doctest::Approx(0.53).epsilon(0.07));
        Engine engine(
            options_for(shipped_model(), {.device = device_name, .kv = {WeightType::q8_0, WeightType::q8_0}}));
        Session session = engine.session();
        CHECK(engine.device_bytes() == engine.plan().bytes);
    }

    TEST_CASE("a session takes no more device memory than the budget")
    {
        const Needs needs = device_needs(describe_weights(std::make_shared<Gguf>(shipped_model())), {.sequences = 2});
        const uint64_t least = least_budget(needs), all = budget_for(needs, 1);
        for (int i = 0; i <= 10; ++i) {
            EngineOptions options = options_for(shipped_model(), {.device = device_name});
            options.vram_budget = least + (all - least) * i / 10;
            Engine engine(options);
            Session session = engine.session();
            const Token bos = 1;
            session.feed(std::span(&bos, 1));
            CHECK(engine.device_bytes() <= *options.vram_budget);
            CHECK(engine.device_bytes() == engine.plan().bytes);
        }
        EngineOptions options = options_for(shipped_model(), {.device = device_name});
        options.vram_budget = least - 1;
        CHECK_THROWS_AS(Engine{options}, Error);
    }

    TEST_CASE("two models that are open at once keep to one budget together, share threads and device, and each gives "
              "its logits")
    {
        TemporaryFolder folder;
        const auto small =
            write_random_model(folder / "small.gguf", {.layers = 2, .dim = 96, .neurons = 200, .seed = 11});
        EngineOptions draft = options_for(small, {.device = device_name}),
                      target = options_for(shipped_model(), {.device = device_name});
        const uint64_t all_of_target = *target.vram_budget, budget = *draft.vram_budget + all_of_target * 2 / 3;
        draft.vram_budget = target.vram_budget = budget;
        uint64_t half = 0;
        {
            Engine first(draft), second(target);
            CHECK(&first.team() == &second.team());
            CHECK(first.plan().head);    // all of it is there
            CHECK(second.plan().layers.size() > 0);
            CHECK(!second.plan().layers[0].resident.empty());
            CHECK(first.plan().bytes + second.plan().bytes <= budget);
            half = second.plan().bytes;
            Session a = first.session(), b = second.session();
            const std::vector<Token> ids = random_ids(320, 12, 5);
            const std::vector<float> of_small = reference_logits(small, ids),
                                     of_shipped = reference_logits(shipped_model(), ids);
            std::span<const float> from_a, from_b;
            for (const Token& id : ids) {
                from_a = a.feed(std::span(&id, 1));
                from_b = b.feed(std::span(&id, 1));
            }
            CHECK(worst_error(from_a, of_small) < 1e-3);
            CHECK(worst_error(from_b, of_shipped) < 1e-3);
            CHECK(second.device_bytes() == first.plan().bytes + second.plan().bytes);
            check_silence(second);
        }
        CHECK(Engine(target).plan().bytes > half);    // once the first has gone, its memory is there again
        draft.vram_budget = target.vram_budget = all_of_target;
        const Engine first(target);
        CHECK_THROWS_WITH_AS(Engine{draft}, doctest::Contains("beside the other models, which is too small"), Error);
    }

    TEST_CASE("a promise of memory counts until it goes, whatever features its device is used with")
    {
        const auto with = test_device({true, true}), without = test_device({false, false});
        const uint64_t before = workshop->promised(*with);
        {
            Promise one = workshop->promise(*with, 100);
            const Promise other = workshop->promise(*without, 20);
            CHECK(workshop->promised(*without) == before + 120);
            const Promise moved = std::move(one);
            CHECK(workshop->promised(*with) == before + 120);
        }
        CHECK(workshop->promised(*with) == before);
    }

    TEST_CASE("a resident model decodes with one submit and one wait, a split layer costs one join")
    {
        for (const double resident : {1.0, 0.5, 0.0}) {
            Engine engine(options_for(shipped_model(), {.device = device_name, .resident = resident}));
            Session session = engine.session(true);
            FeedStats stats;
            session.on_stats = [&](const FeedStats& s) { stats = s; };
            const uint32_t layers = engine.config().layers;
            for (const Token& id : random_ids(4096, 5, 1)) {
                session.feed(std::span(&id, 1));
                CHECK(stats.joins == (resident == 1 ? 0 : layers));
                CHECK(stats.submits == stats.joins + 1);
                CHECK(stats.waits == stats.joins + 1);
                for (const LayerCounts& l : stats.layers) {
                    CHECK(l.resident == uint32_t(1024 * resident));
                    CHECK(l.split == (resident < 1));
                }
            }
        }
    }

    TEST_CASE("the device counts the neurons that fire, and exact reads only their rows")
    {
        for (const double resident : {1.0, 0.5}) {
            Engine engine(options_for(shipped_model(),
                                      {.device = device_name, .resident = resident, .sparsity = Sparsity::exact}));
            Reference reference(engine.weights());
            Session session = engine.session(true);
            FeedStats stats;
            session.on_stats = [&](const FeedStats& s) { stats = s; };
            const uint64_t row = row_bytes(WeightType::f16, engine.config().dim);
            for (const Token& id : engine.tokenizer().encode("The old woman looked at the fox and said")) {
                session.feed(std::span(&id, 1));
                reference.feed(id);
                for (uint32_t l = 0; l < engine.config().layers; ++l) {
                    const LayerCounts& c = stats.layers[l];
                    CHECK(std::abs(int(c.active_device + c.active_host) - int(reference.active()[l])) <= 1);
                    for (const Stage& s : stats.stages) {
                        if (s.layer != l) continue;
                        if (s.name == "ffn_up") CHECK(s.bytes == (c.resident + c.active_device) * row);
                        if (s.name == "ffn_down") CHECK(s.bytes == c.active_device * row);
                        if (s.name == "cold_ffn") CHECK(s.bytes == (1024 - c.resident + 2 * c.active_host) * row);
                    }
                }
            }
        }
    }

    TEST_CASE("a token costs the rows of its experts and no others, on the device and on the host, within the budget")
    {
        TemporaryFolder folder;
        for (const WeightType type : {WeightType::f16, WeightType::q8_0}) {
            const auto model = write_random_model(folder / "experts.gguf", {.dim = 128,
                                                                            .neurons = 96,
                                                                            .experts = 12,
                                                                            .experts_used = 3,
                                                                            .type = type,
                                                                            .activation = host::Activation::silu});
            for (const double resident : {1.0, 0.6, 0.25, 0.0}) {
                Engine engine(options_for(model, {.device = device_name, .resident = resident}));
                Session session = engine.session(true);
                FeedStats stats;
                session.on_stats = [&](const FeedStats& s) { stats = s; };
                uint64_t device = 0, host = 0;
                for (const Token& id : random_ids(320, 12, 5)) {
                    session.feed(std::span(&id, 1));
                    for (uint32_t l = 0; l < 2; ++l) {
                        const LayerCounts& c = stats.layers[l];
                        CHECK(c.active_device + c.active_host == 3 * 96);
                        CHECK(c.host_gates == c.active_host);
                        CHECK(c.split == (resident < 1));
                        device += c.active_device;
                        host += c.active_host;
                        const uint64_t row = row_bytes(type, 128), device_row = row_quads(type, 128) * 16;
                        for (const Stage& s : stats.stages) {
                            if (s.layer != l) continue;
                            if (s.name == "ffn_up") CHECK(s.bytes == 2 * c.active_device * device_row);
                            if (s.name == "ffn_down") CHECK(s.bytes == c.active_device * device_row);
                            if (s.name == "cold_ffn") CHECK(s.bytes == 3 * c.active_host * row);
                        }
                    }
                }
                CHECK((device > 0) == (resident > 0));
                CHECK((host > 0) == (resident < 1));
                CHECK(engine.device_bytes() == engine.plan().bytes);
                check_silence(engine);
            }
        }
    }

    TEST_CASE("the experts that a text goes through most are resident, as a profile counts them on the host and on the "
              "device")
    {
        TemporaryFolder folder;
        constexpr uint32_t experts = 16, used = 2, neurons = 64, layers = 2;
        const auto model = write_random_model(folder / "experts.gguf", {.layers = layers,
                                                                        .neurons = neurons,
                                                                        .experts = experts,
                                                                        .experts_used = used,
                                                                        .type = WeightType::f32,
                                                                        .activation = host::Activation::silu});
        const std::vector<Token> ids = random_ids(320, 200, 9);
        std::vector<Profile> profiles;
        for (const double resident : {-1.0, 1.0, 0.4}) {
            EngineOptions options =
                options_for(model, {.device = resident < 0 ? "cpu" : device_name, .resident = resident});
            Engine engine(options);
            Profile& p = profiles.emplace_back(empty_profile(*engine.weights().file, layers, experts, 64));
            Profiling profiling(engine, p);
            profiling.window(ids);
            CHECK(p.positions == ids.size());
            for (uint32_t l = 0; l < layers; ++l) {
                const std::vector<uint64_t>& fired = p.layers[l].fired;
                CHECK(std::accumulate(fired.begin(), fired.end(), uint64_t(0)) == used * ids.size());
                for (uint32_t e = 0; e < experts; ++e)
                    CHECK(std::abs(int64_t(fired[e]) - int64_t(profiles[0].layers[l].fired[e])) <= 2);
            }
        }
        write_profile(folder / "profile", profiles[0]);

        EngineOptions options = options_for(model, {.device = device_name, .resident = 0.25});
        options.profile = folder / "profile";
        Engine engine(options);
        Session session = engine.session();
        std::vector<uint64_t> served(layers), all(layers);
        session.on_stats = [&](const FeedStats& s) {
            for (uint32_t l = 0; l < layers; ++l) {
                served[l] += s.layers[l].active_device;
                all[l] += s.layers[l].active_device + s.layers[l].active_host;
            }
        };
        for (const Token& id : ids) session.feed(std::span(&id, 1));
        uint64_t resident = 0;
        for (uint32_t l = 0; l < layers; ++l) {
            const size_t whole = engine.plan().layers[l].resident.size() / (neurons / group_neurons);    // experts
            resident += engine.plan().layers[l].resident.size();
            std::vector<uint64_t> fired = profiles[0].layers[l].fired;
            std::ranges::sort(fired, std::greater());
            const double hottest = double(std::accumulate(fired.begin(), fired.begin() + whole, uint64_t(0))) /
                                   (used * double(ids.size()));
            CHECK(all[l] == used * neurons * ids.size());
            CHECK(double(served[l]) / double(all[l]) > hottest - 0.02);
            CHECK(hottest > 1.2 * double(whole) / experts);    // they are used unevenly, or this would show nothing
        }
        CHECK(resident == layers * experts * neurons / group_neurons / 4);
        check_silence(engine);
    }

    TEST_CASE("what a run allocates on the device stays within its budget, at any budget")
    {
        Needs needs;
        {
            EngineOptions options = on_cpu(shipped_model());
            options.context = 256;
            Engine engine(options);
            needs = device_needs(engine.weights(), {.context = 256, .sequences = 2});
        }
        const uint64_t least = least_budget(needs), all = budget_for(needs, 1);
        uint64_t before = 0;
        for (uint64_t i = 0; i < 10; ++i) {
            EngineOptions options = options_for(shipped_model(), {.device = device_name, .sparsity = Sparsity::exact});
            options.context = 256;
            options.vram_budget = least + (all - least) * i / 9;
            Engine engine(options);
            Session session = engine.session();
            session.feed(random_ids(4096, 3, 1));
            CHECK(engine.device_bytes() <= *options.vram_budget);
            CHECK(engine.device_bytes() > before);    // what is there is used
            before = engine.device_bytes();
            check_silence(engine);
        }
    }

    TEST_CASE("a model without its zeros gives the logits of its dense form on the device and on both, and decoding "
              "reads its rows' bytes alone")
    {
        check_zeros(
            {{.device = device_name},
             {.device = device_name, .sparsity = Sparsity::exact, .without_fp16 = true, .without_int_dot = true},
             {.device = device_name, .resident = 0.5},
             {.device = device_name, .layers = 1}});
        each_with_zeros([](const RandomModel& model_of, const char* type) {
            const BothForms model(model_of, type);
            const Weights w = load_weights(std::make_shared<Gguf>(model.sparse));
            uint64_t got = 0, want = 0;
            for (const Stage& s : decode_stats(model.sparse, {.device = device_name}).stages)
                if (s.name == "qkv" || s.name == "attn_out" || s.name == "ffn_up") got += s.bytes;
            for (const LayerWeights& l : w.layers)
                for (const Matrix* m :
                     {&l.attention.q, &l.attention.k, &l.attention.v, &l.attention.o, &l.ffn.gate, &l.ffn.up}) {
                    const uint32_t rows = (m->rows + 31) / 32 *
                                          32;    // those of no neuron are all zeros; and each has its place in the pack
                    want +=
                        m->bytes() + (rows - m->rows) * sparse_row_bytes(m->type, m->cols, 0) + rows * sizeof(uint32_t);
                }
            CHECK(got == want);
        });
    }

    TEST_CASE(
        "a layer of a decode takes no more than eleven dispatches, for every kind of weight type, split and predictor")
    {
        TemporaryFolder folder;
        for (const WeightFormat& format :
             {format_of(WeightType::f16), format_of(WeightType::q8_0), format_of(WeightType::q4_k)})
            for (const double resident : {1.0, 0.5})
                for (const bool predicted : {false, true}) {
                    uint32_t dispatches[2];
                    for (const uint32_t layers : {2u, 3u}) {
                        const auto model = write_random_model(folder / "x.gguf", {.layers = layers,
                                                                                  .dim = 256,
                                                                                  .heads = 2,
                                                                                  .kv_heads = 1,
                                                                                  .type = format.type,
                                                                                  .predictor = {256, 256, 256}});
                        EngineOptions options =
                            options_for(model, {.device = device_name,
                                                .resident = resident,
                                                .sparsity = predicted ? Sparsity::predict : Sparsity::exact});
                        if (predicted) *options.vram_budget += 1 << 20;
                        Engine engine(options);
                        Session session = engine.session();
                        session.on_stats = [&](const FeedStats& s) { dispatches[layers - 2] = s.dispatches; };
                        const Token id = 5;
                        session.feed(std::span(&id, 1));
                        check_silence(engine);
                    }
                    CAPTURE(format.name);
                    CHECK(dispatches[1] - dispatches[0] <= 11);
                }
    }

    TEST_CASE("a batch given up half way leaves nothing behind: its work is waited for, and the next one starts anew")
    {
        const auto file = std::make_shared<Gguf>(shipped_model());
        const Weights weights = load_weights(file);
        const SessionShape shape = {.batch = 16, .context = 64, .sparsity = std::vector<LayerSparsity>(6)};
        const Needs needs = GpuSession::needs(weights, shape);
        const std::vector<std::vector<uint32_t>> orders(6, even_hotness(1, 1024, 1)[0].order);
        const ModelLayout layout = {place_most(needs, even_costs(needs), budget_for(needs, 0.5)), orders,
                                    shape.sparsity};
        host::Team team(2);
        GpuModel model(test_device(), weights, layout, team, {});
        std::vector<float> first;
        {
            GpuSession session(model, shape, Watching());
            const uint32_t page = 0, row_wanted[] = {0};
            const host::Row row[] = {{0, 1, &page}};
            for (int again = 0; again < 2; ++again) {
                session.begin(host::Work::few, row, row_wanted);
                session.want({.count = 1});
                std::fill(session.input(), session.input() + weights.config.dim, 1.0f);
                session.submit(session.segments()[0]);
                session.wait_published(
                    session.segments()[0]);    // the hot FFN may still run, as when the cold one throws now
                const std::vector<float> x(session.published(), session.published() + weights.config.dim);
                if (again) CHECK(x == first);
                first = x;
            }
        }
        tests::check_silence();
    }

    TEST_CASE(
        "a batch cut into many submits has the bits of one in few, and is cut as finely as the device's pace wants")
    {
        const auto file = std::make_shared<Gguf>(shipped_model());
        const Weights weights = load_weights(file);
        const std::vector<Token> ids = random_ids(4096, 96, 11);
        host::Team team(2);
        struct Result {
            std::vector<float> logits;
            std::vector<uint64_t> submits;    // of each batch
        };
        const auto run = [&](double resident, bool streamed, double longest_submit_us, double pace) {
            SessionShape shape = {.batch = 96,
                                  .context = 512,
                                  .few = 2,
                                  .sparsity = std::vector<LayerSparsity>(6),
                                  .longest_submit_us = longest_submit_us,
                                  .pace = pace};
            if (streamed) shape.ring_bytes = 1 << 20;
            const Needs needs = GpuSession::needs(weights, shape);
            const ModelLayout layout = {place_most(needs, even_costs(needs), budget_for(needs, resident)),
                                        std::vector<std::vector<uint32_t>>(6, even_hotness(1, 1024, 1)[0].order),
                                        shape.sparsity};
            GpuModel model(test_device(), weights, layout, team, {});
            GpuSession session(model, shape, Watching());
            HostLayers cpu(weights, team, {.first_layer = 6, .batch = 96, .pages = 2, .sparsity = shape.sparsity});
            Scheduler scheduler(cpu, &model, &session, nullptr, team, weights.config);
            Result result;
            const uint32_t pages[] = {0, 1};
            uint32_t position = 0;
            const auto feed = [&](host::Work work, uint32_t rows) {
                Batch batch = {.work = work, .wanted = {rows - 1}};
                for (uint32_t r = 0; r < rows; ++r, ++position) {
                    batch.rows.push_back({position, position + 1, pages});
                    batch.tokens.push_back(ids[r]);
                }
                batch.take = [&](uint32_t, std::span<const float> l) {
                    result.logits.insert(result.logits.end(), l.begin(), l.end());
                };
                result.submits.push_back(scheduler.feed(batch).submits);
            };
            for (int i = 0; i < 3; ++i) feed(host::Work::many, 96);
            for (int i = 0; i < 3; ++i) feed(host::Work::few, 2);
            return result;
        };
        for (const auto& [resident, streamed] : {std::pair(1.0, false), {0.5, false}, {0.5, true}}) {
            CAPTURE(resident);
            CAPTURE(streamed);
            const Result few = run(resident, streamed, 1e9, 1), many = run(resident, streamed, 100, 1),
                         finer = run(resident, streamed, 1000, 0.05), coarser = run(resident, streamed, 1e8, 1e6);
            for (const Result* other : {&many, &finer, &coarser}) CHECK(few.logits == other->logits);
            for (size_t i = 0; i < few.submits.size(); ++i) CHECK(many.submits[i] > 2 * few.submits[i]);
            CHECK(finer.submits[0] == few.submits[0]);
            CHECK(finer.submits[1] > finer.submits[0]);
            CHECK(coarser.submits[0] > few.submits[0]);
            CHECK(coarser.submits[1] == few.submits[1]);
        }
        tests::check_silence();
    }

    TEST_CASE("groups swapped after every token change nothing but the order of addition, with work submitted in time "
              "and ahead")
    {
        const auto file = std::make_shared<Gguf>(shipped_model());
        const Weights weights = load_weights(file);
        const std::vector<Token> ids = random_ids(4096, 24, 7);
        for (const SubmitMode submit : {SubmitMode::just_in_time, SubmitMode::ahead}) {
            SessionShape shape = {.batch = 16,
                                  .context = 64,
                                  .sparsity = std::vector<LayerSparsity>(6, {.cut = 0}),
                                  .submit = submit,
                                  .rebalance = true};
            const Needs needs = GpuSession::needs(weights, shape);
            std::vector<uint32_t> backwards = even_hotness(1, 1024, 1)[0].order;
            std::reverse(backwards.begin(), backwards.end());
            const ModelLayout layout = {place_most(needs, even_costs(needs), budget_for(needs, 0.3)),
                                        std::vector<std::vector<uint32_t>>(6, backwards), shape.sparsity};
            host::Team team(2);
            GpuModel model(test_device(), weights, layout, team, {});
            GpuSession session(model, shape, Watching());
            HostLayers cpu(weights, team, {.first_layer = 6, .batch = 16, .pages = 1, .sparsity = shape.sparsity});
            Scheduler scheduler(cpu, &model, &session, nullptr, team, weights.config);
            Reference reference(weights);
            std::mt19937_64 random(1);
            for (uint32_t t = 0; t < ids.size(); ++t) {
                std::vector<float> got;
                const uint32_t page = 0;
                scheduler.feed({.work = host::Work::few,
                                .rows = {{t, t + 1, &page}},
                                .tokens = {ids[t]},
                                .wanted = {0},
                                .take = [&](uint32_t, std::span<const float> l) { got.assign(l.begin(), l.end()); }});
                CHECK(worst_error(got, reference.feed(ids[t])) < 1e-3);
                for (uint32_t l = 0; l < 6; ++l) {
                    const LayerResidency& residency = model.layers()[l].residency;
                    const std::span<const uint32_t> cold = residency.cold_groups();
                    session.replace(l, uint32_t(random() % residency.slots().size()), cold[random() % cold.size()]);
                }
            }
        }
        tests::check_silence();
    }

    TEST_CASE("experts that move while the text goes on change nothing but the order of addition, with work submitted "
              "in time and ahead")
    {
        TemporaryFolder folder;
        const auto file = write_random_model(folder / "experts.gguf", {.dim = 96,
                                                                       .neurons = 64,
                                                                       .experts = 10,
                                                                       .experts_used = 3,
                                                                       .type = WeightType::f32,
                                                                       .activation = host::Activation::silu,
                                                                       .seed = 2});
        const auto [ids, want] = decided_case(file, 320, 24);
        for (const SubmitMode submit : {SubmitMode::just_in_time, SubmitMode::ahead}) {
            EngineOptions options = options_for(file, {.device = device_name, .resident = 0.4});
            options.submit = submit;
            options.rebalance = true;
            Engine engine(options);
            Session session = engine.session();
            uint32_t moved = 0;
            session.on_stats = [&](const FeedStats& s) { moved += s.moved_groups; };
            std::span<const float> logits;
            for (const Token& id : ids) logits = session.feed(std::span(&id, 1));
            CHECK(worst_error(logits, want) < 1e-3);
            CHECK(moved > 0);
            check_silence(engine);
        }
    }

    TEST_CASE("work submitted ahead gives the bits of work submitted in time")
    {
        const std::vector<Token> ids = random_ids(4096, 20, 8);
        std::vector<std::vector<float>> results;
        for (const SubmitMode submit : {SubmitMode::just_in_time, SubmitMode::ahead}) {
            EngineOptions options =
                options_for(shipped_model(), {.device = device_name, .resident = 0.5, .sparsity = Sparsity::exact});
            options.submit = submit;
            Engine engine(options);
            Session session = engine.session();
            uint32_t submits = 0;
            session.on_stats = [&](const FeedStats& s) { submits = s.submits; };
            std::span<const float> logits;
            for (const Token& id : ids) logits = session.feed(std::span(&id, 1));
            CHECK(submits == (submit == SubmitMode::ahead ? 1 : 7));
            results.emplace_back(logits.begin(), logits.end());
            check_silence(engine);
        }
        CHECK(results[0] == results[1]);
    }

    TEST_CASE("a predictor that misses nothing gives what exact gives, and looks at fewer gates")
    {
        TemporaryFolder folder;
        const std::vector<Token> ids = random_ids(4096, 40, 9);
        {
            Engine engine(on_cpu(shipped_model(), 2));
            Profile p = empty_profile(*engine.weights().file, 6, 1024, 256);
            Profiler profiler(p, engine.weights(), engine.team());
            Session session = engine.profiling_session([&](const LayerActivity& a) { profiler.hear(a); });
            session.feed(ids);
            profiler.commit(uint32_t(ids.size()));
            write_profile(folder / "profile", p);
        }
        for (const char* device : {"cpu", device_name.c_str()}) {
            std::vector<std::vector<float>> results;
            uint64_t looked_at = 0, neurons = 0, missed = 0;
            for (const Sparsity sparsity : {Sparsity::exact, Sparsity::predict}) {
                EngineOptions options =
                    options_for(shipped_model(), {.device = device, .resident = 0.3, .sparsity = sparsity});
                options.profile = folder / "profile";
                options.predictor = sparsity == Sparsity::predict ? Predictor::sign : Predictor::none;
                options.recall = 1;    // on the very text that it runs
                options.check_predictor = true;
                Engine engine(options);
                Session session = engine.session();
                session.on_stats = [&](const FeedStats& s) {
                    for (const LayerCounts& l : s.layers) {
                        if (sparsity != Sparsity::predict) continue;
                        looked_at += l.host_gates;
                        neurons += l.host_neurons;
                        missed += l.missed;
                    }
                };
                std::span<const float> logits;
                for (const Token& id : ids) logits = session.feed(std::span(&id, 1));
                results.emplace_back(logits.begin(), logits.end());
                check_silence(engine);
            }
            INFO(device);
            CHECK(worst_error(results[1], results[0]) <
                  2e-3);    // the profile's gates are a prefill's, a hair different
            CHECK(double(looked_at) < 0.98 * double(neurons));
            CHECK(double(missed) < 0.001 * double(neurons));
        }
    }

    TEST_CASE("two runs on the device give the same bits")
    {
        const std::vector<Token> ids = random_ids(4096, 150, 3);
        for (const double resident : {1.0, 0.5}) {
            Engine engine(
                options_for(shipped_model(),
                            {.device = device_name, .resident = resident, .sparsity = Sparsity::exact, .batch = 64}));
            std::vector<std::vector<float>> results;
            for (int run = 0; run < 2; ++run) {
                Session session = engine.session();
                session.feed(std::span(ids).first(140));
                std::span<const float> logits;
                for (const Token& id : std::span(ids).subspan(140)) logits = session.feed(std::span(&id, 1));
                results.emplace_back(logits.begin(), logits.end());
            }
            CHECK(results[0] == results[1]);
        }
    }

    TEST_CASE("a session that went back gives the bits of one that was never there, on the device and on a split")
    {
        for (const double resident : {1.0, 0.5})
            check_rewind({.device = device_name, .resident = resident, .batch = 64});
    }

    TEST_CASE("the logits of every token of a batch are those of the tokens one by one")
    {
        Engine engine(options_for(shipped_model(), {.device = device_name, .resident = 0.5}));
        const std::vector<Token> ids = random_ids(4096, 75, 4);
        Reference reference(engine.weights());
        Session session = engine.session();
        std::vector<std::vector<float>> got;
        session.feed(ids,
                     [&](size_t, std::span<const float> logits) { got.emplace_back(logits.begin(), logits.end()); });
        REQUIRE(got.size() == ids.size());
        for (size_t t = 0; t < ids.size(); ++t) CHECK(worst_error(got[t], reference.feed(ids[t])) < 1e-3);
        check_silence(engine);
    }
}

TEST_SUITE("timing")    // never in CI: run by hand on an idle machine, with -ns (--no-skip)
{
    // With the software device: LP_NUM_THREADS=1 build/release/tests -ns -ts=timing; it and the host then have a core
    // each.
    TEST_CASE("host and device work on a split layer at once, of one block of neurons and of experts" * doctest::skip())
    {
        TemporaryFolder folder;
        const auto alone = std::make_shared<Workshop>(WorkshopOptions{.threads = 1});
        const RandomModel wide = {.layers = 4, .dim = 1024, .heads = 8, .kv_heads = 8, .neurons = 8192, .vocab = 512};
        RandomModel experts = wide;
        experts.neurons = 2048, experts.experts = 16, experts.experts_used = 4,
        experts.activation = host::Activation::silu;
        for (const RandomModel& m : {wide, experts}) {
            const auto model = write_random_model(folder / "wide.gguf", m);
            double best = INFINITY;
            for (const double resident :
                 {0.02, 0.04, 0.08, 0.16, 0.5}) {    // the shares that take equally long are not known beforehand
                EngineOptions options = options_for(model, {.device = device_name, .resident = resident});
                options.workshop = alone;
                Engine engine(options);
                Session session = engine.session(true);
                LayerCounts sum;
                session.on_stats = [&](const FeedStats& s) {
                    for (const LayerCounts& l : s.layers) {
                        if (s.position < 3) continue;    // warming up
                        sum.device_us += l.device_us;
                        sum.host_us += l.host_us;
                        sum.both_us += l.both_us;
                    }
                };
                for (const Token& id : random_ids(512, 20, 1)) session.feed(std::span(&id, 1));
                const double share = sum.both_us / (sum.device_us + sum.host_us);
                MESSAGE(fmt::format(
                    "{:.0f} % resident: device {:.0f} us, host {:.0f} us, both {:.0f} us, {:.2f} of the sum",
                    resident * 100, sum.device_us / 68, sum.host_us / 68, sum.both_us / 68, share));
                best = std::min(best, share);
            }
            CHECK(best < 0.8);
        }
    }
}
