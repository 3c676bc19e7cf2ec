#include "engine/device/model.h"

#include "engine/device/kv_pool.h"
#include "host/linear.h"
#include "host/numbers.h"
#include "host/predict.h"
#include "host/sparse.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstring>
#include <optional>

namespace hearth {

using vulkan::aligned;
using vulkan::Slice;

namespace {

constexpr uint32_t sign_columns = 128;    // in a quad of sign bits

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
    return join_weight(w.output_norm, w.output_norm_bias, w.layers.back().down_bias, w.layers.back().post_ffn_norm);
}

std::vector<float> qkv_bias(const AttentionWeights& a) { return joined({&a.q_bias, &a.k_bias, &a.v_bias}); }
std::vector<float> head_norms(const AttentionWeights& a) { return joined({&a.q_norm, &a.k_norm}); }

uint64_t matrix_bytes(const Matrix& m) { return layout_of(m).bytes(m.rows); }

}    // namespace

namespace {

/// One layout for q, k and v, where they can be one matrix.
std::optional<RowLayout> layout_of_qkv(const AttentionWeights& w)
{
    RowLayout all = layout_of(w.q);
    for (const Matrix* m : {&w.k, &w.v}) {
        const RowLayout own = layout_of(*m);
        if (own.type != all.type) return {};
        all.stride = std::max(all.stride, own.stride);
    }
    if (w.q.rows % all.unit() || w.k.rows % all.unit()) return {};
    return all;
}

}    // namespace

namespace {

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
    const Config& c = weights.config;
    Needs needs;
    needs.scratch = aligned(join_before_head(weights).size() * sizeof(float));    // of the join behind the last layer
    for (const LayerWeights& l : weights.layers) {
        LayerNeeds n;
        for (const std::vector<float>& x : {join_before_attention(weights, needs.layers.size()), join_before_ffn(l),
                                            qkv_bias(l.attention), head_norms(l.attention)})
            n.attention += aligned(x.size() * sizeof(float));
        const std::optional<RowLayout> qkv = layout_of_qkv(l.attention);
        for (const Matrix* m : {&l.attention.q, &l.attention.k, &l.attention.v})
            n.attention += aligned(qkv.value_or(layout_of(*m)).bytes(m->rows));
        for (const Matrix* m : {&l.attention.o, &l.router.scores}) n.attention += aligned(matrix_bytes(*m));
        for (const Matrix* m : {&l.ffn.gate, &l.ffn.up, &l.ffn.bias}) n.group += layout_of(*m).bytes(group_neurons);
        if (l.ffn.down.rows > 0) {
            // Whole blocks of every row: what so many columns take is counted group by group, and what fills up the
            // last quad of the rows once.
            const uint32_t block = std::max(format_of(l.ffn.down.type).block, group_neurons);
            n.together = block / group_neurons;
            n.group += ceil_div(uint64_t(c.dim) * device_bytes(l.ffn.down.type, block), n.together);
            n.attention += aligned(uint64_t(c.dim) * 16);
        } else n.group += layout_of(l.ffn.down_t).bytes(group_neurons);
        n.groups = ceil_div(c.neurons, group_neurons);
        if (c.experts) n.attention += aligned(n.groups * sizeof(uint32_t));    // slot_experts
        const uint64_t all = uint64_t(n.groups) * group_neurons, signs = all * ceil_div(c.dim, sign_columns) * 16;
        n.shape = expected_shape(l, uint32_t(all), signs);
        switch (sparsity[needs.layers.size()].predictor) {
        case Predictor::none: break;
        case Predictor::sign: n.predictor = aligned(signs); break;
        case Predictor::lowrank:
            n.predictor = aligned(matrix_bytes(l.fc1)) + aligned(layout_of(l.fc2).bytes(all));
            break;
        }
        needs.layers.push_back(n);
    }
    needs.head = aligned(matrix_bytes(weights.output));
    needs.output = expected_matrix(weights.output);
    return needs;
}

namespace {

class WeightUpload {
  public:
    WeightUpload(const std::shared_ptr<vulkan::Device>& device, host::Team& team, uint64_t total,
                 const Progress& progress)
        : uploader_(device), team_(team), total_(total), progress_(progress)
    {
    }

