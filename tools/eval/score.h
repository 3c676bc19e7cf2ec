// What a number of right answers says, and how sure that is.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace hearth::eval {

/// An estimate between 0 and 1 and the 95 % around it.
struct Estimate {
    double value = 0, low = 0, high = 1;
};

/// A share of n by Wilson's interval, which holds at 0 and n, too. E. B. Wilson, JASA 22 (1927).
Estimate wilson(uint64_t right, uint64_t n);

/// The mean of values between 0 and 1, by its standard error.
Estimate mean_of(std::span<const double> values);

/// The probability that of k samples at least one is right, from n of which c were: without bias.
/// M. Chen et al., arXiv 2107.03374, section 2.1.
double pass_at_k(uint64_t n, uint64_t c, uint64_t k);

/// The value below which a share of them lies; 0 of none.
double quantile(std::vector<double> values, double share);

}    // namespace hearth::eval
