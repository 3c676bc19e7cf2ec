#include "engine/tune/tune.h"

#include "engine/device/step.h"
#include "engine/system/large_pages.h"
#include "engine/system/limits.h"
#include "engine/tune/attention.h"
#include "engine/tune/measure.h"
#include "engine/tune/products.h"
#include "host/attention.h"

#include <atomic>
#include <bit>
#include <cstring>
#include <thread>

namespace hearth {

namespace {

using vulkan::Buffer, vulkan::Commands, vulkan::Queue, vulkan::Use;

constexpr uint32_t dim = 4096, most_rows = 1024;
constexpr float nothing_fires = 1e30f;

/// MXFP4's scale is an exponent, and most exponents make numbers without use; its rows are read as IQ4_NL's are, which
/// have a byte more in 18.
WeightType measured_as(WeightType type) { return type == WeightType::mxfp4 ? WeightType::iq4_nl : type; }

/// The attention that is measured: `microseconds` of so many heads of keys and values, and of such a width.
constexpr uint32_t heads = 32, context = 512, pages[] = {0, 1};
static_assert(std::size(pages) * host::page_positions == context);

template <class F>
AttentionTimes attention_times(F&& microseconds)
{
    const auto of = [&](uint32_t head_dim) {
        const auto each = [&](uint32_t kv_heads) { return microseconds(kv_heads, head_dim) / (context * kv_heads); };
        return AttentionTimes::Of{each(heads), each(heads / AttentionTimes::sharing)};
    };
    return {of(AttentionTimes::narrow), of(AttentionTimes::wide)};
}

// ---- host -----------------------------------------------------------------------------------------------------------

/// As a model's layers do, the work walks through all of that memory: so much that no cache holds it, or as little as a
/// small model has.
class HostMeasurement {
  public:
    HostMeasurement(host::Team& team, uint64_t bytes)
        : team_(team), owned_(std::make_unique_for_overwrite<std::byte[]>(bytes)), memory_(owned_.get(), bytes),
          x_(some_vector(dim)), y_(1 << 16)
    {
        ask_for_large_pages(memory_);    // as models' weights have them
        fill_weights(memory_.data(), bytes);
    }

    SideRates measure(const std::function<void(double)>& progress)
    {
        SideRates rates;
        team_.hold([&] {
            for (size_t f = 0; f < std::size(weight_formats); ++f) {
                rates.rows[f] = rows(measured_as(weight_formats[f].type));
                progress(double(f + 1) / std::size(weight_formats));
            }
            rates.read = read();
            measure_small(rates);
            const AttentionTimes times = attention_times([&](uint32_t kv_heads, uint32_t head_dim) {
                const double us = attention_us(kv_heads, head_dim);
                return std::max(us - 2 * rates.step_us, us / 10);
            });
            rates.attention = attention_rates(times);
            rates.attention.prompt = prompt_products();
            // Both are small on the host.
            rates.vector = rates.signs = 4.0 * AttentionTimes::wide / times.wide_us.alone / 1000;
        });
        return rates;
    }

    double dot(WeightType type)
    {
        const Matrix all = {type, uint32_t(memory_.size() / row_bytes(type, dim)), dim, memory_.data()};
        host::Inputs inputs;
        inputs.prepare(team_, x_.data(), 1, dim, is_quantised(type), host::Work::few);
        y_.resize(std::max<size_t>(y_.size(), all.rows));
        return gb_per_s(all.bytes(), median_time([&] { host::multiply(team_, all, inputs, y_.data()); }));
    }

    /// A matrix with many tokens: billions of products a second, and microseconds of a sum of them beside that.
    std::pair<double, double> products(WeightType type)
    {
        constexpr uint32_t tokens = 128, few = 256;
        const auto us = [&](uint32_t cols) {
            const Matrix some = {type, most_rows, cols, memory_.data()};
            const std::vector<float> x = some_vector(tokens * cols);
            std::vector<float> y(size_t(tokens) * some.rows);
            return 1e6 * median_time([&] {
                       host::Inputs inputs;
                       inputs.prepare(team_, x.data(), tokens, cols, is_quantised(type), host::Work::many);
                       host::multiply(team_, some, inputs, y.data());
                   });
        };
        constexpr double sums = double(most_rows) * tokens;
        const double rate = sums * dim / us(dim) / 1000;
        return {rate, std::max(us(few) / sums - few / rate / 1000, 0.0)};
    }

