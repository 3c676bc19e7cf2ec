// What a GGUF file is that holds no language model: every other kind that people have beside their models is known by
// name.
#pragma once

#include "engine/file/gguf.h"

namespace hearth {

/// Throws Error where a GGUF file is another thing than a language model that writes text: an adapter, a projector, an
/// importance matrix, an encoder, ... Those are known by their keys and tensors, whatever they call themselves.
void refuse_other_kinds(const Gguf& file);

}    // namespace hearth
