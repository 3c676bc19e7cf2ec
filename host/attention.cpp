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
void rotation(const Rope& rope, uint32_t position, float* turns)
{
    for (const double frequency : rope.frequencies) {
        *turns++ = float(rope.magnitude * std::cos(position * frequency));
        *turns++ = float(rope.magnitude * std::sin(position * frequency));
    }
}

/// Those of all rows, which the layers of a batch have in common: computed for the first of them.
std::span<const float> turns_of(Team& team, const Rope& rope, std::span<const Row> rows, AttendScratch& scratch)
{
    const auto same_place = [](const Row& row, uint32_t position) { return row.position == position; };
    const size_t width = 2 * rope.frequencies.size();
    for (const AttendScratch::Turns& t : scratch.turns)
        if (t.magnitude == rope.magnitude && std::ranges::equal(t.frequencies, rope.frequencies) &&
            std::ranges::equal(rows, t.positions, same_place))
            return t.of_rows;
    AttendScratch::Turns& t = scratch.turns[scratch.oldest_turns];
    scratch.oldest_turns = 1 - scratch.oldest_turns;
    t.frequencies.assign(rope.frequencies.begin(), rope.frequencies.end());
    t.magnitude = rope.magnitude;
    t.positions.clear();
    for (const Row& row : rows) t.positions.push_back(row.position);
    t.of_rows.resize(rows.size() * width);
    parallel_rows(team, uint32_t(rows.size()), width * sizeof(double), [&](uint32_t begin, uint32_t end) {
        for (size_t r = begin; r < end; r++) rotation(rope, rows[r].position, t.of_rows.data() + r * width);
    });
    return t.of_rows;
}

void turn(float* x, uint32_t heads, uint32_t head_dim, std::span<const float> turns, PairOrder order)
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

// ---- queries against a stretch of the cache -------------------------------------------------------------------------

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

/// Neighbouring rows of one sequence, and the pages that they see.
struct Block {
    uint32_t first, rows;
    uint32_t first_page, pages;
};

/// A batch's queries, rotated, and the cache that they meet. A block has a query for each of its rows and each of the
/// heads that share a key.
class Queries {
  public:
    Queries(const AttentionShape& s, const KvCache& cache, const Input& q, std::span<const Row> rows)
        : s_(s), cache_(cache), q_(q), rows_(rows)
    {
    }

    uint32_t group() const { return s_.heads / s_.kv_heads; }

    /// At most `together` rows each.
    std::vector<Block> blocks(uint32_t together) const
    {
        std::vector<Block> blocks;
        for (uint32_t r = 0; r < rows_.size(); r++) {
            const bool goes_on = r > 0 && rows_[r].pages == rows_[r - 1].pages && blocks.back().rows < together;
            if (!goes_on) blocks.push_back({r, 0, 0, 0});
            blocks.back().rows++;
        }
        for (Block& b : blocks) {
            uint32_t begin = UINT32_MAX, end = 0;
            for (uint32_t r = b.first; r < b.first + b.rows; r++) {
                begin = std::min(begin, this->begin(r));
                end = std::max(end, rows_[r].sees);
            }
            b.first_page = begin / page_positions;
            b.pages = (end - 1) / page_positions + 1 - b.first_page;
        }
        return blocks;
    }
    uint32_t queries(const Block& b) const { return b.rows * group(); }

    /// parts[r group + h] = what the block's row r makes of the i-th of its pages with head h of those that share
    /// kv_head; its sum is 0 where it sees none of its positions.
    void attend(const Block& b, uint32_t kv_head, uint32_t i, float* parts) const
    {
        const Kernels& cpu = kernels();
        const uint32_t n = s_.head_dim, g = group(), from = (b.first_page + i) * page_positions,
                       queries = this->queries(b);
        const uint32_t page = rows_[b.first].pages[b.first_page + i];
        uint32_t end = 0;
        for (uint32_t r = 0; r < b.rows; r++) end = std::max(end, rows_[b.first + r].sees);
        const uint32_t positions = std::min(end - from, page_positions);
        thread_local std::vector<Input> q;
        thread_local std::vector<float> score, mixed;
        q.resize(queries);
        score.resize(size_t(queries) * page_positions);
        mixed.resize(size_t(queries) * n);
        for (uint32_t j = 0; j < queries; j++) q[j] = query(b, kv_head, j);

        cpu.cache(cache_.keys().type)
            .scores(q.data(), queries, cache_.row(cache_.keys(), kv_head, page, 0), positions, n, score.data(),
                    page_positions);
        for (uint32_t j = 0; j < queries; j++) {
            const Part part(parts + j * Part::floats(n));
            float* const weights = &score[size_t(j) * page_positions];
            const auto in_page = [&](uint32_t position) { return std::clamp(position, from, from + positions) - from; };
            const uint32_t row = b.first + j / g, first = in_page(begin(row)), last = in_page(rows_[row].sees);
            const SoftMax all = first < last ? soften(weights, first, last) : SoftMax{0, 0};
            part.largest = all.largest;
            part.sum = all.sum;
            std::fill(weights + (first < last ? last : 0), weights + positions, 0.0f);
        }
        cpu.cache(cache_.values().type)
            .mix(score.data(), page_positions, queries, cache_.row(cache_.values(), kv_head, page, 0), positions, n,
                 mixed.data());
        for (uint32_t j = 0; j < queries; j++)
            std::copy_n(&mixed[size_t(j) * n], n, Part(parts + j * Part::floats(n)).y);
    }

