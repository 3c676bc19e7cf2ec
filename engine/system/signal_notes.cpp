#include "engine/system/signal_notes.h"

#include "engine/error.h"

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <new>
#include <system_error>
#include <thread>
#include <utility>

namespace hearth {

SignalEntries unfinished_files = nullptr, mapped_files = nullptr;

namespace {

using Entry = SignalNote::Entry;

Entry* take_entry(SignalEntries& list)
{
    for (Entry* e = list.load(); e; e = e->next)
        if (bool taken = false; e->taken.compare_exchange_strong(taken, true)) return e;
    Entry* const fresh = new Entry;
    fresh->next = list.load();
    while (!list.compare_exchange_weak(fresh->next, fresh)) {}
    return fresh;
}

Entry* make_entry(SignalEntries& list, std::string_view text, uintptr_t begin, uintptr_t end)
{
    Entry* const e = take_entry(list);
    const size_t length = text.copy(e->text, sizeof e->text - 1);
    e->text[length] = '\0';
    e->end = end;
    e->begin = begin;
    return e;
}

}    // namespace

SignalNote SignalNote::unfinished(const std::filesystem::path& path)
{
    const std::string name = path.string();
    if (name.size() >= sizeof Entry::text) return {};
    return SignalNote(make_entry(unfinished_files, name, 1, 1));
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

const SignalNote::Entry* mapped_file_at(uintptr_t address) noexcept
{
    const Entry* e = mapped_files.load();
    while (e && (address < e->begin || address >= e->end)) e = e->next;
    return e;
}

const char* known_failure(const std::exception& e) noexcept
{
    if (dynamic_cast<const std::bad_alloc*>(&e)) return out_of_memory;
    const auto* system = dynamic_cast<const std::system_error*>(&e);
    if (system && system->code() == std::errc::resource_unavailable_try_again) return out_of_threads;
    if (system && system->code() == std::errc::not_enough_memory) return out_of_memory;
    return std::strstr(e.what(), "pthread_create") ? out_of_threads : nullptr;    // oneTBB's
}

namespace {

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
        std::_Exit(1);
    } catch (const std::exception& e) {
        const char* const known = known_failure(e);
        put(known ? "hearth: " : "hearth: unexpected: ");
        put(known ? known : e.what());
        put(known ? "\n" : "; please report this\n");
        std::_Exit(1);
    } catch (...) {
    }
    std::abort();
}

}    // namespace

void speak_alone() noexcept
{
    static std::atomic<std::thread::id> speaker{};
    std::thread::id nobody{};
    const std::thread::id self = std::this_thread::get_id();
    if (speaker.compare_exchange_strong(nobody, self) || nobody == self) return;
    std::this_thread::sleep_for(std::chrono::seconds(5));    // the other one ends the program in less
    std::_Exit(1);
}

void end_clearly_on_terminate() noexcept { std::set_terminate(last_words); }

}    // namespace hearth
