#include "engine/device/kernels.h"

#include <algorithm>
#include <bit>

namespace hearth {

using vulkan::Groups;
using vulkan::Kernel;

namespace {

constexpr uint32_t most_loads = 4;    // of chunks, by an invocation at a time

bool can_int_dot(const vulkan::Device& device, WeightType type)
{
    return is_quantised(type) && device.features().int_dot;
}

uint32_t low_bits(WeightType type) { return kernel_constant(type) >> FORMAT_LOW & 63; }

/// Whether a chunk of it takes more registers than one of Q4_0.
bool is_heavy(WeightType type)
{
    const uint32_t constant = kernel_constant(type), low = low_bits(type), high = constant >> FORMAT_HIGH & 3;
    return low < 16 && (low + high > 4 || (constant >> FORMAT_SCALED & 63) < 32);
}

/// Intel's GPUs, whose subgroups are small, have half of the registers for each invocation.
bool has_few_registers(const vulkan::DeviceInfo& info)
{
    return info.kind != vulkan::DeviceKind::software && info.min_subgroup_size < 32;
}

/// Whether the device can run it on rows of some type. A neuron's slot is a multiple of `rows`.
bool offers(const vulkan::Device& device, const RowVariant& v)
{
    const vulkan::DeviceInfo& info = device.info();
    const bool size = v.subgroup == info.subgroup_size || std::ranges::count(info.subgroup_sizes, v.subgroup) > 0;
    const uint32_t most_rows = has_few_registers(info) ? 2 : most_loads;
    const bool loads = v.rows > 0 && v.rows <= most_rows && v.chunks > 0 && v.rows * v.chunks <= most_loads;
    return size && loads && v.subgroups > 0 && v.subgroups <= info.max_subgroups &&
           v.subgroups * v.subgroup <= info.max_workgroup && v.rows <= v.subgroup && gpu::slot_neurons % v.rows == 0;
}

// What is tried of each property. More rows at once share x, but there are fewer subgroups; a workgroup of one has
// nobody to wait for.
constexpr uint32_t tried_rows[] = {1, 2, 4}, tried_subgroups[] = {1, 4, 16}, tried_chunks[] = {1, 2, 4};

/// Chunks of a row under way together for so many rows (or tokens, which take registers as rows do). A software device
/// has no memory to wait for.
uint32_t usual_chunks(const vulkan::Device& device, WeightType type, uint32_t rows)
{
    if (device.info().kind == vulkan::DeviceKind::software || is_sparse(type)) return 1;
    const bool few_weights = low_bits(type) >= 8;    // in a chunk, so that x takes little
    return std::max((few_weights ? 4u : 2u) / rows, 1u);
}

}    // namespace

RowVariant usual_variant(const vulkan::Device& device, WeightType type)
{
    // x costs a software device as much as the weights do, a GPU has it in the nearest cache. Intel's needs many
    // instructions for an address, and a quad of halves meets two of x.
    const vulkan::DeviceInfo& info = device.info();
    uint32_t rows = info.kind == vulkan::DeviceKind::software ? 4 : 1;
    if (has_few_registers(info) && low_bits(type) >= 16 && !is_sparse(type)) rows = 2;
    return {.subgroup = info.subgroup_size,
            .subgroups = 128 / info.subgroup_size,
            .rows = rows,
            .int_dot = can_int_dot(device, type),
            .chunks = usual_chunks(device, type, rows)};
}

std::vector<RowVariant> row_variants(const vulkan::Device& device, WeightType type)
{
    const RowVariant usual = usual_variant(device, type);
    std::vector<uint32_t> sizes = device.info().subgroup_sizes,
                          counts(std::begin(tried_subgroups), std::end(tried_subgroups));
    if (sizes.empty()) sizes.push_back(usual.subgroup);
    if (!std::ranges::count(counts, usual.subgroups)) counts.push_back(usual.subgroups);
    std::vector<RowVariant> variants;
    for (const bool int_dot : {false, true})
        for (const uint32_t rows : tried_rows)
            for (const uint32_t subgroups : counts)
                for (const uint32_t subgroup : sizes) {
                    RowVariant v = {subgroup, subgroups, rows, int_dot, usual_chunks(device, type, rows)};
                    if (!offers(device, v) || (int_dot && !can_int_dot(device, type))) continue;
                    variants.push_back(v);
                    // Other numbers of chunks only where the rest is usual.
                    if (subgroups != usual.subgroups || subgroup != usual.subgroup || rows > 1 || is_sparse(type))
                        continue;
                    for (const uint32_t chunks : tried_chunks)
                        if (chunks != usual.chunks) {
                            v.chunks = chunks;
                            variants.push_back(v);
                        }
                }
    return variants;
}

/// Fewer rows where several tokens meet each of them.
static RowVariant narrowed(RowVariant v, uint32_t together)
{
    v.rows = std::min(v.rows, std::max(most_sums / together, 1u));
    v.chunks = std::max(v.chunks / together, 1u);
    return v;
}

/// The variant as it is compiled: with many sums in small subgroups where a device has registers for no others. Of more
/// bits than four, or with a scale for 16 weights, two are many.
static RowVariant fitted(const vulkan::Device& device, WeightType type, RowVariant v, uint32_t together)
{
    v = narrowed(v, together);
    const vulkan::DeviceInfo& info = device.info();
    const uint32_t most = is_heavy(type) ? 1 : 2;
    if (info.heavy_subgroup_size < info.subgroup_size && v.rows * together > most)
        v.subgroup = std::min(v.subgroup, info.heavy_subgroup_size);
    return v;
}

Groups row_groups(uint32_t rows, const RowVariant& variant, uint32_t tokens, uint32_t together)
{
    const uint32_t of_workgroup = variant.subgroups * narrowed(variant, together).rows;
    return {std::min(ceil_div(rows, of_workgroup), 65535u),    // kernels stride over what is left
            ceil_div(tokens, together)};
}

GpuKernels::GpuKernels(const std::shared_ptr<vulkan::Device>& device, const Config& c, const RowVariants& tuned,
                       const ProductRates& products)
    : shares_tables(device->info().kind != vulkan::DeviceKind::software),
      flat_tiles(device->info().min_subgroup_size == 64),
      join(device, "join",
           {std::clamp(ceil_div(c.dim, 512) * 128, 128u, std::min(512u, device->info().max_workgroup))}),
      quantise(device, "quantise", {}, device->info().heavy_subgroup_size), halve(device, "halve"),
      rope(device, "rope"), glu(device, "glu", {uint32_t(c.activation)}), predict_sign(device, "predict_sign"),
      threshold(device, "threshold"), route(device, "route"), best(device, "best"), device_(device),
      activation_(uint32_t(c.activation)), tuned_(tuned), products_(products)
{
    static_assert(gpu::slot_neurons == group_neurons && expert_unit % group_neurons == 0 &&
                  host::most_experts <= gpu::route_most_experts);
    HEARTH_CHECK(c.head_dim <= gpu::rope_most_elements);
}

uint32_t GpuKernels::constant(WeightType type) const
{
    return kernel_constant(type) | (shares_tables ? FORMAT_TABLE_SHARED : 0);
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
const Kernel<Args>& compiled(std::map<Key, Kernel<Args>>& kernels, const Key& key,
                             const std::shared_ptr<vulkan::Device>& device, const std::string& name,
                             std::initializer_list<uint32_t> constants, uint32_t subgroup = 0)
{
    const auto found = kernels.find(key);
    return found != kernels.end() ? found->second
                                  : kernels.emplace(key, Kernel<Args>(device, name, constants, subgroup)).first->second;
}

/// The module of this name that the device can run.
std::string with_addresses(const vulkan::Device& device, const char* name)
{
    return device.features().int64 ? name : fmt::format("{}_32", name);
}

/// The same of a kernel whose workgroups read what lies near one address, which is more work than an index where
/// offsets are not added as they load.
std::string with_near_addresses(const vulkan::Device& device, const char* name)
{
    return device.info().adds_offsets ? with_addresses(device, name) : fmt::format("{}_32", name);
}

/// Rates of products where nobody has measured. On GCN each weight would cost an instruction to be made a half.
std::array<double, std::size(products)> usual_rates(const vulkan::DeviceInfo& info)
{
    auto rates = usual_products;
    if (info.min_subgroup_size == 64) rates[size_t(Product::halves)] = 0;
    return rates;
}

}    // namespace

const Kernel<gpu::MatVec>& GpuKernels::matvec(WeightType type, const RowVariant& variant, uint32_t together)
{
    const RowVariant v = fitted(*device_, type, variant, together);
    return compiled(matvec_, {type, v, together}, device_,
                    with_addresses(*device_, v.int_dot ? "matvec_idot" : "matvec"),
                    {constant(type), 0, 0, v.rows, v.subgroups * v.subgroup, together, v.chunks}, v.subgroup);
}

bool offers(const vulkan::Device& device, Product product, WeightType type, const ProductUse& use)
{
    const bool halves = use.halves || values_of(type) == WeightType::f16;    // which are what they are
    switch (product) {
    case Product::floats: return true;
    case Product::halves:
        // Intel's has no instruction that takes a half beside floats: each would cost one to be made a float.
        return device.features().fp16 && halves && !has_few_registers(device.info());
    case Product::integers:
        return can_int_dot(device, type) && use.planes &&
               !use.transposed;    // else every weight of a sum has another scale
    case Product::matrices: return device.features().matrices && halves && use.planes && type != WeightType::f32;
    }
    return false;
}

Product GpuKernels::product(WeightType type, const ProductUse& use) const
{
    const auto& measured = products_[format_number(type)];
    const auto rates = std::ranges::max(measured) > 0 ? measured : usual_rates(device_->info());
    Product best = Product::floats;
    for (const Product p : products)
        if (offers(*device_, p, type, use) && rates[size_t(p)] > rates[size_t(best)]) best = p;
    return best;
}

GpuKernels::MatMul GpuKernels::matmul(WeightType type, bool transposed, Product product, uint32_t rows, uint32_t tokens)
{
    const Tile tile = tile_of(product, tokens);
    const Groups groups = {ceil_div(rows, tile.rows), ceil_div(tokens, tile.tokens)};
    const std::tuple key(type, transposed, product, tile.tokens);
    const uint32_t smallest = device_->info().min_subgroup_size;
    if (product == Product::matrices) {
        const auto [m, n, k] = device_->info().matrix;
        return {compiled(matmul_, key, device_, with_near_addresses(*device_, "matmul_coop"),
                         {constant(type), transposed, m, 1, 4 * smallest, 1, 1, n, k, tile.rows / 2, tile.tokens / 2},
                         smallest),
                groups};
    }
    // An invocation makes eight rows times so many tokens: half as many on Intel's GPUs, which have half of the
    // registers for each.
    const bool small = smallest <= 16 && !flat_tiles, in_integers = product == Product::integers;
    const uint32_t each = in_integers ? (small ? 2 : 4) : small ? 4 : 8, lanes = tile.rows * tile.tokens / (8 * each);
    const std::string name = in_integers
                                 ? "matmul_idot"
                                 : with_near_addresses(*device_, product == Product::halves ? "matmul_f16" : "matmul");
    return {compiled(matmul_, key, device_, name,
                     {constant(type), transposed, each, 1, lanes, 1, 1, tile.rows, tile.inner},
                     device_->info().heavy_subgroup_size),
            groups};
}

GpuKernels::Tile GpuKernels::tile_of(Product product, uint32_t tokens) const
{
    const uint32_t smallest = device_->info().min_subgroup_size;
    if (product == Product::matrices) {
        // What four subgroups have registers for; Intel's, whose lanes are 16, for a quarter.
        if (smallest < 32) return {64, 32};
        return {128, tokens > 64 ? 128u : 64u};
    }
    if (flat_tiles && product != Product::integers) return {128, gpu::matmul_tile, 16};
    return {gpu::matmul_tile, gpu::matmul_tile};
}

const Kernel<gpu::FfnUp>& GpuKernels::ffn_up(WeightType gate, WeightType up, RowVariant v, uint32_t together)
{
    v = fitted(*device_, gate, v, together);
    if (device_->info().heavy_subgroup_size < v.subgroup && is_heavy(gate)) v.chunks = std::max(v.chunks / 2, 1u);
    v.int_dot = v.int_dot && is_quantised(gate) && is_quantised(up);
    return compiled(
        ffn_up_, {gate, up, v, together}, device_, with_addresses(*device_, v.int_dot ? "ffn_up_idot" : "ffn_up"),
        {constant(gate), constant(up), activation_, v.rows, v.subgroups * v.subgroup, together, v.chunks}, v.subgroup);
}

const Kernel<gpu::FfnDown>& GpuKernels::ffn_down(WeightType type)
{
    return compiled(ffn_down_, type, device_, "ffn_down", {constant(type)}, device_->info().heavy_subgroup_size);
}

const Kernel<gpu::Attend>& GpuKernels::attend(AttendTile tile, host::KvTypes kv)
{
    const uint32_t k = is_quantised(kv.k), v = is_quantised(kv.v), heavy = device_->info().heavy_subgroup_size;
    const std::array key = {tile.heads, tile.tokens, tile.rows, tile.head_dim, k, v};
    if (tile.rows == 0)
        return compiled(attend_, key, device_, "attend", {tile.head_dim, tile.heads, tile.tokens, k, v}, heavy);
    return compiled(attend_, key, device_, "attend_tile", {tile.head_dim, tile.heads, tile.tokens, k, v, tile.rows},
                    heavy);
}

AttendTile attend_tile(const vulkan::DeviceInfo& device, const Config& c, bool decode)
{
    const uint32_t sharing = c.heads / c.kv_heads;    // the same keys
    const auto heads_of = [&](uint32_t rows) {
        uint32_t heads = std::min(rows, sharing);
        while (sharing % heads != 0) --heads;
        return heads;
    };
    if (!decode && c.head_dim % 8 == 0) {
        // 32 sums over values in an invocation; half of them where it has half of the registers.
        const uint32_t numbers = device.min_subgroup_size <= 16 ? 2048 : 4096,
                       rows = std::clamp(std::bit_floor(numbers / c.head_dim), 8u, 32u), heads = heads_of(rows);
        return {heads, rows / heads, rows, c.head_dim};
    }
    // Each row is a register and a half of sums in every invocation, and a software device's compiler takes a second
    // for eight.
    constexpr uint32_t most_rows = 4, most_numbers = 1024;
    const uint32_t rows = std::clamp(most_numbers / c.head_dim, 1u, most_rows), heads = heads_of(rows);
    return {heads, decode ? 1 : rows / heads, 0, c.head_dim};
}

uint32_t most_attend_splits(uint32_t context)
{
    constexpr uint32_t most = 16;    // more would take long to add up
    return std::min(ceil_div(context, tile_positions), most);
}

uint32_t GpuKernels::attend_splits(uint32_t tiles, uint32_t context) const
{
    // Enough to fill a large GPU; a software device has few cores, and every workgroup costs it something.
    const uint32_t workgroups = device_->info().kind == vulkan::DeviceKind::software ? 4 : 128;
    return std::min(ceil_div(workgroups, tiles), most_attend_splits(context));
}

}    // namespace hearth
