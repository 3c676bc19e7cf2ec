// Cards, processors and memories: that their tables are whole, found by name, and become the figures of a machine.
#include "engine/plan/cards.h"
#include "engine/plan/kernel_costs.h"
#include "tests/support.h"

#include <set>

using namespace hearth;

namespace {

Machine machine(const char* card, const char* processor, const char* memory, std::optional<Link> link = {})
{
    return expected_machine({.card = *card ? &find_card(card) : nullptr,
                             .processor = &find_processor(processor),
                             .memory = &find_memory(memory),
                             .link = link});
}

std::string refusal(const char* name)
{
    try {
        find_card(name);
    } catch (const Error& e) {
        return e.what();
    }
    return "";
}

}    // namespace

TEST_SUITE("cards")
{
    TEST_CASE("what kernels cost is known of every generation and format")
    {
        for (const Card& c : all_cards())
            for (const WeightFormat& f : weight_formats) {
                INFO(c.name << " " << f.name);
                const auto found = std::ranges::count_if(kernel_costs, [&](const KernelCost& k) {
                    return k.generation == c.generation->name && k.type == f.type && k.dot > 0 && k.up > 0 &&
                           k.down > 0;
                });
                CHECK(found == 1);
            }
    }

    TEST_CASE("a card whose arithmetic is too slow for a format reads it more slowly than its memory could")
    {
        const Machine m = machine("RTX 3060 12 GB", "7700X", "DDR5-6000");
        const RowRates &plain = m.on_device.of(WeightType::f16), &looked_up = m.on_device.of(WeightType::mxfp4);
        CHECK(plain.dot == doctest::Approx(360 * 0.9));
        CHECK(looked_up.dot < 0.9 * plain.dot);
        CHECK(m.on_device.of(WeightType::q4_0).dot == plain.dot);
    }

    TEST_CASE("every row is whole, has its source and a name of its own")
    {
        std::set<std::string_view> names;
        for (const Card& c : all_cards()) {
            INFO(c.name);
            CHECK(names.insert(c.name).second);
            CHECK(!c.page.empty());
            CHECK(!c.generation->source.empty());
            CHECK(c.tflops > 0.5);
            CHECK(c.tflops < 120);
            CHECK((c.generation->reached > 0.3 && c.generation->reached < 0.95));
            if (c.integrated()) {
                CHECK(c.gb_per_s == 0);
                CHECK(c.lanes == 0);
                continue;
            }
            CHECK((c.gib >= 4 && c.gib <= 32));
            CHECK((c.gb_per_s >= 120 && c.gb_per_s <= 1800));
            CHECK((c.pcie >= 3 && c.pcie <= 5));
            CHECK((c.lanes == 4 || c.lanes == 8 || c.lanes == 16));
            CHECK(&find_card(c.name) == &c);
        }
        CHECK(names.size() > 75);
        for (const Processor& p : all_processors()) {
            INFO(p.name);
            CHECK(names.insert(p.name).second);
            CHECK(!p.source.empty());
            CHECK((p.cores >= 6 && p.cores <= 16));
            CHECK(&find_processor(p.name) == &p);
        }
        for (const Memory& m : all_memories()) {
            INFO(m.name);
            CHECK(names.insert(m.name).second);
            CHECK(!m.source.empty());
            CHECK((m.read > 0.5 && m.read < 1));
            CHECK(&find_memory(m.name) == &m);
        }
    }

    TEST_CASE("a card is found by a part of its name that only one has, and refused with those that come near")
    {
        CHECK(find_card("4090").name == "RTX 4090");
        CHECK(find_card("rtx-4070").name == "RTX 4070");    // and not the Ti or the SUPER
        CHECK(find_card("4070 ti super").name == "RTX 4070 Ti SUPER");
        CHECK(find_card("RX7900XTX").name == "RX 7900 XTX");
        CHECK(find_card("a770").name == "Arc A770");
        CHECK(find_card("780m").name == "Radeon 780M");
        CHECK(refusal("4060 ti").find("RTX 4060 Ti 8 GB, RTX 4060 Ti 16 GB") != std::string::npos);
        CHECK(refusal("voodoo 3").find("RTX 4090") != std::string::npos);
        CHECK(!refusal("").empty());
        CHECK(find_processor("13900k").name == "Core i9-13900K");
        CHECK(find_processor("5600x").name == "Ryzen 5 5600X");
        CHECK(find_memory("ddr5 5600").name == "DDR5-5600");
        CHECK(find_memory("DDR5-5600").gb_per_s == doctest::Approx(89.6));
    }

    TEST_CASE("links carry what PCIe says")
    {
        CHECK(Link{3, 16}.gb_per_s() == doctest::Approx(15.75).epsilon(0.01));
        CHECK(Link{4, 16}.gb_per_s() == doctest::Approx(31.5).epsilon(0.01));
        CHECK(Link{5, 8}.gb_per_s() == doctest::Approx(31.5).epsilon(0.01));
        CHECK(Link{4, 4}.gb_per_s() == doctest::Approx(7.88).epsilon(0.01));
        CHECK(Link{2, 16}.gb_per_s() == doctest::Approx(8.0));
        CHECK(Link{1, 16}.gb_per_s() == doctest::Approx(4.0));
    }

    TEST_CASE("a computer's figures are those of its card, its processor, its memory and its link")
    {
        const Machine m = machine("4090", "13900K", "DDR5-5600");
        CHECK(m.device == "RTX 4090");
        CHECK(!m.software);
        CHECK(m.threads == 8);
        CHECK(m.on_device.of(WeightType::f16).dot == doctest::Approx(0.9 * 1008.4));
        CHECK(m.host.read == doctest::Approx(0.9 * 89.6));
        CHECK(m.host.of(WeightType::f16).dot == doctest::Approx(0.81 * 89.6));
        CHECK(m.upload == doctest::Approx(24).epsilon(0.01));
        CHECK(machine("4090", "13900K", "DDR5-5600", Link{3, 16}).upload == doctest::Approx(12).epsilon(0.01));
        CHECK(machine("2080 Ti", "13900K", "DDR5-5600", Link{5, 16}).upload == doctest::Approx(12).epsilon(0.01));
        CHECK(m.together > 1);

        // One CCD reads what its fabric carries; six cores unpack what six cores can.
        CHECK(machine("", "7700X", "DDR5-6000").host.read == doctest::Approx(64));
        CHECK(machine("", "7950X", "DDR5-6000").host.read == doctest::Approx(0.9 * 96));
        const Machine six = machine("", "13600K", "DDR5-6400");
        CHECK(six.host.of(WeightType::q4_0).dot == doctest::Approx(60));
        CHECK(six.host.of(WeightType::f16).dot == doctest::Approx(0.81 * 102.4));
        CHECK(!six.has_device());

        const Machine integrated = machine("780M", "7700X", "DDR5-5600");
        CHECK(integrated.on_device.read == doctest::Approx(0.75 * 89.6));
        CHECK(integrated.together == 1);

        // Where there are matrices they are the fastest; where there are not, integers, and of whole numbers alone.
        const auto of = [](const Machine& at, WeightType type, Product way) {
            return at.products[format_number(type)][size_t(way)];
        };
        CHECK(of(m, WeightType::q4_0, Product::matrices) == doctest::Approx(82.58 * 1000 / 2 * 2 * 0.5));
        CHECK(of(m, WeightType::f16, Product::integers) == 0);
        const Machine old = machine("6800 XT", "5600X", "DDR4-3600");
        CHECK(of(old, WeightType::q4_0, Product::matrices) == 0);
        CHECK(of(old, WeightType::q4_0, Product::integers) == of(old, WeightType::q4_0, Product::halves));
    }
}
