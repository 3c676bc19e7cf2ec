// The CPU's kernels, written once. S is an instruction set; avx2_set.h, avx512.cpp and kernels.cpp (plain C++) each
// define one:
//
//   Vec, lanes                      that many floats
//   accumulators                    independent sums of a float dot; times `token_block` they fit into the registers
//   zero() set(a)                   every lane 0, a
//   load(p) store(p, v)             p to float, F16 or (load only) Bf16, of any alignment
//   store_rounded(p, v)             to int16_t, to nearest
//   fma(a, b, c) mul(a, b) add(a, b) abs(a) max(a, b)       lane by lane; fma is a b + c, max is b where one is not a
//   number most(a, b) most_lanes(v)        of numbers that are not negative the larger, where NaN is larger than all;
//   the same of all lanes add_lanes(v) max_lanes(v)       to one float signs(v)                        bit i: the sign
//   bit of lane i eight(bytes, x)                 the products of 8 unsigned bytes with 8 floats, added up to one
//   number per lane only(a)                         a in one lane, 0 in the others
//
//   Bytes                           32 integers of 8 bits
//   bytes(p) nibbles(p)             32 bytes; of 16 bytes the low nibbles and then the high ones
//   store(p, bytes)                 to uint8_t
//   bits(bytes, shift, mask)        (byte >> shift) & mask; a shift less than 0 goes to the left
//   spread(word, n)                 n where the word's bit is set, else 0
//   look_up(table, bytes)           table[byte] of 16 int8
//   merge(a, b) less(bytes, n)      a | b, byte - n
//   Block, widen(bytes)             32 int16, sign extended
//   ones()                          32 times 1
//   Scales, scales(first, last)     16 int8 for 16 weights each, given as twice 8 bytes
//   scales(eight)                   8 int8 for 32 weights each
//   scaled(block, scales, p)        its halves times scales 2p and 2p + 1
//   dot(block, x)                   32 products with int16_t x[32], added up to one number per lane; up to 4096 * 32512
//   * 4 in a lane floats(block, out)              the integers as 32 / lanes Vecs store(p, block)                 to
//   int16_t first(v)                        lane 0
//
//   tile_rows                       rows of a tile; with two vectors of tokens their sums fit into the registers
//   Ints                            `lanes` int32
//   no_ints() load_ints(p)          zeros; from pairs of int16_t
//   set_pair(p)                     the same pair in all lanes
//   add_pairs(a, b, sum)            sum + both products of each pair
//   floats_of(ints)                 as a Vec
//
// and, where it has something better for a format W:
//
//   fill<alone>(q, planes)                  128 numbers in fixed point (see GroupPlanes)
//   fill(q, scale, words)                   the same and the scales of their blocks (see GroupWords)
//   Wide<W>                                 a piece of several blocks, which reads words: a Piece as far as the product
//                                           of a row goes
//   Sums, SumsOfOne                         of eight rows with one token: of_row(r) those of row r as a Vec,
//                                           add_lanes(row) those of each row added up
//   tokens_at_once                          that meet_groups takes at most
//   meet_groups<first, more>(rows, next, x, tokens, n, sums)
//                                           adds the products of the whole groups of eight rows to sums[t] for `first`
//                                           tokens and, if there are more, a multiple of four others, fetching what
//                                           comes next, at the end of next[r]; returns how many numbers these are
//   meet_groups(rows, next, x, n, sums)     the same of a token that is alone, to SumsOfOne
//   add_rows(row, terms, count, y, n)       axpy for as many whole blocks as it likes; returns their number
//   OfRows<W>                               another set that takes the products of rows instead
//   few_tokens<W>                           see RowKernels, where it is not the usual number
//
// Rows with zeros want more: see sparse_body.h.
//
// S lives in an unnamed namespace, so every template made from it is private to its file: no AVX-512 code can replace a
// plain function of the same name in the linker. For the same reason nothing here may call a function of the standard
// library.
#pragma once

#include "host/kernels.h"

#include <type_traits>
#include <utility>

namespace hearth::host {

extern const Kernels plain_kernels, avx2_kernels, avx512_kernels;
Kernels avxvnni_kernels();
Kernels avxvnni_of_avx512_kernels();

using F16 = BlockF16;
using Bf16 = BlockBF16;

/// To L2: L1 holds little, and has few requests under way at a time.
inline void prefetch(const void* p) { __builtin_prefetch(p, 0, 2); }

/// Of each of the rows that are read side by side: what is read before the next row's turn comes, and how much earlier
/// it is fetched.
inline constexpr uint32_t bytes_in_turn = 1024, bytes_ahead = 2048;
/// Of a vector that stays in L1 while a whole row goes by.
inline constexpr uint32_t bytes_that_stay = 8192;

}    // namespace hearth::host

#include "host/kernels/sparse_body.h"

namespace hearth::host {

// ---- a piece of a row -----------------------------------------------------------------------------------------------

/// Weights in one W.
template <class W>
inline constexpr uint32_t elements = 1;
#define FORMAT(id, NAME, number, weights, ...)                                                                         \
    template <>                                                                                                        \
    inline constexpr uint32_t elements<Block##NAME> = weights;
WEIGHT_FORMATS(FORMAT)
#undef FORMAT

/// S::lanes weights of a float format: W is float, F16 or Bf16. `k` counts pieces.
template <class S, class W>
struct Piece {
    using Vec = typename S::Vec;
    static constexpr uint32_t weights = S::lanes;
    static constexpr uint32_t parts = 1;    // that are decoded one by one
    static constexpr uint32_t accumulators = S::accumulators;
    Vec w;

    Piece(const W* row, size_t k) : w(S::load(row + k * weights)) {}

