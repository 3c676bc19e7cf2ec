// What of this machine is ours: the cores that threads may run on and the memory that can still be had. What a
// container, a batch system or `taskset` gives counts as the machine's. `root` is for tests, which bring a tree of
// their own.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <optional>
#include <span>
#include <string>

namespace hearth {

/// Of a file that the system makes, such as those in /proc and /sys; empty where there is none.
inline std::string first_line(const std::filesystem::path& path)
{
    std::ifstream file(path);
    std::string line;
    std::getline(file, line);
    return line;
}

/// Threads worth having: one for each physical core that this process may run on, and no more than its control groups'
/// quota of processor time, rounded down, pays for. At least 1.
unsigned usable_cores(const std::filesystem::path& root = "/");

/// The same where the process may run on `allowed`, by the numbers of the system.
unsigned usable_cores(std::span<const int> allowed, const std::filesystem::path& root);

/// Processors' worth of time that this process' control groups pay for; nothing where there is no quota.
std::optional<double> cpu_quota(const std::filesystem::path& root = "/");

/// What was asked for, or usable_cores where that is 0.
unsigned threads_for(unsigned asked);

/// Bytes of memory that this process can still have, by what the system says and by what its control groups leave it;
/// nothing where neither says.
std::optional<uint64_t> available_memory(const std::filesystem::path& root = "/");

/// The system and its version, "Linux 6.1.0-18-amd64"; empty where it does not say.
std::string system_version(const std::filesystem::path& root = "/");

/// "AMD EPYC 9R14 Processor"; empty where the system does not say.
std::string processor_name();

/// Whether this process may read and write that file or device.
bool may_use(const std::filesystem::path& path);

/// A path as mountinfo writes it, where \040 is a blank.
std::string without_octals(const std::string& text);

/// The most memory that this process has had at once, files mapped into it included, in bytes; nothing where the system
/// does not say. From `forget_peak_memory` on it is the most since then, where that can be had (false: it cannot).
std::optional<uint64_t> peak_memory();
bool forget_peak_memory();

}    // namespace hearth
