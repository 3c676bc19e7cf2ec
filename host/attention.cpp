#include "host/attention.h"

#include "host/linear.h"
#include "host/quantise.h"

#include <algorithm>
#include <cmath>
#include <new>
#include <vector>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace hearth::host {
namespace {

/// cos and sin of a position's angle, times the magnitude, one pair after the other. In double: at position 4096 a
/// float's angle is off by 2e-4.
std::vector<float> rotation(const Rope& rope, uint32_t position)
{
    std::vector<float> turns;
    turns.reserve(2 * rope.frequencies.size());
    for (const double frequency : rope.frequencies) {
        turns.push_back(float(rope.magnitude * std::cos(position * frequency)));
        turns.push_back(float(rope.magnitude * std::sin(position * frequency)));
    }
    return turns;
}

void turn(float* x, uint32_t heads, uint32_t head_dim, const std::vector<float>& turns, PairOrder order)
{
    const size_t pairs = turns.size() / 2;
    const size_t step = order == PairOrder::neighbours ? 2 : 1, apart = order == PairOrder::neighbours ? 1 : pairs;
    for (uint32_t h = 0; h < heads; h++, x += head_dim)
        for (size_t i = 0; i < pairs; i++) {
            float &first = x[step * i], &second = x[step * i + apart];
            const float a = first, b = second, c = turns[2 * i], s = turns[2 * i + 1];
            first = a * c - b * s;
            second = a * s + b * c;
        }
}

void add(float* x, std::span<const float> bias)
{
    for (size_t i = 0; i < bias.size(); i++) x[i] += bias[i];
}

void normalise(float* x, uint32_t heads, uint32_t head_dim, std::span<const float> weight, float eps)
{
    if (weight.empty()) return;
    for (uint32_t h = 0; h < heads; h++, x += head_dim) kernels().rmsnorm(x, weight.data(), x, head_dim, eps);
}

// ---- queries against a stretch of the cache
// ------------------------------------------------------------------------------

/// What a query has made of some positions: the largest score, the sum of exp(score - largest), and of the values with
/// these weights (head_dim).
struct Part {
    float &largest, &sum;
    float* y;

    static size_t floats(uint32_t head_dim) { return head_dim + 2; }
    Part(float* memory) : largest(memory[0]), sum(memory[1]), y(memory + 2) {}
};

/// all = all and more together; either may be that of no position, whose sum is 0.
void add(const Part& all, const Part& more, uint32_t n)
{
    if (more.sum == 0) return;
    if (all.sum == 0) {    // a window may begin behind the first span
        std::copy_n(&more.largest, Part::floats(n), &all.largest);
        return;
    }
    const float largest = std::max(all.largest, more.largest), kept = std::exp(all.largest - largest),
                taken = std::exp(more.largest - largest);
    all.largest = largest;
    all.sum = all.sum * kept + more.sum * taken;
    for (uint32_t i = 0; i < n; i++) all.y[i] = all.y[i] * kept + more.y[i] * taken;
}

/// Consecutive tokens of the heads that share keys and values.
struct Block {
    uint32_t kv_head, first_token, tokens;
};

/// A batch's queries, rotated, and the cache that they meet.
class Queries {
  public:
    Queries(const AttentionShape& s, const KvCache& cache, const Input& q, uint32_t first)
        : s_(s), cache_(cache), q_(q), first_(first)
    {
    }

    uint32_t group() const { return s_.heads / s_.kv_heads; }
    uint32_t rows(const Block& b) const { return b.tokens * group(); }
    /// The first position that the block's token t sees, and the one behind the last.
    uint32_t begin(const Block& b, uint32_t t) const
    {
        return s_.window && end(b, t) > s_.window ? end(b, t) - s_.window : 0;
    }
    uint32_t end(const Block& b, uint32_t t) const { return first_ + b.first_token + t + 1; }
    /// Of positions, the same for every block.
    uint32_t first_span(const Block& b) const { return begin(b, 0) / attend_span; }
    uint32_t last_span(const Block& b) const { return (end(b, b.tokens - 1) - 1) / attend_span; }

    /// parts[t group + h] = what token t's head h makes of a span of positions; its sum is 0 where it sees none of
    /// them.
    void attend(const Block& b, uint32_t span, float* parts) const
    {
        const Kernels& cpu = kernels();
        const uint32_t n = s_.head_dim, g = group(), from = span * attend_span, rows = this->rows(b);
        const uint32_t positions = std::min(end(b, b.tokens - 1) - from, attend_span);
        thread_local std::vector<Input> q;
        thread_local std::vector<float> score, mixed;
        q.resize(rows);
        score.resize(size_t(rows) * attend_span);
        mixed.resize(size_t(rows) * n);
        for (uint32_t r = 0; r < rows; r++) q[r] = query(b, r);

        cpu.cache(cache_.keys().type)
            .scores(q.data(), rows, cache_.row(cache_.keys(), b.kv_head, from), positions, n, score.data(),
                    attend_span);
        for (uint32_t r = 0; r < rows; r++) {
            const Part part(parts + r * Part::floats(n));
            float* const weights = &score[size_t(r) * attend_span];
            const auto in_span = [&](uint32_t position) { return std::clamp(position, from, from + positions) - from; };
            const uint32_t first = in_span(begin(b, r / g)), last = in_span(end(b, r / g));
            const SoftMax all = first < last ? soften(weights, first, last) : SoftMax{0, 0};
            part.largest = all.largest;
            part.sum = all.sum;
            std::fill(weights + (first < last ? last : 0), weights + positions, 0.0f);
        }
        cpu.cache(cache_.values().type)
            .mix(score.data(), attend_span, rows, cache_.row(cache_.values(), b.kv_head, from), positions, n,
                 mixed.data());
        for (uint32_t r = 0; r < rows; r++) std::copy_n(&mixed[size_t(r) * n], n, Part(parts + r * Part::floats(n)).y);
    }

