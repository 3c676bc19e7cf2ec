// Memory for copies of groups into slots, beside the work of a batch: rebalancing.
#pragma once

#include "engine/device/model.h"
#include "engine/vulkan/commands.h"

#include <optional>

namespace hearth {

class Staging {
  public:
    /// With memory only where groups may be replaced.
    Staging(const GpuModel& model, bool rebalance);

    /// Puts a cold group of a split layer into a slot: the copy is submitted to `queue`, nothing waits for it. The
    /// number of that work, or 0 and nothing happens while the memory is still in use.
    uint64_t replace(GpuModel& model, uint32_t l, uint32_t slot, uint32_t group, vulkan::Queue& queue);

  private:
    struct Copy {
        vulkan::Slice memory;
        std::optional<vulkan::Commands> commands;
        uint64_t work = 0;
    };
    vulkan::Pool pool_;
    std::vector<Copy> copies_;
    size_t next_ = 0;
};

}    // namespace hearth
