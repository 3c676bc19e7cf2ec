// x_ti = scale_t (high_ti + low_ti): each row of x as the sum of two halves, with a power of two that leaves no number
// of any weight below their range
#version 460
#extension GL_GOOGLE_include_directive : require
#include "kernels.h"
#include "planes.glsl"

layout(local_size_x = 128) in;    // a workgroup for each row
layout(push_constant, scalar) uniform Push { Halve a; };

const uint lanes = gl_WorkGroupSize.x;
shared float found[lanes];

vec4 four_at(uint row, uint i)
{
    if (a.width % 4 == 0) return i < a.width ? Floats4(a.x).at[(row + i) / 4] : vec4(0);
    vec4 x = vec4(0);
    [[unroll]] for (uint c = 0; c < 4; ++c)
        if (i + c < a.width) x[c] = a.x.at[row + i + c];
    return x;
}

void main()
{
    const uint t = gl_WorkGroupID.x, row = t * a.width, pitch = (a.width + 31) / 32 * 32;
    const uint lane = gl_LocalInvocationID.x;
    float largest = 0;
    for (uint i = 4 * lane; i < pitch; i += 4 * lanes) {
        const vec4 x = four_at(row, i);
        largest = most(most(most(most(largest, x.x), x.y), x.z), x.w);
    }
    found[lane] = largest;
    barrier();
    for (uint left = lanes / 2; left > 0; left /= 2) {
        if (lane < left) found[lane] = most(found[lane], found[lane + left]);
        barrier();
    }
    // The largest becomes one from 2^13 to 2^14: halves go on to 2^16 above it, and to 2^-37 of it below.
    const uint exponent = max(floatBitsToUint(found[0]) >> 23, 14);
    const float inverse = uintBitsToFloat(267 - exponent << 23);
    if (lane == 0) a.planes.scale.at[t] = uintBitsToFloat(exponent - 13 << 23);
    for (uint i = 4 * lane; i < pitch; i += 4 * lanes) {
        const vec4 x = inverse * four_at(row, i);
        // (float(float16_t(x)) Mesa's compiler takes for x itself.)
        const uvec2 high = uvec2(packHalf2x16(x.xy), packHalf2x16(x.zw));
        const vec4 rest = x - vec4(unpackHalf2x16(high.x), unpackHalf2x16(high.y));
        const uint at = (t * pitch + i) / 4;
        Pairs(a.planes.high).at[at] = high;
        Pairs(a.planes.low).at[at] = uvec2(packHalf2x16(rest.xy), packHalf2x16(rest.zw));
    }
}
