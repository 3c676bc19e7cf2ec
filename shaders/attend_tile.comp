// As attend, for prompts: a tile of 8, 16 or 32 rows, a row being a head of a token, meets 64 positions at a time
#version 460
#extension GL_GOOGLE_include_directive : require
#include "kernels.h"
#include "planes.glsl"

// head_dim is a multiple of 8 here, and no more than 256. Scores are sums in registers, of 4 rows and of 1 to 4
// positions in each invocation; the queries and the keys that they are made of lie in shared memory as floats, the
// keys 32 dimensions at a time. The scores go through shared memory to the invocations that have sums over the values,
// of 8 columns and of some rows each; these read the values, 8 columns at once, from the cache.
const uint lanes = 128, positions = 64, dims = 32;
const float lowest = -3.0e38;    // finite: exp(lowest - x) is zero on every device, infinities need not be
layout(local_size_x = 128) in;
layout(constant_id = 0) const uint head_dim = 64;
layout(constant_id = 1) const uint tile_heads = 1;
layout(constant_id = 2) const uint tile_tokens = 1;
layout(constant_id = 3) const uint k_q8 = 0;
layout(constant_id = 4) const uint v_q8 = 0;
layout(constant_id = 5) const uint rows = 32;    // 8, 16 or 32, at least tile_heads tile_tokens
layout(push_constant, scalar) uniform Push { Attend a; };

const uint row_lanes = rows / 4, position_lanes = lanes / row_lanes, each = positions / position_lanes;
const uint column_lanes = head_dim / 8;
// Invocations that share columns: a power of two, so that each has as many rows.
const uint sharing = lanes / column_lanes, value_lanes = sharing >= 32 ? rows
                                                       : sharing >= 16 ? 16
                                                       : sharing >= 8  ? 8
                                                                       : 4;
const uint value_rows = rows / value_lanes;
const uint softmax_lanes = lanes / rows, softmax_fours = positions / 4 / softmax_lanes;    // of a row

// In vec4; one of padding keeps neighbouring rows in different banks.
const uint q_pitch = (head_dim + dims - 1) / dims * (dims / 4) + 1, k_pitch = dims / 4 + 1, s_pitch = positions / 4 + 1;
shared vec4 query[rows * q_pitch];    // in the end y
shared vec4 tile[positions * k_pitch];    // of keys, or in turn the rows of scores, which take less
shared float reduced[lanes], kept[rows];

uint me, first_head, first_token, last_token;    // this invocation, and where the tile begins and ends

uint token_of(uint r) { return first_token + r / tile_heads; }
bool is_there(uint r) { return r < tile_heads * tile_tokens && token_of(r) <= last_token; }
uint row_at(uint r) { return (token_of(r) * a.heads + first_head + r % tile_heads) * head_dim; }

// Eight numbers side by side as the cache has them.
struct Eight {
    uvec4 numbers;    // in q8_0 two words
    float scale;
};

// Number `at` of those of a row of the cache, which counts heads and positions.
Eight load_eight(Words cache, uint q8, uint row, uint at)
{
    if (q8 == 0) return Eight(Quads(cache).at[row * (head_dim / 8) + at], 1);
    const uint scales = a.pages * a.kv_heads * page_positions * (head_dim / 4);
    const vec2 pair = unpackHalf2x16(cache.at[scales + row * ((head_dim + 63) / 64) + at / 8]);
    return Eight(uvec4(Pairs(cache).at[row * (head_dim / 8) + at], 0, 0), at / 4 % 2 == 0 ? pair.x : pair.y);
}

vec4 integers(uint word)
{
    return vec4(int(word << 24) >> 24, int(word << 16) >> 24, int(word << 8) >> 24, int(word) >> 24);
}

vec4 first_four(uint q8, Eight e)
{
    return q8 == 0 ? vec4(unpackHalf2x16(e.numbers.x), unpackHalf2x16(e.numbers.y)) : e.scale * integers(e.numbers.x);
}

vec4 last_four(uint q8, Eight e)
{
    return q8 == 0 ? vec4(unpackHalf2x16(e.numbers.z), unpackHalf2x16(e.numbers.w)) : e.scale * integers(e.numbers.y);
}

// Drivers' tanh may overflow. What is not finite stays so: clamp may make numbers of it.
float capped(float score)
{
    const bool finite = (floatBitsToUint(score) & 0x7fffffffu) < 0x7f800000u;
    return finite ? a.softcap * (1 - 2 / (exp(2 * clamp(score / a.softcap, -20, 20)) + 1)) : score;
}

