// r = base + sum_p parts_p + cold;  y = weight r / sqrt(mean(r^2) + eps)
#version 460
#extension GL_GOOGLE_include_directive : require
#include "kernels.h"

layout(local_size_x_id = 0) in;    // 128 to 512
layout(push_constant, scalar) uniform Push { Join a; };

shared float partial[128];    // one per subgroup

void main()
{
    const Step step = a.step.at;
    const uint row = gl_WorkGroupID.x;
    if (row >= (a.head != 0 ? step.head_tokens : step.tokens)) return;
    const uint in_row = (a.head != 0 ? step.head_first + row : row) * a.n, out_row = row * a.n;

    float squares = 0;
    for (uint i = gl_LocalInvocationID.x; i < a.n; i += gl_WorkGroupSize.x) {
        float r = a.base.at[in_row + i];
        if (a.has_cold != 0) r += a.cold.at[in_row + i];
        [[unroll]] for (uint p = 0; p < a.part_count; ++p) r += a.parts.at[p * a.part_stride + in_row + i];
        a.residual.at[in_row + i] = r;
        if (a.publish == publish_residual) a.published.at[in_row + i] = r;
        squares += r * r;
    }
    const float mine = subgroupAdd(squares);
    if (subgroupElect()) partial[gl_SubgroupID] = mine;
    barrier();
    squares = 0;
    for (uint i = 0; i < gl_NumSubgroups; ++i) squares += partial[i];
    const float scale = 1.0 / sqrt(squares / float(a.n) + a.eps);

    for (uint i = gl_LocalInvocationID.x; i < a.n; i += gl_WorkGroupSize.x) {
        const float y = a.weight.at[i] * (a.residual.at[in_row + i] * scale);
        a.y.at[out_row + i] = y;
        if (a.publish == publish_norm) a.published.at[out_row + i] = y;
    }
}
