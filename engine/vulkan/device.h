// A thin Vulkan: instance, device, memory by intent. It knows buffers and kernels, no models.
#pragma once

#include "engine/error.h"
#include "engine/vulkan/api.h"

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace hearth::vulkan {

/// Throws Error with the call's name and what its result means for the user.
void check_result(VkResult result, const char* call);

enum class DeviceKind { discrete, integrated, other, software };

/// Optional abilities of a device; each has a fallback and can be switched off by hand.
struct Features {
    bool fp16 = false;        // arithmetic in half precision
    bool int_dot = false;     // integer dot product of packed bytes
    bool int64 = false;       // integers of 64 bits, to compute addresses with
    bool matrices = false;    // cooperative matrices of halves, summed in floats

    auto operator<=>(const Features&) const = default;
};

/// Of a product that the device makes of cooperative matrices: (m, k) times (k, n).
struct MatrixSize {
    uint32_t m = 0, n = 0, k = 0;
};

struct DeviceInfo {
    VkPhysicalDevice handle = VK_NULL_HANDLE;
    std::string name;
    std::string driver;                 // name and version
    uint32_t vendor = 0, number = 0;    // by which the PCI bus knows it
    std::string luid;                   // by which Windows knows it until it starts anew, "0x1234"; empty elsewhere
    bool layered = false;               // the driver goes through Direct3D
    DeviceKind kind = DeviceKind::other;
    uint64_t memory = 0;                    // bytes of the largest device-local heap
    uint64_t free_memory = 0;               // of it, as the driver reports; `memory` where it does not
    uint64_t window = 0;                    // bytes of its memory that the host can write to
    uint32_t subgroup_size = 0;             // of kernels that name no other: usual_subgroups
    uint32_t heavy_subgroup_size = 0;       // of those that need many registers
    uint32_t reported_subgroup_size = 0;    // what the driver gives to who asks for none
    uint32_t min_subgroup_size = 0, max_subgroup_size = 0;
    std::vector<uint32_t> subgroup_sizes;    // that a kernel can ask for
    bool adds_offsets = false;               // of 32 bits to an address as it loads, at no cost
    Features features;
    MatrixSize matrix;             // if features.matrices
    uint32_t max_workgroup = 0;    // invocations
    uint32_t max_subgroups = 0;    // of a workgroup
    uint64_t max_buffer = 0;       // bytes of one buffer
    std::string unfit;             // why this program cannot use it; empty where it can
};

std::string_view kind_name(DeviceKind kind);

/// Invocations of a subgroup where nobody has measured.
struct Subgroups {
    uint32_t usual, heavy;    // as DeviceInfo has them
};
/// What the driver `reported`; but where that is more than its compiler has registers for, others of the `sizes` that a
/// kernel can ask for.
Subgroups usual_subgroups(uint32_t vendor, uint32_t reported, std::span<const uint32_t> sizes);

/// GB/s at which a device reads weights, as it was measured; 0 where it was not.
using MeasuredRate = std::function<double(const DeviceInfo&)>;

/// Which of `devices` is meant by `wanted`: "auto" (the best GPU; never a software device), an index, a LUID, or a part
/// of a name (case does not matter). The best is a discrete one before an integrated one, then that of the most memory;
/// but of two that were measured the faster. A GPU that is there twice is taken without the layer over Direct3D.
struct DeviceChoice {
    std::optional<size_t> index;
    std::string reason;    // one clause: why this one, or why none
};
/// Throws Error where `wanted` names no device, an unfit one, or several.
DeviceChoice choose_device(const std::vector<DeviceInfo>& devices, std::string_view wanted,
                           const MeasuredRate& measured = {});

/// Of the memory that device buffers lie in, in bytes: what the driver leaves to this program, and what it holds.
struct MemoryState {
    uint64_t budget = 0, used = 0;
};

struct InstanceOptions {
    bool validation = false;    // Khronos validation with synchronization validation; messages are kept
};

class Instance {
  public:
    /// nullptr, and the reason in `why_not`, where the machine has no Vulkan.
    static std::shared_ptr<Instance> open(const InstanceOptions& options, std::string& why_not);
    ~Instance();

    const std::vector<DeviceInfo>& devices() const { return devices_; }
    const InstanceApi& api() const { return api_; }

    /// What the validation layers said since the last call.
    std::vector<std::string> take_messages();

  private:
    Instance() = default;
    bool look_at_devices(std::string& why_not);

    InstanceApi api_;
    VkInstance handle_ = VK_NULL_HANDLE;
    VkDebugUtilsMessengerEXT messenger_ = VK_NULL_HANDLE;
    std::vector<DeviceInfo> devices_;
    std::mutex mutex_;
    std::vector<std::string> messages_;
    friend struct MessageSink;
};

/// What a buffer is for; decides the memory it lies in.
enum class Use {
    device,      // read and written by kernels: the device's own memory
    upload,      // written by the host, read by kernels and copies
    readback,    // written by kernels, read by the host: cached, coherent host memory
};

class Device;

/// Memory with an address on the device; `mapped` on the host unless Use::device. Move-only.
class Buffer {
  public:
    Buffer() = default;
    Buffer(std::shared_ptr<Device> device, uint64_t bytes, Use use, std::string_view what);
    Buffer(Buffer&& other) noexcept { *this = std::move(other); }
    Buffer& operator=(Buffer&& other) noexcept;
    ~Buffer();

    uint64_t bytes() const { return bytes_; }
    uint64_t address() const { return address_; }
    VkBuffer handle() const { return handle_; }
    template <class T>
    T* mapped() const
    {
        return static_cast<T*>(mapped_);
    }

  private:
    std::shared_ptr<Device> device_;
    VkBuffer handle_ = VK_NULL_HANDLE;
    VkDeviceMemory memory_ = VK_NULL_HANDLE;
    uint64_t bytes_ = 0, address_ = 0;
    void* mapped_ = nullptr;
};

/// A part of a buffer.
struct Slice {
    VkBuffer buffer = VK_NULL_HANDLE;
    uint64_t offset = 0, bytes = 0, address = 0;
    void* mapped = nullptr;

    /// So many bytes of it, from the first-th on.
    Slice part(uint64_t first, uint64_t count) const
    {
        return {buffer, offset + first, count, address + first,
                mapped ? static_cast<std::byte*>(mapped) + first : nullptr};
    }
    /// All from there on.
    Slice from(uint64_t first) const { return part(first, bytes - first); }
};

inline constexpr uint64_t slice_alignment = 256;
constexpr uint64_t aligned(uint64_t bytes) { return (bytes + slice_alignment - 1) / slice_alignment * slice_alignment; }

/// One buffer handed out in slices, in order.
class Pool {
  public:
    Pool() = default;
    Pool(std::shared_ptr<Device> device, uint64_t bytes, Use use, std::string_view what)
        : buffer_(std::move(device), bytes, use, what)
    {
    }
    Slice take(uint64_t bytes);
    uint64_t bytes() const { return buffer_.bytes(); }

  private:
    Buffer buffer_;
    uint64_t taken_ = 0;
};

/// Where work runs: kernels one after the other, or copies beside them. Where a device has no queue for copies alone,
/// both are the same queue.
enum class Lane { kernels, copies };

class Pipeline;    // engine/vulkan/kernel.h

/// What a pipeline is compiled of: a kernel, its specialization constants 0, 1, ..., the size of its subgroups (0: the
/// device's usual one), and whether it can be dispatched in parts, a range of its workgroups each.
struct PipelineKey {
    std::string name;
    std::vector<uint32_t> constants = {};
    uint32_t subgroup = 0;
    bool in_parts = false;

    auto operator<=>(const PipelineKey&) const = default;
};

/// Whether a device asks its driver's compiler what becomes of each kernel (Pipeline::statistics, Pipeline::code); then
/// no pipeline comes from a cache.
enum class Statistics { none, kept, with_code };

class Device {
  public:
    /// `features` may switch off what the device has, not add to it.
    static std::shared_ptr<Device> open(const std::shared_ptr<Instance>& instance, const DeviceInfo& info,
                                        Features features, Statistics statistics = Statistics::none);
    ~Device();

    const DeviceInfo& info() const { return info_; }
    const Features& features() const { return features_; }
    Statistics statistics() const { return statistics_; }
    const DeviceApi& api() const { return api_; }
    VkDevice handle() const { return handle_; }
    VkQueue queue(Lane lane) const { return queues_[size_t(lane)]; }
    VkCommandPool command_pool(Lane lane) const { return command_pools_[size_t(lane)]; }
    VkPipelineCache pipeline_cache() const { return pipeline_cache_; }
    /// A kernel as Pipeline's constructor makes it, compiled once for as long as the device is open.
    const Pipeline& pipeline(const PipelineKey& key, uint32_t args_bytes);
    double timestamp_ns() const { return timestamp_ns_; }          // of one tick; 0 where the queue has no timestamps
    uint64_t timestamp_mask() const { return timestamp_mask_; }    // the bits that count

    /// As the driver has it now; nothing where it does not say.
    std::optional<MemoryState> memory_state() const;
    /// Bytes that are free now, those that are allocated here among them; as of the start where the driver says
    /// nothing.
    uint64_t free_memory() const;
    /// Bytes of device memory (Use::device) allocated now.
    uint64_t allocated() const { return allocated_; }
    /// The most that were at one time since this was asked last, or since the device was opened.
    uint64_t take_most_allocated() { return std::exchange(most_allocated_, allocated_); }

  private:
    friend class Buffer;
    Device() = default;
    void open_pipeline_cache();
    void save_pipeline_cache() const;

    std::shared_ptr<Instance> instance_;
    DeviceInfo info_;
    Features features_;
    Statistics statistics_ = Statistics::none;
    DeviceApi api_;
    VkDevice handle_ = VK_NULL_HANDLE;
    uint32_t families_[2] = {};    // of the lanes; may be the same
    VkQueue queues_[2] = {};
    VkCommandPool command_pools_[2] = {};
    VkPipelineCache pipeline_cache_ = VK_NULL_HANDLE;
    std::string cache_path_;
    size_t cache_bytes_ = 0;
    std::map<PipelineKey, std::shared_ptr<const Pipeline>> pipelines_;
    double timestamp_ns_ = 0;
    uint64_t timestamp_mask_ = 0;
    VkPhysicalDeviceMemoryProperties memory_ = {};
    bool has_budget_ = false;
    uint64_t allocated_ = 0, most_allocated_ = 0;
};

}    // namespace hearth::vulkan
