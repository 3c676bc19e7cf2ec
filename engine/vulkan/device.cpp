#include "engine/vulkan/device.h"

#include "engine/system/folders.h"
#include "engine/vulkan/kernel.h"

#include <algorithm>
#include <cctype>
#include <charconv>
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

std::string_view kind_name(DeviceKind kind)
{
    switch (kind) {
    case DeviceKind::discrete: return "discrete GPU";
    case DeviceKind::integrated: return "integrated GPU";
    case DeviceKind::software: return "software device";
    case DeviceKind::other: break;
    }
    return "other device";
}

// ---- choosing a device ----------------------------------------------------------------------------------------------

namespace {

bool contains_ignoring_case(std::string_view text, std::string_view part)
{
    return std::search(text.begin(), text.end(), part.begin(), part.end(), [](unsigned char a, unsigned char b) {
               return std::tolower(a) == std::tolower(b);
           }) != text.end();
}

DeviceChoice choose_best(const std::vector<DeviceInfo>& devices)
{
    DeviceChoice choice{.index = {}, .reason = devices.empty() ? "no Vulkan device was found" : ""};
    for (size_t i = 0; i < devices.size(); ++i) {
        const DeviceInfo& d = devices[i];
        const auto rank = [](const DeviceInfo& info) { return std::pair(-int(info.kind), info.memory); };
        if (!d.unfit.empty() || d.kind == DeviceKind::software) {
            choice.reason +=
                fmt::format("{}{} {}", choice.reason.empty() ? "" : "; ", d.name,
                            d.unfit.empty() ? "is a software device, which is used only when named" : d.unfit);
        } else if (!choice.index || rank(d) > rank(devices[*choice.index])) {
            choice.index = i;
        }
    }
    if (choice.index)
        choice.reason = fmt::format("the best of {} Vulkan device{}", devices.size(), devices.size() == 1 ? "" : "s");
    return choice;
}

}    // namespace

DeviceChoice choose_device(const std::vector<DeviceInfo>& devices, std::string_view wanted)
{
    if (wanted == "auto") return choose_best(devices);

    std::vector<size_t> found;
    size_t number = 0;
    const auto [end, ec] = std::from_chars(wanted.data(), wanted.data() + wanted.size(), number);
    if (ec == std::errc() && end == wanted.data() + wanted.size()) {
        if (number < devices.size()) found.push_back(number);
    } else {
        for (size_t i = 0; i < devices.size(); ++i)
            if (contains_ignoring_case(devices[i].name, wanted)) found.push_back(i);
    }
    if (found.empty())
        throw Error("no device is called '{}': `hearth devices` lists the {} there are", wanted, devices.size());
    if (found.size() > 1) throw Error("'{}' names {} devices: use an index of `hearth devices`", wanted, found.size());
    const DeviceInfo& d = devices[found[0]];
    if (!d.unfit.empty())
        throw Error("{} cannot be used: it {}; update its driver or use --device cpu", d.name, d.unfit);
    return {found[0], "as asked"};
}

// ---- instance -------------------------------------------------------------------------------------------------------

struct MessageSink {
    static VKAPI_ATTR VkBool32 VKAPI_CALL receive(VkDebugUtilsMessageSeverityFlagBitsEXT,
                                                  VkDebugUtilsMessageTypeFlagsEXT,
                                                  const VkDebugUtilsMessengerCallbackDataEXT* data, void* instance)
    {
        auto& self = *static_cast<Instance*>(instance);
        const std::lock_guard lock(self.mutex_);
        self.messages_.emplace_back(data->pMessage);
        return VK_FALSE;
    }
};

