// y_th = sum_p softmax_p(cap(scale q_th . k_p)) v_p, online: tiles of 128 positions, one running maximum and sum for
// each row, a head of a token
#version 460
#extension GL_GOOGLE_include_directive : require
#include "kernels.h"
#include "planes.glsl"

const uint lanes = 128;
const float lowest = -3.0e38;    // finite: exp(lowest - x) is zero on every device, infinities need not be
layout(local_size_x = 128) in;
// All known to the compiler, so that sums stay in registers.
layout(constant_id = 0) const uint head_dim = 64;
layout(constant_id = 1) const uint tile_heads = 1;
layout(constant_id = 2) const uint tile_tokens = 1;
layout(constant_id = 3) const uint k_q8 = 0;
layout(constant_id = 4) const uint v_q8 = 0;
layout(push_constant, scalar) uniform Push { Attend a; };

const uint rows = tile_heads * tile_tokens;
const uint pairs = head_dim / 2;
const uint most_subgroups = lanes / 4;
const uint stride = (head_dim + 7) / 8 * 8;    // of a row of queries, filled up with zeros

layout(buffer_reference, scalar, buffer_reference_align = 4) coherent buffer Handed { float at[]; };
layout(buffer_reference, scalar, buffer_reference_align = 4) coherent buffer Counters { uint at[]; };

shared float query[rows * stride];    // in the end y
shared float weight[rows * lanes];
shared float reduced[rows * most_subgroups];
shared uint place[lanes];    // rows of the cache of a tile's positions
shared uint arrived;

uint me, first_head, first_token;    // this invocation, and where the tile begins

vec4 four(uint i) { return vec4(query[i], query[i + 1], query[i + 2], query[i + 3]); }

uint row_at(uint r) { return ((first_token + r / tile_heads) * a.heads + first_head + r % tile_heads) * head_dim; }

vec4 integers(uint word)
{
    const int w = int(word);
    return vec4(bitfieldExtract(w, 0, 8), bitfieldExtract(w, 8, 8), bitfieldExtract(w, 16, 8), w >> 24);
}

// Of a block of 32 in q8_0; `row` counts heads and positions.
float scale_of(Words cache, uint row, uint block)
{
    const uint scales = a.pages * a.kv_heads * page_positions * (head_dim / 4);
    const vec2 two = unpackHalf2x16(cache.at[scales + row * ((head_dim + 63) / 64) + block / 2]);
    return block % 2 == 0 ? two.x : two.y;
}

// s[r] += k_p . q_r
void add_products(uint row, inout float s[rows])
{
    if (k_q8 != 0) {
        [[dont_unroll]] for (uint i = 0; i < head_dim / 16; ++i) {
            const uvec4 k = Quads(a.k_cache).at[row * (head_dim / 16) + i];
            const float d = scale_of(a.k_cache, row, i / 2);
            const vec4 k0 = d * integers(k.x), k1 = d * integers(k.y), k2 = d * integers(k.z), k3 = d * integers(k.w);
            [[unroll]] for (uint r = 0; r < rows; ++r) {
                const uint q = r * stride + 16 * i;
                s[r] += dot(four(q), k0) + dot(four(q + 4), k1) + (dot(four(q + 8), k2) + dot(four(q + 12), k3));
            }
        }
        return;
    }
    [[dont_unroll]] for (uint i = 0; i < stride / 8; ++i) {
        uvec4 k = uvec4(0);
        if (pairs % 4 == 0) k = Quads(a.k_cache).at[row * (pairs / 4) + i];
        else
            [[unroll]] for (uint j = 0; j < 4; ++j)
                if (4 * i + j < pairs) k[j] = a.k_cache.at[row * pairs + 4 * i + j];
        const vec4 k0 = vec4(unpackHalf2x16(k.x), unpackHalf2x16(k.y)),
                   k1 = vec4(unpackHalf2x16(k.z), unpackHalf2x16(k.w));
        [[unroll]] for (uint r = 0; r < rows; ++r)
            s[r] += dot(four(r * stride + 8 * i), k0) + dot(four(r * stride + 8 * i + 4), k1);
    }
}

