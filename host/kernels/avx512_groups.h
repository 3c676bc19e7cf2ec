// How AVX-512 reads quantised rows: two blocks of 32 weights of eight rows at a time, as unsigned bytes that meet the
// planes of a group. Four weights of each row and block lie in a lane, so that products need not be added up
// across lanes, and what was unpacked once serves all tokens:
//
//        lane     0      1      2      3    ...   15
//     row, block  0, 0   0, 1   1, 0   1, 1       7, 1
#pragma once

#include "host/kernels/avx2_wide.h"

#include <immintrin.h>

// GCC before 13 warns of its own _mm512_undefined_*() (bug 105593).
#ifndef __clang__
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

namespace hearth::host {
namespace {

// ---- bytes ----------------------------------------------------------------------------------------------------------

/// (Cheaper than three insertions into 512 bits.)
inline __m512i four_lanes(const void* a, const void* b, const void* c, const void* d)
{
    return _mm512_inserti64x4(_mm512_castsi256_si512(two_lanes(a, b)), two_lanes(c, d), 1);
}
/// a in the lanes of even blocks, b in those of odd ones.
inline __m512i by_block(int32_t a, int32_t b)
{
    return _mm512_set1_epi64(int64_t(uint64_t(uint32_t(b)) << 32 | uint32_t(a)));
}
/// Numbers of two blocks, in all lanes of each. (A copy of 64 bits costs a load and nothing else, one of 128 a
/// shuffle.)
inline __m512i of_both(const void* p)
{
    return _mm512_broadcastq_epi64(_mm_loadl_epi64(static_cast<const __m128i*>(p)));
}
inline __m512 of_both(const float* p) { return _mm512_castsi512_ps(of_both(static_cast<const void*>(p))); }

/// Sixteen bytes of each of eight rows: those of rows 0, 2, 4, 6 and of rows 1, 3, 5, 7.
struct Sixteens {
    __m512i even, odd;

    template <class F>
    [[gnu::always_inline]] explicit Sixteens(const F& of_row)
        : even(four_lanes(of_row(0), of_row(2), of_row(4), of_row(6))),
          odd(four_lanes(of_row(1), of_row(3), of_row(5), of_row(7)))
    {
    }
    /// The i-th four bytes of each row, in both lanes of the row.
    template <int i>
    __m512i both() const
    {
        return _mm512_castps_si512(_mm512_shuffle_ps(_mm512_castsi512_ps(even), _mm512_castsi512_ps(odd), i * 0x55));
    }
};
/// The i-th four bytes of a row's two blocks in w[i], for i < 4.
inline void in_lanes(const Sixteens& first, const Sixteens& second, __m512i* w)
{
    const __m512i even[] = {_mm512_unpacklo_epi32(first.even, second.even),
                            _mm512_unpackhi_epi32(first.even, second.even)},
                  odd[] = {_mm512_unpacklo_epi32(first.odd, second.odd), _mm512_unpackhi_epi32(first.odd, second.odd)};
    for (uint32_t i = 0; i < 4; i++)
        w[i] = i % 2 ? _mm512_unpackhi_epi64(even[i / 2], odd[i / 2]) : _mm512_unpacklo_epi64(even[i / 2], odd[i / 2]);
}
/// The same of one array for both blocks.
inline void in_both_lanes(const Sixteens& s, __m512i* w)
{
    w[0] = s.both<0>();
    w[1] = s.both<1>();
    w[2] = s.both<2>();
    w[3] = s.both<3>();
}

inline __m512i low_nibbles(__m512i bytes) { return _mm512_and_si512(bytes, _mm512_set1_epi8(15)); }
/// (A multiplication of matrices of bits would be one instruction, but on a port that products need: Zen 4.)
inline __m512i high_nibbles(__m512i bytes) { return low_nibbles(_mm512_srli_epi16(bytes, 4)); }
/// (bits rotated to the left by so many) & mask | w
inline __m512i with_bits(__m512i w, __m512i bits, __m512i left, uint8_t mask)
{
    return _mm512_ternarylogic_epi32(w, _mm512_rolv_epi32(bits, left), _mm512_set1_epi8(char(mask)), 0xf8);
}
/// The lower words of all lanes, read as fp16.
inline __m512 halves(__m512i words) { return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(words)); }

// ---- formats --------------------------------------------------------------------------------------------------------

/// Two blocks of eight rows as bytes: w[c] has weights 4 c to 4 c + 3 of each.
struct PairWeights {
    __m512i w[8];
};

/// Eight rows, each from a block of the file on:
///   pairs, blocks         how many pairs of 32 weights are taken at once, and how many of the file's blocks these are
///   added                 to each weight, so that it is unsigned
///   halves                whether 16 weights have a scale of their own
///   weights(b, p)         pair p of the rows
///   Scales, scales(p)     what belongs to pair p; the constructor reads what all pairs share
///   Scales::plus(...)     sum + the integers, which are two where there are halves, times all scales
template <class B>
struct Eight;

/// Formats that have one.
template <class B>
inline constexpr bool by_eights = requires
{
    Eight<B>::pairs;
};

/// Of a pair of a token.
struct OfToken {
    const float *scales, *sums;    // of its two blocks

