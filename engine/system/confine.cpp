#include "engine/system/confine.h"

#include "engine/error.h"

#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <optional>

namespace hearth {

const char* const confining_files = "Landlock, of Linux 5.13 and newer where it is switched on";
const char* const confining_calls = "seccomp, of Linux";

namespace {

bool confined = false;

[[noreturn]] void fail(const char* what)
{
    throw Error("this process cannot be confined: {}: {}; run without it (--confine off)", what, std::strerror(errno));
}

void give_up_privileges()
{
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) fail("prctl");
}

// ---- files: Landlock (https://docs.kernel.org/userspace-api/landlock.html) ------------------------------------------

#ifndef LANDLOCK_ACCESS_FS_TRUNCATE    // headers of Linux 6.1
#define LANDLOCK_ACCESS_FS_TRUNCATE (1ULL << 14)
#endif

constexpr uint64_t making = LANDLOCK_ACCESS_FS_MAKE_CHAR | LANDLOCK_ACCESS_FS_MAKE_DIR | LANDLOCK_ACCESS_FS_MAKE_REG |
                            LANDLOCK_ACCESS_FS_MAKE_SOCK | LANDLOCK_ACCESS_FS_MAKE_FIFO |
                            LANDLOCK_ACCESS_FS_MAKE_BLOCK | LANDLOCK_ACCESS_FS_MAKE_SYM;
constexpr uint64_t removing = LANDLOCK_ACCESS_FS_REMOVE_DIR | LANDLOCK_ACCESS_FS_REMOVE_FILE;

/// The version of the kernel's Landlock; 0 where it has none.
int landlock_version()
{
    const long version = syscall(SYS_landlock_create_ruleset, nullptr, 0, LANDLOCK_CREATE_RULESET_VERSION);
    return version > 0 ? int(version) : 0;
}

/// What every version of Landlock refuses unless a rule allows it. Moving to another folder is refused by version 1,
/// too, which has no name for it.
uint64_t refused_rights(int version)
{
    return LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_WRITE_FILE | making | removing |
           (version >= 2 ? LANDLOCK_ACCESS_FS_REFER : 0) | (version >= 3 ? LANDLOCK_ACCESS_FS_TRUNCATE : 0);
}

/// Allows rights below a path; nothing where there is no such path.
void allow(int rules, const std::filesystem::path& path, uint64_t rights)
{
    const int place = open(path.c_str(), O_PATH | O_CLOEXEC);
    if (place < 0) return;
    struct stat status;
    const bool folder = fstat(place, &status) == 0 && S_ISDIR(status.st_mode);
    const landlock_path_beneath_attr rule = {
        .allowed_access = folder ? rights : rights & (LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_TRUNCATE),
        .parent_fd = place};
    const bool added = syscall(SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) == 0;
    const int error = errno;
    close(place);
    errno = error;
    if (!added) fail("landlock_add_rule");
}

// ---- system calls: seccomp (https://docs.kernel.org/userspace-api/seccomp_filter.html) ------------------------------

#if defined(__x86_64__)
constexpr uint32_t this_machine = AUDIT_ARCH_X86_64;
constexpr uint32_t other_numbers = 0x40000000;    // from here on, the calls of x32
#elif defined(__aarch64__)
constexpr uint32_t this_machine = AUDIT_ARCH_AARCH64;
constexpr uint32_t other_numbers = UINT32_MAX;
#else
constexpr uint32_t this_machine = 0;    // unknown: there is no filter
constexpr uint32_t other_numbers = UINT32_MAX;
#endif

/// A call that is refused: always, or if one argument (its lower half) has one of these bits, is this number, or is any
/// other.
struct Refusal {
    enum When { always, any_bit, equal, other };
    long call;
    int error = EPERM;
    When when = always;
    int argument = 0;
    uint32_t number = 0;
};

constexpr uint32_t new_namespaces =
    CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP;
constexpr uint32_t for_writing = O_WRONLY | O_RDWR | O_CREAT | O_TRUNC;

constexpr Refusal refusals[] = {
    // the network, and talking to other processes
    {SYS_socket, EACCES},
    {SYS_socketpair, EACCES},
    {SYS_connect, EACCES},
    {SYS_bind, EACCES},
    {SYS_listen, EACCES},
    {SYS_accept, EACCES},
    {SYS_accept4, EACCES},
    {SYS_sendto, EACCES},
    {SYS_sendmsg, EACCES},
    {SYS_sendmmsg, EACCES},
    {SYS_shmget},
    {SYS_msgget},
    {SYS_semget},
    {SYS_mq_open},
    // keys pressed into the user's terminal
    {SYS_ioctl, EPERM, Refusal::equal, 1, TIOCSTI},
    {SYS_ioctl, EPERM, Refusal::equal, 1, TIOCLINUX},
    // other processes
    {SYS_ptrace},
    {SYS_process_vm_readv},
    {SYS_process_vm_writev},
    {SYS_pidfd_getfd},
    {SYS_pidfd_send_signal},
    {SYS_tkill},
    {SYS_rt_sigqueueinfo},
    {SYS_rt_tgsigqueueinfo},
    // owners, modes and attributes of files, which Landlock leaves alone
    {SYS_fchmodat},
    {SYS_fchownat},
    {SYS_setxattr},
    {SYS_lsetxattr},
    {SYS_removexattr},
    {SYS_lremovexattr},
    {SYS_utimensat},
    // ways around all this, and what only administrators do
    {SYS_io_uring_setup, ENOSYS},
    {SYS_clone3, ENOSYS},
    {SYS_clone, EPERM, Refusal::any_bit, 0, new_namespaces},
    {SYS_unshare},
    {SYS_setns},
    {SYS_mount},
    {SYS_umount2},
    {SYS_pivot_root},
    {SYS_chroot},
    {SYS_open_tree},
    {SYS_move_mount},
    {SYS_fsopen},
    {SYS_open_by_handle_at},
    {SYS_bpf},
    {SYS_perf_event_open},
    {SYS_userfaultfd},
    {SYS_keyctl},
    {SYS_add_key},
    {SYS_request_key},
    {SYS_init_module},
    {SYS_finit_module},
    {SYS_delete_module},
    {SYS_kexec_load},
    {SYS_reboot},
    {SYS_swapon},
    {SYS_swapoff},
    {SYS_acct},
    {SYS_quotactl},
    {SYS_syslog},
#ifdef SYS_chmod    // older machines have the older calls, too
    {SYS_chmod},
    {SYS_chown},
    {SYS_lchown},
    {SYS_utime},
    {SYS_utimes},
    {SYS_futimesat},
#endif
#ifdef SYS_fchmodat2
    {SYS_fchmodat2},
#endif
#ifdef SYS_kexec_file_load
    {SYS_kexec_file_load},
#endif
};

constexpr Refusal program_refusals[] = {{SYS_execve, EACCES}, {SYS_execveat, EACCES}};

/// Of processes and threads, and of memory that no limit counts.
constexpr Refusal process_refusals[] = {
    {SYS_clone},
#ifdef SYS_fork
    {SYS_fork},         {SYS_vfork},
#endif
    {SYS_memfd_create}, {SYS_setrlimit}, {SYS_prlimit64, EPERM, Refusal::other, 2, 0},    // with no new limits it asks
};

/// In kernels without Landlock.
constexpr Refusal writing_refusals[] = {
    {SYS_openat, EACCES, Refusal::any_bit, 2, for_writing},
    {SYS_openat2, ENOSYS},
    {SYS_truncate, EACCES},
    {SYS_unlinkat, EACCES},
    {SYS_renameat2, EACCES},
    {SYS_linkat, EACCES},
    {SYS_symlinkat, EACCES},
    {SYS_mkdirat, EACCES},
    {SYS_mknodat, EACCES},
#ifdef SYS_renameat
    {SYS_renameat, EACCES},
#endif
#ifdef SYS_open
    {SYS_open, EACCES, Refusal::any_bit, 1, for_writing},
    {SYS_creat, EACCES},
    {SYS_unlink, EACCES},
    {SYS_rename, EACCES},
    {SYS_link, EACCES},
    {SYS_symlink, EACCES},
    {SYS_mkdir, EACCES},
    {SYS_rmdir, EACCES},
    {SYS_mknod, EACCES},
#endif
};

class Filter {
  public:
    Filter()
    {
        load(offsetof(seccomp_data, arch));
        add(BPF_JMP | BPF_JEQ | BPF_K, this_machine, 1, 0);
        refuse(EPERM);
        load(offsetof(seccomp_data, nr));
        add(BPF_JMP | BPF_JGE | BPF_K, other_numbers, 0, 1);
        refuse(EPERM);
    }

