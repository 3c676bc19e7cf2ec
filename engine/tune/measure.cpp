#include "engine/tune/measure.h"

#include <algorithm>
#include <cstring>

namespace hearth {

void fill_weights(std::byte* to, uint64_t bytes, uint64_t seed)
{
    uint64_t state = 0x9e3779b97f4a7c15u * seed;
    const auto word = [&] {
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        return (state & 0x8fff8fff8fff8fffu) | 0x3000300030003000u;
    };
    for (; bytes > 0; to += std::min<uint64_t>(bytes, 8), bytes -= std::min<uint64_t>(bytes, 8)) {
        const uint64_t next = word();
        std::memcpy(to, &next, std::min<uint64_t>(bytes, 8));
    }
}

std::vector<float> some_vector(uint32_t n)
{
    std::vector<float> x(n);
    for (uint32_t i = 0; i < n; ++i) x[i] = float(int(i * 2654435761u >> 8 & 0xffff) - 0x8000) / 0x8000;
    return x;
}

}    // namespace hearth
