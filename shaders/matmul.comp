// y_tr = sum_i w_ri x_ti, or with TRANSPOSED y_tr = sum_i w_ir x_ti
#version 460
#extension GL_GOOGLE_include_directive : require
#include "kernels.h"
#define IN_TILE
layout(local_size_x_id = 4) in;    // tile_rows x tile_tokens / (8 each)
#include "row.glsl"

// A workgroup makes tile_rows rows x 64 tokens in steps of tile_inner along the inner dimension; an invocation makes
// 8 rows x `each` tokens of them, so that what it reads from shared memory serves as many products, and reads four
// numbers of the inner dimension at once. Weights lie there as floats, or as halves where the device computes with
// them; x and the sums are fp32 in both, since rounding x alone would cost a random model a thousandth of its largest
// logit.
layout(constant_id = 2) const uint each = 8;           // as many as there are registers for
layout(constant_id = 7) const uint tile_rows = 64;
layout(constant_id = 8) const uint tile_inner = 32;    // or 16, where shared memory is short
const uint tile_tokens = matmul_tile;
#ifdef FP16
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#define Kept f16vec4
const uint tile_padding = 2;
#else
#define Kept vec4
const uint tile_padding = 1;
#endif
const uint kept_fours = 1;
Kept keep(vec4 fours[kept_fours]) { return Kept(fours[0]); }

layout(constant_id = 0) const uint type = 0;
layout(constant_id = 1) const bool TRANSPOSED = false;
layout(push_constant, scalar) uniform Push { MatMul a; };

#include "weight_tile.glsl"
const uint r_lanes = tile_rows / 8, t_lanes = tile_tokens / each;    // invocations that share a token, and a row
const uint x_pitch = tile_inner / 4 + 1;    // in vec4
shared vec4 x_tile[tile_tokens * x_pitch];

// Of tokens that are not there, the last one's: nobody reads what becomes of them.
void load_inputs(uint first_token, uint first_inner, uint tokens)
{
    const uint width = tile_inner / 4, column = gl_LocalInvocationID.x % width, t0 = gl_LocalInvocationID.x / width,
               t_step = gl_WorkGroupSize.x / width, own_tokens = tile_tokens / t_step,
               last = tokens - 1 - first_token;
    if ((a.x_stride | a.inner) % 4 == 0) {
        // In quads. Behind the inner dimension the last one: the weights are zero there.
        const uint stride = a.x_stride / 4, k = min(first_inner / 4 + column, a.inner / 4 - 1);
        vec4 x[own_tokens];    // all are on their way before the first is waited for
        [[unroll]] for (uint j = 0; j < own_tokens; ++j)
            x[j] = uintBitsToFloat(quad_near(Quads(a.x), first_token * stride,
                                             k + min(t0 * stride + j * (t_step * stride), last * stride)));
        [[unroll]] for (uint j = 0; j < own_tokens; ++j) x_tile[(t0 + t_step * j) * x_pitch + column] = x[j];
    } else {
        [[dont_unroll]] for (uint i = gl_LocalInvocationID.x; i < tile_tokens * tile_inner; i += gl_WorkGroupSize.x) {
            const uint t = i / tile_inner, c = i % tile_inner;
            x_tile[t * x_pitch + c / 4][c % 4] =
                first_inner + c < a.inner ? a.x.at[(first_token + min(t, last)) * a.x_stride + first_inner + c] : 0;
        }
    }
}

void main()
{
    const uint tokens = a.head != 0 ? a.step.at.head_tokens : a.step.at.tokens;
    const uint first_row = gl_WorkGroupID.x * tile_rows, first_token = gl_WorkGroupID.y * tile_tokens;
    if (first_token >= tokens) return;
    share_table(type);
    // Rows r0 + r_lanes i and tokens t0 + t_lanes j; TRANSPOSED rows 8 r0 + i, since they lie side by side there.
    const uint r0 = gl_LocalInvocationID.x % r_lanes, t0 = gl_LocalInvocationID.x / r_lanes;

    float sum[8][each];
    [[unroll]] for (uint i = 0; i < 8; ++i)
        [[unroll]] for (uint j = 0; j < each; ++j) sum[i][j] = 0;
    for (uint first_inner = 0; first_inner < a.inner; first_inner += tile_inner) {
        barrier();
        load_weights(first_row, first_inner);
        load_inputs(first_token, first_inner, tokens);
        barrier();
        [[dont_unroll]] for (uint k = 0; k < tile_inner / 4; ++k) {
            vec4 w[8];
            if (TRANSPOSED) {
                [[unroll]] for (uint c = 0; c < 4; ++c) {
                    const vec4 first = vec4(w_tile[(4 * k + c) * w_pitch + 2 * r0]),
                               last = vec4(w_tile[(4 * k + c) * w_pitch + 2 * r0 + 1]);
                    [[unroll]] for (uint i = 0; i < 4; ++i) w[i][c] = first[i], w[4 + i][c] = last[i];
                }
            } else {
                [[unroll]] for (uint i = 0; i < 8; ++i) w[i] = vec4(w_tile[(r0 + r_lanes * i) * w_pitch + k]);
            }
            [[unroll]] for (uint j = 0; j < each; ++j) {
                const vec4 x = x_tile[(t0 + t_lanes * j) * x_pitch + k];
                [[unroll]] for (uint c = 0; c < 4; ++c)
                    [[unroll]] for (uint i = 0; i < 8; ++i) sum[i][j] += w[i][c] * x[c];
            }
        }
    }

    [[unroll]] for (uint i = 0; i < 8; ++i)
        [[unroll]] for (uint j = 0; j < each; ++j) {
            const uint r = first_row + (TRANSPOSED ? 8 * r0 + i : r0 + r_lanes * i), t = first_token + t0 + t_lanes * j;
            if (r < a.rows && t < tokens)
                a.y.at[t * a.y_stride + r] = sum[i][j] + (a.add != 0 ? a.y.at[t * a.y_stride + r] : 0);
        }
}
