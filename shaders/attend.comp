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
// For the sum over v an invocation owns so many columns, of which it reads 16 bytes (of q8_0 8) at a time, and every
// groups-th position.
const uint wide = head_dim % 8 == 0 ? 8 : 2;
const uint owners = head_dim / wide, groups = lanes / owners;
const uint sums = rows * wide / 2;    // pairs of columns
const uint turns = (head_dim + lanes - 1) / lanes;    // in which an invocation has a column each
const uint pitch = lanes + 4;    // of such sums in shared memory, so that all banks have some of a row's
// Loads that an invocation has under way together; Intel's have no registers for more.
const uint keys_at_once = stride % 16 == 0 ? 2 : 1, values_at_once = 2;

layout(buffer_reference, scalar, buffer_reference_align = 4) coherent buffer Handed { float at[]; };
layout(buffer_reference, scalar, buffer_reference_align = 4) coherent buffer Counters { uint at[]; };

shared float query[rows * stride];    // in the end y
shared float weight[rows * lanes > wide * pitch ? rows * lanes : wide * pitch];
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
        const uint at_once = keys_at_once / 2 + keys_at_once % 2;    // a block of 32, and one scale, where it may be
        [[dont_unroll]] for (uint first = 0; first < head_dim / 16; first += at_once) {
            uvec4 four_words[at_once];
            [[unroll]] for (uint u = 0; u < at_once; ++u)
                four_words[u] = Quads(a.k_cache).at[row * (head_dim / 16) + first + u];
            const float d = scale_of(a.k_cache, row, first / 2);
            [[unroll]] for (uint u = 0; u < at_once; ++u) {
                const uvec4 k = four_words[u];
                const vec4 k0 = d * integers(k.x), k1 = d * integers(k.y), k2 = d * integers(k.z),
                           k3 = d * integers(k.w);
                [[unroll]] for (uint r = 0; r < rows; ++r) {
                    const uint q = r * stride + 16 * (first + u);
                    s[r] += dot(four(q), k0) + dot(four(q + 4), k1) + (dot(four(q + 8), k2) + dot(four(q + 12), k3));
                }
            }
        }
        return;
    }
    [[dont_unroll]] for (uint first = 0; first < stride / 8; first += keys_at_once) {
        uvec4 words[keys_at_once];
        [[unroll]] for (uint u = 0; u < keys_at_once; ++u) {
            words[u] = uvec4(0);
            if (pairs % 4 == 0) words[u] = Quads(a.k_cache).at[row * (pairs / 4) + first + u];
            else
                [[unroll]] for (uint j = 0; j < 4; ++j)
                    if (4 * (first + u) + j < pairs) words[u][j] = a.k_cache.at[row * pairs + 4 * (first + u) + j];
        }
        [[unroll]] for (uint u = 0; u < keys_at_once; ++u) {
            const uvec4 k = words[u];
            const vec4 k0 = vec4(unpackHalf2x16(k.x), unpackHalf2x16(k.y)),
                       k1 = vec4(unpackHalf2x16(k.z), unpackHalf2x16(k.w));
            const uint q = 8 * (first + u);
            [[unroll]] for (uint r = 0; r < rows; ++r)
                s[r] += dot(four(r * stride + q), k0) + dot(four(r * stride + q + 4), k1);
        }
    }
}

struct Value {             // columns of v as they come from memory: as many as an invocation owns
    uvec4 words;
    float scale;           // of q8_0
};

Value load_value(uint row, uint owner)
{
    Value v = {uvec4(0), 1};
    if (v_q8 != 0) {
        if (wide == 8) v.words.xy = ConstPairs(a.v_cache).at[row * owners + owner];
        else v.words.x = a.v_cache.at[row * (head_dim / 4) + owner / 2] >> 16 * (owner % 2);
        v.scale = scale_of(a.v_cache, row, owner * wide / 32);
    } else if (wide == 8) v.words = Quads(a.v_cache).at[row * owners + owner];
    else v.words.x = a.v_cache.at[row * pairs + owner];
    return v;
}

// Two of them.
vec2 columns(Value v, uint i)
{
    if (v_q8 == 0) return unpackHalf2x16(v.words[i]);
    const int both = int(v.words[i / 2] >> 16 * (i % 2));
    return v.scale * vec2(bitfieldExtract(both, 0, 8), bitfieldExtract(both, 8, 8));
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
        float top = lowest, total = 0, y[turns];
        for (uint s = 0; s < a.splits; ++s) top = max(top, parts.at[(from + s * rows) * share]);
        [[unroll]] for (uint k = 0; k < turns; ++k) y[k] = 0;
        for (uint s = 0; s < a.splits; ++s) {
            const uint at = (from + s * rows) * share;
            const float of_split = parts.at[at + 1], factor = exp(parts.at[at] - top);
            if (of_split == 0) continue;
            total += factor * of_split;
            [[unroll]] for (uint k = 0; k < turns; ++k)
                if (me + k * lanes < head_dim) y[k] += factor * parts.at[at + 2 + me + k * lanes];
        }
        [[unroll]] for (uint k = 0; k < turns; ++k)
            if (me + k * lanes < head_dim) query[r * stride + me + k * lanes] = y[k] / total;
    }
}

