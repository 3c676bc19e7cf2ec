#include "engine/plan/simulate.h"

#include <algorithm>
#include <cmath>

namespace hearth {

namespace {

/// ln 0.8 / ln h: the exponent where the hottest share h of the neurons makes 80 % of what fires, as PowerInfer's
/// figure 4 gives it (arXiv 2312.12456).
constexpr double of_80_percent_by_26 = 0.1657, by_43 = 0.2644, by_69 = 0.6014, by_20 = 0.1386;

/// Neurons that a predictor names for each that fires: the mean of the four models of ProSparse's table 2
/// (arXiv 2402.13516): 41.1 % of 33.0 %, 28.1 of 28.4, 24.8 of 10.7, 22.1 of 11.2.
constexpr double usual_predicted = 1.6;

constexpr FiringCurve curves[] = {
    {"opt", 0.05, of_80_percent_by_26, usual_predicted,
     "locality: PowerInfer fig. 4, OPT-30B; share: Deja Vu, OPT-175B"},
    {"relufalcon", 0.05, of_80_percent_by_26, usual_predicted, "share: PowerInfer table 3; locality as OPT"},
    {"relullama-7b", 0.33, by_43, 1.24, "share and predicted: ProSparse table 2; locality: PowerInfer fig. 4, 70B"},
    {"relullama-13b", 0.284, by_43, 1.0, "share and predicted: ProSparse table 2; locality: PowerInfer fig. 4, 70B"},
    {"relullama-70b", 0.18, by_43, usual_predicted, "share: PowerInfer table 3; locality: PowerInfer fig. 4"},
    {"prosparse", 0.11, by_43, 2.2, "share and predicted: ProSparse table 2; locality as ReluLLaMA"},
    {"drelu", 0.12, by_20, usual_predicted, "share: Bamboo's model card; locality: an estimate, 80 % by 20 %"},
    {"relu", 0.18, by_43, usual_predicted, "as relullama-70b"},
    // What is left out of a model whose activations are never zero is an approximation, chosen by a calibration.
    {"threshold", 0.5, by_69, 1.0, "locality: PowerInfer fig. 4, LLaMA2-70B SwiGLU; share: TEAL's and CATS' 50 %"},
    // Of experts: the least recently used leave. 512 experts: 64 hold 67 %, 128 hold 81 %, 280 hold 93 %.
    {"experts-recency", 0, 0.155, 1.0, "ggml-org/llama.cpp PR 27861: mean of three points"},
    // Of experts: those that a profile counted most. 32 of 512 hold 10 %.
    {"experts-static", 0, 0.83, 1.0, "ggml-org/llama.cpp PR 27861: a static list of 32"},
    {"even", 1, 1, 1.0, "every neuron, and every expert, alike"},
};

}    // namespace

std::span<const FiringCurve> firing_curves() { return curves; }

const FiringCurve& find_firing(std::string_view name)
{
    const auto* const found = std::ranges::find(curves, name, &FiringCurve::name);
    if (found != std::end(curves)) return *found;
    std::string known;
    for (const FiringCurve& c : curves) known += (known.empty() ? "" : ", ") + std::string(c.name);
    throw Error("no firing is called '{}' here: name one of {}", name, known);
}

const FiringCurve& usual_firing(const Config& c)
{
    if (c.experts) return find_firing("experts-static");
    if (!host::makes_zeros(c.activation)) return find_firing("threshold");
    for (const char* name : {"relullama-7b", "relullama-13b", "relullama-70b", "relufalcon", "prosparse", "opt"})
        if (c.name.starts_with(name)) return find_firing(name);
    return find_firing(c.activation == host::Activation::drelu ? "drelu" : "relu");
}

std::vector<double> fired_by_group(const FiringCurve& curve, double active, uint32_t neurons, uint32_t groups)
{
    std::vector<double> fired;
    double rest = 0;    // that the hottest groups have no room for: a neuron fires once for a token
    for (uint32_t g = 0; g < groups; ++g) {
        const double below = std::pow(double(g) / groups, curve.exponent),
                     here = std::pow(double(g + 1) / groups, curve.exponent) - below,
                     size = std::min<double>(group_neurons, neurons - double(g) * group_neurons),
                     wanted = here * active * neurons + rest;
        fired.push_back(std::min(wanted, size));
        rest = wanted - fired.back();
    }
    return fired;
}

namespace {

/// What is computed, for a firing that nobody counted.
Computation computation_of(const Scenario& s, const FiringCurve& curve)
{
    const Config& c = s.weights->config;
    Computation out = {.shape = session_shape(s.options, c)};
    const bool leaves_out = s.way == Way::exact || s.way == Way::predict || s.way == Way::routed;
    if (leaves_out && !c.experts && s.weights->layers[0].ffn.down_t.rows == 0)
        throw Error("{} stores ffn_down by columns, so nothing can be left out: name a ReLU model, or --sparsity",
                    c.name);
    const double active = c.experts ? double(c.experts_used) / c.experts : curve.active;
    const uint32_t groups = ceil_div(c.neurons, group_neurons);
    const bool skips = leaves_out && !c.experts;
    const double named = s.way == Way::routed && !c.experts ? std::min(1.0, active * curve.predicted) : active;
    LayerUse use = {.fired = fired_by_group(curve, skips || c.experts ? named : 1, c.neurons, groups),
                    .skips = skips,
                    .routed = c.experts > 0 || s.way == Way::routed};
    if (s.way == Way::predict && skips) use.looked_at = std::min(1.0, active * curve.predicted);
    out.use.assign(c.layers, use);
    if (skips)
        for (LayerSparsity& sparsity : out.shape.sparsity)
            sparsity = {.cut = 0, .predictor = s.way == Way::predict ? Predictor::sign : Predictor::none};
    return out;
}

/// As many whole layers as the budget holds, and one more for the head: what -ngl takes.
uint32_t whole_layers(const Needs& needs, uint64_t budget)
{
    uint64_t bytes = needs.scratch;
    uint32_t n = 0;
    for (const LayerNeeds& l : needs.layers) {
        bytes += l.attention + l.kv + l.groups * l.group;
        if (bytes > budget) return n;
        ++n;
    }
    return bytes + needs.head <= budget ? n + 1 : n;
}

/// What decide leaves of the memory that is free.
uint64_t budget_of(uint64_t free) { return free - std::min<uint64_t>(free, std::max<uint64_t>(256 << 20, free / 20)); }

double token_us(const Scenario& s, const Decision& d)
{
    const Coupling& coupling = s.coupling;
    const Config& c = s.weights->config;
    const int matrices = s.weights->layers[0].ffn.up.rows > 0 ? 3 : 2;
    const double vector_us = c.neurons * sizeof(float) / std::max(s.machine.upload, 1e-9) / 1000;
    double us = d.plan.head ? d.costs.head_device : d.costs.head_host;
    if (!d.plan.layers.empty()) us += d.costs.token;
    for (uint32_t l = 0; l < d.costs.layers.size(); ++l) {
        const LayerEstimate e = estimate_layer(d.costs, d.plan, l);
        const bool on_device = l < d.plan.layers.size(), split = on_device && e.host > 0;
        us += coupling.at_once || !split ? e.total : e.device + e.host + e.seam;
        if (split && coupling.crossing_us > 0) us += coupling.crossing_us - e.seam;
        if (split) us += coupling.vectors * matrices * vector_us;
        if (on_device) us += coupling.overhead_us;
    }
    return us;
}

/// Microseconds that the link takes to bring what a token wanted and the device did not have.
double moving_us(const Scenario& s, const Needs& needs, const Decision& d)
{
    const Config& c = s.weights->config;
    if (!s.moves_experts || c.experts == 0) return 0;
    double bytes = 0;
    for (size_t l = 0; l < d.plan.layers.size(); ++l)
        bytes +=
            (1 - d.served[l]) * c.experts_used / c.experts * double(needs.layers[l].groups * needs.layers[l].group);
    return bytes / std::max(s.machine.upload, 1e-9) / 1000;
}

uint32_t tokens_of_images(const Scenario& s) { return s.tower ? s.images * s.tower->patches : 0; }

/// The faster of all on the device and nothing there: both sides read one memory, so a split gains nothing.
bool device_is_faster(const Scenario& s, const Decision& all)
{
    const bool whole = all.plan.head && std::ranges::all_of(all.served, [](double share) { return share > 0.999; });
    return whole && expected_us(all.costs, all.plan) < expected_us(all.costs, Plan()) && s.device_memory > 0;
}

uint64_t all_bytes(const Weights& w)
{
    uint64_t sum = w.embedding.bytes() + (w.output.data == w.embedding.data ? 0 : w.output.bytes());
    for (const LayerWeights& l : w.layers)
        for (const Matrix* m : {&l.attention.q, &l.attention.k, &l.attention.v, &l.attention.o, &l.ffn.gate, &l.ffn.up,
                                &l.ffn.either_down(), &l.router.scores})
            sum += m->bytes();
    return sum;
}

/// Of weights and cache that are not on the device; the embedding stays there in any case.
uint64_t host_bytes(const Weights& w, const Needs& needs, const Plan& plan, uint64_t kv_of_layer)
{
    uint64_t there = plan.head ? w.output.bytes() : 0;
    for (size_t l = 0; l < plan.layers.size(); ++l)
        there += needs.layers[l].attention + plan.layers[l].resident.size() * needs.layers[l].group;
    const uint64_t all = all_bytes(w) + (needs.layers.size() - plan.layers.size()) * kv_of_layer;
    return all - std::min(all, there);
}

}    // namespace

PlannedScenario plan_scenario(const Scenario& s)
{
    const Config& c = s.weights->config;
    const FiringCurve& curve = s.firing ? *s.firing : usual_firing(c);
    PlannedScenario out = {.computation = computation_of(s, curve)};
    const Computation& computation = out.computation;
    Needs& needs = out.needs = s.needs_of(*s.weights, computation.shape);
    if (s.way == Way::routed && !c.experts)
        for (LayerNeeds& l : needs.layers)
            l.predictor = uint64_t(s.coupling.predictors * double(l.attention + l.groups * l.group));
    MachineFacts machine = {.figures = s.machine, .memory = s.host_memory};
    if (s.device_memory > 0 && s.machine.has_device())
        machine.device = DeviceFacts{.name = s.machine.device, .free = s.device_memory};
    DecisionOptions options = s.options;
    if (machine.device && s.way == Way::layers) {
        options.gpu_layers = whole_layers(needs, budget_of(s.device_memory));
        if (*options.gpu_layers == 0) machine.device.reset();
    }
    if (machine.device && s.shares_memory) options.placement = Placement::most;
    const double position = s.position.value_or(
        std::min(usual_position(computation.shape) + tokens_of_images(s), computation.shape.context - 1.0));
    const ModelFacts model = {*s.weights, computation, needs, s.tower ? &s.tower->needs : nullptr};
    out.decision = decide(options, model, machine, position);
    if (s.shares_memory && machine.device && !device_is_faster(s, out.decision)) {
        machine.device.reset();
        out.decision = decide(options, model, machine, position);
    }
    return out;
}

Simulated simulate(const Scenario& s)
{
    const Config& c = s.weights->config;
    const PlannedScenario planned = plan_scenario(s);
    const Needs& needs = planned.needs;
    const Decision& d = planned.decision;

    Simulated out = {.device_bytes = d.plan.bytes + d.tower.bytes,
                     .layers_on_device = uint32_t(d.plan.layers.size()),
                     .layers = c.layers};
    const double us = std::max(token_us(s, d), moving_us(s, needs, d));
    out.tokens_per_s = 1e6 / us;
    const uint32_t prompt = s.prompt + tokens_of_images(s);
    if (s.tower) out.looking_s = s.images * look_us(*s.tower, d.tower, s.machine, 1) / 1e6;
    out.first_token_s = out.looking_s + (prefill_us(*s.weights, needs, d, s.machine, prompt) + us) / 1e6;
    const uint64_t kv = needs.layers.empty() ? 0 : needs.layers[0].kv;
    out.host_bytes = host_bytes(*s.weights, needs, d.plan, kv);
    if (s.tower && !d.tower.kept) out.host_bytes += s.tower->needs.weights();
    out.fits = !s.host_memory || out.host_bytes <= *s.host_memory;
    double resident = 0;
    for (size_t l = 0; l < d.plan.layers.size(); ++l)
        resident += double(d.plan.layers[l].resident.size()) / std::max(needs.layers[l].groups, 1u);
    out.resident = resident / std::max(c.layers, 1u);
    for (const double share : d.served) out.served += share / double(d.served.size());
    return out;
}

}    // namespace hearth
