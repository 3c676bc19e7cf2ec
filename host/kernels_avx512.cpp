// AVX-512 (F, BW, VL, DQ, VNNI): what kernels_body.h needs, on 16 floats.
#include "host/kernels_body.h"

#include <immintrin.h>

// GCC before 13 warns of its own _mm512_undefined_*() (bug 105593).
#ifndef __clang__
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

namespace hearth::host {
namespace {

struct Avx512 {
    using Vec = __m512;
    static constexpr uint32_t lanes = 16;
    static constexpr uint32_t accumulators = 4;    // 4 * 4 tokens + a weight = 17 of 32 registers

    static Vec zero() { return _mm512_setzero_ps(); }
    static Vec set(float a) { return _mm512_set1_ps(a); }
    static Vec set(F16 a) { return _mm512_cvtph_ps(_mm256_set1_epi16(short(a.bits))); }

    static Vec load(const float* p) { return _mm512_loadu_ps(p); }
    static Vec load(const F16* p) { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
    static Vec load(const Bf16* p)
    {
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))), 16));
    }
    static void store(float* p, Vec v) { _mm512_storeu_ps(p, v); }
    static void store(F16* p, Vec v)
    {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    }
    static void store_rounded(int16_t* p, Vec v)
    {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(v)));
    }

    static Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
    static Vec mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
    static Vec add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
    static Vec abs(Vec a) { return _mm512_abs_ps(a); }
    static Vec max(Vec a, Vec b) { return _mm512_max_ps(a, b); }
    static uint32_t signs(Vec v) { return _mm512_movepi32_mask(_mm512_castps_si512(v)); }
    static float add_lanes(Vec v) { return _mm512_reduce_add_ps(v); }
    static float max_lanes(Vec v) { return _mm512_reduce_max_ps(v); }

    static Vec eight(uint64_t bytes, const float* x)
    {
        return _mm512_zextps256_ps512(_mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(int64_t(bytes)))), _mm256_loadu_ps(x)));
    }
    static Vec only(float a) { return _mm512_zextps128_ps512(_mm_set_ss(a)); }

    using Bytes = __m256i;
    static Bytes bytes(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
    static Bytes nibbles(const uint8_t* p)
    {
        const __m128i q = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
        return bits(_mm256_set_m128i(_mm_srli_epi16(q, 4), q), 0, 15);
    }
    static void store(uint8_t* p, Bytes b) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), b); }
    static Bytes bits(Bytes b, int shift, uint8_t mask)
    {
        const __m256i moved = shift < 0 ? _mm256_slli_epi16(b, unsigned(-shift)) : shift > 0 ? _mm256_srli_epi16(b, unsigned(shift)) : b;
        return _mm256_and_si256(moved, _mm256_set1_epi8(char(mask)));
    }
    static Bytes spread(uint32_t word, uint8_t n) { return _mm256_maskz_set1_epi8(word, char(n)); }
    static Bytes look_up(const int8_t* table, Bytes b)
    {
        return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table))), b);
    }
    static Bytes merge(Bytes a, Bytes b) { return _mm256_or_si256(a, b); }
    static Bytes less(Bytes b, int8_t n) { return _mm256_sub_epi8(b, _mm256_set1_epi8(n)); }

    using Block = __m512i;
    static Block widen(Bytes b) { return _mm512_cvtepi8_epi16(b); }
    static Block ones() { return _mm512_set1_epi16(1); }

    using Scales = __m512i;    // 16 int16 in its lower half
    static Scales scales(uint64_t first, uint64_t last)
    {
        return _mm512_castsi256_si512(_mm256_cvtepi8_epi16(_mm_set_epi64x(int64_t(last), int64_t(first))));
    }
    static Scales scales(uint64_t eight)
    {
        const __m128i s = _mm_cvtsi64_si128(int64_t(eight));
        return _mm512_castsi256_si512(_mm256_cvtepi8_epi16(_mm_unpacklo_epi8(s, s)));
    }
    static Block scaled(Block w, Scales s, uint32_t p)
    {
        const __m512i which = _mm512_inserti64x4(_mm512_set1_epi16(short(2 * p)), _mm256_set1_epi16(short(2 * p + 1)), 1);
        return _mm512_mullo_epi16(w, _mm512_permutexvar_epi16(which, s));
    }
    static Vec dot(Block w, const int16_t* x) { return _mm512_cvtepi32_ps(_mm512_dpwssd_epi32(_mm512_setzero_si512(), w, _mm512_loadu_si512(x))); }
    static Vec sixteen(__m256i q) { return _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(q)); }
    static void floats(Block w, Vec* out)
    {
        out[0] = sixteen(_mm512_castsi512_si256(w));
        out[1] = sixteen(_mm512_extracti64x4_epi64(w, 1));
    }
};

}    // namespace

constexpr Kernels avx512_kernels = make_kernels<Avx512>(Isa::avx512, "AVX-512");

}    // namespace hearth::host
