// A head of q, or of k with v: bias, norm, then (a, b) -> (a cos - b sin, a sin + b cos) for each pair; k and v to the cache in fp16
#version 460
#extension GL_GOOGLE_include_directive : require
#include "kernels.h"

layout(local_size_x = 64) in;
layout(push_constant, scalar) uniform Push { Rope a; };

shared float x[rope_most_elements];    // the head: an element's other half may be any invocation's
shared float squares[64];              // one per subgroup

float biased(float value, uint i) { return a.has_bias != 0 ? value + a.bias.at[i] : value; }

// Element i of the head after its rotation.
float turned(uint t, uint i)
{
    if (i >= a.rope_dim) return x[i];
    const uint pairs = a.rope_dim / 2, pair = a.halves != 0 ? i % pairs : i / 2, apart = a.halves != 0 ? pairs : 1;
    const bool second = a.halves != 0 ? i >= pairs : (i & 1) != 0;
    const uint angle = (t * pairs + pair) * 2;
    const float c = a.angles.at[angle], s = a.angles.at[angle + 1];
    return second ? x[i - apart] * s + x[i] * c : x[i] * c - x[i + apart] * s;
}

// x_i = norm_i x_i / sqrt(mean(x^2) + eps)
void normalise(uint norm)
{
    float sum = 0;
    for (uint i = gl_LocalInvocationID.x; i < a.head_dim; i += 64) sum += x[i] * x[i];
    sum = subgroupAdd(sum);
    if (subgroupElect()) squares[gl_SubgroupID] = sum;
    barrier();
    sum = 0;
    for (uint s = 0; s < gl_NumSubgroups; ++s) sum += squares[s];
    const float scale = inversesqrt(sum / float(a.head_dim) + a.eps);
    for (uint i = gl_LocalInvocationID.x; i < a.head_dim; i += 64) x[i] *= a.norms.at[norm + i] * scale;    // its own elements
}

void main()    // x: the heads of q, then of k with v; y: tokens
{
    const Step step = a.step.at;
    const uint head = gl_WorkGroupID.x, t = gl_WorkGroupID.y;
    if (t >= step.tokens) return;
    const bool of_q = head < a.heads;
    const uint kv = head - a.heads;    // of k and v
    const uint at = (of_q ? t * a.heads + head : t * a.kv_heads + kv) * a.head_dim;
    for (uint i = gl_LocalInvocationID.x; i < a.head_dim; i += 64) x[i] = biased(of_q ? a.q.at[at + i] : a.k.at[at + i], head * a.head_dim + i);
    if (a.has_norms != 0) normalise(of_q ? 0 : a.head_dim);
    barrier();
    if (of_q) {
        for (uint i = gl_LocalInvocationID.x; i < a.head_dim; i += 64) a.q.at[at + i] = turned(t, i);
    } else {
        const uint cell = ((kv * a.context + step.position + t) * a.head_dim) / 2, v_bias = (head + a.kv_heads) * a.head_dim;
        for (uint i = 2 * gl_LocalInvocationID.x; i < a.head_dim; i += 2 * 64) {
            a.k_cache.at[cell + i / 2] = packHalf2x16(vec2(turned(t, i), turned(t, i + 1)));
            a.v_cache.at[cell + i / 2] = packHalf2x16(vec2(biased(a.v.at[at + i], v_bias + i), biased(a.v.at[at + i + 1], v_bias + i + 1)));
        }
    }
}
