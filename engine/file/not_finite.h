// Weights that are NaN or infinite, said so that a user finds them.
#pragma once

#include "engine/file/gguf.h"
#include "host/arena.h"

#include <optional>
#include <string>

namespace hearth {

/// "blk.0.ffn_up.weight holds 2 weights that are not finite numbers, the first (NaN) in row 3, column 5"; nothing where
/// all are finite, or the type is one that cannot be read. Rows of several matrices in one tensor are counted through.
std::optional<std::string> not_finite_weights(host::Team& team, const GgufTensor& tensor);

}    // namespace hearth
