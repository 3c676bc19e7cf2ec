// What tests of the system's files do in a folder.
#pragma once

#include <filesystem>
#include <fstream>
#include <set>
#include <string>

namespace hearth::tests {

inline void put(const std::filesystem::path& path, const std::string& text)
{
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary) << text;
}

inline std::set<std::string> names(const std::filesystem::path& folder)
{
    std::set<std::string> found;
    for (const auto& entry : std::filesystem::directory_iterator(folder))
        found.insert(entry.path().filename().string());
    return found;
}

}    // namespace hearth::tests
