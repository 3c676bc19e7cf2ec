// A picture of measurements as SVG, in a few lines.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace hearth::tools {

struct PlotLine {
    std::string name, colour;
    std::vector<std::pair<double, double>> points;       // by x
    std::vector<std::pair<double, double>> bars = {};    // of each point, its lowest and highest y; empty: none
};

struct Plot {
    std::string title, x, y;    // the axes with their units
    std::vector<PlotLine> lines;
};

/// The whole file: both axes from 0, marks at round numbers, a dot for every point.
std::string svg(const Plot& plot);

}    // namespace hearth::tools
