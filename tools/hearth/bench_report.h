// What `hearth bench` measured, and how it says so.
#pragma once

#include "engine/engine.h"

#include <optional>
#include <string>
#include <vector>

namespace hearth::tools {

struct Series {
    std::string name;
    uint32_t tokens;
    std::vector<double> tokens_per_s;
    double bytes_per_token = 0, downloaded_per_token = 0;
    double read_speed =
        0;    // of the host, GB/s, measured between the tokens of the timed run; 0: the host read nothing
    std::optional<double> expected = {};    // tokens/s by the plan; of decode, where the machine was measured

    double mean() const;
    double deviation() const;
    double gb_per_s() const { return bytes_per_token * mean() / 1e9; }
};

/// A stage of the timed run, all layers together, per token.
struct StageRow {
    std::string test, name;
    bool on_device = false;
    double us = 0, bytes = 0;

    double gb_per_s() const { return us > 0 ? bytes / us / 1000 : 0; }
};

/// Decode where the context holds so many positions.
struct FillRow {
    uint32_t positions;
    double us, bytes;     // of a token
    double reading_us;    // what its bytes take at the speed of plain reading
};

/// Several sequences that decode together.
struct TogetherRow {
    uint32_t sequences;
    std::vector<double> tokens_per_s;    // of all, run by run
    std::vector<double> us;              // that a token took, of every step
    double bytes_per_token = 0;

    double median_rate() const;
    double latency(double share) const;    // that so many of the steps did not exceed
};

struct Measured {
    std::vector<Series> results;
    std::vector<StageRow> stages;
    std::vector<FillRow> fills;
    std::vector<TogetherRow> together;
};

/// `format` is json, csv or md.
std::string report(const std::string& format, const Engine& engine, const Measured& measured);

}    // namespace hearth::tools
