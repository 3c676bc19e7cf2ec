#include "engine/device/kv_pool.h"

namespace hearth {

using vulkan::aligned;
using vulkan::Slice;

namespace {

/// Bytes of keys, or values, of so many positions of one layer as gpu::Rope has them.
struct CacheBytes {
    uint64_t numbers, scales;    // the scales of a quantised cache lie behind the numbers of all pages
    uint64_t all() const { return numbers + scales; }
};

CacheBytes cache_bytes(const Config& c, uint64_t positions, WeightType type)
{
    const uint64_t rows = c.kv_heads * positions;
    if (!is_quantised(type)) return {rows * c.head_dim * sizeof(uint16_t), 0};
    return {rows * c.head_dim, rows * ceil_div(c.head_dim, 64) * sizeof(uint32_t)};
}

uint64_t all_positions(const SessionShape& shape) { return uint64_t(shape.pages()) * host::page_positions; }

}    // namespace

uint64_t KvPool::layer_bytes(const Config& c, const SessionShape& shape)
{
    const uint64_t positions = all_positions(shape);
    return aligned(cache_bytes(c, positions, shape.kv.k).all()) + aligned(cache_bytes(c, positions, shape.kv.v).all());
}

uint64_t KvPool::position_bytes(const Config& c, host::KvTypes types)
{
    return cache_bytes(c, 1, types.k).all() + cache_bytes(c, 1, types.v).all();
}

KvPool::KvPool(const std::shared_ptr<vulkan::Device>& device, const Config& config, const SessionShape& shape,
               size_t layers)
    : config_(config), types_(shape.kv), pages_(shape.pages())
{
    const uint64_t positions = all_positions(shape);
    for (size_t l = 0; l < layers; ++l) {
        Layer& layer = layers_.emplace_back();
        layer.pool = vulkan::Pool(device, layer_bytes(config, shape), vulkan::Use::device, "the KV cache");
        layer.keys = layer.pool.take(cache_bytes(config, positions, types_.k).all());
        layer.values = layer.pool.take(cache_bytes(config, positions, types_.v).all());
    }
}

void KvPool::copy_page(vulkan::Commands& commands, uint32_t from, uint32_t to) const
{
    const auto copy = [&](const Slice& cache, uint64_t first, uint64_t page_bytes) {
        if (page_bytes > 0)
            commands.copy(cache.part(first + from * page_bytes, page_bytes),
                          cache.part(first + to * page_bytes, page_bytes), page_bytes);
    };
    for (size_t l = 0; l < layers_.size(); ++l) {
        commands.stage("copy_page", uint32_t(l), 0);
        for (const auto& [cache, type] :
             {std::pair(&layers_[l].keys, types_.k), std::pair(&layers_[l].values, types_.v)}) {
            const CacheBytes page = cache_bytes(config_, host::page_positions, type);
            copy(*cache, 0, page.numbers);
            copy(*cache, pages_ * page.numbers, page.scales);
        }
    }
}

}    // namespace hearth
