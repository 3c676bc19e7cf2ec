// Measures this computer once, with the very kernels that decode runs: see Machine.
#pragma once

#include "engine/plan/machine.h"
#include "engine/tune/rows.h"
#include "host/arena.h"

namespace hearth {

/// Takes seconds. `device` may be null. `progress` hears the share done, `warn` what is wrong with the device.
Machine measure_machine(host::Team& team, const std::shared_ptr<vulkan::Device>& device, const Progress& progress,
                        const Warn& warn);

}    // namespace hearth
