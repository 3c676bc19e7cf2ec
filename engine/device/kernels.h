// The kernels of a model, and which way each of its matrices is gone over.
#pragma once

#include "engine/model/weights.h"
#include "engine/plan/machine.h"
#include "engine/plan/steps.h"
#include "engine/device/layout.h"
#include "engine/vulkan/commands.h"
#include "host/attention.h"

#include <array>
#include <map>

namespace hearth {

/// Heads that share keys, and tokens, that a workgroup of attention does at once: as many as fit into its memory, so
/// that keys and values are read once for all of them.
struct AttendTile {
    uint32_t heads = 1, tokens = 1;
    uint32_t rows = 0;    // of the kernel for prompts, which has room for so many heads of tokens; 0: the other one
    uint32_t head_dim = 0;
};
AttendTile attend_tile(const vulkan::DeviceInfo& device, const Config& config, bool decode);

/// Workgroups that can share the positions of one tile at decode.
uint32_t most_attend_splits(uint32_t context);

/// How rows are gone over where nobody has measured; and all ways that the device offers for rows of this type.
RowVariant usual_variant(const vulkan::Device& device, WeightType type);
std::vector<RowVariant> row_variants(const vulkan::Device& device, WeightType type);

/// What a product with many tokens is like, and may do.
struct ProductUse {
    bool transposed = false;
    bool halves = true;    // weights may be rounded to halves
    bool planes = true;    // those of x are there, or can be, of integers and of halves
};

/// Whether the device can multiply matrices of this type so.
bool offers(const vulkan::Device& device, Product product, WeightType type, const ProductUse& use);

/// Workgroups for the row kernels over `rows` rows and so many tokens, of which `together` (tokens_at_once) meet each
/// weight at once.
vulkan::Groups row_groups(uint32_t rows, const RowVariant& variant, uint32_t tokens = 1, uint32_t together = 1);

/// The kernels, compiled when first used, by the weight types that they read.
class GpuKernels {
  public:
    /// `tuned`: how rows are to be gone over, as far as this device can; `products`: how fast it multiplies in each of
    /// its ways.
    GpuKernels(const std::shared_ptr<vulkan::Device>& device, const Config& config, const RowVariants& tuned = {},
               const ProductRates& products = {});

    /// Whether the table of a format that has one lies in shared memory: see row.glsl. Of kernels not yet asked for.
    bool shares_tables;
    /// Whether tiles of many tokens are those for GCN, whose subgroups are all of 64: flat, so that its shared memory
    /// holds four of them. Likewise.
    bool flat_tiles;

    /// How the rows of a matrix are gone over.
    RowVariant variant(WeightType type, uint32_t rows, uint32_t cols) const;
    RowVariant variant(const GpuMatrix& m) const { return variant(m.type, m.rows, m.cols); }
    /// Whether they are met in integers, from the two planes of `quantise`.
    bool reads_planes(const GpuMatrix& m) const { return variant(m).int_dot; }

    /// `together`: tokens_at_once.
    const vulkan::Kernel<gpu::MatVec>& matvec(WeightType type, const RowVariant& variant, uint32_t together = 1);
    /// The fastest way for many tokens.
    Product product(WeightType type, const ProductUse& use) const;
    struct MatMul {
        const vulkan::Kernel<gpu::MatMul>& kernel;
        vulkan::Groups groups;
    };
    /// For so many rows, and tokens at the most.
    MatMul matmul(WeightType type, bool transposed, Product product, uint32_t rows, uint32_t tokens);
    /// What a workgroup makes.
    struct Tile {
        uint32_t rows, tokens, inner = 32;    // numbers of each that are in shared memory at once
    };
    Tile tile_of(Product product, uint32_t tokens) const;
    /// In floats if one of the types has no integers.
    const vulkan::Kernel<gpu::FfnUp>& ffn_up(WeightType gate, WeightType up, RowVariant variant, uint32_t together = 1);
    const vulkan::Kernel<gpu::FfnDown>& ffn_down(WeightType type);
    const vulkan::Kernel<gpu::Attend>& attend(AttendTile tile, host::KvTypes kv);
    /// Workgroups that do share them: always the same number, since what is recorded serves every position.
    uint32_t attend_splits(uint32_t tiles, uint32_t context) const;
    const vulkan::Kernel<gpu::Join> join;
    const vulkan::Kernel<gpu::Quantise> quantise;
    const vulkan::Kernel<gpu::Halve> halve;
    const vulkan::Kernel<gpu::Rope> rope;
    const vulkan::Kernel<gpu::Glu> glu;
    const vulkan::Kernel<gpu::PredictSign> predict_sign;
    const vulkan::Kernel<gpu::Threshold> threshold;
    const vulkan::Kernel<gpu::Route> route;
    const vulkan::Kernel<gpu::Best> best;

  private:
    /// What tells a kernel the format of its rows.
    uint32_t constant(WeightType type) const;

    std::shared_ptr<vulkan::Device> device_;
    uint32_t activation_;
    RowVariants tuned_;
    ProductRates products_;
    std::map<std::tuple<WeightType, RowVariant, uint32_t>, vulkan::Kernel<gpu::MatVec>> matvec_;
    std::map<std::tuple<WeightType, bool, Product, uint32_t>, vulkan::Kernel<gpu::MatMul>> matmul_;
    std::map<std::tuple<WeightType, WeightType, RowVariant, uint32_t>, vulkan::Kernel<gpu::FfnUp>> ffn_up_;
    std::map<WeightType, vulkan::Kernel<gpu::FfnDown>> ffn_down_;
    std::map<std::array<uint32_t, 6>, vulkan::Kernel<gpu::Attend>> attend_;
};

}    // namespace hearth
