#include "engine/plan/profile.h"
#include "engine/file/gguf_writer.h"
#include "engine/tune/profiler.h"
#include "tests/support.h"

#include <numeric>
#include <random>

using namespace hearth;
using namespace hearth::tests;

TEST_SUITE("plan")
{
    namespace {

    constexpr uint32_t layers = 2, neurons = 100, dim = 64;

    std::filesystem::path small_model(const TemporaryFolder& folder, uint64_t seed = 1)
    {
        return write_random_model(
            folder / fmt::format("model{}.gguf", seed),
            {.layers = layers, .dim = dim, .heads = 2, .kv_heads = 2, .neurons = neurons, .vocab = 300, .seed = seed});
    }

    /// Runs random tokens on the CPU, in windows.
    Profile profile_of(const std::filesystem::path& model, uint32_t windows, uint64_t seed)
    {
        Engine engine(on_cpu(model, 2));
        Profile p = empty_profile(*engine.weights().file, layers, neurons, dim);
        Profiler profiler(p, engine.weights(), engine.team());
        Session session = engine.profiling_session([&](const LayerActivity& a) { profiler.hear(a); });
        std::mt19937_64 random(seed);
        for (uint32_t w = 0; w < windows; ++w) {
            std::vector<Token> ids(50);
            for (Token& id : ids) id = Token(random() % 300);
            session.reset();
            session.feed(ids);
            profiler.commit(uint32_t(ids.size()));
        }
        p.texts.push_back({fmt::format("text {}", seed), windows, windows});
        return p;
    }

    Profile read(const std::filesystem::path& path, const std::filesystem::path& model)
    {
        return read_profile(Gguf(path), Gguf(model), layers, neurons, dim);
    }

    void check_same(const Profile& a, const Profile& b)
    {
        CHECK(a.model == b.model);
        CHECK(a.positions == b.positions);
        CHECK(a.stride == b.stride);
        CHECK(a.sampled == b.sampled);
        REQUIRE(a.texts.size() == b.texts.size());
        for (size_t l = 0; l < a.layers.size(); ++l) {
            CHECK(a.layers[l].fired == b.layers[l].fired);
            CHECK(a.layers[l].samples == b.layers[l].samples);
            CHECK(a.layers[l].agreeing == b.layers[l].agreeing);
            CHECK(a.layers[l].agreeing_fired == b.layers[l].agreeing_fired);
        }
    }

    }    // namespace

    TEST_CASE("a profile counts what fires, and its samples are a part of that")
    {
        TemporaryFolder folder;
        const Profile p = profile_of(small_model(folder), 30, 1);
        CHECK(p.positions == 1500);
        CHECK(p.stride == 4);    // 1500 positions, 512 samples at most
        CHECK(p.sampled == 375);
        for (const LayerProfile& l : p.layers) {
            const uint64_t all = std::accumulate(l.agreeing.begin(), l.agreeing.end(), uint64_t(0)),
                           fired = std::accumulate(l.agreeing_fired.begin(), l.agreeing_fired.end(), uint64_t(0)),
                           counted = std::accumulate(l.fired.begin(), l.fired.end(), uint64_t(0));
            CHECK(all >= p.sampled * neurons);
            CHECK(double(fired) / double(all) == doctest::Approx(double(counted) / (1500.0 * neurons)).epsilon(0.1));
            uint64_t bits = 0;
            for (const uint32_t word : l.samples) bits += uint64_t(std::popcount(word));
            CHECK(double(bits) == doctest::Approx(double(counted) / 4).epsilon(0.1));
        }
    }

    TEST_CASE("a profile is read as it was written, alone and within its model")
    {
        TemporaryFolder folder;
        const auto model = small_model(folder);
        Profile p = profile_of(model, 5, 1);
        p.calibration =
            Calibration{.sparsity = 0.5, .cuts = {0.25f, 0.5f}, .dense_nll = 3, .sparse_nll = 3.5, .tokens = 100};
        write_profile(folder / "p", p);
        check_same(read(folder / "p", model), p);
        CHECK(read(folder / "p", model).calibration->cuts == p.calibration->cuts);

        embed_profile(Gguf(model), p, folder / "with.gguf");
        embed_profile(Gguf(folder / "with.gguf"), p, folder / "again.gguf");    // replaces the one that is there
        const Gguf before(model), after(folder / "again.gguf");
        CHECK(model_key(after) == model_key(before));
        check_same(read(folder / "again.gguf", folder / "again.gguf"), p);
        REQUIRE(after.tensors().size() == before.tensors().size());
        for (const GgufTensor& t : before.tensors()) CHECK(std::memcmp(after.find(t.name)->data, t.data, t.bytes) == 0);
        CHECK(after.keys().size() > before.keys().size());
        EngineOptions predicted = on_cpu(folder / "again.gguf", 1);
        predicted.sparsity = Sparsity::predict;
        CHECK_NOTHROW(Engine{predicted});
    }

    TEST_CASE("a profile of another model, a cut one and what is none are refused")
    {
        TemporaryFolder folder;
        const auto model = small_model(folder, 1), other = small_model(folder, 2);
        write_profile(folder / "p", profile_of(model, 2, 1));
        CHECK_THROWS_WITH_AS(read(folder / "p", other), doctest::Contains("another model"), Error);
        CHECK_THROWS_AS(read(other, model), Error);
        const std::string bytes = read_file(folder / "p");
        for (size_t length = 0; length < bytes.size(); length += 1 + length / 50) {
            std::ofstream(folder / "cut", std::ios::binary | std::ios::trunc) << bytes.substr(0, length);
            CHECK_THROWS_AS(read(folder / "cut", model), Error);
        }
    }

    TEST_CASE("counts that no text can give are refused, and sums of the largest that are not stay readable")
    {
        const TemporaryFolder folder;
        const std::filesystem::path model = small_model(folder), path = folder / "p.gguf";
        Profile p = empty_profile(Gguf(model), layers, neurons, dim);
        p.positions = uint64_t(1) << 53;
        p.sampled = most_samples;
        p.stride = uint32_t(1) << 31;
        p.calibration = {.sparsity = 0.5, .cuts = {0.1f, 0.2f}, .dense_nll = 2, .sparse_nll = 3, .tokens = 7};
        for (LayerProfile& layer : p.layers) {
            layer.samples.resize(p.sampled * ((neurons + 31) / 32));
            layer.predicted = layer.predicted_fired = p.positions;
            for (std::vector<uint64_t>* counts :
                 {&layer.fired, &layer.agreeing, &layer.agreeing_fired, &layer.activation})
                std::ranges::fill(*counts, p.positions);
        }
        write_profile(path, p);
        Profile sum = read(path, model);
        merge(sum, read(path, model));
        CHECK(sum.positions == p.positions);
        CHECK(sum.layers[0].agreeing[3] == p.positions);
        CHECK(sum.sampled == most_samples);
        write_profile(path, sum);
        check_same(read(path, model), sum);

        const auto refused = [&](auto&& change, const char* what) {
            Profile q = p;
            change(q);
            write_profile(path, q);
            CHECK_THROWS_WITH_AS(read(path, model), doctest::Contains(what), Error);
        };
        refused([](Profile& q) { q.positions = UINT64_MAX; }, "hearth.profile.positions is not what it should be");
        refused([](Profile& q) { q.layers[1].agreeing[2] = INT64_MAX; }, "blk.1.agreeing is not");
        refused([](Profile& q) { q.calibration->cuts[0] = -1; }, "calibration.cuts is not");
        refused([](Profile& q) { q.calibration->cuts[1] = NAN; }, "calibration.cuts is not");
        refused([](Profile& q) { q.calibration->sparsity = 1.5; }, "calibration.sparsity is not");
        refused([](Profile& q) { q.calibration->sparse_nll = -1; }, "calibration.sparse_nll is not");
    }

    TEST_CASE("a profile with any byte changed is refused, and one from before there were checksums is read")
    {
        TemporaryFolder folder;
        const auto model = small_model(folder);
        const Profile p = profile_of(model, 2, 1);
        write_profile(folder / "p", p);
        const std::string bytes = read_file(folder / "p");
        const size_t values = bytes.find("hearth.profile.positions");
        REQUIRE(values != bytes.npos);
        for (size_t at = values; at < bytes.size(); at += 1 + at / 100) {
            std::string damaged = bytes;
            damaged[at] = char(damaged[at] ^ 4);
            std::ofstream(folder / "damaged", std::ios::binary | std::ios::trunc) << damaged;
            INFO(at);
            CHECK_THROWS_AS(read(folder / "damaged", model), Error);
        }
        std::string old = bytes;    // of version 1
        old.replace(old.find("hearth.profile.checksum"), 8, "earlier.");
        const std::string version = "hearth.profile.version";
        old[old.find(version) + version.size() + sizeof(uint32_t)] = 1;
        std::ofstream(folder / "old", std::ios::binary | std::ios::trunc) << old;
        check_same(read(folder / "old", model), p);
    }

    TEST_CASE("profiles of two texts add up, and one text never counts twice")
    {
        TemporaryFolder folder;
        const auto model = small_model(folder);
        Profile a = profile_of(model, 30, 1);
        const Profile b = profile_of(model, 3, 2);
        const uint64_t fired = a.layers[1].fired[7] + b.layers[1].fired[7];
        CHECK_THROWS_AS(merge(a, a), Error);
        merge(a, b);
        CHECK(a.positions == 1650);
        CHECK(a.layers[1].fired[7] == fired);
        CHECK(a.sampled <= most_samples);
        CHECK(a.layers[0].samples.size() == a.sampled * ((neurons + 31) / 32));
    }

    TEST_CASE("what is not committed is not in the profile")
    {
        TemporaryFolder folder;
        Engine engine(on_cpu(small_model(folder), 1));
        Profile p = empty_profile(*engine.weights().file, layers, neurons, dim);
        Profiler profiler(p, engine.weights(), engine.team());
        Session session = engine.profiling_session([&](const LayerActivity& a) { profiler.hear(a); });
        const std::vector<Token> ids(20, 5);
        session.feed(ids);
        profiler.discard();
        CHECK(std::accumulate(p.layers[0].fired.begin(), p.layers[0].fired.end(), uint64_t(0)) == 0);
        session.reset();
        session.feed(ids);
        profiler.commit(20);
        CHECK(p.positions == 20);
        CHECK(std::accumulate(p.layers[0].fired.begin(), p.layers[0].fired.end(), uint64_t(0)) > 0);
    }

    TEST_CASE("the placement order puts hot neurons first, and in a group such that fire together")
    {
        // Of 512 neurons, all of one band half as hot as the band before; in each band those with the same n % 2 fire
        // together.
        constexpr uint32_t n = 512, samples = 256;
        LayerProfile l;
        l.fired.resize(n);
        l.samples.resize(samples * n / 32);
        std::mt19937_64 random(3);
        std::vector<uint32_t> heat(n);
        std::iota(heat.begin(), heat.end(), 0);
        std::shuffle(heat.begin(), heat.end(), random);
        for (uint32_t i = 0; i < n; ++i) {
            const uint32_t band = heat[i] / 64, kind = heat[i] % 2;
            for (uint32_t s = 0; s < samples; ++s)
                if (s % 2 == kind && s / 2 % (band + 1) == 0) {
                    l.samples[s * n / 32 + i / 32] |= 1u << i % 32;
                    ++l.fired[i];
                }
        }
        std::vector<uint32_t> order = placement_order(l, samples);
        for (uint32_t g = 0; g < n / group_neurons; ++g)
            for (uint32_t i = 0; i < group_neurons; ++i) {
                CHECK(heat[order[g * group_neurons + i]] / 64 == g / 2);
                CHECK(heat[order[g * group_neurons + i]] % 2 == heat[order[g * group_neurons]] % 2);
            }
        std::sort(order.begin(), order.end());
        for (uint32_t i = 0; i < n; ++i) REQUIRE(order[i] == i);
    }

    TEST_CASE("the threshold of signs is the highest that finds the wanted share of what fires")
    {
        LayerProfile l = {.agreeing = {50, 30, 20, 10, 10}, .agreeing_fired = {1, 4, 5, 10, 10}};
        CHECK(sign_threshold(l, 0.6) == 3);
        CHECK(sign_threshold(l, 0.8) == 2);
        CHECK(sign_threshold(l, 0.9) == 1);
        CHECK(sign_threshold(l, 1.0) == 0);
        const PredictorQuality q = sign_quality(l, 2);
        CHECK(q.recall == doctest::Approx(25.0 / 30));
        CHECK(q.precision == doctest::Approx(25.0 / 40));
        CHECK(q.predicted == doctest::Approx(40.0 / 120));
    }

    TEST_CASE("the cut leaves out the wanted share of the activations")
    {
        LayerProfile l;
        l.activation.resize(activation_bins);
        std::mt19937_64 random(4);
        std::vector<float> values(10000);
        for (float& v : values) {
            v = std::abs(float(random() % 100000) / 100000);
            ++l.activation[activation_bin(v)];
        }
        for (const double sparsity : {0.2, 0.5, 0.8}) {
            const float cut = activation_cut(l, sparsity);
            const double below =
                double(std::count_if(values.begin(), values.end(), [&](float v) { return v < cut; })) / 10000;
            CHECK(below == doctest::Approx(sparsity).epsilon(0.06));
        }
    }
}
