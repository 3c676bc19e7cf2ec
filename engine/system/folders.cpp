// https://specifications.freedesktop.org/basedir-spec/latest/
#include "engine/system/folders.h"

#include <cstdlib>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace hearth {

namespace {

constexpr off_t most_cached = off_t(1) << 30;

/// A variable's path; empty where it is relative, which the specification has us ignore: it would name another place
/// from every folder.
std::filesystem::path absolute_of(const char* variable)
{
    const char* value = std::getenv(variable);
    const std::filesystem::path path = value ? value : "";
    return path.is_absolute() ? path : std::filesystem::path();
}

}    // namespace

std::filesystem::path cache_folder()
{
    if (const std::filesystem::path base = absolute_of("XDG_CACHE_HOME"); !base.empty()) return base / "hearth";
    const std::filesystem::path home = absolute_of("HOME");
    return home.empty() ? home : home / ".cache" / "hearth";
}

std::filesystem::path chat_history_path()
{
    const auto from = [](const char* variable) {
        const char* value = std::getenv(variable);
        return std::filesystem::path(value ? value : "");
    };
    const std::filesystem::path state = from("XDG_STATE_HOME"), home = from("HOME");
    if (!state.empty()) return state / "hearth" / "chat_history";
    return home.empty() ? home : home / ".local" / "state" / "hearth" / "chat_history";
}

std::string read_ours(const std::filesystem::path& path)
{
    std::string bytes;
    const int fd = open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return bytes;
    struct stat status;
    const bool ours = fstat(fd, &status) == 0 && S_ISREG(status.st_mode) && status.st_uid == geteuid() &&
                      (status.st_mode & (S_IWGRP | S_IWOTH)) == 0;
    if (ours && status.st_size <= most_cached) bytes.resize(size_t(status.st_size));
    size_t read = 0;
    for (ssize_t n; read < bytes.size() && (n = ::read(fd, bytes.data() + read, bytes.size() - read)) > 0;)
        read += size_t(n);
    bytes.resize(read);
    close(fd);
    return bytes;
}

}    // namespace hearth
