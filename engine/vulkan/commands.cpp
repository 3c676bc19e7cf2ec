#include "engine/vulkan/commands.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <thread>
#include <utility>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace hearth::vulkan {

namespace {

constexpr uint32_t most_stages = 4096;    // of one Commands, timestamps included
constexpr uint32_t most_pieces = 128;     // likewise; what comes then is the last one's

}    // namespace

Commands::Commands(std::shared_ptr<Device> device, bool timing, Lane lane, PieceLimit limit)
    : Commands(std::move(device))
{
    HEARTH_CHECK((!timing && !limit.timed) || lane == Lane::kernels);
    lane_ = lane;
    limit_ = limit;
    const DeviceApi& api = device_->api();
    const auto timestamps = [&](uint32_t count) {
        const VkQueryPoolCreateInfo info = {.sType = VK_STRUCTURE_TYPE_QUERY_POOL_CREATE_INFO,
                                            .queryType = VK_QUERY_TYPE_TIMESTAMP,
                                            .queryCount = count};
        VkQueryPool pool = VK_NULL_HANDLE;
        check_result(api.CreateQueryPool(device_->handle(), &info, nullptr, &pool), "vkCreateQueryPool");
        return pool;
    };
    if (timing && device_->timestamp_ns() > 0) queries_ = timestamps(most_stages);
    if (limit.timed && device_->timestamp_ns() > 0) piece_queries_ = timestamps(2 * most_pieces);
    begin_piece();
    if (queries_) api.CmdResetQueryPool(pieces_.back(), queries_, 0, most_stages);
}

Commands& Commands::operator=(Commands&& other) noexcept
{
    std::swap(device_, other.device_);
    std::swap(lane_, other.lane_);
    std::swap(limit_, other.limit_);
    std::swap(pieces_, other.pieces_);
    std::swap(expected_us_, other.expected_us_);
    std::swap(queries_, other.queries_);
    std::swap(piece_queries_, other.piece_queries_);
    std::swap(stages_, other.stages_);
    std::swap(each_us_, other.each_us_);
    std::swap(dispatches_, other.dispatches_);
    return *this;
}

Commands::~Commands()
{
    for (const VkQueryPool pool : {queries_, piece_queries_})
        if (pool) device_->api().DestroyQueryPool(device_->handle(), pool, nullptr);
    if (!pieces_.empty())
        device_->api().FreeCommandBuffers(device_->handle(), device_->command_pool(lane_), uint32_t(pieces_.size()),
                                          pieces_.data());
}

void Commands::timestamp(VkQueryPool pool, uint32_t query)
{
    device_->api().CmdWriteTimestamp2(pieces_.back(), VK_PIPELINE_STAGE_2_ALL_COMMANDS_BIT, pool, query);
}

void Commands::timestamp()
{
    if (!queries_) return;
    HEARTH_CHECK(stages_.size() < most_stages);
    timestamp(queries_, uint32_t(stages_.size()));
}

// ---- pieces ---------------------------------------------------------------------------------------------------------

void Commands::begin_piece()
{
    const DeviceApi& api = device_->api();
    const VkCommandBufferAllocateInfo info = {.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO,
                                              .commandPool = device_->command_pool(lane_),
                                              .level = VK_COMMAND_BUFFER_LEVEL_PRIMARY,
                                              .commandBufferCount = 1};
    VkCommandBuffer piece = VK_NULL_HANDLE;
    check_result(api.AllocateCommandBuffers(device_->handle(), &info, &piece), "vkAllocateCommandBuffers");
    const uint32_t number = uint32_t(pieces_.size());
    pieces_.push_back(piece);
    expected_us_.push_back(0);
    const VkCommandBufferBeginInfo begin = {.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO};
    check_result(api.BeginCommandBuffer(piece, &begin), "vkBeginCommandBuffer");
    if (!piece_queries_) return;
    api.CmdResetQueryPool(piece, piece_queries_, 2 * number, 2);
    timestamp(piece_queries_, 2 * number);
}

void Commands::end_piece()
{
    if (piece_queries_) timestamp(piece_queries_, 2 * uint32_t(pieces_.size()) - 1);
    check_result(device_->api().EndCommandBuffer(pieces_.back()), "vkEndCommandBuffer");
}

