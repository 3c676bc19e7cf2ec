#include "engine/error.h"
#include "engine/system/file_map.h"
#include "engine/system/windows.h"

namespace hearth {

namespace {

/// Whoever wants to rename, replace or remove the file may: this one stays what it was.
constexpr DWORD shared = FILE_SHARE_READ | FILE_SHARE_DELETE;

/// What tells a file from others, and one state of it from others; nothing but zeros where the system does not say.
BY_HANDLE_FILE_INFORMATION information(HANDLE file)
{
    BY_HANDLE_FILE_INFORMATION known{};
    if (!file || !GetFileInformationByHandle(file, &known)) known = {};
    return known;
}

uint64_t both(DWORD high, DWORD low) { return uint64_t(high) << 32 | low; }

}    // namespace

MappedFile::MappedFile(const std::filesystem::path& path) : path_(path)
{
    const std::string name = printable(path.string());
    const auto check = [&](bool good) {
        if (!good) throw Error("cannot read {}: {}", name, windows_message(GetLastError()));
    };
    const DWORD attributes = GetFileAttributesW(path.c_str());
    check(attributes != INVALID_FILE_ATTRIBUTES);
    if (attributes & FILE_ATTRIBUTE_DIRECTORY) throw Error("{} is a directory; name the GGUF file in it", name);
    // With FILE_SHARE_WRITE, too: a file that is still being written is read, and check_unchanged will say so.
    const WindowsHandle file = opened(CreateFileW(path.c_str(), GENERIC_READ, shared | FILE_SHARE_WRITE, nullptr,
                                                  OPEN_EXISTING, FILE_ATTRIBUTE_NORMAL, nullptr));
    check(bool(file));
    if (GetFileType(file.get()) != FILE_TYPE_DISK)
        throw Error("{} is not a regular file; a model cannot be read from a pipe or a device", name);
    LARGE_INTEGER size{};
    check(GetFileSizeEx(file.get(), &size));
    size_ = size_t(size.QuadPart);
    if (size_) {
        const WindowsHandle mapping(CreateFileMappingW(file.get(), nullptr, PAGE_READONLY, 0, 0, nullptr));
        check(bool(mapping));
        data_ = static_cast<const char*>(MapViewOfFile(mapping.get(), FILE_MAP_READ, 0, 0, 0));
        check(data_);    // the view keeps all that it needs
    }
    const BY_HANDLE_FILE_INFORMATION known = information(file.get());
    identity_ = {known.dwVolumeSerialNumber, both(known.nFileIndexHigh, known.nFileIndexLow), size_,
                 int64_t(both(known.ftLastWriteTime.dwHighDateTime, known.ftLastWriteTime.dwLowDateTime)), 0};
    try {
        note_ = SignalNote::mapped(data_, size_,
                                   fmt::format("hearth: {} cannot be read any more: its disk or network failed; "
                                               "copy it again, and leave it alone while it is used\n",
                                               name));
    } catch (...) {
        if (data_) UnmapViewOfFile(data_);
        throw;
    }
}

MappedFile::~MappedFile()
{
    note_ = {};
    if (data_) UnmapViewOfFile(data_);
}

void MappedFile::check_unchanged() const
{
    const WindowsHandle file = opened(CreateFileW(path_.c_str(), FILE_READ_ATTRIBUTES, shared | FILE_SHARE_WRITE,
                                                  nullptr, OPEN_EXISTING, FILE_ATTRIBUTE_NORMAL, nullptr));
    const BY_HANDLE_FILE_INFORMATION now = information(file.get());
    if (now.dwVolumeSerialNumber != identity_.device || both(now.nFileIndexHigh, now.nFileIndexLow) != identity_.node)
        return;    // the name is another file's
    const auto written = int64_t(both(now.ftLastWriteTime.dwHighDateTime, now.ftLastWriteTime.dwLowDateTime));
    if (both(now.nFileSizeHigh, now.nFileSizeLow) == identity_.size && written == identity_.seconds) return;
    throw Error("{} was changed while it was in use: start again once it is whole", printable(path_.string()));
}

}    // namespace hearth
