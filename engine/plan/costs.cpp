#include "engine/plan/costs.h"

#include <algorithm>
#include <cmath>

namespace hearth {

namespace {

double total_us(const std::vector<Step>& steps, const Load& load, const SideRates& rates)
{
    double sum = 0;
    for (const Step& step : steps) sum += step.us(load, rates);
    return sum;
}

bool of_predictor(const Step& step)
{
    return step.kind >= StepKind::predict_signs && step.kind <= StepKind::predict_mask;
}

/// What the device's kernels go over a batch's matrices by.
struct Ways {
    const Machine* machine;    // with the variants that were measured; null: all matrices as kernels can at best
    host::Work work = host::Work::few;
    bool matrices = false;    // as of SessionShape
};

Meets meets_of_many(WeightType type, const Ways& ways, bool transposed)
{
    auto rates = usual_products;
    if (ways.machine && std::ranges::max(ways.machine->products[format_number(type)]) > 0)
        rates = ways.machine->products[format_number(type)];
    if (!ways.matrices || type == WeightType::f32) rates[size_t(Product::matrices)] = 0;
    if (transposed || !is_quantised(type)) rates[size_t(Product::integers)] = 0;
    switch (Product(std::ranges::max_element(rates) - rates.begin())) {
    case Product::integers: return Meets::integers;
    case Product::matrices: return Meets::halves;
    default: return Meets::floats;
    }
}

void set_meets(StepMatrix& m, const Ways& ways, bool transposed = false)
{
    if (m.rows == 0) return;
    if (ways.work == host::Work::many) {
        m.meets = meets_of_many(m.type, ways, transposed);
        return;
    }
    bool integers = is_quantised(m.type);
    if (ways.machine)
        if (const auto& measured = ways.machine->row_variants.of(m.type, m.rows, m.cols)) integers = measured->int_dot;
    m.meets = integers ? Meets::integers : Meets::floats;
}

LayerShape device_shape(const LayerNeeds& needs, const Ways& ways)
{
    LayerShape shape = needs.shape;
    for (StepMatrix* m : {&shape.q, &shape.k, &shape.v, &shape.o, &shape.gate, &shape.up}) set_meets(*m, ways);
    if (ways.work == host::Work::many || shape.down_by_rows) set_meets(shape.down, ways, !shape.down_by_rows);
    return shape;
}

StepMatrix device_output(const Needs& needs, const Ways& ways)
{
    StepMatrix output = needs.output;
    set_meets(output, ways);
    return output;
}

/// What is done with the neurons that one side has of a block: (row, neuron) pairs whose gates are looked at and that
/// fire, and the rows of weights that are read for them.
struct NeuronsRead {
    double looked_at = 0, fired = 0;
    double gates = 0, ups = 0, downs = 0;
};

/// Positions that the rows see, those of each in whole tiles; 0: as they are.
double positions_seen(const LayerShape& shape, const PlannedBatch& batch, uint32_t tile)
{
    double positions = 0;
    for (uint32_t r = 0; r < batch.rows; ++r) {
        const double all = batch.position + r + 1, sees = shape.window ? std::min(all, double(shape.window)) : all;
        positions += tile ? std::ceil(sees / tile) * tile : sees;
    }
    return positions;
}

Load load_of(const LayerShape& shape, const NeuronsRead& n, const PlannedBatch& batch, double passes)
{
    const double of_down =
        shape.down_by_rows ? double(shape.down.bytes) / std::max(shape.gate.rows, 1u) : shape.down.row_bytes();
    return {.rows = double(batch.rows),
            .passes = passes,
            .positions = positions_seen(shape, batch, 0),
            .looked_at = n.looked_at,
            .fired = n.fired,
            .gate_bytes = n.gates * shape.gate.row_bytes(),
            .up_bytes = n.ups * shape.up.row_bytes(),
            .down_bytes = n.downs * of_down};
}

Load device_load(const LayerShape& shape, const NeuronsRead& n, const PlannedBatch& batch, double passes)
{
    Load load = load_of(shape, n, batch, passes);
    if (batch.work == host::Work::few) load.tiled = positions_seen(shape, batch, tile_positions);
    return load;
}

/// x to the n, which is mostly 1 here. std::pow took most of a simulation's time, ten times as long on Windows.
double power(double x, uint32_t n)
{
    double out = n & 1 ? x : 1;
    while (n >>= 1) {
        x *= x;
        if (n & 1) out *= x;
    }
    return out;
}

/// Groups of a layer that lie on one side, and what is expected of them. Rows are taken to fire independently of each
/// other.
class Groups {
  public:
    Groups(const LayerUse& use, uint32_t neurons, uint32_t rows) : use_(use), of_layer_(neurons), rows_(rows) {}

