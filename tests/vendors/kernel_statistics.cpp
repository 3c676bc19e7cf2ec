// What a driver's compiler makes of every kernel: one line of JSON each, on standard output. Nothing is run, so that a
// driver without its GPU will do.
//
//     kernel_statistics DEVICE [FORMAT...]     an index or a part of a name, as of `hearth devices`
//
// With formats (q4_0) only what reads rows of them for one token, and the usual product with many, with the code that
// the chip gets.
//
// The kernels are those that engine/device/kernels.h offers for this device: every weight format, every product, every
// form of attention, rows gone over in the usual number of subgroups of the usual size.
#include "engine/device/kernels.h"
#include "engine/vulkan/spirv.h"

#include <nlohmann/json.hpp>

#include <cstdio>
#include <set>
#include <unistd.h>

using namespace hearth;

namespace {

/// What a turn of a kernel's main loop does, for an invocation.
struct Turn {
    double weight_bytes = 0;      // that it reads, of one token's kernels
    double products = 0;          // that it makes, of many tokens' kernels
    std::vector<double> trips;    // of the loops inside, in the order of the shader
};

/// Of two modules that differ in how they compute addresses a device has one, and both go by one name.
std::string without_addresses(std::string module)
{
    if (module.ends_with("_32")) module.resize(module.size() - 3);
    return module;
}

class Listing {
  public:
    Listing(std::shared_ptr<vulkan::Device> device, bool with_code) : device_(std::move(device)), with_code_(with_code)
    {
    }

