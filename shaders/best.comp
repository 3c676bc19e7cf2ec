// token_t = the i of the largest scale logit_ti
#version 460
#extension GL_GOOGLE_include_directive : require
#include "kernels.h"

const uint lanes = 128;
layout(local_size_x = 128) in;
layout(push_constant, scalar) uniform Push { Best a; };

shared uint largest[lanes], first[lanes];    // of each subgroup

/// An integer that grows with x: equal numbers, of which 0 and -0 are two, have the same; what is not finite has the
/// largest of all. Bits, because a compiler may take it that there is nothing else than numbers.
uint rank(float x)
{
    uint bits = floatBitsToUint(x);
    if ((bits & 0x7fffffffu) >= 0x7f800000u) return ~0u;
    if ((bits & 0x7fffffffu) == 0) bits = 0;
    return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

/// The larger rank, of equals the smaller i.
void take(uint other_rank, uint other_i, inout uint best_rank, inout uint best_i)
{
    if (other_rank > best_rank || (other_rank == best_rank && other_i < best_i)) {
        best_rank = other_rank;
        best_i = other_i;
    }
}

void main()
{
    const uint me = gl_LocalInvocationID.x, t = gl_WorkGroupID.y;
    if (t >= a.step.at.head_tokens) return;
    uint best_rank = 0, best_i = ~0u;
    if (a.last == 0)
        for (uint i = gl_GlobalInvocationID.x; i < a.n; i += gl_NumWorkGroups.x * lanes) {
            const float x = a.logits.at[t * a.n + i];
            take(rank(a.scale == 1 ? x : a.scale * x), i, best_rank, best_i);
        }
    else
        for (uint p = me; p < a.part_count; p += lanes)
            take(a.parts.at[t * a.part_count + p].x, a.parts.at[t * a.part_count + p].y, best_rank, best_i);

    const uint most = subgroupMax(best_rank), least_i = subgroupMin(best_rank == most ? best_i : ~0u);
    if (subgroupElect()) {
        largest[gl_SubgroupID] = most;
        first[gl_SubgroupID] = least_i;
    }
    barrier();
    if (me != 0) return;
    for (uint s = 0; s < gl_NumSubgroups; ++s) take(largest[s], first[s], best_rank, best_i);
    if (a.last == 0) a.parts.at[t * a.part_count + gl_WorkGroupID.x] = uvec2(best_rank, best_i);
    else a.token.at[t] = best_rank == ~0u ? no_token : best_i;
}
