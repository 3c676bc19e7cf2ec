// Norms of vectors.
#pragma once

#include <cstdint>
#include <span>

namespace hearth::host {

/// Without a bias an RMS norm, y_i = weight_i x_i / sqrt(mean(x^2) + eps) (arXiv 1910.07467); with one a LayerNorm,
/// y_i = weight_i (x_i - mean(x)) / sqrt(mean((x - mean(x))^2) + eps) + bias_i (arXiv 1607.06450).
struct Norm {
    std::span<const float> weight, bias;
    float eps;
};

/// y may be x; both have as many elements as the weight.
void normalise(const Norm& norm, const float* x, float* y);

}    // namespace hearth::host
