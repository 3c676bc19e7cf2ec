// Pictures: files of strangers in, rows of pixels out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>
#include <vector>

namespace hearth {

/// A picture in memory: rows from the top, red, green and blue of each pixel, 8 bits each. Alpha was laid over white
/// and the orientation that EXIF names was applied.
struct Image {
    uint32_t width = 0, height = 0;
    std::vector<uint8_t> rgb;    // (height, width, 3)
};

/// What a picture may be, read off its header before anything is decoded. Decoding takes at most 16 bytes of memory a
/// pixel, twice the file and 1 MiB.
struct ImageLimits {
    uint64_t pixels = 64 << 20;
    uint32_t side = 65535;    // as JPEG and GIF have it
    uint64_t file_bytes = 256 << 20;
};

/// Reads PNG, JPEG, WebP, GIF (its first frame) and BMP; by content, whatever its name. Of 16 bits the upper 8 are
/// kept, profiles of colours and gamma are not applied: both as Pillow has it. Throws Error for anything else, for what
/// is cut short or damaged, and for what is beyond the limits.
Image read_image(const std::filesystem::path& path, const ImageLimits& limits = {});

/// The same for bytes in memory. `name` is what messages call them.
Image read_image(std::span<const std::byte> bytes, std::string_view name, const ImageLimits& limits = {});

}    // namespace hearth
