// The CPU's kernels, written once: of pieces of a row, rows, tiles, sparse rows and attention in files of their own,
// which this includes, and of vectors here. S is an instruction set; avx2_set.h, avx512.cpp and kernels.cpp (plain C++)
// each define one:
//
//   Vec, lanes                      that many floats
//   accumulators                    independent sums of a float dot; times `token_block` they fit into the registers
//   zero() set(a)                   every lane 0, a
//   load(p) store(p, v)             p to float, F16 or (load only) Bf16, of any alignment
//   store_rounded(p, v)             to int16_t, to nearest
//   fma(a, b, c) mul(a, b)          lane by lane; fma is a b + c
//   add(a, b) div(a, b) abs(a)
//   max(a, b)                       b where one is not a number
//   most(a, b) most_lanes(v)        of numbers that are not negative the larger, where NaN is larger than all; the same
//                                   of all lanes
//   add_lanes(v) max_lanes(v)       to one float
//   signs(v)                        bit i: the sign bit of lane i
//   eight(bytes, x)                 products of 8 unsigned bytes with 8 floats, added up to one number per lane
//   only(a)                         a in one lane, 0 in the others
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
//   dot(block, x)                   32 products with int16_t x[32], added up to one number per lane; a lane holds up
//                                   to 4096 * 32512 * 4
//   floats(block, out)              the integers as 32 / lanes Vecs
//   store(p, block)                 to int16_t
//   first(v)                        lane 0
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
//   fill(q, scale, by_pairs, by_blocks, half_sum)
//                                           the same in words (see GroupWords and Input)
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

}    // namespace hearth::host

#include "host/kernels/sparse_body.h"

#include "host/kernels/piece_body.h"
#include "host/kernels/row_body.h"
#include "host/kernels/tile_body.h"

namespace hearth::host {

// ---- vectors --------------------------------------------------------------------------------------------------------

/// y_i = w_i x_i / sqrt(mean(x^2) + eps)
template <class S>
void rmsnorm(const float* x, const float* w, float* y, uint32_t n, float eps)
{
    const Input self = FixedPoint{}.of(x);
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
        for (uint32_t g = 0; to.by_pairs && g < groups; g++)
            S::fill(q + g * group_numbers, to.scale + g * (group_numbers / fixed_block), to.by_pairs[g],
                    to.by_blocks[g], to.half_sum + g * (2 * group_numbers / fixed_block));
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

/// x_i = x_i / (1 + exp(-z_i)),  z_i = x_i (linear + cubic x_i^2)
template <class S>
void gate(float* x, uint32_t n, float linear, float cubic)
{
    using Vec = typename S::Vec;
    const auto gated = [&](Vec v) {
        Vec factor = S::set(linear);
        if (cubic != 0)
            factor = S::fma(S::mul(v, v), S::set(cubic), factor);    // else infinity would be multiplied by 0
        // e^88 is near the largest float.
        const Vec z = S::max(S::set(-88.0f), S::mul(v, factor));
        return S::div(v, S::add(S::set(1.0f), exponential<S>(S::mul(z, S::set(-1.0f)))));
    };
    uint32_t i = 0;
    for (; i + S::lanes <= n; i += S::lanes) S::store(x + i, gated(S::load(x + i)));
    if (i < n) store_some<S>(x + i, gated(load_some<S>(x + i, n - i)), n - i);
}

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
    if constexpr (!by_groups<typename OfRows<S, W>::Set, W>)
        k.most_one_by_one = elements < W >> 1 ? UINT32_MAX : bytes_that_stay / sizeof(float);
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
            .gate = gate<S>,
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
