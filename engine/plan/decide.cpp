#include "engine/plan/decide.h"

#include <algorithm>

namespace hearth {

namespace {

constexpr double mib = 1 << 20;
constexpr uint32_t most_sequences = 256;
constexpr uint32_t most_batch = 4096;    // far below what a dispatch may have of workgroups in one direction

void refuse_contradictions(const DecisionOptions& o, const Config& c)
{
    const bool needs_zeros = o.sparsity == Sparsity::exact || o.sparsity == Sparsity::predict;
    if (needs_zeros && !host::makes_zeros(c.activation))
        throw Error("--sparsity {} needs a ReLU model, and the activations of {} are never zero: use --sparsity dense",
                    o.sparsity == Sparsity::exact ? "exact" : "predict", c.name);
    if (c.experts && (o.sparsity == Sparsity::predict || o.sparsity == Sparsity::threshold))
        throw Error("--sparsity {} is for models without experts, and the router of {} says already what fires: "
                    "use --sparsity dense",
                    o.sparsity == Sparsity::predict ? "predict" : "threshold", c.name);
    if (o.rebalance && o.sparsity == Sparsity::dense && !c.experts)
        throw Error("--rebalance on follows which neurons fire, and --sparsity dense computes them all: add "
                    "--sparsity exact or predict");
}

/// Of PowerInfer's files, and says so.
Hotness hotness_beside(const FiringSources& s, const Config& c, std::vector<std::string>& notes)
{
    constexpr double usual_share = 0.1;    // of a ReLU model's neurons
    const GpuIndex* index = s.index ? &*s.index : nullptr;
    const ActivationStatistics* statistics = s.statistics ? &*s.statistics : nullptr;
    const std::string index_name = s.index_path.filename().string();
    if (index && statistics && missorted(*index, *statistics)) {
        notes.push_back(
            fmt::format("{} was made by a PowerInfer that mixed up layers, so the neurons are placed by {} alone",
                        index_name, s.statistics_folder.filename().string()));
        index = nullptr;
    }
    if (index) notes.push_back(fmt::format("the neurons that {} names go to the GPU first", index_name));
    else if (statistics)
        notes.push_back(
            fmt::format("the neurons that fire most by {} go to the GPU first", s.statistics_folder.string()));
    return index || statistics ? hotness_of(index, statistics, c.neurons, usual_share)
                               : even_hotness(c.layers, c.neurons, usual_share);
}

/// What fires: by the profile, else by what PowerInfer left beside its models, else by what is usual.
Hotness expected_hotness(Sparsity sparsity, const FiringSources& s, const Config& c, std::vector<std::string>& notes)
{
    const bool counted = s.profile && s.profile->positions > 0;
    if (c.experts)
        return counted ? hotness_of(*s.profile, c.neurons_together())
                       : even_hotness(c.layers, c.neurons, double(c.experts_used) / c.experts);
    if (!host::makes_zeros(c.activation)) {
        const bool cut = sparsity == Sparsity::threshold && s.profile && s.profile->calibration;
        return even_hotness(c.layers, c.neurons, cut ? 1 - s.profile->calibration->sparsity : 1);
    }
    return counted ? hotness_of(*s.profile) : hotness_beside(s, c, notes);
}

/// What decode leaves out of layer l.
LayerSparsity layer_sparsity(const DecisionOptions& o, const Weights& weights, const std::optional<Profile>& profile,
                             uint32_t l)
{
    const std::string& name = weights.config.name;
    switch (o.sparsity) {
    case Sparsity::dense: return {};
    case Sparsity::exact: return {.cut = 0};
    case Sparsity::threshold:
        if (!profile || !profile->calibration)
            throw Error("--sparsity threshold needs cuts measured for {}: run `hearth profile` with --calibrate", name);
        return {.cut = profile->calibration->cuts[l]};
    case Sparsity::predict: break;
    }
    const bool has_lowrank = weights.layers[l].fc1.rows > 0;
    Predictor predictor = o.predictor;
    if (predictor == Predictor::none) predictor = has_lowrank ? Predictor::lowrank : Predictor::sign;
    if (predictor == Predictor::lowrank) {
        if (!has_lowrank)
            throw Error("--predictor lowrank needs fc1 and fc2 in every layer, which {} does not have: use "
                        "--predictor sign, or train them with "
                        "tools/models/train_predictor.py",
                        name);
        return {.cut = 0, .predictor = Predictor::lowrank};
    }
    if (!profile)
        throw Error("--predictor sign needs a profile of {}: make one with `hearth profile MODEL -f TEXT`", name);
    return {.cut = 0, .predictor = Predictor::sign, .agreements = sign_threshold(profile->layers[l], o.recall)};
}

/// What decode is expected to read of a layer of which it leaves that out.
LayerUse layer_use(const LayerHotness& hotness, const LayerSparsity& sparsity, const LayerProfile* profile, bool routed)
{
    LayerUse use = {.fired = hotness.by_group(), .skips = sparsity.cut >= 0, .routed = routed};
    if (profile && sparsity.predictor == Predictor::sign)
        use.looked_at = sign_quality(*profile, sparsity.agreements).predicted;
    if (profile && sparsity.predictor == Predictor::lowrank) use.looked_at = lowrank_quality(*profile).predicted;
    return use;
}

}    // namespace

SessionShape session_shape(const DecisionOptions& o, const Config& c)
{
    if (o.sequences == 0 || o.sequences > most_sequences)
        throw Error("{} sequences at once cannot be run: use a number from 1 to {}", o.sequences, most_sequences);
    if (o.batch == 0 || o.batch > most_batch)
        throw Error("batches of {} tokens cannot be run: use -b with a number from 1 to {}", o.batch, most_batch);
    if (o.context > c.context)
        throw Error("{} was trained for {} positions, and -c asks for {}: use -c {} or less", c.name, c.context,
                    o.context, c.context);
    if (const uint32_t most = c.most_positions(); o.context > most)
        throw Error("{} turns its heads in another way beyond {} positions, and -c asks for {}: longer contexts cannot "
                    "be run, use -c {} or less",
                    c.name, most, o.context, most);
    for (const WeightType type : {o.kv.k, o.kv.v})
        if (const WeightFormat& f = format_of(type); c.head_dim % f.block != 0)
            throw Error("{} keeps blocks of {} numbers, and the heads of {} have {}: leave its KV cache in f16", f.name,
                        f.block, c.name, c.head_dim);
    const uint32_t positions = o.context ? o.context : std::min(c.most_positions(), 4096u);
    const uint32_t rows = std::min(o.batch, positions);
    return {.batch = rows,
            .context = positions,
            .sequences = o.sequences,
            .few = std::clamp(std::max(o.few, o.sequences), 1u, std::min(host::most_few, rows)),
            .kv = o.kv,
            .sparsity = std::vector<LayerSparsity>(c.layers),
            .rebalance = o.rebalance};
}

std::vector<std::vector<uint32_t>> Computation::orders() const
{
    std::vector<std::vector<uint32_t>> orders;
    for (const LayerHotness& layer : hotness) orders.push_back(layer.order);
    return orders;
}

Computation decide_computation(const DecisionOptions& o, const Weights& weights, const FiringSources& sources)
{
    const Config& c = weights.config;
    refuse_contradictions(o, c);
    Computation out = {.shape = session_shape(o, c)};
    if (o.cpu_experts && !c.experts && o.device != "cpu")
        out.notes.push_back(fmt::format(
            "--cpu-moe and --n-cpu-moe do nothing: {} has no experts; --disable-gpu-index keeps all neurons in RAM",
            c.name));
    out.hotness = expected_hotness(o.sparsity, sources, c, out.notes);
    const std::optional<Profile>& profile = sources.profile;
    for (uint32_t l = 0; l < c.layers; ++l) {
        LayerSparsity& sparsity = out.shape.sparsity[l] = layer_sparsity(o, weights, profile, l);
        const LayerProfile* counted = profile && profile->positions > 0 ? &profile->layers[l] : nullptr;
        out.use.push_back(layer_use(out.hotness[l], sparsity, counted, c.experts > 0));
    }
    return out;
}

namespace {

SubmitMode chosen_submit(const DecisionOptions& o, const MachineFacts& m)
{
    if (o.submit) return *o.submit;
    return m.device && m.figures && m.figures->release_us < m.figures->round_trip_us ? SubmitMode::ahead
                                                                                     : SubmitMode::just_in_time;
}

/// Tokens from which on cold groups are streamed.
uint32_t chosen_stream(const DecisionOptions& o, const Weights& weights, const MachineFacts& m)
{
    if (weights.config.experts && weights.layers[0].ffn.down.rows > 0) return UINT32_MAX;    // they are the host's
    if (o.stream) return *o.stream > 0 ? std::max(*o.stream, 2u) : UINT32_MAX;
    if (m.device && m.figures)
        if (const auto measured = stream_from(weights, *m.figures)) return *measured;
    constexpr uint32_t usual = 64;    // of a GPU that nobody has measured
    return m.device && !m.device->software ? usual : UINT32_MAX;
}

/// Bytes that this model may take. Of what is free, a margin is left for the desktop and for what the driver allocates
/// by itself.
uint64_t chosen_budget(const DecisionOptions& o, const DeviceFacts& d)
{
    const uint64_t margin = std::max<uint64_t>(256 << 20, d.free / 20),
                   all = o.vram_budget.value_or(d.free - std::min(d.free, margin));
    return all - std::min(all, d.promised);
}

Limits chosen_limits(const DecisionOptions& o, const Config& c)
{
    const uint32_t wanted = o.gpu_layers.value_or(UINT32_MAX);
    return {.layers = std::min(wanted, c.layers),
            .head = wanted > c.layers,
            .host_ffn = o.disable_gpu_index ? c.layers
                        : c.experts         ? std::min(o.cpu_experts, c.layers)
                                            : 0};
}

size_t resident(const Plan& plan, size_t l) { return l < plan.layers.size() ? plan.layers[l].resident.size() : 0; }

/// The model on the device: who gets what, and the ring where it has room for one.
struct Placed {
    Plan plan;
    uint64_t ring_bytes = 0;

