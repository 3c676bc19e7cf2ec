// Measures this computer once, with the very kernels that decode runs: see Machine.
#pragma once

#include "engine/plan/machine.h"
#include "engine/vulkan/device.h"
#include "host/arena.h"

#include <functional>
#include <memory>

namespace hearth {

/// Takes seconds. `device` may be null. `progress` hears the share done.
Machine measure_machine(host::Team& team, const std::shared_ptr<vulkan::Device>& device, const std::function<void(double)>& progress);

}    // namespace hearth
