// Sums of rows on AVX2: y_i += sum_r a_r w[r]_i for up to sixteen rows and 256 columns at a time, so that sums stay in
// registers. The integers of a format (avx2_wide.h) become floats as they lie in words of 32 bits, without being moved:
//
//     nibble k of a word, masked:   16^k times the integer, as a float exactly
//
// and are added to a sum of nibble k, which is divided by 16^k, and brought in order, once for all rows; of bytes
// 256^k. What was added to the integers, and minima, are added up by scales instead of by weights.
//
// Of 64 columns of a row in Q4_K these are 26 instructions with vectors, of 32 columns in Q6_K 19; with integers
// widened and y read and written for each row it were 90 and 50.
#pragma once

#include "host/kernels/avx2_wide.h"
#include "host/kernels/row_body.h"

namespace hearth::host {
namespace {

template <class B>
class WideSum {
    using Row = Wide<B>;
    static constexpr uint32_t rows = 16, blocks = wide_numbers / elements<B>, scales = scales_of<B>;
    static constexpr bool halves = scales == 2, nibbles = Row::bits == 4, shared = requires { Row::shares_bytes; };
    static constexpr uint32_t in_word = 32 / Row::bits, units = nibbles ? 4 : 8;    // see Wide::packed

    /// By scales: what the integers of each row are multiplied with, and what is added to the sum of all.
    struct Factors {
        alignas(32) float of_rows[rows][8 * scales];
        alignas(32) float rest[8 * scales];
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
            RowsAhead ahead(terms, here, pieces * blocks * sizeof(B));
            for (uint32_t k = 0; k < pieces; k++) {
                Factors factors;
                fill(row, terms, here, ahead, factors);
                each<units>([&](auto unit) {
                    ahead.fetch(here * (blocks * sizeof(B) - 64) / units);
                    add_unit<decltype(unit)::value>(row, here, factors, y + k * wide_numbers);
                });
                for (uint32_t r = 0; r < here; r++) row[r] += blocks;
            }
        }
        return pieces * blocks;
    }

  private:
    static void fill(const B* const* row, const Term* terms, uint32_t count, RowsAhead& ahead, Factors& to)
    {
        __m256 rest[scales];
        for (__m256& r : rest) r = _mm256_setzero_ps();
        for (uint32_t r = 0; r < count; r++) {
            ahead.fetch(64);    // the memory has to be kept busy here, too
            const Row w(row[r]);
            const __m256 a = _mm256_set1_ps(terms[r].a);
            for (uint32_t i = 0; i < scales; i++) {
                const __m256 factor = _mm256_mul_ps(a, w.scales[i]);
                _mm256_store_ps(to.of_rows[r] + 8 * i, factor);
                if constexpr (Row::packed_added)
                    rest[i] = _mm256_fmadd_ps(factor, _mm256_set1_ps(-Row::packed_added), rest[i]);
                if constexpr (has_minimum<B>) rest[i] = _mm256_fmadd_ps(a, w.minimum(i), rest[i]);
            }
        }
        for (uint32_t i = 0; i < scales; i++) _mm256_store_ps(to.rest + 8 * i, rest[i]);
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

    template <uint32_t unit>
    [[gnu::always_inline]] static void add_unit(const B* const* row, uint32_t count, const Factors& factors, float* y)
    {
        constexpr uint32_t parts = in_word / 4;    // of a byte
        __m256 sum[in_word];
        for (__m256& s : sum) s = _mm256_setzero_ps();
        for (uint32_t r = 0; r < count; r++) {
            const __m256i packed = Row(row[r]).template packed<unit>();
            const __m256 factor[2] = {lanes<unit, 0>(factors.of_rows[r]), lanes<unit, parts - 1>(factors.of_rows[r])};
            each<in_word>([&](auto which) {
                constexpr uint32_t k = decltype(which)::value;
                constexpr int32_t mask = int32_t(((1u << Row::bits) - 1) << k * Row::bits);
                // The last would be negative.
                const __m256i integer = k + 1 < in_word ? _mm256_and_si256(packed, _mm256_set1_epi32(mask))
                                                        : _mm256_srli_epi32(packed, 32 - Row::bits);
                sum[k] = _mm256_fmadd_ps(factor[k % parts], _mm256_cvtepi32_ps(integer), sum[k]);
            });
        }
        each<parts>([&](auto part) {
            constexpr uint32_t upper = decltype(part)::value;
            constexpr uint32_t column = halves     ? 32 * unit
                                        : !nibbles ? 64 * (unit / 2) + 16 * (unit % 2)
                                        : shared   ? 64 * unit + 32 * upper
                                                   : 64 * unit + 16 * upper;
            constexpr uint32_t next = column + (halves || shared ? 16 : 32);
            __m256 of_byte[4];
            each<4>([&](auto byte) {
                constexpr uint32_t k = decltype(byte)::value * parts + upper;
                constexpr float whole = k + 1 < in_word ? 1 / float(1u << k * Row::bits) : 1;
                of_byte[decltype(byte)::value] = _mm256_mul_ps(sum[k], _mm256_set1_ps(whole));
            });
            add_in_order(of_byte, lanes<unit, upper>(factors.rest), y + column, y + next);
        });
    }

    /// Each lane's sixteen columns, of which v[i] has numbers i, i + 4, i + 8 and i + 12.
    [[gnu::always_inline]] static void add_in_order(const __m256* v, __m256 rest, float* first, float* second)
    {
        const auto pairs = [](__m256 a, __m256 b) { return _mm256_castps_pd(_mm256_unpacklo_ps(a, b)); };
        const auto last_pairs = [](__m256 a, __m256 b) { return _mm256_castps_pd(_mm256_unpackhi_ps(a, b)); };
        const __m256d a = pairs(v[0], v[1]), b = pairs(v[2], v[3]), c = last_pairs(v[0], v[1]),
                      d = last_pairs(v[2], v[3]);
        const auto add = [&](__m256d left, __m256d right, float* y, float* z) {
            const __m256 l = _mm256_add_ps(_mm256_castpd_ps(left), rest),
                         r = _mm256_add_ps(_mm256_castpd_ps(right), rest);
            _mm256_storeu_ps(y, _mm256_add_ps(_mm256_loadu_ps(y), _mm256_permute2f128_ps(l, r, 0x20)));
            _mm256_storeu_ps(z, _mm256_add_ps(_mm256_loadu_ps(z), _mm256_permute2f128_ps(l, r, 0x31)));
        };
        add(_mm256_unpacklo_pd(a, b), _mm256_unpackhi_pd(a, b), first, second);
        add(_mm256_unpacklo_pd(c, d), _mm256_unpackhi_pd(c, d), first + 8, second + 8);
    }
};

}    // namespace
}    // namespace hearth::host
