#include "engine/system/confine.h"

#include "engine/system/program.h"
#include "engine/system/windows.h"

#include <vector>

namespace hearth {

const char* const confining_files =
    "a low level of integrity, of Windows, for what uses no GPU and writes no file; Wine has none";
const char* const confining_calls = "a job of one process, of Windows; Wine has none";

namespace {

/// Whether a file can be made where every program may.
bool can_write()
{
    wchar_t folder[MAX_PATH + 1], name[MAX_PATH + 1];
    if (!GetTempPathW(DWORD(std::size(folder)), folder) || !GetTempFileNameW(folder, L"hth", 0, name)) return false;
    DeleteFileW(name);
    return true;
}

/// Whether a program can be started: this one, which is ended before it has begun.
bool can_start_programs()
{
    std::wstring program(32768, L'\0');
    program.resize(GetModuleFileNameW(nullptr, program.data(), DWORD(program.size())));
    STARTUPINFOW start = {};
    start.cb = sizeof start;
    PROCESS_INFORMATION started = {};
    if (!CreateProcessW(program.c_str(), nullptr, nullptr, nullptr, false, CREATE_SUSPENDED | CREATE_NO_WINDOW, nullptr,
                        nullptr, &start, &started))
        return false;
    const WindowsHandle process(started.hProcess), thread(started.hThread);
    TerminateProcess(started.hProcess, 1);
    return true;
}

/// A process of low integrity writes to no file, key or process of the user's, whatever their owner allows
/// (https://learn.microsoft.com/windows/win32/secauthz/mandatory-integrity-control). Volumes without owners of files,
/// such as FAT, do not heed it.
bool lower_integrity(HANDLE token)
{
    char low[SECURITY_MAX_SID_SIZE];
    DWORD size = sizeof low;
    if (!CreateWellKnownSid(WinLowLabelSid, nullptr, low, &size)) return false;
    TOKEN_MANDATORY_LABEL label = {{low, SE_GROUP_INTEGRITY}};
    return SetTokenInformation(token, TokenIntegrityLevel, &label, sizeof label + size);
}

/// All but passing through folders, which everyone has.
bool give_up_privileges(HANDLE token)
{
    DWORD size = 0;
    GetTokenInformation(token, TokenPrivileges, nullptr, 0, &size);
    std::vector<char> bytes(size);
    if (!GetTokenInformation(token, TokenPrivileges, bytes.data(), size, &size)) return false;
    LUID passing;
    if (!LookupPrivilegeValueW(nullptr, L"SeChangeNotifyPrivilege", &passing)) return false;
    auto& privileges = *reinterpret_cast<TOKEN_PRIVILEGES*>(bytes.data());
    for (DWORD i = 0; i < privileges.PrivilegeCount; ++i) {
        LUID_AND_ATTRIBUTES& p = privileges.Privileges[i];
        if (p.Luid.LowPart != passing.LowPart || p.Luid.HighPart != passing.HighPart)
            p.Attributes = SE_PRIVILEGE_REMOVED;
    }
    return AdjustTokenPrivileges(token, false, &privileges, 0, nullptr, nullptr);
}

}    // namespace

/// Named files and a driver's own would have to be open before: not for them.
bool confine_files(const Outputs& outputs, bool device)
{
    if (!outputs.empty() || device || !can_write()) return false;
    HANDLE token = nullptr;
    if (!OpenProcessToken(GetCurrentProcess(), TOKEN_QUERY | TOKEN_ADJUST_DEFAULT | TOKEN_ADJUST_PRIVILEGES, &token))
        return false;
    const WindowsHandle open(token);
    return give_up_privileges(token) && lower_integrity(token) && !can_write();
}

/// A token without network can only be given to a process at its start, so that stays.
bool confine_calls(bool)
{
    static const HANDLE job = CreateJobObjectW(nullptr, nullptr);    // open as long as this process
    JOBOBJECT_BASIC_LIMIT_INFORMATION one_process = {};
    one_process.LimitFlags = JOB_OBJECT_LIMIT_ACTIVE_PROCESS;
    one_process.ActiveProcessLimit = 1;
    return job && SetInformationJobObject(job, JobObjectBasicLimitInformation, &one_process, sizeof one_process) &&
           AssignProcessToJobObject(job, GetCurrentProcess()) && !can_start_programs();
}

std::string single_process_filter() { return ""; }
std::string confinement_advice(int) { return ""; }

}    // namespace hearth
