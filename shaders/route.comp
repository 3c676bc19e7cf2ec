// weight_te = exp(score_te) / sum of exp over the experts that are chosen, or over all
#version 460
#extension GL_GOOGLE_include_directive : require
#include "kernels.h"

const uint lanes = 128;
layout(local_size_x = 128) in;
layout(push_constant, scalar) uniform Push { Route a; };

shared float score[route_most_experts];
shared float weight[route_most_experts];
shared uint found[lanes / 32];    // a bit per slot: atomicOr commutes, so the list below is always the same

/// The slots whose expert is chosen, in order.
void list_slots()
{
    const uint me = gl_LocalInvocationID.x;
    uint listed = 0;
    for (uint first = 0; first < a.slots; first += lanes) {
        barrier();
        if (me < lanes / 32) found[me] = 0;
        barrier();
        const float w = first + me < a.slots ? weight[a.slot_expert.at[first + me]] : 0;
        if (!(w == 0)) atomicOr(found[me / 32], 1u << (me & 31));
        barrier();
        uint place = listed + bitCount(found[me / 32] & ((1u << (me & 31)) - 1));
        for (uint i = 0; i < lanes / 32; ++i) {
            if (i < me / 32) place += bitCount(found[i]);
            listed += bitCount(found[i]);
        }
        if (!(w == 0) && place < a.places)
            a.chosen.at[gl_WorkGroupID.x * a.places + place] = uvec2(first + me, floatBitsToUint(w));
    }
    for (uint place = listed + me; place < a.places; place += lanes)
        a.chosen.at[gl_WorkGroupID.x * a.places + place] = uvec2(0);
}

void main()
{
    const uint token = gl_WorkGroupID.x, me = gl_LocalInvocationID.x;
    if (token >= a.step.at.tokens) return;
    for (uint e = me; e < a.experts; e += lanes) {
        const float s = a.score.at[token * a.experts + e];
        // What is not a number is chosen first, so that it shows, and as many experts are chosen as there is room for.
        score[e] = (floatBitsToUint(s) & 0x7fffffffu) > 0x7f800000u ? uintBitsToFloat(0x7f800000u) : s;
    }
    barrier();
    float top = score[0];
    for (uint e = 1; e < a.experts; ++e) top = max(top, score[e]);
    for (uint e = me; e < a.experts; e += lanes) {
        uint higher = 0;    // experts that come before this one
        for (uint other = 0; other < a.experts; ++other)
            higher += uint(score[other] > score[e] || (score[other] == score[e] && other < e));
        weight[e] = higher < a.used ? exp(score[e] - top) : 0;
    }
    barrier();
    float sum = 0;
    for (uint e = 0; e < a.experts; ++e) sum += a.normalise != 0 ? weight[e] : exp(score[e] - top);
    barrier();
    for (uint e = me; e < a.experts; e += lanes) {
        weight[e] = weight[e] == 0 ? 0 : weight[e] / sum;
        a.weight.at[token * a.experts + e] = weight[e];
        a.published.at[token * a.experts + e] = weight[e];
    }
    barrier();
    if (a.places > 0) list_slots();
}
