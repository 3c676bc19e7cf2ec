// y_tr = sum_i w_ri x_ti, or with TRANSPOSED y_tr = sum_i w_ir x_ti, on cooperative matrices
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#include "kernels.h"
layout(local_size_x_id = 4) in;    // four subgroups
#include "row.glsl"

// A workgroup of four subgroups makes 64 rows x 64 tokens in steps of 32 along the inner dimension, each subgroup a
// quarter of them, in matrices of the size that the device offers. Weights are halves, as in matmul_f16. x is the sum
// of two halves, since one alone would cost a random model a thousandth of its largest logit: x = (high + low /
// low_gain) / x_gain. The gain of the low one keeps it from becoming subnormal; it has sums of its own, added in the
// end. The gain of both leaves room for an x of up to a million, where a half ends at 65504.
const float x_gain = 1.0 / 16, low_gain = 1024;
const uint tile_rows = matmul_tile, tile_tokens = matmul_tile, tile_inner = 32;
const uint share_rows = tile_rows / 2, share_tokens = tile_tokens / 2;    // of a subgroup
layout(constant_id = 0) const uint type = 0;
layout(constant_id = 1) const bool TRANSPOSED = false;
layout(constant_id = 2) const uint matrix_rows = 16;      // M of the device's matrices: divides share_rows
layout(constant_id = 7) const uint matrix_tokens = 16;    // N: divides share_tokens
layout(constant_id = 8) const uint matrix_inner = 16;     // K: divides tile_inner
layout(push_constant, scalar) uniform Push { MatMul a; };

// A quad of padding keeps neighbouring rows of a tile in different banks, and each on 16 bytes, as loading a matrix
// demands.
#define Four f16vec4
const uint tile_padding = 2;
#include "weight_tile.glsl"
const uint x_pitch = tile_inner / 4 + tile_padding;    // in Fours
shared f16vec4 x_high[tile_tokens * x_pitch], x_low[tile_tokens * x_pitch];
shared float y_tile[4 * matrix_rows * matrix_tokens];    // a matrix of each subgroup, on its way to y

#define Sums coopmat<float, gl_ScopeSubgroup, matrix_rows, matrix_tokens, gl_MatrixUseAccumulator>
#define Weights coopmat<float16_t, gl_ScopeSubgroup, matrix_rows, matrix_inner, gl_MatrixUseA>
#define Inputs coopmat<float16_t, gl_ScopeSubgroup, matrix_inner, matrix_tokens, gl_MatrixUseB>

// What a half keeps of x, cut off at its last bit; below 2^-14 that is 2^-24. Not float(float16_t(x)), which Mesa's
// compiler takes for x itself.
float cut(float x)
{
    const float least = 1.0 / 16777216;
    return abs(x) < 1.0 / 16384 ? trunc(x / least) * least : uintBitsToFloat(floatBitsToUint(x) & 0xffffe000u);
}

void load_inputs(uint first_token, uint first_inner, uint tokens)
{
    for (uint i = gl_LocalInvocationID.x; i < tile_tokens * tile_inner / 4; i += gl_WorkGroupSize.x) {
        const uint row = i / (tile_inner / 4), column = i % (tile_inner / 4), k = first_inner + 4 * column;
        // Of tokens that are not there, the last one's: nobody reads what becomes of them.
        const uint at = min(first_token + row, tokens - 1) * a.x_stride + k;
        vec4 x = vec4(0);
        if ((a.x_stride | a.inner) % 4 == 0) {
            if (k < a.inner) x = Floats4(a.x).at[at / 4];
        } else {
            [[unroll]] for (uint c = 0; c < 4; ++c)
                if (k + c < a.inner) x[c] = a.x.at[at + c];
        }
        x *= x_gain;
        const vec4 high = vec4(cut(x.x), cut(x.y), cut(x.z), cut(x.w));
        x_high[row * x_pitch + column] = f16vec4(high);
        x_low[row * x_pitch + column] = f16vec4((x - high) * low_gain);
    }
}

void main()
{
    const uint tokens = a.head != 0 ? a.step.at.head_tokens : a.step.at.tokens;
    const uint first_row = gl_WorkGroupID.x * tile_rows, first_token = gl_WorkGroupID.y * tile_tokens;
    if (first_token >= tokens) return;
    share_table(type);
    // This subgroup's, within the tile.
    const uint r0 = gl_SubgroupID % 2 * share_rows, t0 = gl_SubgroupID / 2 * share_tokens;

    const uint count_r = share_rows / matrix_rows, count_t = share_tokens / matrix_tokens;
    Sums sum[count_r * count_t], low_sum[count_r * count_t];
    [[unroll]] for (uint i = 0; i < count_r * count_t; ++i) sum[i] = low_sum[i] = Sums(0.0);
    for (uint first_inner = 0; first_inner < a.inner; first_inner += tile_inner) {
        barrier();
        load_weights(first_row, first_inner);
        load_inputs(first_token, first_inner, tokens);
        barrier();
        [[dont_unroll]] for (uint k = 0; k < tile_inner; k += matrix_inner) {
            Weights w[count_r];
            [[unroll]] for (uint i = 0; i < count_r; ++i) {
                const uint r = r0 + i * matrix_rows;
                if (TRANSPOSED)
                    coopMatLoad(w[i], w_tile, k * w_pitch + r / 4, w_pitch, gl_CooperativeMatrixLayoutColumnMajor);
                else
                    coopMatLoad(w[i], w_tile, r * w_pitch + k / 4, w_pitch, gl_CooperativeMatrixLayoutRowMajor);
            }
            [[unroll]] for (uint j = 0; j < count_t; ++j) {
                Inputs high, low;    // stored by tokens, and so by columns
                const uint at = (t0 + j * matrix_tokens) * x_pitch + k / 4;
                coopMatLoad(high, x_high, at, x_pitch, gl_CooperativeMatrixLayoutColumnMajor);
                coopMatLoad(low, x_low, at, x_pitch, gl_CooperativeMatrixLayoutColumnMajor);
                [[unroll]] for (uint i = 0; i < count_r; ++i) {
                    sum[i * count_t + j] = coopMatMulAdd(w[i], high, sum[i * count_t + j]);
                    low_sum[i * count_t + j] = coopMatMulAdd(w[i], low, low_sum[i * count_t + j]);
                }
            }
        }
    }

    // Where a matrix keeps which element is the device's own affair, so it goes through shared memory, where an
    // invocation knows what is outside.
    const uint size = matrix_rows * matrix_tokens, own = gl_SubgroupID * size;
    [[unroll]] for (uint i = 0; i < count_r; ++i)
        [[unroll]] for (uint j = 0; j < count_t; ++j) {
            const Sums both = (sum[i * count_t + j] + low_sum[i * count_t + j] * (1 / low_gain)) * (1 / x_gain);
            subgroupBarrier();
            coopMatStore(both, y_tile, own, matrix_rows, gl_CooperativeMatrixLayoutColumnMajor);
            subgroupBarrier();
            for (uint e = gl_SubgroupInvocationID; e < size; e += gl_SubgroupSize) {
                const uint r = first_row + r0 + i * matrix_rows + e % matrix_rows,
                           t = first_token + t0 + j * matrix_tokens + e / matrix_rows;
                if (r < a.rows && t < tokens)
                    a.y.at[t * a.y_stride + r] = y_tile[own + e] + (a.add != 0 ? a.y.at[t * a.y_stride + r] : 0);
            }
        }
}
