// The loop: one batch of rows through device and host, both at once where a layer is split.
#pragma once

#include "engine/run/host_layers.h"
#include "engine/run/rebalance.h"

namespace hearth {

class Scheduler {
  public:
    /// `gpu` may be null: everything runs on the host; `rebalancer` too: groups stay where they are. All must outlive
    /// this.
    Scheduler(HostLayers& host, GpuModel* gpu, GpuSession* device, Rebalancer* rebalancer, host::Team& team,
              const Config& config);

    /// Runs a batch of no more rows than host and device have room for.
    /// Throws NotFiniteNumbers where logits, or the residual that makes them, are no finite numbers; none of these is
    /// given away.
    FeedStats feed(const Batch& batch);

    /// A page of the KV cache in every layer, on both sides.
    void copy_page(uint32_t from, uint32_t to);

  private:
    void device_layers(const Batch& batch, FeedStats& stats);
    HostLayers::Cold cold_work(uint32_t l, const Batch& batch);
    void show_activity(uint32_t l, uint32_t rows);
    void host_layers(const Batch& batch, FeedStats& stats);
    void give(const Batch& batch, uint32_t row, std::span<const float> logits);
    std::span<const float> finished(std::span<const float> logits);

    HostLayers& host_;
    GpuModel* gpu_;
    GpuSession* device_;
    Rebalancer* rebalancer_;
    host::Team& team_;
    const Config& config_;
    std::vector<float> residual_, wanted_, logits_;
};

}    // namespace hearth
