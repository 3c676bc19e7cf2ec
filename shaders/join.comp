// r = base + gain (sum_p parts_p + cold), the sum normalised first or not
// y = weight r / sqrt(mean(r^2) + eps), or a LayerNorm of r
#version 460
#extension GL_GOOGLE_include_directive : require
#include "kernels.h"
#include "planes.glsl"

layout(local_size_x_id = 0) in;    // 128 to 512
layout(push_constant, scalar) uniform Push { Join a; };

shared float partial[128];               // one per subgroup
shared uint largest[join_most_blocks];    // |y| of a block of 32: floats of one sign compare as their bits do
shared int sums[2 * join_most_blocks];      // of y in fixed point, 16 columns each

float total(float of_mine)    // of all invocations
{
    const float of_subgroup = subgroupAdd(of_mine);
    barrier();    // all have read what was there
    if (subgroupElect()) partial[gl_SubgroupID] = of_subgroup;
    barrier();
    float sum = 0;
    for (uint i = 0; i < gl_NumSubgroups; ++i) sum += partial[i];
    return sum;
}

// NaN, or beyond the range of floats.
bool is_broken(float squares) { return (floatBitsToUint(squares) & 0x7fffffffu) >= 0x7f800000u; }

// Four columns of a row, or what is left of it, which begin at `at`; where n is a multiple of 4, on 16 bytes.
vec4 four(Floats v, uint at, uint count)
{
    if (a.n % 4 == 0) return Floats4(v).at[at / 4];
    vec4 x = vec4(0);
    [[unroll]] for (uint i = 0; i < 4; ++i)
        if (i < count) x[i] = v.at[at + i];
    return x;
}

void put(Floats v, uint at, vec4 x, uint count)
{
    if (a.n % 4 == 0) {
        Floats4(v).at[at / 4] = x;
        return;
    }
    [[unroll]] for (uint i = 0; i < 4; ++i)
        if (i < count) v.at[at + i] = x[i];
}

// What is added to the base, at `at` in all of them. Several parts at a time, so that they are under way together.
vec4 added(uint at, uint count)
{
    const uint at_once = 4;
    vec4 sum = a.has_cold != 0 ? four(a.cold, at, count) : vec4(0);
    uint p = 0;
    for (; p + at_once <= a.part_count; p += at_once) {
        vec4 part[at_once];
        [[unroll]] for (uint i = 0; i < at_once; ++i) part[i] = four(a.parts, (p + i) * a.part_stride + at, count);
        [[unroll]] for (uint i = 0; i < at_once; ++i) sum += part[i];
    }
    for (; p < a.part_count; ++p) sum += four(a.parts, p * a.part_stride + at, count);
    return sum;
}

void main()    // an invocation has four columns in turn, a word of each plane
{
    Step step = a.step.at;
    const uint row = gl_WorkGroupID.x, me = gl_LocalInvocationID.x, words = (a.n + 3) / 4;
    if (row >= (a.head != 0 ? step.head_tokens : step.tokens)) return;
    const uint in_row = (a.head != 0 ? step.wanted.at[step.head_first + row] : row) * a.n, out_row = row * a.n;

    if (a.writes_planes != 0)
        for (uint b = me; b < a.n / 32; b += gl_WorkGroupSize.x) largest[b] = 0, sums[2 * b] = sums[2 * b + 1] = 0;
    float gain = a.gain, sum = 0, squares = 0;
    if (a.form == join_post_norm) {
        for (uint w = me; w < words; w += gl_WorkGroupSize.x) {
            const vec4 s = added(in_row + 4 * w, a.n - 4 * w);
            [[unroll]] for (uint i = 0; i < 4; ++i) squares += s[i] * s[i];    // of columns that are not there, zeros
        }
        squares = total(squares);
        if (me == 0 && is_broken(squares)) step.broken.at[0] = 1;
        gain /= sqrt(squares / float(a.n) + a.eps);
        squares = 0;
    }
    for (uint w = me; w < words; w += gl_WorkGroupSize.x) {
        const uint at = in_row + 4 * w, count = a.n - 4 * w;    // columns from here on
        const vec4 base = four(a.base, at, count);
        vec4 r = gain * added(at, count);
        if (a.form == join_post_norm) r *= four(a.weight, a.n + 4 * w, count);
        r += base;
        if (a.form == join_layer_norm) r += four(a.weight, 2 * a.n + 4 * w, count);
        put(a.residual, at, r, count);
        if (a.publish == publish_residual) put(a.published, at, r, count);
        [[unroll]] for (uint i = 0; i < 4; ++i)
            if (i < count) sum += r[i], squares += r[i] * r[i];
    }
    float mean = 0;
    if (a.form == join_layer_norm) {
        mean = total(sum) / float(a.n);
        squares = 0;
        for (uint w = me; w < words; w += gl_WorkGroupSize.x) {
            const vec4 from_mean = four(a.residual, in_row + 4 * w, a.n - 4 * w) - mean;
            [[unroll]] for (uint i = 0; i < 4; ++i)
                if (i < a.n - 4 * w) squares += from_mean[i] * from_mean[i];
        }
    }
    squares = total(squares);
    if (me == 0 && is_broken(squares)) step.broken.at[0] = 1;
    const float scale = 1.0 / sqrt(squares / float(a.n) + a.eps);

    for (uint w = me; w < words; w += gl_WorkGroupSize.x) {
        const uint count = a.n - 4 * w;
        vec4 y = four(a.weight, 4 * w, count) * ((four(a.residual, in_row + 4 * w, count) - mean) * scale);
        if (a.form == join_layer_norm) y += four(a.weight, a.n + 4 * w, count);
        put(a.y, out_row + 4 * w, y, count);
        if (a.publish == publish_norm) put(a.published, out_row + 4 * w, y, count);
        if (a.writes_planes == 0) continue;
        float top = 0;    // n is a multiple of 32
        [[unroll]] for (uint i = 0; i < 4; ++i) top = most(top, y[i]);
        atomicMax(largest[w / 8], floatBitsToUint(top));
    }
    if (a.writes_planes == 0) return;
    barrier();
    for (uint w = me; w < words; w += gl_WorkGroupSize.x) {
        const float top = uintBitsToFloat(largest[w / 8]);
        uint high, low;
        atomicAdd(sums[w / 4], fixed_words(four(a.y, out_row + 4 * w, 4), top, high, low));
        a.planes.high.at[out_row / 4 + w] = high;
        a.planes.low.at[out_row / 4 + w] = low;
    }
    barrier();
    for (uint b = me; b < a.n / 32; b += gl_WorkGroupSize.x)
        Floats4(a.planes.scale).at[out_row / 32 + b] =
            fixed_scale(uintBitsToFloat(largest[b]), ivec2(sums[2 * b], sums[2 * b + 1]));
}
