// A compiled kernel together with the type of its arguments, so that the wrong struct does not compile.
#pragma once

#include "engine/vulkan/device.h"
#include "shaders/kernels.h"

#include <map>
#include <memory>
#include <span>

namespace hearth::vulkan {

/// Whether the compiler that the program was built with knew enough for this kernel.
bool has_kernel(std::string_view name);

/// A compute pipeline whose only interface is a push-constant struct. It belongs to its device: Device::pipeline.
class Pipeline {
  public:
    /// Throws Error if the driver refuses the kernel.
    Pipeline(const Device& device, const PipelineKey& key, uint32_t args_bytes);
    ~Pipeline();
    Pipeline(const Pipeline&) = delete;
    Pipeline& operator=(const Pipeline&) = delete;

    VkPipeline handle() const { return handle_; }
    VkPipelineLayout layout() const { return layout_; }
    const PipelineKey& key() const { return key_; }
    const std::string& name() const { return key_.name; }    // of its module

    /// What the driver's compiler says of this kernel, in the driver's words: "VGPRs", "Spill Count", ... Only where
    /// the device keeps Statistics.
    std::map<std::string, double> statistics() const;
    /// What it made of the kernel, as text for people: the last of its stages, which is the chip's own code. Only
    /// where the device keeps Statistics::with_code.
    std::string code() const;

  private:
    /// Whole, if empty: its destructor runs if the rest throws.
    Pipeline(const Device& device, const PipelineKey& key) : device_(device), key_(key) {}
    const Device& device_;
    PipelineKey key_;
    VkPipelineLayout layout_ = VK_NULL_HANDLE;
    VkPipeline handle_ = VK_NULL_HANDLE;
};

template <class Args>
class Kernel {
  public:
    static_assert(sizeof(Args) <= 128, "push constants of 128 bytes are all that Vulkan guarantees");

    Kernel() = default;
    Kernel(const std::shared_ptr<Device>& device, std::string_view name, std::initializer_list<uint32_t> constants = {},
           uint32_t subgroup = 0)
        : device_(device),
          pipeline_(&device->pipeline({std::string(name), constants, subgroup}, uint32_t(sizeof(Args))))
    {
    }
    const Pipeline& pipeline() const { return *pipeline_; }

  private:
    std::shared_ptr<Device> device_;
    const Pipeline* pipeline_ = nullptr;
};

/// Name and offset of each member of a module's push-constant struct, as the compiler laid it out. For the test that
/// C++ lays it out alike.
struct ReflectedMember {
    std::string name;
    uint32_t offset;
};
std::vector<ReflectedMember> reflect_push_constants(std::string_view kernel);

}    // namespace hearth::vulkan
