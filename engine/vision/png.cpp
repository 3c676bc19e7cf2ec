// PNG, through libspng, which checks the sums of all chunks.
#include "engine/vision/decoders.h"

#include <spng.h>

#include <memory>

namespace hearth {

DecodedImage decode_png(const ImageFile& file)
{
    const std::unique_ptr<spng_ctx, decltype(&spng_ctx_free)> png(spng_ctx_new(0), spng_ctx_free);
    if (!png) throw std::bad_alloc();
    const auto check = [&](int error) {
        if (error == SPNG_EMEM) throw std::bad_alloc();
        if (error == SPNG_IO_EOF) file.cut_short();
        if (error) file.damaged(spng_strerror(error));
    };
    // Texts and profiles are none of ours, and may be bombs themselves.
    constexpr size_t most_of_others = 1 << 20;
    check(spng_set_png_buffer(png.get(), file.bytes.data(), file.bytes.size()));
    spng_ihdr header{};
    check(spng_get_ihdr(png.get(), &header));
    file.check_size(header.width, header.height);
    constexpr uint64_t most_deflated = 1032;    // bytes that one of deflate can become
    file.check_bytes(uint64_t(header.width) * header.height * header.bit_depth / 8 / most_deflated);
    check(spng_set_chunk_limits(png.get(), most_of_others, most_of_others));

    DecodedImage decoded = {{header.width, header.height, {}}};
    std::vector<uint8_t>& pixels = decoded.image.rgb;
    pixels.resize(size_t(4) * header.width * header.height);
    check(spng_decode_image(png.get(), pixels.data(), pixels.size(), SPNG_FMT_RGBA8, SPNG_DECODE_TRNS));
    check(spng_decode_chunks(png.get()));    // up to the end
    lay_over_white(pixels);
    spng_exif exif{};
    if (spng_get_exif(png.get(), &exif) == 0) decoded.orientation = exif_orientation({exif.data, exif.length});
    return decoded;
}

}    // namespace hearth
