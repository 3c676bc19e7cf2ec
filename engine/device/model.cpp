#include "engine/device/model.h"

#include "engine/device/kv_pool.h"
#include "host/linear.h"
#include "host/numbers.h"
#include "host/predict.h"
#include "host/sparse.h"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstring>
#include <optional>

namespace hearth {

using vulkan::aligned;
using vulkan::Slice;

namespace {

std::vector<float> joined(std::initializer_list<const std::vector<float>*> parts)
{
    std::vector<float> all;
    for (const std::vector<float>* part : parts) all.insert(all.end(), part->begin(), part->end());
    return all;
}

/// As gpu::Join has it: the weight alone, or with the bias of a LayerNorm and what is added before it, or with the norm
/// of what is added.
std::vector<float> join_weight(const std::vector<float>& weight, const std::vector<float>& bias,
                               const std::vector<float>& addend, const std::vector<float>& post)
{
    const std::vector<float> zeros(weight.size());
    if (!bias.empty()) return joined({&weight, &bias, addend.empty() ? &zeros : &addend});
    return joined({&weight, &post});
}

/// Each does what the matrix before it leaves to it: the bias and the norm of the last layer's down, of the layer's o,
/// of the last layer's down. Before the first layer there is nothing to normalise.
std::vector<float> join_before_attention(const Weights& w, size_t l)
{
    const LayerWeights &layer = w.layers[l], &last = w.layers[l > 0 ? l - 1 : 0];
    return join_weight(layer.attn_norm, layer.attn_norm_bias, l > 0 ? last.down_bias : std::vector<float>(),
                       last.post_ffn_norm);
}
std::vector<float> join_before_ffn(const LayerWeights& l)
{
    return join_weight(l.ffn_norm, l.ffn_norm_bias, l.attention.o_bias, l.post_attn_norm);
}
std::vector<float> join_before_head(const Weights& w)
{
    // Without a norm there is no head either, and the join is to add what is pending.
    const std::vector<float> none(w.output_norm.empty() ? w.config.dim : 0);
    if (!none.empty()) return join_weight(none, none, w.layers.back().down_bias, none);
    return join_weight(w.output_norm, w.output_norm_bias, w.layers.back().down_bias, w.layers.back().post_ffn_norm);
}

std::vector<float> qkv_bias(const AttentionWeights& a) { return joined({&a.q_bias, &a.k_bias, &a.v_bias}); }
std::vector<float> head_norms(const AttentionWeights& a) { return joined({&a.q_norm, &a.k_norm}); }

/// One layout for q, k and v, where they can be one matrix.
std::optional<RowLayout> layout_of_qkv(const AttentionWeights& a)
{
    RowLayout all = layout_of(a.q);
    for (const Matrix* m : {&a.k, &a.v}) {
        const RowLayout own = layout_of(*m);
        if (own.type != all.type) return {};
        all.stride = std::max(all.stride, own.stride);
    }
    if (a.q.rows % all.unit() || a.k.rows % all.unit()) return {};
    return all;
}

/// The list of a layer's tensors on the device, in the order in which they lie there, for who counts them and for who
/// uploads them. What the family has not is empty.
template <class Visitor>
void each_tensor(const Weights& weights, size_t l, GpuModel::Layer& to, Visitor&& visit)
{
    const LayerWeights& w = weights.layers[l];
    visit.vector(to.attn_norm, join_before_attention(weights, l));
    visit.vector(to.ffn_norm, join_before_ffn(w));
    visit.vector(to.qkv_bias, qkv_bias(w.attention));
    visit.vector(to.head_norms, head_norms(w.attention));
    visit.qkv(to, w.attention);
    visit.matrix(to.o, w.attention.o);
    visit.neurons(to.gate, w.ffn.gate);
    visit.neurons(to.up, w.ffn.up);
    visit.neurons(to.down_t, w.ffn.down_t);
    if (!weights.config.experts) visit.columns(to.down, w.ffn.down);
    visit.neurons(to.bias, w.ffn.bias);
    visit.matrix(to.router, w.router.scores);
    if (weights.config.experts) visit.experts(to.group_experts);
}

/// Likewise of its predictor, which only a split layer has.
template <class Visitor>
void each_tensor(Predictor predictor, const LayerWeights& w, GpuModel::Layer& to, Visitor&& visit)
{
    switch (predictor) {
    case Predictor::none: break;
    case Predictor::sign: visit.signs(to.signs, w.ffn.gate); break;
    case Predictor::lowrank:
        visit.matrix(to.fc1, w.fc1);
        visit.all_neurons(to.fc2, w.fc2);
        break;
    }
}

uint64_t sign_bytes(uint32_t neurons, uint32_t cols) { return uint64_t(neurons) * ceil_div(cols, sign_columns) * 16; }

/// Adds up what tensors take; `sum` is of those that are there whatever is resident.
struct Counting {
    LayerNeeds& needs;
    uint64_t& sum;

