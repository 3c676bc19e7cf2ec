#include "engine/vision/preprocess.h"

#include "engine/error.h"
#include "engine/vision/resize.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace hearth {

namespace {

constexpr uint32_t most_tiles = 36, most_side = 1024;    // beyond any model: the numbers are those of a file

void check(const ImageShape& shape)
{
    const auto good_side = [&](uint32_t side) { return side > 0 && side % shape.side == 0; };
    if (shape.side == 0 || shape.side > most_side || shape.patch == 0 || shape.side % shape.patch != 0)
        throw Error("the image tower takes squares of {} pixels in patches of {}, which cannot be: convert it again",
                    shape.side, shape.patch);
    for (int c = 0; c < 3; ++c)
        if (!(std::isfinite(shape.mean[c]) && std::isfinite(shape.deviation[c]) && shape.deviation[c] > 0))
            throw Error("the image tower has a mean of {} and a deviation of {} for a colour, which cannot be: "
                        "convert it again",
                        shape.mean[c], shape.deviation[c]);
    for (const auto& [height, width] : shape.grid)
        if (!good_side(height) || !good_side(width) ||
            uint64_t(height / shape.side) * (width / shape.side) > most_tiles)
            throw Error(
                "the image tower has a resolution of {} x {} for tiles of {}, which cannot be: convert it again", width,
                height, shape.side);
}

/// The resolution, height and width, that shows most of the picture's pixels, and of those the smallest. Computed as
/// transformers' select_best_resolution does, whose roundings decide.
std::array<uint32_t, 2> best_resolution(const Image& image, const ImageShape& shape)
{
    std::array<uint32_t, 2> best = shape.grid.front();
    uint64_t most_shown = 0, least_waste = std::numeric_limits<uint64_t>::max();
    for (const auto& [height, width] : shape.grid) {
        const double scale = std::min(double(width) / image.width, double(height) / image.height);
        const uint64_t fitted = uint64_t(image.width * scale) * uint64_t(image.height * scale),
                       shown = std::min(fitted, uint64_t(image.width) * image.height),
                       waste = uint64_t(width) * height - shown;
        if (shown < most_shown || (shown == most_shown && waste >= least_waste)) continue;
        most_shown = shown;
        least_waste = waste;
        best = {height, width};
    }
    return best;
}

Image whole(const Image& image, uint32_t width, uint32_t height)
{
    return resize({image, image.width, image.height}, {width, height, 0, 0, width, height});
}

/// A square of the picture with bars of the mean colour, as LLaVA's expand2square makes it.
Image padded_square(const Image& image, const ImageShape& shape)
{
    const uint32_t side = std::max(image.width, image.height);
    std::array<uint8_t, 3> colour;
    for (int c = 0; c < 3; ++c) colour[c] = uint8_t(std::clamp(double(shape.mean[c]) * 255, 0.0, 255.0));
    return resize({image, side, side, (side - image.width) / 2, (side - image.height) / 2, colour},
                  {shape.side, shape.side, 0, 0, shape.side, shape.side});
}

/// The middle square, as CLIP's processor makes it: the shorter edge becomes the square's.
Image cropped_square(const Image& image, const ImageShape& shape)
{
    const uint32_t shorter = std::min(image.width, image.height);
    const auto fitted = [&](uint32_t edge) { return uint32_t(uint64_t(shape.side) * edge / shorter); };
    const uint32_t width = fitted(image.width), height = fitted(image.height);
    return resize({image, image.width, image.height},
                  {width, height, (width - shape.side) / 2, (height - shape.side) / 2, shape.side, shape.side});
}

/// The picture as large as it fits into a resolution, in the middle of black.
Image fitted_on_black(const Image& image, uint32_t width, uint32_t height)
{
    const double x = double(width) / image.width, y = double(height) / image.height;
    const auto fitted = [](uint32_t edge, double scale, uint32_t most) {
        return std::min(uint32_t(std::ceil(edge * scale)), most);
    };
    const Image small =
        whole(image, x < y ? width : fitted(image.width, y, width), x < y ? fitted(image.height, x, height) : height);
    Image out = {width, height, std::vector<uint8_t>(size_t(3) * width * height)};
    const size_t left = (width - small.width) / 2, top = (height - small.height) / 2;
    for (uint32_t row = 0; row < small.height; ++row)
        std::copy_n(small.rgb.begin() + ptrdiff_t(size_t(3) * small.width * row), size_t(3) * small.width,
                    out.rgb.begin() + ptrdiff_t(3 * (width * (top + row) + left)));
    return out;
}

/// Adds a tile, `shape.side` pixels of the picture each way from (left, top) on.
void add_tile(const Image& image, uint32_t left, uint32_t top, const ImageShape& shape, Pixels& pixels)
{
    const size_t plane = size_t(shape.side) * shape.side, start = pixels.values.size();
    pixels.values.resize(start + 3 * plane);
    for (size_t c = 0; c < 3; ++c) {
        std::array<float, 256> value;
        for (int v = 0; v < 256; ++v) value[v] = (float(v * (1.0 / 255)) - shape.mean[c]) / shape.deviation[c];
        float* out = pixels.values.data() + start + c * plane;
        for (size_t y = 0; y < shape.side; ++y) {
            const uint8_t* const row = image.rgb.data() + 3 * ((top + y) * image.width + left);
            for (size_t x = 0; x < shape.side; ++x) *out++ = value[row[3 * x + c]];
        }
    }
    ++pixels.tiles;
}

/// Rows or columns of patches.
struct Range {
    uint32_t begin, end;
};

/// What is left of `patches` when the padding to both sides is taken away: transformers' unpad_image. `edge` of the
/// picture fills as much as it is `other` edge fills `other_patches`. Whole numbers give what its doubles give, since
/// quotients that are not whole are further from it than they round.
Range unpadded(uint32_t patches, uint64_t edge, uint64_t other, uint32_t other_patches)
{
    const auto filled = uint32_t(edge * other_patches / other);
    const uint32_t padding = (patches - filled) / 2;
    return {padding, patches - padding};
}

}    // namespace

