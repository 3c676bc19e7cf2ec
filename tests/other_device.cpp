// A Vulkan layer that gives a software device the kind, the memory and the troubles of another one, for
// devices_test.py. What it pretends is a file of JSON, named by HEARTH_OTHER_DEVICE, or a list of them where there are
// several:
//
//   {"name": "Other", "kind": "discrete",                          or integrated
//    "heaps": [{"mib": 8192, "local": true, "budget": 7000}],      MiB; used is what was allocated in it
//    "types": [{"heap": 0, "flags": 1}],                           VkMemoryPropertyFlags
//    "allocation": 1024,                                           MiB that are allocated at once, at the most
//    "mapped": 64,                                                 MiB that the host can reach at once
//    "taken_after": 3, "left": 100,      from the allocation of this number on a heap's budget is so many MiB
//    "lost_after": 5}                    the submit of this number, and all after it, find the device lost
#include "tests/vulkan_layer.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <mutex>

#include <nlohmann/json.hpp>

namespace {

/// One device, or a list of as many as there are.
const nlohmann::json& description()
{
    static const nlohmann::json read = [] {
        const char* path = std::getenv("HEARTH_OTHER_DEVICE");
        std::ifstream file(path ? path : "");
        return nlohmann::json::parse(file);
    }();
    return read;
}

/// What that device pretends to be: of a list the next one, if it has not been seen before.
const nlohmann::json& pretended(VkPhysicalDevice physical)
{
    static std::mutex mutex;
    static std::map<VkPhysicalDevice, size_t> places;
    const std::lock_guard lock(mutex);
    const size_t place = places.try_emplace(physical, places.size()).first->second;
    return description().is_array() ? description().at(place) : description();
}

constexpr uint64_t mib = 1 << 20;
VkDevice device;    // the one that was opened
VkPhysicalDevice opened = VK_NULL_HANDLE;
// Of the layer below; asked for while the instance is made, since later the loader answers with ours.
PFN_vkGetPhysicalDeviceProperties2 real_properties;
PFN_vkEnumerateDeviceExtensionProperties real_extensions;
std::mutex mutex;
std::map<VkDeviceMemory, std::pair<uint32_t, uint64_t>> allocations;    // heap and bytes
uint64_t used[VK_MAX_MEMORY_HEAPS], mapped = 0;
std::atomic<uint64_t> allocated = 0, submitted = 0;

bool reached(const nlohmann::json& p, const char* what, uint64_t count) { return p.contains(what) && count >= p[what]; }

/// The struct of that type in a chain.
template <class T>
T* find(void* chain, VkStructureType type)
{
    for (auto* s = static_cast<VkBaseOutStructure*>(chain); s; s = s->pNext)
        if (s->sType == type) return reinterpret_cast<T*>(s);
    return nullptr;
}

VKAPI_ATTR void VKAPI_CALL properties(VkPhysicalDevice physical, VkPhysicalDeviceProperties2* out)
{
    real_properties(physical, out);
    const nlohmann::json& p = pretended(physical);
    const std::string name = p["name"];
    std::strncpy(out->properties.deviceName, name.c_str(), sizeof out->properties.deviceName - 1);
    out->properties.deviceType =
        p["kind"] == "integrated" ? VK_PHYSICAL_DEVICE_TYPE_INTEGRATED_GPU : VK_PHYSICAL_DEVICE_TYPE_DISCRETE_GPU;
    if (!p.contains("allocation")) return;
    auto* v11 =
        find<VkPhysicalDeviceVulkan11Properties>(out->pNext, VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_1_PROPERTIES);
    if (v11) v11->maxMemoryAllocationSize = p["allocation"].get<uint64_t>() * mib;
}

VKAPI_ATTR void VKAPI_CALL memory_properties(VkPhysicalDevice physical, VkPhysicalDeviceMemoryProperties2* out)
{
    const nlohmann::json& p = pretended(physical);
    VkPhysicalDeviceMemoryProperties& m = out->memoryProperties;
    m = {};
    auto* budget = find<VkPhysicalDeviceMemoryBudgetPropertiesEXT>(
        out->pNext, VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_BUDGET_PROPERTIES_EXT);
    const std::lock_guard lock(mutex);
    for (const nlohmann::json& heap : p["heaps"]) {
        const uint32_t i = m.memoryHeapCount++;
        const bool local = heap.value("local", false);
        m.memoryHeaps[i] = {heap["mib"].get<uint64_t>() * mib,
                            VkMemoryHeapFlags(local ? VK_MEMORY_HEAP_DEVICE_LOCAL_BIT : 0)};
        if (!budget) continue;
        budget->heapBudget[i] = heap.value("budget", heap["mib"].get<uint64_t>()) * mib;
        if (local && reached(p, "taken_after", allocated)) budget->heapBudget[i] = p["left"].get<uint64_t>() * mib;
        budget->heapUsage[i] = used[i];
    }
    for (const nlohmann::json& type : p["types"])
        m.memoryTypes[m.memoryTypeCount++] = {type["flags"].get<VkMemoryPropertyFlags>(), type["heap"].get<uint32_t>()};
}

VKAPI_ATTR void VKAPI_CALL requirements(VkDevice d, VkBuffer buffer, VkMemoryRequirements* out)
{
    device_call<PFN_vkGetBufferMemoryRequirements>(device, "vkGetBufferMemoryRequirements")(d, buffer, out);
    out->memoryTypeBits = (1u << pretended(opened)["types"].size()) - 1;
}

VKAPI_ATTR VkResult VKAPI_CALL allocate(VkDevice d, const VkMemoryAllocateInfo* info, const VkAllocationCallbacks* by,
                                        VkDeviceMemory* memory)
{
    const nlohmann::json& p = pretended(opened);
    const uint32_t heap = p["types"][info->memoryTypeIndex]["heap"];
    const std::lock_guard lock(mutex);
    const uint64_t most = p.value("allocation", uint64_t(1) << 40) * mib;
    if (info->allocationSize > std::min(most, p["heaps"][heap]["mib"].get<uint64_t>() * mib - used[heap]))
        return VK_ERROR_OUT_OF_DEVICE_MEMORY;
    VkMemoryAllocateInfo real = *info;
    real.memoryTypeIndex = 0;    // the software device has one
    const VkResult result = device_call<PFN_vkAllocateMemory>(device, "vkAllocateMemory")(d, &real, by, memory);
    if (result != VK_SUCCESS) return result;
    ++allocated;
    used[heap] += info->allocationSize;
    allocations[*memory] = {heap, info->allocationSize};
    return result;
}

VKAPI_ATTR VkResult VKAPI_CALL map(VkDevice d, VkDeviceMemory memory, VkDeviceSize offset, VkDeviceSize size,
                                   VkMemoryMapFlags flags, void** out)
{
    {
        const std::lock_guard lock(mutex);
        mapped += allocations.at(memory).second;
        if (mapped > pretended(opened).value("mapped", uint64_t(1) << 40) * mib) return VK_ERROR_MEMORY_MAP_FAILED;
    }
    return device_call<PFN_vkMapMemory>(device, "vkMapMemory")(d, memory, offset, size, flags, out);
}

VKAPI_ATTR void VKAPI_CALL release(VkDevice d, VkDeviceMemory memory, const VkAllocationCallbacks* by)
{
    {
        const std::lock_guard lock(mutex);
        if (const auto found = allocations.find(memory); found != allocations.end()) {
            used[found->second.first] -= found->second.second;
            allocations.erase(found);
        }
    }
    device_call<PFN_vkFreeMemory>(device, "vkFreeMemory")(d, memory, by);
}

VKAPI_ATTR VkResult VKAPI_CALL submit(VkQueue queue, uint32_t count, const VkSubmitInfo2* submits, VkFence fence)
{
    if (reached(pretended(opened), "lost_after", ++submitted)) return VK_ERROR_DEVICE_LOST;
    return device_call<PFN_vkQueueSubmit2>(device, "vkQueueSubmit2")(queue, count, submits, fence);
}

VKAPI_ATTR VkResult VKAPI_CALL extensions(VkPhysicalDevice physical, const char* layer, uint32_t* count,
                                          VkExtensionProperties* out)
{
    uint32_t real = 0;
    real_extensions(physical, layer, &real, nullptr);
    if (!out) {
        *count = real + 1;
        return VK_SUCCESS;
    }
    const VkResult result = real_extensions(physical, layer, &real, out);
    std::strcpy(out[real].extensionName, VK_EXT_MEMORY_BUDGET_EXTENSION_NAME);
    *count = real + 1;
    return result;
}

VKAPI_ATTR VkResult VKAPI_CALL create_instance(const VkInstanceCreateInfo* info, const VkAllocationCallbacks* by,
                                               VkInstance* out)
{
    const VkResult result = make_instance(info, by, out);
    if (result != VK_SUCCESS) return result;
    real_properties = instance_call<PFN_vkGetPhysicalDeviceProperties2>("vkGetPhysicalDeviceProperties2");
    real_extensions = instance_call<PFN_vkEnumerateDeviceExtensionProperties>("vkEnumerateDeviceExtensionProperties");
    return result;
}

VKAPI_ATTR VkResult VKAPI_CALL create_device(VkPhysicalDevice physical, const VkDeviceCreateInfo* info,
                                             const VkAllocationCallbacks* by, VkDevice* out)
{
    const VkResult result = make_device(physical, info, by, out);
    device = *out;
    opened = physical;
    return result;
}

const OwnCalls& own_calls()
{
    static const OwnCalls own = {
        .of_instance = {{"vkCreateInstance", untyped(create_instance)},
                        {"vkCreateDevice", untyped(create_device)},
                        {"vkGetPhysicalDeviceProperties2", untyped(properties)},
                        {"vkGetPhysicalDeviceMemoryProperties2", untyped(memory_properties)},
                        {"vkEnumerateDeviceExtensionProperties", untyped(extensions)}},
        .of_device = {{"vkGetBufferMemoryRequirements", untyped(requirements)},
                      {"vkAllocateMemory", untyped(allocate)},
                      {"vkMapMemory", untyped(map)},
                      {"vkFreeMemory", untyped(release)},
                      {"vkQueueSubmit2", untyped(submit)}},
    };
    return own;
}

}    // namespace
