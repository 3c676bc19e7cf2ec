// Which way up a camera was held: tag 0x0112 of EXIF.
#include "engine/vision/decoders.h"

#include <utility>

namespace hearth {

namespace {

/// Numbers of a TIFF file in its byte order; 0 beyond its end.
struct Tiff {
    std::string_view bytes;
    bool big_endian;

    uint32_t number(uint64_t at, unsigned length) const
    {
        if (at + length > bytes.size()) return 0;
        uint32_t n = 0;
        for (unsigned i = 0; i < length; ++i)
            n = n << 8 | uint8_t(bytes[size_t(at + (big_endian ? i : length - 1 - i))]);
        return n;
    }
};

}    // namespace

uint32_t exif_orientation(std::string_view tags)
{
    if (!tags.starts_with("II") && !tags.starts_with("MM")) return 1;
    const Tiff tiff = {tags, tags[0] == 'M'};
    if (tiff.number(2, 2) != 42) return 1;
    constexpr uint32_t orientation_tag = 0x0112, short_type = 3, entry_bytes = 12;
    const uint64_t directory = tiff.number(4, 4);
    const uint32_t entries = tiff.number(directory, 2);
    for (uint32_t i = 0; i < entries; ++i) {
        const uint64_t entry = directory + 2 + uint64_t(entry_bytes) * i;
        if (tiff.number(entry, 2) != orientation_tag) continue;
        const uint32_t value = tiff.number(entry + 8, 2);
        return tiff.number(entry + 2, 2) == short_type && value >= 1 && value <= 8 ? value : 1;
    }
    return 1;
}

Image oriented(Image image, uint32_t orientation)
{
    if (orientation <= 1 || orientation > 8) return image;
    // The pixel (x, y) of the picture as shown lies in the file at (x, y), mirrored in one axis, both, or none, after
    // the axes were exchanged for 5 to 8.
    const bool exchanged = orientation >= 5,
               from_right = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8,
               from_below = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
    Image out = {image.width, image.height, std::vector<uint8_t>(image.rgb.size())};
    if (exchanged) std::swap(out.width, out.height);
    uint8_t* to = out.rgb.data();
    for (uint32_t y = 0; y < out.height; ++y)
        for (uint32_t x = 0; x < out.width; ++x) {
            const uint32_t column = exchanged ? y : x, row = exchanged ? x : y;
            const size_t at = size_t(from_below ? image.height - 1 - row : row) * image.width +
                              (from_right ? image.width - 1 - column : column);
            for (int c = 0; c < 3; ++c) *to++ = image.rgb[3 * at + c];
        }
    return out;
}

}    // namespace hearth
