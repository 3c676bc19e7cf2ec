// What the system gives a program: its words, its environment, its streams. All text is UTF-8, whatever the system has.
#pragma once

#include <cstdio>
#include <ctime>
#include <filesystem>
#include <initializer_list>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace hearth {

/// Of main's arguments those behind the program's name.
std::vector<std::string> program_words(int argc, char** argv);

/// A variable of the environment; nothing where it is not set.
std::optional<std::string> environment_variable(const std::string& name);

/// All of them, as name and value.
std::vector<std::pair<std::string, std::string>> environment_variables();

/// At the very start: standard streams carry bytes as they are; a closed one stays closed instead of naming the next
/// file opened; and a reader that went away or a file that may not grow further is an error of the write, not the end
/// of the program.
void prepare_streams();

bool on_terminal(std::FILE* stream);

/// Bytes of standard input as they come, at most so many; 0 at its end, or where `stop` says so, which is asked some
/// times a second (Linux) or when something came (Windows). Throws Error.
size_t read_input(char* to, size_t most, bool (*stop)());

/// As std::fopen; nullptr and errno where it cannot be opened.
std::FILE* open_file(const std::filesystem::path& path, const char* mode);

std::tm local_time(std::time_t time);

/// A function of a library of the system, by the first of its names that can be opened; nullptr where there is none.
/// The library stays open for the life of the process.
using Symbol = void (*)();
Symbol library_symbol(std::initializer_list<const char*> libraries, const char* name);

}    // namespace hearth
