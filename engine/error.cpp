#include "engine/error.h"

#include <cstdio>
#include <cstdlib>

namespace hearth {

std::string printable(std::string_view text)
{
    std::string out;
    for (size_t i = 0; i < text.size();) {
        const auto byte = [&](size_t k) { return i + k < text.size() ? uint8_t(text[i + k]) : 0u; };
        const unsigned first = byte(0);
        const size_t length = first < 0x80 ? 1 : first >> 5 == 6 ? 2 : first >> 4 == 14 ? 3 : first >> 3 == 30 ? 4 : 0;
        bool good = length > 0 && first >= 0x20 && first != 0x7f;
        for (size_t k = 1; k < length; ++k) good = good && byte(k) >> 6 == 2;
        if (good) out += text.substr(i, length);
        else out += '?';
        i += good ? length : 1;
    }
    return out;
}

void broken(const char* what, const char* file, int line)
{
    fmt::print(stderr, "hearth: internal error: {} does not hold ({}:{}); please report this\n", what, file, line);
    std::abort();
}

}    // namespace hearth
