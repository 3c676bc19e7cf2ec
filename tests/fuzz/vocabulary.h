// GPT-2's alphabet for bytes (https://github.com/openai/gpt-2, encoder.py).
#pragma once

#include <cstdint>
#include <string>

namespace hearth::fuzz {

/// The letter that stands for a byte in a byte-level vocabulary.
inline std::string byte_letter(uint8_t byte)
{
    const auto itself = [](int b) { return (b > 32 && b < 127) || (b > 160 && b != 173 && b < 256); };
    int letter = byte;
    if (!itself(byte)) {
        letter = 256;
        for (int b = 0; b < byte; b++) letter += !itself(b);
    }
    return letter < 128 ? std::string(1, char(letter))
                        : std::string{char(0xc0 | letter >> 6), char(0x80 | (letter & 63))};
}

}    // namespace hearth::fuzz
