// A model on the device: its weights and kernels.
#pragma once

#include "engine/model/weights.h"
#include "engine/plan/machine.h"
#include "engine/run/residency.h"
#include "engine/run/sparsity.h"
#include "engine/vulkan/commands.h"
#include "host/attention.h"

#include <array>
#include <functional>
#include <map>

namespace hearth {

/// How the rows of a matrix lie on the device: see shaders/row.glsl.
struct RowLayout {
    WeightType type = WeightType::f32;
    uint32_t stride = 0;    // uvec4 from row to row, of a sparse type from pack to pack

    /// Rows that are laid out together.
    uint32_t unit() const { return is_sparse(type) ? gpu::sparse_pack : 1; }
    uint64_t unit_bytes() const { return uint64_t(stride) * 16; }
    uint64_t bytes(uint64_t rows) const { return (rows + unit() - 1) / unit() * unit_bytes(); }
};

/// A matrix in device memory.
struct GpuMatrix : RowLayout {
    uint32_t rows = 0, cols = 0;
    vulkan::Slice memory;
    uint64_t row_bytes = 0;    // of all its rows alone: what reading them reads

    uint64_t bytes() const { return RowLayout::bytes(rows); }
    /// So many of its rows, from one that begins a unit; row_bytes in proportion.
    GpuMatrix part(uint32_t first, uint32_t count) const;
};

/// A sparse matrix stays one, with room in a pack for its longest rows, where that is less than its dense rows take; else it becomes dense.
RowLayout layout_of(const Matrix& m);

/// uvec4 that a row of n weights takes on the device.
uint32_t row_quads(WeightType type, uint32_t n);

/// Writes a unit of rows of m, of which row_numbers[i] is the number i; one that m does not have is a row of zeros. Returns the bytes of the rows alone.
uint64_t lay_out_unit(const Matrix& m, const RowLayout& layout, std::span<const uint64_t> row_numbers, std::byte* to);

/// Weights that an invocation reads at once; row.glsl knows the same.
uint32_t chunk_weights(WeightType type);

/// Writes a row as the file has it (row_bytes) to `to` as the device wants it (row_quads uvec4).
void lay_out_row(WeightType type, const std::byte* row, uint32_t n, std::byte* to);

/// Heads that share keys, and tokens, that a workgroup of attention does at once: as many as fit into its memory, so that keys and values are read once for
/// all of them.
struct AttendTile {
    uint32_t heads = 1, tokens = 1;
};
AttendTile attend_tile(const Config& config, bool decode);

/// Workgroups that can share the positions of one tile at decode.
uint32_t most_attend_splits(uint32_t context);

/// How rows are gone over where nobody has measured; and all ways that the device offers for rows of this type.
RowVariant usual_variant(const vulkan::Device& device, WeightType type);
std::vector<RowVariant> row_variants(const vulkan::Device& device, WeightType type);

/// What a product with many tokens is like, and may do.
struct ProductUse {
    bool transposed = false;
    bool halves = true;    // weights may be rounded to halves
    bool planes = true;    // those of x are there, or can be
};

/// Whether the device can multiply matrices of this type so.
bool offers(const vulkan::Device& device, Product product, WeightType type, const ProductUse& use);

/// Workgroups for the row kernels over `rows` rows.
vulkan::Groups row_groups(uint32_t rows, const RowVariant& variant);

/// The kernels, compiled when first used, by the weight types that they read.
class GpuKernels {
  public:
    /// `tuned`: how rows are to be gone over, as far as this device can; `products`: how fast it multiplies in each of its ways.
    GpuKernels(std::shared_ptr<vulkan::Device> device, const Config& config, const RowVariants& tuned = {}, const ProductRates& products = {});

    /// How the rows of a matrix are gone over.
    RowVariant variant(WeightType type, uint32_t rows, uint32_t cols) const;
    RowVariant variant(const GpuMatrix& m) const { return variant(m.type, m.rows, m.cols); }
    /// Whether they are met in integers, from the two planes of `quantise`.
    bool reads_planes(const GpuMatrix& m) const { return variant(m).int_dot; }

    const vulkan::Kernel<gpu::MatVec>& matvec(WeightType type, const RowVariant& variant);
    /// The fastest way for many tokens.
    Product product(WeightType type, const ProductUse& use) const;
    const vulkan::Kernel<gpu::MatMul>& matmul(WeightType type, bool transposed, Product product);
    /// In floats if one of the types has no integers.
    const vulkan::Kernel<gpu::FfnUp>& ffn_up(WeightType gate, WeightType up, RowVariant variant);
    const vulkan::Kernel<gpu::FfnDown>& ffn_down(WeightType type);
    const vulkan::Kernel<gpu::Attend>& attend(AttendTile tile, host::KvTypes kv);
    /// Workgroups that do share them: always the same number, since what is recorded serves every position.
    uint32_t attend_splits(uint32_t tiles, uint32_t context) const;
    const vulkan::Kernel<gpu::Join> join;
    const vulkan::Kernel<gpu::Quantise> quantise;
    const vulkan::Kernel<gpu::Rope> rope;
    const vulkan::Kernel<gpu::Glu> glu;
    const vulkan::Kernel<gpu::PredictSign> predict_sign;
    const vulkan::Kernel<gpu::Threshold> threshold;
    const vulkan::Kernel<gpu::Route> route;
    const vulkan::Kernel<gpu::Best> best;

