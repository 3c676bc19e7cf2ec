#include "tools/hearth/plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace hearth::tools {

namespace {

constexpr double width = 860, height = 460, left = 80, right = 30, top = 50, bottom = 60;

/// 1, 2 or 5 times a power of ten, so that about five of them make `most`.
double step_of(double most)
{
    const double power = std::pow(10, std::floor(std::log10(most / 5)));
    for (const double factor : {1.0, 2.0, 5.0})
        if (most / (factor * power) <= 6) return factor * power;
    return 10 * power;
}

std::string escaped(const std::string& text)
{
    std::string out;
    for (const char c : text) out += c == '<' ? "&lt;" : c == '>' ? "&gt;" : c == '&' ? "&amp;" : std::string(1, c);
    return out;
}

}    // namespace

std::string svg(const Plot& plot)
{
    double most_x = 0, most_y = 0;
    for (const PlotLine& line : plot.lines) {
        for (const auto& [x, y] : line.points) most_x = std::max(most_x, x), most_y = std::max(most_y, y);
        for (const auto& [low, high] : line.bars) most_y = std::max(most_y, high);
    }
    if (!(most_x > 0)) most_x = 1;
    if (!(most_y > 0)) most_y = 1;
    most_y *= 1.05;
    const auto at_x = [&](double x) { return left + x / most_x * (width - left - right); };
    const auto at_y = [&](double y) { return height - bottom - y / most_y * (height - top - bottom); };

    std::string out = fmt::format(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" font-family=\"sans-serif\" "
        "font-size=\"13\">\n"
        "<rect width=\"{0}\" height=\"{1}\" fill=\"white\"/>\n<text x=\"{2}\" y=\"22\" font-size=\"15\">{3}</text>\n",
        width, height, left, escaped(plot.title));
    for (double x = 0; x <= most_x * (1 + 1e-9); x += step_of(most_x))
        out += fmt::format("<line x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"{1:.1f}\" y2=\"{2:.1f}\" stroke=\"#ddd\"/>"
                           "<text x=\"{0:.1f}\" y=\"{3:.1f}\" text-anchor=\"middle\">{4:g}</text>\n",
                           at_x(x), top, height - bottom, height - bottom + 18, x);
    for (double y = 0; y <= most_y; y += step_of(most_y))
        out += fmt::format("<line x1=\"{0:.1f}\" x2=\"{1:.1f}\" y1=\"{2:.1f}\" y2=\"{2:.1f}\" stroke=\"#ddd\"/>"
                           "<text x=\"{3:.1f}\" y=\"{4:.1f}\" text-anchor=\"end\">{5:g}</text>\n",
                           left, width - right, at_y(y), left - 8, at_y(y) + 4, y);
    out += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{}</text>\n", (left + width - right) / 2,
                       height - 14, escaped(plot.x));
    out += fmt::format("<text transform=\"translate(22 {:.1f}) rotate(-90)\" text-anchor=\"middle\">{}</text>\n",
                       (top + height - bottom) / 2, escaped(plot.y));
    double name_y = top + 8;
    for (const PlotLine& line : plot.lines) {
        std::string points, dots;
        for (size_t i = 0; i < line.bars.size(); ++i)
            dots += fmt::format("<line x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"{1:.1f}\" y2=\"{2:.1f}\" stroke=\"{3}\" "
                                "stroke-opacity=\"0.4\" stroke-width=\"3\"/>\n",
                                at_x(line.points[i].first), at_y(line.bars[i].first), at_y(line.bars[i].second),
                                line.colour);
        for (const auto& [x, y] : line.points) {
            points += fmt::format("{:.1f},{:.1f} ", at_x(x), at_y(y));
            dots += fmt::format(
                "<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3.5\" fill=\"{}\"><title>{:g}: {:.3f}</title></circle>\n",
                at_x(x), at_y(y), line.colour, x, y);
        }
        out += fmt::format("<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"/>\n{}", points,
                           line.colour, dots);
        out += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" fill=\"{}\">{}</text>\n", left + 12, name_y += 18,
                           line.colour, escaped(line.name));
    }
    return out + "</svg>\n";
}

}    // namespace hearth::tools
