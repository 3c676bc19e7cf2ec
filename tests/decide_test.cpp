// Decisions from plain values: no device is opened here.
#include "engine/plan/decide.h"
#include "engine/device/session.h"
#include "engine/model/architectures.h"
#include "tests/support.h"

#include <random>

using namespace hearth;
using namespace hearth::tests;

namespace {

constexpr double mib = 1 << 20;

/// A model that lies nowhere, and what is known of it.
struct Model {
    Weights weights;
    Computation computation;
    Needs needs;

    explicit Model(const RandomModel& shape, const DecisionOptions& options = {}, const FiringSources& sources = {})
        : weights(describe_weights(std::make_shared<Gguf>("model.gguf", random_model(shape).bytes()))),
          computation(decide_computation(options, weights, sources)),
          needs(GpuSession::needs(weights, computation.shape))
    {
    }
    ModelFacts facts() const { return {weights, computation, needs}; }
    uint64_t all() const
    {
        uint64_t sum = needs.scratch + needs.head;
        for (const LayerNeeds& l : needs.layers) sum += l.attention + l.kv + l.groups * l.group;
        return sum;
    }
};

/// A GPU that nobody has measured.
MachineFacts with_gpu(uint64_t free = 8ull << 30, uint64_t promised = 0)
{
    return {.device = DeviceFacts{.name = "a GPU", .free = free, .promised = promised}};
}

/// One on which either side reads everything with so many GB/s.
MachineFacts measured(double host, double device)
{
    MachineFacts m = with_gpu();
    m.figures = Machine{.device = "a GPU", .submit_us = 5, .round_trip_us = 20, .release_us = 10};
    for (const auto& [side, gb_per_s] : {std::pair(&m.figures->host, host), {&m.figures->on_device, device}}) {
        side->rows.fill({gb_per_s, gb_per_s, gb_per_s});
        side->read = side->attention.kv = side->vector = side->signs = gb_per_s;
    }
    return m;
}

std::string refusal(const DecisionOptions& options, const RandomModel& shape, const FiringSources& sources = {})
{
    try {
        Model(shape, options, sources);
    } catch (const Error& e) {
        return e.what();
    }
    return "";
}

bool says(const std::vector<std::string>& notes, std::string_view what)
{
    return std::ranges::any_of(notes, [&](const std::string& n) { return n.find(what) != std::string::npos; });
}

const RandomModel relu = {.layers = 3, .dim = 128, .neurons = 512, .activation = host::Activation::relu};
const RandomModel silu = {.layers = 3, .dim = 128, .neurons = 512, .activation = host::Activation::silu};
const RandomModel experts = {.neurons = 64, .experts = 4, .activation = host::Activation::silu};

}    // namespace

