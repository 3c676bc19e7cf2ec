// What is planned of a batch, step by step, against what a run counts.
#include "tests/paths.h"

using namespace hearth;
using namespace hearth::tests;

namespace {

/// As planned_steps takes it, where just as many neurons fire as did in a batch of one row.
std::vector<LayerUse> counted_use(const Engine& engine, const FeedStats& stats)
{
    std::vector<LayerUse> use = engine.planned_model().use;
    for (uint32_t l = 0; l < use.size(); ++l) {
        const LayerCounts& counts = stats.layers[l];
        const uint32_t groups = uint32_t(use[l].fired.size());
        std::vector<bool> here(groups);
        if (l < engine.plan().layers.size())
            for (const uint32_t g : engine.plan().layers[l].resident) here[g] = true;
        const uint32_t neurons = engine.config().neurons;
        const auto size_of = [&](uint32_t g) { return std::min(group_neurons, neurons - g * group_neurons); };
        double resident = 0;
        for (uint32_t g = 0; g < groups; ++g) resident += here[g] ? size_of(g) : 0;
        for (uint32_t g = 0; g < groups; ++g)
            use[l].fired[g] = size_of(g) * (here[g] ? double(counts.active_device) / resident
                                                    : double(counts.active_host) / (neurons - resident));
        use[l].looked_at = 1;
    }
    return use;
}

/// Steps by their order on each side.
template <class Steps, class Side>
auto on_side(const Steps& steps, bool device, Side side)
{
    std::vector<typename Steps::value_type> out;
    for (const auto& step : steps)
        if (step.*side == device) out.push_back(step);
    return out;
}

void check_steps(const Engine& engine, const FeedStats& stats, const PlannedBatch& batch)
{
    const PlannedModel model = engine.planned_model();
    const std::vector<LayerUse> use = batch.rows == 1 ? counted_use(engine, stats) : model.use;
    const Machine* const machine = engine.machine() ? &*engine.machine() : nullptr;
    const std::vector<PlannedStep> planned =
        planned_steps({model.weights, model.needs, model.shape, use}, engine.plan(), machine, batch);
    for (const bool device : {true, false}) {
        const auto want = on_side(planned, device, &PlannedStep::on_device);
        const auto got = on_side(stats.stages, device, &Stage::on_device);
        REQUIRE(got.size() == want.size());
        for (size_t i = 0; i < got.size(); ++i) {
            CAPTURE(got[i].name);
            CAPTURE(got[i].layer);
            CHECK(got[i].name == step_name(want[i].step.kind));
            CHECK(got[i].layer == want[i].layer);
            CHECK(double(got[i].bytes) == doctest::Approx(want[i].step.bytes(want[i].load)).epsilon(1e-9));
        }
    }
}

void check_all_steps(const std::vector<Path>& paths, const std::vector<RandomModel>& models)
{
    TemporaryFolder folder;
    size_t turn = 0;
    for (const RandomModel& m : models) {
        const auto file = write_random_model(folder / "random.gguf", m);
        CAPTURE(m.architecture);
        CAPTURE(format_of(m.type).name);
        Path path = paths[turn++ % paths.size()];
        for (const Sparsity sparsity : {Sparsity::dense, Sparsity::exact}) {
            if (sparsity == Sparsity::exact && !host::makes_zeros(m.activation)) continue;
            path.sparsity = sparsity;
            INFO(path.name());
            Engine engine(options_for(file, path));
            Session session = engine.session(true);
            FeedStats stats;
            session.on_stats = [&](const FeedStats& s) { stats = s; };
            session.feed(random_ids(m.vocab, 9, 3));
            if (m.experts == 0) check_steps(engine, stats, {host::Work::many, 9, 0});
            session.feed(random_ids(m.vocab, 1, 4));
            check_steps(engine, stats, {host::Work::few, 1, 9});
        }
    }
}

/// Those of whose experts every neuron fires: of others a plan only knows how often the expert is chosen.
std::vector<RandomModel> silu_experts()
{
    std::vector<RandomModel> models = expert_models();
    std::erase_if(models, [](const RandomModel& m) { return host::makes_zeros(m.activation); });
    return models;
}

}    // namespace