    uint32_t all_neurons() const { return needs.groups * group_neurons; }
    void vector(const Slice&, const std::vector<float>& x) { sum += aligned(x.size() * sizeof(float)); }
    void matrix(const GpuMatrix&, const Matrix& m) { sum += aligned(layout_of(m).bytes(m.rows)); }
    void qkv(const GpuModel::Layer&, const AttentionWeights& a)
    {
        const std::optional<RowLayout> all = layout_of_qkv(a);
        for (const Matrix* m : {&a.q, &a.k, &a.v}) sum += aligned(all.value_or(layout_of(*m)).bytes(m->rows));
    }
    void neurons(const GpuMatrix&, const Matrix& m)
    {
        if (m.rows > 0) needs.group += layout_of(m).bytes(group_neurons);
    }
    void columns(const GpuMatrix&, const Matrix& m)
    {
        if (m.rows == 0) return;
        // Whole blocks of every row: what so many columns take is counted group by group, and what fills up the last
        // quad of the rows once.
        const uint32_t block = std::max(format_of(m.type).block, group_neurons);
        needs.together = block / group_neurons;
        needs.group += ceil_div(uint64_t(m.rows) * device_bytes(m.type, block), needs.together);
        sum += aligned(uint64_t(m.rows) * 16);
    }
    void experts(const Slice&) { sum += aligned(needs.groups * sizeof(uint32_t)); }
    void signs(const Slice&, const Matrix& gate) { sum += aligned(sign_bytes(all_neurons(), gate.cols)); }
    void all_neurons(const GpuMatrix&, const Matrix& m) { sum += aligned(layout_of(m).bytes(all_neurons())); }
};

/// A matrix with so many rows as steps know it, before it is laid out.
StepMatrix expected_matrix(const Matrix& m, uint32_t rows)
{
    if (m.rows == 0) return {};
    const WeightType type = values_of(m.type);
    const uint32_t block = format_of(type).block;
    return {.type = type,
            .rows = rows,
            .cols = m.cols,
            .bytes = layout_of(m).bytes(rows),
            .block = block,
            .block_bytes = uint32_t(device_bytes(type, block)),
            .padding = 16};
}
StepMatrix expected_matrix(const Matrix& m) { return expected_matrix(m, m.rows); }

LayerShape expected_shape(const LayerWeights& w, uint32_t neurons, uint64_t sign_bytes)
{
    return {.q = expected_matrix(w.attention.q),
            .k = expected_matrix(w.attention.k),
            .v = expected_matrix(w.attention.v),
            .o = expected_matrix(w.attention.o),
            .router = expected_matrix(w.router.scores),
            .gate = expected_matrix(w.ffn.gate, neurons),
            .up = expected_matrix(w.ffn.up, neurons),
            .down = w.ffn.down.rows > 0 ? expected_matrix(w.ffn.down) : expected_matrix(w.ffn.down_t, neurons),
            .fc1 = expected_matrix(w.fc1),
            .fc2 = expected_matrix(w.fc2, neurons),
            .down_by_rows = w.ffn.down.rows > 0,
            .sign_bytes = sign_bytes,
            .window = w.attention.window};
}

}    // namespace

Needs GpuModel::needs(const Weights& weights, const std::vector<LayerSparsity>& sparsity)
{
    Needs needs;
    needs.scratch = aligned(join_before_head(weights).size() * sizeof(float));    // of the join behind the last layer
    Layer nowhere = {.residency = {{}, {}}};
    for (size_t l = 0; l < weights.layers.size(); ++l) {
        LayerNeeds& n = needs.layers.emplace_back();
        n.groups = ceil_div(weights.config.neurons, group_neurons);
        const uint32_t all = n.groups * group_neurons;
        n.shape = expected_shape(weights.layers[l], all, sign_bytes(all, weights.config.dim));
        each_tensor(weights, l, nowhere, Counting{n, n.attention});
        each_tensor(sparsity[l].predictor, weights.layers[l], nowhere, Counting{n, n.predictor});
    }
    needs.head = aligned(layout_of(weights.output).bytes(weights.output.rows));
    needs.output = expected_matrix(weights.output);
    return needs;
}

namespace {

/// Puts tensors into a layer's memory.
class LayerUpload {
  public:
    LayerUpload(WeightUpload& upload, vulkan::Pool& pool, host::Team& team, const LayerResidency& residency,
                uint32_t experts)
        : upload_(upload), pool_(pool), team_(team), residency_(residency), experts_(experts)
    {
    }

