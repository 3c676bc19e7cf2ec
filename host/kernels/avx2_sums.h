// Sums of rows on AVX2: y_i += sum_r a_r w[r]_i for up to sixteen rows and 256 columns at a time, in integers, so that
// sums stay in registers. What a block of a row is multiplied with (a_r times its scale) becomes fixed point of 16 bits
// for all of these rows together, as the activations are. The integers of two rows (avx2_wide.h) meet in words of 32
// bits, without being widened:
//
//     word j of a row and of the next:   c3 c2 c1 c0 | d3 d2 d1 d0     four nibbles each
//     nibble k of both, masked:          16^k c_k    | 16^k d_k        times the fixed point of each row, added up
//
// and the sum of nibble k is divided by 16^k, and brought in order, once for all rows; of bytes 256^k. The last place
// would be negative, and is shifted. What was added to the integers, and minima, are added up by scales instead of by
// weights.
//
// Of 64 columns of two rows in Q4_K these are 29 instructions with vectors, where floats took 52.
#pragma once

#include "host/kernels/avx2_wide.h"
#include "host/kernels/row_body.h"

namespace hearth::host {
namespace {

/// P::add as for a WidePiece.
template <class P, class B>
class WideSum {
    using Row = Wide<B>;
    static constexpr uint32_t rows = 16, blocks = wide_numbers / elements<B>, scales = scales_of<B>;
    static constexpr bool halves = scales == 2, nibbles = Row::bits == 4, shared = requires { Row::shares_bytes; };
    static constexpr uint32_t in_word = 16 / Row::bits, units = nibbles ? 4 : 8;    // see Wide::packed
    static constexpr uint32_t parts = in_word / 2;                                  // of a byte

    /// By scales.
    struct Factors {
        alignas(32) int32_t of_pairs[rows / 2][8 * scales];    // fixed point of both rows, the first below
        alignas(32) float scale[8 * scales];                   // of the fixed point
        alignas(32) float rest[8 * scales];                    // what is added to the sum of all
    };

  public:
    /// axpy for as many whole blocks as there are in whole pieces; returns their number.
    static size_t add(const Term* terms, uint32_t count, float* y, uint32_t n)
    {
        const uint32_t pieces = n / wide_numbers;
        for (uint32_t here; count > 0; count -= here, terms += here) {
            here = count < rows ? count : rows;
            const B* row[rows];
            for (uint32_t r = 0; r < here; r++) row[r] = reinterpret_cast<const B*>(terms[r].row);
            if (here % 2) row[here] = row[0];    // times 0
            RowsAhead ahead(terms, here, pieces * blocks * sizeof(B));
            for (uint32_t k = 0; k < pieces; k++) {
                Factors factors;
                fill(row, terms, here, ahead, factors);
                each<units>([&](auto unit) {
                    ahead.fetch(here * (blocks * sizeof(B) - 64) / units);
                    add_unit<decltype(unit)::value>(row, (here + 1) / 2, factors, y + k * wide_numbers);
                });
                for (uint32_t r = 0; r < here + here % 2; r++) row[r] += blocks;
            }
        }
        return pieces * blocks;
    }

  private:
    static void fill(const B* const* row, const Term* terms, uint32_t count, RowsAhead& ahead, Factors& to)
    {
        alignas(32) float factors[rows][8 * scales];
        __m256 rest[scales], largest[scales];
        for (uint32_t i = 0; i < scales; i++) rest[i] = largest[i] = _mm256_setzero_ps();
        for (uint32_t r = 0; r < count; r++) {
            ahead.fetch(64);    // the memory has to be kept busy here, too
            const Row w(row[r]);
            const __m256 a = _mm256_set1_ps(terms[r].a);
            for (uint32_t i = 0; i < scales; i++) {
                const __m256 factor = _mm256_mul_ps(a, w.scales[i]);
                _mm256_store_ps(factors[r] + 8 * i, factor);
                largest[i] = _mm256_max_ps(_mm256_andnot_ps(_mm256_set1_ps(-0.0f), factor), largest[i]);
                rest[i] = _mm256_fmadd_ps(factor, _mm256_setzero_ps(), rest[i]);    // NaN stays NaN
                if constexpr (has_minimum<B>) rest[i] = _mm256_fmadd_ps(a, w.minimum(i), rest[i]);
            }
        }
        for (uint32_t i = 0; i < scales; i++) {
            // Below about 1e-34 a reciprocal is no float.
            const __m256 some = _mm256_cmp_ps(largest[i], _mm256_set1_ps(1e-30f), _CMP_GE_OQ),
                         inverse = _mm256_and_ps(some, _mm256_div_ps(_mm256_set1_ps(fixed_max), largest[i])),
                         scale = _mm256_mul_ps(largest[i], _mm256_set1_ps(1 / fixed_max));
            const auto fixed = [&](uint32_t r) {
                if (r >= count) return _mm256_setzero_si256();
                return _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_load_ps(factors[r] + 8 * i), inverse));
            };
            __m256i sum = _mm256_setzero_si256();
            for (uint32_t r = 0; r < count; r += 2) {
                const __m256i first = fixed(r), second = fixed(r + 1);
                _mm256_store_si256(reinterpret_cast<__m256i*>(to.of_pairs[r / 2] + 8 * i),
                                   _mm256_blend_epi16(first, _mm256_slli_epi32(second, 16), 0xaa));
                sum = _mm256_add_epi32(sum, _mm256_add_epi32(first, second));
            }
            if constexpr (Row::packed_added)
                rest[i] = _mm256_fmadd_ps(_mm256_mul_ps(scale, _mm256_set1_ps(-Row::packed_added)),
                                          _mm256_cvtepi32_ps(sum), rest[i]);
            _mm256_store_ps(to.scale + 8 * i, scale);
            _mm256_store_ps(to.rest + 8 * i, rest[i]);
        }
    }

