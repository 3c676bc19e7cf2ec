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

    /// What the matrices of a layer were multiplied with for the last token. Of experts, the neurons of those that it
    /// did not go through are 0, and no strength is multiplied in: `experts` are the strengths.
    struct Inputs {
        std::vector<float> attention, attn_output, ffn, ffn_down, experts;
    };
    const std::vector<Inputs>& inputs() const { return inputs_; }
    const std::vector<float>& output_input() const { return output_input_; }

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
    std::vector<float> attention(const AttentionWeights& w, Layer& layer, const std::vector<float>& x,
                                 Inputs& inputs) const;
    std::vector<float> expert_weights(const Layer& layer, const std::vector<float>& x);
    std::vector<float> feed_forward(const host::FfnWeights& w, const Layer& layer, const std::vector<float>& x,
                                    uint32_t& active, Inputs& inputs);

    const Weights& weights_;
    std::vector<double> frequencies_[2];    // of rope; the second ones by Config::window_base
    Dense embedding_, positions_, output_;
    std::vector<Layer> layers_;
    uint32_t position_ = 0;
    std::vector<uint32_t> active_;
    std::vector<Inputs> inputs_;
    std::vector<float> output_input_;
    float closest_choice_ = INFINITY;
};

}    // namespace hearth
