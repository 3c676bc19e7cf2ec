#include "engine/run/gpu_model.h"

#include "host/predict.h"

#include <algorithm>
#include <cstring>

namespace hearth {

using vulkan::aligned;
using vulkan::Groups;
using vulkan::Kernel;
using vulkan::Slice;

namespace {

std::vector<float> joined(std::initializer_list<const std::vector<float>*> parts)
{
    std::vector<float> all;
    for (const std::vector<float>* part : parts) all.insert(all.end(), part->begin(), part->end());
    return all;
}

std::vector<float> qkv_bias(const LayerWeights& l) { return joined({&l.q_bias, &l.k_bias, &l.v_bias}); }
std::vector<float> head_norms(const LayerWeights& l) { return joined({&l.q_norm, &l.k_norm}); }

uint64_t matrix_bytes(const Matrix& m) { return uint64_t(m.rows) * row_quads(m.type, m.cols) * 16; }

}    // namespace

// ---- rows on the device ------------------------------------------------------------------------------------------------

uint32_t row_quads(WeightType type, uint32_t n) { return ceil_div(row_bytes(type, n), 16); }    // the layouts only reorder a row's bytes

uint32_t quad_weights(WeightType type)
{
    const WeightFormat& f = format_of(type);
    return is_quantised(type) ? 16 * f.block / (f.block_bytes - sizeof(uint16_t)) : 16 / f.block_bytes;
}

void lay_out_row(WeightType type, const std::byte* row, uint32_t n, std::byte* to)
{
    const uint64_t bytes = row_bytes(type, n);
    if (is_quantised(type)) {    // all quants, then all scales
        const WeightFormat& f = format_of(type);
        const uint32_t blocks = n / f.block, quants = f.block_bytes - sizeof(uint16_t);
        for (uint32_t b = 0; b < blocks; ++b) {
            std::memcpy(to + b * quants, row + b * f.block_bytes + sizeof(uint16_t), quants);
            std::memcpy(to + blocks * quants + b * sizeof(uint16_t), row + b * f.block_bytes, sizeof(uint16_t));
        }
    } else {
        std::memcpy(to, row, bytes);
    }
    std::memset(to + bytes, 0, row_quads(type, n) * 16 - bytes);
}

// ---- kernels -----------------------------------------------------------------------------------------------------------

GpuKernels::GpuKernels(std::shared_ptr<vulkan::Device> device, const Config& c)
    : join(device, "join", {std::clamp(ceil_div(c.dim, 512) * 128, 128u, std::min(512u, device->info().max_workgroup))}),
      quantise(device, "quantise"), rope(device, "rope"), attend(device, "attend", {c.head_dim}), glu(device, "glu", {uint32_t(c.activation)}),
      predict_sign(device, "predict_sign"), threshold(device, "threshold"), device_(device), activation_(uint32_t(c.activation))
{
    HEARTH_CHECK(c.head_dim <= gpu::rope_most_elements);
}

// Until a device's best number is measured: x costs a software device as much as the weights do, a GPU has it in the nearest cache.
uint32_t GpuKernels::rows_at_once() const { return device_->info().kind == vulkan::DeviceKind::software ? 4 : 1; }

bool GpuKernels::reads_planes(WeightType type) const { return is_quantised(type) && device_->features().int_dot; }

namespace {

template <class Key, class Args>
const Kernel<Args>& compiled(std::map<Key, Kernel<Args>>& kernels, const Key& key, const std::shared_ptr<vulkan::Device>& device, const char* name,
                             std::initializer_list<uint32_t> constants)
{
    const auto found = kernels.find(key);
    return found != kernels.end() ? found->second : kernels.emplace(key, Kernel<Args>(device, name, constants)).first->second;
}

}    // namespace

const Kernel<gpu::MatVec>& GpuKernels::matvec(WeightType type, bool planes)
{
    planes = planes && reads_planes(type);
    return compiled(matvec_, {type, planes}, device_, planes ? "matvec_idot" : "matvec", {uint32_t(type), 0, 0, rows_at_once()});
}

const Kernel<gpu::MatMul>& GpuKernels::matmul(WeightType type, bool transposed)
{
    // Halves hold normalised activations well, but what goes into the down projection may pass 65504.
    const bool halves = device_->features().fp16 && !transposed;
    return compiled(matmul_, {type, transposed}, device_, halves ? "matmul_f16" : "matmul", {uint32_t(type), transposed});
}

const Kernel<gpu::FfnUp>& GpuKernels::ffn_up(WeightType gate, WeightType up)
{
    const bool planes = reads_planes(gate) && reads_planes(up);
    return compiled(ffn_up_, {gate, up}, device_, planes ? "ffn_up_idot" : "ffn_up", {uint32_t(gate), uint32_t(up), activation_, rows_at_once()});
}

const Kernel<gpu::FfnDown>& GpuKernels::ffn_down(WeightType type) { return compiled(ffn_down_, type, device_, "ffn_down", {uint32_t(type)}); }

Groups GpuKernels::row_groups(uint32_t rows) const
{
    // Rows of a workgroup; kernels stride over what is left.
    const uint32_t at_once = 128 / device_->info().subgroup_size * rows_at_once();
    return {std::min(ceil_div(rows, at_once), 65535u)};
}

constexpr uint32_t sign_columns = 128;    // in a quad of sign bits

// ---- weights -----------------------------------------------------------------------------------------------------------

Needs GpuModel::needs(const Weights& weights, const std::vector<LayerSparsity>& sparsity)
{
    const Config& c = weights.config;
    Needs needs;
    for (const LayerWeights& l : weights.layers) {
        LayerNeeds n;
        n.attention = 2 * aligned(c.dim * sizeof(float));
        for (const std::vector<float>& x : {qkv_bias(l), head_norms(l)}) n.attention += aligned(x.size() * sizeof(float));
        for (const Matrix* m : {&l.q, &l.k, &l.v, &l.o}) n.attention += aligned(matrix_bytes(*m));
        for (const Matrix* m : {&l.ffn.gate, &l.ffn.up, &l.ffn.down_t}) n.group += uint64_t(group_neurons) * row_quads(m->type, m->cols) * 16;
        n.groups = ceil_div(c.neurons, group_neurons);
        const uint64_t all = uint64_t(n.groups) * group_neurons;
        switch (sparsity[needs.layers.size()].predictor) {
        case Predictor::none: break;
        case Predictor::sign: n.predictor = aligned(all * ceil_div(c.dim, sign_columns) * 16); break;
        case Predictor::lowrank: n.predictor = aligned(matrix_bytes(l.fc1)) + aligned(all * row_quads(l.fc2.type, l.fc2.cols) * 16); break;
        }
        needs.layers.push_back(n);
    }
    needs.head = aligned(c.dim * sizeof(float)) + aligned(matrix_bytes(weights.output));
    return needs;
}

namespace {

class WeightUpload {
  public:
    WeightUpload(std::shared_ptr<vulkan::Device> device, uint64_t total, const Progress& progress)
        : uploader_(device), total_(total), progress_(progress)
    {
    }

