// parts_s = sum over n of slice s of h_n down_n
#version 460
#extension GL_GOOGLE_include_directive : require
#include "kernels.h"
layout(local_size_x = 128) in;
#include "row.glsl"

// A workgroup has four teams of ffn_down_chunks invocations. All teams own the same columns, a chunk per invocation,
// and take every fourth neuron each.
const uint teams = 4, lanes = teams * ffn_down_chunks, at_once = 2;
layout(constant_id = 0) const uint type = 0;
layout(push_constant, scalar) uniform Push { FfnDown a; };

const uint words = lanes / 32;
shared uint fires[words];    // a bit per neuron: atomicOr commutes, so the list below is always the same
// Rows of those that fire, in order; filled up with some of no strength.
shared uint neuron[lanes + teams * at_once];
shared float strength[lanes + teams * at_once];
shared vec4 other_teams[lanes];

uint row_of(uint token, uint n)
{
    return a.has_experts != 0 ? a.chosen.at[(token * a.neurons + n) / slot_neurons].x * slot_neurons + n % slot_neurons
                              : n;
}

void main()    // x: columns; y: slices; z: tokens
{
    const uint token = gl_WorkGroupID.z;
    if (token >= a.step.at.tokens) return;
    share_table(type);
    const uint me = gl_LocalInvocationID.x, slice = gl_WorkGroupID.y, team = me / ffn_down_chunks;
    const uint chunk = chunk_weights(type),
               column = (gl_WorkGroupID.x * ffn_down_chunks + me % ffn_down_chunks) * chunk;
    const uint per_slice = ((a.neurons + a.slices - 1) / a.slices + 31) / 32 * 32;    // whole words of `fired`
    const uint end = min((slice + 1) * per_slice, a.neurons);

    vec4 sum[8];
    [[unroll]] for (uint j = 0; j < 8; ++j) sum[j] = vec4(0);
    vec2 taken = vec2(0);    // of all columns that share a scale: minima and biases
    for (uint first = slice * per_slice; first < end; first += lanes) {
        // Compact the neurons that fire into a list.
        barrier();
        if (me < words) fires[me] = 0;
        barrier();
        const float h = first + me < end ? a.h.at[token * a.neurons + first + me] : 0;
        const bool fires_now = !(h == 0);    // so does what is not a number
        if (fires_now) atomicOr(fires[me / 32], 1u << (me & 31));
        barrier();
        uint before = bitCount(fires[me / 32] & ((1u << (me & 31)) - 1)), count = 0;
        for (uint i = 0; i < words; ++i) {
            if (i < me / 32) before += bitCount(fires[i]);
            count += bitCount(fires[i]);
        }
        if (fires_now) {
            neuron[before] = row_of(token, first + me);
            strength[before] = h;
        }
        if (me < teams * at_once) {
            neuron[count + me] = first;
            strength[count + me] = 0;
        }
        barrier();
        if (gl_WorkGroupID.x == 0 && me < words && first + 32 * me < end)
            a.fired.at[token * a.words + first / 32 + me] = fires[me];

        if (column < a.cols) {
            for (uint k = team; k < count; k += teams * at_once) {
                uint row[at_once];
                Chunk weights[at_once];
                // All loads first, so that they are under way together.
                [[unroll]] for (uint i = 0; i < at_once; ++i) {
                    row[i] = row_at(a.down, type, a.stride, neuron[k + i * teams]);
                    weights[i] = load_chunk(a.down, type, row[i], column / chunk, a.cols);
                }
                [[unroll]] for (uint i = 0; i < at_once; ++i) {
                    const float h = strength[k + i * teams];
                    vec2 scale, minimum;
                    row_scales(a.down, type, row[i], column, a.cols, scale, minimum);
                    scale *= h;
                    if (has_minima(type)) taken += minimum * h;
                    if (bias(type) > 0) taken += scale * float(bias(type));
                    [[unroll]] for (uint j = 0; j < chunk / 4; ++j)
                        sum[j] += scale[4 * j / scale_weights(type)] * chunk_biased(type, weights[i], j);
                }
            }
        }
    }

    // Add the teams in order.
    [[unroll]] for (uint j = 0; j < chunk / 4; ++j) {
        if (has_minima(type) || bias(type) > 0) sum[j] -= taken[4 * j / scale_weights(type)];
        barrier();
        other_teams[me] = sum[j];
        barrier();
        if (team == 0) {
            for (uint t = 1; t < teams; ++t) sum[j] += other_teams[t * ffn_down_chunks + me];
            [[unroll]] for (uint k = 0; k < 4; ++k)
                if (column + 4 * j + k < a.cols)
                    a.parts.at[slice * a.part_stride + token * a.cols + column + 4 * j + k] = sum[j][k];
        }
    }
}
