// cgroup v2: https://docs.kernel.org/admin-guide/cgroup-v2.html; v1:
// https://docs.kernel.org/admin-guide/cgroup-v1/memory.html and sched-bwc.html beside it
#include "engine/system/limits.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <fstream>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include <sched.h>
#include <unistd.h>

namespace hearth {

namespace {

namespace fs = std::filesystem;

/// The number that a text begins with; nothing for "max" and other words.
std::optional<double> number(const std::string& text)
{
    double x = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), x);
    return error == std::errc() && std::isfinite(x) ? std::optional(x) : std::nullopt;
}

std::vector<std::string> words(const std::string& line, char separator)
{
    std::vector<std::string> words;
    std::istringstream in(line);
    for (std::string word; std::getline(in, word, separator);) words.push_back(word);
    return words;
}

/// Where the groups of a kind are to be seen.
struct Hierarchy {
    bool v2 = false;
    fs::path mount;                       // in the tree of `root`
    std::string shown;                    // the group that the mount shows, "/" for all
    std::set<std::string> controllers;    // v1
};

std::vector<Hierarchy> hierarchies(const fs::path& root)
{
    std::vector<Hierarchy> found;
    std::ifstream file(root / "proc/self/mountinfo");
    for (std::string line;
         std::getline(file, line);) {    // id parent device root mount options [tags] - type source options
        const size_t dash = line.find(" - ");
        if (dash == line.npos) continue;
        const std::vector<std::string> left = words(line.substr(0, dash), ' '),
                                       right = words(line.substr(dash + 3), ' ');
        if (left.size() < 5 || right.empty() || (right[0] != "cgroup" && right[0] != "cgroup2")) continue;
        Hierarchy h = {.v2 = right[0] == "cgroup2",
                       .mount = root / fs::path(without_octals(left[4])).relative_path(),
                       .shown = without_octals(left[3]),
                       .controllers = {}};
        if (right.size() > 2)
            for (const std::string& option : words(right[2], ',')) h.controllers.insert(option);
        found.push_back(std::move(h));
    }
    return found;
}

/// The folders of the groups that this process is in, its own and those around it, by one controller.
struct Groups {
    std::vector<fs::path> v1, v2;
};

Groups groups_of(const std::string& controller, const fs::path& root)
{
    Groups groups;
    const std::vector<Hierarchy> mounted = hierarchies(root);
    std::ifstream file(root / "proc/self/cgroup");
    for (std::string line; std::getline(file, line);) {    // 0::/path (v2), or 4:cpu,cpuacct:/path
        const size_t first = line.find(':'), second = line.find(':', first + 1);
        if (first == line.npos || second == line.npos) continue;
        const std::vector<std::string> controllers = words(line.substr(first + 1, second - first - 1), ',');
        const bool v2 = controllers.empty();
        if (!v2 && std::ranges::find(controllers, controller) == controllers.end()) continue;
        const std::string path = line.substr(second + 1);
        for (const Hierarchy& h : mounted) {
            if (h.v2 != v2 || (!v2 && !h.controllers.contains(controller))) continue;
            // Of a container that does not see its group as the root, the mount shows just that group.
            const bool below = h.shown != "/" && path.starts_with(h.shown);
            fs::path inside = fs::path(h.shown == "/" ? path
                                       : below        ? path.substr(h.shown.size())
                                                      : "")
                                  .relative_path();
            if (inside.begin() != inside.end() && *inside.begin() == "..")
                inside.clear();    // outside of what is shown
            for (;;) {
                (v2 ? groups.v2 : groups.v1).push_back(inside.empty() ? h.mount : h.mount / inside);
                if (inside.empty()) break;
                inside = inside.parent_path();
            }
        }
    }
    return groups;
}

/// A line "name value" of a file.
std::optional<double> named(const fs::path& path, const std::string& wanted)
{
    std::ifstream file(path);
    std::string name, rest;
    for (double value; file >> name >> value && std::getline(file, rest);)
        if (name == wanted) return value;
    return {};
}

/// What a group's limits leave. Pages of files count as used there, and are given back when they are wanted.
std::optional<double> group_memory(const fs::path& group, bool v2)
{
    std::optional<double> limit;
    for (const char* name : {"memory.max", "memory.high", "memory.limit_in_bytes"})
        if (const std::optional<double> l = number(first_line(group / name)))
            limit = std::min(limit.value_or(INFINITY), *l);
    if (!limit) return {};
    const double used = number(first_line(group / (v2 ? "memory.current" : "memory.usage_in_bytes"))).value_or(0);
    double files = 0;
    for (const char* name : {"inactive_file", "active_file"})
        files += named(group / "memory.stat", (v2 ? "" : "total_") + std::string(name)).value_or(0);
    return std::max(0.0, *limit - std::max(0.0, used - files));
}

}    // namespace