vec2 value(uint row, uint pair)
{
    if (v_q8 == 0) return unpackHalf2x16(a.v_cache.at[row * pairs + pair]);
    const int two = int(a.v_cache.at[row * (head_dim / 4) + pair / 2] >> 16 * (pair % 2));
    return scale_of(a.v_cache, row, pair / 16) * vec2(bitfieldExtract(two, 0, 8), bitfieldExtract(two, 8, 8));
}

// This invocation's pair of columns of row r.
void put(uint r, vec2 y)
{
    query[r * stride + 2 * me] = y.x;
    query[r * stride + 2 * me + 1] = y.y;
}

void write(uint last_token)
{
    barrier();
    for (uint i = me; i < rows * head_dim; i += lanes) {
        const uint r = i / head_dim, c = i % head_dim;
        if (first_token + r / tile_heads <= last_token) a.y.at[row_at(r) + c] = query[r * stride + c];
    }
    if (a.writes_planes == 0) return;
    const uint blocks = head_dim / 32;
    for (uint i = me; i < rows * blocks; i += lanes) {
        const uint from = i / blocks * stride + i % blocks * 32, at = row_at(i / blocks) / 32 + i % blocks;
        float largest = 0;
        [[dont_unroll]] for (uint c = 0; c < 32; ++c) largest = most(largest, query[from + c]);
        ivec2 sums = ivec2(0);
        [[dont_unroll]] for (uint q = 0; q < 8; ++q) {
            uint high, low;
            sums[q / 4] += fixed_words(four(from + 4 * q), largest, high, low);
            a.planes.high.at[8 * at + q] = high;
            a.planes.low.at[8 * at + q] = low;
        }
        Floats4(a.planes.scale).at[at] = fixed_scale(largest, sums);
    }
}

// All splits' shares of a row as one, in their order, by the last workgroup that is done.
void join_splits(uint tile)
{
    const uint share = head_dim + 2;
    Handed parts = Handed(a.parts);
    for (uint r = 0; r < rows; ++r) {
        const uint from = tile * a.splits * rows + r;
        float top = lowest, total = 0;
        for (uint s = 0; s < a.splits; ++s) top = max(top, parts.at[(from + s * rows) * share]);
        vec2 y = vec2(0);
        for (uint s = 0; s < a.splits; ++s) {
            const uint at = (from + s * rows) * share;
            const float of_split = parts.at[at + 1], factor = exp(parts.at[at] - top);
            if (of_split == 0) continue;
            total += factor * of_split;
            if (me < pairs) y += factor * vec2(parts.at[at + 2 + 2 * me], parts.at[at + 3 + 2 * me]);
        }
        if (me < pairs) put(r, y / total);
    }
}

// Drivers' tanh may overflow. What is not finite stays so: clamp may make numbers of it.
float capped(float score)
{
    const bool finite = (floatBitsToUint(score) & 0x7fffffffu) < 0x7f800000u;
    return a.softcap > 0 && finite ? a.softcap * (1 - 2 / (exp(2 * clamp(score / a.softcap, -20, 20)) + 1)) : score;
}

