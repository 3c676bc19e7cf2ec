// The CPU's table of contents: every kernel once, with its formula. The best instruction set is chosen at run time.
#pragma once

#include "host/matrix.h"

#include <cstdint>
#include <span>
#include <string_view>

namespace hearth::host {

/// Activations in fixed point, 32 to a block: x_i = scale[i / 32] * q[i], |q_i| <= 32512.
/// 16 bits, not 8: with 8 the shipped model's logits move by up to 1.2 % of the largest, with 16 by 0.004 %. The device
/// holds the same numbers as two int8 planes, q = 256 * high + low.
inline constexpr uint32_t fixed_block = 32;
inline constexpr float fixed_max = 32512.0f;    // 127 * 256, so that both planes fit into int8

// 128 of those numbers in the order in which an instruction set's kernels read them.

/// Where bytes are multiplied: q = 256 high + low. Byte 64 p + 8 c + 4 k + i of a plane belongs to number 64 p + 32 k +
/// 4 c + i: of a pair of blocks four numbers of each in turn. Of a token that is alone byte 64 h + 16 b + i belongs to
/// number 32 b + 16 h + i. For formats whose weights have a number added to be unsigned, bias[b] is -8 times the sum of
/// the numbers of block b, half_bias the same of its first 16 and its last 16.
struct alignas(64) GroupPlanes {
    int8_t high[128], low[128];
    int32_t bias[4], half_bias[2][4];
};
/// Where words of 16 bits are, in one of the two orders of host/kernels/avx2_wide.h.
struct alignas(64) GroupWords {
    int16_t of[128];
};
inline constexpr uint32_t group_numbers = 128;

/// One vector, prepared once and read by many rows. All but x is null where no quantised row will read it.
struct Input {
    const float* x;
    const int16_t* q;
    const float* scale;
    const float* sum;    // of each block in fixed point: what a format's minima, which are the same for a whole block,
                         // are multiplied with
    const GroupPlanes *planes,
        *alone;    // of the whole groups, one of the two; null where the instruction set reads none
    const GroupWords *by_pairs, *by_blocks;    // of the whole groups, both orders; null as well
    const float* half_sum;                     // with them: as `sum`, of 16 numbers each
};

/// Where the fixed point of a vector goes, as Input has it.
struct FixedPoint {
    int16_t* q = nullptr;
    float *scale = nullptr, *sum = nullptr;
    GroupPlanes *planes = nullptr, *alone = nullptr;
    GroupWords *by_pairs = nullptr, *by_blocks = nullptr;
    float* half_sum = nullptr;

