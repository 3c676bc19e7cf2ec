// What there is to know of what fires in a model: its profile, and what PowerInfer keeps beside its models. Read here,
// so that who decides needs no files.
#pragma once

#include "engine/plan/hotness.h"

#include <filesystem>
#include <optional>

namespace hearth {

struct FiringSources {
    std::optional<Profile> profile;
    // Of ReLU models that have no profile which has counted something:
    std::optional<GpuIndex> index;
    std::optional<ActivationStatistics> statistics;
    std::filesystem::path index_path, statistics_folder;    // where these two are looked for
};

/// Reads the profile at `profile`, or where that is empty the one in the model or beside it, if there is one; and what
/// else there is, the index only `with_index`. `model` is the path that the user named. Throws Error where one of them
/// is damaged or of another model.
FiringSources find_sources(const Gguf& file, const Config& config, const std::filesystem::path& model,
                           const std::filesystem::path& profile, bool with_index);

}    // namespace hearth
