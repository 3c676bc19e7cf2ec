// Values as GGUF has them: little endian, texts behind their length.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace hearth {

template <class T>
void append(std::string& to, const T& value)
{
    to.append(reinterpret_cast<const char*>(&value), sizeof value);
}

inline void append_text(std::string& to, std::string_view text)
{
    append(to, uint64_t(text.size()));
    to += text;
}

}    // namespace hearth
