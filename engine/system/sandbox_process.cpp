// How a sandbox's process is set up, watched and ended. Linux: namespaces(7), pivot_root(2), mount_setattr(2).
#include "engine/system/sandbox_process.h"

#include "engine/error.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

namespace hearth {

namespace {

constexpr size_t most_kept = 1000;         // bytes of what a program says
constexpr double seconds_to_start = 60;    // of the interpreter, on a machine that is busy
constexpr std::string_view begun = "begun\n";

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

/// A file descriptor that is closed.
class Descriptor {
  public:
    explicit Descriptor(int fd = -1) : fd_(fd) {}
    Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    Descriptor& operator=(Descriptor&& other) noexcept
    {
        std::swap(fd_, other.fd_);
        return *this;
    }
    ~Descriptor() { close(); }
    void close()
    {
        if (fd_ >= 0) ::close(fd_);
        fd_ = -1;
    }
    int get() const { return fd_; }

  private:
    int fd_;
};

[[noreturn]] void cannot(const char* what)
{
    throw Error("programs cannot be run: {}: {}", what, std::generic_category().message(errno));
}

/// A file in memory that is read from its beginning.
Descriptor in_memory(std::string_view bytes)
{
    Descriptor file(memfd_create("hearth", MFD_CLOEXEC));
    if (file.get() < 0) cannot("memfd_create");
    while (!bytes.empty()) {
        const ssize_t n = write(file.get(), bytes.data(), bytes.size());
        if (n < 0) cannot("write");
        bytes.remove_prefix(size_t(n));
    }
    lseek(file.get(), 0, SEEK_SET);
    return file;
}

struct Pipe {
    Descriptor read, write;
    Pipe()
    {
        int ends[2];
        if (pipe2(ends, O_CLOEXEC) != 0) cannot("pipe2");
        read = Descriptor(ends[0]);
        write = Descriptor(ends[1]);
    }
};

std::vector<char*> pointers(const std::vector<std::string>& texts)
{
    std::vector<char*> out;
    out.reserve(texts.size() + 1);
    for (const std::string& t : texts) out.push_back(const_cast<char*>(t.c_str()));
    out.push_back(nullptr);
    return out;
}

// ---- in the child: system calls alone, since other threads may have held any lock when it was split off
// --------------

struct LimitOf {
    int resource;
    rlim_t value;
};

/// All that the children need, made before.
struct Prepared {
    std::vector<char*> arguments, environment;
    int input, out, talk;
    int extra = -1;    // becomes 3: bubblewrap's filter
    std::vector<LimitOf> limits;
    sock_fprog filter = {};
    std::string user_map, group_map;
    const std::vector<Sandbox::Place>* places = nullptr;
    std::string folder_size;    // of /tmp, as mount takes it
};

/// Tells the parent, on stderr, what has not worked, and ends.
[[noreturn]] void give_up(int talk, const char* what)
{
    char text[64] = ": errno ";
    const auto [end, ec] = std::to_chars(text + 8, text + sizeof text, errno);
    [[maybe_unused]] const bool told =
        write(talk, what, std::strlen(what)) > 0 && write(talk, text, size_t(end - text)) > 0;
    _exit(1);
}

/// From here on the process is the program.
[[noreturn]] void become_program(const Prepared& p)
{
    setsid();    // Ctrl-C is for us
    if (dup2(p.input, 0) < 0 || dup2(p.out, 1) < 0 || dup2(p.talk, 2) < 0) _exit(1);
    if (p.extra >= 0 && dup2(p.extra, 3) < 0) give_up(2, "dup2");
    if (syscall(SYS_close_range, p.extra >= 0 ? 4u : 3u, ~0u, 0u) != 0) give_up(2, "close_range");
    for (const LimitOf& l : p.limits) {
        const rlimit both = {l.value, l.value};
        if (setrlimit(decltype(RLIMIT_AS)(l.resource), &both) != 0) give_up(2, "setrlimit");
    }
    if (p.filter.len > 0) {
        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) give_up(2, "prctl");
        if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &p.filter) != 0) give_up(2, "seccomp");
    }
    execve(p.arguments[0], p.arguments.data(), p.environment.data());
    give_up(2, "execve");
}