    __m512 scale() const { return of_both(scales); }
    __m512 sum() const { return of_both(sums); }
};

/// Blocks of 32 with one scale, four at once.
template <class B>
struct EightOneScale {
    static constexpr uint32_t pairs = 2, blocks = 4;
    static constexpr bool halves = false;
    struct Scales {
        __m512 d;
        __m512 plus(const __m512i* integers, const OfToken& x, __m512 sum) const
        {
            return _mm512_fmadd_ps(_mm512_mul_ps(d, x.scale()), _mm512_cvtepi32_ps(integers[0]), sum);
        }
    };
    Scales of_pair[pairs];

    [[gnu::always_inline]] explicit EightOneScale(const B* const* b)
    {
        // The words of as many pairs as begin in the same 64 bytes, then those of a pair of all rows.
        constexpr short step = sizeof(B) / 2;
        constexpr uint32_t found = 3 * step < 32 ? 2 : 1;
        const __m512i which = _mm512_broadcastq_epi64(_mm_set_epi16(0, 0, 0, 0, 3 * step & 31, 2 * step & 31, step, 0));
        for (uint32_t p = 0; p < pairs; p += found) {
            const auto word = [&](uint32_t row) {
                return _mm512_castsi512_si128(_mm512_permutexvar_epi16(which, _mm512_loadu_si512(b[row] + 2 * p)));
            };
            const auto two = [&](uint32_t row) { return _mm_unpacklo_epi32(word(row), word(row + 1)); };
            const __m128i w[4] = {two(0), two(2), two(4), two(6)};
            of_pair[p].d =
                _mm512_cvtph_ps(_mm256_set_m128i(_mm_unpacklo_epi64(w[2], w[3]), _mm_unpacklo_epi64(w[0], w[1])));
            if constexpr (found == 2)
                of_pair[1].d =
                    _mm512_cvtph_ps(_mm256_set_m128i(_mm_unpackhi_epi64(w[2], w[3]), _mm_unpackhi_epi64(w[0], w[1])));
        }
    }
    const Scales& scales(uint32_t p) const { return of_pair[p]; }
};

template <>
struct Eight<BlockQ4_0> : EightOneScale<BlockQ4_0> {
    using EightOneScale::EightOneScale;
    static constexpr int added = 8;

