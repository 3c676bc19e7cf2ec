#include "engine/vulkan/physical_device.h"

#include "engine/vulkan/kernel.h"

#include <algorithm>
#include <cstring>

namespace hearth::vulkan {

namespace {

constexpr uint32_t intel = 0x8086, nvidia = 0x10de;    // vendors' numbers

/// The largest product of halves, summed in floats, whose sizes divide what a subgroup makes in matmul_coop; zeros
/// where there is none.
MatrixSize matrix_size(const InstanceApi& api, VkPhysicalDevice device)
{
    MatrixSize best;
    uint32_t count = 0;
    const auto properties = api.GetPhysicalDeviceCooperativeMatrixPropertiesKHR;
    if (!properties || properties(device, &count, nullptr) != VK_SUCCESS) return best;
    std::vector<VkCooperativeMatrixPropertiesKHR> all(count,
                                                      {.sType = VK_STRUCTURE_TYPE_COOPERATIVE_MATRIX_PROPERTIES_KHR});
    if (properties(device, &count, all.data()) != VK_SUCCESS) return best;
    for (const VkCooperativeMatrixPropertiesKHR& p : all) {
        const bool halves = p.AType == VK_COMPONENT_TYPE_FLOAT16_KHR && p.BType == VK_COMPONENT_TYPE_FLOAT16_KHR;
        const bool floats = p.CType == VK_COMPONENT_TYPE_FLOAT32_KHR && p.ResultType == VK_COMPONENT_TYPE_FLOAT32_KHR;
        if (!halves || !floats || p.scope != VK_SCOPE_SUBGROUP_KHR || 32 % p.MSize || 16 % p.NSize || 32 % p.KSize)
            continue;
        if (p.MSize * p.NSize * p.KSize > best.m * best.n * best.k) best = {p.MSize, p.NSize, p.KSize};
    }
    return best;
}

/// What a device says, each as one chain of structs, so that they stay where they are.
struct Properties {
    VkPhysicalDeviceVulkan13Properties v13 = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_3_PROPERTIES};
    VkPhysicalDeviceVulkan12Properties v12 = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_PROPERTIES,
                                              .pNext = &v13};
    VkPhysicalDeviceVulkan11Properties v11 = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_1_PROPERTIES,
                                              .pNext = &v12};
    VkPhysicalDeviceProperties2 all = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2, .pNext = &v11};

    Properties(const InstanceApi& api, VkPhysicalDevice handle) { api.GetPhysicalDeviceProperties2(handle, &all); }
    Properties(const Properties&) = delete;
};

struct OfferedFeatures {
    VkPhysicalDeviceCooperativeMatrixFeaturesKHR matrices = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_FEATURES_KHR};
    VkPhysicalDeviceVulkan13Features v13 = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_3_FEATURES};
    VkPhysicalDeviceVulkan12Features v12 = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES,
                                            .pNext = &v13};
    VkPhysicalDeviceFeatures2 all = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2, .pNext = &v12};

    OfferedFeatures(const InstanceApi& api, VkPhysicalDevice handle)
    {
        if (has_extension(api, handle, VK_KHR_COOPERATIVE_MATRIX_EXTENSION_NAME)) v13.pNext = &matrices;
        api.GetPhysicalDeviceFeatures2(handle, &all);
    }
    OfferedFeatures(const OfferedFeatures&) = delete;
};

DeviceKind kind_of(VkPhysicalDeviceType type)
{
    switch (type) {
    case VK_PHYSICAL_DEVICE_TYPE_DISCRETE_GPU: return DeviceKind::discrete;
    case VK_PHYSICAL_DEVICE_TYPE_INTEGRATED_GPU: return DeviceKind::integrated;
    case VK_PHYSICAL_DEVICE_TYPE_CPU: return DeviceKind::software;
    default: return DeviceKind::other;
    }
}

