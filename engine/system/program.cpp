#include "engine/system/program.h"

#include "engine/error.h"

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <system_error>

#include <dlfcn.h>
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

extern char** environ;

namespace hearth {

std::vector<std::string> program_words(int argc, char** argv)
{
    return argc > 1 ? std::vector<std::string>(argv + 1, argv + argc) : std::vector<std::string>();
}

std::optional<std::string> environment_variable(const std::string& name)
{
    const char* const value = std::getenv(name.c_str());
    return value ? std::optional<std::string>(value) : std::nullopt;
}

std::vector<std::pair<std::string, std::string>> environment_variables()
{
    std::vector<std::pair<std::string, std::string>> all;
    for (char** e = environ; e && *e; ++e)
        if (char* const equals = std::strchr(*e, '=')) all.emplace_back(std::string(*e, equals), equals + 1);
    return all;
}

void prepare_streams()
{
    for (const int fd : {0, 1, 2})
        if (fcntl(fd, F_GETFD) == -1)
            open("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY);    // the wrong way round: to use it is an error
    std::signal(SIGPIPE, SIG_IGN);
    std::signal(SIGXFSZ, SIG_IGN);
}

bool on_terminal(std::FILE* stream) { return isatty(fileno(stream)); }

/// The wait is cut into short ones: a signal may come just before one of them, or to another thread.
size_t read_input(char* to, size_t most, bool (*stop)())
{
    pollfd input = {.fd = STDIN_FILENO, .events = POLLIN, .revents = 0};
    while (!stop()) {
        if (poll(&input, 1, 100) <= 0) continue;
        const ssize_t count = ::read(STDIN_FILENO, to, most);
        if (count >= 0) return size_t(count);
        if (errno == EIO && isatty(STDIN_FILENO)) return 0;    // the terminal went away
        if (errno != EINTR && errno != EAGAIN)
            throw Error("standard input cannot be read: {}", std::generic_category().message(errno));
    }
    return 0;
}

std::FILE* open_file(const std::filesystem::path& path, const char* mode) { return std::fopen(path.c_str(), mode); }

std::tm local_time(std::time_t time)
{
    std::tm local{};
    localtime_r(&time, &local);
    return local;
}

Symbol library_symbol(std::initializer_list<const char*> libraries, const char* name)
{
    for (const char* library : libraries)
        if (void* const opened = dlopen(library, RTLD_NOW | RTLD_LOCAL))
            return reinterpret_cast<Symbol>(dlsym(opened, name));
    return nullptr;
}

}    // namespace hearth
