#include "tools/hearth/text.h"

#include "engine/error.h"
#include "engine/system/program.h"

#include <cerrno>
#include <charconv>
#include <memory>
#include <system_error>

namespace hearth::tools {

namespace {

/// The marks of encodings that are not read; the longer ones first, since one begins like another.
constexpr struct {
    std::string_view mark, name;
} foreign_encodings[] = {
    {{"\xff\xfe\0\0", 4}, "UTF-32"}, {{"\0\0\xfe\xff", 4}, "UTF-32"}, {"\xff\xfe", "UTF-16"}, {"\xfe\xff", "UTF-16"}};

std::string read_all(std::FILE* in, std::string_view name)
{
    std::string all;
    char block[1 << 16];
    for (;;) {
        errno = 0;
        const size_t count = std::fread(block, 1, sizeof block, in);
        all.append(block, count);
        if (count == sizeof block) continue;
        if (std::ferror(in) && errno == EINTR) {
            std::clearerr(in);
            continue;
        }
        if (std::ferror(in)) throw Error("{} cannot be read: {}", name, std::generic_category().message(errno));
        return all;
    }
}

}    // namespace

std::string read_bytes(const std::string& file)
{
    if (file == "-") return read_all(stdin, "standard input");
    std::error_code ec;
    if (std::filesystem::is_directory(file, ec)) throw Error("{} is a directory, not a text: name a file", file);
    const std::unique_ptr<std::FILE, int (*)(std::FILE*)> in(open_file(file, "rb"), std::fclose);
    if (!in) throw Error("{} cannot be read: {}", file, std::generic_category().message(errno));
    return read_all(in.get(), file);
}

std::string plain_text(std::string bytes, std::string_view name)
{
    for (const auto& [mark, encoding] : foreign_encodings)
        if (bytes.starts_with(mark))
            throw Error("{} is {}, and texts are read as UTF-8: convert it, with iconv -f {} -t UTF-8 or in an editor",
                        name, encoding, encoding);
    constexpr std::string_view mark = "\xef\xbb\xbf";
    size_t to = 0;
    for (size_t from = bytes.starts_with(mark) ? mark.size() : 0; from < bytes.size(); ++from)
        if (bytes[from] != '\r' || from + 1 == bytes.size() || bytes[from + 1] != '\n') bytes[to++] = bytes[from];
    bytes.resize(to);
    return bytes;
}

std::string read_text_file(const std::string& file)
{
    return plain_text(read_bytes(file), file == "-" ? "standard input" : file);
}

std::string unescape(std::string_view text)
{
    constexpr std::string_view letters = "nrt\\'\"", meant = "\n\r\t\\'\"";
    std::string out;
    for (size_t i = 0; i < text.size(); ++i) {
        const size_t which = text[i] == '\\' && i + 1 < text.size() ? letters.find(text[i + 1]) : letters.npos;
        uint8_t byte = 0;
        const char* const digits = text.data() + i + 2;
        if (which != letters.npos) out += meant[which], i += 1;
        else if (text.substr(i, 2) == "\\x" && i + 4 <= text.size() &&
                 std::from_chars(digits, digits + 2, byte, 16).ptr == digits + 2)
            out += char(byte), i += 3;
        else out += text[i];
    }
    return out;
}

}    // namespace hearth::tools
