// Kernels of a piece of a row: how each format is taken apart, and what is done with what comes of it. Of the
// instruction set S of body.h, which includes this.
#pragma once

#include "host/kernels.h"

namespace hearth::host {

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

}    // namespace hearth::host