    template <class T>
    Slice vector(vulkan::Pool& pool, const std::vector<T>& x)
    {
        if (x.empty()) return {};
        const Slice slice = pool.take(x.size() * sizeof(T));
        uploader_.upload(slice, 1, slice.bytes,
                         [&](std::byte* to, uint64_t, uint64_t) { std::memcpy(to, x.data(), slice.bytes); });
        return slice;
    }

    /// Room for so many rows.
    GpuMatrix place(vulkan::Pool& pool, const RowLayout& layout, uint32_t rows, uint32_t cols)
    {
        GpuMatrix out = {layout, rows, cols, {}};
        if (rows > 0) out.memory = pool.take(out.bytes());
        return out;
    }

    /// Rows source(0), source(1), ... of m; a row number past the end is a row of zeros.
    template <class Source>
    GpuMatrix matrix(vulkan::Pool& pool, const Matrix& m, uint32_t rows, Source&& source)
    {
        GpuMatrix out = place(pool, layout_of(m), rows, m.cols);
        fill(out, m, source);
        return out;
    }

    template <class Source>
    void fill(GpuMatrix& out, const Matrix& m, Source&& source)
    {
        if (out.rows == 0) return;
        const uint64_t unit = out.unit(), size = out.unit_bytes();
        std::atomic<uint64_t> row_bytes = 0;
        uploader_.upload(out.memory, ceil_div(out.rows, unit), size,
                         [&](std::byte* to, uint64_t first, uint64_t count) {
                             host::parallel_rows(team_, uint32_t(count), size, [&](uint32_t from, uint32_t end) {
                                 uint64_t bytes = 0;
                                 std::vector<uint64_t> rows;
                                 for (uint64_t u = from; u < end; ++u) {
                                     rows.clear();
                                     for (uint64_t r = (first + u) * unit;
                                          r < std::min<uint64_t>((first + u + 1) * unit, out.rows); ++r)
                                         rows.push_back(source(r));
                                     bytes += lay_out_unit(m, out, rows, to + u * size);
                                 }
                                 row_bytes += bytes;
                             });
                             out.row_bytes = row_bytes;
                             done_ += count * size;
                             if (progress_) progress_(double(done_) / double(total_));
                         });
    }

    /// The layout of gpu::PredictSign, for `neurons` of which the last may have no row.
    Slice signs(vulkan::Pool& pool, const host::SignRows& rows, uint32_t neurons)
    {
        const uint32_t quads = ceil_div(rows.cols(), sign_columns);
        const Slice slice = pool.take(uint64_t(quads) * neurons * 16);
        uploader_.upload(slice, quads, uint64_t(neurons) * 16, [&](std::byte* to, uint64_t first, uint64_t count) {
            for (uint64_t q = first; q < first + count; ++q)
                for (uint32_t n = 0; n < neurons; ++n, to += 16) {
                    uint64_t words[2] = {};
                    for (uint64_t i = 0; i < 2 && n < rows.rows() && 2 * q + i < rows.words(); ++i)
                        words[i] = rows.row(n)[2 * q + i];
                    std::memcpy(to, words, sizeof words);
                }
        });
        return slice;
    }

    GpuMatrix matrix(vulkan::Pool& pool, const Matrix& m)
    {
        return matrix(pool, m, m.rows, [](uint64_t row) { return row; });
    }