    bool operator==(const Placed&) const = default;
};

Placed place_groups(const Decision& d, const DecisionOptions& o, const ModelFacts& model, const MachineFacts& machine,
                    uint64_t budget)
{
    const bool fastest = o.placement == Placement::fastest ||
                         (o.placement == Placement::automatic && !o.gpu_layers && !machine.device->software);
    const bool by_time = machine.figures && fastest && !o.disable_gpu_index;
    const Limits limits = chosen_limits(o, model.weights.config);
    const auto place = [&](const Needs& needs) {
        return by_time ? place_fastest(needs, d.costs, budget, limits) : place_most(needs, d.costs, budget, limits);
    };
    Placed out = {.plan = place(model.needs)};
    bool split = false;
    for (size_t l = 0; l < out.plan.layers.size(); ++l) split |= resident(out.plan, l) < model.needs.layers[l].groups;
    if (!split || d.shape.stream_from > d.shape.batch) return out;
    const uint64_t ring = ring_bytes(model.needs, std::min(o.ring_bytes, budget / 16));
    Needs with_ring = model.needs;
    with_ring.scratch += ring;
    if (Plan plan = place(with_ring); !plan.layers.empty()) out = {std::move(plan), ring};
    return out;
}

/// All of a tower's weights at once, or so many as pass through.
TowerPlan tower_plan(const TowerNeeds& tower, bool kept, uint64_t ring_bytes)
{
    const uint64_t all = tower.weights(), largest = *std::ranges::max_element(tower.pieces),
                   room = kept ? all : std::min(all, std::max(ring_bytes, largest));
    return {.room = room, .bytes = room + tower.scratch, .kept = room == all};
}

std::string no_room_for_tower(const Decision& d, const ModelFacts& model, const TowerPlan& passing)
{
    return fmt::format("images are the CPU's: looking at them on the GPU takes {:.1f} MiB beside the {:.1f} MiB that "
                       "the model needs there at the least, and the budget is {:.1f} MiB",
                       double(passing.bytes) / mib, double(least_budget(model.needs)) / mib, double(d.budget) / mib);
}

/// Who gets what of the budget. A tower comes before the model's neurons: all of it takes part in every picture, and
/// the CPU needs many times as long. It does not come before the model: where only one of them has room, that one.
void place_all(Decision& d, const DecisionOptions& o, const ModelFacts& model, const MachineFacts& machine)
{
    const auto take = [&](Placed&& placed, const TowerPlan& tower) {
        d.plan = std::move(placed.plan), d.shape.ring_bytes = placed.ring_bytes, d.tower = tower;
    };
    const auto place = [&](uint64_t aside) {
        return aside > d.budget ? Placed() : place_groups(d, o, model, machine, d.budget - aside);
    };
    if (!model.tower) return take(place(0), {});
    const TowerPlan passing = tower_plan(*model.tower, false, o.ring_bytes),
                    kept = tower_plan(*model.tower, true, o.ring_bytes);
    Placed beside_passing = place(passing.bytes);
    if (beside_passing.plan.layers.empty()) {
        Placed alone = place(0);
        if (!alone.plan.layers.empty() || passing.bytes > d.budget) {
            d.notes.push_back(no_room_for_tower(d, model, passing));
            return take(std::move(alone), {});
        }
    }
    Placed beside_kept = o.keep_vision.value_or(true) ? place(kept.bytes) : Placed();
    const bool room = kept.bytes <= d.budget && (beside_kept.plan.layers.empty() == beside_passing.plan.layers.empty());
    if (o.keep_vision.value_or(beside_kept == beside_passing) && room) return take(std::move(beside_kept), kept);
    if (o.keep_vision.value_or(false))
        d.notes.push_back(fmt::format("--keep-vision on has no effect: what looks at images takes {:.1f} MiB, for "
                                      "which the budget of {:.1f} MiB has no room beside the model, so it is copied "
                                      "to the GPU for every image",
                                      double(kept.bytes) / mib, double(d.budget) / mib));
    take(std::move(beside_passing), passing);
}

/// Layer by layer.
std::vector<double> served_shares(const Plan& plan, const std::vector<LayerUse>& use)
{
    std::vector<double> served;
    for (size_t l = 0; l < use.size(); ++l) {
        double here = 0, all = 0;
        for (size_t g = 0; g < use[l].fired.size(); ++g) {
            all += use[l].fired[g];
            if (g < resident(plan, l)) here += use[l].fired[g];
        }
        served.push_back(all > 0 ? here / all : 0);
    }
    return served;
}

/// Why memory cannot hold the KV cache of the host's layers, if it cannot. It is taken as the conversation grows, so
/// nothing else would say so in time.
std::string too_long(const Decision& d, const Config& c, std::optional<uint64_t> memory)
{
    const SessionShape& shape = d.shape;
    const uint64_t layers = c.layers - d.plan.layers.size(),
                   bytes = layers * c.kv_heads * shape.pages() * host::page_positions * shape.kv.row_bytes(c.head_dim);
    if (!memory || bytes <= *memory) return "";
    return fmt::format(
        "the KV cache of {} positions needs {:.1f} MiB of memory and {:.1f} MiB are available: use a smaller -c{}",
        uint64_t(shape.context) * shape.sequences, double(bytes) / mib, double(*memory) / mib,
        shape.kv.k == WeightType::f16 && c.head_dim % 32 == 0 ? ", or -ctk q8_0 -ctv q8_0" : "");
}

/// Why the budget that was asked for is of no use, if it is not.
std::string too_small(const Decision& d, uint64_t asked, uint64_t least)
{
    if (d.budget >= least) return "";
    const std::string what = d.budget == asked
                                 ? fmt::format("{:.1f} MiB is", double(asked) / mib)
                                 : fmt::format("{:.1f} MiB leaves {:.1f} MiB beside the other models, which is",
                                               double(asked) / mib, double(d.budget) / mib);
    return fmt::format("--vram-budget {} too small for anything: activations and the first layer need {:.1f} MiB; give "
                       "more, or use --device cpu",
                       what, double(least) / mib);
}

/// Whether all rows of all vectors that matrices meet begin on 16 bytes, as the device's kernels of several rows read
/// them.
bool rows_begin_aligned(const Weights& weights)
{
    const Config& c = weights.config;
    const auto aligned = [](uint32_t floats) { return floats % 4 == 0; };
    return aligned(c.dim) && aligned(c.heads * c.head_dim) &&
           std::ranges::all_of(weights.layers, [&](const LayerWeights& l) { return aligned(l.fc1.rows); });
}

std::vector<std::string> of_no_effect(const DecisionOptions& o)
{
    std::vector<std::string> notes;
    if (o.vram_budget) notes.push_back("--vram-budget does nothing on the CPU");
    if (o.gpu_layers.value_or(0) > 0) notes.push_back("--gpu-layers (-ngl) does nothing on the CPU");
    if (o.keep_vision) notes.push_back("--keep-vision does nothing on the CPU");
    if (o.cpu_experts) notes.push_back("--cpu-moe and --n-cpu-moe do nothing on the CPU, where all experts are");
    return notes;
}

/// Where the model is, as a clause.
std::string place_of(const Decision& d, const Needs& needs, const MachineFacts& machine)
{
    if (!machine.device) return place_without(machine);
    const DeviceFacts& device = *machine.device;
    if (const uint64_t least = least_budget(needs); d.budget < least)
        return fmt::format("on the CPU ({} has {:.0f} MiB free, and {:.0f} are the least that help)", device.name,
                           double(device.free - std::min(device.free, device.promised)) / mib, double(least) / mib);
    if (d.plan.layers.empty())
        return fmt::format(
            "on the CPU, which is expected to be faster alone than with {} (--placement most uses it all the same)",
            device.name);
    uint64_t here = 0, all = 0;
    for (size_t l = 0; l < needs.layers.size(); ++l) all += needs.layers[l].groups, here += resident(d.plan, l);
    if (here == all && d.plan.head)
        return fmt::format("on {}, all of it: {:.1f} of {:.1f} MiB", device.name, double(d.plan.bytes) / mib,
                           double(d.budget) / mib);
    return fmt::format(
        "on {}: attention of {} of {} layers, {:.0f} % of the neurons{}, {:.1f} of {:.1f} MiB; the rest on the CPU",
        device.name, d.plan.layers.size(), needs.layers.size(), 100.0 * double(here) / double(all),
        d.plan.head ? ", head" : "", double(d.plan.bytes) / mib, double(d.budget) / mib);
}

}    // namespace

std::string place_without(const MachineFacts& machine)
{
    return machine.why_none.empty() ? "on the CPU, as asked" : fmt::format("on the CPU ({})", machine.why_none);
}

double usual_position(const SessionShape& shape) { return std::min(shape.context / 4.0, 512.0); }

Costs costs_at(const ModelFacts& model, const MachineFacts& machine, SubmitMode submit, double position)
{
    const std::vector<LayerUse>& use = model.computation.use;
    if (!machine.figures) {
        Costs even = even_costs(model.needs);
        for (size_t l = 0; l < use.size(); ++l) even.layers[l].activity = use[l].fired;
        return even;
    }
    Costs costs =
        expected_costs({model.weights, model.needs, model.computation.shape, use}, *machine.figures, position);
    if (submit == SubmitMode::ahead) {
        costs.submit = 0;
        costs.seam = machine.figures->release_us;
    }
    return costs;
}

Decision decide(const DecisionOptions& o, const ModelFacts& model, const MachineFacts& machine, double position)
{
    const Config& c = model.weights.config;
    Decision d = {.shape = model.computation.shape};
    d.shape.submit = chosen_submit(o, machine);
    if (machine.device && machine.figures) d.shape.pace = pace_of(*machine.figures);
    d.shape.stream_from = chosen_stream(o, model.weights, machine);
    d.costs = costs_at(model, machine, d.shape.submit, position);
    if (machine.device) {
        d.budget = chosen_budget(o, *machine.device);
        place_all(d, o, model, machine);
        if (!d.plan.layers.empty() && !rows_begin_aligned(model.weights)) d.shape.few = 1;
    }
    if (machine.figures) d.expected_us = expected_us(d.costs, d.plan);
    d.served = served_shares(d.plan, model.computation.use);
    d.place = place_of(d, model.needs, machine);
    d.unfit = too_long(d, c, machine.memory);
    if (d.unfit.empty() && machine.device && o.vram_budget)
        d.unfit = too_small(d, *o.vram_budget, least_budget(model.needs));
    if (!machine.device) d.notes = of_no_effect(o);
    if (d.tower.room > 0)
        d.place += fmt::format("; images on {}, in {:.1f} MiB{}", machine.device->name, double(d.tower.bytes) / mib,
                               d.tower.kept ? "" : " that their part of the model passes through");
    return d;
}

}    // namespace hearth
