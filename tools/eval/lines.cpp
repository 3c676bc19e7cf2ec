#include "tools/eval/lines.h"

#include "engine/error.h"

#include <zlib.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <system_error>

namespace hearth::eval {

std::string unpacked(const std::filesystem::path& path)
{
    std::error_code ec;
    if (std::filesystem::is_directory(path, ec)) throw Error("{} is a folder: name a file", path.string());
    const std::unique_ptr<gzFile_s, int (*)(gzFile)> file(gzopen(path.string().c_str(), "rb"), gzclose);
    if (!file) throw Error("{} cannot be read: {}", path.string(), std::generic_category().message(errno));
    constexpr size_t most = size_t(1) << 30;
    std::string all;
    std::vector<char> block(1 << 16);
    for (;;) {
        const int n = gzread(file.get(), block.data(), unsigned(block.size()));
        int code = Z_OK;
        if (n <= 0) {    // at the end, too, it may say that something is missing
            const std::string why = gzerror(file.get(), &code);
            if (code == Z_OK) break;
            throw Error("{} cannot be read: {}", path.string(),
                        code == Z_ERRNO ? std::generic_category().message(errno) : why);
        }
        all.append(block.data(), size_t(n));
        if (all.size() > most) throw Error("{} has more than a gigabyte: that is no file of problems", path.string());
    }
    return all;
}

Line::Line(std::string where, std::string_view text)
    : where_(std::move(where)), json_(nlohmann::ordered_json::parse(text, nullptr, false))
{
    if (!json_.is_object()) throw Error("{} is no JSON object: such a file has one in every line", where_);
}

std::string Line::text(const char* key) const
{
    const auto found = json_.find(key);
    if (found == json_.end()) throw Error("{} has no \"{}\": is it a file of this task?", where_, key);
    if (found->is_string()) return found->get<std::string>();
    if (found->is_number()) return found->dump();
    throw Error("\"{}\" in {} is neither a text nor a number", key, where_);
}

std::vector<std::string> Line::texts(const char* key) const
{
    const auto found = json_.find(key);
    if (found == json_.end()) return {};
    if (!found->is_array() || !std::ranges::all_of(*found, [](const auto& x) { return x.is_string(); }))
        throw Error("\"{}\" in {} is no list of texts", key, where_);
    return found->get<std::vector<std::string>>();
}

uint32_t Line::number(const char* key, uint32_t otherwise) const
{
    const auto found = json_.find(key);
    if (found == json_.end()) return otherwise;
    if (!found->is_number_unsigned() || found->get<uint64_t>() > UINT32_MAX)
        throw Error("\"{}\" in {} is no whole number", key, where_);
    return found->get<uint32_t>();
}

std::vector<Line> read_lines(std::string_view text, const std::filesystem::path& path)
{
    std::vector<Line> lines;
    size_t number = 0;
    for (size_t begin = 0, end; begin < text.size(); begin = end + 1) {
        end = std::min(text.find('\n', begin), text.size());
        const std::string_view line = text.substr(begin, end - begin);
        ++number;
        if (line.find_first_not_of(" \t\r") != line.npos)
            lines.emplace_back(fmt::format("line {} of {}", number, path.string()), line);
    }
    return lines;
}

}    // namespace hearth::eval
