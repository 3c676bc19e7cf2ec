#include "tools/eval/judge.h"

#include "engine/error.h"
#include "engine/system/sandbox.h"
#include "tools/eval/lines.h"

#include <algorithm>
#include <map>

namespace hearth::eval {

std::optional<size_t> stopped_at(std::string_view answer, const std::vector<std::string>& stops)
{
    size_t first = answer.npos;
    for (const std::string& stop : stops) first = std::min(first, answer.find(stop));
    return first == answer.npos ? std::nullopt : std::optional(first);
}

std::string program(const Protocol& protocol, const Problem& problem, const std::string& answer)
{
    const size_t end = protocol.fence.empty() ? answer.npos : answer.find(protocol.fence);
    return problem.question + answer.substr(0, end) + "\n" + problem.test + "\ncheck(" + problem.entry_point + ")";
}

namespace {

Judgement compare(const Extraction& how, const Problem& problem, const std::string& answer)
{
    const std::string found = extract(how, answer);
    return {how.name, comparable(found) == comparable(problem.answer), found};
}

}    // namespace

std::vector<Judgement> judge(const Protocol& protocol, const Problem& problem, const std::string& answer,
                             const Sandbox* sandbox)
{
    std::vector<Judgement> all;
    for (const Extraction& how : protocol.extractions) all.push_back(compare(how, problem, answer));
    if (!all.empty()) return all;
    const std::string name = judgements(protocol)[0];
    if (problem.test.empty())
        all.push_back(compare({name, problem.extract.empty() ? "(?s).+" : problem.extract, true}, problem, answer));
    else if (!sandbox) all.push_back({name, {}, ""});
    else {
        const Sandbox::Result result = sandbox->run(program(protocol, problem, answer));
        all.push_back({name, result.passed, result.how});
    }
    return all;
}

std::vector<std::vector<std::string>> read_answers(const std::filesystem::path& path,
                                                   const std::vector<Problem>& problems)
{
    std::map<std::string, size_t> places;
    for (size_t i = 0; i < problems.size(); ++i) places.emplace(problems[i].id, i);
    std::vector<std::vector<std::string>> answers(problems.size());
    size_t at = 0;
    for (const Line& line : read_lines(unpacked(path), path)) {
        if (line.has("run") || line.has("perplexity")) continue;    // of records
        std::optional<std::string> id;
        for (const char* key : {"problem", "task_id", "id"})
            if (!id && line.has(key)) id = line.text(key);
        const auto place = places.find(id.value_or(""));
        const size_t i = !id ? at : place != places.end() ? place->second : problems.size();
        ++at;
        if (id && i == problems.size()) continue;    // of a problem that is not asked, by --limit
        if (i >= problems.size()) continue;
        std::optional<std::string> answer;
        for (const char* key : {"completion", "answer", "canonical_solution"})
            if (!answer && line.has(key)) answer = line.text(key);
        if (!answer) throw Error("{} has no \"answer\" (or \"completion\")", line.where());
        answers[i].push_back(std::move(*answer));
    }
    return answers;
}

}    // namespace hearth::eval
