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

void encode_block(const float* x,
                  BlockQ4_1& b)    // m = min x, d = (max x - m) / 15, q_i = min(15, trunc((x_i - m) / d + 0.5))
{
    const auto [least, most] = std::minmax_element(x, x + 32);
    const float d = std::isfinite(largest(x, 32)) ? (*most - *least) / 15 : NAN;
    const float scale = std::isfinite(d) ? inverse(d) : 0;
    b.d = to_f16(d);
    b.m = to_f16(*least);
    const auto q = [&](uint32_t i) { return scale == 0 ? 0 : std::min(15, int32_t((x[i] - *least) * scale + 0.5f)); };
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

// Scales that are searched for: of many tries the one with the least sum of squared errors, each of them times what its
// column counts.

/// So many are made at once: loops over them become vector instructions, which loops over weights do not, since their
/// sums have an order.
constexpr int tries = 16;

/// What columns count where all count the same. Else it is a pointer to as many positive numbers.
struct Even {
    constexpr float operator[](int) const { return 1; }
    constexpr Even operator+(int) const { return {}; }
};

template <class Importance>
constexpr bool is_even = std::is_same_v<Importance, Even>;

/// The offsets that a format can store.
enum class Offset { none, positive, any };

struct Line {
    float scale = 0, offset = 0;    // w = scale * q - offset
    double error = 0;               // less that of a line of zeros
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

/// Makes `best` the line that is nearest to n weights by least squares, each of them with the integer that it gets from
/// one of the slopes: (x + offset) * slope, from low to high. Unless it is nearer already.
template <int n, int low, int high, Offset offsets, class Importance>
void fit(const float* x, const Importance& w, float offset, const float (&slope)[tries], Line& best)
{
    float q1[tries] = {}, q2[tries] = {}, xq[tries] = {}, x1 = 0, w1 = 0;
    for (int i = 0; i < n; i++) {
        x1 += w[i] * x[i];
        w1 += w[i];
        for (int t = 0; t < tries; t++) {
            const float q = clamped(rounded((x[i] + offset) * slope[t]), low, high), wq = w[i] * q;
            q1[t] += wq;
            q2[t] += wq * q;
            xq[t] += wq * x[i];
        }
    }
    for (int t = 0; t < tries; t++) {
        const double a = q1[t], b = q2[t], c = xq[t], all = w1, det = all * b - a * a;
        double s = det > 0 ? (all * c - x1 * a) / det : 0, o = (s * a - x1) / all;
        if (offsets == Offset::none || det <= 0 || (offsets == Offset::positive && o < 0)) {
            s = b > 0 ? c / b : 0;
            o = 0;
        }
        const double error = s * (s * b - 2 * c) + o * (2 * x1 - 2 * s * a + all * o);
        if (error < best.error) best = {float(s), float(o), error};
    }
}

/// A line of nothing but its offset.
template <int n, class Importance>
Line flat(const float* x, const Importance& w, float offset)
{
    double x1 = 0, w1 = 0;
    for (int i = 0; i < n; i++) x1 += w[i] * x[i], w1 += w[i];
    return {0, offset, offset * (2 * x1 + w1 * offset)};
}

/// Which of the lines gives n weights the least sum of squared errors, each weight its nearest q.
template <int n, int low, int high, class Importance>
int closest(const float* x, const Importance& w, const Line (&lines)[tries])
{
    float scale[tries], offset[tries], slope[tries], error[tries] = {};
    for (int t = 0; t < tries; t++)
        scale[t] = lines[t].scale, offset[t] = lines[t].offset, slope[t] = inverse(scale[t]);
    for (int i = 0; i < n; i++)
        for (int t = 0; t < tries; t++) {
            const float q = clamped(rounded((x[i] + offset[t]) * slope[t]), low, high),
                        e = x[i] + offset[t] - scale[t] * q;
            error[t] += w[i] * (e * e);
        }
    return int(std::min_element(error, error + tries) - error);
}

/// Slopes that give a weight of this range integers from `first` to `last`.
void spread(float first, float last, float range, float (&slope)[tries])
{
    for (int t = 0; t < tries; t++) slope[t] = (first + (last - first) * float(t) / (tries - 1)) * inverse(range);
}

/// Whether all sums over n weights are finite; fp16 scales reach much less far.
bool summable(const float* x, int n)
{
    return std::all_of(x, x + n, [](float w) { return std::fabs(w) < 1e30f; });
}

/// The same slopes again, nearer to what was found: weights change their integers with them.
template <int n, int low, int high, Offset offsets, class Importance>
void fit_again(const float* x, const Importance& w, Line& best)
{
    if (best.scale == 0) return;
    float slope[tries];
    spread(0.88f, 1.12f, best.scale, slope);
    fit<n, low, high, offsets>(x, w, best.offset, slope, best);
}

/// The nearest line of integers from -high - 1 to high, through zero. Either end may be the largest weight's, or be
/// passed by it: then that one is cut short, and the others are more exact.
template <int n, int high, class Importance>
Line fit_through_zero(const float* x, const Importance& w)
{
    constexpr float half = float(high) + 1;
    const float most = extreme(x, n);
    float slope[tries];
    Line best;
    if constexpr (half > 16 && is_even<Importance>) {    // where there are many integers, less is to be gained
        spread(0.5f - half + 1, -half * 1.125f, most, slope);
        fit<n, -high - 1, high, Offset::none>(x, w, 0, slope, best);
    } else {
        spread(-half * 0.6f, -half * 1.5f, most, slope);
        fit<n, -high - 1, high, Offset::none>(x, w, 0, slope, best);
        spread(half * 0.6f, half * 1.4f, most, slope);
        fit<n, -high - 1, high, Offset::none>(x, w, 0, slope, best);
        fit_again<n, -high - 1, high, Offset::none>(x, w, best);
    }
    return best;
}

/// The nearest line of integers from 0 to `most`.
template <int n, int most, Offset offsets, class Importance>
Line fit_with_offset(const float* x, const Importance& w)
{
    const auto [lowest, highest] = std::minmax_element(x, x + n);
    const float low = offsets == Offset::any ? *lowest : std::min(0.0f, *lowest), range = *highest - low;
    float slope[tries];
    Line best = flat<n>(x, w, -low);
    // Beyond `most` the rarest weights are cut short, and the others more exact.
    spread(most - 0.5f, most * 1.3f, range, slope);
    fit<n, 0, most, offsets>(x, w, -low, slope, best);
    if constexpr (most < 15 || !is_even<Importance>) {    // at the other end, too
        for (const float kept : {0.9f, 0.8f, 0.65f}) {
            spread(most * 0.85f, most * 1.7f, range, slope);
            fit<n, 0, most, offsets>(x, w, -low - (1 - kept) * range, slope, best);
        }
        fit_again<n, 0, most, offsets>(x, w, best);
        fit_again<n, 0, most, offsets>(x, w, best);
    }
    return best;
}

// Blocks of 32.

/// w_i = d * (q_i - bias)
template <int high, class Importance>
float scale_through_zero(const float* x, const Importance& w, uint16_t& d, int (&q)[32])
{
    d = to_f16(summable(x, 32) ? fit_through_zero<32, high>(x, w).scale : NAN);
    const float scale = from_f16(d), slope = std::isfinite(scale) ? inverse(scale) : 0;
    for (int i = 0; i < 32; i++)
        q[i] = slope == 0 ? high + 1 : int(clamped(rounded(x[i] * slope), -high - 1, high)) + high + 1;
    return scale;
}

/// w_i = d * q_i + m
template <int most, class Importance>
void scale_with_offset(const float* x, const Importance& w, uint16_t& d, uint16_t& m, int (&q)[32])
{
    const Line line = summable(x, 32) ? fit_with_offset<32, most, Offset::any>(x, w) : Line{NAN, NAN};
    d = to_f16(line.scale);
    m = to_f16(-line.offset);
    const float scale = from_f16(d), least = from_f16(m);
    const float slope = std::isfinite(scale) && std::isfinite(least) ? inverse(scale) : 0;
    for (int i = 0; i < 32; i++) q[i] = slope == 0 ? 0 : int(clamped(rounded((x[i] - least) * slope), 0, most));
}

void search_block(const float* x, const float* w, BlockQ4_0& b)
{
    int q[32];
    scale_through_zero<7>(x, w, b.d, q);
    for (int i = 0; i < 16; i++) b.q[i] = uint8_t(q[i] | q[i + 16] << 4);
}

void search_block(const float* x, const float* w, BlockQ5_0& b)
{
    int q[32];
    b = {};
    scale_through_zero<15>(x, w, b.d, q);
    for (uint32_t i = 0; i < 32; i++) set_five_bits(b.q, b.qh, i, q[i]);
}

void search_block(const float* x, const float* w, BlockQ4_1& b)
{
    int q[32];
    scale_with_offset<15>(x, w, b.d, b.m, q);
    for (int i = 0; i < 16; i++) b.q[i] = uint8_t(q[i] | q[i + 16] << 4);
}

void search_block(const float* x, const float* w, BlockQ5_1& b)
{
    int q[32];
    b = {};
    scale_with_offset<31>(x, w, b.d, b.m, q);
    for (uint32_t i = 0; i < 32; i++) set_five_bits(b.q, b.qh, i, q[i]);
}

/// The value of IQ4_NL that is nearest to y, and its place.
struct Nearest {
    float value;
    int place;
};

Nearest nearest_value(float y)
{
    Nearest found = {BlockIQ4_NL::values[0], 0};
    for (int k = 0; k < 15; k++) {
        const float here = BlockIQ4_NL::values[k], next = BlockIQ4_NL::values[k + 1];
        const bool above = y > (here + next) / 2;
        found.value += above ? next - here : 0.0f;
        found.place += above;
    }
    return found;
}

template <class Importance>
void search_block(const float* x, const Importance& w, BlockIQ4_NL& b)
{
    const float most = extreme(x, 32);
    float best = summable(x, 32) ? 0 : NAN;
    double least = 0;
    const auto search = [&](float first, float last, float range) {
        float slope[tries], v2[tries] = {}, xv[tries] = {};
        spread(first, last, range, slope);
        for (int i = 0; i < 32; i++)
            for (int t = 0; t < tries; t++) {
                const float v = nearest_value(x[i] * slope[t]).value;
                v2[t] += w[i] * (v * v);
                xv[t] += w[i] * (v * x[i]);
            }
        for (int t = 0; t < tries; t++) {
            const double d = v2[t] > 0 ? xv[t] / v2[t] : 0, error = d * (d * v2[t] - 2 * double(xv[t]));
            if (error < least) least = error, best = float(d);
        }
    };
    if (best == 0) {    // they are finite
        search(-90, -170, most);
        search(80, 150, most);
        if (best != 0) search(0.94f, 1.06f, best);
    }
    b.d = to_f16(best);
    const float d = from_f16(b.d), slope = std::isfinite(d) ? inverse(d) : 0;
    const auto q = [&](int i) { return nearest_value(x[i] * slope).place; };
    for (int i = 0; i < 16; i++) b.q[i] = uint8_t(q(i) | q(i + 16) << 4);
}

// Blocks of 256, whose parts of 32 or 16 have scales of their own.

/// Integers of 256 weights and of the scales of their parts.
template <int count>
struct Parts {
    static constexpr int weights = 256 / count;    // of a part
    uint16_t d = 0, dmin = 0;                      // fp16
    int scale[count] = {}, minimum[count] = {};
    int8_t q[256] = {};

    /// d and dmin that suit the integers best, by least squares; as they are where there are no better ones.
    template <class Importance>
    void scale_again(const float* x, const Importance& w)
    {
        double aa = 0, ab = 0, bb = 0, xa = 0, xb = 0;    // w = d a - dmin b
        for (int p = 0; p < count; p++) {
            float q1 = 0, q2 = 0, xq = 0, x1 = 0, w1 = 0;
            for (int i = weights * p; i < weights * (p + 1); i++) {
                const float here = q[i], wq = w[i] * here;
                q1 += wq, q2 += wq * here, xq += wq * x[i], x1 += w[i] * x[i], w1 += w[i];
            }
            const double s = scale[p], m = minimum[p];
            aa += s * s * q2, ab += s * m * q1, bb += m * m * w1, xa += s * xq, xb += m * x1;
        }
        const double det = aa * bb - ab * ab;
        double to = aa > 0 ? xa / aa : 0, to_min = 0;
        if (bb > 0 && det > 0) to = (xa * bb - xb * ab) / det, to_min = (xa * ab - xb * aa) / det;
        if (!(std::fabs(to) < 60000) || to == 0 || (bb > 0 && !(to_min > 0 && to_min < 60000))) return;
        d = to_f16(float(to));
        if (bb > 0) dmin = to_f16(float(to_min));
    }
};

/// Integers from 0 to `most` with scales and minima from 0 to `levels`: Q2_K, Q4_K, Q5_K. False: no weight is finite.
template <int most, int levels, int count, class Importance>
bool fit_parts(const float* x, const Importance& w, Parts<count>& parts)
{
    constexpr int n = Parts<count>::weights;
    Line fitted[count], largest;
    for (int p = 0; p < count; p++) {
        fitted[p] = fit_with_offset<n, most, Offset::positive>(x + n * p, w + n * p);
        largest = {std::max(largest.scale, fitted[p].scale), std::max(largest.offset, fitted[p].offset)};
    }
    parts.d = to_f16(summable(x, 256) ? largest.scale / levels : NAN);
    parts.dmin = to_f16(largest.offset / levels);
    if (!std::isfinite(from_f16(parts.d)) || !std::isfinite(from_f16(parts.dmin))) return false;
    // Few levels: then these two are worth a second look, once it is known what they are multiplied with.
    constexpr int rounds = levels < 63 || !is_even<Importance> ? 3 : 1;
    for (int round = 0; round < rounds; round++) {
        const float d = from_f16(parts.d), dmin = from_f16(parts.dmin);
        for (int p = 0; p < count; p++) {
            // Both are rounded now, and what rounds one the other way may make good for the other.
            const float s = rounded(clamped(fitted[p].scale * inverse(d), 0, levels)),
                        m = rounded(clamped(fitted[p].offset * inverse(dmin), 0, levels));
            Line lines[tries];
            float scales[tries], offsets[tries];
            for (int t = 0; t < tries; t++) {
                const int up = t / 5 - 1, across = t % 5 - 2;
                scales[t] = clamped(s + float(up), 0, levels);
                offsets[t] = clamped(m + float(across), 0, levels);
                lines[t] = {d * scales[t], dmin * offsets[t]};
            }
            const int t = closest<n, 0, most>(x + n * p, w + n * p, lines);
            parts.scale[p] = int(scales[t]);
            parts.minimum[p] = int(offsets[t]);
            const float slope = inverse(lines[t].scale);
            for (int i = n * p; i < n * (p + 1); i++)
                parts.q[i] = int8_t(clamped(rounded((x[i] + lines[t].offset) * slope), 0, most));
        }
        if (round + 1 < rounds) parts.scale_again(x, w);
    }
    return true;
}

/// Integers from -high - 1 to high with scales from -levels to levels - 1: Q3_K, Q6_K. False: no weight is finite.
template <int high, int levels, class Importance>
bool fit_parts_through_zero(const float* x, const Importance& w, Parts<16>& parts)
{
    constexpr int n = Parts<16>::weights;
    float fitted[16], largest = 0;
    for (int p = 0; p < 16; p++) {
        fitted[p] = fit_through_zero<n, high>(x + n * p, w + n * p).scale;
        if (std::fabs(fitted[p]) > std::fabs(largest)) largest = fitted[p];
    }
    parts.d = to_f16(summable(x, 256) ? largest / -levels : NAN);
    if (!std::isfinite(from_f16(parts.d))) return false;
    constexpr int rounds = levels < 128 || !is_even<Importance> ? 3 : 1;
    for (int round = 0; round < rounds; round++) {
        const float d = from_f16(parts.d);
        for (int p = 0; p < 16; p++) {
            const float s = rounded(clamped(fitted[p] * inverse(d), -levels, levels - 1));
            Line lines[tries];
            float scales[tries];
            for (int t = 0; t < tries; t++) {
                const int up = t - tries / 2;
                scales[t] = clamped(s + float(up), -levels, levels - 1);
                lines[t] = {d * scales[t], 0};
            }
            const int t = closest<n, -high - 1, high>(x + n * p, w + n * p, lines);
            parts.scale[p] = int(scales[t]);
            const float slope = inverse(lines[t].scale);
            for (int i = n * p; i < n * (p + 1); i++)
                parts.q[i] = int8_t(clamped(rounded(x[i] * slope), -high - 1, high));
        }
        if (round + 1 < rounds) parts.scale_again(x, w);
    }
    return true;
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

template <class Importance>
void search_block(const float* x, const Importance& w, BlockQ2_K& block)
{
    Parts<16> parts;
    const bool finite = fit_parts<3, 15>(x, w, parts);
    block = {.scale = {}, .q = {}, .d = parts.d, .dmin = parts.dmin};
    if (!finite) return;
    for (int k = 0; k < 16; k++) block.scale[k] = uint8_t(parts.scale[k] | parts.minimum[k] << 4);
    for (int i = 0; i < 256; i++) block.q[i / 128 * 32 + i % 32] |= uint8_t(parts.q[i] << i / 32 % 4 * 2);
}

template <class Importance>
void search_block(const float* x, const Importance& w, BlockQ3_K& block)
{
    Parts<16> parts;
    const bool finite = fit_parts_through_zero<3, 32>(x, w, parts);
    block = {.qh = {}, .q = {}, .scale = {}, .d = parts.d};
    if (!finite) return;
    for (int k = 0; k < 16; k++) {
        const int s = parts.scale[k] + 32;
        block.scale[k % 8] |= uint8_t((s & 15) << k / 8 * 4);
        block.scale[8 + k % 4] |= uint8_t(s >> 4 << k / 4 * 2);
    }
    for (int i = 0; i < 256; i++) {
        const int q = parts.q[i] + 4, p = i / 32;
        block.q[p / 4 * 32 + i % 32] |= uint8_t((q & 3) << p % 4 * 2);
        block.qh[i % 32] |= uint8_t(q >> 2 << p);
    }
}

/// Q4_K and Q5_K
template <int most, class Importance, class Block>
void search_nibbles(const float* x, const Importance& w, Block& block)
{
    Parts<8> parts;
    const bool finite = fit_parts<most, 63>(x, w, parts);
    block = {};
    block.d = parts.d;
    block.dmin = parts.dmin;
    if (!finite) return;
    for (int p = 0; p < 8; p++) {
        pack(block.scale, p, parts.scale[p], parts.minimum[p]);
        for (int i = 0; i < 32; i++) {
            const int q = parts.q[32 * p + i];
            block.q[p / 2 * 32 + i] |= uint8_t((q & 15) << p % 2 * 4);
            if constexpr (most > 15) block.qh[i] |= uint8_t(q >> 4 << p);
        }
    }
}

template <class Importance>
void search_block(const float* x, const Importance& w, BlockQ4_K& block)
{
    search_nibbles<15>(x, w, block);
}

template <class Importance>
void search_block(const float* x, const Importance& w, BlockQ5_K& block)
{
    search_nibbles<31>(x, w, block);
}

template <class Importance>
void search_block(const float* x, const Importance& w, BlockQ6_K& block)
{
    Parts<16> parts;
    const bool finite = fit_parts_through_zero<31, 128>(x, w, parts);
    block = {};
    block.d = parts.d;
    if (!finite) return;
    for (int k = 0; k < 16; k++) block.scale[k] = int8_t(parts.scale[k]);
    for (int i = 0; i < 256; i++) {
        const int q = parts.q[i] + 32, p = i / 32;
        block.ql[p / 4 * 64 + p % 2 * 32 + i % 32] |= uint8_t((q & 15) << p % 4 / 2 * 4);
        block.qh[p / 4 * 32 + i % 32] |= uint8_t(q >> 4 << p % 4 * 2);
    }
}

template <class Block, uint32_t weights = 32>
void encode_blocks(const float* x, std::byte* row, uint32_t n)
{
    for (uint32_t i = 0; i < n; i += weights, row += sizeof(Block)) {
        Block b;
        if constexpr (requires { encode_block(x, b); }) encode_block(x + i, b);
        else search_block(x + i, Even(), b);
        std::memcpy(row, &b, sizeof b);
    }
}

template <class Block, uint32_t weights = 32>
void encode_weighted(const float* x, const float* importance, std::byte* row, uint32_t n)
{
    for (uint32_t i = 0; i < n; i += weights, row += sizeof(Block)) {
        Block b;
        search_block(x + i, importance + i, b);
        std::memcpy(row, &b, sizeof b);
    }
}

template <class Block, uint32_t weights = 32>
constexpr RowQuantiser searched(WeightType type)
{
    return {type, encode_blocks<Block, weights>, encode_weighted<Block, weights>};
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
    searched<BlockQ4_0>(WeightType::q4_0),
    searched<BlockQ4_1>(WeightType::q4_1),
    searched<BlockQ5_0>(WeightType::q5_0),
    searched<BlockQ5_1>(WeightType::q5_1),
    searched<BlockIQ4_NL>(WeightType::iq4_nl),
    searched<BlockQ2_K, 256>(WeightType::q2_k),
    searched<BlockQ3_K, 256>(WeightType::q3_k),
    searched<BlockQ4_K, 256>(WeightType::q4_k),
    searched<BlockQ5_K, 256>(WeightType::q5_k),
    searched<BlockQ6_K, 256>(WeightType::q6_k),
};

}    // namespace

const RowQuantiser* find_quantiser(WeightType type)
{
    const RowQuantiser* found = std::ranges::find(quantisers, type, &RowQuantiser::type);
    return found == std::end(quantisers) ? nullptr : found;
}

}    // namespace hearth::host
