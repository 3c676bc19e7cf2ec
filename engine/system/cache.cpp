#include "engine/system/checksum.h"
#include "engine/system/folders.h"
#include "engine/system/whole_file.h"

namespace hearth {

std::string read_cached(const std::filesystem::path& path)
{
    std::string bytes = read_ours(path);
    if (bytes.size() < checksum_digits ||
        checksum(std::string_view(bytes).substr(checksum_digits)) != bytes.substr(0, checksum_digits))
        return {};
    return bytes.substr(checksum_digits);
}

void write_cached(const std::filesystem::path& path, std::string_view bytes) noexcept
{
    try {
        std::filesystem::create_directories(path.parent_path());
        WholeFile file(path, {.for_owner = true});
        file.write(checksum(bytes));
        file.write(bytes);
        file.finish();
    } catch (const std::exception&) {    // it is made again next time
    }
}

}    // namespace hearth
