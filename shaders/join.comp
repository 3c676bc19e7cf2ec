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

// Column i of what is added to the base, at `at` in all of them.
float added(uint at)
{
    float sum = a.has_cold != 0 ? a.cold.at[at] : 0;
    [[unroll]] for (uint p = 0; p < a.part_count; ++p) sum += a.parts.at[p * a.part_stride + at];
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
        for (uint w = me; w < words; w += gl_WorkGroupSize.x)
            for (uint i = 4 * w; i < min(4 * w + 4, a.n); ++i) {
                const float s = added(in_row + i);
                squares += s * s;
            }
        squares = total(squares);
        if (me == 0 && is_broken(squares)) step.broken.at[0] = 1;
        gain /= sqrt(squares / float(a.n) + a.eps);
        squares = 0;
    }
    for (uint w = me; w < words; w += gl_WorkGroupSize.x)
        for (uint i = 4 * w; i < min(4 * w + 4, a.n); ++i) {
            float r = gain * added(in_row + i);
            if (a.form == join_post_norm) r *= a.weight.at[a.n + i];
            r += a.base.at[in_row + i];
            if (a.form == join_layer_norm) r += a.weight.at[2 * a.n + i];
            a.residual.at[in_row + i] = r;
            if (a.publish == publish_residual) a.published.at[in_row + i] = r;
            sum += r;
            squares += r * r;
        }
    float mean = 0;
    if (a.form == join_layer_norm) {
        mean = total(sum) / float(a.n);
        squares = 0;
        for (uint w = me; w < words; w += gl_WorkGroupSize.x)
            for (uint i = 4 * w; i < min(4 * w + 4, a.n); ++i) {
                const float from_mean = a.residual.at[in_row + i] - mean;
                squares += from_mean * from_mean;
            }
    }
    squares = total(squares);
    if (me == 0 && is_broken(squares)) step.broken.at[0] = 1;
    const float scale = 1.0 / sqrt(squares / float(a.n) + a.eps);

    for (uint w = me; w < words; w += gl_WorkGroupSize.x) {
        float top = 0;
        for (uint i = 4 * w; i < min(4 * w + 4, a.n); ++i) {
            float y = a.weight.at[i] * ((a.residual.at[in_row + i] - mean) * scale);
            if (a.form == join_layer_norm) y += a.weight.at[a.n + i];
            a.y.at[out_row + i] = y;
            if (a.publish == publish_norm) a.published.at[out_row + i] = y;
            top = most(top, y);
        }
        if (a.writes_planes != 0) atomicMax(largest[w / 8], floatBitsToUint(top));
    }
    if (a.writes_planes == 0) return;
    barrier();
    for (uint w = me; w < words; w += gl_WorkGroupSize.x) {
        const uint i = out_row + 4 * w;
        const float top = uintBitsToFloat(largest[w / 8]);
        uint high, low;
        atomicAdd(sums[w / 4],
                  fixed_words(vec4(a.y.at[i], a.y.at[i + 1], a.y.at[i + 2], a.y.at[i + 3]), top, high, low));
        a.planes.high.at[out_row / 4 + w] = high;
        a.planes.low.at[out_row / 4 + w] = low;
    }
    barrier();
    for (uint b = me; b < a.n / 32; b += gl_WorkGroupSize.x)
        Floats4(a.planes.scale).at[out_row / 32 + b] =
            fixed_scale(uintBitsToFloat(largest[b]), ivec2(sums[2 * b], sums[2 * b + 1]));
}
