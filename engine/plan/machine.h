// This computer in figures, as `hearth tune` measures them.
#pragma once

#include "engine/model/gguf.h"

#include <array>
#include <cstdint>
#include <string>

namespace hearth {

/// How fast rows of one weight format are read at decode, in GB/s of the format's bytes.
struct RowRates {
    double dot = 1;      // a matrix times a vector
    double gate = 1;     // the gates of a feed-forward block of which nothing fires
    double fired = 1;    // up and down rows of the neurons that fire
};

/// One side: the device, or the host with all its threads.
struct SideRates {
    std::array<RowRates, std::size(weight_formats)> rows;    // in the order of weight_formats
    double read = 1;                                         // GB/s of plain reading, which no kernel can exceed by much
    double kv = 1;                                           // GB/s of KV cache at decode
    double vector = 1;                                       // GB/s of activations in norms and joins
    double signs = 1;                                        // GB/s of sign bits in the sign predictor
    double step_us = 0;                                      // a step that has hardly anything to do: a dependent dispatch, a parallel loop

    const RowRates& of(WeightType type) const
    {
        size_t i = 0;
        while (weight_formats[i].type != values_of(type)) ++i;    // of sparse rows, too, what dense ones give
        return rows[i];
    }
};

struct Machine {
    std::string device, driver;    // empty: no device was measured
    std::string kernels;           // of the host: "AVX-512"
    unsigned threads = 0;          // of the host
    bool software = false;         // the device computes on the host's cores
    SideRates host, on_device;
    double submit_us = 0;        // one submit, on the host
    double round_trip_us = 0;    // submit, run nothing, notice that it is done
    double release_us = 0;       // the same for work submitted before, which waits for a word from the host
    double upload = 0;           // GB/s from host memory to the device's
    double together = 0;         // what both sides read at once, over what the faster reads alone

    bool has_device() const { return !device.empty(); }
};

}    // namespace hearth
