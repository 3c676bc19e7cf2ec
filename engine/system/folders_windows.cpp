#include "engine/system/folders.h"
#include "engine/system/program.h"

#include <fstream>
#include <iterator>

namespace hearth {

std::filesystem::path cache_folder()
{
    const std::filesystem::path base = environment_variable("LOCALAPPDATA").value_or("");
    return base.is_absolute() ? base / "hearth" : std::filesystem::path();
}

/// The console has a history of its own.
std::filesystem::path chat_history_path() { return {}; }

/// Nobody else may write to the user's own folder of application data: that is what it is for.
std::string read_ours(const std::filesystem::path& path)
{
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

}    // namespace hearth
