#include "engine/run/gpu_model.h"

#include "host/kernels.h"
#include "host/linear.h"
#include "host/predict.h"
#include "host/sparse.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstring>
#include <numeric>
#include <optional>

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

/// As gpu::Join has it: the weight alone, or with the bias of a LayerNorm and what is added before it, or with the norm of what is added.
std::vector<float> join_weight(const std::vector<float>& weight, const std::vector<float>& bias, const std::vector<float>& addend,
                               const std::vector<float>& post)
{
    const std::vector<float> zeros(weight.size());
    if (!bias.empty()) return joined({&weight, &bias, addend.empty() ? &zeros : &addend});
    return joined({&weight, &post});
}

/// Each does what the matrix before it leaves to it: the bias and the norm of the last layer's down, of the layer's o, of the last layer's down. Before
/// the first layer there is nothing to normalise.
std::vector<float> join_before_attention(const Weights& w, size_t l)
{
    const LayerWeights &layer = w.layers[l], &last = w.layers[l > 0 ? l - 1 : 0];
    return join_weight(layer.attn_norm, layer.attn_norm_bias, l > 0 ? last.down_bias : std::vector<float>(), last.post_ffn_norm);
}
std::vector<float> join_before_ffn(const LayerWeights& l) { return join_weight(l.ffn_norm, l.ffn_norm_bias, l.o_bias, l.post_attn_norm); }
std::vector<float> join_before_head(const Weights& w)
{
    return join_weight(w.output_norm, w.output_norm_bias, w.layers.back().down_bias, w.layers.back().post_ffn_norm);
}

std::vector<float> qkv_bias(const LayerWeights& l) { return joined({&l.q_bias, &l.k_bias, &l.v_bias}); }
std::vector<float> head_norms(const LayerWeights& l) { return joined({&l.q_norm, &l.k_norm}); }

uint64_t matrix_bytes(const Matrix& m) { return layout_of(m).bytes(m.rows); }

}    // namespace

GpuMatrix GpuMatrix::part(uint32_t first, uint32_t count) const
{
    GpuMatrix out = *this;
    out.rows = count;
    const uint64_t offset = RowLayout::bytes(first);
    out.row_bytes = rows ? row_bytes * count / rows : 0;
    out.memory = {memory.buffer, memory.offset + offset, out.bytes(), memory.address + offset, nullptr};
    return out;
}

// ---- rows on the device ------------------------------------------------------------------------------------------------