Pixels preprocess(const Image& image, const ImageShape& shape, ImageMode mode)
{
    check(shape);
    Pixels pixels = {.width = image.width, .height = image.height};
    if (shape.grid.empty()) {
        add_tile(mode == ImageMode::pad ? padded_square(image, shape) : cropped_square(image, shape), 0, 0, shape,
                 pixels);
        return pixels;
    }
    const auto [height, width] = best_resolution(image, shape);
    pixels.rows = height / shape.side;
    pixels.columns = width / shape.side;
    add_tile(whole(image, shape.side, shape.side), 0, 0, shape, pixels);
    const Image large = fitted_on_black(image, width, height);
    for (uint32_t top = 0; top < height; top += shape.side)
        for (uint32_t left = 0; left < width; left += shape.side) add_tile(large, left, top, shape, pixels);
    return pixels;
}

std::vector<uint32_t> arrange(const Pixels& pixels, const ImageShape& shape, bool has_newline)
{
    const uint32_t edge = shape.side / shape.patch, patches = edge * edge;
    std::vector<uint32_t> order(patches);
    for (uint32_t i = 0; i < patches; ++i) order[i] = i;
    if (pixels.tiles == 1) return order;

    const uint32_t width = edge * pixels.columns, height = edge * pixels.rows;
    Range rows = {0, height}, columns = {0, width};
    if (uint64_t(pixels.width) * height > uint64_t(pixels.height) * width)
        rows = unpadded(height, pixels.height, pixels.width, width);
    else columns = unpadded(width, pixels.width, pixels.height, height);
    for (uint32_t y = rows.begin; y < rows.end; ++y) {
        for (uint32_t x = columns.begin; x < columns.end; ++x) {
            const uint32_t tile = 1 + y / edge * pixels.columns + x / edge;
            order.push_back(tile * patches + y % edge * edge + x % edge);
        }
        if (has_newline) order.push_back(image_newline);
    }
    return order;
}

}    // namespace hearth