    Slice vector(vulkan::Pool& pool, const std::vector<float>& x)
    {
        if (x.empty()) return {};
        const Slice slice = pool.take(x.size() * sizeof(float));
        uploader_.upload(slice, 1, slice.bytes, [&](std::byte* to, uint64_t, uint64_t) { std::memcpy(to, x.data(), slice.bytes); });
        return slice;
    }

    /// Room for so many rows like those of m.
    GpuMatrix place(vulkan::Pool& pool, const Matrix& m, uint32_t rows)
    {
        GpuMatrix out = {.type = m.type, .rows = rows, .cols = m.cols, .stride = row_quads(m.type, m.cols), .memory = {}};
        if (rows > 0) out.memory = pool.take(out.bytes());
        return out;
    }

    static GpuMatrix rows_of(const GpuMatrix& m, uint32_t first, uint32_t rows)
    {
        GpuMatrix out = m;
        out.rows = rows;
        const uint64_t offset = uint64_t(first) * m.stride * 16;
        out.memory = {m.memory.buffer, m.memory.offset + offset, out.bytes(), m.memory.address + offset, nullptr};
        return out;
    }

    /// Rows source(0), source(1), ... of m; a row number past the end is a row of zeros.
    template <class Source>
    GpuMatrix matrix(vulkan::Pool& pool, const Matrix& m, uint32_t rows, Source&& source)
    {
        const GpuMatrix out = place(pool, m, rows);
        fill(out, m, source);
        return out;
    }

