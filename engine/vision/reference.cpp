// Sources: ViT (arXiv 2010.11929), CLIP (2103.00020), LLaVA (2304.08485, 2310.03744), GELU (1606.08415).
#include "engine/vision/reference.h"

#include "host/kernels.h"

#include <algorithm>
#include <cmath>

namespace hearth {

namespace {

using Vector = std::vector<float>;

Vector row(const Matrix& m, uint32_t r)
{
    Vector y(m.cols);
    host::kernels(host::Isa::plain)->of(m.type).decode(m.row(r), y.data(), m.cols);
    return y;
}

Vector multiply(const Matrix& m, const Vector& x)    // y_r = sum_i m_ri x_i
{
    Vector y(m.rows);
    for (uint32_t r = 0; r < m.rows; ++r) {
        const Vector w = row(m, r);
        double sum = 0;
        for (size_t i = 0; i < w.size(); ++i) sum += double(w[i]) * x[i];
        y[r] = float(sum);
    }
    return y;
}

void add(Vector& x, const Vector& y)
{
    for (size_t i = 0; i < y.size(); ++i) x[i] += y[i];
}

Vector layernorm(const Vector& x, const Vector& weight, const Vector& bias, float eps)
{
    double mean = 0, variance = 0;
    for (const float v : x) mean += v / double(x.size());
    for (const float v : x) variance += (v - mean) * (v - mean) / double(x.size());
    Vector y(x.size());
    for (size_t i = 0; i < x.size(); ++i)
        y[i] = float(weight[i] * (x[i] - mean) / std::sqrt(variance + double(eps)) + bias[i]);
    return y;
}

float gelu(float x) { return 0.5f * x * (1 + std::erf(x / std::sqrt(2.0f))); }

float activate(host::Activation a, float x)
{
    if (a == host::Activation::gelu) return gelu(x);
    return x / (1 + std::exp(a == host::Activation::silu ? -x : -1.702f * x));    // else the quick GELU
}

/// What the filters make of the patch in column px and row py.
Vector patch(const TowerWeights& w, std::span<const float> tile, uint32_t px, uint32_t py)
{
    Vector square;
    for (size_t channel = 0; channel < 3; ++channel)
        for (size_t y = py * w.shape.patch; y < (py + 1) * w.shape.patch; ++y)
            for (size_t x = px * w.shape.patch; x < (px + 1) * w.shape.patch; ++x)
                square.push_back(tile[(channel * w.shape.side + y) * w.shape.side + x]);
    Vector out = multiply(w.filters, square);
    add(out, w.filter_bias);    // empty in most
    return out;
}

/// Each row of x gets what all rows together give it: per head sum_p softmax_p(scale q . k_p) v_p.
std::vector<Vector> attention(const AttentionWeights& w, const Config& c, const std::vector<Vector>& x)
{
    std::vector<Vector> q, k, v, out;
    for (const Vector& r : x) {
        for (const auto& [to, matrix, bias] :
             {std::tuple(&q, &w.q, &w.q_bias), {&k, &w.k, &w.k_bias}, {&v, &w.v, &w.v_bias}}) {
            to->push_back(multiply(*matrix, r));
            add(to->back(), *bias);
        }
    }
    for (const Vector& query : q) {
        Vector mixed(c.dim);
        for (uint32_t h = 0; h < c.heads; ++h) {
            const size_t first = size_t(h) * c.head_dim;
            std::vector<double> weight;
            for (const Vector& key : k) {
                double score = 0;
                for (size_t i = first; i < first + c.head_dim; ++i) score += double(query[i]) * key[i];
                weight.push_back(c.score_scale * score);
            }
            const double top = *std::ranges::max_element(weight);
            double total = 0;
            for (double& e : weight) total += e = std::exp(e - top);
            for (size_t p = 0; p < v.size(); ++p)
                for (size_t i = first; i < first + c.head_dim; ++i) mixed[i] += float(weight[p] / total * v[p][i]);
        }
        out.push_back(multiply(w.o, mixed));
        add(out.back(), w.o_bias);
    }
    return out;
}

Vector feed_forward(const LayerWeights& w, const Vector& x)
{
    Vector hidden = multiply(w.ffn.gate, x);
    for (uint32_t n = 0; n < hidden.size(); ++n) hidden[n] = activate(w.ffn.activation, hidden[n] + w.ffn.bias_of(n));
    Vector y = multiply(w.ffn.down, hidden);
    add(y, w.down_bias);
    return y;
}

Vector project(const TowerWeights& w, const Projection& p, const Vector& x)
{
    Vector y = multiply(p.weight, x);
    add(y, p.bias);
    return p.norm.empty() ? y : layernorm(y, p.norm, p.norm_bias, w.projector_eps);
}

}    // namespace

std::vector<float> reference_features(const TowerWeights& w, std::span<const float> tile)
{
    const Config& c = w.config();
    std::vector<Vector> x = {w.class_embedding};
    for (uint32_t py = 0; py < w.patches_a_side(); ++py)
        for (uint32_t px = 0; px < w.patches_a_side(); ++px) x.push_back(patch(w, tile, px, py));
    for (uint32_t r = 0; r < x.size(); ++r) {
        add(x[r], row(w.positions, r));
        x[r] = layernorm(x[r], w.before_norm, w.before_norm_bias, c.norm_eps);
    }
    for (const LayerWeights& layer : w.blocks.layers) {
        std::vector<Vector> normed;
        normed.reserve(x.size());
        for (const Vector& r : x) normed.push_back(layernorm(r, layer.attn_norm, layer.attn_norm_bias, c.norm_eps));
        const std::vector<Vector> attended = attention(layer.attention, c, normed);
        for (size_t r = 0; r < x.size(); ++r) {
            add(x[r], attended[r]);
            add(x[r], feed_forward(layer, layernorm(x[r], layer.ffn_norm, layer.ffn_norm_bias, c.norm_eps)));
        }
    }
    Vector features;
    for (size_t r = 1; r < x.size(); ++r) {    // not the class token
        Vector hidden = project(w, w.projector[0], x[r]);
        for (float& v : hidden) v = gelu(v);
        const Vector y = project(w, w.projector[1], hidden);
        features.insert(features.end(), y.begin(), y.end());
    }
    return features;
}

}    // namespace hearth