/// How much memory it has, how much of that is free, and what of it the host reaches.
void look_at_memory(const InstanceApi& api, VkPhysicalDevice handle, DeviceInfo& d)
{
    VkPhysicalDeviceMemoryBudgetPropertiesEXT budget = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_BUDGET_PROPERTIES_EXT};
    const bool has_budget = has_extension(api, handle, VK_EXT_MEMORY_BUDGET_EXTENSION_NAME);
    VkPhysicalDeviceMemoryProperties2 memory = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_PROPERTIES_2,
                                                .pNext = has_budget ? &budget : nullptr};
    api.GetPhysicalDeviceMemoryProperties2(handle, &memory);
    for (uint32_t i = 0; i < memory.memoryProperties.memoryHeapCount; ++i) {
        const VkMemoryHeap& heap = memory.memoryProperties.memoryHeaps[i];
        if (!(heap.flags & VK_MEMORY_HEAP_DEVICE_LOCAL_BIT) || heap.size <= d.memory) continue;
        d.memory = heap.size;
        d.free_memory =
            has_budget ? budget.heapBudget[i] - std::min(budget.heapUsage[i], budget.heapBudget[i]) : heap.size;
    }

    constexpr VkMemoryPropertyFlags reached = VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT | VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT;
    for (uint32_t i = 0; i < memory.memoryProperties.memoryTypeCount; ++i) {
        const VkMemoryType& type = memory.memoryProperties.memoryTypes[i];
        if ((type.propertyFlags & reached) == reached)
            d.window = std::max(d.window, memory.memoryProperties.memoryHeaps[type.heapIndex].size);
    }
}

/// What of the features kernels use.
void look_at_features(const InstanceApi& api, const Properties& p, const OfferedFeatures& f, DeviceInfo& d)
{
    d.features = {.fp16 = bool(f.v12.shaderFloat16),
                  .int_dot = bool(f.v13.shaderIntegerDotProduct),
                  .int64 = bool(f.all.features.shaderInt64)};
    // Every Vulkan 1.3 device has the instruction; those that only emulate it are faster with floats. A software
    // device keeps it, for the tests.
    d.features.int_dot &= p.v13.integerDotProduct4x8BitPackedSignedAccelerated || d.kind == DeviceKind::software;
    // With them Intel's compiler keeps more in registers: on Gen 9, which has no such dots, more than there are, and
    // nearly three times as many kernels spill. On later chips an address takes five instructions instead of eight.
    d.features.int64 &= p.all.properties.vendorID != intel || d.features.int_dot;
    // The kernel's memory model is Vulkan's, as the compiler wants it with cooperative matrices. Intel's chips before
    // Xe2, with subgroups of 8, have too few registers for it.
    const bool fit = f.matrices.cooperativeMatrix && f.v12.shaderFloat16 && f.v12.vulkanMemoryModel &&
                     f.v12.vulkanMemoryModelDeviceScope &&
                     (p.all.properties.vendorID != intel || p.v13.minSubgroupSize >= 16);
    if (fit && has_kernel("matmul_coop")) d.matrix = matrix_size(api, d.handle);
    d.features.matrices = d.matrix.m > 0;
}

void look_at_subgroups(const Properties& p, const OfferedFeatures& f, DeviceInfo& d)
{
    d.reported_subgroup_size = p.v11.subgroupSize;
    d.min_subgroup_size = p.v13.minSubgroupSize;
    d.max_subgroup_size = p.v13.maxSubgroupSize;
    d.max_subgroups = p.v13.maxComputeWorkgroupSubgroups;
    if (f.v13.subgroupSizeControl && (p.v13.requiredSubgroupSizeStages & VK_SHADER_STAGE_COMPUTE_BIT))
        for (uint32_t size = d.min_subgroup_size; size <= d.max_subgroup_size; size *= 2)
            d.subgroup_sizes.push_back(size);
    const Subgroups subgroups = usual_subgroups(d.vendor, d.reported_subgroup_size, d.subgroup_sizes);
    d.subgroup_size = subgroups.usual;
    d.heavy_subgroup_size = subgroups.heavy;
}

/// What it lacks of what every device must have; empty where that is nothing.
std::string lacks(const InstanceApi& api, const Properties& p, const OfferedFeatures& f, const DeviceInfo& d)
{
    const struct {
        bool there;
        const char* what;
    } needs[] = {
        {bool(f.v12.bufferDeviceAddress), "buffer device addresses"},
        {bool(f.v12.timelineSemaphore), "timeline semaphores"},
        {bool(f.v12.scalarBlockLayout), "scalar block layout"},
        {bool(f.v13.synchronization2), "synchronization2"},
        {bool(f.v13.computeFullSubgroups), "full subgroups"},
        {(p.v11.subgroupSupportedStages & VK_SHADER_STAGE_COMPUTE_BIT) &&
             (p.v11.subgroupSupportedOperations & VK_SUBGROUP_FEATURE_ARITHMETIC_BIT),
         "subgroup arithmetic in compute shaders"},
        {d.max_subgroup_size <= 64, "subgroups of at most 64"},
        {queue_families(api, d.handle).kernels.has_value(), "a compute queue"},
    };
    std::string unfit;
    for (const auto& need : needs)
        if (!need.there) unfit += fmt::format("{}{}", unfit.empty() ? "lacks " : ", ", need.what);
    return unfit;
}

}    // namespace