    template <class Source>
    void fill(const GpuMatrix& out, const Matrix& m, Source&& source)
    {
        if (out.rows == 0) return;
        const uint64_t row_size = uint64_t(out.stride) * 16;
        uploader_.upload(out.memory, out.rows, row_size, [&](std::byte* to, uint64_t first, uint64_t count) {
            for (uint64_t r = 0; r < count; ++r) {
                const uint64_t from = source(first + r);
                if (from < m.rows) lay_out_row(m.type, m.row(from), m.cols, to + r * row_size);
                else std::memset(to + r * row_size, 0, row_size);
            }
            done_ += count * row_size;
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
                    for (uint64_t i = 0; i < 2 && n < rows.rows() && 2 * q + i < rows.words(); ++i) words[i] = rows.row(n)[2 * q + i];
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
    uint64_t total_, done_ = 0;
    const Progress& progress_;
};

}    // namespace

GpuModel::GpuModel(std::shared_ptr<vulkan::Device> device, const Weights& weights, const ModelLayout& layout, host::Team& team,
                   const Progress& progress)
    : device_(device), weights_(weights), kernels_(device, weights.config)
{
    const Plan& plan = layout.plan;
    const Needs n = needs(weights, layout.sparsity);
    const auto layer_bytes = [&](size_t l) {
        const size_t resident = plan.layers[l].resident.size();
        return n.layers[l].attention + resident * n.layers[l].group + (resident < n.layers[l].groups ? n.layers[l].predictor : 0);
    };
    uint64_t total = plan.head ? n.head : 0;
    for (size_t l = 0; l < plan.layers.size(); ++l) total += layer_bytes(l);
    WeightUpload upload(device, total, progress);
    for (size_t l = 0; l < plan.layers.size(); ++l) {
        const LayerWeights& w = weights.layers[l];
        const std::vector<uint32_t>& resident = plan.layers[l].resident;
        vulkan::Pool& pool = pools_.emplace_back(device, layer_bytes(l), vulkan::Use::device, fmt::format("the weights of layer {}", l));
        const std::vector<uint32_t>& order = layout.orders[l];
        // Row `place` of the placement order; behind the last neuron, zeros.
        const auto placed = [&order](const Matrix& m, uint64_t place) { return place < order.size() ? uint64_t(order[place]) : m.rows; };
        const auto slots = [&](const Matrix& m) {
            return upload.matrix(pool, m, uint32_t(resident.size()) * group_neurons, [&](uint64_t slot_row) {
                return placed(m, uint64_t(resident[slot_row / group_neurons]) * group_neurons + slot_row % group_neurons);
            });
        };
        Layer layer = {.residency = {order, resident}};
        layer.attn_norm = upload.vector(pool, w.attn_norm);
        layer.ffn_norm = upload.vector(pool, w.ffn_norm);
        layer.qkv_bias = upload.vector(pool, qkv_bias(w));
        layer.head_norms = upload.vector(pool, head_norms(w));
        const bool alike = w.q.type == w.k.type && w.q.type == w.v.type;
        if (alike) layer.qkv = upload.place(pool, w.q, w.q.rows + w.k.rows + w.v.rows);
        uint32_t row = 0;    // of qkv
        for (const auto& [to, from] : {std::pair(&layer.q, &w.q), {&layer.k, &w.k}, {&layer.v, &w.v}}) {
            *to = alike ? upload.rows_of(layer.qkv, row, from->rows) : upload.place(pool, *from, from->rows);
            upload.fill(*to, *from, [](uint64_t r) { return r; });
            row += from->rows;
        }
        layer.o = upload.matrix(pool, w.o);
        layer.gate = slots(w.ffn.gate);
        layer.up = slots(w.ffn.up);
        layer.down = slots(w.ffn.down_t);
        const Predictor predictor = layer.split() ? layout.sparsity[l].predictor : Predictor::none;
        const uint32_t all = n.layers[l].groups * group_neurons;
        if (predictor == Predictor::sign) layer.signs = upload.signs(pool, host::SignRows(team, w.ffn.gate, order), all);
        if (predictor == Predictor::lowrank) {
            layer.fc1 = upload.matrix(pool, w.fc1);
            layer.fc2 = upload.matrix(pool, w.fc2, all, [&](uint64_t place) { return placed(w.fc2, place); });
            layer.predictor_threshold = w.predictor_threshold;
        }
        layers_.push_back(std::move(layer));
    }
    if (plan.head) {
        vulkan::Pool& pool = pools_.emplace_back(device, n.head, vulkan::Use::device, "the output matrix");
        output_norm_ = upload.vector(pool, weights.output_norm);
        head_ = upload.matrix(pool, weights.output);
    }
}

uint64_t GpuModel::group_bytes(uint32_t l) const
{
    const Layer& layer = layers_[l];
    return uint64_t(group_neurons) * 16 * (layer.gate.stride + layer.up.stride + layer.down.stride);
}

void GpuModel::lay_out_group(uint32_t l, uint32_t group, std::byte* to) const
{
    const host::FfnWeights& w = weights_.layers[l].ffn;
    const std::span<const uint32_t> neurons = layers_[l].residency.group(group);
    for (const Matrix* m : {&w.gate, &w.up, &w.down_t})
        for (uint32_t i = 0; i < group_neurons; ++i, to += row_quads(m->type, m->cols) * 16) {
            if (i < neurons.size()) lay_out_row(m->type, m->row(neurons[i]), m->cols, to);
            else std::memset(to, 0, row_quads(m->type, m->cols) * 16);
        }
}

}    // namespace hearth
