#include "tools/hearth/plot.h"

#include "engine/error.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <span>

namespace hearth::tools {

namespace {

constexpr double width = 860, plot_height = 400, left = 80, right = 30, top = 40, below = 50;
constexpr double legend_line = 18;

constexpr const char* colours[] = {"#2b7bd9", "#d9822b", "#2a9d6f", "#c0508f", "#8a63d2", "#a08600",
                                   "#2f9fb5", "#d04a4a", "#7f7f7f", "#5a8f29", "#b5651d", "#4f5fc4"};

/// 1, 2 or 5 times a power of ten, so that about five of them make `most`.
double step_of(double most)
{
    const double power = std::pow(10, std::floor(std::log10(most / 5)));
    for (const double factor : {1.0, 2.0, 5.0})
        if (most / (factor * power) <= 6) return factor * power;
    return 10 * power;
}

/// Texts may be a stranger's.
std::string escaped(const std::string& text)
{
    std::string out;
    for (const char c : printable(text))
        out += c == '<' ? "&lt;" : c == '>' ? "&gt;" : c == '&' ? "&amp;" : c == '"' ? "&quot;" : std::string(1, c);
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

/// Powers of ten around what there is, with 2 and 5 times of each where these are few.
Axis axis_of_powers(const std::vector<double>& values)
{
    Axis axis = {.first = 0, .last = 1, .logarithmic = true};
    double least = 0, most = 0;
    for (const double v : values) {
        if (v <= 0) continue;
        least = least > 0 ? std::min(least, v) : v;
        most = std::max(most, v);
    }
    if (most > 0) axis.first = std::floor(std::log10(least)), axis.last = std::ceil(std::log10(most));
    axis.last = std::max(axis.last, axis.first + 1);
    constexpr double steps[] = {1, 2, 5};
    const size_t count = axis.last - axis.first <= 3 ? std::size(steps) : 1;
    if (count > 1 && most > 0) {    // no more than a step around what there is
        while (axis.first + std::log10(2) < std::log10(least)) axis.first += std::log10(2);
        while (axis.last - std::log10(2) > std::log10(most)) axis.last -= std::log10(2);
    }
    for (double power = std::floor(axis.first); power <= axis.last; ++power)
        for (const double step : std::span(steps).first(count))
            if (const double at = power + std::log10(step); at > axis.first - 1e-9 && at < axis.last + 1e-9)
                axis.marks.push_back(step * std::pow(10, power));
    return axis;
}

std::vector<double> values_of(const Plot& plot, double std::pair<double, double>::*side)
{
    std::vector<double> values;
    for (const PlotLine& line : plot.lines) {
        for (const auto& point : line.points) values.push_back(point.*side);
        if (side == &std::pair<double, double>::second)
            for (const auto& bar : line.bars) values.push_back(bar.second);
        if (side == &std::pair<double, double>::second && plot.logarithmic_y)
            for (const auto& bar : line.bars) values.push_back(bar.first);
    }
    return values;
}

Axis y_axis_of(const Plot& plot)
{
    const std::vector<double> values = values_of(plot, &std::pair<double, double>::second);
    if (plot.logarithmic_y) return axis_of_powers(values);
    return axis_from_zero(values.empty() ? 0 : 1.05 * std::ranges::max(values));
}

/// Where there are few values that are far enough from each other, the marks are these.
Axis x_axis_of(const Plot& plot)
{
    std::vector<double> values = values_of(plot, &std::pair<double, double>::first);
    if (plot.logarithmic_x) return axis_of_powers(values);
    if (values.empty()) return axis_from_zero(0);
    std::ranges::sort(values);
    values.erase(std::unique(values.begin(), values.end()), values.end());
    Axis axis = axis_from_zero(values.back());
    if (values.size() < 2) return axis;
    // What begins far from 0 need not begin there.
    if (4 * values.front() > values.back()) axis.first = values.front() - (values.back() - values.front()) / 10;
    std::erase_if(axis.marks, [&](double mark) { return mark < axis.first; });
    double nearest = axis.last;
    for (size_t i = 1; i < values.size(); ++i) nearest = std::min(nearest, values[i] - values[i - 1]);
    if (nearest > (axis.last - axis.first) / 25) axis.marks = values;
    return axis;
}

/// A text that ends early where it has more than so many letters, all of it under the pointer.
std::string shortened(const std::string& text, size_t letters)
{
    if (text.size() <= letters) return escaped(text);
    size_t end = letters - 1;
    while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;    // UTF-8 stays whole
    return fmt::format("{}\u2026<title>{}</title>", escaped(text.substr(0, end)), escaped(text));
}

constexpr const char* dashes[] = {"", " stroke-dasharray=\"7 4\"", " stroke-dasharray=\"2 3\""};    // of Dash

std::string text_at(double x, double y, const char* anchor, const std::string& text)
{
    return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\">{}</text>\n", x, y, anchor, text);
}

/// A name below the picture, behind a piece of its line or bar.
struct Entry {
    std::string name, colour;
    std::optional<Dash> line = {};    // none: a bar
};

/// A name takes about so much of a line.
double width_of(const std::string& name) { return 50 + 7.2 * double(std::min<size_t>(name.size(), 110)); }

/// Line by line below `y`; returns where they end.
double add_legend(std::string& out, const std::vector<Entry>& entries, double y)
{
    double x = 20, column = 0;
    for (const Entry& e : entries) column = std::max(column, width_of(e.name));
    y += legend_line;
    for (const Entry& e : entries) {
        if (x > 20 && x + column > width) x = 20, y += legend_line;
        if (e.line)
            out += fmt::format("<line x1=\"{:.1f}\" x2=\"{:.1f}\" y1=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"{}\" "
                               "stroke-width=\"3\"{}/>\n",
                               x, x + 24, y - 4.5, y - 4.5, e.colour, dashes[size_t(*e.line)]);
        else
            out += fmt::format("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"12\" height=\"12\" fill=\"{}\"/>\n", x + 12,
                               y - 11, e.colour);
        out += text_at(x + 30, y, "start", shortened(e.name, 110));
        x += column;
    }
    return y + 14;
}

std::string whole(const std::string& title, double height, const std::string& inside)
{
    return fmt::format("<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"plot\" viewBox=\"0 0 {0} {1:.0f}\" "
                       "font-family=\"sans-serif\" font-size=\"13\" fill=\"currentColor\">\n<rect class=\"paper\" "
                       "width=\"{0}\" height=\"{1:.0f}\" fill=\"white\"/>\n<text x=\"20\" y=\"22\" "
                       "font-size=\"15\">{2}</text>\n{3}</svg>\n",
                       width, height, escaped(title), inside);
}

/// A line of the grid from one point to another, behind everything else.
std::string grid_line(double x1, double y1, double x2, double y2)
{
    return fmt::format("<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"#888\" "
                       "stroke-opacity=\"0.35\"/>\n",
                       x1, y1, x2, y2);
}

/// Where a plot's values lie.
struct Field {
    Axis x_axis, y_axis;

