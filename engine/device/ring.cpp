#include "engine/device/ring.h"

#include <algorithm>

namespace hearth {

using vulkan::aligned;
using vulkan::Queue;

Ring::Ring(const GpuModel& model, uint64_t bytes)
{
    if (bytes == 0) return;
    uint64_t largest = 0;
    for (uint32_t l = 0; l < model.layers().size(); ++l)
        if (const size_t cold = model.layers()[l].residency.cold_groups().size(); cold > 0)
            largest = std::max(largest, model.cold_block(l, 0, uint32_t(cold), {}).bytes());
    const uint64_t half = std::min(aligned(largest), bytes / 2);
    if (half == 0) return;
    staging_ = vulkan::Pool(model.device(), 2 * half, vulkan::Use::upload, "neurons on their way");
    memory_ = vulkan::Pool(model.device(), 2 * half, vulkan::Use::device, "neurons on their way");
    for (Half& h : halves_) h = {.staging = staging_.take(half), .memory = memory_.take(half)};
}

uint64_t Ring::send(const GpuModel& model, uint32_t layer, std::span<const Streamed> parts, Queue& copies,
                    Queue& kernels, host::Team& team)
{
    uint64_t last = 0;
    for (const Streamed& part : parts) {
        Half& half = halves_[part.half];
        copies.wait(half.copied);
        model.lay_out(layer, part.first, part.staged, team);
        const Queue::Work copy[] = {{.commands = &part.copy, .after = &kernels, .after_number = half.computed}};
        half.copied = copies.submit(copy);
        const Queue::Work compute[] = {{.commands = &part.compute, .after = &copies, .after_number = half.copied}};
        half.computed = last = kernels.submit(compute);
    }
    return last;
}

}    // namespace hearth
