// Values that take the place of a file's own: --override KEY=TYPE:VALUE.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace hearth {

struct Override {
    using Value = std::variant<bool, int64_t, double, std::string, std::vector<int64_t>, std::vector<double>,
                               std::vector<std::string>>;

    std::string key;    // "{arch}" at its beginning stands for the file's general.architecture
    Value value;
    std::string option = "--override";    // as it was typed, for messages
};

/// Whether a key says how the bytes of a file lie: such keys cannot be overridden.
bool describes_layout(std::string_view key);

/// A value as the format stores it behind its type's number. `type` and `element` (of an array) are those of the value
/// that it replaces; without one
/// (-1) they are u32 or i64 for integers, f32 for numbers with a point, and i32 or i64 in arrays. Empty where an
/// integer does not fit.
std::string encode_value(const Override::Value& value, int64_t type = -1, int64_t element = -1);

}    // namespace hearth
