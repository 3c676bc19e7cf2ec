#include "engine/system/sandbox.h"

#include "engine/error.h"

#ifdef __linux__

#include "engine/system/confine.h"
#include "engine/system/sandbox_process.h"

#include <algorithm>
#include <cstdlib>
#include <random>
#include <system_error>

#include <pwd.h>
#include <unistd.h>

namespace hearth {

namespace {

namespace fs = std::filesystem;

/// Runs a program that comes on standard input behind a word, and says the word if it came to its end. The word is new
/// each time, so that nobody says it by chance.
constexpr const char* driver = R"(
import os, sys
os.write(1, b"begun\n")
word, program = sys.stdin.buffer.read().decode().split("\n", 1)
answer, report, nothing = os.dup(1), os.dup(2), os.open("/dev/null", os.O_RDWR)
for stream in 0, 1, 2:
    os.dup2(nothing, stream)
try:
    exec(program, {})
except BaseException as error:
    os.write(report, f"{type(error).__name__}: {error}"[:300].encode("utf-8", "replace"))
    os._exit(1)
os.write(answer, word.encode())
os._exit(0)
)";

/// What must not succeed, and what must. `outside`, files of ours, and the limits are put in front.
constexpr const char* proof = R"(
import os, socket, threading
def succeeds(action):
    try:
        action()
    except BaseException:
        return False
    return True
def fork():
    if os.fork() == 0:
        os._exit(0)
def fill():
    try:
        with open("/tmp/large", "wb") as file:
            file.write(bytes(written + 1))
    finally:
        os.remove("/tmp/large")
for name, action in {
    "open a socket": lambda: socket.socket(),
    "start a process": fork,
    "start a thread": lambda: threading.Thread(target=int).start(),
    "write outside of its folder": lambda: open("/outside", "w"),
    "write to /usr": lambda: open("/usr/outside", "w"),
    "write to its devices": lambda: open("/dev/outside", "w"),
    "see files of ours": lambda: [os.lstat(path) for path in outside if os.path.lexists(path)][0],
    "take more memory than it may": lambda: bytearray(memory + 1),
    "write more than it may": fill,
}.items():
    if succeeds(action):
        raise SystemExit("a program in there could " + name)
if not succeeds(lambda: open("/tmp/small", "w").write("x")):
    raise SystemExit("a program in there could not write to its folder")
)";

std::string quoted(const std::string& text)
{
    std::string out = "bytes.fromhex('";
    for (const unsigned char c : text) out += fmt::format("{:02x}", c);
    return out + "')";
}

/// A program by a name, looked for as a shell does; empty where there is none.
std::string found_program(const std::string& name)
{
    if (name.find('/') != name.npos) return access(name.c_str(), X_OK) == 0 ? name : "";
    const char* const path = std::getenv("PATH");
    std::string rest = path ? path : "/usr/local/bin:/usr/bin:/bin";
    for (size_t begin = 0, end; begin <= rest.size(); begin = end + 1) {
        end = std::min(rest.find(':', begin), rest.size());
        std::string candidate = rest.substr(begin, end - begin) + "/" + name;
        if (access(candidate.c_str(), X_OK) == 0 && fs::is_regular_file(candidate)) return candidate;
    }
    return "";
}

bool within(const std::string& path, const std::string& folder)
{
    return path == folder || path.starts_with(folder + "/");
}

/// Home folders that there may be: of the environment and of the system's list of users.
std::vector<std::string> homes()
{
    std::vector<std::string> out;
    const char* const named = std::getenv("HOME");
    const passwd* const user = getpwuid(getuid());
    for (const char* home : {named, user ? static_cast<const char*>(user->pw_dir) : nullptr}) {
        std::error_code ec;
        if (home && fs::is_directory(home, ec) && fs::path(home) != "/")
            out.push_back(fs::canonical(home, ec).string());
    }
    return out;
}

}    // namespace

Sandbox::Sandbox(const std::string& python, Way way, const Limits& limits) : limits_(limits)
{
    filter_ = single_process_filter();
    if (filter_.empty())
        throw Error("this kernel has no seccomp, so that programs cannot be kept in: leave out --execute");
    find_python(python);
    find_places();
    bubblewrap_ = found_program("bwrap");
    std::string why;
    for (const Way candidate : {Way::bubblewrap, Way::namespaces}) {
        if (way != Way::automatic && way != candidate) continue;
        const char* const name = candidate == Way::bubblewrap ? "bubblewrap" : "namespaces";
        if (candidate == Way::bubblewrap && bubblewrap_.empty()) {
            why += "bubblewrap is not installed; ";
            continue;
        }
        way_ = candidate;
        try {
            prove();
            description_ = fmt::format("{}, {}", name, python_);
            return;
        } catch (const Error& e) {
            why += fmt::format("{}: {}; ", name, e.what());
        }
    }
    throw Error("programs cannot be run safely here ({}): install bubblewrap, or leave out --execute and judge the "
                "records elsewhere, by --answers",
                why.substr(0, why.size() - 2));
}

