// x_i = scale[i / 32] (256 high_i + low_i): 16-bit fixed point as two planes of int8
#version 460
#extension GL_GOOGLE_include_directive : require
#include "kernels.h"

layout(local_size_x = 64) in;
layout(push_constant, scalar) uniform Push { Quantise a; };

void main()    // one invocation per block of 32
{
    const uint block = gl_GlobalInvocationID.x;
    if (block >= a.n / 32) return;
    float largest = 0;
    for (uint j = 0; j < 32; ++j) largest = max(largest, abs(a.x.at[block * 32 + j]));
    const float scale = largest / 32512.0;    // 127 * 256: both planes fit into int8
    const float inverse = largest > 0 ? 32512.0 / largest : 0;
    ivec2 sum = ivec2(0);
    for (uint word = 0; word < 8; ++word) {
        uint high = 0, low = 0;
        for (uint j = 0; j < 4; ++j) {
            const int q = int(roundEven(a.x.at[block * 32 + word * 4 + j] * inverse));
            sum[word / 4] += q;
            const int l = (q << 24) >> 24;    // the low byte, signed
            high |= (uint((q - l) >> 8) & 255) << 8 * j;
            low |= (uint(l) & 255) << 8 * j;
        }
        a.high.at[block * 8 + word] = high;
        a.low.at[block * 8 + word] = low;
    }
    Floats4(a.scale).at[block] = vec4(scale, scale * vec2(sum), 0);
}
