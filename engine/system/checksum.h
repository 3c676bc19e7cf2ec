// FNV-1a of 64 bits: tells a file that was damaged, or is another one, from what it was. It is no defence against
// someone who wants two files to look alike. http://www.isthe.com/chongo/tech/comp/fnv/
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <string>
#include <string_view>

namespace hearth {

class Fnv1a {
  public:
    void add(std::string_view bytes)
    {
        for (const char c : bytes) hash_ = (hash_ ^ uint8_t(c)) * 0x100000001b3u;
    }
    std::string hex() const { return fmt::format("{:016x}", hash_); }

  private:
    uint64_t hash_ = 0xcbf29ce484222325u;
};

constexpr size_t checksum_digits = 16;

inline std::string checksum(std::string_view bytes)
{
    Fnv1a hash;
    hash.add(bytes);
    return hash.hex();
}

}    // namespace hearth