namespace {

/// Where a block's scales lie in the file, and how many bytes each block's take on the device.
struct ScaleBytes {
    uint32_t offset = 0, bytes = 0, stride = bytes;
};

/// How row.glsl has a format with blocks: bits of an integer, low and high, and one or two runs of scales.
struct BlockLayout {
    WeightType type;
    uint32_t low, high;
    ScaleBytes scales[2];
    uint32_t ready = 0;    // where the file's block has the low bits as the device wants them; 0: nowhere
};

constexpr BlockLayout block_layouts[] = {
    {WeightType::q8_0, 8, 0, {{0, 2}}, offsetof(BlockQ8_0, q)},
    {WeightType::q4_0, 4, 0, {{0, 2}}, offsetof(BlockQ4_0, q)},
    {WeightType::q4_1, 4, 0, {{0, 4}}, offsetof(BlockQ4_1, q)},
    {WeightType::q5_0, 4, 1, {{0, 2}}},
    {WeightType::q5_1, 4, 1, {{0, 4}}},
    {WeightType::iq4_nl, 4, 0, {{0, 2}}, offsetof(BlockIQ4_NL, q)},
    {WeightType::mxfp4, 4, 0, {{0, 1}}, offsetof(BlockMXFP4, q)},
    {WeightType::q2_k, 2, 0, {{offsetof(BlockQ2_K, scale), 16}, {offsetof(BlockQ2_K, d), 4}}},
    {WeightType::q3_k, 2, 1, {{offsetof(BlockQ3_K, scale), 14, 16}}},
    {WeightType::q4_k, 4, 0, {{offsetof(BlockQ4_K, d), 16}}},
    {WeightType::q5_k, 4, 1, {{offsetof(BlockQ5_K, d), 16}}},
    {WeightType::q6_k, 4, 2, {{offsetof(BlockQ6_K, scale), 16}, {offsetof(BlockQ6_K, d), 2}}},
};

const BlockLayout& block_layout_of(WeightType type) { return *std::ranges::find(block_layouts, type, &BlockLayout::type); }

/// `bits` bits of each of 32 integers, from bit `shift` on, as row.glsl has them: four bytes at a time.
template <uint32_t bits>
void pack(const uint8_t* q, uint32_t shift, std::byte* to)
{
    constexpr uint32_t mask = 0x01010101u * ((1u << bits) - 1), words = 8 / bits;    // that share one
    uint32_t four[8];
    std::memcpy(four, q, sizeof four);
    for (uint32_t k = 0; k < bits; ++k) {
        uint32_t word = 0;
        for (uint32_t j = 0; j < words; ++j) word |= (four[bits == 4 ? k + 4 * j : words * k + j] >> shift & mask) << bits * j;
        std::memcpy(to + 4 * k, &word, sizeof word);
    }
}

void pack(const uint8_t* q, uint32_t bits, uint32_t shift, std::byte* to)
{
    switch (bits) {
    case 8: std::memcpy(to, q, 32); break;
    case 4: pack<4>(q, shift, to); break;
    case 2: pack<2>(q, shift, to); break;
    case 1: pack<1>(q, shift, to); break;
    }
}

/// The same bytes of so many blocks. Returns what comes behind them.
template <uint32_t bytes>
std::byte* copy_blocks(const std::byte* from, uint32_t step, uint32_t blocks, uint32_t stride, std::byte* to)
{
    for (; blocks > 0; --blocks, from += step, to += stride) std::memcpy(to, from, bytes);
    return to;
}

}    // namespace

namespace {

/// Of a row, before it is filled up.
uint64_t device_bytes(WeightType type, uint32_t n)
{
    if (!is_quantised(type)) return row_bytes(type, n);
    const BlockLayout& l = block_layout_of(type);
    return uint64_t(n) / 32 * 4 * (l.low + l.high) + uint64_t(n) / format_of(type).block * (l.scales[0].stride + l.scales[1].stride);
}

}    // namespace

uint32_t row_quads(WeightType type, uint32_t n) { return ceil_div(device_bytes(type, n), 16); }

static_assert(group_neurons % gpu::sparse_pack == 0);    // a slot has whole packs

RowLayout layout_of(const Matrix& m)
{
    const RowLayout dense = {values_of(m.type), row_quads(values_of(m.type), m.cols)};
    if (!is_sparse(m.type)) return dense;
    constexpr uint32_t pack = gpu::sparse_pack;
    std::vector<uint32_t> quads(std::max(m.rows, pack));
    for (uint32_t r = 0; r < m.rows; ++r) quads[r] = uint32_t(m.row_bytes(r) / 16);
    std::ranges::nth_element(quads, quads.begin() + (pack - 1), std::greater());
    // A pack takes whole slices, as 32 dense rows do, so that all slots together take as often as much as one.
    const uint64_t longest = std::accumulate(quads.begin(), quads.begin() + pack, uint64_t(pack * sizeof(uint32_t) / 16));
    const uint32_t stride = uint32_t(aligned(16 * longest) / 16);
    return stride < pack * dense.stride ? RowLayout{m.type, stride} : dense;
}

