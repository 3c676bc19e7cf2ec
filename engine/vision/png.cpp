// PNG, through libspng, which checks the sums of all chunks.
#include "engine/vision/decoders.h"

#include <spng.h>

#include <algorithm>
#include <memory>

namespace hearth {

namespace {

constexpr size_t signature_bytes = 8, length_bytes = 4, around_data = 12;    // of a chunk: its length, name and sum

struct Chunks {
    std::string wanted;       // a file with those alone that pixels depend on
    std::string_view exif;    // empty: none
};

/// Texts and profiles of colours are none of ours, may be large, and may be bombs themselves. A chunk that is not whole
/// stays as it is: libspng says what of it.
Chunks sort_chunks(std::string_view file)
{
    Chunks chunks = {std::string(file.substr(0, signature_bytes)), {}};
    for (size_t at = signature_bytes; at < file.size();) {
        const std::string_view rest = file.substr(at);
        uint64_t length = 0;
        for (size_t i = 0; i < length_bytes && i < rest.size(); ++i) length = length << 8 | uint8_t(rest[i]);
        const std::string_view chunk = rest.substr(0, size_t(std::min<uint64_t>(rest.size(), length + around_data)));
        const std::string_view name = chunk.substr(std::min(length_bytes, chunk.size()), 4);
        const bool whole = chunk.size() == length + around_data;
        const bool may_be_ignored = !name.empty() && (name[0] & 0x20);    // its name begins with a small letter
        if (whole && name == "eXIf") chunks.exif = chunk.substr(length_bytes + name.size(), size_t(length));
        if (!whole || !may_be_ignored || name == "tRNS") chunks.wanted += chunk;
        at += chunk.size();
    }
    return chunks;
}

}    // namespace

DecodedImage decode_png(const ImageFile& file)
{
    const std::unique_ptr<spng_ctx, decltype(&spng_ctx_free)> png(spng_ctx_new(0), spng_ctx_free);
    if (!png) throw std::bad_alloc();
    const auto check = [&](int error) {
        if (error == SPNG_EMEM) throw std::bad_alloc();
        if (error == SPNG_IO_EOF) file.cut_short();
        if (error) file.damaged(spng_strerror(error));
    };
    const Chunks chunks = sort_chunks(file.bytes);
    check(spng_set_png_buffer(png.get(), chunks.wanted.data(), chunks.wanted.size()));
    spng_ihdr header{};
    check(spng_get_ihdr(png.get(), &header));
    file.check_size(header.width, header.height);
    constexpr uint64_t most_deflated = 1032;    // bytes that one of deflate can become
    file.check_bytes(uint64_t(header.width) * header.height * header.bit_depth / 8 / most_deflated);

    DecodedImage decoded = {{header.width, header.height, {}}, exif_orientation(chunks.exif)};
    std::vector<uint8_t>& pixels = decoded.image.rgb;
    pixels.resize(size_t(4) * header.width * header.height);
    check(spng_decode_image(png.get(), pixels.data(), pixels.size(), SPNG_FMT_RGBA8, SPNG_DECODE_TRNS));
    check(spng_decode_chunks(png.get()));    // up to the end
    lay_over_white(pixels);
    return decoded;
}

}    // namespace hearth
