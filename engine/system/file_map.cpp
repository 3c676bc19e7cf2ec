#include "engine/system/file_map.h"

#include "engine/error.h"

#include <cerrno>
#include <cstring>
#include <system_error>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace hearth {

namespace {

std::string_view advice(int error)
{
    switch (error) {
    case EMFILE: return "; raise `ulimit -n`";
    case ENOMEM: return "; raise `ulimit -v`, or close other programs";
    case EACCES: return "; ask its owner, or copy it to where you may read it";
    default: return "";
    }
}

}    // namespace

MappedFile::MappedFile(const std::filesystem::path& path) : path_(path)
{
    const std::string name = printable(path.string());
    const auto check = [&](bool good) {
        if (!good) throw Error("cannot read {}: {}{}", name, std::generic_category().message(errno), advice(errno));
    };
    struct stat status;
    check(stat(path.c_str(), &status) == 0);
    // Before open, which waits for ever on a pipe that nobody writes to.
    if (S_ISDIR(status.st_mode)) throw Error("{} is a directory; name the GGUF file in it", name);
    if (!S_ISREG(status.st_mode))
        throw Error("{} is not a regular file; a model cannot be read from a pipe or a device", name);
    const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    check(file >= 0);
    const bool known = fstat(file, &status) == 0;    // of the file that was opened, whatever the name means by now
    size_ = known && S_ISREG(status.st_mode) ? size_t(status.st_size) : 0;
    void* const mapped = size_ ? mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file, 0) : nullptr;
    const int error = errno;
    close(file);
    errno = error;
    check(known && mapped != MAP_FAILED);
    data_ = static_cast<const char*>(mapped);
    identity_ = {status.st_dev, status.st_ino, size_, status.st_mtim.tv_sec, status.st_mtim.tv_nsec};
    try {
        note_ = SignalNote::mapped(data_, size_,
                                   fmt::format("hearth: {} cannot be read any more: it was changed while it was in "
                                               "use, or its disk or network failed; "
                                               "copy it again, and leave it alone while it is used\n",
                                               name));
    } catch (...) {
        if (data_) munmap(const_cast<char*>(data_), size_);
        throw;
    }
}

MappedFile::~MappedFile()
{
    note_ = {};
    if (data_) munmap(const_cast<char*>(data_), size_);
}

void MappedFile::check_unchanged() const
{
    struct stat now;
    if (stat(path_.c_str(), &now) != 0 || now.st_dev != identity_.device || now.st_ino != identity_.node)
        return;    // the name is another file's
    if (uint64_t(now.st_size) == identity_.size && now.st_mtim.tv_sec == identity_.seconds &&
        now.st_mtim.tv_nsec == identity_.nanoseconds)
        return;
    throw Error("{} was changed while it was in use: start again once it is whole", printable(path_.string()));
}

}    // namespace hearth
