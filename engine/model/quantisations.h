// What a model can be quantised to: which type its matrices get, and which of them get a better one.
#pragma once

#include "shaders/blocks.h"

#include <span>
#include <string_view>

namespace hearth {

struct Config;

/// Whether something holds for a layer of a model.
using LayerCondition = bool (*)(const Config&, uint32_t layer);

bool every_layer(const Config&, uint32_t layer);
bool first_two(const Config&, uint32_t layer);
bool first_four(const Config&, uint32_t layer);
bool first_sixteenth(const Config&, uint32_t layer);
bool first_eighth(const Config&, uint32_t layer);
bool ends_and_thirds(const Config&, uint32_t layer);    // the first and the last eighth, and every third between
bool shared_keys(const Config&, uint32_t layer);        // at least four heads share theirs, and so the values
bool eight_experts(const Config&, uint32_t layer);

/// Matrices whose errors count more than those of others, and which a mixture keeps in a better type.
struct Exception {
    std::string_view part;    // of a layer: its tensors' names begin with it
    LayerCondition where;
    WeightType type;
};

/// What a model can be quantised to.
struct Quantisation {
    std::string_view name;    // on the command line
    WeightType matrices;
    WeightType sensitive;    // the output matrix (or the embedding where it serves as one) and predictors: few bytes,
                             // and their errors count more
    uint32_t file_type;      // general.file_type, by llama.cpp's numbers
    std::span<const Exception> exceptions = {};    // the first one that holds counts
};

/// The mixtures are those of llama.cpp's files of these names, whose authors found them by perplexity at equal size.
/// (Theirs also differ for Falcon, for 80 layers, and for some types where there is an importance matrix.) Attention of
/// eight experts is little beside them: its keys and values cost next to nothing.
namespace mixtures {

inline constexpr Exception only_experts[] = {
    // of types that are no mixtures otherwise
    {"attn_k.", eight_experts, WeightType::q8_0},
    {"attn_v.", eight_experts, WeightType::q8_0},
};
inline constexpr Exception q2_k[] = {
    {"attn_k.", eight_experts, WeightType::q8_0},      {"attn_v.", eight_experts, WeightType::q8_0},
    {"attn_v.", shared_keys, WeightType::q4_k},        {"attn_v.", every_layer, WeightType::q3_k},
    {"attn_qkv.", shared_keys, WeightType::q4_k},      {"attn_qkv.", every_layer, WeightType::q3_k},
    {"attn_output.", eight_experts, WeightType::q5_k}, {"attn_output.", every_layer, WeightType::q3_k},
    {"ffn_down", every_layer, WeightType::q3_k},
};
inline constexpr Exception q2_k_s[] = {
    {"attn_k.", eight_experts, WeightType::q8_0}, {"attn_v.", eight_experts, WeightType::q8_0},
    {"attn_v.", shared_keys, WeightType::q4_k},   {"attn_qkv.", shared_keys, WeightType::q4_k},
    {"ffn_down", first_eighth, WeightType::q4_k},
};
inline constexpr Exception q3_k_s[] = {
    {"attn_k.", eight_experts, WeightType::q8_0},
    {"attn_v.", eight_experts, WeightType::q8_0},
    {"attn_output.", eight_experts, WeightType::q5_k},
};
inline constexpr Exception q3_k_m[] = {
    {"attn_k.", eight_experts, WeightType::q8_0},      {"attn_v.", eight_experts, WeightType::q8_0},
    {"attn_v.", first_two, WeightType::q5_k},          {"attn_v.", every_layer, WeightType::q4_k},
    {"attn_qkv.", first_two, WeightType::q5_k},        {"attn_qkv.", every_layer, WeightType::q4_k},
    {"attn_output.", eight_experts, WeightType::q5_k}, {"attn_output.", every_layer, WeightType::q4_k},
    {"ffn_down", first_sixteenth, WeightType::q5_k},   {"ffn_down", every_layer, WeightType::q4_k},
};
inline constexpr Exception q3_k_l[] = {
    {"attn_k.", eight_experts, WeightType::q8_0},    {"attn_v.", eight_experts, WeightType::q8_0},
    {"attn_v.", every_layer, WeightType::q5_k},      {"attn_qkv.", every_layer, WeightType::q5_k},
    {"attn_output.", every_layer, WeightType::q5_k}, {"ffn_down", every_layer, WeightType::q5_k},
};
inline constexpr Exception q4_k_s[] = {
    {"attn_k.", eight_experts, WeightType::q8_0},      {"attn_v.", eight_experts, WeightType::q8_0},
    {"attn_v.", first_four, WeightType::q5_k},         {"attn_qkv.", first_four, WeightType::q5_k},
    {"attn_output.", eight_experts, WeightType::q5_k}, {"ffn_down", first_eighth, WeightType::q5_k},
};
inline constexpr Exception q4_k_m[] = {
    {"attn_k.", eight_experts, WeightType::q8_0},      {"attn_v.", eight_experts, WeightType::q8_0},
    {"attn_v.", ends_and_thirds, WeightType::q6_k},    {"attn_qkv.", ends_and_thirds, WeightType::q6_k},
    {"attn_output.", eight_experts, WeightType::q5_k}, {"ffn_down", ends_and_thirds, WeightType::q6_k},
};
inline constexpr Exception q5_k_m[] = {
    {"attn_k.", eight_experts, WeightType::q8_0},    {"attn_v.", eight_experts, WeightType::q8_0},
    {"attn_v.", ends_and_thirds, WeightType::q6_k},  {"attn_qkv.", ends_and_thirds, WeightType::q6_k},
    {"ffn_down", ends_and_thirds, WeightType::q6_k},
};
inline constexpr Exception iq4_nl[] = {
    {"attn_k.", eight_experts, WeightType::q8_0},      {"attn_v.", eight_experts, WeightType::q8_0},
    {"attn_v.", shared_keys, WeightType::q5_k},        {"attn_qkv.", shared_keys, WeightType::q5_k},
    {"attn_output.", eight_experts, WeightType::q5_k}, {"ffn_down", first_eighth, WeightType::q5_k},
};

}    // namespace mixtures

inline constexpr Quantisation quantisations[] = {
    {"f16", WeightType::f16, WeightType::f16, 1},
    {"bf16", WeightType::bf16, WeightType::bf16, 32},
    {"q8_0", WeightType::q8_0, WeightType::q8_0, 7},
    {"q6_k", WeightType::q6_k, WeightType::q6_k, 18, mixtures::only_experts},
    {"q5_k_m", WeightType::q5_k, WeightType::q6_k, 17, mixtures::q5_k_m},
    {"q5_k_s", WeightType::q5_k, WeightType::q6_k, 16, mixtures::only_experts},
    {"q4_k_m", WeightType::q4_k, WeightType::q6_k, 15, mixtures::q4_k_m},
    {"q4_k_s", WeightType::q4_k, WeightType::q6_k, 14, mixtures::q4_k_s},
    {"q3_k_l", WeightType::q3_k, WeightType::q6_k, 13, mixtures::q3_k_l},
    {"q3_k_m", WeightType::q3_k, WeightType::q6_k, 12, mixtures::q3_k_m},
    {"q3_k_s", WeightType::q3_k, WeightType::q6_k, 11, mixtures::q3_k_s},
    {"q2_k", WeightType::q2_k, WeightType::q6_k, 10, mixtures::q2_k},
    {"q2_k_s", WeightType::q2_k, WeightType::q6_k, 21, mixtures::q2_k_s},
    {"q5_1", WeightType::q5_1, WeightType::q6_k, 9, mixtures::only_experts},
    {"q5_0", WeightType::q5_0, WeightType::q6_k, 8, mixtures::only_experts},
    {"q4_1", WeightType::q4_1, WeightType::q6_k, 3, mixtures::only_experts},
    {"q4_0", WeightType::q4_0, WeightType::q8_0, 2, mixtures::only_experts},
    {"iq4_nl", WeightType::iq4_nl, WeightType::q6_k, 25, mixtures::iq4_nl},
};

/// nullptr where there is no such name.
const Quantisation* find_quantisation(std::string_view name);

}    // namespace hearth
