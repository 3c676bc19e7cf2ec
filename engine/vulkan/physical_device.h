// What a device says of itself before it is opened.
#pragma once

#include "engine/vulkan/device.h"

#include <optional>
#include <string_view>

namespace hearth::vulkan {

bool has_extension(const InstanceApi& api, VkPhysicalDevice device, std::string_view name);

struct QueueFamilies {
    std::optional<uint32_t> kernels;
    uint32_t copies = 0;
    uint32_t timestamp_bits = 0;    // of kernels
};

QueueFamilies queue_families(const InstanceApi& api, VkPhysicalDevice device);

/// Of one that cannot be used it says why.
DeviceInfo look_at(const InstanceApi& api, VkPhysicalDevice handle);

}    // namespace hearth::vulkan
