// A picture of measurements as SVG, in a few lines.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace hearth::tools {

struct PlotLine {
    std::string name, colour;
    std::vector<std::pair<double, double>> points = {};    // by x
    bool joined = true;                                    // else dots alone
    std::vector<std::string> labels = {};                  // of the dots, where they have any
    std::vector<std::pair<double, double>> bars = {};      // of each point, its lowest and highest y; empty: none
};

struct Plot {
    std::string title, x, y;    // the axes with their units
    std::vector<PlotLine> lines;
    bool logarithmic = false;    // both axes; points that are not above 0 are left out
};

/// The whole file: marks at round numbers, a dot for every point; both axes from 0, or by powers of ten.
std::string svg(const Plot& plot);

}    // namespace hearth::tools
