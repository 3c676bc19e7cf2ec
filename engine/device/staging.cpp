#include "engine/device/staging.h"

#include <algorithm>

namespace hearth {

using vulkan::aligned;
using vulkan::Slice;

Staging::Staging(const GpuModel& model, bool rebalance)
{
    if (!rebalance) return;
    constexpr size_t at_once = 4;
    uint64_t largest = 0;
    for (uint32_t l = 0; l < model.layers().size(); ++l) largest = std::max(largest, aligned(model.group_bytes(l)));
    pool_ = vulkan::Pool(model.device(), at_once * largest, vulkan::Use::upload, "groups on their way");
    copies_.resize(at_once);
    for (Copy& copy : copies_) copy.memory = pool_.take(largest);
}

uint64_t Staging::replace(GpuModel& model, uint32_t l, uint32_t slot, uint32_t group, vulkan::Queue& queue)
{
    Copy& copy = copies_[next_];
    if (queue.done() < copy.work) return 0;
    next_ = (next_ + 1) % copies_.size();
    model.lay_out_group(l, group, static_cast<std::byte*>(copy.memory.mapped));
    copy.commands.emplace(model.device(), false);
    copy.commands->stage("rebalance", l, model.group_bytes(l));
    const GpuModel::Layer& layer = model.layers()[l];
    Slice from = copy.memory;
    for (const GpuMatrix* m : {&layer.gate, &layer.up, &layer.down_t, &layer.bias}) {
        const uint64_t bytes = m->RowLayout::bytes(group_neurons);
        if (bytes == 0) continue;
        copy.commands->copy(from, m->memory.from(slot * bytes), bytes);
        from = from.from(bytes);
    }
    if (model.config().experts) {
        constexpr uint64_t bytes = sizeof(uint32_t);
        copy.commands->copy(from.part(0, bytes), layer.group_experts.part(slot * bytes, bytes), bytes);
    }
    copy.commands->end();
    const vulkan::Queue::Work work[] = {{&*copy.commands}};
    copy.work = queue.submit(work);
    model.put(l, slot, group);
    return copy.work;
}

}    // namespace hearth
