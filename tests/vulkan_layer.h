// What the Vulkan layers of tests share: their place in the chain that the loader hands from layer to layer, and which
// calls are a layer's own. Each is one source, which includes this and defines own_calls.
#pragma once

#include <map>
#include <string_view>
#include <utility>

#include <vulkan/vk_layer.h>
#include <vulkan/vulkan.h>

namespace {

/// By name; what is not among them is the next layer's.
struct OwnCalls {
    std::map<std::string_view, PFN_vkVoidFunction> of_instance, of_device;
};
const OwnCalls& own_calls();

PFN_vkGetInstanceProcAddr next_instance;
PFN_vkGetDeviceProcAddr next_device;
VkInstance instance;    // the last one that was made

template <class F>
PFN_vkVoidFunction untyped(F* f)
{
    return reinterpret_cast<PFN_vkVoidFunction>(f);
}
template <class F>
F instance_call(const char* name)
{
    return reinterpret_cast<F>(next_instance(instance, name));
}
template <class F>
F device_call(VkDevice device, const char* name)
{
    return reinterpret_cast<F>(next_device(device, name));
}

/// The layer below this one.
template <class Link>
auto* link_of(const void* chain, VkStructureType type)
{
    auto* link = static_cast<Link*>(const_cast<void*>(chain));
    while (link->sType != type || link->function != VK_LAYER_LINK_INFO)
        link = static_cast<Link*>(const_cast<void*>(link->pNext));
    return std::exchange(link->u.pLayerInfo, link->u.pLayerInfo->pNext);
}

/// Makes the instance, or the device, below this layer.
VKAPI_ATTR VkResult VKAPI_CALL make_instance(const VkInstanceCreateInfo* info, const VkAllocationCallbacks* by,
                                             VkInstance* out)
{
    next_instance = link_of<VkLayerInstanceCreateInfo>(info->pNext, VK_STRUCTURE_TYPE_LOADER_INSTANCE_CREATE_INFO)
                        ->pfnNextGetInstanceProcAddr;
    const auto create = reinterpret_cast<PFN_vkCreateInstance>(next_instance(nullptr, "vkCreateInstance"));
    const VkResult result = create(info, by, out);
    if (result == VK_SUCCESS) instance = *out;
    return result;
}
VKAPI_ATTR VkResult VKAPI_CALL make_device(VkPhysicalDevice physical, const VkDeviceCreateInfo* info,
                                           const VkAllocationCallbacks* by, VkDevice* out)
{
    const VkLayerDeviceLink* link =
        link_of<VkLayerDeviceCreateInfo>(info->pNext, VK_STRUCTURE_TYPE_LOADER_DEVICE_CREATE_INFO);
    next_device = link->pfnNextGetDeviceProcAddr;
    const auto create =
        reinterpret_cast<PFN_vkCreateDevice>(link->pfnNextGetInstanceProcAddr(instance, "vkCreateDevice"));
    return create(physical, info, by, out);
}

VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL device_function(VkDevice device, const char* name)
{
    if (std::string_view(name) == "vkGetDeviceProcAddr") return untyped(device_function);
    const auto found = own_calls().of_device.find(name);
    return found != own_calls().of_device.end() ? found->second : next_device(device, name);
}

VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL instance_function(VkInstance i, const char* name)
{
    if (std::string_view(name) == "vkGetInstanceProcAddr") return untyped(instance_function);
    if (std::string_view(name) == "vkGetDeviceProcAddr") return untyped(device_function);
    const auto found = own_calls().of_instance.find(name);
    return found != own_calls().of_instance.end() ? found->second : next_instance(i, name);
}

}    // namespace

extern "C" VK_LAYER_EXPORT VKAPI_ATTR VkResult VKAPI_CALL
vkNegotiateLoaderLayerInterfaceVersion(VkNegotiateLayerInterface* negotiated)
{
    negotiated->loaderLayerInterfaceVersion = 2;
    negotiated->pfnGetInstanceProcAddr = instance_function;
    negotiated->pfnGetDeviceProcAddr = device_function;
    negotiated->pfnGetPhysicalDeviceProcAddr = nullptr;
    return VK_SUCCESS;
}
