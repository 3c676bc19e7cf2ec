// Takes from this process, for good, what reading a stranger's file never needs: the network, other programs, writing
// beyond named files. Linux: Landlock for files, seccomp for system calls. Windows: an integrity level for files, a job
// for programs. A call that is refused fails with EACCES or EPERM; nothing is killed.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace hearth {

/// What may still be written: files, which may be there already or not, with everything else in their folders; writing
/// goes by temporary names.
using Outputs = std::vector<std::filesystem::path>;

/// What does it in this system and what that needs, for a message that it cannot be done.
extern const char *const confining_files, *const confining_calls;

/// Whether this system has it. Asking changes nothing. (Windows tells only by trying.)
bool can_confine_files();
bool can_confine_calls();

/// From here on nothing is written, made, renamed or removed but in the folders of `outputs`; `device`: and the files
/// of /dev, as the drivers of GPUs want. Reading stays, and so do files that are open. It is of this thread and of
/// those that it starts: to be called before there are others. False where the kernel has no Landlock, and on Windows
/// with outputs or a device, or where a trial still writes. Throws Error where it should work and does not.
bool confine_files(const Outputs& outputs, bool device);

/// From here on, in every thread, no sockets, no other programs, no other process's memory, no kernel interfaces that a
/// model does not need; `writing`: nor any opening of a file for writing, for kernels without Landlock. False where the
/// kernel has no seccomp. Windows: no other programs, and that alone; false where a trial still starts one. Throws
/// Error as above.
bool confine_calls(bool writing);

/// A filter for a program that is still to be started, as the kernel and bubblewrap take it: it refuses what
/// confine_calls does, less starting programs, and further processes and threads. Empty where the kernel has no
/// seccomp.
std::string single_process_filter();

/// For a message about a file that cannot be written: what to do if it is this that refuses; empty where it is not.
std::string confinement_advice(int error);

}    // namespace hearth
