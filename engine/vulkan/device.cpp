#include "engine/vulkan/device.h"

#include "engine/system/folders.h"
#include "engine/vulkan/kernel.h"
#include "engine/vulkan/physical_device.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <new>
#include <utility>

namespace hearth::vulkan {

void check_result(VkResult result, const char* call)
{
    switch (result) {
    case VK_SUCCESS: return;
    case VK_ERROR_DEVICE_LOST:
        throw Error("the GPU was lost during {}: its driver reset it or it was taken away; start again, and if it "
                    "happens again lower the load or "
                    "update the driver",
                    call);
    case VK_ERROR_OUT_OF_HOST_MEMORY:
        throw Error("out of memory in {}: close other programs or use a smaller context (-c)", call);
    case VK_ERROR_OUT_OF_DEVICE_MEMORY: throw Error("out of GPU memory in {}: use a smaller --vram-budget", call);
    default:
        throw Error("{} failed with Vulkan error {}: update the GPU driver, or use --device cpu", call, int(result));
    }
}

std::shared_ptr<Device> Device::open(const std::shared_ptr<Instance>& instance, const DeviceInfo& info,
                                     Features features, Statistics statistics)
{
    HEARTH_CHECK(info.unfit.empty());
    std::shared_ptr<Device> self(new Device);
    self->statistics_ = statistics;
    self->instance_ = instance;
    self->info_ = info;
    self->features_ = {.fp16 = features.fp16 && info.features.fp16,
                       .int_dot = features.int_dot && info.features.int_dot,
                       .int64 = features.int64 && info.features.int64,
                       .matrices = features.matrices && info.features.matrices};

    const InstanceApi& api = instance->api();
    const QueueFamilies families = queue_families(api, info.handle);
    self->families_[size_t(Lane::kernels)] = families.kernels.value();
    self->families_[size_t(Lane::copies)] = families.copies;
    const float priority = 1.0f;
    std::vector<VkDeviceQueueCreateInfo> queues;
    for (const uint32_t family : self->families_)
        if (queues.empty() || family != queues[0].queueFamilyIndex)
            queues.push_back({.sType = VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO,
                              .queueFamilyIndex = family,
                              .queueCount = 1,
                              .pQueuePriorities = &priority});
    const bool with_matrices = self->features_.matrices, with_statistics = statistics != Statistics::none;
    std::vector<const char*> extensions;
    void* further = nullptr;
    VkPhysicalDeviceCooperativeMatrixFeaturesKHR matrices = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_FEATURES_KHR, .cooperativeMatrix = VK_TRUE};
    if (with_matrices) {
        extensions.push_back(VK_KHR_COOPERATIVE_MATRIX_EXTENSION_NAME);
        further = &matrices;
    }
    VkPhysicalDevicePipelineExecutablePropertiesFeaturesKHR executables = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PIPELINE_EXECUTABLE_PROPERTIES_FEATURES_KHR,
        .pNext = further,
        .pipelineExecutableInfo = VK_TRUE};
    if (with_statistics) {
        if (!has_extension(api, info.handle, VK_KHR_PIPELINE_EXECUTABLE_PROPERTIES_EXTENSION_NAME))
            throw Error("the driver of {} says nothing of the kernels that it compiles: it lacks {}", info.name,
                        VK_KHR_PIPELINE_EXECUTABLE_PROPERTIES_EXTENSION_NAME);
        extensions.push_back(VK_KHR_PIPELINE_EXECUTABLE_PROPERTIES_EXTENSION_NAME);
        further = &executables;
    }
    VkPhysicalDeviceVulkan13Features f13 = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_3_FEATURES,
                                            .pNext = further,
                                            .subgroupSizeControl = !info.subgroup_sizes.empty(),
                                            .computeFullSubgroups = VK_TRUE,
                                            .synchronization2 = VK_TRUE,
                                            .shaderIntegerDotProduct = self->features_.int_dot};
    VkPhysicalDeviceVulkan12Features f12 = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES,
                                            .pNext = &f13,
                                            .shaderFloat16 = self->features_.fp16 || with_matrices,
                                            .scalarBlockLayout = VK_TRUE,
                                            .timelineSemaphore = VK_TRUE,
                                            .bufferDeviceAddress = VK_TRUE,
                                            .vulkanMemoryModel = with_matrices,
                                            .vulkanMemoryModelDeviceScope = with_matrices};
    const VkPhysicalDeviceFeatures basic = {.shaderInt64 = self->features_.int64};
    const VkDeviceCreateInfo create = {.sType = VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO,
                                       .pNext = &f12,
                                       .queueCreateInfoCount = uint32_t(queues.size()),
                                       .pQueueCreateInfos = queues.data(),
                                       .enabledExtensionCount = uint32_t(extensions.size()),
                                       .ppEnabledExtensionNames = extensions.data(),
                                       .pEnabledFeatures = &basic};
    check_result(api.CreateDevice(info.handle, &create, nullptr, &self->handle_), "vkCreateDevice");