uint64_t lay_out_unit(const Matrix& m, const RowLayout& layout, std::span<const uint64_t> row_numbers, std::byte* to)
{
    if (!is_sparse(layout.type)) {
        const uint64_t r = row_numbers[0];
        std::vector<std::byte> dense;
        if (r < m.rows && is_sparse(m.type)) host::expand_row(m, r, (dense.resize(row_bytes(layout.type, m.cols)), dense.data()));
        if (r < m.rows) lay_out_row(layout.type, dense.empty() ? m.row(r) : dense.data(), m.cols, to);
        else std::memset(to, 0, layout.unit_bytes());
        return layout.unit_bytes();
    }
    uint32_t starts[gpu::sparse_pack];
    uint64_t at = sizeof starts;
    std::memset(to, 0, layout.unit_bytes());
    for (uint32_t i = 0; i < gpu::sparse_pack; ++i) {
        const uint64_t r = i < row_numbers.size() ? row_numbers[i] : m.rows;
        starts[i] = uint32_t(at / 16);
        if (r < m.rows) std::memcpy(to + at, m.row(r), m.row_bytes(r));
        at += r < m.rows ? m.row_bytes(r) : sparse_row_bytes(m.type, m.cols, 0);
    }
    HEARTH_CHECK(at <= layout.unit_bytes());
    std::memcpy(to, starts, sizeof starts);
    return at;
}

uint32_t chunk_weights(WeightType type)
{
    type = values_of(type);
    if (!is_quantised(type)) return 16 / format_of(type).block_bytes;
    return type == WeightType::q8_0 ? 16 : 32;
}

void lay_out_row(WeightType type, const std::byte* row, uint32_t n, std::byte* to)
{
    std::byte* const end = to + uint64_t(row_quads(type, n)) * 16;
    if (!is_quantised(type)) {
        const uint64_t bytes = row_bytes(type, n);
        std::memcpy(to, row, bytes);
        std::fill(to + bytes, end, std::byte(0));
        return;
    }
    const WeightFormat& f = format_of(type);
    const BlockLayout& l = block_layout_of(type);
    const auto integers = host::kernels().of(type).integers;
    std::byte *low = to, *high = to + n / 8 * l.low, *scales = high + n / 8 * l.high;
    std::fill(scales, end, std::byte(0));
    const auto copy_ready = l.low == 8 ? copy_blocks<32> : copy_blocks<16>;
    if (l.ready) copy_ready(row + l.ready, f.block_bytes, n / f.block, 4 * l.low, low);
    constexpr uint32_t span = 256;    // weights at a time; no format has larger blocks
    uint8_t q[span];
    for (uint32_t first = 0; first < n && !l.ready; first += span) {
        const uint32_t count = std::min(span, n - first);
        integers(row + row_bytes(type, first), q, count);
        for (uint32_t i = 0; i < count; i += 32, low += 4 * l.low, high += 4 * l.high) {
            pack(q + i, l.low, 0, low);
            pack(q + i, l.high, l.low, high);
        }
    }
    for (const ScaleBytes& s : l.scales) {
        const auto copy = s.bytes == 1    ? copy_blocks<1>
                          : s.bytes == 2  ? copy_blocks<2>
                          : s.bytes == 4  ? copy_blocks<4>
                          : s.bytes == 14 ? copy_blocks<14>
                                          : copy_blocks<16>;
        if (s.bytes > 0) scales = copy(row + s.offset, f.block_bytes, n / f.block, s.stride, scales);
    }
}

// ---- kernels -----------------------------------------------------------------------------------------------------------

namespace {

bool can_int_dot(const vulkan::Device& device, WeightType type) { return is_quantised(type) && device.features().int_dot; }

/// Whether the device can run it on rows of some type. A neuron's slot is a multiple of `rows`.
bool offers(const vulkan::Device& device, const RowVariant& v)
{
    const vulkan::DeviceInfo& info = device.info();
    const bool size = v.subgroup == info.subgroup_size || std::ranges::count(info.subgroup_sizes, v.subgroup) > 0;
    return size && v.subgroups > 0 && v.subgroups <= info.max_subgroups && v.subgroups * v.subgroup <= info.max_workgroup && v.rows > 0 &&
           v.rows <= v.subgroup && gpu::slot_neurons % v.rows == 0;
}

// What is tried of each property. More rows at once share x, but there are fewer subgroups; a workgroup of one has nobody to wait for.
constexpr uint32_t tried_rows[] = {1, 2, 4}, tried_subgroups[] = {1, 4, 16};

}    // namespace