// sum = kept sum + weight v over the positions of this turn, of which `count` are there, for rows v0 + value_lanes i
// and columns 8 column and on.
void add_values(uint cache_row, uint count, uint v0, uint column, inout vec4 sum[value_rows][2])
{
    [[unroll]] for (uint i = 0; i < value_rows; ++i) {
        sum[i][0] *= kept[v0 + value_lanes * i];
        sum[i][1] *= kept[v0 + value_lanes * i];
    }
    const uint fours = (min(positions, count) + 3) / 4;
    [[dont_unroll]] for (uint p = 0; p < fours; ++p) {
        Eight v[4];    // of what is not there, the last: its weight is zero
        [[unroll]] for (uint e = 0; e < 4; ++e)
            v[e] = load_eight(a.v_cache, v_q8, cache_row + min(4 * p + e, count - 1), column);
        vec4 weight[value_rows];
        [[unroll]] for (uint i = 0; i < value_rows; ++i) weight[i] = tile[(v0 + value_lanes * i) * s_pitch + p];
        [[unroll]] for (uint e = 0; e < 4; ++e) {
            const vec4 first = first_four(v_q8, v[e]), last = last_four(v_q8, v[e]);
            [[unroll]] for (uint i = 0; i < value_rows; ++i) {
                sum[i][0] += weight[i][e] * first;
                sum[i][1] += weight[i][e] * last;
            }
        }
    }
}

void write()
{
    const uint fours = head_dim / 4;
    for (uint i = me; i < rows * fours; i += lanes) {
        const uint r = i / fours, c = i % fours;
        if (is_there(r)) Floats4(a.y).at[row_at(r) / 4 + c] = query[r * q_pitch + c];
    }
    if (a.writes_planes == 0) return;
    const uint blocks = head_dim / 32;
    for (uint i = me; i < rows * blocks; i += lanes) {
        const uint r = i / blocks, from = r * q_pitch + i % blocks * 8, at = row_at(r) / 32 + i % blocks;
        if (!is_there(r)) continue;
        float largest = 0;
        [[dont_unroll]] for (uint q = 0; q < 8; ++q)
            [[unroll]] for (uint c = 0; c < 4; ++c) largest = most(largest, query[from + q][c]);
        ivec2 sums = ivec2(0);
        [[dont_unroll]] for (uint q = 0; q < 8; ++q) {
            uint high, low;
            sums[q / 4] += fixed_words(query[from + q], largest, high, low);
            a.planes.high.at[8 * at + q] = high;
            a.planes.low.at[8 * at + q] = low;
        }
        Floats4(a.planes.scale).at[at] = fixed_scale(largest, sums);
    }
}