    void vector(Slice& to, const std::vector<float>& x) { to = upload_.vector(pool_, x); }
    void matrix(GpuMatrix& to, const Matrix& m)
    {
        if (m.rows > 0) to = upload_.matrix(pool_, m);
    }
    void qkv(GpuModel::Layer& to, const AttentionWeights& a)
    {
        const std::optional<RowLayout> all = layout_of_qkv(a);
        if (all) to.qkv = upload_.place(pool_, *all, a.q.rows + a.k.rows + a.v.rows, a.q.cols);
        uint32_t row = 0;    // of qkv
        for (const auto& [part, m] : {std::pair(&to.q, &a.q), {&to.k, &a.k}, {&to.v, &a.v}}) {
            *part = all ? to.qkv.part(row, m->rows) : upload_.place(pool_, layout_of(*m), m->rows, m->cols);
            upload_.fill(*part, *m, [](uint64_t r) { return r; });
            row += m->rows;
        }
    }
    /// The rows of the neurons of each slot.
    void neurons(GpuMatrix& to, const Matrix& m)
    {
        if (m.rows == 0) return;
        const std::span<const uint32_t> slots = residency_.slots();
        to = upload_.matrix(pool_, m, uint32_t(slots.size()) * group_neurons, [&](uint64_t row) {
            return placed(m, uint64_t(slots[row / group_neurons]) * group_neurons + row % group_neurons);
        });
    }
    void columns(GpuMatrix& to, const Matrix& m)
    {
        const std::span<const uint32_t> slots = residency_.slots();
        if (m.rows == 0 || slots.empty()) return;
        // The first groups, in the file's order: nothing else is planned where all neurons are as good as each other.
        for (size_t s = 0; s < slots.size(); ++s)
            HEARTH_CHECK(slots[s] == s && residency_.order()[s * group_neurons] == s * group_neurons);
        to = upload_.matrix(pool_, m.columns(0, std::min(uint32_t(slots.size()) * group_neurons, m.cols)));
    }
    void experts(Slice& to)
    {
        std::vector<uint32_t> experts(residency_.groups());
        for (size_t s = 0; s < residency_.slots().size(); ++s)
            experts[s] = residency_.expert_of(residency_.slots()[s], experts_);
        to = upload_.vector(pool_, experts);
    }
    void signs(Slice& to, const Matrix& gate)
    {
        to = upload_.signs(pool_, host::SignRows(team_, gate, residency_.order()), all_neurons());
    }
    /// The rows of all neurons, in placement order.
    void all_neurons(GpuMatrix& to, const Matrix& m)
    {
        to = upload_.matrix(pool_, m, all_neurons(), [&](uint64_t place) { return placed(m, place); });
    }

  private:
    uint32_t all_neurons() const { return residency_.groups() * group_neurons; }
    /// The row of a place in the placement order; behind the last neuron, one of zeros.
    uint64_t placed(const Matrix& m, uint64_t place) const
    {
        return place < residency_.order().size() ? residency_.order()[place] : m.rows;
    }

