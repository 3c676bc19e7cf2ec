#include "engine/device/matrix_check.h"

#include "engine/device/kernels.h"
#include "host/kernels.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace hearth {

using vulkan::Buffer, vulkan::Use;

bool multiplies_matrices(const std::shared_ptr<vulkan::Device>& device)
{
    // No size is a multiple of a tile's. All numbers are whole; those of x have more bits than a half, and sums no more
    // than a float.
    constexpr uint32_t rows = 150, inner = 72, most_tokens = 70;
    const auto weight = [](uint32_t r, uint32_t i) { return int((7 * r + 5 * i) % 31) - 15; };
    const auto number = [](uint32_t t, uint32_t i) { return int((8191 * t + 1031 * i) % 16381) - 8190; };

    const uint32_t stride = row_quads(WeightType::f16, inner), pitch = ceil_div(inner, 32) * 32;
    const auto buffer = [&](uint64_t bytes) { return Buffer(device, bytes, Use::readback, "a check"); };
    Buffer weights = buffer(uint64_t(rows) * stride * 16), x = buffer(sizeof(float) * most_tokens * inner),
           y = buffer(sizeof(float) * most_tokens * rows), high = buffer(2 * most_tokens * pitch),
           low = buffer(2 * most_tokens * pitch), scale = buffer(sizeof(float) * most_tokens),
           step = buffer(sizeof(gpu::Step));
    std::fill_n(weights.mapped<uint16_t>(), weights.bytes() / sizeof(uint16_t), 0);
    std::array<float, inner> row;
    for (uint32_t r = 0; r < rows; ++r) {
        for (uint32_t i = 0; i < inner; ++i) row[i] = float(weight(r, i));
        host::kernels().to_f16(row.data(), weights.mapped<uint16_t>() + r * stride * 8, inner);
    }
    for (uint32_t t = 0; t < most_tokens; ++t)
        for (uint32_t i = 0; i < inner; ++i) x.mapped<float>()[t * inner + i] = float(number(t, i));

    GpuKernels kernels(device, Config());
    vulkan::Queue queue(device);
    const gpu::Planes halves = {high.address(), low.address(), scale.address()};
    for (const uint32_t tokens : {33u, most_tokens}) {
        std::fill_n(y.mapped<float>(), y.bytes() / sizeof(float), NAN);
        *step.mapped<gpu::Step>() = {.tokens = tokens};
        vulkan::Commands commands(device, false);
        commands.stage("halve", 0, 0);
        commands.dispatch(kernels.halve, {tokens}, {.x = x.address(), .planes = halves, .width = inner});
        commands.stage("multiply", 0, 0);
        const auto [kernel, groups] = kernels.matmul(WeightType::f16, false, Product::matrices, rows, tokens);
        commands.dispatch(kernel, groups,
                          {.step = step.address(),
                           .weight = weights.address(),
                           .planes = halves,
                           .y = y.address(),
                           .rows = rows,
                           .inner = inner,
                           .stride = stride,
                           .x_stride = inner,
                           .y_stride = rows});
        commands.end();
        const vulkan::Queue::Work work[] = {{&commands}};
        queue.wait(queue.submit(work));
        for (uint32_t t = 0; t < tokens; ++t)
            for (uint32_t r = 0; r < rows; ++r) {
                int64_t sum = 0;
                for (uint32_t i = 0; i < inner; ++i) sum += int64_t(weight(r, i)) * number(t, i);
                const double error = std::abs(y.mapped<float>()[t * rows + r] - double(sum));
                if (!(error <= 8)) return false;    // of sums up to 9e6; without the low halves it is hundreds
            }
    }
    return true;
}

}    // namespace hearth
