// y_tr = sum_i w_ri x_ti, or with TRANSPOSED y_tr = sum_i w_ir x_ti, on cooperative matrices
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#include "kernels.h"
#define IN_TILE
layout(local_size_x_id = 4) in;    // four subgroups
#include "row.glsl"

// A workgroup of four subgroups makes tile_rows rows x tile_tokens tokens in steps of 32 along the inner dimension,
// each subgroup a quarter of them, in matrices of the size that the device offers. Weights are halves, as in
// matmul_f16. x is the sum of two halves (Planes), since one alone would cost a random model a thousandth of its
// largest logit; both meet the weights that were loaded once.
layout(constant_id = 0) const uint type = 0;
layout(constant_id = 1) const bool TRANSPOSED = false;
layout(constant_id = 2) const uint matrix_rows = 16;      // M of the device's matrices: divides share_rows
layout(constant_id = 7) const uint matrix_tokens = 16;    // N: divides share_tokens
layout(constant_id = 8) const uint matrix_inner = 16;     // K: divides tile_inner
layout(constant_id = 9) const uint share_rows = 32;       // of a subgroup, as many as there are registers for
layout(constant_id = 10) const uint share_tokens = 32;
layout(push_constant, scalar) uniform Push { MatMul a; };
const uint tile_rows = 2 * share_rows, tile_tokens = 2 * share_tokens, tile_inner = 32;

// Eight halves to a quad, which is how a matrix is best loaded, and what it must begin with. One of padding keeps
// neighbouring rows of a tile in different banks.
#define Kept uvec4
#define F16_AS_READ
const uint kept_fours = 2, tile_padding = 1;
uvec4 keep(vec4 fours[kept_fours])
{
    const f16vec4 first = f16vec4(fours[0]), second = f16vec4(fours[1]);
    return uvec4(packFloat2x16(first.xy), packFloat2x16(first.zw), packFloat2x16(second.xy), packFloat2x16(second.zw));
}
#include "weight_tile.glsl"
const uint x_width = tile_inner / 8, x_pitch = x_width + tile_padding;    // in quads
shared uvec4 x_high[tile_tokens * x_pitch], x_low[tile_tokens * x_pitch];

#define Sums coopmat<float, gl_ScopeSubgroup, matrix_rows, matrix_tokens, gl_MatrixUseAccumulator>
#define Weights coopmat<float16_t, gl_ScopeSubgroup, matrix_rows, matrix_inner, gl_MatrixUseA>
#define Inputs coopmat<float16_t, gl_ScopeSubgroup, matrix_inner, matrix_tokens, gl_MatrixUseB>

// An invocation's are in one column, from token t0 on. Of tokens that are not there, the last one's: nobody reads what
// becomes of them.
void load_inputs(uint first_token, uint first_inner, uint tokens, uint column, uint t0)
{
    const uint t_step = gl_WorkGroupSize.x / x_width, each = tile_tokens / t_step,
               pitch = (a.x_stride + 31) / 32 * 4, k = first_inner / 8 + column,    // in quads
               first = first_token * pitch, last = tokens - 1 - first_token;
    uvec4 high[each], low[each];    // all are on their way before the first is waited for
    [[unroll]] for (uint j = 0; j < each; ++j) {
        const uint at = min(t0 * pitch + j * (t_step * pitch), last * pitch) + k;
        high[j] = quad_near(Quads(a.planes.high), first, at);
        low[j] = quad_near(Quads(a.planes.low), first, at);
    }
    [[unroll]] for (uint j = 0; j < each; ++j) {
        const uint at = (t0 + j * t_step) * x_pitch + column;
        x_high[at] = high[j];
        x_low[at] = low[j];
    }
}

