// Windows gives large pages to accounts only that hold the right to lock pages in memory, which nobody has by default.
#include "engine/system/large_pages.h"

namespace hearth {

bool large_pages_to_be_had() { return false; }
void ask_for_large_pages(std::span<std::byte>) {}
LargePages::LargePages(std::vector<std::span<const std::byte>>) {}
void LargePages::wait() {}

}    // namespace hearth
