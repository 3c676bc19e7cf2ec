#include "host/norm.h"

#include "host/kernels.h"

#include <cmath>

namespace hearth::host {

void normalise(const Norm& norm, const float* x, float* y)
{
    const size_t n = norm.weight.size();
    if (norm.bias.empty()) return kernels().rmsnorm(x, norm.weight.data(), y, uint32_t(n), norm.eps);
    double sum = 0, squares = 0;
    for (size_t i = 0; i < n; i++) sum += x[i];
    const float mean = float(sum / double(n));
    for (size_t i = 0; i < n; i++) squares += double(x[i] - mean) * double(x[i] - mean);
    const float scale = float(1 / std::sqrt(squares / double(n) + double(norm.eps)));
    for (size_t i = 0; i < n; i++) y[i] = norm.weight[i] * ((x[i] - mean) * scale) + norm.bias[i];
}

}    // namespace hearth::host
