// A model's tensors by meaning, shapes and types checked.
#pragma once

#include "engine/model/families.h"
#include "engine/file/gguf.h"
#include "host/experts.h"

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace hearth {

/// The neurons of an expert are a multiple of this, so that a group of neurons (engine/plan/placement.h) is of one
/// expert.
inline constexpr uint32_t expert_unit = 32;

/// The key that says another activation than the architecture's, and what it is called there.
inline constexpr std::string_view activation_key = "hearth.activation";
std::string_view activation_name(host::Activation activation);

struct Config {
    std::string architecture;    // "llama"
    std::string name;            // general.name, or the file's name
    uint32_t layers = 0;
    uint32_t dim = 0;    // width of the residual stream
    uint32_t heads = 0;
    uint32_t kv_heads = 0;
    uint32_t head_dim = 0;
    uint32_t neurons = 0;    // of one feed-forward block, of all its experts together
    uint32_t experts =
        0;    // that share the neurons of a block evenly, one after the other; 0: every token goes through all neurons
    uint32_t experts_used = 0;        // of a token
    bool normalise_experts = true;    // see host::Router
    uint32_t vocab = 0;
    uint32_t context = 0;         // positions the model was trained for
    float embedding_scale = 1;    // what rows of the embedding are multiplied by: `embedding_scale`
    float residual_scale = 1;     // what a block gives is multiplied by, before it is added: `residual_scale`
    float logit_scale = 1;        // what logits are multiplied by: 1 / `logit_scale`
    float logit_cap = 0;          // logits s become cap tanh(s / cap), 0: they stay: `final_logit_softcapping`
    float score_scale = 1;        // what products of q and k are multiplied by: `attention.scale`
    float score_cap = 0;          // then likewise: `attn_logit_softcapping`
    bool parallel = false;        // the feed-forward block reads the layer's input, as attention does
    uint32_t rope_dim = 0;
    float rope_base = 10000.0f;
    float window_base = 0;    // of layers with a window, whose positions are not scaled: `rope.freq_base_swa`; 0:
                              // rope_base, and they are
    float rope_scale = 1;     // of linear scaling: positions are divided by it
    std::vector<float> rope_factors;    // (rope_dim / 2), what each pair's frequency is divided by; empty: by nothing
    uint32_t rope_context =
        0;                       // positions that rope_factors are for, where longer contexts would take others; 0: all
    float rope_magnitude = 1;    // what turned pairs are multiplied by
    host::PairOrder pairs = host::PairOrder::neighbours;

    /// The longest context that can be run: rope_factors are the right ones.
    uint32_t most_positions() const { return std::min(context, rope_context ? rope_context : context); }
    float norm_eps = 1e-5f;
    bool layer_norm = false;    // instead of RMS norms
    host::Activation activation = host::Activation::silu;
    float floor = 0;                  // of relu: see host::FfnWeights
    float predictor_threshold = 0;    // of the layers that have no threshold of their own

    /// What fires by itself, and what a profile counts: neurons, or experts where there are any.
    uint32_t firing() const { return experts ? experts : neurons; }
    uint32_t neurons_together() const { return neurons / firing(); }    // those of an expert; else 1
};

/// Radians that each pair of a head turns from one position to the next (rope_dim / 2); `windowed`: in layers with a
/// window.
std::vector<double> rope_frequencies(const Config& c, bool windowed = false);

/// How a layer's heads come to their keys and values.
enum class AttentionKind {
    grouped,    // heads in groups share a head of keys and one of values (arXiv 2305.13245)
};

/// One attention block. What a family has not is empty.
struct AttentionWeights {
    AttentionKind kind = AttentionKind::grouped;
    uint32_t k_dim = 0, v_dim = 0;                // of a head's keys, and of its values
    Matrix q;                                     // (heads * k_dim, dim)
    Matrix k, v;                                  // (kv_heads * k_dim, dim), (kv_heads * v_dim, dim)
    Matrix o;                                     // (dim, heads * v_dim)
    std::vector<float> q_bias, k_bias, v_bias;    // as many as rows
    std::vector<float> o_bias;                    // (dim), added once to what o gives
    std::vector<float> q_norm, k_norm;            // (k_dim), of every head
    uint32_t window = 0;                          // positions that a token looks back over, its own included; 0: all
    bool window_rope = false;                     // turns by Config::window_base
};

struct LayerWeights {
    std::vector<float> attn_norm;         // (dim)
    std::vector<float> attn_norm_bias;    // (dim), of a LayerNorm; else empty, as all biases of norms
    AttentionWeights attention;
    std::vector<float> post_attn_norm;             // (dim), of what attention gives, before it is added; or empty
    std::vector<float> post_ffn_norm;              // likewise of what the feed-forward block gives
    std::vector<float> ffn_norm, ffn_norm_bias;    // (dim)
    host::FfnWeights ffn;
    std::vector<float> down_bias;    // (dim), added once to what down gives; or empty
    host::Router router;             // who chooses among the experts; no rows where there are none

    /// The low-rank predictor of PowerInfer's files; no rows where the file has none. It says that neuron i fires where
    /// fc2_i . relu(fc1 . r) >= predictor_threshold; r is the residual that enters ffn_norm, not yet normalised.
    Matrix fc1;    // (h, dim); h is the layer's own
    Matrix fc2;    // (neurons, h)
    float predictor_threshold = 0;
};

/// f(m) for each matrix that a layer has.
template <class F>
void each_matrix(const LayerWeights& l, F&& f)
{
    const AttentionWeights& a = l.attention;
    for (const Matrix* m :
         {&a.q, &a.k, &a.v, &a.o, &l.ffn.gate, &l.ffn.up, &l.ffn.either_down(), &l.router.scores, &l.fc1, &l.fc2})
        if (m->rows > 0) f(*m);
}

/// The row of Weights::positions for position 0: OPT (arXiv 2205.01068), the one family that has them, kept two rows
/// for padding.
inline constexpr uint32_t first_position_row = 2;

struct Weights {
    Config config;
    Matrix embedding;    // (vocab, dim)
    Matrix
        positions;    // (first_position_row + context, dim), added to the embedding; no rows where heads turn instead
    std::vector<LayerWeights> layers;
    std::vector<float> output_norm, output_norm_bias;    // (dim)
    Matrix output;                                       // (vocab, dim); the embedding where the head is tied
    bool transposed = false;    // ffn_down was transposed at load: say so, and how to convert once

    /// The file's tensors (memory stays mapped through `file`) plus what had to be transposed.
    std::shared_ptr<const Gguf> file;
    std::vector<std::unique_ptr<std::byte[]>> owned;
};

/// What becomes of a plain ffn_down.
enum class DownLayout {
    by_neurons,    // it is transposed: F32, F16, BF16 keep their type; quantised ones become F16, since a transposed
                   // block has other scales, or F32 where they are beyond what halves hold, which only load_weights
                   // knows
    dense,         // it stays as it is in models whose activations are never zero: for those who leave no neuron out;
                   // experts' is transposed nonetheless, since a device takes them by neurons
    as_stored,     // the same for experts, too: for a host that has all of them
};

/// Reads a model. PowerInfer's files say nothing of the activation and are taken for ReLU models, plain GGUF files for
/// what their architecture is; `hearth.activation` overrides both. A predictor (blk.N.fc1 and fc2) may stand in either;
/// its threshold is `powerinfer.sparse_threshold`, or an array `hearth.predictor_thresholds` with one for every layer.
/// Experts come as ffn_gate_exps and ffn_up_exps (experts, neurons of one, dim), with ffn_down_exps or with one
/// ffn_down_t for all of them. Throws Error: unknown architecture or weight type (named), missing or unused tensor
/// (named), wrong shape (the tensor, what it has, what was expected). What has to be transposed is, by so many threads
/// (0: one per physical core), after all that can be refused was; `progress` hears the share that is done, and what it
/// throws ends the work.
Weights load_weights(std::shared_ptr<const Gguf> file, DownLayout layout = DownLayout::by_neurons, unsigned threads = 0,
                     const std::function<void(double)>& progress = {});

/// The same without the work: what would have to be transposed has its type and shape, but no data. For questions about
/// sizes. Of a file that is cut, or a header alone, all has its type and shape, and vectors are ones.
Weights describe_weights(std::shared_ptr<const Gguf> file, DownLayout layout = DownLayout::by_neurons);

}    // namespace hearth