bool has_extension(const InstanceApi& api, VkPhysicalDevice device, std::string_view name)
{
    uint32_t count = 0;
    if (api.EnumerateDeviceExtensionProperties(device, nullptr, &count, nullptr) != VK_SUCCESS) return false;
    std::vector<VkExtensionProperties> all(count);
    if (api.EnumerateDeviceExtensionProperties(device, nullptr, &count, all.data()) != VK_SUCCESS) return false;
    return std::any_of(all.begin(), all.end(), [&](const VkExtensionProperties& e) { return name == e.extensionName; });
}

QueueFamilies queue_families(const InstanceApi& api, VkPhysicalDevice device)
{
    uint32_t count = 0;
    api.GetPhysicalDeviceQueueFamilyProperties(device, &count, nullptr);
    std::vector<VkQueueFamilyProperties> families(count);
    api.GetPhysicalDeviceQueueFamilyProperties(device, &count, families.data());
    const auto first_of = [&](VkQueueFlags wanted, VkQueueFlags avoided) -> std::optional<uint32_t> {
        for (uint32_t i = 0; i < count; ++i)
            if ((families[i].queueFlags & wanted) == wanted && !(families[i].queueFlags & avoided)) return i;
        return {};
    };
    // A family without graphics does not queue behind the desktop; one that only copies is the device's copy engine.
    constexpr VkQueueFlags compute = VK_QUEUE_COMPUTE_BIT, graphics = VK_QUEUE_GRAPHICS_BIT, video = 0x60;
    QueueFamilies out;
    out.kernels = first_of(compute, graphics);
    if (!out.kernels) out.kernels = first_of(compute, 0);
    if (!out.kernels) return out;
    out.copies = first_of(VK_QUEUE_TRANSFER_BIT, compute | graphics | video).value_or(*out.kernels);
    out.timestamp_bits = families[*out.kernels].timestampValidBits;
    return out;
}

Subgroups usual_subgroups(uint32_t vendor, uint32_t reported, std::span<const uint32_t> sizes)
{
    // Intel's driver reports 32, and compiles most of our kernels so with hundreds of spilled registers. By its
    // compiler's count of cycles (Mesa 22.3.6, Arc A770M) an invocation of a light kernel takes fewest with 16, and one
    // of a heavy kernel with 8: a fifth to two thirds fewer than with 16.
    const auto offered = [&](uint32_t size) { return std::ranges::count(sizes, size) > 0; };
    if (vendor != intel || !offered(16)) return {reported, reported};
    return {16, offered(8) ? 8u : 16u};
}

DeviceInfo look_at(const InstanceApi& api, VkPhysicalDevice handle)
{
    const Properties p(api, handle);
    DeviceInfo d;
    d.handle = handle;
    d.name = p.all.properties.deviceName;
    d.vendor = p.all.properties.vendorID;
    d.number = p.all.properties.deviceID;
    if (p.v11.deviceLUIDValid) {
        uint64_t luid;
        static_assert(sizeof(luid) == VK_LUID_SIZE);
        std::memcpy(&luid, p.v11.deviceLUID, sizeof(luid));
        d.luid = fmt::format("{:#x}", luid);
    }
    d.layered = p.v12.driverID == VK_DRIVER_ID_MESA_DOZEN;
    const uint32_t version = p.all.properties.apiVersion;
    if (version < VK_API_VERSION_1_3) {
        d.unfit = fmt::format("speaks Vulkan {}.{} and 1.3 is needed", VK_API_VERSION_MAJOR(version),
                              VK_API_VERSION_MINOR(version));
        return d;
    }
    d.driver = fmt::format("{} {}", p.v12.driverName, p.v12.driverInfo);
    d.adds_offsets = d.vendor != intel && d.vendor != nvidia;    // AMD's GPUs do, and software
    d.kind = kind_of(p.all.properties.deviceType);
    look_at_memory(api, handle, d);
    const OfferedFeatures f(api, handle);
    look_at_features(api, p, f, d);
    look_at_subgroups(p, f, d);
    const VkPhysicalDeviceLimits& limits = p.all.properties.limits;
    d.max_workgroup = std::min(limits.maxComputeWorkGroupInvocations, limits.maxComputeWorkGroupSize[0]);
    d.max_buffer = std::min<uint64_t>(p.v13.maxBufferSize, p.v11.maxMemoryAllocationSize);
    d.unfit = lacks(api, p, f, d);
    return d;
}

}    // namespace hearth::vulkan
