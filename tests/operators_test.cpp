// Every kernel of the device against its formula in double, at odd sizes, with and without the optional features.
#include "engine/device/kernels.h"
#include "engine/run/sampler.h"
#include "host/attention.h"
#include "host/sparse.h"
#include "host/numbers.h"
#include "tests/device_support.h"

#include <bit>

using namespace hearth;
using namespace hearth::tests;

namespace {

/// What the kernels are specialised for.
Config shape(host::Activation activation = host::Activation::relu, uint32_t head_dim = 64, uint32_t heads = 1,
             uint32_t kv_heads = 1)
{
    Config c;
    c.dim = 600;
    c.heads = heads;
    c.kv_heads = kv_heads;
    c.head_dim = head_dim;
    c.activation = activation;
    return c;
}

/// A weight as kernels in halves have it.
double half(double w)
{
    int exponent;
    std::frexp(w, &exponent);
    const int unit = std::max(exponent - 11, -24);
    return std::ldexp(std::nearbyint(std::ldexp(w, -unit)), unit);
}

struct TestMatrix {
    uint32_t rows, cols;
    std::vector<double> w;    // as stored, decoded
    std::unique_ptr<Shared<uint8_t>> device;
    uint32_t stride;

    /// Of a sparse type: with no zeros in the first row, only zeros in the second, and more and more zeros from row to
    /// row in the others.
    TestMatrix(const std::shared_ptr<vulkan::Device>& d, WeightType type, uint32_t rows_, uint32_t cols_, uint64_t seed)
        : rows(rows_), cols(cols_)
    {
        std::vector<float> x = random_floats(size_t(rows) * cols, seed);
        for (uint32_t r = 1; r < rows && is_sparse(type); ++r)
            for (uint32_t c = 0; c < cols; ++c)
                if (r == 1 || (c * 2654435761u >> 8) % rows < r) x[size_t(r) * cols + c] = 0;
        const std::string dense = encode_rows(values_of(type), x, cols);
        Matrix m = {values_of(type), rows, cols, reinterpret_cast<const std::byte*>(dense.data())};
        RowLayout layout = {type, is_sparse(type) ? 0 : row_quads(type, cols)};
        std::vector<std::byte> sparse;
        std::vector<uint32_t> starts = {0};
        if (is_sparse(type)) {
            for (uint32_t r = 0; r < rows; ++r) {
                host::compress_row(m.type, m.row(r), cols, sparse);
                starts.push_back(uint32_t(sparse.size() / sparse_row_unit));
                layout.stride = std::max(layout.stride, 8 + 32 * (starts[r + 1] - starts[r]));
            }
            sparse.resize(sparse.size() + sparse_slack);
            m = {type, rows, cols, sparse.data(), 0, starts.data()};
        }
        stride = layout.stride;
        device = std::make_unique<Shared<uint8_t>>(d, layout.bytes(rows));
        std::vector<uint64_t> numbers(rows);
        std::iota(numbers.begin(), numbers.end(), 0);
        for (uint32_t first = 0; first < rows; first += layout.unit())
            lay_out_unit(m, layout, std::span(numbers).subspan(first, std::min(layout.unit(), rows - first)),
                         reinterpret_cast<std::byte*>(device->begin()) + layout.bytes(first));
        std::vector<float> row(cols);
        for (uint32_t r = 0; r < rows; ++r) {
            host::kernels(host::Isa::plain)->of(type).decode(m.row(r), row.data(), cols);
            w.insert(w.end(), row.begin(), row.end());
        }
    }
    double at(uint32_t r, uint32_t c) const { return w[size_t(r) * cols + c]; }
    /// Its weights as kernels have them that read them as halves.
    const std::vector<double>& halves() const
    {
        if (halves_.empty()) std::ranges::transform(w, std::back_inserter(halves_), half);
        return halves_;
    }
    std::vector<double> times(std::span<const float> x) const
    {
        std::vector<double> y(rows);
        for (uint32_t r = 0; r < rows; ++r)
            for (uint32_t c = 0; c < cols; ++c) y[r] += at(r, c) * x[c];
        return y;
    }

  private:
    mutable std::vector<double> halves_;
};

std::vector<uint32_t> odd_sizes(WeightType type)
{
    const uint32_t block = format_of(type).block;
    if (block == 1) return {1, 31, 33, 257, 1024};
    return block == 32 ? std::vector<uint32_t>{32, 96, 288, 1024} : std::vector<uint32_t>{block, 3 * block, 9 * block};
}

/// x on the device, with the two integer planes that kernels of quantised rows may want.
struct TestInput {
    Shared<float> x;
    Shared<uint32_t> high, low;
    Shared<float> scale;
    TestInput(const std::shared_ptr<vulkan::Device>& d, const std::vector<float>& values)
        : x(d, values), high(d, values.size() / 4 + 1), low(d, values.size() / 4 + 1),
          scale(d, values.size() / 32 * 4 + 1)
    {
        const uint32_t n = uint32_t(values.size());
        const vulkan::Kernel<gpu::Quantise> quantise(d, "quantise");
        if (n % 32 == 0) run(d, quantise, {(n / 32 + 63) / 64}, {.x = x.address(), .planes = planes(), .n = n});
    }
    gpu::Planes planes() const { return {high.address(), low.address(), scale.address()}; }
};

template <class F>
void for_each_feature_set(F&& f)
{
    for (const vulkan::Features& features : feature_sets) {
        CAPTURE(features.fp16);
        CAPTURE(features.int_dot);
        f(test_device(features));
    }
    check_silence();
}

/// w times so many vectors of numbers up to `size`, and then the same added once more, as the head's tokens.
void check_product(GpuKernels& kernels, const std::shared_ptr<vulkan::Device>& device, Product product,
                   const TestMatrix& w, const WeightFormat& format, bool transposed, uint32_t tokens, float size)
{
    INFO(std::string(format.name) << (transposed ? ", transposed, in " : ", in ") << std::string(product_name(product))
                                  << ", " << w.rows << " x " << w.cols << ", " << tokens << " tokens of " << size);
    const uint32_t inner = transposed ? w.rows : w.cols, outer = transposed ? w.cols : w.rows;
    const uint32_t x_stride = product == Product::integers ? inner + 32 : inner + (transposed ? 4 : 5),
                   y_stride = outer + 3, padded = tokens * x_stride / 32 * 32;
    std::vector<float> x = random_floats(size_t(tokens) * x_stride, 9);
    for (float& v : x) v *= size;
    const bool in_halves = product == Product::halves || product == Product::matrices;
    std::vector<double> want;
    for (uint32_t t = 0; t < tokens; ++t)
        for (uint32_t o = 0; o < outer; ++o) {
            double sum = 0;
            for (uint32_t i = 0; i < inner; ++i) {
                const uint32_t r = transposed ? i : o, c = transposed ? o : i;
                sum += (in_halves ? w.halves()[size_t(r) * w.cols + c] : w.at(r, c)) * x[size_t(t) * x_stride + i];
            }
            want.push_back(sum);
        }
    Shared<float> dx(device, x), y(device, std::vector<float>(size_t(tokens) * y_stride, 12345.0f)),
        scale(device, std::max(padded / 8, tokens));
    const uint32_t words = tokens * ceil_div(x_stride, 32) * 16;    // of planes of halves
    Shared<uint32_t> high(device, std::max(words, padded / 4)), low(device, std::max(words, padded / 4));
    if (product == Product::matrices)
        run(device, kernels.halve, {tokens},
            {.x = dx.address(), .planes = {high.address(), low.address(), scale.address()}, .width = x_stride});
    if (product == Product::integers)
        run(device, kernels.quantise, {1},
            {.x = dx.address(), .planes = {high.address(), low.address(), scale.address()}, .n = padded});
    for (const uint32_t again : {0u, 1u}) {
        TestStep step(device, tokens, 0, 1, tokens);
        (again ? (*step).tokens : (*step).head_tokens) = 0;
        const auto [kernel, groups] = kernels.matmul(format.type, transposed, product, outer, tokens);
        run(device, kernel, groups,
            {.step = step.address(),
             .weight = w.device->address(),
             .x = dx.address(),
             .planes = {high.address(), low.address(), scale.address()},
             .y = y.address(),
             .rows = outer,
             .inner = inner,
             .stride = w.stride,
             .x_stride = x_stride,
             .y_stride = y_stride,
             .head = again,
             .add = again});
        std::vector<float> got;
        bool behind = false;    // the end of a token
        for (uint32_t t = 0; t < tokens; ++t)
            for (uint32_t o = 0; o < y_stride; ++o) {
                const float v = y[size_t(t) * y_stride + o];
                if (o < outer) got.push_back(v / float(again + 1));
                else behind = behind || v != 12345;
            }
        CHECK(worst_error(got, want) < (product == Product::integers ? 2e-4 : 1e-5));
        CHECK(!behind);
    }
}

/// Kernels that have tables of formats in registers, and that have them in shared memory.
struct BothTables {
    GpuKernels kernels[2];

