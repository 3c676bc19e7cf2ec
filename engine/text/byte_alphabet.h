// The alphabet in which byte-level vocabularies are written (GPT-2's): every byte is a visible character.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace hearth {

/// The character of a byte, as UTF-8.
std::string_view character_of_byte(uint8_t byte);

/// Appends the bytes that a token's text stands for; false, with nothing appended, if it is not in the alphabet.
bool append_bytes(std::string_view text, std::string& bytes);

}    // namespace hearth
