// What CLIP's and LLaVA's image processors make of a picture: squares of numbers for the tower, and the order in which
// the language model sees what the tower makes of them. Equal to Pillow 12.3 and transformers 5.24 (its processors on
// PIL): tests/image_test.cpp has what they gave, tests/image_processors_test.py asks them.
#pragma once

#include "engine/vision/image.h"

#include <array>

namespace hearth {

/// How LLaVA 1.5 makes a square of a picture. `pad`, as LLaVA was trained: with bars in the mean colour. `crop`, as
/// transformers' processor has it where nothing else is said: what is beyond the middle square is lost.
enum class ImageMode { pad, crop };

/// What the tower wants, from the model's file.
struct ImageShape {
    uint32_t side = 336, patch = 14;    // pixels; the side of a tile is a multiple of a patch's
    std::array<float, 3> mean = {0.48145466f, 0.4578275f, 0.40821073f};
    std::array<float, 3> deviation = {0.26862954f, 0.26130258f, 0.27577711f};
    // The resolutions of LLaVA 1.6 that the tiles may make up, height and width, multiples of `side`; empty for 1.5.
    std::vector<std::array<uint32_t, 2>> grid;
};

/// What the tower eats: `tiles` squares, each three planes (red, green, blue) of side x side numbers
/// (x / 255 - mean) / deviation. The first shows the whole picture; those of LLaVA 1.6 that follow show parts of it,
/// from the left to the right and then down: `rows` times `columns` of them.
struct Pixels {
    uint32_t tiles = 0, columns = 0, rows = 0;
    uint32_t width = 0, height = 0;    // of the picture
    std::vector<float> values;         // (tiles, 3, side, side)
};

/// The mode is of LLaVA 1.5 alone. Throws Error for a shape that makes no sense.
Pixels preprocess(const Image& image, const ImageShape& shape, ImageMode mode);

/// Stands in `arrange` for the model's row image_newline.
constexpr uint32_t image_newline = UINT32_MAX;

/// The rows of embeddings that the language model sees, in their order: each is one of the tower's rows (tile * patches
/// of a tile + patch) or image_newline. LLaVA 1.5: all of them. 1.6: the whole picture's, then the tiles' rows of
/// patches side by side, without those that show nothing but padding, and a newline behind each where the model has
/// one.
std::vector<uint32_t> arrange(const Pixels& pixels, const ImageShape& shape, bool has_newline);

}    // namespace hearth