    /// y of the block's row r, of which `all` knows every span.
    void write(const Block& b, uint32_t r, const Part& all, float* y) const
    {
        for (size_t i = 0; i < s_.head_dim; i++) y[at(b, r) + i] = all.y[i] / all.sum;
    }

  private:
    /// Of the products of q and k from `first` on; those before become zeros.
    SoftMax soften(float* products, uint32_t first, uint32_t last) const
    {
        constexpr float never = -1e37f;    // what weighs nothing beside anything else, also after it was scaled
        std::fill(products, products + first, never);
        if (s_.softcap == 0) return kernels().soften(products, last, s_.scale);
        for (uint32_t i = first; i < last;
             i++) {    // what is not finite stays so: a cap would hide a key beyond the range of the cache
            const float score = s_.scale * products[i];
            products[i] = std::isfinite(score) ? s_.softcap * std::tanh(score / s_.softcap) : score;
        }
        return kernels().soften(products, last, 1);
    }
    /// Where the block's row r stands in q and y.
    size_t at(const Block& b, uint32_t r) const
    {
        return (size_t(b.first_token + r / group()) * s_.heads + b.kv_head * group() + r % group()) * s_.head_dim;
    }
    Input query(const Block& b, uint32_t r) const
    {
        const size_t i = at(b, r);
        if (!q_.q) return {q_.x + i, nullptr, nullptr, nullptr, nullptr};
        return {q_.x + i, q_.q + i, q_.scale + i / fixed_block, q_.sum + i / fixed_block, nullptr};
    }

    const AttentionShape& s_;
    const KvCache& cache_;
    Input q_;    // (tokens, heads, head_dim)
    uint32_t first_;
};

}    // namespace

std::vector<double> rope_frequencies(uint32_t rope_dim, double base)
{
    std::vector<double> frequencies(rope_dim / 2);
    for (size_t i = 0; i < frequencies.size(); i++) frequencies[i] = std::pow(base, -2.0 * double(i) / rope_dim);
    return frequencies;
}

void rotate(const Rope& rope, float* x, uint32_t heads, uint32_t head_dim, uint32_t position)
{
    turn(x, heads, head_dim, rotation(rope, position), rope.pairs);
}

// ---- the cache
// ---------------------------------------------------------------------------------------------------------

namespace {

/// A large page of x86-64. A long context in small ones takes so many that finding them costs as much as reading: they
/// are asked for where the system hands them out on request (Linux), and where what is rounded up is little of the
/// whole.
constexpr size_t large_page = 2 << 20, least_large = 4 * large_page;

KvCache::Side cache_side(WeightType type, uint32_t kv_heads, uint32_t context, uint32_t head_dim)
{
    const size_t row = row_bytes(type, head_dim), spans = (size_t(context) + attend_span - 1) / attend_span,
                 bytes = spans * kv_heads * attend_span * row;
    // Large blocks come from the system as they are touched.
    const std::align_val_t alignment{bytes < least_large ? 64 : large_page};
    std::byte* const memory = static_cast<std::byte*>(::operator new(bytes, alignment));
#ifdef __linux__
    if (bytes >= least_large) madvise(memory, bytes, MADV_HUGEPAGE);    // refused, it only costs time
#endif
    return {type, row, bytes, {memory, [alignment](std::byte* p) { ::operator delete(p, alignment); }}};
}

}    // namespace

KvCache::KvCache(KvTypes types, uint32_t kv_heads, uint32_t context, uint32_t head_dim)
    : kv_heads_(kv_heads), keys_(cache_side(types.k, kv_heads, context, head_dim)),
      values_(cache_side(types.v, kv_heads, context, head_dim))
{
}

// ---- a batch
// -----------------------------------------------------------------------------------------------------------

