// A Vulkan layer that writes what the driver's compiler makes of every compute pipeline of any program: a line of JSON
// each, to the file that HEARTH_PEER_KERNELS names. It answers every wait at once, since drivers that compile for chips
// that are not there run nothing; what such a program computes means nothing.
#include "tests/vulkan_layer.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <mutex>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

namespace {

std::mutex mutex;
std::map<VkPipeline, nlohmann::json> unnamed;    // a program names its pipelines after it has made them

void write(const nlohmann::json& line)
{
    const char* path = std::getenv("HEARTH_PEER_KERNELS");
    if (!path) return;
    static std::ofstream file(path);
    file << line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) << std::endl;
}

/// The last of what the driver shows of a pipeline on its way to the chip: the chip's own code.
std::string code_of(VkDevice device, const VkPipelineExecutableInfoKHR& executable)
{
    const auto ask = device_call<PFN_vkGetPipelineExecutableInternalRepresentationsKHR>(
        device, "vkGetPipelineExecutableInternalRepresentationsKHR");
    uint32_t count = 0;
    ask(device, &executable, &count, nullptr);
    std::vector<VkPipelineExecutableInternalRepresentationKHR> all(
        count, {.sType = VK_STRUCTURE_TYPE_PIPELINE_EXECUTABLE_INTERNAL_REPRESENTATION_KHR});
    ask(device, &executable, &count, all.data());
    std::vector<std::string> text(count);
    for (uint32_t i = 0; i < count; ++i) {
        text[i].resize(all[i].dataSize);
        all[i].pData = text[i].data();
    }
    ask(device, &executable, &count, all.data());
    return count == 0 ? "" : text.back().c_str();    // up to its end
}

/// Those that are whole numbers, which all are that are asked for.
std::map<std::string, uint64_t> statistics_of(VkDevice device, const VkPipelineExecutableInfoKHR& executable)
{
    const auto ask =
        device_call<PFN_vkGetPipelineExecutableStatisticsKHR>(device, "vkGetPipelineExecutableStatisticsKHR");
    uint32_t count = 0;
    ask(device, &executable, &count, nullptr);
    std::vector<VkPipelineExecutableStatisticKHR> all(count,
                                                      {.sType = VK_STRUCTURE_TYPE_PIPELINE_EXECUTABLE_STATISTIC_KHR});
    ask(device, &executable, &count, all.data());
    std::map<std::string, uint64_t> found;
    for (const VkPipelineExecutableStatisticKHR& s : all)
        if (s.format == VK_PIPELINE_EXECUTABLE_STATISTIC_FORMAT_UINT64_KHR) found[s.name] = s.value.u64;
    return found;
}

VKAPI_ATTR VkResult VKAPI_CALL create_pipelines(VkDevice device, VkPipelineCache, uint32_t count,
                                                const VkComputePipelineCreateInfo* infos,
                                                const VkAllocationCallbacks* by, VkPipeline* out)
{
    const auto create = device_call<PFN_vkCreateComputePipelines>(device, "vkCreateComputePipelines");
    for (uint32_t i = 0; i < count; ++i) {
        VkComputePipelineCreateInfo info = infos[i];
        info.flags |=
            VK_PIPELINE_CREATE_CAPTURE_STATISTICS_BIT_KHR | VK_PIPELINE_CREATE_CAPTURE_INTERNAL_REPRESENTATIONS_BIT_KHR;
        const VkResult result = create(device, VK_NULL_HANDLE, 1, &info, by, &out[i]);
        if (result != VK_SUCCESS) return result;
        const VkPipelineExecutableInfoKHR executable = {
            .sType = VK_STRUCTURE_TYPE_PIPELINE_EXECUTABLE_INFO_KHR, .pipeline = out[i], .executableIndex = 0};
        std::map<uint32_t, uint32_t> constants;
        if (const VkSpecializationInfo* s = info.stage.pSpecializationInfo)
            for (const VkSpecializationMapEntry& e : std::span(s->pMapEntries, s->mapEntryCount))
                std::memcpy(&constants[e.constantID], static_cast<const char*>(s->pData) + e.offset,
                            std::min(e.size, sizeof(uint32_t)));
        nlohmann::json numbers = nlohmann::json::object();
        for (const auto& [id, value] : constants) numbers[std::to_string(id)] = value;
        const std::lock_guard lock(mutex);
        unnamed[out[i]] = {{"constants", numbers},
                           {"statistics", statistics_of(device, executable)},
                           {"code", code_of(device, executable)}};
    }
    return VK_SUCCESS;
}

