// Where this program keeps things of its own.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace hearth {

/// What can be made again; empty where the system names no place.
std::filesystem::path cache_folder();

/// The lines that were typed in conversations; empty where there is no such place. Linux:
/// $XDG_STATE_HOME/hearth/chat_history, by default in ~/.local/state.
std::filesystem::path chat_history_path();

/// The bytes of a file that is this user's, and that nobody else could have written to; none of any other.
std::string read_ours(const std::filesystem::path& path);

/// A file of the cache. What is read was written by this program for this user, and is whole: a file of somebody else,
/// or that somebody else could have written to, is none, and neither is one whose checksum is wrong. Both are silent
/// about failures, since everything can be made again.
std::string read_cached(const std::filesystem::path& path);
void write_cached(const std::filesystem::path& path, std::string_view bytes) noexcept;

}    // namespace hearth