    BothTables(const std::shared_ptr<vulkan::Device>& device, const Config& config)
        : kernels{{device, config}, {device, config}}
    {
        for (const bool shares : {false, true}) kernels[shares].shares_tables = shares;
    }
};
/// Every format; those with a table in both ways.
std::vector<std::pair<WeightFormat, bool>> formats_and_tables()
{
    std::vector<std::pair<WeightFormat, bool>> all;
    for (const WeightFormat& format : all_formats()) {
        all.emplace_back(format, false);
        if (format.constant >> FORMAT_TABLE & 1) all.emplace_back(format, true);
    }
    return all;
}

}    // namespace

TEST_SUITE("device")
{
    TEST_CASE("quantise keeps x to one part in 32512 of each block's largest")
    {
        const auto device = test_device();
        const std::vector<float> x = random_floats(32 * 67, 5);
        TestInput input(device, x);
        std::vector<float> back;
        for (size_t i = 0; i < x.size(); ++i) {
            const int high = int8_t(input.high[i / 4] >> 8 * (i % 4)), low = int8_t(input.low[i / 4] >> 8 * (i % 4));
            back.push_back(input.scale[i / 32 * 4] * float(256 * high + low));
        }
        for (size_t i = 0; i < x.size(); i += 16) {
            const double sum = std::accumulate(&back[i], &back[i] + 16, 0.0);
            CHECK(input.scale[i / 32 * 4 + 1 + i / 16 % 2] == doctest::Approx(sum).epsilon(1e-4));
        }
        for (size_t b = 0; b < x.size(); b += 32)
            CHECK(worst_error(std::span(back).subspan(b, 32), std::span(x).subspan(b, 32)) < 0.6 / 32512);
        check_silence();
    }

    TEST_CASE("matvec is the product of every weight type at odd sizes")
    {
        for_each_feature_set([](const auto& device) {
            TestStep one(device, 1, 0, 1, 1);
            BothTables both(device, shape());
            for (const auto& [format, shares_table] : formats_and_tables())
                for (const uint32_t cols : odd_sizes(format.type))
                    for (const uint32_t rows : {1u, 31u, 257u}) {
                        GpuKernels& kernels = both.kernels[shares_table];
                        TestMatrix w(device, format.type, rows, cols, rows + cols);
                        const std::vector<float> x = random_floats(cols, 7);
                        TestInput input(device, x);
                        Shared<float> y(device, rows);
                        const RowVariant variant = usual_variant(*device, format.type);
                        run(device, kernels.matvec(format.type, variant), row_groups(rows, variant),
                            {.step = one.address(),
                             .weight = w.device->address(),
                             .x = input.x.address(),
                             .planes = input.planes(),
                             .y = y.address(),
                             .rows = rows,
                             .cols = cols,
                             .stride = w.stride});
                        INFO(format.name << " " << rows << " x " << cols);
                        // One row of one weight has no largest to compare with but itself.
                        CHECK(worst_error(y.values(), w.times(x)) <
                              (variant.int_dot ? 2e-4 : 2e-6 * std::sqrt(cols) + 1e-6));
                    }
        });
    }

    TEST_CASE("every variant that the device offers of the kernels that go over rows gives the product at odd sizes, "
              "and no row is left out or "
              "written twice")
    {
        const auto device = test_device();
        TestStep one(device, 1, 0, 1, 1);
        const host::Activation activation = host::Activation::relu;
        GpuKernels kernels(device, shape(activation));
        uint32_t first = 0;
        for (const WeightType type :
             {WeightType::f32, WeightType::f16, WeightType::q8_0, WeightType::q4_0, WeightType::q6_k}) {
            const std::vector<RowVariant> variants = row_variants(*device, type);
            CHECK(std::ranges::count(variants, usual_variant(*device, type)) == 1);
            CHECK(variants.size() >= (is_quantised(type) ? 12u : 6u));
            uint32_t turn = first++;
            for (const RowVariant& variant : variants) {
                // Compiling them takes long: each with some of the formats, unless all are asked for.
                if (!thorough && turn++ % 2) continue;
                for (const uint32_t cols : odd_sizes(type))
                    for (const uint32_t rows : {1u, 31u, 257u}) {
                        if (cols > 300 && rows < 257) continue;
                        TestMatrix gate(device, type, rows, cols, rows + cols), up(device, type, rows, cols, rows);
                        const std::vector<float> x = random_floats(cols, 7);
                        TestInput input(device, x);
                        Shared<float> y(device, std::vector<float>(rows + 1, 12345.0f)),
                            h(device, std::vector<float>(rows + 1, 12345.0f));
                        run(device, kernels.matvec(type, variant), row_groups(rows, variant),
                            {.step = one.address(),
                             .weight = gate.device->address(),
                             .x = input.x.address(),
                             .planes = input.planes(),
                             .y = y.address(),
                             .rows = rows,
                             .cols = cols,
                             .stride = gate.stride});
                        CAPTURE(format_of(type).name);
                        CAPTURE(variant.name());
                        CAPTURE(rows);
                        CAPTURE(cols);
                        const std::vector<double> g = gate.times(x), u = up.times(x);
                        CHECK(worst_error(y.values(0, rows), g) <
                              (variant.int_dot ? 2e-4 : 2e-6 * std::sqrt(cols) + 1e-6));
                        CHECK(y[rows] == 12345);
                        for (const float cut : {host::no_cut, 0.0f}) {
                            run(device, kernels.ffn_up(type, type, variant), row_groups(rows, variant),
                                {.step = one.address(),
                                 .gate = gate.device->address(),
                                 .up = up.device->address(),
                                 .x = input.x.address(),
                                 .planes = input.planes(),
                                 .h = h.address(),
                                 .neurons = rows,
                                 .cols = cols,
                                 .gate_stride = gate.stride,
                                 .up_stride = up.stride,
                                 .cut = cut,
                                 .has_up = 1});
                            std::vector<double> want(rows);
                            for (uint32_t r = 0; r < rows; ++r) want[r] = glu(activation, 0, g[r], u[r]);
                            CHECK(worst_error(h.values(0, rows), want) < (variant.int_dot ? 1e-3 : 2e-5));
                            CHECK(h[rows] == 12345);
                        }
                    }
            }
        }
        check_silence();
    }

    TEST_CASE("a product with many tokens is right in every way that the device offers, along rows and along columns")
    {
        // Each way on a device that has no more than it needs; a software device's compiler takes a second for a
        // kernel, for some ten.
        for (const auto& [product, features] : {std::pair(Product::floats, vulkan::Features{.int64 = true}),
                                                {Product::halves, {.fp16 = true}},
                                                {Product::integers, {.int_dot = true}},
                                                {Product::matrices, {.matrices = true}}}) {
            const auto device = test_device(features);
            if (features.matrices)    // else they were found wrong when it was opened
                CHECK(device->features().matrices == device->info().features.matrices);
            BothTables both(device, shape());
            for (const auto& [format, shares_table] : formats_and_tables())
                for (const bool transposed : {false, true}) {
                    GpuKernels& kernels = both.kernels[shares_table];
                    if (!offers(*device, product, format.type, {.transposed = transposed})) continue;
                    const bool some = format.type == WeightType::f16 || format.type == WeightType::q4_k;
                    if (!thorough && !some && product == Product::matrices) continue;
                    if (!thorough && shares_table && (transposed || format.type != WeightType::mxfp4)) continue;
                    for (const uint32_t cols : odd_sizes(format.type)) {
                        if (cols >= 900) continue;
                        const TestMatrix w(device, format.type, 67, cols, cols);
                        for (const auto& [tokens, size] : {std::pair(1u, 1.0f), {3u, 1e-4f}, {33u, 1e4f}, {67u, 1.0f}})
                            if (cols < 500 || tokens == 33)
                                check_product(kernels, device, product, w, format, transposed, tokens, size);
                    }
                }
        }
        check_silence();
    }

    TEST_CASE("a product with many tokens is right in tiles that are as narrow as half a chunk of weights")
    {
        const auto device = test_device({.int64 = true});
        GpuKernels kernels(device, shape());
        kernels.flat_tiles = true;
        for (const WeightFormat& format : all_formats())
            for (const bool transposed : {false, true}) {
                using enum WeightType;
                const bool some = std::ranges::count(std::array{f16, q8_0, q4_0, q2_k, q6_k}, format.type) > 0;
                if (!thorough && (!some || (transposed && format.type != q2_k))) continue;
                for (const uint32_t cols : odd_sizes(format.type)) {
                    if (cols >= 900) continue;
                    const TestMatrix w(device, format.type, 131, cols, cols);
                    check_product(kernels, device, Product::floats, w, format, transposed, 67, 1);
                }
            }
        check_silence();
    }

    TEST_CASE("join adds parts and the host's share, normalises, and publishes what was asked for")
    {
        const auto device = test_device();
        GpuKernels kernels(device, shape());
        for (const uint32_t n : {1u, 31u, 33u, 257u, 4096u})
            for (const uint32_t publish : {gpu::publish_nothing, gpu::publish_norm, gpu::publish_residual})
                for (const bool cold : {false, true})
                    for (const auto& [head, form] : {std::pair(false, gpu::join_rms),
                                                     {true, gpu::join_rms},
                                                     {false, gpu::join_layer_norm},
                                                     {true, gpu::join_layer_norm},
                                                     {false, gpu::join_post_norm},
                                                     {true, gpu::join_post_norm}}) {
                        const uint32_t tokens = 5, parts = 3, wanted = 2;
                        const bool affine = form == gpu::join_layer_norm;
                        const float gain = cold ? 0.5f : 1.0f;
                        Shared<float> base(device, random_floats(tokens * n, 1)),
                            part(device, random_floats(parts * tokens * n, 2)),
                            host(device, random_floats(tokens * n, 3)), weight(device, random_floats(3 * n, 4)),
                            residual(device, tokens * n), y(device, tokens * n), published(device, tokens * n);
                        TestStep step(device, tokens, 0, 1, wanted);
                        run(device, kernels.join, {tokens + 1},
                            {.step = step.address(),
                             .base = base.address(),
                             .parts = part.address(),
                             .cold = host.address(),
                             .weight = weight.address(),
                             .residual = residual.address(),
                             .y = y.address(),
                             .published = published.address(),
                             .n = n,
                             .part_count = parts,
                             .part_stride = tokens * n,
                             .has_cold = cold,
                             .publish = publish,
                             .head = head,
                             .form = form,
                             .eps = 1e-5f,
                             .gain = gain});
                        const uint32_t first = head ? tokens - wanted : 0, count = head ? wanted : tokens;
                        std::vector<double> r, norm;
                        for (uint32_t t = first; t < first + count; ++t) {
                            double squares = 0, mean = 0, squares_added = 0;
                            std::vector<double> added(n);
                            for (uint32_t i = 0; i < n; ++i) {
                                if (cold) added[i] = host[t * n + i];
                                for (uint32_t p = 0; p < parts; ++p) added[i] += part[(p * tokens + t) * n + i];
                                squares_added += added[i] * added[i];
                            }
                            for (uint32_t i = 0; i < n; ++i) {
                                const double post = form == gpu::join_post_norm
                                                        ? weight[n + i] / std::sqrt(squares_added / n + 1e-5)
                                                        : 1;
                                const double sum =
                                    (affine ? double(weight[2 * n + i]) : 0) + base[t * n + i] + gain * post * added[i];
                                r.push_back(sum);
                                if (affine) mean += sum / n;
                            }
                            const std::span row(r.end() - n, r.end());
                            for (const double v : row) squares += (v - mean) * (v - mean);
                            for (uint32_t i = 0; i < n; ++i)
                                norm.push_back(weight[i] * (row[i] - mean) / std::sqrt(squares / n + 1e-5) +
                                               (affine ? double(weight[n + i]) : 0));
                        }
                        CAPTURE(n);
                        CHECK(worst_error(residual.values(first * n, count * n), r) < 1e-6);
                        CHECK(worst_error(y.values(0, count * n), norm) < 1e-5);
                        if (publish == gpu::publish_norm && !head)
                            CHECK(worst_error(published.values(0, count * n), norm) < 1e-5);
                        if (publish == gpu::publish_residual)
                            CHECK(worst_error(published.values(first * n, count * n), r) < 1e-6);
                        if (publish == gpu::publish_nothing)
                            CHECK(published.values() == std::vector<float>(tokens * n));
                    }
        check_silence();
    }

    TEST_CASE("the planes that join and attention write are those that quantise makes of their results")
    {
        const auto device = test_device();
        const auto same_planes = [&](const Shared<float>& y, uint32_t n, Shared<uint32_t>& high, Shared<uint32_t>& low,
                                     Shared<float>& scale) {
            Shared<uint32_t> want_high(device, n / 4), want_low(device, n / 4);
            Shared<float> want_scale(device, n / 8);
            run(device, vulkan::Kernel<gpu::Quantise>(device, "quantise"), {(n / 32 + 63) / 64},
                {.x = y.address(), .planes = {want_high.address(), want_low.address(), want_scale.address()}, .n = n});
            CHECK(high.values() == want_high.values());
            CHECK(low.values() == want_low.values());
            CHECK(scale.values() == want_scale.values());
        };
        for (const uint32_t n : {32u, 96u, 4096u}) {
            CAPTURE(n);
            GpuKernels kernels(device, shape());
            std::vector<float> values = random_floats(n, 1);
            std::fill_n(values.begin(), 32, 0.0f);    // a block without a largest
            Shared<float> base(device, values), weight(device, random_floats(n, 2)), residual(device, n), y(device, n),
                scale(device, n / 8);
            Shared<uint32_t> high(device, n / 4), low(device, n / 4);
            TestStep step(device, 1);
            run(device, kernels.join, {1},
                {.step = step.address(),
                 .base = base.address(),
                 .weight = weight.address(),
                 .residual = residual.address(),
                 .y = y.address(),
                 .planes = {high.address(), low.address(), scale.address()},
                 .n = n,
                 .writes_planes = 1,
                 .eps = 1e-5f,
                 .gain = 1});
            same_planes(y, n, high, low, scale);
        }
        for (const uint32_t head_dim : {32u, 64u, 128u, 256u})
            for (const uint32_t splits : {1u, 3u}) {
                CAPTURE(head_dim);
                constexpr uint32_t heads = 4, kv_heads = 2, positions = 300;
                const uint32_t n = heads * head_dim, pages = ceil_div(positions, host::page_positions),
                               cells = pages * host::page_positions * kv_heads * head_dim;
                GpuKernels kernels(device, shape(host::Activation::relu, head_dim));
                std::vector<uint16_t> cache(cells);
                host::kernels().to_f16(random_floats(cells, 1).data(), cache.data(), cells);
                std::vector<uint32_t> words(cells / 2);
                std::memcpy(words.data(), cache.data(), cells * sizeof(uint16_t));
                Shared<float> q(device, random_floats(n, 2)), y(device, n), scale(device, n / 8),
                    parts(device, heads * splits * (head_dim + 2));
                Shared<uint32_t> keys(device, words), high(device, n / 4), low(device, n / 4),
                    counters(device, std::vector<uint32_t>(kv_heads));
                TestStep step(device, 1, positions - 1);
                run(device, kernels.attend({.heads = 2, .head_dim = head_dim}, {}), {kv_heads, 1, splits},
                    {.step = step.address(),
                     .q = q.address(),
                     .k_cache = keys.address(),
                     .v_cache = keys.address(),
                     .y = y.address(),
                     .parts = parts.address(),
                     .counters = counters.address(),
                     .planes = {high.address(), low.address(), scale.address()},
                     .heads = heads,
                     .kv_heads = kv_heads,
                     .pages = pages,
                     .writes_planes = 1,
                     .splits = splits,
                     .scale = 0.1f});
                same_planes(y, n, high, low, scale);
            }
        check_silence();
    }

    TEST_CASE("rope and attention are the host's, for grouped heads, odd widths, partly rotated heads, either pair "
              "order, biases and norms of heads, "
              "windows and capped scores")
    {
        const auto device = test_device();
        struct Case {
            uint32_t heads, kv_heads, head_dim, rope_dim, earlier, tokens;
            host::PairOrder pairs = host::PairOrder::neighbours;
            bool biases = false, norms = false;
            host::KvTypes kv = {};
            uint32_t window = 0;
            float softcap = 0;
        };
        constexpr auto q8 = WeightType::q8_0;
        constexpr auto halves = host::PairOrder::halves;
        for (const Case& c : {Case{1, 1, 2, 2, 0, 1},
                              Case{4, 2, 64, 64, 0, 5},
                              Case{6, 2, 48, 32, 130, 3},
                              Case{4, 1, 128, 128, 257, 1},
                              Case{2, 2, 256, 256, 31, 33},
                              Case{3, 3, 34, 34, 127, 2},
                              Case{4, 2, 64, 64, 3, 5, halves, true},
                              Case{6, 2, 34, 34, 30, 3, halves, false, true},
                              Case{2, 1, 256, 256, 31, 2, halves, true, true},
                              Case{3, 3, 2, 2, 4, 2, halves, true, true},
                              Case{4, 1, 96, 70, 7, 9, halves},
                              Case{4, 2, 128, 64, 7, 9, host::PairOrder::neighbours, true, true},
                              Case{8, 2, 64, 64, 700, 1},
                              Case{3, 3, 72, 72, 0, 40},
                              Case{8, 2, 128, 128, 190, 20},
                              Case{5, 1, 160, 160, 60, 9},
                              Case{14, 2, 32, 32, 300, 40},
                              Case{1, 1, 32, 32, 0, 1, halves, false, false, {q8, q8}},
                              Case{8, 2, 64, 64, 301, 1, halves, true, true, {q8, q8}},
                              Case{6, 2, 96, 96, 130, 37, halves, false, false, {q8, q8}},
                              Case{4, 1, 128, 64, 140, 1, halves, false, false, {q8, WeightType::f16}},
                              Case{3, 1, 256, 256, 31, 5, halves, false, false, {WeightType::f16, q8}},
                              Case{20, 1, 160, 160, 200, 1, halves, false, false, {q8, q8}},
                              Case{4, 2, 64, 64, 140, 5, halves, false, false, {}, 129},
                              Case{2, 1, 256, 256, 300, 3, halves, false, false, {}, 257, 2},
                              Case{4, 2, 48, 48, 0, 9, halves, false, false, {}, 4, 0.5f},
                              Case{4, 2, 64, 64, 700, 1, halves, false, false, {}, 300},
                              Case{2, 2, 64, 64, 9, 3, halves, false, false, {}, 1}}) {
            const uint32_t context = c.earlier + c.tokens, q_width = c.heads * c.head_dim,
                           kv_width = c.kv_heads * c.head_dim, pages = ceil_div(context, host::page_positions),
                           cells = kv_width * pages * host::page_positions;
            const Config config = shape(host::Activation::relu, c.head_dim, c.heads, c.kv_heads);
            GpuKernels kernels(device, config);
            host::Team team(1);
            const std::vector<double> frequencies = host::rope_frequencies(c.rope_dim, 10000);
            const std::vector<float> bias = random_floats(q_width + 2 * kv_width, 14),
                                     norms = random_floats(2 * c.head_dim, 15);
            host::AttentionShape shape = {.heads = c.heads,
                                          .kv_heads = c.kv_heads,
                                          .head_dim = c.head_dim,
                                          .scale = 1 / std::sqrt(float(c.head_dim)),
                                          .rope = {frequencies, c.pairs},
                                          .softcap = c.softcap,
                                          .window = c.window};
            const std::span biases(bias), both_norms(norms);
            if (c.biases) {
                shape.weights.q_bias = biases.first(q_width);
                shape.weights.k_bias = biases.subspan(q_width, kv_width);
                shape.weights.v_bias = biases.last(kv_width);
            }
            if (c.norms) {
                shape.weights.q_norm = both_norms.first(c.head_dim);
                shape.weights.k_norm = both_norms.last(c.head_dim);
                shape.weights.eps = 1e-3f;
            }
            Shared<float> device_bias(device, bias), device_norms(device, norms);
            host::KvCache cache(c.kv, c.kv_heads, pages, c.head_dim);
            std::vector<uint32_t> in_order(pages);
            std::iota(in_order.begin(), in_order.end(), 0);
            host::AttendScratch scratch;
            Shared<uint32_t> keys(device, cells / 2), values(device, cells / 2),
                counters(device, c.heads);    // q8_0 takes no more than fp16
            std::vector<float> want;
            // Two batches: the earlier positions, then those under test.
            for (const auto& [first, tokens] : {std::pair(0u, c.earlier), std::pair(c.earlier, c.tokens)}) {
                if (tokens == 0) continue;
                std::vector<float> q = random_floats(tokens * q_width, 11), k = random_floats(tokens * kv_width, first),
                                   v = random_floats(tokens * kv_width, 13);
                std::vector<float> angles;
                for (uint32_t t = 0; t < tokens; ++t)
                    for (const double frequency : frequencies) {
                        const double angle = (first + t) * frequency;
                        angles.push_back(float(std::cos(angle)));
                        angles.push_back(float(std::sin(angle)));
                    }
                Shared<float> dq(device, q), dk(device, k), dv(device, v), turn(device, angles);
                TestStep step(device, tokens, first, attend_tile(device->info(), config, false).tokens),
                    alone(device, tokens, first);
                run(device, kernels.rope, {c.heads + c.kv_heads, tokens},
                    {.step = step.address(),
                     .q = dq.address(),
                     .k = dk.address(),
                     .v = dv.address(),
                     .bias = device_bias.address(),
                     .norms = device_norms.address(),
                     .angles = turn.address(),
                     .k_cache = keys.address(),
                     .v_cache = values.address(),
                     .counters = counters.address(),
                     .heads = c.heads,
                     .kv_heads = c.kv_heads,
                     .head_dim = c.head_dim,
                     .rope_dim = c.rope_dim,
                     .pages = pages,
                     .k_q8 = is_quantised(c.kv.k),
                     .v_q8 = is_quantised(c.kv.v),
                     .counter_count = c.heads,
                     .has_bias = c.biases,
                     .has_norms = c.norms,
                     .halves = c.pairs == halves,
                     .eps = shape.weights.eps});
                want.assign(tokens * q_width, 0);
                std::vector<host::Row> rows;
                for (uint32_t t = 0; t < tokens; ++t) rows.push_back({first + t, first + t + 1, in_order.data()});
                host::attend(team, shape, cache, rows, q.data(), k.data(), v.data(), want.data(), scratch);
                struct Cut {
                    AttendTile tile;
                    uint32_t splits;
                };
                std::vector<Cut> cuts = {{attend_tile(device->info(), config, false), 1}};
                if (first < c.earlier) cuts.clear();    // only what the later tokens see is looked at
                if (tokens == 1)
                    for (const uint32_t splits : {1u, 5u})
                        cuts.push_back({attend_tile(device->info(), config, true), splits});
                for (const Cut& cut : cuts) {
                    const uint32_t tiles = c.heads / cut.tile.heads;
                    Shared<float> y(device, tokens * q_width), parts(device, c.heads * cut.splits * (c.head_dim + 2));
                    for (int again = 0; again < 2; ++again)    // as of the next layer
                        run(device, kernels.attend(cut.tile, c.kv),
                            {tiles, ceil_div(tokens + 1, cut.tile.tokens), cut.splits},
                            {.step = (cut.tile.tokens == 1 ? alone : step).address(),
                             .q = dq.address(),
                             .k_cache = keys.address(),
                             .v_cache = values.address(),
                             .y = y.address(),
                             .parts = parts.address(),
                             .counters = counters.address(),
                             .heads = c.heads,
                             .kv_heads = c.kv_heads,
                             .pages = pages,
                             .splits = cut.splits,
                             .window = c.window,
                             .scale = shape.scale,
                             .softcap = c.softcap});
                    CAPTURE(c.head_dim);
                    CAPTURE(first);
                    CAPTURE(cut.tile.heads);
                    CAPTURE(cut.splits);
                    // Both caches round to the same type, once in a while to the other side, and the sums run in other
                    // orders.
                    CHECK(worst_error(y.values(), want) < (is_quantised(c.kv.k) || is_quantised(c.kv.v) ? 5e-3 : 1e-3));
                }
            }
        }
        check_silence();
    }

    TEST_CASE(
        "the hot FFN's two kernels are the formula, dense and exact give the same bits, and those that fire are marked")
    {
        for_each_feature_set([](const auto& device) {
            TestStep one(device, 1, 0, 1, 1);
            std::vector<std::tuple<host::Activation, float, bool>>
                blocks;    // the last one: without a gate, and with a bias
            for (const auto& [activation, floor] : activations) blocks.emplace_back(activation, floor, true);
            blocks.emplace_back(host::Activation::relu, 0.0f, false);
            for (const auto& [activation, floor, gated] : blocks) {
                BothTables both(device, shape(activation));
                for (const auto& [format, shares_table] : formats_and_tables()) {
                    GpuKernels& kernels = both.kernels[shares_table];
                    // Every activation with floats, integers, and integers with minima; every format with one
                    // activation.
                    const bool some = format.type == WeightType::f16 || format.type == WeightType::q8_0 ||
                                      format.type == WeightType::q4_k;
                    if (!some && (activation != host::Activation::relu || floor > 0 || !gated)) continue;
                    for (const uint32_t neurons : {1u, 31u, 257u}) {
                        const uint32_t cols = format.block > 32 ? 3 * format.block : 288, slices = 3;
                        TestMatrix gate(device, format.type, neurons, cols, 1),
                            up(device, format.type, neurons, cols, 2), down(device, format.type, neurons, cols, 3);
                        std::vector<float> x = random_floats(cols, 4);
                        // Far below zero silu turns a gate's absolute error into a relative one, and at -104 it is 0;
                        // gelu is a small difference there.
                        for (float& v : x)
                            v /= activation == host::Activation::gelu || activation == host::Activation::gelu_tanh ? 32
                                                                                                                   : 4;
                        TestInput input(device, x);
                        Shared<float> bias(device, random_floats(4 * neurons, 5));    // the first of each quad
                        Shared<float> h(device, neurons);
                        Shared<uint32_t> fires(device, ceil_div(neurons, 32));
                        std::vector<std::vector<float>> results;
                        const RowVariant variant = usual_variant(*device, format.type);
                        for (const float cut : {host::no_cut, 0.0f}) {
                            Shared<float> parts(device, slices * cols);
                            run(device, kernels.ffn_up(format.type, format.type, variant), row_groups(neurons, variant),
                                {.step = one.address(),
                                 .gate = gate.device->address(),
                                 .up = up.device->address(),
                                 .bias = bias.address(),
                                 .x = input.x.address(),
                                 .planes = input.planes(),
                                 .h = h.address(),
                                 .neurons = neurons,
                                 .cols = cols,
                                 .gate_stride = gate.stride,
                                 .up_stride = up.stride,
                                 .cut = cut,
                                 .floor = floor,
                                 .has_up = gated,
                                 .has_bias = !gated});
                            run(device, kernels.ffn_down(format.type), {3, slices},
                                {.step = one.address(),
                                 .down = down.device->address(),
                                 .h = h.address(),
                                 .parts = parts.address(),
                                 .fired = fires.address(),
                                 .neurons = neurons,
                                 .cols = cols,
                                 .stride = down.stride,
                                 .slices = slices,
                                 .part_stride = cols});
                            results.push_back(parts.values());
                        }
                        const std::vector<double> g = gate.times(x), u = up.times(x);
                        std::vector<double> want(cols), got(cols);
                        uint32_t fired = 0;
                        for (uint32_t n = 0; n < neurons; ++n) {
                            const double strength =
                                gated ? glu(activation, floor, g[n], u[n]) : std::max(g[n] + bias[4 * n], 0.0);
                            fired += strength != 0;
                            if (host::makes_zeros(activation)) CHECK((fires[n / 32] >> n % 32 & 1) == (strength != 0));
                            for (uint32_t c = 0; c < cols; ++c) want[c] += strength * down.at(n, c);
                        }
                        for (uint32_t s = 0; s < slices; ++s)
                            for (uint32_t c = 0; c < cols; ++c) got[c] += results[0][s * cols + c];
                        INFO(format.name << ", " << neurons << " neurons");
                        CHECK(worst_error(got, want) < (variant.int_dot ? 5e-4 : 2e-5));
                        CHECK(results[0] == results[1]);
                        uint32_t bits = 0;
                        for (const uint32_t word : fires.values()) bits += uint32_t(std::popcount(word));
                        if (host::makes_zeros(activation))
                            CHECK(bits == fired);    // others' zeros are a matter of rounding
                    }
                }
            }
        });
    }

    TEST_CASE("route gives the experts of the highest scores the host's weights, of equal ones the first, and lists "
              "the slots that have their neurons")
    {
        const auto device = test_device();
        GpuKernels kernels(device, shape());
        host::Team team(1);
        struct Case {
            uint32_t experts, used, tokens, slots;
            bool normalise = true, ties = false;
        };
        for (const Case& c :
             {Case{1, 1, 1, 3}, Case{8, 2, 1, 257}, Case{8, 8, 5, 0, false}, Case{130, 7, 1, 130, false},
              Case{5, 3, 2, 0, true, true}, Case{1024, 33, 3, 0}, Case{128, 8, 1, 1000, true, true}}) {
            CAPTURE(c.experts);
            CAPTURE(c.tokens);
            // The scores themselves are what the host gets from a router that is the identity.
            std::vector<float> scores = random_floats(c.experts * c.tokens, c.experts);
            for (float& s : scores) s = c.ties ? std::round(s) : 3 * s;
            std::vector<float> identity(size_t(c.experts) * c.experts);
            for (size_t e = 0; e < c.experts; ++e) identity[e * c.experts + e] = 1;
            const host::Router router = {
                {WeightType::f32, c.experts, c.experts, reinterpret_cast<const std::byte*>(identity.data())},
                c.used,
                c.normalise};
            host::Inputs inputs;
            inputs.prepare(team, scores.data(), c.tokens, c.experts, false, host::Work::many);
            std::vector<float> want(scores.size());
            host::route(team, router, inputs, want.data());
            for (uint32_t t = 0; t < c.tokens; ++t) {
                const std::span of_token = std::span(want).subspan(t * c.experts, c.experts);
                CHECK(std::ranges::count_if(of_token, [](float w) { return w > 0; }) == c.used);
                const double sum = std::accumulate(of_token.begin(), of_token.end(), 0.0);
                if (c.normalise || c.used == c.experts) CHECK(sum == doctest::Approx(1));
                else CHECK(sum < 0.99);
            }

            std::vector<uint32_t> slot_expert;
            for (uint32_t s = 0; s < c.slots; ++s) slot_expert.push_back(s * 7 % c.experts);
            const uint32_t places = c.slots;
            Shared<float> score(device, scores), weight(device, scores.size()), published(device, scores.size() + 1);
            Shared<uint32_t> experts(device, slot_expert), chosen(device, 2 * places + 2);
            std::fill_n(chosen.begin(), 2 * places, 77u);
            published[scores.size()] = 12345;
            chosen[2 * places] = 12345;
            TestStep step(device, c.tokens);
            run(device, kernels.route, {c.tokens + 1},
                {.step = step.address(),
                 .score = score.address(),
                 .weight = weight.address(),
                 .published = published.address(),
                 .slot_expert = experts.address(),
                 .chosen = chosen.address(),
                 .experts = c.experts,
                 .used = c.used,
                 .normalise = c.normalise,
                 .slots = c.slots,
                 .places = places});
            const std::vector<float> got = weight.values();
            CHECK(worst_error(got, want) < 1e-5);
            for (size_t i = 0; i < want.size(); ++i) REQUIRE((got[i] != 0) == (want[i] != 0));
            CHECK(published.values(0, scores.size()) == got);
            CHECK(published[scores.size()] == 12345);
            std::vector<uint32_t> list;
            for (uint32_t s = 0; s < c.slots; ++s) {
                if (got[slot_expert[s]] == 0) continue;
                list.push_back(s);
                list.push_back(std::bit_cast<uint32_t>(got[slot_expert[s]]));
            }
            list.resize(2 * places);
            CHECK(chosen.values(0, 2 * places) == list);
            CHECK(chosen[2 * places] == 12345);
        }
        check_silence();
    }

    TEST_CASE("the hot FFN of listed slots is the formula with their weights, and other slots are not looked at")
    {
        for_each_feature_set([](const auto& device) {
            TestStep one(device, 1, 0, 1, 1);
            for (const auto& [activation, cut] :
                 {std::pair(host::Activation::silu, host::no_cut), {host::Activation::relu, 0.0f}}) {
                GpuKernels kernels(device, shape(activation));
                for (const WeightType type : {WeightType::f32, WeightType::f16, WeightType::q8_0, WeightType::q4_k}) {
                    const uint32_t slots = 9, cols = 256, slices = 2, rows = slots * group_neurons;
                    const std::vector<std::pair<uint32_t, float>> listed = {{1, 0.25f}, {2, 0.5f}, {7, 0.25f},
                                                                            {8, 1.5f},  {0, 0.0f}, {0, 0.0f}};
                    const uint32_t neurons = uint32_t(listed.size()) * group_neurons;
                    TestMatrix gate(device, type, rows, cols, 1), up(device, type, rows, cols, 2),
                        down(device, type, rows, cols, 3);
                    std::vector<float> x = random_floats(cols, 4);
                    for (float& v : x) v /= 4;
                    TestInput input(device, x);
                    std::vector<uint32_t> words;
                    for (const auto& [slot, weight] : listed)
                        words.insert(words.end(), {slot, std::bit_cast<uint32_t>(weight)});
                    Shared<uint32_t> chosen(device, words), fires(device, listed.size());
                    Shared<float> h(device, neurons), parts(device, slices * cols);
                    const RowVariant variant = usual_variant(*device, type);
                    run(device, kernels.ffn_up(type, type, variant), row_groups(neurons, variant),
                        {.step = one.address(),
                         .gate = gate.device->address(),
                         .up = up.device->address(),
                         .x = input.x.address(),
                         .planes = input.planes(),
                         .h = h.address(),
                         .chosen = chosen.address(),
                         .neurons = neurons,
                         .cols = cols,
                         .gate_stride = gate.stride,
                         .up_stride = up.stride,
                         .cut = cut,
                         .has_up = 1,
                         .has_experts = 1});
                    run(device, kernels.ffn_down(type), {3, slices},
                        {.step = one.address(),
                         .down = down.device->address(),
                         .h = h.address(),
                         .parts = parts.address(),
                         .fired = fires.address(),
                         .chosen = chosen.address(),
                         .neurons = neurons,
                         .cols = cols,
                         .stride = down.stride,
                         .slices = slices,
                         .part_stride = cols,
                         .has_experts = 1});
                    const std::vector<double> g = gate.times(x), u = up.times(x);
                    std::vector<double> want(cols), got(cols);
                    for (size_t p = 0; p < listed.size(); ++p)
                        for (uint32_t i = 0; i < group_neurons; ++i) {
                            const uint32_t n = listed[p].first * group_neurons + i;
                            const double strength = listed[p].second * glu(activation, 0, g[n], u[n]);
                            CHECK((fires[p] >> i & 1) == (strength != 0));
                            for (uint32_t c = 0; c < cols; ++c) want[c] += strength * down.at(n, c);
                        }
                    for (uint32_t s = 0; s < slices; ++s)
                        for (uint32_t c = 0; c < cols; ++c) got[c] += parts[s * cols + c];
                    INFO(format_of(type).name);
                    CHECK(worst_error(got, want) < (variant.int_dot ? 5e-4 : 2e-5));
                }
            }
        });
    }

    TEST_CASE("glu is its formula for every token that is there")
    {
        const auto device = test_device();
        std::vector<std::tuple<host::Activation, float, bool>> blocks;    // the last one: without u, and with a bias
        for (const auto& [activation, floor] : activations) blocks.emplace_back(activation, floor, true);
        blocks.emplace_back(host::Activation::relu, 0.0f, false);
        for (const auto& [activation, floor, gated] : blocks) {
            GpuKernels kernels(device, shape(activation));
            const uint32_t n = 257, tokens = 3;
            const std::vector<float> a = random_floats(n * (tokens + 1), 1), b = random_floats(n * (tokens + 1), 2);
            Shared<float> h(device, a), routed(device, a), u(device, b), bias(device, random_floats(4 * n, 3));
            TestStep step(device, tokens);
            run(device, kernels.glu, {3, tokens + 1},
                {.step = step.address(),
                 .h = h.address(),
                 .u = u.address(),
                 .bias = bias.address(),
                 .n = n,
                 .floor = floor,
                 .has_up = gated,
                 .has_bias = !gated});
            std::vector<double> want;
            for (uint32_t i = 0; i < n * (tokens + 1); ++i) {
                want.push_back(i < n * tokens ? (gated ? glu(activation, floor, a[i], b[i])
                                                       : std::max(double(a[i]) + bias[4 * (i % n)], 0.0))
                                              : a[i]);
            }
            CHECK(worst_error(h.values(), want) < 1e-5);

            constexpr uint32_t experts = 4;
            const std::vector<uint32_t> slot_expert = {3, 0, 1, 3, 2, 2, 0, 1, 3};
            std::vector<float> weights = random_floats(experts * tokens, 4);
            weights[0] = weights[5] = 0;
            Shared<float> weight(device, weights);
            Shared<uint32_t> whose(device, slot_expert);
            run(device, kernels.glu, {3, tokens + 1},
                {.step = step.address(),
                 .h = routed.address(),
                 .u = u.address(),
                 .bias = bias.address(),
                 .weight = weight.address(),
                 .slot_expert = whose.address(),
                 .n = n,
                 .experts = experts,
                 .floor = floor,
                 .has_up = gated,
                 .has_bias = !gated});
            for (uint32_t i = 0; i < n * tokens; ++i)
                want[i] *= weights[i / n * experts + slot_expert[i % n / group_neurons]];
            CHECK(worst_error(routed.values(), want) < 1e-5);
        }
        check_silence();
    }

    TEST_CASE(
        "best is the first of the largest scaled logits, as the host finds it, and no token where one is not finite")
    {
        const auto device = test_device();
        TestStep one(device, 1, 0, 1, 1);
        GpuKernels kernels(device, shape());
        const float nan = NAN, infinite = INFINITY;
        const auto check = [&](std::vector<float> values, float scale) {
            Shared<float> logits(device, values);
            for (const uint32_t parts : {1u, 3u, 64u}) {
                Shared<uint32_t> pairs(device, 2 * parts), token(device, std::vector<uint32_t>{12345});
                gpu::Best args = {.step = one.address(),
                                  .logits = logits.address(),
                                  .parts = pairs.address(),
                                  .token = token.address(),
                                  .n = uint32_t(values.size()),
                                  .part_count = parts,
                                  .scale = scale};
                run(device, kernels.best, {parts}, args);
                args.last = 1;
                run(device, kernels.best, {1}, args);
                std::vector<float> scaled = values;
                for (float& x : scaled) x *= scale;
                CHECK(token[0] == (host::all_finite(scaled) ? most_probable(scaled) : gpu::no_token));
            }
        };
        for (const uint32_t n : {1u, 31u, 33u, 257u, 8193u, 40001u})
            for (const float scale : {1.0f, 0.3f}) {
                CAPTURE(n);
                CAPTURE(scale);
                const std::vector<float> random = random_floats(n, n);
                check(random, scale);
                std::vector<float> few = random, close(n);
                for (float& x : few) x = std::round(4 * x);    // many equals, zeros of either sign among them
                check(few, scale);
                for (uint32_t i = 0; i < n; ++i)
                    close[i] = std::bit_cast<float>(std::bit_cast<uint32_t>(1.0f) + i);    // scaled, some become equals
                check(close, scale);
                std::reverse(close.begin(), close.end());
                check(close, scale);
                for (float& x : close) x = -x;
                check(close, scale);
                check(std::vector<float>(n, -infinite), scale);
                check(std::vector<float>(n, nan), scale);
                for (const float special : {nan, -nan, infinite, -infinite, -0.0f})
                    for (const uint32_t at : {0u, n / 2, n - 1}) {
                        std::vector<float> with = random;
                        with[at] = special;
                        check(with, scale);
                        std::fill(with.begin(), with.end(), -0.0f);
                        with[at] = special;
                        check(with, scale);
                    }
            }
        check_silence();
    }

    TEST_CASE("the predictors' masks are their formulas")
    {
        const auto device = test_device();
        TestStep one(device, 1, 0, 1, 1);
        GpuKernels kernels(device, shape());
        for (const uint32_t cols : {32u, 100u, 129u, 1024u})
            for (const uint32_t neurons : {32u, 160u, 384u}) {
                const uint32_t quads = ceil_div(cols, 128), differing = cols / 2;
                const std::vector<float> rows = random_floats(size_t(neurons) * cols, 2);
                std::vector<float> x_values = random_floats(cols, 1);
                x_values[7] = -0.0f;
                Shared<float> x(device, x_values);
                Shared<uint32_t> signs(device, size_t(quads) * neurons * 4), mask(device, neurons / 32);
                std::fill(signs.begin(), signs.begin() + size_t(quads) * neurons * 4, 0u);
                for (uint32_t n = 0; n < neurons; ++n)
                    for (uint32_t c = 0; c < cols; ++c)
                        signs[(size_t(c / 128) * neurons + n) * 4 + c % 128 / 32] |=
                            uint32_t(rows[size_t(n) * cols + c] < 0) << c % 32;
                run(device, kernels.predict_sign, {ceil_div(neurons, 128)},
                    {.step = one.address(),
                     .x = x.address(),
                     .signs = signs.address(),
                     .mask = mask.address(),
                     .neurons = neurons,
                     .cols = cols,
                     .differing = differing});
                INFO(cols << " columns, " << neurons << " neurons");
                uint32_t wrong = 0;
                for (uint32_t n = 0; n < neurons; ++n) {
                    uint32_t differ = 0;
                    for (uint32_t c = 0; c < cols; ++c)
                        differ += std::signbit(rows[size_t(n) * cols + c]) != std::signbit(x_values[c]);
                    wrong += (mask[n / 32] >> n % 32 & 1) != (differ <= differing);
                }
                CHECK(wrong == 0);

                const std::vector<float> scores = random_floats(neurons, 3);
                Shared<float> score(device, scores);
                run(device, kernels.threshold, {ceil_div(neurons / 32, 128)},
                    {.step = one.address(),
                     .score = score.address(),
                     .mask = mask.address(),
                     .neurons = neurons,
                     .threshold = 0.25f});
                for (uint32_t n = 0; n < neurons; ++n) CHECK((mask[n / 32] >> n % 32 & 1) == (scores[n] >= 0.25f));
            }
        check_silence();
    }
}
