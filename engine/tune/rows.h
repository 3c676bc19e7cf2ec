// Which way of going over rows is the fastest on this device, by measuring; and none that gives wrong results, whatever
// its driver makes of it.
#pragma once

#include "engine/device/model.h"

#include <functional>
#include <optional>
#include <span>
#include <string>

namespace hearth {

/// Hears a sentence about what the user should know.
using Warn = std::function<void(const std::string&)>;

/// A few rows of any format with cols weights. Again and again they fill a memory, so that the result of every row of a
/// large matrix is known without computing them all.
class SampleRows {
  public:
    static constexpr uint32_t count = 61;
    SampleRows(WeightType type, uint32_t cols);
    const std::byte* row(uint64_t r) const { return &rows_[r % count * row_size_]; }    // as the device has it
    const float* decoded(uint64_t r) const { return &decoded_[r % count * cols_]; }

  private:
    uint64_t cols_, row_size_;
    std::vector<std::byte> rows_;
    std::vector<float> decoded_;
};

/// What a variant of a kernel did.
struct VariantRun {
    std::vector<float> y;
    double seconds;
};
using RunVariant = std::function<VariantRun(const RowVariant&)>;

/// The fastest of `variants` whose y is `want`, within a thousandth of the largest; nothing if all are wrong. From
/// `usual` on it tries all values of one property, keeps the best, and goes on to the next. `wrong` hears of every
/// variant whose result is not `want`.
std::optional<RowVariant> fastest_right(std::span<const RowVariant> variants, const RowVariant& usual,
                                        std::span<const double> want, const RunVariant& run,
                                        const std::function<void(const RowVariant&)>& wrong);

/// The fastest variants by class of matrix and weight type, by matrices in `bytes` of the device's memory. `warn` hears
/// of those that are wrong.
RowVariants tune_rows(const std::shared_ptr<vulkan::Device>& device, uint64_t bytes, const Progress& progress,
                      const Warn& warn);

}    // namespace hearth
