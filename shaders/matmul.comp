// y_tr = sum_i w_ri x_ti, or with TRANSPOSED y_tr = sum_i w_ir x_ti
#version 460
#extension GL_GOOGLE_include_directive : require
#include "kernels.h"
#include "row.glsl"

// A workgroup makes 64 rows x 64 tokens in steps of 32 along the inner dimension; an invocation makes 8 x 8 of them, so
// that each value read from shared memory serves eight products. Weights lie there as floats, or as halves where the
// device computes with them; x and the sums are fp32 in both, since rounding x alone would cost a random model a
// thousandth of its largest logit.
#ifdef FP16
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#define Tile float16_t
#else
#define Tile float
#endif

const uint tile_rows = matmul_tile, tile_tokens = matmul_tile, tile_inner = 32;
const uint pitch = tile_inner + 1;    // one column of padding keeps neighbouring rows in different banks
layout(local_size_x = 64) in;
layout(constant_id = 0) const uint type = 0;
layout(constant_id = 1) const bool TRANSPOSED = false;
layout(push_constant, scalar) uniform Push { MatMul a; };

#include "weight_tile.glsl"
shared float x_tile[tile_tokens * pitch];

void main()
{
    const uint tokens = a.head != 0 ? a.step.at.head_tokens : a.step.at.tokens;
    const uint first_row = gl_WorkGroupID.x * tile_rows, first_token = gl_WorkGroupID.y * tile_tokens;
    if (first_token >= tokens) return;
    const uint r0 = gl_LocalInvocationID.x % 8, t0 = gl_LocalInvocationID.x / 8;    // rows r0 + 8 i, tokens t0 + 8 j

    vec4 sum[8][2];
    [[unroll]] for (uint i = 0; i < 8; ++i) sum[i][0] = sum[i][1] = vec4(0);
    for (uint first_inner = 0; first_inner < a.inner; first_inner += tile_inner) {
        barrier();
        load_weights(first_row, first_inner);
        for (uint i = gl_LocalInvocationID.x; i < tile_tokens * tile_inner; i += gl_WorkGroupSize.x) {
            const uint t = first_token + i / tile_inner, k = first_inner + i % tile_inner;
            x_tile[i / tile_inner * pitch + i % tile_inner] =
                t < tokens && k < a.inner ? a.x.at[t * a.x_stride + k] : 0;
        }
        barrier();
        for (uint k = 0; k < tile_inner; ++k) {
            const vec4 x0 = vec4(x_tile[t0 * pitch + k], x_tile[(t0 + 8) * pitch + k],
                                 x_tile[(t0 + 16) * pitch + k], x_tile[(t0 + 24) * pitch + k]);
            const vec4 x1 = vec4(x_tile[(t0 + 32) * pitch + k], x_tile[(t0 + 40) * pitch + k],
                                 x_tile[(t0 + 48) * pitch + k], x_tile[(t0 + 56) * pitch + k]);
            [[unroll]] for (uint i = 0; i < 8; ++i) {
                const float w = float(w_tile[(r0 + 8 * i) * pitch + k]);
                sum[i][0] += w * x0;
                sum[i][1] += w * x1;
            }
        }
    }

    [[unroll]] for (uint i = 0; i < 8; ++i)
        [[unroll]] for (uint j = 0; j < 8; ++j) {
            const uint r = first_row + r0 + 8 * i, t = first_token + t0 + 8 * j;
            if (r < a.rows && t < tokens)
                a.y.at[t * a.y_stride + r] = sum[i][j / 4][j % 4] + (a.add != 0 ? a.y.at[t * a.y_stride + r] : 0);
        }
}
