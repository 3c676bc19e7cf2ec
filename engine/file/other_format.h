// What a file is that was given as a model and is not even GGUF: every other format that people have beside their
// models is known by its bytes.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace hearth {

/// Of a file that does not begin as GGUF does: "not a GGUF file but ...: what to do".
std::string other_format(std::string_view bytes);

/// The same for a folder: the models in it, or how to make one of it.
std::string what_folder(const std::filesystem::path& folder);

}    // namespace hearth