std::shared_ptr<Instance> Instance::open(const InstanceOptions& options, std::string& why_not)
{
    const auto get = open_loader();
    if (!get) {
        why_not = "this machine has no Vulkan loader (libvulkan)";
        return nullptr;
    }
    const auto create = reinterpret_cast<PFN_vkCreateInstance>(get(nullptr, "vkCreateInstance"));
    HEARTH_CHECK(create);

    const char* layer = "VK_LAYER_KHRONOS_validation";
    const char* extension = VK_EXT_DEBUG_UTILS_EXTENSION_NAME;
    const VkValidationFeatureEnableEXT enable = VK_VALIDATION_FEATURE_ENABLE_SYNCHRONIZATION_VALIDATION_EXT;
    VkValidationFeaturesEXT validation = {.sType = VK_STRUCTURE_TYPE_VALIDATION_FEATURES_EXT,
                                          .enabledValidationFeatureCount = 1,
                                          .pEnabledValidationFeatures = &enable};
    const VkApplicationInfo application = {
        .sType = VK_STRUCTURE_TYPE_APPLICATION_INFO, .pApplicationName = "hearth", .apiVersion = VK_API_VERSION_1_3};
    VkInstanceCreateInfo info = {.sType = VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO, .pApplicationInfo = &application};
    if (options.validation) {
        info.pNext = &validation;
        info.enabledLayerCount = 1;
        info.ppEnabledLayerNames = &layer;
        info.enabledExtensionCount = 1;
        info.ppEnabledExtensionNames = &extension;
    }

    std::shared_ptr<Instance> self(new Instance);
    const VkResult result = create(&info, nullptr, &self->handle_);
    if (result == VK_ERROR_LAYER_NOT_PRESENT)
        throw Error("the Vulkan validation layers are not installed (Debian: vulkan-validationlayers)");
    if (result != VK_SUCCESS) {
        why_not = result == VK_ERROR_INCOMPATIBLE_DRIVER ? "this machine has no Vulkan driver"
                                                         : fmt::format("Vulkan does not start (error {})", int(result));
        return nullptr;
    }
    InstanceApi& api = self->api_;
#define X(name)                                                                                                        \
    api.name = reinterpret_cast<PFN_vk##name>(get(self->handle_, "vk" #name));                                         \
    HEARTH_CHECK(api.name);
    HEARTH_INSTANCE_FUNCTIONS(X)
#undef X
    if (options.validation) {
        api.CreateDebugUtilsMessengerEXT =
            reinterpret_cast<PFN_vkCreateDebugUtilsMessengerEXT>(get(self->handle_, "vkCreateDebugUtilsMessengerEXT"));
        api.DestroyDebugUtilsMessengerEXT = reinterpret_cast<PFN_vkDestroyDebugUtilsMessengerEXT>(
            get(self->handle_, "vkDestroyDebugUtilsMessengerEXT"));
        const VkDebugUtilsMessengerCreateInfoEXT messenger = {
            .sType = VK_STRUCTURE_TYPE_DEBUG_UTILS_MESSENGER_CREATE_INFO_EXT,
            .messageSeverity =
                VK_DEBUG_UTILS_MESSAGE_SEVERITY_WARNING_BIT_EXT | VK_DEBUG_UTILS_MESSAGE_SEVERITY_ERROR_BIT_EXT,
            .messageType = VK_DEBUG_UTILS_MESSAGE_TYPE_VALIDATION_BIT_EXT,
            .pfnUserCallback = MessageSink::receive,
            .pUserData = self.get(),
        };
        check_result(api.CreateDebugUtilsMessengerEXT(self->handle_, &messenger, nullptr, &self->messenger_),
                     "vkCreateDebugUtilsMessengerEXT");
    }
    api.GetPhysicalDeviceCooperativeMatrixPropertiesKHR =
        reinterpret_cast<PFN_vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR>(
            get(self->handle_, "vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR"));
    return self->look_at_devices(why_not) ? self : nullptr;
}

Instance::~Instance()
{
    if (messenger_) api_.DestroyDebugUtilsMessengerEXT(handle_, messenger_, nullptr);
    if (handle_) api_.DestroyInstance(handle_, nullptr);
}

std::vector<std::string> Instance::take_messages()
{
    const std::lock_guard lock(mutex_);
    return std::exchange(messages_, {});
}

namespace {

constexpr uint32_t intel = 0x8086;    // a vendor's number

bool has_extension(const InstanceApi& api, VkPhysicalDevice device, std::string_view name)
{
    uint32_t count = 0;
    if (api.EnumerateDeviceExtensionProperties(device, nullptr, &count, nullptr) != VK_SUCCESS) return false;
    std::vector<VkExtensionProperties> all(count);
    if (api.EnumerateDeviceExtensionProperties(device, nullptr, &count, all.data()) != VK_SUCCESS) return false;
    return std::any_of(all.begin(), all.end(), [&](const VkExtensionProperties& e) { return name == e.extensionName; });
}

struct QueueFamilies {
    std::optional<uint32_t> kernels;
    uint32_t copies = 0;
    uint32_t timestamp_bits = 0;    // of kernels
};

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

/// The largest product of halves, summed in floats, whose sizes divide a quarter of a tile of matmul_coop; zeros where
/// there is none.
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
        if (!halves || !floats || p.scope != VK_SCOPE_SUBGROUP_KHR || 32 % p.MSize || 32 % p.NSize || 32 % p.KSize)
            continue;
        if (p.MSize * p.NSize * p.KSize > best.m * best.n * best.k) best = {p.MSize, p.NSize, p.KSize};
    }
    return best;
}

}    // namespace

Subgroups usual_subgroups(uint32_t vendor, uint32_t reported, std::span<const uint32_t> sizes)
{
    // Intel's driver reports 32, and compiles most of our kernels so with hundreds of spilled registers. By its
    // compiler's count of cycles (Mesa 22.3.6, Arc A770M) an invocation of a light kernel takes fewest with 16, and one
    // of a heavy kernel with 8: a fifth to two thirds fewer than with 16.
    const auto offered = [&](uint32_t size) { return std::ranges::count(sizes, size) > 0; };
    if (vendor != intel || !offered(16)) return {reported, reported};
    return {16, offered(8) ? 8u : 16u};
}

