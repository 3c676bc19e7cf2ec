#include "engine/plan/placement.h"
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
        for (uint64_t l = 0; l < layers; ++l)
            needs.layers.push_back({.attention = upto(2000), .kv = upto(500), .group = upto(300), .groups = uint32_t(upto(20))});
        return needs;
    }

    uint64_t cost(const Needs& needs, const Plan& plan)
    {
        uint64_t sum = plan.layers.empty() ? 0 : needs.scratch + (plan.head ? needs.head : 0);
        for (size_t l = 0; l < plan.layers.size(); ++l)
            sum += needs.layers[l].attention + needs.layers[l].kv + plan.layers[l].resident.size() * needs.layers[l].group;
        return sum;
    }

    }    // namespace

    TEST_CASE("a plan never exceeds its budget and says what it costs")
    {
        std::mt19937_64 random(1);
        for (int i = 0; i < 5000; ++i) {
            const Needs needs = random_needs(random);
            const uint64_t budget = random() % 40000;
            const Plan plan = place(needs, budget);
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
            const Plan plan = place(needs, budget);
            uint64_t attention = needs.scratch;
            for (const LayerNeeds& l : needs.layers) attention += l.attention + l.kv;
            REQUIRE(plan.head == (budget >= attention + needs.head));
            for (const LayerPlan& l : plan.layers)
                if (!l.resident.empty()) REQUIRE(plan.layers.size() == needs.layers.size());
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
                const Plan plan = place(needs, budget);
                REQUIRE(plan.layers.size() >= layers);
                layers = plan.layers.size();
                REQUIRE(plan.head >= head);
                if (plan.head > head) groups = 0;    // neurons give way to the head once it fits: it is read whole for every token
                head = plan.head;
                size_t now = 0;
                for (const LayerPlan& l : plan.layers) now += l.resident.size();
                // Where groups differ in size, a large one may take the room of several small ones.
                if (std::all_of(needs.layers.begin(), needs.layers.end(), [&](const LayerNeeds& n) { return n.group == needs.layers[0].group; }))
                    REQUIRE(now >= groups);
                groups = now;
            }
        }
    }

    TEST_CASE("groups are dealt evenly over equal layers, in file order")
    {
        const Needs needs = {.scratch = 10, .layers = std::vector<LayerNeeds>(4, {.attention = 10, .kv = 10, .group = 5, .groups = 8}), .head = 10};
        const Plan plan = place(needs, 10 + 4 * 20 + 10 + 4 * 3 * 5 + 4);
        REQUIRE(plan.layers.size() == 4);
        for (const LayerPlan& l : plan.layers) CHECK(l.resident == std::vector<uint32_t>{0, 1, 2});
        const Plan all = place(needs, 1 << 20);
        for (const LayerPlan& l : all.layers) CHECK(l.resident.size() == 8);
    }
}
