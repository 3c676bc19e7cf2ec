// What an mmproj file holds: a CLIP vision tower (arXiv 2103.00020) and LLaVA's projector behind it (2304.08485,
// 2310.03744), by llama.cpp's names.
#pragma once

#include "engine/model/weights.h"
#include "engine/vision/preprocess.h"

#include <array>

namespace hearth {

/// y = weight x + bias, then a LayerNorm where the projector has one (Yi-VL's).
struct Projection {
    Matrix weight;
    std::vector<float> bias;               // (weight.rows)
    std::vector<float> norm, norm_bias;    // likewise, or empty
};

struct TowerWeights {
    ImageShape shape;    // of what it looks at

    Matrix filters;                                      // (dim, 3 patch^2): channel by channel, row by row
    std::vector<float> filter_bias;                      // (dim), or empty
    std::vector<float> class_embedding;                  // (dim)
    Matrix positions;                                    // (1 + patches, dim): the class token's comes first
    std::vector<float> before_norm, before_norm_bias;    // (dim), of what enters the layers

    /// The layers that are run, and nothing else: a model without words.
    Weights blocks;

    std::array<Projection, 2> projector;    // a GELU (the exact one) between them
    float projector_eps = 1e-5f;
    std::vector<float> newline;    // (width), ends each row of patches of a picture in tiles; or empty

    const Config& config() const { return blocks.config; }
    uint32_t patches_a_side() const { return shape.side / shape.patch; }
    uint32_t patches() const { return patches_a_side() * patches_a_side(); }
    uint32_t width() const { return projector[1].weight.rows; }    // of what comes out: the language model's
};

/// Reads an mmproj file, whose tensors stay mapped. Throws Error: no such file, a tower or projector of a kind that
/// this version does not know (named), a missing, unused or wrong tensor (named, with what was expected).
TowerWeights read_tower(std::shared_ptr<const Gguf> file);

/// What looks at images for LLaVA 1.5: CLIP's ViT-L/14 at 336 pixels in F16, and a projector to rows of such a width.
/// Described only: for questions about sizes.
TowerWeights describe_usual_tower(uint32_t width);

}    // namespace hearth
