// BMP, through stb_image. It trusts a header and reads zeros behind the end of a file, so both are looked at before.
#include "engine/vision/decoders.h"

#include <algorithm>
#include <cstdlib>
#include <memory>

#define STBI_ONLY_BMP
#define STBI_NO_STDIO
#define STBI_MAX_DIMENSIONS 65535
#define STB_IMAGE_STATIC
#define STB_IMAGE_IMPLEMENTATION
#define STBI_ASSERT(x) HEARTH_CHECK(x)
#include <stb/stb_image.h>

namespace hearth {

namespace {

struct BmpHeader {
    uint64_t pixels;    // where they begin
    uint64_t width, height, bits;
    bool has_masks;    // which say what of a pixel is alpha; without them the fourth byte means nothing
};

BmpHeader read_header(const ImageFile& file)
{
    const auto number = [&](size_t at, unsigned length) {
        if (at + length > file.bytes.size()) file.cut_short();
        uint32_t n = 0;
        for (unsigned i = length; i-- > 0;) n = n << 8 | file.data()[at + i];
        return n;
    };
    constexpr uint32_t old_header = 12;
    const bool old = number(14, 4) == old_header;
    // Rows from the top are a negative height.
    const int64_t height = old ? int64_t(number(20, 2)) : int64_t(int32_t(number(22, 4)));
    return {number(10, 4), old ? number(18, 2) : number(18, 4), uint64_t(std::abs(height)), number(old ? 24 : 28, 2),
            !old && number(30, 4) == 3};
}

}    // namespace

DecodedImage decode_bmp(const ImageFile& file)
{
    const BmpHeader header = read_header(file);
    file.check_size(header.width, header.height);
    constexpr uint64_t bits_there_are[] = {1, 4, 8, 16, 24, 32};
    if (std::ranges::find(bits_there_are, header.bits) == std::end(bits_there_are)) file.damaged("no colours");
    const uint64_t row_bytes = (header.width * header.bits + 31) / 32 * 4;
    file.check_bytes(header.pixels + row_bytes * header.height);
    const int most = int(std::min<uint64_t>(file.bytes.size(), INT32_MAX));
    int width = 0, height = 0, in_file = 0;
    const int channels = header.has_masks ? 4 : 3;
    const std::unique_ptr<stbi_uc, decltype(&stbi_image_free)> pixels(
        stbi_load_from_memory(file.data(), most, &width, &height, &in_file, channels), stbi_image_free);
    if (!pixels) file.damaged(stbi_failure_reason());
    DecodedImage decoded = {{uint32_t(width), uint32_t(height), {}}};
    decoded.image.rgb.assign(pixels.get(), pixels.get() + size_t(channels) * size_t(width) * size_t(height));
    if (header.has_masks) lay_over_white(decoded.image.rgb);
    return decoded;
}

}    // namespace hearth
