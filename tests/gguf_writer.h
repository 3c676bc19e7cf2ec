// Writes GGUF files for tests: keys of every type, tensors of any type with raw bytes or encoded from floats.
// It shares no code with the reader. Rounding is ggml's (quantize_row_q8_0_ref, quantize_row_q4_0_ref), so that files
// equal those of other tools.
#pragma once

#include "shaders/blocks.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace hearth {

/// Nearest fp16, ties to even.
inline uint16_t to_f16(float x)
{
    const uint32_t bits = std::bit_cast<uint32_t>(x), sign = bits >> 16 & 0x8000u, a = bits & 0x7fffffffu;
    if (a > 0x7f800000u) return uint16_t(sign | 0x7e00u);     // NaN
    if (a >= 0x477ff000u) return uint16_t(sign | 0x7c00u);    // 65520 and above round to infinity
    if (a < 0x38800000u) {    // below 2^-14: a multiple of 2^-24, which is what 0.5f has to spare
        const float shifted = std::bit_cast<float>(a) + 0.5f;
        return uint16_t(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000u));
    }
    return uint16_t(sign | ((a - 0x38000000u + 0xfffu + (a >> 13 & 1u)) >> 13));
}

inline float from_f16(uint16_t h)
{
    const uint32_t exponent = h >> 10 & 31u, mantissa = h & 0x3ffu;
    float a = exponent == 31  ? (mantissa ? NAN : INFINITY)
              : exponent == 0 ? std::ldexp(float(mantissa), -24)
                              : std::ldexp(float(mantissa | 0x400u), int(exponent) - 25);
    return h & 0x8000u ? -a : a;
}

