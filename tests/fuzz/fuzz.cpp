// libFuzzer's entry: limits of time and memory around a target. Time is the processor's, so that a busy machine makes
// no faults; memory is counted by what was asked for, so that the sanitizer's own does not count. libFuzzer's -timeout
// and -rss_limit_mb stand behind both.
#include "tests/fuzz/fuzz.h"

#include <sanitizer/allocator_interface.h>
#include <sys/time.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <ctime>

namespace hearth::fuzz {

namespace {

constexpr int most_seconds = 2;
constexpr uint64_t most_times = 64;    // the input's size

std::atomic<bool> counting = false;
std::atomic<int64_t> live = 0, peak = 0;    // bytes

void allocated(const volatile void*, size_t bytes)
{
    if (!counting) return;
    const int64_t now = live += int64_t(bytes);
    int64_t highest = peak;
    while (now > highest && !peak.compare_exchange_weak(highest, now)) {}
}

void freed(const volatile void* memory)
{
    if (counting && memory) live -= int64_t(__sanitizer_get_allocated_size(memory));
}

void out_of_time(int)
{
    constexpr std::string_view message = "fuzz: this input takes more than 2 s of the processor\n";
    [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, message.data(), message.size());
    std::abort();
}

void set_timer(int seconds)
{
    const itimerval timer = {.it_interval = {}, .it_value = {.tv_sec = seconds, .tv_usec = 0}};
    setitimer(ITIMER_PROF, &timer, nullptr);
}

double processor_seconds()
{
    timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
}

}    // namespace

void refused(const Error& error)
{
    static const bool shown = std::getenv("HEARTH_FUZZ_SAY");
    if (shown) fmt::print(stderr, "fuzz: refused: {}\n", error.what());
}

TemporaryFile::TemporaryFile(const std::string& name, std::string_view bytes) : path_(folder() / name)
{
    std::FILE* const file = std::fopen(path_.c_str(), "wb");
    FUZZ_CHECK(file && std::fwrite(bytes.data(), 1, bytes.size(), file) == bytes.size() && std::fclose(file) == 0);
}

TemporaryFile::~TemporaryFile() { ::unlink(path_.c_str()); }

const std::filesystem::path& TemporaryFile::folder()
{
    static const std::filesystem::path folder = [] {
        const std::filesystem::path memory = "/dev/shm", parent = std::filesystem::exists(memory)
                                                                      ? memory
                                                                      : std::filesystem::temp_directory_path();
        const std::filesystem::path own = parent / fmt::format("hearth-fuzz-{}", ::getpid());
        std::filesystem::create_directory(own);    // tools/fuzz removes it
        return own;
    }();
    return folder;
}

}    // namespace hearth::fuzz

extern "C" int LLVMFuzzerInitialize(int*, char***)
{
    using namespace hearth::fuzz;
    __sanitizer_install_malloc_and_free_hooks(allocated, freed);
    std::signal(SIGPROF, out_of_time);
    try_to([] { read({}); });    // what a reader makes once is no input's
    return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size)
{
    using namespace hearth::fuzz;
    static double slowest = 0.01;
    static int64_t largest = 0;
    live = peak = 0;
    const double start = processor_seconds();
    set_timer(most_seconds);
    counting = true;
    try_to([&] { read({reinterpret_cast<const char*>(data), size}); });
    counting = false;
    set_timer(0);
    const double took = processor_seconds() - start;
    if (took > 1.1 * slowest) {
        slowest = took;
        std::fprintf(stderr, "fuzz: slowest %.3f s, of %zu bytes\n", took, size);
    }
    if (peak > largest + largest / 10) {
        largest = peak;
        std::fprintf(stderr, "fuzz: largest %lld bytes of memory, of %zu bytes\n", static_cast<long long>(peak), size);
    }
    if (uint64_t(peak) > base_memory + most_times * size) {
        std::fprintf(stderr, "fuzz: this input of %zu bytes takes %lld bytes of memory\n", size,
                     static_cast<long long>(peak));
        std::abort();
    }
    return 0;
}
