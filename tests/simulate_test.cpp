// Simulations: held to what others have published, to the plan's own estimate, and to sense.
#include "engine/engine.h"
#include "engine/model/architectures.h"
#include "engine/plan/cases.h"
#include "engine/plan/roofline.h"
#include "engine/vision/tower_weights.h"
#include "engine/vision/vision.h"
#include "tests/support.h"

#include <map>
#include <numeric>

using namespace hearth;

namespace {

/// By name and type, described once.
const Weights& described(std::string_view arch, const char* type, bool by_neurons)
{
    static std::map<std::tuple<std::string, std::string, bool>, std::unique_ptr<Weights>> all;
    std::unique_ptr<Weights>& w = all[{std::string(arch), type, by_neurons}];
    if (!w)
        w = std::make_unique<Weights>(describe_weights(
            header_of(find_architecture(arch), *find_quantisation(type), {}, by_neurons), DownLayout::dense));
    return *w;
}

Needs needs_of(const Weights& weights, const SessionShape& shape) { return session_needs(weights, shape); }

bool by_neurons(Way way) { return way == Way::exact || way == Way::predict || way == Way::routed; }

Machine machine(const char* card = "RTX 4090")
{
    return expected_machine({.card = &find_card(card),
                             .processor = &find_processor("Core i9-13900K"),
                             .memory = &find_memory("DDR5-5600"),
                             .link = {}});
}

Scenario scenario(const Weights& weights, Way way, double gib)
{
    return {.weights = &weights,
            .needs_of = needs_of,
            .machine = machine(),
            .device_memory = uint64_t(gib * 0x1p30),
            .way = way};
}

}    // namespace

