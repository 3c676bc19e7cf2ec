#include "engine/vulkan/api.h"

#include "engine/system/program.h"

namespace hearth::vulkan {

PFN_vkGetInstanceProcAddr open_loader()
{
    // The library stays open: drivers do not like being unloaded.
    // Linux and its like, and Windows.
    return reinterpret_cast<PFN_vkGetInstanceProcAddr>(
        library_symbol({"libvulkan.so.1", "libvulkan.so", "vulkan-1.dll"}, "vkGetInstanceProcAddr"));
}

}    // namespace hearth::vulkan
