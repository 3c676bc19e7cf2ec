// Kernels of rows, by pieces of them (piece_body.h): products with few tokens, sums of rows, weights as floats and as
// integers. Of the instruction set S of body.h, which includes this.
#pragma once

#include "host/kernels.h"

namespace hearth::host {

/// Whether S has a piece of several blocks of W.
template <class S, class W>
inline constexpr bool has_wide = requires
{
    S::template Wide<W>::weights;
};

/// sum[t] += the products of numbers first to last with pieces P, in turns of all accumulators; `first` begins one.
/// Fetches as many bytes at `ahead`.
template <class S, class W, class P, uint32_t T, uint32_t accumulators>
[[gnu::always_inline]] inline void dot_stretch(const W* row, const std::byte* ahead, const Input* x, uint32_t first,
                                               uint32_t last, typename S::Vec (&sum)[accumulators][T])
{
    constexpr uint32_t A = P::accumulators, bytes = A * P::weights / elements<W> * sizeof(W);    // of one turn
    typename S::Vec part[A][T];
    for (uint32_t a = 0; a < A; a++)
        for (uint32_t t = 0; t < T; t++) part[a][t] = sum[a][t];
    size_t k = first / P::weights;
    const size_t end = last / P::weights;
    for (; k + A <= end; k += A, ahead += bytes) {
        for (uint32_t b = 0; b < bytes; b += 64) prefetch(ahead + b);
#pragma GCC unroll 4
        for (uint32_t a = 0; a < A; a++) P(row, k + a).template dot<T>(x, k + a, part[a]);
    }
    if constexpr (A > 1)
        for (; k < end; k++) P(row, k).template dot<T>(x, k, part[0]);
    for (uint32_t a = 0; a < A; a++)
        for (uint32_t t = 0; t < T; t++) sum[a][t] = part[a][t];
}

/// sum[r][.][t] += the products of numbers first to last of n with pieces P. Where x is so long that it leaves L1
/// before the next row wants it, a stretch of every row, then the next of every row; but not for one token in fixed
/// point, which comes from L2 in less time than its weights are taken apart. What comes `bytes_ahead` later is fetched
/// meanwhile, be it in the row or, behind its end, in next[r]; of whole rows it is next[r].
template <class S, class W, class P, uint32_t R, uint32_t T, uint32_t accumulators>
[[gnu::always_inline]] inline void dot_range(const std::byte* const* rows, const std::byte* const* next, const Input* x,
                                             uint32_t first, uint32_t last, uint32_t n,
                                             typename S::Vec (&sum)[R][accumulators][T])
{
    constexpr uint32_t turn = P::accumulators * P::weights;
    constexpr size_t number = elements < W >> 1 ? sizeof *x->q : sizeof *x->x;
    const auto bytes = [](uint32_t numbers) { return size_t(numbers) / elements<W> * sizeof(W); };
    const bool whole = R == 1 || (T == 1 && elements < W >> 1) || T * n * number <= bytes_that_stay;
    const uint32_t stretch = whole ? n : bytes_in_turn * elements<W> / sizeof(W) / turn * turn;
    for (; first < last; first += stretch) {
        const uint32_t here = last - first < stretch ? last : first + stretch;
        const size_t end = bytes(n), at = bytes(first) + (whole ? end : bytes_ahead);
        for (uint32_t r = 0; r < R; r++)
            dot_stretch<S, W, P, T>(reinterpret_cast<const W*>(rows[r]), at < end ? rows[r] + at : next[r] + (at - end),
                                    x, first, here, sum[r]);
    }
}

/// y[r stride + t] = sum_i w[r]_i x[t]_i for r < R, t < T. The order of addition is the same for every R and T. Not
/// inline: loops for one token and for several in one function had too few registers for both.
template <class S, class W, uint32_t R, uint32_t T>
[[gnu::noinline]] void dot_together(const std::byte* const* rows, const std::byte* const* next, const Input* x,
                                    uint32_t n, float* y, uint32_t stride)
{
    using P = Piece<S, W>;
    using Vec = typename S::Vec;
    constexpr uint32_t A = P::accumulators;
    Vec sum[R][A][T];
    const W* row[R];
    for (uint32_t r = 0; r < R; r++) {
        row[r] = reinterpret_cast<const W*>(rows[r]);
        for (uint32_t a = 0; a < A; a++)
            for (uint32_t t = 0; t < T; t++) sum[r][a][t] = S::zero();
    }
    uint32_t wide = 0;
    if constexpr (has_wide<S, W>)
        if (x->by_pairs) {
            wide = n / S::template Wide<W>::weights * S::template Wide<W>::weights;
            dot_range<S, W, typename S::template Wide<W>, R, T>(rows, next, x, 0, wide, n, sum);
        }
    dot_range<S, W, P, R, T>(rows, next, x, wide, n, n, sum);
    for (uint32_t r = 0; r < R; r++)
        for (uint32_t t = 0; t < T; t++) {
            if constexpr (P::weights == S::lanes)    // a block format has no rest
                if (const uint32_t rest = n % S::lanes)
                    sum[r][0][t] = S::fma(load_some<S>(row[r] + n - rest, rest), load_some<S>(x[t].x + n - rest, rest),
                                          sum[r][0][t]);
            for (uint32_t a = 1; a < A; a++) sum[r][0][t] = S::add(sum[r][0][t], sum[r][a][t]);
            y[size_t(r) * stride + t] = S::add_lanes(sum[r][0][t]);
        }
}

/// y[r tokens + t] = sum_i w[r]_i x[t]_i for r < R, t < tokens
template <class S, class W, uint32_t R>
void dot_some(const std::byte* const* rows, const Input* x, uint32_t tokens, uint32_t n, float* y)
{
    uint32_t t = 0;
    for (; t + token_block <= tokens; t += token_block)
        dot_together<S, W, R, token_block>(rows, rows + R, x + t, n, y + t, tokens);
    for (; t + 2 <= tokens; t += 2) dot_together<S, W, R, 2>(rows, rows + R, x + t, n, y + t, tokens);
    if (t < tokens) dot_together<S, W, R, 1>(rows, rows + R, x + t, n, y + t, tokens);
}

template <class S>
inline constexpr bool reads_planes = requires(GroupPlanes& g)
{
    S::template fill<false>(nullptr, g);
};
template <class S>
inline constexpr bool reads_words = requires(GroupWords& g)
{
    S::fill(nullptr, nullptr, g, g, nullptr);
};

/// Whether S takes eight rows of W at a time.
template <class S, class W>
inline constexpr bool by_groups = requires(const W* const* rows, const std::byte* const* next, const Input* x)
{
    S::template meet_groups<1, false>(rows, next, x, 0, 0, static_cast<typename S::Sums*>(nullptr));
};

/// y[r stride + t] = sum_i w[r]_i x[t]_i for r < count <= 8, t < tokens. `first` and `more` say how many tokens there
/// are (see meet_groups), or `first` is 0 for one that is alone: loops for any number in one function had too few
/// registers, and a quarter of the time went there.
template <class S, class W, uint32_t first, bool more>
[[gnu::noinline]] void dot_eight(const std::byte* const* rows, uint32_t count, const Input* x, uint32_t tokens,
                                 uint32_t n, float* y, uint32_t stride)
{
    const W* row[8];
    const std::byte* next[8];
    for (uint32_t r = 0; r < 8; r++) {    // what is missing of eight is the first once more
        row[r] = reinterpret_cast<const W*>(rows[r < count ? r : 0]);
        next[r] = rows[rows_together + (r < count ? r : 0)];
    }
    constexpr bool alone = first == 0;
    std::conditional_t<alone, typename S::SumsOfOne, typename S::Sums> sums[more ? S::tokens_at_once : alone + first];
    for (uint32_t t = 0; t < tokens; t++) sums[t] = {};
    uint32_t whole;
    if constexpr (alone) whole = S::meet_groups(row, next, *x, n, *sums);
    else whole = S::template meet_groups<first, more>(row, next, x, tokens, n, sums);

    /// What is behind the last whole group is added in turns, as dot_stretch takes them.
    const auto with_rest = [&](uint32_t r, uint32_t t) {
        constexpr uint32_t A = Piece<S, W>::accumulators;
        typename S::Vec sum[A][1];
        for (uint32_t a = 0; a < A; a++) sum[a][0] = a ? S::zero() : sums[t].of_row(r);
        dot_stretch<S, W, Piece<S, W>, 1>(row[r], next[r], x + t, whole, n, sum);
        for (uint32_t a = 1; a < A; a++) sum[0][0] = S::add(sum[0][0], sum[a][0]);
        return S::add_lanes(sum[0][0]);
    };
    for (uint32_t t = 0; t < tokens; t++) {
        float products[8];
        sums[t].add_lanes(products);
        for (uint32_t r = 0; r < count; r++) y[size_t(r) * stride + t] = whole < n ? with_rest(r, t) : products[r];
    }
}

/// The same for any count and as many tokens as S takes at once.
template <class S, class W>
void dot_by_eights(const std::byte* const* rows, uint32_t count, const Input* x, uint32_t tokens, uint32_t n, float* y,
                   uint32_t stride)
{
    constexpr decltype(&dot_eight<S, W, 1, false>) few[] = {dot_eight<S, W, 1, false>, dot_eight<S, W, 2, false>,
                                                            dot_eight<S, W, 3, false>, dot_eight<S, W, 4, false>},
                                                   many[] = {dot_eight<S, W, 1, true>, dot_eight<S, W, 2, true>,
                                                             dot_eight<S, W, 3, true>, dot_eight<S, W, 4, true>};
    const auto dot = x->alone ? dot_eight<S, W, 0, false> : (tokens <= 4 ? few : many)[(tokens - 1) % 4];
    for (uint32_t r = 0; r < count; r += 8)
        dot(rows + r, count - r < 8 ? count - r : 8, x, tokens, n, y + size_t(r) * stride, stride);
}

template <class S, class W>
void dot_rows(const std::byte* const* rows, uint32_t count, const Input* x, uint32_t tokens, uint32_t n, float* y)
{
    if constexpr (by_groups<S, W>)
        if (x->planes || x->alone) {
            constexpr uint32_t most = S::tokens_at_once;
            for (uint32_t t = 0; t < tokens; t += most)
                dot_by_eights<S, W>(rows, count, x + t, tokens - t < most ? tokens - t : most, n, y + t, tokens);
            return;
        }
    uint32_t r = 0;
    for (; r + rows_together <= count; r += rows_together)
        dot_some<S, W, rows_together>(rows + r, x, tokens, n, y + size_t(r) * tokens);
    for (; r < count; r++) dot_some<S, W, 1>(rows + r, x, tokens, n, y + size_t(r) * tokens);
}

/// The rows that will be wanted after these, fetched one after the other: memory is slower where many rows are read
/// side by side.
class RowsAhead {
  public:
    RowsAhead(const Term* terms, uint32_t rows, size_t row_bytes)
        : terms_(terms), end_(terms + rows), row_bytes_(row_bytes)
    {
    }

