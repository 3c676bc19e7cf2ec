// How AVX2 reads quantised rows: 256 weights at a time, in pairs of blocks of 32, each in a lane of 128 bits. What a
// file packs is taken apart by shifts and masks of words of 16 bits, which need no widening: a word of bytes 2i and 2i
// + 1 gives weight 2i by its lower half and weight 2i + 1 by its upper one. The activations lie in this order, too:
//
//     words[0]  numbers  0  2 ... 14 of the first block | the same of the second
//     words[1]  numbers  1  3 ... 15                    |
//     words[2]  numbers 16 18 ... 30                    |
//     words[3]  numbers 17 19 ... 31                    |
//
// Where 16 weights have a scale, a block lies in both lanes, so that each lane has one:
//
//     words[0]  numbers  0  2 ... 14 | 16 18 ... 30
//     words[1]  numbers  1  3 ... 15 | 17 19 ... 31
//
// Of 64 weights of Q4_0 and one token these are 21 instructions with vectors (7 to unpack, 7 to multiply and add, 4 for
// the scales of the file, 3 to add up in floats) where widening takes 40.
#pragma once

#include "host/kernels/body.h"

#include <immintrin.h>

namespace hearth::host {
namespace {

#if defined __AVXVNNI__ || defined __AVX512VNNI__
/// sum + the products of two words each, at once.
struct DotProduct {
    static __m256i add(__m256i sum, __m256i a, __m256i b)
    {
#ifdef __AVXVNNI__
        return _mm256_dpwssd_avx_epi32(sum, a, b);
#else
        return _mm256_dpwssd_epi32(sum, a, b);    // in the encoding of AVX-512
#endif
    }
};
#endif

inline constexpr uint32_t wide_numbers = 256, wide_pairs = 4;

inline __m256i bytes_32(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline __m128i bytes_16(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
inline __m256i two_lanes(const void* a, const void* b) { return _mm256_set_m128i(bytes_16(b), bytes_16(a)); }
inline __m256i both_lanes(const void* p) { return _mm256_broadcastsi128_si256(bytes_16(p)); }
inline __m256i masked(__m256i v, uint8_t mask) { return _mm256_and_si256(v, _mm256_set1_epi8(char(mask))); }

/// Bytes shifted to the left by so many bits in the lane of the first block and of the second; less than 0 is to the
/// right. What comes from a neighbour has to be masked.
template <int first, int second>
inline __m256i shifted(__m256i v)
{
    static_assert((first >= 0 && second >= 0) || (first <= 0 && second <= 0));
    if constexpr (first >= 0 && second >= 0)
        return _mm256_sllv_epi64(v, _mm256_setr_epi64x(first, first, second, second));
    else return _mm256_srlv_epi64(v, _mm256_setr_epi64x(-first, -first, -second, -second));
}

/// The words of unsigned bytes, those of even places and those of odd ones.
inline void unsigned_words(__m256i bytes, __m256i* w)
{
    w[0] = _mm256_and_si256(bytes, _mm256_set1_epi16(255));
    w[1] = _mm256_srli_epi16(bytes, 8);
}
inline void signed_words(__m256i bytes, __m256i* w)
{
    w[0] = _mm256_srai_epi16(_mm256_slli_epi16(bytes, 8), 8);
    w[1] = _mm256_srai_epi16(bytes, 8);
}

/// Eight words, `step` bytes from each to the next, which is at least 16: of 16 bytes each, so that each lies in a
/// place of its own.
template <uint32_t step>
inline __m128i eight_words(const void* first)
{
    const auto from = [&](uint32_t i) { return bytes_16(static_cast<const std::byte*>(first) + (step - 2) * i); };
    __m128i w = from(0);
    w = _mm_blend_epi16(w, from(1), 1 << 1);
    w = _mm_blend_epi16(w, from(2), 1 << 2);
    w = _mm_blend_epi16(w, from(3), 1 << 3);
    w = _mm_blend_epi16(w, from(4), 1 << 4);
    w = _mm_blend_epi16(w, from(5), 1 << 5);
    w = _mm_blend_epi16(w, from(6), 1 << 6);
    return _mm_blend_epi16(w, from(7), 1 << 7);
}
inline __m256 half(uint16_t bits) { return _mm256_cvtph_ps(_mm_set1_epi16(short(bits))); }
inline __m256 floats_of_bytes(uint64_t eight)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(int64_t(eight))));
}
inline __m256 floats_of_signed(__m128i eight) { return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(eight)); }