#define X(name)                                                                                                        \
    self->api_.name = reinterpret_cast<PFN_vk##name>(api.GetDeviceProcAddr(self->handle_, "vk" #name));                \
    HEARTH_CHECK(self->api_.name);
    HEARTH_DEVICE_FUNCTIONS(X)
    if (with_statistics) {
        HEARTH_STATISTICS_FUNCTIONS(X)
    }
#undef X
    for (const Lane lane : {Lane::kernels, Lane::copies}) {
        const size_t i = size_t(lane);
        self->api_.GetDeviceQueue(self->handle_, self->families_[i], 0, &self->queues_[i]);
        const VkCommandPoolCreateInfo pool = {.sType = VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO,
                                              .queueFamilyIndex = self->families_[i]};
        check_result(self->api_.CreateCommandPool(self->handle_, &pool, nullptr, &self->command_pools_[i]),
                     "vkCreateCommandPool");
    }

    VkPhysicalDeviceMemoryProperties2 memory = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_PROPERTIES_2};
    api.GetPhysicalDeviceMemoryProperties2(info.handle, &memory);
    self->memory_ = memory.memoryProperties;
    self->has_budget_ = info.kind != DeviceKind::software &&    // whose memory is the host's
                        has_extension(api, info.handle, VK_EXT_MEMORY_BUDGET_EXTENSION_NAME);
    VkPhysicalDeviceProperties2 properties = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2};
    api.GetPhysicalDeviceProperties2(info.handle, &properties);
    self->timestamp_ns_ = families.timestamp_bits ? properties.properties.limits.timestampPeriod : 0;
    self->timestamp_mask_ = families.timestamp_bits < 64 ? (uint64_t(1) << families.timestamp_bits) - 1 : ~uint64_t(0);

    self->open_pipeline_cache();
    return self;
}

Device::~Device()
{
    if (!handle_) return;
    api_.DeviceWaitIdle(handle_);    // its result would tell nothing new: the device goes away
    pipelines_.clear();
    if (pipeline_cache_) {
        save_pipeline_cache();
        api_.DestroyPipelineCache(handle_, pipeline_cache_, nullptr);
    }
    for (const VkCommandPool pool : command_pools_)
        if (pool) api_.DestroyCommandPool(handle_, pool, nullptr);
    api_.DestroyDevice(handle_, nullptr);
}

// The cache only saves compile time: where it cannot be read or written, nothing else changes, so failures are silent.
void Device::open_pipeline_cache()
{
    VkPhysicalDeviceVulkan11Properties v11 = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_1_PROPERTIES};
    VkPhysicalDeviceProperties2 properties = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2, .pNext = &v11};
    instance_->api().GetPhysicalDeviceProperties2(info_.handle, &properties);
    std::string name = "pipelines-";
    for (const uint8_t byte : properties.properties.pipelineCacheUUID) name += fmt::format("{:02x}", byte);
    for (const uint8_t byte : v11.deviceUUID) name += fmt::format("{:02x}", byte);

    std::string data;
    // What comes from a cache has no statistics.
    if (const std::filesystem::path folder = cache_folder(); !folder.empty() && statistics_ == Statistics::none) {
        cache_path_ = (folder / (name + ".bin")).string();
        data = read_cached(cache_path_);
    }
    cache_bytes_ = data.size();
    VkPipelineCacheCreateInfo info = {.sType = VK_STRUCTURE_TYPE_PIPELINE_CACHE_CREATE_INFO,
                                      .initialDataSize = data.size(),
                                      .pInitialData = data.data()};
    if (api_.CreatePipelineCache(handle_, &info, nullptr, &pipeline_cache_) == VK_SUCCESS) return;
    info.initialDataSize = 0;
    check_result(api_.CreatePipelineCache(handle_, &info, nullptr, &pipeline_cache_), "vkCreatePipelineCache");
}

