// What a model's file says besides its tensors, read and checked: for weights.cpp.
#pragma once

#include "engine/model/weights.h"

namespace hearth {

inline constexpr uint32_t max_context = 1 << 24;    // far above every model there is

const Family& family_of(const Gguf& file);

/// A whole number within limits.
uint32_t checked(const Gguf& file, std::string_view what, uint64_t n, uint32_t most);

/// All but what tensors say: `vocab`, and rope_factors that are tensors.
Config read_config(const Gguf& file);

/// One threshold of the predictor for every layer.
std::vector<float> read_thresholds(const Gguf& file, const Config& c);

/// What YaRN (arXiv 2309.00071, section 3.2) divides the frequencies of pairs by: 1 where a pair turns more often than
/// beta_fast times within the context that the model was first trained for, the whole factor where it turns less often
/// than beta_slow times, and in between a mean with weights that are linear in the pair's number; ext_factor is how
/// much of the faster pairs' frequency is kept. Magnitude: section 3.4, with its root in log_multiplier's direction as
/// DeepSeek's models have it (arXiv 2405.04434, 3.1.2); attn_factor of YaRN takes its place, as the `attention_factor`
/// that it comes from does in transformers.
void read_yarn(const Gguf& file, const std::string& prefix, Config& c);

/// The windows of all layers: one length, and which layers have it. That stands in the file as a list, or as the period
/// in which one has none.
std::vector<uint32_t> read_windows(const Gguf& file, const Family& family, const Config& c);

}    // namespace hearth
