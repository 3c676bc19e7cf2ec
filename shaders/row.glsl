// Rows of weights as the device holds them, and their dot product with a vector.
//
// A row starts on 16 bytes and is read by uvec4 ("quads"):
//   F32, F16, BF16   4, 8, 8 weights per quad
//   Q8_0             16 weights per quad: all quants of the row, then one fp16 scale per 32 weights
//   Q4_0             32 weights per quad (word k: weights 4k.. in the low nibbles, 16 + 4k.. in the high ones), then the scales
// What a row has behind its last weight is zero.

const uint F32 = 0, F16 = 1, Q4_0 = 2, Q8_0 = 8, BF16 = 30;    // the file format's type numbers (blocks.h)

uint quad_weights(uint type)
{
    return type == F32 ? 4 : type == Q8_0 ? 16 : type == Q4_0 ? 32 : 8;
}

// The fp16 scale of the block that weight i of a row belongs to; `row` is the row's first quad.
float row_scale(Quads w, uint type, uint row, uint i, uint n)
{
    const uint first = row * 4 + (type == Q8_0 ? n / 4 : n / 8);    // in words
    const vec2 pair = unpackHalf2x16(Words(w).at[first + i / 64]);
    return (i / 32 & 1) == 0 ? pair.x : pair.y;
}

vec4 unpack_s8(uint word)
{
    return vec4(int(word << 24) >> 24, int(word << 16) >> 24, int(word << 8) >> 24, int(word) >> 24);
}

vec4 unpack_nibbles(uint word)    // the low nibbles of four bytes, less 8
{
    return vec4(word & 15, word >> 8 & 15, word >> 16 & 15, word >> 24 & 15) - 8.0;
}

// Weights 4j .. 4j + 3 of a quad, without the scale.
vec4 quad_part(uint type, uvec4 quad, uint j)
{
    if (type == F32) return uintBitsToFloat(quad);
    if (type == F16) return vec4(unpackHalf2x16(quad[2 * j]), unpackHalf2x16(quad[2 * j + 1]));
    if (type == BF16) {
        const uint a = quad[2 * j], b = quad[2 * j + 1];
        return uintBitsToFloat(uvec4(a << 16, a & 0xffff0000u, b << 16, b & 0xffff0000u));
    }
    if (type == Q8_0) return unpack_s8(quad[j]);
    return unpack_nibbles(j < 4 ? quad[j] : quad[j - 4] >> 4);
}

// Rows that a subgroup takes at once: x is then read once for all of them. A software device gains most, a large GPU wants more subgroups instead.
layout(constant_id = 3) const uint rows_at_once = 1;

float quad_scale(Quads w, uint type, uint row, uint i, uint n) { return type == Q8_0 || type == Q4_0 ? row_scale(w, type, row, i, n) : 1.0; }

// This invocation's share of sum_i w_ri x_i for rows_at_once rows from `first` on (in quads, stride apart), a quad in turn with the
// others of its subgroup. Rows behind the `last`-th are taken for it.
void rows_dot(Quads w, uint type, uint first, uint stride, uint last, Floats x, uint n, out float sum[rows_at_once])
{
    const uint chunk = quad_weights(type), whole = n / chunk;
    [[unroll]] for (uint r = 0; r < rows_at_once; ++r) sum[r] = 0;
    for (uint q = gl_SubgroupInvocationID; q < whole; q += gl_SubgroupSize) {
        vec4 part[rows_at_once];
        uvec4 quad[rows_at_once];
        [[unroll]] for (uint r = 0; r < rows_at_once; ++r) {
            quad[r] = w.at[first + min(r, last) * stride + q];
            part[r] = vec4(0);
        }
        [[unroll]] for (uint j = 0; j < chunk / 4; ++j) {
            const vec4 four = Floats4(x).at[q * (chunk / 4) + j];
            [[unroll]] for (uint r = 0; r < rows_at_once; ++r) part[r] += quad_part(type, quad[r], j) * four;
        }
        [[unroll]] for (uint r = 0; r < rows_at_once; ++r)
            sum[r] += quad_scale(w, type, first + min(r, last) * stride, q * chunk, n) * (part[r].x + part[r].y + part[r].z + part[r].w);
    }
    // What is left of a row of odd length, a weight per invocation; x ends with the row.
    for (uint i = whole * chunk + gl_SubgroupInvocationID; i < n; i += gl_SubgroupSize)
        [[unroll]] for (uint r = 0; r < rows_at_once; ++r)
            sum[r] += quad_part(type, w.at[first + min(r, last) * stride + whole], (i - whole * chunk) / 4)[i & 3] * x.at[i];
}

#ifdef INT_DOT
#extension GL_EXT_spirv_intrinsics : require
// OpSDotKHR on four packed int8; the GLSL extension for it is younger than the compilers we build with.
spirv_instruction(extensions = ["SPV_KHR_integer_dot_product"], capabilities = [6019, 6018], id = 4450)
int sdot4(uint a, uint b, spirv_literal int format);

int dot4(uint a, uint b) { return sdot4(a, b, 0); }

uint nibbles_to_s8(uint word)    // the low nibbles of four bytes, less 8, as int8: (v ^ 8) sign-extended from bit 3
{
    const uint v = (word & 0x0f0f0f0fu) ^ 0x08080808u;
    return v | (v & 0x08080808u) * 30u;
}

// The same for Q8_0 and Q4_0 in integers: x = scale (256 high + low). 32 * 127 * 32767 fits into 32 bits.
void rows_dot_int(Quads w, uint type, uint first, uint stride, uint last, Words high, Words low, Floats scale, uint n, out float sum[rows_at_once])
{
    const uint chunk = quad_weights(type);
    [[unroll]] for (uint r = 0; r < rows_at_once; ++r) sum[r] = 0;
    for (uint q = gl_SubgroupInvocationID; q < n / chunk; q += gl_SubgroupSize) {
        int h[rows_at_once], l[rows_at_once];
        uvec4 quad[rows_at_once];
        [[unroll]] for (uint r = 0; r < rows_at_once; ++r) {
            quad[r] = w.at[first + min(r, last) * stride + q];
            h[r] = l[r] = 0;
        }
        [[unroll]] for (uint j = 0; j < chunk / 4; ++j) {
            const uint x_high = high.at[q * (chunk / 4) + j], x_low = low.at[q * (chunk / 4) + j];
            [[unroll]] for (uint r = 0; r < rows_at_once; ++r) {
                const uint four = type == Q8_0 ? quad[r][j & 3] : nibbles_to_s8(j < 4 ? quad[r][j & 3] : quad[r][j & 3] >> 4);
                h[r] += dot4(four, x_high);
                l[r] += dot4(four, x_low);
            }
        }
        const float x_scale = scale.at[q * chunk / 32];
        [[unroll]] for (uint r = 0; r < rows_at_once; ++r)
            sum[r] += float(256 * h[r] + l[r]) * (row_scale(w, type, first + min(r, last) * stride, q * chunk, n) * x_scale);
    }
}
#endif
