// y_tr = sum_i w_ri x_ti for weights in blocks, in integers: x_ti = scale (256 high + low), as of Quantise
#version 460
#extension GL_GOOGLE_include_directive : require
#define INT_DOT
#include "kernels.h"
layout(local_size_x_id = 4) in;    // 64 x 64 / (8 each): 128 or 256
#include "row.glsl"

// A workgroup makes 64 rows x 64 tokens, a block of 32 weights after the other, and an invocation 8 rows x `each`
// tokens of them: it reads the tokens' words from shared memory once, and then row after row.
const uint block = 32, quads = block / 16;
layout(constant_id = 0) const uint type = 0;
layout(constant_id = 2) const uint each = 4;    // as many as there are registers for
layout(push_constant, scalar) uniform Push { MatMul a; };

const uint t_lanes = matmul_tile / each;    // invocations that share a row

// A quad of padding keeps neighbouring rows in different banks.
const uint pitch = quads + 1;
shared uvec4 w_tile[matmul_tile * pitch], high_tile[matmul_tile * pitch], low_tile[matmul_tile * pitch];
shared vec4 w_scale[matmul_tile];    // both parts' scales, and their minima
shared vec4 x_scale[matmul_tile];    // scale, the sums of the first and the last 16 x

// 16 weights each: half a chunk, or one of Q8_0.
void load_weights(uint first_row, uint first_inner)
{
    const uint chunk = chunk_weights(type);
    for (uint i = gl_LocalInvocationID.x; i < matmul_tile * quads; i += gl_WorkGroupSize.x) {
        const uint r = i / quads, q = i % quads, first = first_inner + (chunk < block ? q * chunk : 0);
        // Of rows that are not there, the last one: nobody reads what becomes of them.
        const uint row = row_at(a.weight, type, a.stride, min(first_row + r, a.rows - 1));
        Chunk weights = load_chunk(a.weight, type, row, first / chunk, a.inner);
        if (chunk == block) weights = chunk_half(type, weights, q);
        vec2 scale, minimum;
        row_scales(a.weight, type, row, first, a.inner, scale, minimum);
        uvec4 words;
        [[unroll]] for (uint j = 0; j < 4; ++j) words[j] = chunk_s8(type, weights, j);
        w_tile[r * pitch + q] = words;
        if (q == 0) w_scale[r] = vec4(scale, minimum);
    }
}

void load_inputs(uint first_token, uint first_inner, uint tokens)
{
    for (uint i = gl_LocalInvocationID.x; i < matmul_tile * quads; i += gl_WorkGroupSize.x) {
        const uint t = i / quads, q = i % quads,
                   at = (min(first_token + t, tokens - 1) * a.x_stride + first_inner) / 16;
        high_tile[t * pitch + q] = Quads(a.planes.high).at[at + q];
        low_tile[t * pitch + q] = Quads(a.planes.low).at[at + q];
        if (q == 0) x_scale[t] = Floats4(a.planes.scale).at[at / quads];
    }
}

int dot16(uvec4 w, uvec4 x, int sum)
{
    [[unroll]] for (uint k = 0; k < 4; ++k) sum += dot4(w[k], x[k]);
    return sum;
}

void main()
{
    const uint tokens = a.head != 0 ? a.step.at.head_tokens : a.step.at.tokens;
    const uint first_row = gl_WorkGroupID.x * matmul_tile, first_token = gl_WorkGroupID.y * matmul_tile;
    if (first_token >= tokens) return;
    share_table(type);
    // Rows r0 + 8 i, tokens t0 + t_lanes j.
    const uint r0 = gl_LocalInvocationID.x % 8, t0 = gl_LocalInvocationID.x / 8;

    const uint parts = scale_weights(type) < chunk_weights(type) ? quads : 1;    // with a scale of their own
    float sum[8][each];
    [[unroll]] for (uint i = 0; i < 8; ++i)
        [[unroll]] for (uint j = 0; j < each; ++j) sum[i][j] = 0;
    for (uint first_inner = 0; first_inner < a.inner; first_inner += block) {
        barrier();
        load_weights(first_row, first_inner);
        load_inputs(first_token, first_inner, tokens);
        barrier();
        uvec4 high[each][quads], low[each][quads];
        vec4 x[each];
        [[unroll]] for (uint j = 0; j < each; ++j) {
            const uint t = t0 + t_lanes * j;
            [[unroll]] for (uint q = 0; q < quads; ++q)
                high[j][q] = high_tile[t * pitch + q], low[j][q] = low_tile[t * pitch + q];
            x[j] = x_scale[t];
            if (parts == 1) x[j].y += x[j].z;
        }
        [[unroll]] for (uint i = 0; i < 8; ++i) {
            const uint r = r0 + 8 * i;
            const vec4 scale = w_scale[r];
            uvec4 w[quads];
            [[unroll]] for (uint q = 0; q < quads; ++q) w[q] = w_tile[r * pitch + q];
            [[unroll]] for (uint part = 0; part < parts; ++part)
                [[unroll]] for (uint j = 0; j < each; ++j) {
                    int v = 0;    // 32 * 127 * 32512 fits into 32 bits
                    [[unroll]] for (uint q = 0; q < quads / parts; ++q) v = dot16(w[part + q], high[j][part + q], v);
                    v *= 256;
                    [[unroll]] for (uint q = 0; q < quads / parts; ++q) v = dot16(w[part + q], low[j][part + q], v);
                    sum[i][j] += scale[part] * (x[j].x * float(v));
                    if (has_minima(type)) sum[i][j] -= scale[2 + part] * x[j][1 + part];
                }
        }
    }

    [[unroll]] for (uint i = 0; i < 8; ++i)
        [[unroll]] for (uint j = 0; j < each; ++j) {
            const uint r = first_row + r0 + 8 * i, t = first_token + t0 + t_lanes * j;
            if (r < a.rows && t < tokens)
                a.y.at[t * a.y_stride + r] = sum[i][j] + (a.add != 0 ? a.y.at[t * a.y_stride + r] : 0);
        }
}
