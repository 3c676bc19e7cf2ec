// Whether an answer is right.
#pragma once

#include "tools/eval/tasks.h"

namespace hearth {
class Sandbox;
}

namespace hearth::eval {

/// One way to judge an answer, and what came of it.
struct Judgement {
    std::string name;
    std::optional<bool> right;    // nothing: it is a program that was not run
    std::string found;            // the result that was compared; of a program that failed: how
};

/// What an answer is judged by. `sandbox`: for programs; without one they are not run.
std::vector<Judgement> judge(const Protocol& protocol, const Problem& problem, const std::string& answer,
                             const Sandbox* sandbox);

/// An answer up to the first of `stops`; nothing where it has none of them.
std::optional<size_t> stopped_at(std::string_view answer, const std::vector<std::string>& stops);

/// The program that an answer makes of a problem, with its test.
std::string program(const Protocol& protocol, const Problem& problem, const std::string& answer);

/// Right answers, or anybody's, from a file: JSON lines with "completion", "answer" or "canonical_solution", of the
/// problem that "problem", "task_id" or "id" names, else of the one in the same place. So the data of a task and the
/// records of a run serve, too. In the order of `problems`, any number for each.
std::vector<std::vector<std::string>> read_answers(const std::filesystem::path& path,
                                                   const std::vector<Problem>& problems);

}    // namespace hearth::eval
