// What `hearth tune` measures with: medians of times, and weights and inputs of no meaning.
#pragma once

#include "engine/vulkan/commands.h"

#include <algorithm>
#include <chrono>
#include <vector>

namespace hearth {

inline double seconds()
{
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// Median of a few runs, in seconds, after one to warm up.
template <class F>
double median_time(F&& work)
{
    work();
    std::vector<double> times(5);
    for (double& t : times) {
        const double start = seconds();
        work();
        t = seconds() - start;
    }
    std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
    return times[times.size() / 2];
}

inline double gb_per_s(uint64_t bytes, double s) { return s > 0 ? double(bytes) / s / 1e9 : 0; }

/// Bytes that are finite weights of either sign in every format but MXFP4: 16-bit words with the exponents of fp16
/// numbers around one.
void fill_weights(std::byte* to, uint64_t bytes, uint64_t seed = 1);

std::vector<float> some_vector(uint32_t n);

/// A queue that is waited for.
class MeasuredQueue : public vulkan::Queue {
  public:
    explicit MeasuredQueue(std::shared_ptr<vulkan::Device> device) : Queue(device), device_(std::move(device)) {}

    template <class F>
    void run(F&& record)
    {
        once(recorded(record));
    }

    /// Seconds that what `record` writes takes, without the submit.
    template <class F>
    double time(F&& record)
    {
        const vulkan::Commands commands = recorded(record),
                               empty = recorded([](vulkan::Commands&c) { c.stage("tune", 0, 0); });
        const double all = median_time([&] { once(commands); }), nothing = median_time([&] { once(empty); });
        return std::max(all - nothing, all / 100);
    }

  private:
    template <class F>
    vulkan::Commands recorded(F&& record)
    {
        vulkan::Commands commands(device_, false);
        record(commands);
        commands.end();
        return commands;
    }
    void once(const vulkan::Commands& commands)
    {
        const Work work[] = {{&commands}};
        wait(submit(work));
    }

    std::shared_ptr<vulkan::Device> device_;
};

}    // namespace hearth
