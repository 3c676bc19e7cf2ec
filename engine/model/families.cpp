#include "engine/model/families.h"

#include <algorithm>

namespace hearth {

namespace {

using host::PairOrder;

// The tensors of a GGUF file of each: https://github.com/ggml-org/llama.cpp/blob/master/gguf-py/gguf/constants.py
constexpr Family families[] = {
    {.architecture = "llama", .experts = true},    // Mistral's and Mixtral's files say llama, too
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
    {.architecture = "gemma",
     .pairs = PairOrder::halves,
     .activation = host::Activation::gelu_tanh,
     .wide_embedding = true},
    {.architecture = "gemma2",
     .pairs = PairOrder::halves,
     .activation = host::Activation::gelu_tanh,
     .post_norms = true,
     .wide_embedding = true,
     .score_cap = 50,
     .logit_cap = 30,
     .window = 4096,
     .window_period = 2,
     .broad_layers = 46},
    {.architecture = "gemma3",
     .pairs = PairOrder::halves,
     .activation = host::Activation::gelu_tanh,
     .head_norms = true,
     .post_norms = true,
     .wide_embedding = true,
     .window_period = 6,
     .window_base = 10000,
     .broad_layers = 62},
    {.architecture = "falcon",
     .pairs = PairOrder::halves,
     .activation = host::Activation::gelu,
     .layer_norms = true,
     .gated = false,
     .fused = true,
     .parallel = true},
    {.architecture = "minicpm",
     .embedding_scale = 12,
     .depth_scale = 1.4f,
     .base_width = 256},    // MiniCPM-2B's, whose first files have no keys
    {.architecture = "granite"},
};

}    // namespace

std::span<const Family> all_families() { return families; }

const Family* find_family(std::string_view architecture)
{
    const Family* found = std::ranges::find(families, architecture, &Family::architecture);
    return found == std::end(families) ? nullptr : found;
}

}    // namespace hearth