TEST_SUITE("steps")
{
    TEST_CASE("what is planned of a batch is what the CPU reads, step by step, in every family")
    {
        check_all_steps({{.device = "cpu"}}, family_models());
        check_all_steps({{.device = "cpu"}}, silu_experts());
    }

    TEST_CASE("a step's bytes and operations are those of its rows, passes and positions")
    {
        const Step qkv = {.kind = StepKind::qkv, .reads = {{.bytes = 1000, .products = 500}}, .row = 8};
        CHECK(qkv.bytes({.rows = 4, .passes = 1}) == 1032);
        CHECK(qkv.bytes({.rows = 16, .passes = 2}) == 2128);
        CHECK(qkv.operations({.rows = 4, .passes = 1}) == 4000);
        // A matrix of 50 rows, and of three rows of a batch 7 neurons whose down rows have 40 columns.
        CHECK(sums_of({.row_bytes = 20, .bytes = 1000, .products = 500}, {.rows = 4}) == 200);
        CHECK(sums_of({.which = Reads::ups, .products = 40}, {.rows = 3, .fired = 7}) == 7);
        CHECK(sums_of({.which = Reads::downs, .products = 40}, {.rows = 3, .fired = 7}) == 120);
        const Step attend = {.kind = StepKind::attend, .position = 64, .position_products = 32};
        CHECK(attend.bytes({.positions = 7 + 8}) == 15 * 64);
        CHECK(attend.operations({.positions = 15}) == 2 * 15 * 32);
    }

    TEST_CASE("a step takes the time of its bytes, its loops, its rows and its neurons")
    {
        SideRates rates = {.read = 1, .step_us = 5};
        rates.rows.fill({.dot = 2, .row_us = 0.5});    // 2000 bytes in a microsecond
        const Step matrices = {
            .kind = StepKind::qkv, .reads = {{.row_bytes = 100, .bytes = 2000}, {.bytes = 2000}}, .dispatches = 3};
        CHECK(matrices.us({}, rates) == doctest::Approx(2 * 1 + 3 * 5 + 20 * 0.5));
        rates.rows.fill({.dot = 2, .fired = 1, .passed = 4});
        const Step downs = {.kind = StepKind::ffn_down,
                            .reads = {{.which = Reads::downs, .rate = &RowRates::fired, .row_bytes = 1000}}};
        CHECK(downs.us({.looked_at = 40, .fired = 10, .down_bytes = 10000}, rates) == doctest::Approx(10 + 10 + 5));
        rates.rows.fill({.dot = 2, .row_us = 0.5, .neuron_us = 0.25});
        const Step block = {.kind = StepKind::cold_ffn, .reads = {{.which = Reads::gates, .row_bytes = 100}}};
        CHECK(block.us({.looked_at = 40, .gate_bytes = 4000}, rates) == doctest::Approx(2 + 5 + 40 * 0.5 + 40 * 0.25));
    }

    TEST_CASE("attention takes the time of bytes, products, keys and queries, for every position")
    {
        const SideRates rates = {
            .attention = {.kv = 2, .products = 4, .keys_us = 0.5, .query_us = 0.25}, .step_us = 5, .norm_us = 7};
        const Step attend = {.kind = StepKind::attend,
                             .position = 1000,
                             .position_products = 2000,
                             .key_groups = 2,
                             .queries = 8,
                             .dispatches = 2};
        CHECK(attend.us({.positions = 10}, rates) == doctest::Approx(10 * (0.5 + 0.5 + 2 * 0.5 + 8 * 0.25) + 2 * 5));
        CHECK(Step{.kind = StepKind::ffn_norm}.us({}, rates) == 7);
    }

    /// Operations and bytes of one token, counted by hand: matrices once, two operations a weight; scores and sums over
    /// the positions that it sees.
    TEST_CASE("a token's operations and bytes are those of an independent count")
    {
        TemporaryFolder folder;
        constexpr uint32_t position = 40;
        struct Case {
            RandomModel model;
            uint64_t gate_up_down;    // rows of them that a token takes
            uint64_t router;
            uint64_t seen;
        };
        const auto silu = host::Activation::silu;
        const Case cases[] = {
            {{.activation = silu}, 3 * 128, 0, position + 1},
            {{.heads = 8, .kv_heads = 2, .neurons = 96, .activation = silu}, 3 * 96, 0, position + 1},
            {{.neurons = 32, .experts = 8, .experts_used = 2, .activation = silu}, 3 * 2 * 32, 8, position + 1},
            {{.architecture = "gemma3", .activation = host::Activation::gelu_tanh, .window = 5}, 3 * 128, 0, 5},
        };
        for (const Case& c : cases) {
            const RandomModel& m = c.model;
            CAPTURE(m.architecture);
            Planner planner(options_for(write_random_model(folder / "random.gguf", m), {.device = "cpu"}));
            const uint64_t head_dim = m.head_dim ? m.head_dim : m.dim / m.heads, q = m.heads * head_dim,
                           kv = m.kv_heads * head_dim;
            const uint64_t of_layer = uint64_t(m.dim) * (2 * q + 2 * kv + c.gate_up_down + c.router);
            const uint64_t weights = m.layers * of_layer + uint64_t(m.vocab) * m.dim;
            double bytes = 0, operations = 0;
            for (const PlannedStep& p : planned_steps(planner.planned_model(), {}, nullptr, {.position = position})) {
                bytes += p.step.bytes(p.load);
                operations += p.step.operations(p.load);
            }
            const uint64_t of_floats = m.layers * c.router * m.dim;    // a router is F32, all else F16
            CHECK(bytes ==
                  doctest::Approx(2.0 * double(weights + of_floats + m.layers * c.seen * 2 * kv)).epsilon(1e-12));
            CHECK(operations == doctest::Approx(2.0 * double(weights + m.layers * c.seen * 2 * q)).epsilon(1e-12));
        }
    }
}

TEST_SUITE("device")
{
    TEST_CASE("what is planned of a batch is what the device and the host read, step by step, in every family")
    {
        check_all_steps({{.device = device_name},
                         {.device = device_name, .resident = 0.5},
                         {.device = device_name, .resident = 0.5, .layers = 1}},
                        family_models());
        check_all_steps({{.device = device_name}, {.device = device_name, .resident = 0.4}}, silu_experts());
    }
}
