#include "engine/vision/resize.h"

#include "engine/error.h"

#include <tbb/parallel_for.h>

#include <algorithm>
#include <cmath>

namespace hearth {

namespace {

constexpr int fraction_bits = 22;    // of a coefficient: 32, less 8 of a pixel and 2 for sums beyond white

/// Which pixels along one axis a new pixel is made of, and how much of each: Keys' bicubic kernel with a = -0.5, made
/// wider by the factor that the picture is made smaller by.
struct Taps {
    uint32_t first = 0, count = 0;    // pixels of the sheet
    size_t at = 0;                    // the first one's coefficient
};

struct Axis {
    std::vector<Taps> taps;               // of each new pixel
    std::vector<int32_t> coefficients;    // in 2^-fraction_bits
};

double bicubic(double x)
{
    constexpr double a = -0.5;
    x = std::abs(x);
    if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
    if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
    return 0;
}

/// Of the new pixels from `begin` on, `count` of `to` that `from` pixels become.
Axis make_axis(uint32_t from, uint32_t to, uint32_t begin, uint32_t count)
{
    const double scale = double(from) / to, stretch = std::max(scale, 1.0), reach = 2 * stretch;
    Axis axis;
    std::vector<double> weights;
    for (uint32_t i = begin; i < begin + count; ++i) {
        const double middle = (i + 0.5) * scale;
        const auto first = uint32_t(std::max(int64_t(middle - reach + 0.5), int64_t(0)));
        const auto end = uint32_t(std::min(int64_t(middle + reach + 0.5), int64_t(from)));
        weights.clear();
        double sum = 0;
        for (uint32_t k = first; k < end; ++k) {
            weights.push_back(bicubic((double(k - first) + double(first) - middle + 0.5) * (1 / stretch)));
            sum += weights.back();
        }
        axis.taps.push_back({first, end - first, axis.coefficients.size()});
        for (const double weight : weights) {
            const double c = (sum != 0 ? weight / sum : weight) * (1 << fraction_bits);
            axis.coefficients.push_back(int32_t(c < 0 ? c - 0.5 : c + 0.5));
        }
    }
    return axis;
}

uint8_t rounded(int32_t sum) { return uint8_t(std::clamp(sum >> fraction_bits, 0, 255)); }

constexpr int32_t half = 1 << (fraction_bits - 1);

/// A row of the picture, with the sheet's colour to both sides of it, resized along x.
void resize_row(const uint8_t* pixels, const Sheet& sheet, const Axis& axis, uint8_t* out)
{
    const uint32_t left = sheet.left, right = sheet.left + sheet.image.width;
    for (const Taps& taps : axis.taps) {
        const int32_t* const c = axis.coefficients.data() + taps.at - taps.first;    // of a pixel of the sheet
        const uint32_t end = taps.first + taps.count;
        const uint32_t from = std::clamp(left, taps.first, end), to = std::clamp(right, from, end);
        int32_t outside = 0;
        for (uint32_t k = taps.first; k < from; ++k) outside += c[k];
        for (uint32_t k = to; k < end; ++k) outside += c[k];
        int32_t red = half + outside * sheet.colour[0], green = half + outside * sheet.colour[1],
                blue = half + outside * sheet.colour[2];
        for (uint32_t k = from; k < to; ++k) {
            const uint8_t* const p = pixels + 3 * size_t(k - left);
            red += c[k] * p[0];
            green += c[k] * p[1];
            blue += c[k] * p[2];
        }
        *out++ = rounded(red);
        *out++ = rounded(green);
        *out++ = rounded(blue);
    }
}

/// A new row out of `rows` of those that were resized along x.
void mix_rows(const std::vector<const uint8_t*>& rows, const int32_t* coefficients, std::span<uint8_t> out)
{
    std::vector<int32_t> sums(out.size(), half);
    for (size_t k = 0; k < rows.size(); ++k)
        for (size_t i = 0; i < out.size(); ++i) sums[i] += coefficients[k] * rows[k][i];
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
    const Axis x = make_axis(sheet.width, to.width, to.left, to.part_width),
               y = make_axis(sheet.height, to.height, to.top, to.part_height);
    const size_t row_bytes = size_t(3) * to.part_width;

    // The picture's rows that the part is made of.
    uint32_t first = sheet.top + image.height, end = sheet.top;
    for (const Taps& taps : y.taps) {
        first = std::min(first, std::max(taps.first, sheet.top));
        end = std::max(end, std::min(taps.first + taps.count, sheet.top + image.height));
    }
    end = std::max(first, end);
    std::vector<uint8_t> between(row_bytes * (end - first)), blank(row_bytes);
    tbb::parallel_for(first, end, [&](uint32_t row) {
        const uint8_t* const pixels = image.rgb.data() + size_t(3) * image.width * (row - sheet.top);
        resize_row(pixels, sheet, x, between.data() + row_bytes * (row - first));
    });
    for (size_t i = 0; i < blank.size(); ++i) blank[i] = sheet.colour[i % 3];

    Image out = {to.part_width, to.part_height, std::vector<uint8_t>(row_bytes * to.part_height)};
    tbb::parallel_for(size_t(0), size_t(to.part_height), [&](size_t i) {
        std::vector<const uint8_t*> rows(y.taps[i].count);
        for (uint32_t k = 0; k < rows.size(); ++k) {
            const uint32_t row = y.taps[i].first + k;
            const bool inside = row >= first && row < end;
            rows[k] = inside ? between.data() + row_bytes * (row - first) : blank.data();
        }
        mix_rows(rows, y.coefficients.data() + y.taps[i].at, std::span(out.rgb).subspan(row_bytes * i, row_bytes));
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
