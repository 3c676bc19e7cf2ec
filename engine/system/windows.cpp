// The rooms of engine/system on Windows. So far: the file map.
#include "engine/error.h"
#include "engine/system/file_map.h"

#include <system_error>
#include <utility>

#define WIN32_LEAN_AND_MEAN
#define NOMINMAX
#include <windows.h>

namespace hearth {

MappedFile::MappedFile(const std::filesystem::path& path) : path_(path)
{
    const HANDLE file = CreateFileW(path.c_str(), GENERIC_READ, FILE_SHARE_READ, nullptr, OPEN_EXISTING,
                                    FILE_ATTRIBUTE_NORMAL, nullptr);
    const bool opened = file != INVALID_HANDLE_VALUE;
    LARGE_INTEGER size{};
    const bool sized = opened && GetFileSizeEx(file, &size);
    size_ = size_t(size.QuadPart);
    const HANDLE mapping = size_ ? CreateFileMappingW(file, nullptr, PAGE_READONLY, 0, 0, nullptr) : nullptr;
    if (mapping) data_ = static_cast<const char*>(MapViewOfFile(mapping, FILE_MAP_READ, 0, 0, 0));
    const bool good = sized && (data_ || !size_);
    const std::error_code error(int(GetLastError()), std::system_category());
    if (mapping) CloseHandle(mapping);    // the view keeps both alive
    if (opened) CloseHandle(file);
    if (!good) throw Error("cannot read {}: {}", path.string(), error.message());
}

MappedFile::~MappedFile()
{
    if (data_) UnmapViewOfFile(data_);
}

/// Nobody can write to it: the view keeps it from being opened for that.
void MappedFile::check_unchanged() const {}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)), data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0))
{
}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept
{
    std::swap(path_, other.path_);
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
}

}    // namespace hearth