RowVariant usual_variant(const vulkan::Device& device, WeightType type)
{
    // x costs a software device as much as the weights do, a GPU has it in the nearest cache.
    const vulkan::DeviceInfo& info = device.info();
    return {.subgroup = info.subgroup_size,
            .subgroups = 128 / info.subgroup_size,
            .rows = info.kind == vulkan::DeviceKind::software ? 4u : 1u,
            .int_dot = can_int_dot(device, type)};
}

std::vector<RowVariant> row_variants(const vulkan::Device& device, WeightType type)
{
    const RowVariant usual = usual_variant(device, type);
    std::vector<uint32_t> sizes = device.info().subgroup_sizes, counts(std::begin(tried_subgroups), std::end(tried_subgroups));
    if (sizes.empty()) sizes.push_back(usual.subgroup);
    if (!std::ranges::count(counts, usual.subgroups)) counts.push_back(usual.subgroups);
    std::vector<RowVariant> variants;
    for (const bool int_dot : {false, true})
        for (const uint32_t rows : tried_rows)
            for (const uint32_t subgroups : counts)
                for (const uint32_t subgroup : sizes) {
                    const RowVariant v = {subgroup, subgroups, rows, int_dot};
                    if (offers(device, v) && (!int_dot || can_int_dot(device, type))) variants.push_back(v);
                }
    return variants;
}

Groups row_groups(uint32_t rows, const RowVariant& variant)
{
    return {std::min(ceil_div(rows, variant.subgroups * variant.rows), 65535u)};    // kernels stride over what is left
}

GpuKernels::GpuKernels(std::shared_ptr<vulkan::Device> device, const Config& c, const RowVariants& tuned, const ProductRates& products)
    : join(device, "join", {std::clamp(ceil_div(c.dim, 512) * 128, 128u, std::min(512u, device->info().max_workgroup))}),
      quantise(device, "quantise"), rope(device, "rope"), glu(device, "glu", {uint32_t(c.activation)}), predict_sign(device, "predict_sign"),
      threshold(device, "threshold"), route(device, "route"), best(device, "best"), device_(device), activation_(uint32_t(c.activation)),
      head_dim_(c.head_dim), tuned_(tuned), products_(products)
{
    static_assert(gpu::slot_neurons == group_neurons && expert_unit % group_neurons == 0 && host::most_experts <= gpu::route_most_experts);
    HEARTH_CHECK(c.head_dim <= gpu::rope_most_elements);
}

RowVariant GpuKernels::variant(WeightType type, uint32_t rows, uint32_t cols) const
{
    const std::optional<RowVariant>& tuned = tuned_.of(type, rows, cols);
    RowVariant v = tuned && offers(*device_, *tuned) ? *tuned : usual_variant(*device_, type);
    v.int_dot = v.int_dot && can_int_dot(*device_, type);
    return v;
}

namespace {

template <class Key, class Args>
const Kernel<Args>& compiled(std::map<Key, Kernel<Args>>& kernels, const Key& key, const std::shared_ptr<vulkan::Device>& device, const char* name,
                             std::initializer_list<uint32_t> constants, uint32_t subgroup = 0)
{
    const auto found = kernels.find(key);
    return found != kernels.end() ? found->second : kernels.emplace(key, Kernel<Args>(device, name, constants, subgroup)).first->second;
}

}    // namespace

const Kernel<gpu::MatVec>& GpuKernels::matvec(WeightType type, const RowVariant& v)
{
    return compiled(matvec_, {type, v}, device_, v.int_dot ? "matvec_idot" : "matvec", {uint32_t(type), 0, 0, v.rows, v.subgroups * v.subgroup},
                    v.subgroup);
}

bool offers(const vulkan::Device& device, Product product, WeightType type, const ProductUse& use)
{
    const bool halves = use.halves || values_of(type) == WeightType::f16;    // which are what they are
    switch (product) {
    case Product::floats: return true;
    case Product::halves: return device.features().fp16 && halves;
    case Product::integers: return can_int_dot(device, type) && use.planes && !use.transposed;    // else every weight of a sum has another scale
    case Product::matrices: return device.features().matrices && halves;
    }
    return false;
}

