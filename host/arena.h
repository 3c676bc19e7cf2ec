// Threads. oneTBB lends them; waking them for every small matrix would cost more than the matrix (a futex wake is 5 to
// 50 us, a layer's share often 50 us), so a Team holds them in one TBB region per token and hands out chunks by an
// atomic counter.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace hearth::host {

class Team {
  public:
    /// `threads` workers, the caller included.
    explicit Team(unsigned threads);
    ~Team();
    Team(const Team&) = delete;
    Team& operator=(const Team&) = delete;

    unsigned size() const;

    /// Runs `body` on the calling thread while the other workers stand ready for `parallel`. Typically one token.
    /// Workers that TBB delivers late join late; nothing waits for them. An exception of `body` is rethrown here.
    /// Inside another `hold` it only runs `body`. Neither `body` nor a chunk may wait for TBB tasks of its own: the
    /// wait could pick up a worker's loop, which ends with the region.
    void hold(const std::function<void()>& body);

    /// Calls fn(i) once for every i < chunks, on any worker, and returns when all are done. Which thread gets which
    /// chunk is not determined, so a result must depend on the chunk only. The first exception is rethrown here; chunks
    /// not yet begun are then skipped. Outside of `hold` it opens a region of its own. Not reentrant: one leader at a
    /// time.
    void parallel(uint32_t chunks, const std::function<void(uint32_t)>& fn);

  private:
    struct State;
    std::unique_ptr<State> state_;
};

}    // namespace hearth::host
