// A vector in fixed point, for tests: what one instruction set reads of it, with the memory that it lies in.
#pragma once

#include "host/kernels.h"

#include <vector>

namespace hearth {

struct FixedVector {
    std::vector<int16_t> q;
    std::vector<float> scale, sum, half_sum;
    std::vector<host::GroupPlanes> planes, alone;
    std::vector<host::GroupWords> by_pairs, by_blocks;

    /// Of n floats, a multiple of 32.
    FixedVector(const host::Kernels& cpu, const float* x, uint32_t n)
        : q(n, 99), scale(n / host::fixed_block, __builtin_nanf("")), sum(scale), half_sum(2 * scale.size())
    {
        const uint32_t groups = n / host::group_numbers;
        planes.resize(cpu.reads_planes ? groups : 0);
        alone = planes;
        by_pairs.resize(cpu.reads_words ? groups : 0);
        by_blocks = by_pairs;
        const auto data = [](auto& v) { return v.empty() ? nullptr : v.data(); };
        to_ = {.q = q.data(),
               .scale = scale.data(),
               .sum = sum.data(),
               .planes = data(planes),
               .alone = data(alone),
               .by_pairs = data(by_pairs),
               .by_blocks = data(by_blocks),
               .half_sum = half_sum.data()};
        cpu.quantise(x, to_, n);
    }
    FixedVector(FixedVector&&) = default;

    /// As the only token, or as one of several.
    host::Input of(const float* x, bool is_alone) const
    {
        host::Input input = to_.of(x);
        (is_alone ? input.planes : input.alone) = nullptr;
        return input;
    }

  private:
    host::FixedPoint to_;
};

}    // namespace hearth
