#include "engine/vulkan/kernel.h"

#include "engine/vulkan/spirv.h"

#include <algorithm>
#include <map>

namespace hearth::vulkan {

namespace {

const Spirv* find_if_built(std::string_view name)
{
    const auto end = spirv_modules + spirv_module_count;
    const auto found = std::find_if(spirv_modules, end, [&](const Spirv& m) { return name == m.name; });
    return found != end ? found : nullptr;
}

const Spirv& find_module(std::string_view name)
{
    const Spirv* found = find_if_built(name);
    HEARTH_CHECK(found);
    return *found;
}

}    // namespace

bool has_kernel(std::string_view name) { return find_if_built(name); }

Pipeline::Pipeline(const Device& device, const PipelineKey& key, uint32_t args_bytes) : Pipeline(device, key)
{
    const std::span<const uint32_t> constants = key_.constants;
    const DeviceApi& api = device_.api();
    const Spirv& spirv = find_module(key_.name);
    const VkPushConstantRange range = {VK_SHADER_STAGE_COMPUTE_BIT, 0, args_bytes};
    const VkPipelineLayoutCreateInfo layout_info = {.sType = VK_STRUCTURE_TYPE_PIPELINE_LAYOUT_CREATE_INFO,
                                                    .pushConstantRangeCount = 1,
                                                    .pPushConstantRanges = &range};
    check_result(api.CreatePipelineLayout(device_.handle(), &layout_info, nullptr, &layout_), "vkCreatePipelineLayout");

    const VkShaderModuleCreateInfo module_info = {
        .sType = VK_STRUCTURE_TYPE_SHADER_MODULE_CREATE_INFO, .codeSize = spirv.bytes, .pCode = spirv.words};
    VkShaderModule module;
    check_result(api.CreateShaderModule(device_.handle(), &module_info, nullptr, &module), "vkCreateShaderModule");

    std::vector<VkSpecializationMapEntry> entries;
    for (uint32_t i = 0; i < constants.size(); ++i)
        entries.push_back({i, uint32_t(i * sizeof(uint32_t)), sizeof(uint32_t)});
    const VkSpecializationInfo specialization = {uint32_t(entries.size()), entries.data(), constants.size_bytes(),
                                                 constants.data()};
    const uint32_t subgroup = key_.subgroup ? key_.subgroup : device_.info().subgroup_size;
    const VkPipelineShaderStageRequiredSubgroupSizeCreateInfo size = {
        .sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_REQUIRED_SUBGROUP_SIZE_CREATE_INFO,
        .requiredSubgroupSize = subgroup};
    // Who asks may have no more than max_subgroups in a workgroup; a software device with small ones has fewer than
    // some kernels want.
    const bool asks = subgroup != device_.info().reported_subgroup_size;
    HEARTH_CHECK(!asks || std::ranges::count(device_.info().subgroup_sizes, subgroup) > 0);
    VkPipelineCreateFlags flags = key_.in_parts ? VK_PIPELINE_CREATE_DISPATCH_BASE_BIT : 0;
    if (device_.statistics() != Statistics::none) flags |= VK_PIPELINE_CREATE_CAPTURE_STATISTICS_BIT_KHR;
    if (device_.statistics() == Statistics::with_code)
        flags |= VK_PIPELINE_CREATE_CAPTURE_INTERNAL_REPRESENTATIONS_BIT_KHR;
    const VkComputePipelineCreateInfo info = {
        .sType = VK_STRUCTURE_TYPE_COMPUTE_PIPELINE_CREATE_INFO,
        .flags = flags,
        .stage = {.sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_CREATE_INFO,
                  .pNext = asks ? &size : nullptr,
                  .flags = VK_PIPELINE_SHADER_STAGE_CREATE_REQUIRE_FULL_SUBGROUPS_BIT,
                  .stage = VK_SHADER_STAGE_COMPUTE_BIT,
                  .module = module,
                  .pName = "main",
                  .pSpecializationInfo = &specialization},
        .layout = layout_,
    };
    const VkResult result =
        api.CreateComputePipelines(device_.handle(), device_.pipeline_cache(), 1, &info, nullptr, &handle_);
    api.DestroyShaderModule(device_.handle(), module, nullptr);
    if (result != VK_SUCCESS)
        throw Error("the driver of {} refuses the kernel {} (Vulkan error {}): update it or use --device cpu",
                    device_.info().name, key_.name, int(result));
}

Pipeline::~Pipeline()
{
    device_.api().DestroyPipeline(device_.handle(), handle_, nullptr);
    device_.api().DestroyPipelineLayout(device_.handle(), layout_, nullptr);
}

static VkPipelineExecutableInfoKHR only_executable(VkPipeline pipeline)    // of a compute pipeline
{
    return {.sType = VK_STRUCTURE_TYPE_PIPELINE_EXECUTABLE_INFO_KHR, .pipeline = pipeline, .executableIndex = 0};
}

std::string Pipeline::code() const
{
    HEARTH_CHECK(device_.statistics() == Statistics::with_code);
    const auto ask = device_.api().GetPipelineExecutableInternalRepresentationsKHR;
    const VkPipelineExecutableInfoKHR executable = only_executable(handle_);
    constexpr const char* name = "vkGetPipelineExecutableInternalRepresentations";
    uint32_t count = 0;
    check_result(ask(device_.handle(), &executable, &count, nullptr), name);
    if (count == 0) return {};
    std::vector<VkPipelineExecutableInternalRepresentationKHR> all(
        count, {.sType = VK_STRUCTURE_TYPE_PIPELINE_EXECUTABLE_INTERNAL_REPRESENTATION_KHR});
    check_result(ask(device_.handle(), &executable, &count, all.data()), name);
    std::vector<std::string> text(count);
    for (uint32_t i = 0; i < count; ++i) {
        text[i].resize(all[i].dataSize);
        all[i].pData = text[i].data();
    }
    check_result(ask(device_.handle(), &executable, &count, all.data()), name);
    return text.back().c_str();    // up to its end
}

std::map<std::string, double> Pipeline::statistics() const
{
    HEARTH_CHECK(device_.statistics() != Statistics::none);
    const auto ask = device_.api().GetPipelineExecutableStatisticsKHR;
    const VkPipelineExecutableInfoKHR only_one = only_executable(handle_);
    uint32_t count = 0;
    check_result(ask(device_.handle(), &only_one, &count, nullptr), "vkGetPipelineExecutableStatistics");
    std::vector<VkPipelineExecutableStatisticKHR> all(count,
                                                      {.sType = VK_STRUCTURE_TYPE_PIPELINE_EXECUTABLE_STATISTIC_KHR});
    check_result(ask(device_.handle(), &only_one, &count, all.data()), "vkGetPipelineExecutableStatistics");

    std::map<std::string, double> found;
    for (const VkPipelineExecutableStatisticKHR& s : all) {
        switch (s.format) {
        case VK_PIPELINE_EXECUTABLE_STATISTIC_FORMAT_BOOL32_KHR: found[s.name] = s.value.b32; break;
        case VK_PIPELINE_EXECUTABLE_STATISTIC_FORMAT_INT64_KHR: found[s.name] = double(s.value.i64); break;
        case VK_PIPELINE_EXECUTABLE_STATISTIC_FORMAT_UINT64_KHR: found[s.name] = double(s.value.u64); break;
        default: found[s.name] = s.value.f64; break;
        }
    }
    return found;
}

std::vector<ReflectedMember> reflect_push_constants(std::string_view kernel)
{
    // SPIR-V: five words of header, then instructions of (length << 16 | opcode). See the SPIR-V specification,
    // section 3.
    constexpr uint32_t op_member_name = 6, op_member_decorate = 72, op_variable = 59, op_type_pointer = 32,
                       op_type_struct = 30;
    constexpr uint32_t storage_push_constant = 9, decoration_offset = 35;
    const Spirv& spirv = find_module(kernel);
    std::map<std::pair<uint32_t, uint32_t>, std::string> names;
    std::map<std::pair<uint32_t, uint32_t>, uint32_t> offsets;
    std::map<uint32_t, uint32_t> pointee, first_member;
    uint32_t block = 0;
    const uint32_t* end = spirv.words + spirv.bytes / 4;
    for (const uint32_t* i = spirv.words + 5; i < end; i += *i >> 16) {
        switch (*i & 0xffff) {
        case op_member_name: names[{i[1], i[2]}] = reinterpret_cast<const char*>(i + 3); break;
        case op_member_decorate:
            if (i[3] == decoration_offset) offsets[{i[1], i[2]}] = i[4];
            break;
        case op_type_struct: first_member[i[1]] = (*i >> 16) > 2 ? i[2] : 0; break;
        case op_type_pointer: pointee[i[1]] = i[3]; break;
        case op_variable:
            if (i[3] == storage_push_constant) block = pointee[i[1]];
            break;
        }
    }
    const uint32_t args = first_member[block];    // the block's only member is the argument struct
    std::vector<ReflectedMember> members;
    for (const auto& [key, offset] : offsets)
        if (key.first == args) members.push_back({names[key], offset});
    return members;
}

}    // namespace hearth::vulkan
