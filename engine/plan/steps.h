// A layer as a list of steps. The recorder records this list, costs price it, statistics count by it, and the roofline
// draws it, so that none of them can disagree about what is read and what is computed.
//
//     bytes of a step = weights that it reads, once for all rows that meet them at once
//                     + activations that it reads and writes, for every row
//                     + the KV cache's, for every position that a row sees
#pragma once

#include "engine/model/sparsity.h"
#include "engine/model/weights.h"
#include "engine/plan/machine.h"
#include "host/attention.h"
#include "host/rows.h"

#include <string_view>
#include <vector>

namespace hearth {

/// Neurons in a group, the unit of placement. A group of a 7B model's neurons in Q4_0 is 220 KB, large enough for a bus
/// transfer at full speed.
inline constexpr uint32_t group_neurons = 32;

constexpr uint32_t ceil_div(uint64_t a, uint64_t b) { return uint32_t((a + b - 1) / b); }

/// In the order in which a layer has them. `quantise_...` makes those planes of a vector (gpu::Planes) that the step
/// before could not write itself.
enum class StepKind : uint8_t {
    attn_norm,
    quantise_attn_norm,
    qkv,
    rope,
    attend,
    quantise_attended,
    attn_out,
    ffn_norm,
    quantise_ffn_norm,
    route_scores,
    route,
    predict_signs,
    predict_hidden,
    predict_scores,
    predict_mask,
    watch_residual,
    ffn_up,
    watch_gates,
    glu,
    quantise_h,
    ffn_down,
    cold_ffn,    // of the host: the three matrices at once
    last_join,
    output_norm,
    quantise_output_norm,
    head,
    best_parts,
    best,
};
/// What a user reads; steps that do one thing together have one name.
std::string_view step_name(StepKind kind);
/// Whether it is of a feed-forward block's neurons.
bool of_ffn(StepKind kind);

/// What of x a matrix meets: x itself, or planes of it, which somebody has to make.
enum class Meets : uint8_t { floats, integers, halves };

/// A matrix as a step reads it on one side.
struct StepMatrix {
    WeightType type = WeightType::f32;
    uint32_t rows = 0, cols = 0;
    uint64_t bytes = 0;                     // of all rows, as they lie on this side
    uint32_t block = 1, block_bytes = 0;    // columns that lie together
    uint32_t padding = 1;                   // rows are filled up to a multiple of so many bytes
    Meets meets = Meets::floats;

    double row_bytes() const { return rows ? double(bytes) / rows : 0; }
    uint64_t products() const { return uint64_t(rows) * cols; }
    /// The first so many of its columns, whole blocks. Of dense rows.
    StepMatrix columns(uint32_t count) const;
    /// So many rows of it; bytes in proportion.
    StepMatrix part(uint32_t count) const;
};

/// A layer's matrices as they lie on one side, those of its block with all neurons of that side.
struct LayerShape {
    StepMatrix q, k, v, o, router, gate, up, down, fc1, fc2;
    bool down_by_rows = false;      // down is as FfnWeights has it, and of it every weight is read
    uint64_t sign_bytes = 0;        // of a sign predictor; 0: there is none
    uint64_t position_bytes = 0;    // of the KV cache
    uint32_t window = 0;            // as LayerWeights has it
};
/// Of the host. What lies on the device is told by GpuModel.
LayerShape host_shape(const Config& config, const LayerWeights& weights, host::KvTypes kv);
StepMatrix host_matrix(const Matrix& m);

/// Rows of a matrix that a step reads, and how fast they come.
enum class Reads : uint8_t {
    all,      // every row, once for all rows of the batch that meet it together
    gates,    // those of neurons that are looked at: Load::gate_bytes
    ups,      // ... that fire for any row: Load::up_bytes
    downs,    // ... that fire: Load::down_bytes
};
struct Read {
    Reads which = Reads::all;
    WeightType type = WeightType::f32;
    double RowRates::*rate = &RowRates::dot;
    double row_bytes = 0;     // of a row of the matrix
    uint64_t bytes = 0;       // of Reads::all
    uint64_t products = 0;    // of one row of the batch; of the others for a (row, neuron) pair
};

/// What a batch is like for one layer on one side: counted, or expected. Whole numbers where they were counted.
struct Load {
    double rows = 1;
    double passes = 1;                  // so often each weight is read: rows / those that meet it at once
    double positions = 0;               // of the KV cache, that the rows see, all together
    double tiled = 0;                   // the same, if only whole tiles are computed; 0: they are as many
    double looked_at = 0, fired = 0;    // (row, neuron) pairs: gates, and up and down that are computed
    double gate_bytes = 0, up_bytes = 0, down_bytes = 0;    // of the rows that are read for them
};

/// Products of a weight and a number that it takes part in.
double products_of(const Read& read, const Load& load);
/// Sums of such products.
double sums_of(const Read& read, const Load& load);

struct Step {
    StepKind kind = {};
    std::vector<Read> reads = {};
    uint64_t row = 0;         // bytes of activations, of a row
    uint64_t position = 0;    // bytes of the KV cache, of a position that a row sees
    uint64_t position_products = 0;
    uint32_t key_groups = 0, queries = 0;    // that meet such a position
    uint64_t signs = 0;                      // bytes of sign bits, of a row
    uint32_t dispatches = 1;    // that wait for each other: of kernels on the device, of parallel loops on the host
    bool planes = false;        // it writes planes of integers of what it gives
    bool halves = false;        // and of halves: only quantise_...
    uint32_t first_neuron = 0, neurons = 0;    // of many rows' ffn_up, glu and ffn_down: a range of the block

