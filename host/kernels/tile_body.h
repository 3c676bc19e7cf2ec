// Kernels of tiles: some rows times many tokens (FloatTile, FixedTile). Of the instruction set S of body.h, which
// includes this.
#pragma once

#include "host/kernels.h"

namespace hearth::host {

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

}    // namespace hearth::host