    /// GB/s of rows laid out as the device has them.
    double laid_out(WeightType type)
    {
        const uint64_t size = uint64_t(row_quads(type, dim)) * 16;
        const Matrix all = {type, uint32_t(memory_.size() / 2 / size), dim,
                            memory_.data()};    // the other half takes them
        std::byte* const to = memory_.data() + memory_.size() / 2;
        const double t = median_time([&] {
            host::parallel_rows(team_, all.rows, size, [&](uint32_t first, uint32_t last) {
                for (uint32_t r = first; r < last; ++r) lay_out_row(type, all.row(r), dim, to + r * size);
            });
        });
        fill_weights(to, memory_.size() / 2);
        return gb_per_s(all.bytes(), t);
    }

  private:
    RowRates rows(WeightType type)
    {
        const uint64_t row = row_bytes(type, dim);
        const uint32_t count = uint32_t(std::min<uint64_t>(most_rows, memory_.size() / (3 * row)));
        const uint64_t matrix = count * row;
        const uint32_t layers = uint32_t(memory_.size() / (3 * matrix));
        std::vector<uint32_t> neurons(count);
        for (uint32_t i = 0; i < count; ++i) neurons[i] = i;
        host::Inputs inputs;
        inputs.prepare(team_, x_.data(), 1, dim, is_quantised(type), host::Work::few);
        host::FfnScratch scratch;
        std::vector<float> y(dim);
        host::FfnCounts counts;
        const auto all_layers = [&](float cut) {
            return median_time([&] {
                for (uint32_t l = 0; l < layers; ++l) {
                    const std::byte* at = memory_.data() + 3 * l * matrix;
                    const auto part = [&](uint64_t i) { return Matrix{type, count, dim, at + i * matrix}; };
                    const host::FfnCounts one =
                        host::cold_ffn(team_, {part(0), part(1), part(2), host::Activation::relu}, neurons, inputs, cut,
                                       y.data(), scratch);
                    counts = {counts.active + one.active, counts.bytes + one.bytes};
                }
            });
        };
        const double gates = all_layers(nothing_fires);
        counts = {};
        const double fired = all_layers(0);
        constexpr int runs = 6;    // of median_time
        const uint64_t fired_bytes = (counts.bytes - runs * layers * matrix) / runs;
        return {.dot = dot(type),
                .gate = gb_per_s(layers * matrix, gates),
                .fired = gb_per_s(fired_bytes, std::max(fired - gates, fired / 10))};
    }

    /// Microseconds of a matrix, the mean of so many as lie in memory behind each other; each with an input of its own,
    /// which the leader makes ready alone.
    double matrix_us(WeightType type, uint32_t rows, uint32_t cols)
    {
        const uint64_t bytes = rows * row_bytes(type, cols), matrices = memory_.size() / bytes;
        host::Inputs inputs;
        const double t = median_time([&] {
            for (uint64_t i = 0; i < matrices; ++i) {
                inputs.prepare(team_, x_.data(), 1, cols, is_quantised(type), host::Work::few);
                host::multiply(team_, {type, rows, cols, memory_.data() + i * bytes}, inputs, y_.data());
            }
        });
        return 1e6 * t / double(matrices);
    }

    /// What counts in small models: a parallel loop, a short row, and a neuron, beside the bytes that are read.
    void measure_small(SideRates& rates)
    {
        constexpr WeightType type = WeightType::q4_0;
        constexpr uint32_t cols = 512, few = 192, many = 1536;
        const double of_few = matrix_us(type, few, cols), of_many = matrix_us(type, many, cols);
        rates.step_us = std::max((of_few * many - of_many * few) / (many - few), 0.0);
        for (size_t f = 0; f < std::size(weight_formats); ++f) {
            const WeightType t = measured_as(weight_formats[f].type);
            const double row = (matrix_us(t, many, cols) - rates.step_us) / many;
            rates.rows[f].row_us = std::max(row - double(row_bytes(t, cols)) / rates.rows[f].dot / 1000, 0.0);
        }
        const double neuron_us =
            std::max(block_us(type, many, cols) - 2 * of_many - matrix_us(type, cols, many), 0.0) / many;
        for (size_t f = 0; f < std::size(weight_formats); ++f) {    // it was measured among the gates, too
            const double bytes = double(row_bytes(measured_as(weight_formats[f].type), dim));
            RowRates& rows = rates.rows[f];
            rows.neuron_us = neuron_us;
            rows.gate = std::min(rows.dot, bytes / std::max(bytes / rows.gate - 1000 * neuron_us, 1.0));
        }
    }

