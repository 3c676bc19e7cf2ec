// x_i = scale[i / 32] (256 high_i + low_i): 16-bit fixed point as two planes of int8
#version 460
#extension GL_GOOGLE_include_directive : require
#include "kernels.h"
#include "planes.glsl"

layout(local_size_x = 64) in;
layout(push_constant, scalar) uniform Push { Quantise a; };

void main()    // one invocation per block of 32
{
    const uint block = gl_GlobalInvocationID.x;
    if (block >= a.n / 32) return;
    float largest = 0;
    for (uint j = 0; j < 32; ++j) largest = max(largest, abs(a.x.at[block * 32 + j]));
    a.scale.at[block] = fixed_scale(largest);
    for (uint word = 8 * block; word < 8 * block + 8; ++word) {
        uint high, low;
        fixed_words(vec4(a.x.at[4 * word], a.x.at[4 * word + 1], a.x.at[4 * word + 2], a.x.at[4 * word + 3]), largest, high, low);
        a.high.at[word] = high;
        a.low.at[word] = low;
    }
}