void main()
{
    const uint tokens = a.head != 0 ? a.step.at.head_tokens : a.step.at.tokens;
    const uint first_row = gl_WorkGroupID.x * tile_rows, first_token = gl_WorkGroupID.y * tile_tokens;
    if (first_token >= tokens) return;
    share_table(type);
    const uint x_column = gl_LocalInvocationID.x % x_width, x_token = gl_LocalInvocationID.x / x_width;
    // This subgroup's share, and where it begins within the tile.
    const uint r_share = gl_SubgroupID % 2, t_share = gl_SubgroupID / 2;
    const uint r0 = r_share * share_rows, t0 = t_share * share_tokens;

    const uint count_r = share_rows / matrix_rows, count_t = share_tokens / matrix_tokens;
    Sums sum[count_r * count_t];
    [[unroll]] for (uint i = 0; i < count_r * count_t; ++i) sum[i] = Sums(0.0);
    for (uint first_inner = 0; first_inner < a.inner; first_inner += tile_inner) {
        barrier();
        load_weights(first_row, first_inner);
        load_inputs(first_token, first_inner, tokens, x_column, x_token);
        barrier();
        [[unroll]] for (uint k = 0; k < tile_inner; k += matrix_inner) {
            Weights w[count_r];
            [[unroll]] for (uint i = 0; i < count_r; ++i) {
                const uint r = r0 + i * matrix_rows;
                if (TRANSPOSED)
                    coopMatLoad(w[i], w_tile, k * w_pitch + r / 8, w_pitch, gl_CooperativeMatrixLayoutColumnMajor);
                else
                    coopMatLoad(w[i], w_tile, r * w_pitch + k / 8, w_pitch, gl_CooperativeMatrixLayoutRowMajor);
            }
            [[unroll]] for (uint j = 0; j < count_t; ++j) {
                Inputs high, low;    // stored by tokens, and so by columns
                const uint at = (t0 + j * matrix_tokens) * x_pitch + k / 8;
                coopMatLoad(high, x_high, at, x_pitch, gl_CooperativeMatrixLayoutColumnMajor);
                coopMatLoad(low, x_low, at, x_pitch, gl_CooperativeMatrixLayoutColumnMajor);
                [[unroll]] for (uint i = 0; i < count_r; ++i) {
                    sum[i * count_t + j] = coopMatMulAdd(w[i], high, sum[i * count_t + j]);
                    sum[i * count_t + j] = coopMatMulAdd(w[i], low, sum[i * count_t + j]);
                }
            }
        }
    }

    // Where a matrix keeps which element is the device's own affair, so it goes through shared memory, where an
    // invocation knows what is outside. Nobody needs the tile of x any more. (No loop: around one some compilers keep
    // sums in memory.) Everything here comes from the two shares, since what is kept for it during the loop matters:
    // NVIDIA's open compiler takes registers in order, and if the sums do not happen to begin at a multiple of four
    // it moves all of them, twice a turn.
    barrier();
    const uint column = matrix_rows / 4, size = column * matrix_tokens,    // in quads
               own = (2 * r_share + t_share) * size,
               subgroup = gl_WorkGroupSize.x / 4;
    const uint row0 = (2 * gl_WorkGroupID.x + r_share) * share_rows,
               token0 = (2 * gl_WorkGroupID.y + t_share) * share_tokens;
    [[unroll]] for (uint i = 0; i < count_r; ++i)
        [[unroll]] for (uint j = 0; j < count_t; ++j) {
            subgroupBarrier();
            coopMatStore(sum[i * count_t + j], x_high, own, column, gl_CooperativeMatrixLayoutColumnMajor);
            subgroupBarrier();
            [[unroll]] for (uint n = 0; n < size / subgroup; ++n) {
                const uint e = gl_LocalInvocationID.x % subgroup + n * subgroup,
                           r = row0 + i * matrix_rows + 4 * (e % column),
                           t = token0 + j * matrix_tokens + e / column, at = t * a.y_stride + r;
                if (t >= tokens) continue;
                const vec4 y = a.planes.scale.at[t] * uintBitsToFloat(x_high[own + e]);
                [[unroll]] for (uint c = 0; c < 4; ++c)
                    if (r + c < a.rows) a.y.at[at + c] = y[c] + (a.add != 0 ? a.y.at[at + c] : 0);
            }
        }
}
