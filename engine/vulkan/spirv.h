// The compiled kernels, embedded at build time.
#pragma once

#include <cstddef>
#include <cstdint>

namespace hearth::vulkan {

struct Spirv {
    const char* name;
    const uint32_t* words;
    size_t bytes;
};

extern const Spirv spirv_modules[];
extern const unsigned spirv_module_count;

}    // namespace hearth::vulkan
