#include "engine/error.h"
#include "engine/system/console.h"
#include "engine/system/program.h"
#include "engine/system/windows.h"

#include <clocale>
#include <cstdlib>

#include <fcntl.h>
#include <io.h>
#include <shellapi.h>

namespace hearth {

std::string to_utf8(std::wstring_view text)
{
    if (text.empty()) return {};
    const int size = WideCharToMultiByte(CP_UTF8, 0, text.data(), int(text.size()), nullptr, 0, nullptr, nullptr);
    std::string out(size_t(size), '\0');
    WideCharToMultiByte(CP_UTF8, 0, text.data(), int(text.size()), out.data(), size, nullptr, nullptr);
    return out;
}

std::wstring to_wide(std::string_view utf8)
{
    if (utf8.empty()) return {};
    const int size = MultiByteToWideChar(CP_UTF8, 0, utf8.data(), int(utf8.size()), nullptr, 0);
    std::wstring out(size_t(size), L'\0');
    MultiByteToWideChar(CP_UTF8, 0, utf8.data(), int(utf8.size()), out.data(), size);
    return out;
}

std::string windows_message(DWORD error)
{
    wchar_t text[512];
    DWORD length = FormatMessageW(FORMAT_MESSAGE_FROM_SYSTEM | FORMAT_MESSAGE_IGNORE_INSERTS, nullptr, error, 0, text,
                                  DWORD(std::size(text)), nullptr);
    while (length && (text[length - 1] <= L' ' || text[length - 1] == L'.')) --length;
    return length ? to_utf8({text, length}) : fmt::format("error {} of Windows", error);
}

// ---- words and variables --------------------------------------------------------------------------------------------

/// Not from `argv`, which has been through the system's code page.
std::vector<std::string> program_words(int, char**)
{
    int count = 0;
    wchar_t** const words = CommandLineToArgvW(GetCommandLineW(), &count);
    std::vector<std::string> out;
    for (int i = 1; i < count; ++i) out.push_back(to_utf8(words[i]));
    LocalFree(words);
    return out;
}

std::optional<std::string> environment_variable(const std::string& name)
{
    const std::wstring wide = to_wide(name);
    std::wstring value(256, L'\0');
    for (;;) {
        SetLastError(ERROR_SUCCESS);
        const DWORD length = GetEnvironmentVariableW(wide.c_str(), value.data(), DWORD(value.size()));
        if (!length && GetLastError() != ERROR_SUCCESS) return {};
        const bool fits = length < value.size();
        value.resize(length);
        if (fits) return to_utf8(value);
    }
}

std::vector<std::pair<std::string, std::string>> environment_variables()
{
    std::vector<std::pair<std::string, std::string>> all;
    wchar_t* const block = GetEnvironmentStringsW();
    for (const wchar_t* at = block; at && *at;) {
        const std::wstring_view line = at;
        const size_t equals = line.find(L'=', 1);    // names such as "=C:" are the shell's own
        if (equals != line.npos) all.emplace_back(to_utf8(line.substr(0, equals)), to_utf8(line.substr(equals + 1)));
        at += line.size() + 1;
    }
    if (block) FreeEnvironmentStringsW(block);
    return all;
}

// ---- streams --------------------------------------------------------------------------------------------------------

namespace {

UINT code_page_before = 0;

void restore_code_page() { SetConsoleOutputCP(code_page_before); }

/// A console shows UTF-8, and knows the sequences that colour and delete. It belongs to the shell, too, and is given
/// back as it was.
void prepare_console()
{
    for (const DWORD stream : {STD_OUTPUT_HANDLE, STD_ERROR_HANDLE}) {
        const HANDLE console = GetStdHandle(stream);
        DWORD mode = 0;
        if (!GetConsoleMode(console, &mode)) continue;
        SetConsoleMode(console, mode | ENABLE_PROCESSED_OUTPUT | ENABLE_VIRTUAL_TERMINAL_PROCESSING);
        if (code_page_before) continue;
        code_page_before = GetConsoleOutputCP();
        if (code_page_before && SetConsoleOutputCP(CP_UTF8)) std::atexit(restore_code_page);
    }
}

}    // namespace

void prepare_streams()
{
    for (std::FILE* stream : {stdin, stdout, stderr})
        if (_fileno(stream) >= 0) _setmode(_fileno(stream), _O_BINARY);
    // What paths are made of (see utf8_windows.cpp). Not known to every C library, and needed by those that know it.
    std::setlocale(LC_CTYPE, ".UTF-8");
    prepare_console();
}

/// Not _isatty, to which every device is a terminal, NUL, too.
bool on_terminal(std::FILE* stream)
{
    DWORD mode = 0;
    const int fd = _fileno(stream);
    return fd >= 0 && GetConsoleMode(reinterpret_cast<HANDLE>(_get_osfhandle(fd)), &mode);
}

size_t read_input(char* to, size_t most, bool (*stop)())
{
    DWORD count = 0;
    if (ReadFile(GetStdHandle(STD_INPUT_HANDLE), to, DWORD(most), &count, nullptr)) return stop() ? 0 : count;
    const DWORD error = GetLastError();
    if (error == ERROR_BROKEN_PIPE || error == ERROR_HANDLE_EOF) return 0;    // whoever wrote to it has ended
    throw Error("standard input cannot be read: {}", windows_message(error));
}

std::optional<std::string> read_console_line()
{
    const HANDLE console = GetStdHandle(STD_INPUT_HANDLE);
    std::wstring line;
    for (;;) {
        wchar_t block[512];
        DWORD count = 0;
        SetLastError(ERROR_SUCCESS);
        if (!ReadConsoleW(console, block, DWORD(std::size(block)), &count, nullptr))
            throw Error("standard input cannot be read: {}", windows_message(GetLastError()));
        if (!count || GetLastError() == ERROR_OPERATION_ABORTED) return {};    // Ctrl-C
        line.append(block, count);
        if (line.back() == L'\n') break;
    }
    if (line.front() == 0x1a) return {};
    while (!line.empty() && (line.back() == L'\n' || line.back() == L'\r')) line.pop_back();
    return to_utf8(line);
}

// ---- the rest -------------------------------------------------------------------------------------------------------

std::FILE* open_file(const std::filesystem::path& path, const char* mode)
{
    return _wfopen(path.c_str(), to_wide(mode).c_str());
}

std::tm local_time(std::time_t time)
{
    std::tm local{};
    localtime_s(&local, &time);
    return local;
}

/// From the system's folder alone: a DLL beside the program, or in the current folder, may be anybody's.
Symbol library_symbol(std::initializer_list<const char*> libraries, const char* name)
{
    for (const char* library : libraries)
        if (const HMODULE opened = LoadLibraryExW(to_wide(library).c_str(), nullptr, LOAD_LIBRARY_SEARCH_SYSTEM32))
            return reinterpret_cast<Symbol>(reinterpret_cast<void*>(GetProcAddress(opened, name)));
    return nullptr;
}

}    // namespace hearth