    /// Likewise of a feed-forward block.
    double block_us(WeightType type, uint32_t neurons, uint32_t cols)
    {
        const uint64_t matrix = neurons * row_bytes(type, cols), bytes = 2 * matrix + cols * row_bytes(type, neurons),
                       blocks = memory_.size() / bytes;
        std::vector<uint32_t> all(neurons);
        for (uint32_t i = 0; i < neurons; ++i) all[i] = i;
        host::Inputs inputs;
        host::FfnScratch scratch;
        const double t = median_time([&] {
            for (uint64_t i = 0; i < blocks; ++i) {
                const std::byte* const at = memory_.data() + i * bytes;
                host::FfnWeights w = {
                    {type, neurons, cols, at}, {type, neurons, cols, at + matrix}, {}, host::Activation::silu};
                w.down = {type, cols, neurons, at + 2 * matrix};
                inputs.prepare(team_, x_.data(), 1, cols, is_quantised(type), host::Work::few);
                host::cold_ffn(team_, w, all, inputs, host::no_cut, y_.data(), scratch);
            }
        });
        return 1e6 * t / double(blocks);
    }

    double read()
    {
        const std::span<const uint64_t> words(reinterpret_cast<const uint64_t*>(memory_.data()),
                                              memory_.size() / sizeof(uint64_t));
        return gb_per_s(memory_.size(), median_time([&] { sum += host::sum_words(team_, words); }));
    }

    static host::KvCache some_cache(uint32_t kv_heads, uint32_t head_dim)
    {
        host::KvCache cache(host::KvTypes{}, kv_heads, uint32_t(std::size(pages)), head_dim);
        for (const host::KvCache::Side* side : {&cache.keys(), &cache.values()})
            std::fill_n(reinterpret_cast<uint16_t*>(side->memory.get()), side->bytes / sizeof(uint16_t),
                        uint16_t(0x3000));
        return cache;
    }

    /// Of a layer: each has a cache of its own, until they fill as much as that memory.
    double attention_us(uint32_t kv_heads, uint32_t head_dim)
    {
        const host::Row row[] = {{context - 1, context, pages}};
        std::vector<host::KvCache> layers;
        uint64_t bytes = 0;
        while (bytes < memory_.size()) {
            layers.push_back(some_cache(kv_heads, head_dim));
            bytes += layers.back().keys().bytes + layers.back().values().bytes;
        }
        host::AttendScratch scratch;
        const std::vector<double> frequencies = host::rope_frequencies(head_dim, 10000);
        const host::AttentionShape shape = {
            .heads = heads, .kv_heads = kv_heads, .head_dim = head_dim, .scale = 0.1f, .rope = {frequencies}};
        std::vector<float> q = some_vector(heads * head_dim), k = q, v = q, out(q.size());
        const double t = median_time([&] {
            for (host::KvCache& layer : layers)
                host::attend(team_, shape, layer, row, q.data(), k.data(), v.data(), out.data(), scratch);
        });
        return 1e6 * t / double(layers.size());
    }

    /// Billions of products a second, of the tokens with which a prompt begins.
    double prompt_products()
    {
        constexpr uint32_t tokens = 256, kv_heads = heads / 4, head_dim = 128, width = heads * head_dim;
        host::KvCache cache = some_cache(kv_heads, head_dim);
        std::vector<host::Row> rows;
        double positions = 0;
        for (uint32_t p = 0; p < tokens; ++p) {
            rows.push_back({p, p + 1, pages});
            positions += p + 1;
        }
        const std::vector<double> frequencies = host::rope_frequencies(head_dim, 10000);
        const host::AttentionShape shape = {
            .heads = heads, .kv_heads = kv_heads, .head_dim = head_dim, .scale = 0.1f, .rope = {frequencies}};
        std::vector<float> q = some_vector(tokens * width), k = q, v = q, out(q.size());
        host::AttendScratch scratch;
        const double t = median_time(
            [&] { host::attend(team_, shape, cache, rows, q.data(), k.data(), v.data(), out.data(), scratch); });
        return 2 * width * positions / t / 1e9;
    }

