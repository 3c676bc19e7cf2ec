// How AVX-512 reads quantised rows for one token: 128 weights of four rows at a time. A row is loaded by 64 bytes where
// its format allows it, since lines that come from memory cost more the more often they are touched: eight rows as
// avx512_groups.h has them, which are taken apart once for many tokens, are a sixth slower from memory for one. Every
// sum has the same bits in both.
//
// Lane 4 k + r of what is added up is for block k of the group's four (of 32 weights) and for row r.
#pragma once

#include "host/kernels/avx512_groups.h"

namespace hearth::host {
namespace {

// ---- bytes ----------------------------------------------------------------------------------------------------------

inline __m512i with_lane(__m512i a, uint32_t lane, const void* p)
{
    return _mm512_mask_broadcast_i32x4(a, __mmask16(0xf << 4 * lane), _mm_loadu_si128(static_cast<const __m128i*>(p)));
}
/// a in the two 64 bits of the first lane, ...
inline __m512i by_lane(int64_t a, int64_t b, int64_t c, int64_t d) { return _mm512_set_epi64(d, d, c, c, b, b, a, a); }
/// The number of each lane's block.
inline __m512i block_of_lane() { return _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0); }
/// A number of each block, in all its lanes.
inline __m512 of_blocks(const float* four)
{
    return _mm512_permutexvar_ps(block_of_lane(), _mm512_castps128_ps512(_mm_loadu_ps(four)));
}

// Bits of a byte move as a matrix says, whose byte 7 - i has the bit that becomes bit i: one instruction, where shifts
// of bytes would be two.
inline constexpr int64_t low_nibble = 0x0102040800000000, high_nibble = 0x1020408000000000;
inline __m512i moved(__m512i bytes, __m512i matrix) { return _mm512_gf2p8affine_epi64_epi8(bytes, matrix, 0); }

/// The words first, second, third and fourth of a in the places 0, 4, 8 and 12 and 2, 6, ..., those of b behind each of
/// them.
inline __m256i words_of_two(const void* a, const void* b, short first, short second, short third, short fourth)
{
    const __m256i of_a = _mm256_set_epi16(fourth, fourth, fourth, fourth, third, third, third, third, second, second,
                                          second, second, first, first, first, first);
    const __m256i which = _mm256_add_epi16(of_a, _mm256_set1_epi32(32 << 16));
    return _mm512_castsi512_si256(
        _mm512_permutex2var_epi16(_mm512_loadu_si512(a), _mm512_castsi256_si512(which), _mm512_loadu_si512(b)));
}
/// Lane 4 k + r: the k-th of those words, read as fp16, of p[r]. 64 bytes are read.
inline __m512 words_of_four(const void* const* p, short first, short second, short third, short fourth)
{
    return _mm512_cvtph_ps(_mm256_blend_epi32(words_of_two(p[0], p[1], first, second, third, fourth),
                                              words_of_two(p[2], p[3], first, second, third, fourth), 0xaa));
}
/// Lane 4 k + r: byte first + step k of the 16 that row r has in lane r, in the lane's byte `to`.
inline __m512i byte_of_row(__m512i rows, int first, int step, int to)
{
    const __m512i row = _mm512_set4_epi32(48, 32, 16, 0);
    const __m512i which = _mm512_add_epi32(_mm512_add_epi32(row, _mm512_set1_epi32(first)),
                                           _mm512_mullo_epi32(block_of_lane(), _mm512_set1_epi32(step)));
    return _mm512_maskz_permutexvar_epi8(__mmask64(0x1111111111111111) << to, _mm512_slli_epi32(which, 8 * to), rows);
}

// ---- products -------------------------------------------------------------------------------------------------------

/// A group of the token: of each of its blocks the first 16 numbers, then the last 16, in a lane of 16 bytes.
struct GroupOfToken {
    __m512i high[2], low[2], bias, half_bias[2];
    __m512 scale, sum;

