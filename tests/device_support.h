// A device for tests, under the validation layers, with and without its optional features.
#pragma once

#include "engine/device/step.h"
#include "engine/plan/placement.h"
#include "engine/vulkan/commands.h"
#include "tests/support.h"

#include <cstring>
#include <numeric>

namespace hearth::tests {

/// What the tests share: a software device takes longer to compile kernels than to run them. Opened and closed by main,
/// which knows the options; by the time static objects die, the driver may have gone before them.
inline std::shared_ptr<Workshop> workshop;

inline std::shared_ptr<vulkan::Instance> test_instance()
{
    std::string why_not;
    auto instance = workshop->instance(why_not);
    INFO(why_not);
    REQUIRE(instance);
    return instance;
}

inline constexpr vulkan::Features all_features = {.fp16 = true, .int_dot = true, .int64 = true, .matrices = true};

/// One device per set of features, open until the end.
inline std::shared_ptr<vulkan::Device> test_device(vulkan::Features features = all_features)
{
    const auto instance = test_instance();
    const auto choice = vulkan::choose_device(instance->devices(), device_name);
    return workshop->device(instance->devices()[*choice.index], features);
}

/// Fails the test if the validation layers have spoken.
inline void check_silence()
{
    for (const std::string& message : workshop->take_validation_messages()) FAIL_CHECK(message);
}

/// With all of them, and with none, so that each kernel is tested with and without its own.
inline constexpr vulkan::Features feature_sets[] = {all_features, {}};

/// A buffer that host and device both see.
template <class T>
class Shared {
  public:
    Shared(const std::shared_ptr<vulkan::Device>& device, size_t count)
        : buffer_(device, std::max<size_t>(count, 4) * sizeof(T), vulkan::Use::readback, "a test"), count_(count)
    {
    }
    Shared(const std::shared_ptr<vulkan::Device>& device, const std::vector<T>& values) : Shared(device, values.size())
    {
        std::copy(values.begin(), values.end(), begin());
    }
    uint64_t address() const { return buffer_.address(); }
    T* begin() { return buffer_.template mapped<T>(); }
    T& operator[](size_t i) { return begin()[i]; }
    std::vector<T> values(size_t first, size_t count) { return {begin() + first, begin() + first + count}; }
    std::vector<T> values() { return values(0, count_); }

  private:
    vulkan::Buffer buffer_;
    size_t count_;
};

/// Tokens of one sequence at positions `first` and on, whose pages lie one behind the other; the last `wanted` of them
/// have their logits computed.
class TestStep {
  public:
    TestStep(const std::shared_ptr<vulkan::Device>& device, uint32_t tokens, uint32_t first = 0, uint32_t tile = 1,
             uint32_t wanted = 0, uint64_t broken = 0)
        : pages_(ceil_div(first + tokens + 1, host::page_positions)), room_{tokens + 1, uint32_t(pages_.size())},
          memory_(device, room_.bytes())
    {
        std::iota(pages_.begin(), pages_.end(), 0);
        std::vector<host::Row> rows;
        std::vector<uint32_t> last;
        for (uint32_t t = 0; t < tokens; ++t) rows.push_back({first + t, first + t + 1, pages_.data()});
        for (uint32_t t = tokens - wanted; t < tokens; ++t) last.push_back(t);
        write_step(room_, memory_.begin(), memory_.address(), rows, tile, last, broken).head_tokens = wanted;
    }
    uint64_t address() const { return memory_.address(); }
    gpu::Step& operator*() { return *reinterpret_cast<gpu::Step*>(memory_.begin()); }

  private:
    std::vector<uint32_t> pages_;
    StepRoom room_;
    Shared<std::byte> memory_;
};

/// Runs one dispatch and waits for it.
template <class Args>
void run(const std::shared_ptr<vulkan::Device>& device, const vulkan::Kernel<Args>& kernel, vulkan::Groups groups,
         const Args& args)
{
    vulkan::Commands commands(device, false);
    commands.stage("test", 0, 0);
    commands.dispatch(kernel, groups, args);
    commands.end();
    vulkan::Queue queue(device);
    const vulkan::Queue::Work work[] = {{&commands}};
    queue.wait(queue.submit(work));
}

}    // namespace hearth::tests
