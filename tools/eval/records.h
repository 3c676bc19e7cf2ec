// What a run leaves: a line of JSON that says what is run, and one for each answer. All that a table says is computed
// from them, so that a run that was killed and went on says what one that was not says.
#pragma once

#include "tools/eval/judge.h"
#include "tools/eval/lines.h"

#include <set>
#include <utility>

namespace hearth::eval {

/// An answer and what it took. Times are of the clock that runs while the model does: judging stops it.
struct Sample {
    std::string problem;
    uint32_t number = 0;    // of several samples of a problem, from 0
    std::string answer;
    std::string end;    // why: "stop" (a text), "end" (a token), "length", "context"; "given": by nobody here
    std::vector<Judgement> judgements;
    uint32_t prompt_tokens = 0;
    uint32_t shared_tokens = 0;                    // of them: read once for all problems
    uint32_t cut_tokens = 0;                       // of its beginning, left out since there was no room
    uint32_t tokens = 0;                           // of the answer
    double first_ms = 0;                           // to the first token
    double mean_ms = 0, p50_ms = 0, p95_ms = 0;    // between two tokens
    double seconds = 0;                            // of all
    uint32_t part = 0;                             // which process it was: a run that goes on has several
    double clock = 0;                              // seconds from the part's beginning to this answer's end
    uint64_t host_bytes = 0, device_bytes = 0;     // peaks so far

    std::pair<std::string, uint32_t> key() const { return {problem, number}; }
};

struct Perplexity {
    double value = 0, error = 0;
    uint64_t tokens = 0;
    std::string text;    // its checksum
};

/// A model with its options, and how it answered.
struct Run {
    std::string name;
    nlohmann::ordered_json settings;    // what makes a run another one
    std::vector<Sample> samples;
    std::optional<Perplexity> perplexity;

    std::set<std::pair<std::string, uint32_t>> answered() const;
    uint32_t parts() const;
};

/// Lines for a file, and back.
nlohmann::ordered_json to_json(const Run& run);
nlohmann::ordered_json to_json(const Run& run, const Sample& sample);
nlohmann::ordered_json to_json(const Run& run, const Perplexity& perplexity);
std::vector<Run> read_runs(std::string_view text, const std::filesystem::path& path);

}    // namespace hearth::eval
