// Runs side by side.
#pragma once

#include "tools/eval/records.h"
#include "tools/eval/score.h"

namespace hearth::eval {

/// What the answers of a run come to.
struct Summary {
    std::string name, task;
    size_t problems = 0, samples = 0;
    struct Score {
        std::string name;
        size_t judged = 0, right = 0;                          // samples
        Estimate share;                                        // right of the judged, the mean over problems
        std::vector<std::pair<uint32_t, Estimate>> pass_at;    // k, where problems have several samples
    };
    std::vector<Score> scores;
    uint64_t tokens = 0;              // of answers
    size_t cut = 0;                   // prompts whose beginning was left out
    double seconds = 0;               // of all parts
    double tokens_per_s = 0;          // of all answers that are written together
    double first_ms = 0;              // median over the samples
    double mean_ms = 0;               // between two tokens, over all tokens
    double p50_ms = 0, p95_ms = 0;    // medians over the samples of theirs
    double seconds_per_solved = 0;    // by the first score; 0 where none is
    uint64_t host_bytes = 0, device_bytes = 0;
    std::optional<Perplexity> perplexity;
};
Summary summarise(const Run& run);

nlohmann::ordered_json to_json(const Summary& summary);

/// A table in Markdown, a line for each run.
std::string table(const std::vector<Summary>& all);

}    // namespace hearth::eval
