#include "tools/eval/score.h"

#include <algorithm>
#include <cmath>

namespace hearth::eval {

namespace {

constexpr double z = 1.959963984540054;    // of 95 %

}    // namespace

Estimate wilson(uint64_t right, uint64_t n)
{
    if (n == 0) return {};
    const double p = double(right) / double(n), zz = z * z / double(n), scale = 1 / (1 + zz);
    const double middle = scale * (p + zz / 2),
                 half = scale * z * std::sqrt(p * (1 - p) / double(n) + zz * zz / 4 / (z * z));
    return {p, right == 0 ? 0 : std::max(0.0, middle - half), right == n ? 1 : std::min(1.0, middle + half)};
}

Estimate mean_of(std::span<const double> values)
{
    if (values.empty()) return {};
    double sum = 0, squares = 0;
    for (const double x : values) sum += x;
    const double n = double(values.size()), mean = sum / n;
    if (values.size() == 1) return {mean, 0, 1};
    for (const double x : values) squares += (x - mean) * (x - mean);
    const double half = z * std::sqrt(squares / (n - 1) / n);
    return {mean, std::max(0.0, mean - half), std::min(1.0, mean + half)};
}

double pass_at_k(uint64_t n, uint64_t c, uint64_t k)
{
    if (n < c + k) return 1;
    double none = 1;
    for (uint64_t i = n - c + 1; i <= n; ++i) none *= 1 - double(k) / double(i);
    return 1 - none;
}

double quantile(std::vector<double> values, double share)
{
    if (values.empty()) return 0;
    const auto at = values.begin() + std::ptrdiff_t(share * double(values.size() - 1));
    std::nth_element(values.begin(), at, values.end());
    return *at;
}

}    // namespace hearth::eval
