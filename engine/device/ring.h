// Memory that cold groups pass through on their way to being computed on the device: one half is laid out by the host
// while the other is copied and computed.
//
//     host      lay out 0 | lay out 1 | lay out 0 | ...
//     copies              | copy 0    | copy 1    | ...
//     kernels                         | compute 0 | compute 1 ...
#pragma once

#include "engine/device/model.h"
#include "engine/vulkan/commands.h"

namespace hearth {

/// Some cold groups of a layer on their way through a half of the ring.
struct Streamed {
    uint32_t first;    // of the layer's cold groups
    GpuFfn staged;     // where the host lays them out
    size_t half;
    uint64_t bytes;
    vulkan::Commands copy, compute;
};

class Ring {
  public:
    Ring() = default;    // empty
    /// Of `bytes` at the most in both halves, or empty.
    Ring(const GpuModel& model, uint64_t bytes);

    bool empty() const { return halves_[0].memory.bytes == 0; }
    uint64_t half_bytes() const { return halves_[0].memory.bytes; }
    /// Where a half's groups are laid out, and where they are computed.
    const vulkan::Slice& staging(size_t half) const { return halves_[half].staging; }
    const vulkan::Slice& memory(size_t half) const { return halves_[half].memory; }

    /// Lays out and submits one part after the other. The host waits only where both halves are still on their way.
    /// Returns the number of the last work of `kernels`.
    uint64_t send(const GpuModel& model, uint32_t layer, std::span<const Streamed> parts, vulkan::Queue& copies,
                  vulkan::Queue& kernels, host::Team& team);

  private:
    struct Half {
        vulkan::Slice staging, memory;
        uint64_t copied = 0, computed = 0;    // the last work that reads them
    };
    vulkan::Pool staging_, memory_;
    Half halves_[2];
};

}    // namespace hearth
