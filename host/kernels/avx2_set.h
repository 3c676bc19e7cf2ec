// AVX2, FMA and F16C: what kernels/body.h needs, on 8 floats. P says how pairs of words are multiplied and added up,
// which AVX-VNNI does at once (see avx2_wide.h).
#pragma once

#include "host/kernels/avx2_sums.h"

#include <immintrin.h>

namespace hearth::host {
namespace {

/// For eight bits of a mask: which of the next values comes where a bit is set, and 0x80 where it is not.
struct Places {
    uint8_t of[256][8];
};
constexpr Places places = [] {
    Places p = {};
    for (uint32_t mask = 0; mask < 256; mask++)
        for (uint32_t i = 0, next = 0; i < 8; i++) p.of[mask][i] = uint8_t(mask >> i & 1 ? next++ : 0x80);
    return p;
}();

template <class P>
struct Avx2Set {
    using Vec = __m256;
    static constexpr uint32_t lanes = 8;
    static constexpr uint32_t accumulators = 3;    // 3 * 4 tokens + a weight = 13 of 16 registers

    static Vec zero() { return _mm256_setzero_ps(); }
    static Vec set(float a) { return _mm256_set1_ps(a); }
    static Vec set(F16 a) { return _mm256_cvtph_ps(_mm_set1_epi16(short(a.bits))); }

    static Vec load(const float* p) { return _mm256_loadu_ps(p); }
    static Vec load(const F16* p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
    static Vec load(const Bf16* p)
    {
        return _mm256_castsi256_ps(
            _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), 16));
    }
    static Vec load(const int8_t* p)
    {
        return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
    }
    static void store(float* p, Vec v) { _mm256_storeu_ps(p, v); }
    static void store(F16* p, Vec v)
    {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                         _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    }
    static void store_rounded(int16_t* p, Vec v)
    {
        const __m256i i = _mm256_cvtps_epi32(v);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                         _mm_packs_epi32(_mm256_castsi256_si128(i), _mm256_extracti128_si256(i, 1)));
    }

