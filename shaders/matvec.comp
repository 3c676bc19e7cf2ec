// y_r = sum_i w_ri x_i
#version 460
#extension GL_GOOGLE_include_directive : require
#include "kernels.h"
#include "row.glsl"

layout(local_size_x = 128) in;
layout(constant_id = 0) const uint type = 0;
layout(push_constant, scalar) uniform Push { MatVec a; };

void main()
{
    for (uint r = gl_WorkGroupID.x * gl_NumSubgroups + gl_SubgroupID; r < a.rows; r += gl_NumWorkGroups.x * gl_NumSubgroups) {
#ifdef INT_DOT
        const float part = row_dot_int(a.weight, type, r * a.stride, a.high, a.low, a.scale, a.cols, gl_SubgroupInvocationID, gl_SubgroupSize);
#else
        const float part = row_dot(a.weight, type, r * a.stride, a.x, a.cols, gl_SubgroupInvocationID, gl_SubgroupSize);
#endif
        const float sum = subgroupAdd(part);
        if (subgroupElect()) a.y.at[r] = sum;
    }
}
