// Kernels of sparse rows (SparseParts in shaders/blocks.h), written once as those of body.h, which includes
// this. Of an instruction set they want
//
//   expand(values, mask)             Bytes: the next of `values` where the mask's bit is set, else 0
//   expand(values, mask, out)        the same of F16 as 32 / lanes Vecs
//
// which may read up to sparse_slack bytes from `values` on.
#pragma once

#include "host/kernels.h"

namespace hearth::host {

/// Reads a row block by block: the place of a block's values is known once those before it are counted. V is F16 or
/// int8_t.
template <class S, class V>
class SparseRow {
    using Vec = typename S::Vec;
    static constexpr WeightType type = sizeof(V) == 1 ? WeightType::q8_0_sparse : WeightType::f16_sparse;

  public:
    SparseRow() = default;
    SparseRow(const std::byte* row, uint32_t n)
        : row_(row), values_(row + sparse_parts(type, n).values), scales_(row + sparse_parts(type, n).scales)
    {
    }

    /// To block k, whatever was read before; a multiple of 4 as spans have that many.
    void go_to(uint32_t k, uint32_t n)
    {
        const SparseParts parts = sparse_parts(type, n);
        uint16_t before;
        __builtin_memcpy(&before, row_ + parts.starts + k * fixed_block / sparse_span * sizeof before, sizeof before);
        values_ = row_ + parts.values + before * sizeof(V);
    }
    struct Block {
        const std::byte* values;
        uint32_t mask;
    };
    /// Block k, which is the next.
    Block take(uint32_t k)
    {
        Block block = {values_, 0};
        __builtin_memcpy(&block.mask, row_ + k * sizeof block.mask, sizeof block.mask);
        values_ += uint32_t(__builtin_popcount(block.mask)) * sizeof(V);
        return block;
    }
    /// Its integers.
    typename S::Bytes stored(uint32_t k)
    {
        const Block block = take(k);
        return S::expand(reinterpret_cast<const uint8_t*>(block.values), block.mask);
    }
    F16 scale(uint32_t k) const
    {
        F16 d;
        __builtin_memcpy(&d, scales_ + k * sizeof d, sizeof d);
        return d;
    }

    /// Its weights.
    void floats(uint32_t k, Vec* out)
    {
        if constexpr (sizeof(V) == 1) {
            const Vec d = S::set(scale(k));
            S::floats(S::widen(stored(k)), out);
            for (uint32_t v = 0; v < fixed_block / S::lanes; v++) out[v] = S::mul(out[v], d);
        } else {
            const Block block = take(k);
            S::expand(reinterpret_cast<const F16*>(block.values), block.mask, out);
        }
    }

    /// sum[t] += w . x[t] for t < T
    template <uint32_t T>
    void dot(const Input* x, uint32_t k, Vec* sum)
    {
        if constexpr (sizeof(V) == 1) {
            const Vec d = S::set(scale(k));
            const typename S::Block q = S::widen(stored(k));
#pragma GCC unroll 4
            for (uint32_t t = 0; t < T; t++)
                sum[t] = S::fma(d, S::mul(S::dot(q, x[t].q + k * fixed_block), S::set(x[t].scale[k])), sum[t]);
        } else {
            Vec w[fixed_block / S::lanes];
            floats(k, w);
#pragma GCC unroll 4
            for (uint32_t t = 0; t < T; t++)
                for (uint32_t v = 0; v < fixed_block / S::lanes; v++)
                    sum[t] = S::fma(w[v], S::load(x[t].x + k * fixed_block + v * S::lanes), sum[t]);
        }
    }

    /// Brings the parts of another row nearer that lie where this one's are read.
    void fetch(const std::byte* ahead, uint32_t k) const
    {
        if (k % 16 == 0) prefetch(ahead + k * sizeof(uint32_t));
        if (sizeof(V) == 1 && k % 32 == 0) prefetch(ahead + (scales_ - row_) + k * sizeof(F16));
        prefetch(ahead + (values_ - row_));
    }

