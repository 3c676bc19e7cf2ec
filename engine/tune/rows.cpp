#include "engine/tune/rows.h"

#include "engine/tune/measure.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <numeric>
#include <set>

namespace hearth {

std::optional<RowVariant> fastest_right(std::span<const RowVariant> variants, const RowVariant& usual,
                                        std::span<const double> want, const RunVariant& run,
                                        const std::function<void(const RowVariant&)>& wrong)
{
    constexpr double infinite = std::numeric_limits<double>::infinity();
    constexpr double tolerance = 1e-3;    // eight bits of x without the lower plane are off by four times that
    double largest = 0;
    for (const double y : want) largest = std::max(largest, std::abs(y));

    std::map<RowVariant, double> tried;
    const auto seconds = [&](const RowVariant& v) {
        const auto [found, fresh] = tried.try_emplace(v, infinite);
        if (!fresh) return found->second;
        const VariantRun result = run(v);
        bool right = result.y.size() == want.size();
        for (size_t i = 0; right && i < want.size(); ++i)
            right = std::abs(result.y[i] - want[i]) <= tolerance * largest;    // false for NaN
        if (right) found->second = result.seconds;
        else wrong(v);
        return found->second;
    };
    using Copy = void (*)(RowVariant & to, const RowVariant& from);
    constexpr Copy properties[] = {
        [](RowVariant& to, const RowVariant& from) { to.int_dot = from.int_dot; },
        [](RowVariant& to, const RowVariant& from) { to.rows = from.rows; },
        [](RowVariant& to, const RowVariant& from) { to.subgroups = from.subgroups; },
        [](RowVariant& to, const RowVariant& from) { to.subgroup = from.subgroup; },
    };
    RowVariant best = usual;
    for (const Copy copy : properties)
        for (const RowVariant& v : variants) {
            RowVariant same = v;
            copy(same, best);
            if (same == best && seconds(v) < seconds(best)) best = v;
        }
    return seconds(best) < infinite ? std::optional(best) : std::nullopt;
}

SampleRows::SampleRows(WeightType type, uint32_t cols)
    : cols_(cols), row_size_(uint64_t(row_quads(type, cols)) * 16), rows_(count * row_size_), decoded_(count * cols_)
{
    std::vector<std::byte> file(row_bytes(type, cols));
    for (uint32_t r = 0; r < count; ++r) {
        fill_weights(file.data(), file.size(), r + 1);
        if (type == WeightType::mxfp4)    // most exponents make numbers without use
            for (size_t i = 0; i < file.size(); i += sizeof(BlockMXFP4)) file[i] = std::byte(120 + (r + i) % 8);
        lay_out_row(type, file.data(), cols, &rows_[r * row_size_]);
        host::kernels().of(type).decode(file.data(), &decoded_[r * cols_], cols);
    }
}

namespace {

class RowTuning {
  public:
    RowTuning(const std::shared_ptr<vulkan::Device>& device, uint64_t bytes)
        : device_(device), kernels_(device, Config()), queue_(device), uploader_(device),
          weights_(device, bytes, vulkan::Use::device, "the measurement"),
          input_(device, most_cols() * 8, vulkan::Use::device, "the measurement"),
          y_(device, most_rows() * sizeof(float), vulkan::Use::device, "the measurement"),
          result_(device, most_rows() * sizeof(float), vulkan::Use::readback, "the measurement"),
          step_(device, sizeof(gpu::Step), vulkan::Use::upload, "the measurement")
    {
        step_.mapped<gpu::Step>()->tokens = 1;    // all that a product reads of it
    }

    /// Fills the memory with rows of this type.
    void prepare(WeightType type, uint32_t cols)
    {
        type_ = type;
        cols_ = cols;
        stride_ = row_quads(type, cols);
        const uint64_t row_size = uint64_t(stride_) * 16;
        const std::vector<float> x = some_vector(cols);
        uploader_.upload(whole(input_), 1, cols * sizeof(float),
                         [&](std::byte* to, uint64_t, uint64_t) { std::memcpy(to, x.data(), cols * sizeof(float)); });
        queue_.run([&](vulkan::Commands& c) {
            c.stage("tune", 0, 0);
            c.dispatch(kernels_.quantise, {ceil_div(cols / 32, 64)},
                       {.x = input_.address(), .planes = planes(), .n = cols});
        });

        const SampleRows sample(type, cols);
        products_.clear();
        for (uint32_t r = 0; r < SampleRows::count; ++r)
            products_.push_back(std::inner_product(x.begin(), x.end(), sample.decoded(r), 0.0));
        uploader_.upload(whole(weights_), rows_there(), row_size, [&](std::byte* to, uint64_t first, uint64_t count) {
            for (uint64_t r = first; r < first + count; ++r, to += row_size) std::memcpy(to, sample.row(r), row_size);
        });
    }

