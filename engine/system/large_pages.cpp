#include "engine/system/large_pages.h"

#include <algorithm>
#include <cstring>
#include <fstream>
#include <stop_token>
#include <string>
#include <system_error>

#include <sys/mman.h>

namespace hearth {

namespace {

using Bytes = std::span<const std::byte>;

constexpr size_t piece = 8 * large_page;    // some milliseconds, which is how long an end waits

/// The begin of the first large page from p on.
template <class Byte>
Byte* page_from(Byte* p)
{
    return p + (-reinterpret_cast<uintptr_t>(p) & (large_page - 1));
}

/// The whole large pages of what parts cover together: between tensors lies what aligns them.
std::vector<Bytes> whole_pages(std::vector<Bytes> parts)
{
    constexpr ptrdiff_t between = 4096;
    std::ranges::sort(parts, {}, [](const Bytes& part) { return part.data(); });
    std::vector<Bytes> out;
    for (size_t i = 0; i < parts.size();) {
        const std::byte *const first = parts[i].data(), *end = first;
        for (; i < parts.size() && parts[i].data() - end <= between; i++)
            end = std::max(end, parts[i].data() + parts[i].size());
        const std::byte* const begin = page_from(first);
        if (begin + large_page <= end) out.emplace_back(begin, size_t(end - begin) / large_page * large_page);
    }
    return out;
}

/// False where the system refuses.
bool move(Bytes part, const std::stop_token& stop, std::atomic<uint64_t>& moved)
{
    const size_t room = part.size() + large_page;
    void* const reserved =
        mmap(nullptr, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (reserved == MAP_FAILED) return false;
    std::byte *const begin = static_cast<std::byte*>(reserved), *const to = page_from(begin);
    madvise(to, part.size(), MADV_HUGEPAGE);
    bool good = true;
    size_t at = 0;
    while (at < part.size() && good && !stop.stop_requested()) {
        const size_t here = std::min(piece, part.size() - at);
        std::memcpy(to + at, part.data() + at, here);
        // One step for everybody else: who reads in the middle of it waits until it is done.
        good = mprotect(to + at, here, PROT_READ) == 0 &&
               mremap(to + at, here, here, MREMAP_MAYMOVE | MREMAP_FIXED, const_cast<std::byte*>(part.data() + at)) !=
                   MAP_FAILED;
        if (good) at += here, moved += here;
    }
    // Not what was moved: its old place may be another thread's by now.
    if (to > begin) munmap(begin, size_t(to - begin));
    munmap(to + at, room - size_t(to - begin) - at);
    return good;
}

}    // namespace

bool large_pages_to_be_had()
{
    std::string line;
    std::getline(std::ifstream("/sys/kernel/mm/transparent_hugepage/enabled"), line);
    return !line.empty() && line.find("[never]") == std::string::npos;
}

void ask_for_large_pages(std::span<std::byte> memory)
{
    std::byte *const begin = page_from(memory.data()), *const end = memory.data() + memory.size();
    if (begin + large_page <= end) madvise(begin, size_t(end - begin) / large_page * large_page, MADV_HUGEPAGE);
}

LargePages::LargePages(std::vector<Bytes> parts) : moved_(std::make_shared<std::atomic<uint64_t>>(0))
{
    try {
        thread_ = std::jthread([pages = whole_pages(std::move(parts)), moved = moved_](const std::stop_token& stop) {
            for (const Bytes& part : pages)
                if (!move(part, stop, *moved)) return;
        });
    } catch (const std::system_error&) {    // no more threads: the files stay as they are
    }
}

void LargePages::wait()
{
    if (thread_.joinable()) thread_.join();
}

}    // namespace hearth
