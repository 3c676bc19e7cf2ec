// The plain fp32 forward pass: what a model computes, with no thought of speed. The oracle of all other tests.
#pragma once

#include "engine/text/tokenizer.h"
#include "engine/model/weights.h"

#include <cmath>

namespace hearth {

class Reference {
  public:
    explicit Reference(const Weights& weights);

    /// Runs one token at the next position; returns its logits (vocab).
    std::vector<float> feed(Token token);

    /// Neurons of each layer whose activation was not zero for the last token.
    const std::vector<uint32_t>& active() const { return active_; }

    /// Of all tokens and layers so far, the least by which a chosen expert's score was above one that was not chosen;
    /// infinite without experts.
    float closest_choice() const { return closest_choice_; }

  private:
    struct Dense {    // a matrix in fp32
        uint32_t rows, cols;
        std::vector<float> w;
        explicit Dense(const Matrix& m);
        std::vector<float> operator*(const std::vector<float>& x) const;
        std::vector<float> row(uint32_t r) const
        {
            return {w.begin() + size_t(r) * cols, w.begin() + size_t(r + 1) * cols};
        }
    };
    struct Layer {
        Dense q, k, v, o, gate, up, down_t, router;
        std::vector<std::vector<float>> keys, values;    // (kv_heads * k_dim), (kv_heads * v_dim) per position
    };
    std::vector<float> attention(const AttentionWeights& w, Layer& layer, const std::vector<float>& x) const;
    std::vector<float> expert_weights(const Layer& layer, const std::vector<float>& x);
    std::vector<float> feed_forward(const host::FfnWeights& w, const Layer& layer, const std::vector<float>& x,
                                    uint32_t& active);

    const Weights& weights_;
    std::vector<double> frequencies_[2];    // of rope; the second ones by Config::window_base
    Dense embedding_, positions_, output_;
    std::vector<Layer> layers_;
    uint32_t position_ = 0;
    std::vector<uint32_t> active_;
    float closest_choice_ = INFINITY;
};

}    // namespace hearth