TEST_SUITE("plan")
{
    TEST_CASE("without a device all is on the host, and it is said why and what has no effect")
    {
        const Model model(relu);
        Decision d = decide({}, model.facts(), {.why_none = "there is no Vulkan"}, 0);
        CHECK(d.plan == Plan());
        CHECK(d.budget == 0);
        CHECK(d.shape.ring_bytes == 0);
        CHECK(d.shape.stream_from == UINT32_MAX);
        CHECK(d.served == std::vector<double>(3, 0.0));
        CHECK(d.place == "on the CPU (there is no Vulkan)");
        CHECK(d.unfit == "");
        CHECK(d.notes.empty());
        CHECK(!d.expected_us);
        DecisionOptions options;
        options.vram_budget = 1 << 20;
        options.gpu_layers = 2;
        options.cpu_experts = 1;
        d = decide(options, model.facts(), {}, 0);
        CHECK(d.place == "on the CPU, as asked");
        CHECK(d.unfit == "");
        REQUIRE(d.notes.size() == 3);
        CHECK(says(d.notes, "--vram-budget"));
        CHECK(says(d.notes, "--gpu-layers"));
        CHECK(says(d.notes, "--n-cpu-moe"));
    }

    TEST_CASE("a budget below the least is refused with both numbers; the least will do")
    {
        const Model model(relu);
        const uint64_t least = least_budget(model.needs);
        DecisionOptions options;
        options.vram_budget = least - 1;
        const Decision d = decide(options, model.facts(), with_gpu(), 0);
        CHECK(d.plan.layers.empty());
        CHECK(d.unfit == fmt::format("--vram-budget {:.1f} MiB is too small for anything: activations and the first "
                                     "layer need {:.1f} MiB; give more, or use --device cpu",
                                     double(least - 1) / mib, double(least) / mib));
        options.vram_budget = least;
        CHECK(decide(options, model.facts(), with_gpu(), 0).unfit == "");
        CHECK(decide(options, model.facts(), with_gpu(), 0).plan.layers.size() == 1);
    }

    TEST_CASE("a tower comes after the least of the model and before its neurons, and stays where the model loses "
              "nothing by it")
    {
        const Model model(relu);
        constexpr uint64_t mb = 1 << 20;
        const TowerNeeds tower = {.scratch = mb, .pieces = {3 * mb, 5 * mb, 4 * mb}};
        ModelFacts facts = model.facts();
        facts.tower = &tower;
        const uint64_t least = least_budget(model.needs), passing = 6 * mb, kept = 13 * mb,
                       all = decide({}, model.facts(), with_gpu(), 0).plan.bytes;
        DecisionOptions options;
        options.ring_bytes = 4 * mb;    // the largest piece needs more
        const auto with = [&](uint64_t budget, std::optional<bool> keep) {
            options.vram_budget = budget;
            options.keep_vision = keep;
            const Decision d = decide(options, facts, with_gpu(), 0);
            CHECK(d.plan.bytes + d.tower.bytes <= budget);
            CHECK(says(d.notes, "images are the CPU's") == (d.tower.room == 0));
            CHECK((d.place.find("images on a GPU") != std::string::npos) == (d.tower.room > 0));
            return d;
        };
        for (const std::optional<bool> keep : {std::optional<bool>(), {true}, {false}}) {
            CHECK(with(least + passing - 1, keep).tower == TowerPlan());
            CHECK(with(least + passing - 1, keep).plan.layers.size() > 0);
            CHECK(with(least + passing, keep).tower == TowerPlan{5 * mb, passing, false});
        }
        CHECK(says(with(least + passing, true).notes, "--keep-vision on has no effect"));
        CHECK(!with(all + kept - 1, {}).tower.kept);    // the last groups have more of it
        CHECK(with(all + kept - 1, true).tower.kept);
        CHECK(with(all + kept, {}).tower == TowerPlan{12 * mb, kept, true});
        CHECK(!with(all + kept, false).tower.kept);
        CHECK(with(all + kept, {}).plan.bytes == all);
        // Where the model has nothing there anyway.
        Decision d = decide({.gpu_layers = 0}, facts, with_gpu(), 0);
        CHECK(d.tower.kept);
        CHECK(decide({}, facts, {}, 0).tower == TowerPlan());
    }

    TEST_CASE("where so little is free that nothing helps, the host has it all, and that is no error")
    {
        const Model model(relu);
        const Decision d = decide({}, model.facts(), with_gpu(256 << 20), 0);
        CHECK(d.plan.layers.empty());
        CHECK(d.unfit == "");
        CHECK(d.place == fmt::format("on the CPU (a GPU has 256 MiB free, and {:.0f} are the least that help)",
                                     double(least_budget(model.needs)) / mib));
    }

    TEST_CASE("on a machine whose CPU is the faster nothing is placed, unless as much as possible is asked for")
    {
        const Model model(relu);
        Decision d = decide({}, model.facts(), measured(1000, 1), 10);
        CHECK(d.plan == Plan());
        CHECK(d.expected_us);
        CHECK(d.place.starts_with("on the CPU, which is expected to be faster alone than with a GPU"));
        DecisionOptions options;
        options.placement = Placement::most;
        d = decide(options, model.facts(), measured(1000, 1), 10);
        CHECK(d.plan.layers.size() == 3);
        CHECK(d.plan.head);
        CHECK(d.place.starts_with("on a GPU, all of it"));
        CHECK(decide({}, model.facts(), measured(1, 1000), 10).plan.head);
        options = {.gpu_layers = 1};    // means as many as that
        CHECK(decide(options, model.facts(), measured(1000, 1), 10).plan.layers.size() == 1);
    }

    TEST_CASE("a model goes by the figures of the caches if it is small and they were measured, else by memory's")
    {
        Machine machine = *measured(10, 100).figures;
        const Weights small = describe_weights(std::make_shared<Gguf>("model.gguf", random_model(relu).bytes())),
                      large = describe_weights(header_of(find_architecture("llama-2-7b"), *find_quantisation("q4_0")));
        CHECK(figures_for(small, machine).host.read == 10);
        machine.small_host = SideRates{.read = 50};
        CHECK(figures_for(small, machine).host.read == 50);
        CHECK(figures_for(large, machine).host.read == 10);
    }

    TEST_CASE("the same input gives the same decision")
    {
        const RandomModel shapes[] = {relu, silu, experts};
        for (const RandomModel& shape : shapes)
            for (const MachineFacts& machine : {MachineFacts(), with_gpu(), measured(5, 20)})
                for (const double share : {0.0, 0.3, 1.0}) {
                    const Model model(shape), again(shape);
                    DecisionOptions options;
                    if (machine.device)
                        options.vram_budget = least_budget(model.needs) +
                                              uint64_t(share * double(model.all() - least_budget(model.needs)));
                    CHECK(decide(options, model.facts(), machine, 7) == decide(options, again.facts(), machine, 7));
                }
    }

    TEST_CASE("whatever the model and the budget, a plan and its ring take no more than that")
    {
        std::mt19937_64 random(1);
        const auto upto = [&](uint64_t n) { return random() % n + 1; };
        int rings = 0;
        for (int i = 0; i < 2000; ++i) {
            const uint32_t layers = uint32_t(upto(8)), neurons = uint32_t(upto(20)) * group_neurons;
            Model model({.layers = 1});
            Config& c = model.weights.config;
            c.layers = layers;
            c.neurons = neurons;
            model.weights.layers.resize(layers);
            for (LayerWeights& l : model.weights.layers) {
                const Matrix rows = {WeightType::f16, neurons, c.dim, nullptr};
                l.ffn.gate = l.ffn.up = l.ffn.down_t = rows;
            }
            model.computation = decide_computation({}, model.weights, {});
            model.needs = {
                .scratch = upto(1000), .head = upto(5000), .ring_half = upto(50), .alignment = 1u << upto(5)};
            for (uint32_t l = 0; l < layers; ++l)
                model.needs.layers.push_back({.attention = upto(2000),
                                              .kv = upto(500),
                                              .predictor = upto(50),
                                              .group = upto(300),
                                              .groups = neurons / group_neurons});
            DecisionOptions options = {.vram_budget = random() % 60000};
            if (i % 2) options.placement = Placement::most;
            options.ring_bytes = upto(4000);
            options.stream = 2;
            MachineFacts machine = i % 3 ? with_gpu() : measured(double(upto(50)), double(upto(50)));
            machine.device->promised = i % 5 ? 0 : random() % 30000;
            const Decision d = decide(options, model.facts(), machine, double(upto(200)));
            CAPTURE(i);
            REQUIRE(d.budget == *options.vram_budget - std::min(*options.vram_budget, machine.device->promised));
            REQUIRE(d.plan.bytes <= d.budget);
            REQUIRE(d.plan.bytes == plan_bytes(model.needs, d.plan) + d.shape.ring_bytes);
            if (d.shape.ring_bytes > 0) ++rings;
        }
        CHECK(rings > 200);    // or this would show little
    }

    TEST_CASE("what other models were promised is neither in the budget asked for nor in what is free")
    {
        const Model model(relu);
        const uint64_t gib = 1 << 30;
        CHECK(decide({}, model.facts(), with_gpu(8 * gib), 0).budget == 8 * gib - 8 * gib / 20);
        CHECK(decide({}, model.facts(), with_gpu(8 * gib, gib), 0).budget == 7 * gib - 8 * gib / 20);
        CHECK(decide({}, model.facts(), with_gpu(8 * gib, 8 * gib), 0).budget == 0);
        DecisionOptions options = {.vram_budget = 64 << 20};
        CHECK(decide(options, model.facts(), with_gpu(8 * gib, 16 << 20), 0).budget == 48 << 20);
        const Decision d = decide(options, model.facts(), with_gpu(8 * gib, 64 << 20), 0);
        CHECK(d.unfit.starts_with("--vram-budget 64.0 MiB leaves 0.0 MiB beside the other models, which is too small"));
    }

    TEST_CASE("a KV cache that memory cannot hold is refused; what the device keeps of it does not count")
    {
        const Model model(relu);
        const uint64_t cache = 3 * 2 * 256 * 2 * (128 / 4) * sizeof(uint16_t);
        CHECK(decide({}, model.facts(), {.memory = cache}, 0).unfit == "");
        CHECK(decide({}, model.facts(), {.memory = cache - 1}, 0).unfit.starts_with("the KV cache of 256 positions"));
        MachineFacts gpu = with_gpu();
        gpu.memory = 0;
        CHECK(decide({}, model.facts(), gpu, 0).unfit == "");
    }

    TEST_CASE("options that contradict the model or each other are refused with a sentence")
    {
        CHECK(
            refusal({.sparsity = Sparsity::exact}, silu) ==
            "--sparsity exact needs a ReLU model, and the activations of random are never zero: use --sparsity dense");
        CHECK(refusal({.sparsity = Sparsity::threshold}, experts) ==
              "--sparsity threshold is for models without experts, and the router of random says already what fires: "
              "use --sparsity dense");
        CHECK(refusal({.rebalance = true}, relu) ==
              "--rebalance on follows which neurons fire, and --sparsity dense computes them all: add --sparsity exact "
              "or predict");
        CHECK(refusal({.rebalance = true}, experts) == "");
        CHECK(refusal({.sparsity = Sparsity::threshold}, silu) ==
              "--sparsity threshold needs cuts measured for random: run `hearth profile` with --calibrate");
        CHECK(refusal({.sparsity = Sparsity::predict}, relu) ==
              "--predictor sign needs a profile of random: make one with `hearth profile MODEL -f TEXT`");
        CHECK(refusal({.sparsity = Sparsity::predict, .predictor = Predictor::lowrank}, relu)
                  .starts_with("--predictor lowrank needs fc1 and fc2 in every layer, which random does not have"));
        CHECK(refusal({.context = 257}, relu) ==
              "random was trained for 256 positions, and -c asks for 257: use -c 256 or less");
        CHECK(refusal({.batch = 0}, relu) == "batches of 0 tokens cannot be run: use -b with a number from 1 to 4096");
        CHECK(refusal({.kv = {WeightType::q8_0, WeightType::f16}}, {.dim = 96, .heads = 2, .head_dim = 48})
                  .find("keeps blocks of 32 numbers") != std::string::npos);
    }

    TEST_CASE(
        "options of experts are without effect on models that have none, which is said unless the CPU was asked for")
    {
        const DecisionOptions options = {.cpu_experts = 1};
        CHECK(says(Model(relu, options).computation.notes, "random has no experts"));
        CHECK(Model(experts, options).computation.notes.empty());
        CHECK(Model(relu, {.device = "cpu", .cpu_experts = 1}).computation.notes.empty());
    }

    TEST_CASE("every layer leaves out what its sparsity says, and is expected to read no more than that")
    {
        Profile profile;
        profile.positions = 100;
        profile.layers.resize(3);
        for (LayerProfile& l : profile.layers) {
            l.fired.assign(512, 10);
            l.fired[7] = 100;
        }
        profile.calibration = Calibration{.sparsity = 0.75, .cuts = {0.1f, 0.2f, 0.3f}};
        const FiringSources sources = {.profile = profile};
        const Model exact(relu, {.sparsity = Sparsity::exact}, sources),
            cut(silu, {.sparsity = Sparsity::threshold}, sources), dense(silu, {}, sources);
        for (uint32_t l = 0; l < 3; ++l) {
            CHECK(exact.computation.shape.sparsity[l] == LayerSparsity{.cut = 0});
            CHECK(exact.computation.use[l].skips);
            CHECK(exact.computation.hotness[l].order[0] == 7);
            CHECK(exact.computation.use[l].fired[0] == doctest::Approx(1 + 31 * 0.1));
            CHECK(cut.computation.shape.sparsity[l].cut == profile.calibration->cuts[l]);
            CHECK(cut.computation.use[l].fired[0] == doctest::Approx(32 * 0.25));
            CHECK(dense.computation.shape.sparsity[l] == LayerSparsity());
            CHECK(!dense.computation.use[l].skips);
        }
    }

    TEST_CASE("PowerInfer's index says what goes to the device first, unless it is of mixed up layers")
    {
        FiringSources sources = {.index = GpuIndex{.layers = {{5}, {6}, {9}}},
                                 .index_path = "folder/model.gpuidx",
                                 .statistics_folder = "folder/activation"};
        const Model model(relu, {}, sources);
        CHECK(model.computation.notes ==
              std::vector<std::string>{"the neurons that model.gpuidx names go to the GPU first"});
        CHECK(model.computation.hotness[2].order[0] == 9);
        CHECK(Model(silu, {}, sources).computation.notes.empty());    // of them all fire
    }

    TEST_CASE("work goes to the device ahead where that was measured to be faster, or as asked")
    {
        const Model model(relu);
        MachineFacts machine = measured(1, 10);
        CHECK(decide({}, model.facts(), machine, 0).shape.submit == SubmitMode::ahead);
        CHECK(decide({.submit = SubmitMode::just_in_time}, model.facts(), machine, 0).shape.submit ==
              SubmitMode::just_in_time);
        machine.figures->release_us = 30;
        CHECK(decide({}, model.facts(), machine, 0).shape.submit == SubmitMode::just_in_time);
        CHECK(decide({}, model.facts(), with_gpu(), 0).shape.submit == SubmitMode::just_in_time);
        machine.figures->release_us = 10;
        machine.device.reset();
        CHECK(decide({}, model.facts(), machine, 0).shape.submit == SubmitMode::just_in_time);
    }

    TEST_CASE("prompts are streamed from so many tokens on as is asked, else by the kind of device")
    {
        const Model model(relu);
        const auto from = [&](const DecisionOptions& options, const MachineFacts& machine) {
            return decide(options, model.facts(), machine, 0).shape.stream_from;
        };
        MachineFacts software = with_gpu();
        software.device->software = true;
        CHECK(from({}, with_gpu()) == 64);
        CHECK(from({}, software) == UINT32_MAX);
        CHECK(from({}, {}) == UINT32_MAX);
        CHECK(from({.stream = 0}, with_gpu()) == UINT32_MAX);
        CHECK(from({.stream = 1}, with_gpu()) == 2);
        CHECK(from({.stream = 9}, software) == 9);
    }

    TEST_CASE("what is asked of the placement is kept: layers, neurons on the host, experts on the host")
    {
        const Model model(relu), mixture(experts);
        Decision d = decide({.gpu_layers = 2}, model.facts(), with_gpu(), 0);
        CHECK(d.plan.layers.size() == 2);
        CHECK(!d.plan.head);
        d = decide({.gpu_layers = 3}, model.facts(), with_gpu(), 0);
        CHECK(d.plan.layers.size() == 3);
        CHECK(!d.plan.head);
        CHECK(decide({.gpu_layers = 4}, model.facts(), with_gpu(), 0).plan.head);
        d = decide({.disable_gpu_index = true}, model.facts(), with_gpu(), 0);
        CHECK(d.plan.layers.size() == 3);
        for (const LayerPlan& l : d.plan.layers) CHECK(l.resident.empty());
        d = decide({.cpu_experts = 1}, mixture.facts(), with_gpu(), 0);
        REQUIRE(d.plan.layers.size() == 2);
        CHECK(d.plan.layers[0].resident.empty());
        CHECK(!d.plan.layers[1].resident.empty());
        CHECK(d.served[0] == 0);
        CHECK(d.served[1] == 1);
    }
}
