// Job objects: https://learn.microsoft.com/windows/win32/procthread/job-objects
#include "engine/system/limits.h"
#include "engine/system/windows.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include <psapi.h>

namespace hearth {

namespace {

/// What the job that this process is in says of one kind; nothing where it is in none.
template <class Information>
std::optional<Information> of_job(JOBOBJECTINFOCLASS kind)
{
    Information information{};
    if (!QueryInformationJobObject(nullptr, kind, &information, sizeof information, nullptr)) return {};
    return information;
}

/// Processors by group (of up to 64) and number in it.
using Processor = std::pair<WORD, int>;

/// Those that this process may run on: where it is in one group only, it may have been told which.
std::set<Processor> allowed_processors()
{
    USHORT groups[64];
    USHORT count = USHORT(std::size(groups));
    if (!GetProcessGroupAffinity(GetCurrentProcess(), &count, groups)) count = 0;
    DWORD_PTR own = 0, system = 0;
    if (count != 1 || !GetProcessAffinityMask(GetCurrentProcess(), &own, &system)) own = 0;
    std::set<Processor> all;
    for (USHORT g = 0; g < count; ++g)
        for (int i = 0; i < 64; ++i)
            if (own ? own >> i & 1 : DWORD(i) < GetActiveProcessorCount(groups[g])) all.emplace(groups[g], i);
    return all;
}

/// The processors of each physical core; nothing where the system does not say.
std::vector<std::set<Processor>> cores()
{
    DWORD bytes = 0;
    GetLogicalProcessorInformationEx(RelationProcessorCore, nullptr, &bytes);
    std::vector<char> room(bytes);
    const auto begin = reinterpret_cast<SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX*>(room.data());
    if (!bytes || !GetLogicalProcessorInformationEx(RelationProcessorCore, begin, &bytes)) return {};
    std::vector<std::set<Processor>> all;
    for (DWORD at = 0; at < bytes;) {
        const auto& row = *reinterpret_cast<const SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX*>(room.data() + at);
        std::set<Processor>& core = all.emplace_back();
        for (WORD g = 0; g < row.Processor.GroupCount; ++g)
            for (int i = 0; i < 64; ++i)
                if (row.Processor.GroupMask[g].Mask >> i & 1) core.emplace(row.Processor.GroupMask[g].Group, i);
        at += row.Size;
    }
    return all;
}

}    // namespace

std::optional<double> cpu_quota(const std::filesystem::path&)
{
    const auto rate = of_job<JOBOBJECT_CPU_RATE_CONTROL_INFORMATION>(JobObjectCpuRateControlInformation);
    constexpr DWORD hard = JOB_OBJECT_CPU_RATE_CONTROL_ENABLE | JOB_OBJECT_CPU_RATE_CONTROL_HARD_CAP;
    if (!rate || (rate->ControlFlags & hard) != hard) return {};
    return double(rate->CpuRate) / 10000 * GetActiveProcessorCount(ALL_PROCESSOR_GROUPS);    // in 1/100 %
}

unsigned usable_cores(const std::filesystem::path& root)
{
    const std::set<Processor> allowed = allowed_processors();
    const std::vector<std::set<Processor>> all = cores();
    auto count = size_t(std::ranges::count_if(all, [&](const std::set<Processor>& core) {
        return std::ranges::any_of(core, [&](const Processor& p) { return allowed.contains(p); });
    }));
    if (!count) count = allowed.empty() ? std::max(1u, std::thread::hardware_concurrency()) : allowed.size();
    const double quota = cpu_quota(root).value_or(double(count));
    return unsigned(std::max(1.0, std::min(double(count), std::floor(quota))));
}

unsigned usable_cores(std::span<const int> allowed, const std::filesystem::path&)
{
    return unsigned(std::max<size_t>(1, allowed.size()));
}

unsigned threads_for(unsigned asked) { return asked ? asked : usable_cores(); }

/// What can be had without paging, and of the job's limit what is not used yet.
std::optional<uint64_t> available_memory(const std::filesystem::path&)
{
    std::optional<uint64_t> least;
    MEMORYSTATUSEX status = {.dwLength = sizeof status};
    if (GlobalMemoryStatusEx(&status)) least = std::min(status.ullAvailPhys, status.ullAvailPageFile);
    const auto job = of_job<JOBOBJECT_EXTENDED_LIMIT_INFORMATION>(JobObjectExtendedLimitInformation);
    PROCESS_MEMORY_COUNTERS used = {.cb = sizeof used};
    if (job && GetProcessMemoryInfo(GetCurrentProcess(), &used, sizeof used)) {
        const DWORD flags = job->BasicLimitInformation.LimitFlags;
        for (const auto& [flag, limit] : {std::pair{DWORD(JOB_OBJECT_LIMIT_PROCESS_MEMORY), job->ProcessMemoryLimit},
                                          std::pair{DWORD(JOB_OBJECT_LIMIT_JOB_MEMORY), job->JobMemoryLimit}})
            if (flags & flag)
                least = std::min<uint64_t>(least.value_or(UINT64_MAX), limit - std::min(limit, used.PagefileUsage));
    }
    return least;
}

/// RtlGetVersion, since GetVersionEx says what the program was made for.
std::string system_version(const std::filesystem::path&)
{
    using Ask = LONG(WINAPI*)(OSVERSIONINFOW*);
    OSVERSIONINFOW version = {.dwOSVersionInfoSize = sizeof version};
    const HMODULE library = GetModuleHandleW(L"ntdll.dll");
    const auto ask = reinterpret_cast<Ask>(reinterpret_cast<void*>(GetProcAddress(library, "RtlGetVersion")));
    if (!ask || ask(&version) != 0) return "Windows";
    return "Windows " + std::to_string(version.dwMajorVersion) + "." + std::to_string(version.dwMinorVersion) + "." +
           std::to_string(version.dwBuildNumber);
}

std::string without_octals(const std::string& text) { return text; }

bool may_use(const std::filesystem::path& path)
{
    return bool(opened(CreateFileW(path.c_str(), GENERIC_READ | GENERIC_WRITE, FILE_SHARE_READ | FILE_SHARE_WRITE,
                                   nullptr, OPEN_EXISTING, 0, nullptr)));
}

std::string processor_name()
{
    wchar_t name[256];
    DWORD bytes = sizeof name;
    const LSTATUS status = RegGetValueW(HKEY_LOCAL_MACHINE, L"HARDWARE\\DESCRIPTION\\System\\CentralProcessor\\0",
                                        L"ProcessorNameString", RRF_RT_REG_SZ, nullptr, name, &bytes);
    return status == ERROR_SUCCESS ? to_utf8(name) : "";
}

std::optional<uint64_t> peak_memory()
{
    PROCESS_MEMORY_COUNTERS used = {.cb = sizeof used};
    if (!GetProcessMemoryInfo(GetCurrentProcess(), &used, sizeof used)) return {};
    return used.PeakWorkingSetSize;
}

bool forget_peak_memory() { return false; }

}    // namespace hearth
