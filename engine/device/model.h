// A model's weights on the device.
#pragma once

#include "engine/device/kernels.h"
#include "engine/device/residency.h"
#include "engine/device/upload.h"
#include "engine/model/sparsity.h"

namespace hearth {

/// Where everything goes.
struct ModelLayout {
    Plan plan;
    std::vector<std::vector<uint32_t>> orders;    // placement order of every layer's neurons
    std::vector<LayerSparsity> sparsity;
    RowVariants row_variants;    // as GpuKernels takes them
    ProductRates products = {};
    bool streams = false;                    // cold groups come to the device, too
    vulkan::Uploader* uploader = nullptr;    // by which its weights come; null: one of its own
};

/// A feed-forward block's matrices on the device, or of some of its groups.
struct GpuFfn {
    GpuMatrix gate, up, down_t;    // (groups * group_neurons, dim)
    GpuMatrix down;                // (dim, groups * group_neurons) instead of down_t, where the host has it so
    GpuMatrix bias;    // (groups * group_neurons, 1); no rows where there is none, as of up where there is no gate
    vulkan::Slice
        group_experts;    // whose neurons each group has, as gpu::Route has them; empty where there are no experts

    /// What it takes in memory, one matrix behind the other.
    uint64_t bytes() const;
};

class GpuModel {
  public:
    /// Device memory that a model's weights take, piece by piece.
    static Needs needs(const Weights& weights, const std::vector<LayerSparsity>& sparsity);

    /// Uploads what the plan puts on the device. `weights` must outlive this.
    GpuModel(const std::shared_ptr<vulkan::Device>& device, const Weights& weights, const ModelLayout& layout,
             host::Team& team, const Progress& progress);

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

    /// As steps know a layer; `one_row`: its q, k and v can be one matrix.
    LayerShape shape(uint32_t l, host::Work work, bool one_row, host::KvTypes kv) const;
    /// The same with other neurons.
    LayerShape with_block(LayerShape shape, const GpuFfn& block, host::Work work) const;
    StepMatrix shape_of_head(host::Work work) const;

    const std::shared_ptr<vulkan::Device>& device() const { return device_; }
    const Config& config() const { return weights_.config; }
    const std::vector<Layer>& layers() const { return layers_; }

    /// A group's rows as its slot has them: gate, up, down_t, bias, one after the other, and the number of its expert;
    /// group_bytes(l) in all.
    uint64_t group_bytes(uint32_t l) const;
    void lay_out_group(uint32_t l, uint32_t group, std::byte* to) const;
    /// From now on `group` is taken to be in `slot`: its rows must be there before the next decode.
    void put(uint32_t l, uint32_t slot, uint32_t group);

    /// `count` of layer l's cold groups, from the first-th on, as a block of their own that begins at `memory`. Both
    /// are multiples of together(l), or count goes up to the last.
    GpuFfn cold_block(uint32_t l, uint32_t first, uint32_t count, const vulkan::Slice& memory) const;
    /// So many groups share blocks of a plain down.
    uint32_t together(uint32_t l) const;
    /// Writes the rows of such a block from the first-th group on, with all threads; its memory is mapped.
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
    Meets meets(const GpuMatrix& m, host::Work work, bool transposed) const;
    StepMatrix matrix(const GpuMatrix& m, host::Work work, bool transposed = false) const;

    std::shared_ptr<vulkan::Device> device_;
    const Weights& weights_;
    GpuKernels kernels_;
    std::vector<vulkan::Pool> pools_;
    std::vector<Layer> layers_;
    vulkan::Slice last_join_;
    GpuMatrix head_;
};

}    // namespace hearth
