// Fills a profile from the activity of a session.
#pragma once

#include "engine/model/weights.h"
#include "engine/plan/profile.h"
#include "engine/plan/activity.h"
#include "host/predict.h"

namespace hearth {

class Profiler {
  public:
    /// Adds to `profile`, which, like `weights` and `team`, must outlive this.
    Profiler(Profile& profile, const Weights& weights, host::Team& team);

    /// Hears a batch in one layer. Nothing is in the profile before `commit`.
    void hear(const LayerActivity& activity);

    /// The batches heard were so many positions, in every layer; or they do not count.
    void commit(uint32_t positions);
    void discard();

  private:
    bool fires(const LayerActivity& a, size_t t, size_t j) const;
    void sample(const LayerActivity& a, uint32_t t, uint32_t* row);

    Profile& profile_;
    const Weights& weights_;
    host::Team& team_;
    std::vector<host::SignRows> signs_;    // of the gates, in file order
    std::vector<LayerProfile> heard_;
    std::vector<uint32_t> counts_, mask_;
    host::LowRankScratch predict_scratch_;
    std::vector<uint64_t> signs_of_x_;
};

}    // namespace hearth
