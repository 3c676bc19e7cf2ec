// What a confined process can still do, tried in children.
#include "engine/system/confine.h"
#include "tests/support.h"

#ifdef __linux__

#include <fcntl.h>
#include <linux/sched.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <thread>

using namespace hearth;
using namespace hearth::tests;

namespace {

/// What a child says that runs `f`: its text, or what ended it.
template <class F>
std::string in_child(F&& f)
{
    int ends[2];
    REQUIRE(pipe(ends) == 0);
    const pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        close(ends[0]);
        std::string text;
        try {
            text = f();
        } catch (const std::exception& e) {
            text = e.what();
        }
        const ssize_t written = write(ends[1], text.data(), text.size());
        _exit(written == ssize_t(text.size()) ? 0 : 1);
    }
    close(ends[1]);
    std::string said;
    char buffer[4096];
    for (ssize_t n; (n = read(ends[0], buffer, sizeof buffer)) > 0;) said.append(buffer, size_t(n));
    close(ends[0]);
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? said : fmt::format("ended by {}: {}", status, said);
}

/// The names of attempts that succeeded, or failed for another reason than that they are refused.
class Attempts {
  public:
    template <class F>
    void refused(const char* name, F&& call)
    {
        errno = 0;
        if (call() >= 0) wrong_ += fmt::format("{} was possible; ", name);
        else if (errno != EACCES && errno != EPERM && errno != ENOSYS)
            wrong_ += fmt::format("{}: {}; ", name, std::strerror(errno));
    }
    template <class F>
    void possible(const char* name, F&& call)
    {
        errno = 0;
        if (call() < 0) wrong_ += fmt::format("{}: {}; ", name, std::strerror(errno));
    }
    const std::string& wrong() const { return wrong_; }

  private:
    std::string wrong_;
};

int opened(const std::filesystem::path& path, int flags)
{
    const int file = open(path.c_str(), flags | O_CLOEXEC, 0600);
    if (file >= 0) close(file);
    return file;
}

void try_writing(Attempts& a, const std::filesystem::path& folder)
{
    const std::string there = folder / "there", absent = folder / "absent";
    a.refused("open to write", [&] { return opened(there, O_WRONLY); });
    a.refused("open to read and write", [&] { return opened(there, O_RDWR); });
    a.refused("open to append", [&] { return opened(there, O_WRONLY | O_APPEND); });
    a.refused("open to cut", [&] { return opened(there, O_RDONLY | O_TRUNC); });
    a.refused("a new file", [&] { return opened(absent, O_RDONLY | O_CREAT); });
    a.refused("a file without a name", [&] { return opened(folder, O_RDWR | O_TMPFILE); });
    a.refused("truncate", [&] { return truncate(there.c_str(), 0); });
    a.refused("remove", [&] { return unlink(there.c_str()); });
    a.refused("rename", [&] { return rename(there.c_str(), absent.c_str()); });
    a.refused("link", [&] { return link(there.c_str(), absent.c_str()); });
    a.refused("symbolic link", [&] { return symlink("there", absent.c_str()); });
    a.refused("a new folder", [&] { return mkdir(absent.c_str(), 0700); });
    a.refused("remove a folder", [&] { return rmdir((folder / "inner").c_str()); });
    a.refused("a new pipe", [&] { return mkfifo(absent.c_str(), 0600); });
    a.refused("this process's memory", [&] { return opened("/proc/self/mem", O_RDWR); });
}

void try_calls(Attempts& a, const std::filesystem::path& folder)
{
    const std::string there = folder / "there";
    for (const int family : {AF_INET, AF_INET6, AF_UNIX, AF_NETLINK})
        for (const int type : {SOCK_STREAM, SOCK_DGRAM, SOCK_RAW})
            a.refused("socket", [&] { return socket(family, type, 0); });
    int pair[2];
    a.refused("socketpair", [&] { return socketpair(AF_UNIX, SOCK_STREAM, 0, pair); });
    const sockaddr_in nowhere = {.sin_family = AF_INET, .sin_port = 9, .sin_addr = {}, .sin_zero = {}};
    a.refused("connect", [&] { return connect(0, reinterpret_cast<const sockaddr*>(&nowhere), sizeof nowhere); });
    a.refused("exec", [&] { return execl("/bin/true", "true", nullptr); });
    a.refused("exec of an open file", [&] {
        char* const none[] = {nullptr};
        return int(syscall(SYS_execveat, open("/bin/true", O_PATH), "", none, none, AT_EMPTY_PATH));
    });
    a.refused("ptrace", [&] { return int(ptrace(PTRACE_TRACEME, 0, nullptr, nullptr)); });
    a.refused("another's memory",
              [&] { return int(syscall(SYS_process_vm_readv, getppid(), nullptr, 0, nullptr, 0, 0)); });
    a.refused("a signal", [&] { return kill(getppid(), 0); });
    a.refused("keys into the terminal", [&] { return ioctl(0, TIOCSTI, "x"); });
    a.refused("mode", [&] { return chmod(there.c_str(), 0777); });
    a.refused("owner", [&] { return chown(there.c_str(), getuid(), getgid()); });
    a.refused("times", [&] { return utimensat(AT_FDCWD, there.c_str(), nullptr, 0); });
    a.refused("io_uring", [&] { return int(syscall(SYS_io_uring_setup, 1, nullptr)); });
    a.refused("namespaces", [&] { return unshare(CLONE_NEWUSER); });
    a.refused("namespaces of a child", [&] {
        const long child = syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, nullptr, nullptr, nullptr, nullptr);
        if (child == 0) _exit(0);
        return int(child);
    });
    a.refused("bpf", [&] { return int(syscall(SYS_bpf, 0, nullptr, 0)); });
