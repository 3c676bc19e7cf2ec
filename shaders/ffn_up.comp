// h_n = weight_n act(gate_n . x + bias_n) act_up(up_n . x)
#version 460
#extension GL_GOOGLE_include_directive : require
#include "kernels.h"
#include "row.glsl"
#include "activation.glsl"

layout(local_size_x_id = 4) in;
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

// Without a bias the gate stands in for it, so that no address is null (see rows_dot).
float bias_of(uint row, uint n)
{
    Quads bias = a.has_bias != 0 ? a.bias : a.gate;
    return a.has_bias != 0 && n < a.neurons ? uintBitsToFloat(bias.at[row].x) : 0;
}

void main()
{
    const uint step = gl_NumWorkGroups.x * gl_NumSubgroups * rows_at_once;
    for (uint next = (gl_WorkGroupID.x * gl_NumSubgroups + gl_SubgroupID) * rows_at_once; next < a.neurons;
         next += step) {
        const uint n = min(next, a.neurons - 1);    // see rows_dot
        uint row = n;
        float weight = 1;
        if (a.has_experts != 0) {    // a slot's neurons are of one expert, so this is uniform in the subgroup
            const uvec2 place = a.chosen.at[n / slot_neurons];
            row = place.x * slot_neurons + n % slot_neurons;
            weight = uintBitsToFloat(place.y);
            if (weight == 0) {
                if (gl_SubgroupInvocationID < rows_at_once) a.h.at[n + gl_SubgroupInvocationID] = 0;
                continue;
            }
        }
        const uint last = a.neurons - 1 - n;
        float gate[rows_at_once], up[rows_at_once];
        rows(a.gate, gate_type, row, a.gate_stride, last, gate);
        [[unroll]] for (uint i = 0; i < rows_at_once; ++i)
            gate[i] = activate(activation, a.floor, subgroupAdd(gate[i]) + bias_of(row + i, n + i));
        if (a.has_up == 0) {
            [[unroll]] for (uint i = 0; i < rows_at_once; ++i)
                if (subgroupElect() && n + i < a.neurons) a.h.at[n + i] = abs(gate[i]) <= a.cut ? 0 : weight * gate[i];
            continue;
        }
        if (a.cut < 0) rows(a.up, up_type, row, a.up_stride, last, up);
        [[unroll]] for (uint i = 0; i < rows_at_once; ++i) {
            float h = 0;
            if (a.cut < 0) h = weight * gate[i] * activate_up(activation, subgroupAdd(up[i]));
            else if (!(abs(gate[i]) <= a.cut) && n + i < a.neurons) {    // uniform in the subgroup
                rows(a.up, up_type, row + min(i, last), a.up_stride, 0, up);
                h = weight * gate[i] * activate_up(activation, subgroupAdd(up[0]));
            }
            if (subgroupElect() && n + i < a.neurons) a.h.at[n + i] = h;
        }
    }
}