    /// sum[t] += w . x[t] for t < T
    template <uint32_t T>
    void dot(const Input* x, size_t k, Vec* sum) const
    {
#pragma GCC unroll 4
        for (uint32_t t = 0; t < T; t++) sum[t] = S::fma(w, S::load(x[t].x + k * weights), sum[t]);
    }
    void decode(uint32_t, Vec* out) const { out[0] = w; }
    /// sum += a w
    void add(Vec a, Vec* sum) const { sum[0] = S::fma(a, w, sum[0]); }
};

inline uint64_t load_64(const void* p)
{
    uint64_t v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}
inline uint32_t load_32(const void* p)
{
    uint32_t v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}
inline constexpr uint64_t all_bytes = 0x0101010101010101;

/// How a block becomes integers: w = d block(p) for part p of 32 weights, where all products are exact in a float: 11
/// bits of d times at most 12 bits of a scale times an integer. stored(p) are the integers as the file has them. Where
/// formats have minima, plus_minimum(p, i) is added from weight i of a part on, and plus_minima(x, k, sum) to the
/// product of block k with x. Where the integers may have more than 8 bits, `largest` is the magnitude of the largest.
template <class S, class B>
struct Unpacked;

/// 32 products of such integers with fixed point of 16 bits can be added up in 32 bits.
inline constexpr int largest_of_32 = 1 << 11;

template <class S>
struct Unpacked<S, BlockQ8_0> {
    const BlockQ8_0& b;
    typename S::Vec d;

    explicit Unpacked(const BlockQ8_0& b) : b(b), d(S::set(F16{b.d})) {}
    typename S::Bytes stored(uint32_t) const { return S::bytes(reinterpret_cast<const uint8_t*>(b.q)); }
    typename S::Block block(uint32_t p) const { return S::widen(stored(p)); }
};

template <class S>
struct Unpacked<S, BlockQ4_0> {
    const BlockQ4_0& b;
    typename S::Vec d;

    explicit Unpacked(const BlockQ4_0& b) : b(b), d(S::set(F16{b.d})) {}
    typename S::Bytes stored(uint32_t) const { return S::nibbles(b.q); }
    typename S::Block block(uint32_t p) const { return S::widen(S::less(stored(p), 8)); }
};

/// What blocks of 32 with a minimum (w = d q + m) have beside their integers.
template <class S, class B>
struct OneMinimum {
    using Vec = typename S::Vec;
    const B& b;
    Vec d, m;

    explicit OneMinimum(const B& b) : b(b), d(S::set(F16{b.d})), m(S::set(F16{b.m})) {}
    Vec plus_minimum(uint32_t, uint32_t) const { return m; }
    Vec plus_minima(const Input& x, size_t k, Vec sum) const { return S::fma(m, S::only(x.sum[k]), sum); }
};

template <class S>
struct Unpacked<S, BlockQ4_1> : OneMinimum<S, BlockQ4_1> {
    using OneMinimum<S, BlockQ4_1>::OneMinimum;
    typename S::Bytes stored(uint32_t) const { return S::nibbles(this->b.q); }
    typename S::Block block(uint32_t p) const { return S::widen(stored(p)); }
};

template <class S>
struct Unpacked<S, BlockQ5_0> {
    const BlockQ5_0& b;
    typename S::Vec d;

    explicit Unpacked(const BlockQ5_0& b) : b(b), d(S::set(F16{b.d})) {}
    typename S::Bytes stored(uint32_t) const { return S::merge(S::nibbles(b.q), S::spread(load_32(b.qh), 16)); }
    typename S::Block block(uint32_t p) const { return S::widen(S::less(stored(p), 16)); }
};

template <class S>
struct Unpacked<S, BlockQ5_1> : OneMinimum<S, BlockQ5_1> {
    using OneMinimum<S, BlockQ5_1>::OneMinimum;
    typename S::Bytes stored(uint32_t) const
    {
        return S::merge(S::nibbles(this->b.q), S::spread(load_32(this->b.qh), 16));
    }
    typename S::Block block(uint32_t p) const { return S::widen(stored(p)); }
};

template <class S>
struct Unpacked<S, BlockIQ4_NL> {
    const BlockIQ4_NL& b;
    typename S::Vec d;

    explicit Unpacked(const BlockIQ4_NL& b) : b(b), d(S::set(F16{b.d})) {}
    typename S::Bytes stored(uint32_t) const { return S::nibbles(b.q); }
    typename S::Block block(uint32_t p) const { return S::widen(S::look_up(BlockIQ4_NL::values, stored(p))); }
};

inline float power_of_two(uint8_t e)    // 2^(e - 128); the two smallest are subnormal, and 255 is not a number
{
    const uint32_t bits = e < 2 ? 0x00200000u << e : e == 255 ? 0x7fc00000u : (e - 1u) << 23;
    float power;
    __builtin_memcpy(&power, &bits, sizeof power);
    return power;
}

template <class S>
struct Unpacked<S, BlockMXFP4> {
    const BlockMXFP4& b;
    typename S::Vec d;

    explicit Unpacked(const BlockMXFP4& b) : b(b), d(S::set(power_of_two(b.e))) {}
    typename S::Bytes stored(uint32_t) const { return S::nibbles(b.q); }
    typename S::Block block(uint32_t p) const { return S::widen(S::look_up(BlockMXFP4::values, stored(p))); }
};

template <class S>
struct Unpacked<S, BlockQ2_K> {
    static constexpr int largest = 3 * 15;
    using Vec = typename S::Vec;
    const BlockQ2_K& b;
    Vec d, minus_dmin;
    typename S::Scales scales, minima;

    explicit Unpacked(const BlockQ2_K& b)
        : b(b), d(S::set(F16{b.d})), minus_dmin(S::mul(S::set(-1.0f), S::set(F16{b.dmin})))
    {
        const uint64_t first = load_64(b.scale), last = load_64(b.scale + 8), low = 15 * all_bytes;
        scales = S::scales(first & low, last & low);
        minima = S::scales(first >> 4 & low, last >> 4 & low);
    }
    typename S::Bytes stored(uint32_t p) const { return S::bits(S::bytes(b.q + 32 * (p / 4)), 2 * int(p % 4), 3); }
    typename S::Block block(uint32_t p) const { return S::scaled(S::widen(stored(p)), scales, p); }
    Vec plus_minimum(uint32_t p, uint32_t i) const
    {
        return S::mul(minus_dmin, S::set(float(b.scale[2 * p + i / 16] >> 4)));
    }
    Vec plus_minima(const Input& x, size_t k, Vec sum) const    // a block's sum of x is of 32, the minima of 16
    {
        Vec part = S::zero();
#pragma GCC unroll 8
        for (uint32_t p = 0; p < 8; p++)
            part = S::fma(S::dot(S::scaled(S::ones(), minima, p), x.q + (8 * k + p) * fixed_block),
                          S::set(x.scale[8 * k + p]), part);
        return S::fma(minus_dmin, part, sum);
    }
};

/// The scales of Q3_K less 32, as int8: the first eight and the last.
struct ThreeBitScales {
    uint64_t first, last;

