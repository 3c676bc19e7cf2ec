// A model on the device: its weights, and the recorded commands that run it.
#pragma once

#include "engine/model/weights.h"
#include "engine/plan/placement.h"
#include "engine/run/stats.h"
#include "engine/vulkan/commands.h"

#include <functional>
#include <map>
#include <optional>

namespace hearth {

/// Tokens done at once at the most, positions in the KV cache, and whether inactive neurons are skipped.
struct SessionShape {
    uint32_t batch;
    uint32_t context;
    bool exact;    // --sparsity exact: at decode, up and down rows of inactive neurons are not read
};

/// Rows of logits that one submit computes.
inline constexpr uint32_t head_rows = 32;

/// A matrix in device memory, in the row layout of shaders/row.glsl.
struct GpuMatrix {
    WeightType type = WeightType::f32;
    uint32_t rows = 0, cols = 0;
    uint32_t stride = 0;    // uvec4 from row to row
    vulkan::Slice memory;

    uint64_t bytes() const { return uint64_t(rows) * stride * 16; }
};

/// uvec4 that a row of n weights takes on the device.
uint32_t row_quads(WeightType type, uint32_t n);

/// Writes a row as the file has it (row_bytes) to `to` as the device wants it (row_quads uvec4).
void lay_out_row(WeightType type, const std::byte* row, uint32_t n, std::byte* to);

/// The kernels, compiled when first used, by the weight types that they read.
class GpuKernels {
  public:
    GpuKernels(std::shared_ptr<vulkan::Device> device, const Config& config);

    /// Whether rows of this type are met in integers, from the two planes of `quantise`.
    bool reads_planes(WeightType type) const;

    const vulkan::Kernel<gpu::MatVec>& matvec(WeightType type);
    const vulkan::Kernel<gpu::MatMul>& matmul(WeightType type, bool transposed);
    const vulkan::Kernel<gpu::FfnUp>& ffn_up(WeightType gate, WeightType up);
    const vulkan::Kernel<gpu::FfnDown>& ffn_down(WeightType type);
    const vulkan::Kernel<gpu::Join> join;
    const vulkan::Kernel<gpu::Quantise> quantise;
    const vulkan::Kernel<gpu::Rope> rope;
    const vulkan::Kernel<gpu::Attend> attend;
    const vulkan::Kernel<gpu::Glu> glu;

    /// Workgroups for the row kernels over `rows` rows.
    vulkan::Groups row_groups(uint32_t rows) const;

  private:
    uint32_t rows_at_once() const;

    std::shared_ptr<vulkan::Device> device_;
    uint32_t activation_;
    std::map<WeightType, vulkan::Kernel<gpu::MatVec>> matvec_;
    std::map<std::pair<WeightType, bool>, vulkan::Kernel<gpu::MatMul>> matmul_;
    std::map<std::pair<WeightType, WeightType>, vulkan::Kernel<gpu::FfnUp>> ffn_up_;
    std::map<WeightType, vulkan::Kernel<gpu::FfnDown>> ffn_down_;
};

/// Calls with the share done (0 to 1) while something takes long.
using Progress = std::function<void(double)>;

class GpuModel {
  public:
    /// Device memory that a model and one session of this shape take, piece by piece.
    static Needs needs(const Weights& weights, const SessionShape& shape);

    /// Uploads what the plan puts on the device. `weights` must outlive this.
    GpuModel(std::shared_ptr<vulkan::Device> device, const Weights& weights, const Plan& plan, const Progress& progress);

    struct Layer {
        vulkan::Slice attn_norm, ffn_norm;
        GpuMatrix q, k, v, o;
        GpuMatrix gate, up, down;               // (slots * group_neurons, dim): slot s holds the rows of group `resident[s]`
        bool split;                             // some neurons are the host's
        std::vector<host::NeuronRange> cold;    // which
    };

