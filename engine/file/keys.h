// Keys of a file that change what its model computes, and that nothing here reads.
#pragma once

#include "engine/file/gguf.h"

namespace hearth {

/// Throws Error, naming the key and its value, where the file has a key of its architecture (`prefix`: "llama.") that
/// would change the text: one of those that public converters write, unless it has the value that changes nothing, or
/// any under rope.scaling that is not known.
void refuse_keys(const Gguf& file, std::string_view prefix);

}    // namespace hearth
