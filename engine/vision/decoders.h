// The readers of picture files, one for each format. Private to engine/vision.
#pragma once

#include "engine/error.h"
#include "engine/vision/image.h"

#include <string>

namespace hearth {

/// A file's bytes, and what is said of them.
struct ImageFile {
    std::string_view bytes;
    std::string_view name;
    const ImageLimits& limits;

    const uint8_t* data() const { return reinterpret_cast<const uint8_t*>(bytes.data()); }

    /// Throws Error for a size that is none, or beyond the limits. To be called before anything is decoded.
    void check_size(uint64_t width, uint64_t height) const;

    /// Throws Error where the file is too short for what its header promises, so that no memory is taken for it.
    void check_bytes(uint64_t least) const
    {
        if (bytes.size() < least) cut_short();
    }

    [[noreturn]] void cut_short() const;
    [[noreturn]] void damaged(std::string_view reason) const;    // also in a library's own words
};

/// A picture as it lies in the file, and which way up it is to be shown: EXIF's 1 to 8.
struct DecodedImage {
    Image image;
    uint32_t orientation = 1;
};

DecodedImage decode_png(const ImageFile& file);
DecodedImage decode_jpeg(const ImageFile& file);
DecodedImage decode_webp(const ImageFile& file);
DecodedImage decode_gif(const ImageFile& file);
DecodedImage decode_bmp(const ImageFile& file);

/// Makes red, green and blue over white out of red, green, blue and alpha: (255 (255 - alpha) + alpha x) / 255, rounded
/// to the nearest, as Pillow pastes it.
void lay_over_white(std::vector<uint8_t>& pixels);

/// What EXIF's tags (a TIFF file, beginning with its byte order) say of the orientation; 1 where they say nothing that
/// can be read.
uint32_t exif_orientation(std::string_view tags);

Image oriented(Image image, uint32_t orientation);

}    // namespace hearth
