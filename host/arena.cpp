#include "host/arena.h"

#include "host/sleep.h"

#include <immintrin.h>
#include <tbb/global_control.h>
#include <tbb/task_arena.h>
#include <tbb/task_group.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

// The thread sanitizer does not see what libtbb, built without it, does to hand a task over and to wait for it; these
// tell it.
// NOLINTBEGIN(bugprone-reserved-identifier): the names are the sanitizer's
#ifdef __SANITIZE_THREAD__
extern "C" void __tsan_acquire(void*), __tsan_release(void*);
#else
static void __tsan_acquire(void*) {}
static void __tsan_release(void*) {}
#endif
// NOLINTEND(bugprone-reserved-identifier)

namespace hearth::host {
namespace {

/// How to wait for something that is usually near: the next matrix of a layer comes after a few microseconds, the next
/// layer after some ten (then others may need the core: a software GPU, the desktop), the next token after a
/// millisecond or never.
class Patience {
    using clock = std::chrono::steady_clock;

  public:
    /// Waits a little, longer each time it is asked. False: it has been a millisecond, better sleep.
    bool wait()
    {
        _mm_pause();
        const auto waited = clock::now() - since_;
        if (waited > std::chrono::microseconds(20)) std::this_thread::yield();
        return waited < std::chrono::milliseconds(1);
    }

  private:
    clock::time_point since_ = clock::now();
};

}    // namespace

struct Team::State {
    explicit State(unsigned size) : size(size), arena(int(size), 1)
    {
        if (size > tbb::global_control::active_value(tbb::global_control::max_allowed_parallelism))
            more_workers.emplace(tbb::global_control::max_allowed_parallelism, size);
    }

    const unsigned size;
    std::optional<tbb::global_control> more_workers;    // TBB alone makes no more threads than the machine has
    tbb::task_arena arena;
    bool held = false;    // the leader's

    // One job at a time. It is written while the gate is closed and empty, and read by those who came in while it was
    // open.
    const std::function<void(uint32_t)>* fn = nullptr;
    uint32_t chunks = 0;
    std::mutex error_mutex;
    std::exception_ptr error;

    // The gate: how many workers are inside, whether it is open, whether the region is over. All in one word, so that
    // coming in and seeing it open is one step, and nobody can slip into the next job with the last one's function in
    // hand.
    static constexpr uint32_t open = 1u << 31, over = 1u << 30;
    alignas(64) SleepWord gate;
    alignas(64) std::atomic<uint64_t> next = 0;    // chunk

    /// Takes chunks until none is left, then closes the gate.
    void take_chunks()
    {
        for (uint64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < chunks;) {
            try {
                (*fn)(uint32_t(i));
            } catch (...) {
                const std::lock_guard lock(error_mutex);
                if (!error) error = std::current_exception();
                next.store(chunks, std::memory_order_relaxed);
            }
        }
        gate.word.fetch_and(~open, std::memory_order_relaxed);
    }

    /// A worker's life in one region.
    void work()
    {
        Patience patience;
        for (;;) {
            const uint32_t seen = gate.word.load(std::memory_order_acquire);
            if (seen & over) return;
            if (seen & open) {
                if (gate.word.fetch_add(1, std::memory_order_acquire) & open) take_chunks();
                gate.word.fetch_sub(1, std::memory_order_release);
                patience = {};
            } else if (!patience.wait()) {
                gate.sleep(seen);
            }
        }
    }

    void lead(uint32_t count, const std::function<void(uint32_t)>& body)
    {
        fn = &body;
        chunks = count;
        next.store(0, std::memory_order_relaxed);
        gate.word.fetch_or(open);
        gate.wake();
        take_chunks();
        for (Patience patience; gate.word.load(std::memory_order_acquire) != 0;) patience.wait();
        if (error) std::rethrow_exception(std::exchange(error, nullptr));
    }
};

Team::Team(unsigned threads) : state_(std::make_unique<State>(std::max(threads, 1u))) {}

Team::~Team() = default;

unsigned Team::size() const { return state_->size; }

void Team::hold(const std::function<void()>& body)
{
    State& s = *state_;
    if (s.size == 1 || s.held) return body();

    std::exception_ptr error;
    s.arena.execute([&] {
        tbb::task_group workers;
        __tsan_release(&s);
        s.held = true;
        try {
            for (unsigned i = 1; i < s.size; i++)
                workers.run([&s]() __attribute__((no_sanitize("thread"))) {
                    __tsan_acquire(&s);
                    s.work();
                    __tsan_release(&s);
                });
            body();
        } catch (...) {
            error = std::current_exception();
        }
        s.held = false;
        s.gate.word.fetch_or(State::over);
        s.gate.wake();
        workers.wait();    // those that no thread has begun yet return at once
        __tsan_acquire(&s);
        s.gate.word.store(0, std::memory_order_relaxed);
    });
    if (error) std::rethrow_exception(error);
}

void Team::parallel(uint32_t chunks, const std::function<void(uint32_t)>& fn)
{
    State& s = *state_;
    if (s.size == 1 || chunks <= 1)
        for (uint32_t i = 0; i < chunks; i++) fn(i);
    else if (s.held) s.lead(chunks, fn);
    else hold([&] { s.lead(chunks, fn); });
}

}    // namespace hearth::host