    explicit ThreeBitScales(const BlockQ3_K& b)
    {
        const uint64_t low = load_64(b.scale), high = load_32(b.scale + 8), two = 0x03030303;
        const auto joined = [&](int shift) {
            const uint64_t upper = (high >> shift & two) | (high >> (shift + 2) & two) << 32;
            const uint64_t s = ((low >> shift & 15 * all_bytes) | upper << 4) ^ 32 * all_bytes;
            return s | (s & 32 * all_bytes) * 6;
        };
        first = joined(0);
        last = joined(4);
    }
};

template <class S>
struct Unpacked<S, BlockQ3_K> {
    static constexpr int largest = 4 * 32;
    const BlockQ3_K& b;
    typename S::Vec d;
    typename S::Scales scales;

    explicit Unpacked(const BlockQ3_K& b) : b(b), d(S::set(F16{b.d}))
    {
        const ThreeBitScales s(b);
        scales = S::scales(s.first, s.last);
    }
    typename S::Bytes stored(uint32_t p) const
    {
        return S::merge(S::bits(S::bytes(b.q + 32 * (p / 4)), 2 * int(p % 4), 3),
                        S::bits(S::bytes(b.qh), int(p) - 2, 4));
    }
    typename S::Block block(uint32_t p) const { return S::scaled(S::widen(S::less(stored(p), 4)), scales, p); }
};

/// Scales and minima of Q4_K and Q5_K, a byte for each part.
struct SixBits {
    uint64_t scales, minima;

    explicit SixBits(const uint8_t* scale)
    {
        const uint32_t first = load_32(scale), second = load_32(scale + 4), third = load_32(scale + 8);
        const uint32_t low = 0x0f0f0f0f, six = 0x3f3f3f3f, upper = 0x30303030;
        scales = (first & six) | uint64_t((third & low) | (first >> 2 & upper)) << 32;
        minima = (second & six) | uint64_t((third >> 4 & low) | (second >> 2 & upper)) << 32;
    }
};

template <class S, class B>
struct SixBitScales {
    using Vec = typename S::Vec;
    const B& b;
    Vec d, minus_dmin;
    typename S::Scales scales;
    uint64_t minima;    // a byte for each part

    explicit SixBitScales(const B& b)
        : b(b), d(S::set(F16{b.d})), minus_dmin(S::mul(S::set(-1.0f), S::set(F16{b.dmin})))
    {
        const SixBits six(b.scale);
        scales = S::scales(six.scales);
        minima = six.minima;
    }
    Vec plus_minimum(uint32_t p, uint32_t) const
    {
        return S::mul(minus_dmin, S::set(float(int(minima >> 8 * p & 255))));
    }
    Vec plus_minima(const Input& x, size_t k, Vec sum) const
    {
        return S::fma(minus_dmin, S::eight(minima, x.sum + 8 * k), sum);
    }
};

template <class S>
struct Unpacked<S, BlockQ4_K> : SixBitScales<S, BlockQ4_K> {
    static constexpr int largest = 15 * 63;
    using SixBitScales<S, BlockQ4_K>::SixBitScales;
    typename S::Bytes stored(uint32_t p) const
    {
        return S::bits(S::bytes(this->b.q + 32 * (p / 2)), 4 * int(p % 2), 0x0f);
    }
    typename S::Block block(uint32_t p) const { return S::scaled(S::widen(stored(p)), this->scales, p); }
};

template <class S>
struct Unpacked<S, BlockQ5_K> : SixBitScales<S, BlockQ5_K> {
    static constexpr int largest = 31 * 63;
    using SixBitScales<S, BlockQ5_K>::SixBitScales;
    typename S::Bytes stored(uint32_t p) const
    {
        return S::merge(S::bits(S::bytes(this->b.q + 32 * (p / 2)), 4 * int(p % 2), 0x0f),
                        S::bits(S::bytes(this->b.qh), int(p) - 4, 0x10));
    }
    typename S::Block block(uint32_t p) const { return S::scaled(S::widen(stored(p)), this->scales, p); }
};

template <class S>
struct Unpacked<S, BlockQ6_K> {
    static constexpr int largest = 32 * 128;
    const BlockQ6_K& b;
    typename S::Vec d;
    typename S::Scales scales;

    explicit Unpacked(const BlockQ6_K& b)
        : b(b), d(S::set(F16{b.d})), scales(S::scales(load_64(b.scale), load_64(b.scale + 8)))
    {
    }
    typename S::Bytes stored(uint32_t p) const
    {
        const auto low = S::bits(S::bytes(b.ql + 64 * (p / 4) + 32 * (p % 2)), p % 4 < 2 ? 0 : 4, 0x0f);
        return S::merge(low, S::bits(S::bytes(b.qh + 32 * (p / 4)), 2 * int(p % 4) - 4, 0x30));
    }
    typename S::Block block(uint32_t p) const { return S::scaled(S::widen(S::less(stored(p), 32)), scales, p); }
};

/// The scales of IQ4_XS less 32, as int8, a byte for each part.
inline uint64_t part_scales(const BlockIQ4_XS& b)
{
    uint64_t low = load_32(b.scale_low), high = b.scale_high;    // four and two bits of each part, to a byte each
    low = (low | low << 16) & 0x0000ffff0000ffff, high = (high | high << 24) & 0x000000ff000000ff;
    low = (low | low << 8) & 0x00ff00ff00ff00ff, high = (high | high << 12) & 0x000f000f000f000f;
    low = (low | low << 4) & 15 * all_bytes, high = (high | high << 6) & 3 * all_bytes;
    const uint64_t s = (low | high << 4) ^ 32 * all_bytes;
    return s | (s & 32 * all_bytes) * 6;
}

template <class S>
struct Unpacked<S, BlockIQ4_XS> {
    static constexpr int largest = 127 * 32;
    const BlockIQ4_XS& b;
    typename S::Vec d;
    typename S::Scales scales;

