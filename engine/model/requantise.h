// A copy of a model with its matrices in another format, written tensor by tensor.
#pragma once

#include "engine/file/gguf.h"

#include <functional>
#include <memory>
#include <optional>
#include <span>

namespace hearth {

/// Matrices whose errors count more than those of others, and which a mixture keeps in a better type.
struct Exception {
    std::string_view part;    // of a layer: its tensors' names begin with it
    bool some_layers;         // only the first and the last eighth of the layers, and every third between
    WeightType type;
};

/// What llama.cpp's `quantize` calls Q4_K_M, and hubs by the same name, for dense models: its authors found these by
/// perplexity at equal size. (Theirs also depends on the family in Falcon's and with eight experts.)
inline constexpr Exception q4_k_m[] = {
    {"attn_v.", true, WeightType::q6_k},
    {"ffn_down", true, WeightType::q6_k},
    {"attn_qkv.", false, WeightType::q5_k},
};

/// What a model can be quantised to.
struct Quantisation {
    std::string_view name;    // on the command line
    WeightType matrices;
    WeightType sensitive;    // the output matrix (or the embedding where it serves as one) and predictors: few bytes,
                             // and their errors count more
    uint32_t file_type;      // general.file_type, by llama.cpp's numbers
    std::span<const Exception> exceptions = {};
};

inline constexpr Quantisation quantisations[] = {
    {"f16", WeightType::f16, WeightType::f16, 1},
    {"bf16", WeightType::bf16, WeightType::bf16, 32},
    {"q8_0", WeightType::q8_0, WeightType::q8_0, 7},
    {"q6_k", WeightType::q6_k, WeightType::q6_k, 18},
    {"q4_k_m", WeightType::q4_k, WeightType::q6_k, 15, q4_k_m},
    {"q4_0", WeightType::q4_0, WeightType::q8_0, 2},
};

/// nullptr where there is no such name.
const Quantisation* find_quantisation(std::string_view name);

struct RequantisedTensor {
    std::string name;             // in the copy
    std::string_view from, to;    // names of the formats
    uint64_t weights = 0;
    uint64_t bytes_before = 0, bytes = 0;
    double squares = 0;          // sum of w^2
    double error_squares = 0;    // sum of (w - stored w)^2
    std::string_view note;       // why the format is not the one asked for, or what else was done; may be empty

    double error() const;    // the root of the mean of (w - stored w)^2 over that of w^2
};

struct Requantised {
    std::vector<RequantisedTensor> tensors;
    std::vector<std::string> notes;    // sentences for the user

    RequantisedTensor total() const;
};

struct RequantiseOptions {
    std::optional<WeightType> sensitive = {};    // instead of the Quantisation's
    bool dense = false;                          // zeros are stored like other weights
    bool by_neurons = false;                     // the down projection, also where no neuron is left out
    bool plain = false;    // as other programs read it: down projections by columns, no predictors, no sparse rows
    unsigned threads = 0;
};

/// The header of what `requantise` would write without looking for zeros: for questions about sizes.
std::string requantised_header(const std::shared_ptr<const Gguf>& model, const Quantisation& how,
                               const RequantiseOptions& options = {});

/// Writes `model` to `out`, its matrices as `how` says. Where that is F16 or Q8_0, a matrix that its zeros make at
/// least a tenth smaller has sparse rows; those of experts never have. Down projections of ReLU models and of experts
/// are stored by neurons (ffn_down_t), others as they are; vectors as F32, a router as it is, but for a plain copy,
/// which has down projections by columns and leaves out what other programs do not know; a matrix whose rows are no
/// whole blocks in a type with blocks of 32, or as F16. A tensor that is of its format already is copied. Keys are
/// kept, but for the file's type, and for a profile if a weight changed: it would be another model's. The model must be
/// one that can be run. `progress` is told shares of the work; what it throws ends the work, and `out` appears whole or
/// not at all. Throws Error.
Requantised requantise(const std::shared_ptr<const Gguf>& model, const Quantisation& how,
                       const RequantiseOptions& options, const std::filesystem::path& out,
                       const std::function<void(double)>& progress);

}    // namespace hearth
