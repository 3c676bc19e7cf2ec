// What belongs to this machine and not to a model: the host's threads, the Vulkan devices with all that was compiled
// for them, the figures that `hearth tune` measured, and a ledger of how much of a device's memory was promised to
// whom.
#pragma once

#include "engine/plan/machine.h"

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace hearth {

namespace host {
class Team;
}
namespace vulkan {
class Device;
class Instance;
struct DeviceInfo;
struct Features;
}    // namespace vulkan

/// The figures of this machine with a device ("" for none), its driver and so many host threads; nothing where it was
/// not measured.
using MachineLookup =
    std::function<std::optional<Machine>(const std::string& device, const std::string& driver, unsigned threads)>;

struct WorkshopOptions {
    unsigned threads = 0;    // 0: one per physical core
    MachineLookup machine;
    bool validation = false;    // Vulkan validation layers; what they say: Workshop::take_validation_messages
};

/// Instruction sets of CPUs, from the slowest to the fastest, as `--cpu` has them, and how people write them.
struct InstructionSet {
    std::string_view id, name;
    bool here;    // this CPU has it
};
std::vector<InstructionSet> instruction_sets();
/// The one that the host's kernels use: the fastest that is here, or the chosen one.
InstructionSet instruction_set();
/// For the whole process, and before anything is opened. Throws Error where this CPU lacks it.
void choose_instruction_set(std::string_view id);

/// Bytes of a device's memory that are a model's for as long as this lives.
class Promise {
  public:
    Promise() = default;
    Promise(std::shared_ptr<uint64_t> sum, uint64_t bytes) : sum_(std::move(sum)), bytes_(bytes) { *sum_ += bytes_; }
    Promise(Promise&& other) noexcept { *this = std::move(other); }
    Promise& operator=(Promise&& other) noexcept
    {
        std::swap(sum_, other.sum_);
        std::swap(bytes_, other.bytes_);
        return *this;
    }
    ~Promise()
    {
        if (sum_) *sum_ -= bytes_;
    }

  private:
    std::shared_ptr<uint64_t> sum_;    // of all promises of the device
    uint64_t bytes_ = 0;
};

/// Several models may be open in one workshop, a draft and its target say: EngineOptions::workshop. They share what is
/// in it, and so they work in turns: while one loads or runs a batch, the host's threads follow its lead and the device
/// has its work, and no other may do either, not even from another thread. Memory is dealt out first come, first
/// served: the next model plans with what those that are open have left, so who opens the smaller one first gets both
/// there.
class Workshop {
  public:
    /// Opens nothing yet: threads, instance and devices come when they are first asked for, and stay.
    explicit Workshop(WorkshopOptions options = {});
    ~Workshop();

    host::Team& team();

    /// As vulkan::Instance::open has it.
    std::shared_ptr<vulkan::Instance> instance(std::string& why_not);
    /// One of that instance's; opened once for each set of features. Without cooperative matrices where it gets them
    /// wrong.
    std::shared_ptr<vulkan::Device> device(const vulkan::DeviceInfo& info, vulkan::Features features);
    /// The figures of this machine with that device, or with none.
    std::optional<Machine> figures(const vulkan::DeviceInfo* device);

    /// Bytes of the device's memory that models have been promised, and more of them for one. Whether they are there is
    /// for the planner to see to.
    uint64_t promised(const vulkan::Device& device) const;
    Promise promise(const vulkan::Device& device, uint64_t bytes);

    /// What the validation layers said since the last call.
    std::vector<std::string> take_validation_messages();

  private:
    struct State;
    std::unique_ptr<State> state_;
};

}    // namespace hearth