    WeightUpload& upload_;
    vulkan::Pool& pool_;
    host::Team& team_;
    const LayerResidency& residency_;
    uint32_t experts_;
};

}    // namespace

GpuModel::GpuModel(const std::shared_ptr<vulkan::Device>& device, const Weights& weights, const ModelLayout& layout,
                   host::Team& team, const Progress& progress)
    : device_(device), weights_(weights), kernels_(device, weights.config, layout.row_variants, layout.products)
{
    const Plan& plan = layout.plan;
    const Needs n = needs(weights, layout.sparsity);
    const auto layer_bytes = [&](size_t l) {
        const size_t resident = plan.layers[l].resident.size();
        return n.layers[l].attention + resident * n.layers[l].group +
               (resident < n.layers[l].groups ? n.layers[l].predictor : 0);
    };
    uint64_t total = n.scratch + (plan.head ? n.head : 0);
    for (size_t l = 0; l < plan.layers.size(); ++l) total += layer_bytes(l);
    std::optional<vulkan::Uploader> own;
    WeightUpload upload(layout.uploader ? *layout.uploader : own.emplace(device), team, total, progress);
    // Whether a matrix may be multiplied as halves, which only those are asked that would be. Of the output matrix a
    // row is a token: those that no text ever had may be next to nothing, and their logits are, too.
    const auto judge = [&](GpuMatrix& on_device, const Matrix& m, bool transposed = false) {
        if (m.rows == 0) return;
        const Product usual = kernels_.product(values_of(m.type), {.transposed = transposed});
        if (usual != Product::halves && usual != Product::matrices) return;
        const host::AsHalves as = host::as_halves(team, m);
        const bool output = &on_device == &head_;
        on_device.halves =
            !as.overflows && as.columns_lost == 0 && (output ? 2ull * as.rows_lost <= m.rows : as.rows_lost == 0);
    };
    for (size_t l = 0; l < plan.layers.size(); ++l) {
        const LayerWeights& w = weights.layers[l];
        const std::vector<uint32_t>& resident = plan.layers[l].resident;
        vulkan::Pool& pool =
            pools_.emplace_back(device, layer_bytes(l), vulkan::Use::device, fmt::format("the weights of layer {}", l));
        Layer layer = {.window = w.attention.window,
                       .window_rope = w.attention.window_rope,
                       .predictor_threshold = w.predictor_threshold,
                       .residency = {layout.orders[l], resident}};
        LayerUpload visit(upload, pool, team, layer.residency, weights.config.experts);
        each_tensor(weights, l, layer, visit);
        each_tensor(layer.split() ? layout.sparsity[l].predictor : Predictor::none, w, layer, visit);
        judge(layer.q, w.attention.q);
        judge(layer.k, w.attention.k);
        judge(layer.v, w.attention.v);
        judge(layer.o, w.attention.o);
        if (!resident.empty() || layout.streams) {
            judge(layer.gate, w.ffn.gate);
            judge(layer.up, w.ffn.up);
            judge(layer.down_t, w.ffn.down_t, true);
            judge(layer.down, w.ffn.down);
        }
        layers_.push_back(std::move(layer));
    }
    const size_t next = plan.layers.size();
    vulkan::Pool& join_pool = pools_.emplace_back(device, n.scratch, vulkan::Use::device, "the last join");
    last_join_ = upload.vector(join_pool, next < weights.layers.size() ? join_before_attention(weights, next)
                                                                       : join_before_head(weights));
    if (plan.head) {
        vulkan::Pool& pool = pools_.emplace_back(device, n.head, vulkan::Use::device, "the output matrix");
        head_ = upload.matrix(pool, weights.output);
        judge(head_, weights.output);
    }
}

Meets GpuModel::meets(const GpuMatrix& m, host::Work work, bool transposed) const
{
    if (m.rows == 0) return Meets::floats;
    if (work == host::Work::few) return kernels_.reads_planes(m) ? Meets::integers : Meets::floats;
    switch (kernels_.product(m.type, {.transposed = transposed, .halves = m.halves})) {
    case Product::integers: return Meets::integers;
    case Product::matrices: return Meets::halves;
    default: return Meets::floats;
    }
}

StepMatrix GpuModel::matrix(const GpuMatrix& m, host::Work work, bool transposed) const
{
    if (m.rows == 0) return {};
    const uint32_t block = format_of(m.type).block;
    return {.type = m.type,
            .rows = m.rows,
            .cols = m.cols,
            .bytes = m.row_bytes,
            .block = block,
            .block_bytes = uint32_t(device_bytes(values_of(m.type), block)),
            .padding = 16,
            .meets = meets(m, work, transposed)};
}

LayerShape GpuModel::shape(uint32_t l, host::Work work, bool one_row, host::KvTypes kv) const
{
    const Layer& w = layers_[l];
    LayerShape shape = {.q = matrix(w.q, work),
                        .k = matrix(w.k, work),
                        .v = matrix(w.v, work),
                        .o = matrix(w.o, work),
                        .router = matrix(w.router, work),
                        .fc1 = matrix(w.fc1, work),
                        .fc2 = matrix(w.fc2, work),
                        .sign_bytes = w.signs.bytes,
                        .position_bytes = KvPool::position_bytes(config(), kv),
                        .window = w.window};
    if (one_row && w.qkv.rows > 0) shape.q.meets = shape.k.meets = shape.v.meets = meets(w.qkv, work, false);
    return with_block(shape, w, work);
}

LayerShape GpuModel::with_block(LayerShape shape, const GpuFfn& block, host::Work work) const
{
    shape.gate = matrix(block.gate, work);
    shape.up = matrix(block.up, work);
    shape.down_by_rows = block.down.rows > 0;
    shape.down = shape.down_by_rows ? matrix(block.down, work) : matrix(block.down_t, work, true);
    return shape;
}

StepMatrix GpuModel::shape_of_head(host::Work work) const { return matrix(head_, work); }

uint32_t GpuModel::join_form() const
{
    if (config().layer_norm) return gpu::join_layer_norm;
    return weights_.layers[0].post_ffn_norm.empty() ? gpu::join_rms : gpu::join_post_norm;
}

uint64_t GpuModel::group_bytes(uint32_t l) const
{
    const Layer& layer = layers_[l];
    uint64_t bytes = config().experts ? sizeof(uint32_t) : 0;
    for (const GpuMatrix* m : {&layer.gate, &layer.up, &layer.down_t, &layer.bias})
        bytes += m->RowLayout::bytes(group_neurons);
    return bytes;
}

namespace {

/// The rows of some neurons, of one group or fewer; up to a whole group, zeros. Returns what comes behind them.
std::byte* lay_out_neurons(const Matrix& m, const RowLayout& layout, std::span<const uint32_t> neurons, std::byte* to)
{
    uint64_t rows[group_neurons];
    for (uint32_t i = 0; i < group_neurons; ++i) rows[i] = i < neurons.size() ? neurons[i] : m.rows;
    const uint32_t unit = layout.unit();
    for (uint32_t i = 0; i < group_neurons; i += unit, to += layout.unit_bytes())
        lay_out_unit(m, layout, std::span(rows).subspan(i, unit), to);
    return to;
}

/// Each matrix of the host's with a row for each neuron, and the device's.
auto by_neurons(const host::FfnWeights& w, const GpuFfn& block)
{
    return std::array{std::pair(&w.gate, &block.gate), std::pair(&w.up, &block.up), std::pair(&w.down_t, &block.down_t),
                      std::pair(&w.bias, &block.bias)};
}

}    // namespace

void GpuModel::lay_out_group(uint32_t l, uint32_t group, std::byte* to) const
{
    const Layer& layer = layers_[l];
    for (const auto& [m, layout] : by_neurons(weights_.layers[l].ffn, layer))
        if (m->rows > 0) to = lay_out_neurons(*m, *layout, layer.residency.group(group), to);
    if (config().experts == 0) return;
    const uint32_t expert = layer.residency.expert_of(group, config().experts);
    std::memcpy(to, &expert, sizeof expert);
}

uint64_t GpuFfn::bytes() const
{
    uint64_t sum = aligned(group_experts.bytes);
    for (const GpuMatrix* m : {&gate, &up, &down_t, &down, &bias}) sum += aligned(m->bytes());
    return sum;
}

uint32_t GpuModel::together(uint32_t l) const
{
    const Matrix& down = weights_.layers[l].ffn.down;
    return down.rows > 0 ? std::max(format_of(down.type).block, group_neurons) / group_neurons : 1;
}

GpuFfn GpuModel::cold_block(uint32_t l, uint32_t first, uint32_t count, const Slice& memory) const
{
    const Layer& layer = layers_[l];
    const host::FfnWeights& w = weights_.layers[l].ffn;
    uint64_t at = 0;
    const auto take = [&](uint64_t bytes) {
        const Slice part = memory.part(at, bytes);
        at += aligned(bytes);
        return part;
    };
    const auto place = [&](const RowLayout& layout, uint32_t rows, uint32_t cols) {
        GpuMatrix m = {layout, rows, cols};
        m.row_bytes = m.bytes();
        m.memory = take(m.bytes());
        return m;
    };
    const auto of_groups = [&](const Matrix& m, const GpuMatrix& resident) {
        GpuMatrix cold = m.rows > 0 ? place(resident, count * group_neurons, m.cols) : GpuMatrix();
        cold.halves = resident.halves;
        return cold;
    };
    GpuFfn block = {.gate = of_groups(w.gate, layer.gate),
                    .up = of_groups(w.up, layer.up),
                    .down_t = of_groups(w.down_t, layer.down_t),
                    .down = {},
                    .bias = of_groups(w.bias, layer.bias),
                    .group_experts = {}};
    if (w.down.rows > 0) {
        const uint32_t cols =
            std::min(count * group_neurons, w.down.cols - layer.residency.cold_groups()[first] * group_neurons);
        block.down = place({w.down.type, row_quads(w.down.type, cols)}, w.down.rows, cols);
        block.down.halves = layer.down.halves;
    }
    if (config().experts) block.group_experts = take(count * sizeof(uint32_t));
    return block;
}

void GpuModel::lay_out(uint32_t l, uint32_t first, const GpuFfn& block, host::Team& team) const
{
    const LayerResidency& residency = layers_[l].residency;
    const host::FfnWeights& w = weights_.layers[l].ffn;
    const std::span<const uint32_t> groups = residency.cold_groups().subspan(first, block.gate.rows / group_neurons);
    const auto in = [](const Slice& memory, uint64_t offset) {
        return static_cast<std::byte*>(memory.mapped) + offset;
    };
    host::parallel_rows(team, uint32_t(groups.size()), group_bytes(l), [&](uint32_t from, uint32_t end) {
        for (uint32_t g = from; g < end; ++g) {
            for (const auto& [m, to] : by_neurons(w, block))
                if (m->rows > 0)
                    lay_out_neurons(*m, *to, residency.group(groups[g]),
                                    in(to->memory, g * to->RowLayout::bytes(group_neurons)));
            if (config().experts == 0) continue;
            const uint32_t expert = residency.expert_of(groups[g], config().experts);
            std::memcpy(in(block.group_experts, g * sizeof expert), &expert, sizeof expert);
        }
    });
    if (w.down.rows == 0) return;
    // Its columns are the groups' in the file's order: nothing else is planned where all neurons are as good as each
    // other.
    for (size_t g = 0; g < groups.size(); ++g) HEARTH_CHECK(groups[g] == groups[0] + g);
    const Matrix columns = w.down.columns(groups[0] * group_neurons, block.down.cols);
    host::parallel_rows(team, columns.rows, block.down.unit_bytes(), [&](uint32_t from, uint32_t end) {
        for (uint32_t r = from; r < end; ++r)
            lay_out_row(columns.type, columns.row(r), columns.cols, in(block.down.memory, r * block.down.unit_bytes()));
    });
}

namespace {

/// Of the rows of m for the neurons whose bit in `which` is set.
uint64_t bytes_of_rows(const Matrix& m, const GpuMatrix& on_device, std::span<const uint32_t> neurons, uint32_t which)
{
    if (!is_sparse(on_device.type)) return uint32_t(std::popcount(which)) * on_device.unit_bytes();
    uint64_t bytes = 0;
    for (; which != 0; which &= which - 1) bytes += m.row_bytes(neurons[uint32_t(std::countr_zero(which))]);
    return bytes;
}

}    // namespace

void GpuModel::put(uint32_t l, uint32_t slot, uint32_t group)
{
    Layer& layer = layers_[l];
    const host::FfnWeights& w = weights_.layers[l].ffn;
    const auto bytes_of = [&](const Matrix& m, const GpuMatrix& on_device, uint32_t g) {
        const std::span<const uint32_t> neurons = layer.residency.group(g);
        return bytes_of_rows(m, on_device, neurons, ~0u >> (group_neurons - neurons.size()));
    };
    for (const auto& [m, on_device] : {std::pair(&w.gate, &layer.gate), {&w.up, &layer.up}, {&w.down_t, &layer.down_t}})
        if (is_sparse(on_device->type))
            on_device->row_bytes +=
                bytes_of(*m, *on_device, group) - bytes_of(*m, *on_device, layer.residency.slots()[slot]);
    layer.residency.put(slot, group);
}

GpuModel::FiredBytes GpuModel::fired_bytes(uint32_t l, uint32_t group, uint32_t fired) const
{
    const Layer& layer = layers_[l];
    const host::FfnWeights& w = weights_.layers[l].ffn;
    const std::span<const uint32_t> neurons = layer.residency.group(group);
    return {bytes_of_rows(w.up, layer.up, neurons, fired), bytes_of_rows(w.down_t, layer.down_t, neurons, fired)};
}

}    // namespace hearth
