// Plain C++: what kernels/body.h needs, on one float. And the choice of the instruction set.
#include "host/kernels/body.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cpuid.h>

namespace hearth::host {
namespace {

/// Exact. The exponent's bias is 15 in fp16 and 127 in fp32.
float from_f16(uint16_t h)
{
    const uint32_t sign = uint32_t(h & 0x8000) << 16, magnitude = h & 0x7fff, mantissa = h & 0x3ff;
    if (magnitude > 0x7c00)
        return std::bit_cast<float>(sign | 0x7fc00000 | mantissa << 13);    // a quiet NaN, as F16C makes it
    if (magnitude == 0x7c00) return std::bit_cast<float>(sign | 0x7f800000);
    if (magnitude < 0x400) return std::copysign(float(mantissa) * 0x1p-24f, std::bit_cast<float>(sign));
    return std::bit_cast<float>(sign | ((magnitude << 13) + (112u << 23)));
}

/// To nearest, ties to even.
uint16_t round_to_f16(float x)
{
    const uint32_t bits = std::bit_cast<uint32_t>(x), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) return uint16_t(sign | 0x7e00 | (magnitude >> 13 & 0x1ff));
    if (magnitude >= std::bit_cast<uint32_t>(65520.0f)) return uint16_t(sign | 0x7c00);
    if (magnitude < std::bit_cast<uint32_t>(
                        0x1p-14f))    // floats next to 0.5 are 2^-24 apart, as subnormal fp16 are: the addition rounds
        return uint16_t(
            sign | (std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - std::bit_cast<uint32_t>(0.5f)));
    return uint16_t(sign | ((magnitude - (112u << 23) + 0xfff + (magnitude >> 13 & 1)) >> 13));
}

struct Plain {
    using Vec = float;
    static constexpr uint32_t lanes = 1;
    static constexpr uint32_t accumulators = 4;

    static Vec zero() { return 0; }
    static Vec set(float a) { return a; }
    static Vec set(F16 a) { return from_f16(a.bits); }

    static Vec load(const float* p) { return *p; }
    static Vec load(const F16* p) { return from_f16(p->bits); }
    static Vec load(const Bf16* p) { return std::bit_cast<float>(uint32_t(p->bits) << 16); }
    static Vec load(const int8_t* p) { return *p; }
    static void store(float* p, Vec v) { *p = v; }
    static void store(F16* p, Vec v) { p->bits = round_to_f16(v); }
    static void store_rounded(int16_t* p, Vec v) { *p = int16_t(std::lrint(v)); }

    static Vec fma(Vec a, Vec b, Vec c)
    {
        return a * b + c;
    }    // rounds twice; without the instruction std::fma is a slow function
    static Vec mul(Vec a, Vec b) { return a * b; }
    static Vec add(Vec a, Vec b) { return a + b; }
    static Vec div(Vec a, Vec b) { return a / b; }
    static Vec abs(Vec a) { return std::fabs(a); }
    static Vec max(Vec a, Vec b) { return a > b ? a : b; }
    static uint32_t signs(Vec v) { return __builtin_bit_cast(uint32_t, v) >> 31; }
    static float add_lanes(Vec v) { return v; }
    static float max_lanes(Vec v) { return v; }
    static Vec most(Vec a, Vec b) { return std::bit_cast<uint32_t>(a) < std::bit_cast<uint32_t>(b) ? b : a; }
    static float most_lanes(Vec v) { return v; }
    static Vec add_across(const Vec* v) { return *v; }
    static Vec round(Vec v) { return std::nearbyint(v); }
    static Vec power(Vec v) { return std::bit_cast<float>(uint32_t(int32_t(v) + 127) << 23); }

    static Vec eight(uint64_t bytes, const float* x)
    {
        float sum = 0;
        for (uint32_t i = 0; i < 8; i++) sum += float(bytes >> 8 * i & 255) * x[i];
        return sum;
    }
    static Vec only(float a) { return a; }

    struct Bytes {
        uint8_t b[fixed_block];
    };
    template <class F>
    static Bytes each(F&& f)
    {
        Bytes out;
        for (uint32_t i = 0; i < fixed_block; i++) out.b[i] = uint8_t(f(i));
        return out;
    }
    static Bytes bytes(const uint8_t* p)
    {
        return each([&](uint32_t i) { return p[i]; });
    }
    static Bytes nibbles(const uint8_t* p)
    {
        return each([&](uint32_t i) { return i < 16 ? p[i] & 15 : p[i - 16] >> 4; });
    }
    static void store(uint8_t* p, const Bytes& b) { std::copy_n(b.b, fixed_block, p); }
    static Bytes bits(const Bytes& b, int shift, uint8_t mask)
    {
        return each([&](uint32_t i) { return (shift < 0 ? b.b[i] << -shift : b.b[i] >> shift) & mask; });
    }
    static Bytes spread(uint32_t word, uint8_t n)
    {
        return each([&](uint32_t i) { return (word >> i & 1) * n; });
    }
    static Bytes look_up(const int8_t* table, const Bytes& b)
    {
        return each([&](uint32_t i) { return table[b.b[i]]; });
    }
    static Bytes merge(const Bytes& a, const Bytes& b)
    {
        return each([&](uint32_t i) { return a.b[i] | b.b[i]; });
    }
    static Bytes less(const Bytes& b, int8_t n)
    {
        return each([&](uint32_t i) { return b.b[i] - n; });
    }

