#include "engine/plan/costs.h"
#include "tests/support.h"

#include <random>

using namespace hearth;

TEST_SUITE("plan")
{
    namespace {

    Needs random_needs(std::mt19937_64& random)
    {
        const auto upto = [&](uint64_t n) { return random() % n + 1; };
        Needs needs = {.scratch = upto(1000), .layers = {}, .head = upto(5000)};
        const uint64_t layers = upto(8);
        for (uint64_t l = 0; l < layers; ++l) {
            const uint32_t together = random() % 4 ? 1 : 2;
            needs.layers.push_back({.attention = upto(2000),
                                    .kv = upto(500),
                                    .group = upto(300),
                                    .groups = uint32_t(upto(20)) * together,
                                    .together = together});
        }
        return needs;
    }

    uint64_t cost(const Needs& needs, const Plan& plan)
    {
        uint64_t sum = plan.layers.empty() ? 0 : needs.scratch + (plan.head ? needs.head : 0);
        for (size_t l = 0; l < plan.layers.size(); ++l) {
            const size_t k = plan.layers[l].resident.size();
            sum += needs.layers[l].attention + needs.layers[l].kv + k * needs.layers[l].group;
            if (k < needs.layers[l].groups) sum += needs.layers[l].predictor;
        }
        return sum;
    }

    /// Times as they might be: hot groups first, either side the faster, seams dear or cheap.
    Costs random_costs(const Needs& needs, std::mt19937_64& random)
    {
        const auto some = [&](double most) { return most * double(random() % 1000) / 1000; };
        Costs costs = {
            .submit = some(20), .seam = some(50), .token = some(30), .head_device = some(100), .head_host = some(300)};
        for (const LayerNeeds& n : needs.layers) {
            LayerCosts l = {.host_layer = some(300), .attention = some(50), .predict = some(5)};
            double activity = some(32);
            const double device = some(3), host = some(10);
            l.device_ffn.push_back(0);
            l.host_ffn.assign(n.groups + 1, 0);
            for (uint32_t g = 0; g < n.groups; ++g) {
                l.activity.push_back(activity);
                l.device_ffn.push_back(l.device_ffn.back() + device * (1 + activity / 32));
                activity *= 0.5 + some(0.5);
            }
            for (uint32_t g = n.groups; g-- > 0;) l.host_ffn[g] = l.host_ffn[g + 1] + host * (0.1 + l.activity[g] / 32);
            costs.layers.push_back(l);
        }
        return costs;
    }

    Needs small_needs(std::mt19937_64& random)
    {
        Needs needs = {.scratch = random() % 30, .layers = {}, .head = random() % 100};
        const uint64_t layers = random() % 4 + 1;
        for (uint64_t l = 0; l < layers; ++l) {
            const uint32_t together = random() % 4 ? 1 : 2;
            needs.layers.push_back({.attention = random() % 50 + 1,
                                    .kv = random() % 20,
                                    .predictor = random() % 10,
                                    .group = random() % 30 + 1,
                                    .groups = uint32_t(random() % 4 + 1) * together,
                                    .together = together});
        }
        return needs;
    }

    /// The least time of all plans there are.
    double brute_force(const Needs& needs, const Costs& costs, uint64_t budget, const Limits& limits = {})
    {
        double best = expected_us(costs, {});
        const auto deeper = [&](const auto& self, Plan& plan) -> void {
            for (const bool head : {false, true}) {
                plan.head = head;
                if (plan.layers.empty() || (head && !limits.head) ||
                    (head && plan.layers.size() < needs.layers.size()) || cost(needs, plan) > budget)
                    continue;
                best = std::min(best, expected_us(costs, plan));
            }
            plan.head = false;
            if (plan.layers.size() == std::min<size_t>(needs.layers.size(), limits.layers)) return;
            const LayerNeeds& layer = needs.layers[plan.layers.size()];
            for (uint32_t k = 0; k <= (plan.layers.size() < limits.host_ffn ? 0 : layer.groups); k += layer.together) {
                std::vector<uint32_t> resident(k);
                plan.layers.push_back({resident});
                self(self, plan);
                plan.layers.pop_back();
            }
        };
        Plan plan;
        deeper(deeper, plan);
        return best;
    }

    }    // namespace

    TEST_CASE("a plan never exceeds its budget and says what it costs")
    {
        std::mt19937_64 random(1);
        for (int i = 0; i < 5000; ++i) {
            const Needs needs = random_needs(random);
            const uint64_t budget = random() % 40000;
            const Plan plan = place_most(needs, even_costs(needs), budget);
            REQUIRE(plan.bytes <= budget);
            REQUIRE(plan.bytes == cost(needs, plan));
            REQUIRE(plan.layers.empty() == (budget < least_budget(needs)));
        }
    }

    TEST_CASE("attention comes before the head and neurons, and neurons leave the head its room")
    {
        std::mt19937_64 random(2);
        for (int i = 0; i < 2000; ++i) {
            const Needs needs = random_needs(random);
            const uint64_t budget = random() % 40000;
            const Plan plan = place_most(needs, even_costs(needs), budget);
            uint64_t attention = needs.scratch;
            for (const LayerNeeds& l : needs.layers) attention += l.attention + l.kv;
            REQUIRE(plan.head == (budget >= attention + needs.head));
        }
    }

    TEST_CASE("more memory never takes a layer or the head away, nor a group but for the head")
    {
        std::mt19937_64 random(3);
        for (int i = 0; i < 300; ++i) {
            const Needs needs = random_needs(random);
            size_t layers = 0, groups = 0;
            bool head = false;
            for (uint64_t budget = 0; budget < 20000; budget += 97) {
                const Plan plan = place_most(needs, even_costs(needs), budget);
                REQUIRE(plan.layers.size() >= layers);
                layers = plan.layers.size();
                REQUIRE(plan.head >= head);
                if (plan.head > head)
                    groups = 0;    // neurons give way to the head once it fits: it is read whole for every token
                head = plan.head;
                size_t now = 0;
                for (const LayerPlan& l : plan.layers) now += l.resident.size();
                // Where groups differ in size, a large one may take the room of several small ones.
                if (std::all_of(needs.layers.begin(), needs.layers.end(),
                                [&](const LayerNeeds& n) { return n.group == needs.layers[0].group; }))
                    REQUIRE(now >= groups);
                groups = now;
            }
        }
    }

    TEST_CASE("groups are dealt evenly over equal layers, in file order")
    {
        const Needs needs = {.scratch = 10,
                             .layers = std::vector<LayerNeeds>(4, {.attention = 10, .kv = 10, .group = 5, .groups = 8}),
                             .head = 10};
        const Plan plan = place_most(needs, even_costs(needs), 10 + 4 * 20 + 10 + 4 * 3 * 5 + 4);
        REQUIRE(plan.layers.size() == 4);
        for (const LayerPlan& l : plan.layers) CHECK(l.resident == std::vector<uint32_t>{0, 1, 2});
        const Plan all = place_most(needs, even_costs(needs), 1 << 20);
        for (const LayerPlan& l : all.layers) CHECK(l.resident.size() == 8);
    }

    TEST_CASE("the fastest plan keeps to its budget, whatever the model")
    {
        std::mt19937_64 random(4);
        for (int i = 0; i < 2000; ++i) {
            Needs needs = random_needs(random);
            for (LayerNeeds& l : needs.layers) l.predictor = random() % 50;
            const Costs costs = random_costs(needs, random);
            const uint64_t budget = i % 10 == 0 ? uint64_t(1) << 60 : random() % 40000;
            for (const Plan& plan : {place_fastest(needs, costs, budget), place_most(needs, costs, budget)}) {
                REQUIRE(plan.bytes <= budget);
                REQUIRE(plan.bytes == cost(needs, plan));
                REQUIRE((!plan.head || plan.layers.size() == needs.layers.size()));
                for (size_t l = 0; l < plan.layers.size(); ++l)
                    REQUIRE(plan.layers[l].resident.size() % needs.layers[l].together == 0);
            }
        }
    }

    TEST_CASE("the fastest plan is the fastest there is")
    {
        std::mt19937_64 random(5);
        for (int i = 0; i < 2000; ++i) {
            const Needs needs = small_needs(random);
            const Costs costs = random_costs(needs, random);
            const uint64_t budget = random() % 500;
            CAPTURE(i);
            REQUIRE(expected_us(costs, place_fastest(needs, costs, budget)) ==
                    doctest::Approx(brute_force(needs, costs, budget)).epsilon(1e-9));
        }
    }

    TEST_CASE("a plan keeps its limits, and the fastest one is the fastest of those that do")
    {
        std::mt19937_64 random(7);
        for (int i = 0; i < 2000; ++i) {
            const Needs needs = small_needs(random);
            const Costs costs = random_costs(needs, random);
            const uint64_t budget = random() % 500;
            const Limits limits = {
                .layers = uint32_t(random() % 5), .head = random() % 2 == 0, .host_ffn = uint32_t(random() % 3)};
            CAPTURE(i);
            const Plan fastest = place_fastest(needs, costs, budget, limits);
            REQUIRE(expected_us(costs, fastest) ==
                    doctest::Approx(brute_force(needs, costs, budget, limits)).epsilon(1e-9));
            for (const Plan& plan : {fastest, place_most(needs, costs, budget, limits)}) {
                REQUIRE(plan.bytes <= budget);
                REQUIRE(plan.layers.size() <= limits.layers);
                REQUIRE((!plan.head || limits.head));
                for (size_t l = 0; l < std::min<size_t>(plan.layers.size(), limits.host_ffn); ++l)
                    REQUIRE(plan.layers[l].resident.empty());
            }
        }
    }

    TEST_CASE("many small groups fill a budget as few large ones do")
    {
        // As of 80 layers of a 70B model in 4 bit: a group is far smaller than what memory is counted in.
        constexpr uint32_t layers = 80, groups = 896;
        constexpr uint64_t group = 442'368, attention = 85 << 20;
        Needs needs = {.scratch = 100 << 20, .layers = {}, .head = 250 << 20};
        Costs costs = {.layers = {}, .submit = 5, .seam = 20, .token = 30, .head_device = 300, .head_host = 4000};
        LayerCosts layer = {.host_layer = 10'000, .attention = 100};
        for (uint32_t k = 0; k <= groups; ++k) {
            layer.device_ffn.push_back(k * 0.5);
            layer.host_ffn.push_back((groups - k) * 8.0);
            if (k < groups) layer.activity.push_back(32);
        }
        for (uint32_t l = 0; l < layers; ++l) {
            needs.layers.push_back({.attention = attention, .kv = 1 << 20, .group = group, .groups = groups});
            costs.layers.push_back(layer);
        }
        for (const uint64_t gib : {12, 16, 24, 32}) {
            INFO(gib);
            const Plan plan = place_fastest(needs, costs, gib << 30);
            CHECK(plan.bytes <= gib << 30);
            CHECK(double(plan.bytes) > 0.97 * double(gib << 30));
        }
    }

    TEST_CASE("more memory is never slower by the plan's own estimate")
    {
        std::mt19937_64 random(6);
        for (int i = 0; i < 40; ++i) {
            const Needs needs = random_needs(random);
            const Costs costs = random_costs(needs, random);
            double before = INFINITY;
            for (uint64_t budget = 0; budget < 40000; budget += 393) {
                const double us = expected_us(costs, place_fastest(needs, costs, budget));
                REQUIRE(us <= before * (1 + 1e-12));
                before = us;
            }
        }
    }

    TEST_CASE("where seams are dear, some layers are made whole and others left cold")
    {
        const Needs needs = {
            .scratch = 0, .layers = std::vector<LayerNeeds>(4, {.attention = 10, .group = 10, .groups = 8}), .head = 0};
        Costs costs = even_costs(needs);
        for (LayerCosts& l : costs.layers) {
            l.host_layer = 1000;
            for (uint32_t k = 0; k <= 8; ++k) {
                l.device_ffn[k] = k;
                l.host_ffn[k] = 4 * (8 - k);
            }
        }
        costs.seam = 100;
        const Plan plan = place_fastest(needs, costs, 4 * 10 + 2 * 80 + 30);
        REQUIRE(plan.layers.size() == 4);
        size_t whole = 0;
        for (const LayerPlan& l : plan.layers) whole += l.resident.size() == 8;
        CHECK(whole == 2);
    }

    TEST_CASE("what fires most goes to the device first")
    {
        const Needs needs = {
            .scratch = 0, .layers = std::vector<LayerNeeds>(2, {.attention = 1, .group = 10, .groups = 4}), .head = 0};
        Costs costs = even_costs(needs);
        costs.layers[0].activity = {8, 1, 1, 1};
        costs.layers[1].activity = {9, 7, 6, 0};
        const Plan plan = place_most(needs, costs, 2 + 4 * 10);
        CHECK(plan.layers[0].resident.size() == 1);
        CHECK(plan.layers[1].resident.size() == 3);
    }

    TEST_CASE("a prompt is streamed from that length on where its copy takes less time than the host, by the machine's "
              "figures")
    {
        Weights weights;
        weights.layers.resize(1);
        const Matrix rows = {WeightType::q4_0, 1000, 1024, nullptr};    // 576 bytes each
        weights.layers[0].ffn = {.gate = rows, .up = rows, .down_t = rows};
        const size_t q4_0 = format_number(WeightType::q4_0);
        Machine machine;
        CHECK(!stream_from(weights, machine));
        // The host takes 3 x 1000 x 1024 / 100 = 30720 ns for a token, the device 3 x 1000 x 1024 x 64 / 20000 = 9830
        // ns for 64 of them.
        machine.host_products[q4_0] = 100;
        machine.products[q4_0][size_t(Product::floats)] = 20000;
        CHECK(!stream_from(weights, machine));
        machine.laid_out[q4_0] = 10;    // 172800 ns for 3 x 576000 bytes
        machine.upload = 20;
        CHECK(stream_from(weights, machine) == 6u);    // 6 x 30720 > 172800
        machine.upload = 2;                            // 864000 ns
        CHECK(stream_from(weights, machine) == 29u);
        machine.products[q4_0][size_t(Product::integers)] =
            2000000;    // but of rows of down_t every weight has another scale: 3408 ns
        CHECK(stream_from(weights, machine) == 29u);
        machine.products[q4_0][size_t(Product::floats)] = 10;    // slower than the host
        CHECK(stream_from(weights, machine) == UINT32_MAX);
        weights.config.experts = 8;
        weights.config.experts_used = 2;
        machine.products[q4_0][size_t(Product::floats)] = 20000;
        CHECK(stream_from(weights, machine) ==
              114u);    // a token is a quarter of the work for the host only; two tiles
    }
}
