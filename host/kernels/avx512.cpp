// AVX-512 (F, BW, VL, DQ, VBMI, VBMI2, VNNI, and GFNI): what kernels/body.h needs, on 16 floats.
#include "host/kernels/avx2_set.h"
#include "host/kernels/avx512_fours.h"

namespace hearth::host {
namespace {

/// What takes rows whose formats have no Eight.
using On256 = Avx2Set<DotProduct>;

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
        return _mm512_castsi512_ps(
            _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))), 16));
    }
    static Vec load(const int8_t* p)
    {
        return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
    }
    static void store(float* p, Vec v) { _mm512_storeu_ps(p, v); }
    static void store(F16* p, Vec v)
    {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                            _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    }
    static void store_rounded(int16_t* p, Vec v)
    {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(v)));
    }

    static Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
    static Vec mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
    static Vec add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
    static Vec div(Vec a, Vec b) { return _mm512_div_ps(a, b); }
    static Vec abs(Vec a) { return _mm512_abs_ps(a); }
    static Vec max(Vec a, Vec b) { return _mm512_max_ps(a, b); }
    static uint32_t signs(Vec v) { return _mm512_movepi32_mask(_mm512_castps_si512(v)); }
    static float add_lanes(Vec v) { return _mm512_reduce_add_ps(v); }
    static float max_lanes(Vec v) { return _mm512_reduce_max_ps(v); }
    static Vec most(Vec a, Vec b)
    {
        return _mm512_castsi512_ps(_mm512_max_epi32(_mm512_castps_si512(a), _mm512_castps_si512(b)));
    }
    static float most_lanes(Vec v)
    {
        return __builtin_bit_cast(float, _mm512_reduce_max_epi32(_mm512_castps_si512(v)));
    }
    static Vec add_across(const Vec* v)
    {
        // Four quarters of a register to a quarter each of four vectors, then the quarters to one.
        const auto two = [](Vec a, Vec b) { return _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)); };
        const auto four = [&](const Vec* p) {
            const __m512d a = _mm512_castps_pd(two(p[0], p[1])), b = _mm512_castps_pd(two(p[2], p[3]));
            return _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)),
                                 _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
        };
        const auto halves = [](Vec a, Vec b) {
            return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
        };
        const Vec low = halves(four(v), four(v + 4)), high = halves(four(v + 8), four(v + 12));
        return _mm512_add_ps(_mm512_shuffle_f32x4(low, high, 0x88), _mm512_shuffle_f32x4(low, high, 0xdd));
    }
    static Vec round(Vec v) { return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
    static Vec power(Vec v)
    {
        return _mm512_castsi512_ps(
            _mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(v), _mm512_set1_epi32(127)), 23));
    }

    static Vec eight(uint64_t bytes, const float* x)
    {
        return _mm512_zextps256_ps512(_mm256_mul_ps(
            _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(int64_t(bytes)))), _mm256_loadu_ps(x)));
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
        const __m256i moved = shift < 0   ? _mm256_slli_epi16(b, unsigned(-shift))
                              : shift > 0 ? _mm256_srli_epi16(b, unsigned(shift))
                                          : b;
        return _mm256_and_si256(moved, _mm256_set1_epi8(char(mask)));
    }
    static Bytes spread(uint32_t word, uint8_t n) { return _mm256_maskz_set1_epi8(word, char(n)); }
    static Bytes look_up(const int8_t* table, Bytes b)
    {
        return _mm256_shuffle_epi8(
            _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table))), b);
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
        const __m512i which =
            _mm512_inserti64x4(_mm512_set1_epi16(short(2 * p)), _mm256_set1_epi16(short(2 * p + 1)), 1);
        return _mm512_mullo_epi16(w, _mm512_permutexvar_epi16(which, s));
    }
    static Vec dot(Block w, const int16_t* x)
    {
        return _mm512_cvtepi32_ps(_mm512_dpwssd_epi32(_mm512_setzero_si512(), w, _mm512_loadu_si512(x)));
    }
    static Vec sixteen(__m256i q) { return _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(q)); }
    static void floats(Block w, Vec* out)
    {
        out[0] = sixteen(_mm512_castsi512_si256(w));
        out[1] = sixteen(_mm512_extracti64x4_epi64(w, 1));
    }

    static void store(int16_t* p, Block b) { _mm512_storeu_si512(p, b); }
    static float first(Vec v) { return _mm512_cvtss_f32(v); }

    static constexpr uint32_t tile_rows = 12;    // 2 * 12 sums, 2 vectors of tokens and a weight of 32 registers
    typedef int32_t Ints __attribute__((
        vector_size(64)));    // with __m512i, which is of int64_t, GCC 12 moves every sum from register to register
    static Ints no_ints() { return Ints(_mm512_setzero_si512()); }
    static Ints load_ints(const int16_t* p) { return Ints(_mm512_loadu_si512(p)); }
    static Ints set_pair(const int16_t* p) { return Ints(_mm512_set1_epi32(int32_t(load_32(p)))); }
    static Ints add_pairs(Ints a, Ints b, Ints sum)
    {
        return Ints(_mm512_dpwssd_epi32(__m512i(sum), __m512i(a), __m512i(b)));
    }
    static Vec floats_of(Ints a) { return _mm512_cvtepi32_ps(__m512i(a)); }

    static Bytes expand(const uint8_t* values, uint32_t mask) { return _mm256_maskz_expand_epi8(mask, bytes(values)); }
    static void expand(const F16* values, uint32_t mask, Vec* out)
    {
        const __m512i all = _mm512_maskz_expand_epi16(mask, _mm512_loadu_si512(values));
        out[0] = _mm512_cvtph_ps(_mm512_castsi512_si256(all));
        out[1] = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(all, 1));
    }

    // ---- eight rows at a time ---------------------------------------------------------------------------------------

    template <class W>
    using OfRows = std::conditional_t<by_wide<W> && !by_eights<W>, On256, Avx512>;

    static void fill(const int16_t* q, const float* scale, GroupWords& by_pairs, GroupWords& by_blocks, float* half_sum)
    {
        On256::fill(q, scale, by_pairs, by_blocks, half_sum);
    }
    template <bool alone>
    static void fill(const int16_t* q, GroupPlanes& g)
    {
        const __m512i half = _mm512_set1_epi16(128), eights = _mm512_set1_epi16(-8);
        const __m512i in_turn = _mm512_set_epi32(15, 7, 14, 6, 13, 5, 12, 4, 11, 3, 10, 2, 9, 1, 8, 0);
        for (uint32_t p = 0; p < 2; p++) {
            const __m512i first = _mm512_loadu_si512(q + 64 * p), second = _mm512_loadu_si512(q + 64 * p + 32);
            const auto store_plane = [&](int8_t* to, const auto& plane) {
                const __m512i both = _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi16_epi8(plane(first))),
                                                        _mm512_cvtepi16_epi8(plane(second)), 1);
                if constexpr (alone) {
                    const __m512i halves = _mm512_shuffle_i64x2(both, both, 0xd8);
                    _mm256_store_si256(reinterpret_cast<__m256i*>(to + 32 * p), _mm512_castsi512_si256(halves));
                    _mm256_store_si256(reinterpret_cast<__m256i*>(to + 64 + 32 * p),
                                       _mm512_extracti64x4_epi64(halves, 1));
                } else _mm512_store_si512(to + 64 * p, _mm512_permutexvar_epi32(in_turn, both));
            };
            store_plane(g.low, [](__m512i x) { return x; });
            store_plane(g.high, [&](__m512i x) {    // the low plane is signed
                return _mm512_srai_epi16(_mm512_add_epi16(x, half), 8);
            });
            // Of each block the sums of its halves.
            const auto fours = [&](__m512i x) {
                const __m512i twos = _mm512_madd_epi16(x, eights);
                return _mm256_hadd_epi32(_mm512_castsi512_si256(twos), _mm512_extracti64x4_epi64(twos, 1));
            };
            const __m256i eight_sums = _mm256_hadd_epi32(fours(first), fours(second));
            alignas(16) int32_t sums[4];
            _mm_store_si128(reinterpret_cast<__m128i*>(sums),
                            _mm_add_epi32(_mm256_castsi256_si128(eight_sums), _mm256_extracti128_si256(eight_sums, 1)));
            for (uint32_t k = 0; k < 2; k++) {
                for (uint32_t part = 0; part < 2; part++) g.half_bias[part][2 * p + k] = sums[2 * k + part];
                g.bias[2 * p + k] = sums[2 * k] + sums[2 * k + 1];
            }
        }
    }

    /// Of 32 tokens, as measured on Zen 4: floats, blocks by fours, and the others.
    template <class W>
    static constexpr uint32_t few_tokens = elements<W> == 1 ? 21
                                           : by_eights<W>   ? most_few_tokens
                                                            : usual_few_tokens;

    using Sums = EightSums;
    using SumsOfOne = SumsOfFours;
    static constexpr uint32_t tokens_at_once = 16;
    /// To L1, since a line is read in four pieces. (Measured on two cores: further ahead, or only to L2, took 12 % more
    /// for one token.)
    static constexpr uint32_t numbers_ahead = 640;

    /// sums[t] += the products of the whole groups of eight rows with token t, each pair of blocks unpacked once for
    /// all tokens: `first` of them and, if there are more, a multiple of four others. What comes `numbers_ahead` later
    /// is fetched meanwhile, be it in a row or, behind its end, in next[r]. Returns how many numbers these are.
    template <uint32_t first, bool more, class B>
    requires by_eights<B>
    [[gnu::always_inline]] static uint32_t meet_groups(const B* const* rows, const std::byte* const* next,
                                                       const Input* x, uint32_t tokens, uint32_t n, EightSums* sums)
    {
        using E = Eight<B>;
        constexpr uint32_t bytes = E::blocks * sizeof(B), groups = E::pairs / 2, numbers = groups * group_numbers;
        constexpr uint32_t steps_ahead = (numbers_ahead + numbers - 1) / numbers;
        const uint32_t steps = n / numbers, far = steps < steps_ahead ? steps : steps_ahead;
        for (uint32_t s = 0; s < steps; s++) {
            const bool behind_the_end = s >= steps - far;
            const B* row[8];
#pragma GCC unroll 8
            for (uint32_t r = 0; r < 8; r++) {
                row[r] = rows[r] + s * E::blocks;
                const std::byte* const ahead = behind_the_end
                                                   ? next[r] + (s + far - steps) * bytes
                                                   : reinterpret_cast<const std::byte*>(row[r]) + far * bytes;
                for (uint32_t byte = 0; byte < bytes; byte += 64) __builtin_prefetch(ahead + byte);
            }
            const E eight(row);
#pragma GCC unroll 4
            for (uint32_t p = 0; p < E::pairs; p++) {
                const PairWeights pair = E::weights(row, p);
                const typename E::Scales scales = eight.scales(p);
                const uint32_t group = s * groups + p / 2;
                meet<B, first>(pair, scales, x, group, p % 2, sums);
                if constexpr (more) {
                    uint32_t t = first;
                    do meet<B, 4>(pair, scales, x + t, group, p % 2, sums + t);
                    while ((t += 4) < tokens);
                }
            }
        }
        return steps * numbers;
    }

    /// The same of a token that is alone.
    template <class B>
    requires by_eights<B>
    [[gnu::always_inline]] static uint32_t meet_groups(const B* const* rows, const std::byte* const* next,
                                                       const Input& x, uint32_t n, SumsOfFours& sums)
    {
        using F = Four<B>;
        constexpr uint32_t bytes = F::blocks * sizeof(B), numbers = F::groups * group_numbers;
        const uint32_t steps = n / numbers, far = steps < bytes_ahead / bytes ? steps : bytes_ahead / bytes;
        const std::byte* ahead[8];
        for (uint32_t r = 0; r < 8; r++) ahead[r] = reinterpret_cast<const std::byte*>(rows[r]) + far * bytes;
        for (uint32_t s = 0; s < steps; s++) {
            if (s == steps - far)
                for (uint32_t r = 0; r < 8; r++) ahead[r] = next[r] - s * bytes;
#pragma GCC unroll 2
            for (uint32_t f = 0; f < 2; f++) {
                const B* row[4];
#pragma GCC unroll 4
                for (uint32_t r = 0; r < 4; r++) {
                    row[r] = rows[4 * f + r] + s * F::blocks;
                    for (uint32_t byte = 0; byte < bytes; byte += 64) prefetch(ahead[4 * f + r] + s * bytes + byte);
                }
                const F four(row);
#pragma GCC unroll 2
                for (uint32_t g = 0; g < F::groups; g++)
                    sums.of[f] = meet_four<B>(row, four, g, GroupOfToken(x, s * F::groups + g), sums.of[f]);
            }
        }
        return steps * numbers;
    }

    /// The scales of 16 blocks. A gather instruction is slow where processors had to be protected against leaks.
    template <class B>
    static __m256i sixteen_scales(const B* b)
    {
        constexpr short stride = sizeof(B) / 2;            // words
        constexpr uint32_t found = stride < 10 ? 8 : 4;    // blocks whose scale lies in 128 bytes
        const __m512i which = _mm512_castsi128_si512(
            _mm_set_epi16(7 * stride, 6 * stride, 5 * stride, 4 * stride, 3 * stride, 2 * stride, stride, 0));
        __m128i part[16 / found];
        for (uint32_t i = 0; i < 16 / found; i++) {
            const std::byte* const window = reinterpret_cast<const std::byte*>(b + i * found);
            part[i] = _mm512_castsi512_si128(
                _mm512_permutex2var_epi16(_mm512_loadu_si512(window), which, _mm512_loadu_si512(window + 64)));
        }
        if constexpr (found == 8) return _mm256_set_m128i(part[1], part[0]);
        else return _mm256_set_m128i(_mm_unpacklo_epi64(part[2], part[3]), _mm_unpacklo_epi64(part[0], part[1]));
    }

    // ---- sums of rows -----------------------------------------------------------------------------------------------

    /// Columns 0 to 15 and 16 to 31 of a block of four rows, four unsigned bytes of a column in a lane.
    static void columns(const BlockQ4_0* const* row, size_t k, __m512i* w)
    {
        const __m512i q = by_column(row[0][k].q, row[1][k].q, row[2][k].q, row[3][k].q), nibble = _mm512_set1_epi8(15);
        w[0] = _mm512_and_si512(q, nibble);
        w[1] = high_nibbles(q);
    }
    static void columns(const BlockQ8_0* const* row, size_t k, __m512i* w)
    {
        for (uint32_t half = 0; half < 2; half++) {
            const auto part = [&](uint32_t r) { return row[r][k].q + 16 * half; };
            w[half] = _mm512_xor_si512(by_column(part(0), part(1), part(2), part(3)), _mm512_set1_epi8(char(0x80)));
        }
    }

    static __m512i by_column(const void* a, const void* b, const void* c, const void* d)
    {
        const __m512i which = _mm512_add_epi32(_mm512_set1_epi32(0x30201000),
                                               _mm512_mullo_epi32(_mm512_set1_epi32(0x01010101), counting()));
        return _mm512_permutexvar_epi8(which, four_lanes(a, b, c, d));
    }
    static __m512i counting() { return _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0); }

    /// The low bytes of four vectors in one.
    static __m512i low_bytes(__m512i a, __m512i b, __m512i c, __m512i d)
    {
        const __m512i byte = _mm512_set1_epi32(255);
        const __m512i lower =
            _mm512_or_si512(_mm512_and_si512(a, byte), _mm512_slli_epi32(_mm512_and_si512(b, byte), 8));
        return _mm512_or_si512(
            lower, _mm512_or_si512(_mm512_slli_epi32(_mm512_and_si512(c, byte), 16), _mm512_slli_epi32(d, 24)));
    }

    template <class B>
    static constexpr bool by_columns = requires(const B* const* row, __m512i* w)
    {
        columns(row, 0, w);
    };

    template <class B>
    requires(by_wide<B> && !by_columns<B>) static size_t
        add_rows(const B*, const Term* terms, uint32_t count, float* y, uint32_t n)
    {
        return WideSum<DotProduct, B>::add(terms, count, y, n);
    }

    /// Sixteen rows at a time in integers: what a block of a row is multiplied with (a_r times its scale) becomes fixed
    /// point of 16 bits for all of them together, in two planes as the activations.
    template <class B>
    requires by_columns<B>
    static size_t add_rows(const B*, const Term* terms, uint32_t count, float* y, uint32_t n)
    {
        constexpr uint32_t rows = 16, quads = rows / 4, together = 16;    // blocks
        const uint32_t turns = n / (together * fixed_block);
        for (; count > 0; terms += rows) {
            const uint32_t here = count < rows ? count : rows, used = (here + 3) / 4;
            count -= here;
            const B* row[rows];
            Vec a[rows];
            for (uint32_t r = 0; r < rows; r++) {
                row[r] = reinterpret_cast<const B*>(terms[r < here ? r : 0].row);
                a[r] = r < here ? set(terms[r].a) : zero();
            }
            RowsAhead ahead(terms, here, turns * together * sizeof(B));
            for (uint32_t turn = 0; turn < turns; turn++) {
                alignas(64) int32_t high[quads][together], low[quads][together], bias[together];
                alignas(64) float scale[together];
                Vec factor[rows], largest = zero();
                for (uint32_t r = 0; r < 4 * used; r++) {
                    ahead.fetch(64);    // the memory has to be kept busy here, too
                    factor[r] = mul(a[r], _mm512_cvtph_ps(sixteen_scales(row[r] + turn * together)));
                    largest = most(largest, abs(factor[r]));
                }
                _mm512_store_ps(scale, mul(largest, set(1 / fixed_max)));
                const __mmask16 some = _mm512_cmp_ps_mask(largest, set(1e-30f),
                                                          _CMP_GE_OQ);    // below about 1e-34 a reciprocal is no float
                const Vec inverse = _mm512_maskz_div_ps(some, set(fixed_max), largest);
                __m512i sum = _mm512_setzero_si512();
                for (uint32_t quad = 0; quad < used; quad++) {
                    __m512i q[4], h[4];
                    for (uint32_t r = 0; r < 4; r++) {
                        q[r] = _mm512_cvtps_epi32(mul(factor[4 * quad + r], inverse));
                        h[r] = _mm512_srai_epi32(_mm512_add_epi32(q[r], _mm512_set1_epi32(128)),
                                                 8);    // the low plane is signed
                        sum = _mm512_add_epi32(sum, q[r]);
                    }
                    _mm512_store_si512(high[quad], low_bytes(h[0], h[1], h[2], h[3]));
                    _mm512_store_si512(low[quad], low_bytes(q[0], q[1], q[2], q[3]));
                }
                _mm512_store_si512(bias, _mm512_mullo_epi32(sum, _mm512_set1_epi32(-Eight<B>::added)));

                for (uint32_t b = 0; b < together; b++, y += fixed_block) {
                    ahead.fetch(here * sizeof(B) - 4 * used * 64 / together);
                    __m512i sum_high[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
                    __m512i sum_low[2] = {_mm512_set1_epi32(bias[b]), _mm512_set1_epi32(bias[b])};
                    for (uint32_t quad = 0; quad < used; quad++) {
                        __m512i w[2];
                        columns(row + 4 * quad, turn * together + b, w);
                        for (uint32_t half = 0; half < 2; half++) {
                            sum_high[half] =
                                _mm512_dpbusd_epi32(sum_high[half], w[half], _mm512_set1_epi32(high[quad][b]));
                            sum_low[half] =
                                _mm512_dpbusd_epi32(sum_low[half], w[half], _mm512_set1_epi32(low[quad][b]));
                        }
                    }
                    for (uint32_t half = 0; half < 2; half++) {
                        const __m512i all = _mm512_add_epi32(_mm512_slli_epi32(sum_high[half], 8), sum_low[half]);
                        store(y + half * lanes, fma(set(scale[b]), _mm512_cvtepi32_ps(all), load(y + half * lanes)));
                    }
                }
            }
            y -= turns * together * fixed_block;
        }
        return turns * together;
    }
};

}    // namespace

constexpr Kernels avx512_kernels = make_kernels<Avx512>(Isa::avx512);

}    // namespace hearth::host
