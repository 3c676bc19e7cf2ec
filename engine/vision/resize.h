// Pillow's bicubic resize with antialiasing, to the bit: along x, rounded to 8 bits, and then along y; the other way
// round where a picture higher than 100 times its width becomes lower. So it was from before LLaVA was trained up to
// Pillow 12; 13 goes along y first more often, which moves some pixels of high pictures.
#pragma once

#include "engine/vision/image.h"

#include <array>

namespace hearth {

/// A picture on a larger sheet of one colour, which is nowhere stored.
struct Sheet {
    const Image& image;
    uint32_t width, height;        // of the sheet, in pixels
    uint32_t left = 0, top = 0;    // where the picture lies on it
    std::array<uint8_t, 3> colour{};
};

/// The sheet resized to `width` x `height`, and of that the part of `part_width` x `part_height` from (left, top) on.
/// Nothing outside the part is computed.
struct ResizedPart {
    uint32_t width, height;
    uint32_t left, top, part_width, part_height;
};

Image resize(const Sheet& sheet, const ResizedPart& to);

}    // namespace hearth
