#include "engine/text/byte_alphabet.h"

#include <algorithm>
#include <cstdint>

namespace hearth {

namespace {

/// Printable Latin-1 stands for itself; the others follow from U+0100 on, in order.
struct Alphabet {
    static constexpr size_t size = 324;
    int16_t byte_of[size];       // by character; -1 where it stands for none
    std::string text_of[256];    // UTF-8

    Alphabet()
    {
        std::fill(std::begin(byte_of), std::end(byte_of), int16_t(-1));
        for (int byte = 0, next = 256; byte < 256; byte++) {
            const bool visible = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte != 0xad);
            const int character = visible ? byte : next++;
            byte_of[character] = int16_t(byte);
            if (character < 0x80) text_of[byte] = char(character);
            else text_of[byte] = {char(0xc0 | character >> 6), char(0x80 | (character & 63))};
        }
    }
};

const Alphabet& alphabet()
{
    static const Alphabet a;
    return a;
}

}    // namespace

std::string_view character_of_byte(uint8_t byte) { return alphabet().text_of[byte]; }

bool append_bytes(std::string_view text, std::string& bytes)
{
    const size_t before = bytes.size();
    for (size_t at = 0; at < text.size();) {
        const uint8_t lead = uint8_t(text[at]);
        const bool two = lead >= 0xc2 && lead <= 0xc5 && at + 1 < text.size() && uint8_t(text[at + 1]) >> 6 == 2;
        const size_t character = two ? size_t(lead & 31) << 6 | (uint8_t(text[at + 1]) & 63) : lead;
        if ((!two && lead >= 0x80) || character >= Alphabet::size || alphabet().byte_of[character] < 0) {
            bytes.resize(before);
            return false;
        }
        bytes += char(alphabet().byte_of[character]);
        at += two ? 2 : 1;
    }
    return true;
}

}    // namespace hearth