std::optional<double> cpu_quota(const fs::path& root)
{
    std::optional<double> least;
    const auto take = [&](std::optional<double> quota, std::optional<double> period) {
        if (quota && period && *quota > 0 && *period > 0) least = std::min(least.value_or(INFINITY), *quota / *period);
    };
    const Groups groups = groups_of("cpu", root);
    for (const fs::path& group : groups.v2) {
        const std::vector<std::string> both = words(first_line(group / "cpu.max"), ' ');
        if (both.size() == 2) take(number(both[0]), number(both[1]));
    }
    for (const fs::path& group : groups.v1)
        take(number(first_line(group / "cpu.cfs_quota_us")), number(first_line(group / "cpu.cfs_period_us")));
    return least;
}

unsigned usable_cores(std::span<const int> allowed, const fs::path& root)
{
    // Threads of one core share the list of their siblings.
    std::set<std::string> cores;
    bool known = true;
    for (const int cpu : allowed) {
        const std::string siblings =
            first_line(root / ("sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/thread_siblings_list"));
        known = known && !siblings.empty();
        cores.insert(siblings);
    }
    const size_t count = known && !cores.empty() ? cores.size() : allowed.size();
    const double quota = cpu_quota(root).value_or(double(count));
    return unsigned(std::max(1.0, std::min(double(count), std::floor(quota))));
}

unsigned usable_cores(const fs::path& root)
{
    std::vector<int> allowed;
    for (int most = CPU_SETSIZE; allowed.empty() && most <= 1 << 16;
         most *= 2) {    // the kernel may have more than the usual set has room for
        cpu_set_t* const set = CPU_ALLOC(size_t(most));
        if (!set) break;
        const size_t bytes = CPU_ALLOC_SIZE(size_t(most));
        if (sched_getaffinity(0, bytes, set) == 0)
            for (int cpu = 0; cpu < most; ++cpu)
                if (CPU_ISSET_S(size_t(cpu), bytes, set)) allowed.push_back(cpu);
        CPU_FREE(set);
    }
    if (allowed.empty())
        for (unsigned cpu = 0; cpu < std::max(1u, std::thread::hardware_concurrency()); ++cpu)
            allowed.push_back(int(cpu));
    return usable_cores(allowed, root);
}

unsigned threads_for(unsigned asked) { return asked ? asked : usable_cores(); }

std::optional<uint64_t> available_memory(const fs::path& root)
{
    std::optional<double> least;
    if (const std::optional<double> kib = named(root / "proc/meminfo", "MemAvailable:")) least = *kib * 1024;
    const Groups groups = groups_of("memory", root);
    const auto take = [&](const std::vector<fs::path>& folders, bool v2) {
        for (const fs::path& group : folders)
            if (const std::optional<double> left = group_memory(group, v2))
                least = std::min(least.value_or(INFINITY), *left);
    };
    take(groups.v2, true);
    take(groups.v1, false);
    return least ? std::optional(uint64_t(*least)) : std::nullopt;
}

std::string system_version(const fs::path& root)
{
    const std::string name = first_line(root / "proc/sys/kernel/ostype"),
                      version = first_line(root / "proc/sys/kernel/osrelease");
    return name.empty() || version.empty() ? name + version : name + " " + version;
}

std::string processor_name()
{
    std::ifstream file("/proc/cpuinfo");
    for (std::string line; std::getline(file, line);) {
        const size_t colon = line.find(": ");
        if (colon != line.npos && line.starts_with("model name")) return line.substr(colon + 2);
    }
    return "";
}

bool may_use(const fs::path& path) { return access(path.c_str(), R_OK | W_OK) == 0; }

std::string without_octals(const std::string& text)
{
    std::string out;
    for (size_t i = 0; i < text.size(); ++i) {
        unsigned code = 0;
        const bool octal = text[i] == '\\' && i + 3 < text.size() &&
                           std::from_chars(&text[i + 1], &text[i + 4], code, 8).ptr == &text[i + 4];
        out += octal ? char(code) : text[i];
        if (octal) i += 3;
    }
    return out;
}

// ---- what was used --------------------------------------------------------------------------------------------------

std::optional<uint64_t> peak_memory()
{
    std::ifstream file("/proc/self/status");
    for (std::string line; std::getline(file, line);)
        if (line.starts_with("VmHWM:"))
            if (const auto kib = number(line.substr(std::min(line.find_first_of("0123456789"), line.size()))))
                return uint64_t(*kib) * 1024;
    return {};
}

bool forget_peak_memory()
{
    std::ofstream file("/proc/self/clear_refs");    // 5: proc(5)
    return bool(file << "5" << std::flush);
}

}    // namespace hearth
