#include "engine/model/families.h"

#include <algorithm>

namespace hearth {

namespace {

using host::PairOrder;

// The tensors of a GGUF file of each: https://github.com/ggml-org/llama.cpp/blob/master/gguf-py/gguf/constants.py
constexpr Family families[] = {
    {.architecture = "llama", .experts = true},                           // Mistral's and Mixtral's files say llama, too
    {.architecture = "bamboo", .activation = host::Activation::drelu},    // and TurboSparse-Mistral's
    {.architecture = "qwen2", .pairs = PairOrder::halves, .qkv_bias = true},
    {.architecture = "qwen3", .pairs = PairOrder::halves, .head_norms = true},
    {.architecture = "qwen3moe", .pairs = PairOrder::halves, .head_norms = true, .experts = true},
    {.architecture = "opt",
     .activation = host::Activation::relu,
     .qkv_bias = true,
     .layer_norms = true,
     .all_biases = true,
     .positions = true,
     .gated = false},
    {.architecture = "phi3", .pairs = PairOrder::halves, .fused = true},
};

}    // namespace

std::span<const Family> all_families() { return families; }

const Family* find_family(std::string_view architecture)
{
    const Family* found = std::ranges::find(families, architecture, &Family::architecture);
    return found == std::end(families) ? nullptr : found;
}

}    // namespace hearth
