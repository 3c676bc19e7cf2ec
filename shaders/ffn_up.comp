// h_n = act(gate_n . x) (up_n . x)
#version 460
#extension GL_GOOGLE_include_directive : require
#include "kernels.h"
#include "row.glsl"
#include "activation.glsl"

layout(local_size_x = 128) in;
layout(constant_id = 0) const uint gate_type = 0;
layout(constant_id = 1) const uint up_type = 0;
layout(constant_id = 2) const uint activation = 0;
layout(push_constant, scalar) uniform Push { FfnUp a; };

float neuron_dot(Quads w, uint type, uint row)
{
#ifdef INT_DOT
    return subgroupAdd(row_dot_int(w, type, row, a.high, a.low, a.scale, a.cols, gl_SubgroupInvocationID, gl_SubgroupSize));
#else
    return subgroupAdd(row_dot(w, type, row, a.x, a.cols, gl_SubgroupInvocationID, gl_SubgroupSize));
#endif
}

void main()
{
    for (uint n = gl_WorkGroupID.x * gl_NumSubgroups + gl_SubgroupID; n < a.neurons; n += gl_NumWorkGroups.x * gl_NumSubgroups) {
        const float gate = activate(activation, neuron_dot(a.gate, gate_type, n * a.gate_stride));
        float h = 0;
        if (a.exact == 0 || gate != 0) h = gate * neuron_dot(a.up, up_type, n * a.up_stride);    // uniform in the subgroup
        if (subgroupElect()) a.h.at[n] = h;
    }
}