TEST_SUITE("simulate")
{
    TEST_CASE("what was published is simulated as closely as this, and what is far off has its reason")
    {
        std::vector<double> ratios;
        for (const Case& c : published_cases()) {
            const Weights& w = described(c.arch, std::string(c.type).c_str(), by_neurons(c.way));
            ratios.push_back(simulated(c, w, needs_of) / c.tokens_per_s);
            INFO(c.arch, " ", c.type, " on ", c.card, " by ", c.program->name, ": ", ratios.back());
            CHECK(!c.source.empty());
            CHECK((std::abs(ratios.back() - 1) <= 0.38 || !c.miss.empty()));
            CHECK((ratios.back() > 0.5 && ratios.back() < 2.2));
        }
        // As of today: 28 of 41 within 25 %, 31 within 35 %; no constant was chosen by them.
        const Spread s = spread_of(ratios);
        INFO("within 25 %: ", s.within_25, ", 35 %: ", s.within_35, " of ", s.count, ", factor ", s.factor);
        CHECK(s.count == 41);
        CHECK(s.within_25 >= 28);    // two thirds
        CHECK(s.within_35 >= 31);
        CHECK(s.middle == doctest::Approx(1.04).epsilon(0.05));
        CHECK(s.factor == doctest::Approx(usual_spread).epsilon(0.05));
    }

    TEST_CASE("bounds that were computed from bandwidths alone come out within a quarter")
    {
        for (const BoundCase& c : bound_cases()) {
            if (c.bound->gib != 24 || c.bound->type != "q4_0") continue;    // `hearth simulate --cases` has all
            const Weights& w = described(c.bound->arch, std::string(c.bound->type).c_str(), c.column != "dense");
            const double ratio = simulated(c, w, needs_of) / c.tokens_per_s;
            INFO(c.bound->arch, " ", c.bound->type, " ", c.bound->gib, " GiB, ", c.column, ": ", ratio);
            CHECK(ratio > 0.75);
            CHECK(ratio < 1.25);
        }
        CHECK(bound_cases().size() == 40);
    }

    TEST_CASE("a simulation is the plan's own estimate")
    {
        const Weights& w = described("llama-2-7b", "q4_0", false);
        Scenario s = scenario(w, Way::dense, 4);
        s.position = 100;
        DecisionOptions options;
        const Computation computation = decide_computation(options, w, {});
        const Needs needs = session_needs(w, computation.shape);
        const Decision d = decide(options, {w, computation, needs},
                                  {.device = DeviceFacts{.name = "RTX 4090", .free = s.device_memory},
                                   .why_none = "",
                                   .figures = s.machine,
                                   .memory = {}},
                                  100);
        const Simulated result = simulate(s);
        REQUIRE(d.expected_us);
        CHECK(result.tokens_per_s == doctest::Approx(1e6 / *d.expected_us));
        CHECK(result.device_bytes == d.plan.bytes);
        CHECK(result.layers_on_device == d.plan.layers.size());
    }

    TEST_CASE("the steps of a roofline take what is simulated")
    {
        for (const Way way : {Way::dense, Way::exact, Way::predict}) {
            const Weights& w = described("relullama-7b", "q4_0", by_neurons(way));
            for (const double gib : {0.0, 24.0}) {    // nothing on the device, and everything: sides never wait
                Scenario s = scenario(w, way, gib);
                s.position = 512;
                const PlannedScenario planned = plan_scenario(s);
                const PlannedModel model = {w, planned.needs, planned.computation.shape, planned.computation.use};
                double us = 0;
                for (const RooflineRow& row :
                     roofline(planned_steps(model, planned.decision.plan, &s.machine, {.position = 512}),
                              host::Work::few, &s.machine))
                    us += row.expected.us();
                INFO(gib, " GiB, way ", int(way));
                CHECK(us == doctest::Approx(1e6 / simulate(s).tokens_per_s).epsilon(0.06));
            }
        }
    }

    TEST_CASE("more memory is never slower, and less work never either")
    {
        double of_dense[4] = {};
        for (const Way way : {Way::dense, Way::predict}) {
            const Weights& w = described("relullama-13b", "f16", true);
            double before = 0;
            size_t i = 0;
            for (const double gib : {8., 12., 16., 24.}) {
                const Simulated s = simulate(scenario(w, way, gib));
                INFO(int(way), " ", gib, ": ", s.tokens_per_s);
                CHECK(s.tokens_per_s >= before);
                CHECK(s.device_bytes <= uint64_t(gib * 0x1p30));
                CHECK(s.first_token_s > 0);
                before = s.tokens_per_s;
                if (way == Way::dense) of_dense[i] = before;
                else CHECK(before >= of_dense[i]);
                ++i;
            }
        }
    }

    TEST_CASE("what fires is shared out by the curve, and no neuron fires more than once for a token")
    {
        for (const FiringCurve& curve : firing_curves()) {
            INFO(curve.name);
            const std::vector<double> fired = fired_by_group(curve, 0.2, 10'000, 313);    // the last group has 16
            REQUIRE(fired.size() == 313);
            CHECK(std::accumulate(fired.begin(), fired.end(), 0.0) == doctest::Approx(2000));
            for (size_t g = 0; g < fired.size(); ++g) {
                CHECK(fired[g] <= (g + 1 < fired.size() ? 32 : 16));
                if (g > 0 && g + 1 < fired.size()) CHECK(fired[g] <= fired[g - 1] + 1e-9);
            }
        }
        const std::vector<double> even = fired_by_group(find_firing("even"), 0.5, 320, 10);
        for (const double f : even) CHECK(f == doctest::Approx(16));
    }

    TEST_CASE("experts that were used last serve more than those used most, as far as the link brings them")
    {
        const Weights& w = described("qwen3-30b-a3b", "q4_k_m", false);
        const auto with = [&](const char* firing, bool moves, double upload) {
            Scenario s = scenario(w, Way::dense, 8);
            s.firing = &find_firing(firing);
            s.moves_experts = moves;
            s.machine.upload = upload;
            return simulate(s);
        };
        const Simulated counted = with("experts-static", false, 24), used_last = with("experts-recency", true, 24),
                        narrow = with("experts-recency", true, 1);
        CHECK(used_last.served > counted.served);
        CHECK(used_last.tokens_per_s > counted.tokens_per_s);
        CHECK(narrow.tokens_per_s < counted.tokens_per_s);
        Scenario none = scenario(w, Way::dense, 8);
        none.options.cpu_experts = UINT32_MAX;
        CHECK(simulate(none).served == 0);
        CHECK(simulate(none).tokens_per_s < counted.tokens_per_s);
    }

    TEST_CASE("an integrated GPU has all of a model or nothing")
    {
        const Weights& w = described("llama-2-7b", "q4_0", false);
        Scenario s = scenario(w, Way::dense, 16);
        s.machine = machine("Radeon 780M");
        s.shares_memory = true;
        const Simulated all = simulate(s);
        CHECK((all.resident == 0 || all.resident == 1));
        s.device_memory = 2ull << 30;
        CHECK(simulate(s).resident == 0);
        s.device_memory = 0;
        CHECK(simulate(s).device_bytes == 0);
        s.host_memory = 3ull << 30;
        CHECK(!simulate(s).fits);
    }

    TEST_CASE("nothing is left out of a model whose down projections lie by columns")
    {
        CHECK_THROWS_WITH_AS(simulate(scenario(described("llama-2-7b", "q4_0", false), Way::predict, 4)),
                             doctest::Contains("by columns"), Error);
    }

    TEST_CASE("a long prompt streams where that is faster, and takes longer the longer it is")
    {
        const Weights& w = described("llama-33b", "q4_0", false);
        double before = 0;
        for (const uint32_t tokens : {16u, 128u, 1024u, 4096u}) {
            Scenario s = scenario(w, Way::dense, 12);
            s.prompt = tokens;
            const double seconds = simulate(s).first_token_s;
            INFO(tokens);
            CHECK(seconds > before);
            before = seconds;
        }
        Scenario s = scenario(w, Way::dense, 12);
        s.options.stream = 0;
        s.prompt = 4096;
        CHECK(simulate(s).first_token_s > before);    // never streamed
    }

    TEST_CASE("images take time to look at, tokens to read, and memory that the model's neurons then have not")
    {
        const Weights& w = described("llama-2-7b", "q4_0", false);
        const TowerWeights tower = describe_usual_tower(w.config.dim);
        const TowerNeeds needs = tower_needs(tower);
        CHECK(needs.pieces.size() == 24);
        CHECK(double(needs.weights()) == doctest::Approx(621e6).epsilon(0.01));    // two bytes a weight
        const TowerFacts facts = tower_facts(tower, needs);
        for (const double gib : {0.0, 3.0, 24.0}) {
            Scenario s = scenario(w, Way::dense, gib);
            const Simulated blind = simulate(s);
            s.tower = &facts;
            const Simulated none = simulate(s);
            s.images = 2;
            const Simulated two = simulate(s);
            INFO(gib);
            CHECK(none.looking_s == 0);
            CHECK(none.first_token_s >= blind.first_token_s);
            CHECK(none.device_bytes <= s.device_memory);
            CHECK(two.looking_s > 0);
            // 1152 tokens more.
            CHECK(two.first_token_s > none.first_token_s + two.looking_s);
            CHECK(two.tokens_per_s < none.tokens_per_s);    // for they are in the cache
            s.images = 4;
            CHECK(simulate(s).looking_s == doctest::Approx(2 * two.looking_s));
        }
        // The GPU looks a hundred times as fast as the CPU; copying all that looks costs its bytes over the link.
        const Machine m = machine();
        const TowerPlan kept = {.room = needs.weights(), .kept = true}, passing = {.room = needs.pieces[0]};
        CHECK(look_us(facts, {}, m, 1) > 20 * look_us(facts, kept, m, 1));
        CHECK(look_us(facts, passing, m, 5) - look_us(facts, kept, m, 5) ==
              doctest::Approx(double(needs.weights()) / m.upload / 1000));
        CHECK(look_us(facts, kept, m, 5) == doctest::Approx(5 * look_us(facts, kept, m, 1)));
    }
}
