#include "engine/device/activations.h"

#include "engine/device/kernels.h"

#include <algorithm>

namespace hearth {

using vulkan::aligned;
using vulkan::Slice;
using vulkan::Use;

StepRoom step_room(const SessionShape& shape)
{
    // Forks share pages, and each has a table of them: there may be more of these than sequences of full length.
    const uint32_t tables = std::min(shape.batch, std::max(shape.few, shape.sequences));
    return {shape.batch, tables * shape.pages_of_one()};
}

namespace {

struct Wants {
    size_t layers = 0;
    bool watched = false;
};

/// f(slice, where, bytes) for each of them, in the order in which they lie.
template <class F>
void each_activation(const Config& c, const SessionShape& shape, const Wants& wants, F&& f)
{
    const uint64_t rows = shape.batch, few = shape.few, q_width = uint64_t(c.heads) * c.head_dim,
                   kv_width = uint64_t(c.kv_heads) * c.head_dim, neurons = prefill_neurons(c),
                   of_one = decode_neurons(c), groups = ceil_div(c.neurons, group_neurons);
    // A predictor's hidden layer may be as wide as its layer has neurons.
    const uint64_t widest = std::max<uint64_t>({c.dim, q_width, neurons});
    constexpr uint64_t word = 4;
    using A = Activations;

    f(&A::residual, Use::device, word * rows * c.dim);
    f(&A::head_residual, Use::device, word * rows * c.dim);
    f(&A::xn, Use::device, word * rows * c.dim);
    f(&A::qkv, Use::device, word * rows * (q_width + 2 * kv_width));
    f(&A::mixed, Use::device, word * rows * q_width);
    // In a parallel block both blocks' parts wait for the next layer's join.
    f(&A::parts, Use::device, word * (std::max(rows, few * most_slices) + (c.parallel ? rows : 0)) * c.dim);
    f(&A::h, Use::device, word * std::max(rows * neurons, few * of_one));
    f(&A::u, Use::device, word * std::max(rows * neurons, few * of_one));
    f(&A::high, Use::device, word * rows * ceil_div(widest, 4));
    f(&A::low, Use::device, word * rows * ceil_div(widest, 4));
    f(&A::scale, Use::device, word * rows * 4 * ceil_div(widest, 32));
    f(&A::half_high, Use::device, word * rows * 16 * ceil_div(widest, 32));
    f(&A::half_low, Use::device, word * rows * 16 * ceil_div(widest, 32));
    f(&A::half_scale, Use::device, word * rows);
    f(&A::attend_parts, Use::device, word * few * c.heads * most_attend_splits(shape.context) * (c.head_dim + 2));
    f(&A::attend_counters, Use::device, word * few * c.heads);
    f(&A::scores, Use::device, word * rows * c.experts);
    f(&A::routed, Use::device, word * rows * c.experts);
    f(&A::chosen, Use::device, c.experts ? word * few * 2 * of_one / group_neurons : 0);
    f(&A::row, Use::device, word * few * c.vocab);
    f(&A::best_parts, Use::device, word * few * 2 * most_best_parts);

    f(&A::input, Use::upload, word * rows * c.dim);
    f(&A::cold, Use::upload, word * rows * c.dim);
    f(&A::angles, Use::upload, std::max<uint64_t>(word * rows * c.rope_dim * (c.window_base > 0 ? 2 : 1), word));
    f(&A::step, Use::upload, step_room(shape).bytes());

    f(&A::published, Use::readback, word * rows * c.dim);
    f(&A::logits, Use::readback, word * std::min<uint64_t>(rows, head_rows) * c.vocab);
    f(&A::best, Use::readback, word * few);
    f(&A::broken, Use::readback, word);
    f(&A::fired, Use::readback, word * wants.layers * few * groups);
    f(&A::mask, Use::readback, word * wants.layers * few * groups);
    f(&A::watched_gates, Use::readback, wants.watched && !c.experts ? word * rows * groups * group_neurons : 0);
    f(&A::watched_residual, Use::readback, wants.watched ? word * rows * c.dim : 0);
    f(&A::expert_weights, Use::readback, word * wants.layers * rows * c.experts);
}

uint64_t bytes_of(const Config& c, const SessionShape& shape, const Wants& wants, Use use)
{
    uint64_t sum = 0;
    each_activation(c, shape, wants, [&](Slice Activations::*, Use where, uint64_t bytes) {
        if (where == use) sum += aligned(bytes);
    });
    return sum;
}

}    // namespace

uint64_t Activations::device_bytes(const Config& c, const SessionShape& shape)
{
    return bytes_of(c, shape, {}, Use::device);
}

Activations::Activations(const std::shared_ptr<vulkan::Device>& device, const Config& c, const SessionShape& shape,
                         size_t layers, bool watched)
{
    const Wants wants = {layers, watched};
    device_ = vulkan::Pool(device, bytes_of(c, shape, wants, Use::device), Use::device, "activations");
    upload_ = vulkan::Pool(device, bytes_of(c, shape, wants, Use::upload), Use::upload, "the host's results");
    readback_ = vulkan::Pool(device, bytes_of(c, shape, wants, Use::readback), Use::readback, "results for the host");
    each_activation(c, shape, wants, [&](Slice Activations::*slice, Use where, uint64_t bytes) {
        vulkan::Pool& pool = where == Use::device ? device_ : where == Use::upload ? upload_ : readback_;
        this->*slice = pool.take(bytes);
    });
}

}    // namespace hearth
