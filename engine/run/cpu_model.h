// What the CPU does of a model: the embedding always, cold shares of split layers, and whole layers and the head where
// the device has them not.
#pragma once

#include "engine/text/tokenizer.h"
#include "engine/model/weights.h"
#include "engine/plan/activity.h"
#include "engine/model/sparsity.h"
#include "engine/plan/stats.h"
#include "host/attention.h"
#include "host/predict.h"

#include <span>

namespace hearth {

class CpuModel {
  public:
    struct Shape {
        uint32_t first_layer;    // layers from here on keep their KV cache here
        uint32_t batch, context;
        host::KvTypes kv;
        std::vector<LayerSparsity> sparsity;
        bool check_predictor =
            false;    // look at the gates that were predicted not to fire, too, and count those that do
    };
    /// `weights` and `team` must outlive this.
    CpuModel(const Weights& weights, host::Team& team, Shape shape);

    /// x[t] = the embedding of tokens[t], the first one at `position`; x is (tokens, dim).
    void embed(std::span<const Token> tokens, uint32_t position, float* x) const;

    /// A whole layer in place: x is the residual stream (tokens, dim), the first token at `position`.
    void layer(uint32_t l, uint32_t position, uint32_t tokens, float* x, FeedStats& stats);

    /// What the host has to do of a feed-forward block.
    struct Cold {
        std::span<const uint32_t> neurons;     // of the host
        std::span<const uint32_t> may_fire;    // of these; all of them where nobody knows, or of many tokens
        const float* experts =
            nullptr;    // (tokens, experts): their weights, as host::route gives them; null where there are none
    };
    /// The share of the host's neurons of layer l's feed-forward block, valid until the next call; it and x, which is
    /// normalised, are (tokens, dim).
    std::span<const float> cold_ffn(uint32_t l, const Cold& cold, uint32_t tokens, const float* x, FeedStats& stats);

    const LayerSparsity& sparsity(uint32_t l) const { return shape_.sparsity[l]; }

    /// After cold_ffn of one token with a cut, or with experts: those that fired.
    std::span<const uint32_t> fired() const { return scratch_.ffn.neurons; }

    /// Hears the gates of `neurons` of a batch, or the weights of the experts; x as in cold_ffn, `residual` before its
    /// norm.
    ActivitySink watch;
    void watch_experts(uint32_t l, uint32_t tokens, const float* x, const float* residual, const float* weights);
    void watch_gates(uint32_t l, std::span<const uint32_t> neurons, uint32_t tokens, const float* x,
                     const float* residual);

    /// Where these are set, they are shown what every step of a layer gives, and the keys and values as they go into
    /// the cache. Of a batch's tokens.
    std::function<void(uint32_t l, const char* step, std::span<const float>)> parts;
    std::function<void(uint32_t l, std::span<const float> keys, std::span<const float> values)> cached;

    /// Logits of one token from the end of the residual stream, neither scaled nor capped.
    std::span<const float> head(const float* x, FeedStats& stats);

  private:
    const Weights& weights_;
    host::Team& team_;
    Shape shape_;
    std::vector<double> frequencies_[2];       // of rope; the second ones by Config::window_base
    std::vector<uint32_t> all_, predicted_;    // neurons of a layer: all, and those that may fire
    std::vector<host::SignRows> signs_;        // of layers first_layer and up, for Predictor::sign
    std::vector<uint32_t> mask_;
    std::span<const uint32_t> predict(uint32_t l, const float* x, const float* residual, FeedStats& stats);
    Cold route(uint32_t l, uint32_t tokens, const float* x, FeedStats& stats);
    std::vector<float> expert_weights_;    // (batch, experts)
    std::vector<host::KvCache> caches_;    // of layers first_layer and up
    void add_block(std::vector<float>& y, const std::vector<float>& post_norm, const std::vector<float>& bias,
                   uint32_t tokens, float* x) const;
    std::vector<float> norm_, q_, k_, v_, mixed_, attended_, out_, logits_, gates_;
    host::Inputs inputs_;
    host::ExpertScratch scratch_;
    host::AttendScratch attend_scratch_;
};

}    // namespace hearth