    host::Team& team_;
    std::atomic<uint64_t> sum = 0;    // so that the reading is not left out
    std::unique_ptr<std::byte[]> owned_;
    std::span<std::byte> memory_;
    std::vector<float> x_, y_;
};

// ---- device ---------------------------------------------------------------------------------------------------------

class DeviceMeasurement {
  public:
    DeviceMeasurement(const std::shared_ptr<vulkan::Device>& device, uint64_t bytes, const RowVariants& variants)
        : device_(device), kernels_(device, config(), variants), queue_(device),
          weights_(device, bytes, Use::device, "the measurement"), x_(device, 2 << 20, Use::device, "the measurement"),
          step_(device, 8192, Use::readback, "the measurement"), out_(device, 16 << 20, Use::device, "the measurement")
    {
        const std::vector<float> x = some_vector(dim);
        vulkan::Uploader uploader(device);
        const uint64_t x_bytes = x.size() * sizeof(float);
        uploader.upload({x_.handle(), 0, x_bytes, x_.address(), nullptr}, 1, x_bytes,
                        [&](std::byte* to, uint64_t, uint64_t) { std::memcpy(to, x.data(), x_bytes); });
        const vulkan::Slice weights = {weights_.handle(), 0, bytes, weights_.address(), nullptr};
        vulkan::Pool staging(device, vulkan::Uploader::staging_bytes, Use::upload, "the measurement");
        const vulkan::Slice from = staging.take(vulkan::Uploader::staging_bytes);
        upload = gb_per_s(from.bytes, queue_.time([&](Commands& c) {
            c.stage("tune", 0, 0);
            c.copy(from, weights, from.bytes);
        }));
        // After that copy, which leaves zeros.
        uploader.upload(weights, bytes >> 20, 1 << 20,
                        [&](std::byte* to, uint64_t, uint64_t count) { fill_weights(to, count << 20); });
        queue_.run([&](Commands& c) {
            c.stage("tune", 0, 0);
            c.dispatch(kernels_.quantise, {ceil_div(dim / 32, 64)}, {.x = x_.address(), .planes = planes(), .n = dim});
        });
    }

    double upload = 0;

    SideRates measure(const std::function<void(double)>& progress)
    {
        SideRates rates;
        // Small matrices: what a step costs, and of it a row and a neuron beside their bytes.
        constexpr WeightType usual = WeightType::q4_0;
        constexpr uint32_t few = 512, many = 2048, cols = 512;
        const double of_few = matrix_us(usual, few, cols), of_many = matrix_us(usual, many, cols);
        rates.step_us = std::clamp((of_few * many - of_many * few) / (many - few), of_few / 10, of_few);
        rates.norm_us = norm_us(32, 0);
        const double large = norm_us(dim, 16);
        rates.vector = gb_per_s(uint64_t(dim) * sizeof(float) * 19, std::max(large - rates.norm_us, large / 10) * 1e-6);
        for (size_t f = 0; f < std::size(weight_formats); ++f) {
            const WeightType type = measured_as(weight_formats[f].type);
            const double matrix = matrix_us(type, many, cols), both = ffn_up_us(type, many, cols),
                         neuron = std::max(both - 2 * matrix + rates.step_us, 0.0) / many;
            RowRates& r = rates.rows[f];
            r = rows(type, rates.step_us, neuron);
            const double row = (matrix - rates.step_us) / many;
            r.row_us = std::max(row - double(row_quads(type, cols)) * 16 / r.dot / 1000, 0.0);
            r.neuron_us = neuron;
            progress(double(f + 1) / std::size(weight_formats));
        }
        rates.attention = attention_rates(attention_times([&](uint32_t kv_heads, uint32_t head_dim) {
            const double us = attention_us(kv_heads, head_dim);
            return std::max(us - rates.step_us, us / 10);
        }));
        rates.signs = rates.of(WeightType::f32).dot;
        return rates;
    }

