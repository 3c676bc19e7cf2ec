#include "host/quantise.h"

#include "host/kernels.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

namespace hearth::host {

namespace {

uint32_t magnitude(float x) { return std::bit_cast<uint32_t>(x) & 0x7fffffff; }

/// max |x_i|. Magnitudes are ordered as their bits are, and compilers know how to do the largest integer of many at once.
float largest(const float* x, uint32_t n)
{
    int32_t bits = 0;
    for (uint32_t i = 0; i < n; i++) bits = std::max(bits, int32_t(magnitude(x[i])));
    return std::bit_cast<float>(bits);
}

/// 1 / d; 0 where it has no finite inverse: d is then 0 in fp16, too.
float inverse(float d)
{
    const float i = 1 / d;
    return std::isfinite(i) ? i : 0;
}

uint16_t to_f16(float x)
{
    uint16_t h;
    kernels().to_f16(&x, &h, 1);
    return h;
}

/// To nearest, halves away from zero; |x| <= 2^22. Adding 0.5 would take the number below 0.5 to 1.
int32_t nearest(float x)
{
    const int32_t whole = int32_t(x);
    const float rest = x - float(whole);
    return whole + (rest >= 0.5f) - (rest <= -0.5f);
}

// A block that is not finite has a scale that is not, and its q are of no interest; they only must not be computed.

void encode_block(const float* x, BlockQ8_0& b)    // d = max |x| / 127, q_i = nearest(x_i / d)
{
    const float d = largest(x, 32) / 127;
    const float scale = std::isfinite(d) ? inverse(d) : 0;
    b.d = to_f16(d);
    for (int i = 0; i < 32; i++) b.q[i] = int8_t(scale == 0 ? 0 : nearest(x[i] * scale));
}

void encode_block(const float* x, BlockQ4_0& b)    // d = (the first x of the largest magnitude) / -8, q_i = min(15, trunc(x_i / d + 8.5))
{
    const float most = largest(x, 32);
    uint32_t first = 0;
    while (magnitude(x[first]) != magnitude(most)) first++;
    const float d = x[first] / -8;
    const float scale = std::isfinite(d) ? inverse(d) : 0;
    b.d = to_f16(d);
    const auto q = [&](uint32_t i) { return scale == 0 ? 8 : std::min(15, int32_t(x[i] * scale + 8.5f)); };
    for (uint32_t i = 0; i < 16; i++) b.q[i] = uint8_t(q(i) | q(i + 16) << 4);
}

template <class Block>
void encode_blocks(const float* x, std::byte* row, uint32_t n)
{
    for (uint32_t i = 0; i < n; i += 32, row += sizeof(Block)) {
        Block b;
        encode_block(x + i, b);
        std::memcpy(row, &b, sizeof b);
    }
}

void encode_f32(const float* x, std::byte* row, uint32_t n) { std::memcpy(row, x, n * sizeof(float)); }

void encode_f16(const float* x, std::byte* row, uint32_t n) { kernels().to_f16(x, reinterpret_cast<uint16_t*>(row), n); }

void encode_bf16(const float* x, std::byte* row, uint32_t n)    // to nearest, ties to even
{
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t bits = std::bit_cast<uint32_t>(x[i]);
        const uint16_t h = uint16_t((magnitude(x[i]) > 0x7f800000 ? bits | 64 << 16 : bits + 0x7fff + (bits >> 16 & 1)) >> 16);
        std::memcpy(row + i * sizeof h, &h, sizeof h);
    }
}

constexpr RowQuantiser quantisers[] = {
    {WeightType::f32, encode_f32},
    {WeightType::f16, encode_f16},
    {WeightType::bf16, encode_bf16},
    {WeightType::q8_0, encode_blocks<BlockQ8_0>},
    {WeightType::q4_0, encode_blocks<BlockQ4_0>},
};

}    // namespace

const RowQuantiser* find_quantiser(WeightType type)
{
    const RowQuantiser* found = std::ranges::find(quantisers, type, &RowQuantiser::type);
    return found == std::end(quantisers) ? nullptr : found;
}

}    // namespace hearth::host