  private:
    std::shared_ptr<vulkan::Device> device_;
    uint32_t activation_, head_dim_;
    RowVariants tuned_;
    ProductRates products_;
    std::map<std::pair<WeightType, RowVariant>, vulkan::Kernel<gpu::MatVec>> matvec_;
    std::map<std::tuple<WeightType, bool, Product>, vulkan::Kernel<gpu::MatMul>> matmul_;
    std::map<std::tuple<WeightType, WeightType, RowVariant>, vulkan::Kernel<gpu::FfnUp>> ffn_up_;
    std::map<WeightType, vulkan::Kernel<gpu::FfnDown>> ffn_down_;
    std::map<std::array<uint32_t, 4>, vulkan::Kernel<gpu::Attend>> attend_;
};

/// Calls with the share done (0 to 1) while something takes long.
using Progress = std::function<void(double)>;

/// Where everything goes.
struct ModelLayout {
    Plan plan;
    std::vector<std::vector<uint32_t>> orders;    // placement order of every layer's neurons
    std::vector<LayerSparsity> sparsity;
    RowVariants row_variants;    // as GpuKernels takes them
    ProductRates products = {};
};

/// A feed-forward block's matrices on the device, or of some of its groups.
struct GpuFfn {
    GpuMatrix gate, up, down_t;     // (groups * group_neurons, dim)
    GpuMatrix down;                 // (dim, groups * group_neurons) instead of down_t, where the host has it so
    GpuMatrix bias;                 // (groups * group_neurons, 1); no rows where there is none, as of up where there is no gate
    vulkan::Slice group_experts;    // whose neurons each group has, as gpu::Route has them; empty where there are no experts

    /// What it takes in memory, one matrix behind the other.
    uint64_t bytes() const;
};

class GpuModel {
  public:
    /// Device memory that a model's weights take, piece by piece.
    static Needs needs(const Weights& weights, const std::vector<LayerSparsity>& sparsity);

    /// Uploads what the plan puts on the device. `weights` must outlive this.
    GpuModel(std::shared_ptr<vulkan::Device> device, const Weights& weights, const ModelLayout& layout, host::Team& team, const Progress& progress);

    struct Layer : GpuFfn {    // its groups are those in slots: number s is residency.slots()[s]
        uint32_t window;       // as LayerWeights has them
        bool window_rope;
        vulkan::Slice attn_norm, ffn_norm;     // as gpu::Join has them
        vulkan::Slice qkv_bias, head_norms;    // as gpu::Rope has them; empty where the family has none
        GpuMatrix q, k, v, o;
        GpuMatrix qkv;          // the same memory as one matrix, where their types agree; else it has no rows
        GpuMatrix router;       // (experts, dim); no rows where there are none
        vulkan::Slice signs;    // of the gate's rows in placement order, as gpu::PredictSign has them
        GpuMatrix fc1, fc2;     // fc2's rows in placement order
        float predictor_threshold = 0;
        LayerResidency residency;
        bool split() const { return residency.split(); }
    };

    const std::shared_ptr<vulkan::Device>& device() const { return device_; }
    const Config& config() const { return weights_.config; }
    const std::vector<Layer>& layers() const { return layers_; }

    /// A group's rows as its slot has them: gate, up, down_t, bias, one after the other, and the number of its expert; group_bytes(l) in all.
    uint64_t group_bytes(uint32_t l) const;
    void lay_out_group(uint32_t l, uint32_t group, std::byte* to) const;
    /// From now on `group` is taken to be in `slot`: its rows must be there before the next decode.
    void put(uint32_t l, uint32_t slot, uint32_t group);

    /// `count` of layer l's cold groups, from the first-th on, as a block of their own that begins at `memory`. Both are multiples of together(l), or count
    /// goes up to the last.
    GpuFfn cold_block(uint32_t l, uint32_t first, uint32_t count, const vulkan::Slice& memory) const;
    /// So many groups share blocks of a plain down.
    uint32_t together(uint32_t l) const;
    /// Writes its rows, with all threads; its memory is mapped.
    void lay_out(uint32_t l, uint32_t first, const GpuFfn& block, host::Team& team) const;

    struct FiredBytes {
        uint64_t up, down;
    };
    /// What the rows of a group's neurons take for which a bit of `fired` is set.
    FiredBytes fired_bytes(uint32_t l, uint32_t group, uint32_t fired) const;
    bool has_head() const { return head_.rows > 0; }
    const GpuMatrix& head() const { return head_; }
    /// As gpu::Join has it: of what comes after the last layer that is here, the head or a layer of the host's.
    const vulkan::Slice& last_join() const { return last_join_; }
    /// gpu::Join's `form`.
    uint32_t join_form() const;
    GpuKernels& kernels() { return kernels_; }

  private:
    std::shared_ptr<vulkan::Device> device_;
    const Weights& weights_;
    GpuKernels kernels_;
    std::vector<vulkan::Pool> pools_;
    std::vector<Layer> layers_;
    vulkan::Slice last_join_;
    GpuMatrix head_;
};

}    // namespace hearth