bool Instance::look_at_devices(std::string& why_not)
{
    uint32_t count = 0;
    VkResult result = api_.EnumeratePhysicalDevices(handle_, &count, nullptr);
    std::vector<VkPhysicalDevice> handles(count);
    if (result == VK_SUCCESS && count > 0) result = api_.EnumeratePhysicalDevices(handle_, &count, handles.data());
    if (result != VK_SUCCESS) {    // a driver without its GPU is often answered so
        why_not = fmt::format("Vulkan finds no device (error {})", int(result));
        return false;
    }

    for (VkPhysicalDevice handle : handles) {
        VkPhysicalDeviceVulkan13Properties v13 = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_3_PROPERTIES};
        VkPhysicalDeviceVulkan12Properties v12 = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_PROPERTIES,
                                                  .pNext = &v13};
        VkPhysicalDeviceVulkan11Properties v11 = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_1_PROPERTIES,
                                                  .pNext = &v12};
        VkPhysicalDeviceProperties2 properties = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2,
                                                  .pNext = &v11};
        api_.GetPhysicalDeviceProperties2(handle, &properties);

        DeviceInfo d;
        d.handle = handle;
        d.name = properties.properties.deviceName;
        d.vendor = properties.properties.vendorID;
        d.number = properties.properties.deviceID;
        const uint32_t version = properties.properties.apiVersion;
        if (version < VK_API_VERSION_1_3) {
            d.unfit = fmt::format("speaks Vulkan {}.{} and 1.3 is needed", VK_API_VERSION_MAJOR(version),
                                  VK_API_VERSION_MINOR(version));
            devices_.push_back(d);
            continue;
        }
        d.driver = fmt::format("{} {}", v12.driverName, v12.driverInfo);
        switch (properties.properties.deviceType) {
        case VK_PHYSICAL_DEVICE_TYPE_DISCRETE_GPU: d.kind = DeviceKind::discrete; break;
        case VK_PHYSICAL_DEVICE_TYPE_INTEGRATED_GPU: d.kind = DeviceKind::integrated; break;
        case VK_PHYSICAL_DEVICE_TYPE_CPU: d.kind = DeviceKind::software; break;
        default: d.kind = DeviceKind::other; break;
        }
        d.reported_subgroup_size = v11.subgroupSize;
        d.min_subgroup_size = v13.minSubgroupSize;
        d.max_subgroup_size = v13.maxSubgroupSize;
        d.max_subgroups = v13.maxComputeWorkgroupSubgroups;

        VkPhysicalDeviceMemoryBudgetPropertiesEXT budget = {
            .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_BUDGET_PROPERTIES_EXT};
        const bool has_budget = has_extension(api_, handle, VK_EXT_MEMORY_BUDGET_EXTENSION_NAME);
        VkPhysicalDeviceMemoryProperties2 memory = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_PROPERTIES_2,
                                                    .pNext = has_budget ? &budget : nullptr};
        api_.GetPhysicalDeviceMemoryProperties2(handle, &memory);
        for (uint32_t i = 0; i < memory.memoryProperties.memoryHeapCount; ++i) {
            const VkMemoryHeap& heap = memory.memoryProperties.memoryHeaps[i];
            if (!(heap.flags & VK_MEMORY_HEAP_DEVICE_LOCAL_BIT) || heap.size <= d.memory) continue;
            d.memory = heap.size;
            d.free_memory =
                has_budget ? budget.heapBudget[i] - std::min(budget.heapUsage[i], budget.heapBudget[i]) : heap.size;
        }

        constexpr VkMemoryPropertyFlags reached =
            VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT | VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT;
        for (uint32_t i = 0; i < memory.memoryProperties.memoryTypeCount; ++i) {
            const VkMemoryType& type = memory.memoryProperties.memoryTypes[i];
            if ((type.propertyFlags & reached) == reached)
                d.window = std::max(d.window, memory.memoryProperties.memoryHeaps[type.heapIndex].size);
        }

        VkPhysicalDeviceCooperativeMatrixFeaturesKHR matrices = {
            .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_FEATURES_KHR};
        const bool has_matrices = has_extension(api_, handle, VK_KHR_COOPERATIVE_MATRIX_EXTENSION_NAME);
        VkPhysicalDeviceVulkan13Features f13 = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_3_FEATURES,
                                                .pNext = has_matrices ? &matrices : nullptr};
        VkPhysicalDeviceVulkan12Features f12 = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES,
                                                .pNext = &f13};
        VkPhysicalDeviceFeatures2 features = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2, .pNext = &f12};
        api_.GetPhysicalDeviceFeatures2(handle, &features);
        d.features = {.fp16 = bool(f12.shaderFloat16), .int_dot = bool(f13.shaderIntegerDotProduct)};
        // The kernel's memory model is Vulkan's, as the compiler wants it with cooperative matrices. Intel's driver has
        // rules of its own for the size of their subgroups, under which nobody has seen this kernel run.
        const bool fit = matrices.cooperativeMatrix && f12.shaderFloat16 && f12.vulkanMemoryModel &&
                         properties.properties.vendorID != intel;
        if (fit && has_kernel("matmul_coop")) d.matrix = matrix_size(api_, handle);
        d.features.matrices = d.matrix.m > 0;
        // Every Vulkan 1.3 device has the instruction; those that only emulate it are faster with floats. A software
        // device keeps it, for the tests.
        d.features.int_dot &= v13.integerDotProduct4x8BitPackedSignedAccelerated || d.kind == DeviceKind::software;
        if (f13.subgroupSizeControl && (v13.requiredSubgroupSizeStages & VK_SHADER_STAGE_COMPUTE_BIT))
            for (uint32_t size = d.min_subgroup_size; size <= d.max_subgroup_size; size *= 2)
                d.subgroup_sizes.push_back(size);
        const uint32_t vendor = properties.properties.vendorID;
        const Subgroups subgroups = usual_subgroups(vendor, d.reported_subgroup_size, d.subgroup_sizes);
        d.subgroup_size = subgroups.usual;
        d.heavy_subgroup_size = subgroups.heavy;
        const VkPhysicalDeviceLimits& limits = properties.properties.limits;
        d.max_workgroup = std::min(limits.maxComputeWorkGroupInvocations, limits.maxComputeWorkGroupSize[0]);
        d.max_buffer = std::min<uint64_t>(v13.maxBufferSize, v11.maxMemoryAllocationSize);

        const struct {
            bool there;
            const char* what;
        } needs[] = {
            {bool(f12.bufferDeviceAddress), "buffer device addresses"},
            {bool(f12.timelineSemaphore), "timeline semaphores"},
            {bool(f12.scalarBlockLayout), "scalar block layout"},
            {bool(f13.synchronization2), "synchronization2"},
            {bool(f13.computeFullSubgroups), "full subgroups"},
            {(v11.subgroupSupportedStages & VK_SHADER_STAGE_COMPUTE_BIT) &&
                 (v11.subgroupSupportedOperations & VK_SUBGROUP_FEATURE_ARITHMETIC_BIT),
             "subgroup arithmetic in compute shaders"},
            {d.max_subgroup_size <= 64, "subgroups of at most 64"},
            {queue_families(api_, handle).kernels.has_value(), "a compute queue"},
        };
        for (const auto& need : needs)
            if (!need.there) d.unfit += fmt::format("{}{}", d.unfit.empty() ? "lacks " : ", ", need.what);
        devices_.push_back(d);
    }
    return true;
}

