// Units of memory, in bytes.
#pragma once

namespace hearth::tools {

inline constexpr double mib = 0x1p20, gib = 0x1p30;

}    // namespace hearth::tools
