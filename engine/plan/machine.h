// This computer in figures, as `hearth tune` measures them.
#pragma once

#include "engine/file/gguf.h"

#include <algorithm>
#include <array>
#include <compare>
#include <cstdint>
#include <optional>
#include <string>

namespace hearth {

/// The place of a format in the table of them; of a sparse one, that of its values.
inline size_t format_number(WeightType type)
{
    size_t i = 0;
    while (weight_formats[i].type != values_of(type)) ++i;
    return i;
}

/// How fast rows of one weight format are read at decode, in GB/s of the format's bytes.
struct RowRates {
    double dot = 1;          // a matrix times a vector
    double gate = 1;         // the gates of a feed-forward block of which nothing fires
    double fired = 1;        // up and down rows of the neurons that fire
    double passed = 0;       // down rows of the device, fired or not, before any is read; 0: they take no time
    double row_us = 0;       // of a matrix: a row beside its bytes, which counts where rows are short
    double neuron_us = 0;    // of gates and ups: the activation of a neuron beside its rows, and noting it
};

/// What attention takes at decode: the sum of these, for every position that a token sees.
struct AttentionRates {
    /// Microseconds of a position: so many bytes of keys and values, products with them, key groups and queries.
    double us(double bytes, double all_products, double key_groups, double queries) const
    {
        return bytes / std::max(kv, 1e-9) / 1000 + (products > 0 ? all_products / (1000 * products) : 0) +
               key_groups * keys_us + queries * query_us;
    }

    double kv = 1;          // GB/s of keys and values
    double products = 0;    // billions a second of queries and them; 0: they take no time
    double keys_us = 0;     // the keys of one key group, however wide they are
    double query_us = 0;    // a query that meets them, likewise: its score, and the exponential of that
    double prompt = 0;    // of the host: billions of products a second of many rows, with all of this; 0: not measured
};

/// One side: the device, or the host with all its threads.
struct SideRates {
    std::array<RowRates, std::size(weight_formats)> rows;    // in the order of weight_formats
    double read = 1;    // GB/s of plain reading, which no kernel can exceed by much
    AttentionRates attention;
    double vector = 1;     // GB/s of activations in norms and joins
    double signs = 1;      // GB/s of sign bits in the sign predictor
    double step_us = 0;    // a step that has hardly anything to do: a dependent dispatch, a parallel loop
    double norm_us = 0;    // a norm or join of a short vector, of the device: its invocations wait for each other

    const RowRates& of(WeightType type) const { return rows[format_number(type)]; }
};

/// One way in which the device's matrix-vector kernels can go over the rows of a matrix.
struct RowVariant {
    uint32_t subgroup = 0;     // invocations
    uint32_t subgroups = 0;    // of a workgroup
    uint32_t rows = 1;         // that a subgroup takes at once
    bool int_dot = false;      // rows meet x in integers
    uint32_t chunks = 1;       // of a row (row.glsl) that an invocation asks its memory for at a time

    auto operator<=>(const RowVariant&) const = default;
    std::string name() const
    {
        return fmt::format("{} subgroups of {}, {} row{} at once, {} chunk{} of each, in {}", subgroups, subgroup, rows,
                           rows > 1 ? "s" : "", chunks, chunks > 1 ? "s" : "", int_dot ? "integers" : "floats");
    }
};

/// Matrices for which the same variant is taken to be the fastest: a matrix is of the first class that it fits into.
struct MatrixClass {
    std::string_view name;
    uint32_t most_rows, most_cols;
    uint32_t rows, cols;    // of the one that is measured
};
inline constexpr uint32_t any_number = UINT32_MAX;
inline constexpr MatrixClass matrix_classes[] = {
    {"few short rows", 8192, 2048, 2048, 1024},
    {"many short rows", any_number, 2048, 32768, 1024},
    {"few long rows", 8192, any_number, 4096, 4096},
    {"many long rows", any_number, any_number, 16384, 4096},
};

/// The fastest variants by class and weight format, each in the order of its table; nothing where none was measured.
struct RowVariants {
    std::array<std::array<std::optional<RowVariant>, std::size(weight_formats)>, std::size(matrix_classes)> choice;

    const std::optional<RowVariant>& of(WeightType type, uint32_t rows, uint32_t cols) const
    {
        size_t c = 0;
        while (rows > matrix_classes[c].most_rows || cols > matrix_classes[c].most_cols) ++c;
        return choice[c][format_number(type)];
    }
};

/// The ways in which the device can multiply a matrix with many tokens: weights as floats, as halves, in integers, or
/// as halves in cooperative matrices.
enum class Product { floats, halves, integers, matrices };
inline constexpr Product products[] = {Product::floats, Product::halves, Product::integers, Product::matrices};
/// Which is most likely faster where nothing was measured.
inline constexpr std::array<double, std::size(products)> usual_products = {1, 2, 3, 4};
constexpr std::string_view product_name(Product p)
{
    constexpr std::string_view names[] = {"floats", "halves", "integers", "matrices"};
    return names[size_t(p)];
}

/// Billions of products of a weight and a number that each way makes in a second, for every weight format in the order
/// of its table; 0: not measured, not offered, or wrong.
using ProductRates = std::array<std::array<double, std::size(products)>, std::size(weight_formats)>;

/// Bytes of a model that may lie in the host's caches: where they hold less, its figures are those of memory.
inline constexpr uint64_t small_model = 16 << 20;

struct Machine {
    std::string device, driver;             // empty: no device was measured
    std::string system;                     // "Linux 6.1.0"; empty: not known
    std::string kernels;                    // of the host: "AVX-512"
    unsigned threads = 0;                   // of the host
    bool software = false;                  // the device computes on the host's cores
    SideRates host, on_device;              // on_device with the variants below
    std::optional<SideRates> small_host;    // of the host for models of at most small_model
    RowVariants row_variants;               // of the device
    ProductRates products = {};             // of the device
    // Likewise of the host, in the only way that it has.
    std::array<double, std::size(weight_formats)> host_products = {};
    // And microseconds of a sum of such products beside them, which counts where they are few.
    std::array<double, std::size(weight_formats)> host_sum_us = {};
    // GB/s of a file's rows that the host lays out as the device has them.
    std::array<double, std::size(weight_formats)> laid_out = {};
    double submit_us = 0;        // one submit, on the host
    double round_trip_us = 0;    // submit, run nothing, notice that it is done
    double release_us = 0;       // the same for work submitted before, which waits for a word from the host
    double upload = 0;           // GB/s from host memory to the device's
    double together = 0;         // what both sides read at once, over what the faster reads alone

    bool has_device() const { return !device.empty(); }
};

}    // namespace hearth