/// What comes next takes so long: where that is too much, it begins a piece.
void Commands::expect(double us)
{
    if (limit_.us > 0 && expected_us_.back() > 0 && expected_us_.back() + us > limit_.us &&
        pieces_.size() < most_pieces) {
        end_piece();
        begin_piece();
    }
    expected_us_.back() += us;
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

void Commands::stage(const char* name, uint32_t index, uint64_t bytes, double expected_us)
{
    each_us_ = expected_us;
    // The barrier reaches back over earlier submits to the same queue. What the host wrote before a submit is visible
    // without one, what it wrote after it, before the release, is not.
    const bool first = stages_.empty();
    barrier(*device_, pieces_.back(), work_stages | (first ? VK_PIPELINE_STAGE_2_HOST_BIT : 0),
            work_writes | (first ? VK_ACCESS_2_HOST_WRITE_BIT : 0), work_stages, work_accesses);
    timestamp();
    stages_.push_back({name, index, bytes});
}

void Commands::dispatch_raw(const Pipeline& pipeline, Groups groups, const void* args, uint32_t bytes)
{
    // Workgroups of a stage need not see each other's writes, so its pieces have no barriers between them.
    const double wanted = limit_.us > 0 ? std::ceil(each_us_ / limit_.us) : 1;
    const uint32_t count = uint32_t(std::clamp(wanted, 1.0, double(std::max(groups.y, 1u))));
    const auto in_parts = [&]() -> const Pipeline& {
        PipelineKey key = pipeline.key();
        key.in_parts = true;
        return device_->pipeline(key, bytes);
    };
    const Pipeline& used = count > 1 ? in_parts() : pipeline;
    const DeviceApi& api = device_->api();
    for (uint32_t i = 0; i < count; ++i) {
        expect(each_us_ / count);
        const VkCommandBuffer piece = pieces_.back();
        api.CmdBindPipeline(piece, VK_PIPELINE_BIND_POINT_COMPUTE, used.handle());
        api.CmdPushConstants(piece, used.layout(), VK_SHADER_STAGE_COMPUTE_BIT, 0, bytes, args);
        const uint32_t first = uint32_t(uint64_t(groups.y) * i / count),
                       end = uint32_t(uint64_t(groups.y) * (i + 1) / count);
        if (count > 1) api.CmdDispatchBase(piece, 0, first, 0, groups.x, end - first, groups.z);
        else api.CmdDispatch(piece, groups.x, groups.y, groups.z);
    }
}

void Commands::copy(const Slice& from, const Slice& to, uint64_t bytes)
{
    HEARTH_CHECK(bytes <= from.bytes && bytes <= to.bytes);
    expect(each_us_);
    const VkBufferCopy region = {from.offset, to.offset, bytes};
    device_->api().CmdCopyBuffer(pieces_.back(), from.buffer, to.buffer, 1, &region);
}

void Commands::end()
{
    timestamp();
    if (lane_ == Lane::kernels)
        barrier(*device_, pieces_.back(), work_stages, work_writes, VK_PIPELINE_STAGE_2_HOST_BIT,
                VK_ACCESS_2_HOST_READ_BIT);
    end_piece();
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

std::vector<PieceTime> Commands::piece_times() const
{
    std::vector<PieceTime> times;
    if (!piece_queries_) return times;
    std::vector<uint64_t> ticks(2 * pieces_.size());
    const VkResult result = device_->api().GetQueryPoolResults(device_->handle(), piece_queries_, 0,
                                                               uint32_t(ticks.size()), ticks.size() * sizeof(uint64_t),
                                                               ticks.data(), sizeof(uint64_t), VK_QUERY_RESULT_64_BIT);
    if (result == VK_NOT_READY) return times;
    check_result(result, "vkGetQueryPoolResults");
    const double us = device_->timestamp_ns() / 1000;
    for (size_t i = 0; i < pieces_.size(); ++i)
        times.push_back({expected_us_[i], double((ticks[2 * i + 1] - ticks[2 * i]) & device_->timestamp_mask()) * us});
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
    const auto semaphore = [](VkSemaphore handle, uint64_t value) {
        return VkSemaphoreSubmitInfo{.sType = VK_STRUCTURE_TYPE_SEMAPHORE_SUBMIT_INFO,
                                     .semaphore = handle,
                                     .value = value,
                                     .stageMask = VK_PIPELINE_STAGE_2_ALL_COMMANDS_BIT};
    };
    size_t pieces = 0;
    for (const Work& w : work) pieces += w.commands->pieces().size();
    std::vector<Parts> parts(pieces);
    std::vector<VkSubmitInfo2> submits;
    const auto submit_all = [&] {
        check_result(device_->api().QueueSubmit2(device_->queue(lane_), uint32_t(submits.size()), submits.data(),
                                                 VK_NULL_HANDLE),
                     "vkQueueSubmit2");
        submits.clear();
        ++calls_;
    };
    Parts* next = parts.data();
    for (size_t i = 0; i < work.size(); ++i) {
        const std::span<const VkCommandBuffer> pieces_of_work = work[i].commands->pieces();
        last_held_ = std::max(last_held_, work[i].held_for);
        for (size_t p = 0; p < pieces_of_work.size(); ++p) {
            // What is waited for holds back later submits too, and what is signalled comes after earlier ones.
            const bool first = p == 0, last = p + 1 == pieces_of_work.size();
            Parts& part = *next++;
            part = {
                .commands = {.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_SUBMIT_INFO, .commandBuffer = pieces_of_work[p]},
                .done = semaphore(timeline_, submitted_ + 1 + i)};
            uint32_t waits = 0;
            if (first && work[i].held_for > released_) part.waits[waits++] = semaphore(held_, work[i].held_for);
            if (first && work[i].after_number > 0)
                part.waits[waits++] = semaphore(work[i].after->timeline_, work[i].after_number);
            if (!first) submit_all();
            submits.push_back({.sType = VK_STRUCTURE_TYPE_SUBMIT_INFO_2,
                               .waitSemaphoreInfoCount = waits,
                               .pWaitSemaphoreInfos = part.waits,
                               .commandBufferInfoCount = 1,
                               .pCommandBufferInfos = &part.commands,
                               .signalSemaphoreInfoCount = last,
                               .pSignalSemaphoreInfos = &part.done});
        }
    }
    submit_all();
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