    [[gnu::always_inline]] static PairWeights weights(const BlockQ4_0* const* b, uint32_t p)
    {
        const auto block = [&](uint32_t k) { return Sixteens([&](uint32_t r) { return b[r][2 * p + k].q; }); };
        PairWeights pair;
        in_lanes(block(0), block(1), pair.w);
        for (uint32_t c = 0; c < 4; c++) pair.w[4 + c] = high_nibbles(pair.w[c]);
        for (uint32_t c = 0; c < 4; c++) pair.w[c] = low_nibbles(pair.w[c]);
        return pair;
    }
};

template <>
struct Eight<BlockQ8_0> : EightOneScale<BlockQ8_0> {
    using EightOneScale::EightOneScale;
    static constexpr int added = 128;

    [[gnu::always_inline]] static PairWeights weights(const BlockQ8_0* const* b, uint32_t p)
    {
        PairWeights pair;
        for (uint32_t half = 0; half < 2; half++) {
            const auto part = [&](uint32_t k) {
                return Sixteens([&](uint32_t r) { return b[r][2 * p + k].q + 16 * half; });
            };
            in_lanes(part(0), part(1), pair.w + 4 * half);
        }
        for (__m512i& w : pair.w) w = _mm512_xor_si512(w, _mm512_set1_epi8(char(0x80)));
        return pair;
    }
};

/// Q4_K and Q5_K: 256 weights, of which 32 have a scale and a minimum of six bits, in the 16 bytes that a block begins
/// with.
template <class B>
struct EightSixBitScales {
    static constexpr uint32_t pairs = 4, blocks = 1;
    static constexpr int added = 0;
    static constexpr bool halves = false;
    struct Scales {
        __m512 d, minimum;
        __m512 plus(const __m512i* integers, const OfToken& x, __m512 sum) const
        {
            sum = _mm512_fmadd_ps(_mm512_mul_ps(d, x.scale()), _mm512_cvtepi32_ps(integers[0]), sum);
            return _mm512_fnmadd_ps(minimum, x.sum(), sum);
        }
    };
    __m512 d, dmin;
    __m512i scale[2], minimum[2];    // of the first four blocks of each row and of the last, a byte each

    [[gnu::always_inline]] explicit EightSixBitScales(const B* const* b)
    {
        const Sixteens head([&](uint32_t r) { return b[r]; });
        const __m512i both = head.template both<0>(), first = head.template both<1>(), second = head.template both<2>(),
                      third = head.template both<3>(), six = _mm512_set1_epi8(0x3f), upper = _mm512_set1_epi8(0x30);
        const auto joined = [&](__m512i low, __m512i high) {
            return _mm512_or_si512(low, _mm512_and_si512(_mm512_srli_epi32(high, 2), upper));
        };
        d = hearth::host::halves(both);
        dmin = hearth::host::halves(_mm512_srli_epi32(both, 16));
        scale[0] = _mm512_and_si512(first, six);
        scale[1] = joined(low_nibbles(third), first);
        minimum[0] = _mm512_and_si512(second, six);
        minimum[1] = joined(high_nibbles(third), second);
    }
    [[gnu::always_inline]] Scales scales(uint32_t p) const
    {
        const int32_t at = 16 * int32_t(p % 2);
        const auto bytes = [&](__m512i four) {
            return _mm512_cvtepi32_ps(
                _mm512_and_si512(_mm512_srlv_epi32(four, by_block(at, at + 8)), _mm512_set1_epi32(255)));
        };
        return {_mm512_mul_ps(d, bytes(scale[p / 2])), _mm512_mul_ps(dmin, bytes(minimum[p / 2]))};
    }
    /// Of 32 bytes the low nibbles are one block, the high ones the next.
    [[gnu::always_inline]] static PairWeights nibbles(const B* const* b, uint32_t p)
    {
        PairWeights pair;
        for (uint32_t half = 0; half < 2; half++)
            in_both_lanes(Sixteens([&](uint32_t r) { return b[r]->q + 32 * p + 16 * half; }), pair.w + 4 * half);
        for (__m512i& w : pair.w) w = low_nibbles(_mm512_srlv_epi32(w, by_block(0, 4)));
        return pair;
    }
};

template <>
struct Eight<BlockQ4_K> : EightSixBitScales<BlockQ4_K> {
    using EightSixBitScales::EightSixBitScales;
    [[gnu::always_inline]] static PairWeights weights(const BlockQ4_K* const* b, uint32_t p) { return nibbles(b, p); }
};

template <>
struct Eight<BlockQ5_K> : EightSixBitScales<BlockQ5_K> {
    using EightSixBitScales::EightSixBitScales;
    [[gnu::always_inline]] static PairWeights weights(const BlockQ5_K* const* b, uint32_t p)
    {
        PairWeights pair = nibbles(b, p);
        const int32_t left = 4 - 2 * int32_t(p);    // bit 2 p, and of the second block the next, becomes bit 4
        for (uint32_t half = 0; half < 2; half++) {
            __m512i fifth[4];
            in_both_lanes(Sixteens([&](uint32_t r) { return b[r]->qh + 16 * half; }), fifth);
            for (uint32_t c = 0; c < 4; c++)
                pair.w[4 * half + c] = with_bits(pair.w[4 * half + c], fifth[c], by_block(left, left - 1), 0x10);
        }
        return pair;
    }
};

/// 256 weights, of which 16 have a scale.
template <>
struct Eight<BlockQ6_K> {
    static constexpr uint32_t pairs = 4, blocks = 1;
    static constexpr int added = 32;
    static constexpr bool halves = true;
    struct Scales {
        __m512 d, first, last;
        __m512 plus(const __m512i* integers, const OfToken& x, __m512 sum) const
        {
            const __m512 both = _mm512_fmadd_ps(last, _mm512_cvtepi32_ps(integers[1]),
                                                _mm512_mul_ps(first, _mm512_cvtepi32_ps(integers[0])));
            return _mm512_fmadd_ps(_mm512_mul_ps(d, x.scale()), both, sum);
        }
    };
    __m512 d;
    __m512i scale[4];    // of pair p of each row, four bytes

