// The CPU's attention kernels, written once against the instruction set S of body.h, which includes this behind
// the rows that it is made of. S has for them, beside what stands there:
//
//   load(p)              p to int8_t too
//   add_across(v)        lane j: the lanes of v[j] added up, for v[lanes]; in the same order for every j
//   round(v) power(v)    to the nearest whole number; 2^v of whole numbers from -126 on, 0 for -127
//
// A query meets a stretch of keys and values, not one of them at a time: some queries by some positions make a tile
// whose sums stay in registers. What becomes of one query and one position does not depend on the tile they were in.
#pragma once

#include "host/kernels.h"

namespace hearth::host {

/// Queries of a tile; those left over are taken two at a time and one at a time. Of positions there are so many that
/// there is one sum for every lane.
template <class S>
inline constexpr uint32_t tile_queries = S::lanes >= 8 ? S::lanes / 4 : 1;

/// Bytes of values that stay in L1 while all queries meet them, and how far ahead they and keys are fetched (measured:
/// half as much was slower, twice as much no faster).
inline constexpr size_t l1_share = 8192;

/// score[r][p] = q[r] . k[p] for r < R, p < count <= lanes; rows of k are row_bytes apart. Meanwhile, unless it is 0,
/// what lies `ahead` bytes further on is fetched, a little with every step: all at once would fill what holds a core's
/// outstanding reads, and products would wait for them.
template <class S, class W, uint32_t R>
void score_tile(const Input* q, const std::byte* k, size_t row_bytes, uint32_t count, uint32_t n, float* score,
                uint32_t stride, size_t ahead)
{
    using P = Piece<S, W>;
    using Vec = typename S::Vec;
    constexpr uint32_t positions = S::lanes / R;
    const size_t step = n < P::weights ? 0 : positions * row_bytes / (n / P::weights);
    for (uint32_t first = 0; first < count; first += positions) {
        const W* row[positions];    // what lies behind the last position is not there: the last one takes its place
        each<positions>([&](auto p) {
            row[p] = reinterpret_cast<const W*>(k + size_t(first + p < count ? first + p : count - 1) * row_bytes);
        });
        Vec sum[positions][R];
        each<positions>([&](auto p) { each<R>([&](auto r) { sum[p][r] = S::zero(); }); });
        const std::byte* const next = k + first * row_bytes + ahead;
        for (size_t i = 0; i < n / P::weights; i++) {
            if (ahead)
                for (size_t byte = i * step; byte < (i + 1) * step; byte += 64) prefetch(next + byte);
            each<positions>([&](auto p) { P(row[p], i).template dot<R>(q, i, sum[p]); });
        }
        if constexpr (P::weights == S::lanes)
            if (const uint32_t rest = n % S::lanes)
                each<positions>([&](auto p) {    // a loop would keep the sums in memory
                    const Vec w = load_some<S>(row[p] + n - rest, rest);
                    each<R>([&](auto r) { sum[p][r] = S::fma(w, load_some<S>(q[r].x + n - rest, rest), sum[p][r]); });
                });
        Vec all[S::lanes];
        each<R>([&](auto r) { each<positions>([&](auto p) { all[r * positions + p] = sum[p][r]; }); });
        float products[S::lanes];
        S::store(products, S::add_across(all));
        if (first + positions <= count)
            each<R>([&](auto r) {
                __builtin_memcpy(score + size_t(r) * stride + first, products + r * positions,
                                 positions * sizeof(float));
            });
        else
            for (uint32_t r = 0; r < R; r++)
                for (uint32_t p = 0; first + p < count; p++)
                    score[size_t(r) * stride + first + p] = products[r * positions + p];
    }
}

/// score[r][p] = q[r] . k[p] for r < rows, p < positions; k is (positions, n)
template <class S, class W>
void scores(const Input* q, uint32_t rows, const std::byte* k, uint32_t positions, uint32_t n, float* score,
            uint32_t stride)
{
    const size_t row_bytes = n / elements<W> * sizeof(W);
    constexpr uint32_t R = tile_queries<S>, together = S::lanes >= 8 ? S::lanes : 8;
    for (uint32_t first = 0; first < positions; first += together, k += together * row_bytes, score += together) {
        const uint32_t count = positions - first < together ? positions - first : together;
        for (uint32_t part = 0; part < count; part += S::lanes) {
            const uint32_t here = count - part < S::lanes ? count - part : S::lanes;
            const std::byte* const keys = k + part * row_bytes;
            const auto ahead = [&](uint32_t r) { return r == 0 ? l1_share : 0; };
            uint32_t r = 0;
            for (; r + R <= rows; r += R)
                score_tile<S, W, R>(q + r, keys, row_bytes, here, n, score + size_t(r) * stride + part, stride,
                                    ahead(r));
            if constexpr (R > 2)
                for (; r + 2 <= rows; r += 2)
                    score_tile<S, W, 2>(q + r, keys, row_bytes, here, n, score + size_t(r) * stride + part, stride,
                                        ahead(r));
            for (; r < rows; r++)
                score_tile<S, W, 1>(q + r, keys, row_bytes, here, n, score + size_t(r) * stride + part, stride,
                                    ahead(r));
        }
    }
}

/// Numbers of a row of values that are taken together: `vectors` times S::lanes, and a factor of theirs.
template <class S, class W>
struct Values {    // of floats
    static constexpr uint32_t numbers = S::lanes, vectors = 1;
    const W* p;

