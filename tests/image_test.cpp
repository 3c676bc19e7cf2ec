// Pictures: files as Pillow reads them, numbers as the processors of transformers make them (tests/make_images.py), and
// what strangers send.
#include "engine/error.h"
#include "engine/system/checksum.h"
#include "engine/vision/preprocess.h"
#include "tests/png_sums.h"

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include <cmath>
#include <cstring>
#include <ctime>
#include <fstream>
#include <random>

using namespace hearth;
using tests::big_endian;
using tests::with_right_sums;

namespace {

namespace fs = std::filesystem;

const fs::path folder = fs::path(HEARTH_SOURCE) / "tests/data/images";

std::string bytes_of(const fs::path& path)
{
    std::ifstream file(path, std::ios::binary);
    REQUIRE(file);
    return {std::istreambuf_iterator<char>(file), {}};
}

const nlohmann::json& expected()
{
    static const nlohmann::json all = nlohmann::json::parse(bytes_of(folder / "expected.json"));
    return all;
}

/// The files, by their names, without the one that is refused.
std::vector<std::pair<std::string, std::string>> pictures()
{
    std::vector<std::pair<std::string, std::string>> all;
    for (const auto& [name, want] : expected().at("files").items()) all.emplace_back(name, bytes_of(folder / name));
    return all;
}

Image read_bytes(std::string_view bytes, const ImageLimits& limits = {})
{
    return read_image(std::as_bytes(std::span(bytes)), "it", limits);
}

/// What is said of bytes that are refused; empty where they are read.
std::string refusal(std::string_view bytes, const ImageLimits& limits = {})
{
    try {
        const Image image = read_bytes(bytes, limits);
        CHECK(image.rgb.size() == size_t(3) * image.width * image.height);
        CHECK(image.width > 0);
        CHECK(image.height > 0);
        return "";
    } catch (const Error& error) {
        return error.what();
    }
}

Image pattern(uint32_t width, uint32_t height)
{
    Image image = {width, height, {}};
    for (uint32_t y = 0; y < height; ++y)
        for (uint32_t x = 0; x < width; ++x)
            for (uint32_t c = 0; c < 3; ++c) image.rgb.push_back(uint8_t((x * 7 + y * 13 + c * 29) ^ (x * y)));
    return image;
}

template <class T>
std::string checksum_of(const std::vector<T>& values)
{
    return checksum({reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)});
}

ImageShape shape_of(uint32_t side, uint32_t patch, bool tiles)
{
    ImageShape shape;
    shape.side = side;
    shape.patch = patch;
    if (tiles)
        shape.grid = {{side, 2 * side}, {2 * side, side}, {2 * side, 2 * side}, {3 * side, side}, {side, 3 * side}};
    return shape;
}

/// A PNG whose header says a size, over the data of a smaller one.
std::string png_of_size(uint32_t width, uint32_t height)
{
    return with_right_sums(bytes_of(folder / "rgb.png").replace(16, 8, big_endian(width, 4) + big_endian(height, 4)));
}

/// A JPEG with another size in its frame.
std::string jpeg_of_size(const std::string& name, uint32_t width, uint32_t height)
{
    std::string jpeg = bytes_of(folder / name);
    const size_t frame = std::min(jpeg.find("\xff\xc0"), jpeg.find("\xff\xc2"));
    REQUIRE(frame != jpeg.npos);
    return jpeg.replace(frame + 5, 4, big_endian(height, 2) + big_endian(width, 2));
}

/// A file with the kinds of damage that disks, networks and strangers do.
std::string damaged(std::string bytes, std::mt19937_64& random)
{
    const auto below = [&](size_t n) { return size_t(random() % std::max<size_t>(n, 1)); };
    for (size_t times = 1 + below(4); times > 0 && !bytes.empty(); --times) {
        const size_t at = below(bytes.size()), length = std::min(bytes.size() - at, 1 + below(16));
        switch (below(7)) {
        case 0: bytes[at] = char(bytes[at] ^ 1 << below(8)); break;
        case 1: bytes[at] = char(random()); break;
        case 2: bytes.resize(at); break;
        case 3: bytes.erase(at, length); break;
        case 4: bytes.insert(below(bytes.size()), bytes.substr(at, length)); break;
        case 5: bytes.replace(at, length, length, below(2) ? '\xff' : '\0'); break;
        case 6: bytes.replace(below(std::min<size_t>(bytes.size(), 40)), 1, 1, char(random())); break;    // the header
        }
    }
    return random() % 2 ? bytes : with_right_sums(bytes);    // as someone would send them who means it
}

}    // namespace