VKAPI_ATTR VkResult VKAPI_CALL set_name(VkDevice, const VkDebugUtilsObjectNameInfoEXT* info)
{
    const std::lock_guard lock(mutex);
    const auto found = unnamed.find(reinterpret_cast<VkPipeline>(info->objectHandle));
    if (info->objectType != VK_OBJECT_TYPE_PIPELINE || found == unnamed.end()) return VK_SUCCESS;
    found->second["kernel"] = info->pObjectName;
    write(found->second);
    unnamed.erase(found);
    return VK_SUCCESS;
}

VKAPI_ATTR VkResult VKAPI_CALL counter(VkDevice, VkSemaphore, uint64_t* value)
{
    *value = INT64_MAX;
    return VK_SUCCESS;
}
VKAPI_ATTR VkResult VKAPI_CALL wait_semaphores(VkDevice, const VkSemaphoreWaitInfo*, uint64_t) { return VK_SUCCESS; }
VKAPI_ATTR VkResult VKAPI_CALL wait_fences(VkDevice, uint32_t, const VkFence*, VkBool32, uint64_t)
{
    return VK_SUCCESS;
}

VKAPI_ATTR VkResult VKAPI_CALL create_device(VkPhysicalDevice physical, const VkDeviceCreateInfo* info,
                                             const VkAllocationCallbacks* by, VkDevice* out)
{
    std::vector<const char*> names(info->ppEnabledExtensionNames,
                                   info->ppEnabledExtensionNames + info->enabledExtensionCount);
    VkPhysicalDevicePipelineExecutablePropertiesFeaturesKHR feature = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PIPELINE_EXECUTABLE_PROPERTIES_FEATURES_KHR,
        .pNext = const_cast<void*>(info->pNext),
        .pipelineExecutableInfo = VK_TRUE};
    VkDeviceCreateInfo more = *info;
    // A program that has it enabled already has the feature, too.
    const auto same = [](const char* name) {
        return std::string_view(name) == VK_KHR_PIPELINE_EXECUTABLE_PROPERTIES_EXTENSION_NAME;
    };
    if (std::ranges::none_of(names, same)) {
        names.push_back(VK_KHR_PIPELINE_EXECUTABLE_PROPERTIES_EXTENSION_NAME);
        more.pNext = &feature;
        more.enabledExtensionCount = uint32_t(names.size());
        more.ppEnabledExtensionNames = names.data();
    }
    return make_device(physical, &more, by, out);
}

const OwnCalls& own_calls()
{
    static const OwnCalls own = {
        .of_instance = {{"vkCreateInstance", untyped(make_instance)},
                        {"vkCreateDevice", untyped(create_device)},
                        {"vkSetDebugUtilsObjectNameEXT", untyped(set_name)}},
        .of_device = {{"vkCreateComputePipelines", untyped(create_pipelines)},
                      {"vkSetDebugUtilsObjectNameEXT", untyped(set_name)},
                      {"vkGetSemaphoreCounterValue", untyped(counter)},
                      {"vkGetSemaphoreCounterValueKHR", untyped(counter)},
                      {"vkWaitSemaphores", untyped(wait_semaphores)},
                      {"vkWaitSemaphoresKHR", untyped(wait_semaphores)},
                      {"vkWaitForFences", untyped(wait_fences)}},
    };
    return own;
}

}    // namespace
