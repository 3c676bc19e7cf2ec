#include "engine/vision/image.h"

#include "engine/vision/decoders.h"

#include <algorithm>
#include <fstream>

namespace hearth {

namespace {

using std::string_view_literals::operator""sv;

struct ImageFormat {
    std::string_view start, later;    // what a file begins with, and what it has at byte 8
    DecodedImage (*decode)(const ImageFile&);
};

constexpr ImageFormat formats[] = {
    {"\x89PNG\r\n\x1a\n"sv, "", decode_png},
    {"\xff\xd8\xff"sv, "", decode_jpeg},
    {"RIFF"sv, "WEBP", decode_webp},
    {"GIF87a"sv, "", decode_gif},
    {"GIF89a"sv, "", decode_gif},
    {"BM"sv, "", decode_bmp},
};

Image read_picture(const ImageFile& file)
{
    if (file.bytes.size() > file.limits.file_bytes)
        throw Error("{} has {} bytes, more than the {} of a picture that are read; make it smaller", file.name,
                    file.bytes.size(), file.limits.file_bytes);
    for (const ImageFormat& format : formats) {
        if (!file.bytes.starts_with(format.start)) continue;
        if (!file.bytes.substr(std::min(file.bytes.size(), size_t(8))).starts_with(format.later)) continue;
        DecodedImage decoded = format.decode(file);
        return oriented(std::move(decoded.image), decoded.orientation);
    }
    throw Error("{} is {}; PNG, JPEG, WebP, GIF and BMP can be read", file.name,
                file.bytes.empty() ? "empty" : "no picture of a kind that is known");
}

std::string read_bytes(const std::filesystem::path& path, const ImageLimits& limits)
{
    const std::string name = path.string();
    std::error_code error;
    const std::filesystem::file_status status = std::filesystem::status(path, error);
    if (std::filesystem::is_directory(status)) throw Error("{} is a directory; name a picture in it", name);
    if (std::filesystem::exists(status) && !std::filesystem::is_regular_file(status))
        throw Error("{} is a pipe or a device; name a picture's file", name);
    const uintmax_t size = error ? 0 : std::filesystem::file_size(path, error);
    if (error) throw Error("cannot read {}: {}", name, error.message());
    if (size > limits.file_bytes)
        throw Error("{} has {} bytes, more than the {} of a picture that are read; make it smaller", name, size,
                    limits.file_bytes);
    std::string bytes(size, '\0');
    errno = 0;
    std::ifstream in(path, std::ios::binary);
    if (!in) throw Error("cannot read {}: {}", name, std::generic_category().message(errno ? errno : EIO));
    in.read(bytes.data(), std::streamsize(size));
    bytes.resize(size_t(in.gcount()));
    return bytes;
}

}    // namespace

void ImageFile::check_size(uint64_t width, uint64_t height) const
{
    if (width == 0 || height == 0) damaged("no pixels");
    if (width > limits.side || height > limits.side || width * height > limits.pixels)
        throw Error("{} has {} x {} pixels, more than are read ({} in all, {} a side); make it smaller", name, width,
                    height, limits.pixels, limits.side);
}

void ImageFile::cut_short() const { throw Error("{} is cut short: copy or save it again", name); }

void ImageFile::damaged(std::string_view reason) const
{
    throw Error("{} cannot be decoded ({}): it is damaged, or of a rare kind; copy it again, or save it as PNG", name,
                reason);
}

void lay_over_white(std::vector<uint8_t>& pixels)
{
    const size_t count = pixels.size() / 4;
    for (size_t i = 0; i < count; ++i) {
        const uint8_t* const from = pixels.data() + 4 * i;
        const uint32_t alpha = from[3], white = 255 * (255 - alpha);
        uint8_t* const to = pixels.data() + 3 * i;
        for (int c = 0; c < 3; ++c) to[c] = uint8_t((white + alpha * from[c] + 127) / 255);
    }
    pixels.resize(3 * count);
}

Image read_image(std::span<const std::byte> bytes, std::string_view name, const ImageLimits& limits)
{
    return read_picture({{reinterpret_cast<const char*>(bytes.data()), bytes.size()}, name, limits});
}

Image read_image(const std::filesystem::path& path, const ImageLimits& limits)
{
    const std::string bytes = read_bytes(path, limits), name = path.string();
    return read_picture({bytes, name, limits});
}

}    // namespace hearth
