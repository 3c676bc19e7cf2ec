#include "engine/system/whole_file.h"

#include "engine/error.h"
#include "engine/system/confine.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

namespace hearth {

namespace {

constexpr std::string_view part_end = ".part";
constexpr size_t digits = 16;
constexpr int most_links = 40;    // as the kernel follows

std::filesystem::path folder_of(const std::filesystem::path& path)
{
    return path.has_parent_path() ? path.parent_path() : ".";
}

/// What the names of all parts of a file begin with. Where the name is as long as names may be, a part of it.
std::string part_stem(const std::filesystem::path& path)
{
    const long most = pathconf(folder_of(path).c_str(), _PC_NAME_MAX);
    const size_t room = size_t(most > 0 ? most : 255) - (1 + digits + part_end.size());
    return path.filename().string().substr(0, room) + ".";
}

bool is_part(std::string_view name, std::string_view stem)
{
    return name.size() == stem.size() + digits + part_end.size() && name.starts_with(stem) &&
           name.ends_with(part_end) &&
           name.substr(stem.size(), digits).find_first_not_of("0123456789abcdef") == name.npos;
}

uint64_t random_number()
{
    uint64_t number = 0;
    if (getrandom(&number, sizeof number, GRND_NONBLOCK) == ssize_t(sizeof number)) return number;
    const auto now = uint64_t(std::chrono::steady_clock::now().time_since_epoch().count());
    return (now ^ uint64_t(getpid()) << 40) * 0x9e3779b97f4a7c15u;
}

/// What writers that were killed have left. Those at work hold a lock.
void remove_leftovers(const std::filesystem::path& path)
{
    const std::string stem = part_stem(path);
    std::error_code ec;
    for (std::filesystem::directory_iterator entry(folder_of(path), ec), end; !ec && entry != end;
         entry.increment(ec)) {
        if (!is_part(entry->path().filename().string(), stem)) continue;
        const int fd = open(entry->path().c_str(), O_RDWR | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
        if (fd < 0) continue;
        struct stat status;
        if (fstat(fd, &status) == 0 && S_ISREG(status.st_mode) && flock(fd, LOCK_EX | LOCK_NB) == 0)
            unlink(entry->path().c_str());
        close(fd);
    }
}

/// Locks a part that was just made. True: another writer saw it before it was locked, and removes it.
bool taken_for_leftover(int fd)
{
    struct stat made;
    if (flock(fd, LOCK_EX | LOCK_NB) != 0)
        return errno == EWOULDBLOCK;    // other errors: a file system without locks, where nothing is removed
    return fstat(fd, &made) == 0 && made.st_nlink == 0;
}

/// What to do about an error of the system.
std::string_view advice(int error)
{
    switch (error) {
    case ENOSPC:
    case EDQUOT: return "make room, or name another file";
    case EFBIG: return "make room (`ulimit -f` says how large files may be), or name another file";
    case EACCES:
    case EPERM:
    case EROFS: return "name a file in a folder that you may write to";
    case ENOENT:
    case ENOTDIR: return "make its folder first, or name another file";
    case ENAMETOOLONG: return "give it a shorter name";
    case EMFILE: return "raise `ulimit -n`";
    default: return "name another file";
    }
}

/// Syncs; what cannot be synced (some network and FUSE file systems, folders of others) is none the worse for it.
int sync_error(int fd)
{
    while (fsync(fd) != 0) {
        if (errno == EINVAL || errno == ENOTSUP || errno == ENOSYS) return 0;
        if (errno != EINTR) return errno;
    }
    return 0;
}

/// A page that cannot be read says so by a signal where the program touches it; a system call that touches it only
/// fails.
void touch_pages(std::string_view bytes)
{
    constexpr size_t page = 4096;
    for (size_t at = 0; at < bytes.size(); at += page) {
        const volatile char seen = bytes[at];
        (void)seen;
    }
}

}    // namespace

std::filesystem::path WholeFile::target_of(std::filesystem::path path)
{
    std::error_code ec;
    for (int links = 0; std::filesystem::is_symlink(path, ec); ++links) {
        const std::filesystem::path target = std::filesystem::read_symlink(path, ec);
        if (ec || links == most_links)
            throw Error("{} cannot be written: its links lead nowhere; name a file", path.string());
        path = folder_of(path) / target;
    }
    return path;
}

WholeFile::WholeFile(std::filesystem::path path, const Options& options) : path_(target_of(std::move(path)))
{
    std::error_code ec;
    const std::filesystem::file_status status = std::filesystem::status(path_, ec);
    if (std::filesystem::is_directory(status) || path_.filename().empty())
        throw Error("{} cannot be written: it is a directory; name a file", path_.string());
    if (!std::filesystem::exists(status) || std::filesystem::is_regular_file(status)) {
        remove_leftovers(path_);
        create(options.for_owner);
        return;
    }
    if (!options.devices) throw Error("{} cannot be written: it is a pipe or a device; name a file", path_.string());
    file_ = std::fopen(path_.c_str(), "wbe");
    if (!file_) fail(errno);
}

void WholeFile::create(bool for_owner)
{
    struct stat old;
    const bool replaces = stat(path_.c_str(), &old) == 0;
    const mode_t mode = for_owner ? 0600 : replaces ? old.st_mode & 07777 : 0666;
    const std::string stem = part_stem(path_);
    int fd = -1;
    for (int tries = 0; fd < 0; ++tries) {
        part_ = folder_of(path_) / fmt::format("{}{:016x}{}", stem, random_number(), part_end);
        note_ = SignalNote::unfinished(part_);
        fd = open(part_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode & 0777);
        if (fd < 0 && errno != EEXIST) break;
        if (fd >= 0 && taken_for_leftover(fd)) close(std::exchange(fd, -1));
        if (fd < 0 && tries == 100) break;
    }
    if (fd >= 0 && replaces && fchmod(fd, mode) != 0 && errno != EPERM && errno != ENOTSUP) {
        const int error = errno;
        close(fd);
        unlink(part_.c_str());
        fail(error);
    }
    if (fd >= 0) file_ = fdopen(fd, "wb");
    if (file_) return;
    const int error = errno;
    if (fd >= 0) {
        close(fd);
        unlink(part_.c_str());
    }
    fail(error);
}

WholeFile::~WholeFile()
{
    if (!file_) return;
    if (!part_.empty()) unlink(part_.c_str());
    std::fclose(file_);
}

void WholeFile::fail(int error) const
{
    const std::string confined = confinement_advice(error);
    throw Error("{} cannot be written: {}{}", path_.string(), std::generic_category().message(error),
                confined.empty() ? fmt::format("; {}", advice(error)) : confined);
}

void WholeFile::write(std::string_view bytes)
{
    if (std::fwrite(bytes.data(), 1, bytes.size(), file_) == bytes.size()) return;
    const int error = errno;
    if (error == EFAULT) touch_pages(bytes);
    fail(error);
}

void WholeFile::finish()
{
    if (std::fflush(file_) != 0) fail(errno);
    if (part_.empty()) {
        if (std::fclose(std::exchange(file_, nullptr)) != 0) fail(errno);
        return;
    }
    if (const int error = sync_error(fileno(file_))) fail(error);
    if (std::rename(part_.c_str(), path_.c_str()) != 0) fail(errno);
    note_ = {};
    std::fclose(std::exchange(file_, nullptr));    // only now: the lock keeps others from taking it for a left-over
    const int folder = open(folder_of(path_).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0) return;    // whoever may write to a folder need not be allowed to read it
    const int error = sync_error(folder);
    close(folder);
    if (error)
        throw Error("{} was written, but its folder could not be synced ({}), so that a loss of power may undo it",
                    path_.string(), std::generic_category().message(error));
}

void write_whole(const std::filesystem::path& path, std::span<const std::string_view> parts)
{
    WholeFile file(path);
    for (const std::string_view bytes : parts) file.write(bytes);
    file.finish();
}

}    // namespace hearth
