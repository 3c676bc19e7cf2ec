// The notes of signals.h as a handler reads them.
#pragma once

#include "engine/system/signals.h"

#include <atomic>
#include <cstdint>
#include <string_view>

namespace hearth {

/// Entries are never freed, only used again, so that a handler can walk a list of them whatever it has interrupted.
struct SignalNote::Entry {
    std::atomic<bool> taken = true;
    std::atomic<uintptr_t> begin = 0, end = 0;    // of a map; where both are 0 the entry is not valid (yet)
    char text[4096] = {};                         // a path, or a sentence with its line end
    Entry* next = nullptr;
};

using SignalEntries = std::atomic<SignalNote::Entry*>;
extern SignalEntries unfinished_files, mapped_files;

/// The file that has a byte at that address; nullptr where there is none.
const SignalNote::Entry* mapped_file_at(uintptr_t address) noexcept;

// Of the system, and safe in a handler.
void remove_unfinished() noexcept;
/// On stderr, as far as that is possible.
void put(std::string_view text) noexcept;

}    // namespace hearth