    [[gnu::always_inline]] GroupOfToken(const Input& x, uint32_t group)
    {
        const GroupPlanes& g = x.alone[group];
        for (uint32_t half = 0; half < 2; half++) {
            high[half] = _mm512_load_si512(g.high + 64 * half);
            low[half] = _mm512_load_si512(g.low + 64 * half);
            half_bias[half] = in_first_lanes(g.half_bias[half]);
        }
        bias = in_first_lanes(g.bias);
        scale = of_blocks(x.scale + 4 * group);
        sum = of_blocks(x.sum + 4 * group);
    }
    static __m512i in_first_lanes(const int32_t* four)
    {
        return _mm512_maskz_permutexvar_epi32(
            0x1111, block_of_lane(), _mm512_castsi128_si512(_mm_loadu_si128(reinterpret_cast<const __m128i*>(four))));
    }
};

/// Lane 4 k + i: the sum of the four lanes from 4 k on of v[i].
inline __m512i add_fours(const __m512i* v)
{
    const auto two = [](__m512i a, __m512i b) {
        return _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    };
    const __m512i low = two(v[0], v[1]), high = two(v[2], v[3]);
    return _mm512_add_epi32(_mm512_unpacklo_epi64(low, high), _mm512_unpackhi_epi64(low, high));
}
inline __m512i joined(__m512i high, __m512i low) { return _mm512_add_epi32(_mm512_slli_epi32(high, 8), low); }

/// From a bias, which is that of 8.
template <int added>
inline __m512i times_added(__m512i bias)
{
    static_assert(added == 0 || added == 8 || added == 32 || added == 128);
    if constexpr (added == 0) return _mm512_setzero_si512();
    else return _mm512_slli_epi32(bias, added == 8 ? 0 : added == 32 ? 2 : 4);
}

/// Products of a row's unsigned weights with the group, added up by fours of bytes, less what `added` made of them.
template <int added>
[[gnu::always_inline]] inline __m512i dot(const __m512i* w, const GroupOfToken& x)
{
    const __m512i high = _mm512_dpbusd_epi32(_mm512_setzero_si512(), w[0], x.high[0]);
    const __m512i low = _mm512_dpbusd_epi32(times_added<added>(x.bias), w[0], x.low[0]);
    return joined(_mm512_dpbusd_epi32(high, w[1], x.high[1]), _mm512_dpbusd_epi32(low, w[1], x.low[1]));
}
/// The same of the first 16 weights of each block, or the last.
template <int added>
[[gnu::always_inline]] inline __m512i dot_half(const __m512i* w, const GroupOfToken& x, uint32_t half)
{
    return joined(_mm512_dpbusd_epi32(_mm512_setzero_si512(), w[half], x.high[half]),
                  _mm512_dpbusd_epi32(times_added<added>(x.half_bias[half]), w[half], x.low[half]));
}

// ---- formats --------------------------------------------------------------------------------------------------------

/// Four rows, each from a block of the file on; halves and added are Eight's:
///   groups, blocks        how many groups of 128 are taken at once, and how many of the file's blocks these are
///   weights(b, g, w)      group g of a row: the first 16 weights of each block in w[0], the last 16 in w[1]
///   plus(g, ints, x, sum) sum + the integers of the rows, which are two where there are halves, times all scales
template <class B>
struct Four;

/// Blocks of 32 with one scale.
struct FourOneScale {
    static constexpr uint32_t groups = 1, blocks = 4;
    __m512 d;

    [[gnu::always_inline]] __m512 plus(uint32_t, const __m512i* integers, const GroupOfToken& x, __m512 sum) const
    {
        return _mm512_fmadd_ps(_mm512_mul_ps(d, x.scale), _mm512_cvtepi32_ps(integers[0]), sum);
    }
};

template <>
struct Four<BlockQ4_0> : FourOneScale {
    [[gnu::always_inline]] explicit Four(const BlockQ4_0* const* b)
    {
        const void* const at[] = {b[0], b[1], b[2], b[3]};
        d = words_of_four(at, 0, 9, 18, 27);
    }
    [[gnu::always_inline]] static void weights(const BlockQ4_0* b, uint32_t, __m512i* w)
    {
        // Words of 64 bytes from the first block on: the nibbles of three blocks; the fourth's end is 8 bytes further.
        const __m512i three = _mm512_set_epi16(0, 0, 0, 0, 0, 0, 0, 0, 26, 25, 24, 23, 22, 21, 20, 19, 17, 16, 15, 14,
                                               13, 12, 11, 10, 8, 7, 6, 5, 4, 3, 2, 1);
        const __m512i q = with_lane(_mm512_permutexvar_epi16(three, _mm512_loadu_si512(b)), 3, b[3].q);
        w[0] = low_nibbles(q);
        w[1] = moved(q, _mm512_set1_epi64(high_nibble));
    }
};

template <>
struct Four<BlockQ8_0> : FourOneScale {
    [[gnu::always_inline]] explicit Four(const BlockQ8_0* const* b)
    {
        const auto two = [&](uint32_t k) {
            return _mm256_blend_epi32(words_of_two(b[0] + k, b[1] + k, 0, 17, 0, 17),
                                      words_of_two(b[2] + k, b[3] + k, 0, 17, 0, 17), 0xaa);
        };
        d = _mm512_cvtph_ps(_mm256_blend_epi32(two(0), two(2), 0xf0));
    }
    [[gnu::always_inline]] static void weights(const BlockQ8_0* b, uint32_t, __m512i* w)
    {
        for (uint32_t half = 0; half < 2; half++) {
            const auto part = [&](uint32_t k) { return b[k].q + 16 * half; };
            w[half] = _mm512_xor_si512(four_lanes(part(0), part(1), part(2), part(3)), _mm512_set1_epi8(char(0x80)));
        }
    }
};

/// Q4_K and Q5_K: 256 weights, of which 32 have a scale and a minimum of six bits, in the 16 bytes that a block begins
/// with.
template <class B>
struct FourSixBitScales {
    static constexpr uint32_t groups = 2, blocks = 1;
    __m512 d, dmin;
    __m512i six[2];    // of a group, in lane r those of row r: bytes 4 to 7 the scales, 8 to 11 the minima

