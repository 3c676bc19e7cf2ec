#include "engine/system/signals.h"

#include "engine/error.h"

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <new>
#include <string_view>
#include <system_error>
#include <utility>

#include <pthread.h>
#include <termios.h>
#include <unistd.h>

namespace hearth {

/// Entries are never freed, only used again, so that a handler can walk a list of them whatever it has interrupted.
struct SignalNote::Entry {
    std::atomic<bool> taken = true;
    std::atomic<uintptr_t> begin = 0, end = 0;    // of a map; where both are 0 the entry is not valid (yet)
    char text[4096] = {};                         // a path, or a sentence with its line end
    Entry* next = nullptr;
};

namespace {

using Entry = SignalNote::Entry;

std::atomic<Entry*> unfinished_files = nullptr, mapped_files = nullptr;

Entry* take_entry(std::atomic<Entry*>& list)
{
    for (Entry* e = list.load(); e; e = e->next)
        if (bool taken = false; e->taken.compare_exchange_strong(taken, true)) return e;
    Entry* const fresh = new Entry;
    fresh->next = list.load();
    while (!list.compare_exchange_weak(fresh->next, fresh)) {}
    return fresh;
}

Entry* make_entry(std::atomic<Entry*>& list, std::string_view text, uintptr_t begin, uintptr_t end)
{
    Entry* const e = take_entry(list);
    const size_t length = text.copy(e->text, sizeof e->text - 1);
    e->text[length] = '\0';
    e->end = end;
    e->begin = begin;
    return e;
}

constexpr int ending[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGXCPU, SIGABRT, SIGSEGV, SIGFPE, SIGILL};

void remove_unfinished()
{
    for (const Entry* e = unfinished_files.load(); e; e = e->next)
        if (e->begin != 0) unlink(e->text);
}

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
    for (const Entry* e = mapped_files.load(); fault && e; e = e->next) {
        if (at < e->begin || at >= e->end) continue;
        speak_alone();    // several threads may read the file
        remove_unfinished();
        restore_terminal();
        [[maybe_unused]] const bool written = write(STDERR_FILENO, e->text, std::strlen(e->text)) >= 0;
        _exit(1);    // whether written or not: there is nobody else to tell
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

SignalNote SignalNote::unfinished(const std::filesystem::path& path)
{
    if (path.native().size() >= sizeof Entry::text) return {};
    return SignalNote(make_entry(unfinished_files, path.native(), 1, 1));
}

SignalNote SignalNote::mapped(const void* data, size_t size, const std::string& sentence)
{
    const uintptr_t begin = reinterpret_cast<uintptr_t>(data);
    return SignalNote(make_entry(mapped_files, sentence, begin, begin + size));
}

SignalNote::SignalNote(SignalNote&& other) noexcept : entry_(std::exchange(other.entry_, nullptr)) {}

SignalNote& SignalNote::operator=(SignalNote&& other) noexcept
{
    std::swap(entry_, other.entry_);
    return *this;
}

SignalNote::~SignalNote()
{
    if (!entry_) return;
    entry_->begin = 0;
    entry_->end = 0;
    entry_->taken = false;
}

namespace {

void put(std::string_view text) noexcept
{
    for (ssize_t n; !text.empty() && (n = write(STDERR_FILENO, text.data(), text.size())) > 0;)
        text.remove_prefix(size_t(n));
}

[[noreturn]] void last_words() noexcept
{
    speak_alone();
    remove_unfinished();
    try {
        if (const std::exception_ptr e = std::current_exception()) std::rethrow_exception(e);
    } catch (const Error& e) {
        put("hearth: ");
        put(e.what());
        put("\n");
        _exit(1);
    } catch (const std::exception& e) {
        const char* const known = known_failure(e);
        put(known ? "hearth: " : "hearth: unexpected: ");
        put(known ? known : e.what());
        put(known ? "\n" : "; please report this\n");
        _exit(1);
    } catch (...) {
    }
    std::abort();
}

}    // namespace

void speak_alone() noexcept
{
    static std::atomic<pthread_t> speaker{};
    pthread_t nobody{};
    if (speaker.compare_exchange_strong(nobody, pthread_self()) || nobody == pthread_self()) return;
    sleep(5);    // the other one ends the program in less
    _exit(1);
}

const char* known_failure(const std::exception& e) noexcept
{
    if (dynamic_cast<const std::bad_alloc*>(&e)) return out_of_memory;
    const auto* system = dynamic_cast<const std::system_error*>(&e);
    if (system && system->code() == std::errc::resource_unavailable_try_again) return out_of_threads;
    if (system && system->code() == std::errc::not_enough_memory) return out_of_memory;
    return std::strstr(e.what(), "pthread_create") ? out_of_threads : nullptr;    // oneTBB's
}

void end_clearly_on_terminate() noexcept { std::set_terminate(last_words); }

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
