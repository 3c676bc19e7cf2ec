#include "engine/error.h"
#include "engine/system/line_file.h"
#include "engine/system/windows.h"

#include <chrono>
#include <system_error>

#include <fcntl.h>
#include <io.h>

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
    // Nobody else may write to it meanwhile.
    const HANDLE handle = CreateFileW(path_.c_str(), GENERIC_READ | GENERIC_WRITE, FILE_SHARE_READ, nullptr,
                                      OPEN_ALWAYS, FILE_ATTRIBUTE_NORMAL, nullptr);
    if (handle == INVALID_HANDLE_VALUE) {
        const DWORD error = GetLastError();
        if (error == ERROR_SHARING_VIOLATION)
            throw Error("another process writes to {}: let it end, or name another file", path_.string());
        throw Error("{} cannot be written: {}", path_.string(), windows_message(error));
    }
    if (GetFileType(handle) != FILE_TYPE_DISK) {
        CloseHandle(handle);
        throw Error("{} is no ordinary file: name another", path_.string());
    }
    file_ = _open_osfhandle(intptr_t(handle), _O_BINARY);
    if (file_ < 0) {
        CloseHandle(handle);
        fail("written", EMFILE);
    }
    try {
        char block[1 << 16];
        for (int n; (n = _read(file_, block, sizeof block)) != 0;) {
            if (n < 0) fail("read", errno);
            before_.append(block, size_t(n));
        }
        if (mode == Mode::fresh && !before_.empty())
            throw Error("{} is there already: name another file, or go on with it by --resume", path_.string());
        const size_t whole = before_.rfind('\n') + 1;    // 0 where there is none
        if (whole < before_.size()) {
            if (const int error = _chsize_s(file_, int64_t(whole))) fail("written", error);
            before_.resize(whole);
        }
    } catch (...) {
        _close(file_);
        throw;
    }
    synced_ = now();
}

LineFile::~LineFile()
{
    _commit(file_);
    _close(file_);
}

void LineFile::add(std::string_view line)
{
    const std::string whole = std::string(line) + "\n";
    const int64_t end = _lseeki64(file_, 0, SEEK_END);
    for (size_t done = 0; done < whole.size();) {
        const int n = _write(file_, whole.data() + done, unsigned(whole.size() - done));
        if (n > 0) {
            done += size_t(n);
            continue;
        }
        const int error = n < 0 ? errno : ENOSPC;
        _chsize_s(file_, end);    // where that fails, the next to open it does it
        fail("written", error);
    }
    if (now() - synced_ < seconds_between_syncs) return;
    if (_commit(file_) != 0) fail("written", errno);
    synced_ = now();
}

}    // namespace hearth
