// What a batch leaves in memory on its way through the layers: one list of vectors, with what each takes. Sizes are for
// the largest batch; (a, b) is a shape as in shaders/kernels.h.
#pragma once

#include "engine/device/step.h"
#include "engine/model/weights.h"
#include "engine/plan/session_shape.h"
#include "engine/plan/steps.h"
#include "engine/vulkan/device.h"

#include <memory>

namespace hearth {

/// Rows of logits that one submit computes.
inline constexpr uint32_t head_rows = 32;

/// Room for what a batch says of its rows.
StepRoom step_room(const SessionShape& shape);

struct Activations {
    /// `watched`: inputs and gates of the layers come to the host. `layers`: on the device.
    Activations(const std::shared_ptr<vulkan::Device>& device, const Config& config, const SessionShape& shape,
                size_t layers, bool watched);

    /// Device memory that they take.
    static uint64_t device_bytes(const Config& config, const SessionShape& shape);

    /// Of the vector that was quantised, and of the one that was halved.
    gpu::Planes planes() const { return {high.address, low.address, scale.address}; }
    gpu::Planes halves() const { return {half_high.address, half_low.address, half_scale.address}; }

    // On the device.
    vulkan::Slice residual, head_residual, xn;        // (batch, dim)
    vulkan::Slice qkv;                                // (batch, heads, head_dim), then keys and values likewise
    vulkan::Slice mixed;                              // (batch, heads, head_dim), what attention gives
    vulkan::Slice parts;                              // (parts, batch, dim), as of gpu::Join
    vulkan::Slice h, u;                               // (batch, neurons)
    vulkan::Slice high, low, scale;                   // as of gpu::Planes, of the widest of these vectors, in integers
    vulkan::Slice half_high, half_low, half_scale;    // and in halves
    vulkan::Slice attend_parts, attend_counters;
    vulkan::Slice scores, routed;     // (batch, experts)
    vulkan::Slice chosen;             // as of gpu::Route
    vulkan::Slice row, best_parts;    // (few, vocab) logits that stay here, and what gpu::Best finds in parts of them

    // Written by the host.
    vulkan::Slice input, cold;    // (batch, dim)
    vulkan::Slice angles;         // as of gpu::Rope; of a model with a window_base both sets
    vulkan::Slice step;           // as write_step writes it

    // Read by the host.
    vulkan::Slice published;           // (batch, dim)
    vulkan::Slice logits;              // (head_rows, vocab)
    vulkan::Slice best, broken;        // (few) and (1) words
    vulkan::Slice fired, mask;         // (layers, few, groups) words
    vulkan::Slice watched_gates;       // (batch, slots * group_neurons)
    vulkan::Slice watched_residual;    // (batch, dim)
    vulkan::Slice expert_weights;      // (layers, batch, experts)

  private:
    vulkan::Pool device_, upload_, readback_;
};

}    // namespace hearth
