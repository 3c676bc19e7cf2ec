// The Vulkan functions that we call, loaded at run time: a machine without Vulkan still runs.
#pragma once

#define VK_NO_PROTOTYPES
#include <vulkan/vulkan.h>

#include <memory>

namespace hearth::vulkan {

// clang-format off
#define HEARTH_INSTANCE_FUNCTIONS(X)                                                                                                                 \
    X(DestroyInstance) X(EnumeratePhysicalDevices) X(GetPhysicalDeviceProperties2) X(GetPhysicalDeviceFeatures2)                                    \
    X(GetPhysicalDeviceMemoryProperties2) X(GetPhysicalDeviceQueueFamilyProperties) X(EnumerateDeviceExtensionProperties)                            \
    X(CreateDevice) X(GetDeviceProcAddr)

#define HEARTH_DEVICE_FUNCTIONS(X)                                                                                                                   \
    X(DestroyDevice) X(GetDeviceQueue) X(CreateBuffer) X(DestroyBuffer) X(GetBufferMemoryRequirements) X(AllocateMemory) X(FreeMemory)               \
    X(BindBufferMemory) X(MapMemory) X(GetBufferDeviceAddress) X(CreateShaderModule) X(DestroyShaderModule) X(CreatePipelineLayout)                  \
    X(DestroyPipelineLayout) X(CreateComputePipelines) X(DestroyPipeline) X(CreatePipelineCache) X(DestroyPipelineCache) X(GetPipelineCacheData)     \
    X(CreateCommandPool) X(DestroyCommandPool) X(AllocateCommandBuffers) X(FreeCommandBuffers) X(BeginCommandBuffer) X(EndCommandBuffer)             \
    X(CmdBindPipeline) X(CmdPushConstants) X(CmdDispatch) X(CmdPipelineBarrier2) X(CmdCopyBuffer) X(CmdResetQueryPool)              \
    X(CmdWriteTimestamp2) X(CreateQueryPool) X(DestroyQueryPool) X(GetQueryPoolResults) X(CreateSemaphore) X(DestroySemaphore)                       \
    X(GetSemaphoreCounterValue) X(SignalSemaphore) X(WaitSemaphores) X(QueueSubmit2) X(DeviceWaitIdle)
// clang-format on

struct InstanceApi {
#define X(name) PFN_vk##name name = nullptr;
    HEARTH_INSTANCE_FUNCTIONS(X)
#undef X
    PFN_vkCreateDebugUtilsMessengerEXT CreateDebugUtilsMessengerEXT = nullptr;    // with the validation layers only
    PFN_vkDestroyDebugUtilsMessengerEXT DestroyDebugUtilsMessengerEXT = nullptr;
};

struct DeviceApi {
#define X(name) PFN_vk##name name = nullptr;
    HEARTH_DEVICE_FUNCTIONS(X)
#undef X
};

/// The entry point of the system's Vulkan loader; nullptr where there is none.
PFN_vkGetInstanceProcAddr open_loader();

}    // namespace hearth::vulkan