void Device::save_pipeline_cache() const
{
    size_t bytes = 0;
    if (cache_path_.empty() || api_.GetPipelineCacheData(handle_, pipeline_cache_, &bytes, nullptr) != VK_SUCCESS ||
        bytes == cache_bytes_)
        return;
    std::vector<char> data;
    try {
        data.resize(bytes);
    } catch (const std::bad_alloc&) {
        return;    // this is a destructor's
    }
    if (api_.GetPipelineCacheData(handle_, pipeline_cache_, &bytes, data.data()) != VK_SUCCESS) return;
    write_cached(cache_path_, {data.data(), bytes});
}

const Pipeline& Device::pipeline(const PipelineKey& key, uint32_t args_bytes)
{
    auto& pipeline = pipelines_[key];
    if (!pipeline) pipeline = std::make_shared<Pipeline>(*this, key, args_bytes);
    return *pipeline;
}

// ---- memory ---------------------------------------------------------------------------------------------------------

namespace {

/// The first memory type that has all of `wanted` and none of `avoided`; the wish lists are tried in order.
std::optional<uint32_t> find_memory(const VkPhysicalDeviceMemoryProperties& memory, uint32_t allowed, Use use)
{
    constexpr VkMemoryPropertyFlags local = VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT,
                                    visible = VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT,
                                    coherent = VK_MEMORY_PROPERTY_HOST_COHERENT_BIT,
                                    cached = VK_MEMORY_PROPERTY_HOST_CACHED_BIT;
    // Of kinds that a program has to ask for by a feature, or that are memory only while a picture is drawn.
    constexpr VkMemoryPropertyFlags never = VK_MEMORY_PROPERTY_LAZILY_ALLOCATED_BIT | VK_MEMORY_PROPERTY_PROTECTED_BIT |
                                            VK_MEMORY_PROPERTY_DEVICE_COHERENT_BIT_AMD |
                                            VK_MEMORY_PROPERTY_DEVICE_UNCACHED_BIT_AMD;
    struct Wish {
        VkMemoryPropertyFlags wanted, avoided;
    };
    static const std::vector<Wish> wishes[] = {
        {{local, visible}, {local, 0}, {0, 0}},                    // Use::device
        {{visible | coherent, local}, {visible | coherent, 0}},    // Use::upload
        {{visible | coherent | cached, local},
         {visible | coherent | cached, 0},
         {visible | coherent, 0}},    // Use::readback
    };
    for (const Wish& wish : wishes[size_t(use)])
        for (uint32_t i = 0; i < memory.memoryTypeCount; ++i) {
            const VkMemoryPropertyFlags flags = memory.memoryTypes[i].propertyFlags;
            if ((allowed >> i & 1) && (flags & wish.wanted) == wish.wanted && !(flags & (wish.avoided | never)))
                return i;
        }
    return {};
}

}    // namespace

std::optional<MemoryState> Device::memory_state() const
{
    const auto type = find_memory(memory_, ~0u, Use::device);
    if (!has_budget_ || !type) return {};
    VkPhysicalDeviceMemoryBudgetPropertiesEXT budget = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_BUDGET_PROPERTIES_EXT};
    VkPhysicalDeviceMemoryProperties2 memory = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_PROPERTIES_2,
                                                .pNext = &budget};
    instance_->api().GetPhysicalDeviceMemoryProperties2(info_.handle, &memory);
    const uint32_t heap = memory_.memoryTypes[*type].heapIndex;
    return MemoryState{budget.heapBudget[heap], budget.heapUsage[heap]};
}

uint64_t Device::free_memory() const
{
    const auto state = memory_state();
    if (!state) return info_.free_memory;
    const uint64_t others = state->used - std::min(state->used, allocated_);
    return state->budget - std::min(state->budget, others);
}

