#include "tools/eval/summary.h"

#include "engine/error.h"

#include <algorithm>
#include <map>

namespace hearth::eval {

namespace {

/// A score over the problems: of each how many samples were judged, and how many of them are right.
Summary::Score score_of(const std::string& name, const std::vector<std::pair<uint64_t, uint64_t>>& problems)
{
    Summary::Score score = {.name = name, .share = {}, .pass_at = {}};
    uint64_t most = 0;
    std::vector<double> shares;
    for (const auto& [judged, right] : problems) {
        score.judged += judged;
        score.right += right;
        most = std::max(most, judged);
        shares.push_back(double(right) / double(judged));
    }
    // Samples of one problem are alike: only problems are independent of each other.
    score.share = most <= 1 ? wilson(score.right, score.judged) : mean_of(shares);
    for (uint32_t k = 1; most > 1 && k <= most; k *= 2) {
        std::vector<double> passes;
        for (const auto& [judged, right] : problems)
            if (judged >= k) passes.push_back(pass_at_k(judged, right, k));
        score.pass_at.emplace_back(k, mean_of(passes));
    }
    return score;
}

void add_scores(Summary& out, const Run& run)
{
    std::vector<std::string> names;
    std::map<std::string, std::map<std::string, std::pair<uint64_t, uint64_t>>> counts;    // by score and problem
    for (const Sample& s : run.samples)
        for (const Judgement& j : s.judgements) {
            if (std::ranges::find(names, j.name) == names.end()) names.push_back(j.name);
            if (!j.right) continue;
            auto& [judged, right] = counts[j.name][s.problem];
            judged += 1;
            right += *j.right;
        }
    for (const std::string& name : names) {
        std::vector<std::pair<uint64_t, uint64_t>> problems;
        for (const auto& [problem, count] : counts[name]) problems.push_back(count);
        out.scores.push_back(score_of(name, problems));
    }
}

void add_times(Summary& out, const Run& run)
{
    std::map<uint32_t, double> parts;
    std::vector<double> first, p50, p95;
    double between = 0, gaps = 0;
    for (const Sample& s : run.samples) {
        if (s.end == "given") continue;
        out.tokens += s.tokens;
        out.cut += s.cut_tokens > 0;
        double& part = parts[s.part];
        part = std::max(part, s.clock);
        out.host_bytes = std::max(out.host_bytes, s.host_bytes);
        out.device_bytes = std::max(out.device_bytes, s.device_bytes);
        if (s.tokens == 0) continue;
        first.push_back(s.first_ms);
        if (s.tokens == 1) continue;
        gaps += s.tokens - 1;
        between += s.mean_ms * (s.tokens - 1);
        p50.push_back(s.p50_ms);
        p95.push_back(s.p95_ms);
    }
    for (const auto& [part, seconds] : parts) out.seconds += seconds;
    if (out.seconds > 0) out.tokens_per_s = double(out.tokens) / out.seconds;
    if (gaps > 0) out.mean_ms = between / gaps;
    out.first_ms = quantile(first, 0.5);
    out.p50_ms = quantile(p50, 0.5);
    out.p95_ms = quantile(p95, 0.5);
    if (!out.scores.empty() && out.scores[0].right > 0)
        out.seconds_per_solved = out.seconds / double(out.scores[0].right);
}

nlohmann::ordered_json to_json(const Estimate& e) { return {{"value", e.value}, {"low", e.low}, {"high", e.high}}; }

std::string mebibytes(uint64_t bytes) { return bytes ? fmt::format("{:.0f}", double(bytes) / 0x1p20) : "-"; }

/// A number that is not there where nothing was measured.
std::string measured(double x, int digits) { return x > 0 ? fmt::format("{:.{}f}", x, digits) : "-"; }

std::string percent(const Estimate& e)
{
    return fmt::format("{:.1f} % ({:.1f} to {:.1f})", 100 * e.value, 100 * e.low, 100 * e.high);
}

}    // namespace

Summary summarise(const Run& run)
{
    Summary out = {.name = run.name, .task = run.settings.value("task", "")};
    std::set<std::string> problems;
    for (const Sample& s : run.samples) problems.insert(s.problem);
    out.problems = problems.size();
    out.samples = run.samples.size();
    out.perplexity = run.perplexity;
    add_scores(out, run);
    add_times(out, run);
    return out;
}

nlohmann::ordered_json to_json(const Summary& s)
{
    nlohmann::ordered_json json = {
        {"run", s.name}, {"task", s.task}, {"problems", s.problems}, {"samples", s.samples}, {"scores", nullptr}};
    json["scores"] = nlohmann::ordered_json::object();
    for (const Summary::Score& score : s.scores) {
        nlohmann::ordered_json& out = json["scores"][score.name];
        out = {{"judged", score.judged}, {"right", score.right}, {"share", to_json(score.share)}};
        for (const auto& [k, estimate] : score.pass_at) out[fmt::format("pass@{}", k)] = to_json(estimate);
    }
    json["tokens"] = s.tokens;
    json["prompts_cut"] = s.cut;
    json["seconds"] = s.seconds;
    json["tokens_per_s"] = s.tokens_per_s;
    json["first_token_ms"] = s.first_ms;
    json["token_ms"] = {{"mean", s.mean_ms}, {"p50", s.p50_ms}, {"p95", s.p95_ms}};
    json["seconds_per_solved"] = s.seconds_per_solved > 0 ? nlohmann::ordered_json(s.seconds_per_solved) : nullptr;
    json["host_bytes"] = s.host_bytes;
    json["device_bytes"] = s.device_bytes;
    if (s.perplexity) json["perplexity"] = {{"value", s.perplexity->value}, {"error", s.perplexity->error}};
    return json;
}

std::string table(const std::vector<Summary>& all)
{
    // A column is there if any run has something to say in it.
    struct Column {
        std::string head;
        std::vector<std::string> cells;
    };
    std::vector<Column> columns;
    const auto add = [&](const std::string& head, const auto& cell) {
        Column column = {head, {}};
        for (const Summary& s : all) column.cells.push_back(cell(s));
        if (std::ranges::any_of(column.cells, [](const std::string& c) { return c != "-"; }))
            columns.push_back(std::move(column));
    };
    add("run", [](const Summary& s) { return printable(s.name); });
    add("task", [](const Summary& s) { return printable(s.task); });
    add("problems", [](const Summary& s) { return fmt::format("{}", s.problems); });
    std::vector<std::string> scores;
    for (const Summary& s : all)
        for (const Summary::Score& score : s.scores)
            if (std::ranges::find(scores, score.name) == scores.end()) scores.push_back(score.name);
    for (const std::string& name : scores) {
        const auto of = [&name](const Summary& s) { return std::ranges::find(s.scores, name, &Summary::Score::name); };
        add(name, [&](const Summary& s) {
            return of(s) == s.scores.end() || of(s)->judged == 0 ? "-"
                                                                 : fmt::format("{}/{}", of(s)->right, of(s)->judged);
        });
        add(name + " (95 %)", [&](const Summary& s) {
            return of(s) == s.scores.end() || of(s)->judged == 0 ? "-" : percent(of(s)->share);
        });
        for (uint32_t k = 2; k <= 1024; k *= 2)
            add(fmt::format("pass@{}", k), [&](const Summary& s) -> std::string {
                if (of(s) == s.scores.end()) return "-";
                for (const auto& [at, estimate] : of(s)->pass_at)
                    if (at == k) return percent(estimate);
                return "-";
            });
    }
    add("perplexity", [](const Summary& s) {
        return s.perplexity ? fmt::format("{:.3f} ± {:.3f}", s.perplexity->value, s.perplexity->error) : "-";
    });
    add("tokens", [](const Summary& s) { return s.tokens ? fmt::format("{}", s.tokens) : "-"; });
    add("tokens/s", [](const Summary& s) { return measured(s.tokens_per_s, 1); });
    add("first token ms", [](const Summary& s) { return measured(s.first_ms, 1); });
    add("ms/token", [](const Summary& s) { return measured(s.mean_ms, 2); });
    add("p50", [](const Summary& s) { return measured(s.p50_ms, 2); });
    add("p95", [](const Summary& s) { return measured(s.p95_ms, 2); });
    add("s per solved", [](const Summary& s) { return measured(s.seconds_per_solved, 2); });
    add("host MiB", [](const Summary& s) { return mebibytes(s.host_bytes); });
    add("GPU MiB", [](const Summary& s) { return mebibytes(s.device_bytes); });

    std::string out = "|", rule = "|";
    for (const Column& c : columns) {
        out += fmt::format(" {} |", c.head);
        rule += &c == &columns[0] ? "---|" : "---:|";
    }
    out += "\n" + rule + "\n";
    for (size_t i = 0; i < all.size(); ++i) {
        out += "|";
        for (const Column& c : columns) out += fmt::format(" {} |", c.cells[i]);
        out += "\n";
    }
    return out;
}

}    // namespace hearth::eval
