// JPEG, through libjpeg-turbo, which is Pillow's too: the same bits.
#include "engine/vision/decoders.h"

#include <turbojpeg.h>

#include <memory>

namespace hearth {

namespace {

/// What the markers of a file say, read without decoding.
struct Markers {
    uint32_t width = 0, height = 0, components = 0;
    uint32_t scans = 0;
    std::string_view exif;
    bool ended = false;
};

/// SOF0 to SOF15 begin a frame; three codes among them mean something else.
bool begins_frame(uint8_t code) { return code >= 0xc0 && code <= 0xcf && code != 0xc4 && code != 0xc8 && code != 0xcc; }

/// Such as those that restart a decoder, which nothing follows that belongs to them.
bool stands_alone(uint8_t code) { return code == 0x01 || (code >= 0xd0 && code <= 0xd8); }

Markers read_markers(std::string_view bytes)
{
    constexpr std::string_view exif_start("Exif\0\0", 6);
    constexpr uint8_t end_of_image = 0xd9, start_of_scan = 0xda, app1 = 0xe1;
    const auto byte = [&](size_t at) { return at < bytes.size() ? uint8_t(bytes[at]) : uint8_t(0); };
    const auto number = [&](size_t at) { return uint32_t(byte(at) << 8 | byte(at + 1)); };
    Markers found;
    for (size_t at = 0; (at = bytes.find('\xff', at)) != bytes.npos;) {
        const uint8_t code = byte(++at);
        if (code == 0 || code == 0xff || stands_alone(code)) continue;    // 0: a byte of a scan; 0xff: filling
        if (code == end_of_image) {
            found.ended = true;
            break;
        }
        const size_t length = number(at + 1), data = at + 3;
        if (begins_frame(code) && found.width == 0) {
            found.height = number(data + 1);
            found.width = number(data + 3);
            found.components = byte(data + 5);
        }
        if (code == start_of_scan) ++found.scans;
        if (code == app1 && found.exif.empty() && length >= 2 && data < bytes.size()) {
            const std::string_view segment = bytes.substr(data, length - 2);
            if (segment.starts_with(exif_start)) found.exif = segment.substr(exif_start.size());
        }
        at += 1 + std::max<size_t>(length, 2);
    }
    return found;
}

/// Red, green and blue of cyan, magenta, yellow and black, all as Adobe stores them: 255 is no ink. As Pillow does it.
void convert_inks(std::vector<uint8_t>& pixels)
{
    const size_t count = pixels.size() / 4;
    for (size_t i = 0; i < count; ++i) {
        const uint8_t* const from = pixels.data() + 4 * i;
        const uint32_t paper = from[3];
        uint8_t* const to = pixels.data() + 3 * i;
        for (int c = 0; c < 3; ++c) to[c] = uint8_t(paper - ((255 - from[c]) * paper + 127) / 255);
    }
    pixels.resize(3 * count);
}

}    // namespace

DecodedImage decode_jpeg(const ImageFile& file)
{
    const Markers markers = read_markers(file.bytes);
    if (!markers.ended) file.cut_short();
    if (markers.components == 0) file.damaged("no frame");
    file.check_size(markers.width, markers.height);
    // Each scan of a progressive picture goes over all of it, however few bytes it has. Programs write about ten.
    constexpr uint64_t most_scans = 100;
    const uint64_t pixels = uint64_t(markers.width) * markers.height;
    constexpr uint64_t most_pixels = 16 * 64 * 8;    // that one byte can stand for: a block takes a bit or more, and
    file.check_bytes(pixels / most_pixels);          // shows 64 pixels, or 16 times as many where it is coarser
    if (markers.scans > most_scans || markers.scans * pixels > 16 * file.limits.pixels)
        throw Error("{} is made of {} scans, more than are read; save it again", file.name, markers.scans);

    const std::unique_ptr<void, decltype(&tjDestroy)> jpeg(tjInitDecompress(), tjDestroy);
    if (!jpeg) throw std::bad_alloc();
    const bool inks = markers.components == 4;
    const size_t row_bytes = size_t(inks ? 4 : 3) * markers.width;
    DecodedImage decoded = {{markers.width, markers.height, std::vector<uint8_t>(row_bytes * markers.height)},
                            exif_orientation(markers.exif)};
    const int done =
        tjDecompress2(jpeg.get(), file.data(), file.bytes.size(), decoded.image.rgb.data(), int(markers.width),
                      int(row_bytes), int(markers.height), inks ? TJPF_CMYK : TJPF_RGB, TJFLAG_LIMITSCANS);
    // A warning is of data that make no sense, which libjpeg shows as they are. As most programs do.
    if (done != 0 && tjGetErrorCode(jpeg.get()) != TJERR_WARNING) file.damaged(tjGetErrorStr2(jpeg.get()));
    if (inks) convert_inks(decoded.image.rgb);
    return decoded;
}

}    // namespace hearth
