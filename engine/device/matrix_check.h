// Whether a device can be trusted with cooperative matrices.
#pragma once

#include "engine/vulkan/device.h"

#include <memory>

namespace hearth {

/// Multiplies matrices whose product is known, in both sizes of tiles: drivers are young there, and a wrong one says
/// nothing. A few milliseconds, once the kernels are compiled. The device has them.
bool multiplies_matrices(const std::shared_ptr<vulkan::Device>& device);

}    // namespace hearth
