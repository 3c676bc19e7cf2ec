// mask bit n: columns where the signs of x and of gate row n differ <= differing
#version 460
#extension GL_GOOGLE_include_directive : require
#include "kernels.h"

// A neuron per invocation; the signs of x, packed once per workgroup, are read by all.
layout(local_size_x = 128) in;
layout(push_constant, scalar) uniform Push { PredictSign a; };

const uint most_words = 2048;    // of x: as many columns as a model may have (weights.cpp, max_dim)
shared uint signs_of_x[most_words];
shared uint found[4];

void main()    // x: neurons; y: tokens
{
    const uint token = gl_WorkGroupID.y;
    if (token >= a.step.at.tokens) return;
    const uint me = gl_LocalInvocationID.x, quads = (a.cols + 127) / 128;
    for (uint w = me; w < 4 * quads; w += 128) {
        uint word = 0;
        for (uint i = 0; i < 32 && w * 32 + i < a.cols; ++i)
            word |= (floatBitsToUint(a.x.at[token * a.cols + w * 32 + i]) >> 31) << i;
        signs_of_x[w] = word;
    }
    if (me < 4) found[me] = 0;
    barrier();

    const uint n = gl_WorkGroupID.x * 128 + me;
    if (n < a.neurons) {
        uint differing = 0;
        for (uint q = 0; q < quads; ++q) {
            const uvec4 row = a.signs.at[q * a.neurons + n];
            const ivec4 bits = bitCount(row ^ uvec4(signs_of_x[4 * q], signs_of_x[4 * q + 1],
                                                    signs_of_x[4 * q + 2], signs_of_x[4 * q + 3]));
            differing += uint(bits.x + bits.y + bits.z + bits.w);
        }
        // It commutes, so the mask is always the same.
        if (differing <= a.differing) atomicOr(found[me / 32], 1u << (me & 31));
    }
    barrier();
    if (me < 4 && gl_WorkGroupID.x * 128 + me * 32 < a.neurons)
        a.mask.at[token * a.words + gl_WorkGroupID.x * 4 + me] = found[me];
}