    double dot(WeightType type)
    {
        const uint32_t stride = row_quads(type, dim), rows = uint32_t(weights_.bytes() / (stride * 16));
        return gb_per_s(weights_.bytes(), queue_.time([&](Commands& c) {
            matvec(c, type, std::min(rows, uint32_t(out_.bytes() / 4)), dim, weights_.address());
        }));
    }

    double submit_s() { return submit_; }

    /// Submit something that does nothing, and notice that it is done; `ahead`: it was submitted before and is let go.
    double round_trip(bool ahead)
    {
        constexpr int trips = 50;
        std::vector<Commands> empty;
        for (int i = 0; i < trips; ++i) {
            empty.emplace_back(device_, false);
            empty.back().stage("tune", 0, 0);
            empty.back().end();
        }
        return median_time([&] {
                   double submitting = 0;
                   uint64_t last = 0;
                   const uint64_t base = queue_.released();
                   if (ahead) {
                       std::vector<Queue::Work> work;
                       work.reserve(trips);
                       for (int i = 0; i < trips; ++i) work.push_back({&empty[i], base + i + 1});
                       last = queue_.submit(work) - trips;
                   }
                   for (int i = 0; i < trips; ++i) {
                       const double start = seconds();
                       if (ahead) {
                           queue_.release(base + i + 1);
                           ++last;
                       } else {
                           const Queue::Work work[] = {{&empty[i]}};
                           last = queue_.submit(work);
                       }
                       submitting += seconds() - start;
                       queue_.wait(last);
                   }
                   if (!ahead) submit_ = submitting / trips;
               }) /
               trips;
    }

  private:
    static Config config()
    {
        Config c;
        c.dim = dim;
        c.head_dim = 128;
        c.activation = host::Activation::relu;
        return c;
    }

    gpu::Planes planes() const
    {
        const uint64_t first = x_.address() + (1 << 20);
        return {first, first + (256 << 10), first + (512 << 10)};
    }

    /// The last token of that context, whose pages lie one behind the other.
    uint64_t step_address()
    {
        const host::Row row[] = {{context - 1, context, pages}};
        write_step({1, std::size(pages)}, step_.mapped<void>(), step_.address(), row, 1, {}, 0);
        return step_.address();
    }

    void matvec(Commands& c, WeightType type, uint32_t rows, uint32_t cols, uint64_t weight)
    {
        c.stage("tune", 0, 0);
        const RowVariant variant = kernels_.variant(type, rows, cols);
        c.dispatch(kernels_.matvec(type, variant), row_groups(rows, variant),
                   {.step = step_address(),
                    .weight = weight,
                    .x = x_.address(),
                    .planes = planes(),
                    .y = out_.address(),
                    .rows = rows,
                    .cols = cols,
                    .stride = row_quads(type, cols)});
    }

    /// Of gates and ups that lie behind each other from `weights` on.
    void ffn_up(Commands& c, WeightType type, uint32_t neurons, uint32_t cols, float cut, uint64_t weights)
    {
        const uint32_t stride = row_quads(type, cols);
        const RowVariant variant = kernels_.variant(type, neurons, cols);
        c.stage("tune", 0, 0);
        c.dispatch(kernels_.ffn_up(type, type, variant), row_groups(neurons, variant),
                   {.step = step_address(),
                    .gate = weights,
                    .up = weights + uint64_t(neurons) * stride * 16,
                    .x = x_.address(),
                    .planes = planes(),
                    .h = out_.address(),
                    .neurons = neurons,
                    .cols = cols,
                    .gate_stride = stride,
                    .up_stride = stride,
                    .cut = cut,
                    .has_up = 1});
    }

    /// A step among others, as a layer has them: the mean of many, each behind another kernel that has hardly anything
    /// to do, less what that takes. Behind itself a kernel is quicker where changing it takes time.
    template <class F>
    double among_others_us(F&& step)
    {
        constexpr int steps = 40;
        const auto other = [&](Commands& c) {
            c.stage("tune", 0, 0);
            c.dispatch(kernels_.quantise, {1}, {.x = x_.address(), .planes = planes(), .n = 32});
        };
        const double both = queue_.time([&](Commands& c) {
            for (int i = 0; i < steps; ++i) step(c, i), other(c);
        });
        const double alone = queue_.time([&](Commands& c) {
            for (int i = 0; i < steps; ++i) other(c);
        });
        return 1e6 / steps * std::max(both - alone, both / 10);
    }