#ifdef __x86_64__
    a.refused("a call by the numbers of x32", [&] { return int(syscall(0x40000000 + SYS_getpid)); });
#endif
}

void try_what_stays(Attempts& a, const std::filesystem::path& folder)
{
    a.possible("reading", [&] { return opened(folder / "there", O_RDONLY); });
    a.possible("a folder", [&] { return opened(folder, O_RDONLY | O_DIRECTORY); });
    a.possible("a thread", [&] {
        std::atomic<int> ran = -1;
        std::thread([&] { ran = 0; }).join();
        return ran.load();
    });
    a.possible("memory", [&] { return std::string(1 << 22, 'x').size() ? 0 : -1; });
    a.possible("a signal to itself", [&] { return kill(getpid(), 0); });
}

/// A folder with a file and a folder in it.
struct Place {
    TemporaryFolder folder;
    std::filesystem::path path = folder / "";
    Place()
    {
        std::ofstream(folder / "there") << "text";
        std::filesystem::create_directory(folder / "inner");
    }
    ~Place() { CHECK(read_file(folder / "there") == "text"); }
};

}    // namespace

TEST_SUITE("system")
{
    TEST_CASE("a process whose files are confined writes nowhere, and reads everywhere")
    {
        if (!can_confine_files()) {
            MESSAGE("this kernel has no Landlock");
            return;
        }
        const Place place;
        CHECK(in_child([&] {
                  Attempts a;
                  confine_files({}, false);
                  try_writing(a, place.path);
                  a.refused("exec", [&] { return execl("/bin/true", "true", nullptr); });
                  try_what_stays(a, place.path);
                  a.possible("/dev/null", [&] { return opened("/dev/null", O_WRONLY); });
                  std::thread([&] { try_writing(a, place.path); }).join();
                  return a.wrong() + "done";    // less of it, if another program took the place of this one
              }) == "done");
    }

    TEST_CASE("named outputs can be written by a temporary name in their folder, and nothing in another folder")
    {
        if (!can_confine_files()) {
            MESSAGE("this kernel has no Landlock");
            return;
        }
        const Place place, other;
        CHECK(in_child([&] {
                  Attempts a;
                  confine_files({place.folder / "out.gguf"}, false);
                  const std::string part = place.folder / "out.gguf.part";
                  a.possible("a temporary file", [&] { return opened(part, O_WRONLY | O_CREAT | O_EXCL); });
                  a.possible("its new name", [&] { return rename(part.c_str(), (place.folder / "out.gguf").c_str()); });
                  a.possible("the file again", [&] { return opened(place.folder / "out.gguf", O_WRONLY | O_TRUNC); });
                  a.refused("a folder beside it", [&] { return mkdir((place.folder / "new").c_str(), 0700); });
                  a.refused("moving it away", [&] {
                      return rename((place.folder / "out.gguf").c_str(), (other.folder / "out.gguf").c_str());
                  });
                  try_writing(a, other.path);
                  return a.wrong() + "done";    // less of it, if another program took the place of this one
              }) == "done");
        CHECK(std::filesystem::exists(place.folder / "out.gguf"));
    }

    TEST_CASE("a process whose calls are confined has no network, no other programs and no ways around, in threads "
              "that were there before, too")
    {
        if (!can_confine_calls()) {
            MESSAGE("this kernel has no seccomp");
            return;
        }
        const Place place;
        for (const bool writing : {false, true}) {
            INFO(writing);
            CHECK(in_child([&] {
                      Attempts a, of_thread;
                      std::atomic<bool> go = false;
                      std::thread before([&] {
                          while (!go) std::this_thread::yield();
                          try_calls(of_thread, place.path);
                      });
                      confine_calls(writing);
                      try_calls(a, place.path);
                      try_what_stays(a, place.path);
                      go = true;
                      before.join();
                      if (writing) try_writing(a, place.path);
                      return a.wrong() + of_thread.wrong() + "done";
                  }) == "done");
        }
    }

    TEST_CASE("a message about a file that cannot be written says so where it is the confinement that refuses")
    {
        CHECK(confinement_advice(EACCES) == "");
        if (!can_confine_calls()) return;
        const std::string said = in_child([] {
            confine_calls(false);
            return confinement_advice(EACCES) + "|" + confinement_advice(ENOSPC);
        });
        CHECK(said == "; this process is confined to what it was told to write: --confine off lifts that|");
    }
}

#endif
