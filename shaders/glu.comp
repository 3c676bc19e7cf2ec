// h_tn = act(h_tn + bias_n) act_up(u_tn) weight_t(n's expert)
#version 460
#extension GL_GOOGLE_include_directive : require
#include "kernels.h"
#include "activation.glsl"

layout(local_size_x = 128) in;
layout(constant_id = 0) const uint activation = 0;
layout(push_constant, scalar) uniform Push { Glu a; };

void main()
{
    const uint n = gl_GlobalInvocationID.x, t = gl_WorkGroupID.y;
    if (n >= a.n || t >= a.step.at.tokens) return;
    const uint i = t * a.n + n;
    const float bias = a.has_bias != 0 ? uintBitsToFloat(a.bias.at[n].x) : 0,
                up = a.has_up != 0 ? activate_up(activation, a.u.at[i]) : 1;
    const float weight = a.experts > 0 ? a.weight.at[t * a.experts + a.slot_expert.at[n / slot_neurons]] : 1;
    a.h.at[i] = weight == 0 ? 0 : activate(activation, a.floor, a.h.at[i] + bias) * up * weight;
}