    explicit Values(const std::byte* p) : p(reinterpret_cast<const W*>(p)) {}
    typename S::Vec times(typename S::Vec a) const { return a; }
    typename S::Vec operator[](uint32_t) const { return S::load(p); }
};

template <class S>
struct Values<S, BlockQ8_0> {
    static constexpr uint32_t numbers = fixed_block, vectors = fixed_block / S::lanes;
    const BlockQ8_0* b;

    explicit Values(const std::byte* p) : b(reinterpret_cast<const BlockQ8_0*>(p)) {}
    typename S::Vec times(typename S::Vec a) const { return S::mul(a, S::set(F16{b->d})); }
    typename S::Vec operator[](uint32_t i) const { return S::load(b->q + i * S::lanes); }
};

/// y[r][c] += sum_p w[r][p] v[p][c] for r < R and the columns of `pieces` Values. Meanwhile, unless it is 0, what lies
/// `ahead` bytes further on is fetched.
template <class S, class W, uint32_t R, uint32_t pieces>
void mix_tile(const float* w, uint32_t stride, const std::byte* v, size_t row_bytes, uint32_t positions, float* y,
              uint32_t n, size_t ahead)
{
    using V = Values<S, W>;
    using Vec = typename S::Vec;
    constexpr uint32_t piece_bytes = V::numbers / elements<W> * sizeof(W);
    Vec sum[R][pieces][V::vectors];
    const auto at = [&](auto r, auto i, auto c) { return y + size_t(r) * n + i * V::numbers + c * S::lanes; };
    each<R>([&](auto r) {
        each<pieces>([&](auto i) { each<V::vectors>([&](auto c) { sum[r][i][c] = S::load(at(r, i, c)); }); });
    });
    for (uint32_t p = 0; p < positions; p++, v += row_bytes) {
        if (ahead)
            for (uint32_t byte = 0; byte < pieces * piece_bytes; byte += 64) prefetch(v + ahead + byte);
        Vec weight[R];
        each<R>([&](auto r) { weight[r] = S::set(w[size_t(r) * stride + p]); });
        each<pieces>([&](auto i) {
            const V value(v + i * piece_bytes);
            Vec factor[R];
            each<R>([&](auto r) { factor[r] = value.times(weight[r]); });
            each<V::vectors>([&](auto c) {
                const Vec numbers = value[c];
                each<R>([&](auto r) { sum[r][i][c] = S::fma(factor[r], numbers, sum[r][i][c]); });
            });
        });
    }
    each<R>([&](auto r) {
        each<pieces>([&](auto i) { each<V::vectors>([&](auto c) { S::store(at(r, i, c), sum[r][i][c]); }); });
    });
}

/// y[r] += sum_p w[r][p] v[p] for r < R
template <class S, class W, uint32_t R>
void mix_rows(const float* w, uint32_t stride, const std::byte* v, uint32_t positions, uint32_t n, float* y,
              size_t ahead)
{
    constexpr uint32_t numbers = Values<S, W>::numbers,
                       together = 4 * S::lanes > numbers ? 4 * S::lanes / numbers : 1;    // pieces: four vectors
    constexpr size_t piece_bytes = numbers / elements<W> * sizeof(W);
    const size_t row_bytes = n / elements<W> * sizeof(W);
    uint32_t i = 0;
    for (; i + together <= n / numbers; i += together)
        mix_tile<S, W, R, together>(w, stride, v + i * piece_bytes, row_bytes, positions, y + i * numbers, n, ahead);
    for (; i < n / numbers; i++)
        mix_tile<S, W, R, 1>(w, stride, v + i * piece_bytes, row_bytes, positions, y + i * numbers, n, ahead);
    if constexpr (numbers == S::lanes)
        if (const uint32_t rest = n % S::lanes)
            for (uint32_t r = 0; r < R; r++) {
                float* const last = y + size_t(r) * n + n - rest;
                typename S::Vec sum = load_some<S>(last, rest);
                for (uint32_t p = 0; p < positions; p++)
                    sum = S::fma(S::set(w[size_t(r) * stride + p]),
                                 load_some<S>(reinterpret_cast<const W*>(v + p * row_bytes) + n - rest, rest), sum);
                store_some<S>(last, sum, rest);
            }
}

/// y[r] = sum_p w[r][p] v[p] for r < rows; v is (positions, n)
template <class S, class W>
void mix(const float* w, uint32_t stride, uint32_t rows, const std::byte* v, uint32_t positions, uint32_t n, float* y)
{
    constexpr uint32_t R = tile_queries<S>;
    const size_t row_bytes = n / elements<W> * sizeof(W);
    const uint32_t together = row_bytes < l1_share
                                  ? uint32_t(l1_share / row_bytes)
                                  : 1;    // positions: every tile of queries and columns reads them again, from L1
    for (size_t i = 0; i < size_t(rows) * n; i++) y[i] = 0;
    for (uint32_t p = 0; p < positions; p += together, v += together * row_bytes, w += together) {
        const uint32_t count = positions - p < together ? positions - p : together;
        const auto ahead = [&](uint32_t r) { return r == 0 ? together * row_bytes : 0; };
        uint32_t r = 0;
        for (; r + R <= rows; r += R)
            mix_rows<S, W, R>(w + size_t(r) * stride, stride, v, count, n, y + size_t(r) * n, ahead(r));
        if constexpr (R > 2)
            for (; r + 2 <= rows; r += 2)
                mix_rows<S, W, 2>(w + size_t(r) * stride, stride, v, count, n, y + size_t(r) * n, ahead(r));
        for (; r < rows; r++)
            mix_rows<S, W, 1>(w + size_t(r) * stride, stride, v, count, n, y + size_t(r) * n, ahead(r));
    }
}

/// e^x of x <= 88, to two parts in ten million; 0 below -87.7. What is not a number stays so.
template <class S>
typename S::Vec exponential(typename S::Vec x)
{
    using Vec = typename S::Vec;
    const Vec n = S::max(S::round(S::mul(x, S::set(1.44269504f))), S::set(-127.0f));
    // x - n ln 2, ln 2 in two parts so that the first product is exact. Where n was held at -127 the rest is of no
    // interest, but has to be finite.
    Vec r = S::fma(n, S::set(-0.693359375f), S::max(S::set(-128.0f), x));
    r = S::fma(n, S::set(2.12194440e-4f), r);
    Vec sum = S::set(1.0f / 5040);    // of r^k / k!; |r| < 0.35, or a little more at the end
    for (const float factor : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f})
        sum = S::fma(sum, r, S::set(factor));
    return S::mul(sum, S::power(n));
}

/// s_p = exp(scale s_p - largest) for p < n, largest = max_p scale s_p; s has room for whole vectors, which are filled
/// up with zeros.
template <class S>
SoftMax soften(float* s, uint32_t n, float scale)
{
    using Vec = typename S::Vec;
    constexpr float lowest = -3e38f;
    const uint32_t end = (n + S::lanes - 1) / S::lanes * S::lanes;
    Vec most = S::set(lowest);
    for (uint32_t p = 0; p < n; p++) s[p] *= scale;
    for (uint32_t p = n; p < end; p++) s[p] = lowest;
    for (uint32_t p = 0; p < end; p += S::lanes) most = S::max(most, S::load(s + p));
    const float largest = S::max_lanes(most);
    Vec sum = S::zero();
    for (uint32_t p = 0; p < end; p += S::lanes) {
        const Vec e = exponential<S>(S::add(S::load(s + p), S::set(-largest)));
        S::store(s + p, e);
        sum = S::add(sum, e);
    }
    return {largest, S::add_lanes(sum)};
}

template <class S, class W>
constexpr CacheKernels cache_kernels(WeightType type)
{
    return {type, scores<S, W>, mix<S, W>};
}

}    // namespace hearth::host
