// What the files of `hearth eval` share.
#pragma once

#include "engine/system/sandbox.h"
#include "tools/eval/summary.h"
#include "tools/hearth/cli.h"

namespace hearth::tools {

struct EvalOptions {
    std::vector<std::filesystem::path> models;
    std::vector<std::string> also;    // "MODEL [OPTIONS]"
    std::string name;                 // of the only run
    EngineOptions engine;             // of every run; without its model
    SamplerOptions sampling;
    std::string task, data, shots_from, answers, output, template_name;
    std::vector<std::string> shown;    // records of other runs
    std::string perplexity_file;
    uint64_t perplexity_tokens = 4096;
    std::optional<uint32_t> shots, tokens;    // as the protocol says where not given
    size_t limit = 0;                         // problems; 0: all
    uint32_t samples = 1, parallel = 1;
    bool execute = false;    // programs
    std::string python = "python3";
    Sandbox::Way way = Sandbox::Way::automatic;
    Sandbox::Limits limits;    // of a program
    bool chat = false, whole_prompts = false, resume = false, json = false;
};

/// A model with its options, in one line of the table.
struct Configuration {
    std::string name;
    std::string options;    // as they were typed
    EngineOptions engine;
};

/// What all runs have in common.
struct Evaluation {
    const EvalOptions& options;
    const eval::Protocol& protocol;
    const eval::Data& data;
    const std::vector<eval::Shot>& shots;
    const Sandbox* sandbox;    // of programs; without one they are not run

    size_t problems() const;    // that are asked
    uint32_t tokens(const eval::Problem& problem) const;
};

/// Loads a configuration's model and lets it answer what `run` lacks; `keep` is given every line that is to be kept.
void answer_problems(const Evaluation& evaluation, const Configuration& configuration, eval::Run& run,
                     const std::function<void(const nlohmann::ordered_json&)>& keep);

}    // namespace hearth::tools