    explicit Unpacked(const BlockIQ4_XS& b) : b(b), d(S::set(F16{b.d})), scales(S::scales(part_scales(b))) {}
    typename S::Bytes stored(uint32_t p) const { return S::nibbles(b.q + 16 * p); }
    typename S::Block block(uint32_t p) const
    {
        return S::scaled(S::widen(S::look_up(BlockIQ4_NL::values, stored(p))), scales, p);
    }
};

/// A block of a quantised format.
template <class S, class B>
struct BlockPiece {
    using Vec = typename S::Vec;
    static constexpr uint32_t weights = elements<B>;
    static constexpr uint32_t parts = weights / fixed_block;
    static constexpr uint32_t accumulators =
        parts == 1 ? 2 : 1;    // decoding takes longer than two additions; many parts make a sum of their own
    static constexpr bool has_minima = requires(const Unpacked<S, B>& b) { b.plus_minimum(0, 0); };
    Unpacked<S, B> b;

    BlockPiece(const B* row, size_t k) : b(row[k]) {}

    template <uint32_t T>
    void dot(const Input* x, size_t k, Vec* sum) const
    {
        Vec part[T];
#pragma GCC unroll 8
        for (uint32_t p = 0; p < parts; p++) {
            const typename S::Block q = b.block(p);
#pragma GCC unroll 4
            for (uint32_t t = 0; t < T; t++) {
                const Vec products = S::dot(q, x[t].q + k * weights + p * fixed_block),
                          scale = S::set(x[t].scale[k * parts + p]);
                part[t] = p ? S::fma(products, scale, part[t]) : S::mul(products, scale);
            }
        }
#pragma GCC unroll 4
        for (uint32_t t = 0; t < T; t++) {
            sum[t] = S::fma(b.d, part[t], sum[t]);
            if constexpr (has_minima) sum[t] = b.plus_minima(x[t], k, sum[t]);
        }
    }

    /// The 32 weights of part p.
    void decode(uint32_t p, Vec* out) const
    {
        S::floats(b.block(p), out);
        for (uint32_t v = 0; v < fixed_block / S::lanes; v++) {
            if constexpr (has_minima) out[v] = S::fma(b.d, out[v], b.plus_minimum(p, v * S::lanes));
            else out[v] = S::mul(out[v], b.d);
        }
    }