  private:
    vulkan::Uploader uploader_;
    host::Team& team_;
    uint64_t total_, done_ = 0;
    const Progress& progress_;
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
    WeightUpload upload(device, team, total, progress);
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
        const std::vector<uint32_t>& order = layout.orders[l];
        // Row `place` of the placement order; behind the last neuron, zeros.
        const auto placed = [&order](const Matrix& m, uint64_t place) {
            return place < order.size() ? uint64_t(order[place]) : m.rows;
        };
        const auto slots = [&](const Matrix& m) {
            if (m.rows == 0) return GpuMatrix();
            return upload.matrix(pool, m, uint32_t(resident.size()) * group_neurons, [&](uint64_t slot_row) {
                return placed(m,
                              uint64_t(resident[slot_row / group_neurons]) * group_neurons + slot_row % group_neurons);
            });
        };
        Layer layer = {
            .window = w.attention.window, .window_rope = w.attention.window_rope, .residency = {order, resident}};
        layer.attn_norm = upload.vector(pool, join_before_attention(weights, l));
        layer.ffn_norm = upload.vector(pool, join_before_ffn(w));
        layer.qkv_bias = upload.vector(pool, qkv_bias(w.attention));
        layer.head_norms = upload.vector(pool, head_norms(w.attention));
        const std::optional<RowLayout> qkv = layout_of_qkv(w.attention);
        if (qkv)
            layer.qkv = upload.place(pool, *qkv, w.attention.q.rows + w.attention.k.rows + w.attention.v.rows,
                                     w.attention.q.cols);
        uint32_t row = 0;    // of qkv
        for (const auto& [to, from] :
             {std::pair(&layer.q, &w.attention.q), {&layer.k, &w.attention.k}, {&layer.v, &w.attention.v}}) {
            *to = qkv ? layer.qkv.part(row, from->rows) : upload.place(pool, layout_of(*from), from->rows, from->cols);
            upload.fill(*to, *from, [](uint64_t r) { return r; });
            judge(*to, *from);
            row += from->rows;
        }
        layer.o = upload.matrix(pool, w.attention.o);
        judge(layer.o, w.attention.o);
        layer.gate = slots(w.ffn.gate);
        layer.up = slots(w.ffn.up);
        layer.down_t = slots(w.ffn.down_t);
        if (w.ffn.down.rows > 0 && !resident.empty()) {
            // The first groups, in the file's order: nothing else is planned where all neurons are as good as each
            // other.
            for (size_t s = 0; s < resident.size(); ++s)
                HEARTH_CHECK(resident[s] == s && order[s * group_neurons] == s * group_neurons);
            layer.down = upload.matrix(
                pool, w.ffn.down.columns(0, std::min(uint32_t(resident.size()) * group_neurons, w.ffn.down.cols)));
        }
        if (!resident.empty() || layout.streams) {
            judge(layer.gate, w.ffn.gate);
            judge(layer.up, w.ffn.up);
            judge(layer.down_t, w.ffn.down_t, true);
            judge(layer.down, w.ffn.down);
        }
        layer.bias = slots(w.ffn.bias);
        if (weights.config.experts) {
            layer.router = upload.matrix(pool, w.router.scores);
            std::vector<uint32_t> experts(n.layers[l].groups);
            for (size_t s = 0; s < resident.size(); ++s)
                experts[s] = layer.residency.expert_of(resident[s], weights.config.experts);
            layer.group_experts = upload.vector(pool, experts);
        }
        const Predictor predictor = layer.split() ? layout.sparsity[l].predictor : Predictor::none;
        const uint32_t all = n.layers[l].groups * group_neurons;
        if (predictor == Predictor::sign)
            layer.signs = upload.signs(pool, host::SignRows(team, w.ffn.gate, order), all);
        if (predictor == Predictor::lowrank) {
            layer.fc1 = upload.matrix(pool, w.fc1);
            layer.fc2 = upload.matrix(pool, w.fc2, all, [&](uint64_t place) { return placed(w.fc2, place); });
            layer.predictor_threshold = w.predictor_threshold;
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

bool GpuModel::meets_integers(const GpuMatrix& m, host::Work work) const
{
    if (m.rows == 0) return false;
    return work == host::Work::few ? kernels_.reads_planes(m)
                                   : kernels_.product(m.type, {.halves = m.halves}) == Product::integers;
}

StepMatrix GpuModel::matrix(const GpuMatrix& m, host::Work work) const
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
            .integers = meets_integers(m, work)};
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
    if (one_row && w.qkv.rows > 0) shape.q.integers = shape.k.integers = shape.v.integers = meets_integers(w.qkv, work);
    return with_block(shape, w, work);
}

LayerShape GpuModel::with_block(LayerShape shape, const GpuFfn& block, host::Work work) const
{
    shape.gate = matrix(block.gate, work);
    shape.up = matrix(block.up, work);
    shape.down_by_rows = block.down.rows > 0;
    shape.down = matrix(shape.down_by_rows ? block.down : block.down_t, work);
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
