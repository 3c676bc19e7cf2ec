// What the CPU does of a model: the embedding always, cold shares of split layers, and whole layers and the head where
// the device has them not.
#pragma once

#include "engine/model/weights.h"
#include "engine/run/batch.h"
#include "engine/plan/activity.h"
#include "engine/model/sparsity.h"
#include "engine/plan/stats.h"
#include "engine/plan/steps.h"
#include "host/attention.h"
#include "host/predict.h"

#include <array>
#include <span>

namespace hearth {

class HostLayers {
  public:
    struct Shape {
        uint32_t first_layer;     // layers from here on keep their KV cache here
        uint32_t batch, pages;    // rows at once, and pages of the KV cache
        host::KvTypes kv;
        std::vector<LayerSparsity> sparsity;
        // All layers share the memory of one layer's KV cache: where a batch is all of a text, and ends with it.
        bool one_cache = false;
        // Look at the gates that were predicted not to fire, too, and count those that do.
        bool check_predictor = false;
    };
    /// `weights` and `team` must outlive this.
    HostLayers(const Weights& weights, host::Team& team, Shape shape);

    /// x[r] = the embedding of row r, that of its token or its own; x is (rows, dim).
    void embed(const Batch& batch, float* x) const;

    /// A whole layer in place: x is the residual stream (rows, dim).
    void layer(uint32_t l, const Batch& batch, float* x, FeedStats& stats);

    /// Of all layers that are here.
    void copy_page(uint32_t from, uint32_t to);

    /// What the host has to do of a feed-forward block.
    struct Cold {
        std::span<const uint32_t> neurons;     // of the host
        std::span<const uint32_t> may_fire;    // of these, for any row; all of them where nobody knows, or of many rows
        std::span<const float>
            predicted;                     // (may_fire, rows): 1 where it may fire for this row, else 0; empty: all may
        const float* experts = nullptr;    // (rows, experts): their weights, as host::route gives them; null where
                                           // there are none
    };
    /// The share of the host's neurons of layer l's feed-forward block, valid until the next call; it and x, which is
    /// normalised, are (rows, dim).
    std::span<const float> cold_ffn(uint32_t l, const Cold& cold, host::Work work, uint32_t rows, const float* x,
                                    FeedStats& stats);
    /// Of the host's `neurons`, which are those of `groups` of an order, the ones that may fire for one of few rows: of
    /// row r those whose bit is set in masks[r], where bit i of word g is that of order[32 g + i].
    Cold predicted(std::span<const uint32_t> neurons, std::span<const uint32_t> groups, std::span<const uint32_t> order,
                   std::span<const uint32_t* const> masks);

    /// Of the host's neurons those of experts that one of few rows goes through.
    Cold of_experts(std::span<const uint32_t> neurons, uint32_t rows, const float* experts);

    const LayerSparsity& sparsity(uint32_t l) const { return shape_.sparsity[l]; }

    /// After cold_ffn of few rows with a cut, or with experts: those that fired for one of them.
    std::span<const uint32_t> fired() const { return scratch_.ffn.neurons; }

    /// Hears the gates of `neurons` of a batch, or the weights of the experts; x as in cold_ffn, `residual` before its
    /// norm.
    ActivitySink watch;
    void watch_experts(uint32_t l, uint32_t rows, const float* x, const float* residual, const float* weights);
    void watch_gates(uint32_t l, std::span<const uint32_t> neurons, uint32_t tokens, const float* x,
                     const float* residual);

    /// What a layer computes, in this order.
    enum class Part { attn_norm, q, k, v, attention, attn_output, ffn_norm, ffn, sum };
    static const char* part_name(Part part);    // for messages

    /// Where these are set, they are shown every part of a layer, and the keys and values as they go into the cache. Of
    /// a batch's tokens.
    std::function<void(uint32_t l, Part part, std::span<const float>)> parts;
    std::function<void(uint32_t l, std::span<const float> keys, std::span<const float> values)> cached;

    /// Logits of rows at the end of the residual stream, at most most_few of them, neither scaled nor capped: x is
    /// (rows, dim), they are (rows, vocab), valid until the next call.
    std::span<const float> head(uint32_t rows, const float* x, FeedStats& stats);

  private:
    /// Adds what a step of layer l did since `start`, which becomes now.
    void count(FeedStats& stats, uint32_t l, const Step& step, const Load& load, double& start) const;
    const std::vector<Step>& steps(uint32_t l, host::Work work) const { return steps_[l][size_t(work)]; }

    const Weights& weights_;
    host::Team& team_;
    Shape shape_;
    std::vector<std::array<std::vector<Step>, 2>> steps_;    // of each layer's attention, by host::Work
    std::vector<std::array<Step, 2>> cold_ffn_steps_;        // likewise
    Step head_step_;
    std::vector<double> frequencies_[2];    // of rope; the second ones by Config::window_base
    std::vector<uint32_t> all_, groups_;    // neurons of a layer, and groups of them
    std::vector<host::SignRows> signs_;     // of layers first_layer and up, for Predictor::sign
    std::vector<uint32_t> mask_;            // (rows, groups)
    std::vector<uint32_t> may_fire_;
    std::vector<float> predicted_;    // (may_fire_, rows)
    Cold predict(uint32_t l, uint32_t rows, const float* x, const float* residual, FeedStats& stats);
    Cold route(uint32_t l, host::Work work, uint32_t rows, const float* x, FeedStats& stats);
    std::vector<float> expert_weights_;    // (batch, experts)
    std::vector<host::KvCache> caches_;    // of layers first_layer and up
    void add_block(std::vector<float>& y, const std::vector<float>& post_norm, const std::vector<float>& bias,
                   uint32_t rows, float* x) const;
    void count_missed(uint32_t l, const Cold& cold, uint32_t rows, LayerCounts& counts);
    std::vector<float> norm_, q_, k_, v_, mixed_, attended_, out_, logits_, gates_;
    host::Inputs inputs_;
    host::LowRankScratch predict_scratch_;
    host::ExpertScratch scratch_;
    host::AttendScratch attend_scratch_;
};

}    // namespace hearth