void main()
{
    Step step = a.step.at;
    me = gl_LocalInvocationID.x;
    if (gl_WorkGroupID.y >= step.tiles) return;
    first_head = gl_WorkGroupID.x * tile_heads;
    first_token = step.tile.at[gl_WorkGroupID.y].x;
    const uint last_token = first_token + step.tile.at[gl_WorkGroupID.y].y - 1;
    const uint kv = first_head / (a.heads / a.kv_heads), pages = step.row.at[first_token].pages;

    // Of the positions that any of the tile's tokens sees, each split has its share in whole tiles; the last ones may
    // have none.
    uint own[tile_tokens], sees[tile_tokens], earliest = ~0u, all = 0;    // own: its position
    [[unroll]] for (uint t = 0; t < tile_tokens; ++t) {
        const Row row = step.row.at[min(first_token + t, last_token)];
        own[t] = row.position;
        sees[t] = row.sees;
        earliest = min(earliest, a.window > 0 ? row.position - min(row.position, a.window - 1) : 0);
        all = max(all, row.sees);
    }
    const uint share = ((all - earliest + lanes - 1) / lanes + a.splits - 1) / a.splits * lanes;
    const uint begin = earliest + gl_WorkGroupID.z * share, end = min(all, begin + share);

    for (uint i = me; i < rows * stride; i += lanes) {
        const uint r = i / stride, c = i % stride;
        query[i] = c < head_dim && first_token + r / tile_heads <= last_token ? a.scale * a.q.at[row_at(r) + c] : 0;
    }

    // For the sum over v an invocation owns a pair of columns and every groups-th position.
    const uint groups = lanes / pairs, group = me / pairs, pair = me % pairs;
    float top[rows], total[rows];    // total: of this invocation's positions only
    vec2 sum[rows];
    [[unroll]] for (uint r = 0; r < rows; ++r) top[r] = lowest, total[r] = 0, sum[r] = vec2(0);
    for (uint first = begin; first < end; first += lanes) {
        barrier();
        const uint p = first + me;
        float score[rows];
        [[unroll]] for (uint r = 0; r < rows; ++r) score[r] = 0;
        if (p < end) {
            place[me] = (step.pages.at[pages + p / page_positions] * a.kv_heads + kv) * page_positions +
                        p % page_positions;
            add_products(place[me], score);
        }
        [[unroll]] for (uint r = 0; r < rows; ++r) {
            const uint t = r / tile_heads;
            const bool in_window = a.window == 0 || p + a.window > own[t];
            score[r] = p < end && p < sees[t] && in_window ? capped(score[r]) : lowest;
            const float most = subgroupMax(score[r]);
            if (subgroupElect()) reduced[r * most_subgroups + gl_SubgroupID] = most;
        }
        barrier();
        [[unroll]] for (uint r = 0; r < rows; ++r) {
            float new_top = top[r];
            for (uint i = 0; i < gl_NumSubgroups; ++i) new_top = max(new_top, reduced[r * most_subgroups + i]);
            const float kept = exp(top[r] - new_top), w = exp(score[r] - new_top);
            weight[r * lanes + me] = w;
            total[r] = total[r] * kept + w;
            sum[r] *= kept;
            top[r] = new_top;
        }
        barrier();
        if (group < groups)
            for (uint i = group; i < min(lanes, end - first); i += groups) {
                const vec2 v = value(place[i], pair);
                [[unroll]] for (uint r = 0; r < rows; ++r) sum[r] += weight[r * lanes + i] * v;
            }
    }

    // The sums over all invocations and groups.
    barrier();
    [[unroll]] for (uint r = 0; r < rows; ++r) {
        const float mine = subgroupAdd(total[r]);
        if (subgroupElect()) reduced[r * most_subgroups + gl_SubgroupID] = mine;
    }
    [[unroll]] for (uint column = 0; column < 2; ++column) {
        barrier();
        [[unroll]] for (uint r = 0; r < rows; ++r) weight[r * lanes + me] = sum[r][column];
        barrier();
        if (me < pairs)
            for (uint g = 1; g < groups; ++g)
                [[unroll]] for (uint r = 0; r < rows; ++r) sum[r][column] += weight[r * lanes + g * pairs + me];
    }
    [[unroll]] for (uint r = 0; r < rows; ++r) {
        total[r] = 0;
        for (uint i = 0; i < gl_NumSubgroups; ++i) total[r] += reduced[r * most_subgroups + i];
    }
    if (a.splits > 1) {
        Handed parts = Handed(a.parts);
        const uint tile = gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x;    // of all
        [[unroll]] for (uint r = 0; r < rows; ++r) {
            const uint at = ((tile * a.splits + gl_WorkGroupID.z) * rows + r) * (head_dim + 2);
            if (me == 0) parts.at[at] = top[r], parts.at[at + 1] = total[r];
            if (me < pairs) parts.at[at + 2 + 2 * me] = sum[r].x, parts.at[at + 3 + 2 * me] = sum[r].y;
        }
        memoryBarrierBuffer();
        barrier();
        if (me == 0) arrived = atomicAdd(Counters(a.counters).at[tile], 1);
        barrier();
        if (arrived % a.splits != a.splits - 1) return;
        memoryBarrierBuffer();
        join_splits(tile);
    } else {
        [[unroll]] for (uint r = 0; r < rows; ++r)
            if (me < pairs) put(r, sum[r] / total[r]);
    }
    write(last_token);
}
