// x_i = scale[i / 32] (256 high_i + low_i): 16-bit fixed point as two planes of int8
#version 460
#extension GL_GOOGLE_include_directive : require
#include "kernels.h"
#include "planes.glsl"

layout(local_size_x = 64) in;
layout(push_constant, scalar) uniform Push { Quantise a; };

void main()    // one invocation per block of 32
{
    for (uint block = gl_GlobalInvocationID.x; block < a.n / 32; block += gl_NumWorkGroups.x * gl_WorkGroupSize.x) {
        float largest = 0;
        for (uint j = 0; j < 32; ++j) largest = most(largest, a.x.at[block * 32 + j]);
        ivec2 sum = ivec2(0);
        for (uint word = 0; word < 8; ++word) {
            const uint i = 32 * block + 4 * word;
            uint high, low;
            sum[word / 4] +=
                fixed_words(vec4(a.x.at[i], a.x.at[i + 1], a.x.at[i + 2], a.x.at[i + 3]), largest, high, low);
            a.planes.high.at[8 * block + word] = high;
            a.planes.low.at[8 * block + word] = low;
        }
        Floats4(a.planes.scale).at[block] = fixed_scale(largest, sum);
    }
}
