// h_n = act(gate_n . x + bias_n) act_up(up_n . x)
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

void rows(Quads w, uint type, uint n, uint stride, uint last, out float part[rows_at_once])
{
#ifdef INT_DOT
    rows_dot_int(w, type, n, stride, last, a.high, a.low, a.scale, a.cols, part);
#else
    rows_dot(w, type, n, stride, last, a.x, a.cols, part);
#endif
}

float bias_of(uint n) { return a.has_bias != 0 && n < a.neurons ? uintBitsToFloat(a.bias.at[n].x) : 0; }

void main()
{
    const uint step = gl_NumWorkGroups.x * gl_NumSubgroups * rows_at_once;
    for (uint n = (gl_WorkGroupID.x * gl_NumSubgroups + gl_SubgroupID) * rows_at_once; n < a.neurons; n += step) {
        float gate[rows_at_once], up[rows_at_once];
        rows(a.gate, gate_type, n, a.gate_stride, a.neurons - 1 - n, gate);
        [[unroll]] for (uint i = 0; i < rows_at_once; ++i) gate[i] = activate(activation, a.floor, subgroupAdd(gate[i]) + bias_of(n + i));
        if (a.has_up == 0) {
            [[unroll]] for (uint i = 0; i < rows_at_once; ++i)
                if (subgroupElect() && n + i < a.neurons) a.h.at[n + i] = abs(gate[i]) <= a.cut ? 0 : gate[i];
            continue;
        }
        if (a.cut < 0) rows(a.up, up_type, n, a.up_stride, a.neurons - 1 - n, up);
        [[unroll]] for (uint i = 0; i < rows_at_once; ++i) {
            float h = 0;
            if (a.cut < 0) h = gate[i] * activate_up(activation, subgroupAdd(up[i]));
            else if (!(abs(gate[i]) <= a.cut) && n + i < a.neurons) {    // uniform in the subgroup
                rows(a.up, up_type, n + i, a.up_stride, 0, up);
                h = gate[i] * activate_up(activation, subgroupAdd(up[0]));
            }
            if (subgroupElect() && n + i < a.neurons) a.h.at[n + i] = h;
        }
    }
}
