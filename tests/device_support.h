// A device for tests, under the validation layers, with and without its optional features.
#pragma once

#include "engine/vulkan/commands.h"
#include "tests/support.h"

#include <cstring>

namespace hearth::tests {

/// What the tests share: a software device takes longer to compile kernels than to run them. Closed by main: by the
/// time static objects die, the driver may have gone before them.
inline std::shared_ptr<vulkan::Workshop> workshop = std::make_shared<vulkan::Workshop>();

inline std::shared_ptr<vulkan::Instance> test_instance()
{
    std::string why_not;
    const auto instance = workshop->instance({.validation = validation}, why_not);
    INFO(why_not);
    REQUIRE(instance);
    return instance;
}

/// One device per set of features, open until the end.
inline std::shared_ptr<vulkan::Device> test_device(vulkan::Features features = {true, true})
{
    const auto instance = test_instance();
    const auto choice = vulkan::choose_device(instance->devices(), device_name);
    return workshop->device(instance, instance->devices()[*choice.index], features);
}

/// Fails the test if the validation layers have spoken.
inline void check_silence()
{
    for (const std::string& message : test_instance()->take_messages()) FAIL_CHECK(message);
}

/// With all of them, and with none: no kernel uses two, so that each is tested with and without its own.
inline constexpr vulkan::Features feature_sets[] = {{true, true}, {false, false}};

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
