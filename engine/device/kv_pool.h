// The KV cache on the device: keys and values of every layer that is there, cut into pages that have the same number in
// each of them.
#pragma once

#include "engine/model/weights.h"
#include "engine/plan/session_shape.h"
#include "engine/vulkan/commands.h"

#include <memory>
#include <vector>

namespace hearth {

class KvPool {
  public:
    /// Of so many layers. Others take turns with them: where a batch is all of a text, and ends with it, one will do.
    KvPool(const std::shared_ptr<vulkan::Device>& device, const Config& config, const SessionShape& shape,
           size_t layers);

    /// Device memory of one layer.
    static uint64_t layer_bytes(const Config& config, const SessionShape& shape);
    /// What one position of one layer has of it.
    static uint64_t position_bytes(const Config& config, host::KvTypes types);

    /// As gpu::Rope has them.
    const vulkan::Slice& keys(uint32_t l) const { return layers_[l % layers_.size()].keys; }
    const vulkan::Slice& values(uint32_t l) const { return layers_[l % layers_.size()].values; }

    /// Copies a page of every layer.
    void copy_page(vulkan::Commands& commands, uint32_t from, uint32_t to) const;

  private:
    struct Layer {
        vulkan::Pool pool;    // of its own: all together may be larger than a driver allocates at once
        vulkan::Slice keys, values;
    };
    const Config& config_;
    host::KvTypes types_;
    uint32_t pages_;
    std::vector<Layer> layers_;
};

}    // namespace hearth