void attend(Team& team, const AttentionShape& s, KvCache& cache, uint32_t first, uint32_t tokens, float* q, float* k,
            float* v, float* y, AttendScratch& scratch)
{
    const size_t q_size = size_t(s.heads) * s.head_dim, kv_size = size_t(s.kv_heads) * s.head_dim;
    const bool fixed = is_quantised(cache.keys().type);
    scratch.q.resize(fixed ? tokens * q_size : 0);
    scratch.scale.resize(scratch.q.size() / fixed_block);
    scratch.sum.resize(scratch.scale.size());
    const auto encode_key = find_quantiser(cache.keys().type)->encode,
               encode_value = find_quantiser(cache.values().type)->encode;

    parallel_rows(team, tokens, (q_size + 2 * kv_size) * sizeof(float), [&](uint32_t begin, uint32_t end) {
        for (size_t t = begin; t < end; t++) {
            add(q + t * q_size, s.weights.q_bias);
            add(k + t * kv_size, s.weights.k_bias);
            add(v + t * kv_size, s.weights.v_bias);
            normalise(q + t * q_size, s.heads, s.head_dim, s.weights.q_norm, s.weights.eps);
            normalise(k + t * kv_size, s.kv_heads, s.head_dim, s.weights.k_norm, s.weights.eps);
            const std::vector<float> turns = rotation(s.rope, uint32_t(first + t));
            turn(q + t * q_size, s.heads, s.head_dim, turns, s.rope.pairs);
            turn(k + t * kv_size, s.kv_heads, s.head_dim, turns, s.rope.pairs);
            if (fixed) {
                const size_t at = t * q_size, blocks = at / fixed_block;
                kernels().quantise(q + at, &scratch.q[at], &scratch.scale[blocks], &scratch.sum[blocks], nullptr,
                                   uint32_t(q_size));
            }
            for (uint32_t h = 0; h < s.kv_heads; h++) {
                const size_t from = t * kv_size + h * s.head_dim;
                encode_key(k + from, cache.row(cache.keys(), h, uint32_t(first + t)), s.head_dim);
                encode_value(v + from, cache.row(cache.values(), h, uint32_t(first + t)), s.head_dim);
            }
        }
    });

    const Queries queries(
        s, cache, {q, fixed ? scratch.q.data() : nullptr, scratch.scale.data(), scratch.sum.data(), nullptr}, first);
    // So many rows that reading keys and values costs little beside multiplying them, and that the rows stay in the
    // nearest cache.
    constexpr uint32_t enough_rows = 32;
    const uint32_t together = std::max(1u, enough_rows / queries.group()), blocks = (tokens + together - 1) / together,
                   n = s.head_dim;
    const auto block = [&](uint32_t kv_head, uint32_t b) {
        return Block{kv_head, b * together, std::min(together, tokens - b * together)};
    };

    if (blocks == 1 && s.kv_heads < 8 * team.size()) {    // few rows: the threads share each head's spans
        const Block all = block(0, 0);
        const uint32_t earliest = queries.first_span(all), spans = queries.last_span(all) + 1 - earliest,
                       rows = queries.rows(all);
        const size_t row = Part::floats(n);
        scratch.parts.resize(s.kv_heads * spans * rows * row);    // (kv_heads, spans, rows)
        const auto parts = [&](uint32_t kv_head, uint32_t span) {
            return &scratch.parts[(kv_head * spans + span) * rows * row];
        };
        const uint64_t bytes = attend_span * (cache.keys().row_bytes + cache.values().row_bytes);
        parallel_rows(team, spans * s.kv_heads, bytes,
                      [&](uint32_t begin, uint32_t end) {    // in the order in which they lie
                          for (uint32_t i = begin; i < end; i++) {
                              const uint32_t kv_head = i % s.kv_heads, span = i / s.kv_heads;
                              queries.attend(block(kv_head, 0), earliest + span, parts(kv_head, span));
                          }
                      });
        parallel_rows(team, s.kv_heads * rows, spans * row * sizeof(float), [&](uint32_t begin, uint32_t end) {
            for (uint32_t i = begin; i < end; i++) {
                const uint32_t kv_head = i / rows, r = i % rows;
                const Part sum(parts(kv_head, 0) + r * row);
                for (uint32_t span = 1; span < spans; span++) add(sum, parts(kv_head, span) + r * row, n);
                queries.write(block(kv_head, 0), r, sum, y);
            }
        });
        return;
    }
    team.parallel(s.kv_heads * blocks, [&](uint32_t i) {
        // The last tokens see the most, so they come first; blocks of one head lie side by side, so that they find its
        // keys and values in the caches.
        const Block mine = block(i / blocks, blocks - 1 - i % blocks);
        const size_t row = Part::floats(n);
        thread_local std::vector<float> sums, parts;
        sums.assign(queries.rows(mine) * row, 0.0f);
        parts.resize(sums.size());
        const uint32_t earliest = queries.first_span(mine);
        queries.attend(mine, earliest, sums.data());
        for (uint32_t span = earliest + 1; span <= queries.last_span(mine); span++) {
            queries.attend(mine, span, parts.data());
            for (uint32_t r = 0; r < queries.rows(mine); r++) add(&sums[r * row], &parts[r * row], n);
        }
        for (uint32_t r = 0; r < queries.rows(mine); r++) queries.write(mine, r, Part(&sums[r * row]), y);
    });
}

}    // namespace hearth::host