/// Of eight blocks of a token.
struct EightOfToken {
    const Input& x;
    size_t k;    // which eight

    __m256 scale() const { return _mm256_loadu_ps(x.scale + 8 * k); }
    __m256 sum() const { return _mm256_loadu_ps(x.sum + 8 * k); }
    const __m256i* pair(uint32_t p) const { return words(x.by_pairs, 4 * p); }

    // Of the halves of blocks 4 i to 4 i + 3, in the order of the file.
    __m256 half_scale(uint32_t i) const
    {
        const int first = int(4 * i);
        return _mm256_permutevar8x32_ps(
            scale(), _mm256_setr_epi32(first, first, first + 1, first + 1, first + 2, first + 2, first + 3, first + 3));
    }
    __m256 half_sum(uint32_t i) const { return _mm256_loadu_ps(x.half_sum + 16 * k + 8 * i); }
    const __m256i* block(uint32_t b) const { return words(x.by_blocks, 2 * b); }

    const __m256i* words(const GroupWords* groups, uint32_t vector) const
    {
        return reinterpret_cast<const __m256i*>(groups[2 * k].of) + vector;
    }
};

/// 256 weights of a row, from a block of the file on:
///   scales                of its blocks; or two, of the halves of its first four blocks and of its last
///   words<i>(w)           with one scale: pair i as above, which may have something added; always inline: what GCC
///                         chooses to call differs from set to set, and such a call cost a quarter of the speed of
///                         Q5_K and Q5_0
///   bits, packed<u>()     for sums of rows: 32 bytes of unsigned integers of so many bits. Of 8 bits (u < 8) they are
///   of
///                         block u, 16 in each lane, with two `scales`; else of pair u / 2, whose blocks have a lane
///                         each, numbers 16 (u % 2) to 16 (u % 2) + 15. Of 4 bits (u < 4) they are of pair u, low
///                         nibbles first in each lane; or with `shares_bytes` those of its first block are the low
///                         nibbles of all 32 bytes, those of its second the high ones
///   added                 what was added to the integers of words, by their formats
///   packed_added          the same of packed ones, which are not negative
///   minimum(i)            where formats have minima: what each weight has besides, for scales i
template <class B>
struct Wide;

/// Formats that have one.
template <class B>
inline constexpr bool by_wide = requires
{
    sizeof(Wide<B>);
};

// ---- blocks of 32 with one scale ------------------------------------------------------------------------------------

/// The nibbles of 16 bytes in each lane: the low ones, or the high ones.
inline __m256i nibbles(__m256i bytes, uint32_t half) { return masked(half ? _mm256_srli_epi16(bytes, 4) : bytes, 15); }

/// Words of what a table of signed numbers has for the nibbles.
[[gnu::always_inline]] inline void looked_up_words(__m256i bytes, const int8_t* values, __m256i* w)
{
    for (uint32_t half = 0; half < 2; half++)
        signed_words(_mm256_shuffle_epi8(both_lanes(values), nibbles(bytes, half)), w + 2 * half);
}

/// What makes the least of a table's values 0: no more, since it costs floats their last bits.
template <class B>
constexpr int least_added()
{
    int least = 0;
    for (const int8_t v : B::values) least = v < least ? v : least;
    return -least;
}
/// The same as bytes, that added to each.
template <class B>
[[gnu::always_inline]] inline __m256i looked_up_bytes(__m256i bytes, uint32_t half)
{
    const __m256i from_0 = _mm256_add_epi8(both_lanes(B::values), _mm256_set1_epi8(least_added<B>()));
    return _mm256_shuffle_epi8(from_0, nibbles(bytes, half));
}

