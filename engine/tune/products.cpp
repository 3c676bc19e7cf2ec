#include "engine/tune/products.h"

#include "engine/tune/measure.h"

#include <cmath>
#include <cstring>
#include <numeric>

namespace hearth {

namespace {

using vulkan::Buffer, vulkan::Commands, vulkan::Use;

class ProductTuning {
  public:
    ProductTuning(const std::shared_ptr<vulkan::Device>& device, const ProductSize& size)
        : device_(device), size_(size), kernels_(device, Config()), queue_(device), uploader_(device),
          x_(some_vector(size.cols * size.tokens)),
          weights_(device, uint64_t(size.rows) * row_quads(WeightType::f32, size.cols) * 16, Use::device,
                   "the measurement"),
          input_(device, x_.size() * sizeof(float), Use::device, "the measurement"),
          planes_(device, x_.size() * 3, Use::device, "the measurement"),
          halves_(device, x_.size() * 4 + size.tokens * sizeof(float), Use::device, "the measurement"),
          y_(device, uint64_t(size.rows) * size.tokens * sizeof(float), Use::device, "the measurement"),
          result_(device, y_.bytes(), Use::readback, "the measurement"),
          step_(device, sizeof(gpu::Step), Use::upload, "the measurement")
    {
        HEARTH_CHECK(size.cols % 256 == 0);
        uploader_.upload(whole(input_), 1, input_.bytes(),
                         [&](std::byte* to, uint64_t, uint64_t) { std::memcpy(to, x_.data(), input_.bytes()); });
        queue_.run([&](Commands& c) {
            c.stage("tune", 0, 0);
            c.dispatch(kernels_.quantise, {std::min(ceil_div(x_.size() / 32, 64), 65535u)},
                       {.x = input_.address(), .planes = planes(), .n = uint32_t(x_.size())});
            c.dispatch(kernels_.halve, {size.tokens}, {.x = input_.address(), .planes = halves(), .width = size.cols});
        });
        step_.mapped<gpu::Step>()->tokens = size.tokens;    // all that a product reads of it
    }

    /// Billions of products a second, for each way.
    std::array<double, std::size(products)> measure(WeightType type, const Warn& warn)
    {
        constexpr double tolerance = 1e-3;    // of the largest; halves keep 11 bits of a weight
        const SampleRows sample(type, size_.cols);
        const uint64_t row_size = uint64_t(row_quads(type, size_.cols)) * 16;
        uploader_.upload(whole(weights_), size_.rows, row_size, [&](std::byte* to, uint64_t first, uint64_t count) {
            for (uint64_t r = first; r < first + count; ++r, to += row_size) std::memcpy(to, sample.row(r), row_size);
        });
        std::vector<double> want;    // (tokens, SampleRows::count)
        for (uint32_t t = 0; t < size_.tokens; ++t)
            for (uint32_t r = 0; r < SampleRows::count; ++r) {
                const float* x = &x_[size_t(t) * size_.cols];
                want.push_back(std::inner_product(x, x + size_.cols, sample.decoded(r), 0.0));
            }
        double largest = 0;
        for (const double y : want) largest = std::max(largest, std::abs(y));

        std::array<double, std::size(products)> rates = {};
        for (const Product product : products) {
            if (!offers(*device_, product, type, {})) continue;
            const auto multiply = [&](Commands& c) {
                c.stage("tune", 0, 0);
                const auto [kernel, groups] = kernels_.matmul(type, false, product, size_.rows, size_.tokens);
                c.dispatch(kernel, groups,
                           {.step = step_.address(),
                            .weight = weights_.address(),
                            .x = input_.address(),
                            .planes = product == Product::matrices ? halves() : planes(),
                            .y = y_.address(),
                            .rows = size_.rows,
                            .inner = size_.cols,
                            .stride = uint32_t(row_size / 16),
                            .x_stride = size_.cols,
                            .y_stride = size_.rows});
            };
            float* const y = result_.mapped<float>();
            std::fill_n(y, result_.bytes() / sizeof(float), NAN);
            const auto copy = [&](const Buffer& from, const Buffer& to) {
                queue_.run([&](Commands& c) {
                    c.stage("tune", 0, 0);
                    c.copy(whole(from), whole(to), from.bytes());
                });
            };
            copy(result_, y_);
            const double seconds = queue_.time(multiply);
            copy(y_, result_);
            bool right = true;
            for (uint32_t t = 0; t < size_.tokens; ++t)
                for (uint32_t r = 0; r < size_.rows; ++r)    // false for NaN
                    right =
                        right && std::abs(y[size_t(t) * size_.rows + r] -
                                          want[t * SampleRows::count + r % SampleRows::count]) <= tolerance * largest;
            if (right) rates[size_t(product)] = double(size_.rows) * size_.cols * size_.tokens / seconds / 1e9;
            else
                warn(fmt::format(
                    "{} gives wrong results for {} and many tokens, in {}: that way is not used; update its driver",
                    device_->info().name, format_of(type).name, product_name(product)));
        }
        return rates;
    }

  private:
    static vulkan::Slice whole(const Buffer& buffer)
    {
        return {buffer.handle(), 0, buffer.bytes(), buffer.address(), nullptr};
    }
    gpu::Planes planes() const
    {
        const uint64_t high = planes_.address(), low = high + x_.size();    // a byte, a byte, and 16 for 32 numbers
        return {high, low, low + x_.size()};
    }
    gpu::Planes halves() const
    {
        const uint64_t high = halves_.address(), low = high + 2 * x_.size();
        return {high, low, low + 2 * x_.size()};
    }

    std::shared_ptr<vulkan::Device> device_;
    ProductSize size_;
    GpuKernels kernels_;
    MeasuredQueue queue_;
    vulkan::Uploader uploader_;
    std::vector<float> x_;    // (tokens, cols)
    Buffer weights_, input_, planes_, halves_, y_, result_, step_;
};

}    // namespace

ProductRates tune_products(const std::shared_ptr<vulkan::Device>& device, std::span<const WeightType> types,
                           const ProductSize& size, const Progress& progress, const Warn& warn)
{
    ProductTuning tuning(device, size);
    ProductRates rates = {};
    for (size_t i = 0; i < types.size(); ++i) {
        rates[format_number(types[i])] = tuning.measure(types[i], warn);
        progress(double(i + 1) / double(types.size()));
    }
    return rates;
}

}    // namespace hearth