void main()
{
    Step step = a.step.at;
    me = gl_LocalInvocationID.x;
    if (gl_WorkGroupID.y >= step.tiles) return;
    first_head = gl_WorkGroupID.x * tile_heads;
    first_token = step.tile.at[gl_WorkGroupID.y].x;
    last_token = first_token + step.tile.at[gl_WorkGroupID.y].y - 1;
    const uint kv = first_head / (a.heads / a.kv_heads), pages = step.row.at[first_token].pages;

    // The positions that any of the tile's tokens sees, from a multiple of what a turn has: so they are of one page.
    uint earliest = ~0u, end = 0;
    for (uint t = first_token; t <= last_token; ++t) {
        const Row row = step.row.at[t];
        earliest = min(earliest, a.window > 0 ? row.position - min(row.position, a.window - 1) : 0);
        end = max(end, row.sees);
    }

    for (uint i = me; i < rows * (q_pitch - 1); i += lanes) {
        const uint r = i / (q_pitch - 1), c = i % (q_pitch - 1);
        query[r * q_pitch + c] =
            is_there(r) && 4 * c < head_dim ? a.scale * Floats4(a.q).at[row_at(r) / 4 + c] : vec4(0);
    }

    // This invocation's share of the scores: rows r0 + row_lanes i, positions p0 + position_lanes j. Its rows see the
    // positions from..sees.
    const uint r0 = me / position_lanes, p0 = me % position_lanes;
    uint from[4], sees[4];
    [[unroll]] for (uint i = 0; i < 4; ++i) {
        const Row row = step.row.at[min(token_of(r0 + row_lanes * i), last_token)];
        from[i] = a.window > 0 ? row.position - min(row.position, a.window - 1) : 0;
        sees[i] = row.sees;
    }
    // Of the softmax: one row.
    const uint own = me / softmax_lanes, part = me % softmax_lanes;
    float top = lowest, total = 0;    // total: of this invocation's positions only
    // Of the sums: rows v0 + value_lanes i, columns 8 column and on.
    const uint v0 = me / column_lanes, column = me % column_lanes;
    vec4 sum[value_rows][2];
    [[unroll]] for (uint i = 0; i < value_rows; ++i) sum[i][0] = sum[i][1] = vec4(0);

    for (uint first = earliest / positions * positions; first < end; first += positions) {
        const uint cache_row = (step.pages.at[pages + first / page_positions] * a.kv_heads + kv) * page_positions +
                               first % page_positions;
        float score[4][each];
        [[unroll]] for (uint i = 0; i < 4; ++i)
            [[unroll]] for (uint j = 0; j < each; ++j) score[i][j] = 0;
        [[dont_unroll]] for (uint d = 0; d < head_dim; d += dims) {
            barrier();
            [[unroll]] for (uint n = 0; n < positions * dims / 8 / lanes; ++n) {
                const uint p = (me + n * lanes) / (dims / 8), at = (me + n * lanes) % (dims / 8);
                Eight k = Eight(uvec4(0), 0);
                if (d + 8 * at < head_dim)
                    k = load_eight(a.k_cache, k_q8, cache_row + min(p, end - 1 - first), d / 8 + at);
                tile[p * k_pitch + 2 * at] = first_four(k_q8, k);
                tile[p * k_pitch + 2 * at + 1] = last_four(k_q8, k);
            }
            barrier();
            [[dont_unroll]] for (uint c = 0; c < dims / 4; ++c) {
                vec4 q[4];
                [[unroll]] for (uint i = 0; i < 4; ++i) q[i] = query[(r0 + row_lanes * i) * q_pitch + d / 4 + c];
                [[unroll]] for (uint j = 0; j < each; ++j) {
                    const vec4 k = tile[(p0 + position_lanes * j) * k_pitch + c];
                    [[unroll]] for (uint e = 0; e < 4; ++e)
                        [[unroll]] for (uint i = 0; i < 4; ++i) score[i][j] += q[i][e] * k[e];
                }
            }
        }
        barrier();
        if (a.softcap > 0)
            [[unroll]] for (uint i = 0; i < 4; ++i)
                [[unroll]] for (uint j = 0; j < each; ++j) score[i][j] = capped(score[i][j]);
        [[unroll]] for (uint i = 0; i < 4; ++i)
            [[unroll]] for (uint j = 0; j < each; ++j) {
                const uint p = p0 + position_lanes * j;
                const bool seen = first + p >= from[i] && first + p < sees[i];
                tile[(r0 + row_lanes * i) * s_pitch + p / 4][p % 4] = seen ? score[i][j] : lowest;
            }
        barrier();
        vec4 s[softmax_fours];
        float largest = lowest;
        [[unroll]] for (uint n = 0; n < softmax_fours; ++n) {
            s[n] = tile[own * s_pitch + part + softmax_lanes * n];
            largest = max(max(max(largest, s[n].x), max(s[n].y, s[n].z)), s[n].w);
        }
        reduced[me] = largest;
        barrier();
        float new_top = top;
        [[unroll]] for (uint n = 0; n < softmax_lanes; ++n)
            new_top = max(new_top, reduced[own * softmax_lanes + n]);
        total *= exp(top - new_top);
        [[unroll]] for (uint n = 0; n < softmax_fours; ++n) {
            const vec4 weight = exp(s[n] - new_top);
            tile[own * s_pitch + part + softmax_lanes * n] = weight;
            total += weight.x + weight.y + (weight.z + weight.w);
        }
        if (part == 0) kept[own] = exp(top - new_top);
        top = new_top;
        barrier();
        if (v0 < value_lanes) add_values(cache_row, end - first, v0, column, sum);
    }

    reduced[me] = total;
    barrier();
    if (v0 < value_lanes)
        [[unroll]] for (uint i = 0; i < value_rows; ++i) {
            const uint r = v0 + value_lanes * i;
            float all = 0;
            [[unroll]] for (uint n = 0; n < softmax_lanes; ++n) all += reduced[r * softmax_lanes + n];
            query[r * q_pitch + 2 * column] = sum[i][0] / all;
            query[r * q_pitch + 2 * column + 1] = sum[i][1] / all;
        }
    barrier();
    write();
}
