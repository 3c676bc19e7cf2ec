// For the files of this room that end in _windows.cpp: the system's header without what is not used of it, and the
// errors that it knows by numbers of its own.
#pragma once

#include <cerrno>
#include <memory>
#include <string>
#include <string_view>

#define WIN32_LEAN_AND_MEAN
#ifndef NOMINMAX
#define NOMINMAX
#endif
#include <windows.h>

namespace hearth {

std::string to_utf8(std::wstring_view text);
std::wstring to_wide(std::string_view utf8);

/// What the system says of an error, as part of a sentence: "Access is denied", in the user's language.
std::string windows_message(DWORD error);

struct CloseWindowsHandle {
    void operator()(HANDLE handle) const { CloseHandle(handle); }
};
using WindowsHandle = std::unique_ptr<void, CloseWindowsHandle>;

/// Empty where it could not be opened; GetLastError says why.
inline WindowsHandle opened(HANDLE handle) { return WindowsHandle(handle == INVALID_HANDLE_VALUE ? nullptr : handle); }

}    // namespace hearth
