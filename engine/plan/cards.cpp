#include "engine/plan/cards.h"

#include "engine/error.h"
#include "engine/plan/kernel_costs.h"

#include <algorithm>
#include <cctype>

namespace hearth {

namespace {

// ---- cards ----------------------------------------------------------------------------------------------------------

// Matrices: the rate with sums in fp32, no zeros left out. int8: DP4A or its like, by the width of the integer units.
// `reached`: bytes of the model times tokens/s over the card's bandwidth, where all of a model of 7B to 32B was on the
// card, after the time of each dependent kernel (`step` below) is taken off; of one generation the middle of what was
// found.
constexpr CardGeneration turing = {"Turing", 2, 4, 4, 0.90, "NVIDIA Turing white paper WP-09183; reached as Ampere"};
// RTX 3090: 8B Q4_0 146.7 tokens/s, https://github.com/ggml-org/llama.cpp/pull/21024
constexpr CardGeneration ampere = {"Ampere", 1,    2,
                                   2,        0.90, "NVIDIA Ampere GA102 white paper 2.1; ggml-org/llama.cpp PR 21024"};
// RTX 4090: 92 % in F16, 84 % in 4 bit, https://github.com/zeux/calm; RTX 4070: 8B Q4_K_M 87.0 tokens/s
constexpr CardGeneration ada = {
    "Ada", 1, 2, 2, 0.90, "NVIDIA Ada white paper 2.1; github.com/zeux/calm, ggml-org/llama.cpp PR 15355"};
// RTX 5090: 14B and 22B Q4_K_M 139.9 and 97.1 tokens/s
constexpr CardGeneration blackwell = {
    "Blackwell", 1, 2, 4, 0.90, "NVIDIA RTX Blackwell white paper 1.1; ggml-org/llama.cpp PR 17701"};
// Vega: 41 to 43 % in threads of llama.cpp's on the Radeon Pro VII
constexpr CardGeneration gcn5 = {"GCN 5", 2, 0, 4, 0.45, "AMD Vega ISA; ggml-org/llama.cpp PR 14903"};
// RX 5700 XT: 7B Q4_0 65.2 tokens/s. Its chip, Navi 10, has no dot product.
constexpr CardGeneration rdna1 = {"RDNA 1", 2, 0, 0, 0.60, "AMD RDNA white paper; ggml-org/llama.cpp PR 13324"};
// No figure of its own was found: between RDNA 1 and RDNA 3.
constexpr CardGeneration rdna2 = {"RDNA 2", 2, 0, 4, 0.70, "AMD RDNA 2 ISA; reached between its neighbours"};
// RX 7900 XTX: 27B Q4_K_S 36.85; RX 7900 XT: 32B Q4_K_M 31.6 tokens/s. fp32 counts two operations issued at once.
constexpr CardGeneration rdna3 = {
    "RDNA 3", 2, 2, 2, 0.75, "AMD RDNA 3 ISA; ggml-org/llama.cpp issue 27097, AlexsJones/llmfit PR 808"};
constexpr CardGeneration rdna35 = {"RDNA 3.5", 2, 4, 4, 0.75, "AMD RDNA 3.5 ISA; reached as RDNA 3"};
// RX 9070 XT: 8B Q4_K_M 119 tokens/s
constexpr CardGeneration rdna4 = {"RDNA 4", 2,    4,
                                  4,        0.90, "AMD RDNA 4 ISA; github.com/maeddesg/vulkanforge/wiki/Benchmarks"};
// Arc A770: 8B Q4_K_M 52 to 53 tokens/s on Windows, 32 on Linux. It has matrices, which Hearth leaves alone.
constexpr CardGeneration xe_hpg = {"Xe HPG", 2,    0,
                                   4,        0.45, "Intel Xe HPG guide; ggml-org/llama.cpp issues 19988 and 17628"};
constexpr CardGeneration xe2_hpg = {"Xe2", 2, 0, 4, 0.45, "Intel Xe2 guide; reached as Xe HPG, nothing else was found"};
constexpr CardGeneration xe_lp = {"Xe LP", 2, 0, 4, 0.45, "Intel Xe LP guide; reached as Xe HPG"};
constexpr CardGeneration xe_lpg = {"Xe LPG", 2, 0, 4, 0.45, "Intel Xe LPG guide; reached as Xe HPG"};

// Name, generation, GiB, GB/s, TFLOPS of fp32, PCIe, lanes, page
// clang-format off
constexpr Card cards[] = {
    // Turing
    {"RTX 2060", &turing, 6, 336, 6.45, 3, 16, "geforce-rtx-2060.c3310"},
    {"RTX 2060 12 GB", &turing, 12, 336, 7.18, 3, 16, "geforce-rtx-2060-12-gb.c3836"},
    {"RTX 2060 SUPER", &turing, 8, 448, 7.18, 3, 16, "geforce-rtx-2060-super.c3441"},
    {"RTX 2070", &turing, 8, 448, 7.46, 3, 16, "geforce-rtx-2070.c3252"},
    {"RTX 2070 SUPER", &turing, 8, 448, 9.06, 3, 16, "geforce-rtx-2070-super.c3440"},
    {"RTX 2080", &turing, 8, 448, 10.07, 3, 16, "geforce-rtx-2080.c3224"},
    {"RTX 2080 SUPER", &turing, 8, 495.9, 11.15, 3, 16, "geforce-rtx-2080-super.c3439"},
    {"RTX 2080 Ti", &turing, 11, 616, 13.45, 3, 16, "geforce-rtx-2080-ti.c3305"},
    // Ampere
    {"RTX 3050 6 GB", &ampere, 6, 168, 6.77, 4, 8, "geforce-rtx-3050-6-gb.c4188"},
    {"RTX 3050 8 GB", &ampere, 8, 224, 9.1, 4, 8, "geforce-rtx-3050-8-gb.c3858"},
    {"RTX 3060 8 GB", &ampere, 8, 240, 12.74, 4, 16, "geforce-rtx-3060-8-gb.c3937"},
    {"RTX 3060 12 GB", &ampere, 12, 360, 12.74, 4, 16, "geforce-rtx-3060-12-gb.c3682"},
    {"RTX 3060 Ti", &ampere, 8, 448, 16.2, 4, 16, "geforce-rtx-3060-ti.c3681"},
    {"RTX 3070", &ampere, 8, 448, 20.31, 4, 16, "geforce-rtx-3070.c3674"},
    {"RTX 3070 Ti", &ampere, 8, 608.3, 21.75, 4, 16, "geforce-rtx-3070-ti.c3675"},
    {"RTX 3080", &ampere, 10, 760.3, 29.77, 4, 16, "geforce-rtx-3080.c3621"},
    {"RTX 3080 12 GB", &ampere, 12, 912.4, 30.64, 4, 16, "geforce-rtx-3080-12-gb.c3834"},
    {"RTX 3080 Ti", &ampere, 12, 912.4, 34.1, 4, 16, "geforce-rtx-3080-ti.c3735"},
    {"RTX 3090", &ampere, 24, 936.2, 35.58, 4, 16, "geforce-rtx-3090.c3622"},
    {"RTX 3090 Ti", &ampere, 24, 1008.4, 40.0, 4, 16, "geforce-rtx-3090-ti.c3829"},
    // Ada
    {"RTX 4060", &ada, 8, 272, 15.11, 4, 8, "geforce-rtx-4060.c4107"},
    {"RTX 4060 Ti 8 GB", &ada, 8, 288, 22.06, 4, 8, "geforce-rtx-4060-ti-8-gb.c3890"},
    {"RTX 4060 Ti 16 GB", &ada, 16, 288, 22.06, 4, 8, "geforce-rtx-4060-ti-16-gb.c4155"},
    {"RTX 4070", &ada, 12, 504.2, 29.15, 4, 16, "geforce-rtx-4070.c3924"},
    {"RTX 4070 SUPER", &ada, 12, 504.2, 35.48, 4, 16, "geforce-rtx-4070-super.c4186"},
    {"RTX 4070 Ti", &ada, 12, 504.2, 40.09, 4, 16, "geforce-rtx-4070-ti.c3950"},
    {"RTX 4070 Ti SUPER", &ada, 16, 672.3, 44.1, 4, 16, "geforce-rtx-4070-ti-super.c4187"},
    {"RTX 4080", &ada, 16, 716.8, 48.74, 4, 16, "geforce-rtx-4080.c3888"},
    {"RTX 4080 SUPER", &ada, 16, 736.3, 52.22, 4, 16, "geforce-rtx-4080-super.c4182"},
    {"RTX 4090", &ada, 24, 1008.4, 82.58, 4, 16, "geforce-rtx-4090.c3889"},
    // Blackwell
    {"RTX 5050", &blackwell, 8, 320, 13.17, 5, 8, "geforce-rtx-5050.c4220"},
    {"RTX 5060", &blackwell, 8, 448, 19.18, 5, 8, "geforce-rtx-5060.c4219"},
    {"RTX 5060 Ti 8 GB", &blackwell, 8, 448, 23.7, 5, 8, "geforce-rtx-5060-ti-8-gb.c4246"},
    {"RTX 5060 Ti 16 GB", &blackwell, 16, 448, 23.7, 5, 8, "geforce-rtx-5060-ti-16-gb.c4292"},
    {"RTX 5070", &blackwell, 12, 672, 30.87, 5, 16, "geforce-rtx-5070.c4218"},
    {"RTX 5070 Ti", &blackwell, 16, 896, 43.94, 5, 16, "geforce-rtx-5070-ti.c4243"},
    {"RTX 5080", &blackwell, 16, 960, 56.28, 5, 16, "geforce-rtx-5080.c4217"},
    {"RTX 5090", &blackwell, 32, 1792, 104.8, 5, 16, "geforce-rtx-5090.c4216"},
    // RDNA 1
    {"RX 5500 XT", &rdna1, 4, 224, 5.2, 4, 8, "radeon-rx-5500-xt.c3468"},
    {"RX 5600 XT", &rdna1, 6, 288, 7.19, 4, 16, "radeon-rx-5600-xt.c3474"},
    {"RX 5700", &rdna1, 8, 448, 7.95, 4, 16, "radeon-rx-5700.c3437"},
    {"RX 5700 XT", &rdna1, 8, 448, 9.75, 4, 16, "radeon-rx-5700-xt.c3339"},
    // RDNA 2
    {"RX 6400", &rdna2, 4, 128, 3.56, 4, 4, "radeon-rx-6400.c3813"},
    {"RX 6500 XT", &rdna2, 4, 143.9, 5.76, 4, 4, "radeon-rx-6500-xt.c3850"},
    {"RX 6600", &rdna2, 8, 224, 8.93, 4, 8, "radeon-rx-6600.c3696"},
    {"RX 6600 XT", &rdna2, 8, 256, 10.6, 4, 8, "radeon-rx-6600-xt.c3774"},
    {"RX 6650 XT", &rdna2, 8, 280.3, 10.79, 4, 8, "radeon-rx-6650-xt.c3898"},
    {"RX 6700", &rdna2, 10, 320, 11.29, 4, 16, "radeon-rx-6700.c3716"},
    {"RX 6700 XT", &rdna2, 12, 384, 13.21, 4, 16, "radeon-rx-6700-xt.c3695"},
    {"RX 6750 XT", &rdna2, 12, 432, 13.31, 4, 16, "radeon-rx-6750-xt.c3879"},
    {"RX 6800", &rdna2, 16, 512, 16.17, 4, 16, "radeon-rx-6800.c3713"},
    {"RX 6800 XT", &rdna2, 16, 512, 20.74, 4, 16, "radeon-rx-6800-xt.c3694"},
    {"RX 6900 XT", &rdna2, 16, 512, 23.04, 4, 16, "radeon-rx-6900-xt.c3481"},
    {"RX 6950 XT", &rdna2, 16, 576, 23.65, 4, 16, "radeon-rx-6950-xt.c3875"},
    // RDNA 3
    {"RX 7600", &rdna3, 8, 288, 21.75, 4, 8, "radeon-rx-7600.c4153"},
    {"RX 7600 XT", &rdna3, 16, 288, 22.57, 4, 8, "radeon-rx-7600-xt.c4190"},
    {"RX 7700 XT", &rdna3, 12, 432, 35.17, 4, 16, "radeon-rx-7700-xt.c3911"},
    {"RX 7800 XT", &rdna3, 16, 624.1, 37.32, 4, 16, "radeon-rx-7800-xt.c3839"},
    {"RX 7900 GRE", &rdna3, 16, 576, 45.98, 4, 16, "radeon-rx-7900-gre.c4166"},
    {"RX 7900 XT", &rdna3, 20, 800, 51.48, 4, 16, "radeon-rx-7900-xt.c3912"},
    {"RX 7900 XTX", &rdna3, 24, 960, 61.39, 4, 16, "radeon-rx-7900-xtx.c3941"},
    // RDNA 4
    {"RX 9060 XT 8 GB", &rdna4, 8, 322.3, 25.64, 5, 16, "radeon-rx-9060-xt-8-gb.c4251"},
    {"RX 9060 XT 16 GB", &rdna4, 16, 322.3, 25.64, 5, 16, "radeon-rx-9060-xt-16-gb.c4293"},
    {"RX 9070 GRE", &rdna4, 12, 432, 34.28, 5, 16, "radeon-rx-9070-gre.c4291"},
    {"RX 9070", &rdna4, 16, 644.6, 36.13, 5, 16, "radeon-rx-9070.c4250"},
    {"RX 9070 XT", &rdna4, 16, 644.6, 48.66, 5, 16, "radeon-rx-9070-xt.c4229"},
    // Arc A
    {"Arc A310", &xe_hpg, 4, 124, 2.69, 4, 8, "arc-a310.c3930"},
    {"Arc A380", &xe_hpg, 6, 186, 4.2, 4, 8, "arc-a380.c3913"},
    {"Arc A580", &xe_hpg, 8, 512, 12.29, 4, 16, "arc-a580.c3928"},
    {"Arc A750", &xe_hpg, 8, 512, 17.2, 4, 16, "arc-a750.c3929"},
    {"Arc A770", &xe_hpg, 16, 560, 19.66, 4, 16, "arc-a770.c3914"},
    // Arc B
    {"Arc B570", &xe2_hpg, 10, 380, 11.52, 4, 8, "arc-b570.c4245"},
    {"Arc B580", &xe2_hpg, 12, 456, 13.67, 4, 8, "arc-b580.c4244"},
    // integrated
    {"UHD 770", &xe_lp, 0, 0, 0.79, 0, 0, "uhd-graphics-770.c3940"},
    {"Iris Xe 96EU", &xe_lp, 0, 0, 2.0, 0, 0, "iris-xe-graphics-96eu-mobile.c4145"},
    {"Arc 140T", &xe_lpg, 0, 0, 4.81, 0, 0, "arc-140t-mobile.c4268"},
    {"Arc 140V", &xe2_hpg, 0, 0, 3.99, 0, 0, "arc-140v-mobile.c4314"},
    {"Radeon Vega 8", &gcn5, 0, 0, 1.28, 0, 0, "radeon-vega-8.c3286"},
    {"Radeon 680M", &rdna2, 0, 0, 3.38, 0, 0, "radeon-680m.c4135"},
    {"Radeon 780M", &rdna3, 0, 0, 8.91, 0, 0, "radeon-780m.c4249"},
    {"Radeon 890M", &rdna35, 0, 0, 5.94, 0, 0, "radeon-890m.c4224"},
    {"Radeon 8060S", &rdna35, 0, 0, 14.85, 0, 0, "radeon-8060s.c4270"},
};
// clang-format on

// ---- processors and memories ----------------------------------------------------------------------------------------

// Cores, clocks: https://www.amd.com/en/products/processors, https://ark.intel.com. With AVX2 a core makes two products
// with sums of 8 floats in a cycle, with AVX-512 of 16 (Zen 4 has them at half the rate).
// A CCD of Zen 2 to 5 reads 32 bytes in a cycle of Infinity Fabric: 57.6 GB/s at 1.8 GHz, 64 GB/s at 2.0 GHz.
constexpr double fabric_1800 = 57.6, fabric_2000 = 64;
constexpr Processor processors[] = {
    {"Ryzen 5 3600", 6, 4.0, 32, fabric_1800, "AVX2", "amd.com, AMD Zen 2 optimisation guide 56305"},
    {"Ryzen 5 5600X", 6, 4.4, 32, fabric_1800, "AVX2", "amd.com, AMD Zen 3 optimisation guide 56665"},
    {"Ryzen 7 5800X3D", 8, 4.3, 32, fabric_1800, "AVX2", "amd.com, AMD Zen 3 optimisation guide 56665"},
    {"Ryzen 9 5950X", 16, 4.0, 32, 2 * fabric_1800, "AVX2", "amd.com, AMD Zen 3 optimisation guide 56665"},
    {"Ryzen 5 7600", 6, 4.9, 32, fabric_2000, "AVX-512", "amd.com, AMD Zen 4 optimisation guide 57647"},
    {"Ryzen 7 7700X", 8, 5.1, 32, fabric_2000, "AVX-512", "amd.com, AMD Zen 4 optimisation guide 57647"},
    {"Ryzen 9 7950X", 16, 5.0, 32, 2 * fabric_2000, "AVX-512", "amd.com, AMD Zen 4 optimisation guide 57647"},
    {"Ryzen 7 9700X", 8, 5.0, 64, fabric_2000, "AVX-512", "amd.com, AMD Zen 5 optimisation guide 58455"},
    {"Ryzen 9 9950X", 16, 5.0, 64, 2 * fabric_2000, "AVX-512", "amd.com, AMD Zen 5 optimisation guide 58455"},
    {"Ryzen AI Max+ 395", 16, 4.6, 64, 2 * fabric_2000, "AVX-512", "amd.com, AMD Zen 5 optimisation guide 58455"},
    {"Core i5-12400", 6, 4.0, 32, 0, "AVX2", "ark.intel.com 134586"},
    {"Core i7-12700K", 8, 4.7, 32, 0, "AVX2", "ark.intel.com 134594"},
    {"Core i5-13600K", 6, 5.1, 32, 0, "AVX2", "ark.intel.com 230493"},
    {"Core i7-13700K", 8, 5.3, 32, 0, "AVX2", "ark.intel.com 230500"},
    {"Core i9-13900K", 8, 5.5, 32, 0, "AVX2", "ark.intel.com 230496"},
    {"Core i9-14900K", 8, 5.7, 32, 0, "AVX2", "ark.intel.com 236773"},
    {"Core Ultra 7 265K", 8, 5.2, 32, 0, "AVX2", "ark.intel.com 241063"},
    {"Core i9-10900X", 10, 4.0, 64, 0, "AVX-512", "ark.intel.com 198019"},
};

// DDR4-3200 reads 46 of 51.2 GB/s: https://guru3d.com/review/g-skill-tridentz-royal-ddr4-3200-mhz-review; DDR4-2133
// 31.5 of 34.1: the same page. DDR5 by the same share: a processor's own limit is its row's.
constexpr double two_channels = 2 * 8 / 1000.0;    // GB in a million transfers
constexpr double ddr4 = 0.90, ddr5 = 0.90;
constexpr std::string_view measured = "JEDEC; share: guru3d.com, AIDA64 read", likewise = "JEDEC; share as DDR4's";
constexpr Memory memories[] = {
    {"DDR4-2133", 2133 * two_channels, ddr4, measured},
    {"DDR4-2400", 2400 * two_channels, ddr4, measured},
    {"DDR4-2666", 2666 * two_channels, ddr4, measured},
    {"DDR4-3200", 3200 * two_channels, ddr4, measured},
    {"DDR4-3600", 3600 * two_channels, ddr4, measured},
    {"DDR4-2933 four channels", 2 * 2933 * two_channels, ddr4, measured},
    {"DDR5-4200", 4200 * two_channels, ddr5, likewise},    // what four modules of DDR5 often run at
    {"DDR5-4800", 4800 * two_channels, ddr5, likewise},
    {"DDR5-5200", 5200 * two_channels, ddr5, likewise},
    {"DDR5-5600", 5600 * two_channels, ddr5, likewise},
    {"DDR5-6000", 6000 * two_channels, ddr5, likewise},
    {"DDR5-6400", 6400 * two_channels, ddr5, likewise},
    {"DDR5-7200", 7200 * two_channels, ddr5, likewise},
    {"LPDDR5X-7500", 7500 * two_channels, ddr5, likewise},
    {"LPDDR5X-8533", 8533 * two_channels, ddr5, likewise},
    {"LPDDR5X-8000 256 bits", 2 * 8000 * two_channels, ddr5, likewise},
};

// ---- what Hearth is expected to make of them ------------------------------------------------------------------------

// Latencies, in microseconds. No card of ours was measured: these are what others found, or estimates where it says so.
//   step: an RMS norm of 5120 floats takes 4.3 to 6.2 on an RTX 5090 (ggml-org/llama.cpp PR 17701)
//   submit: 51,300 a second with RADV, 35,400 with ANV (Mesa merge request 25352)
//   start, notice: estimates, a GPU that was idle begins after 5 to 20, a poll sees the end after 2 to 10
//   parallel: a barrier of 8 threads (ggml-org/llama.cpp issue 9461), and as much again for handing out the work
constexpr double step = 4, submit = 20, start = 12, notice = 6, parallel = 4;
// Shares of what kernels reach of a plain matrix' rate: rows that fire lie apart, and a mask is read (60 to 80 % of the
// bytes that count); likewise the cache, head by head. Estimates from kernels of others.
constexpr double fired_on_device = 0.75, kv_on_device = 0.75;
// Of a host: matrices in F16 reach 0.8 of the memory's bandwidth (ReluLLaMA-70B, 0.52 tokens/s on a Core i9-13900K with
// 89.6 GB/s: huggingface.co/SparseLLM/ReluLLaMA-70B), so 0.9 of plain reading. A core unpacks 10 GB/s of rows in 4 bit
// (an estimate: 8 to 12). Rows that fire begin anew every few KB.
constexpr double matrix_on_host = 0.9, unpacked_by_core = 10, fired_on_host = 0.85;
// Of arithmetic for tiles: 40 to 60 % of a card's peak; of a processor's, as much.
constexpr double tiles = 0.5;
// Of a link: 24 of 31.5 GB/s over 16 lanes of PCIe 4.
constexpr double link_reached = 0.76;

/// Of all formats alike.
SideRates rates(double matrix, double fired, double read, double kv, double step_us)
{
    SideRates r;
    r.rows.fill({.dot = matrix, .gate = matrix, .fired = fired});
    r.read = read, r.attention.kv = kv, r.vector = read, r.signs = read;
    r.step_us = r.norm_us = step_us;
    return r;
}

SideRates host_rates(const Processor& p, double read)
{
    const double matrix = read * matrix_on_host;
    SideRates r = rates(matrix, matrix * fired_on_host, read, matrix, parallel);
    for (size_t f = 0; f < std::size(weight_formats); ++f)
        if (const double most = unpacked_by_core * p.cores; is_quantised(weight_formats[f].type) && matrix > most)
            r.rows[f] = {.dot = most, .gate = most, .fired = most * fired_on_host};
    return r;
}

/// GB/s that plain reading reaches there.
double read_rate(const Computer& c)
{
    const double memory = c.memory->gb_per_s * c.memory->read;
    return c.processor->read_limit > 0 ? std::min(memory, c.processor->read_limit) : memory;
}

constexpr double billions_of_products(double tflops) { return tflops * 1000 / 2; }

/// A card that computes too little for its memory is slower than that.
void limit_by_arithmetic(SideRates& rates, const Card& card)
{
    const double lanes = billions_of_products(card.tflops);    // or of other instructions, a second
    for (const KernelCost& k : kernel_costs) {
        if (k.generation != card.generation->name) continue;
        RowRates& r = rates.rows[format_number(k.type)];
        r.dot = std::min(r.dot, lanes / k.dot);
        r.gate = std::min(r.gate, lanes / k.up);
        r.fired = std::min(r.fired, 2 * lanes / (k.up + k.down));    // half of the bytes are ups'
    }
}

void add_card(Machine& m, const Computer& c)
{
    const Card& card = *c.card;
    const CardGeneration& g = *card.generation;
    const double memory = card.integrated() ? c.memory->gb_per_s : card.gb_per_s, reached = memory * g.reached;
    m.device = card.name;
    m.on_device = rates(reached, reached * fired_on_device, reached, reached * kv_on_device, step);
    limit_by_arithmetic(m.on_device, card);
    for (size_t f = 0; f < std::size(weight_formats); ++f) {
        auto& ways = m.products[f];
        ways[size_t(Product::floats)] = billions_of_products(card.tflops * tiles);
        ways[size_t(Product::halves)] = billions_of_products(card.tflops * tiles * g.fp16);
        // Numbers of 16 bits meet weights as two planes of 8.
        if (is_quantised(weight_formats[f].type))
            ways[size_t(Product::integers)] = billions_of_products(card.tflops * tiles * g.int8 / 2);
        ways[size_t(Product::matrices)] = billions_of_products(card.tflops * tiles * g.matrix);
    }
    m.submit_us = submit;
    m.round_trip_us = submit + start + notice;
    m.release_us = m.round_trip_us;    // whether a driver is faster so is for `tune` to find
    const Link own = {card.pcie, card.lanes}, slot = c.link.value_or(own);
    m.upload = card.integrated() ? read_rate(c) / 2    // read and written
                                 : std::min(own.gb_per_s(), slot.gb_per_s()) * link_reached;
    m.together = card.integrated() ? 1 : 1 + std::min(m.host.read, reached) / std::max(m.host.read, reached);
}

std::string simplified(std::string_view name)
{
    std::string out;
    for (const char ch : name)
        if (std::isalnum(uint8_t(ch)) || ch == '+') out += char(std::tolower(uint8_t(ch)));
    return out;
}

template <class T>
const T& find(std::span<const T> all, std::string_view name, const char* what)
{
    const std::string wanted = simplified(name);
    const T* found = nullptr;
    std::string near;
    size_t count = 0;
    for (const T& row : all) {
        const std::string its = simplified(row.name);
        if (its == wanted) return row;
        if (wanted.empty() || its.find(wanted) == its.npos) continue;
        // "4070" is the RTX 4070, whatever others are called after it.
        if (its.ends_with(wanted)) found = &row, ++count;
        near += (near.empty() ? "" : ", ") + std::string(row.name);
    }
    if (count == 1) return *found;
    if (near.empty())
        for (const T& row : all) near += (near.empty() ? "" : ", ") + std::string(row.name);
    else if (near.find(", ") == near.npos) return *std::ranges::find(all, near, &T::name);
    throw Error("no {} is called '{}' here, or several are: name one of {}", what, name, near);
}

}    // namespace

double Link::gb_per_s() const
{
    // 8, 16, 32 GT/s and so on, of which 128 of 130 bits carry data from PCIe 3 on.
    constexpr double of_pcie_3 = 8.0 / 8 * 128 / 130;
    return pcie < 3 ? 0.5 * lanes * std::max(pcie, 1u) * 0.5 : of_pcie_3 * lanes * double(1u << (pcie - 3));
}

std::span<const Card> all_cards() { return cards; }
std::span<const Processor> all_processors() { return processors; }
std::span<const Memory> all_memories() { return memories; }
const Card& find_card(std::string_view name) { return find(all_cards(), name, "card"); }
const Processor& find_processor(std::string_view name) { return find(all_processors(), name, "processor"); }
const Memory& find_memory(std::string_view name) { return find(all_memories(), name, "memory"); }

std::string Computer::name() const
{
    std::string out = card ? fmt::format("{}, ", card->name) : "";
    out += fmt::format("{}, {}", processor->name, memory->name);
    if (card && link) out += fmt::format(", PCIe {} x{}", link->pcie, link->lanes);
    return out;
}

Machine expected_machine(const Computer& c)
{
    HEARTH_CHECK(c.processor && c.memory);
    Machine m;
    m.kernels = c.processor->kernels;
    m.threads = c.processor->cores;
    const double read = read_rate(c);
    m.host = host_rates(*c.processor, read);
    const double tflops = c.processor->cores * c.processor->ghz * c.processor->flops / 1000;
    m.host_products.fill(billions_of_products(tflops * tiles));
    m.laid_out.fill(read / 2);    // read and written
    if (c.card) add_card(m, c);
    return m;
}

}    // namespace hearth