    void fetch(size_t bytes)
    {
        for (owed_ += int64_t(bytes); owed_ > 0 && terms_ < end_; owed_ -= 64) {
            prefetch(terms_->ahead + at_);
            at_ += 64;
            if (at_ < row_bytes_) continue;
            at_ = 0;
            terms_++;
        }
    }

  private:
    const Term *terms_, *end_;
    size_t row_bytes_, at_ = 0;
    int64_t owed_ = 0;
};

/// y_i += sum_r a_r w[r]_i for r < R, from piece `first` on: every element is so many multiplications and additions, in
/// this order.
template <class S, class W, uint32_t R>
void axpy_few(const Term* terms, float* y, uint32_t n, size_t first = 0)
{
    using P = Piece<S, W>;
    constexpr uint32_t width = P::weights / P::parts, bytes = P::weights / elements<W> * sizeof(W);    // of a piece
    const W* row[R];
    typename S::Vec factor[R];
    for (uint32_t r = 0; r < R; r++) {
        row[r] = reinterpret_cast<const W*>(terms[r].row);
        factor[r] = S::set(terms[r].a);
    }
    RowsAhead ahead(terms, first ? 0 : R, n / P::weights * bytes);
    for (size_t k = first; k < n / P::weights; k++) {
        float* const part_of_y = y + k * P::weights;
        ahead.fetch(R * bytes);
        if constexpr (P::parts == 1) {
            constexpr uint32_t V = width / S::lanes;
            typename S::Vec sum[V];
            for (uint32_t v = 0; v < V; v++) sum[v] = S::load(part_of_y + v * S::lanes);
#pragma GCC unroll 8
            for (uint32_t r = 0; r < R; r++) P(row[r], k).add(factor[r], sum);
            for (uint32_t v = 0; v < V; v++) S::store(part_of_y + v * S::lanes, sum[v]);
        } else {
            for (uint32_t r = 0; r < R; r++) {
                const P piece(row[r], k);
#pragma GCC unroll 8
                for (uint32_t p = 0; p < P::parts; p++) {
                    typename S::Vec part[width / S::lanes];
                    piece.decode(p, part);
                    for (uint32_t v = 0; v < width / S::lanes; v++) {
                        float* const to = part_of_y + p * width + v * S::lanes;
                        S::store(to, S::fma(factor[r], part[v], S::load(to)));
                    }
                }
            }
        }
    }
    if constexpr (P::weights == S::lanes)
        if (const uint32_t rest = n % S::lanes)
            for (uint32_t r = 0; r < R; r++)
                store_some<S>(
                    y + n - rest,
                    S::fma(factor[r], load_some<S>(row[r] + n - rest, rest), load_some<S>(y + n - rest, rest)), rest);
}

/// y_i += sum_r a_r w[r]_i for r < count
template <class S, class W>
void axpy(const Term* terms, uint32_t count, float* y, uint32_t n)
{
    size_t first = 0;
    if constexpr (requires(const W* w) { S::add_rows(w, terms, count, y, n); })
        first = S::add_rows(static_cast<const W*>(nullptr), terms, count, y, n);
    constexpr uint32_t R = 8;
    for (; count >= R; count -= R, terms += R) axpy_few<S, W, R>(terms, y, n, first);
    for (; count > 0; count--, terms++) axpy_few<S, W, 1>(terms, y, n, first);
}

/// y_i = w_i
template <class S, class W>
void decode(const std::byte* row, float* y, uint32_t n)
{
    using P = Piece<S, W>;
    const W* w = reinterpret_cast<const W*>(row);
    constexpr uint32_t width = P::weights / P::parts;
    for (size_t k = 0; k < n / P::weights; k++) {
        const P piece(w, k);
#pragma GCC unroll 8
        for (uint32_t p = 0; p < P::parts; p++, y += width) {
            typename S::Vec part[width / S::lanes];
            piece.decode(p, part);
            for (uint32_t v = 0; v < width / S::lanes; v++) S::store(y + v * S::lanes, part[v]);
        }
    }
    if constexpr (P::weights == S::lanes)
        if (const uint32_t rest = n % S::lanes) store_some<S>(y, load_some<S>(w + n - rest, rest), rest);
}

/// y_i = w_(first + i) for i < count
template <class S, class W>
void decode_part(const std::byte* row, uint32_t, uint32_t first, uint32_t count, float* y)
{
    decode<S, W>(row + first / elements<W> * sizeof(W), y, count);
}

/// q_i = the integer that the file has for weight i
template <class S, class B>
void integers(const std::byte* row, uint8_t* q, uint32_t n)
{
    for (size_t k = 0; k < n / elements<B>; k++) {
        const Unpacked<S, B> b(reinterpret_cast<const B*>(row)[k]);
#pragma GCC unroll 8
        for (uint32_t p = 0; p < elements<B> / fixed_block; p++, q += fixed_block) S::store(q, b.stored(p));
    }
}

}    // namespace hearth::host
