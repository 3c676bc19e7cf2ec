// Attention of the layers that live on the CPU, and their KV cache.
#pragma once

#include "host/arena.h"
#include "host/kernels.h"
#include "host/rows.h"

#include <functional>
#include <memory>
#include <span>
#include <vector>

namespace hearth::host {

/// Which elements of a head turn together as pair i of rope_dim / 2: (2i, 2i + 1), as in llama GGUF files, or (i, i +
/// rope_dim / 2), as in the others.
enum class PairOrder : uint32_t { neighbours = 0, halves = 1 };

/// Radians that each pair turns from one position to the next, rope_dim / 2 of them, and what the pairs are. The first
/// rope_dim elements of a head are rotated. Source: RoFormer (arXiv 2104.09864).
struct Rope {
    std::span<const double> frequencies;
    PairOrder pairs = PairOrder::neighbours;
    float magnitude = 1;    // what the turned elements are multiplied by
};

/// base^(-2i / rope_dim) for every pair.
std::vector<double> rope_frequencies(uint32_t rope_dim, double base);

/// What becomes of q, k and v before the rotation: biases are added, then every head of q and k is normalised, y_i =
/// norm_i x_i / sqrt(mean(x^2) + eps). What a model has not is empty.
struct HeadWeights {
    std::span<const float> q_bias, k_bias, v_bias;    // (heads or kv_heads, head_dim)
    std::span<const float> q_norm, k_norm;            // (head_dim)
    float eps = 0;
};

/// One attention block.
struct AttentionShape {
    uint32_t heads, kv_heads, head_dim;
    float scale;    // of products of q and k
    Rope rope;
    HeadWeights weights = {};
    float softcap = 0;      // scores s become softcap tanh(s / softcap); 0: they stay
    uint32_t window = 0;    // positions that a token looks back over, its own included; 0: all
};

/// Rotates every head in place. x is (heads, head_dim).
void rotate(const Rope& rope, float* x, uint32_t heads, uint32_t head_dim, uint32_t position);

/// What keys and values are kept in, each one of cache_types.
struct KvTypes {
    WeightType k = WeightType::f16, v = WeightType::f16;

    /// Of both together, of one head at one position. Heads have to be of whole blocks: the engine refuses others.
    uint64_t row_bytes(uint32_t head_dim) const
    {
        return hearth::row_bytes(k, head_dim) + hearth::row_bytes(v, head_dim);
    }
    bool operator==(const KvTypes&) const = default;
};

/// One layer's keys and values, each (pages, kv_heads, page_positions, head_dim). What no row has written yet takes no
/// memory yet.
class KvCache {
  public:
    KvCache(KvTypes types, uint32_t kv_heads, uint32_t pages, uint32_t head_dim);

    struct Side {
        WeightType type;
        size_t row_bytes;    // of one head at one position
        size_t bytes;        // of the whole
        std::unique_ptr<std::byte, std::function<void(std::byte*)>> memory;
    };
    /// Those of further positions lie behind it up to the end of the page.
    std::byte* row(const Side& side, uint32_t kv_head, uint32_t page, uint32_t in_page) const
    {
        return side.memory.get() + ((size_t(page) * kv_heads_ + kv_head) * page_positions + in_page) * side.row_bytes;
    }
    const Side& keys() const { return keys_; }
    const Side& values() const { return values_; }
    void copy_page(uint32_t from, uint32_t to);

  private:
    uint32_t kv_heads_;
    Side keys_, values_;
};

/// Reused from call to call.
struct AttendScratch {
    std::vector<int16_t> q;    // the queries in fixed point, for quantised keys
    std::vector<float> scale, sum;
    std::vector<float> parts;

    /// What rotates the rows of the last batch; of two, since a model's layers may have frequencies of two kinds.
    struct Turns {
        std::vector<double> frequencies;
        float magnitude = 0;
        std::vector<uint32_t> positions;
        std::vector<float> of_rows;    // (rows, pairs): cos and sin of each
    } turns[2];
    uint32_t oldest_turns = 0;
};

/// For every row r: adds biases, normalises, rotates q and k to its position, puts k and v into its page of the cache,
/// and then, when this is done for all rows, y[r][h] = sum_p softmax_p(cap(scale q[r][h] . k[p])) v[p] over the
/// positions p that it sees: position - window < p < sees. q (rows, heads, head_dim) and k, v (rows, kv_heads,
/// head_dim) are floats and are overwritten; y is (rows, heads, head_dim). Keys and values are read once for all heads
/// that share them and for a block of neighbouring rows of one sequence. The bits of a y depend neither on the threads
/// nor on what other rows there are: pages are added up one after the other, as the softmax of FlashAttention (arXiv
/// 2205.14135).
void attend(Team& team, const AttentionShape& s, KvCache& cache, std::span<const Row> rows, float* q, float* k,
            float* v, float* y, AttendScratch& scratch);

}    // namespace hearth::host