    double x(double value) const { return left + x_axis.share(value) * (width - left - right); }
    double y(double value) const { return top + (1 - y_axis.share(value)) * plot_height; }
};

std::string frame(const Field& at, const Plot& plot)
{
    constexpr double bottom = top + plot_height;
    std::string out;
    for (const double x : at.x_axis.marks)
        out +=
            grid_line(at.x(x), top, at.x(x), bottom) + text_at(at.x(x), bottom + 18, "middle", fmt::format("{:g}", x));
    for (const double y : at.y_axis.marks)
        out += grid_line(left, at.y(y), width - right, at.y(y)) +
               text_at(left - 8, at.y(y) + 4, "end", fmt::format("{:g}", y));
    out += text_at((left + width - right) / 2, bottom + 38, "middle", escaped(plot.x));
    return out + fmt::format("<text transform=\"translate(22 {:.1f}) rotate(-90)\" text-anchor=\"middle\">{}</text>\n",
                             top + plot_height / 2, escaped(plot.y));
}

/// A line with its dots, their labels and bars. Lines that go over the same x stand a little apart: `shift`.
std::string drawn(const Field& at, const PlotLine& line, double shift)
{
    std::string points, dots;
    for (size_t i = 0; i < line.bars.size(); ++i) {
        const double x = at.x(line.points[i].first) + shift;
        dots += fmt::format("<line x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"{1:.1f}\" y2=\"{2:.1f}\" stroke=\"{3}\" "
                            "stroke-opacity=\"0.45\" stroke-width=\"3\"/>\n",
                            x, at.y(line.bars[i].first), at.y(line.bars[i].second), line.colour);
    }
    for (size_t i = 0; i < line.points.size(); ++i) {
        const auto [x, y] = line.points[i];
        if (!at.x_axis.shows(x) || !at.y_axis.shows(y)) continue;
        points += fmt::format("{:.1f},{:.1f} ", at.x(x) + shift, at.y(y));
        dots += fmt::format(
            "<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3.5\" fill=\"{}\"><title>{:g}: {:.3f}</title></circle>\n",
            at.x(x) + shift, at.y(y), line.colour, x, y);
        if (i < line.labels.size())
            dots += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" font-size=\"11\" text-anchor=\"end\">{}</text>\n",
                                at.x(x) - 7, at.y(y) - 3, escaped(line.labels[i]));
    }
    if (!line.joined) return dots;
    return fmt::format("<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"{}/>\n", points,
                       line.colour, dashes[size_t(line.dash)]) +
           dots;
}

// ---- bars -----------------------------------------------------------------------------------------------------------

constexpr double bar_left = 270, bar_right = 110, bar_height = 14, bar_step = 18, group_gap = 12;

/// Of the bars that there are.
double height_of(const BarGroup& group)
{
    return bar_step * double(std::ranges::count_if(group.values, [](const BarValue& v) { return v.value > 0; }));
}

/// A bar with its number behind it; `y` is its upper edge.
std::string drawn(const BarValue& v, const std::string& colour, const Axis& axis, double y)
{
    const auto at = [&](double x) { return bar_left + axis.share(x) * (width - bar_left - bar_right); };
    std::string out = fmt::format("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{}\" fill=\"{}\"/>\n",
                                  bar_left, y, std::max(at(v.value) - bar_left, 1.0), bar_height, colour);
    if (v.high > v.low)
        out += fmt::format("<line x1=\"{0:.1f}\" x2=\"{1:.1f}\" y1=\"{2:.1f}\" y2=\"{2:.1f}\" "
                           "stroke=\"currentColor\" stroke-width=\"2\"/>\n",
                           at(v.low), at(v.high), y + bar_height / 2);
    return out + text_at(at(std::max(v.value, v.high)) + 6, y + 11.5, "start", fmt::format("{:.4g}", v.value));
}

}    // namespace

