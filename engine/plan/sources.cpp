#include "engine/plan/sources.h"

namespace hearth {

namespace {

std::optional<Profile> find_profile(const Gguf& file, const Config& c, const std::filesystem::path& model,
                                    std::filesystem::path path)
{
    std::error_code ec;
    if (path.empty() && has_profile(file)) return read_profile(file, file, c.layers, c.firing(), c.dim);
    if (path.empty() && std::filesystem::exists(profile_path(model), ec)) path = profile_path(model);
    if (path.empty()) return {};
    return read_profile(Gguf(path), file, c.layers, c.firing(), c.dim);
}

}    // namespace

FiringSources find_sources(const Gguf& file, const Config& c, const std::filesystem::path& model,
                           const std::filesystem::path& profile, bool with_index)
{
    FiringSources s = {.profile = find_profile(file, c, model, profile),
                       .index_path = gpu_index_of(model),
                       .statistics_folder = activation_folder_of(model)};
    if (c.experts || !host::makes_zeros(c.activation) || (s.profile && s.profile->positions > 0)) return s;
    std::error_code ec;
    if (with_index && std::filesystem::exists(s.index_path, ec)) try {
            s.index = read_gpu_index(s.index_path, c);
        } catch (const Error& e) {
            throw Error("{}; --reset-gpu-index does without it", e.what());
        }
    // Other models may lie in the same folder, so these are read for PowerInfer's own only.
    if (file.powerinfer() && std::filesystem::is_directory(s.statistics_folder, ec))
        s.statistics = read_activation_statistics(s.statistics_folder, c);
    return s;
}

}    // namespace hearth
