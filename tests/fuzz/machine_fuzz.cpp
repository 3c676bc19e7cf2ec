// The figures of this machine that `hearth tune` wrote: JSON, and the plans that are made with them.
#include "engine/plan/decide.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/seeds.h"
#include "tools/hearth/cli.h"

namespace hearth::fuzz {

const uint64_t base_memory = 1 << 20;

namespace {

void plan(const Machine& machine)
{
    static const std::string bytes = random_model(seed_model).bytes();
    static const Weights weights = describe_weights(std::make_shared<const Gguf>("model.gguf", bytes));
    static const Needs needs = device_needs(weights, {.context = seed_model.context, .batch = 16});
    std::vector<LayerUse> use;
    for (const LayerNeeds& layer : needs.layers)
        use.push_back({.fired = std::vector<double>(layer.groups, 3.5), .looked_at = 0.5, .skips = true});
    const SessionShape shape = session_shape({.context = seed_model.context, .batch = 16}, weights.config);
    const Costs costs = expected_costs({weights, needs, shape, use}, machine, 7);
    uint64_t all = needs.scratch + needs.head;
    for (const LayerNeeds& layer : needs.layers)
        all += layer.attention + layer.kv + layer.predictor + layer.group * layer.groups;
    for (const uint64_t budget : {uint64_t(0), least_budget(needs), all / 2, all, UINT64_MAX}) {
        const Plan plan = place_fastest(needs, costs, budget);
        FUZZ_CHECK(plan.layers.size() <= needs.layers.size() && plan_bytes(needs, plan) <= budget);
        expected_us(costs, plan);
    }
    stream_from(weights, machine);
}

}    // namespace

void read(std::string_view bytes)
{
    const TemporaryFile file("machine.json", bytes);
    const Machine machine = tools::read_machine(file.path());
    if (machine.has_device()) plan(machine);
    const std::string first = tools::to_json(machine).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    const TemporaryFile again("again.json", first);
    try {
        FUZZ_CHECK(tools::to_json(tools::read_machine(again.path()))
                       .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) == first);
    } catch (const Error& error) {    // what we write we can read
        fmt::print(stderr, "{}\n", error.what());
        FUZZ_CHECK(false);
    }
}

}    // namespace hearth::fuzz
