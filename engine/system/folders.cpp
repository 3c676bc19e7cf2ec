// https://specifications.freedesktop.org/basedir-spec/latest/
#include "engine/system/folders.h"

#include "engine/system/checksum.h"
#include "engine/system/whole_file.h"

#include <cstdlib>

#ifndef _WIN32
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

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
#ifdef _WIN32
    const std::filesystem::path base = absolute_of("LOCALAPPDATA");
    return base.empty() ? base : base / "hearth";
#else
    if (const std::filesystem::path base = absolute_of("XDG_CACHE_HOME"); !base.empty()) return base / "hearth";
    const std::filesystem::path home = absolute_of("HOME");
    return home.empty() ? home : home / ".cache" / "hearth";
#endif
}

namespace {

/// The bytes behind a checksum of them, where they are ours.
std::string read_ours(const std::filesystem::path& path)
{
    std::string bytes;
#ifndef _WIN32
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
#endif
    return bytes;
}

}    // namespace

std::string read_cached(const std::filesystem::path& path)
{
    std::string bytes = read_ours(path);
    if (bytes.size() < checksum_digits ||
        checksum(std::string_view(bytes).substr(checksum_digits)) != bytes.substr(0, checksum_digits))
        return {};
    return bytes.substr(checksum_digits);
}

void write_cached(const std::filesystem::path& path, std::string_view bytes) noexcept
{
    try {
        std::filesystem::create_directories(path.parent_path());
        WholeFile file(path, {.for_owner = true});
        file.write(checksum(bytes));
        file.write(bytes);
        file.finish();
    } catch (const std::exception&) {    // it is made again next time
    }
}

}    // namespace hearth
