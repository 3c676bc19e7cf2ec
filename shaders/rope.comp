// A head of q, or of k with v: bias, norm, then (a, b) -> (a cos - b sin, a sin + b cos) for each pair;
// k and v to the cache
#version 460
#extension GL_GOOGLE_include_directive : require
#include "kernels.h"
#include "planes.glsl"

layout(local_size_x = 64) in;
layout(push_constant, scalar) uniform Push { Rope a; };

float not_a_number() { return uintBitsToFloat(0x7fc00000u); }
float infinity() { return uintBitsToFloat(0x7f800000u); }

shared float x[rope_most_elements];    // the head: an element's other half may be any invocation's
shared float squares[64];              // one per subgroup
shared float done[rope_most_elements];

// Elements 2i and 2i + 1 of a vector; heads are of even length.
layout(buffer_reference, scalar, buffer_reference_align = 8) buffer Floats2 { vec2 at[]; };
vec2 two(Floats v, uint i) { return Floats2(v).at[i]; }

vec2 biased(vec2 value, uint i) { return a.has_bias != 0 ? value + two(a.bias, i) : value; }

// Element i of the head after its rotation.
float turned(uint t, uint i)
{
    if (i >= a.rope_dim) return x[i];
    const uint pairs = a.rope_dim / 2, pair = a.halves != 0 ? i % pairs : i / 2, apart = a.halves != 0 ? pairs : 1;
    const bool second = a.halves != 0 ? i >= pairs : (i & 1) != 0;
    const vec2 angle = two(a.angles, t * pairs + pair);    // cos, sin
    return second ? x[i - apart] * angle.y + x[i] * angle.x : x[i] * angle.x - x[i + apart] * angle.y;
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
    // Squares beyond the range of floats would make zeros of all.
    const float scale =
        floatBitsToUint(sum) < 0x7f800000u ? inversesqrt(sum / float(a.head_dim) + a.eps) : not_a_number();
    // Each its own elements.
    for (uint i = gl_LocalInvocationID.x; i < a.head_dim; i += 64) x[i] *= a.norms.at[norm + i] * scale;
}

// max |done_i| of a block of 32, over 127
float block_scale(uint block)
{
    float largest = 0;
    for (uint i = 0; i < 32; ++i) largest = most(largest, done[32 * block + i]);
    return largest / 127;
}

// To nearest, halves away from zero, as the host does.
int nearest(float v)
{
    const float whole = trunc(v), rest = v - whole;
    return int(whole) + int(rest >= 0.5) - int(rest <= -0.5);
}

// What a half cannot hold is infinite, so that it shows: a driver may round to the largest half instead.
float bounded(float v) { return abs(v) < 65520 ? v : v > 0 ? infinity() : v < 0 ? -infinity() : not_a_number(); }

// The head in `done` to that row of the cache.
void append(Words cache, uint q8, uint row)
{
    const uint me = gl_LocalInvocationID.x;
    if (q8 == 0) {
        for (uint i = me; i < a.head_dim / 2; i += 64)
            cache.at[row * (a.head_dim / 2) + i] =
                packHalf2x16(vec2(bounded(done[2 * i]), bounded(done[2 * i + 1])));
        return;
    }
    for (uint i = me; i < a.head_dim / 4; i += 64) {
        const float d = block_scale(i / 8), inverse = d > 1e-38 ? 1 / d : 0;
        uint word = 0;
        [[unroll]] for (uint j = 0; j < 4; ++j) word |= (uint(nearest(done[4 * i + j] * inverse)) & 255) << 8 * j;
        cache.at[row * (a.head_dim / 4) + i] = word;
    }
    const uint scale_words = (a.head_dim + 63) / 64, scales = a.pages * a.kv_heads * page_positions * (a.head_dim / 4);
    if (me < scale_words)
        cache.at[scales + row * scale_words + me] =
            packHalf2x16(vec2(bounded(block_scale(2 * me)),
                              64 * me + 32 < a.head_dim ? bounded(block_scale(2 * me + 1)) : 0));
}

void main()    // x: the heads of q, then of k with v; y: tokens
{
    Step step = a.step.at;
    const uint head = gl_WorkGroupID.x, t = gl_WorkGroupID.y;
    if (t >= step.tokens) return;
    if (head == 0 && t == 0)
        for (uint i = gl_LocalInvocationID.x; i < a.counter_count; i += 64) a.counters.at[i] = 0;
    const bool of_q = head < a.heads;
    const uint kv = head - a.heads;    // of k and v
    const uint me = gl_LocalInvocationID.x, pairs = a.head_dim / 2;
    const uint at = (of_q ? t * a.heads + head : t * a.kv_heads + kv) * pairs;    // in pairs
    Floats in_place = a.k;
    if (of_q) in_place = a.q;
    for (uint i = me; i < pairs; i += 64) {
        const vec2 value = biased(two(in_place, at + i), head * pairs + i);
        x[2 * i] = value.x;
        x[2 * i + 1] = value.y;
    }
    barrier();
    if (a.has_norms != 0) {
        normalise(of_q ? 0 : a.head_dim);
        barrier();
    }
    if (of_q) {
        for (uint i = me; i < a.head_dim; i += 64) a.q.at[at * 2 + i] = turned(t, i);
        return;
    }
    const uint position = step.row.at[t].position,
               page = step.pages.at[step.row.at[t].pages + position / page_positions];
    const uint row = (page * a.kv_heads + kv) * page_positions + position % page_positions;
    for (uint i = me; i < a.head_dim; i += 64) done[i] = turned(t, i);
    barrier();
    append(a.k_cache, a.k_q8, row);
    barrier();
    for (uint i = me; i < pairs; i += 64) {
        const vec2 value = biased(two(a.v, at + i), (head + a.kv_heads) * pairs + i);
        done[2 * i] = value.x;
        done[2 * i + 1] = value.y;
    }
    barrier();
    append(a.v_cache, a.v_q8, row);
}
