// The loop: one batch of tokens through device and host, both at once where a layer is split.
#pragma once

#include "engine/run/cpu_model.h"
#include "engine/run/rebalance.h"

namespace hearth {

/// Which logits of a batch are wanted: of the last `count` tokens.
struct WantedLogits {
    uint32_t count = 1;
    /// Called for each of them in order: the token's place in the batch, and its logits (vocab), valid during the call.
    std::function<void(uint32_t, std::span<const float>)> take = {};
    /// Instead, of one token: called with what is most probable behind it. Where the device can tell, its logits stay
    /// there.
    std::function<void(Token)> take_best = {};
};

class Scheduler {
  public:
    /// `gpu` may be null: everything runs on the host; `rebalancer` too: groups stay where they are. All must outlive
    /// this.
    Scheduler(CpuModel& cpu, GpuModel* gpu, GpuSession* session, Rebalancer* rebalancer, host::Team& team,
              const Config& config);

    /// Runs tokens (no more than the session's batch) at `position`.
    /// Throws NotFiniteNumbers where logits, or the residual that makes them, are no finite numbers; none of these is
    /// given away.
    FeedStats feed(uint32_t position, std::span<const Token> tokens, const WantedLogits& wanted);

  private:
    void device_layers(std::span<const Token> tokens, const WantedLogits& wanted, FeedStats& stats);
    CpuModel::Cold cold_work(uint32_t l, uint32_t tokens);
    void show_activity(uint32_t l, uint32_t tokens);
    void host_layers(const WantedLogits& wanted, FeedStats& stats);
    void give(const WantedLogits& wanted, uint32_t t, std::span<const float> logits);
    std::span<const float> finished(std::span<const float> logits);

    CpuModel& cpu_;
    GpuModel* gpu_;
    GpuSession* session_;
    Rebalancer* rebalancer_;
    host::Team& team_;
    const Config& config_;
    std::vector<float> residual_, logits_;
    std::vector<uint32_t> predicted_;
};

}    // namespace hearth