Product GpuKernels::product(WeightType type, const ProductUse& use) const
{
    // Without figures, what is most likely fastest. Not cooperative matrices: some drivers name them and make errors, so they are for who has tuned.
    constexpr std::array<double, std::size(products)> usual = {1, 2, 3, 0};
    const auto& measured = products_[format_number(type)];
    const auto& rates = std::ranges::max(measured) > 0 ? measured : usual;
    Product best = Product::floats;
    for (const Product p : products)
        if (offers(*device_, p, type, use) && rates[size_t(p)] > rates[size_t(best)]) best = p;
    return best;
}

const Kernel<gpu::MatMul>& GpuKernels::matmul(WeightType type, bool transposed, Product product)
{
    const std::tuple key(type, transposed, product);
    switch (product) {
    case Product::floats: return compiled(matmul_, key, device_, "matmul", {uint32_t(type), transposed});
    case Product::halves: return compiled(matmul_, key, device_, "matmul_f16", {uint32_t(type), transposed});
    case Product::integers: return compiled(matmul_, key, device_, "matmul_idot", {uint32_t(type)});
    case Product::matrices: break;
    }
    const auto [m, n, k] = device_->info().matrix;
    const uint32_t subgroup = device_->info().subgroup_size;
    return compiled(matmul_, key, device_, "matmul_coop", {uint32_t(type), transposed, m, 1, 4 * subgroup, n, k}, subgroup);
}

const Kernel<gpu::FfnUp>& GpuKernels::ffn_up(WeightType gate, WeightType up, RowVariant v)
{
    v.int_dot = v.int_dot && is_quantised(gate) && is_quantised(up);
    return compiled(ffn_up_, {gate, up, v}, device_, v.int_dot ? "ffn_up_idot" : "ffn_up",
                    {uint32_t(gate), uint32_t(up), activation_, v.rows, v.subgroups * v.subgroup}, v.subgroup);
}

const Kernel<gpu::FfnDown>& GpuKernels::ffn_down(WeightType type) { return compiled(ffn_down_, type, device_, "ffn_down", {uint32_t(type)}); }

const Kernel<gpu::Attend>& GpuKernels::attend(AttendTile tile, host::KvTypes kv)
{
    const uint32_t k = is_quantised(kv.k), v = is_quantised(kv.v);
    return compiled(attend_, {tile.heads, tile.tokens, k, v}, device_, "attend", {head_dim_, tile.heads, tile.tokens, k, v});
}

AttendTile attend_tile(const Config& c, bool decode)
{
    // Each row is a register and a half of sums in every invocation, and a software device's compiler takes a second for eight.
    constexpr uint32_t most_rows = 4, most_numbers = 1024;
    const uint32_t rows = std::clamp(most_numbers / c.head_dim, 1u, most_rows);
    uint32_t heads = std::min(rows, c.heads / c.kv_heads);
    while (c.heads / c.kv_heads % heads != 0) --heads;
    return {heads, decode ? 1 : rows / heads};
}

uint32_t most_attend_splits(uint32_t context)
{
    constexpr uint32_t positions = 128, most = 16;    // that a workgroup takes at a time; more would take long to add up
    return std::min(ceil_div(context, positions), most);
}

uint32_t GpuKernels::attend_splits(uint32_t tiles, uint32_t context) const
{
    // Enough to fill a large GPU; a software device has few cores, and every workgroup costs it something.
    const uint32_t workgroups = device_->info().kind == vulkan::DeviceKind::software ? 4 : 128;
    return std::min(ceil_div(workgroups, tiles), most_attend_splits(context));
}

constexpr uint32_t sign_columns = 128;    // in a quad of sign bits

// ---- weights -----------------------------------------------------------------------------------------------------------

