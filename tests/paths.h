// Where and how a model runs in tests, and models of all kinds to run there.
#pragma once

#include "engine/engine.h"
#include "tests/device_support.h"
#include "tests/random_model.h"

#include <random>

namespace hearth::tests {

/// Where and how a model runs.
struct Path {
    std::string device;     // "cpu", or the test device
    double resident = 1;    // share of the neurons on the device
    Sparsity sparsity = Sparsity::dense;
    bool without_fp16 = false, without_int_dot = false;
    uint32_t layers = 1000;    // at most so many on the device; the head only with all of them
    host::KvTypes kv = {};
    uint32_t batch = EngineOptions().batch;
    uint64_t ring = 0;    // bytes that the neurons of prompts pass through; 0: they are the host's
    bool cpu_experts = false;

    std::string name() const
    {
        return fmt::format("{}, {:.0f} % resident, {}{}{}{}{}", device, resident * 100,
                           sparsity == Sparsity::exact ? "exact" : "dense",
                           layers < 1000 ? ", the first layers only" : "", without_fp16 ? ", without fp16" : "",
                           without_int_dot ? ", without integer dot" : "",
                           ring          ? ", streamed"
                           : cpu_experts ? ", experts on the CPU"
                                         : "");
    }
};

/// The budget with which `place` puts just this share of the neurons of the first layers on the device.
inline uint64_t budget_for(const Needs& needs, double resident, size_t layers = 1000)
{
    uint64_t sum = needs.scratch + (layers < needs.layers.size() ? 0 : needs.head);
    for (const LayerNeeds& l : std::span(needs.layers).first(std::min(layers, needs.layers.size())))
        sum += l.attention + l.kv + uint64_t(std::lround(l.groups * resident)) * l.group;
    return sum;
}

inline EngineOptions options_for(const std::filesystem::path& model, const Path& path)
{
    EngineOptions o = {.model = model,
                       .without_fp16 = path.without_fp16,
                       .without_int_dot = path.without_int_dot,
                       .workshop = workshop};
    o.device = path.device;
    o.sparsity = path.sparsity;
    o.kv = path.kv;
    o.sequences = 2;    // some tests compare two sessions
    o.batch = path.batch;
    o.stream = path.ring ? 2 : 0;
    o.ring_bytes = path.ring;
    if (path.cpu_experts) o.cpu_experts = UINT32_MAX;
    const DownLayout layout = path.sparsity == Sparsity::dense ? DownLayout::dense : DownLayout::by_neurons;
    if (path.device == "cpu") return o;
    const Weights weights = describe_weights(std::make_shared<Gguf>(model), layout);
    const Needs needs = device_needs(weights, o);
    o.vram_budget = budget_for(needs, path.resident, path.layers) + (path.ring ? ring_bytes(needs, path.ring) : 0);
    return o;
}

inline void check_silence(Engine& engine)
{
    for (const std::string& message : engine.take_validation_messages()) FAIL_CHECK(message);
}

/// Mixtures of experts: few and many, small and large, one of them for a token and all of them, with down as either
/// converter has it.
inline std::vector<RandomModel> expert_models()
{
    const auto silu = host::Activation::silu;
    return {
        {.dim = 96, .neurons = 96, .experts = 8, .type = WeightType::f32, .activation = silu, .seed = 21},
        {.architecture = "qwen3moe",
         .dim = 96,
         .neurons = 32,
         .experts = 130,
         .experts_used = 7,
         .normalise_experts = false,
         .type = WeightType::f16,
         .activation = silu,
         .down_transposed = false,
         .seed = 22},
        {.architecture = "qwen3moe",
         .dim = 128,
         .neurons = 160,
         .experts = 5,
         .experts_used = 1,
         .type = WeightType::q8_0,
         .activation = silu,
         .seed = 23},
        {.dim = 256,
         .neurons = 64,
         .experts = 3,
         .experts_used = 3,
         .type = WeightType::q4_0,
         .activation = silu,
         .down_transposed = false,
         .seed = 24},
        {.dim = 64,
         .neurons = 224,
         .experts = 16,
         .experts_used = 3,
         .type = WeightType::bf16,
         .activation = host::Activation::relu,
         .seed = 25},
    };
}

/// One of each family, and of each way to scale positions, with neurons that fill no group.
inline std::vector<RandomModel> family_models()
{
    std::vector<RandomModel> models;
    for (const Family& family : all_families())
        for (const WeightType type : {WeightType::f32, WeightType::q8_0})
            models.push_back({.architecture = family.architecture,
                              .dim = 96,
                              .heads = 8,
                              .kv_heads = 2,
                              .head_dim = 24,
                              .neurons = 200,
                              .type = type,
                              .activation = family.activation,
                              .tied_head = family.qkv_bias,
                              .rope_factors = family.architecture == "llama",
                              .long_rope = family.architecture == "phi3",
                              .yarn = family.architecture == "qwen2",
                              .window = family.window_period || type == WeightType::q8_0 ? 5u : 0u,
                              .two_norms = family.parallel && type == WeightType::q8_0,
                              .down_transposed = type == WeightType::q8_0,
                              .seed = 11});
    models.push_back({.neurons = 200, .floor = 0.5f});
    return models;
}

inline std::vector<Token> random_ids(uint32_t vocab, size_t count, uint64_t seed)
{
    std::mt19937_64 random(seed);
    std::vector<Token> ids(count);
    for (Token& id : ids) id = Token(random() % vocab);
    return ids;
}

}    // namespace hearth::tests