    void refuse(const Refusal& r)
    {
        if (r.when == Refusal::always) {
            add(BPF_JMP | BPF_JEQ | BPF_K, uint32_t(r.call), 0, 1);
            return refuse(r.error);
        }
        add(BPF_JMP | BPF_JEQ | BPF_K, uint32_t(r.call), 0, 4);
        load(uint32_t(offsetof(seccomp_data, args) +
                      8 * size_t(r.argument)));    // the lower half, on little-endian machines
        const bool refused_if_true = r.when != Refusal::other;
        add(uint16_t(BPF_JMP | (r.when == Refusal::any_bit ? BPF_JSET : BPF_JEQ) | BPF_K), r.number, !refused_if_true,
            refused_if_true);
        refuse(r.error);
        load(offsetof(seccomp_data, nr));
    }

    /// In every thread.
    bool install()
    {
        add(BPF_RET | BPF_K, SECCOMP_RET_ALLOW, 0, 0);
        const sock_fprog program = {uint16_t(code_.size()), code_.data()};
        return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program) == 0;
    }

    /// As the kernel and bubblewrap take it.
    std::string bytes()
    {
        add(BPF_RET | BPF_K, SECCOMP_RET_ALLOW, 0, 0);
        return {reinterpret_cast<const char*>(code_.data()), code_.size() * sizeof code_[0]};
    }

