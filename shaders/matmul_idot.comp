// y_tr = sum_i w_ri x_ti for weights in blocks, in integers: x_ti = scale (256 high + low), as of Quantise
#version 460
#extension GL_GOOGLE_include_directive : require
#define INT_DOT
#include "kernels.h"
#include "row.glsl"

// A workgroup makes 64 rows x 64 tokens, a block of 32 weights after the other, and an invocation 8 x 4 of them: a
// token has two words for each of the weights', so with twice as many rows each word read from shared memory serves as
// many products.
const uint block = 32, block_words = block / 4, lanes = 128;
layout(local_size_x = 128) in;
layout(constant_id = 0) const uint type = 0;
layout(push_constant, scalar) uniform Push { MatMul a; };

// Weights with a scale of their own: a block has one of them, or two.
uint part_weights() { return number_of(type) == Q8_0 ? block : scale_weights(type); }

// One word of padding keeps neighbouring rows in different banks.
const uint pitch = block_words + 1;
shared uint w_tile[matmul_tile * pitch], high_tile[matmul_tile * pitch], low_tile[matmul_tile * pitch];
shared vec2 w_scale[matmul_tile], w_minimum[matmul_tile];
shared vec4 x_scale[matmul_tile];    // scale, the sums of the first and the last 16 x

void load_weights(uint first_row, uint first_inner)
{
    const uint chunk = chunk_weights(type), chunks = block / chunk;
    for (uint i = gl_LocalInvocationID.x; i < matmul_tile * chunks; i += lanes) {
        const uint r = i / chunks, c = i % chunks;
        Chunk weights = {uvec4(0), uvec2(0)};
        vec2 scale = vec2(0), minimum = vec2(0);
        if (first_row + r < a.rows) {
            const uint row = row_at(a.weight, type, a.stride, first_row + r);
            weights = load_chunk(a.weight, type, row, first_inner / chunk + c, a.inner);
            row_scales(a.weight, type, row, first_inner + c * chunk, a.inner, scale, minimum);
        }
        [[unroll]] for (uint j = 0; j < chunk / 4; ++j)
            w_tile[r * pitch + c * chunk / 4 + j] = chunk_s8(type, weights, j);
        if (c == 0) w_scale[r] = scale, w_minimum[r] = minimum;
    }
}

void load_inputs(uint first_token, uint first_inner, uint tokens)
{
    for (uint i = gl_LocalInvocationID.x; i < matmul_tile * block_words; i += lanes) {
        const uint t = i / block_words, word = i % block_words,
                   at = ((first_token + t) * a.x_stride + first_inner) / 4 + word;
        const bool there = first_token + t < tokens;
        high_tile[t * pitch + word] = there ? a.planes.high.at[at] : 0;
        low_tile[t * pitch + word] = there ? a.planes.low.at[at] : 0;
        if (word == 0) x_scale[t] = there ? Floats4(a.planes.scale).at[at / block_words] : vec4(0);
    }
}

void main()
{
    const uint tokens = a.head != 0 ? a.step.at.head_tokens : a.step.at.tokens;
    const uint first_row = gl_WorkGroupID.x * matmul_tile, first_token = gl_WorkGroupID.y * matmul_tile;
    if (first_token >= tokens) return;
    const uint r0 = gl_LocalInvocationID.x % 8, t0 = gl_LocalInvocationID.x / 8;    // rows r0 + 8 i, tokens t0 + 16 j

    vec4 sum[8];
    [[unroll]] for (uint i = 0; i < 8; ++i) sum[i] = vec4(0);
    for (uint first_inner = 0; first_inner < a.inner; first_inner += block) {
        barrier();
        load_weights(first_row, first_inner);
        load_inputs(first_token, first_inner, tokens);
        barrier();
        [[unroll]] for (uint part = 0; part < block / part_weights(); ++part) {
            ivec4 high[8], low[8];
            [[unroll]] for (uint i = 0; i < 8; ++i) high[i] = low[i] = ivec4(0);
            for (uint word = part * part_weights() / 4; word < (part + 1) * part_weights() / 4; ++word) {
                uvec4 x_high, x_low;
                [[unroll]] for (uint j = 0; j < 4; ++j) {
                    x_high[j] = high_tile[(t0 + 16 * j) * pitch + word];
                    x_low[j] = low_tile[(t0 + 16 * j) * pitch + word];
                }
                [[unroll]] for (uint i = 0; i < 8; ++i) {
                    const uint w = w_tile[(r0 + 8 * i) * pitch + word];
                    [[unroll]] for (uint j = 0; j < 4; ++j) {
                        high[i][j] += dot4(w, x_high[j]);
                        low[i][j] += dot4(w, x_low[j]);
                    }
                }
            }
            vec4 scale, x_sum;
            [[unroll]] for (uint j = 0; j < 4; ++j) {
                const vec4 x = x_scale[t0 + 16 * j];
                scale[j] = x.x;
                x_sum[j] = part_weights() < block ? x[1 + part] : x.y + x.z;
            }
            [[unroll]] for (uint i = 0; i < 8; ++i) {
                // 32 * 127 * 32512 fits into 32 bits.
                sum[i] += w_scale[r0 + 8 * i][part] * scale * vec4(256 * high[i] + low[i]);
                if (has_minima(type)) sum[i] -= w_minimum[r0 + 8 * i][part] * x_sum;
            }
        }
    }

    [[unroll]] for (uint i = 0; i < 8; ++i)
        [[unroll]] for (uint j = 0; j < 4; ++j) {
            const uint r = first_row + r0 + 8 * i, t = first_token + t0 + 16 * j;
            if (r < a.rows && t < tokens)
                a.y.at[t * a.y_stride + r] = sum[i][j] + (a.add != 0 ? a.y.at[t * a.y_stride + r] : 0);
        }
}