void add_value(Value v, uint i, inout vec2 sum[sums])    // of position i of the tile
{
    [[unroll]] for (uint r = 0; r < rows; ++r) {
        const float w = weight[r * lanes + i];
        [[unroll]] for (uint k = 0; k < wide / 2; ++k) sum[r * wide / 2 + k] += w * columns(v, k);
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

    const uint group = me / owners, owner = me % owners;
    float top[rows], total[rows];    // total: of this invocation's positions only
    vec2 sum[sums];
    [[unroll]] for (uint r = 0; r < rows; ++r) top[r] = lowest, total[r] = 0;
    [[unroll]] for (uint i = 0; i < sums; ++i) sum[i] = vec2(0);
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
        // Loops of unknown length outside, or rows would have an index and go to memory.
        float new_tops[rows];
        [[unroll]] for (uint r = 0; r < rows; ++r) new_tops[r] = top[r];
        for (uint i = 0; i < gl_NumSubgroups; ++i)
            [[unroll]] for (uint r = 0; r < rows; ++r)
                new_tops[r] = max(new_tops[r], reduced[r * most_subgroups + i]);
        [[unroll]] for (uint r = 0; r < rows; ++r) {
            const float new_top = new_tops[r], kept = exp(top[r] - new_top), w = exp(score[r] - new_top);
            weight[r * lanes + me] = w;
            total[r] = total[r] * kept + w;
            [[unroll]] for (uint i = 0; i < wide / 2; ++i) sum[r * wide / 2 + i] *= kept;
            top[r] = new_top;
        }
        barrier();
        if (group < groups) {
            const uint count = min(lanes, end - first);
            uint i = group;
            for (; i + (values_at_once - 1) * groups < count; i += values_at_once * groups) {
                Value v[values_at_once];
                [[unroll]] for (uint u = 0; u < values_at_once; ++u) v[u] = load_value(place[i + u * groups], owner);
                [[unroll]] for (uint u = 0; u < values_at_once; ++u) add_value(v[u], i + u * groups, sum);
            }
            for (; i < count; i += groups) add_value(load_value(place[i], owner), i, sum);
        }
    }

    // The sums over all invocations and groups.
    barrier();
    [[unroll]] for (uint r = 0; r < rows; ++r) {
        const float mine = subgroupAdd(total[r]);
        if (subgroupElect()) reduced[r * most_subgroups + gl_SubgroupID] = mine;
    }
    barrier();
    [[unroll]] for (uint r = 0; r < rows; ++r) total[r] = 0;
    for (uint i = 0; i < gl_NumSubgroups; ++i)
        [[unroll]] for (uint r = 0; r < rows; ++r) total[r] += reduced[r * most_subgroups + i];
    Handed parts = Handed(a.parts);
    const uint tile = gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x;    // of all
    [[unroll]] for (uint r = 0; r < rows; ++r) {
        barrier();
        [[unroll]] for (uint i = 0; i < wide; ++i) weight[i * pitch + me] = sum[(r * wide + i) / 2][i % 2];
        barrier();
        const uint at = ((tile * a.splits + gl_WorkGroupID.z) * rows + r) * (head_dim + 2);
        if (a.splits > 1 && me == 0) parts.at[at] = top[r], parts.at[at + 1] = total[r];
        [[unroll]] for (uint k = 0; k < turns; ++k) {
            const uint c = me + k * lanes;
            if (c >= head_dim) continue;
            float of_all = 0;
            [[unroll]] for (uint g = 0; g < groups; ++g)
                of_all += weight[c % wide * pitch + g * owners + c / wide];
            if (a.splits > 1) parts.at[at + 2 + c] = of_all;
            else query[r * stride + c] = of_all / total[r];
        }
    }
    if (a.splits > 1) {
        memoryBarrierBuffer();
        barrier();
        if (me == 0) arrived = atomicAdd(Counters(a.counters).at[tile], 1);
        barrier();
        if (arrived % a.splits != a.splits - 1) return;
        memoryBarrierBuffer();
        join_splits(tile);
    }
    write(last_token);
}
