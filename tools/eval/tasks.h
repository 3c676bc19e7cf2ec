// What is asked and how it is judged: protocols as published, by the name of a task and the form that a model wants.
#pragma once

#include "tools/eval/extract.h"

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace hearth::eval {

/// A problem of a data file.
struct Problem {
    std::string id;
    std::string question;       // a text, or the beginning of a program
    std::string answer;         // the right one; a solution where there is a test
    std::string test;           // a program with a function `check`, or empty ...
    std::string entry_point;    // ... and what is given to that function
    std::string extract;        // of one's own problems: the expression that finds the result in an answer
    std::vector<std::string> stops;
    uint32_t tokens = 0;    // 0: as the protocol says
};

/// A worked example that stands before the question.
struct Shot {
    std::string question, answer;
};

/// What stands around something.
struct Frame {
    std::string before, after;
    std::string around(const std::string& inner) const { return before + inner + after; }
};

enum class ShotSource {
    none,
    file,     // the first of a file of problems
    eight,    // J. Wei et al., arXiv 2201.11903, table 20
};

enum class Judge {
    compare,    // the result with the right one
    run,        // a program: question, answer, test
    own,        // whichever a problem of one's own has
};

/// A row of the table of protocols.
struct Protocol {
    std::string task;
    bool chat = false;    // questions and answers are turns of the model's chat template, not one text
    Frame question;
    Frame opening = {};          // around the question: what the answer is begun with
    std::string between = {};    // a question and its answer, where they are one text
    ShotSource source = ShotSource::none;
    uint32_t shots = 0;
    Frame result = {};    // of the eight shots: around the number that an answer ends with
    Judge judge = Judge::compare;
    std::vector<Extraction> extractions = {};
    std::vector<std::string> stops = {};
    uint32_t tokens = 256;     // of an answer, at the most
    std::string fence = {};    // of a program: what stands behind this is no part of it
};

/// The protocols, and the one of a task. A task that is no known name is a file of one's own problems. Throws Error
/// where a task has no such form.
const std::vector<Protocol>& protocols();
const Protocol& find_protocol(const std::string& task, bool chat);
bool is_known(const std::string& task);

/// Problems of a data file, and the checksum of its bytes; gzip is read, too. Throws Error that names the line.
struct Data {
    std::vector<Problem> problems;
    std::string checksum;
};
Data read_data(const std::filesystem::path& path, const Protocol& protocol);

/// The shots of a protocol, `count` of them. `file`: of ShotSource::file.
std::vector<Shot> read_shots(const Protocol& protocol, uint32_t count, const std::filesystem::path& file);

/// What a model is asked.
struct Prompt {
    std::vector<Shot> turns;    // of a chat, before the question
    std::string question;       // of a chat; else all of the text
    std::string opening;        // the answer's beginning
};
Prompt make_prompt(const Protocol& protocol, const Problem& problem, const std::vector<Shot>& shots);

/// Names of what is judged of an answer: "strict-match", "flexible-extract", "passed", "right".
std::vector<std::string> judgements(const Protocol& protocol);

}    // namespace hearth::eval
