// Moves groups between RAM and the device's slots while a text goes on, so that what fires now is where it is fast.
// Source: Kairox (OSDI 2026) and DynamicInfer (ICLR 2026): scores with momentum, and a momentum that follows where time
// was lost.
#pragma once

#include "engine/device/session.h"

#include <vector>

namespace hearth {

class Rebalancer {
  public:
    /// Both must outlive this.
    Rebalancer(GpuModel& model, GpuSession& session);

    /// Of the token under way: those of layer l's host neurons that fired, and whether the device had to wait for them.
    void hear(uint32_t l, std::span<const uint32_t> fired, bool host_was_late);

    /// After the token: takes what fired on the device, and starts copies that are done before the next token's layers
    /// need them. What is moved is small beside what the token read, so no token is held up for long.
    void after_token(FeedStats& stats);

  private:
    struct Layer {
        std::vector<float> score;     // (groups) neurons that fire for a token, lately
        std::vector<uint32_t> now;    // (groups) of the token under way
        float momentum = 0.985f;      // of the scores
    };
    struct Swap {
        uint32_t layer, slot, group;
        float gain;
    };
    std::vector<Swap> wanted() const;

    GpuModel& model_;
    GpuSession& session_;
    std::vector<Layer> layers_;
};

}    // namespace hearth
