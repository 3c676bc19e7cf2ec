// --confine: what a subcommand takes from itself before it reads a model (engine/system/confine.h says what stays).
#pragma once

#include "engine/system/confine.h"

#include <CLI/CLI.hpp>

#include <optional>

namespace hearth::tools {

class Confinement {
  public:
    /// The option; `by_default` is what it says in the help, and what the subcommand is to say to `files` or `all`.
    void add_option(CLI::App& app, bool by_default);

    /// Whether it was asked for on the command line.
    bool asked() const { return asked_ == true; }

    /// Before `files`: a file that this run will write.
    void allow(const std::filesystem::path& output) { outputs_.push_back(output); }

    /// Before the model is read, and before there are other threads: files. `device`: a GPU will be set up.
    /// Where the system cannot do it, that is an Error if it was asked for, and else a note.
    void files(bool by_default, bool device);

    /// After a GPU is set up, since its driver may ask others for that: system calls.
    void calls();

    /// Both, where there is no GPU.
    void all(bool by_default)
    {
        files(by_default, false);
        calls();
    }

  private:
    void cannot(const std::string& what) const;

    std::optional<bool> asked_;
    bool on_ = false, files_confined_ = false;
    Outputs outputs_;
};

/// The one of this process.
Confinement& confinement();

}    // namespace hearth::tools
