// h_n = weight_n act(gate_n . x + bias_n) act_up(up_n . x)
#version 460
#extension GL_GOOGLE_include_directive : require
#include "kernels.h"
layout(local_size_x_id = 4) in;
#include "row.glsl"
#include "activation.glsl"

layout(constant_id = 0) const uint gate_type = 0;
layout(constant_id = 1) const uint up_type = 0;
layout(constant_id = 2) const uint activation = 0;
layout(push_constant, scalar) uniform Push { FfnUp a; };

void rows(Quads w, uint type, uint n, uint stride, uint last, Inputs x, out float part[sums_at_once])
{
#ifdef INT_DOT
    rows_dot_int(w, type, n, stride, last, x, part);
#else
    rows_dot(w, type, n, stride, last, x, part);
#endif
}

// Without a bias the gate stands in for it, so that no address is null (see rows_dot).
float bias_of(uint row, uint n)
{
    Quads bias = a.has_bias != 0 ? a.bias : a.gate;
    return a.has_bias != 0 && n < a.neurons ? uintBitsToFloat(bias.at[row].x) : 0;
}

// h of the i-th of the rows from neuron n on, which are in memory from `row` on.
void finish(float gate[sums_at_once], float up[sums_at_once], uint i, uint n, uint row, uint last, float weight,
            Inputs x)
{
    float of_gate[few], of_up[few];    // picked, since registers have no index
    bool fires[few], any = false;      // uniform in the subgroup
    [[unroll]] for (uint t = 0; t < few; ++t) {
        of_gate[t] = gate[t];
        of_up[t] = up[t];
        [[unroll]] for (uint r = 1; r < rows_at_once; ++r)
            if (r == i) of_gate[t] = gate[r * few + t], of_up[t] = up[r * few + t];
        fires[t] = !(abs(of_gate[t]) <= a.cut) && x.token + t < x.tokens;
        any = any || fires[t];
    }
    if (a.has_up != 0 && a.cut >= 0 && any) {
        float of_row[sums_at_once];    // the same row as often as there would be rows
        rows(a.up, up_type, row + min(i, last), a.up_stride, 0, x, of_row);
        [[unroll]] for (uint t = 0; t < few; ++t) of_up[t] = of_row[t];
    }
    [[unroll]] for (uint t = 0; t < few; ++t) {
        float h = weight * of_gate[t];
        if (a.has_up != 0 && (a.cut < 0 || any)) h *= activate_up(activation, subgroupAdd(of_up[t]));
        if (subgroupElect() && n + i < a.neurons && x.token + t < x.tokens)
            a.h.at[(x.token + t) * a.neurons + n + i] = fires[t] ? h : 0;
    }
}

void main()    // x: neurons; y: tokens, `few` at a time
{
    const uint token = gl_WorkGroupID.y * few, tokens = a.step.at.tokens;
    if (token >= tokens) return;
    share_table(gate_type);
    share_table(up_type);
    Inputs x = {ConstFloats(a.x), Quads(a.planes.high), Quads(a.planes.low), ConstFloats4(a.planes.scale),
                      token, tokens, a.cols};
    const uint step = gl_NumWorkGroups.x * gl_NumSubgroups * rows_at_once;
    for (uint next = (gl_WorkGroupID.x * gl_NumSubgroups + gl_SubgroupID) * rows_at_once; next < a.neurons;
         next += step) {
        const uint n = min(next, a.neurons - 1);    // see rows_dot
        uint row = n;
        float weight = 1;
        // One token at a time; a slot's neurons are of one expert, so this is uniform in the subgroup.
        if (a.has_experts != 0) {
            const uvec2 place = a.chosen.at[(token * a.neurons + n) / slot_neurons];
            row = place.x * slot_neurons + n % slot_neurons;
            weight = uintBitsToFloat(place.y);
            if (weight == 0) {
                if (gl_SubgroupInvocationID < rows_at_once)
                    a.h.at[token * a.neurons + n + gl_SubgroupInvocationID] = 0;
                continue;
            }
        }
        const uint last = a.neurons - 1 - n;
        float gate[sums_at_once], up[sums_at_once];
        [[unroll]] for (uint s = 0; s < sums_at_once; ++s) up[s] = 0;
        rows(a.gate, gate_type, row, a.gate_stride, last, x, gate);
        [[unroll]] for (uint i = 0; i < rows_at_once; ++i) {
            const float bias = bias_of(row + i, n + i);
            [[unroll]] for (uint t = 0; t < few; ++t)
                gate[i * few + t] = activate(activation, a.floor, subgroupAdd(gate[i * few + t]) + bias);
        }
        if (a.has_up != 0 && a.cut < 0) rows(a.up, up_type, row, a.up_stride, last, x, up);
        // Of several rows one after the other, in a loop: there is a product in it.
        if (rows_at_once == 1) finish(gate, up, 0, n, row, last, weight, x);
        else
            [[dont_unroll]] for (uint i = 0; i < rows_at_once; ++i) finish(gate, up, i, n, row, last, weight, x);
    }
}