    /// sum += a w, for blocks of one part
    void add(Vec a, Vec* sum) const
    {
        Vec w[fixed_block / S::lanes];
        decode(0, w);
        for (uint32_t v = 0; v < fixed_block / S::lanes; v++) sum[v] = S::fma(a, w[v], sum[v]);
    }
};

template <class S, class B>
requires(elements<B> > 1) struct Piece<S, B> : BlockPiece<S, B> {
    using BlockPiece<S, B>::BlockPiece;
};

/// The last `count` < S::lanes elements at p; the other lanes are 0.
template <class S, class T>
typename S::Vec load_some(const T* p, uint32_t count)
{
    T padded[S::lanes] = {};
    for (uint32_t i = 0; i < count; i++) padded[i] = p[i];
    return S::load(padded);
}

template <class S, class T>
void store_some(T* p, typename S::Vec v, uint32_t count)
{
    T padded[S::lanes];
    S::store(padded, v);
    for (uint32_t i = 0; i < count; i++) p[i] = padded[i];
}

// ---- rows -----------------------------------------------------------------------------------------------------------

/// Whether S has a piece of several blocks of W.
template <class S, class W>
inline constexpr bool has_wide = requires
{
    S::template Wide<W>::weights;
};

/// sum[t] += the products of numbers first to last with pieces P, in turns of all accumulators; `first` begins one.
/// Fetches as many bytes at `ahead`.
template <class S, class W, class P, uint32_t T, uint32_t accumulators>
[[gnu::always_inline]] inline void dot_stretch(const W* row, const std::byte* ahead, const Input* x, uint32_t first,
                                               uint32_t last, typename S::Vec (&sum)[accumulators][T])
{
    constexpr uint32_t A = P::accumulators, bytes = A * P::weights / elements<W> * sizeof(W);    // of one turn
    typename S::Vec part[A][T];
    for (uint32_t a = 0; a < A; a++)
        for (uint32_t t = 0; t < T; t++) part[a][t] = sum[a][t];
    size_t k = first / P::weights;
    const size_t end = last / P::weights;
    for (; k + A <= end; k += A, ahead += bytes) {
        for (uint32_t b = 0; b < bytes; b += 64) prefetch(ahead + b);
#pragma GCC unroll 4
        for (uint32_t a = 0; a < A; a++) P(row, k + a).template dot<T>(x, k + a, part[a]);
    }
    if constexpr (A > 1)
        for (; k < end; k++) P(row, k).template dot<T>(x, k, part[0]);
    for (uint32_t a = 0; a < A; a++)
        for (uint32_t t = 0; t < T; t++) sum[a][t] = part[a][t];
}

/// sum[r][.][t] += the products of numbers first to last of n with pieces P. Where x is so long that it leaves L1
/// before the next row wants it, a stretch of every row, then the next of every row. What comes `bytes_ahead` later is
/// fetched meanwhile, be it in the row or, behind its end, in next[r]; of whole rows it is next[r].
template <class S, class W, class P, uint32_t R, uint32_t T, uint32_t accumulators>
[[gnu::always_inline]] inline void dot_range(const std::byte* const* rows, const std::byte* const* next, const Input* x,
                                             uint32_t first, uint32_t last, uint32_t n,
                                             typename S::Vec (&sum)[R][accumulators][T])
{
    constexpr uint32_t turn = P::accumulators * P::weights;
    constexpr size_t number = elements < W >> 1 ? sizeof *x->q : sizeof *x->x;
    const auto bytes = [](uint32_t numbers) { return size_t(numbers) / elements<W> * sizeof(W); };
    const bool whole = R == 1 || T * n * number <= bytes_that_stay;
    const uint32_t stretch = whole ? n : bytes_in_turn * elements<W> / sizeof(W) / turn * turn;
    for (; first < last; first += stretch) {
        const uint32_t here = last - first < stretch ? last : first + stretch;
        const size_t end = bytes(n), at = bytes(first) + (whole ? end : bytes_ahead);
        for (uint32_t r = 0; r < R; r++)
            dot_stretch<S, W, P, T>(reinterpret_cast<const W*>(rows[r]), at < end ? rows[r] + at : next[r] + (at - end),
                                    x, first, here, sum[r]);
    }
}

/// y[r stride + t] = sum_i w[r]_i x[t]_i for r < R, t < T. The order of addition is the same for every R and T. Not
/// inline: loops for one token and for several in one function had too few registers for both.
template <class S, class W, uint32_t R, uint32_t T>
[[gnu::noinline]] void dot_together(const std::byte* const* rows, const std::byte* const* next, const Input* x,
                                    uint32_t n, float* y, uint32_t stride)
{
    using P = Piece<S, W>;
    using Vec = typename S::Vec;
    constexpr uint32_t A = P::accumulators;
    Vec sum[R][A][T];
    const W* row[R];
    for (uint32_t r = 0; r < R; r++) {
        row[r] = reinterpret_cast<const W*>(rows[r]);
        for (uint32_t a = 0; a < A; a++)
            for (uint32_t t = 0; t < T; t++) sum[r][a][t] = S::zero();
    }
    uint32_t wide = 0;
    if constexpr (has_wide<S, W>)
        if (x->words) {
            wide = n / S::template Wide<W>::weights * S::template Wide<W>::weights;
            dot_range<S, W, typename S::template Wide<W>, R, T>(rows, next, x, 0, wide, n, sum);
        }
    dot_range<S, W, P, R, T>(rows, next, x, wide, n, n, sum);
    for (uint32_t r = 0; r < R; r++)
        for (uint32_t t = 0; t < T; t++) {
            if constexpr (P::weights == S::lanes)    // a block format has no rest
                if (const uint32_t rest = n % S::lanes)
                    sum[r][0][t] = S::fma(load_some<S>(row[r] + n - rest, rest), load_some<S>(x[t].x + n - rest, rest),
                                          sum[r][0][t]);
            for (uint32_t a = 1; a < A; a++) sum[r][0][t] = S::add(sum[r][0][t], sum[r][a][t]);
            y[size_t(r) * stride + t] = S::add_lanes(sum[r][0][t]);
        }
}

/// y[r tokens + t] = sum_i w[r]_i x[t]_i for r < R, t < tokens
template <class S, class W, uint32_t R>
void dot_some(const std::byte* const* rows, const Input* x, uint32_t tokens, uint32_t n, float* y)
{
    uint32_t t = 0;
    for (; t + token_block <= tokens; t += token_block)
        dot_together<S, W, R, token_block>(rows, rows + R, x + t, n, y + t, tokens);
    for (; t + 2 <= tokens; t += 2) dot_together<S, W, R, 2>(rows, rows + R, x + t, n, y + t, tokens);
    if (t < tokens) dot_together<S, W, R, 1>(rows, rows + R, x + t, n, y + t, tokens);
}

template <class S>
inline constexpr bool reads_planes = requires(GroupPlanes& g)
{
    S::template fill<false>(nullptr, g);
};
template <class S>
inline constexpr bool reads_words = requires(GroupWords& g)
{
    S::fill(nullptr, nullptr, g);
};

/// Whether S takes eight rows of W at a time.
template <class S, class W>
inline constexpr bool by_groups = requires(const W* const* rows, const std::byte* const* next, const Input* x)
{
    S::template meet_groups<1, false>(rows, next, x, 0, 0, static_cast<typename S::Sums*>(nullptr));
};

/// y[r stride + t] = sum_i w[r]_i x[t]_i for r < count <= 8, t < tokens. `first` and `more` say how many tokens there
/// are (see meet_groups), or `first` is 0 for one that is alone: loops for any number in one function had too few
/// registers, and a quarter of the time went there.
template <class S, class W, uint32_t first, bool more>
[[gnu::noinline]] void dot_eight(const std::byte* const* rows, uint32_t count, const Input* x, uint32_t tokens,
                                 uint32_t n, float* y, uint32_t stride)
{
    const W* row[8];
    const std::byte* next[8];
    for (uint32_t r = 0; r < 8; r++) {    // what is missing of eight is the first once more
        row[r] = reinterpret_cast<const W*>(rows[r < count ? r : 0]);
        next[r] = rows[rows_together + (r < count ? r : 0)];
    }
    constexpr bool alone = first == 0;
    std::conditional_t<alone, typename S::SumsOfOne, typename S::Sums> sums[more ? S::tokens_at_once : alone + first];
    for (uint32_t t = 0; t < tokens; t++) sums[t] = {};
    uint32_t whole;
    if constexpr (alone) whole = S::meet_groups(row, next, *x, n, *sums);
    else whole = S::template meet_groups<first, more>(row, next, x, tokens, n, sums);

    /// What is behind the last whole group is added in turns, as dot_stretch takes them.
    const auto with_rest = [&](uint32_t r, uint32_t t) {
        constexpr uint32_t A = Piece<S, W>::accumulators;
        typename S::Vec sum[A][1];
        for (uint32_t a = 0; a < A; a++) sum[a][0] = a ? S::zero() : sums[t].of_row(r);
        dot_stretch<S, W, Piece<S, W>, 1>(row[r], next[r], x + t, whole, n, sum);
        for (uint32_t a = 1; a < A; a++) sum[0][0] = S::add(sum[0][0], sum[a][0]);
        return S::add_lanes(sum[0][0]);
    };
    for (uint32_t t = 0; t < tokens; t++) {
        float products[8];
        sums[t].add_lanes(products);
        for (uint32_t r = 0; r < count; r++) y[size_t(r) * stride + t] = whole < n ? with_rest(r, t) : products[r];
    }
}

/// The same for any count and as many tokens as S takes at once.
template <class S, class W>
void dot_by_eights(const std::byte* const* rows, uint32_t count, const Input* x, uint32_t tokens, uint32_t n, float* y,
                   uint32_t stride)
{
    constexpr decltype(&dot_eight<S, W, 1, false>) few[] = {dot_eight<S, W, 1, false>, dot_eight<S, W, 2, false>,
                                                            dot_eight<S, W, 3, false>, dot_eight<S, W, 4, false>},
                                                   many[] = {dot_eight<S, W, 1, true>, dot_eight<S, W, 2, true>,
                                                             dot_eight<S, W, 3, true>, dot_eight<S, W, 4, true>};
    const auto dot = x->alone ? dot_eight<S, W, 0, false> : (tokens <= 4 ? few : many)[(tokens - 1) % 4];
    for (uint32_t r = 0; r < count; r += 8)
        dot(rows + r, count - r < 8 ? count - r : 8, x, tokens, n, y + size_t(r) * stride, stride);
}

template <class S, class W>
void dot_rows(const std::byte* const* rows, uint32_t count, const Input* x, uint32_t tokens, uint32_t n, float* y)
{
    if constexpr (by_groups<S, W>)
        if (x->planes || x->alone) {
            constexpr uint32_t most = S::tokens_at_once;
            for (uint32_t t = 0; t < tokens; t += most)
                dot_by_eights<S, W>(rows, count, x + t, tokens - t < most ? tokens - t : most, n, y + t, tokens);
            return;
        }
    uint32_t r = 0;
    for (; r + rows_together <= count; r += rows_together)
        dot_some<S, W, rows_together>(rows + r, x, tokens, n, y + size_t(r) * tokens);
    for (; r < count; r++) dot_some<S, W, 1>(rows + r, x, tokens, n, y + size_t(r) * tokens);
}

/// The rows that will be wanted after these, fetched one after the other: memory is slower where many rows are read
/// side by side.
class RowsAhead {
  public:
    RowsAhead(const Term* terms, uint32_t rows, size_t row_bytes)
        : terms_(terms), end_(terms + rows), row_bytes_(row_bytes)
    {
    }

