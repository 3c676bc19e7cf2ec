#include "engine/workshop.h"

#include "engine/device/matrix_check.h"
#include "engine/error.h"
#include "engine/system/limits.h"
#include "engine/vulkan/device.h"
#include "host/arena.h"
#include "host/kernels.h"

#include <map>
#include <utility>

namespace hearth {

std::vector<InstructionSet> instruction_sets()
{
    std::vector<InstructionSet> sets;
    for (const host::IsaName& set : host::isa_names)
        sets.push_back({set.id, set.name, host::kernels(set.isa) != nullptr});
    return sets;
}

InstructionSet instruction_set() { return {host::kernels().id, host::kernels().name, true}; }

void choose_instruction_set(std::string_view id)
{
    std::string here;
    for (const host::IsaName& set : host::isa_names) {
        const host::Kernels* const kernels = host::kernels(set.isa);
        if (kernels && set.id == id) return host::choose_kernels(*kernels);
        if (kernels) here += (here.empty() ? "" : ", ") + std::string(set.id);
    }
    throw Error("this CPU has no {}: name one of {}, or leave --cpu out", id, here);
}

struct Workshop::State {
    explicit State(WorkshopOptions o) : options(std::move(o)) {}

    WorkshopOptions options;
    std::optional<host::Team> team;
    std::shared_ptr<vulkan::Instance> instance;
    std::map<std::pair<VkPhysicalDevice, vulkan::Features>, std::shared_ptr<vulkan::Device>> devices;
    std::map<VkPhysicalDevice, std::shared_ptr<uint64_t>> promised;    // by the chip, whatever features it is used with
};

Workshop::Workshop(WorkshopOptions options) : state_(std::make_unique<State>(std::move(options))) {}
Workshop::~Workshop() = default;

host::Team& Workshop::team()
{
    if (!state_->team) state_->team.emplace(threads_for(state_->options.threads));
    return *state_->team;
}

std::shared_ptr<vulkan::Instance> Workshop::instance(std::string& why_not)
{
    if (!state_->instance)
        state_->instance = vulkan::Instance::open({.validation = state_->options.validation}, why_not);
    return state_->instance;
}

std::shared_ptr<vulkan::Device> Workshop::device(const vulkan::DeviceInfo& info, vulkan::Features features)
{
    HEARTH_CHECK(state_->instance);
    auto& device = state_->devices[{info.handle, features}];
    if (device) return device;
    device = vulkan::Device::open(state_->instance, info, features);
    if (device->features().matrices && !multiplies_matrices(device)) {
        vulkan::Features without = features;
        without.matrices = false;
        device = this->device(info, without);
    }
    return device;
}

std::optional<Machine> Workshop::figures(const vulkan::DeviceInfo* device)
{
    if (!state_->options.machine) return {};
    std::optional<Machine> machine = state_->options.machine(device ? device->name : "", device ? device->driver : "",
                                                             threads_for(state_->options.threads));
    if (machine && device && !machine->has_device()) machine.reset();    // they say nothing of it
    return machine;
}

uint64_t Workshop::promised(const vulkan::Device& device) const
{
    const auto found = state_->promised.find(device.info().handle);
    return found == state_->promised.end() ? 0 : *found->second;
}

Promise Workshop::promise(const vulkan::Device& device, uint64_t bytes)
{
    auto& sum = state_->promised[device.info().handle];
    if (!sum) sum = std::make_shared<uint64_t>(0);
    return Promise(sum, bytes);
}

std::vector<std::string> Workshop::take_validation_messages()
{
    return state_->instance ? state_->instance->take_messages() : std::vector<std::string>();
}

}    // namespace hearth
