// What would stop this machine from running models well. Facts are read in one place, and judged in another by a pure
// function, so that tests can bring any machine.
#pragma once

#include "engine/engine.h"

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace hearth::tools {

/// A GPU as the bus has it, whether or not Vulkan sees it.
struct BusGpu {
    std::string slot;    // "0000:01:00.0"
    uint32_t vendor = 0, number = 0;
    std::string kernel_driver;             // "amdgpu"; empty: no driver of the kernel has taken it
    uint64_t window = 0;                   // bytes of the largest region through which the CPU reaches it
    uint32_t lanes = 0, most_lanes = 0;    // of its link: now, and by its own make; 0: the system does not say

    bool operator==(const BusGpu&) const = default;
};

/// How some processors choose their clock.
struct CpuClock {
    std::string driver, governor, preference;    // "amd-pstate-epp", "powersave", "balance_performance"
    uint64_t limit_khz = 0, most_khz = 0;        // what is allowed, and what the processor could do

    auto operator<=>(const CpuClock&) const = default;
};

/// Where a model's file lies.
struct Storage {
    std::string name, filesystem;    // "sda1", "ext4"
    bool rotational = false;         // a disk that turns
    bool usb = false;
    bool remote = false;    // over a network, or another system's folder
};

/// A layer that the Vulkan loader puts between programs and drivers without being asked.
struct ImplicitLayer {
    std::string name;
    std::string off;    // the environment variable that keeps it away; empty where it has none
};

struct SystemFacts {
    std::string system;                                            // "Linux 6.1.0-18-amd64"
    std::optional<uint64_t> memory, available, swap, swap_used;    // bytes
    unsigned cores = 0, allowed_cores = 0;    // physical ones, and of them those that this process may run on
    std::optional<double> quota;              // processors' worth of time that its control groups pay for
    std::vector<CpuClock> clocks;             // the different ones
    std::string platform_profile;             // of the firmware: "low-power"
    std::optional<bool> on_mains;
    std::vector<BusGpu> gpus;
    std::vector<std::string> closed_nodes;       // files of /dev/dri that this user may not open
    std::optional<std::string> nvidia_module;    // the version of NVIDIA's kernel module, where it is loaded
    std::vector<std::string> vulkan_drivers;     // names of the manifests of installed ones
    std::vector<std::pair<std::string, std::string>> environment;    // variables that change what Vulkan is
    std::vector<ImplicitLayer> layers;
    std::optional<Storage> storage;
};

/// The value of an environment variable; empty where it is not set.
using Environment = std::function<std::string(const std::string&)>;

/// Reads Linux' trees below `root`; elsewhere what is not known stays unknown. `model`: an absolute path, or empty.
SystemFacts read_system_facts(const std::filesystem::path& root, const Environment& environment,
                              const std::filesystem::path& model);

/// What `hearth tune` has measured, as far as it tells whether that still holds.
struct MeasuredMachine {
    std::string device, driver, system;
    unsigned threads = 0;
};

/// A model and what became of planning it.
struct ModelState {
    std::string name;
    std::string problem;            // a sentence: why it cannot be run; empty where it can
    uint64_t bytes = 0;             // of the file
    uint64_t device_bytes = 0;      // that the plan takes on the device
    bool firing_matters = false;    // a profile would make the plan better
    bool has_profile = false, profile_is_older = false;
};

struct DoctorFacts {
    SystemFacts system;
    DeviceList vulkan;    // `chosen` is the device that would be used
    std::vector<MeasuredMachine> measured;
    unsigned threads = 0;
    std::optional<ModelState> model;
};

/// Of this machine, and of the model where there is one.
DoctorFacts doctor_facts(const EngineOptions& options);

/// What was looked at, as name and value.
std::vector<std::pair<std::string, std::string>> described(const DoctorFacts& facts);

struct Finding {
    bool stops;          // the GPU or the model cannot be used, or is many times slower; else: somewhat slower
    std::string what;    // a clause
    std::string fix;     // what to do
};

/// What is wrong, the worst first. Pure.
std::vector<Finding> findings(const DoctorFacts& facts);

}    // namespace hearth::tools