    /// Rows of a matrix of this class, as far as the memory goes.
    uint32_t rows_of(const MatrixClass& c) const { return uint32_t(std::min<uint64_t>(c.rows, rows_there())); }

    std::optional<RowVariant> fastest(const MatrixClass& c, const Warn& warn)
    {
        const uint32_t rows = rows_of(c), matrices = uint32_t(std::min<uint64_t>(rows_there() / rows, 8));
        std::vector<double> want(rows);
        for (uint32_t r = 0; r < rows; ++r)
            want[r] = products_[((matrices - 1) * uint64_t(rows) + r) % SampleRows::count];
        const auto run = [&](const RowVariant& v) {
            std::fill_n(result_.mapped<float>(), rows, NAN);
            queue_.run([&](vulkan::Commands& commands) { copy(commands, result_, y_, rows); });
            const double all = queue_.time([&](vulkan::Commands& commands) {
                for (uint32_t m = 0; m < matrices;
                     ++m) {    // one after the other, as a model's layers do, so that no cache holds them
                    commands.stage("tune", 0, 0);
                    commands.dispatch(kernels_.matvec(type_, v), row_groups(rows, v),
                                      {.step = step_.address(),
                                       .weight = weights_.address() + uint64_t(m) * rows * stride_ * 16,
                                       .x = input_.address(),
                                       .planes = planes(),
                                       .y = y_.address(),
                                       .rows = rows,
                                       .cols = cols_,
                                       .stride = stride_});
                }
            });
            queue_.run([&](vulkan::Commands& commands) { copy(commands, y_, result_, rows); });
            return VariantRun{{result_.mapped<float>(), result_.mapped<float>() + rows}, all};
        };
        std::vector<RowVariant> variants = row_variants(*device_, type_);
        const RowVariant usual = usual_variant(*device_, type_);
        // A software device takes longer to compile a kernel than to run it, and the size of a workgroup means little
        // to it.
        if (device_->info().kind == vulkan::DeviceKind::software)
            std::erase_if(variants, [&](const RowVariant& v) { return v.subgroups != usual.subgroups || v.rows == 1; });
        return fastest_right(variants, usual, want, run, [&](const RowVariant& v) {
            if (!wrong_.emplace(type_, v).second) return;    // of another class
            warn(fmt::format("{} gives wrong results for {} with {}: that variant is not used; update its driver",
                             device_->info().name, format_of(type_).name, v.name()));
        });
    }

  private:
    static vulkan::Slice whole(const vulkan::Buffer& buffer)
    {
        return {buffer.handle(), 0, buffer.bytes(), buffer.address(), nullptr};
    }
    static void copy(vulkan::Commands& commands, const vulkan::Buffer& from, const vulkan::Buffer& to, uint32_t floats)
    {
        commands.stage("tune", 0, 0);
        commands.copy(whole(from), whole(to), floats * sizeof(float));
    }
    static uint64_t most_cols() { return std::ranges::max(matrix_classes, {}, &MatrixClass::cols).cols; }
    static uint64_t most_rows() { return std::ranges::max(matrix_classes, {}, &MatrixClass::rows).rows; }
    uint64_t rows_there() const { return weights_.bytes() / (uint64_t(stride_) * 16); }
    gpu::Planes planes() const    // behind x: a byte, a byte, and 16 for 32 numbers
    {
        const uint64_t high = input_.address() + most_cols() * 4, low = high + most_cols();
        return {high, low, low + most_cols()};
    }

    std::shared_ptr<vulkan::Device> device_;
    GpuKernels kernels_;
    MeasuredQueue queue_;
    vulkan::Uploader uploader_;
    vulkan::Buffer weights_, input_, y_, result_, step_;    // result_ is the host's
    WeightType type_ = WeightType::f32;
    uint32_t cols_ = 0, stride_ = 0;
    std::vector<double> products_;    // of the different rows with x
    std::set<std::pair<WeightType, RowVariant>> wrong_;
};

}    // namespace

RowVariants tune_rows(const std::shared_ptr<vulkan::Device>& device, uint64_t bytes, const Progress& progress,
                      const Warn& warn)
{
    RowTuning tuning(device, bytes);
    RowVariants out;
    for (size_t f = 0; f < std::size(weight_formats); ++f) {
        for (size_t c = 0; c < std::size(matrix_classes); ++c) {
            const MatrixClass& now = matrix_classes[c];
            const bool prepared = c > 0 && now.cols == matrix_classes[c - 1].cols;
            if (!prepared) tuning.prepare(weight_formats[f].type, now.cols);
            const bool same =
                prepared && tuning.rows_of(now) == tuning.rows_of(matrix_classes[c - 1]);    // in a small memory
            out.choice[c][f] = same ? out.choice[c - 1][f] : tuning.fastest(now, warn);
        }
        progress(double(f + 1) / std::size(weight_formats));
    }
    return out;
}

}    // namespace hearth