    double bytes(const Load& load) const;
    /// Multiplications and additions that the result needs; what a kernel computes beyond that does not count.
    double operations(const Load& load) const;
    /// Microseconds that it is expected to take, and those of them that it takes however little there is to do.
    double us(const Load& load, const SideRates& rates) const;
    double least_us(const SideRates& rates) const;
    /// And on a slow card that nobody has measured: one that reads 10 GB and computes 100 billion operations a second.
    double slow_us(const Load& load) const;
};

/// What a layer leaves to the next join.
struct Pending {
    uint32_t parts = 0;    // partial sums on the device
    bool cold = false;     // and the host's share
};

/// What the steps of a batch depend on.
struct StepForm {
    host::Work work = host::Work::few;
    bool watched = false;    // inputs and gates come to the host
};

/// How a layer's block lies on the device.
struct BlockShare {
    uint32_t neurons = 0;      // of its slots that are computed for a row
    bool split = false;        // the host has others
    bool streamed = false;     // which come to the device for this batch
    LayerSparsity sparsity;    // of few rows
};

/// The steps of the device, up to where the host is needed.
std::vector<Step> attention_steps(const Config& config, const LayerShape& shape, const BlockShare& share,
                                  const Pending& before, const StepForm& form);
/// Its neurons. `planes`: those of the block's input are there; becomes whether they still are.
std::vector<Step> ffn_steps(const Config& config, const LayerShape& shape, const BlockShare& share,
                            const StepForm& form, bool& planes);
/// Logits of the wanted rows, and which token is most probable; or a last join, where the host goes on.
std::vector<Step> head_steps(const Config& config, const StepMatrix& output, const Pending& before,
                             const StepForm& form);
std::vector<Step> best_steps(const Config& config);
std::vector<Step> last_steps(const Config& config, const Pending& before);

/// After a layer's neurons.
Pending pending_after(const Config& config, const LayerShape& shape, const BlockShare& share, const StepForm& form);

/// A layer on the host, whose norms and activations are part of the step that needs them.
std::vector<Step> host_attention_steps(const Config& config, const LayerShape& shape, const LayerSparsity& sparsity,
                                       const StepForm& form);
Step cold_ffn_step(const LayerShape& shape, const LayerSparsity& sparsity, const StepForm& form);
Step host_head_step(const StepMatrix& output);

/// The time of a device's steps over their slow_us, where it was measured at the least favourable.
double pace_of(const Machine& machine);

/// The one of that kind, which must be there.
const Step& step_of(const std::vector<Step>& steps, StepKind kind);

// What the device's kernels have room for.
inline constexpr uint32_t most_sums = 8;    // of an invocation in the row kernels: more go to memory
/// Of so many few rows, those that meet each weight at once.
uint32_t tokens_at_once(uint32_t tokens);
inline constexpr uint32_t most_slices = 16;        // partial sums of few rows' hot FFN
inline constexpr uint32_t tile_positions = 128;    // of a sequence, that attention takes at a time
inline constexpr uint32_t most_best_parts = 64;    // workgroups that look for the largest logit
uint32_t ffn_slices(uint32_t neurons);
uint32_t parts_of_best(uint32_t vocab);
/// Neurons of a block whose h is in memory at once for many rows: all, or where there are experts so many, which are
/// added up range by range.
uint32_t prefill_neurons(const Config& config);
/// Of one of few rows: those of its experts, or all.
uint32_t decode_neurons(const Config& config);

}    // namespace hearth
