// y_th = sum_p softmax_p(cap(scale q_th . k_p)) v_p, online: tiles of 128 positions, one running maximum and sum
#version 460
#extension GL_GOOGLE_include_directive : require
#include "kernels.h"
#include "planes.glsl"

const uint lanes = 128;
const float lowest = -3.0e38;    // finite: exp(lowest - x) is zero on every device, infinities need not be
layout(local_size_x = 128) in;
layout(constant_id = 0) const uint head_dim = 64;    // known to the compiler, so that the query can be read without indices
layout(push_constant, scalar) uniform Push { Attend a; };

const uint pairs = head_dim / 2;
shared vec2 query[pairs];
shared float weight[lanes];
shared float reduced[lanes];
shared vec2 mixed[lanes];
shared uint largest[head_dim / 32 + 1];    // |y| of a block of 32: floats of one sign compare as their bits do
shared int sums[head_dim / 16 + 2];           // of y in fixed point, 16 columns each

// Both leave `reduced` free for the next call. A workgroup has 2 to 32 subgroups.
float workgroup_max(float x)
{
    const float mine = subgroupMax(x);
    if (subgroupElect()) reduced[gl_SubgroupID] = mine;
    barrier();
    float all = reduced[0];
    for (uint i = 1; i < gl_NumSubgroups; ++i) all = max(all, reduced[i]);
    barrier();
    return all;
}

float workgroup_sum(float x)
{
    const float mine = subgroupAdd(x);
    if (subgroupElect()) reduced[gl_SubgroupID] = mine;
    barrier();
    float all = 0;
    for (uint i = 0; i < gl_NumSubgroups; ++i) all += reduced[i];
    barrier();
    return all;
}

// Drivers' tanh may overflow.
float capped(float score) { return a.softcap > 0 ? a.softcap * (1 - 2 / (exp(2 * clamp(score / a.softcap, -20, 20)) + 1)) : score; }

void main()
{
    const Step step = a.step.at;
    const uint me = gl_LocalInvocationID.x, head = gl_WorkGroupID.x, t = gl_WorkGroupID.y;
    if (t >= step.tokens) return;
    const uint q_row = (t * a.heads + head) * head_dim;
    const uint cache = head / (a.heads / a.kv_heads) * a.context * pairs;
    const uint positions = step.position + t + 1, begin = a.window > 0 && positions > a.window ? positions - a.window : 0;

    for (uint i = me; i < pairs; i += lanes) query[i] = vec2(a.q.at[q_row + 2 * i], a.q.at[q_row + 2 * i + 1]);

    // For the sum over v an invocation owns a pair of columns and every groups-th position.
    const uint groups = lanes / pairs, group = me / pairs, pair = me % pairs;
    float top = lowest, total = 0;
    vec2 sum = vec2(0);
    for (uint first = begin; first < positions; first += lanes) {
        barrier();
        float score = lowest;
        if (first + me < positions) {
            vec2 s = vec2(0);
            const uint row = cache + (first + me) * pairs;
            if (pairs % 4 == 0) {
                [[unroll]] for (uint i = 0; i < pairs; i += 4) {
                    const uvec4 k = Quads(a.k_cache).at[(row + i) / 4];
                    s += query[i] * unpackHalf2x16(k.x) + query[i + 1] * unpackHalf2x16(k.y);
                    s += query[i + 2] * unpackHalf2x16(k.z) + query[i + 3] * unpackHalf2x16(k.w);
                }
            } else {
                [[unroll]] for (uint i = 0; i < pairs; ++i) s += query[i] * unpackHalf2x16(a.k_cache.at[row + i]);
            }
            score = capped(a.scale * (s.x + s.y));
        }
        const float new_top = max(top, workgroup_max(score));
        const float kept = exp(top - new_top);
        weight[me] = exp(score - new_top);
        total = total * kept + workgroup_sum(weight[me]);
        sum *= kept;
        top = new_top;
        if (group < groups)
            for (uint p = group; p < min(lanes, positions - first); p += groups)
                sum += weight[p] * unpackHalf2x16(a.v_cache.at[cache + (first + p) * pairs + pair]);
    }

    mixed[me] = sum;
    if (me < largest.length()) largest[me] = 0, sums[2 * me] = sums[2 * me + 1] = 0;
    barrier();
    if (me < pairs) {
        for (uint g = 1; g < groups; ++g) sum += mixed[g * pairs + me];
        sum /= total;
        a.y.at[q_row + 2 * me] = sum.x;
        a.y.at[q_row + 2 * me + 1] = sum.y;
        mixed[me] = sum;    // nobody else reads this one
        if (a.planes != 0) atomicMax(largest[me / 16], floatBitsToUint(max(abs(sum.x), abs(sum.y))));
    }
    if (a.planes == 0) return;
    barrier();
    if (me < head_dim / 4) {
        const float block = uintBitsToFloat(largest[me / 8]);
        const uint word = head * (head_dim / 4) + me;
        uint high, low;
        atomicAdd(sums[me / 4], fixed_words(vec4(mixed[2 * me], mixed[2 * me + 1]), block, high, low));
        a.high.at[word] = high;
        a.low.at[word] = low;
    }
    barrier();
    if (me < head_dim / 32)
        Floats4(a.scales).at[head * (head_dim / 32) + me] =
            fixed_scale(uintBitsToFloat(largest[me]), ivec2(sums[2 * me], sums[2 * me + 1]));
}
