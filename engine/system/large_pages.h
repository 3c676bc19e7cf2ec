// Large pages (2 MB on x86-64) for memory that is read as fast as it can be. In pages of 4 KB a core that reads weights
// spends up to a fifth of its time on finding them, most of all in virtual machines, where each is looked up twice.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <thread>
#include <vector>

namespace hearth {

inline constexpr size_t large_page = 2 << 20;

/// Whether the system gives large pages to who asks for them (Linux: transparent_hugepage is not "never").
bool large_pages_to_be_had();

/// Asks for them where `memory`, which nobody has written to yet, has room for some. Refused, it only costs time.
void ask_for_large_pages(std::span<std::byte> memory);

/// Moves mapped files to memory in large pages, at the same addresses, on a thread of its own: who reads them meanwhile
/// finds the same bytes. It is the process' own memory then, which the system cannot drop as it drops a file's pages.
class LargePages {
  public:
    LargePages() = default;
    /// Of `parts`, which must stay mapped for as long as this lives and are not written to, what fills large pages. It
    /// ends early where the system refuses.
    explicit LargePages(std::vector<std::span<const std::byte>> parts);

    /// Until it has ended.
    void wait();
    /// Moved so far.
    uint64_t bytes() const { return moved_ ? moved_->load(std::memory_order_relaxed) : 0; }

  private:
    std::shared_ptr<std::atomic<uint64_t>> moved_;    // the thread has it, too
    std::jthread thread_;                             // ends as this goes, after the piece that it is at
};

}    // namespace hearth
