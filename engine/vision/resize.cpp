#include "engine/vision/resize.h"

#include "engine/error.h"

#include <tbb/parallel_for.h>

#include <algorithm>
#include <cmath>

namespace hearth {

namespace {

constexpr int fraction_bits = 22;    // of a coefficient: 32, less 8 of a pixel and 2 for sums beyond white

/// Which pixels of the picture along one axis a new pixel is made of, and how much of each: Keys' bicubic kernel with
/// a = -0.5, made wider by the factor that the picture is made smaller by.
struct Taps {
    uint32_t first = 0, count = 0;
    size_t at = 0;         // the first one's coefficient
    int32_t colour = 0;    // how much of the sheet's colour, which is around the picture
};

struct Axis {
    std::vector<Taps> taps;               // of each new pixel
    std::vector<int32_t> coefficients;    // in 2^-fraction_bits
};

/// What of the sheet is the picture's, along one axis, and how long the sheet is.
struct Extent {
    uint32_t begin, end, sheet;
};

double bicubic(double x)
{
    constexpr double a = -0.5;
    x = std::abs(x);
    if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
    if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
    return 0;
}

/// Of the new pixels from `begin` on, `count` of `to` that the sheet's become.
Axis make_axis(const Extent& old, uint32_t to, uint32_t begin, uint32_t count)
{
    const double scale = double(old.sheet) / to, stretch = std::max(scale, 1.0), reach = 2 * stretch;
    Axis axis;
    std::vector<double> weights;
    for (uint32_t i = begin; i < begin + count; ++i) {
        const double middle = (i + 0.5) * scale;
        const auto first = uint32_t(std::max(int64_t(middle - reach + 0.5), int64_t(0)));
        const auto end = uint32_t(std::min(int64_t(middle + reach + 0.5), int64_t(old.sheet)));
        weights.clear();
        double sum = 0;
        for (uint32_t k = first; k < end; ++k) {
            weights.push_back(bicubic((double(k) - middle + 0.5) * (1 / stretch)));
            sum += weights.back();
        }
        Taps taps = {std::clamp(first, old.begin, old.end) - old.begin, 0, axis.coefficients.size()};
        for (uint32_t k = first; k < end; ++k) {
            const double weight = weights[k - first], c = (sum != 0 ? weight / sum : weight) * (1 << fraction_bits);
            const auto coefficient = int32_t(c < 0 ? c - 0.5 : c + 0.5);
            if (k >= old.begin && k < old.end) axis.coefficients.push_back(coefficient);
            else taps.colour += coefficient;
        }
        taps.count = uint32_t(axis.coefficients.size() - taps.at);
        axis.taps.push_back(taps);
    }
    return axis;
}

uint8_t rounded(int32_t sum) { return uint8_t(std::clamp(sum >> fraction_bits, 0, 255)); }

constexpr int32_t half = 1 << (fraction_bits - 1);

/// A row of the picture, with the sheet's colour to both sides of it, resized along x.
void resize_row(const uint8_t* pixels, const Axis& axis, const std::array<uint8_t, 3>& colour, uint8_t* out)
{
    for (const Taps& taps : axis.taps) {
        const int32_t* const c = axis.coefficients.data() + taps.at;
        const uint8_t* p = pixels + 3 * size_t(taps.first);
        int32_t red = half + taps.colour * colour[0], green = half + taps.colour * colour[1],
                blue = half + taps.colour * colour[2];
        for (uint32_t k = 0; k < taps.count; ++k, p += 3) {
            red += c[k] * p[0];
            green += c[k] * p[1];
            blue += c[k] * p[2];
        }
        *out++ = rounded(red);
        *out++ = rounded(green);
        *out++ = rounded(blue);
    }
}

/// A new row out of those that were resized along x, which begin at `rows`.
void mix_rows(const uint8_t* rows, const Taps& taps, const int32_t* coefficients, const std::array<uint8_t, 3>& colour,
              std::span<uint8_t> out)
{
    std::vector<int32_t> sums(out.size());
    for (size_t i = 0; i < out.size(); ++i) sums[i] = half + taps.colour * colour[i % 3];
    for (uint32_t k = 0; k < taps.count; ++k, rows += out.size())
        for (size_t i = 0; i < out.size(); ++i) sums[i] += coefficients[k] * rows[i];
    for (size_t i = 0; i < out.size(); ++i) out[i] = rounded(sums[i]);
}

/// Along x first, and rounded to 8 bits between. An axis along which nothing changes has coefficients of one and
/// nothing else, so that it needs no case of its own.
Image resize_x_then_y(const Sheet& sheet, const ResizedPart& to)
{
    const Image& image = sheet.image;
    HEARTH_CHECK(image.width > 0 && image.height > 0 && image.rgb.size() == size_t(3) * image.width * image.height);
    HEARTH_CHECK(uint64_t(sheet.left) + image.width <= sheet.width &&
                 uint64_t(sheet.top) + image.height <= sheet.height);
    HEARTH_CHECK(uint64_t(to.left) + to.part_width <= to.width && uint64_t(to.top) + to.part_height <= to.height);
    const Axis x = make_axis({sheet.left, sheet.left + image.width, sheet.width}, to.width, to.left, to.part_width),
               y = make_axis({sheet.top, sheet.top + image.height, sheet.height}, to.height, to.top, to.part_height);
    const size_t row_bytes = size_t(3) * to.part_width;

    // The picture's rows that the part is made of. The sheet's above and below stay of its colour.
    uint32_t first = image.height, end = 0;
    for (const Taps& taps : y.taps) {
        if (taps.count == 0) continue;
        first = std::min(first, taps.first);
        end = std::max(end, taps.first + taps.count);
    }
    std::vector<uint8_t> between(end > first ? row_bytes * (end - first) : 0);
    tbb::parallel_for(first, std::max(first, end), [&](uint32_t row) {
        const uint8_t* const pixels = image.rgb.data() + size_t(3) * image.width * row;
        resize_row(pixels, x, sheet.colour, between.data() + row_bytes * (row - first));
    });

    Image out = {to.part_width, to.part_height, std::vector<uint8_t>(row_bytes * to.part_height)};
    tbb::parallel_for(size_t(0), size_t(to.part_height), [&](size_t i) {
        const Taps& taps = y.taps[i];
        const size_t start = taps.count ? row_bytes * (taps.first - first) : 0;
        mix_rows(between.data() + start, taps, y.coefficients.data() + taps.at, sheet.colour,
                 std::span(out.rgb).subspan(row_bytes * i, row_bytes));
    });
    return out;
}

}    // namespace

Image resize(const Sheet& sheet, const ResizedPart& to)
{
    const bool like_a_ribbon = sheet.height > uint64_t(100) * sheet.width;
    if (!like_a_ribbon || to.height >= sheet.height) return resize_x_then_y(sheet, to);
    const Image shorter = resize_x_then_y(sheet, {sheet.width, to.height, 0, to.top, sheet.width, to.part_height});
    return resize_x_then_y({shorter, shorter.width, shorter.height},
                           {to.width, shorter.height, to.left, 0, to.part_width, shorter.height});
}

}    // namespace hearth
