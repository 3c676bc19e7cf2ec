// The choice of the device's row kernels by measuring: the fastest wins, and never a wrong one.
#include "engine/tune/attention.h"
#include "engine/tune/products.h"
#include "tests/device_support.h"

#include <set>

using namespace hearth;
using namespace hearth::tests;

namespace {

const std::vector<RowVariant> some_variants = [] {
    std::vector<RowVariant> variants;
    for (const bool int_dot : {false, true})
        for (const uint32_t rows : {1u, 2u, 4u})
            for (const uint32_t subgroups : {1u, 4u})
                for (const uint32_t subgroup : {8u, 16u, 32u}) variants.push_back({subgroup, subgroups, rows, int_dot});
    return variants;
}();
constexpr RowVariant usual = {.subgroup = 32, .subgroups = 4, .rows = 1, .int_dot = false};
const std::vector<double> want = {1, -2, 3};

/// What a position of one key group is expected to take.
double expected_us(const AttentionRates& a, uint32_t head_dim, uint32_t queries)
{
    const double products = a.products > 0 ? 2.0 * head_dim * queries / (1000 * a.products) : 0;
    return 4.0 * head_dim / (1000 * a.kv) + products + a.keys_us + queries * a.query_us;
}

/// Each property has a best value of its own.
double pretended_seconds(const RowVariant& v)
{
    return 1 + (v.int_dot ? 0 : 0.5) + (v.rows == 2 ? 0 : 0.3) + (v.subgroups == 1 ? 0 : 0.2) +
           (v.subgroup == 16 ? 0 : 0.1);
}

}    // namespace

TEST_SUITE("tune")
{
    TEST_CASE("the fastest variant is found without trying all")
    {
        std::set<RowVariant> tried;
        const auto run = [&](const RowVariant& v) {
            CHECK(tried.insert(v).second);    // each once
            return VariantRun{{1, -2, 3}, pretended_seconds(v)};
        };
        const auto best =
            fastest_right(some_variants, usual, want, run, [](const RowVariant&) { FAIL("none is wrong"); });
        CHECK(best == RowVariant{.subgroup = 16, .subgroups = 1, .rows = 2, .int_dot = true});
        CHECK(tried.size() <= 8);
    }

    TEST_CASE("the figures of attention are those that its times were made of")
    {
        const AttentionRates made = {.kv = 20, .products = 40, .keys_us = 0.01, .query_us = 0.004};
        const auto times = [&](uint32_t head_dim) {
            return AttentionTimes::Of{expected_us(made, head_dim, 1),
                                      expected_us(made, head_dim, AttentionTimes::sharing)};
        };
        const AttentionRates found = attention_rates({times(AttentionTimes::narrow), times(AttentionTimes::wide)});
        CHECK(found.kv == doctest::Approx(made.kv));
        CHECK(found.products == doctest::Approx(made.products));
        CHECK(found.keys_us == doctest::Approx(made.keys_us));
        CHECK(found.query_us == doctest::Approx(made.query_us));
    }

    TEST_CASE("times that no figures explain give none that is negative, and the time of wide keys as it was")
    {
        const AttentionTimes::Of strange[] = {{1, 1}, {1, 0.5}, {1, 20}, {1, 4}, {0.1, 0.1}, {3, 9}};
        for (const auto& narrow : strange)
            for (const auto& wide : strange) {
                const AttentionRates found = attention_rates({narrow, wide});
                CHECK(found.kv > 0);
                for (const double figure : {found.products, found.keys_us, found.query_us}) CHECK(figure >= 0);
                CHECK(expected_us(found, AttentionTimes::wide, 1) == doctest::Approx(wide.alone));
            }
    }

    TEST_CASE("a variant with a wrong result is named and not used, however fast; where the usual one is wrong another "
              "takes its place")
    {
        const float nan = NAN;
        for (const std::vector<float>& y : {std::vector<float>{1, -2, 3.01f}, {1, -2, nan}, {1, nan, 3}, {1, -2}}) {
            std::vector<RowVariant> named;
            const auto run = [&](const RowVariant& v) {
                const bool broken = v.rows == 2 || v == usual;
                return VariantRun{broken ? y : std::vector<float>{1, -2.001f, 3},
                                  broken ? 0.001 : pretended_seconds(v)};
            };
            const auto best =
                fastest_right(some_variants, usual, want, run, [&](const RowVariant& v) { named.push_back(v); });
            REQUIRE(best);
            CHECK(best->rows != 2);
            CHECK(best->subgroup == 16);
            REQUIRE(named.size() == 2);
            CHECK(named[0] == usual);
            CHECK(named[1].rows == 2);
        }
        const auto all_wrong = [](const RowVariant&) { return VariantRun{{0, 0, 0}, 1}; };
        CHECK(!fastest_right(some_variants, usual, want, all_wrong, [](const RowVariant&) {}));
    }
}

