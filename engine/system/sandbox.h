// Python programs that nobody has read, such as a model's: each runs in a process of its own, without network, with
// nothing of the file system but the interpreter, read-only, and a small folder in memory, and with limits on time,
// memory, files and processes.
#pragma once

#include <chrono>
#include <filesystem>
#include <string>
#include <vector>

namespace hearth {

/// Where programs are run. Linux: by bubblewrap (https://github.com/containers/bubblewrap) where it is, else by
/// namespaces of our own, as it would; in both under the same seccomp filter and limits. There is one process with one
/// thread; its root is made of what Python needs, so that nobody's home folder is there; all that it writes is in
/// memory, and gone with it. Not to be used by two threads at once.
class Sandbox {
  public:
    enum class Way { automatic, bubblewrap, namespaces };
    struct Limits {
        double seconds = 3;                       // by the clock
        uint64_t memory = uint64_t(1) << 30;      // bytes of address space
        uint64_t written = uint64_t(16) << 20;    // bytes of files
    };

    /// Finds a way, and tries it with a program that does what must not succeed. `python`: a path, or a name to be
    /// looked for. Throws Error, a sentence, where programs cannot be kept in.
    Sandbox(const std::string& python, Way way, const Limits& limits);

    struct Result {
        bool passed = false;    // the program came to its end
        std::string how;        // else what happened: "AssertionError", "no end after 3 s"
    };

    /// Runs a program to its end. As in published harnesses its `__name__` is not "__main__", and what it prints goes
    /// nowhere. Throws Error where the sandbox itself fails.
    Result run(const std::string& program) const;

    /// What programs run in: "bubblewrap, Python 3.11.2".
    const std::string& description() const { return description_; }

    /// A folder or file of ours at the same place in there; of a link, where it leads to.
    struct Place {
        std::string path, link;
        bool folder = false, device = false;
    };

  private:
    void find_python(const std::string& name);
    void find_places();
    void prove() const;

    Way way_ = Way::automatic;
    Limits limits_;
    std::string python_, bubblewrap_, filter_, description_;
    std::vector<std::string> roots_;    // of the interpreter's own files
    std::vector<Place> places_;
};

}    // namespace hearth