    static Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
    static Vec mul(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
    static Vec add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
    static Vec div(Vec a, Vec b) { return _mm256_div_ps(a, b); }
    static Vec abs(Vec a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
    static Vec max(Vec a, Vec b) { return _mm256_max_ps(a, b); }

    static uint32_t signs(Vec v) { return uint32_t(_mm256_movemask_ps(v)); }
    static float add_lanes(Vec v)
    {
        __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
        s = _mm_add_ps(s, _mm_movehl_ps(s, s));
        return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
    }
    static float max_lanes(Vec v)
    {
        __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
        m = _mm_max_ps(m, _mm_movehl_ps(m, m));
        return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
    }
    static Vec most(Vec a, Vec b)
    {
        return _mm256_castsi256_ps(_mm256_max_epi32(_mm256_castps_si256(a), _mm256_castps_si256(b)));
    }
    static float most_lanes(Vec v)
    {
        const __m256i bits = _mm256_castps_si256(v);
        __m128i m = _mm_max_epi32(_mm256_castsi256_si128(bits), _mm256_extracti128_si256(bits, 1));
        m = _mm_max_epi32(m, _mm_unpackhi_epi64(m, m));
        return _mm_cvtss_f32(_mm_castsi128_ps(_mm_max_epi32(m, _mm_shuffle_epi32(m, 1))));
    }

    static Vec add_across(const Vec* v)
    {
        const Vec low = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
        const Vec high = _mm256_hadd_ps(_mm256_hadd_ps(v[4], v[5]), _mm256_hadd_ps(v[6], v[7]));
        return _mm256_add_ps(_mm256_permute2f128_ps(low, high, 0x20), _mm256_permute2f128_ps(low, high, 0x31));
    }
    static Vec round(Vec v) { return _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
    static Vec power(Vec v)
    {
        return _mm256_castsi256_ps(
            _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(v), _mm256_set1_epi32(127)), 23));
    }

    static Vec floats_of(uint64_t bytes)
    {
        return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(int64_t(bytes))));
    }
    static Vec eight(uint64_t bytes, const float* x) { return _mm256_mul_ps(floats_of(bytes), _mm256_loadu_ps(x)); }
    static Vec only(float a) { return _mm256_zextps128_ps256(_mm_set_ss(a)); }

    struct Bytes {
        __m128i low, high;    // two registers: widening one of 32 bytes would have to bring its upper half down first
    };
    static Bytes bytes(const uint8_t* p)
    {
        const __m128i* q = reinterpret_cast<const __m128i*>(p);
        return {_mm_loadu_si128(q), _mm_loadu_si128(q + 1)};
    }
    static Bytes nibbles(const uint8_t* p)
    {
        const __m128i q = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
        return bits({q, _mm_srli_epi16(q, 4)}, 0, 15);
    }
    static void store(uint8_t* p, const Bytes& b)
    {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), b.low);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 16), b.high);
    }
    static __m128i shifted(__m128i b, int shift)
    {
        return shift < 0 ? _mm_slli_epi16(b, -shift) : shift > 0 ? _mm_srli_epi16(b, shift) : b;
    }
    static Bytes bits(const Bytes& b, int shift, uint8_t mask)
    {
        const __m128i m = _mm_set1_epi8(char(mask));
        return {_mm_and_si128(shifted(b.low, shift), m), _mm_and_si128(shifted(b.high, shift), m)};
    }
    static Bytes spread(uint32_t word, uint8_t n)
    {
        const __m128i all = _mm_set1_epi32(int(word)), bit = _mm_set1_epi64x(int64_t(0x8040201008040201));
        const auto half = [&](int64_t first, int64_t last) {
            const __m128i set = _mm_and_si128(_mm_shuffle_epi8(all, _mm_set_epi64x(last, first)), bit);
            return _mm_and_si128(_mm_cmpeq_epi8(set, bit), _mm_set1_epi8(char(n)));
        };
        return {half(0, 0x0101010101010101), half(0x0202020202020202, 0x0303030303030303)};
    }
    static Bytes look_up(const int8_t* table, const Bytes& b)
    {
        const __m128i t = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table));
        return {_mm_shuffle_epi8(t, b.low), _mm_shuffle_epi8(t, b.high)};
    }
    static Bytes merge(const Bytes& a, const Bytes& b)
    {
        return {_mm_or_si128(a.low, b.low), _mm_or_si128(a.high, b.high)};
    }
    static Bytes less(const Bytes& b, int8_t n)
    {
        return {_mm_sub_epi8(b.low, _mm_set1_epi8(n)), _mm_sub_epi8(b.high, _mm_set1_epi8(n))};
    }

    struct Block {
        __m256i low, high;    // weights 0..15 and 16..31
    };
    static Block widen(const Bytes& b) { return {_mm256_cvtepi8_epi16(b.low), _mm256_cvtepi8_epi16(b.high)}; }
    static Block ones() { return {_mm256_set1_epi16(1), _mm256_set1_epi16(1)}; }

    struct Scales {
        __m256i first, last;    // eight int16 in each half, the same in both
    };
    static Scales scales(uint64_t first, uint64_t last)
    {
        const auto both = [](uint64_t s) {
            return _mm256_broadcastsi128_si256(_mm_cvtepi8_epi16(_mm_cvtsi64_si128(int64_t(s))));
        };
        return {both(first), both(last)};
    }
    static Scales scales(uint64_t eight)
    {
        const __m128i s = _mm_cvtsi64_si128(int64_t(eight)), pairs = _mm_unpacklo_epi8(s, s);
        return {_mm256_broadcastsi128_si256(_mm_cvtepi8_epi16(pairs)),
                _mm256_broadcastsi128_si256(_mm_cvtepi8_epi16(_mm_srli_si128(pairs, 8)))};
    }
    static __m256i scale(const Scales& s, uint32_t i)
    {
        return _mm256_shuffle_epi8(i < 8 ? s.first : s.last, _mm256_set1_epi16(short(0x100 + 0x202 * (i % 8))));
    }
    static Block scaled(const Block& w, const Scales& s, uint32_t p)
    {
        return {_mm256_mullo_epi16(w.low, scale(s, 2 * p)), _mm256_mullo_epi16(w.high, scale(s, 2 * p + 1))};
    }
    static Vec dot(const Block& w, const int16_t* x)
    {
        const __m256i* q = reinterpret_cast<const __m256i*>(x);
        return _mm256_cvtepi32_ps(_mm256_add_epi32(_mm256_madd_epi16(w.low, _mm256_loadu_si256(q)),
                                                   _mm256_madd_epi16(w.high, _mm256_loadu_si256(q + 1))));
    }
    static Vec eight(__m128i q) { return _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(q)); }
    static void floats(const Block& w, Vec* out)
    {
        out[0] = eight(_mm256_castsi256_si128(w.low));
        out[1] = eight(_mm256_extracti128_si256(w.low, 1));
        out[2] = eight(_mm256_castsi256_si128(w.high));
        out[3] = eight(_mm256_extracti128_si256(w.high, 1));
    }
    static void store(int16_t* p, const Block& b)
    {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), b.low);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 16), b.high);
    }
    static float first(Vec v) { return _mm256_cvtss_f32(v); }

    static constexpr uint32_t tile_rows =
        6;    // 2 * 6 sums, 2 vectors of tokens, a weight and a product of 16 registers
    using Ints = __m256i;
    static Ints no_ints() { return _mm256_setzero_si256(); }
    static Ints load_ints(const int16_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
    static Ints set_pair(const int16_t* p) { return _mm256_set1_epi32(int32_t(load_32(p))); }
    static Ints add_pairs(Ints a, Ints b, Ints sum) { return P::add(sum, a, b); }
    static Vec floats_of(Ints a) { return _mm256_cvtepi32_ps(a); }

    static __m128i places_of(uint32_t mask)
    {
        return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(places.of[mask]));
    }
    static Bytes expand(const uint8_t* values, uint32_t mask)
    {
        __m128i eight[4];
        for (uint32_t i = 0; i < 4; i++) {
            const uint32_t bits = mask >> 8 * i & 255;
            eight[i] = _mm_shuffle_epi8(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(values)), places_of(bits));
            values += __builtin_popcount(bits);
        }
        return {_mm_unpacklo_epi64(eight[0], eight[1]), _mm_unpacklo_epi64(eight[2], eight[3])};
    }
    static void expand(const F16* values, uint32_t mask, Vec* out)
    {
        for (uint32_t i = 0; i < 4; i++) {
            const uint32_t bits = mask >> 8 * i & 255;
            const __m256i where = _mm256_cvtepi8_epi32(places_of(bits));    // of which the instruction takes three bits
            out[i] = _mm256_andnot_ps(_mm256_castsi256_ps(_mm256_srai_epi32(where, 31)),
                                      _mm256_permutevar8x32_ps(load(values), where));
            values += __builtin_popcount(bits);
        }
    }

    // ---- groups -----------------------------------------------------------------------------------------------------

    template <class W>
    requires by_wide<W>
    using Wide = WidePiece<P, W>;

    static void fill(const int16_t* q, const float* scale, GroupWords& by_pairs, GroupWords& by_blocks, float* half_sum)
    {
        const auto load = [&](uint32_t i) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(q + 16 * i)); };
        // Words at even places in the first lane, those at odd ones in the other.
        const auto apart = [](__m256i v) {
            const __m128i evens_first = _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
            return _mm256_permute4x64_epi64(_mm256_shuffle_epi8(v, _mm256_broadcastsi128_si256(evens_first)), 0xd8);
        };
        const auto lanes_of = [](__m256i first, __m256i second, int16_t* to) {
            _mm256_store_si256(reinterpret_cast<__m256i*>(to), _mm256_permute2x128_si256(first, second, 0x20));
            _mm256_store_si256(reinterpret_cast<__m256i*>(to) + 1, _mm256_permute2x128_si256(first, second, 0x31));
        };
        for (uint32_t p = 0; p < 2; p++) {
            __m256i of[2][2];    // blocks and their halves
            for (uint32_t i = 0; i < 4; i++) of[i / 2][i % 2] = apart(load(4 * p + i));
            for (uint32_t i = 0; i < 2; i++) {
                lanes_of(of[0][i], of[1][i], by_pairs.of + 64 * p + 32 * i);
                lanes_of(of[i][0], of[i][1], by_blocks.of + 64 * p + 32 * i);
            }
        }
        for (uint32_t i = 0; i < 8; i++) {
            const __m256i pairs = _mm256_madd_epi16(load(i), _mm256_set1_epi16(1));
            half_sum[i] = scale[i / 2] * add_lanes(_mm256_cvtepi32_ps(pairs));
        }
    }

    // ---- sums of rows -----------------------------------------------------------------------------------------------

    template <class B>
    requires by_wide<B>
    static size_t add_rows(const B*, const Term* terms, uint32_t count, float* y, uint32_t n)
    {
        return WideSum<P, B>::add(terms, count, y, n);
    }
};

}    // namespace
}    // namespace hearth::host