    void fetch(size_t bytes)
    {
        for (owed_ += int64_t(bytes); owed_ > 0 && terms_ < end_; owed_ -= 64) {
            prefetch(terms_->ahead + at_);
            at_ += 64;
            if (at_ < row_bytes_) continue;
            at_ = 0;
            terms_++;
        }
    }

  private:
    const Term *terms_, *end_;
    size_t row_bytes_, at_ = 0;
    int64_t owed_ = 0;
};

/// y_i += sum_r a_r w[r]_i for r < R, from piece `first` on: every element is so many multiplications and additions, in
/// this order.
template <class S, class W, uint32_t R>
void axpy_few(const Term* terms, float* y, uint32_t n, size_t first = 0)
{
    using P = Piece<S, W>;
    constexpr uint32_t width = P::weights / P::parts, bytes = P::weights / elements<W> * sizeof(W);    // of a piece
    const W* row[R];
    typename S::Vec factor[R];
    for (uint32_t r = 0; r < R; r++) {
        row[r] = reinterpret_cast<const W*>(terms[r].row);
        factor[r] = S::set(terms[r].a);
    }
    RowsAhead ahead(terms, first ? 0 : R, n / P::weights * bytes);
    for (size_t k = first; k < n / P::weights; k++) {
        float* const part_of_y = y + k * P::weights;
        ahead.fetch(R * bytes);
        if constexpr (P::parts == 1) {
            constexpr uint32_t V = width / S::lanes;
            typename S::Vec sum[V];
            for (uint32_t v = 0; v < V; v++) sum[v] = S::load(part_of_y + v * S::lanes);
#pragma GCC unroll 8
            for (uint32_t r = 0; r < R; r++) P(row[r], k).add(factor[r], sum);
            for (uint32_t v = 0; v < V; v++) S::store(part_of_y + v * S::lanes, sum[v]);
        } else {
            for (uint32_t r = 0; r < R; r++) {
                const P piece(row[r], k);
#pragma GCC unroll 8
                for (uint32_t p = 0; p < P::parts; p++) {
                    typename S::Vec part[width / S::lanes];
                    piece.decode(p, part);
                    for (uint32_t v = 0; v < width / S::lanes; v++) {
                        float* const to = part_of_y + p * width + v * S::lanes;
                        S::store(to, S::fma(factor[r], part[v], S::load(to)));
                    }
                }
            }
        }
    }
    if constexpr (P::weights == S::lanes)
        if (const uint32_t rest = n % S::lanes)
            for (uint32_t r = 0; r < R; r++)
                store_some<S>(
                    y + n - rest,
                    S::fma(factor[r], load_some<S>(row[r] + n - rest, rest), load_some<S>(y + n - rest, rest)), rest);
}

/// y_i += sum_r a_r w[r]_i for r < count
template <class S, class W>
void axpy(const Term* terms, uint32_t count, float* y, uint32_t n)
{
    size_t first = 0;
    if constexpr (requires(const W* w) { S::add_rows(w, terms, count, y, n); })
        first = S::add_rows(static_cast<const W*>(nullptr), terms, count, y, n);
    constexpr uint32_t R = 8;
    for (; count >= R; count -= R, terms += R) axpy_few<S, W, R>(terms, y, n, first);
    for (; count > 0; count--, terms++) axpy_few<S, W, 1>(terms, y, n, first);
}

/// y_i = w_i
template <class S, class W>
void decode(const std::byte* row, float* y, uint32_t n)
{
    using P = Piece<S, W>;
    const W* w = reinterpret_cast<const W*>(row);
    constexpr uint32_t width = P::weights / P::parts;
    for (size_t k = 0; k < n / P::weights; k++) {
        const P piece(w, k);
#pragma GCC unroll 8
        for (uint32_t p = 0; p < P::parts; p++, y += width) {
            typename S::Vec part[width / S::lanes];
            piece.decode(p, part);
            for (uint32_t v = 0; v < width / S::lanes; v++) S::store(y + v * S::lanes, part[v]);
        }
    }
    if constexpr (P::weights == S::lanes)
        if (const uint32_t rest = n % S::lanes) store_some<S>(y, load_some<S>(w + n - rest, rest), rest);
}

/// y_i = w_(first + i) for i < count
template <class S, class W>
void decode_part(const std::byte* row, uint32_t, uint32_t first, uint32_t count, float* y)
{
    decode<S, W>(row + first / elements<W> * sizeof(W), y, count);
}

/// q_i = the integer that the file has for weight i
template <class S, class B>
void integers(const std::byte* row, uint8_t* q, uint32_t n)
{
    for (size_t k = 0; k < n / elements<B>; k++) {
        const Unpacked<S, B> b(reinterpret_cast<const B*>(row)[k]);
#pragma GCC unroll 8
        for (uint32_t p = 0; p < elements<B> / fixed_block; p++, q += fixed_block) S::store(q, b.stored(p));
    }
}

// ---- tiles ----------------------------------------------------------------------------------------------------------

/// A row as FixedTile has it, and what is added to its blocks.
template <class S, class B>
void fixed(const std::byte* row, int16_t* q, float* d, float* added, uint32_t n)
{
    constexpr uint32_t parts = elements<B> / fixed_block;
    for (size_t k = 0; k < n / elements<B>; k++) {
        const Unpacked<S, B> b(reinterpret_cast<const B*>(row)[k]);
        for (uint32_t p = 0; p < parts; p++, q += fixed_block, d++) {
            S::store(q, b.block(p));
            *d = S::first(b.d);
            if constexpr (BlockPiece<S, B>::has_minima) *added++ = S::first(b.plus_minimum(p, 0));
        }
    }
}

inline constexpr uint32_t tile_vectors = 2;

template <uint32_t... i, class F>
[[gnu::always_inline]] inline void each_of(std::integer_sequence<uint32_t, i...>, const F& f)
{
    (f(std::integral_constant<uint32_t, i>()), ...);
}

/// f(0) to f(n - 1) without a loop: sums whose indices are known before anything else is done stay in registers.
template <uint32_t n, class F>
[[gnu::always_inline]] inline void each(const F& f)
{
    each_of(std::make_integer_sequence<uint32_t, n>(), f);
}

template <class S>
void float_tile(const FloatTile& t)
{
    constexpr uint32_t R = S::tile_rows, V = tile_vectors;
    using Vec = typename S::Vec;
    Vec sum[R][V], token[V];
    each<R>([&](auto r) { each<V>([&](auto v) { sum[r][v] = S::load(t.c + (r * V + v) * S::lanes); }); });
    const float *w = t.w, *x = t.x;
    const size_t row_stride = t.row_stride;
    for (uint32_t k = 0; k < t.inner; k++, w += t.step, x += t.x_stride) {
        each<V>([&](auto v) { token[v] = S::load(x + v * S::lanes); });
        each<R>([&](auto r) {
            const Vec weight = S::set(w[r * row_stride]);
            each<V>([&](auto v) { sum[r][v] = S::fma(weight, token[v], sum[r][v]); });
        });
    }
    each<R>([&](auto r) { each<V>([&](auto v) { S::store(t.c + (r * V + v) * S::lanes, sum[r][v]); }); });
}

template <class S, uint32_t pairs>
void fixed_tile(const FixedTile& t)
{
    constexpr uint32_t R = S::tile_rows, V = tile_vectors, tokens = V * S::lanes;
    using Vec = typename S::Vec;
    using Ints = typename S::Ints;
    const size_t row_stride = t.row_stride, blocks = t.block_stride;
    for (uint32_t first = 0; first < t.inner / 2; first += pairs) {
        Ints sum[R][V], token[V];
        each<R>([&](auto r) { each<V>([&](auto v) { sum[r][v] = S::no_ints(); }); });
        const int16_t *q = t.q + 2 * first, *x = t.x + 2 * size_t(first) * tokens;
        for (uint32_t k = 0; k < pairs; k++, q += 2, x += 2 * tokens) {
            each<V>([&](auto v) { token[v] = S::load_ints(x + 2 * v * S::lanes); });
            each<R>([&](auto r) {
                const Ints pair = S::set_pair(q + r * row_stride);
                each<V>([&](auto v) { sum[r][v] = S::add_pairs(pair, token[v], sum[r][v]); });
            });
        }
        const uint32_t b = 2 * first / fixed_block;
        const float* d = t.d + b;
        each<V>([&](auto v) {
            const Vec scale = S::load(t.scale + size_t(b) * tokens + v * S::lanes);
            each<R>([&](auto r) {
                float* const c = t.c + (r * V + v) * S::lanes;
                S::store(c, S::fma(S::mul(S::floats_of(sum[r][v]), scale), S::set(d[r * blocks]), S::load(c)));
            });
        });
    }
}

template <class S>
void fixed_tile(const FixedTile& t)
{
    t.halves ? fixed_tile<S, fixed_block / 4>(t) : fixed_tile<S, fixed_block / 2>(t);
}

// ---- vectors --------------------------------------------------------------------------------------------------------

/// y_i = w_i x_i / sqrt(mean(x^2) + eps)
template <class S>
void rmsnorm(const float* x, const float* w, float* y, uint32_t n, float eps)
{
    const Input self{x, nullptr, nullptr, nullptr, nullptr, nullptr};
    float squares;
    const std::byte* const row = reinterpret_cast<const std::byte*>(x);
    dot_together<S, float, 1, 1>(&row, &row, &self, n, &squares, 1);
    // Squares beyond the range of floats are not taken for numbers without bounds, which would make zeros of all.
    const typename S::Vec r =
        S::set(squares <= __FLT_MAX__ ? 1.0f / __builtin_sqrtf(squares / float(n) + eps) : __builtin_nanf(""));
    uint32_t i = 0;
    for (; i + S::lanes <= n; i += S::lanes) S::store(y + i, S::mul(S::load(w + i), S::mul(S::load(x + i), r)));
    if (i < n) store_some<S>(y + i, S::mul(load_some<S>(w + i, n - i), S::mul(load_some<S>(x + i, n - i), r)), n - i);
}

/// scale = max |x_i| / 32512,  q_i = round(x_i / scale),  sum = scale sum_i q_i; planes and words only where they are
/// read. Of a block with a NaN all products are NaN.
template <class S>
void quantise(const float* x, const FixedPoint& to, uint32_t n)
{
    int16_t* const q = to.q;
    for (uint32_t i = 0; i < n; i += fixed_block) {
        typename S::Vec m = S::zero();
        for (uint32_t v = 0; v < fixed_block; v += S::lanes) m = S::most(m, S::abs(S::load(x + i + v)));
        const float largest = S::most_lanes(m);
        const bool zero = largest < 1e-30f;    // below about 1e-34 its reciprocal is no float
        float& scale = to.scale[i / fixed_block];
        scale = zero ? 0.0f : largest / fixed_max;
        const typename S::Vec r = S::set(zero ? 0.0f : fixed_max / largest);
        for (uint32_t v = 0; v < fixed_block; v += S::lanes) S::store_rounded(q + i + v, S::mul(S::load(x + i + v), r));
        to.sum[i / fixed_block] = scale * S::add_lanes(S::dot(S::ones(), q + i));
    }
    const uint32_t groups = n / group_numbers;
    if constexpr (reads_planes<S>) {
        for (uint32_t g = 0; to.planes && g < groups; g++) S::template fill<false>(q + g * group_numbers, to.planes[g]);
        for (uint32_t g = 0; to.alone && g < groups; g++) S::template fill<true>(q + g * group_numbers, to.alone[g]);
    }
    if constexpr (reads_words<S>)
        for (uint32_t g = 0; to.words && g < groups; g++)
            S::fill(q + g * group_numbers, to.scale + g * (group_numbers / fixed_block), to.words[g]);
}

template <class S>
void pack_signs(const float* x, uint64_t* signs, uint32_t n)
{
    for (uint32_t word = 0; word < (n + 63) / 64; word++) {
        uint64_t bits = 0;
        uint32_t i = word * 64;
        for (const uint32_t end = i + 64 < n ? i + 64 : n; i + S::lanes <= end; i += S::lanes)
            bits |= uint64_t(S::signs(S::load(x + i))) << i % 64;
        if (i < n && i / 64 == word) bits |= uint64_t(S::signs(load_some<S>(x + i, n - i))) << i % 64;
        signs[word] = bits;
    }
}

/// How many of the bits of a and b differ.
template <class S>
uint32_t differing_bits(const uint64_t* a, const uint64_t* b, uint32_t words)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < words; i++)
        sum += uint64_t(__builtin_popcountll(a[i] ^ b[i]));    // one instruction wherever there is AVX2
    return uint32_t(sum);
}

