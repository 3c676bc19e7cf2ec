// Sources: LLaMA (arXiv 2302.13971), RoFormer (2104.09864), GLU variants (2002.05202), Mixtral (2401.04088).
#include "engine/run/reference.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>

namespace hearth {

namespace {

using Vector = std::vector<float>;

Vector layernorm(const Vector& x, const Vector& weight, const Vector& bias,
                 float eps)    // y_i = w_i (x_i - mean(x)) / sqrt(variance(x) + eps) + b_i
{
    float mean = 0, variance = 0;
    for (const float v : x) mean += v / float(x.size());
    for (const float v : x) variance += (v - mean) * (v - mean) / float(x.size());
    Vector y(x.size());
    for (size_t i = 0; i < x.size(); ++i) y[i] = weight[i] * (x[i] - mean) / std::sqrt(variance + eps) + bias[i];
    return y;
}

Vector rmsnorm(const Vector& x, const Vector& weight, float eps)    // y_i = w_i x_i / sqrt(mean(x^2) + eps)
{
    float squares = 0;
    for (const float v : x) squares += v * v;
    const float scale = 1.0f / std::sqrt(squares / float(x.size()) + eps);
    Vector y(x.size());
    for (size_t i = 0; i < x.size(); ++i) y[i] = weight[i] * x[i] * scale;
    return y;
}

/// Each pair of a head, (2i, 2i + 1) or (i, i + rope_dim / 2), turns by position * frequency_i and grows by the
/// magnitude.
void rope(Vector& x, const Config& c, const std::vector<double>& frequencies, uint32_t position)
{
    const size_t pairs = frequencies.size();
    for (size_t head = 0; head < x.size(); head += c.head_dim)
        for (size_t i = 0; i < pairs; ++i) {
            const double angle = position * frequencies[i];
            const float cosine = float(c.rope_magnitude * std::cos(angle)),
                        sine = float(c.rope_magnitude * std::sin(angle));
            const bool halves = c.pairs == host::PairOrder::halves;
            float &first = x[head + (halves ? i : 2 * i)], &second = x[head + (halves ? i + pairs : 2 * i + 1)];
            const float a = first, b = second;
            first = a * cosine - b * sine;
            second = a * sine + b * cosine;
        }
}

/// A neuron's strength by its two products; relu gives 0 up to its floor.
float glu(const Config& c, float gate, float up)
{
    switch (c.activation) {
    case host::Activation::relu: return gate > c.floor ? gate * up : 0.0f;
    case host::Activation::silu: return gate / (1.0f + std::exp(-gate)) * up;
    case host::Activation::drelu: return std::max(gate, 0.0f) * std::max(up, 0.0f);
    case host::Activation::gelu: return 0.5f * gate * (1.0f + std::erf(gate / std::sqrt(2.0f))) * up;
    case host::Activation::gelu_tanh:
        return 0.5f * gate *
               (1.0f + std::tanh(std::sqrt(2 / std::numbers::pi_v<float>) * (gate + 0.044715f * gate * gate * gate))) *
               up;
    case host::Activation::quick_gelu: return gate / (1.0f + std::exp(-1.702f * gate)) * up;
    }
    return 0;
}

Vector norm(const Config& c, const Vector& x, const Vector& weight, const Vector& bias)
{
    return c.layer_norm ? layernorm(x, weight, bias, c.norm_eps) : rmsnorm(x, weight, c.norm_eps);
}

void add(Vector& x, const Vector& y)
{
    for (size_t i = 0; i < y.size(); ++i) x[i] += y[i];
}

/// x += residual_scale norm(y), or without the norm where it has no weight
void add_block(const Config& c, Vector& x, Vector y, const Vector& post_norm)
{
    if (!post_norm.empty()) y = rmsnorm(y, post_norm, c.norm_eps);
    for (size_t i = 0; i < y.size(); ++i) x[i] += c.residual_scale * y[i];
}

float capped(float x, float cap) { return cap > 0 ? cap * std::tanh(x / cap) : x; }

void norm_heads(Vector& x, const Vector& weight, float eps)    // each head by itself; nothing without a weight
{
    const size_t n = weight.size();
    for (size_t head = 0; n > 0 && head < x.size(); head += n) {
        const Vector y = rmsnorm({x.begin() + head, x.begin() + head + n}, weight, eps);
        std::copy(y.begin(), y.end(), x.begin() + head);
    }
}

}    // namespace

Reference::Dense::Dense(const Matrix& m) : rows(m.rows), cols(m.cols), w(size_t(m.rows) * m.cols)
{
    const host::RowKernels& kernels = host::kernels(host::Isa::plain)->of(m.type);
    for (uint32_t r = 0; r < rows; ++r) kernels.decode(m.row(r), &w[size_t(r) * cols], cols);
}

Vector Reference::Dense::operator*(const Vector& x) const    // y_r = sum_i w_ri x_i
{
    Vector y(rows);
    for (uint32_t r = 0; r < rows; ++r) {
        float sum = 0;
        for (uint32_t i = 0; i < cols; ++i) sum += w[size_t(r) * cols + i] * x[i];
        y[r] = sum;
    }
    return y;
}

Reference::Reference(const Weights& weights)
    : weights_(weights), frequencies_{rope_frequencies(weights.config), rope_frequencies(weights.config, true)},
      embedding_(weights.embedding), positions_(weights.positions), output_(weights.output)
{
    for (const LayerWeights& l : weights.layers)
        layers_.push_back({Dense(l.attention.q),
                           Dense(l.attention.k),
                           Dense(l.attention.v),
                           Dense(l.attention.o),
                           Dense(l.ffn.gate),
                           Dense(l.ffn.up),
                           Dense(l.ffn.down_t),
                           Dense(l.router.scores),
                           {},
                           {}});
    active_.resize(layers_.size());
    inputs_.resize(layers_.size());
}

Vector Reference::feed(Token token)
{
    const Config& c = weights_.config;
    Vector x = embedding_.row(token);
    for (float& v : x) v *= c.embedding_scale;
    if (positions_.rows > 0) add(x, positions_.row(first_position_row + position_));
    for (size_t l = 0; l < layers_.size(); ++l) {
        const LayerWeights& w = weights_.layers[l];
        const Vector input = x;
        add_block(c, x, attention(w.attention, layers_[l], norm(c, input, w.attn_norm, w.attn_norm_bias), inputs_[l]),
                  w.post_attn_norm);
        add(x, w.attention.o_bias);    // empty where the family has none, as down_bias
        add_block(c, x,
                  feed_forward(w.ffn, layers_[l], norm(c, c.parallel ? input : x, w.ffn_norm, w.ffn_norm_bias),
                               active_[l], inputs_[l]),
                  w.post_ffn_norm);
        add(x, w.down_bias);
    }
    ++position_;
    output_input_ = norm(c, x, weights_.output_norm, weights_.output_norm_bias);
    Vector logits = output_ * output_input_;
    for (float& v : logits) v = capped(c.logit_scale * v, c.logit_cap);
    return logits;
}

Vector Reference::attention(const AttentionWeights& w, Layer& layer, const Vector& x,
                            Inputs& inputs) const    // per head: sum_p softmax_p(score_scale q . k_p) v_p
{
    const Config& c = weights_.config;
    Vector q = layer.q * x, k = layer.k * x, v = layer.v * x;
    add(q, w.q_bias);    // empty where the family has none, and so are the norms
    add(k, w.k_bias);
    add(v, w.v_bias);
    norm_heads(q, w.q_norm, c.norm_eps);
    norm_heads(k, w.k_norm, c.norm_eps);
    rope(q, c, frequencies_[w.window_rope], position_);
    rope(k, c, frequencies_[w.window_rope], position_);
    layer.keys.push_back(std::move(k));
    layer.values.push_back(std::move(v));

    Vector mixed(size_t(c.heads) * w.v_dim);
    for (uint32_t h = 0; h < c.heads; ++h) {
        const float* query = &q[h * w.k_dim];
        const uint32_t kv_head = h / (c.heads / c.kv_heads);
        const uint32_t first = w.window && position_ >= w.window ? position_ - w.window + 1 : 0;    // that is looked at
        Vector weight(position_ + 1 - first);
        for (uint32_t p = first; p <= position_; ++p) {
            float score = 0;
            for (uint32_t i = 0; i < w.k_dim; ++i) score += query[i] * layer.keys[p][kv_head * w.k_dim + i];
            weight[p - first] = capped(c.score_scale * score, c.score_cap);
        }
        const float top = *std::max_element(weight.begin(), weight.end());
        float total = 0;
        for (float& e : weight) total += e = std::exp(e - top);
        for (uint32_t p = first; p <= position_; ++p)
            for (uint32_t i = 0; i < w.v_dim; ++i)
                mixed[h * w.v_dim + i] += weight[p - first] / total * layer.values[p][kv_head * w.v_dim + i];
    }
    inputs.attention = x;
    inputs.attn_output = mixed;
    return layer.o * mixed;
}

/// What each expert's neurons count: softmax of the scores for the experts of the highest scores, 0 for the others;
/// where there are none, 1 for all.
Vector Reference::expert_weights(const Layer& layer, const Vector& x)
{
    const Config& c = weights_.config;
    if (c.experts == 0) return Vector(c.neurons, 1.0f);
    const Vector scores = layer.router * x;
    std::vector<uint32_t> ranked(c.experts);
    std::iota(ranked.begin(), ranked.end(), 0);
    std::stable_sort(ranked.begin(), ranked.end(), [&](uint32_t a, uint32_t b) { return scores[a] > scores[b]; });
    if (c.experts_used < c.experts)
        closest_choice_ =
            std::min(closest_choice_, scores[ranked[c.experts_used - 1]] - scores[ranked[c.experts_used]]);
    float total = 0;
    for (uint32_t i = 0; i < (c.normalise_experts ? c.experts_used : c.experts); ++i)
        total += std::exp(scores[ranked[i]] - scores[ranked[0]]);
    Vector weights(c.experts);
    for (uint32_t i = 0; i < c.experts_used; ++i)
        weights[ranked[i]] = std::exp(scores[ranked[i]] - scores[ranked[0]]) / total;
    return weights;
}

/// sum_n weight_n act(gate_n . x + bias_n) (up_n . x) down_n; without a gate the third factor is 1
Vector Reference::feed_forward(const host::FfnWeights& w, const Layer& layer, const Vector& x, uint32_t& active,
                               Inputs& inputs)
{
    const Vector weights = expert_weights(layer, x);
    const Vector gate = layer.gate * x, up = w.up.rows > 0 ? layer.up * x : Vector(gate.size(), 1.0f);
    Vector y(x.size());
    inputs.ffn = x;
    inputs.ffn_down.assign(layer.gate.rows, 0);
    inputs.experts = weights;
    active = 0;
    for (uint32_t n = 0; n < layer.gate.rows; ++n) {
        const float weight = weights[n / weights_.config.neurons_together()];
        if (weight != 0) inputs.ffn_down[n] = glu(weights_.config, gate[n] + w.bias_of(n), up[n]);
        const float h = weight * inputs.ffn_down[n];
        if (h == 0) continue;
        ++active;
        for (uint32_t i = 0; i < y.size(); ++i) y[i] += h * layer.down_t.w[size_t(n) * y.size() + i];
    }
    return y;
}

}    // namespace hearth
