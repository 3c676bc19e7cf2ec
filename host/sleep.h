// Threads that sleep until a word changes. Not std::atomic::wait: where GCC 12's has no futex (on Windows) it compares
// before it takes its lock, and a wake-up that comes in between is lost.
#pragma once

#include <atomic>
#include <cstdint>

namespace hearth::host {

class SleepWord {
  public:
    /// Whoever changes it calls `wake`. Changes are sequentially consistent, so that `wake` sees whoever did not see
    /// the change.
    std::atomic<uint32_t> word = 0;

    /// Returns when somebody has called `wake`, at once if the word is not `seen` any more, and sometimes for no
    /// reason.
    void sleep(uint32_t seen);

    /// Wakes all. A system call only if somebody sleeps.
    void wake();

  private:
    std::atomic<uint32_t> sleepers_ = 0;
};

}    // namespace hearth::host