/// y_i = fp16(x_i)
template <class S>
void to_f16(const float* x, uint16_t* y, uint32_t n)
{
    F16* half = reinterpret_cast<F16*>(y);
    uint32_t i = 0;
    for (; i + S::lanes <= n; i += S::lanes) S::store(half + i, S::load(x + i));
    if (i < n) store_some<S>(half + i, load_some<S>(x + i, n - i), n - i);
}

}    // namespace hearth::host

#include "host/kernels/attention_body.h"

namespace hearth::host {

// ---- the table ------------------------------------------------------------------------------------------------------

/// The set that takes the products of rows of W: S, if it names no other.
template <class S, class W>
struct OfRows {
    using Set = S;
};
template <class S, class W>
requires requires { typename S::template OfRows<W>; }
struct OfRows<S, W> {
    using Set = typename S::template OfRows<W>;
};

template <class S, class W>
constexpr RowKernels row_kernels(WeightType type)
{
    RowKernels k = {type,
                    dot_rows<typename OfRows<S, W>::Set, W>,
                    axpy<S, W>,
                    decode<S, W>,
                    decode_part<S, W>,
                    nullptr,
                    nullptr,
                    false,
                    false,
                    usual_few_tokens};
    if constexpr (requires { S::template few_tokens<W>; }) k.few_tokens = S::template few_tokens<W>;
    if constexpr (elements < W >> 1) {
        k.integers = integers<S, W>;
        k.has_minima = BlockPiece<S, W>::has_minima;
        if constexpr (requires { Unpacked<S, W>::largest; }) k.halves = Unpacked<S, W>::largest > largest_of_32;
        if (type != WeightType::q2_k) k.fixed = fixed<S, W>;    // its minima are of 16 weights, the sums of x of 32
    }
    return k;
}

template <class S>
constexpr Kernels make_kernels(Isa isa)
{
    return {.isa = isa,
            .id = isa_names[uint32_t(isa)].id,
            .name = isa_names[uint32_t(isa)].name,
            .reads_planes = reads_planes<S>,
            .reads_words = reads_words<S>,
    // clang-format off
#define FORMAT(id, NAME, ...) row_kernels<S, Block##NAME>(WeightType::id),
            .rows = {WEIGHT_FORMATS(FORMAT)
                     sparse_row_kernels<S, F16>(WeightType::f16_sparse),
                     sparse_row_kernels<S, int8_t>(WeightType::q8_0_sparse)},
#undef FORMAT
            // clang-format on
            .tile_rows = S::tile_rows,
            .tile_tokens = tile_vectors * S::lanes,
            .float_tile = float_tile<S>,
            .fixed_tile = fixed_tile<S>,
            .rmsnorm = rmsnorm<S>,
            .quantise = quantise<S>,
            .pack_signs = pack_signs<S>,
            .differing_bits = differing_bits<S>,
            .to_f16 = to_f16<S>,
            .caches = {cache_kernels<S, F16>(WeightType::f16), cache_kernels<S, BlockQ8_0>(WeightType::q8_0)},
            .soften = soften<S>};
}

/// Those of `most`, but for what S multiplies words for: rows of formats that it has wide pieces of, and tiles.
template <class S>
Kernels with_products_of(const Kernels& most, Isa isa)
{
    Kernels k = most;
    k.isa = isa;
    k.id = isa_names[uint32_t(isa)].id;
    k.name = isa_names[uint32_t(isa)].name;
    k.fixed_tile = fixed_tile<S>;
    RowKernels* row = k.rows;
#define FORMAT(id, NAME, ...)                                                                                          \
    if constexpr (has_wide<S, Block##NAME>) row->dot_rows = dot_rows<S, Block##NAME>;                                  \
    row++;
    WEIGHT_FORMATS(FORMAT)
#undef FORMAT
    return k;
}

}    // namespace hearth::host
