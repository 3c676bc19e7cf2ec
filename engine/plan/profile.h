// A profile: which neurons of a model fire on a text, how often and together, and how well predictors tell. Plain
// numbers, kept in a GGUF file of keys `hearth.profile.*` beside the model or in it.
#pragma once

#include "engine/file/gguf.h"
#include "engine/plan/placement.h"

#include <optional>
#include <span>
#include <string>
#include <vector>

namespace hearth {

struct LayerProfile {
    std::vector<uint64_t> fired;    // (neurons, or experts): positions at which the neuron's gate was positive, or that
                                    // went through the expert
    std::vector<uint32_t> samples;    // (sampled positions, words): bit n % 32 of word n / 32: neuron n fired there

    // Of sampled positions, over all neurons:
    std::vector<uint64_t> agreeing;          // (dim + 1): how often so many signs of x and the gate's row agreed
    std::vector<uint64_t> agreeing_fired;    // likewise where the neuron fired
    uint64_t predicted = 0;                  // by the low-rank predictor
    uint64_t predicted_fired = 0;            // of these, those that fired
    std::vector<uint64_t> activation;        // (activation_bins): by |act(gate . x)|, for models that never are zero
};

/// Cuts for models that never are zero, and what they cost on the text they were chosen on.
struct Calibration {
    double sparsity = 0;        // share of neurons left out
    std::vector<float> cuts;    // per layer, of |act(gate . x)|
    double dense_nll = 0;       // mean negative log likelihood without cuts
    double sparse_nll = 0;      // and with them
    uint64_t tokens = 0;        // that both were measured on
};

struct Profile {
    std::string model;         // see model_key
    uint64_t positions = 0;    // counted in `fired`
    uint32_t stride = 1;       // every so many positions one is sampled
    uint64_t sampled = 0;      // positions in `samples`
    struct Text {
        std::string key;                 // of its tokens
        uint64_t done = 0, total = 0;    // windows
    };
    std::vector<Text> texts;
    std::vector<LayerProfile> layers;
    std::optional<Calibration> calibration;
};

/// Sampled positions are at most so many; when there are more, every second one is dropped.
inline constexpr uint64_t most_samples = 512;

/// Bins of |act(gate . x)|: sixteen to a doubling, the first below 2^-12.
inline constexpr uint32_t activation_bins = 320;
uint32_t activation_bin(float magnitude);
float activation_edge(uint32_t bin);    // its lower edge

/// What tells one model's content from another's, whatever keys its file has: its tensors' names, types and shapes, and
/// some of their bytes.
std::string model_key(const Gguf& model);

Profile empty_profile(const Gguf& model, uint32_t layers, uint32_t neurons, uint32_t dim);

/// Where the profile of a model is looked for if it has none within.
std::filesystem::path profile_path(const std::filesystem::path& model);

/// The profile in a file, which may be the model's own. Throws Error: not a profile, damaged, or of another model.
Profile read_profile(const Gguf& file, const Gguf& model, uint32_t layers, uint32_t neurons, uint32_t dim);
bool has_profile(const Gguf& file);
void write_profile(const std::filesystem::path& path, const Profile& profile);
void embed_profile(const Gguf& model, const Profile& profile, const std::filesystem::path& out);

/// Adds what `from` counted. Throws Error if a text is in both, or the models differ.
void merge(Profile& into, Profile from);

/// Drops samples until there are at most `most_samples`.
void thin_samples(Profile& profile);

/// The neurons of a layer so that groups of equally hot ones come first the hotter they are, and in a group are such
/// that fire together.
std::vector<uint32_t> placement_order(const LayerProfile& layer, uint64_t sampled);

/// How a predictor did on the sampled positions.
struct PredictorQuality {
    double recall = 1;       // of what fired, the share that was predicted
    double precision = 1;    // of what was predicted, the share that fired
    double predicted = 1;    // of all, the share that was predicted
};
/// The most signs that may be asked to agree for at least that recall; and what asking for so many gives.
uint32_t sign_threshold(const LayerProfile& layer, double recall);
PredictorQuality sign_quality(const LayerProfile& layer, uint32_t agreements);
PredictorQuality lowrank_quality(const LayerProfile& layer);

/// The cut that leaves out that share of the neurons.
float activation_cut(const LayerProfile& layer, double sparsity);

}    // namespace hearth
