// Files of pictures, and the numbers that are made of what they show.
#include "engine/vision/preprocess.h"
#include "tests/fuzz/fuzz.h"
#include "tests/png_sums.h"

#include <cmath>

namespace hearth::fuzz {

const uint64_t base_memory = 32 << 20;    // for the most pixels that are let through here

void read(std::string_view bytes)
{
    const ImageLimits limits = {.pixels = 1 << 20};
    const std::string file = tests::with_right_sums(std::string(bytes));
    const Image image = read_image(std::as_bytes(std::span(file)), "it", limits);
    FUZZ_CHECK(image.width > 0 && image.height > 0 && uint64_t(image.width) * image.height <= limits.pixels);
    FUZZ_CHECK(image.rgb.size() == size_t(3) * image.width * image.height);
    ImageShape shape;
    shape.side = 28;
    for (const ImageMode mode : {ImageMode::pad, ImageMode::crop})
        FUZZ_CHECK(preprocess(image, shape, mode).values.size() == 3 * 28 * 28);
    shape.grid = {{28, 56}, {56, 28}, {56, 56}};
    const Pixels pixels = preprocess(image, shape, ImageMode::pad);
    FUZZ_CHECK(pixels.values.size() == size_t(3) * 28 * 28 * pixels.tiles);
    for (const float value : pixels.values) FUZZ_CHECK(std::abs(value) < 4);
    for (const uint32_t row : arrange(pixels, shape, true)) FUZZ_CHECK(row < 4 * pixels.tiles || row == image_newline);
}

}    // namespace hearth::fuzz