namespace {

/// One layout for q, k and v, where they can be one matrix.
std::optional<RowLayout> layout_of_qkv(const LayerWeights& w)
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

Needs GpuModel::needs(const Weights& weights, const std::vector<LayerSparsity>& sparsity)
{
    const Config& c = weights.config;
    Needs needs;
    needs.scratch = aligned(join_before_head(weights).size() * sizeof(float));    // of the join behind the last layer
    for (const LayerWeights& l : weights.layers) {
        LayerNeeds n;
        for (const std::vector<float>& x : {join_before_attention(weights, needs.layers.size()), join_before_ffn(l), qkv_bias(l), head_norms(l)})
            n.attention += aligned(x.size() * sizeof(float));
        const std::optional<RowLayout> qkv = layout_of_qkv(l);
        for (const Matrix* m : {&l.q, &l.k, &l.v}) n.attention += aligned(qkv.value_or(layout_of(*m)).bytes(m->rows));
        for (const Matrix* m : {&l.o, &l.router.scores}) n.attention += aligned(matrix_bytes(*m));
        for (const Matrix* m : {&l.ffn.gate, &l.ffn.up, &l.ffn.bias}) n.group += layout_of(*m).bytes(group_neurons);
        if (l.ffn.down.rows > 0) {
            // Whole blocks of every row: what so many columns take is counted group by group, and what fills up the last quad of the rows once.
            const uint32_t block = std::max(format_of(l.ffn.down.type).block, group_neurons);
            n.together = block / group_neurons;
            n.group += ceil_div(uint64_t(c.dim) * device_bytes(l.ffn.down.type, block), n.together);
            n.attention += aligned(uint64_t(c.dim) * 16);
        } else n.group += layout_of(l.ffn.down_t).bytes(group_neurons);
        n.groups = ceil_div(c.neurons, group_neurons);
        if (c.experts) n.attention += aligned(n.groups * sizeof(uint32_t));    // slot_experts
        const uint64_t all = uint64_t(n.groups) * group_neurons;
        switch (sparsity[needs.layers.size()].predictor) {
        case Predictor::none: break;
        case Predictor::sign: n.predictor = aligned(all * ceil_div(c.dim, sign_columns) * 16); break;
        case Predictor::lowrank: n.predictor = aligned(matrix_bytes(l.fc1)) + aligned(layout_of(l.fc2).bytes(all)); break;
        }
        needs.layers.push_back(n);
    }
    needs.head = aligned(matrix_bytes(weights.output));
    return needs;
}

namespace {

class WeightUpload {
  public:
    WeightUpload(std::shared_ptr<vulkan::Device> device, host::Team& team, uint64_t total, const Progress& progress)
        : uploader_(device), team_(team), total_(total), progress_(progress)
    {
    }