    const std::shared_ptr<vulkan::Device>& device() const { return device_; }
    const Config& config() const { return weights_.config; }
    const std::vector<Layer>& layers() const { return layers_; }
    bool has_head() const { return head_.rows > 0; }
    const GpuMatrix& head() const { return head_; }
    const vulkan::Slice& output_norm() const { return output_norm_; }
    GpuKernels& kernels() { return kernels_; }

  private:
    std::shared_ptr<vulkan::Device> device_;
    const Weights& weights_;
    GpuKernels kernels_;
    std::vector<vulkan::Pool> pools_;
    std::vector<Layer> layers_;
    vulkan::Slice output_norm_;
    GpuMatrix head_;
};

/// One conversation on the device: KV cache, activations and the commands recorded for them.
class GpuSession {
  public:
    GpuSession(GpuModel& model, const SessionShape& shape, bool timing);

    /// From the join of the layer before up to where the host is needed.
    struct Segment {
        vulkan::Commands attention;             // whole layers, and the attention of `split`, which ends with x published to the host
        std::optional<vulkan::Commands> ffn;    // the hot FFN of `split`, while the host does the cold one
        std::optional<uint32_t> split;          // the layer whose cold share the host owes after this segment
    };

    /// Starts a batch: positions, and cos and sin of its rotations; head_tokens > 0: logits of tokens [head_first, head_first + head_tokens) are
    /// wanted with it. The caller then fills `input`.
    void begin(uint32_t position, uint32_t tokens, uint32_t head_first, uint32_t head_tokens);

    /// The segments for a batch of this size, recorded when first asked for.
    std::vector<Segment>& segments(uint32_t tokens);

    /// Submits the next segment, with the last one the wanted logits too.
    void submit(Segment& segment);
    /// Logits of further tokens of the same batch, after wait_all.
    void submit_head(uint32_t head_first, uint32_t head_tokens);

    /// Waits for x of a split segment, or for all of the last.
    void wait_published(const Segment& segment);
    void wait_all();

    /// Host memory that the device reads and writes; (batch, dim) each, logits (head_rows, vocab).
    float* input() const { return static_cast<float*>(input_.mapped); }
    float* cold() const { return static_cast<float*>(cold_.mapped); }
    const float* published() const { return static_cast<const float*>(published_.mapped); }
    const float* logits() const { return static_cast<const float*>(logits_.mapped); }

    /// Adds what the device did in this batch to `stats`; call after wait_all.
    void report(FeedStats& stats) const;

  private:
    struct Recording {
        uint32_t capacity;    // tokens at the most
        std::vector<Segment> segments;
        std::optional<vulkan::Commands> head;
    };
    class Recorder;
    uint32_t capacity_for(uint32_t tokens) const;
    Recording& recording(uint32_t tokens);
    void count_neurons(FeedStats& stats) const;
    void add_stages(const std::vector<vulkan::StageTime>& times, FeedStats& stats) const;

    GpuModel& model_;
    SessionShape shape_;
    bool timing_;
    std::vector<vulkan::Pool> kv_pools_;    // one per layer: all together may be larger than a driver allocates at once
    vulkan::Pool scratch_pool_, upload_pool_, readback_pool_;
    std::vector<vulkan::Slice> keys_, values_;    // per device layer
    vulkan::Slice residual_, head_residual_, xn_, q_, k_, v_, mixed_, parts_, h_, u_, high_, low_, scale_;
    vulkan::Slice input_, cold_, angles_, step_;
    vulkan::Slice published_, logits_, counts_;
    std::vector<double> frequencies_;    // of rope, per pair
    std::map<uint32_t, Recording> recordings_;

    // of the batch under way
    uint32_t position_ = 0, tokens_ = 0;
    uint32_t submits_ = 0, waits_ = 0;
    uint64_t last_work_ = 0;
    bool head_ran_ = false;

    vulkan::Queue queue_;    // last, so that it goes first: it waits for what is under way in all of the above
};

}    // namespace hearth