    void add(uint32_t g)
    {
        const double there = std::min<double>(group_neurons, of_layer_ - double(g) * group_neurons),
                     share = std::clamp(use_.fired[g] / there, 0.0, 1.0);
        const uint32_t together = tokens_at_once(rows_), turns = rows_ / together, left = rows_ % together;
        const auto any_of = [&](uint32_t rows) { return there * (1 - power(1 - share, rows)); };
        slots_ += group_neurons;
        neurons_ += there;
        fired_ += use_.fired[g];
        any_ += any_of(rows_);
        any_together_ += turns * any_of(together) + (left ? any_of(left) : 0);
    }
    uint32_t slots() const { return slots_; }

    /// Few rows on the device: slots are whole, and of down no row is read for a zero.
    NeuronsRead on_device() const
    {
        const double fired = rows_ * fired_;
        if (use_.routed) return {fired, fired, fired, fired, fired};    // each row has experts of its own
        const double passes = ceil_div(rows_, tokens_at_once(rows_)), all = passes * slots_;
        return {double(rows_) * slots_, fired, all, use_.skips ? any_together_ : all, fired};
    }
    NeuronsRead on_host(host::Work work) const
    {
        const double rows = rows_;
        if (use_.routed) return {rows * fired_, rows * fired_, any_, any_, any_};
        if (!use_.skips || work == host::Work::many)
            return {rows * neurons_, rows * neurons_, neurons_, neurons_, neurons_};
        const double gates = neurons_ * use_.looked_at;
        return {rows * gates, rows * fired_, gates, any_, any_};
    }

  private:
    const LayerUse& use_;
    uint32_t of_layer_, rows_, slots_ = 0;
    double neurons_ = 0, fired_ = 0;       // of one row
    double any_ = 0, any_together_ = 0;    // that fire for any row, or summed over those that meet a weight at once
};

double device_passes(const PlannedBatch& batch)
{
    return batch.work == host::Work::few ? ceil_div(batch.rows, tokens_at_once(batch.rows)) : 1;
}

}    // namespace

Machine figures_for(const Weights& weights, Machine machine)
{
    uint64_t bytes = weights.output.bytes();
    for (const LayerWeights& layer : weights.layers) each_matrix(layer, [&](const Matrix& m) { bytes += m.bytes(); });
    if (bytes <= small_model && machine.small_host) machine.host = *machine.small_host;
    return machine;
}

Costs expected_costs(const PlannedModel& model, const Machine& m, double position)
{
    const Config& c = model.weights.config;
    const SideRates &host = m.host, &device = m.on_device;
    const PlannedBatch token = {.position = position};
    const StepForm form = {};
    Costs costs = {
        .submit = m.submit_us, .seam = std::max(m.round_trip_us - m.submit_us, 0.0), .token = m.round_trip_us};
    Pending pending;
    for (uint32_t l = 0; l < c.layers; ++l) {
        const uint32_t groups = model.needs.layers[l].groups;
        const LayerUse& use = model.use[l];
        const LayerShape here = device_shape(model.needs.layers[l], {&m}),
                         there = host_shape(c, model.weights.layers[l], model.shape.kv);
        BlockShare share = {.neurons = groups * group_neurons, .split = true, .sparsity = model.shape.sparsity[l]};
        LayerCosts layer;
        layer.activity = use.fired;
        const Load of_token = device_load(here, {}, token, 1);
        for (const Step& step : attention_steps(c, here, share, pending, form))
            (of_predictor(step) ? layer.predict : layer.attention) += step.us(of_token, device);
        pending = pending_after(c, here, share, form);    // as if all were resident: partial sums cost little

        const Step cold_ffn = cold_ffn_step(there, share.sparsity, form);
        Groups hot(use, c.neurons, 1);
        for (uint32_t k = 0; k <= groups; ++k) {
            Groups cold(use, c.neurons, 1);
            for (uint32_t g = k; g < groups; ++g) cold.add(g);
            share.neurons = std::min(hot.slots(), decode_neurons(c));
            bool planes = true;
            layer.device_ffn.push_back(
                total_us(ffn_steps(c, here, share, form, planes), load_of(here, hot.on_device(), token, 1), device));
            layer.host_ffn.push_back(k < groups ? cold_ffn.us(load_of(there, cold.on_host(token.work), token, 1), host)
                                                : 0);
            if (k < groups) hot.add(k);
        }
        layer.host_layer =
            total_us(host_attention_steps(c, there, share.sparsity, form), load_of(there, {}, token, 1), host) +
            layer.host_ffn[0];
        costs.layers.push_back(std::move(layer));
    }
    costs.head_device = total_us(head_steps(c, device_output(model.needs, {&m}), pending, form), {}, device);
    costs.head_host = host_head_step(host_matrix(model.weights.output)).us({}, host);
    return costs;
}

namespace {

/// Collects the steps of a batch under a plan, each with what it is expected to do.
class PlannedSteps {
  public:
    PlannedSteps(const PlannedModel& model, const Machine* machine, const PlannedBatch& batch)
        : model_(model), ways_{machine, batch.work, model.shape.matrices}, batch_(batch), form_{batch.work},
          c_(model.weights.config)
    {
    }

