#include "host/sleep.h"

#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <climits>
#endif

namespace hearth::host {

#ifdef __linux__

void SleepWord::sleep(uint32_t seen)
{
    sleepers_.fetch_add(1);
    syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr, 0);    // compares under the kernel's lock
    sleepers_.fetch_sub(1);
}

void SleepWord::wake()
{
    if (sleepers_.load() != 0) syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
}

#else

void SleepWord::sleep(uint32_t seen) { word.wait(seen); }
void SleepWord::wake() { word.notify_all(); }

#endif

}    // namespace hearth::host