    [[gnu::always_inline]] explicit Eight(const BlockQ6_K* const* b)
    {
        constexpr size_t last = sizeof(BlockQ6_K) - 16;
        const Sixteens tail([&](uint32_t r) { return reinterpret_cast<const std::byte*>(b[r]) + last; });
        d = hearth::host::halves(_mm512_srli_epi32(tail.both<3>(), 16));
        in_both_lanes(Sixteens([&](uint32_t r) { return b[r]->scale; }), scale);
    }
    [[gnu::always_inline]] Scales scales(uint32_t p) const
    {
        const auto bytes = [&](int32_t half) {
            return _mm512_cvtepi32_ps(
                _mm512_srai_epi32(_mm512_sllv_epi32(scale[p], by_block(24 - 8 * half, 8 - 8 * half)), 24));
        };
        return {d, bytes(0), bytes(1)};
    }
    [[gnu::always_inline]] static PairWeights weights(const BlockQ6_K* const* b, uint32_t p)
    {
        PairWeights pair;
        const int32_t left = 4 - 4 * int32_t(p % 2);    // two bits from 4 p on, or the next two, become bits 4 and 5
        for (uint32_t half = 0; half < 2; half++) {
            __m512i* const w = pair.w + 4 * half;
            const auto low = [&](uint32_t k) {
                return Sixteens([&](uint32_t r) { return b[r]->ql + 64 * (p / 2) + 32 * k + 16 * half; });
            };
            in_lanes(low(0), low(1), w);
            __m512i upper[4];
            in_both_lanes(Sixteens([&](uint32_t r) { return b[r]->qh + 32 * (p / 2) + 16 * half; }), upper);
            for (uint32_t c = 0; c < 4; c++)
                w[c] =
                    with_bits(p % 2 ? high_nibbles(w[c]) : low_nibbles(w[c]), upper[c], by_block(left, left - 2), 0x30);
        }
        return pair;
    }
};

// ---- products -------------------------------------------------------------------------------------------------------

/// From a group's bias, which is that of 8.
template <int added>
inline __m512i times_added(const int32_t* bias)
{
    static_assert(added == 0 || added == 8 || added == 32 || added == 128);
    if constexpr (added == 0) return _mm512_setzero_si512();
    else return _mm512_slli_epi32(of_both(bias), added == 8 ? 0 : added == 32 ? 2 : 4);
}

/// Sums of eight rows with one token: of pairs at even places and at odd ones.
struct EightSums {
    __m512 of[2];