void Sandbox::find_python(const std::string& name)
{
    const std::string found = found_program(name);
    if (found.empty()) throw Error("there is no program {}: name an interpreter of Python with --python", name);
    // Of a virtual environment, the interpreter that it is made of: its own libraries are not needed.
    constexpr const char* folders = "import os, sys\n"
                                    "print(os.path.realpath(getattr(sys, '_base_executable', sys.executable)))\n"
                                    "print(os.path.realpath(sys.base_prefix))\n"
                                    "print(os.path.realpath(sys.base_exec_prefix))\n";
    const Started info = start_and_read({found, "-I", "-S", "-c", folders});
    std::vector<std::string> lines;
    for (size_t begin = 0, end; (end = info.out.find('\n', begin)) != info.out.npos; begin = end + 1)
        lines.push_back(info.out.substr(begin, end - begin));
    if (info.status != 0 || lines.size() != 3)
        throw Error("{} is no Python 3 that says where its files are: name one with --python", found);
    python_ = lines[0];
    roots_ = {fs::path(python_).parent_path().string(), lines[1], lines[2]};
}

void Sandbox::find_places()
{
    std::error_code ec;
    for (const char* name : {"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix/store", "/gnu/store"}) {
        if (fs::is_symlink(name, ec)) places_.push_back({.path = name, .link = fs::read_symlink(name, ec).string()});
        else if (fs::is_directory(name, ec)) places_.push_back({.path = name, .link = "", .folder = true});
    }
    for (const std::string& root : roots_)
        if (std::ranges::none_of(places_, [&](const Place& p) { return p.folder && within(root, p.path); }))
            places_.push_back({.path = root, .link = "", .folder = true});
    if (fs::exists("/etc/ld.so.cache", ec)) places_.push_back({.path = "/etc/ld.so.cache", .link = ""});
    for (const char* device : {"/dev/null", "/dev/zero", "/dev/urandom"})
        places_.push_back({.path = device, .link = "", .folder = false, .device = true});
    for (const std::string& home : homes())
        for (const Place& p : places_)
            if (p.folder && (within(home, p.path) || p.path == "/"))
                throw Error("Python's files in {} are not apart from the home folder {}, which programs shall not "
                            "read: name another interpreter with --python",
                            p.path, home);
}

Sandbox::Result Sandbox::run(const std::string& program) const
{
    std::random_device random;
    const std::string word = fmt::format("{:08x}{:08x}{:08x}", random(), random(), random());
    ProcessPlan plan = {.arguments = {python_, "-s", "-S", "-B", "-c", driver},
                        .environment = {"PATH=/usr/bin:/bin", "HOME=/tmp", "LC_ALL=C.UTF-8", "PYTHONHASHSEED=0"},
                        .input = word + "\n" + program,
                        .filter = filter_,
                        .places = places_,
                        .limits = limits_};
    const Finished finished = way_ == Way::bubblewrap ? run_in_bubblewrap(bubblewrap_, plan) : run_in_namespaces(plan);
    if (!finished.failure.empty()) throw Error("{}", finished.failure);
    if (finished.late) return {false, fmt::format("no end after {:g} s", limits_.seconds)};
    if (finished.status == 0 && finished.out == word) return {true, ""};
    if (!finished.talk.empty()) return {false, finished.talk};
    return {false, finished.signal ? fmt::format("ended by signal {}", finished.signal)
                                   : fmt::format("ended with code {}", finished.status)};
}

void Sandbox::prove() const
{
    std::string outside;
    const auto add = [&](const fs::path& path) {
        // On the way to the interpreter's own files there are folders with nothing else in them.
        const auto leads_to = [&](const std::string& root) { return within(root, path.string()); };
        if (std::ranges::none_of(roots_, leads_to)) outside += quoted(path.string()) + ", ";
    };
    std::error_code ec;
    add("/etc/passwd");
    add("/proc/self");
    constexpr size_t enough = 100;
    for (const std::string& home : homes()) {
        size_t count = 0;
        for (fs::directory_iterator file(home, ec), end; file != end && ++count <= enough; file.increment(ec))
            add(file->path());
    }
    const Result result = run(
        fmt::format("outside, memory, written = [{}], {}, {}\n{}", outside, limits_.memory, limits_.written, proof));
    if (!result.passed) throw Error("{}", result.how);
}

}    // namespace hearth

#else

namespace hearth {

Sandbox::Sandbox(const std::string&, Way, const Limits&)
{
    throw Error("programs are run on Linux only, where they can be kept in: judge the records there, by --answers");
}
Sandbox::Result Sandbox::run(const std::string&) const { return {}; }

}    // namespace hearth

#endif
