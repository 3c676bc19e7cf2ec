// mask bit n: score_n >= threshold, or NaN
#version 460
#extension GL_GOOGLE_include_directive : require
#include "kernels.h"

layout(local_size_x = 128) in;    // a word of the mask per invocation
layout(push_constant, scalar) uniform Push { Threshold a; };

void main()    // x: words; y: tokens
{
    const uint word = gl_GlobalInvocationID.x, token = gl_WorkGroupID.y;
    if (word * 32 >= a.neurons || token >= a.step.at.tokens) return;
    uint mask = 0;
    for (uint i = 0; i < 32 && word * 32 + i < a.neurons; ++i)
        mask |= uint(!(a.score.at[token * a.neurons + word * 32 + i] < a.threshold)) << i;
    a.mask.at[token * a.words + word] = mask;
}
