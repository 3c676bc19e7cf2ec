// What the CPU does of a model: the embedding always, cold shares of split layers, and whole layers and the head where the device has them not.
#pragma once

#include "engine/model/tokenizer.h"
#include "engine/model/weights.h"
#include "engine/run/stats.h"
#include "host/attention.h"

#include <span>

namespace hearth {

class CpuModel {
  public:
    /// Layers from `first_layer` on keep their KV cache here. `weights` and `team` must outlive this.
    CpuModel(const Weights& weights, host::Team& team, uint32_t first_layer, uint32_t batch, uint32_t context, bool exact);

    /// x[t] = the embedding of tokens[t]; x is (tokens, dim).
    void embed(std::span<const Token> tokens, float* x) const;

    /// A whole layer in place: x is the residual stream (tokens, dim), the first token at `position`.
    void layer(uint32_t l, uint32_t position, uint32_t tokens, float* x, FeedStats& stats);

    /// The share of the neurons in `ranges` of layer l's feed-forward block, valid until the next call; it and x, which is normalised, are
    /// (tokens, dim).
    std::span<const float> cold_ffn(uint32_t l, std::span<const host::NeuronRange> ranges, uint32_t tokens, const float* x, FeedStats& stats);

    /// Logits of one token from the end of the residual stream.
    std::span<const float> head(const float* x, FeedStats& stats);

  private:
    const Weights& weights_;
    host::Team& team_;
    uint32_t first_layer_, context_;
    bool exact_;
    std::vector<std::vector<uint16_t>> keys_, values_;    // of layers first_layer and up: (kv_heads, context, head_dim) fp16
    std::vector<float> norm_, q_, k_, v_, mixed_, out_, logits_;
    host::Inputs inputs_;
    host::FfnScratch scratch_;
};

}    // namespace hearth