const char* plot_colour(size_t number) { return colours[number % std::size(colours)]; }

std::string svg(const Plot& plot)
{
    const Field at = {x_axis_of(plot), y_axis_of(plot)};
    std::string out = frame(at, plot);
    std::vector<Entry> entries;
    // Bars would hide each other.
    const bool bars = std::ranges::any_of(plot.lines, [](const PlotLine& l) { return !l.bars.empty(); });
    const double apart = std::min(4.0, 24 / double(plot.lines.size()));
    for (size_t i = 0; i < plot.lines.size(); ++i) {
        const double shift = bars ? apart * (double(i) - double(plot.lines.size() - 1) / 2) : 0;
        out += drawn(at, plot.lines[i], shift);
        entries.push_back({plot.lines[i].name, plot.lines[i].colour, plot.lines[i].dash});
    }
    const double end = add_legend(out, entries, top + plot_height + below);
    return whole(plot.title, end, out);
}

std::string svg(const BarChart& chart)
{
    double most = 0, end = top + 6;
    for (const BarGroup& g : chart.groups) {
        for (const BarValue& v : g.values) most = std::max({most, v.value, v.high});
        end += height_of(g) + group_gap;
    }
    const Axis axis = axis_from_zero(most);
    std::string out;
    for (const double mark : axis.marks) {
        const double x = bar_left + axis.share(mark) * (width - bar_left - bar_right);
        out += grid_line(x, top, x, end) + text_at(x, end + 18, "middle", fmt::format("{:g}", mark));
    }
    out += text_at((bar_left + width - bar_right) / 2, end + 38, "middle", escaped(chart.x));
    double y = top + 6;
    for (const BarGroup& g : chart.groups) {
        out += text_at(bar_left - 8, y + height_of(g) / 2 + 3, "end", shortened(g.name, 36));
        for (size_t i = 0; i < g.values.size(); ++i) {
            if (g.values[i].value <= 0) continue;
            out += drawn(g.values[i], chart.series[i].second, axis, y);
            y += bar_step;
        }
        y += group_gap;
    }
    end += below;
    std::vector<Entry> entries;
    for (const auto& [name, colour] : chart.series) entries.push_back({name, colour});
    if (entries.size() > 1) end = add_legend(out, entries, end);
    return whole(chart.title, end, out);
}

}    // namespace hearth::tools
