// What a file is that was given as a model and is none: every other kind that people have at hand beside their models is known by name.
#pragma once

#include "engine/model/gguf.h"

#include <string>
#include <string_view>

namespace hearth {

/// Of a file that does not begin as GGUF does: "not a GGUF file but ...: what to do".
std::string other_format(std::string_view bytes);

/// The same for a folder: the models in it, or how to make one of it.
std::string what_folder(const std::filesystem::path& folder);

/// Throws Error where a GGUF file is another thing than a language model that writes text: an adapter, a projector, an importance matrix, an encoder, ...
/// Those are known by their keys and tensors, whatever they call themselves.
void refuse_other_kinds(const Gguf& file);

}    // namespace hearth
