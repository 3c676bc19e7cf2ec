// A copy of a model with its matrices in another format, written tensor by tensor.
#pragma once

#include "engine/file/gguf.h"
#include "engine/model/quantisations.h"

#include <functional>
#include <memory>
#include <optional>

namespace hearth {

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
    std::filesystem::path importance = {};    // a file of what errors in each column count; empty: all count alike
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