  private:
    const std::byte *row_ = nullptr, *values_ = nullptr, *scales_ = nullptr;
};

/// y[t] = sum_i w_i x[t]_i for t < T. The order of addition is the same for every T.
template <class S, class V, uint32_t T>
void sparse_dot_tokens(const std::byte* row, const std::byte* ahead, const Input* x, uint32_t n, float* y)
{
    SparseRow<S, V> w(row, n);
    typename S::Vec sum[2][T];    // even and odd blocks
    for (uint32_t t = 0; t < T; t++) sum[0][t] = sum[1][t] = S::zero();
    uint32_t k = 0;
    for (; k + 2 <= n / fixed_block; k += 2) {
        w.fetch(ahead, k);
        w.template dot<T>(x, k, sum[0]);
        w.fetch(ahead, k + 1);
        w.template dot<T>(x, k + 1, sum[1]);
    }
    if (k < n / fixed_block) w.template dot<T>(x, k, sum[0]);
    for (uint32_t t = 0; t < T; t++) y[t] = S::add_lanes(S::add(sum[0][t], sum[1][t]));
}

template <class S, class V>
void sparse_dot_rows(const std::byte* const* rows, uint32_t count, const Input* x, uint32_t tokens, uint32_t n,
                     float* y)
{
    for (uint32_t r = 0; r < count; r++, rows++, y += tokens) {
        uint32_t t = 0;
        for (; t + token_block <= tokens; t += token_block)
            sparse_dot_tokens<S, V, token_block>(rows[0], rows[rows_together], x + t, n, y + t);
        for (; t < tokens; t++) sparse_dot_tokens<S, V, 1>(rows[0], rows[rows_together], x + t, n, y + t);
    }
}

/// y_i += sum_r a_r w[r]_i for r < R. Inline, since GCC 12 believes that it writes nothing (-fipa-modref) and leaves
/// out calls.
template <class S, class V, uint32_t R>
[[gnu::always_inline]] inline void sparse_axpy_few(const Term* terms, float* y, uint32_t n)
{
    constexpr uint32_t vectors = fixed_block / S::lanes;
    SparseRow<S, V> row[R];
    typename S::Vec factor[R];
    for (uint32_t r = 0; r < R; r++) {
        row[r] = SparseRow<S, V>(terms[r].row, n);
        factor[r] = S::set(terms[r].a);
    }
    for (uint32_t k = 0; k < n / fixed_block; k++, y += fixed_block) {
        typename S::Vec sum[vectors], w[vectors];
        for (uint32_t v = 0; v < vectors; v++) sum[v] = S::load(y + v * S::lanes);
        for (uint32_t r = 0; r < R; r++) {
            row[r].fetch(terms[r].ahead, k);
            row[r].floats(k, w);
            for (uint32_t v = 0; v < vectors; v++) sum[v] = S::fma(factor[r], w[v], sum[v]);
        }
        for (uint32_t v = 0; v < vectors; v++) S::store(y + v * S::lanes, sum[v]);
    }
}

template <class S, class V>
void sparse_axpy(const Term* terms, uint32_t count, float* y, uint32_t n)
{
    constexpr uint32_t R = 4;
    for (; count >= R; count -= R, terms += R) sparse_axpy_few<S, V, R>(terms, y, n);
    for (; count > 0; count--, terms++) sparse_axpy_few<S, V, 1>(terms, y, n);
}

template <class S, class V>
void sparse_decode_part(const std::byte* row, uint32_t n, uint32_t first, uint32_t count, float* y)
{
    constexpr uint32_t vectors = fixed_block / S::lanes, span = sparse_span / fixed_block;
    SparseRow<S, V> w(row, n);
    const uint32_t begin = first / fixed_block, end = begin + count / fixed_block;
    w.go_to(begin / span * span, n);
    for (uint32_t k = begin / span * span; k < begin; k++) w.take(k);
    for (uint32_t k = begin; k < end; k++, y += fixed_block) {
        typename S::Vec part[vectors];
        w.floats(k, part);
        for (uint32_t v = 0; v < vectors; v++) S::store(y + v * S::lanes, part[v]);
    }
}

template <class S, class V>
void sparse_decode(const std::byte* row, float* y, uint32_t n)
{
    sparse_decode_part<S, V>(row, n, 0, n, y);
}

/// A row as FixedTile has it.
template <class S>
void sparse_fixed(const std::byte* row, int16_t* q, float* d, float*, uint32_t n)
{
    SparseRow<S, int8_t> w(row, n);
    for (uint32_t k = 0; k < n / fixed_block; k++, q += fixed_block) {
        *d++ = S::first(S::set(w.scale(k)));
        S::store(q, S::widen(w.stored(k)));
    }
}

template <class S, class V>
constexpr RowKernels sparse_row_kernels(WeightType type)
{
    return {.type = type,
            .dot_rows = sparse_dot_rows<S, V>,
            .axpy = sparse_axpy<S, V>,
            .decode = sparse_decode<S, V>,
            .decode_part = sparse_decode_part<S, V>,
            .integers = nullptr,
            .fixed = sizeof(V) == 1 ? sparse_fixed<S> : nullptr,
            .has_minima = false,
            .halves = false,
            .few_tokens = usual_few_tokens};
}

}    // namespace hearth::host