  private:
    void add(uint16_t operation, uint32_t number, uint8_t if_true, uint8_t if_false)
    {
        code_.push_back({operation, if_true, if_false, number});
    }
    void load(uint32_t offset) { add(BPF_LD | BPF_W | BPF_ABS, offset, 0, 0); }
    void refuse(int error) { add(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | uint32_t(error), 0, 0); }

    std::vector<sock_filter> code_;
};

}    // namespace

bool can_confine_files() { return landlock_version() > 0; }

bool can_confine_calls()
{
    const uint32_t action = SECCOMP_RET_ERRNO;
    return this_machine && syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) == 0;
}

bool confine_files(const Outputs& outputs, bool device)
{
    const int version = landlock_version();
    if (!version) return false;
    const uint64_t refused = refused_rights(version);
    const landlock_ruleset_attr attributes = {.handled_access_fs = refused};
    const int rules = int(syscall(SYS_landlock_create_ruleset, &attributes, sizeof attributes.handled_access_fs, 0));
    if (rules < 0) fail("landlock_create_ruleset");
    const uint64_t writing = refused & (LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_TRUNCATE);
    for (const char* always : {"/dev/null", "/dev/tty"}) allow(rules, always, writing);
    if (device) {
        allow(rules, "/dev", writing);
        allow(rules, "/dev/shm", writing | LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_REMOVE_FILE);
    }
    for (const std::filesystem::path& output : outputs) {
        std::error_code ec;
        const std::filesystem::path target = std::filesystem::weakly_canonical(output, ec);    // a link is followed
        const std::filesystem::path folder = std::filesystem::absolute(ec ? output : target).parent_path();
        allow(rules, output, writing);
        allow(rules, folder, writing | LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_REMOVE_FILE);
    }
    give_up_privileges();
    const bool done = syscall(SYS_landlock_restrict_self, rules, 0) == 0;
    const int error = errno;
    close(rules);
    errno = error;
    if (!done) fail("landlock_restrict_self");
    return confined = true;
}

bool confine_calls(bool writing)
{
    if (!can_confine_calls()) return false;
    Filter filter;
    for (const Refusal& r : refusals) filter.refuse(r);
    for (const Refusal& r : program_refusals) filter.refuse(r);
    for (const long call : {SYS_kill, SYS_tgkill}) filter.refuse({call, EPERM, Refusal::other, 0, uint32_t(getpid())});
    if (writing)
        for (const Refusal& r : writing_refusals) filter.refuse(r);
    give_up_privileges();
    if (!filter.install()) fail("seccomp");
    return confined = true;
}

std::string single_process_filter()
{
    if (!can_confine_calls()) return "";
    Filter filter;
    for (const Refusal& r : refusals) filter.refuse(r);
    for (const Refusal& r : process_refusals) filter.refuse(r);
    return filter.bytes();
}

std::string confinement_advice(int error)
{
    return confined && (error == EACCES || error == EPERM)
               ? "; this process is confined to what it was told to write: --confine off lifts that"
               : "";
}

}    // namespace hearth