constexpr uint64_t read_only = 1, no_setuid = 2, no_devices = 4;    // MOUNT_ATTR_

bool restrict(const char* path, bool with_all_below, uint64_t attributes)
{
    const uint64_t change[4] = {attributes, 0, 0, 0};    // struct mount_attr
    constexpr unsigned recursive = 0x8000;               // AT_RECURSIVE
    return syscall(SYS_mount_setattr, AT_FDCWD, path, with_all_below ? recursive : 0, change, sizeof change) == 0;
}

/// A path below a folder, in a buffer of its own.
class Joined {
  public:
    Joined(const char* folder, const std::string& path)
    {
        const size_t length = std::strlen(folder);
        if (length + path.size() >= sizeof text_) return;
        std::memcpy(text_, folder, length);
        std::memcpy(text_ + length, path.c_str(), path.size() + 1);
    }
    /// Makes the folders that it lies in.
    void make_parents()
    {
        for (char* at = text_ + 1; (at = std::strchr(at, '/')); ++at) {
            *at = '\0';
            mkdir(text_, 0755);
            *at = '/';
        }
    }
    const char* c_str() const { return text_; }

  private:
    char text_[4096] = {};
};

/// One of our folders or files, read-only, below /new; ours are below /old.
void put(const Prepared& p, const Sandbox::Place& place)
{
    Joined target("/new", place.path);
    target.make_parents();
    if (!place.link.empty()) {
        if (symlink(place.link.c_str(), target.c_str()) != 0) give_up(p.talk, "symlink");
        return;
    }
    const Joined source("/old", place.path);
    if (place.folder) mkdir(target.c_str(), 0755);
    else close(open(target.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
    if (mount(source.c_str(), target.c_str(), nullptr, MS_BIND | MS_REC, nullptr) != 0)
        give_up(p.talk, place.path.c_str());
    if (!restrict(target.c_str(), true, read_only | no_setuid | (place.device ? 0 : no_devices)))
        give_up(p.talk, "mount_setattr");
}

/// Puts the process into a root of its own.
void make_root(const Prepared& p)
{
    const auto check = [&p](bool good, const char* what) {
        if (!good) give_up(p.talk, what);
    };
    check(mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0, "mount");
    check(mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=1m") == 0, "mount of tmpfs");
    check(mkdir("/tmp/old", 0755) == 0 && mkdir("/tmp/new", 0755) == 0, "mkdir");
    check(syscall(SYS_pivot_root, "/tmp", "/tmp/old") == 0 && chdir("/") == 0, "pivot_root");
    check(mount("/new", "/new", nullptr, MS_BIND, nullptr) == 0, "mount of the root");
    for (const Sandbox::Place& place : *p.places) put(p, place);
    check(mkdir("/new/tmp", 0755) == 0, "mkdir");
    check(mount("tmpfs", "/new/tmp", "tmpfs", MS_NOSUID | MS_NODEV, p.folder_size.c_str()) == 0, "mount of tmpfs");
    check(chdir("/new") == 0 && syscall(SYS_pivot_root, ".", ".") == 0, "pivot_root");
    check(umount2(".", MNT_DETACH) == 0 && chdir("/tmp") == 0, "umount2");
    check(restrict("/", false, read_only | no_setuid | no_devices), "mount_setattr");
}

void write_file(const Prepared& p, const char* path, std::string_view text)
{
    const int file = open(path, O_WRONLY | O_CLOEXEC);
    if (file < 0 || write(file, text.data(), text.size()) != ssize_t(text.size())) give_up(p.talk, path);
    close(file);
}

pid_t split_off(unsigned long namespaces) { return pid_t(syscall(SYS_clone, namespaces | SIGCHLD, 0, 0, 0, 0)); }

/// The first process of the namespaces; with it all others end.
[[noreturn]] void first_process(const Prepared& p)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    write_file(p, "/proc/self/setgroups", "deny");
    write_file(p, "/proc/self/uid_map", p.user_map);
    write_file(p, "/proc/self/gid_map", p.group_map);
    make_root(p);
    const pid_t program = split_off(0);
    if (program < 0) give_up(p.talk, "clone");
    if (program == 0) {
        for (int capability = 0; prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0;) ++capability;
        become_program(p);
    }
    close(p.out);
    close(p.talk);
    int status = 0;
    while (waitpid(program, &status, 0) < 0 && errno == EINTR) {}
    _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

// ---- in the parent
// ---------------------------------------------------------------------------------------------------

std::vector<LimitOf> limits_of(const Sandbox::Limits& l)
{
    return {{RLIMIT_AS, l.memory}, {RLIMIT_FSIZE, l.written},           {RLIMIT_NOFILE, 64},
            {RLIMIT_CORE, 0},      {RLIMIT_CPU, rlim_t(l.seconds) + 2}, {RLIMIT_MEMLOCK, 0},
            {RLIMIT_MSGQUEUE, 0}};
}

/// Waits for a process, reads what it says, and ends it when its time is over: some to start, and then what it may
/// have.
Finished watch(pid_t process, Pipe& out, Pipe& talk, double seconds)
{
    Finished finished;
    out.write.close();
    talk.write.close();
    std::string said;
    double until = now() + seconds_to_start;
    pollfd ends[] = {{out.read.get(), POLLIN, 0}, {talk.read.get(), POLLIN, 0}};
    std::string* const texts[] = {&said, &finished.talk};
    bool has_begun = false;
    while (ends[0].fd >= 0 || ends[1].fd >= 0) {
        const double left = until - now();
        if (left <= 0) {
            finished.late = true;
            break;
        }
        if (poll(ends, 2, int(std::min(left, 1.0) * 1000) + 1) < 0 && errno != EINTR) break;
        for (int i = 0; i < 2; ++i) {
            if (ends[i].fd < 0 || !ends[i].revents) continue;
            char block[4096];
            const ssize_t n = read(ends[i].fd, block, sizeof block);
            if (n <= 0) ends[i].fd = -1;    // poll leaves it out
            else texts[i]->append(block, std::min(size_t(n), most_kept - std::min(most_kept, texts[i]->size())));
        }
        if (!has_begun && said.starts_with(begun)) {
            has_begun = true;
            until = now() + seconds;
        }
    }
    if (finished.late) kill(process, SIGKILL);
    int status = 0;
    for (;;) {    // it may have closed its ends and go on
        const pid_t ended = waitpid(process, &status, finished.late ? 0 : WNOHANG);
        if (ended == process || (ended < 0 && errno != EINTR)) break;
        if (!finished.late && now() > until) {
            finished.late = true;
            kill(process, SIGKILL);
        } else if (ended == 0) usleep(500);
    }
    finished.status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    if (finished.status > 128) finished.signal = finished.status - 128;
    if (has_begun) finished.out = said.substr(begun.size());
    else finished.failure = finished.talk.empty() ? "the interpreter did not start" : finished.talk;
    if (const size_t at = finished.failure.rfind("errno "); at != std::string::npos) {
        const int error = std::atoi(finished.failure.c_str() + at + 6);
        finished.failure.replace(at, std::string::npos, std::generic_category().message(error));
    }
    return finished;
}

}    // namespace

Finished run_in_namespaces(const ProcessPlan& plan)
{
    const Descriptor input = in_memory(plan.input);
    Pipe out, talk;
    std::vector<sock_filter> filter(plan.filter.size() / sizeof(sock_filter));
    std::memcpy(filter.data(), plan.filter.data(), filter.size() * sizeof(sock_filter));
    constexpr int inside = 1000;    // an ordinary user, who has no rights in there
    const Prepared prepared = {.arguments = pointers(plan.arguments),
                               .environment = pointers(plan.environment),
                               .input = input.get(),
                               .out = out.write.get(),
                               .talk = talk.write.get(),
                               .limits = limits_of(plan.limits),
                               .filter = {uint16_t(filter.size()), filter.data()},
                               .user_map = fmt::format("{} {} 1", inside, geteuid()),
                               .group_map = fmt::format("{} {} 1", inside, getegid()),
                               .places = &plan.places,
                               .folder_size = fmt::format("mode=0700,size={},nr_inodes=1000", plan.limits.written)};
    const pid_t process = split_off(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC |
                                    CLONE_NEWUTS | CLONE_NEWCGROUP);
    if (process < 0) {
        Finished finished;
        finished.failure = fmt::format("the system gives no namespaces: {}", std::generic_category().message(errno));
        return finished;
    }
    if (process == 0) first_process(prepared);
    return watch(process, out, talk, plan.limits.seconds);
}

Finished run_in_bubblewrap(const std::string& bubblewrap, const ProcessPlan& plan)
{
    const Descriptor input = in_memory(plan.input), filter = in_memory(plan.filter);
    Pipe out, talk;
    std::vector<std::string> arguments = {
        bubblewrap, "--unshare-all",     "--unshare-user", "--uid",      "1000", "--gid",
        "1000",     "--die-with-parent", "--new-session",  "--cap-drop", "ALL",  "--clearenv"};
    for (const std::string& variable : plan.environment) {
        const size_t equals = variable.find('=');
        arguments.insert(arguments.end(), {"--setenv", variable.substr(0, equals), variable.substr(equals + 1)});
    }
    for (const Sandbox::Place& p : plan.places)
        if (!p.link.empty()) arguments.insert(arguments.end(), {"--symlink", p.link, p.path});
        else arguments.insert(arguments.end(), {p.device ? "--dev-bind" : "--ro-bind", p.path, p.path});
    arguments.insert(arguments.end(), {"--size", fmt::format("{}", plan.limits.written), "--tmpfs", "/tmp", "--chdir",
                                       "/tmp", "--remount-ro", "/", "--seccomp", "3", "--"});
    arguments.insert(arguments.end(), plan.arguments.begin(), plan.arguments.end());
    const Prepared prepared = {.arguments = pointers(arguments),
                               .environment = pointers({}),
                               .input = input.get(),
                               .out = out.write.get(),
                               .talk = talk.write.get(),
                               .extra = filter.get(),
                               .limits = limits_of(plan.limits)};
    const pid_t process = split_off(0);
    if (process < 0) cannot("clone");
    if (process == 0) become_program(prepared);
    return watch(process, out, talk, plan.limits.seconds);
}

Started start_and_read(const std::vector<std::string>& arguments)
{
    const Descriptor input = in_memory("");
    Pipe out;
    const Descriptor nothing(open("/dev/null", O_WRONLY | O_CLOEXEC));
    const Prepared prepared = {.arguments = pointers(arguments),
                               .environment = {},
                               .input = input.get(),
                               .out = out.write.get(),
                               .talk = nothing.get(),
                               .limits = {}};
    Prepared with_environment = prepared;
    for (char** e = environ; e && *e; ++e) with_environment.environment.push_back(*e);
    with_environment.environment.push_back(nullptr);
    const pid_t process = split_off(0);
    if (process < 0) cannot("clone");
    if (process == 0) become_program(with_environment);
    out.write.close();
    Started started;
    char block[4096];
    for (ssize_t n; (n = read(out.read.get(), block, sizeof block)) > 0 || (n < 0 && errno == EINTR);)
        if (n > 0) started.out.append(block, size_t(n));
    int status = 0;
    while (waitpid(process, &status, 0) < 0 && errno == EINTR) {}
    started.status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    return started;
}

}    // namespace hearth