    /// Of a matrix; they lie behind each other.
    double matrix_us(WeightType type, uint32_t rows, uint32_t cols)
    {
        const uint64_t bytes = uint64_t(rows) * row_quads(type, cols) * 16, places = weights_.bytes() / bytes;
        return among_others_us(
            [&](Commands& c, int i) { matvec(c, type, rows, cols, weights_.address() + i % places * bytes); });
    }

    /// Of the first half of a feed-forward block in which every neuron fires.
    double ffn_up_us(WeightType type, uint32_t neurons, uint32_t cols)
    {
        const uint64_t bytes = 2ull * neurons * row_quads(type, cols) * 16, places = weights_.bytes() / bytes;
        return among_others_us([&](Commands& c, int i) {
            ffn_up(c, type, neurons, cols, -INFINITY, weights_.address() + i % places * bytes);
        });
    }

    /// Of a join of so many parts, and the norm behind it.
    double norm_us(uint32_t n, uint32_t parts)
    {
        return among_others_us([&](Commands& c, int) {
            c.stage("tune", 0, 0);
            c.dispatch(kernels_.join, {1},
                       {.step = step_address(),
                        .base = x_.address(),
                        .parts = weights_.address(),
                        .cold = 0,
                        .weight = x_.address(),
                        .residual = out_.address(),
                        .y = out_.address() + (1 << 20),
                        .published = 0,
                        .n = n,
                        .part_count = parts,
                        .part_stride = n,
                        .has_cold = 0,
                        .publish = 0,
                        .head = 0,
                        .eps = 1e-5f,
                        .gain = 1});
        });
    }

    RowRates rows(WeightType type, double step_us, double neuron_us)
    {
        const double step = step_us * 1e-6;
        const uint32_t stride = row_quads(type, dim);
        const uint64_t row = uint64_t(stride) * 16;
        const uint32_t dot_rows = uint32_t(std::min<uint64_t>(weights_.bytes() / row, out_.bytes() / sizeof(float)));
        const uint32_t neurons = uint32_t(weights_.bytes() / row / 3) / 32 * 32, slices = 16;
        Buffer fires(device_, neurons / 8, Use::readback, "the measurement");
        const auto up = [&](float cut) {
            return queue_.time([&](Commands& c) { ffn_up(c, type, neurons, dim, cut, weights_.address()); });
        };
        const auto down = [&] {    // of what the last `up` fired
            return queue_.time([&](Commands& c) {
                c.stage("tune", 0, 0);
                c.dispatch(kernels_.ffn_down(type), {ceil_div(dim, gpu::ffn_down_chunks * chunk_weights(type)), slices},
                           {.step = step_address(),
                            .down = weights_.address() + 2 * neurons * row,
                            .h = out_.address(),
                            .parts = out_.address() + (8 << 20),
                            .fired = fires.address(),
                            .neurons = neurons,
                            .cols = dim,
                            .stride = stride,
                            .slices = slices,
                            .part_stride = dim,
                            .words = neurons / 32});
            });
        };
        const double dot = queue_.time([&](Commands& c) { matvec(c, type, dot_rows, dim, weights_.address()); });
        const double gates = up(nothing_fires), passed = down(), ups = up(0), downs = down();
        const double of_neurons = neurons * neuron_us * 1e-6, of_rows = ups - gates + downs - passed;
        uint64_t fired = 0;
        for (uint32_t i = 0; i < neurons / 32; ++i) fired += uint64_t(std::popcount(fires.mapped<uint32_t>()[i]));
        HEARTH_CHECK(fired > 0);    // else nothing was measured
        return {.dot = gb_per_s(dot_rows * row, std::max(dot - step, dot / 10)),
                .gate = gb_per_s(neurons * row, std::max(gates - step - of_neurons, gates / 10)),
                .fired = gb_per_s(2 * fired * row, std::max(of_rows, (ups + downs) / 10)),
                .passed = gb_per_s(neurons * row, std::max(passed - step, passed / 10))};
    }

