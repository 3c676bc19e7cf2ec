// What lets one header compile as GLSL and as C++: the names of the types that both sides write.
// A buffer is passed as its device address; in GLSL the address is a pointer to an array `at`.
#ifndef HEARTH_SHARED_H
#define HEARTH_SHARED_H

#ifdef __cplusplus

#include <cstdint>

namespace hearth::gpu {
using uint = uint32_t;
using Floats = uint64_t;    // address of float[]
using Words = uint64_t;     // address of uint[]
using Pairs = uint64_t;     // address of uvec2[], 8-byte aligned
using Quads = uint64_t;     // address of uvec4[], 16-byte aligned: rows of weights
using Steps = uint64_t;     // address of a Step
using Rows = uint64_t;      // address of Row[]
}  // namespace hearth::gpu

#define HEARTH_GPU_BEGIN namespace hearth::gpu {
#define HEARTH_GPU_END }

#else

#extension GL_EXT_buffer_reference : require
#extension GL_EXT_scalar_block_layout : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require

layout(buffer_reference, scalar, buffer_reference_align = 4) buffer Floats { float at[]; };
layout(buffer_reference, scalar, buffer_reference_align = 16) buffer Floats4 { vec4 at[]; };
layout(buffer_reference, scalar, buffer_reference_align = 4) buffer Words { uint at[]; };
layout(buffer_reference, scalar, buffer_reference_align = 8) buffer Pairs { uvec2 at[]; };
layout(buffer_reference, scalar, buffer_reference_align = 16) readonly buffer Quads { uvec4 at[]; };
// The same for what a kernel does not write: of what may be written NVIDIA's open driver reads every number from the
// cache that all workgroups share.
layout(buffer_reference, scalar, buffer_reference_align = 4) readonly buffer ConstFloats { float at[]; };
layout(buffer_reference, scalar, buffer_reference_align = 16) readonly buffer ConstFloats4 { vec4 at[]; };
layout(buffer_reference, scalar, buffer_reference_align = 4) readonly buffer ConstWords { uint at[]; };
layout(buffer_reference, scalar, buffer_reference_align = 8) readonly buffer ConstPairs { uvec2 at[]; };

#define HEARTH_GPU_BEGIN
#define HEARTH_GPU_END

#endif
#endif
