#include "host/attention.h"
#include "host/experts.h"
#include "host/norm.h"
#include "host/quantise.h"
#include "host/sparse.h"
#include "tests/fixed_point.h"
#include "tests/support.h"

#include <doctest/doctest.h>

#include <array>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <string>

using namespace hearth;
using namespace hearth::host;

namespace {

// ---- weights and their meaning, independent of the kernels ----------------------------------------------------------

double half(uint16_t h)
{
    const int exponent = h >> 10 & 31, mantissa = h & 1023;
    const double magnitude = exponent ? std::ldexp(1024 + mantissa, exponent - 25) : std::ldexp(mantissa, -24);
    return h & 0x8000 ? -magnitude : magnitude;
}

class Random {
  public:
    explicit Random(uint32_t seed) : bits_(seed) {}
    uint32_t bits() { return bits_(); }
    float normal() { return normal_(bits_); }
    std::vector<float> vector(size_t n)
    {
        std::vector<float> v(n);
        for (float& x : v) x = normal();
        return v;
    }

  private:
    std::mt19937 bits_;
    std::normal_distribution<float> normal_;
};

/// Weight i of a block, from the formats' descriptions and with none of the kernels' tricks.
double weight(WeightType type, const uint8_t* block, uint32_t i)
{
    const auto half_at = [&](size_t offset) { return half(uint16_t(block[offset] | block[offset + 1] << 8)); };
    /// The array at `offset` has the low nibbles of 16 weights, and the high ones are the next 16.
    const auto nibble = [&](size_t offset) { return block[offset + i % 16] >> (i / 16 * 4) & 15; };
    switch (type) {
    case WeightType::f32:
        return std::bit_cast<float>(uint32_t(block[0] | block[1] << 8 | block[2] << 16) | uint32_t(block[3]) << 24);
    case WeightType::f16: return half_at(0);
    case WeightType::bf16: return std::bit_cast<float>(uint32_t(block[0]) << 16 | uint32_t(block[1]) << 24);
    case WeightType::q8_0: return half_at(0) * int8_t(block[2 + i]);
    case WeightType::q4_0: return half_at(0) * (nibble(2) - 8);
    case WeightType::q4_1: return half_at(0) * nibble(4) + half_at(2);
    case WeightType::q5_0: return half_at(0) * (nibble(6) + 16 * (block[2 + i / 8] >> i % 8 & 1) - 16);
    case WeightType::q5_1: return half_at(0) * (nibble(8) + 16 * (block[4 + i / 8] >> i % 8 & 1)) + half_at(2);
    case WeightType::iq4_nl: {
        constexpr int values[] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
        return half_at(0) * values[nibble(2)];
    }
    case WeightType::mxfp4: {
        const int q = nibble(1), exponent = q >> 1 & 3,
                  mantissa = q & 1;    // sign, two bits of exponent with a bias of 1, one of mantissa
        const double magnitude = exponent ? std::ldexp(2 + mantissa, exponent - 2) : 0.5 * mantissa;
        return std::ldexp(q & 8 ? -magnitude : magnitude, block[0] - 127);
    }
    case WeightType::q2_k: {
        const int q = block[16 + i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3, s = block[i / 16];
        return half_at(80) * (s & 15) * q - half_at(82) * (s >> 4);
    }
    case WeightType::q3_k: {
        const int k = int(i / 16),
                  s = (block[96 + k % 8] >> (k / 8 * 4) & 15) + (block[104 + k % 4] >> (k / 4 * 2) & 3) * 16;
        const int low = block[32 + i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3;
        return half_at(108) * (s - 32) * (low - (block[i % 32] >> (i / 32) & 1 ? 0 : 4));
    }
    case WeightType::q4_k:
    case WeightType::q5_k: {
        const uint32_t part = i / 32;
        int six[2];    // scale and minimum
        for (const uint32_t which : {0, 1}) {
            const uint8_t* s = block + 4;
            six[which] = part < 4 ? s[4 * which + part] & 63
                                  : (s[4 + part] >> 4 * which & 15) + (s[4 * which + part - 4] >> 6) * 16;
        }
        const uint8_t* nibbles = block + (type == WeightType::q4_k ? 16 : 48);
        int q = nibbles[part / 2 * 32 + i % 32] >> (part % 2 * 4) & 15;
        if (type == WeightType::q5_k) q += (block[16 + i % 32] >> part & 1) * 16;
        return half_at(0) * six[0] * q - half_at(2) * six[1];
    }
    case WeightType::q6_k: {
        const uint32_t half = i / 128, r = i % 128;    // of each half: 64 bytes of nibbles, 32 of pairs of bits
        const int low = block[64 * half + r % 64] >> (r / 64 * 4) & 15,
                  high = block[128 + 32 * half + r % 32] >> (r / 32 * 2) & 3;
        return half_at(208) * int8_t(block[192 + i / 16]) * (high * 16 + low - 32);
    }
    case WeightType::iq4_xs: {
        constexpr int values[] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
        const uint32_t part = i / 32;
        const int low = block[4 + part / 2] >> (part % 2 * 4) & 15, high = (block[2] | block[3] << 8) >> (part * 2) & 3;
        return half_at(0) * (high * 16 + low - 32) * values[block[8 + part * 16 + i % 16] >> (i % 32 / 16 * 4) & 15];
    }
    case WeightType::f16_sparse:
    case WeightType::q8_0_sparse: break;    // made of dense rows
    }
    return NAN;
}

/// A random matrix in some format, and its weights as numbers.
struct Sample {
    std::vector<std::byte> bytes;
    std::vector<double> w;
    std::vector<uint32_t> starts;    // of sparse rows
    Matrix matrix;

    Sample(WeightType type, uint32_t rows, uint32_t cols, Random& random)
        : bytes(rows * row_bytes(values_of(type), cols)), w(size_t(rows) * cols), matrix{type, rows, cols, bytes.data()}
    {
        fill(values_of(type), random);
        if (is_sparse(type)) compress(random);
    }

    /// Some weights become zero: half of those of one row, none of those of the next, all but a few, all.
    void compress(Random& random)
    {
        const WeightType values = values_of(matrix.type);
        const uint32_t cols = matrix.cols, every[] = {2, UINT32_MAX, 1};
        std::vector<std::byte> sparse;
        starts = {0};
        for (uint32_t r = 0; r < matrix.rows; r++) {
            std::byte* const row = &bytes[r * row_bytes(values, cols)];
            for (uint32_t i = 0; i < cols; i++) {
                const bool zero =
                    r % 4 == 2 ? random.bits() % 50 != 0 : random.bits() % every[r % 4 == 3 ? 2 : r % 4] == 0;
                if (!zero) continue;
                if (values == WeightType::q8_0) row[i / 32 * 34 + 2 + i % 32] = std::byte(0);
                else row[2 * i] = std::byte(0), row[2 * i + 1] = std::byte(random.bits() % 2 ? 0x80 : 0);    // -0, too
                w[size_t(r) * cols + i] = 0;
            }
            compress_row(values, row, cols, sparse);
            starts.push_back(uint32_t(sparse.size() / sparse_row_unit));
        }
        sparse.resize(sparse.size() + sparse_slack);
        sparse.shrink_to_fit();
        bytes = std::move(sparse);
        matrix.data = bytes.data();
        matrix.starts = starts.data();
    }

    void fill(WeightType type, Random& random)
    {
        const WeightFormat& f = format_of(type);
        uint8_t* p = reinterpret_cast<uint8_t*>(bytes.data());
        for (size_t i = 0; i < w.size(); i += f.block, p += f.block_bytes) {
            for (uint32_t k = 0; k < f.block_bytes; k++) p[k] = uint8_t(random.bits());
            if (type == WeightType::f32 || type == WeightType::bf16) {
                const uint32_t x = std::bit_cast<uint32_t>(random.normal()) >> (type == WeightType::f32 ? 0 : 16);
                std::memcpy(p, &x, f.block_bytes);
            }
            if (type == WeightType::mxfp4) p[0] = uint8_t(116 + random.bits() % 8);
            for (const size_t offset : tests::fp16_numbers(type)) {
                const uint16_t small =
                    uint16_t((random.bits() & 0x8000) | (0x2000 + random.bits() % 0x0c00));    // fp16 of 2^-7 to 2^-4
                std::memcpy(p + offset, &small, 2);
            }
            for (uint32_t k = 0; k < f.block; k++)
                w[i + k] = float(weight(type, p, k));    // a float holds all but the last bits of a difference
        }
    }

    const double* row(size_t r) const { return &w[r * matrix.cols]; }
};

/// n, or what a row of whole blocks has at least.
uint32_t whole_blocks(WeightType type, uint32_t n)
{
    const uint32_t block = format_of(type).block;
    return (n + block - 1) / block * block;
}

std::vector<uint32_t> sizes(WeightType type)
{
    const uint32_t block = format_of(type).block;
    if (block > 1)
        return {block,     2 * block, 3 * block,
                9 * block, 4096,      4608};    // the last is read in turns, as 1000 and 2500 floats
    return {1, 31, 33, 257, 1000, 2500};
}

/// What a row of this format sees of x: fixed point for the quantised ones.
double seen(const Input& x, WeightType type, uint32_t i)
{
    return is_quantised(type) ? double(x.scale[i / 32]) * x.q[i] : x.x[i];
}

/// Vectors with their fixed-point form, from one instruction set.
struct Vectors {
    std::vector<float> x;
    std::vector<FixedVector> fixed;
    std::vector<Input> inputs, alone;    // as tokens of several, each as the only one

    Vectors(const Kernels& cpu, uint32_t tokens, uint32_t n, Random& random) : x(random.vector(size_t(tokens) * n))
    {
        for (size_t t = 0; t < tokens; t++) {
            const float* const token = &x[t * n];
            if (n % fixed_block == 0) fixed.emplace_back(cpu, token, n);
            for (const bool is_alone : {false, true})
                (is_alone ? alone : inputs)
                    .push_back(fixed.empty() ? FixedPoint{}.of(token) : fixed[t].of(token, is_alone));
        }
    }
};

// ---- one operator on every path -------------------------------------------------------------------------------------

template <class F>
void on_every_path(F test)
{
    for (const auto& [isa, id, name] : isa_names)
        if (const Kernels* cpu = kernels(isa)) {
            CAPTURE(cpu->name);
            test(*cpu);
        }
}

template <class F>
void on_every_row_kernel(F test)
{
    on_every_path([&](const Kernels& cpu) {
        for (const WeightFormat& f : tests::all_formats())
            for (uint32_t n : sizes(f.type)) {
                CAPTURE(f.name);
                CAPTURE(n);
                test(cpu, cpu.of(f.type), n);
            }
    });
}

/// max_i |got_i - want_i| / max_i |want_i|
template <class G, class W>
double worst_error(const G& got, const W& want)
{
    REQUIRE(got.size() == want.size());
    double error = 0, largest = 1e-30;
    for (size_t i = 0; i < got.size(); i++) {
        if (!std::isfinite(got[i])) return INFINITY;
        error = std::max(error, std::fabs(double(got[i]) - double(want[i])));
        largest = std::max(largest, std::fabs(double(want[i])));
    }
    return error / largest;
}

/// The same bits, so that also 0 and -0 or two NaN are told apart.
template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b)
{
    return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

// ---- a feed-forward block and its meaning ---------------------------------------------------------------------------

struct Block {
    Sample gate, up, down_t;
    FfnWeights weights;

    Block(WeightType type, uint32_t neurons, uint32_t dim, Activation activation, Random& random, float floor = 0)
        : gate(type, neurons, dim, random), up(type, neurons, dim, random),
          down_t(type, neurons, dim, random), weights{gate.matrix, up.matrix, down_t.matrix, activation, floor}
    {
    }

    /// What a neuron's down row is multiplied with.
    double strength(uint32_t neuron, const Input& x) const
    {
        double g = 0, u = 0;
        for (uint32_t i = 0; i < gate.matrix.cols; i++) {
            g += gate.row(neuron)[i] * seen(x, gate.matrix.type, i);
            u += up.row(neuron)[i] * seen(x, up.matrix.type, i);
        }
        return tests::glu(weights.activation, weights.floor, g, u);
    }

    std::vector<double> apply(std::span<const uint32_t> neurons, const Inputs& x) const
    {
        const uint32_t dim = gate.matrix.cols;
        std::vector<double> y(size_t(x.tokens()) * dim, 0.0);
        for (uint32_t t = 0; t < x.tokens(); t++)
            for (const uint32_t r : neurons) {
                const double h = strength(r, x[t]);
                for (uint32_t i = 0; i < dim; i++) y[size_t(t) * dim + i] += h * down_t.row(r)[i];
            }
        return y;
    }
};

/// Neurons first, first + 1, ...
std::vector<uint32_t> neurons_from(uint32_t first, uint32_t count)
{
    std::vector<uint32_t> neurons(count);
    std::iota(neurons.begin(), neurons.end(), first);
    return neurons;
}

struct FfnResult {
    std::vector<float> y;
    FfnCounts counts;
};

FfnResult run(Team& team, const Block& block, std::span<const uint32_t> neurons, const Inputs& x, float cut)
{
    FfnResult result{std::vector<float>(size_t(x.tokens()) * block.gate.matrix.cols, NAN), {}};
    FfnScratch scratch{std::vector<uint32_t>(9, ~0u),
                       std::vector<float>(1 << 16, NAN),
                       {}};    // what an earlier call left must not matter
    result.counts = cold_ffn(team, block.weights, neurons, x, cut, result.y.data(), scratch);
    return result;
}

// ---- attention and its meaning --------------------------------------------------------------------------------------

/// A rope whose pairs turn by base^(-2i / rope_dim).
struct PlainRope {
    uint32_t rope_dim;
    double base;
    PairOrder pairs = PairOrder::neighbours;
};

std::vector<double> rotated(std::vector<double> y, uint32_t head_dim, const PlainRope& rope, uint32_t position)
{
    const bool halves = rope.pairs == PairOrder::halves;
    for (size_t head = 0; head < y.size(); head += head_dim)
        for (uint32_t i = 0; i < rope.rope_dim / 2; i++) {
            const double angle = position * std::pow(rope.base, -2.0 * i / rope.rope_dim);
            double &a = y[head + (halves ? i : 2 * i)], &b = y[head + (halves ? i + rope.rope_dim / 2 : 2 * i + 1)];
            const double was_a = a, was_b = b;
            a = was_a * std::cos(angle) - was_b * std::sin(angle);
            b = was_a * std::sin(angle) + was_b * std::cos(angle);
        }
    return y;
}

struct Heads {
    uint32_t heads, kv_heads, head_dim, context;
    PlainRope rope;
    bool biases = false, norms = false;
    KvTypes kv = {};
    float scale = 0.2f, softcap = 0;
    uint32_t window = 0;
};

/// A conversation of some tokens, not yet rotated.
struct Conversation {
    Heads shape;
    uint32_t tokens;
    std::vector<double> frequencies;
    std::vector<float> q, k, v, q_bias, k_bias, v_bias, q_norm, k_norm;

    Conversation(const Heads& s, uint32_t tokens, Random& random)
        : shape(s), tokens(tokens), frequencies(rope_frequencies(s.rope.rope_dim, s.rope.base)),
          q(random.vector(size_t(tokens) * s.heads * s.head_dim)),
          k(random.vector(size_t(tokens) * s.kv_heads * s.head_dim)), v(random.vector(k.size()))
    {
        if (s.biases) {
            q_bias = random.vector(s.heads * s.head_dim);
            k_bias = random.vector(s.kv_heads * s.head_dim);
            v_bias = random.vector(s.kv_heads * s.head_dim);
        }
        if (s.norms) {
            q_norm = random.vector(s.head_dim);
            k_norm = random.vector(s.head_dim);
        }
    }

    /// `attend` in batches of that many tokens.
    std::vector<float> run(Team& team, uint32_t batch) const
    {
        const size_t q_size = size_t(shape.heads) * shape.head_dim, kv_size = size_t(shape.kv_heads) * shape.head_dim;
        const AttentionShape attention = {.heads = shape.heads,
                                          .kv_heads = shape.kv_heads,
                                          .head_dim = shape.head_dim,
                                          .scale = shape.scale,
                                          .rope = {frequencies, shape.rope.pairs},
                                          .weights = {q_bias, k_bias, v_bias, q_norm, k_norm, eps},
                                          .softcap = shape.softcap,
                                          .window = shape.window};
        std::vector<float> q = this->q, k = this->k, v = this->v, y(q.size(), NAN);
        KvCache cache(shape.kv, shape.kv_heads, (shape.context + page_positions - 1) / page_positions, shape.head_dim);
        for (const KvCache::Side* side :
             {&cache.keys(), &cache.values()})    // NaN, as a scale too: what is not written must not be read
            std::memset(side->memory.get(), 0x7e, side->bytes);
        static AttendScratch scratch;    // of all shapes: nothing that is kept of one batch may serve another
        std::vector<uint32_t> pages((shape.context + page_positions - 1) / page_positions);
        std::iota(pages.begin(), pages.end(), 0);
        for (uint32_t first = 0; first < tokens; first += batch) {
            std::vector<Row> rows;
            for (uint32_t t = first; t < std::min(first + batch, tokens); t++) rows.push_back({t, t + 1, pages.data()});
            attend(team, attention, cache, rows, &q[first * q_size], &k[first * kv_size], &v[first * kv_size],
                   &y[first * q_size], scratch);
        }
        return y;
    }

    static constexpr float eps = 1e-3f;

    /// One token's heads as they meet: x + bias, each head normalised.
    std::vector<double> made(const float* x, size_t n, const std::vector<float>& bias,
                             const std::vector<float>& norm) const
    {
        std::vector<double> y(x, x + n);
        for (size_t i = 0; i < bias.size(); i++) y[i] += bias[i];
        for (size_t head = 0; !norm.empty() && head < n; head += norm.size()) {
            double squares = 0;
            for (size_t i = 0; i < norm.size(); i++) squares += y[head + i] * y[head + i];
            for (size_t i = 0; i < norm.size(); i++)
                y[head + i] *= norm[i] / std::sqrt(squares / double(norm.size()) + eps);
        }
        return y;
    }

    std::vector<double> meaning() const
    {
        const Heads& s = shape;
        const size_t d = s.head_dim, q_size = s.heads * d, kv_size = s.kv_heads * d;
        std::vector<double> keys, values, y(q.size(), 0.0);
        for (uint32_t t = 0; t < tokens; t++) {
            for (double x : rotated(made(&k[t * kv_size], kv_size, k_bias, k_norm), s.head_dim, s.rope, t))
                keys.push_back(x);
            for (double x : made(&v[t * kv_size], kv_size, v_bias, {})) values.push_back(x);
        }
        for (uint32_t t = 0; t < tokens; t++) {
            const std::vector<double> query =
                rotated(made(&q[t * q_size], q_size, q_bias, q_norm), s.head_dim, s.rope, t);
            for (uint32_t h = 0; h < s.heads; h++) {
                const size_t kv = h / (s.heads / s.kv_heads) * d;
                std::vector<double> e(t + 1, 0.0);
                double sum = 0;
                for (size_t p = 0; p <= t; p++) {
                    if (s.window && p + s.window <= t) continue;
                    for (size_t i = 0; i < d; i++) e[p] += s.scale * query[h * d + i] * keys[p * kv_size + kv + i];
                    if (s.softcap > 0) e[p] = s.softcap * std::tanh(e[p] / s.softcap);
                    sum += e[p] = std::exp(e[p]);
                }
                for (size_t p = 0; p <= t; p++)
                    for (size_t i = 0; i < d; i++)
                        y[t * q_size + h * d + i] += e[p] / sum * values[p * kv_size + kv + i];
            }
        }
        return y;
    }
};

}    // namespace

TEST_SUITE("host")
{
    TEST_CASE("this CPU's kernels are those of its best instruction set")
    {
        Isa best = Isa::plain;
        on_every_path([&](const Kernels& cpu) { best = cpu.isa; });
        CHECK(kernels().isa == best);
        CHECK(kernels(Isa::plain) != nullptr);
    }

    TEST_CASE("dot is the sum of products of the decoded weights")
    {
        Random random(1);
        on_every_row_kernel([&](const Kernels& cpu, const RowKernels& row, uint32_t n) {
            constexpr uint32_t count = rows_together + 3;
            const Sample w(row.type, count, n, random);
            const Vectors x(cpu, 1, n, random);
            std::vector<float> got;
            std::vector<double> want;
            double size = 0;    // of the largest sum of magnitudes: what rounding errors scale with
            got.resize(w.matrix.rows);
            const std::byte* rows[count + rows_together];
            for (uint32_t r = 0; r < std::size(rows); r++) rows[r] = w.matrix.row(std::min(r, count - 1));
            row.dot_rows(rows, count, x.inputs.data(), 1, n, got.data());
            for (uint32_t r = 0; r < w.matrix.rows; r++) {
                double sum = 0, magnitudes = 0;
                for (uint32_t i = 0; i < n; i++) {
                    sum += w.row(r)[i] * seen(x.inputs[0], row.type, i);
                    magnitudes += std::fabs(w.row(r)[i] * seen(x.inputs[0], row.type, i));
                }
                want.push_back(sum);
                size = std::max(size, magnitudes);
            }
            want.push_back(size);
            got.push_back(float(size));
            CHECK(worst_error(got, want) < 2e-6);
        });
    }

    TEST_CASE("the largest integers of a block do not overflow")
    {
        on_every_path([&](const Kernels& cpu) {
            const uint32_t n = 512;
            const std::vector<float> x(n, -3.0f);
            const FixedVector fixed(cpu, x.data(), n);
            for (const float s : fixed.sum) CHECK(s == doctest::Approx(-96));
            for (const WeightFormat& format : weight_formats) {
                const WeightType type = format.type;
                if (!is_quantised(type)) continue;
                for (const uint8_t byte : {0x00, 0x80, 0x81, 0xff}) {
                    std::vector<uint8_t> row(row_bytes(type, n), byte);
                    for (uint32_t b = 0; b < n / format.block; b++)
                        for (const size_t offset : tests::fp16_numbers(type)) {
                            row[b * format.block_bytes + offset] = 0;
                            row[b * format.block_bytes + offset + 1] = 0x3c;    // 1
                        }
                    for (uint32_t b = 0; type == WeightType::mxfp4 && b < n / format.block; b++)
                        row[b * format.block_bytes] = 128;    // 2^0
                    double want = 0;
                    for (uint32_t i = 0; i < n; i++)
                        want += -3 * weight(type, &row[i / format.block * format.block_bytes], i % format.block);
                    CAPTURE(format.name);
                    std::array<const std::byte*, 1 + rows_together> only;
                    only.fill(reinterpret_cast<const std::byte*>(row.data()));
                    for (const bool is_alone : {false, true}) {
                        float got;
                        const Input input = fixed.of(x.data(), is_alone);
                        cpu.of(type).dot_rows(only.data(), 1, &input, 1, n, &got);
                        CHECK(got == doctest::Approx(want));
                    }
                }
            }
        });
    }

    TEST_CASE("dot_rows gives each row and token the same bits, whatever others there are")
    {
        Random random(2);
        on_every_row_kernel([&](const Kernels& cpu, const RowKernels& row, uint32_t n) {
            constexpr uint32_t count = rows_together + 1;
            const Sample w(row.type, count, n, random);
            const std::byte* rows[count + rows_together];
            for (uint32_t r = 0; r < std::size(rows); r++) rows[r] = w.matrix.row(std::min(r, count - 1));
            for (uint32_t tokens : {1u, 2u, 3u, 4u, 5u, 6u, 11u, 17u}) {    // one of each kind of loop
                const Vectors x(cpu, tokens, n, random);
                std::vector<float> many(count * tokens);
                row.dot_rows(rows, count, x.inputs.data(), tokens, n, many.data());
                for (const std::vector<Input>* inputs : {&x.inputs, &x.alone}) {
                    std::vector<float> each;
                    for (uint32_t r = 0; r < count; r++)
                        for (const Input& input : *inputs)
                            row.dot_rows(rows + r, 1, &input, 1, n, &each.emplace_back());
                    CHECK(same_bits(many, each));
                }
            }
        });
    }

    TEST_CASE("decode gives every weight exactly")
    {
        Random random(3);
        on_every_row_kernel([&](const Kernels&, const RowKernels& row, uint32_t n) {
            const Sample w(row.type, 1, n, random);
            std::vector<float> got(n + 1, 7.0f);
            row.decode(w.matrix.data, got.data(), n);
            CHECK(got.back() == 7.0f);
            got.pop_back();
            CHECK(worst_error(got, w.w) == 0);
        });
    }

    TEST_CASE("a part of a row is decoded as in the whole row")
    {
        Random random(3);
        on_every_row_kernel([&](const Kernels&, const RowKernels& row, uint32_t n) {
            const Sample w(row.type, 4, n, random);
            const uint32_t block = format_of(row.type).block;
            for (uint32_t r = 0; r < w.matrix.rows; r++) {
                std::vector<float> all(n);
                row.decode(w.matrix.row(r), all.data(), n);
                for (uint32_t first = 0; first < n; first += std::max(block, n / 5 / block * block))
                    for (const uint32_t count : {std::min(block, n - first), n - first}) {
                        std::vector<float> part(count + 1, 7.0f);
                        row.decode_part(w.matrix.row(r), n, first, count, part.data());
                        CHECK(part.back() == 7.0f);
                        CHECK(std::equal(part.begin(), part.end() - 1, all.begin() + first));
                    }
            }
        });
    }

    TEST_CASE("a sparse row has the dense row's weights in the bytes that were promised")
    {
        Random random(31);
        for (const WeightFormat& format : sparse_formats)
            for (const uint32_t n : {32u, 96u, 128u, 160u, 4096u, sparse_most}) {
                CAPTURE(format.name);
                CAPTURE(n);
                const WeightType values = values_of(format.type);
                const Sample s(format.type, 7, n, random);
                std::vector<float> got;
                for (uint32_t r = 0; r < 7; r++) {
                    std::vector<std::byte> dense(row_bytes(values, n)), again;
                    expand_row(s.matrix, r, dense.data());
                    std::vector<float> weights(n);
                    kernels().of(values).decode(dense.data(), weights.data(), n);
                    got.insert(got.end(), weights.begin(), weights.end());

                    const uint32_t zeros = count_zeros(values, dense.data(), n);
                    CHECK(s.matrix.row_bytes(r) == sparse_row_bytes(format.type, n, n - zeros));
                    if (values == WeightType::f16) CHECK(zeros == uint32_t(std::count(s.row(r), s.row(r) + n, 0.0)));
                    compress_row(values, dense.data(), n, again);
                    CHECK(std::equal(again.begin(), again.end(), s.matrix.row(r), s.matrix.row(r + 1)));
                }
                CHECK(worst_error(got, s.w) == 0);
                CHECK(first_broken_row(s.matrix) == 7);
            }
    }

    TEST_CASE("half of the weights zero: bytes for each kind of values")
    {
        // What tools/README.md says. For 4096 weights: the bits, a number for every 128, Q8_0's scales, and the values.
        CHECK(sparse_row_bytes(WeightType::f16_sparse, 4096, 2048) == 512 + 80 + 4096);
        CHECK(sparse_row_bytes(WeightType::q8_0_sparse, 4096, 2048) == 512 + 80 + 256 + 2048);
        CHECK(double(sparse_row_bytes(WeightType::f16_sparse, 4096, 2048)) / double(row_bytes(WeightType::f16, 4096)) ==
              doctest::Approx(0.572).epsilon(0.001));
        CHECK(double(sparse_row_bytes(WeightType::q8_0_sparse, 4096, 2048)) /
                  double(row_bytes(WeightType::q8_0, 4096)) ==
              doctest::Approx(0.665).epsilon(0.001));
    }

    TEST_CASE("a row whose bits, counts or length contradict each other is found")
    {
        Random random(32);
        for (const WeightFormat& format : sparse_formats) {
            Sample s(format.type, 5, 288, random);
            const SparseParts parts = sparse_parts(format.type, 288);
            const size_t row = size_t(s.matrix.row(2) - s.matrix.data);
            REQUIRE(first_broken_row(s.matrix) == 5);
            for (uint32_t bit = 0; bit < 8 * parts.scales; bit++) {    // every bit of the mask and the counts
                s.bytes[row + bit / 8] ^= std::byte(1 << bit % 8);
                CHECK(first_broken_row(s.matrix) == 2);
                s.bytes[row + bit / 8] ^= std::byte(1 << bit % 8);
            }
            s.starts[3]++;
            CHECK(first_broken_row(s.matrix) == 2);
        }
    }

    TEST_CASE("rows are quantised as the reference does it")
    {
        Random random(5);
        std::vector<float> x(33 * 64);
        for (size_t i = 0; i < x.size(); i++)
            x[i] = random.normal() * std::exp2(float(i / 64) - 20);    // rows of all sizes, subnormal scales too
        for (size_t i = 0; i < 64; i++) x[32 * 64 + i] = i % 32 == 7 ? 127.0f : float(i % 5) / 2;    // and one of ties
        for (const WeightType type :
             {WeightType::f32, WeightType::f16, WeightType::bf16, WeightType::q8_0, WeightType::q4_0}) {
            CAPTURE(format_of(type).name);
            std::string made(row_bytes(type, x.size()), 'x');
            find_quantiser(type)->encode(x.data(), reinterpret_cast<std::byte*>(made.data()), uint32_t(x.size()));
            CHECK(made == encode_rows(type, x, x.size()));
        }
    }

    /// The mean square of what a format loses of n weights, relative to theirs.
    double lost(WeightType type, const std::vector<float>& x, const std::byte* stored)
    {
        std::vector<float> back(x.size());
        kernels().of(type).decode(stored, back.data(), uint32_t(x.size()));
        double error = 0, all = 0;
        for (size_t i = 0; i < x.size(); i++) error += std::pow(double(x[i]) - back[i], 2), all += double(x[i]) * x[i];
        return error / all;
    }

    TEST_CASE("scales that are searched for lose less than those that follow from the largest weights, whatever the "
              "weights look like")
    {
        Random random(6);
        struct Kind {
            const char* name;
            float (*weight)(float normal, size_t i);
        };
        const Kind kinds[] = {
            {"normal", [](float x, size_t) { return x; }},
            {"normal and small", [](float x, size_t) { return x * 2e-3f; }},
            {"even", [](float x, size_t) { return std::erf(x); }},
            {"positive", [](float x, size_t) { return std::fabs(x) + 0.5f; }},
            {"negative", [](float x, size_t) { return -std::fabs(x) - 0.5f; }},
            {"with a few large ones", [](float x, size_t i) { return i % 97 ? x : 10 * x; }},
            {"parts of all sizes", [](float x, size_t i) { return x * std::exp2(float(i / 32 % 8) - 4); }},
            {"mostly zero", [](float x, size_t i) { return i % 16 ? 0 : x; }},
            {"cubes", [](float x, size_t) { return x * x * x; }},
        };
        struct Most {
            WeightType type;
            double normal;    // relative error of normal weights
        };
        for (const Most& most :
             {Most{WeightType::q2_k, 0.264}, Most{WeightType::q3_k, 0.147}, Most{WeightType::q4_k, 0.073},
              Most{WeightType::q5_k, 0.0365}, Most{WeightType::q6_k, 0.0178}, Most{WeightType::iq4_nl, 0.076}}) {
            for (const Kind& kind : kinds) {
                CAPTURE(format_of(most.type).name);
                CAPTURE(kind.name);
                std::vector<float> x(64 * 256);
                for (size_t i = 0; i < x.size(); i++) x[i] = kind.weight(random.normal(), i);
                std::vector<std::byte> made(row_bytes(most.type, x.size()));
                find_quantiser(most.type)->encode(x.data(), made.data(), uint32_t(x.size()));
                const std::string simple = encode_rows(most.type, x, x.size());
                const double error = lost(most.type, x, made.data());
                CHECK(error < lost(most.type, x, reinterpret_cast<const std::byte*>(simple.data())));
                if (kind.name == std::string_view("normal")) CHECK(std::sqrt(error) < most.normal);
            }
        }
    }

    TEST_CASE("a block of 256 that holds its weights exactly is found again")
    {
        Random random(7);
        for (const WeightType type :
             {WeightType::q2_k, WeightType::q3_k, WeightType::q4_k, WeightType::q5_k, WeightType::q6_k}) {
            CAPTURE(format_of(type).name);
            const int steps = type == WeightType::q2_k   ? 4
                              : type == WeightType::q3_k ? 8
                              : type == WeightType::q5_k ? 32
                                                         : 16;
            std::vector<float> x(256);
            for (size_t i = 0; i < x.size(); i++)
                x[i] = float(int(i) % steps - steps / 2);    // steps of 1 in every part
            std::vector<std::byte> made(row_bytes(type, 256));
            find_quantiser(type)->encode(x.data(), made.data(), 256);
            CHECK(std::sqrt(lost(type, x, made.data())) < 2e-3);    // the scale of the scales is fp16
            std::fill(x.begin(), x.end(), -0.75f);
            find_quantiser(type)->encode(x.data(), made.data(), 256);
            CHECK(std::sqrt(lost(type, x, made.data())) < 2e-3);
        }
    }

    /// Both ways in which a format is encoded; the second with columns that count differently.
    std::vector<std::pair<const char*, std::function<void(const float*, std::byte*, uint32_t)>>> encoders(
        const RowQuantiser& quantiser)
    {
        std::vector<std::pair<const char*, std::function<void(const float*, std::byte*, uint32_t)>>> all = {
            {"all columns alike", quantiser.encode}};
        if (quantiser.encode_weighted)
            all.emplace_back("weighted", [&](const float* x, std::byte* row, uint32_t n) {
                std::vector<float> importance(n);
                for (uint32_t i = 0; i < n; i++) importance[i] = i % 7 ? 1 : 2;
                quantiser.encode_weighted(x, importance.data(), row, n);
            });
        return all;
    }

    TEST_CASE("a number that no block can hold makes weights that are not finite, and zeros make zeros")
    {
        for (const WeightFormat& format : weight_formats) {
            const RowQuantiser* quantiser = find_quantiser(format.type);
            if (!quantiser || format.type == WeightType::f32 || format.type == WeightType::bf16) continue;
            CAPTURE(format.name);
            const uint32_t block = std::max(format.block, 32u);
            const auto decode = kernels().of(format.type).decode;
            for (const auto& [how, encode] : encoders(*quantiser)) {
                CAPTURE(how);
                for (const float bad : {INFINITY, -INFINITY, NAN, 1e9f, -1e9f, 3e38f}) {
                    CAPTURE(bad);
                    std::vector<float> x(2 * block, 1.0f), back(2 * block);
                    x[3] = bad;
                    std::vector<std::byte> row(row_bytes(format.type, 2 * block));
                    encode(x.data(), row.data(), 2 * block);
                    decode(row.data(), back.data(), 2 * block);
                    CHECK_FALSE(std::isfinite(back[3]));
                    CHECK(back[block] == doctest::Approx(1).epsilon(0.15));
                }
                std::vector<float> x(block), back(block, 1.0f);
                std::vector<std::byte> row(row_bytes(format.type, block));
                encode(x.data(), row.data(), block);
                decode(row.data(), back.data(), block);
                CHECK(back == x);
                x[block / 3] = -2.5f;    // one outlier keeps its size, and the others stay what they are
                encode(x.data(), row.data(), block);
                decode(row.data(), back.data(), block);
                CHECK(back[block / 3] == doctest::Approx(-2.5f).epsilon(0.01));
                for (uint32_t i = 0; i < block; i++) CHECK((i == block / 3 || std::abs(back[i]) < 0.05f));
            }
        }
    }

    TEST_CASE("weights whose columns count more are more exact, and none is less so than rounding alone would make it")
    {
        Random random(8);
        std::vector<float> x(16 * 256), importance(x.size()), even(x.size(), 3.0f);
        for (float& w : x) w = random.normal();
        for (float& w : importance) w = std::exp(2 * random.normal());
        const auto error = [&](WeightType type, const std::vector<std::byte>& stored,
                               const std::vector<float>& weight) {
            std::vector<float> back(x.size());
            kernels().of(type).decode(stored.data(), back.data(), uint32_t(x.size()));
            double sum = 0;
            for (size_t i = 0; i < x.size(); i++) sum += weight[i] * std::pow(double(x[i]) - back[i], 2);
            return sum;
        };
        for (const WeightFormat& format : weight_formats) {
            const RowQuantiser* quantiser = find_quantiser(format.type);
            if (!quantiser || !quantiser->encode_weighted) continue;
            CAPTURE(format.name);
            std::vector<std::byte> alike(row_bytes(format.type, x.size())), weighted = alike, evenly = alike;
            quantiser->encode(x.data(), alike.data(), uint32_t(x.size()));
            quantiser->encode_weighted(x.data(), importance.data(), weighted.data(), uint32_t(x.size()));
            quantiser->encode_weighted(x.data(), even.data(), evenly.data(), uint32_t(x.size()));
            CHECK(error(format.type, weighted, importance) < 0.8 * error(format.type, alike, importance));
            CHECK(error(format.type, evenly, even) < 1.001 * error(format.type, alike, even));
        }
    }

    TEST_CASE("axpy adds rows, many at once as one by one")
    {
        on_every_row_kernel([&](const Kernels& cpu, const RowKernels& row, uint32_t n) {
            Random random(4);    // of its own, so that another format changes no other's numbers
            const Sample w(row.type, 19, n, random);
            const std::vector<float> before = random.vector(n + 1), a = random.vector(19);
            const bool integers = cpu.isa != Isa::plain && is_quantised(row.type) &&
                                  (cpu.isa == Isa::avx512 || row.type != WeightType::q8_0);
            const double most = integers ? 5e-5 : 1e-6;    // fixed point of 16 bits
            for (const uint32_t rows : {0u, 1u, 8u, 19u}) {
                CAPTURE(rows);
                std::vector<Term> terms;
                std::vector<float> together = before, one_by_one = before;
                std::vector<double> want(before.begin(), before.end());
                for (uint32_t r = 0; r < rows; r++) {
                    terms.push_back({a[r], w.matrix.row(r), w.matrix.row(std::min(r + 8, 18u))});
                    row.axpy(&terms.back(), 1, one_by_one.data(), n);
                    for (uint32_t i = 0; i < n; i++) want[i] += double(a[r]) * w.row(r)[i];
                }
                row.axpy(terms.data(), rows, together.data(), n);
                CHECK(worst_error(one_by_one, want) < most);
                CHECK(worst_error(together, want) < most);
                CHECK(together.back() == before.back());
            }
            // Where all are alike, sums of integers are the largest there can be.
            const std::vector<Term> alike(16, {1, w.matrix.row(0), w.matrix.row(1)});
            std::vector<float> sums(n);
            std::vector<double> want(n);
            for (uint32_t i = 0; i < n; i++) want[i] = 16.0 * w.row(0)[i];
            row.axpy(alike.data(), 16, sums.data(), n);
            CHECK(worst_error(sums, want) < 1e-6);
        });
    }

    TEST_CASE("rmsnorm divides by the root of the mean square")
    {
        Random random(6);
        on_every_path([&](const Kernels& cpu) {
            for (uint32_t n : {1u, 31u, 33u, 257u, 4096u}) {
                const std::vector<float> x = random.vector(n), w = random.vector(n);
                std::vector<float> y(n);
                cpu.rmsnorm(x.data(), w.data(), y.data(), n, 1e-5f);
                double squares = 0;
                for (float v : x) squares += double(v) * v;
                std::vector<double> want;
                for (uint32_t i = 0; i < n; i++) want.push_back(w[i] * x[i] / std::sqrt(squares / n + 1e-5));
                CAPTURE(n);
                CHECK(worst_error(y, want) < 1e-6);

                std::vector<float> in_place = x;
                cpu.rmsnorm(in_place.data(), w.data(), in_place.data(), n, 1e-5f);
                CHECK(same_bits(in_place, y));
            }
        });
    }

    TEST_CASE("fixed point is within half a step, reaches its largest number and knows zero")
    {
        Random random(7);
        const uint32_t n = 32 * 9;
        std::vector<float> x = random.vector(n);
        for (uint32_t i = 0; i < 32; i++) {
            x[32 + i] = 0;
            x[64 + i] *= 1e-36f;    // its reciprocal is no float
            x[96 + i] *= 1e30f;
        }
        x[5] = -9;    // the largest of its block
        std::vector<int16_t> first_q;
        on_every_path([&](const Kernels& cpu) {
            const FixedVector fixed(cpu, x.data(), n);
            const auto& q = fixed.q;
            const auto &scale = fixed.scale, &sum = fixed.sum;
            CHECK(q[5] == -32512);
            CHECK(scale[0] == 9 / fixed_max);
            CHECK(scale[1] == 0);
            CHECK(std::count(q.begin() + 32, q.begin() + 64, 0) == 32);
            for (uint32_t b = 0; b < n / 32; b++)
                CHECK(sum[b] == scale[b] * float(std::accumulate(&q[b * 32], &q[b * 32] + 32, 0)));
            double worst = 0;    // in steps
            for (uint32_t i = 0; i < n; i++) {
                CHECK(std::abs(q[i]) <= 32512);
                if (scale[i / 32] > 0) worst = std::max(worst, std::fabs(x[i] / double(scale[i / 32]) - q[i]));
            }
            CHECK(worst < 0.51);    // half, and the rounding of a float of 15 bits
            if (first_q.empty()) first_q = q;
            CHECK(same_bits(q, first_q));

            CHECK(cpu.reads_planes == (cpu.isa == Isa::avx512));
            CHECK(cpu.reads_words == (cpu.isa != Isa::plain));
            for (uint32_t i = 0; i < n / group_numbers * group_numbers; i++) {
                const size_t group = i / group_numbers;
                const uint32_t pair = i % group_numbers / 64, block = i / 32 % 2, in_block = i % 32,
                               byte = pair * 64 + in_block / 4 * 8 + block * 4 + i % 4,
                               byte_alone = in_block / 16 * 64 + pair * 32 + block * 16 + i % 16, half = in_block / 16,
                               in_lane = in_block % 16 / 2,
                               word = pair * 64 + (half * 2 + i % 2) * 16 + block * 8 + in_lane,
                               word_of_block = i % group_numbers / 32 * 32 + i % 2 * 16 + half * 8 + in_lane;
                if (cpu.reads_words) {
                    CHECK(fixed.by_pairs[group].of[word] == q[i]);
                    CHECK(fixed.by_blocks[group].of[word_of_block] == q[i]);
                }
                if (!cpu.reads_planes) continue;
                CHECK(256 * fixed.planes[group].high[byte] + fixed.planes[group].low[byte] == q[i]);
                CHECK(256 * fixed.alone[group].high[byte_alone] + fixed.alone[group].low[byte_alone] == q[i]);
            }
            for (uint32_t b = 0; b < n / group_numbers * 4; b++) {
                const auto sum_of = [&](uint32_t first, uint32_t last) {
                    return std::accumulate(&q[b * 32 + first], &q[b * 32] + last, 0);
                };
                if (cpu.reads_words)
                    for (uint32_t half = 0; half < 2; half++)
                        CHECK(fixed.half_sum[2 * b + half] == scale[b] * float(sum_of(16 * half, 16 * half + 16)));
                if (cpu.reads_planes)
                    for (const GroupPlanes& g : {fixed.planes[b / 4], fixed.alone[b / 4]}) {
                        CHECK(g.bias[b % 4] == -8 * sum_of(0, 32));
                        CHECK(g.half_bias[0][b % 4] == -8 * sum_of(0, 16));
                        CHECK(g.half_bias[1][b % 4] == -8 * sum_of(16, 32));
                    }
            }
        });
    }

    TEST_CASE("every fp16 number survives the way to fp32 and back")
    {
        std::vector<uint16_t> halves(1 << 16);
        for (uint32_t i = 0; i < halves.size(); i++) halves[i] = uint16_t(i);
        on_every_path([&](const Kernels& cpu) {
            std::vector<float> floats(halves.size());
            std::vector<uint16_t> back(halves.size());
            cpu.of(WeightType::f16)
                .decode(reinterpret_cast<const std::byte*>(halves.data()), floats.data(), uint32_t(halves.size()));
            cpu.to_f16(floats.data(), back.data(), uint32_t(floats.size()));
            int wrong = 0;
            for (uint32_t i = 0; i < halves.size(); i++) {
                const bool nan = (i & 0x7fff) > 0x7c00;
                if (nan) wrong += !std::isnan(floats[i]) || back[i] != (i | 0x200);    // made quiet
                else if ((i & 0x7fff) == 0x7c00)
                    wrong += floats[i] != (i & 0x8000 ? -INFINITY : INFINITY) || back[i] != i;
                else wrong += floats[i] != half(halves[i]) || std::signbit(floats[i]) != (i >= 0x8000) || back[i] != i;
            }
            CHECK(wrong == 0);
        });
    }

    TEST_CASE("fp32 is rounded to the nearest fp16, ties to even")
    {
        Random random(8);
        std::vector<float> x = {0.0f,     -0.0f,     65504,  65519.996f, 65520,           -65520,  1e30f,
                                INFINITY, -INFINITY, 1e-30f, 0x1p-25f,   0x1.000002p-25f, 0x3p-25f};
        std::vector<uint16_t> want = {0, 0x8000, 0x7bff, 0x7bff, 0x7c00, 0xfc00, 0x7c00, 0x7c00, 0xfc00, 0, 0, 1, 2};
        for (uint32_t h = 0; h < 0x7bff; h++) {    // between neighbours: the middle, and a little to either side
            const float low = float(half(uint16_t(h))), middle = float((half(uint16_t(h)) + half(uint16_t(h + 1))) / 2);
            x.insert(x.end(), {low, std::nextafter(middle, 0.0f), middle, -std::nextafter(middle, INFINITY)});
            want.insert(want.end(), {uint16_t(h), uint16_t(h), uint16_t(h + (h & 1)), uint16_t(0x8000 | (h + 1))});
        }
        on_every_path([&](const Kernels& cpu) {
            std::vector<uint16_t> got(x.size());
            cpu.to_f16(x.data(), got.data(), uint32_t(x.size()));
            CHECK(got == want);
            const float nan = NAN;
            cpu.to_f16(&nan, got.data(), 1);
            CHECK((got[0] & 0x7fff) > 0x7c00);
        });
    }

    TEST_CASE("queries meet keys and weights mix values as the formulas say, for any number of them, and a tile "
              "changes no bit")
    {
        Random random(9);
        on_every_path([&](const Kernels& cpu) {
            for (const CacheKernels& cache : cpu.caches)
                for (const uint32_t n : sizes(cache.type))
                    for (const auto& [rows, positions] :
                         {std::pair(1u, 1u), {1u, 40u}, {3u, 17u}, {7u, 33u}, {16u, 16u}}) {
                        if (n > 300) continue;
                        constexpr uint32_t stride = 48;
                        const Sample stored(cache.type, positions, n, random);
                        const Vectors q(cpu, rows, n, random);
                        std::vector<float> score(rows * stride, NAN), alone(stride), y(rows * n, NAN), y_alone(n, NAN);
                        const std::vector<float> weights = random.vector(rows * stride);
                        cache.scores(q.inputs.data(), rows, stored.bytes.data(), positions, n, score.data(), stride);
                        cache.mix(weights.data(), stride, rows, stored.bytes.data(), positions, n, y.data());
                        CAPTURE(n);
                        CAPTURE(rows);
                        for (uint32_t r = 0; r < rows; r++) {
                            std::vector<double> want_score, want_y(n);
                            for (uint32_t p = 0; p < positions; p++) {
                                double dot = 0;
                                for (uint32_t i = 0; i < n; i++) {
                                    dot += seen(q.inputs[r], cache.type, i) * stored.row(p)[i];
                                    want_y[i] += weights[r * stride + p] * stored.row(p)[i];
                                }
                                want_score.push_back(dot);
                            }
                            CHECK(worst_error(std::span(score).subspan(r * stride, positions), want_score) < 5e-6);
                            CHECK(worst_error(std::span(y).subspan(r * n, n), want_y) < 1e-5);
                            cache.scores(&q.inputs[r], 1, stored.bytes.data(), positions, n, alone.data(), stride);
                            cache.mix(&weights[r * stride], stride, 1, stored.bytes.data(), positions, n,
                                      y_alone.data());
                            CHECK(std::memcmp(alone.data(), &score[r * stride], positions * sizeof(float)) == 0);
                            CHECK(std::memcmp(y_alone.data(), &y[r * n], n * sizeof(float)) == 0);
                        }
                    }
        });
    }

    TEST_CASE(
        "scores become weights to a part in a million, at any size, and a score that is no number does not get lost")
    {
        Random random(10);
        on_every_path([&](const Kernels& cpu) {
            for (const uint32_t n : {1u, 7u, 16u, 33u, 256u})
                for (const float spread : {0.1f, 3.0f, 200.0f}) {
                    std::vector<float> s = random.vector(n);
                    const std::vector<float> scores = s;
                    s.resize((n + 15) / 16 * 16, NAN);
                    const SoftMax all = cpu.soften(s.data(), n, spread);
                    const double largest = spread * *std::ranges::max_element(scores);
                    double sum = 0, worst = 0;
                    for (uint32_t i = 0; i < n; i++) {
                        const double want = std::exp(double(spread * scores[i]) - double(float(largest)));
                        worst = std::max(worst, std::fabs(s[i] - want) / (want + 1e-37));
                        sum += want;
                        if (want < 1e-37) CHECK(s[i] == 0);
                    }
                    CAPTURE(n);
                    CAPTURE(spread);
                    CHECK(worst < (spread > 100 ? 4e-5 : 1e-6));    // a difference of 500 in floats is off by 3e-5
                    CHECK(all.largest == float(largest));
                    CHECK(all.sum == doctest::Approx(sum).epsilon(1e-5));
                    for (uint32_t i = n; i < (n + 7) / 8 * 8 && cpu.isa != Isa::plain; i++) CHECK(s[i] == 0);
                }
            std::vector<float> s(16, 1.0f);
            s[3] = NAN;
            CHECK(std::isnan(cpu.soften(s.data(), 16, 1).sum));
        });
    }

    TEST_CASE("a gate is its formula to a part in a million, with the same bits wherever it stands")
    {
        Random random(11);
        on_every_path([&](const Kernels& cpu) {
            for (const auto& [linear, cubic] : {std::pair(1.0f, 0.0f), {1.702f, 0.0f}, {1.5957691f, 0.0713548f}})
                for (const uint32_t n : {1u, 31u, 33u, 257u}) {
                    std::vector<float> x = random.vector(n);
                    for (float& v : x) v *= 20;
                    const std::vector<float> before = x;
                    cpu.gate(x.data(), n, linear, cubic);
                    double worst = 0;
                    for (uint32_t i = 0; i < n; i++) {
                        const double v = before[i], z = v * (linear + cubic * v * v), want = v / (1 + std::exp(-z));
                        // Of a product of floats that large the exponential magnifies the rounding.
                        worst =
                            std::max(worst, std::fabs(x[i] - want) / (std::fabs(want) * (1 + std::fabs(z)) + 1e-30));
                        float alone = before[i];
                        cpu.gate(&alone, 1, linear, cubic);
                        CHECK(alone == x[i]);
                    }
                    CAPTURE(n);
                    CHECK(worst < 1e-6);
                }
            std::vector<float> x = {INFINITY, 1e30f, -1e30f, NAN};
            cpu.gate(x.data(), 4, 1, 0);
            CHECK(x[0] == INFINITY);
            CHECK(x[1] == 1e30f);
            CHECK(std::fabs(x[2]) < 1e-7f);
            CHECK(std::isnan(x[3]));
        });
    }

    TEST_CASE("chunks of rows cover a matrix once, and a small matrix is one chunk")
    {
        Team team(3);
        for (uint32_t rows : {0u, 1u, 5u, 1000u, 30000u})
            for (uint64_t bytes : {1ull, 272ull, 4352ull, 1ull << 20}) {
                std::vector<int> count(rows, 0);
                std::atomic<int> chunks = 0;
                parallel_rows(team, rows, bytes, [&](uint32_t first, uint32_t last) {
                    chunks++;
                    for (uint32_t r = first; r < last; r++) count[r]++;
                });
                CHECK(count == std::vector<int>(rows, 1));
                if (rows * bytes < 8192) CHECK(chunks <= 1);
            }
    }

    TEST_CASE("a matrix meets one token or many, on one thread or several, with the same bits")
    {
        Random random(10);
        for (const WeightFormat& format : tests::all_formats()) {
            const WeightType type = format.type;
            const uint32_t rows = 301, cols = whole_blocks(type, 320), tokens = kernels().of(type).few_tokens;
            const Sample w(type, rows, cols, random);
            const std::vector<float> x = random.vector(size_t(tokens) * cols);
            std::vector<float> together(size_t(tokens) * rows), alone = together;

            Team team(3), single(1);
            Inputs inputs;
            inputs.prepare(team, x.data(), tokens, cols, is_quantised(type), Work::many);
            multiply(team, w.matrix, inputs, together.data());

            std::vector<double> want;
            for (uint32_t t = 0; t < tokens; t++)
                for (uint32_t r = 0; r < rows; r++) {
                    double sum = 0;
                    for (uint32_t i = 0; i < cols; i++) sum += w.row(r)[i] * seen(inputs[t], type, i);
                    want.push_back(sum);
                }
            CAPTURE(format.name);
            CHECK(worst_error(together, want) < 2e-6);

            for (uint32_t t = 0; t < tokens; t++) {
                inputs.prepare(single, &x[size_t(t) * cols], 1, cols, is_quantised(type), Work::few);
                multiply(single, w.matrix, inputs, &alone[size_t(t) * rows]);
            }
            CHECK(same_bits(together, alone));
            inputs.prepare(single, x.data(), tokens, cols, is_quantised(type),
                           Work::many);    // one thread takes more rows at a time
            multiply(single, w.matrix, inputs, alone.data());
            CHECK(same_bits(together, alone));

            // As parts of which one is empty, and for many tokens, too.
            for (const uint32_t some : {1u, tokens}) {
                inputs.prepare(team, x.data(), some, cols, is_quantised(type), Work::many);
                std::vector<float> first(size_t(some) * 100), rest(size_t(some) * 201);
                multiply(team,
                         {{w.matrix.slice(0, 100), first.data()},
                          {w.matrix.slice(100, 0), nullptr},
                          {w.matrix.slice(100, 201), rest.data()}},
                         inputs);
                for (uint32_t t = 0; t < some; t++) {
                    const float* const of_token = &together[size_t(t) * rows];
                    CHECK(std::equal(of_token, of_token + 100, &first[size_t(t) * 100]));
                    CHECK(std::equal(of_token + 100, of_token + rows, &rest[size_t(t) * 201]));
                }
            }
        }
    }

    TEST_CASE("the cold feed-forward block is its formula, for every format, activation and number of tokens")
    {
        Random random(11);
        Team team(2);
        for (const WeightFormat& format : tests::all_formats()) {
            const WeightType type = format.type;
            for (const auto& [activation, floor] : tests::activations)
                for (uint32_t tokens : {1u, 6u, most_few_tokens + 1}) {    // the most are enough for tiles everywhere
                    if (type == WeightType::q2_k && tokens > most_few_tokens && floor > 0)
                        continue;    // its tiles read x as floats
                    const uint32_t neurons = 150, dim = whole_blocks(type, format.block > 1 ? 96 : 100);
                    const Block block(type, neurons, dim, activation, random, floor);
                    const std::vector<float> x = random.vector(size_t(tokens) * dim);
                    Inputs inputs;
                    inputs.prepare(team, x.data(), tokens, dim, is_quantised(type), Work::many);
                    std::vector<uint32_t> some = neurons_from(64, 86);
                    some.insert(some.end(), {20, 3, 7, 0, 19});
                    CAPTURE(format.name);
                    CAPTURE(tokens);
                    CHECK(worst_error(run(team, block, some, inputs, no_cut).y, block.apply(some, inputs)) < 1e-4);
                }
        }
    }

    TEST_CASE("a block without a gate is its formula: what decides whether a neuron fires is its strength")
    {
        Random random(13);
        Team team(2);
        for (const WeightType type : {WeightType::f16, WeightType::q8_0})
            for (uint32_t tokens : {1u, 6u})
                for (const float cut : {no_cut, 0.0f}) {
                    const uint32_t neurons = 150, dim = 96;
                    Block block(type, neurons, dim, Activation::relu, random);
                    const std::vector<float> bias = random.vector(neurons), x = random.vector(size_t(tokens) * dim);
                    block.weights.up = {};
                    block.weights.bias = {WeightType::f32, neurons, 1, reinterpret_cast<const std::byte*>(bias.data())};
                    Inputs inputs;
                    inputs.prepare(team, x.data(), tokens, dim, is_quantised(type), Work::many);
                    std::vector<uint32_t> some = neurons_from(64, 86);
                    some.insert(some.end(), {20, 3});
                    std::vector<double> want(size_t(tokens) * dim, 0.0);
                    uint64_t active = 0;
                    for (uint32_t t = 0; t < tokens; t++)
                        for (const uint32_t n : some) {
                            double g = bias[n];
                            for (uint32_t i = 0; i < dim; i++) g += block.gate.row(n)[i] * seen(inputs[t], type, i);
                            active += g > 0;
                            for (uint32_t i = 0; i < dim && g > 0; i++)
                                want[size_t(t) * dim + i] += g * block.down_t.row(n)[i];
                        }
                    const FfnResult result = run(team, block, some, inputs, cut);
                    CHECK(worst_error(result.y, want) < 3e-6);
                    CHECK(result.counts.active == active);
                }
    }

    TEST_CASE("a down projection stored by its rows is the formula, from any whole block of neurons on")
    {
        Random random(15);
        Team team(2);
        for (const WeightFormat& format : weight_formats) {
            const WeightType type = format.type;
            for (const uint32_t tokens : {1u, 6u, most_few_tokens, 40u}) {
                const uint32_t unit = std::max(format.block, 32u), neurons = 3 * unit, dim = whole_blocks(type, 96);
                Block block(type, neurons, dim, Activation::silu, random);
                const Sample down(type, dim, neurons, random);
                block.weights.down_t = {};
                block.weights.down = down.matrix;
                const std::vector<float> x = random.vector(size_t(tokens) * dim);
                Inputs inputs;
                inputs.prepare(team, x.data(), tokens, dim, is_quantised(type), Work::many);
                CAPTURE(format.name);
                CAPTURE(tokens);
                for (const uint32_t first : {0u, unit, 2 * unit}) {
                    const std::vector<uint32_t> some = neurons_from(first, neurons - first);
                    std::vector<double> want(size_t(tokens) * dim, 0.0);
                    for (uint32_t t = 0; t < tokens; t++)
                        for (const uint32_t n : some) {
                            const double h = block.strength(n, inputs[t]);
                            for (uint32_t i = 0; i < dim; i++) want[size_t(t) * dim + i] += h * down.row(i)[n];
                        }
                    const FfnResult result = run(team, block, some, inputs, no_cut);
                    CHECK(worst_error(result.y, want) < 1e-4);
                    CHECK(result.counts.bytes ==
                          2 * some.size() * row_bytes(type, dim) + dim * row_bytes(type, uint32_t(some.size())));
                }
            }
        }
    }

    TEST_CASE("a LayerNorm is its formula, and may be in place")
    {
        Random random(14);
        for (const uint32_t n : {1u, 31u, 100u, 4096u}) {
            const std::vector<float> weight = random.vector(n), bias = random.vector(n);
            std::vector<float> x = random.vector(n);
            for (float& v : x) v += 3;
            double mean = 0, variance = 0;
            for (const float v : x) mean += v / double(n);
            for (const float v : x) variance += (v - mean) * (v - mean) / double(n);
            std::vector<double> want;
            for (uint32_t i = 0; i < n; i++)
                want.push_back(weight[i] * (x[i] - mean) / std::sqrt(variance + 1e-3) + bias[i]);
            normalise({weight, bias, 1e-3f}, x.data(), x.data());
            CHECK(worst_error(x, want) < 2e-6);
        }
    }

    TEST_CASE("threads change no bit of the cold feed-forward block; skipping inactive neurons and batches of tokens "
              "change only the order of addition")
    {
        Random random(12);
        Team one(1), two(2), four(4);
        for (const WeightFormat& format : tests::all_formats()) {
            const WeightType type = format.type;
            const uint32_t neurons = 400, dim = whole_blocks(type, 640), tokens = 5;
            const Block block(type, neurons, dim, Activation::relu, random);
            const std::vector<float> x = random.vector(size_t(tokens) * dim);
            std::vector<uint32_t> some = neurons_from(101, 299);
            some.insert(some.end(), {5, 3, 100});
            Inputs inputs;
            inputs.prepare(one, x.data(), tokens, dim, is_quantised(type), Work::many);
            const std::vector<double> want = block.apply(some, inputs);
            CAPTURE(format.name);
            for (const float cut : {no_cut, 0.0f}) {
                std::vector<float> by_one[2];
                for (Team* team : {&one, &two, &four}) {
                    std::vector<float> one_by_one;
                    for (uint32_t t = 0; t < tokens; t++) {
                        Inputs token;
                        token.prepare(*team, &x[size_t(t) * dim], 1, dim, is_quantised(type), Work::few);
                        const std::vector<float> y = run(*team, block, some, token, cut).y;
                        one_by_one.insert(one_by_one.end(), y.begin(), y.end());
                    }
                    const std::vector<float> got[2] = {run(*team, block, some, inputs, cut).y, one_by_one};
                    for (const int way : {0, 1}) {
                        CHECK(worst_error(got[way], want) < 1e-4);    // h in fixed point, too
                        if (team == &one) by_one[way] = got[way];
                        CHECK(same_bits(got[way], by_one[way]));
                    }
                }
            }
        }
    }

    TEST_CASE("a long sum over neurons is cut into parts that do not depend on the threads")
    {
        Random random(22);
        Team one(1), two(2);
        const uint32_t neurons = 3000, dim = 300;    // 3.6 MB
        const Block block(WeightType::f32, neurons, dim, Activation::relu, random);
        const std::vector<float> x = random.vector(dim);
        Inputs inputs;
        inputs.prepare(one, x.data(), 1, dim, false, Work::few);
        const std::vector<uint32_t> all = neurons_from(0, neurons);
        const std::vector<double> want = block.apply(all, inputs);
        std::vector<float> y[2];
        for (const int i : {0, 1}) {
            y[i].assign(dim, NAN);
            FfnScratch own{std::vector<uint32_t>(), std::vector<float>(1 << 13, NAN), {}};
            cold_ffn(i ? two : one, block.weights, all, inputs, 0, y[i].data(), own);
            CHECK(own.sums.size() >= dim);
            CHECK(worst_error(y[i], want) < 1e-5);
        }
        CHECK(same_bits(y[0], y[1]));
    }

    TEST_CASE("the cold feed-forward block counts what was active and which bytes it read")
    {
        Random random(13);
        Team team(2);
        const uint32_t neurons = 64, dim = 32;
        const Block block(WeightType::f32, neurons, dim, Activation::relu, random);
        const std::vector<float> x = random.vector(dim);
        Inputs inputs;
        inputs.prepare(team, x.data(), 1, dim, false, Work::few);
        uint64_t active = 0;
        for (uint32_t r = 0; r < neurons; r++) {
            double g = 0;
            for (uint32_t i = 0; i < dim; i++) g += block.gate.row(r)[i] * x[i];
            active += g > 0;
        }
        const std::vector<uint32_t> all = neurons_from(0, neurons);
        const FfnCounts dense = run(team, block, all, inputs, no_cut).counts,
                        skipping = run(team, block, all, inputs, 0).counts;
        CHECK(dense.active == active);
        CHECK(skipping.active == active);
        CHECK(dense.bytes == 3 * neurons * dim * 4);
        CHECK(skipping.bytes == (neurons + 2 * active) * dim * 4);

        const Block silu(WeightType::f32, neurons, dim, Activation::silu, random);
        CHECK(same_bits(run(team, silu, all, inputs, 0).y, run(team, silu, all, inputs, no_cut).y));
        const float cut = 0.2f;
        std::vector<uint32_t> above;
        for (uint32_t r = 0; r < neurons; r++) {
            double g = 0;
            for (uint32_t i = 0; i < dim; i++) g += silu.gate.row(r)[i] * x[i];
            if (std::abs(g / (1 + std::exp(-g))) > cut) above.push_back(r);
        }
        REQUIRE(above.size() > 5);
        REQUIRE(above.size() < neurons - 5);
        CHECK(same_bits(run(team, silu, all, inputs, cut).y, run(team, silu, above, inputs, no_cut).y));
        CHECK(run(team, silu, all, inputs, cut).counts.bytes == (neurons + 2 * above.size()) * dim * 4);
    }

    TEST_CASE("a router's weights are the softmax over the experts of the highest scores, or their part of the softmax "
              "over all")
    {
        Team team(2);
        Random random(21);
        const uint32_t experts = 11, dim = 40, tokens = 5;
        std::vector<float> rows = random.vector(size_t(experts) * dim);
        std::copy_n(&rows[2 * dim], dim, &rows[7 * dim]);    // experts 2 and 7 have the same score: 2 goes first
        const std::vector<float> x = random.vector(size_t(tokens) * dim);
        Inputs inputs;
        inputs.prepare(team, x.data(), tokens, dim, false, Work::many);
        for (const uint32_t used : {1u, 3u, experts})
            for (const bool normalise : {false, true}) {
                const Router router = {
                    {WeightType::f32, experts, dim, reinterpret_cast<const std::byte*>(rows.data())}, used, normalise};
                std::vector<float> got(size_t(tokens) * experts, NAN);
                route(team, router, inputs, got.data());
                for (uint32_t t = 0; t < tokens; t++) {
                    std::vector<double> score(experts), want(experts);
                    for (uint32_t e = 0; e < experts; e++)
                        for (uint32_t i = 0; i < dim; i++)
                            score[e] += double(rows[size_t(e) * dim + i]) * x[size_t(t) * dim + i];
                    score[7] = score[2];
                    double chosen = 0, all = 0;
                    for (uint32_t e = 0; e < experts; e++) {
                        uint32_t before = 0;
                        for (uint32_t o = 0; o < experts; o++)
                            before += score[o] > score[e] || (score[o] == score[e] && o < e);
                        want[e] = before < used ? std::exp(score[e]) : 0;
                        chosen += want[e];
                        all += std::exp(score[e]);
                    }
                    for (double& w : want) w /= normalise ? chosen : all;
                    const std::span of_token = std::span(got).subspan(size_t(t) * experts, experts);
                    CHECK(worst_error(of_token, want) < 1e-5);
                    for (uint32_t e = 0; e < experts; e++) CHECK((of_token[e] != 0) == (want[e] != 0));
                }
            }
    }

    TEST_CASE("experts add their shares with their weights, of one token or of many, and only the gates of chosen ones "
              "are looked at")
    {
        Random random(22);
        Team team(3);
        for (const WeightType type : {WeightType::f32, WeightType::f16, WeightType::q8_0, WeightType::q4_k})
            for (const uint32_t tokens : {1u, 5u, 40u}) {    // 40: some experts have enough tokens for tiles
                const uint32_t experts = 6, together = 32, dim = whole_blocks(type, 96);
                const Block block(type, experts * together, dim, Activation::silu, random);
                std::vector<float> x = random.vector(size_t(tokens) * dim);
                for (float& v : x) v /= 64;    // silu of -104 is 0, which does not count as active
                std::vector<float> weights(size_t(tokens) * experts);
                for (uint32_t t = 0; t < tokens; t++)
                    for (const uint32_t e : {t % experts, (t * t + 1) % experts, 4u})
                        weights[size_t(t) * experts + e] = 0.25f + 0.125f * float(e);
                std::vector<uint32_t> neurons;    // not all, and in no order
                for (const uint32_t e : {4u, 0u, 1u, 5u})
                    for (uint32_t i = 0; i < together - (e == 1 ? 9 : 0); i++)
                        if (tokens > 1 || weights[e] != 0) neurons.push_back(e * together + i);
                Inputs inputs;
                inputs.prepare(team, x.data(), tokens, dim, is_quantised(type), Work::many);
                std::vector<double> want(size_t(tokens) * dim);
                uint64_t looked_at = 0;
                for (const uint32_t n : neurons) {
                    const std::vector<double> share = block.apply(std::span(&n, 1), inputs);
                    for (uint32_t t = 0; t < tokens; t++) {
                        const double weight = weights[size_t(t) * experts + n / together];
                        looked_at += weight != 0;
                        for (uint32_t i = 0; i < dim; i++)
                            want[size_t(t) * dim + i] += weight * share[size_t(t) * dim + i];
                    }
                }
                std::vector<float> y(want.size(), NAN);
                ExpertScratch scratch;
                const FfnCounts counts =
                    cold_experts(team, block.weights, experts, neurons, weights.data(), x.data(), tokens,
                                 tokens == 1 ? Work::few : Work::many, no_cut, y.data(), scratch);
                CAPTURE(tokens);
                CHECK(worst_error(y, want) < 1e-4);
                CHECK(counts.gates == looked_at);
                CHECK(counts.active == looked_at);
                if (tokens == 1) CHECK(counts.bytes == 3 * neurons.size() * row_bytes(type, dim));
            }
    }

    TEST_CASE("no neurons make zeros")
    {
        Random random(14);
        Team team(2);
        const Block block(WeightType::q8_0, 8, 64, Activation::relu, random);
        for (uint32_t tokens : {1u, 3u}) {
            const std::vector<float> x = random.vector(size_t(tokens) * 64);
            Inputs inputs;
            inputs.prepare(team, x.data(), tokens, 64, true, Work::many);
            const FfnResult result = run(team, block, {}, inputs, 0);
            CHECK(result.y == std::vector<float>(x.size(), 0.0f));
            CHECK(result.counts.active == 0);
            CHECK(result.counts.bytes == 0);
        }
    }

    TEST_CASE("any split of the neurons adds up to the whole block")
    {
        Random random(15);
        Team team(2);
        const uint32_t neurons = 96, dim = 64;
        const Block block(WeightType::q4_0, neurons, dim, Activation::relu, random);
        const std::vector<float> x = random.vector(dim);
        Inputs inputs;
        inputs.prepare(team, x.data(), 1, dim, true, Work::few);
        const std::vector<uint32_t> all = neurons_from(0, neurons);
        const std::vector<float> whole = run(team, block, all, inputs, 0).y;
        for (uint32_t cut : {1u, 16u, 50u, 95u}) {
            const std::vector<uint32_t> left = neurons_from(0, cut), right = neurons_from(cut, neurons - cut);
            std::vector<float> sum = run(team, block, left, inputs, 0).y;
            const std::vector<float> rest = run(team, block, right, inputs, 0).y;
            for (uint32_t i = 0; i < dim; i++) sum[i] += rest[i];
            CHECK(worst_error(sum, whole) < 1e-6);
        }
    }

    TEST_CASE("rope turns pairs by position times frequency and leaves the rest of a head alone")
    {
        Random random(16);
        for (const PairOrder pairs : {PairOrder::neighbours, PairOrder::halves})
            for (uint32_t position : {0u, 1u, 4095u})
                for (uint32_t rope_dim : {0u, 2u, 20u, 48u}) {
                    std::vector<float> x = random.vector(3 * 48);
                    const std::vector<double> want =
                        rotated({x.begin(), x.end()}, 48, {rope_dim, 10000, pairs}, position);
                    rotate({rope_frequencies(rope_dim, 10000), pairs}, x.data(), 3, 48, position);
                    CAPTURE(position);
                    CAPTURE(rope_dim);
                    CHECK(worst_error(x, want) < 3e-7);
                }
    }

    TEST_CASE("attention is its formula, with heads that share keys, odd head sizes, biases and norms of heads, "
              "windows and capped scores")
    {
        Random random(17);
        Team team(2);
        for (const Heads& shape :
             {Heads{4, 4, 64, 40, {64, 10000}},
              {6, 2, 80, 40, {20, 500000}},
              {3, 1, 33, 33, {32, 10000}},
              {6, 2, 80, 40, {80, 500000, PairOrder::halves}, true},
              {6, 2, 33, 40, {20, 10000, PairOrder::halves}, false, true},
              {2, 2, 64, 40, {64, 10000}, true, true},
              {8, 1, 64, 40, {64, 10000}, false, false, {WeightType::q8_0, WeightType::q8_0}},
              {3, 3, 96, 40, {64, 10000}, false, false, {WeightType::f16, WeightType::q8_0}},
              {4, 2, 32, 40, {32, 10000}, true, true, {WeightType::q8_0, WeightType::f16}},
              {.heads = 4, .kv_heads = 2, .head_dim = 64, .context = 40, .rope = {64, 10000}, .window = 7},
              {.heads = 2,
              .kv_heads = 1,
              .head_dim = 256,
              .context = 33,
              .rope = {256, 10000},
              .softcap = 0.5f,
              .window = 1},
              {.heads = 2,
              .kv_heads = 2,
              .head_dim = 64,
              .context = 40,
              .rope = {64, 10000},
              .softcap = 3,
              .window = 32}}) {
            const bool quantised = is_quantised(shape.kv.k) || is_quantised(shape.kv.v);
            const Conversation talk(shape, 33, random);
            CAPTURE(shape.head_dim);
            const std::vector<double> meaning = talk.meaning();
            const double error = worst_error(talk.run(team, talk.tokens), meaning);
            CHECK(error < (quantised ? 2e-2 : 2e-3));    // keys and values of 8 or of 11 bits
            if (quantised) CHECK(error > 1e-3);
        }
    }

    TEST_CASE("attention over several spans of positions is its formula")
    {
        Random random(20);
        Team team(2);
        for (const Heads& shape : {Heads{2, 1, 32, 2 * page_positions + 9, {32, 10000}},
                                   {6, 3, 33, 2 * page_positions, {32, 10000}},
                                   {.heads = 4,
                                   .kv_heads = 2,
                                   .head_dim = 32,
                                   .context = 3 * page_positions + 9,
                                   .rope = {32, 10000},
                                   .window = 300}}) {
            const Conversation talk(shape, shape.context, random);
            const std::vector<double> meaning = talk.meaning();
            for (const uint32_t batch : {1u, 100u}) CHECK(worst_error(talk.run(team, batch), meaning) < 2e-3);
        }
    }

    TEST_CASE("threads and batches of tokens change no bit of attention")
    {
        Random random(18);
        constexpr uint32_t tokens = 2 * page_positions + 40;
        for (const KvTypes kv : {KvTypes{}, {WeightType::q8_0, WeightType::q8_0}}) {
            const Conversation talk({8, 2, 64, tokens + 10, {64, 10000, PairOrder::halves}, true, true, kv}, tokens,
                                    random);
            Team one(1), three(3);
            const std::vector<float> y = talk.run(one, 1);
            for (Team* team : {&one, &three})
                for (uint32_t batch : {1u, 7u, 90u, tokens}) CHECK(same_bits(talk.run(*team, batch), y));
        }
    }
}