    [[gnu::always_inline]] explicit FourSixBitScales(const B* const* b)
    {
        const __m512i head = four_lanes(b[0], b[1], b[2], b[3]);
        const auto word = [&](short i) {    // of every lane
            const __m256i which = _mm256_add_epi16(_mm256_set1_epi64x(0x0018'0010'0008'0000), _mm256_set1_epi16(i));
            return _mm512_cvtph_ps(
                _mm512_castsi512_si256(_mm512_permutexvar_epi16(_mm512_castsi256_si512(which), head)));
        };
        d = word(0);
        dmin = word(1);
        const __m512i last = _mm512_shuffle_epi32(head, _MM_PERM_DDDD),
                      upper = _mm512_and_si512(_mm512_srli_epi32(head, 2), _mm512_set1_epi8(0x30));
        const __m512i lower = low_nibbles(_mm512_srlv_epi32(last, _mm512_set4_epi32(0, 4, 0, 0)));
        six[0] = _mm512_and_si512(head, _mm512_set1_epi8(0x3f));
        six[1] = _mm512_or_si512(upper, lower);
    }
    [[gnu::always_inline]] __m512 plus(uint32_t g, const __m512i* integers, const GroupOfToken& x, __m512 sum) const
    {
        const __m512 scale = _mm512_cvtepi32_ps(byte_of_row(six[g], 4, 1, 0)),
                     minimum = _mm512_cvtepi32_ps(byte_of_row(six[g], 8, 1, 0));
        sum = _mm512_fmadd_ps(_mm512_mul_ps(_mm512_mul_ps(d, scale), x.scale), _mm512_cvtepi32_ps(integers[0]), sum);
        return _mm512_fnmadd_ps(_mm512_mul_ps(dmin, minimum), x.sum, sum);
    }
    /// Of 32 bytes the low nibbles, then the high ones, then those of the next 32.
    [[gnu::always_inline]] static void nibbles(const uint8_t* q, __m512i* w)
    {
        const __m512i bytes = _mm512_loadu_si512(q), matrix = by_lane(low_nibble, high_nibble, low_nibble, high_nibble);
        w[0] = moved(_mm512_shuffle_i64x2(bytes, bytes, 0xa0), matrix);
        w[1] = moved(_mm512_shuffle_i64x2(bytes, bytes, 0xf5), matrix);
    }
};

template <>
struct Four<BlockQ4_K> : FourSixBitScales<BlockQ4_K> {
    using FourSixBitScales::FourSixBitScales;
    [[gnu::always_inline]] static void weights(const BlockQ4_K* b, uint32_t g, __m512i* w)
    {
        nibbles(b->q + 64 * g, w);
    }
};

template <>
struct Four<BlockQ5_K> : FourSixBitScales<BlockQ5_K> {
    using FourSixBitScales::FourSixBitScales;
    [[gnu::always_inline]] static void weights(const BlockQ5_K* b, uint32_t g, __m512i* w)
    {
        nibbles(b->q + 64 * g, w);
        const auto fifth = [&](uint32_t k) { return int64_t(1) << (24 + 4 * g + k); };    // bit 4 g + k becomes bit 4
        const __m512i matrix = by_lane(fifth(0), fifth(1), fifth(2), fifth(3));
        for (uint32_t half = 0; half < 2; half++)
            w[half] = _mm512_or_si512(w[half], moved(in_each_lane(b->qh + 16 * half), matrix));
    }
    static __m512i in_each_lane(const uint8_t* p)
    {
        return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    }
};

/// 256 weights, of which 16 have a scale.
template <>
struct Four<BlockQ6_K> {
    static constexpr uint32_t groups = 2, blocks = 1;
    __m512 d;
    __m512i scales;    // in lane r the 16 of row r

    [[gnu::always_inline]] explicit Four(const BlockQ6_K* const* b)
    {
        constexpr size_t window = sizeof(BlockQ6_K) - 64;    // its last 64 bytes
        const auto last = [&](uint32_t r) { return reinterpret_cast<const std::byte*>(b[r]) + window; };
        const void* const at[] = {last(0), last(1), last(2), last(3)};
        d = words_of_four(at, 31, 31, 31, 31);
        scales = four_lanes(b[0]->scale, b[1]->scale, b[2]->scale, b[3]->scale);
    }
    [[gnu::always_inline]] static void weights(const BlockQ6_K* b, uint32_t g, __m512i* w)
    {
        const __m512i low = _mm512_loadu_si512(b->ql + 64 * g),
                      nibble = by_lane(low_nibble, low_nibble, high_nibble, high_nibble);
        // Bits 2 k and 2 k + 1 become bits 4 and 5.
        const auto fifth_and_sixth = [](uint32_t k) { return int64_t(1) << (24 + 2 * k) | int64_t(2) << (16 + 2 * k); };
        const __m512i upper = by_lane(fifth_and_sixth(0), fifth_and_sixth(1), fifth_and_sixth(2), fifth_and_sixth(3));
        const auto of = [&](__m512i nibbles, uint32_t half) {
            const __m512i bits = Four<BlockQ5_K>::in_each_lane(b->qh + 32 * g + 16 * half);
            return _mm512_or_si512(moved(nibbles, nibble), moved(bits, upper));
        };
        w[0] = of(_mm512_shuffle_i64x2(low, low, 0x88), 0);
        w[1] = of(_mm512_shuffle_i64x2(low, low, 0xdd), 1);
    }
    [[gnu::always_inline]] __m512 plus(uint32_t g, const __m512i* integers, const GroupOfToken& x, __m512 sum) const
    {
        const auto scale = [&](int half) {
            return _mm512_cvtepi32_ps(_mm512_srai_epi32(byte_of_row(scales, int(8 * g) + half, 2, 3), 24));
        };
        const __m512 first = _mm512_mul_ps(scale(0), _mm512_cvtepi32_ps(integers[0])),
                     both = _mm512_fmadd_ps(scale(1), _mm512_cvtepi32_ps(integers[1]), first);
        return _mm512_fmadd_ps(_mm512_mul_ps(d, x.scale), both, sum);
    }
};

/// Sums of eight rows with the token.
struct SumsOfFours {
    __m512 of[2] = {};    // rows 0 to 3, 4 to 7

    /// Those of each row added up, as EightSums has it.
    void add_lanes(float* row) const
    {
        for (uint32_t f = 0; f < 2; f++) {
            const __m256 blocks = _mm256_add_ps(_mm512_castps512_ps256(of[f]), _mm512_extractf32x8_ps(of[f], 1));
            _mm_storeu_ps(row + 4 * f, _mm_add_ps(_mm256_castps256_ps128(blocks), _mm256_extractf128_ps(blocks, 1)));
        }
    }
    /// Of row r in the first lanes of four.
    __m512 of_row(uint32_t r) const
    {
        return _mm512_maskz_permutexvar_ps(0x1111, _mm512_set1_epi32(int(r % 4)) | lane_of_block(), of[r / 4]);
    }
    static __m512i lane_of_block() { return _mm512_slli_epi32(block_of_lane(), 2); }
};

/// sum + the products of a group with four rows.
template <class B>
[[gnu::always_inline]] inline __m512 meet_four(const B* const* row, const Four<B>& four, uint32_t g,
                                               const GroupOfToken& x, __m512 sum)
{
    constexpr int added = Eight<B>::added;
    constexpr uint32_t parts = Eight<B>::halves ? 2 : 1;
    __m512i products[parts][4], integers[parts];
#pragma GCC unroll 4
    for (uint32_t r = 0; r < 4; r++) {
        __m512i w[2];
        Four<B>::weights(row[r], g, w);
        if constexpr (parts == 1) products[0][r] = dot<added>(w, x);
        else
            for (uint32_t half = 0; half < 2; half++) products[half][r] = dot_half<added>(w, x, half);
    }
    for (uint32_t part = 0; part < parts; part++) integers[part] = add_fours(products[part]);
    return four.plus(g, integers, x, sum);
}

}    // namespace
}    // namespace hearth::host