/// Nearest bf16, ties to even.
inline uint16_t to_bf16(float x)
{
    const uint32_t bits = std::bit_cast<uint32_t>(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return uint16_t(bits >> 16 | 64u);
    return uint16_t((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

/// Some block that is near, not the one that other tools would find; this one is of a format with 32 weights and one
/// scale.
template <class B>
B to_block(const float* x)
{
    constexpr bool five_bits = requires(B b) { b.qh; }
    , has_minimum = requires(B b) { b.m; };
    const int levels = five_bits ? 32 : 16;
    float low = x[0], high = x[0], largest = 0;
    for (int i = 0; i < 32; i++) {
        low = std::min(low, x[i]);
        high = std::max(high, x[i]);
        largest = std::max(largest, std::fabs(x[i]));
    }
    B block = {};
    float d, from;    // w = d value[q] + from
    int values[32];
    for (int q = 0; q < 32; q++) values[q] = has_minimum ? q : q - levels / 2;
    if constexpr (requires { B::values; }) std::copy_n(B::values, 16, values);
    if constexpr (has_minimum) {
        block.d = to_f16((high - low) / float(levels - 1));
        block.m = to_f16(low);
        d = from_f16(block.d);
        from = from_f16(block.m);
    } else {
        from = 0;
        if constexpr (requires { block.e; }) {
            block.e = uint8_t(largest > 0 ? std::clamp(int(std::ceil(std::log2(largest / 12))) + 128, 0, 254) : 0);
            d = std::ldexp(1.0f, block.e - 128);
        } else {
            block.d = to_f16(largest / float(-values[0]));
            d = from_f16(block.d);
        }
    }
    for (int i = 0; i < 32; i++) {
        int nearest = 0;
        for (int q = 0; q < levels; q++)
            if (std::fabs(x[i] - from - d * float(values[q])) < std::fabs(x[i] - from - d * float(values[nearest])))
                nearest = q;
        block.q[i % 16] |= uint8_t((nearest & 15) << i / 16 * 4);
        if constexpr (five_bits) block.qh[i / 8] |= uint8_t(nearest >> 4 << i % 8);
    }
    return block;
}

template <>
inline BlockF32 to_block(const float* x)
{
    return *x;
}

template <>
inline BlockF16 to_block(const float* x)
{
    return {to_f16(*x)};
}

template <>
inline BlockBF16 to_block(const float* x)
{
    return {to_bf16(*x)};
}

template <>
inline BlockQ8_0 to_block(const float* x)
{
    float amax = 0;
    for (int i = 0; i < 32; i++) amax = std::max(amax, std::fabs(x[i]));
    const float d = amax / 127, inverse = d != 0 ? 1 / d : 0;
    BlockQ8_0 block;
    block.d = to_f16(d);
    for (int i = 0; i < 32; i++) block.q[i] = int8_t(std::round(x[i] * inverse));
    return block;
}

template <>
inline BlockQ4_0 to_block(const float* x)
{
    float largest = 0;    // in magnitude, with its sign
    for (int i = 0; i < 32; i++)
        if (std::fabs(x[i]) > std::fabs(largest)) largest = x[i];
    const float d = largest / -8, inverse = d != 0 ? 1 / d : 0;
    const auto nibble = [&](float v) { return uint8_t(std::min(15, int(v * inverse + 8.5f))); };
    BlockQ4_0 block;
    block.d = to_f16(d);
    for (int i = 0; i < 16; i++) block.q[i] = uint8_t(nibble(x[i]) | nibble(x[i + 16]) << 4);
    return block;
}

template <>
inline BlockQ2_K to_block(const float* x)
{
    float step[16], minimum[16];
    for (int s = 0; s < 16; s++) {
        const auto [low, high] = std::minmax_element(x + 16 * s, x + 16 * s + 16);
        minimum[s] = std::max(0.0f, -*low);
        step[s] = (std::max(0.0f, *high) + minimum[s]) / 3;
    }
    BlockQ2_K block = {};
    block.d = to_f16(*std::max_element(step, step + 16) / 15);
    block.dmin = to_f16(*std::max_element(minimum, minimum + 16) / 15);
    const float d = from_f16(block.d), dmin = from_f16(block.dmin);
    for (int i = 0; i < 256; i++) {
        const int s = d > 0 ? std::min(15, int(std::lround(step[i / 16] / d))) : 0,
                  m = dmin > 0 ? std::min(15, int(std::lround(minimum[i / 16] / dmin))) : 0;
        const int q = s ? std::clamp(int(std::lround((x[i] + dmin * float(m)) / (d * float(s)))), 0, 3) : 0;
        block.scale[i / 16] = uint8_t(s | m << 4);
        block.q[i / 128 * 32 + i % 32] |= uint8_t(q << i / 32 % 4 * 2);
    }
    return block;
}

template <>
inline BlockQ3_K to_block(const float* x)
{
    float largest[16] = {};
    for (int i = 0; i < 256; i++) largest[i / 16] = std::max(largest[i / 16], std::fabs(x[i]));
    BlockQ3_K block = {};
    block.d = to_f16(*std::max_element(largest, largest + 16) / (3.5f * 31));
    const float d = from_f16(block.d);
    for (int i = 0; i < 256; i++) {
        const int k = i / 16, s = d > 0 ? std::min(31, int(std::ceil(largest[k] / (3.5f * d)))) : 0, stored = s + 32;
        const int q = s ? std::clamp(int(std::lround(x[i] / (d * float(s)))) + 4, 0, 7) : 4;
        block.q[i / 128 * 32 + i % 32] |= uint8_t((q & 3) << i / 32 % 4 * 2);
        block.qh[i % 32] |= uint8_t(q >> 2 << i / 32);
        if (i % 16) continue;
        block.scale[k % 8] |= uint8_t((stored & 15) << k / 8 * 4);
        block.scale[8 + k % 4] |= uint8_t(stored >> 4 << k / 4 * 2);
    }
    return block;
}

template <class B>    // BlockQ4_K or BlockQ5_K
B to_six_bit_scales(const float* x, int levels)
{
    float step[8], minimum[8], largest_step = 0, largest_minimum = 0;
    for (int p = 0; p < 8; p++) {
        const auto [low, high] = std::minmax_element(x + 32 * p, x + 32 * p + 32);
        minimum[p] = std::max(0.0f, -*low);
        step[p] = (std::max(0.0f, *high) + minimum[p]) / float(levels - 1);
        largest_step = std::max(largest_step, step[p]);
        largest_minimum = std::max(largest_minimum, minimum[p]);
    }
    B block = {};
    block.d = to_f16(largest_step / 62);
    block.dmin = to_f16(largest_minimum / 62);
    const float d = from_f16(block.d), dmin = from_f16(block.dmin);
    for (int i = 0; i < 256; i++) {
        const int p = i / 32;
        const int s = d > 0 ? std::min(63, int(std::ceil(step[p] / d))) : 0,
                  m = dmin > 0 ? std::min(63, int(std::lround(minimum[p] / dmin))) : 0;
        const int q = s ? std::clamp(int(std::lround((x[i] + dmin * float(m)) / (d * float(s)))), 0, levels - 1) : 0;
        block.q[p / 2 * 32 + i % 32] |= uint8_t((q & 15) << p % 2 * 4);
        if constexpr (requires { block.qh; }) block.qh[i % 32] |= uint8_t(q >> 4 << p);
        if (i % 32) continue;
        if (p < 4) {
            block.scale[p] |= uint8_t(s);
            block.scale[p + 4] |= uint8_t(m);
        } else {
            block.scale[p + 4] = uint8_t((s & 15) | (m & 15) << 4);
            block.scale[p - 4] |= uint8_t(s >> 4 << 6);
            block.scale[p] |= uint8_t(m >> 4 << 6);
        }
    }
    return block;
}

template <>
inline BlockQ4_K to_block(const float* x)
{
    return to_six_bit_scales<BlockQ4_K>(x, 16);
}

template <>
inline BlockQ5_K to_block(const float* x)
{
    return to_six_bit_scales<BlockQ5_K>(x, 32);
}

template <>
inline BlockQ6_K to_block(const float* x)
{
    float largest[16] = {};
    for (int i = 0; i < 256; i++) largest[i / 16] = std::max(largest[i / 16], std::fabs(x[i]));
    BlockQ6_K block = {};
    block.d = to_f16(*std::max_element(largest, largest + 16) / (31 * 127));
    const float d = from_f16(block.d);
    for (int i = 0; i < 256; i++) {
        int8_t& scale = block.scale[i / 16];
        scale = d > 0 ? int8_t(std::clamp(std::ceil(largest[i / 16] / (31 * d)), 1.0f, 127.0f)) : 0;
        const int q = d > 0 ? std::clamp(int(std::lround(x[i] / (d * scale))) + 32, 0, 63) : 32, part = i / 32;
        block.ql[part / 4 * 64 + part % 2 * 32 + i % 32] |= uint8_t((q & 15) << part % 4 / 2 * 4);
        block.qh[part / 4 * 32 + i % 32] |= uint8_t(q >> 4 << part % 4 * 2);
    }
    return block;
}

template <>
inline BlockIQ4_XS to_block(const float* x)
{
    const auto& values = BlockIQ4_NL::values;
    float largest[8] = {};
    for (int i = 0; i < 256; i++) largest[i / 32] = std::max(largest[i / 32], std::fabs(x[i]));
    BlockIQ4_XS block = {};
    block.d = to_f16(*std::max_element(largest, largest + 8) / (31 * 113));
    const float d = from_f16(block.d);
    for (int i = 0; i < 256; i++) {
        const int p = i / 32, s = d > 0 ? std::clamp(int(std::ceil(largest[p] / (113 * d))), 1, 31) : 0;
        int q = 0;
        const auto error = [&](int v) { return std::fabs(x[i] - d * float(s * values[v])); };
        for (int v = 0; v < 16; v++)
            if (error(v) < error(q)) q = v;
        block.q[16 * p + i % 16] |= uint8_t(q << i % 32 / 16 * 4);
        if (i % 32) continue;
        block.scale_low[p / 2] |= uint8_t(((s + 32) & 15) << p % 2 * 4);
        block.scale_high |= uint16_t((s + 32) >> 4 << 2 * p);
    }
    return block;
}

/// A matrix of floats (rows, cols) in a weight format; cols is a multiple of the format's block. `append` adds to what
/// is there.
inline void append_rows(std::string& bytes, WeightType type, const float* x, uint64_t rows, uint64_t cols)
{
    if (cols % format_of(type).block) throw std::logic_error("a row must be a whole number of blocks");
    const uint64_t n = rows * cols, begin = bytes.size();
    bytes.resize(begin + rows * row_bytes(type, cols));
    char* out = bytes.data() + begin;
    if (is_sparse(type)) throw std::logic_error("sparse rows differ in length");
    with_block(type, [&]<class B>() {
        for (uint64_t i = 0; i < n; i += format_of(type).block, out += sizeof(B)) {
            const B block = to_block<B>(x + i);
            std::memcpy(out, &block, sizeof block);
        }
    });
}

inline std::string encode_rows(WeightType type, const std::vector<float>& x, uint64_t cols)
{
    std::string bytes;
    append_rows(bytes, type, x.data(), x.size() / cols, cols);
    return bytes;
}

class GgufWriter {
  public:
    std::string magic = "GGUF";
    uint32_t version = 3;
    uint32_t alignment = 32;    // `general.alignment` is written where it is another number

    /// A key: bool, any integer or float type, text, or a std::vector of one of those.
    template <class T>
    void key(std::string_view name, const T& value)
    {
        std::string bytes;
        typed(bytes, value);
        raw_key(name, std::move(bytes));
    }

    /// A key with its type and value as they stand in the file.
    void raw_key(std::string_view name, std::string bytes) { keys_.push_back({std::string(name), std::move(bytes)}); }

    /// A tensor as raw bytes. shape[0] is the contiguous dimension (the columns).
    void tensor(std::string_view name, uint32_t type, std::vector<uint64_t> shape, std::string bytes)
    {
        tensors_.push_back({std::string(name), type, std::move(shape), std::move(bytes)});
    }

    /// A matrix (rows, cols), or a vector where rows is 0.
    void tensor(std::string_view name, WeightType type, uint64_t rows, uint64_t cols, const std::vector<float>& x)
    {
        std::vector<uint64_t> shape{cols};
        if (rows) shape.push_back(rows);
        tensor(name, uint32_t(type), std::move(shape), encode_rows(type, x, cols));
    }

    /// Takes keys and tensors of this name out again; false where there are none.
    bool remove(std::string_view name)
    {
        const auto named = [&](const auto& entry) { return entry.name == name; };
        return std::erase_if(keys_, named) + std::erase_if(tensors_, named) > 0;
    }

    /// Everything before the tensors' data, padded to the alignment.
    std::string header() const
    {
        std::string out = magic;
        number(out, version);
        number(out, uint64_t(tensors_.size()));
        number(out, uint64_t(keys_.size() + (alignment != 32)));
        for (const Key& key : keys_) {
            text(out, key.name);
            out += key.value;
        }
        if (alignment != 32) {
            text(out, "general.alignment");
            typed(out, alignment);
        }
        uint64_t offset = 0;
        for (const Tensor& t : tensors_) {
            text(out, t.name);
            number(out, uint32_t(t.shape.size()));
            for (uint64_t n : t.shape) number(out, n);
            number(out, t.type);
            number(out, offset);
            offset = padded(offset + t.bytes.size());
        }
        out.resize(padded(out.size()));
        return out;
    }

    /// The whole file.
    std::string bytes() const
    {
        std::string out = header();
        for (const Tensor& t : tensors_) {
            out += t.bytes;
            out.resize(padded(out.size()));
        }
        return out;
    }

    void write(const std::filesystem::path& path) const
    {
        std::ofstream file(path, std::ios::binary);
        file << header();
        for (const Tensor& t : tensors_) file << t.bytes << std::string(padded(t.bytes.size()) - t.bytes.size(), '\0');
        file.close();
        if (!file) throw std::runtime_error("cannot write " + path.string());
    }

  private:
    struct Key {
        std::string name, value;
    };
    struct Tensor {
        std::string name;
        uint32_t type;
        std::vector<uint64_t> shape;
        std::string bytes;
    };

    template <class T>
    static constexpr uint32_t type_number()
    {
        if constexpr (std::is_same_v<T, bool>) return 7;
        else if constexpr (std::is_same_v<T, float>) return 6;
        else if constexpr (std::is_same_v<T, double>) return 12;
        else if constexpr (std::is_integral_v<T>) {
            constexpr uint32_t by_size[] = {0, 2, 4, 10};    // of the unsigned type; the signed one follows it
            return by_size[std::bit_width(sizeof(T)) - 1] + std::is_signed_v<T>;
        } else return 8;
    }

    uint64_t padded(uint64_t n) const { return (n + alignment - 1) / alignment * alignment; }

    template <class T>
    static void number(std::string& out, T value)
    {
        out.append(reinterpret_cast<const char*>(&value), sizeof value);
    }

    static void text(std::string& out, std::string_view s)
    {
        number(out, uint64_t(s.size()));
        out += s;
    }

    template <class T>
    static void plain(std::string& out, const T& value)
    {
        if constexpr (std::is_arithmetic_v<T>) number(out, value);
        else text(out, value);
    }

    template <class T>
    static void typed(std::string& out, const T& value)
    {
        number(out, type_number<T>());
        plain(out, value);
    }

    template <class T>
    static void typed(std::string& out, const std::vector<T>& values)
    {
        number(out, uint32_t(9));
        number(out, type_number<T>());
        number(out, uint64_t(values.size()));
        for (const T& value : values) plain(out, value);
    }

    std::vector<Key> keys_;
    std::vector<Tensor> tensors_;
};

}    // namespace hearth
