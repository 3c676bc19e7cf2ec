#include "host/quantise.h"

#include "host/kernels.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

namespace hearth::host {

namespace {

uint32_t magnitude(float x) { return std::bit_cast<uint32_t>(x) & 0x7fffffff; }

/// max |x_i|. Magnitudes are ordered as their bits are, and compilers know how to do the largest integer of many at
/// once.
float largest(const float* x, uint32_t n)
{
    int32_t bits = 0;
    for (uint32_t i = 0; i < n; i++) bits = std::max(bits, int32_t(magnitude(x[i])));
    return std::bit_cast<float>(bits);
}

/// The first x_i of the largest magnitude.
float extreme(const float* x, uint32_t n)
{
    const float most = largest(x, n);
    uint32_t first = 0;
    while (magnitude(x[first]) != magnitude(most)) first++;
    return x[first];
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

void encode_block(
    const float* x,
    BlockQ4_0& b)    // d = (the first x of the largest magnitude) / -8, q_i = min(15, trunc(x_i / d + 8.5))
{
    const float d = extreme(x, 32) / -8;
    const float scale = std::isfinite(d) ? inverse(d) : 0;
    b.d = to_f16(d);
    const auto q = [&](uint32_t i) { return scale == 0 ? 8 : std::min(15, int32_t(x[i] * scale + 8.5f)); };
    for (uint32_t i = 0; i < 16; i++) b.q[i] = uint8_t(q(i) | q(i + 16) << 4);
}

void set_five_bits(uint8_t* low, uint8_t* high, uint32_t i,
                   int q)    // of weight i of 32, as in Q5_0; the bytes are 0 before
{
    low[i % 16] |= uint8_t((q & 15) << i / 16 * 4);
    high[i / 8] |= uint8_t(q >> 4 << i % 8);
}

void encode_block(
    const float* x,
    BlockQ5_0& b)    // d = (the first x of the largest magnitude) / -16, q_i = min(31, trunc(x_i / d + 16.5))
{
    const float d = extreme(x, 32) / -16;
    const float scale = std::isfinite(d) ? inverse(d) : 0;
    b = {.d = to_f16(d), .qh = {}, .q = {}};
    for (uint32_t i = 0; i < 32; i++)
        set_five_bits(b.q, b.qh, i, scale == 0 ? 16 : std::min(31, int32_t(x[i] * scale + 16.5f)));
}

void encode_block(const float* x,
                  BlockQ5_1& b)    // m = min x, d = (max x - m) / 31, q_i = min(31, trunc((x_i - m) / d + 0.5))
{
    const auto [least, most] = std::minmax_element(x, x + 32);
    const float d = std::isfinite(largest(x, 32)) ? (*most - *least) / 31 : NAN;
    const float scale = std::isfinite(d) ? inverse(d) : 0;
    b = {.d = to_f16(d), .m = to_f16(*least), .qh = {}, .q = {}};
    for (uint32_t i = 0; i < 32; i++)
        set_five_bits(b.q, b.qh, i, scale == 0 ? 0 : std::min(31, int32_t((x[i] - *least) * scale + 0.5f)));
}

// Blocks of 256, whose parts of 32 or 16 have scales of their own: about the nearest by least squares.

/// So many are made at once: loops over them become vector instructions, which loops over weights do not, since their
/// sums have an order.
constexpr int tries = 16;

struct Line {
    float scale = 0, offset = 0;    // w = scale * q - offset
};

/// To even; |x| < 2^22, where a float with this added has no bits left for a fraction.
float rounded(float x)
{
    constexpr float shift = 0x1.8p23f;
    return x + shift - shift;
}

float clamped(float x, float low, float high) { return std::min(std::max(x, low), high); }

float from_f16(uint16_t h)
{
    float x;
    kernels().of(WeightType::f16).decode(reinterpret_cast<const std::byte*>(&h), &x, 1);
    return x;
}

/// The line that is nearest to n weights by least squares, each of them with the integer that it gets from one of the
/// slopes: (x + offset) * slope, from low to high. Only `with_offset` the line has one.
template <int n, int low, int high, bool with_offset>
Line fit(const float* x, float offset, const float (&slope)[tries])
{
    float q1[tries] = {}, q2[tries] = {}, xq[tries] = {}, x1 = 0;
    for (int i = 0; i < n; i++) {
        x1 += x[i];
        for (int t = 0; t < tries; t++) {
            const float q = clamped(rounded((x[i] + offset) * slope[t]), low, high);
            q1[t] += q;
            q2[t] += q * q;
            xq[t] += q * x[i];
        }
    }
    Line best{0, with_offset ? offset : 0};
    double least = best.offset * (2 * double(x1) + n * double(best.offset));    // sums of squares less that of x
    for (int t = 0; t < tries; t++) {
        const double a = q1[t], b = q2[t], c = xq[t], det = n * b - a * a;
        double s = det > 0 ? (n * c - x1 * a) / det : 0, o = (s * a - x1) / n;
        if (!with_offset || det <= 0 || o < 0) {    // a file has no negative ones
            s = b > 0 ? c / b : 0;
            o = 0;
        }
        const double error = s * (s * b - 2 * c) + o * (2 * x1 - 2 * s * a + n * o);
        if (error >= least) continue;
        least = error;
        best = {float(s), float(o)};
    }
    return best;
}

/// Which of the lines gives n weights the least sum of squared errors, each weight its nearest q.
template <int n, int low, int high>
int closest(const float* x, const Line (&lines)[tries])
{
    float scale[tries], offset[tries], slope[tries], error[tries] = {};
    for (int t = 0; t < tries; t++)
        scale[t] = lines[t].scale, offset[t] = lines[t].offset, slope[t] = inverse(scale[t]);
    for (int i = 0; i < n; i++)
        for (int t = 0; t < tries; t++) {
            const float q = clamped(rounded((x[i] + offset[t]) * slope[t]), low, high),
                        e = x[i] + offset[t] - scale[t] * q;
            error[t] += e * e;
        }
    return int(std::min_element(error, error + tries) - error);
}

/// Slopes that give a weight of this range integers from `first` to `last`.
void spread(float first, float last, float range, float (&slope)[tries])
{
    for (int t = 0; t < tries; t++) slope[t] = (first + (last - first) * float(t) / (tries - 1)) * inverse(range);
}

/// Whether all sums over 256 weights are finite; fp16 scales reach much less far.
bool summable(const float* x)
{
    return std::all_of(x, x + 256, [](float w) { return std::fabs(w) < 1e30f; });
}

/// Scale and offset number p of eight, six bits each, as shaders/blocks.h has them.
void pack(uint8_t* bytes, int p, int s, int m)
{
    if (p < 4) {
        bytes[p] = uint8_t(s);
        bytes[p + 4] = uint8_t(m);
    } else {
        bytes[p + 4] = uint8_t((s & 15) | (m & 15) << 4);
        bytes[p - 4] |= uint8_t(s >> 4 << 6);
        bytes[p] |= uint8_t(m >> 4 << 6);
    }
}

/// Q4_K and Q5_K
template <int most, class Block>
void encode_parts(const float* x, Block& block)
{
    block = {};
    Line fitted[8], largest;
    for (int p = 0; p < 8; p++) {
        const float* part = x + 32 * p;
        const auto [lowest, highest] = std::minmax_element(part, part + 32);
        const float low = std::min(0.0f, *lowest);
        float slope[tries];
        spread(most - 0.5f, most * 1.3f, *highest - low,
               slope);    // beyond `most` the rarest weights are cut short, and the others more exact
        fitted[p] = fit<32, 0, most, true>(part, -low, slope);
        largest = {std::max(largest.scale, fitted[p].scale), std::max(largest.offset, fitted[p].offset)};
    }
    block.d = to_f16(summable(x) ? largest.scale / 63 : NAN);
    block.dmin = to_f16(largest.offset / 63);
    const float d = from_f16(block.d), dmin = from_f16(block.dmin);
    if (!std::isfinite(d) || !std::isfinite(dmin)) return;
    for (int p = 0; p < 8; p++) {
        // Both are rounded now, and what rounds one the other way may make good for the other.
        const float s = rounded(fitted[p].scale * inverse(d)), m = rounded(fitted[p].offset * inverse(dmin));
        Line lines[tries];
        float scales[tries], offsets[tries];
        for (int t = 0; t < tries; t++) {
            const int up = t / 5 - 1, across = t % 5 - 2;
            scales[t] = clamped(s + float(up), 0, 63);
            offsets[t] = clamped(m + float(across), 0, 63);
            lines[t] = {d * scales[t], dmin * offsets[t]};
        }
        const int t = closest<32, 0, most>(x + 32 * p, lines);
        pack(block.scale, p, int(scales[t]), int(offsets[t]));
        const float slope = inverse(lines[t].scale);
        for (int i = 0; i < 32; i++) {
            const int q = int(clamped(rounded((x[32 * p + i] + lines[t].offset) * slope), 0, most));
            block.q[p / 2 * 32 + i] |= uint8_t((q & 15) << p % 2 * 4);
            if constexpr (most > 15) block.qh[i] |= uint8_t(q >> 4 << p);
        }
    }
}

void encode_block(const float* x, BlockQ4_K& block) { encode_parts<15>(x, block); }

void encode_block(const float* x, BlockQ5_K& block) { encode_parts<31>(x, block); }

void encode_block(const float* x, BlockQ6_K& block)
{
    block = {};
    float fitted[16], largest = 0;
    for (int k = 0; k < 16; k++) {
        const float* part = x + 16 * k;
        float slope[tries];
        spread(-30.5f, -36, extreme(part, 16), slope);
        fitted[k] = fit<16, -32, 31, false>(part, 0, slope).scale;
        if (std::fabs(fitted[k]) > std::fabs(largest)) largest = fitted[k];
    }
    block.d = to_f16(summable(x) ? largest / -128 : NAN);
    const float d = from_f16(block.d);
    if (!std::isfinite(d)) return;
    for (int k = 0; k < 16; k++) {
        const float s = rounded(fitted[k] * inverse(d));
        Line lines[tries];
        float scales[tries];
        for (int t = 0; t < tries; t++) {
            const int up = t - tries / 2;
            scales[t] = clamped(s + float(up), -128, 127);
            lines[t] = {d * scales[t], 0};
        }
        const int t = closest<16, -32, 31>(x + 16 * k, lines);
        block.scale[k] = int8_t(scales[t]);
        const float slope = inverse(lines[t].scale);
        for (int i = 16 * k; i < 16 * k + 16; i++) {
            const int q = int(clamped(rounded(x[i] * slope), -32, 31)) + 32, p = i / 32;
            block.ql[p / 4 * 64 + p % 2 * 32 + i % 32] |= uint8_t((q & 15) << p % 4 / 2 * 4);
            block.qh[p / 4 * 32 + i % 32] |= uint8_t(q >> 4 << p % 4 * 2);
        }
    }
}

template <class Block, uint32_t weights = 32>
void encode_blocks(const float* x, std::byte* row, uint32_t n)
{
    for (uint32_t i = 0; i < n; i += weights, row += sizeof(Block)) {
        Block b;
        encode_block(x + i, b);
        std::memcpy(row, &b, sizeof b);
    }
}

void encode_f32(const float* x, std::byte* row, uint32_t n) { std::memcpy(row, x, n * sizeof(float)); }

void encode_f16(const float* x, std::byte* row, uint32_t n)
{
    kernels().to_f16(x, reinterpret_cast<uint16_t*>(row), n);
}

void encode_bf16(const float* x, std::byte* row, uint32_t n)    // to nearest, ties to even
{
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t bits = std::bit_cast<uint32_t>(x[i]);
        const uint16_t h =
            uint16_t((magnitude(x[i]) > 0x7f800000 ? bits | 64 << 16 : bits + 0x7fff + (bits >> 16 & 1)) >> 16);
        std::memcpy(row + i * sizeof h, &h, sizeof h);
    }
}

constexpr RowQuantiser quantisers[] = {
    {WeightType::f32, encode_f32},
    {WeightType::f16, encode_f16},
    {WeightType::bf16, encode_bf16},
    {WeightType::q8_0, encode_blocks<BlockQ8_0>},
    {WeightType::q4_0, encode_blocks<BlockQ4_0>},
    {WeightType::q5_0, encode_blocks<BlockQ5_0>},
    {WeightType::q5_1, encode_blocks<BlockQ5_1>},
    {WeightType::q4_k, encode_blocks<BlockQ4_K, 256>},
    {WeightType::q5_k, encode_blocks<BlockQ5_K, 256>},
    {WeightType::q6_k, encode_blocks<BlockQ6_K, 256>},
};

}    // namespace

const RowQuantiser* find_quantiser(WeightType type)
{
    const RowQuantiser* found = std::ranges::find(quantisers, type, &RowQuantiser::type);
    return found == std::end(quantisers) ? nullptr : found;
}

}    // namespace hearth::host
