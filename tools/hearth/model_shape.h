// Models of which there is no file, or only its beginning: what --arch and --type say, or a config.json.
#pragma once

#include "engine/model/architectures.h"
#include "tools/hearth/cli.h"

#include <filesystem>
#include <optional>

namespace hearth::tools {

/// Throws Error: no JSON, an architecture that this program does not know (named), a size that is missing or none.
Architecture read_config_json(const std::filesystem::path& path);

struct ShapeOptions {
    std::string arch;           // of all_architectures; empty: the model is a path
    std::string type;           // of quantisations; empty: a file's own, else the usual
    bool by_neurons = false;    // down projections, where a type is given or usual, though nothing else asks for it
};

/// --arch and --type, for a subcommand that has MODEL, which is then not needed.
void add_shape_options(CLI::App& app, ShapeOptions& options);

/// A GGUF file, or its beginning; the header of what a config.json or a folder with one describes; or that of a named
/// architecture.
std::shared_ptr<const Gguf> open_shape(const ShapeOptions& options, const std::filesystem::path& model,
                                       const std::vector<Override>& overrides);

}    // namespace hearth::tools
