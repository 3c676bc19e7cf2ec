#include "host/sleep.h"

#define WIN32_LEAN_AND_MEAN
#ifndef NOMINMAX
#define NOMINMAX
#endif
#include <windows.h>

namespace hearth::host {

void SleepWord::sleep(uint32_t seen)
{
    sleepers_.fetch_add(1);
    WaitOnAddress(&word, &seen, sizeof seen, INFINITE);
    sleepers_.fetch_sub(1);
}

void SleepWord::wake()
{
    if (sleepers_.load() != 0) WakeByAddressAll(&word);
}

}    // namespace hearth::host
