#include "engine/error.h"
#include "engine/system/windows.h"
#include "engine/system/whole_file.h"

#include <algorithm>
#include <chrono>
#include <random>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <io.h>

namespace hearth {

namespace {

namespace fs = std::filesystem;

constexpr std::string_view part_end = ".part";
constexpr size_t digits = 16, longest_name = 255;    // of UTF-16's words

fs::path folder_of(const fs::path& path) { return path.has_parent_path() ? path.parent_path() : "."; }

/// What the names of all parts of a file begin with. Where the name is as long as names may be, a part of it.
std::wstring part_stem(const fs::path& path)
{
    return path.filename().wstring().substr(0, longest_name - (1 + digits + part_end.size())) + L".";
}

bool is_part(std::wstring_view name, std::wstring_view stem)
{
    return name.size() == stem.size() + digits + part_end.size() && name.starts_with(stem) &&
           name.ends_with(L".part") &&
           name.substr(stem.size(), digits).find_first_not_of(L"0123456789abcdef") == name.npos;
}

fs::path fresh_part(const fs::path& path)
{
    std::random_device random;
    const uint64_t number = uint64_t(random()) << 32 | random();
    return folder_of(path) / (part_stem(path) + to_wide(fmt::format("{:016x}{}", number, part_end)));
}

/// What writers that were killed have left, and files that were replaced while they were in use. Those at work keep
/// theirs from being opened for writing.
void remove_leftovers(const fs::path& path)
{
    const std::wstring stem = part_stem(path);
    std::error_code ec;
    for (fs::directory_iterator entry(folder_of(path), ec), end; !ec && entry != end; entry.increment(ec)) {
        if (!is_part(entry->path().filename().wstring(), stem)) continue;
        opened(CreateFileW(entry->path().c_str(), GENERIC_WRITE | DELETE, 0, nullptr, OPEN_EXISTING,
                           FILE_FLAG_DELETE_ON_CLOSE | FILE_FLAG_OPEN_REPARSE_POINT, nullptr));
    }
}

std::string_view advice(DWORD error)
{
    switch (error) {
    case ERROR_DISK_FULL:
    case ERROR_HANDLE_DISK_FULL: return "make room, or name another file";
    case ERROR_ACCESS_DENIED:
    case ERROR_WRITE_PROTECT: return "name a file in a folder that you may write to";
    case ERROR_FILE_NOT_FOUND:
    case ERROR_PATH_NOT_FOUND: return "make its folder first, or name another file";
    case ERROR_FILENAME_EXCED_RANGE:
    case ERROR_INVALID_NAME: return "give it a name that Windows allows, or a shorter one";
    case ERROR_SHARING_VIOLATION:
    case ERROR_LOCK_VIOLATION: return "close the program that uses it, or name another file";
    default: return "name another file";
    }
}

[[noreturn]] void refuse(const fs::path& path, DWORD error)
{
    throw Error("{} cannot be written: {}; {}", path.string(), windows_message(error), advice(error));
}

/// Scanners and indexers open files that have just been written, for a moment.
bool may_pass(DWORD error)
{
    return error == ERROR_SHARING_VIOLATION || error == ERROR_ACCESS_DENIED || error == ERROR_LOCK_VIOLATION;
}

/// Gives an open file another name, and replaces whatever has it: from Windows 10 on even where that is open, else once
/// nobody has it open; 0, or the error that stays. The file stays open, so that nobody takes it for a left-over.
DWORD rename(HANDLE file, const fs::path& to)
{
    using namespace std::chrono;
    const std::wstring name = fs::absolute(to).wstring();
    std::vector<char> room(sizeof(FILE_RENAME_INFO) + name.size() * sizeof(wchar_t));
    auto& request = *reinterpret_cast<FILE_RENAME_INFO*>(room.data());
    request.FileNameLength = DWORD(name.size() * sizeof(wchar_t));
    name.copy(request.FileName, name.size());
    constexpr auto posix = FILE_INFO_BY_HANDLE_CLASS(22);    // FileRenameInfoEx
    constexpr DWORD replace_if_exists = 1, posix_semantics = 2;
    DWORD error = 0;
    for (auto pause = milliseconds(1); pause < seconds(1); pause *= 2) {
        request.Flags = replace_if_exists | posix_semantics;
        if (SetFileInformationByHandle(file, posix, room.data(), DWORD(room.size()))) return 0;
        request.Flags = 0;
        request.ReplaceIfExists = TRUE;
        if (SetFileInformationByHandle(file, FileRenameInfo, room.data(), DWORD(room.size()))) return 0;
        error = GetLastError();
        if (!may_pass(error)) break;
        std::this_thread::sleep_for(pause);
    }
    return error;
}

}    // namespace

fs::path WholeFile::target_of(fs::path path)
{
    constexpr int most_links = 40;
    std::error_code ec;
    for (int links = 0; fs::is_symlink(path, ec); ++links) {
        const fs::path target = fs::read_symlink(path, ec);
        if (ec || links == most_links)
            throw Error("{} cannot be written: its links lead nowhere; name a file", path.string());
        path = folder_of(path) / target;
    }
    return path;
}

WholeFile::WholeFile(fs::path path, const Options& options) : path_(target_of(std::move(path)))
{
    const DWORD attributes = GetFileAttributesW(path_.c_str());
    const bool exists = attributes != INVALID_FILE_ATTRIBUTES;
    if ((exists && attributes & FILE_ATTRIBUTE_DIRECTORY) || path_.filename().empty())
        throw Error("{} cannot be written: it is a directory; name a file", path_.string());
    // Of a device (NUL, CON) and of a pipe (\\.\pipe\...) a handle says what it is.
    if (const WindowsHandle there = opened(CreateFileW(path_.c_str(), GENERIC_WRITE, FILE_SHARE_READ | FILE_SHARE_WRITE,
                                                       nullptr, OPEN_EXISTING, 0, nullptr));
        there && GetFileType(there.get()) != FILE_TYPE_DISK) {
        if (!options.devices)
            throw Error("{} cannot be written: it is a pipe or a device; name a file", path_.string());
        file_ = _wfopen(path_.c_str(), L"wb");
        if (!file_) refuse(path_, GetLastError());
        return;
    }
    if (exists && attributes & FILE_ATTRIBUTE_READONLY) refuse(path_, ERROR_ACCESS_DENIED);
    remove_leftovers(path_);
    create(options.for_owner);
}

/// Who may read it, its folder says.
void WholeFile::create(bool)
{
    part_ = fresh_part(path_);
    note_ = SignalNote::unfinished(part_);
    // Others may remove it: the handler of a signal, of this process.
    const HANDLE handle =
        CreateFileW(part_.c_str(), GENERIC_READ | GENERIC_WRITE | DELETE, FILE_SHARE_READ | FILE_SHARE_DELETE, nullptr,
                    CREATE_NEW, FILE_ATTRIBUTE_NORMAL, nullptr);
    if (handle == INVALID_HANDLE_VALUE) refuse(path_, GetLastError());
    const int fd = _open_osfhandle(intptr_t(handle), _O_BINARY);
    if (fd >= 0) file_ = _fdopen(fd, "wb");
    if (file_) return;
    const int error = errno;
    if (fd >= 0) _close(fd);
    else CloseHandle(handle);
    DeleteFileW(part_.c_str());
    fail(error);
}

WholeFile::~WholeFile()
{
    if (!file_) return;
    std::fclose(file_);
    if (!part_.empty()) DeleteFileW(part_.c_str());
}

/// An error of the C library, which keeps the system's own beside it.
void WholeFile::fail(int error) const
{
    const DWORD system = _doserrno;
    if (system) refuse(path_, system);
    throw Error("{} cannot be written: {}; name another file", path_.string(), std::generic_category().message(error));
}

void WholeFile::write(std::string_view bytes)
{
    if (std::fwrite(bytes.data(), 1, bytes.size(), file_) != bytes.size()) fail(errno);
}

void WholeFile::finish()
{
    if (std::fflush(file_) != 0 || (!part_.empty() && _commit(_fileno(file_)) != 0)) fail(errno);
    const auto handle = reinterpret_cast<HANDLE>(_get_osfhandle(_fileno(file_)));
    if (const DWORD error = part_.empty() ? 0 : rename(handle, path_)) {
        // What is mapped (a model in use) may not be replaced, but it may be renamed: it stays until the next writer of
        // this file finds it unused.
        const fs::path aside = fresh_part(path_);
        if (!MoveFileExW(path_.c_str(), aside.c_str(), 0)) refuse(path_, error);
        if (const DWORD again = rename(handle, path_)) {
            MoveFileExW(aside.c_str(), path_.c_str(), 0);
            refuse(path_, again);
        }
        DeleteFileW(aside.c_str());
    }
    note_ = {};
    part_.clear();
    if (std::fclose(std::exchange(file_, nullptr)) != 0) fail(errno);
}

void write_whole(const fs::path& path, std::span<const std::string_view> parts)
{
    WholeFile file(path);
    for (const std::string_view bytes : parts) file.write(bytes);
    file.finish();
}

}    // namespace hearth
