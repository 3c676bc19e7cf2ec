// PNG files with the sums that belong to what is in them: damage that someone means is not found by a sum.
#pragma once

#include <cstdint>
#include <string>

namespace hearth::tests {

inline std::string big_endian(uint32_t n, int length)
{
    std::string bytes;
    for (int i = length; i-- > 0;) bytes += char(n >> 8 * i);
    return bytes;
}

/// Goes through the chunks as far as their lengths make sense. Other files stay as they are.
inline std::string with_right_sums(std::string png)
{
    constexpr size_t signature = 8, around = 12;    // bytes: of a chunk beside its data
    if (!png.starts_with("\x89PNG")) return png;
    for (size_t at = signature; at + around <= png.size();) {
        size_t length = 0;
        for (size_t i = 0; i < 4; ++i) length = length << 8 | uint8_t(png[at + i]);
        if (length > png.size() - at - around) break;
        uint32_t crc = ~0u;
        for (size_t i = at + 4; i < at + 8 + length; ++i) {
            crc ^= uint8_t(png[i]);
            for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
        }
        png.replace(at + 8 + length, 4, big_endian(~crc, 4));
        at += around + length;
    }
    return png;
}

}    // namespace hearth::tests
