#include "engine/plan/steps.h"

#include "shaders/kernels.h"

#include <algorithm>
#include <bit>

namespace hearth {

namespace {

using enum StepKind;

struct StepInfo {
    StepKind kind;
    std::string_view name;
    bool of_ffn = false;
};
constexpr StepInfo infos[] = {
    {attn_norm, "attn_norm"},
    {quantise_attn_norm, "quantise"},
    {qkv, "qkv"},
    {rope, "rope"},
    {attend, "attend"},
    {quantise_attended, "quantise"},
    {attn_out, "attn_out"},
    {ffn_norm, "ffn_norm"},
    {quantise_ffn_norm, "quantise"},
    {route_scores, "route"},
    {route, "route"},
    {predict_signs, "predict"},
    {predict_hidden, "predict"},
    {predict_scores, "predict"},
    {predict_mask, "predict"},
    {watch_residual, "watch_residual"},
    {ffn_up, "ffn_up", true},
    {watch_gates, "watch_gates"},
    {glu, "glu", true},
    {quantise_h, "quantise"},
    {ffn_down, "ffn_down", true},
    {cold_ffn, "cold_ffn", true},
    {last_join, "join"},
    {output_norm, "output_norm"},
    {quantise_output_norm, "quantise"},
    {head, "head"},
    {best_parts, "best"},
    {best, "best"},
};
constexpr bool in_order()
{
    for (size_t i = 0; i < std::size(infos); ++i)
        if (infos[i].kind != StepKind(i)) return false;
    return std::size(infos) == size_t(best) + 1;
}
static_assert(in_order());

constexpr uint64_t floats = sizeof(float);
constexpr uint64_t plane_bytes = 2, half_bytes = 4;    // of a number's two planes, of integers or of halves

bool few(const StepForm& form) { return form.work == host::Work::few; }

Read all(const StepMatrix& m)
{
    return {.type = m.type, .row_bytes = m.row_bytes(), .bytes = m.bytes, .products = m.products()};
}
Read neurons_of(Reads which, const StepMatrix& m, double RowRates::*rate, uint32_t products)
{
    return {.which = which,
            .type = m.type,
            .rate = rate,
            .row_bytes = m.row_bytes(),
            .products = m.rows > 0 ? products : 0};
}

/// r = base + what is pending; its norm.
Step join(StepKind kind, const Config& c, const Pending& pending)
{
    return {.kind = kind, .row = c.dim * floats * (3 + pending.parts + pending.cold)};
}

/// Planes of a vector.
struct Wanted {
    bool integers = false, halves = false;
};
Wanted wanted_by(std::initializer_list<const StepMatrix*> readers)
{
    const auto any = [&](Meets what) {
        return std::ranges::any_of(readers, [&](const StepMatrix* m) { return m->rows > 0 && m->meets == what; });
    };
    return {any(Meets::integers), any(Meets::halves)};
}

/// Makes those that are wanted and that the step before, if it makes integers, has not written.
void add_planes(std::vector<Step>& steps, StepKind kind, uint64_t numbers, Wanted wanted)
{
    if (!steps.empty() && steps.back().planes) wanted.integers = false;
    if (!wanted.integers && !wanted.halves) return;
    steps.push_back({.kind = kind,
                     .row = numbers * (floats + wanted.integers * plane_bytes + wanted.halves * half_bytes),
                     .planes = wanted.integers,
                     .halves = wanted.halves});
}

/// A join, and the planes of what it gives where matrices that read it want them and it cannot write them itself.
void add_join(std::vector<Step>& steps, const Config& c, const Pending& pending, const StepForm& form, StepKind kind,
              StepKind planes, std::initializer_list<const StepMatrix*> readers)
{
    steps.push_back(join(kind, c, pending));
    const Wanted wanted = wanted_by(readers);
    steps.back().planes = wanted.integers && few(form) && c.dim % 32 == 0 && c.dim / 32 <= gpu::join_most_blocks;
    add_planes(steps, planes, c.dim, wanted);
}

void add_predictor(std::vector<Step>& steps, const LayerShape& shape, const LayerSparsity& sparsity)
{
    const uint64_t neurons = shape.fc2.rows;
    switch (sparsity.predictor) {
    case Predictor::none: break;
    case Predictor::sign: steps.push_back({.kind = predict_signs, .signs = shape.sign_bytes}); break;
    case Predictor::lowrank:
        steps.push_back({.kind = predict_hidden, .reads = {all(shape.fc1)}});
        steps.push_back({.kind = predict_scores, .reads = {all(shape.fc2)}});
        steps.push_back({.kind = predict_mask, .row = neurons * floats});
        break;
    }
}

/// Gate and up of few rows, and down where rows of it are left out.
struct FewReads {
    std::vector<Read> up, down;
};
FewReads few_reads(const LayerShape& shape, const LayerSparsity& sparsity)
{
    const bool skips = sparsity.cut >= 0;
    double RowRates::*const gates = skips ? &RowRates::gate : &RowRates::dot;
    double RowRates::*const ups = skips ? &RowRates::fired : &RowRates::dot;
    FewReads out;
    out.up = {neurons_of(Reads::gates, shape.gate, gates, shape.gate.cols)};
    if (shape.up.rows > 0) out.up.push_back(neurons_of(Reads::ups, shape.up, ups, shape.up.cols));
    if (!shape.down_by_rows) out.down = {neurons_of(Reads::downs, shape.down, &RowRates::fired, shape.down.cols)};
    return out;
}

}    // namespace

std::string_view step_name(StepKind kind) { return infos[size_t(kind)].name; }
bool of_ffn(StepKind kind) { return infos[size_t(kind)].of_ffn; }

uint32_t tokens_at_once(uint32_t tokens) { return std::min(std::bit_ceil(tokens), most_sums); }

uint32_t ffn_slices(uint32_t neurons) { return std::clamp(ceil_div(neurons, 128), 1u, most_slices); }

uint32_t parts_of_best(uint32_t vocab)
{
    constexpr uint32_t logits_per_part = 1024;
    return std::min(ceil_div(vocab, logits_per_part), most_best_parts);
}

uint32_t prefill_neurons(const Config& c)
{
    constexpr uint32_t most_of_experts = 1 << 14;
    const uint32_t all = ceil_div(c.neurons, group_neurons) * group_neurons;
    return c.experts ? std::min(all, most_of_experts) : all;
}

uint32_t decode_neurons(const Config& c)
{
    return c.experts ? c.experts_used * c.neurons_together() : prefill_neurons(c);
}

// ---- matrices -------------------------------------------------------------------------------------------------------

StepMatrix StepMatrix::columns(uint32_t count) const
{
    StepMatrix out = *this;
    out.cols = count;
    const uint64_t row = (uint64_t(ceil_div(count, block)) * block_bytes + padding - 1) / padding * padding;
    out.bytes = rows * row;
    return out;
}

StepMatrix StepMatrix::part(uint32_t count) const
{
    StepMatrix out = *this;
    out.rows = count;
    out.bytes = rows ? bytes * count / rows : 0;
    return out;
}

StepMatrix host_matrix(const Matrix& m)
{
    if (m.rows == 0) return {};
    const WeightFormat& f = format_of(m.type);
    return {.type = m.type,
            .rows = m.rows,
            .cols = m.cols,
            .bytes = m.bytes(),
            .block = f.block,
            .block_bytes = f.block_bytes};
}

LayerShape host_shape(const Config& c, const LayerWeights& w, host::KvTypes kv)
{
    constexpr uint32_t word_bits = 64;
    return {.q = host_matrix(w.attention.q),
            .k = host_matrix(w.attention.k),
            .v = host_matrix(w.attention.v),
            .o = host_matrix(w.attention.o),
            .router = host_matrix(w.router.scores),
            .gate = host_matrix(w.ffn.gate),
            .up = host_matrix(w.ffn.up),
            .down = host_matrix(w.ffn.either_down()),
            .fc1 = host_matrix(w.fc1),
            .fc2 = host_matrix(w.fc2),
            .down_by_rows = w.ffn.down.rows > 0,
            .sign_bytes = uint64_t(w.ffn.gate.rows) * ceil_div(c.dim, word_bits) * sizeof(uint64_t),
            .position_bytes = c.kv_heads * kv.row_bytes(c.head_dim),
            .window = w.attention.window};
}

// ---- a step ---------------------------------------------------------------------------------------------------------

namespace {

double read_bytes(const Read& r, const Load& load)
{
    switch (r.which) {
    case Reads::all: return double(r.bytes) * load.passes;
    case Reads::gates: return load.gate_bytes;
    case Reads::ups: return load.up_bytes;
    case Reads::downs: return load.down_bytes;
    }
    return 0;
}

/// For how much of a batch its products are made: rows, or pairs of a row and a neuron.
double times(Reads which, const Load& load)
{
    switch (which) {
    case Reads::all: return load.rows;
    case Reads::gates: return load.looked_at;
    case Reads::ups:
    case Reads::downs: return load.fired;
    }
    return 0;
}

double us(double bytes, double gb_per_s) { return bytes / std::max(gb_per_s, 1e-9) / 1000; }

}    // namespace

double products_of(const Read& read, const Load& load) { return double(read.products) * times(read.which, load); }

double sums_of(const Read& read, const Load& load)
{
    switch (read.which) {
    case Reads::all: return read.row_bytes > 0 ? double(read.bytes) / read.row_bytes * load.rows : 0;
    case Reads::gates:
    case Reads::ups: return times(read.which, load);
    case Reads::downs: return double(read.products) * load.rows;    // which are the columns
    }
    return 0;
}

double Step::bytes(const Load& load) const
{
    double sum = double(row + signs) * load.rows + double(position) * load.positions;
    for (const Read& r : reads) sum += read_bytes(r, load);
    return sum;
}

double Step::operations(const Load& load) const
{
    double products = double(position_products) * load.positions;
    for (const Read& r : reads) products += products_of(r, load);
    return 2 * products;
}

double Step::least_us(const SideRates& rates) const
{
    const bool norm = kind == StepKind::attn_norm || kind == StepKind::ffn_norm || kind == StepKind::output_norm ||
                      kind == StepKind::last_join;
    return dispatches * (norm ? rates.norm_us : rates.step_us);
}

double Step::us(const Load& load, const SideRates& rates) const
{
    double sum = least_us(rates) + hearth::us(double(row) * load.rows, rates.vector) +
                 hearth::us(double(signs) * load.rows, rates.signs);
    if (position > 0)
        sum += std::max(load.positions, load.tiled) *
               rates.attention.us(double(position), double(position_products), key_groups, queries);
    for (const Read& r : reads) {
        const double bytes = read_bytes(r, load);
        const RowRates& rows = rates.of(r.type);
        sum += hearth::us(bytes, rows.*r.rate);
        if (r.which == Reads::gates) sum += load.looked_at * rows.neuron_us;
        if (r.which == Reads::downs && rows.passed > 0) sum += hearth::us(load.looked_at * r.row_bytes, rows.passed);
        else if (r.row_bytes > 0) sum += bytes / r.row_bytes * rows.row_us;
    }
    return sum;
}

namespace {

constexpr double slow_read = 10, slow_products = 50;    // GB and billions of products a second

}    // namespace

double Step::slow_us(const Load& load) const
{
    return hearth::us(bytes(load), slow_read) + operations(load) / (2 * slow_products * 1e3);
}

double pace_of(const Machine& machine)
{
    double pace = slow_read / machine.on_device.read;
    for (const auto& of_format : machine.products)
        if (const double best = std::ranges::max(of_format); best > 0) pace = std::max(pace, slow_products / best);
    return std::max(pace, 1.0 / 16);    // what was measured were matrices of good sizes
}

const Step& step_of(const std::vector<Step>& steps, StepKind kind)
{
    const auto found = std::ranges::find(steps, kind, &Step::kind);
    HEARTH_CHECK(found != steps.end());
    return *found;
}

// ---- the device's ---------------------------------------------------------------------------------------------------

std::vector<Step> attention_steps(const Config& c, const LayerShape& shape, const BlockShare& share,
                                  const Pending& before, const StepForm& form)
{
    const uint64_t q_width = uint64_t(c.heads) * c.head_dim, kv_width = uint64_t(c.kv_heads) * c.head_dim;
    std::vector<Step> steps;
    add_join(steps, c, before, form, attn_norm, quantise_attn_norm, {&shape.q, &shape.k, &shape.v});
    steps.push_back({.kind = qkv, .reads = {all(shape.q), all(shape.k), all(shape.v)}});
    steps.push_back({.kind = rope, .row = (2 * q_width + 3 * kv_width) * floats});
    steps.push_back({.kind = attend,
                     .position = shape.position_bytes,
                     .position_products = 2 * q_width,
                     .key_groups = c.kv_heads,
                     .queries = c.heads,
                     .planes = few(form) && wanted_by({&shape.o}).integers && c.head_dim % 32 == 0});
    add_planes(steps, quantise_attended, q_width, wanted_by({&shape.o}));
    steps.push_back({.kind = attn_out, .reads = {all(shape.o)}});
    // In a parallel block the next layer's join adds what attention gives, and here there is a norm of the layer's
    // input only.
    const Pending attended = {.parts = c.parallel ? 0u : 1u};
    add_join(steps, c, attended, form, ffn_norm, quantise_ffn_norm, {&shape.gate, &shape.up});
    if (c.experts) {
        steps.push_back({.kind = route_scores, .reads = {all(shape.router)}});
        steps.push_back({.kind = route, .row = 3ull * c.experts * floats});
    }
    if (share.split && few(form)) add_predictor(steps, shape, share.sparsity);
    if (form.watched) steps.push_back({.kind = watch_residual, .row = c.dim * floats});
    return steps;
}

namespace {

/// Every neuron of a block for many rows, range by range.
std::vector<Step> tiled_ffn_steps(const Config& c, const LayerShape& shape, const BlockShare& share,
                                  const StepForm& form, bool& planes)
{
    std::vector<Step> steps;
    for (uint32_t first = 0; first < share.neurons; first += prefill_neurons(c)) {
        const uint32_t count = std::min(prefill_neurons(c), share.neurons - first);
        const size_t before = steps.size();
        const auto add = [&](Step step) { steps.push_back(std::move(step)); };
        if (!planes) add_planes(steps, quantise_ffn_norm, c.dim, wanted_by({&shape.gate, &shape.up}));
        planes = true;
        Step up = {.kind = ffn_up, .reads = {all(shape.gate.part(count))}};
        if (shape.up.rows > 0) up.reads.push_back(all(shape.up.part(count)));
        add(std::move(up));
        if (form.watched && !c.experts) add({.kind = watch_gates, .row = count * floats});
        add({.kind = glu, .row = 3ull * count * floats});
        const size_t without = steps.size();
        add_planes(steps, quantise_h, shape.down_by_rows ? share.neurons : count, wanted_by({&shape.down}));
        if (steps.size() > without) planes = false;    // the same memory
        const StepMatrix down =
            shape.down_by_rows ? shape.down.columns(std::min(share.neurons, shape.down.cols)) : shape.down.part(count);
        add({.kind = ffn_down, .reads = {all(down)}});
        for (size_t i = before; i < steps.size(); ++i) steps[i].first_neuron = first, steps[i].neurons = count;
    }
    return steps;
}

}    // namespace

std::vector<Step> ffn_steps(const Config& c, const LayerShape& shape, const BlockShare& share, const StepForm& form,
                            bool& planes)
{
    if (share.neurons == 0) return {};
    if (!few(form)) return tiled_ffn_steps(c, shape, share, form, planes);
    const FewReads reads = few_reads(shape, share.sparsity);
    std::vector<Step> steps = {{.kind = ffn_up, .reads = reads.up, .neurons = share.neurons}};
    if (!shape.down_by_rows) {
        steps.push_back({.kind = ffn_down, .reads = reads.down, .neurons = share.neurons});
        return steps;
    }
    const StepMatrix down = shape.down.columns(std::min(share.neurons, shape.down.cols));
    add_planes(steps, quantise_h, down.cols, wanted_by({&down}));
    steps.push_back({.kind = ffn_down, .reads = {all(down)}, .neurons = share.neurons});
    return steps;
}

Pending pending_after(const Config& c, const LayerShape& shape, const BlockShare& share, const StepForm& form)
{
    const bool here = share.neurons > 0 || share.streamed;
    const uint32_t of_block = few(form) && !shape.down_by_rows ? ffn_slices(share.neurons) : 1;
    return {.parts = (c.parallel ? 1 : 0) + (here ? of_block : 0), .cold = share.split && !share.streamed};
}

std::vector<Step> head_steps(const Config& c, const StepMatrix& output, const Pending& before, const StepForm& form)
{
    std::vector<Step> steps;
    add_join(steps, c, before, form, output_norm, quantise_output_norm, {&output});
    steps.push_back({.kind = head, .reads = {all(output)}});
    return steps;
}

std::vector<Step> best_steps(const Config& c)
{
    return {{.kind = best_parts, .row = c.vocab * floats}, {.kind = best, .row = parts_of_best(c.vocab) * 2 * floats}};
}

std::vector<Step> last_steps(const Config& c, const Pending& before) { return {join(last_join, c, before)}; }

// ---- the host's -----------------------------------------------------------------------------------------------------

std::vector<Step> host_attention_steps(const Config& c, const LayerShape& shape, const LayerSparsity& sparsity,
                                       const StepForm& form)
{
    std::vector<Step> steps = {
        {.kind = qkv, .reads = {all(shape.q), all(shape.k), all(shape.v)}, .dispatches = few(form) ? 1u : 3u},
        {.kind = attend,
         .position = shape.position_bytes,
         .position_products = 2ull * c.heads * c.head_dim,
         .key_groups = c.kv_heads,
         .queries = c.heads,
         .dispatches = 2},    // the pages of each head, and what they make together
        {.kind = attn_out, .reads = {all(shape.o)}}};
    if (c.experts) steps.push_back({.kind = route, .reads = {all(shape.router)}});
    else if (few(form)) {
        std::vector<Step> predictor;
        add_predictor(predictor, shape, sparsity);
        if (predictor.empty()) return steps;
        Step together = predictor[0];
        if (sparsity.predictor == Predictor::lowrank) {
            together.reads.push_back(predictor[1].reads[0]);
            together.dispatches = 2;
        }
        together.kind = predict_mask;
        steps.push_back(std::move(together));
    }
    return steps;
}

Step cold_ffn_step(const LayerShape& shape, const LayerSparsity& sparsity, const StepForm& form)
{
    const LayerSparsity of_form = few(form) ? sparsity : LayerSparsity();
    FewReads reads = few_reads(shape, of_form);
    if (shape.down_by_rows)    // rows are of one expert's neurons
        reads.down = {neurons_of(Reads::downs, shape.down, &RowRates::dot,
                                 uint32_t(shape.down.products() / std::max(shape.gate.rows, 1u)))};
    reads.up.insert(reads.up.end(), reads.down.begin(), reads.down.end());
    return {.kind = cold_ffn, .reads = reads.up, .dispatches = 2};
}

Step host_head_step(const StepMatrix& output) { return {.kind = head, .reads = {all(output)}}; }

}    // namespace hearth
