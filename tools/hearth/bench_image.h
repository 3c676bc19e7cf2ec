// hearth bench --image: how long an image takes, from its pixels to the answer.
#pragma once

#include "tools/hearth/images.h"

namespace hearth::tools {

struct ImageBench {
    const ImageOptions& images;
    uint32_t prompt, count, repetitions;    // tokens behind the image, of the answer; runs, after one to warm up
    float temperature;
    std::string format;         // json, csv or md
    Engine* dense = nullptr;    // the same model with all neurons, which the answers are compared with
};

/// Each image by itself: medians of looking (the tower), of reading its tokens and the prompt behind them, of both
/// together, which is when the first token comes, and of writing; the most memory so far; and how far the answer agrees
/// with the dense model's.
std::string bench_images(Engine& engine, const ImageBench& o);

}    // namespace hearth::tools
