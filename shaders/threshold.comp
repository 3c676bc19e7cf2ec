// mask bit n: score_n >= threshold, or NaN
#version 460
#extension GL_GOOGLE_include_directive : require
#include "kernels.h"

layout(local_size_x = 128) in;    // a word of the mask per invocation
layout(push_constant, scalar) uniform Push { Threshold a; };

void main()
{
    const uint word = gl_GlobalInvocationID.x;
    if (word * 32 >= a.neurons) return;
    uint mask = 0;
    for (uint i = 0; i < 32 && word * 32 + i < a.neurons; ++i)
        mask |= uint(!(a.score.at[word * 32 + i] < a.threshold)) << i;
    a.mask.at[word] = mask;
}
