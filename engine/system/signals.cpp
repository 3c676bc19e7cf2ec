#include "engine/system/signal_notes.h"

#include <cerrno>
#include <csignal>

#include <termios.h>
#include <unistd.h>

namespace hearth {

void remove_unfinished() noexcept
{
    for (const SignalNote::Entry* e = unfinished_files.load(); e; e = e->next)
        if (e->begin != 0) unlink(e->text);
}

void put(std::string_view text) noexcept
{
    for (ssize_t n; !text.empty() && (n = write(STDERR_FILENO, text.data(), text.size())) > 0;)
        text.remove_prefix(size_t(n));
}

namespace {

constexpr int ending[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGXCPU, SIGABRT, SIGSEGV, SIGFPE, SIGILL};

/// The terminal as it was when the program began: a signal may come while a line is edited, which has other ways.
struct termios terminal;
bool terminal_known = false;

void restore_terminal()
{
    if (terminal_known && tcgetpgrp(STDIN_FILENO) == getpgrp())
        tcsetattr(STDIN_FILENO, TCSANOW, &terminal);    // not another program's
}

/// All in here must be safe in the middle of anything: system calls and atomics.
void end_clearly(int signal, siginfo_t* info, void*)
{
    const int error = errno;
    const bool fault = signal == SIGBUS && info->si_code > 0;    // by the kernel, not by kill
    const uintptr_t at = fault ? reinterpret_cast<uintptr_t>(info->si_addr) : 0;
    if (const SignalNote::Entry* const file = fault ? mapped_file_at(at) : nullptr) {
        speak_alone();    // several threads may read the file
        remove_unfinished();
        restore_terminal();
        put(file->text);
        _exit(1);
    }
    remove_unfinished();
    restore_terminal();
    errno = error;
    ::signal(signal, SIG_DFL);
    raise(signal);    // follows when this has returned
}

void set_handler(int signal)
{
    struct sigaction action = {};
    action.sa_sigaction = end_clearly;
    action.sa_flags = SA_SIGINFO;
    // A second one ends the program at once; but threads that meet a file which has shrunk wait for the first to speak.
    if (signal != SIGBUS) action.sa_flags |= int(SA_RESETHAND);
    sigaction(signal, &action, nullptr);
}

}    // namespace

void end_clearly_on(int signal) { set_handler(signal); }

void end_clearly_on_signals()
{
    const auto untouched = [](int signal) {
        struct sigaction now = {};
        return sigaction(signal, nullptr, &now) == 0 && !(now.sa_flags & SA_SIGINFO) && now.sa_handler == SIG_DFL;
    };
    terminal_known = tcgetattr(STDIN_FILENO, &terminal) == 0;
    for (const int signal : ending)
        if (untouched(signal)) set_handler(signal);
    if (untouched(SIGBUS)) set_handler(SIGBUS);
}

}    // namespace hearth