/// What a block has beside nibbles says how its weights are made: a table of values, fifth bits, a minimum.
template <class B>
struct WideOneScale {
    const B* b;
    __m256 scales[1];
    static constexpr bool has_values = requires { B::values; }
    , has_fifth_bits = requires(const B& b) { b.qh; }
    , has_minima = requires(const B& b) { b.m; };
    static constexpr int added = has_values || has_minima ? 0 : has_fifth_bits ? 16 : 8;
    static constexpr int packed_added = [] {
        if constexpr (has_values) return least_added<B>();
        else return added;
    }();
    static constexpr uint32_t bits = has_values || has_fifth_bits ? 8 : 4;

    explicit WideOneScale(const B* b) : b(b)
    {
        if constexpr (requires { b->d; }) scales[0] = _mm256_cvtph_ps(eight_words<sizeof(B)>(&b->d));
    }

    template <uint32_t p>
    [[gnu::always_inline]] void words(__m256i* w) const
    {
        if constexpr (has_values) looked_up_words(nibbles_of<p>(), B::values, w);
        else if constexpr (has_fifth_bits)
            for (uint32_t half = 0; half < 2; half++) unsigned_words(five_bits<p>(half), w + 2 * half);
        else nibble_words(nibbles_of<p>(), w);
    }
    template <uint32_t u>
    [[gnu::always_inline]] __m256i packed() const
    {
        if constexpr (has_values) return looked_up_bytes<B>(nibbles_of<u / 2>(), u % 2);
        else if constexpr (has_fifth_bits) return five_bits<u / 2>(u % 2);
        else return nibbles_of<u>();
    }
    __m256 minimum(uint32_t) const requires has_minima { return _mm256_cvtph_ps(eight_words<sizeof(B)>(&b->m)); }

  private:
    template <uint32_t p>
    [[gnu::always_inline]] __m256i nibbles_of() const
    {
        return two_lanes(b[2 * p].q, b[2 * p + 1].q);
    }
    [[gnu::always_inline]] static void nibble_words(__m256i q, __m256i* w)
    {
        const __m256i low = _mm256_set1_epi16(15);
        w[0] = _mm256_and_si256(q, low);
        w[1] = _mm256_and_si256(_mm256_srli_epi16(q, 8), low);
        w[2] = _mm256_and_si256(_mm256_srli_epi16(q, 4), low);
        w[3] = _mm256_srli_epi16(q, 12);
    }
    template <uint32_t p>
    [[gnu::always_inline]] __m256i five_bits(uint32_t half) const
    {
        const __m256i bit = _mm256_set1_epi64x(int64_t(0x8040201008040201)),
                      fifth = _mm256_set_m128i(_mm_set1_epi32(int(load_32(b[2 * p + 1].qh))),
                                               _mm_set1_epi32(int(load_32(b[2 * p].qh))));
        const int64_t byte = int64_t(half * 0x0202020202020202);
        const __m256i which = _mm256_setr_epi64x(byte, byte + 0x0101010101010101, byte, byte + 0x0101010101010101);
        const __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(_mm256_shuffle_epi8(fifth, which), bit), bit);
        return _mm256_or_si256(nibbles(nibbles_of<p>(), half), masked(set, 16));
    }
};

template <>
struct Wide<BlockQ4_0> : WideOneScale<BlockQ4_0> {
    using WideOneScale::WideOneScale;
};

template <>
struct Wide<BlockQ4_1> : WideOneScale<BlockQ4_1> {
    using WideOneScale::WideOneScale;
};

template <>
struct Wide<BlockQ5_0> : WideOneScale<BlockQ5_0> {
    using WideOneScale::WideOneScale;
};

template <>
struct Wide<BlockQ5_1> : WideOneScale<BlockQ5_1> {
    using WideOneScale::WideOneScale;
};

template <>
struct Wide<BlockIQ4_NL> : WideOneScale<BlockIQ4_NL> {
    using WideOneScale::WideOneScale;
};