TEST_SUITE("image")
{
    TEST_CASE("every kind of picture is read as Pillow reads it")
    {
        for (const auto& [name, want] : expected().at("files").items()) {
            INFO(name);
            const Image image = read_image(folder / name);
            CHECK(image.width == want.at(0));
            CHECK(image.height == want.at(1));
            CHECK(checksum_of(image.rgb) == want.at(2));
        }
        CHECK(expected().at("files").size() > 30);
    }

    TEST_CASE("pictures of every size and ratio become the numbers that transformers makes of them")
    {
        for (const nlohmann::json& want : expected().at("processors")) {
            const Image image = pattern(want.at("width"), want.at("height"));
            INFO(image.width, " x ", image.height);
            const ImageShape square = shape_of(28, 7, false), tiles = shape_of(28, 7, true);
            CHECK(checksum_of(preprocess(image, square, ImageMode::crop).values) == want.at("crop"));
            CHECK(checksum_of(preprocess(image, square, ImageMode::pad).values) == want.at("pad"));
            const Pixels pixels = preprocess(image, tiles, ImageMode::pad);
            CHECK(pixels.tiles == 1 + pixels.columns * pixels.rows);
            CHECK(checksum_of(pixels.values) == want.at("tiles"));
            CHECK(checksum_of(arrange(pixels, tiles, true)) == want.at("rows"));
        }
        CHECK(expected().at("processors").size() >= 100);
    }

    TEST_CASE("a picture of LLaVA 1.6 takes as many tokens as in transformers, one of 1.5 as many as it has patches")
    {
        for (const nlohmann::json& want : expected().at("tokens")) {
            const ImageShape shape = shape_of(336, 14, true);
            const Image image = pattern(want.at(0), want.at(1));
            INFO(image.width, " x ", image.height);
            const std::vector<uint32_t> rows = arrange(preprocess(image, shape, ImageMode::pad), shape, true);
            CHECK(rows.size() == want.at(2));
            const auto newlines = size_t(std::ranges::count(rows, image_newline));
            const std::vector<uint32_t> without = arrange(preprocess(image, shape, ImageMode::pad), shape, false);
            CHECK(without.size() == rows.size() - newlines);
        }
        const ImageShape square;
        CHECK(arrange(preprocess(pattern(50, 20), square, ImageMode::pad), square, true).size() == 576);
    }

    TEST_CASE("a ribbon of the greatest length takes no more time or memory than its pixels")
    {
        for (const auto& [width, height] : {std::pair(65535u, 1u), std::pair(1u, 65535u), std::pair(65535u, 16u)})
            for (const bool tiles : {false, true})
                for (const ImageMode mode : {ImageMode::pad, ImageMode::crop}) {
                    const Pixels pixels = preprocess(pattern(width, height), shape_of(336, 14, tiles), mode);
                    CHECK(pixels.values.size() == size_t(pixels.tiles) * 3 * 336 * 336);
                }
    }

    TEST_CASE("a picture is known by what it holds, and a file that holds none is refused in a sentence")
    {
        CHECK(refusal("") == "it is empty; PNG, JPEG, WebP, GIF and BMP can be read");
        CHECK(refusal("Once upon a time") == "it is no picture of a kind that is known; PNG, JPEG, WebP, GIF and BMP "
                                             "can be read");
        CHECK(refusal("RIFF....WAVE") == refusal("Once upon a time"));
        CHECK_THROWS_WITH_AS(read_image(folder), doctest::Contains("is a directory; name a picture in it"), Error);
        CHECK_THROWS_WITH_AS(read_image(folder / "none.png"), doctest::Contains("No such file"), Error);
        if (fs::exists("/dev/null"))    // not on Windows, where devices are no files
            CHECK_THROWS_WITH_AS(read_image("/dev/null"), doctest::Contains("is a pipe or a device"), Error);
        const ImageLimits small = {.file_bytes = 50};
        CHECK_THROWS_WITH_AS(read_image(folder / "rgb.png", small), doctest::Contains("more than the 50"), Error);
        CHECK(refusal(bytes_of(folder / "rgb.png"), small).find("more than the 50") != std::string::npos);
        CHECK(refusal(bytes_of(folder / "runs.bmp")).find("it cannot be decoded (BMP RLE)") == 0);
    }

    TEST_CASE("a picture that is cut short anywhere is refused")
    {
        for (const auto& [name, bytes] : pictures()) {
            const bool several_frames = name.ends_with(".gif");    // the first one may be there
            for (size_t length = 0; length < bytes.size(); ++length) {
                INFO(name, " cut at ", length);
                const std::string said = refusal(std::string_view(bytes).substr(0, length));
                const size_t sum = name.ends_with(".png") ? 4 : 0;    // of nothing, at the end
                if (several_frames ? length < bytes.size() / 3 : length + sum < bytes.size()) CHECK(said != "");
            }
        }
    }

    TEST_CASE("what is said of a picture is its true size, before it is decoded")
    {
        const ImageLimits few = {.pixels = 272};    // one less than the pictures have
        for (const auto& [name, bytes] : pictures()) {
            if (name == "one.png") continue;
            INFO(name);
            CHECK(refusal(bytes, few).find("21 x 13 pixels, more than are read (272 in all, 65535 a side)") !=
                  std::string::npos);
            CHECK(refusal(bytes, {.pixels = 273}) == "");
        }
    }

    TEST_CASE("texts and profiles in a picture, however large, change nothing")
    {
        const std::string png = bytes_of(folder / "palette-transparent.png");
        const std::string pixels = checksum_of(read_bytes(png).rgb);
        const auto chunk = [](const std::string& name, const std::string& data) {
            return big_endian(uint32_t(data.size()), 4) + name + data + "....";
        };
        std::string many;
        for (int n = 0; n < 5000; ++n) many += chunk("tEXt", std::string("Comment\0Once upon a time", 24));
        const std::string large =
            chunk("iTXt", std::string("XML:com.adobe.xmp\0\0\0\0\0", 22) + std::string(8 << 20, 'x'));
        constexpr size_t first = 33, last = 12;    // the ends of IHDR and the beginning of IEND
        for (const std::string& others : {many, large}) {
            CHECK(checksum_of(read_bytes(with_right_sums(std::string(png).insert(first, others))).rgb) == pixels);
            CHECK(checksum_of(read_bytes(with_right_sums(std::string(png).insert(png.size() - last, others))).rgb) ==
                  pixels);
        }
    }

    TEST_CASE("a bomb is refused before it costs time or memory")
    {
        const std::clock_t start = std::clock();    // of the processor: machines are busy
        const auto too_many = [](const std::string& bytes) {
            return refusal(bytes).find("more than are read") != std::string::npos;
        };
        CHECK(too_many(png_of_size(60000, 60000)));
        CHECK(too_many(png_of_size(65536, 1)));
        CHECK(too_many(jpeg_of_size("420.jpg", 65535, 65535)));
        CHECK(too_many(bytes_of(folder / "plain.gif").replace(6, 4, "\xff\xff\xff\xff")));
        CHECK(too_many(bytes_of(folder / "moving.webp").replace(24, 6, "\xfe\xff\0\xfe\xff\0", 6)));
        CHECK(too_many(bytes_of(folder / "rgb.bmp").replace(18, 8, std::string("\xff\xff\0\0\xff\xff\0\0", 8))));
        // Within the limits, but more than so few bytes can hold.
        for (const std::string& bytes : {png_of_size(8000, 8000), jpeg_of_size("420.jpg", 8000, 8000),
                                         bytes_of(folder / "rgb.bmp").replace(18, 2, "\x80\x20")})
            CHECK(refusal(bytes).find("is cut short") != std::string::npos);

        // A thousand scans of nothing.
        std::string scans = bytes_of(folder / "progressive.jpg");
        const size_t scan = scans.find("\xff\xda");
        const std::string one = scans.substr(scan, scans.find('\xff', scan + 2) - scan);
        for (int n = 0; n < 1000; ++n) scans.insert(scan, one);
        CHECK(refusal(scans).find("scans, more than are read") != std::string::npos);
        CHECK(std::clock() - start < 5 * CLOCKS_PER_SEC);
    }

    TEST_CASE("a damaged picture is a sentence or a picture")
    {
        const std::vector<std::pair<std::string, std::string>> all = pictures();
        std::mt19937_64 random(1);
        int read = 0, refused = 0;
        for (int n = 0; n < 20000; ++n) {
            const auto& [name, bytes] = all[size_t(n) % all.size()];
            const std::string said = refusal(damaged(bytes, random), {.pixels = 1 << 20});
            ++(said.empty() ? read : refused);
        }
        CHECK(read > 1000);
        CHECK(refused > 5000);
    }

    TEST_CASE("a shape that no tower can have is refused")
    {
        const auto refuses = [](auto&& change) {
            ImageShape shape = shape_of(336, 14, true);
            change(shape);
            CHECK_THROWS_AS(preprocess(pattern(3, 3), shape, ImageMode::pad), Error);
        };
        refuses([](ImageShape& s) { s.side = 0; });
        refuses([](ImageShape& s) { s.side = 1 << 20; });
        refuses([](ImageShape& s) { s.patch = 0; });
        refuses([](ImageShape& s) { s.patch = 15; });
        refuses([](ImageShape& s) { s.deviation[1] = 0; });
        refuses([](ImageShape& s) { s.mean[2] = NAN; });
        refuses([](ImageShape& s) { s.grid.push_back({336, 100}); });
        refuses([](ImageShape& s) { s.grid.push_back({0, 336}); });
        refuses([](ImageShape& s) { s.grid.push_back({336 * 100, 336 * 100}); });
    }
}