    /// The scales of the integers at places `upper` (of a nibble: 1 for the high one) of a unit's bytes, lane by lane.
    template <uint32_t unit, uint32_t upper>
    [[gnu::always_inline]] static __m256 lanes(const float* of_scales)
    {
        if constexpr (shared) return _mm256_broadcast_ss(of_scales + 2 * unit + upper);
        else {
            constexpr uint32_t first = halves || nibbles ? 2 * unit : unit / 2 * 2;
            return _mm256_set_m128(_mm_broadcast_ss(of_scales + first + 1), _mm_broadcast_ss(of_scales + first));
        }
    }
    template <uint32_t unit, uint32_t upper>
    [[gnu::always_inline]] static __m256i lanes(const int32_t* of_scales)
    {
        if constexpr (shared) return _mm256_set1_epi32(of_scales[2 * unit + upper]);
        else {
            constexpr uint32_t first = halves || nibbles ? 2 * unit : unit / 2 * 2;
            constexpr int from = first % 4 / 2 * 2;
            return _mm256_castps_si256(_mm256_permutevar_ps(
                _mm256_broadcast_ps(reinterpret_cast<const __m128*>(of_scales + first / 4 * 4)),
                _mm256_setr_epi32(from, from, from, from, from + 1, from + 1, from + 1, from + 1)));
        }
    }

    template <uint32_t unit>
    [[gnu::always_inline]] static void add_unit(const B* const* row, uint32_t pairs, const Factors& factors, float* y)
    {
        __m256i sum[2][in_word];    // of words 0 to 3 of each lane, and of 4 to 7
        for (__m256i& s : sum[0]) s = _mm256_setzero_si256();
        for (__m256i& s : sum[1]) s = _mm256_setzero_si256();
        for (uint32_t r = 0; r < pairs; r++) {
            const __m256i first = Row(row[2 * r]).template packed<unit>(),
                          second = Row(row[2 * r + 1]).template packed<unit>(),
                          both[2] = {_mm256_unpacklo_epi16(first, second), _mm256_unpackhi_epi16(first, second)},
                          factor[2] = {lanes<unit, 0>(factors.of_pairs[r]),
                                       lanes<unit, parts - 1>(factors.of_pairs[r])};
            each<2>([&](auto half) {
                each<in_word>([&](auto which) {
                    constexpr uint32_t h = decltype(half)::value, k = decltype(which)::value;
                    constexpr int16_t mask = int16_t(((1u << Row::bits) - 1) << k * Row::bits);
                    const __m256i integers = k + 1 < in_word ? _mm256_and_si256(both[h], _mm256_set1_epi16(mask))
                                                             : _mm256_srli_epi16(both[h], 16 - Row::bits);
                    sum[h][k] = P::add(sum[h][k], integers, factor[k % parts]);
                });
            });
        }
        each<parts>([&](auto part) {
            constexpr uint32_t upper = decltype(part)::value;
            constexpr uint32_t column = halves     ? 32 * unit
                                        : !nibbles ? 64 * (unit / 2) + 16 * (unit % 2)
                                        : shared   ? 64 * unit + 32 * upper
                                                   : 64 * unit + 16 * upper;
            constexpr uint32_t next = column + (halves || shared ? 16 : 32);
            const __m256 scale = lanes<unit, upper>(factors.scale), rest = lanes<unit, upper>(factors.rest);
            each<2>([&](auto half) {
                constexpr uint32_t h = decltype(half)::value;
                __m256 of_byte[2];    // of even places, and of odd ones
                each<2>([&](auto byte) {
                    constexpr uint32_t k = decltype(byte)::value * parts + upper;
                    constexpr float whole = k + 1 < in_word ? 1 / float(1u << k * Row::bits) : 1;
                    of_byte[decltype(byte)::value] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum[h][k]),
                                                                     _mm256_mul_ps(scale, _mm256_set1_ps(whole)), rest);
                });
                const __m256 l = _mm256_unpacklo_ps(of_byte[0], of_byte[1]),
                             r = _mm256_unpackhi_ps(of_byte[0], of_byte[1]);
                const auto add = [](float* to, __m256 v) {
                    _mm256_storeu_ps(to, _mm256_add_ps(_mm256_loadu_ps(to), v));
                };
                add(y + column + 8 * h, _mm256_permute2f128_ps(l, r, 0x20));
                add(y + next + 8 * h, _mm256_permute2f128_ps(l, r, 0x31));
            });
        });
    }
};

}    // namespace
}    // namespace hearth::host