template <>
struct Wide<BlockMXFP4> : WideOneScale<BlockMXFP4> {
    explicit Wide(const BlockMXFP4* b) : WideOneScale(b)
    {
        // As power_of_two, whose two smallest are subnormal and whose last is not a number.
        const __m128i words = _mm_and_si128(eight_words<sizeof(BlockMXFP4)>(&b->e), _mm_set1_epi16(255));
        const __m256i e = _mm256_cvtepu16_epi32(words);
        const __m256i normal = _mm256_slli_epi32(_mm256_sub_epi32(e, _mm256_set1_epi32(1)), 23);
        const __m256i small = _mm256_sllv_epi32(_mm256_set1_epi32(0x00200000), e);
        const __m256i none =
            _mm256_and_si256(_mm256_cmpeq_epi32(e, _mm256_set1_epi32(255)), _mm256_set1_epi32(0x7fc00000));
        const __m256i powers = _mm256_blendv_epi8(normal, small, _mm256_cmpgt_epi32(_mm256_set1_epi32(2), e));
        scales[0] = _mm256_castsi256_ps(_mm256_or_si256(powers, none));
    }
};

// ---- blocks of 256 --------------------------------------------------------------------------------------------------

template <class B>
struct WideSixBitScales {
    const B& b;
    __m256 scales[1], minima;
    static constexpr int added = 0, packed_added = 0;

    explicit WideSixBitScales(const B* b) : b(*b)
    {
        const SixBits six(b->scale);
        scales[0] = _mm256_mul_ps(half(b->d), floats_of_bytes(six.scales));
        minima = _mm256_mul_ps(half(b->dmin ^ 0x8000), floats_of_bytes(six.minima));
    }
    /// Of pair p, whose blocks are the low nibbles of 32 bytes and the high ones; above them may be something else.
    template <uint32_t p>
    [[gnu::always_inline]] __m256i low_nibbles(uint32_t half) const
    {
        return shifted<0, -4>(both_lanes(b.q + 32 * p + 16 * half));
    }
    __m256 minimum(uint32_t) const { return minima; }
};

template <>
struct Wide<BlockQ4_K> : WideSixBitScales<BlockQ4_K> {
    using WideSixBitScales::WideSixBitScales;
    static constexpr uint32_t bits = 4;
    static constexpr bool shares_bytes = true;
    template <uint32_t u>
    [[gnu::always_inline]] __m256i packed() const
    {
        return bytes_32(b.q + 32 * u);
    }
    template <uint32_t p>
    [[gnu::always_inline]] void words(__m256i* w) const
    {
        for (uint32_t half = 0; half < 2; half++) {
            const __m256i q = low_nibbles<p>(half), low = _mm256_set1_epi16(15);
            w[2 * half] = _mm256_and_si256(q, low);
            w[2 * half + 1] = _mm256_and_si256(_mm256_srli_epi16(q, 8), low);
        }
    }
};

template <>
struct Wide<BlockQ5_K> : WideSixBitScales<BlockQ5_K> {
    using WideSixBitScales::WideSixBitScales;
    static constexpr uint32_t bits = 8;
    template <uint32_t u>
    [[gnu::always_inline]] __m256i packed() const
    {
        constexpr uint32_t p = u / 2, half = u % 2;
        constexpr int left = 4 - 2 * int(p);
        const __m256i fifth = masked(shifted<left, left - 1>(both_lanes(b.qh + 16 * half)), 0x10);
        return _mm256_or_si256(masked(low_nibbles<p>(half), 15), fifth);
    }
    template <uint32_t p>
    [[gnu::always_inline]] void words(__m256i* w) const
    {
        unsigned_words(packed<2 * p>(), w);
        unsigned_words(packed<2 * p + 1>(), w + 2);
    }
};

template <>
struct Wide<BlockIQ4_XS> {
    const BlockIQ4_XS& b;
    __m256 scales[1];
    static constexpr int added = 0, packed_added = least_added<BlockIQ4_NL>();
    static constexpr uint32_t bits = 8;