    template <class T>
    Slice vector(vulkan::Pool& pool, const std::vector<T>& x)
    {
        if (x.empty()) return {};
        const Slice slice = pool.take(x.size() * sizeof(T));
        uploader_.upload(slice, 1, slice.bytes, [&](std::byte* to, uint64_t, uint64_t) { std::memcpy(to, x.data(), slice.bytes); });
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
        uploader_.upload(out.memory, ceil_div(out.rows, unit), size, [&](std::byte* to, uint64_t first, uint64_t count) {
            host::parallel_rows(team_, uint32_t(count), size, [&](uint32_t from, uint32_t end) {
                uint64_t bytes = 0;
                std::vector<uint64_t> rows;
                for (uint64_t u = from; u < end; ++u) {
                    rows.clear();
                    for (uint64_t r = (first + u) * unit; r < std::min<uint64_t>((first + u + 1) * unit, out.rows); ++r) rows.push_back(source(r));
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
    host::Team& team_;
    uint64_t total_, done_ = 0;
    const Progress& progress_;
};

}    // namespace

GpuModel::GpuModel(std::shared_ptr<vulkan::Device> device, const Weights& weights, const ModelLayout& layout, host::Team& team,
                   const Progress& progress)
    : device_(device), weights_(weights), kernels_(device, weights.config, layout.row_variants, layout.products)
{
    const Plan& plan = layout.plan;
    const Needs n = needs(weights, layout.sparsity);
    const auto layer_bytes = [&](size_t l) {
        const size_t resident = plan.layers[l].resident.size();
        return n.layers[l].attention + resident * n.layers[l].group + (resident < n.layers[l].groups ? n.layers[l].predictor : 0);
    };
    uint64_t total = n.scratch + (plan.head ? n.head : 0);
    for (size_t l = 0; l < plan.layers.size(); ++l) total += layer_bytes(l);
    WeightUpload upload(device, team, total, progress);
    for (size_t l = 0; l < plan.layers.size(); ++l) {
        const LayerWeights& w = weights.layers[l];
        const std::vector<uint32_t>& resident = plan.layers[l].resident;
        vulkan::Pool& pool = pools_.emplace_back(device, layer_bytes(l), vulkan::Use::device, fmt::format("the weights of layer {}", l));
        const std::vector<uint32_t>& order = layout.orders[l];
        // Row `place` of the placement order; behind the last neuron, zeros.
        const auto placed = [&order](const Matrix& m, uint64_t place) { return place < order.size() ? uint64_t(order[place]) : m.rows; };
        const auto slots = [&](const Matrix& m) {
            if (m.rows == 0) return GpuMatrix();
            return upload.matrix(pool, m, uint32_t(resident.size()) * group_neurons, [&](uint64_t slot_row) {
                return placed(m, uint64_t(resident[slot_row / group_neurons]) * group_neurons + slot_row % group_neurons);
            });
        };
        Layer layer = {.window = w.window, .window_rope = w.window_rope, .residency = {order, resident}};
        layer.attn_norm = upload.vector(pool, join_before_attention(weights, l));
        layer.ffn_norm = upload.vector(pool, join_before_ffn(w));
        layer.qkv_bias = upload.vector(pool, qkv_bias(w));
        layer.head_norms = upload.vector(pool, head_norms(w));
        const std::optional<RowLayout> qkv = layout_of_qkv(w);
        if (qkv) layer.qkv = upload.place(pool, *qkv, w.q.rows + w.k.rows + w.v.rows, w.q.cols);
        uint32_t row = 0;    // of qkv
        for (const auto& [to, from] : {std::pair(&layer.q, &w.q), {&layer.k, &w.k}, {&layer.v, &w.v}}) {
            *to = qkv ? layer.qkv.part(row, from->rows) : upload.place(pool, layout_of(*from), from->rows, from->cols);
            upload.fill(*to, *from, [](uint64_t r) { return r; });
            row += from->rows;
        }
        layer.o = upload.matrix(pool, w.o);
        layer.gate = slots(w.ffn.gate);
        layer.up = slots(w.ffn.up);
        layer.down_t = slots(w.ffn.down_t);
        if (w.ffn.down.rows > 0 && !resident.empty()) {
            // The first groups, in the file's order: nothing else is planned where all neurons are as good as each other.
            for (size_t s = 0; s < resident.size(); ++s) HEARTH_CHECK(resident[s] == s && order[s * group_neurons] == s * group_neurons);
            layer.down = upload.matrix(pool, w.ffn.down.columns(0, std::min(uint32_t(resident.size()) * group_neurons, w.ffn.down.cols)));
        }
        layer.bias = slots(w.ffn.bias);
        if (weights.config.experts) {
            layer.router = upload.matrix(pool, w.router.scores);
            std::vector<uint32_t> experts(n.layers[l].groups);
            for (size_t s = 0; s < resident.size(); ++s) experts[s] = layer.residency.expert_of(resident[s], weights.config.experts);
            layer.group_experts = upload.vector(pool, experts);
        }
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
    const size_t next = plan.layers.size();
    vulkan::Pool& join_pool = pools_.emplace_back(device, n.scratch, vulkan::Use::device, "the last join");
    last_join_ = upload.vector(join_pool, next < weights.layers.size() ? join_before_attention(weights, next) : join_before_head(weights));
    if (plan.head) {
        vulkan::Pool& pool = pools_.emplace_back(device, n.head, vulkan::Use::device, "the output matrix");
        head_ = upload.matrix(pool, weights.output);
    }
}

uint32_t GpuModel::join_form() const
{
    if (config().layer_norm) return gpu::join_layer_norm;
    return weights_.layers[0].post_ffn_norm.empty() ? gpu::join_rms : gpu::join_post_norm;
}

uint64_t GpuModel::group_bytes(uint32_t l) const
{
    const Layer& layer = layers_[l];
    uint64_t bytes = config().experts ? sizeof(uint32_t) : 0;
    for (const GpuMatrix* m : {&layer.gate, &layer.up, &layer.down_t, &layer.bias}) bytes += m->RowLayout::bytes(group_neurons);
    return bytes;
}

namespace {

/// The rows of some neurons, of one group or fewer; up to a whole group, zeros. Returns what comes behind them.
std::byte* lay_out_neurons(const Matrix& m, const RowLayout& layout, std::span<const uint32_t> neurons, std::byte* to)
{
    uint64_t rows[group_neurons];
    for (uint32_t i = 0; i < group_neurons; ++i) rows[i] = i < neurons.size() ? neurons[i] : m.rows;
    const uint32_t unit = layout.unit();
    for (uint32_t i = 0; i < group_neurons; i += unit, to += layout.unit_bytes()) lay_out_unit(m, layout, std::span(rows).subspan(i, unit), to);
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
        Slice part = memory;
        part.offset += at;
        part.address += at;
        part.bytes = bytes;
        if (part.mapped) part.mapped = static_cast<std::byte*>(part.mapped) + at;
        at += aligned(bytes);
        return part;
    };
    const auto place = [&](const RowLayout& layout, uint32_t rows, uint32_t cols) {
        GpuMatrix m = {layout, rows, cols};
        m.row_bytes = m.bytes();
        m.memory = take(m.bytes());
        return m;
    };
    const auto of_groups = [&](const Matrix& m, const RowLayout& layout) {
        return m.rows > 0 ? place(layout, count * group_neurons, m.cols) : GpuMatrix();
    };
    GpuFfn block = {.gate = of_groups(w.gate, layer.gate),
                    .up = of_groups(w.up, layer.up),
                    .down_t = of_groups(w.down_t, layer.down_t),
                    .down = {},
                    .bias = of_groups(w.bias, layer.bias),
                    .group_experts = {}};
    if (w.down.rows > 0) {
        const uint32_t cols = std::min(count * group_neurons, w.down.cols - layer.residency.cold_groups()[first] * group_neurons);
        block.down = place({w.down.type, row_quads(w.down.type, cols)}, w.down.rows, cols);
    }
    if (config().experts) block.group_experts = take(count * sizeof(uint32_t));
    return block;
}

void GpuModel::lay_out(uint32_t l, uint32_t first, const GpuFfn& block, host::Team& team) const
{
    const LayerResidency& residency = layers_[l].residency;
    const host::FfnWeights& w = weights_.layers[l].ffn;
    const std::span<const uint32_t> groups = residency.cold_groups().subspan(first, block.gate.rows / group_neurons);
    const auto in = [](const Slice& memory, uint64_t offset) { return static_cast<std::byte*>(memory.mapped) + offset; };
    host::parallel_rows(team, uint32_t(groups.size()), group_bytes(l), [&](uint32_t from, uint32_t end) {
        for (uint32_t g = from; g < end; ++g) {
            for (const auto& [m, to] : by_neurons(w, block))
                if (m->rows > 0) lay_out_neurons(*m, *to, residency.group(groups[g]), in(to->memory, g * to->RowLayout::bytes(group_neurons)));
            if (config().experts == 0) continue;
            const uint32_t expert = residency.expert_of(groups[g], config().experts);
            std::memcpy(in(block.group_experts, g * sizeof expert), &expert, sizeof expert);
        }
    });
    if (w.down.rows == 0) return;
    // Its columns are the groups' in the file's order: nothing else is planned where all neurons are as good as each other.
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
            on_device->row_bytes += bytes_of(*m, *on_device, group) - bytes_of(*m, *on_device, layer.residency.slots()[slot]);
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
