// parts_s = sum over n of slice s of h_n down_n
#version 460
#extension GL_GOOGLE_include_directive : require
#include "kernels.h"
#include "row.glsl"

const uint lanes = 128;
layout(local_size_x = 128) in;
layout(constant_id = 0) const uint type = 0;
layout(push_constant, scalar) uniform Push { FfnDown a; };

shared uint fires[lanes / 32];      // a bit per neuron: atomicOr commutes, so the list below is always the same
shared uint neuron[lanes];
shared float strength[lanes];

void main()    // x: columns, a quad per invocation; y: slices
{
    const uint me = gl_LocalInvocationID.x, slice = gl_WorkGroupID.y;
    const uint chunk = quad_weights(type), column = gl_GlobalInvocationID.x * chunk;
    const uint per_slice = (a.neurons + a.slices - 1) / a.slices;
    const uint end = min((slice + 1) * per_slice, a.neurons);

    vec4 sum[8];
    [[unroll]] for (uint j = 0; j < 8; ++j) sum[j] = vec4(0);
    uint fired = 0;
    for (uint first = slice * per_slice; first < end; first += lanes) {
        // Compact the neurons that fire into a list, in order.
        barrier();
        if (me < lanes / 32) fires[me] = 0;
        barrier();
        const float h = first + me < end ? a.h.at[first + me] : 0;
        if (h != 0) atomicOr(fires[me / 32], 1u << (me & 31));
        barrier();
        uint before = bitCount(fires[me / 32] & ((1u << (me & 31)) - 1)), count = 0;
        for (uint i = 0; i < lanes / 32; ++i) {
            if (i < me / 32) before += bitCount(fires[i]);
            count += bitCount(fires[i]);
        }
        if (h != 0) {
            neuron[before] = first + me;
            strength[before] = h;
        }
        barrier();
        fired += count;

        if (column < a.cols) {
            for (uint k = 0; k < count; ++k) {
                const uint row = neuron[k] * a.stride;
                const uvec4 quad = a.down.at[row + column / chunk];
                float h = strength[k];
                if (type == Q8_0 || type == Q4_0) h *= row_scale(a.down, type, row, column, a.cols);
                [[unroll]] for (uint j = 0; j < chunk / 4; ++j) sum[j] += h * quad_part(type, quad, j);
            }
        }
    }

    [[unroll]] for (uint j = 0; j < chunk / 4; ++j)
        [[unroll]] for (uint k = 0; k < 4; ++k)
            if (column + 4 * j + k < a.cols) a.parts.at[slice * a.part_stride + column + 4 * j + k] = sum[j][k];
    if (gl_WorkGroupID.x == 0 && me == 0) a.counts.at[slice] = fired;
}
