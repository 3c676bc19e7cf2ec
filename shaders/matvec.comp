// y_tr = sum_i w_ri x_ti
#version 460
#extension GL_GOOGLE_include_directive : require
#include "kernels.h"
layout(local_size_x_id = 4) in;
#include "row.glsl"

layout(constant_id = 0) const uint type = 0;
layout(push_constant, scalar) uniform Push { MatVec a; };

void main()    // x: rows; y: tokens, `few` at a time
{
    const uint token = gl_WorkGroupID.y * few, tokens = a.step.at.tokens;
    if (token >= tokens) return;
    share_table(type);
    Inputs x = {ConstFloats(a.x), Quads(a.planes.high), Quads(a.planes.low), ConstFloats4(a.planes.scale),
                      token, tokens, a.cols};
    const uint step = gl_NumWorkGroups.x * gl_NumSubgroups * rows_at_once;
    for (uint next = (gl_WorkGroupID.x * gl_NumSubgroups + gl_SubgroupID) * rows_at_once; next < a.rows; next += step) {
        const uint r = min(next, a.rows - 1);    // see rows_dot
        float part[sums_at_once];
#ifdef INT_DOT
        rows_dot_int(a.weight, type, r, a.stride, a.rows - 1 - r, x, part);
#else
        rows_dot(a.weight, type, r, a.stride, a.rows - 1 - r, x, part);
#endif
        [[unroll]] for (uint i = 0; i < rows_at_once; ++i)
            [[unroll]] for (uint t = 0; t < few; ++t) {
                const float sum = subgroupAdd(part[i * few + t]);
                if (subgroupElect() && r + i < a.rows && token + t < tokens)
                    a.y.at[(token + t) * a.rows + r + i] = a.relu != 0 && sum < 0 ? 0 : sum;
            }
    }
}