    /// `variant`: what tells it from others of its module; may be empty.
    template <class Args>
    void add(const vulkan::Kernel<Args>& kernel, std::string_view variant = "", const Turn& turn = {})
    {
        const vulkan::Pipeline& pipeline = kernel.pipeline();
        const std::string module = without_addresses(pipeline.name());
        seen_.insert(module);
        const std::string name = fmt::format("{}{}{}", module, variant.empty() ? "" : " ", variant);
        nlohmann::json line = {{"kernel", name}, {"statistics", pipeline.statistics()}};
        if (with_code_) {
            line["code"] = pipeline.code();
            line["turn_bytes"] = turn.weight_bytes;
            line["turn_products"] = turn.products;
            line["trips"] = turn.trips;
        }
        std::puts(line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
    }

    /// Names of modules that were not added, though the device could run them.
    std::string missing() const
    {
        const vulkan::Features& able = device_->features();
        std::string names;
        for (unsigned i = 0; i < vulkan::spirv_module_count; ++i) {
            const std::string name = without_addresses(vulkan::spirv_modules[i].name);
            if (name.ends_with("_idot") && !able.int_dot) continue;
            if (name.ends_with("_f16") && !offers(*device_, Product::halves, WeightType::f16, {})) continue;
            if (name.ends_with("_coop") && !able.matrices) continue;
            if (!seen_.contains(name)) names += " " + name;
        }
        return names;
    }

  private:
    std::shared_ptr<vulkan::Device> device_;
    bool with_code_;
    std::set<std::string> seen_;
};

constexpr uint32_t many_rows = 4096, many_tokens = 512;

/// Of a product with many tokens: a step along the inner dimension.
Turn tile_turn(const GpuKernels& kernels, const vulkan::Kernel<gpu::MatMul>& kernel, Product product,
               const WeightFormat& format)
{
    const auto [rows, tokens, step] = kernels.tile_of(product, many_tokens);
    const double inner = step;
    const double lanes = kernel.pipeline().key().constants[4];
    Turn turn = {.products = rows * tokens * inner / lanes};
    if (product == Product::integers) {
        turn.trips = {rows * 2 / lanes, tokens * 2 / lanes};    // the tile of weights, that of x: 16 numbers at a time
    } else {
        const uint32_t low_bits = kernel_constant(format.type) >> FORMAT_LOW & 63;
        const double chunk = std::min(low_bits < 8 ? 32. : 128. / low_bits, inner);
        // The tile of weights; the tile of x where its rows are not of whole quads, which is seldom.
        turn.trips = {rows * inner / chunk / lanes, 0};
    }
    return turn;
}

void list_rows(Listing& listing, GpuKernels& kernels, const vulkan::Device& device, const WeightFormat& format,
               bool all)
{
    const RowVariant usual = usual_variant(device, format.type);
    const uint32_t low_bits = kernel_constant(format.type) >> FORMAT_LOW & 63;
    const double chunk_bytes = (low_bits < 8 ? 32. : 128. / low_bits) * format.block_bytes / format.block;
    for (const RowVariant& v : row_variants(device, format.type)) {
        if (v.subgroup != usual.subgroup || v.subgroups != usual.subgroups) continue;
        if (v.rows == usual.rows ? v.chunks != usual.chunks : !all) continue;
        const std::string variant = fmt::format("{} x{}", format.name, v.rows);
        const Turn turn = {.weight_bytes = v.rows * v.chunks * chunk_bytes};
        listing.add(kernels.matvec(format.type, v), variant, turn);
        listing.add(kernels.ffn_up(format.type, format.type, v), variant, turn);
    }
    listing.add(kernels.ffn_down(format.type), format.name, Turn{.weight_bytes = 2 * chunk_bytes});
    if (!all) {
        const Product product = kernels.product(format.type, {});
        const auto& kernel = kernels.matmul(format.type, false, product, many_rows, many_tokens).kernel;
        listing.add(kernel, format.name, tile_turn(kernels, kernel, product, format));
        return;
    }
    for (const uint32_t tokens : {2u, 8u}) {
        RowVariant v = usual;
        v.rows = 1;
        const std::string variant = fmt::format("{} x1, {} tokens", format.name, tokens);
        listing.add(kernels.matvec(format.type, v, tokens), variant);
        listing.add(kernels.ffn_up(format.type, format.type, v, tokens), variant);
    }
    for (const bool transposed : {false, true})
        for (const Product p : products)
            if (offers(device, p, format.type, {.transposed = transposed}))
                listing.add(kernels.matmul(format.type, transposed, p, many_rows, many_tokens).kernel,
                            fmt::format("{}{}", format.name, transposed ? " transposed" : ""));
}

const WeightFormat& format_named(std::string_view name)
{
    for (const WeightFormat& format : weight_formats)
        if (format.name == name) return format;
    throw Error("there is no weight format {}", name);
}

Config shape(uint32_t head_dim, uint32_t kv_heads = 8)
{
    Config c;
    c.dim = 4096;
    c.heads = 32;
    c.kv_heads = kv_heads;
    c.head_dim = c.rope_dim = head_dim;
    return c;
}

int list(std::string_view wanted, std::span<char*> formats)
{
    const bool with_code = !formats.empty();
    std::string why_not;
    const auto instance = vulkan::Instance::open({}, why_not);
    if (!instance) throw Error("{}", why_not);
    const vulkan::DeviceChoice choice = vulkan::choose_device(instance->devices(), wanted);
    if (!choice.index) throw Error("{}", choice.reason);
    const vulkan::DeviceInfo& info = instance->devices()[*choice.index];
    const auto device = vulkan::Device::open(instance, info, info.features,
                                             with_code ? vulkan::Statistics::with_code : vulkan::Statistics::kept);
    std::puts(nlohmann::json{{"device", info.name}, {"driver", info.driver}}.dump().c_str());

    Listing listing(device, with_code);
    GpuKernels kernels(device, shape(128));
    if (with_code) {
        for (const std::string_view name : formats) list_rows(listing, kernels, *device, format_named(name), false);
        std::fflush(stdout);
        _exit(0);    // see below
    }
    for (const WeightFormat& format : weight_formats) list_rows(listing, kernels, *device, format, true);
    for (const WeightFormat& format : sparse_formats) list_rows(listing, kernels, *device, format, true);
    listing.add(kernels.join);
    listing.add(kernels.quantise);
    listing.add(kernels.halve);
    listing.add(kernels.rope);
    listing.add(kernels.glu);
    listing.add(kernels.predict_sign);
    listing.add(kernels.threshold);
    listing.add(kernels.route);
    listing.add(kernels.best);
    for (const uint32_t head_dim : {64u, 128u, 256u})
        for (const uint32_t kv_heads : {8u, 32u}) {
            const Config c = shape(head_dim, kv_heads);
            GpuKernels of_this_width(device, c);
            const AttendTile decode = attend_tile(info, c, true), prompt = attend_tile(info, c, false);
            for (const WeightType type : {WeightType::f16, WeightType::q8_0})
                for (const AttendTile& tile : {decode, prompt})
                    listing.add(of_this_width.attend(tile, {type, type}),
                                fmt::format("{} of {}, {} heads x {} tokens", format_of(type).name, head_dim,
                                            tile.heads, tile.tokens));
        }
    const std::string missing = listing.missing();
    if (!missing.empty()) throw Error("tests/vendors/kernel_statistics.cpp leaves out:{}", missing);
    // Mesa 22.3.6 crashes where a device without hardware is destroyed.
    std::fflush(stdout);
    _exit(0);
}

}    // namespace

int main(int count, char** arguments)
{
    try {
        if (count < 2) throw Error("usage: kernel_statistics DEVICE [FORMAT...]");
        return list(arguments[1], std::span(arguments + 2, arguments + count));
    } catch (const std::exception& e) {
        fmt::print(stderr, "kernel_statistics: {}\n", e.what());
        std::fflush(nullptr);
        _exit(1);
    }
}