    double attention_us(uint32_t kv_heads, uint32_t head_dim)
    {
        const uint64_t side = uint64_t(kv_heads) * context * head_dim * sizeof(uint16_t);
        HEARTH_CHECK(2 * side <= weights_.bytes());
        Config c = config();
        c.heads = heads;
        c.kv_heads = kv_heads;
        c.head_dim = head_dim;
        const AttendTile tile = attend_tile(device_->info(), c, true);
        const uint32_t tiles = c.heads / tile.heads, splits = kernels_.attend_splits(tiles, context);
        const uint64_t counters = 4096;    // behind the step
        std::fill_n(reinterpret_cast<uint32_t*>(step_.mapped<std::byte>() + counters), c.heads, 0u);
        return 1e6 * queue_.time([&](Commands& commands) {
            commands.stage("tune", 0, 0);
            commands.dispatch(kernels_.attend(tile, {}), {tiles, 1, splits},
                              {.step = step_address(),
                               .q = x_.address(),
                               .k_cache = weights_.address(),
                               .v_cache = weights_.address() + side,
                               .y = out_.address(),
                               .parts = out_.address() + (8 << 20),
                               .counters = step_.address() + counters,
                               .heads = c.heads,
                               .kv_heads = kv_heads,
                               .pages = context / host::page_positions,
                               .splits = splits,
                               .scale = 0.09f});
        });
    }

    std::shared_ptr<vulkan::Device> device_;
    GpuKernels kernels_;
    MeasuredQueue queue_;
    Buffer weights_, x_, step_, out_;
    double submit_ = 0;
};

}    // namespace

Machine measure_machine(host::Team& team, const std::shared_ptr<vulkan::Device>& device, const Progress& progress,
                        const Warn& warn)
{
    Machine m;
    m.system = system_version();
    m.kernels = host::kernels().name;
    m.threads = team.size();
    const double host_share = device ? 0.3 : 0.8;
    HostMeasurement host(team, 192 << 20);
    m.host = host.measure([&](double share) { progress(share * host_share); });
    m.small_host = HostMeasurement(team, small_model).measure([](double) {});
    team.hold([&] {
        for (size_t f = 0; f < std::size(weight_formats); ++f) {
            const WeightType type = measured_as(weight_formats[f].type);
            std::tie(m.host_products[f], m.host_sum_us[f]) = host.products(type);
            if (device) m.laid_out[f] = host.laid_out(type);
            progress(host_share + (device ? 0.05 : 0.2) * double(f + 1) / std::size(weight_formats));
        }
    });
    if (!device) return m;

    m.device = device->info().name;
    m.driver = device->info().driver;
    m.software = device->info().kind == vulkan::DeviceKind::software;
    m.row_variants = tune_rows(
        device, m.software ? 512 << 10 : 192 << 20, [&](double share) { progress(0.35 + share * 0.3); }, warn);
    // A software device's compiler takes a second for each of these kernels.
    std::vector<WeightType> types = {WeightType::f16, WeightType::q8_0, WeightType::q4_0};
    if (!m.software) {
        types.clear();
        for (const WeightFormat& f : weight_formats) types.push_back(f.type);
    }
    m.products = tune_products(
        device, types, m.software ? ProductSize{128, 512, 64} : ProductSize{4096, 4096, 256},
        [&](double share) { progress(0.65 + share * 0.1); }, warn);
    DeviceMeasurement measurement(device, m.software ? 24 << 20 : 192 << 20, m.row_variants);
    m.on_device = measurement.measure([&](double share) { progress(0.75 + share * 0.2); });
    for (const RowRates& r : m.on_device.rows)
        m.on_device.read = std::max(m.on_device.read, r.dot);    // its fastest matrix kernel
    m.upload = measurement.upload;
    m.round_trip_us = measurement.round_trip(false) * 1e6;
    m.submit_us = measurement.submit_s() * 1e6;
    m.release_us = measurement.round_trip(true) * 1e6;

    // Both at once: a GPU that shares the host's memory gains little.
    double host_alone = 0, device_alone = 0, host_both = 0, device_both = 0;
    team.hold([&] { host_alone = host.dot(WeightType::f16); });
    device_alone = measurement.dot(WeightType::f16);
    std::atomic<bool> more = true;
    std::thread other([&] {
        while (more) device_both = measurement.dot(WeightType::f16);
    });
    team.hold([&] { host_both = host.dot(WeightType::f16); });
    more = false;
    other.join();
    m.together = (host_both + device_both) / std::max(host_alone, device_alone);
    progress(1);
    return m;
}

}    // namespace hearth