    std::vector<PlannedStep> of(const Plan& plan)
    {
        for (uint32_t l = 0; l < c_.layers; ++l) {
            if (l < plan.layers.size()) device_layer(l, plan.layers[l].resident);
            else host_layer(l);
        }
        const Load wanted = {.passes = 1};    // the last row's logits
        if (plan.head)
            add(head_steps(c_, device_output(model_.needs, ways_), pending_, form_), c_.layers, true, wanted);
        else if (!plan.layers.empty())
            add(last_steps(c_, pending_), uint32_t(plan.layers.size()), true, {.rows = double(batch_.rows)});
        if (!plan.head) add({host_head_step(host_matrix(model_.weights.output))}, c_.layers, false, wanted);
        return std::move(steps_);
    }

  private:
    void add(std::vector<Step> steps, uint32_t l, bool on_device, const Load& load)
    {
        for (Step& step : steps) steps_.push_back({std::move(step), l, on_device, load});
    }

    void device_layer(uint32_t l, const std::vector<uint32_t>& resident)
    {
        const bool few = batch_.work == host::Work::few;
        const LayerShape shape = device_shape(model_.needs.layers[l], ways_);
        Groups hot(model_.use[l], c_.neurons, batch_.rows), cold = hot;
        std::vector<bool> here(model_.needs.layers[l].groups);
        for (const uint32_t g : resident) here[g] = true;
        for (uint32_t g = 0; g < here.size(); ++g) (here[g] ? hot : cold).add(g);
        BlockShare share = {.neurons = few ? std::min(hot.slots(), decode_neurons(c_)) : hot.slots(),
                            .split = cold.slots() > 0,
                            .sparsity = model_.shape.sparsity[l]};
        const Load load = device_load(shape, few ? hot.on_device() : NeuronsRead(), batch_, device_passes(batch_));
        add(attention_steps(c_, shape, share, pending_, form_), l, true, load);
        bool planes = share.neurons > 0;
        add(ffn_steps(c_, shape, share, form_, planes), l, true, load);
        if (share.split) {
            const LayerShape there = host_shape(c_, model_.weights.layers[l], model_.shape.kv);
            add({cold_ffn_step(there, share.sparsity, form_)}, l, false,
                load_of(there, cold.on_host(batch_.work), batch_, 1));
        }
        pending_ = pending_after(c_, shape, share, form_);
    }

    void host_layer(uint32_t l)
    {
        const LayerShape shape = host_shape(c_, model_.weights.layers[l], model_.shape.kv);
        const LayerSparsity& sparsity = model_.shape.sparsity[l];
        Groups all(model_.use[l], c_.neurons, batch_.rows);
        for (uint32_t g = 0; g < model_.needs.layers[l].groups; ++g) all.add(g);
        const Load load = load_of(shape, all.on_host(batch_.work), batch_, 1);
        add(host_attention_steps(c_, shape, sparsity, form_), l, false, load);
        add({cold_ffn_step(shape, sparsity, form_)}, l, false, load);
    }

    const PlannedModel& model_;
    Ways ways_;
    PlannedBatch batch_;
    StepForm form_;
    const Config& c_;
    Pending pending_;
    std::vector<PlannedStep> steps_;
};

}    // namespace

std::vector<PlannedStep> planned_steps(const PlannedModel& model, const Plan& plan, const Machine* machine,
                                       const PlannedBatch& batch)
{
    return PlannedSteps(model, machine, batch).of(plan);
}

std::optional<uint32_t> stream_from(const Weights& weights, const Machine& machine)
{
    const host::FfnWeights& w = weights.layers[0].ffn;
    constexpr uint32_t tile = 64;    // tokens that the device takes at once
    double host = 0, device = 0, laid_out = 0,
           bytes = 0;    // nanoseconds for one token, for a tile of tokens, for all tokens; and what is copied
    for (const Matrix* m : {&w.gate, &w.up, &w.either_down()}) {
        if (m->rows == 0) continue;
        const size_t f = format_number(m->type);
        const double weights_there = double(m->rows) * m->cols;
        auto rates = machine.products[f];
        if (m == &w.down_t) rates[size_t(Product::integers)] = 0;    // every weight of a sum has another scale
        const double rate = std::ranges::max(rates);
        if (rate <= 0 || machine.host_products[f] <= 0 || machine.laid_out[f] <= 0) return {};
        host += weights_there / machine.host_products[f];
        device += weights_there * tile / rate;
        laid_out += double(m->bytes()) / machine.laid_out[f];
        bytes += double(m->bytes());
    }
    const Config& c = weights.config;
    if (c.experts) host *= double(c.experts_used) / c.experts;    // of a token; the device computes all of them
    constexpr uint32_t most = 4096;
    for (uint32_t tokens = 2; tokens <= most; ++tokens) {
        const double copied = bytes / std::max(machine.upload, 1e-9);
        if (std::max(laid_out, copied + ceil_div(tokens, tile) * device) < tokens * host) return tokens;
    }
    return UINT32_MAX;
}

}    // namespace hearth
