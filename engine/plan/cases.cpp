#include "engine/plan/cases.h"

#include <algorithm>
#include <cmath>

namespace hearth {

namespace {

// llama.cpp: one side after the other, whole layers each.
constexpr Program llama_cpp = {
    "llama.cpp", {.at_once = false}, Placement::most, "ggml-backend: no overlap within a token"};
// PowerInfer as it is published: both sides of a layer one after the other, since GGML_USE_HYBRID_THREADING is defined
// nowhere; five synchronisations, each of which starts the device again, and eight small copies for each split layer;
// 25 kernels for a layer where Hearth has 8, and as many nodes of its graph, after each of which all threads of the CPU
// meet. Of a float for each neuron there are the mask, what both sides have of every product but the last, there and
// back, and what the last begins with; the mask lies in the CPU's memory, where a kernel of each matrix reads it again:
// three for each matrix. Predictors: 4.9 to 8.7 % of the parameters, by the paper. Times of one synchronisation, copy,
// kernel and barrier as in cards.cpp.
constexpr double start = 12, notice = 6, kernel = 4, barrier = 2;
constexpr Coupling of_powerinfer = {.at_once = false,
                                    .crossing_us = 5 * (start + notice) + 8 * start,
                                    .overhead_us = (25 - 8) * kernel + 25 * barrier,
                                    .vectors = 3,
                                    .predictors = 0.068};
constexpr Program powerinfer = {"PowerInfer", of_powerinfer, Placement::most,
                                "SJTU-IPADS/PowerInfer at d3ebd7c: ggml.c, ggml-cuda.cu, llama.cpp"};
// Made from it, as its index of neurons (gpu_bucket) shows: both sides at once, copies in the background.
constexpr Program dynamic_infer = {"DynamicInfer",
                                   {.crossing_us = of_powerinfer.crossing_us,
                                    .overhead_us = of_powerinfer.overhead_us,
                                    .vectors = of_powerinfer.vectors,
                                    .predictors = of_powerinfer.predictors},
                                   Placement::most,
                                   "DynamicInfer, ICLR 2026"};
// Experts in the GPU's memory as far as it holds them, all in one program.
constexpr Program das_llama = {"dasLLAMA", {}, Placement::most, "GaijinEntertainment/daScript PR 3902"};

constexpr std::string_view i9 = "Core i9-13900K", i7 = "Core i7-12700K";
// By their bandwidth in the paper: 67.2 and 38.4 GB/s.
constexpr std::string_view high = "DDR5-4200", low = "DDR4-2400";
constexpr std::string_view paper = "PowerInfer, arXiv 2312.12456, figures 13 and 15, table 8",
                           dynamic = "DynamicInfer, ICLR 2026", bamboo = "Bamboo's README";

// Of ReluLLaMA-70B, of whose neurons 42 % find room, PowerInfer's GPU served 51 % of what fired when others ran it (its
// published lists are those of other layers: issue 247), and DynamicInfer's 68 %: ln 0.51 / ln 0.42, ln 0.68 / ln 0.42.
constexpr double rerun = 0.78, moving = 0.44;

// What explains the large differences.
constexpr std::string_view falcon = "llama.cpp's kernels for Falcon were slow on that card (its discussion 4534)",
                           sums = "a warp of its kernel for sums over neurons keeps a row of floats in shared memory, "
                                  "so that few are under way",
                           halves = "more was served than this curve says: 70 % by the paper's figure 12",
                           small = "the paper serves 42 % of a model of this size from 11 GB, this curve less",
                           slower = "the same program was 40 % faster in the paper of PowerInfer",
                           reloads = "neurons that move take the link, which is not counted here, from a machine "
                                     "that ran llama.cpp slower, too",
                           experts = "its kernels for experts were half as fast as another's on the same card";

constexpr Case cases[] = {
    // 4 bit, 512 tokens written
    {"opt-66b", "q4_0", "RTX 4090", i9, high, 24, Way::layers, "even", 0, &llama_cpp, 256, 2.9, paper, ""},
    {"opt-66b", "q4_0", "RTX 4090", i9, high, 24, Way::routed, "opt", 0, &powerinfer, 256, 12, paper, sums},
    {"opt-175b", "q4_0", "RTX 4090", i9, high, 24, Way::layers, "even", 0, &llama_cpp, 256, 0.7, paper, ""},
    {"opt-175b", "q4_0", "RTX 4090", i9, high, 24, Way::routed, "opt", 0, &powerinfer, 256, 1.9, paper, ""},
    {"relufalcon-40b", "q4_0", "RTX 4090", i9, high, 24, Way::layers, "even", 0, &llama_cpp, 256, 17, paper, falcon},
    {"relufalcon-40b", "q4_0", "RTX 4090", i9, high, 24, Way::routed, "relufalcon", 0, &powerinfer, 256, 29, paper, ""},
    {"relullama-70b", "q4_0", "RTX 4090", i9, high, 24, Way::layers, "even", 0, &llama_cpp, 256, 3.2, paper, ""},
    {"relullama-70b", "q4_0", "RTX 4090", i9, high, 24, Way::routed, "relullama-70b", 0, &powerinfer, 256, 10, paper,
     ""},
    {"opt-30b", "q4_0", "RTX 2080 Ti", i7, low, 11, Way::layers, "even", 0, &llama_cpp, 256, 3.8, paper, ""},
    {"opt-30b", "q4_0", "RTX 2080 Ti", i7, low, 11, Way::routed, "opt", 0, &powerinfer, 256, 13, paper, sums},
    {"opt-66b", "q4_0", "RTX 2080 Ti", i7, low, 11, Way::layers, "even", 0, &llama_cpp, 256, 1.1, paper, ""},
    {"opt-66b", "q4_0", "RTX 2080 Ti", i7, low, 11, Way::routed, "opt", 0, &powerinfer, 256, 4.2, paper, ""},
    {"relufalcon-40b", "q4_0", "RTX 2080 Ti", i7, low, 11, Way::layers, "even", 0, &llama_cpp, 256, 2.0, paper, ""},
    {"relufalcon-40b", "q4_0", "RTX 2080 Ti", i7, low, 11, Way::routed, "relufalcon", 0, &powerinfer, 256, 16, paper,
     ""},
    {"relullama-70b", "q4_0", "RTX 2080 Ti", i7, low, 11, Way::layers, "even", 0, &llama_cpp, 256, 1.1, paper, ""},
    {"relullama-70b", "q4_0", "RTX 2080 Ti", i7, low, 11, Way::routed, "relullama-70b", 0, &powerinfer, 256, 5.3, paper,
     small},
    // F16
    {"opt-30b", "f16", "RTX 4090", i9, high, 24, Way::layers, "even", 0, &llama_cpp, 64, 1.1, paper, ""},
    {"opt-30b", "f16", "RTX 4090", i9, high, 24, Way::routed, "opt", 0, &powerinfer, 64, 12, paper, halves},
    {"relufalcon-40b", "f16", "RTX 4090", i9, high, 24, Way::layers, "even", 0, &llama_cpp, 64, 1.1, paper, ""},
    {"relufalcon-40b", "f16", "RTX 4090", i9, high, 24, Way::routed, "relufalcon", 0, &powerinfer, 64, 13, paper,
     halves},
    {"yi-34b", "f16", "RTX 4090", i9, high, 24, Way::layers, "even", 0, &llama_cpp, 64, 1.0, paper, ""},
    {"yi-34b", "f16", "RTX 4090", i9, high, 24, Way::routed, "threshold", 0, &powerinfer, 64, 1.7, paper, ""},
    {"llama-2-13b", "f16", "RTX 2080 Ti", i7, low, 11, Way::layers, "even", 0, &llama_cpp, 64, 2.1, paper, ""},
    {"llama-2-13b", "f16", "RTX 2080 Ti", i7, low, 11, Way::routed, "threshold", 0, &powerinfer, 64, 3.1, paper, ""},
    {"bamboo-7b", "f16", "RTX 2080 Ti", i7, low, 11, Way::layers, "even", 0, &llama_cpp, 64, 7.64, bamboo, ""},
    {"bamboo-7b", "f16", "RTX 2080 Ti", i7, low, 11, Way::routed, "drelu", 0, &powerinfer, 64, 33.5, bamboo, ""},
    {"bamboo-7b", "f16", "RTX 4090", i9, high, 24, Way::layers, "even", 0, &llama_cpp, 64, 58.34, bamboo, ""},
    {"bamboo-7b", "f16", "RTX 4090", i9, high, 24, Way::routed, "drelu", 0, &powerinfer, 64, 92.46, bamboo, ""},
    {"bamboo-7b", "f16", "", i9, high, 0, Way::layers, "even", 0, &llama_cpp, 64, 4.78, bamboo, ""},
    {"bamboo-7b", "f16", "", i9, high, 0, Way::routed, "drelu", 0, &powerinfer, 64, 9.94, bamboo, ""},
    // The same, run again by others: 64 tokens read, 128 written
    {"relullama-70b", "q4_0", "RTX 4090", i9, high, 24, Way::layers, "even", 0, &llama_cpp, 128, 2.23, dynamic, slower},
    {"relullama-70b", "q4_0", "RTX 4090", i9, high, 24, Way::routed, "relullama-70b", rerun, &powerinfer, 128, 5.14,
     dynamic, slower},
    {"relullama-13b", "f16", "RTX 4090", i9, high, 24, Way::layers, "even", 0, &llama_cpp, 128, 9.7, dynamic, ""},
    {"relullama-13b", "f16", "RTX 4090", i9, high, 24, Way::routed, "relullama-13b", rerun, &powerinfer, 128, 15.5,
     dynamic, ""},
    {"relullama-7b", "f16", "RTX 2080 Ti", i7, low, 11, Way::layers, "even", 0, &llama_cpp, 128, 8.1, dynamic, ""},
    {"relullama-7b", "f16", "RTX 2080 Ti", i7, low, 11, Way::routed, "relullama-7b", rerun, &powerinfer, 128, 18.9,
     dynamic, ""},
    {"relullama-70b", "q4_0", "RTX 4090", i9, high, 24, Way::routed, "relullama-70b", moving, &dynamic_infer, 128, 7.88,
     dynamic, reloads},
    {"relullama-13b", "f16", "RTX 4090", i9, high, 24, Way::routed, "relullama-13b", moving, &dynamic_infer, 128, 19.1,
     dynamic, reloads},
    {"relullama-7b", "f16", "RTX 2080 Ti", i7, low, 11, Way::routed, "relullama-7b", moving, &dynamic_infer, 128, 24.4,
     dynamic, ""},
    // Experts
    {"qwen3-30b-a3b", "q4_k_m", "RTX 5060 Ti 16 GB", "Ryzen 7 7700X", "DDR5-6000", 16, Way::layers, "", 0, &das_llama,
     128, 68.4, "GaijinEntertainment/daScript PR 3902", ""},
    {"qwen3-30b-a3b", "q4_k_m", "RTX 5060 Ti 16 GB", "Ryzen 7 7700X", "DDR5-6000", 16, Way::layers, "", 0, &llama_cpp,
     128, 39.7, "GaijinEntertainment/daScript PR 3902", experts},
};

constexpr PublishedBound bounds[] = {
    {"llama-33b", "q4_0", 8, 360, 4.3, 23, 32, 8.5},    {"llama-33b", "q4_0", 12, 400, 5.9, 36, 45, 14},
    {"llama-33b", "q4_0", 16, 480, 10.1, 50, 55, 27},   {"llama-33b", "q4_0", 24, 900, 50, 109, 123, 74},
    {"llama-2-70b", "q4_0", 8, 360, 1.6, 7.3, 11, 3.1}, {"llama-2-70b", "q4_0", 12, 400, 1.8, 15, 24, 4.2},
    {"llama-2-70b", "q4_0", 16, 480, 2.1, 19, 30, 5.3}, {"llama-2-70b", "q4_0", 24, 900, 3.1, 33, 51, 8.8},
    {"llama-33b", "f16", 24, 900, 1.2, 8.3, 14, 2.6},   {"llama-2-70b", "f16", 24, 900, 0.46, 2.2, 3.6, 0.9},
};

/// What the bounds were made of: bandwidths, and 50 us for each split layer.
Machine bound_machine(double device_gb_per_s)
{
    constexpr double host_gb_per_s = 54, seam = 50;
    Machine m;
    m.device = "a bound";
    for (const auto& [side, rate] : {std::pair(&m.host, host_gb_per_s), {&m.on_device, device_gb_per_s}}) {
        side->rows.fill({rate, rate, rate});
        side->read = side->attention.kv = side->vector = side->signs = rate;
    }
    m.round_trip_us = m.release_us = seam;
    m.upload = 24;
    return m;
}

constexpr struct {
    std::string_view name;
    double PublishedBound::*column;
    FiringCurve curve;
} columns[] = {
    {"dense", &PublishedBound::dense, {"dense", 1, 1, 1, ""}},
    {"ReGLU", &PublishedBound::reglu, {"ReGLU", 0.18, 0.264, 1, ""}},
    {"dReLU", &PublishedBound::drelu, {"dReLU", 0.10, 0.1386, 1, ""}},
    {"SwiGLU", &PublishedBound::threshold, {"SwiGLU", 0.5, 0.60, 1, ""}},
};

}    // namespace

std::span<const Case> published_cases() { return cases; }
std::span<const PublishedBound> published_bounds() { return bounds; }

std::vector<BoundCase> bound_cases()
{
    std::vector<BoundCase> all;
    for (const PublishedBound& b : bounds)
        for (const auto& c : columns) all.push_back({&b, c.name, b.*c.column});
    return all;
}

double simulated(const Case& c, const Weights& weights, const NeedsOf& needs_of)
{
    const Card* const card = c.card.empty() ? nullptr : &find_card(c.card);
    FiringCurve curve = c.firing.empty() ? usual_firing(weights.config) : find_firing(c.firing);
    if (c.exponent > 0) curve.exponent = c.exponent;
    Scenario s = {
        .weights = &weights,
        .needs_of = needs_of,
        .machine = expected_machine(
            {.card = card, .processor = &find_processor(c.processor), .memory = &find_memory(c.memory), .link = {}}),
        .device_memory = uint64_t(c.gib * 0x1p30),
        .way = c.way,
        .firing = &curve,
        .coupling = c.program->coupling,
        .position = c.position};
    s.options.context = std::min(2048u, weights.config.context);
    if (c.way == Way::routed || c.way == Way::dense) s.options.placement = c.program->placement;
    return simulate(s).tokens_per_s;
}

double simulated(const BoundCase& c, const Weights& weights, const NeedsOf& needs_of)
{
    const auto* const column = std::ranges::find(columns, c.column, [](const auto& row) { return row.name; });
    HEARTH_CHECK(column != std::end(columns));
    constexpr double reserved = 1.5;    // GiB
    Scenario s = {.weights = &weights,
                  .needs_of = needs_of,
                  .machine = bound_machine(c.bound->device_gb_per_s),
                  .way = c.column == "dense" ? Way::layers : Way::routed,
                  .firing = &column->curve,
                  .position = 1};
    s.options.context = 256;    // its cache is in what is reserved
    // simulate leaves a margin of its own.
    s.device_memory = uint64_t((c.bound->gib - reserved) * 0x1p30 / 0.95);
    return simulate(s).tokens_per_s;
}

Spread spread_of(std::span<const double> ratios)
{
    Spread s = {.count = ratios.size()};
    double sum = 0, squares = 0;
    for (const double r : ratios) {
        sum += std::log(r);
        squares += std::log(r) * std::log(r);
        const double off = std::abs(r - 1);
        s.within_25 += off <= 0.25;
        s.within_35 += off <= 0.35;
    }
    const double n = std::max<double>(double(ratios.size()), 1), mean = sum / n;
    s.middle = std::exp(mean);
    s.factor = std::exp(std::sqrt(std::max(squares / n - mean * mean, 0.0)));
    return s;
}

}    // namespace hearth
