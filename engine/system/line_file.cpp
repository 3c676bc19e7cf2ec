#include "engine/system/line_file.h"

#include "engine/error.h"

#include <cerrno>
#include <chrono>
#include <system_error>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

namespace hearth {

namespace {

constexpr double seconds_between_syncs = 1;    // a loss of power costs no more than that

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

}    // namespace

void LineFile::fail(const char* what, int error) const
{
    throw Error("{} cannot be {}: {}", path_.string(), what, std::generic_category().message(error));
}

LineFile::LineFile(std::filesystem::path path, Mode mode) : path_(std::move(path))
{
    file_ = open(path_.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NONBLOCK, 0666);
    if (file_ < 0) fail("written", errno);
    try {
        struct stat status = {};
        if (fstat(file_, &status) != 0) fail("read", errno);
        if (!S_ISREG(status.st_mode)) throw Error("{} is no ordinary file: name another", path_.string());
        if (flock(file_, LOCK_EX | LOCK_NB) != 0)
            throw Error("another process writes to {}: let it end, or name another file", path_.string());
        char block[1 << 16];
        for (ssize_t n; (n = pread(file_, block, sizeof block, off_t(before_.size()))) != 0;) {
            if (n < 0 && errno != EINTR) fail("read", errno);
            if (n > 0) before_.append(block, size_t(n));
        }
        if (mode == Mode::fresh && !before_.empty())
            throw Error("{} is there already: name another file, or go on with it by --resume", path_.string());
        const size_t whole = before_.rfind('\n') + 1;    // 0 where there is none
        if (whole < before_.size()) {
            if (ftruncate(file_, off_t(whole)) != 0) fail("written", errno);
            before_.resize(whole);
        }
    } catch (...) {
        close(file_);
        throw;
    }
    synced_ = now();
}

LineFile::~LineFile()
{
    fdatasync(file_);
    close(file_);
}

void LineFile::add(std::string_view line)
{
    const std::string whole = std::string(line) + "\n";
    const off_t end = lseek(file_, 0, SEEK_END);
    for (size_t done = 0; done < whole.size();) {
        const ssize_t n = write(file_, whole.data() + done, whole.size() - done);
        if (n >= 0) {
            done += size_t(n);
            continue;
        }
        const int error = errno;
        if (error == EINTR) continue;
        [[maybe_unused]] const bool cut = ftruncate(file_, end) == 0;    // else the next to open it does it
        fail("written", error);
    }
    if (now() - synced_ < seconds_between_syncs) return;
    if (fdatasync(file_) != 0) fail("written", errno);
    synced_ = now();
}

}    // namespace hearth