    explicit Wide(const BlockIQ4_XS* b) : b(*b)
    {
        scales[0] = _mm256_mul_ps(half(b->d), floats_of_signed(_mm_cvtsi64_si128(int64_t(part_scales(*b)))));
    }
    template <uint32_t p>
    [[gnu::always_inline]] void words(__m256i* w) const
    {
        looked_up_words(bytes_32(b.q + 32 * p), BlockIQ4_NL::values, w);
    }
    template <uint32_t u>
    [[gnu::always_inline]] __m256i packed() const
    {
        return looked_up_bytes<BlockIQ4_NL>(bytes_32(b.q + 32 * (u / 2)), u % 2);
    }
};

/// Bytes shifted to the right by so many bits; less than 0 is to the left.
template <int bits>
inline __m256i to_the_right(__m256i v)
{
    if constexpr (bits >= 0) return bits ? _mm256_srli_epi16(v, bits) : v;
    else return _mm256_slli_epi16(v, -bits);
}

/// Where 16 weights have a scale, times d.
struct WideHalfScales {
    __m256 scales[2];
    static constexpr uint32_t bits = 8;

    WideHalfScales(__m128i of_halves, __m256 d)
        : scales{_mm256_mul_ps(d, floats_of_signed(of_halves)),
                 _mm256_mul_ps(d, floats_of_signed(_mm_unpackhi_epi64(of_halves, of_halves)))}
    {
    }
};

template <>
struct Wide<BlockQ6_K> : WideHalfScales {
    const BlockQ6_K& b;
    static constexpr int added = 32, packed_added = added;

    explicit Wide(const BlockQ6_K* b) : WideHalfScales(bytes_16(b->scale), half(b->d)), b(*b) {}
    template <uint32_t i>
    [[gnu::always_inline]] __m256i packed() const
    {
        const __m256i low = nibbles(bytes_32(b.ql + 64 * (i / 4) + 32 * (i % 2)), i % 4 / 2),
                      upper = to_the_right<2 * int(i % 4) - 4>(bytes_32(b.qh + 32 * (i / 4)));
        return _mm256_or_si256(low, masked(upper, 0x30));
    }
};

template <>
struct Wide<BlockQ2_K> : WideHalfScales {
    const BlockQ2_K& b;
    static constexpr int added = 0, packed_added = 0;

    explicit Wide(const BlockQ2_K* b)
        : WideHalfScales(_mm_and_si128(bytes_16(b->scale), _mm_set1_epi8(15)), half(b->d)), b(*b)
    {
    }
    template <uint32_t i>
    [[gnu::always_inline]] __m256i packed() const
    {
        return masked(to_the_right<2 * int(i % 4)>(bytes_32(b.q + 32 * (i / 4))), 3);
    }
    __m256 minimum(uint32_t i) const
    {
        const __m128i minima = _mm_and_si128(_mm_srli_epi16(bytes_16(b.scale), 4), _mm_set1_epi8(15));
        return WideHalfScales(minima, half(b.dmin ^ 0x8000)).scales[i];
    }
};

template <>
struct Wide<BlockQ3_K> : WideHalfScales {
    const BlockQ3_K& b;
    static constexpr int added = 4, packed_added = added;

    explicit Wide(const BlockQ3_K* b) : WideHalfScales(half_scales(*b), half(b->d)), b(*b) {}
    template <uint32_t i>
    [[gnu::always_inline]] __m256i packed() const
    {
        const __m256i low = masked(to_the_right<2 * int(i % 4)>(bytes_32(b.q + 32 * (i / 4))), 3);
        return _mm256_or_si256(low, masked(to_the_right<int(i) - 2>(bytes_32(b.qh)), 4));
    }

    static __m128i half_scales(const BlockQ3_K& b)
    {
        const ThreeBitScales s(b);
        return _mm_set_epi64x(int64_t(s.last), int64_t(s.first));
    }
};

template <class B>
inline constexpr uint32_t scales_of = sizeof(Wide<B>::scales) / sizeof(__m256);    // vectors
template <class B>
inline constexpr bool has_minimum = requires(const Wide<B>& w)
{
    w.minimum(0);
};

