// How fast the device multiplies a matrix with many tokens, in each way that it offers, by measuring; a way that gives
// wrong results has no speed.
#pragma once

#include "engine/tune/rows.h"

namespace hearth {

/// What is measured: a matrix (rows, cols) times so many tokens.
struct ProductSize {
    uint32_t rows, cols, tokens;
};

/// Of the formats `types`; the others' rates are 0. `warn` hears of ways that are wrong.
ProductRates tune_products(const std::shared_ptr<vulkan::Device>& device, std::span<const WeightType> types,
                           const ProductSize& size, const Progress& progress, const Warn& warn);

}    // namespace hearth
