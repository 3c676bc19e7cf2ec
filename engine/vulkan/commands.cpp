#include "engine/vulkan/commands.h"

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace hearth::vulkan {

namespace {

constexpr uint32_t most_stages = 4096;    // of one command buffer, timestamps included

}    // namespace

Commands::Commands(std::shared_ptr<Device> device, bool timing, Lane lane) : Commands(std::move(device))
{
    HEARTH_CHECK(!timing || lane == Lane::kernels);
    lane_ = lane;
    const DeviceApi& api = device_->api();
    const VkCommandBufferAllocateInfo info = {.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO,
                                              .commandPool = device_->command_pool(lane),
                                              .level = VK_COMMAND_BUFFER_LEVEL_PRIMARY,
                                              .commandBufferCount = 1};
    check_result(api.AllocateCommandBuffers(device_->handle(), &info, &handle_), "vkAllocateCommandBuffers");
    if (timing && device_->timestamp_ns() > 0) {
        const VkQueryPoolCreateInfo queries = {.sType = VK_STRUCTURE_TYPE_QUERY_POOL_CREATE_INFO,
                                               .queryType = VK_QUERY_TYPE_TIMESTAMP,
                                               .queryCount = most_stages};
        check_result(api.CreateQueryPool(device_->handle(), &queries, nullptr, &queries_), "vkCreateQueryPool");
    }
    const VkCommandBufferBeginInfo begin = {.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO};
    check_result(api.BeginCommandBuffer(handle_, &begin), "vkBeginCommandBuffer");
    if (queries_) api.CmdResetQueryPool(handle_, queries_, 0, most_stages);
}

Commands& Commands::operator=(Commands&& other) noexcept
{
    std::swap(device_, other.device_);
    std::swap(lane_, other.lane_);
    std::swap(handle_, other.handle_);
    std::swap(queries_, other.queries_);
    std::swap(stages_, other.stages_);
    return *this;
}

Commands::~Commands()
{
    if (queries_) device_->api().DestroyQueryPool(device_->handle(), queries_, nullptr);
    if (handle_) device_->api().FreeCommandBuffers(device_->handle(), device_->command_pool(lane_), 1, &handle_);
}

void Commands::timestamp()
{
    if (!queries_) return;
    HEARTH_CHECK(stages_.size() < most_stages);
    device_->api().CmdWriteTimestamp2(handle_, VK_PIPELINE_STAGE_2_ALL_COMMANDS_BIT, queries_,
                                      uint32_t(stages_.size()));
}

namespace {

void barrier(const Device& device, VkCommandBuffer commands, VkPipelineStageFlags2 from, VkAccessFlags2 writes,
             VkPipelineStageFlags2 to, VkAccessFlags2 reads)
{
    const VkMemoryBarrier2 memory = {.sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER_2,
                                     .srcStageMask = from,
                                     .srcAccessMask = writes,
                                     .dstStageMask = to,
                                     .dstAccessMask = reads};
    const VkDependencyInfo dependency = {
        .sType = VK_STRUCTURE_TYPE_DEPENDENCY_INFO, .memoryBarrierCount = 1, .pMemoryBarriers = &memory};
    device.api().CmdPipelineBarrier2(commands, &dependency);
}

constexpr VkPipelineStageFlags2 work_stages =
    VK_PIPELINE_STAGE_2_COMPUTE_SHADER_BIT | VK_PIPELINE_STAGE_2_ALL_TRANSFER_BIT;
constexpr VkAccessFlags2 work_writes = VK_ACCESS_2_SHADER_WRITE_BIT | VK_ACCESS_2_TRANSFER_WRITE_BIT;
constexpr VkAccessFlags2 work_accesses = work_writes | VK_ACCESS_2_SHADER_READ_BIT | VK_ACCESS_2_TRANSFER_READ_BIT;

}    // namespace

void Commands::stage(const char* name, uint32_t index, uint64_t bytes)
{
    // The barrier reaches back over earlier submits to the same queue. What the host wrote before a submit is visible
    // without one, what it wrote after it, before the release, is not.
    const bool first = stages_.empty();
    barrier(*device_, handle_, work_stages | (first ? VK_PIPELINE_STAGE_2_HOST_BIT : 0),
            work_writes | (first ? VK_ACCESS_2_HOST_WRITE_BIT : 0), work_stages, work_accesses);
    timestamp();
    stages_.push_back({name, index, bytes});
}

void Commands::dispatch_raw(const Pipeline& pipeline, Groups groups, const void* args, uint32_t bytes)
{
    const DeviceApi& api = device_->api();
    api.CmdBindPipeline(handle_, VK_PIPELINE_BIND_POINT_COMPUTE, pipeline.handle());
    api.CmdPushConstants(handle_, pipeline.layout(), VK_SHADER_STAGE_COMPUTE_BIT, 0, bytes, args);
    api.CmdDispatch(handle_, groups.x, groups.y, groups.z);
}

void Commands::copy(const Slice& from, const Slice& to, uint64_t bytes)
{
    HEARTH_CHECK(bytes <= from.bytes && bytes <= to.bytes);
    const VkBufferCopy region = {from.offset, to.offset, bytes};
    device_->api().CmdCopyBuffer(handle_, from.buffer, to.buffer, 1, &region);
}

void Commands::end()
{
    timestamp();
    if (lane_ == Lane::kernels)
        barrier(*device_, handle_, work_stages, work_writes, VK_PIPELINE_STAGE_2_HOST_BIT, VK_ACCESS_2_HOST_READ_BIT);
    check_result(device_->api().EndCommandBuffer(handle_), "vkEndCommandBuffer");
}

std::vector<StageTime> Commands::times() const
{
    std::vector<uint64_t> ticks(stages_.size() + 1);
    if (queries_) {
        const VkResult result = device_->api().GetQueryPoolResults(
            device_->handle(), queries_, 0, uint32_t(ticks.size()), ticks.size() * sizeof(uint64_t), ticks.data(),
            sizeof(uint64_t), VK_QUERY_RESULT_64_BIT);
        check_result(result, "vkGetQueryPoolResults");
    }
    std::vector<StageTime> times;
    const double us = device_->timestamp_ns() / 1000;
    for (size_t i = 0; i < stages_.size(); ++i)
        times.push_back({stages_[i].name, stages_[i].index, stages_[i].bytes, double(ticks[i]) * us,
                         double((ticks[i + 1] - ticks[i]) & device_->timestamp_mask()) * us});
    return times;
}

// ---- queue ----------------------------------------------------------------------------------------------------------

Queue::Queue(std::shared_ptr<Device> device, Lane lane) : device_(std::move(device)), lane_(lane)
{
    const VkSemaphoreTypeCreateInfo type = {.sType = VK_STRUCTURE_TYPE_SEMAPHORE_TYPE_CREATE_INFO,
                                            .semaphoreType = VK_SEMAPHORE_TYPE_TIMELINE};
    const VkSemaphoreCreateInfo info = {.sType = VK_STRUCTURE_TYPE_SEMAPHORE_CREATE_INFO, .pNext = &type};
    for (VkSemaphore* semaphore : {&timeline_, &held_})
        check_result(device_->api().CreateSemaphore(device_->handle(), &info, nullptr, semaphore), "vkCreateSemaphore");
}

Queue::~Queue()
{
    const DeviceApi& api = device_->api();
    if (released_ < last_held_) {    // after an error nobody else will let it go; release_all would throw
        const VkSemaphoreSignalInfo all = {
            .sType = VK_STRUCTURE_TYPE_SEMAPHORE_SIGNAL_INFO, .semaphore = held_, .value = last_held_};
        api.SignalSemaphore(device_->handle(), &all);
    }
    api.DeviceWaitIdle(device_->handle());    // work may still be under way; a lost device returns at once
    api.DestroySemaphore(device_->handle(), timeline_, nullptr);
    api.DestroySemaphore(device_->handle(), held_, nullptr);
}

uint64_t Queue::submit(std::span<const Work> work)
{
    HEARTH_CHECK(!work.empty());
    struct Parts {
        VkCommandBufferSubmitInfo commands;
        VkSemaphoreSubmitInfo done, waits[2];
    };
    std::vector<Parts> parts(work.size());
    std::vector<VkSubmitInfo2> submits(work.size());
    for (size_t i = 0; i < work.size(); ++i) {
        const auto semaphore = [](VkSemaphore handle, uint64_t value) {
            return VkSemaphoreSubmitInfo{.sType = VK_STRUCTURE_TYPE_SEMAPHORE_SUBMIT_INFO,
                                         .semaphore = handle,
                                         .value = value,
                                         .stageMask = VK_PIPELINE_STAGE_2_ALL_COMMANDS_BIT};
        };
        parts[i] = {.commands = {.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_SUBMIT_INFO,
                                 .commandBuffer = work[i].commands->handle()},
                    .done = semaphore(timeline_, submitted_ + 1 + i)};
        uint32_t waits = 0;
        if (work[i].held_for > released_) parts[i].waits[waits++] = semaphore(held_, work[i].held_for);
        if (work[i].after_number > 0)
            parts[i].waits[waits++] = semaphore(work[i].after->timeline_, work[i].after_number);
        submits[i] = {.sType = VK_STRUCTURE_TYPE_SUBMIT_INFO_2,
                      .waitSemaphoreInfoCount = waits,
                      .pWaitSemaphoreInfos = parts[i].waits,
                      .commandBufferInfoCount = 1,
                      .pCommandBufferInfos = &parts[i].commands,
                      .signalSemaphoreInfoCount = 1,
                      .pSignalSemaphoreInfos = &parts[i].done};
        last_held_ = std::max(last_held_, work[i].held_for);
    }
    check_result(
        device_->api().QueueSubmit2(device_->queue(lane_), uint32_t(submits.size()), submits.data(), VK_NULL_HANDLE),
        "vkQueueSubmit2");
    return submitted_ += work.size();
}

void Queue::release(uint64_t number)
{
    if (number <= released_) return;
    const VkSemaphoreSignalInfo info = {
        .sType = VK_STRUCTURE_TYPE_SEMAPHORE_SIGNAL_INFO, .semaphore = held_, .value = number};
    check_result(device_->api().SignalSemaphore(device_->handle(), &info), "vkSignalSemaphore");
    released_ = number;
}

uint64_t Queue::done() const
{
    uint64_t number = 0;
    check_result(device_->api().GetSemaphoreCounterValue(device_->handle(), timeline_, &number),
                 "vkGetSemaphoreCounterValue");
    return number;
}

void Queue::wait(uint64_t number) const
{
    // Polling sees the value within microseconds; a wait that sleeps costs 50 and more, which is little once it has
    // been 5 ms, and then leaves the core to others: a software device computes on it. Nor do some drivers tell of a
    // lost device but to those who wait.
    using clock = std::chrono::steady_clock;
    const auto start = clock::now();
    for (uint32_t polls = 0;; ++polls) {
        if (done() >= number) return;
        if (polls < 100) {
#if defined(__x86_64__) || defined(_M_X64)
            _mm_pause();
#endif
        } else if (clock::now() - start < std::chrono::milliseconds(5)) {
            std::this_thread::yield();
        } else {
            const VkSemaphoreWaitInfo info = {.sType = VK_STRUCTURE_TYPE_SEMAPHORE_WAIT_INFO,
                                              .semaphoreCount = 1,
                                              .pSemaphores = &timeline_,
                                              .pValues = &number};
            const VkResult result = device_->api().WaitSemaphores(device_->handle(), &info, 100'000'000);
            if (result != VK_TIMEOUT) check_result(result, "vkWaitSemaphores");
        }
    }
}

// ---- uploads --------------------------------------------------------------------------------------------------------

Uploader::Uploader(const std::shared_ptr<Device>& device)
    : device_(device), pool_(device, 2 * staging_bytes, Use::upload, "the staging buffers"), queue_(device)
{
    for (Half& half : halves_) half.staging = pool_.take(staging_bytes);
}

void Uploader::send(Half& half, const Slice& to, uint64_t offset, uint64_t bytes)
{
    Commands& commands = half.commands.emplace(device_, false);
    commands.stage("upload", 0, bytes);
    commands.copy(half.staging, to.from(offset), bytes);
    commands.end();
    const Queue::Work work[] = {{&commands}};
    half.work = queue_.submit(work);
}

}    // namespace hearth::vulkan