    Input of(const float* x) const { return {x, q, scale, sum, planes, alone, by_pairs, by_blocks, half_sum}; }
};

/// Rows that `dot_rows` takes together: they share what can be shared. Where they meet x in turns, so that it stays in
/// L1 (see dot_range), they are read fastest if they lie some way from each other: neighbours are often in one page,
/// which a processor that fetches on its own takes for one stream (Zen 4: a fifth slower).
inline constexpr uint32_t rows_together = 8;

/// Tokens that meet a row as it is unpacked once.
inline constexpr uint32_t token_block = 4;

/// One row of a sum of rows.
struct Term {
    float a;
    const std::byte* row;
    const std::byte* ahead;    // a row that will be wanted soon
};

// Many tokens are computed a tile at a time: some rows times some tokens, which lie side by side in the lanes.

/// A tile of floats: c[r][t] += sum_k w[r row_stride + k step] x[k x_stride + t] for r < tile_rows, t < tile_tokens, k
/// < inner.
struct FloatTile {
    const float* w;
    size_t row_stride, step;
    const float* x;
    size_t x_stride;
    uint32_t inner;
    float* c;    // (tile_rows, tile_tokens)
};

/// The same of rows in blocks and tokens in fixed point: the weights of block b are d q; what they have beside is for a
/// FloatTile of blocks.
struct FixedTile {
    const int16_t* q;    // (tile_rows, row_stride), of which inner
    size_t row_stride;
    const float* d;    // (tile_rows, block_stride), of which inner / 32
    size_t block_stride;
    const int16_t* x;      // (inner / 2, tile_tokens, 2): numbers 2k and 2k + 1 of every token
    const float* scale;    // (inner / 32, tile_tokens) of x
    uint32_t inner;
    bool halves;    // the sum of 32 products could be too large for 32 bits, that of 16 cannot
    float* c;
};

/// What can be done with a row of one weight format. n is the number of weights in the row.
struct RowKernels {
    WeightType type;
    /// y[r][t] = sum_i w[r]_i x[t]_i for r < count, t < tokens, the same bits whatever else there is. `rows_together`
    /// rows at a time meet all tokens, from L2 if these are many, and rows[r + rows_together] is brought nearer: there
    /// are count + rows_together rows, of which the last may be some row again.
    void (*dot_rows)(const std::byte* const* rows, uint32_t count, const Input* x, uint32_t tokens, uint32_t n,
                     float* y);
    /// y_i += sum_r a_r w[r]_i for r < count, y being read and written once for a few rows: which rows are in a call
    /// may decide the last bits
    void (*axpy)(const Term* terms, uint32_t count, float* y, uint32_t n);
    /// y_i = w_i
    void (*decode)(const std::byte* row, float* y, uint32_t n);
    /// y_i = w_(first + i) for i < count of a row of n; first is a multiple of the block, and so is count where it does
    /// not end the row
    void (*decode_part)(const std::byte* row, uint32_t n, uint32_t first, uint32_t count, float* y);
    /// q_i = the integer that the file has for weight i, a byte each; nullptr for formats without blocks and sparse
    /// ones
    void (*integers)(const std::byte* row, uint8_t* q, uint32_t n);
    /// The row as FixedTile has it, and if `has_minima` what is added to the weights of each block; nullptr for formats
    /// that have to be decoded.
    void (*fixed)(const std::byte* row, int16_t* q, float* d, float* added, uint32_t n);
    bool has_minima, halves;
    /// So many tokens meet a matrix row by row, more do tile by tile: that is faster where enough lanes of a tile are
    /// used.
    uint32_t few_tokens;
    /// In rows of so many numbers at the most, for one token, they are not read side by side but one after the other,
    /// which is fastest where they follow each other in memory.
    uint32_t most_one_by_one = 0;
};

/// The largest few_tokens of any format, and what is most formats' (measured with AVX-512, whose tiles have 32 tokens;
/// AVX2's have 16).
inline constexpr uint32_t most_few_tokens = 27, usual_few_tokens = 11;

/// What keys and values are kept in.
inline constexpr WeightType cache_types[] = {WeightType::f16, WeightType::q8_0};

/// What can be done with a head's keys or values, kept in one type: rows of n numbers, one behind the other.
struct CacheKernels {
    WeightType type;
    /// score[r][p] = q[r] . k[p] for r < rows, p < positions; score is (rows, stride). Of q the fixed point is read
    /// where the type is quantised.
    void (*scores)(const Input* q, uint32_t rows, const std::byte* k, uint32_t positions, uint32_t n, float* score,
                   uint32_t stride);
    /// y[r] = sum_p w[r][p] v[p], in this order; w is (rows, stride), y (rows, n)
    void (*mix)(const float* w, uint32_t stride, uint32_t rows, const std::byte* v, uint32_t positions, uint32_t n,
                float* y);
};

/// Of numbers s_p: the largest, and the sum of exp(s_p - largest).
struct SoftMax {
    float largest, sum;
};

enum class Isa { plain, avx2, avxvnni, avx512 };

struct IsaName {
    Isa isa;
    std::string_view id, name;    // what a user asks for, and what is shown
};
/// From the slowest to the fastest.
inline constexpr IsaName isa_names[] = {{Isa::plain, "plain", "plain C++"},
                                        {Isa::avx2, "avx2", "AVX2"},
                                        {Isa::avxvnni, "avxvnni", "AVX-VNNI"},
                                        {Isa::avx512, "avx512", "AVX-512"}};

struct Kernels {
    Isa isa;
    std::string_view id, name;    // of isa_names
    bool reads_planes, reads_words;
    RowKernels rows[std::size(weight_formats) + std::size(sparse_formats)];    // in the order of those tables

    uint32_t tile_rows, tile_tokens;
    void (*float_tile)(const FloatTile& tile);
    void (*fixed_tile)(const FixedTile& tile);

    /// y_i = w_i x_i / sqrt(mean(x^2) + eps)
    void (*rmsnorm)(const float* x, const float* w, float* y, uint32_t n, float eps);
    /// Fixed point of n floats (a multiple of 32; see Input). Planes and words may be null.
    void (*quantise)(const float* x, const FixedPoint& to, uint32_t n);
    /// The signs of n floats, a bit each, set where the number's sign bit is (in -0 too); the bits behind the last are
    /// 0.
    void (*pack_signs)(const float* x, uint64_t* signs, uint32_t n);
    /// How many of the bits of a and b differ.
    uint32_t (*differing_bits)(const uint64_t* a, const uint64_t* b, uint32_t words);
    /// y_i = fp16(x_i)
    void (*to_f16)(const float* x, uint16_t* y, uint32_t n);
    /// x_i = x_i / (1 + exp(-x_i (linear + cubic x_i^2))): SiLU, and the forms of GELU with sigmoid and tanh
    void (*gate)(float* x, uint32_t n, float linear, float cubic);

    CacheKernels caches[std::size(cache_types)];    // in the order of cache_types
    /// s_p = exp(scale s_p - largest) for p < n, largest = max_p scale s_p. s has room for whole vectors (16 floats),
    /// which are filled up with zeros.
    SoftMax (*soften)(float* s, uint32_t n, float scale);

    const RowKernels& of(WeightType type) const;
    const CacheKernels& cache(WeightType type) const;
};

/// The kernels in use: those of the best instruction set of this CPU, or of the chosen one.
const Kernels& kernels();

/// The kernels of one instruction set; nullptr where this CPU lacks it.
const Kernels* kernels(Isa isa);

/// All that follows uses those. What others have prepared must not be in use any more: they lay vectors out otherwise.
void choose_kernels(const Kernels& kernels);

}    // namespace hearth::host