    struct Block {
        int16_t w[fixed_block];
    };
    static Block widen(const Bytes& b)
    {
        Block w;
        for (uint32_t i = 0; i < fixed_block; i++) w.w[i] = int8_t(b.b[i]);
        return w;
    }
    static Block ones()
    {
        Block w;
        std::fill_n(w.w, fixed_block, int16_t(1));
        return w;
    }
    struct Scales {
        int8_t s[16];
    };
    static Scales scales(uint64_t first, uint64_t last)
    {
        Scales s;
        for (uint32_t i = 0; i < 16; i++) s.s[i] = int8_t((i < 8 ? first : last) >> 8 * (i % 8));
        return s;
    }
    static Scales scales(uint64_t eight)
    {
        Scales s;
        for (uint32_t i = 0; i < 16; i++) s.s[i] = int8_t(eight >> 8 * (i / 2));
        return s;
    }
    static Block scaled(Block w, const Scales& s, uint32_t p)
    {
        for (uint32_t i = 0; i < fixed_block; i++) w.w[i] = int16_t(w.w[i] * s.s[2 * p + i / 16]);
        return w;
    }
    static Vec dot(const Block& w, const int16_t* x)
    {
        int64_t sum = 0;
        for (uint32_t i = 0; i < fixed_block; i++) sum += int32_t(w.w[i]) * x[i];
        return float(sum);
    }
    static void floats(const Block& w, Vec* out)
    {
        for (uint32_t i = 0; i < fixed_block; i++) out[i] = w.w[i];
    }
    static void store(int16_t* p, const Block& b) { std::copy_n(b.w, fixed_block, p); }
    static float first(Vec v) { return v; }

    static constexpr uint32_t tile_rows = 4;
    using Ints = int32_t;
    static Ints no_ints() { return 0; }
    static Bytes expand(const uint8_t* values, uint32_t mask)
    {
        return each([&](uint32_t i) { return mask >> i & 1 ? *values++ : 0; });
    }
    static void expand(const F16* values, uint32_t mask, Vec* out)
    {
        for (uint32_t i = 0; i < fixed_block; i++) out[i] = mask >> i & 1 ? load(values++) : 0.0f;
    }
    static Ints load_ints(const int16_t* p) { return int32_t(load_32(p)); }
    static Ints set_pair(const int16_t* p) { return int32_t(load_32(p)); }
    static Ints add_pairs(Ints a, Ints b, Ints sum) { return sum + int16_t(a) * int16_t(b) + (a >> 16) * (b >> 16); }
    static Vec floats_of(Ints a) { return float(a); }
};

struct Registers {
    unsigned a, b, c, d;
};

struct Cpu {
    bool avx2, avxvnni, avx512;
};

/// What CPU and operating system let us use. Asked once: in a virtual machine the instruction leaves it.
const Cpu& cpu()
{
    static const Cpu found = [] {
        const auto has = [](unsigned leaf, unsigned part, unsigned Registers::*r, unsigned bit) {
            Registers of = {};
            return __get_cpuid_count(leaf, part, &of.a, &of.b, &of.c, &of.d) && of.*r & bit;
        };
        // Compilers do not all know these two by name. That the system saves the registers is part of "avx2".
        const bool f16c = has(1, 0, &Registers::c, bit_F16C), avxvnni = has(7, 1, &Registers::a, 1 << 4);
        const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && f16c;
        return Cpu{.avx2 = avx2,
                   .avxvnni = avx2 && avxvnni,
                   .avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                             __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                             __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vbmi2") &&
                             __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("gfni")};
    }();
    return found;
}

}    // namespace

constexpr Kernels plain_kernels = make_kernels<Plain>(Isa::plain);

static_assert(std::ranges::equal(weight_formats, std::span(plain_kernels.rows).first(std::size(weight_formats)), {},
                                 &WeightFormat::type, &RowKernels::type));
static_assert(std::ranges::equal(sparse_formats, std::span(plain_kernels.rows).last(std::size(sparse_formats)), {},
                                 &WeightFormat::type, &RowKernels::type));
static_assert(std::ranges::equal(cache_types, plain_kernels.caches, {}, {}, &CacheKernels::type));

const RowKernels& Kernels::of(WeightType type) const { return *std::ranges::find(rows, type, &RowKernels::type); }

const CacheKernels& Kernels::cache(WeightType type) const
{
    return *std::ranges::find(caches, type, &CacheKernels::type);
}

const Kernels* kernels(Isa isa)
{
    switch (isa) {
    case Isa::plain: return &plain_kernels;
    case Isa::avx2: return cpu().avx2 ? &avx2_kernels : nullptr;
    case Isa::avxvnni: {
        static const Kernels table = cpu().avxvnni ? avxvnni_kernels() : avxvnni_of_avx512_kernels();
        return cpu().avxvnni || cpu().avx512 ? &table : nullptr;
    }
    case Isa::avx512: return cpu().avx512 ? &avx512_kernels : nullptr;
    }
    return nullptr;
}

namespace {

std::atomic<const Kernels*>& in_use()
{
    static std::atomic<const Kernels*> kernels_in_use = [] {
        const Kernels* best = nullptr;
        for (const IsaName& set : isa_names)
            if (const Kernels* some = kernels(set.isa)) best = some;
        return best;
    }();
    return kernels_in_use;
}

}    // namespace

const Kernels& kernels() { return *in_use().load(std::memory_order_relaxed); }

void choose_kernels(const Kernels& kernels) { in_use() = &kernels; }

}    // namespace hearth::host
