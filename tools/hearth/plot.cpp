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

/// One axis: where a value lies, and the marks with their numbers.
struct Axis {
    double first = 0, last = 1;    // logarithms, where it is logarithmic
    bool logarithmic = false;
    std::vector<double> marks = {};

    double share(double value) const { return ((logarithmic ? std::log10(value) : value) - first) / (last - first); }
    bool shows(double value) const { return !logarithmic || value > 0; }
};

Axis axis_from_zero(double most)
{
    Axis axis = {.last = most > 0 ? most : 1};
    for (double mark = 0; mark <= axis.last * (1 + 1e-9); mark += step_of(axis.last)) axis.marks.push_back(mark);
    return axis;
}

/// Whole powers of ten around what there is.
Axis axis_of_powers(const std::vector<double>& values)
{
    Axis axis = {.first = 0, .last = 1, .logarithmic = true};
    bool any = false;
    for (const double v : values) {
        if (v <= 0) continue;
        axis.first = any ? std::min(axis.first, std::floor(std::log10(v))) : std::floor(std::log10(v));
        axis.last = any ? std::max(axis.last, std::ceil(std::log10(v))) : std::ceil(std::log10(v));
        any = true;
    }
    axis.last = std::max(axis.last, axis.first + 1);
    for (double power = axis.first; power <= axis.last; ++power) axis.marks.push_back(std::pow(10, power));
    return axis;
}

Axis axis_of(const Plot& plot, double std::pair<double, double>::*side, double room)
{
    std::vector<double> values;
    for (const PlotLine& line : plot.lines) {
        for (const auto& point : line.points) values.push_back(point.*side);
        if (side == &std::pair<double, double>::second)
            for (const auto& bar : line.bars) values.push_back(bar.second);
    }
    if (plot.logarithmic) return axis_of_powers(values);
    return axis_from_zero(values.empty() ? 0 : room * std::ranges::max(values));
}

}    // namespace

std::string svg(const Plot& plot)
{
    const Axis x_axis = axis_of(plot, &std::pair<double, double>::first, 1),
               y_axis = axis_of(plot, &std::pair<double, double>::second, 1.05);
    const auto at_x = [&](double x) { return left + x_axis.share(x) * (width - left - right); };
    const auto at_y = [&](double y) { return height - bottom - y_axis.share(y) * (height - top - bottom); };

    std::string out = fmt::format(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" font-family=\"sans-serif\" "
        "font-size=\"13\">\n"
        "<rect width=\"{0}\" height=\"{1}\" fill=\"white\"/>\n<text x=\"{2}\" y=\"22\" font-size=\"15\">{3}</text>\n",
        width, height, left, escaped(plot.title));
    for (const double x : x_axis.marks)
        out += fmt::format("<line x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"{1:.1f}\" y2=\"{2:.1f}\" stroke=\"#ddd\"/>"
                           "<text x=\"{0:.1f}\" y=\"{3:.1f}\" text-anchor=\"middle\">{4:g}</text>\n",
                           at_x(x), top, height - bottom, height - bottom + 18, x);
    for (const double y : y_axis.marks)
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
        for (size_t i = 0; i < line.points.size(); ++i) {
            const auto [x, y] = line.points[i];
            if (!x_axis.shows(x) || !y_axis.shows(y)) continue;
            points += fmt::format("{:.1f},{:.1f} ", at_x(x), at_y(y));
            dots += fmt::format(
                "<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3.5\" fill=\"{}\"><title>{:g}: {:.3f}</title></circle>\n",
                at_x(x), at_y(y), line.colour, x, y);
            if (i < line.labels.size())
                dots += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" font-size=\"11\">{}</text>\n", at_x(x) + 6,
                                    at_y(y) - 4, escaped(line.labels[i]));
        }
        if (line.joined)
            out += fmt::format("<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"/>\n", points,
                               line.colour);
        out += dots + fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" fill=\"{}\">{}</text>\n", left + 12, name_y += 18,
                                  line.colour, escaped(line.name));
    }
    return out + "</svg>\n";
}

}    // namespace hearth::tools