// ---- products -------------------------------------------------------------------------------------------------------

/// What a Piece is for the product of a row, of 256 weights (see body.h). P::add(sum, a, b) is sum + the products of
/// two words each, and which instructions that takes is what AVX2 and AVX-VNNI differ in.
template <class P, class B>
struct WidePiece {
    static constexpr uint32_t weights = wide_numbers, accumulators = 1;
    static constexpr bool halves = scales_of<B> == 2;
    Wide<B> w;

    WidePiece(const B* row, size_t k) : w(row + k * (wide_numbers / elements<B>)) {}

    template <uint32_t T>
    [[gnu::always_inline]] void dot(const Input* x, size_t k, __m256* sum) const
    {
        if constexpr (halves) dot_halves<T>(x, k, sum);
        else dot_pairs<T>(x, k, sum);
        for (uint32_t t = 0; t < T; t++) {
            const EightOfToken token = {x[t], k};
            for (uint32_t i = 0; i < scales_of<B>; i++) {
                const __m256 of_x = halves ? token.half_sum(i) : token.sum();
                if constexpr (Wide<B>::added)
                    sum[t] = _mm256_fmadd_ps(_mm256_mul_ps(_mm256_set1_ps(-Wide<B>::added), w.scales[i]), of_x, sum[t]);
                if constexpr (has_minimum<B>) sum[t] = _mm256_fmadd_ps(w.minimum(i), of_x, sum[t]);
            }
        }
    }

  private:
    static __m256i two(const __m256i* words, const __m256i* q)
    {
        return P::add(_mm256_madd_epi16(words[0], q[0]), words[1], q[1]);
    }
    /// sum + products times scale i in the first lane, and times the next in the second
    static __m256 plus(__m256 sum, __m256i products, __m256 scale, int i)
    {
        const __m256i lanes = _mm256_setr_epi32(i, i, i, i, i + 1, i + 1, i + 1, i + 1);
        return _mm256_fmadd_ps(_mm256_cvtepi32_ps(products), _mm256_permutevar8x32_ps(scale, lanes), sum);
    }

    template <uint32_t T>
    [[gnu::always_inline]] void dot_pairs(const Input* x, size_t k, __m256* sum) const
    {
        __m256 scale[T];
        for (uint32_t t = 0; t < T; t++) scale[t] = _mm256_mul_ps(w.scales[0], EightOfToken{x[t], k}.scale());
        each<wide_pairs>([&](auto p) {
            __m256i words[4];
            w.template words<decltype(p)::value>(words);
#pragma GCC unroll 4
            for (uint32_t t = 0; t < T; t++) {
                const __m256i* const q = EightOfToken{x[t], k}.pair(p);
                const __m256i products = P::add(P::add(two(words, q), words[2], q[2]), words[3], q[3]);
                sum[t] = plus(sum[t], products, scale[t], 2 * int(p));
            }
        });
    }

    template <uint32_t T>
    [[gnu::always_inline]] void dot_halves(const Input* x, size_t k, __m256* sum) const
    {
        // With twice as many additions a sum of its own, so that one piece need not wait for the last.
        __m256 scale[T][2], part[T];
        for (uint32_t t = 0; t < T; t++) {
            part[t] = _mm256_setzero_ps();
            for (uint32_t i = 0; i < 2; i++)
                scale[t][i] = _mm256_mul_ps(w.scales[i], EightOfToken{x[t], k}.half_scale(i));
        }
        each<2 * wide_pairs>([&](auto b) {
            __m256i words[2];
            unsigned_words(w.template packed<decltype(b)::value>(), words);
#pragma GCC unroll 4
            for (uint32_t t = 0; t < T; t++)
                part[t] = plus(part[t], two(words, EightOfToken{x[t], k}.block(b)), scale[t][b / 4], 2 * int(b % 4));
        });
        for (uint32_t t = 0; t < T; t++) sum[t] = _mm256_add_ps(sum[t], part[t]);
    }
};

}    // namespace
}    // namespace hearth::host
