// Weight formats: how a row of a matrix lies in a GGUF file, and what its bytes mean.
// Read by the host's kernels and by everything that loads, copies or measures weights.
// Source: GGUF specification and ggml's quantisation formats (ggml-common.h); type numbers are the file format's own.
#pragma once

#include "shaders/formats.h"

#include <cstdint>
#include <string_view>

namespace hearth {

enum class WeightType : uint32_t {
#define FORMAT(id, NAME, number, ...) id = number,
    WEIGHT_FORMATS(FORMAT)
#undef FORMAT
    // our own: 256 more than the type of their values
    f16_sparse = 257,
    q8_0_sparse = 264
};

// One weight each.
using BlockF32 = float;
struct BlockF16 {
    uint16_t bits;
};
struct BlockBF16 {    // the upper half of a float
    uint16_t bits;
};

/// 32 weights: w_i = d * q_i
struct BlockQ8_0 {
    uint16_t d;    // fp16
    int8_t q[32];
};
static_assert(sizeof(BlockQ8_0) == 34);

/// 32 weights: w_i = d * (q_i - 8); q_i is the low nibble of byte i for i < 16, the high nibble of byte i - 16 above
struct BlockQ4_0 {
    uint16_t d;    // fp16
    uint8_t q[16];
};
static_assert(sizeof(BlockQ4_0) == 18);

/// 32 weights: w_i = d * q_i + m, nibbles as in Q4_0
struct BlockQ4_1 {
    uint16_t d, m;    // fp16
    uint8_t q[16];
};
static_assert(sizeof(BlockQ4_1) == 20);

/// 32 weights: w_i = d * (q_i - 16), low four bits as in Q4_0, the fifth is bit i of qh
struct BlockQ5_0 {
    uint16_t d;    // fp16
    uint8_t qh[4];
    uint8_t q[16];
};
static_assert(sizeof(BlockQ5_0) == 22);

/// 32 weights: w_i = d * q_i + m, bits as in Q5_0
struct BlockQ5_1 {
    uint16_t d, m;    // fp16
    uint8_t qh[4];
    uint8_t q[16];
};
static_assert(sizeof(BlockQ5_1) == 24);

/// 32 weights: w_i = d * values[q_i], nibbles as in Q4_0
struct BlockIQ4_NL {
    static constexpr int8_t values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
    uint16_t d;    // fp16
    uint8_t q[16];
};
static_assert(sizeof(BlockIQ4_NL) == 18);

/// 32 weights: w_i = 2^(e - 128) * values[q_i], or NaN where e is 255, nibbles as in Q4_0: the values are twice those
/// of OCP's four-bit floats
struct BlockMXFP4 {
    static constexpr int8_t values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
    uint8_t e;
    uint8_t q[16];
};
static_assert(sizeof(BlockMXFP4) == 17);

// Blocks of 256 weights lie in parts of 32. Part p of an array of bits takes 32 bytes and the same bits of each,
// weight i in byte i.

/// 256 weights: w_i = d * s * q_i - dmin * m, where s is the low nibble of scale[i / 16] and m the high one.
/// Part p has the two bits of q_i in bits 2 (p % 4) of the bytes from 32 (p / 4) on.
struct BlockQ2_K {
    uint8_t scale[16];
    uint8_t q[64];
    uint16_t d, dmin;    // fp16
};
static_assert(sizeof(BlockQ2_K) == 84);

/// 256 weights: w_i = d * (s - 32) * (q_i - 4).
/// The low two bits of q_i are as in Q2_K, the third of part p is bit p of qh. Of the six bits of s number k = i / 16,
/// the low four are a nibble of scale[k % 8], the low one for k < 8, and the upper two are bits 2 (k / 4) of
/// scale[8 + k % 4].
struct BlockQ3_K {
    uint8_t qh[32];
    uint8_t q[64];
    uint8_t scale[12];
    uint16_t d;    // fp16
};
static_assert(sizeof(BlockQ3_K) == 110);

/// 256 weights: w_i = d * s_p * q_i - dmin * m_p in part p.
/// q_i is the low nibble of byte i % 32 from 32 (p / 2) on for even p, the high one for odd p. s and m have six bits.
/// For p < 4 they are the low six of scale[p] and scale[4 + p]. For the others scale[4 + p] has the low four, those of
/// s in its low nibble and those of m in the high one, and the upper two bits of scale[p - 4] and of scale[p] are the
/// upper two.
struct BlockQ4_K {
    uint16_t d, dmin;    // fp16
    uint8_t scale[12];
    uint8_t q[128];
};
static_assert(sizeof(BlockQ4_K) == 144);

/// The same with a fifth bit: that of part p is bit p of qh.
struct BlockQ5_K {
    uint16_t d, dmin;    // fp16
    uint8_t scale[12];
    uint8_t qh[32];
    uint8_t q[128];
};
static_assert(sizeof(BlockQ5_K) == 176);

/// 256 weights: w_i = d * scale[i / 16] * (q_i - 32).
/// Of q's six bits, part p has the low four in ql from 64 (p / 4) + 32 (p % 2) on, in the low nibbles for p % 4 < 2
/// and the high ones above, and the upper two in bits 2 (p % 4) of qh from 32 (p / 4) on.
struct BlockQ6_K {
    uint8_t ql[128];
    uint8_t qh[64];
    int8_t scale[16];
    uint16_t d;    // fp16
};
static_assert(sizeof(BlockQ6_K) == 210);

/// 256 weights: w_i = d * (s_p - 32) * BlockIQ4_NL::values[q_i] in part p.
/// q_i is a nibble of the 16 bytes of q from 16 p on, as in Q4_0. Of the six bits of s_p the low four are a nibble of
/// scale_low[p / 2], the low one for even p, and the upper two are bits 2 p of scale_high.
struct BlockIQ4_XS {
    uint16_t d;    // fp16
    uint16_t scale_high;
    uint8_t scale_low[4];
    uint8_t q[128];
};
static_assert(sizeof(BlockIQ4_XS) == 136);

/// Where the parts of a sparse row of n weights lie, in bytes; n is a multiple of 32. Such a row has the weights that
/// are not zero, as values of another format. It begins with a bit for each weight, number i % 32 of word i / 32, which
/// is set where a value is stored. Then comes for every 128 weights how many values are stored before theirs, and how
/// many are in all (uint16), then with Q8_0 the d of every 32 weights (fp16), then the values in order (fp16 or int8),
/// and zeros up to a multiple of 16 bytes. So rows differ in length: a matrix has a list of where they start
/// (Matrix::starts).
/// Nothing here asks for a pattern: which of a row's weights are zero, and how many, differs too much for blocks of one
/// size. In half of SparseGPT's blocks of 32 more than 16 are not zero, up to all of them, and 2:4 runs across the rows
/// of down_t.
struct SparseParts {
    uint32_t starts, scales, values;
};

inline constexpr uint32_t sparse_span = 128;       // weights for which `starts` has a number
inline constexpr uint32_t sparse_most = 65504;     // weights of a row, so that these numbers fit
inline constexpr uint32_t sparse_row_unit = 16;    // bytes
inline constexpr uint32_t sparse_slack = 64;       // bytes behind a matrix's last row: kernels may read whole vectors

struct WeightFormat {
    WeightType type;
    std::string_view name;
    uint32_t block;              // weights in a block
    uint32_t block_bytes;        // bytes of a block; 0: rows differ in length
    uint32_t low = 0, high = 0;  // bits of a weight on the device
    uint32_t constant = 0;       // what its kernels are told: see formats.h
};

inline constexpr WeightFormat weight_formats[] = {
#define FORMAT(id, NAME, number, weights, low, high, bias, minima, table, scaled) \
    {WeightType::id, #NAME, (weights), sizeof(Block##NAME), (low), (high), \
     (number) | (low) << FORMAT_LOW | (high) << FORMAT_HIGH | (bias) << FORMAT_BIAS | (minima) << FORMAT_MINIMA | \
         (table) << FORMAT_TABLE | (scaled) << FORMAT_SCALED},
    WEIGHT_FORMATS(FORMAT)
#undef FORMAT
};
#define FORMAT(id, NAME, number, weights, low, high, bias, ...) \
    static_assert((bias) == 0 || (bias) == 1 << ((low) + (high) - 1), #NAME " has a bias that chunk_s8 does not know");
WEIGHT_FORMATS(FORMAT)
#undef FORMAT

/// f.operator()<B>() for the block B of a format that is not sparse.
template <class F>
constexpr auto with_block(WeightType type, F&& f)
{
    switch (type) {
#define FORMAT(id, NAME, ...) \
    case WeightType::id: return f.template operator()<Block##NAME>();
        WEIGHT_FORMATS(FORMAT)
#undef FORMAT
    default: __builtin_unreachable();
    }
}

inline constexpr WeightFormat sparse_formats[] = {
    {WeightType::f16_sparse, "F16_SPARSE", 32, 0},
    {WeightType::q8_0_sparse, "Q8_0_SPARSE", 32, 0},
};

constexpr bool is_sparse(WeightType type) { return uint32_t(type) >= 256; }

/// The type of a sparse row's values; any other type is its own.
constexpr WeightType values_of(WeightType type) { return WeightType(uint32_t(type) % 256); }
constexpr WeightType sparse_type_of(WeightType values) { return WeightType(uint32_t(values) + 256); }

/// The format of a type number; nullptr where this program cannot read it.
constexpr const WeightFormat* find_format(uint32_t type)
{
    for (const WeightFormat& f : weight_formats)
        if (uint32_t(f.type) == type) return &f;
    for (const WeightFormat& f : sparse_formats)
        if (uint32_t(f.type) == type) return &f;
    return nullptr;
}

constexpr const WeightFormat& format_of(WeightType type) { return *find_format(uint32_t(type)); }

/// A format as its kernels are told it: see formats.h.
constexpr uint32_t kernel_constant(WeightType type)
{
    return format_of(values_of(type)).constant | (is_sparse(type) ? FORMAT_SPARSE : 0);
}

/// The sparse format with values of this type; nullptr where there is none.
constexpr const WeightFormat* find_sparse_format(WeightType values)
{
    for (const WeightFormat& f : sparse_formats)
        if (values_of(f.type) == values) return &f;
    return nullptr;
}

constexpr SparseParts sparse_parts(WeightType type, uint32_t n)
{
    const uint32_t starts = n / 8, scales = starts + (n + sparse_span - 1) / sparse_span * 2 + 2;
    const uint32_t end = scales + (values_of(type) == WeightType::q8_0 ? n / 32 * 2 : 0);
    return {starts, scales, (end + 3) / 4 * 4};
}

/// Bytes of a sparse row of n weights, so many of them stored.
constexpr uint64_t sparse_row_bytes(WeightType type, uint32_t n, uint32_t stored)
{
    const uint64_t bytes = sparse_parts(type, n).values + stored * (values_of(type) == WeightType::q8_0 ? 1ull : 2ull);
    return (bytes + sparse_row_unit - 1) / sparse_row_unit * sparse_row_unit;
}

/// Bytes of a row of n weights; n is a multiple of the format's block. Of a sparse one its matrix knows
/// (Matrix::row_bytes).
constexpr uint64_t row_bytes(WeightType type, uint64_t n)
{
    return n / format_of(type).block * format_of(type).block_bytes;
}

/// Formats whose rows meet the activations in integer arithmetic.
constexpr bool is_quantised(WeightType type) { return format_of(values_of(type)).block > 1; }

}    // namespace hearth
