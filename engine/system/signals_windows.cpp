#include "engine/system/signal_notes.h"
#include "engine/system/windows.h"

#include <algorithm>
#include <csignal>
#include <cstdlib>

namespace hearth {

/// The handlers of a console run in a thread of their own, but that of a fault does not: nothing is allocated.
void remove_unfinished() noexcept
{
    for (const SignalNote::Entry* e = unfinished_files.load(); e; e = e->next) {
        static wchar_t path[sizeof e->text];    // whoever comes here, comes alone, or for the same files
        if (e->begin != 0 && MultiByteToWideChar(CP_UTF8, 0, e->text, -1, path, int(std::size(path))) > 0)
            DeleteFileW(path);
    }
}

void put(std::string_view text) noexcept
{
    DWORD written = 0;
    WriteFile(GetStdHandle(STD_ERROR_HANDLE), text.data(), DWORD(text.size()), &written, nullptr);
}

namespace {

/// A page of a mapped file that cannot be read.
LONG WINAPI on_fault(EXCEPTION_POINTERS* fault)
{
    const EXCEPTION_RECORD& r = *fault->ExceptionRecord;
    if (r.ExceptionCode != DWORD(EXCEPTION_IN_PAGE_ERROR) || r.NumberParameters < 2) return EXCEPTION_CONTINUE_SEARCH;
    const SignalNote::Entry* const file = mapped_file_at(r.ExceptionInformation[1]);
    if (!file) return EXCEPTION_CONTINUE_SEARCH;
    speak_alone();    // several threads may read the file
    remove_unfinished();
    put(file->text);
    std::_Exit(1);
}

/// The window is closed, the user logs off, the machine shuts down. Ctrl-C and Ctrl-Break come as signals.
BOOL WINAPI on_console_event(DWORD event)
{
    if (event != CTRL_C_EVENT && event != CTRL_BREAK_EVENT) remove_unfinished();
    return FALSE;    // whoever is next ends the program
}

constexpr int ending[] = {SIGINT, SIGBREAK, SIGTERM, SIGABRT, SIGSEGV, SIGFPE, SIGILL};

constexpr int interrupted = int(STATUS_CONTROL_C_EXIT);    // as the system ends programs by Ctrl-C

void end_clearly(int signal)
{
    remove_unfinished();
    if (signal == SIGINT || signal == SIGBREAK) std::_Exit(interrupted);
    std::signal(signal, SIG_DFL);
    std::raise(signal);
}

}    // namespace

void end_clearly_on(int signal) { std::signal(signal, end_clearly); }

void end_clearly_on_signals()
{
    for (const int signal : ending)
        if (const auto before = std::signal(signal, end_clearly); before != SIG_DFL) std::signal(signal, before);
    SetConsoleCtrlHandler(on_console_event, TRUE);
    AddVectoredExceptionHandler(1, on_fault);
}

}    // namespace hearth
