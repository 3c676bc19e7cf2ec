#include "tools/eval/tasks.h"

#include "engine/error.h"
#include "engine/system/checksum.h"
#include "tools/eval/lines.h"

#include <algorithm>
#include <set>

namespace hearth::eval {

// ---- the protocols --------------------------------------------------------------------------------------------------

namespace {

// lm-evaluation-harness 4e7e0d4: gsm8k version 3, gsm8k_cot version 3, gsm8k_cot_llama version 4, humaneval version 1,
// humaneval_instruct version 4.
const Extraction strict = {"strict-match", R"(#### (\-?[0-9\.\,]+))"};
const Extraction strict_cot = {"strict-match", R"(The answer is (\-?[0-9\.\,]+).)"};
const Extraction strict_llama = {"strict-match", R"(The final answer is ((-?[$0-9.,]{2,})|(-?[0-9]+)))", true};
const Extraction flexible = {"flexible-extract", R"((-?[$0-9.,]{2,})|(-?[0-9]+))", true};

const std::vector<std::string> question_stops = {"Question:", "</s>", "<|im_end|>"};
const std::vector<std::string> q_stops = {"Q:", "</s>", "<|im_end|>"};
const std::vector<std::string> llama_stops = {"<|eot_id|>", "<|start_header_id|>user<|end_header_id|>", "Q:", "</s>",
                                              "<|im_end|>"};
const std::vector<std::string> program_stops = {"\nclass", "\ndef", "\n#", "\nif", "\nprint"};
const Frame llama_question = {"Given the following problem, reason and give a final answer to the problem.\nProblem: ",
                              "\nYour response should end with \"The final answer is [answer]\" where [answer] is the "
                              "response to the problem.\n"};
const Frame instruct_question = {"Write a solution to the following problem and make sure that it passes the "
                                 "tests:\n```python\n",
                                 "\n```\n"};
const Frame instruct_opening = {"Here is the completed function:\n```python\n", "\n"};

constexpr const char* own_task = "FILE";

}    // namespace

const std::vector<Protocol>& protocols()
{
    static const std::vector<Protocol> all = {
        {.task = "gsm8k",
         .question = {"Question: ", "\nAnswer:"},
         .between = " ",
         .source = ShotSource::file,
         .shots = 5,
         .extractions = {strict, flexible},
         .stops = question_stops},
        {.task = "gsm8k",
         .chat = true,
         .question = {"Question: ", "\nAnswer:"},
         .source = ShotSource::file,
         .shots = 5,
         .extractions = {strict, flexible},
         .stops = question_stops},
        {.task = "gsm8k-cot",
         .question = {"Q: ", "\nA:"},
         .between = " ",
         .source = ShotSource::eight,
         .shots = 8,
         .result = {"The answer is ", "."},
         .extractions = {strict_cot, flexible},
         .stops = q_stops},
        {.task = "gsm8k-cot",
         .chat = true,
         .question = llama_question,
         .source = ShotSource::eight,
         .shots = 8,
         .result = {"The final answer is ", ""},
         .extractions = {strict_llama, flexible},
         .stops = llama_stops},
        {.task = "humaneval", .question = {"", ""}, .judge = Judge::run, .stops = program_stops, .tokens = 1024},
        {.task = "humaneval-instruct",
         .chat = true,
         .question = instruct_question,
         .opening = instruct_opening,
         .judge = Judge::run,
         .stops = program_stops,
         .tokens = 1024,
         .fence = "```"},
        {.task = own_task, .question = {"", ""}, .judge = Judge::own},
        {.task = own_task, .chat = true, .question = {"", ""}, .judge = Judge::own},
    };
    return all;
}

const Protocol& find_protocol(const std::string& task, bool chat)
{
    const Protocol* other = nullptr;
    for (const Protocol& p : protocols()) {
        if (p.task != task) continue;
        if (p.chat == chat || p.task == "humaneval-instruct") return p;
        other = &p;
    }
    if (other) throw Error("{} has no form for chats: use humaneval-instruct", task);
    return find_protocol(own_task, chat);
}

bool is_known(const std::string& task)
{
    return task != own_task && std::ranges::any_of(protocols(), [&](const Protocol& p) { return p.task == task; });
}

std::vector<std::string> judgements(const Protocol& protocol)
{
    std::vector<std::string> names;
    for (const Extraction& e : protocol.extractions) names.push_back(e.name);
    if (names.empty()) names.emplace_back(protocol.judge == Judge::run ? "passed" : "right");
    return names;
}

Prompt make_prompt(const Protocol& protocol, const Problem& problem, const std::vector<Shot>& shots)
{
    Prompt prompt;
    if (!protocol.opening.before.empty()) prompt.opening = protocol.opening.around(problem.question);
    for (const Shot& shot : shots)
        if (protocol.chat) prompt.turns.push_back({protocol.question.around(shot.question), shot.answer});
        else prompt.question += protocol.question.around(shot.question) + protocol.between + shot.answer + "\n\n";
    prompt.question += protocol.question.around(problem.question);
    return prompt;
}

// ---- data -----------------------------------------------------------------------------------------------------------

namespace {

Problem gsm8k_problem(const Line& line, size_t index)
{
    return {.id = fmt::format("{}", index), .question = line.text("question"), .answer = line.text("answer")};
}

Problem humaneval_problem(const Line& line, size_t)
{
    return {.id = line.text("task_id"),
            .question = line.text("prompt"),
            .answer = line.text("canonical_solution", ""),
            .test = line.text("test"),
            .entry_point = line.text("entry_point")};
}

Problem own_problem(const Line& line, size_t index)
{
    Problem p = {.id = line.has("id") ? line.text("id") : fmt::format("{}", index),
                 .question = line.text("prompt"),
                 .answer = line.text("answer", ""),
                 .test = line.text("test", ""),
                 .entry_point = line.text("entry_point", ""),
                 .extract = line.text("extract", ""),
                 .stops = line.texts("stop"),
                 .tokens = line.number("tokens", 0)};
    if (p.test.empty() && !line.has("answer"))
        throw Error("{} has neither an \"answer\" to compare with nor a \"test\" to run", line.where());
    if (!p.test.empty() && p.entry_point.empty())
        throw Error("{} has a \"test\", and no \"entry_point\" to give to its function check", line.where());
    return p;
}

}    // namespace

Data read_data(const std::filesystem::path& path, const Protocol& protocol)
{
    Problem (*const read)(const Line&, size_t) = protocol.judge == Judge::compare ? gsm8k_problem
                                                 : protocol.judge == Judge::run   ? humaneval_problem
                                                                                  : own_problem;
    const std::string text = unpacked(path);
    Data data = {.problems = {}, .checksum = checksum(text)};
    std::set<std::string> ids;
    for (const Line& line : read_lines(text, path)) {
        data.problems.push_back(read(line, data.problems.size()));
        const std::string& id = data.problems.back().id;
        if (!ids.insert(id).second) throw Error("{} has the id '{}' again", line.where(), id);
    }
    if (data.problems.empty()) throw Error("{} has no problems", path.string());
    return data;
}

}    // namespace hearth::eval