TEST_SUITE("device")
{
    TEST_CASE("tuning chooses variants that the device offers for every class and type, and the driver is found right "
              "in all of them")
    {
        for (const vulkan::Features& features : {all_features, vulkan::Features{.fp16 = true}}) {
            const auto device = test_device(features);
            double done = 0;
            const auto progress = [&](double share) {
                CHECK(share > done);
                done = share;
            };
            const RowVariants tuned =
                tune_rows(device, 1 << 18, progress, [](const std::string& what) { FAIL_CHECK(what); });
            CHECK(done == 1);
            for (const auto& choice : tuned.choice)
                for (size_t f = 0; f < std::size(weight_formats); ++f) {
                    CAPTURE(weight_formats[f].name);
                    REQUIRE(choice[f]);
                    CHECK(std::ranges::count(row_variants(*device, weight_formats[f].type), *choice[f]) == 1);
                    if (!features.int_dot) CHECK(!choice[f]->int_dot);
                }
        }
        check_silence();
    }

    TEST_CASE("a kernel keeps to what was tuned as far as the device can, and to the usual where it cannot")
    {
        const auto device = test_device(), without = test_device({true, false});
        const uint32_t size = device->info().subgroup_size;
        const auto of_few = [](const GpuKernels& kernels) { return kernels.variant(WeightType::q4_0, 8192, 2048); };
        RowVariants tuned;
        const size_t q4_0 = format_number(WeightType::q4_0);
        tuned.choice[0][q4_0] = {.subgroup = size, .subgroups = 1, .rows = 2, .int_dot = true};
        CHECK(of_few(GpuKernels(device, Config(), tuned)) == tuned.choice[0][q4_0]);
        CHECK(GpuKernels(device, Config(), tuned).variant(WeightType::q4_0, 8193, 2048) ==
              usual_variant(*device, WeightType::q4_0));
        CHECK(GpuKernels(device, Config(), tuned).variant(WeightType::f16, 1, 1) ==
              usual_variant(*device, WeightType::f16));
        CHECK(!of_few(GpuKernels(without, Config(), tuned)).int_dot);
        CHECK(of_few(GpuKernels(without, Config(), tuned)).rows == 2);
        for (const RowVariant& impossible :
             {RowVariant{3, 4, 1, false}, RowVariant{size, 0, 1, false}, RowVariant{size, 1u << 30, 1, false},
              RowVariant{size, 4, 0, false}, RowVariant{size, 4, 3, false}, RowVariant{0, 4, 1, false},
              RowVariant{size, 4, 64, false}}) {
            tuned.choice[0][q4_0] = impossible;
            CHECK(of_few(GpuKernels(device, Config(), tuned)) == usual_variant(*device, WeightType::q4_0));
        }
    }

    TEST_CASE("every way of multiplying with many tokens is measured and found right, and the fastest that a use "
              "allows is taken")
    {
        const auto device = test_device();
        const WeightType types[] = {WeightType::f16, WeightType::q4_k};
        double done = 0;
        const ProductRates rates = tune_products(
            device, types, {100, 256, 70}, [&](double share) { done = share; },
            [](const std::string& what) { FAIL_CHECK(what); });
        CHECK(done == 1);
        for (const WeightFormat& format : weight_formats)
            for (const Product product : products) {
                const bool measured =
                    std::ranges::count(types, format.type) > 0 && offers(*device, product, format.type, {});
                CHECK((rates[format_number(format.type)][size_t(product)] > 0) == measured);
            }
        const WeightType q4_k = WeightType::q4_k;
        const auto plain = test_device({.fp16 = true, .int_dot = true});    // without matrices
        const auto chosen = [&](std::array<double, std::size(products)> of_q4_k, const ProductUse& use) {
            ProductRates pretended = {};
            pretended[format_number(q4_k)] = of_q4_k;
            return GpuKernels(plain, Config(), {}, pretended).product(q4_k, use);
        };
        CHECK(chosen({5, 2, 3, 0}, {}) == Product::floats);
        CHECK(chosen({1, 2, 3, 0}, {}) == Product::integers);
        CHECK(chosen({1, 2, 3, 0}, {.planes = false}) == Product::halves);
        CHECK(chosen({1, 2, 3, 0}, {.transposed = true}) == Product::halves);
        CHECK(chosen({1, 4, 3, 0}, {.halves = false}) == Product::integers);
        CHECK(chosen({1, 2, 3, 0}, {.transposed = true, .halves = false}) == Product::floats);
        CHECK(chosen({1, 2, 3, 9}, {}) ==
              Product::integers);    // what the device does not offer was measured on another
        CHECK(GpuKernels(plain, Config()).product(WeightType::f16, {.halves = false}) ==
              Product::halves);    // which they are
        check_silence();
    }
}