    /// Those of each row added up, as add_lanes(of_row(r)) does.
    void add_lanes(float* row) const
    {
        const __m512 both = _mm512_add_ps(of[0], of[1]), sum = _mm512_add_ps(both, _mm512_permute_ps(both, 0xb1));
        const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 0, 0, 0, 0, 0, 0, 0, 0);
        _mm256_storeu_ps(row, _mm512_castps512_ps256(_mm512_permutexvar_ps(even, sum)));
    }
    /// Of row r in the first lanes of four, as the other sums of a row are.
    __m512 of_row(uint32_t r) const
    {
        const __m512i which = _mm512_setr_epi32(int(2 * r), 0, 0, 0, int(2 * r + 1), 0, 0, 0, int(16 + 2 * r), 0, 0, 0,
                                                int(17 + 2 * r), 0, 0, 0);
        return _mm512_maskz_permutex2var_ps(0x1111, of[0], which, of[1]);
    }
};

/// sums[u] += the products of a pair of blocks, which is pair p of a group, with tokens x[u] for u < U.
template <class B, uint32_t U>
[[gnu::always_inline]] inline void meet(const PairWeights& pair, const typename Eight<B>::Scales& scales,
                                        const Input* x, uint32_t group, uint32_t p, EightSums* sums)
{
    constexpr uint32_t parts = Eight<B>::halves ? 2 : 1, each = 8 / parts;
    __m512i integers[U][parts];
#pragma GCC unroll 2
    for (uint32_t part = 0; part < parts; part++) {
        constexpr uint32_t chains = U == 1 ? 2 : 1;    // four would be enough for any number of tokens
        __m512i high[U][chains], low[U][chains];
#pragma GCC unroll 4
        for (uint32_t u = 0; u < U; u++) {
            const GroupPlanes& g = x[u].planes[group];
            for (uint32_t i = 0; i < chains; i++) high[u][i] = low[u][i] = _mm512_setzero_si512();
            low[u][0] = times_added<Eight<B>::added>((parts == 1 ? g.bias : g.half_bias[part]) + 2 * p);
        }
#pragma GCC unroll 8
        for (uint32_t c = part * each; c < part * each + each; c++)
#pragma GCC unroll 4
            for (uint32_t u = 0; u < U; u++) {
                const GroupPlanes& g = x[u].planes[group];
                high[u][c % chains] =
                    _mm512_dpbusd_epi32(high[u][c % chains], pair.w[c], of_both(g.high + 64 * p + 8 * c));
                low[u][c % chains] =
                    _mm512_dpbusd_epi32(low[u][c % chains], pair.w[c], of_both(g.low + 64 * p + 8 * c));
            }
#pragma GCC unroll 4
        for (uint32_t u = 0; u < U; u++) {
            if constexpr (chains == 2) {
                high[u][0] = _mm512_add_epi32(high[u][0], high[u][1]);
                low[u][0] = _mm512_add_epi32(low[u][0], low[u][1]);
            }
            integers[u][part] = _mm512_add_epi32(_mm512_slli_epi32(high[u][0], 8), low[u][0]);
        }
    }
#pragma GCC unroll 4
    for (uint32_t u = 0; u < U; u++) {
        const size_t block = size_t(group) * (group_numbers / fixed_block) + 2 * p;
        sums[u].of[p] = scales.plus(integers[u], {x[u].scale + block, x[u].sum + block}, sums[u].of[p]);
    }
}

}    // namespace
}    // namespace hearth::host
