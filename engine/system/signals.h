// What signals find to do before they end the program: files that are not finished are removed, and a page of a mapped
// file that cannot be read is an error that names the file.
#pragma once

#include <cstddef>
#include <exception>
#include <filesystem>
#include <string>

namespace hearth {

/// A note that a signal's handler can read at any moment. Move-only; it holds until it goes away.
class SignalNote {
  public:
    SignalNote() = default;
    /// The file is removed by a signal that ends the program.
    static SignalNote unfinished(const std::filesystem::path& path);
    /// A fault at one of these bytes ends the program: exit code 1, and `sentence` on stderr.
    static SignalNote mapped(const void* data, size_t size, const std::string& sentence);

    SignalNote(SignalNote&& other) noexcept;
    SignalNote& operator=(SignalNote&& other) noexcept;
    ~SignalNote();

    struct Entry;

  private:
    explicit SignalNote(Entry* entry) : entry_(entry) {}
    Entry* entry_ = nullptr;
};

inline constexpr const char* out_of_memory =
    "out of memory: close other programs, or use a smaller model or context (-c)";
inline constexpr const char* out_of_threads =
    "no more threads can be started: use -t with a smaller number, or raise `ulimit -u`";

/// What to tell the user of an exception that is no Error: out_of_memory, out_of_threads, or nullptr, where only the
/// exception can say it. Allocates nothing.
const char* known_failure(const std::exception& e) noexcept;

/// To be called before the sentence that ends the program: where threads fail together, the first one says it, and the
/// others wait for the end.
void speak_alone() noexcept;

/// An exception that nobody can catch (of a static object, a destructor, a thread) ends the program with its sentence,
/// too, and exit code 1.
void end_clearly_on_terminate() noexcept;

/// For a program's main, before it has threads: from here on the notes above hold for every signal that would end the
/// program, and the terminal gets back the modes that it has now. Signals that are ignored, or that somebody else
/// handles, stay so.
void end_clearly_on_signals();

/// The same for one signal, whatever was set for it. May be called by a handler.
void end_clearly_on(int signal);

}    // namespace hearth
