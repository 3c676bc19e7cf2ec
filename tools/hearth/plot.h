// A picture of measurements as SVG, in a few lines.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace hearth::tools {

enum class Dash { none, dashed, dotted };

struct PlotLine {
    std::string name, colour;
    std::vector<std::pair<double, double>> points = {};    // by x
    bool joined = true;                                    // else dots alone
    Dash dash = Dash::none;
    std::vector<std::string> labels = {};                // of the dots, where they have any
    std::vector<std::pair<double, double>> bars = {};    // of each point, its lowest and highest y; empty: none
};

struct Plot {
    std::string title, x, y;    // the axes with their units
    std::vector<PlotLine> lines;
    bool logarithmic_x = false, logarithmic_y = false;    // points that are not above 0 are left out
};

/// A value of a bar with how far its runs went; a value of 0 has no bar.
struct BarValue {
    double value = 0, low = 0, high = 0;
};
struct BarGroup {
    std::string name;
    std::vector<BarValue> values;    // one for each series
};

/// Bars from left to right, group below group, and in each a bar for each series.
struct BarChart {
    std::string title, x;                                       // the axis with its unit
    std::vector<std::pair<std::string, std::string>> series;    // name and colour
    std::vector<BarGroup> groups;
};

/// Colours that can be told apart, on white and on black; after the last comes the first.
const char* plot_colour(size_t number);

// Both are whole files. Ink is the colour of what stands around them, black where nothing does; the paper (class
// "paper") is white unless a page says otherwise. Names stand below the picture.

std::string svg(const BarChart& chart);

/// A dot for every point; marks at round numbers, from 0 or by powers of ten, or at the values of x.
std::string svg(const Plot& plot);

}    // namespace hearth::tools
