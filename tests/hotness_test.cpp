// Which neurons fire, by profiles and by PowerInfer's files.
#include "engine/plan/hotness.h"
#include "tests/support.h"

#include <numeric>

using namespace hearth;
using namespace hearth::tests;

TEST_SUITE("plan")
{
    TEST_CASE("a profile's neurons are placed by how often they fired, and fire as often as they did")
    {
        Profile profile;
        profile.positions = 10;
        LayerProfile& layer = profile.layers.emplace_back();
        for (uint64_t n = 0; n < 70; ++n) layer.fired.push_back(n % 11);
        const Hotness hotness = hotness_of(profile);
        REQUIRE(hotness.size() == 1);
        CHECK(hotness[0].order[0] % 11 == 10);
        CHECK(hotness[0].fires[21] == doctest::Approx(1.0));
        CHECK(hotness[0].fires[23] == doctest::Approx(0.1));
        const std::vector<double> groups = hotness[0].by_group();
        REQUIRE(groups.size() == 3);    // 32, 32 and 6 neurons
        CHECK(groups[0] > groups[1]);
        CHECK(groups[1] > groups[2]);
        CHECK(std::accumulate(groups.begin(), groups.end(), 0.0) ==
              doctest::Approx(std::accumulate(layer.fired.begin(), layer.fired.end(), 0.0) / 10));
    }

    TEST_CASE("PowerInfer's statistics order the neurons, and its index goes before them")
    {
        ActivationStatistics statistics = {{}, {}};
        for (uint32_t n = 0; n < 64; ++n) {
            statistics[0].push_back(n);
            statistics[1].push_back(2 * n);
        }
        const Hotness by_statistics = hotness_of(nullptr, &statistics, 64, 0.1);
        CHECK(by_statistics[0].order[0] == 63);
        CHECK(by_statistics[0].fires[63] == doctest::Approx(0.5));
        CHECK(by_statistics[1].fires[63] == 1);    // the hottest of all fires always

        const GpuIndex index = {0, {{3, 5}, {}}};
        const Hotness both = hotness_of(&index, &statistics, 64, 0.1);
        CHECK(std::vector<uint32_t>(both[0].order.begin(), both[0].order.begin() + 3) ==
              std::vector<uint32_t>{5, 3, 63});
        CHECK(both[0].fires == by_statistics[0].fires);
        CHECK(both[1].order == by_statistics[1].order);

        const Hotness by_index = hotness_of(&index, nullptr, 64, 0.1);
        CHECK(by_index[0].order[0] == 3);
        CHECK(by_index[0].fires[3] > by_index[0].fires[4]);
        CHECK(by_index[1].fires == std::vector<double>(64, 0.1));
    }

    TEST_CASE("nothing known means that the file's order is as good as any")
    {
        for (const LayerHotness& layer : even_hotness(3, 40, 0.25)) {
            CHECK(layer.order[39] == 39);
            CHECK(layer.by_group() == std::vector<double>{8, 2});
        }
    }
}
