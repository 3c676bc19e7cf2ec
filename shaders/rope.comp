// (a, b) -> (a cos - b sin, a sin + b cos) for each pair of q and k; k and v to the cache in fp16
#version 460
#extension GL_GOOGLE_include_directive : require
#include "kernels.h"

layout(local_size_x = 64) in;
layout(push_constant, scalar) uniform Push { Rope a; };

vec2 rotated(vec2 x, uint t, uint pair)
{
    if (2 * pair >= a.rope_dim) return x;
    const uint i = t * a.rope_dim + 2 * pair;
    const float c = a.angles.at[i], s = a.angles.at[i + 1];
    return vec2(x.x * c - x.y * s, x.x * s + x.y * c);
}

void main()    // x: pairs of a head; y: the heads of q, then of k with v; z: tokens
{
    const Step step = a.step.at;
    const uint pair = gl_GlobalInvocationID.x, head = gl_WorkGroupID.y, t = gl_WorkGroupID.z;
    if (2 * pair >= a.head_dim || t >= step.tokens) return;
    if (head < a.heads) {
        const uint i = (t * a.heads + head) * a.head_dim + 2 * pair;
        const vec2 q = rotated(vec2(a.q.at[i], a.q.at[i + 1]), t, pair);
        a.q.at[i] = q.x;
        a.q.at[i + 1] = q.y;
    } else {
        const uint kv = head - a.heads;
        const uint i = (t * a.kv_heads + kv) * a.head_dim + 2 * pair;
        const uint cell = ((kv * a.context + step.position + t) * a.head_dim) / 2 + pair;
        a.k_cache.at[cell] = packHalf2x16(rotated(vec2(a.k.at[i], a.k.at[i + 1]), t, pair));
        a.v_cache.at[cell] = packHalf2x16(vec2(a.v.at[i], a.v.at[i + 1]));
    }
}