    /// y of the block's query j, of which `all` knows every page.
    void write(const Block& b, uint32_t kv_head, uint32_t j, const Part& all, float* y) const
    {
        for (size_t i = 0; i < s_.head_dim; i++) y[at(b, kv_head, j) + i] = all.y[i] / all.sum;
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
    /// The first position that a row sees.
    uint32_t begin(uint32_t row) const
    {
        const uint32_t behind = rows_[row].position + 1;
        return s_.window && behind > s_.window ? behind - s_.window : 0;
    }
    /// Where the block's query j stands in q and y.
    size_t at(const Block& b, uint32_t kv_head, uint32_t j) const
    {
        return (size_t(b.first + j / group()) * s_.heads + kv_head * group() + j % group()) * s_.head_dim;
    }
    Input query(const Block& b, uint32_t kv_head, uint32_t j) const
    {
        const size_t i = at(b, kv_head, j);
        if (!q_.q) return {q_.x + i, nullptr, nullptr, nullptr, nullptr, nullptr};
        return {q_.x + i, q_.q + i, q_.scale + i / fixed_block, q_.sum + i / fixed_block, nullptr, nullptr};
    }

    const AttentionShape& s_;
    const KvCache& cache_;
    Input q_;    // (rows, heads, head_dim)
    std::span<const Row> rows_;
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
    std::vector<float> turns(2 * rope.frequencies.size());
    rotation(rope, position, turns.data());
    turn(x, heads, head_dim, turns, rope.pairs);
}

// ---- the cache ------------------------------------------------------------------------------------------------------

namespace {

/// A large page of x86-64. A long context in small ones takes so many that finding them costs as much as reading: they
/// are asked for where the system hands them out on request (Linux), and where what is rounded up is little of the
/// whole.
constexpr size_t large_page = 2 << 20, least_large = 4 * large_page;

KvCache::Side cache_side(WeightType type, uint32_t kv_heads, uint32_t pages, uint32_t head_dim)
{
    const size_t row = row_bytes(type, head_dim), bytes = size_t(pages) * kv_heads * page_positions * row;
    // Large blocks come from the system as they are touched.
    const std::align_val_t alignment{bytes < least_large ? 64 : large_page};
    std::byte* const memory = static_cast<std::byte*>(::operator new(bytes, alignment));
#ifdef __linux__
    if (bytes >= least_large) madvise(memory, bytes, MADV_HUGEPAGE);    // refused, it only costs time
#endif
    return {type, row, bytes, {memory, [alignment](std::byte* p) { ::operator delete(p, alignment); }}};
}

}    // namespace

KvCache::KvCache(KvTypes types, uint32_t kv_heads, uint32_t pages, uint32_t head_dim)
    : kv_heads_(kv_heads), keys_(cache_side(types.k, kv_heads, pages, head_dim)),
      values_(cache_side(types.v, kv_heads, pages, head_dim))
{
}

void KvCache::copy_page(uint32_t from, uint32_t to)
{
    for (const Side* side : {&keys_, &values_})
        std::copy_n(row(*side, 0, from, 0), kv_heads_ * page_positions * side->row_bytes, row(*side, 0, to, 0));
}

// ---- a batch --------------------------------------------------------------------------------------------------------

void attend(Team& team, const AttentionShape& s, KvCache& cache, std::span<const Row> rows, float* q, float* k,
            float* v, float* y, AttendScratch& scratch)
{
    const size_t q_size = size_t(s.heads) * s.head_dim, kv_size = size_t(s.kv_heads) * s.head_dim;
    const uint32_t n = s.head_dim;
    const bool fixed = is_quantised(cache.keys().type);
    scratch.q.resize(fixed ? rows.size() * q_size : 0);
    scratch.scale.resize(scratch.q.size() / fixed_block);
    scratch.sum.resize(scratch.scale.size());
    const auto encode_key = find_quantiser(cache.keys().type)->encode,
               encode_value = find_quantiser(cache.values().type)->encode;
    const std::span<const float> turns = turns_of(team, s.rope, rows, scratch);
    const size_t turns_size = 2 * s.rope.frequencies.size();

    parallel_rows(
        team, uint32_t(rows.size()), (q_size + 2 * kv_size) * sizeof(float), [&](uint32_t begin, uint32_t end) {
            for (size_t r = begin; r < end; r++) {
                add(q + r * q_size, s.weights.q_bias);
                add(k + r * kv_size, s.weights.k_bias);
                add(v + r * kv_size, s.weights.v_bias);
                normalise(q + r * q_size, s.heads, n, s.weights.q_norm, s.weights.eps);
                normalise(k + r * kv_size, s.kv_heads, n, s.weights.k_norm, s.weights.eps);
                const uint32_t position = rows[r].position;
                const auto of_row = turns.subspan(r * turns_size, turns_size);
                turn(q + r * q_size, s.heads, n, of_row, s.rope.pairs);
                turn(k + r * kv_size, s.kv_heads, n, of_row, s.rope.pairs);
                if (fixed) {
                    const size_t at = r * q_size, blocks = at / fixed_block;
                    const FixedPoint to = {
                        .q = &scratch.q[at], .scale = &scratch.scale[blocks], .sum = &scratch.sum[blocks]};
                    kernels().quantise(q + at, to, uint32_t(q_size));
                }
                const uint32_t page = rows[r].pages[position / page_positions], in_page = position % page_positions;
                for (uint32_t h = 0; h < s.kv_heads; h++) {
                    const size_t from = r * kv_size + h * n;
                    encode_key(k + from, cache.row(cache.keys(), h, page, in_page), n);
                    encode_value(v + from, cache.row(cache.values(), h, page, in_page), n);
                }
            }
        });

    const Queries queries(
        s, cache, {q, fixed ? scratch.q.data() : nullptr, scratch.scale.data(), scratch.sum.data(), nullptr, nullptr},
        rows);
    // So many queries that reading keys and values costs little beside multiplying them, and that they stay in the
    // nearest cache.
    constexpr uint32_t enough_queries = 32;
    const std::vector<Block> blocks = queries.blocks(std::max(1u, enough_queries / queries.group()));
    const uint32_t count = uint32_t(blocks.size());
    const size_t part_floats = Part::floats(n);

    if (count * s.kv_heads < 8 * team.size()) {    // few blocks: the threads share each head's pages
        struct Share {
            const Block* block;
            uint32_t page;    // of the block's
            size_t parts;     // where its parts begin: (kv_heads, pages, queries) of every block
        };
        std::vector<Share> shares;
        size_t parts = 0;
        for (const Block& b : blocks) {
            for (uint32_t page = 0; page < b.pages; page++) shares.push_back({&b, page, parts});
            parts += size_t(s.kv_heads) * b.pages * queries.queries(b) * part_floats;
        }
        scratch.parts.resize(parts);
        const auto part_of = [&](const Share& share, uint32_t kv_head, uint32_t page) {
            const size_t of_page = queries.queries(*share.block) * part_floats;
            return &scratch.parts[share.parts + (size_t(kv_head) * share.block->pages + page) * of_page];
        };
        const uint64_t bytes = page_positions * (cache.keys().row_bytes + cache.values().row_bytes);
        parallel_rows(team, uint32_t(shares.size()) * s.kv_heads, bytes,
                      [&](uint32_t begin, uint32_t end) {    // in the order in which they lie
                          for (uint32_t i = begin; i < end; i++) {
                              const Share& share = shares[i / s.kv_heads];
                              const uint32_t kv_head = i % s.kv_heads;
                              queries.attend(*share.block, kv_head, share.page, part_of(share, kv_head, share.page));
                          }
                      });
        for (const Share& share : shares) {
            if (share.page > 0) continue;    // each block once
            const Block& b = *share.block;
            const uint32_t of_head = queries.queries(b);
            parallel_rows(team, s.kv_heads * of_head, b.pages * part_floats * sizeof(float),
                          [&](uint32_t begin, uint32_t end) {
                              for (uint32_t i = begin; i < end; i++) {
                                  const uint32_t kv_head = i / of_head, j = i % of_head;
                                  const Part sum(part_of(share, kv_head, 0) + j * part_floats);
                                  for (uint32_t page = 1; page < b.pages; page++)
                                      add(sum, part_of(share, kv_head, page) + j * part_floats, n);
                                  queries.write(b, kv_head, j, sum, y);
                              }
                          });
        }
        return;
    }
    team.parallel(s.kv_heads * count, [&](uint32_t i) {
        // The last rows see the most, so they come first; blocks of one head lie side by side, so that they find its
        // keys and values in the caches.
        const uint32_t kv_head = i / count;
        const Block& mine = blocks[count - 1 - i % count];
        thread_local std::vector<float> sums, parts;
        sums.assign(queries.queries(mine) * part_floats, 0.0f);
        parts.resize(sums.size());
        queries.attend(mine, kv_head, 0, sums.data());
        for (uint32_t page = 1; page < mine.pages; page++) {
            queries.attend(mine, kv_head, page, parts.data());
            for (uint32_t j = 0; j < queries.queries(mine); j++)
                add(&sums[j * part_floats], &parts[j * part_floats], n);
        }
        for (uint32_t j = 0; j < queries.queries(mine); j++)
            queries.write(mine, kv_head, j, Part(&sums[j * part_floats]), y);
    });
}

}    // namespace hearth::host