// The delegation makes it whole before anything can throw, so that its destructor runs.
Buffer::Buffer(std::shared_ptr<Device> device, uint64_t bytes, Use use, std::string_view what) : Buffer()
{
    HEARTH_CHECK(bytes > 0);
    device_ = std::move(device);
    if (bytes > device_->info().max_buffer)
        throw Error("{} has no room for {} ({:.1f} MiB): its buffers end at {:.1f} MiB; use a smaller context (-c), or "
                    "--device cpu",
                    device_->info().name, what, double(bytes) / (1 << 20),
                    double(device_->info().max_buffer) / (1 << 20));
    const DeviceApi& api = device_->api();
    const bool two_families = device_->families_[0] != device_->families_[1];
    const VkBufferCreateInfo info = {
        .sType = VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO,
        .size = bytes,
        .usage = VK_BUFFER_USAGE_STORAGE_BUFFER_BIT | VK_BUFFER_USAGE_SHADER_DEVICE_ADDRESS_BIT |
                 VK_BUFFER_USAGE_TRANSFER_SRC_BIT | VK_BUFFER_USAGE_TRANSFER_DST_BIT,
        .sharingMode = two_families ? VK_SHARING_MODE_CONCURRENT : VK_SHARING_MODE_EXCLUSIVE,
        .queueFamilyIndexCount = two_families ? 2u : 0u,
        .pQueueFamilyIndices = device_->families_,
    };
    check_result(api.CreateBuffer(device_->handle(), &info, nullptr, &handle_), "vkCreateBuffer");
    VkMemoryRequirements needs;
    api.GetBufferMemoryRequirements(device_->handle(), handle_, &needs);
    const auto type = find_memory(device_->memory_, needs.memoryTypeBits, use);
    if (!type) throw Error("{} offers no memory for {}: use --device cpu", device_->info().name, what);

    const VkMemoryAllocateFlagsInfo flags = {.sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_FLAGS_INFO,
                                             .flags = VK_MEMORY_ALLOCATE_DEVICE_ADDRESS_BIT};
    const VkMemoryAllocateInfo allocate = {.sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO,
                                           .pNext = &flags,
                                           .allocationSize = needs.size,
                                           .memoryTypeIndex = *type};
    const VkResult result = api.AllocateMemory(device_->handle(), &allocate, nullptr, &memory_);
    if (result != VK_SUCCESS) {
        if (result == VK_ERROR_OUT_OF_DEVICE_MEMORY || result == VK_ERROR_OUT_OF_HOST_MEMORY)
            throw Error("{} has no room for {} ({:.1f} MiB): use a smaller --vram-budget or context (-c)",
                        device_->info().name, what, double(bytes) / (1 << 20));
        check_result(result, "vkAllocateMemory");
    }
    check_result(api.BindBufferMemory(device_->handle(), handle_, memory_, 0), "vkBindBufferMemory");
    if (use != Use::device) {
        const VkResult reached = api.MapMemory(device_->handle(), memory_, 0, VK_WHOLE_SIZE, 0, &mapped_);
        if (reached == VK_ERROR_MEMORY_MAP_FAILED)
            throw Error("{} lets this program reach no more of its memory, and {} wants {:.1f} MiB: use a smaller "
                        "context (-c), or --device cpu",
                        device_->info().name, what, double(bytes) / (1 << 20));
        check_result(reached, "vkMapMemory");
    }
    const VkBufferDeviceAddressInfo address = {.sType = VK_STRUCTURE_TYPE_BUFFER_DEVICE_ADDRESS_INFO,
                                               .buffer = handle_};
    address_ = api.GetBufferDeviceAddress(device_->handle(), &address);
    if (mapped_) std::memset(mapped_, 0, bytes);
    bytes_ = bytes;
    if (use == Use::device) {
        device_->allocated_ += bytes;
        device_->most_allocated_ = std::max(device_->most_allocated_, device_->allocated_);
    }
}

Buffer& Buffer::operator=(Buffer&& other) noexcept
{
    std::swap(device_, other.device_);
    std::swap(handle_, other.handle_);
    std::swap(memory_, other.memory_);
    std::swap(bytes_, other.bytes_);
    std::swap(address_, other.address_);
    std::swap(mapped_, other.mapped_);
    return *this;
}

Buffer::~Buffer()
{
    if (!handle_) return;
    if (!mapped_) device_->allocated_ -= bytes_;    // 0 if it never came to be
    device_->api().DestroyBuffer(device_->handle(), handle_, nullptr);
    device_->api().FreeMemory(device_->handle(), memory_, nullptr);
}

Slice Pool::take(uint64_t bytes)
{
    HEARTH_CHECK(taken_ + bytes <= buffer_.bytes());
    const Slice slice = {.buffer = buffer_.handle(),
                         .offset = taken_,
                         .bytes = bytes,
                         .address = buffer_.address() + taken_,
                         .mapped = buffer_.mapped<std::byte>() ? buffer_.mapped<std::byte>() + taken_ : nullptr};
    taken_ += aligned(bytes);
    return slice;
}

}    // namespace hearth::vulkan