// ---- device ---------------------------------------------------------------------------------------------------------

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
    const bool with_matrices = self->features_.matrices, with_statistics = statistics == Statistics::kept;
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
                                            .vulkanMemoryModel = with_matrices};
    const VkDeviceCreateInfo create = {.sType = VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO,
                                       .pNext = &f12,
                                       .queueCreateInfoCount = uint32_t(queues.size()),
                                       .pQueueCreateInfos = queues.data(),
                                       .enabledExtensionCount = uint32_t(extensions.size()),
                                       .ppEnabledExtensionNames = extensions.data()};
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

const Pipeline& Device::pipeline(std::string_view name, uint32_t args_bytes, std::span<const uint32_t> constants,
                                 uint32_t subgroup)
{
    auto& pipeline = pipelines_[{std::string(name), {constants.begin(), constants.end()}, subgroup}];
    if (!pipeline) pipeline = std::make_shared<Pipeline>(*this, name, args_bytes, constants, subgroup);
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
            if ((allowed >> i & 1) && (flags & wish.wanted) == wish.wanted && !(flags & wish.avoided)) return i;
        }
    return {};
}

}    // namespace

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
    if (use != Use::device)
        check_result(api.MapMemory(device_->handle(), memory_, 0, VK_WHOLE_SIZE, 0, &mapped_), "vkMapMemory");
    const VkBufferDeviceAddressInfo address = {.sType = VK_STRUCTURE_TYPE_BUFFER_DEVICE_ADDRESS_INFO,
                                               .buffer = handle_};
    address_ = api.GetBufferDeviceAddress(device_->handle(), &address);
    if (mapped_) std::memset(mapped_, 0, bytes);
    bytes_ = bytes;
    if (use == Use::device) device_->allocated_ += bytes;
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
