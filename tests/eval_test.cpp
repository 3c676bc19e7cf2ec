#include "engine/system/line_file.h"
#include "tests/support.h"
#include "tools/eval/judge.h"
#include "tools/eval/pattern.h"
#include "tools/eval/score.h"

#include <bit>

using namespace hearth;
using namespace hearth::eval;

namespace {

using Matches = std::vector<std::vector<std::string>>;

/// The share of the sets of k of n samples that have one of the first c.
double pass_by_counting(unsigned n, unsigned c, unsigned k)
{
    double with = 0, all = 0;
    for (unsigned set = 0; set < 1u << n; ++set) {
        if (unsigned(std::popcount(set)) != k) continue;
        all += 1;
        with += (set & ((1u << c) - 1)) != 0;
    }
    return with / all;
}

}    // namespace

TEST_SUITE("eval")
{
    // R. G. Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
    TEST_CASE("Wilson's interval is the published one")
    {
        constexpr struct {
            uint64_t right, n;
            double low, high;
        } published[] = {
            {81, 263, 0.2553, 0.3662}, {15, 148, 0.0624, 0.1605}, {0, 20, 0, 0.1611}, {1, 29, 0.0061, 0.1718}};
        for (const auto& p : published) {
            const Estimate e = wilson(p.right, p.n);
            CHECK(e.value == double(p.right) / double(p.n));
            CHECK(e.low == doctest::Approx(p.low).epsilon(0.001));
            CHECK(e.high == doctest::Approx(p.high).epsilon(0.001));
        }
        CHECK(wilson(20, 20).high == 1);
        CHECK(wilson(20, 20).low == doctest::Approx(1 - 0.1611).epsilon(0.001));
    }

    TEST_CASE("pass@k is the share of all sets of k samples with a right one")
    {
        for (unsigned n = 1; n <= 8; ++n)
            for (unsigned c = 0; c <= n; ++c)
                for (unsigned k = 1; k <= n; ++k)
                    CHECK(pass_at_k(n, c, k) == doctest::Approx(pass_by_counting(n, c, k)));
    }

    TEST_CASE("an expression finds what Python's re.findall finds, also where a match is empty")
    {
        CHECK(Pattern("a*").find_all("baac") == Matches{{""}, {"aa"}, {""}, {""}});
        CHECK(Pattern("(a)|(b)").find_all("ab") == Matches{{"a", ""}, {"", "b"}});
        CHECK(Pattern("x.").find_all("x\u00e9x\nxy") == Matches{{"x\u00e9"}, {"xy"}});
        CHECK(Pattern(R"(\.$)").without("5..\n") == "5.\n");
        CHECK(Pattern("(?s).*#### ").without("a\n#### b #### 7") == "7");
    }

    TEST_CASE("an answer ends before the stop that comes first in it")
    {
        CHECK(stopped_at("a\ndef b\nclass", {"\nclass", "\ndef"}) == 1);
        CHECK(!stopped_at("a", {"\nclass"}));
    }

    // As lm-evaluation-harness makes them of its tasks' files.
    TEST_CASE("prompts are the published ones, to the character")
    {
        const Problem problem = {.id = "0", .question = "How many?", .answer = "#### 4"};
        const std::vector<Shot> shots = {{"One?", "1\n#### 1"}, {"Two?", "#### 2"}};
        CHECK(make_prompt(find_protocol("gsm8k", false), problem, shots).question ==
              "Question: One?\nAnswer: 1\n#### 1\n\nQuestion: Two?\nAnswer: #### 2\n\nQuestion: How many?\nAnswer:");
        const Prompt turns = make_prompt(find_protocol("gsm8k", true), problem, shots);
        CHECK(turns.turns.at(1).question == "Question: Two?\nAnswer:");
        CHECK(turns.turns.at(1).answer == "#### 2");
        CHECK(turns.question == "Question: How many?\nAnswer:");

        const Protocol& cot = find_protocol("gsm8k-cot", false);
        const std::string text = make_prompt(cot, problem, read_shots(cot, cot.shots, "")).question;
        CHECK(
            text.starts_with("Q: There are 15 trees in the grove. Grove workers will plant trees in the grove today. "
                             "After they are done, there will be 21 trees. How many trees did the grove workers plant "
                             "today?\nA: There are 15 trees originally. Then there were 21 trees after some more were "
                             "planted. So there must have been 21 - 15 = 6. The answer is 6.\n\nQ: If there are 3 "));
        CHECK(text.ends_with("23 - 15 is 8. The answer is 8.\n\nQ: How many?\nA:"));
        CHECK(std::ranges::count(text, '\n') == 8 * 3 + 1);

        const Protocol& llama = find_protocol("gsm8k-cot", true);
        const Prompt asked = make_prompt(llama, problem, read_shots(llama, llama.shots, ""));
        CHECK(asked.turns.size() == 8);
        CHECK(asked.turns[7].answer.ends_with("So she has 23 - 15 dollars left. 23 - 15 is 8. The final answer is 8"));
        CHECK(asked.question ==
              "Given the following problem, reason and give a final answer to the problem.\nProblem: How many?\nYour "
              "response should end with \"The final answer is [answer]\" where [answer] is the response to the "
              "problem.\n");
    }

    TEST_CASE("a program is the beginning that was asked, the answer and the test")
    {
        const Problem f = {.id = "0",
                           .question = "def f():\n",
                           .answer = "    return 1\n",
                           .test = "def check(g):\n    assert g() == 1\n",
                           .entry_point = "f"};
        const Protocol &plain = find_protocol("humaneval", false),
                       &instruct = find_protocol("humaneval-instruct", false);
        CHECK(make_prompt(plain, f, {}).question == "def f():\n");
        CHECK(make_prompt(plain, f, {}).opening == "");
        CHECK(program(plain, f, "    return 1") ==
              "def f():\n    return 1\ndef check(g):\n    assert g() == 1\n\ncheck(f)");
        CHECK(instruct.chat);
        CHECK(make_prompt(instruct, f, {}).question ==
              "Write a solution to the following problem and make sure that it passes the tests:\n```python\ndef "
              "f():\n\n```\n");
        CHECK(make_prompt(instruct, f, {}).opening == "Here is the completed function:\n```python\ndef f():\n\n");
        CHECK(program(instruct, f, "    return 1\n```\nThis function") ==
              "def f():\n    return 1\n\ndef check(g):\n    assert g() == 1\n\ncheck(f)");
    }

    TEST_CASE("a file of lines has whole lines, whoever was killed while writing")
    {
        const tests::TemporaryFolder folder;
        const auto path = folder / "lines";
        {
            LineFile file(path, LineFile::Mode::fresh);
            file.add("one");
            file.add("two");
            CHECK_THROWS_WITH_AS(LineFile(path, LineFile::Mode::go_on), doctest::Contains("another process"), Error);
        }
        CHECK_THROWS_WITH_AS(LineFile(path, LineFile::Mode::fresh), doctest::Contains("--resume"), Error);
        std::ofstream(path, std::ios::app) << "thr";
        {
            LineFile file(path, LineFile::Mode::go_on);
            CHECK(file.before() == "one\ntwo\n");
            file.add("three");
        }
        CHECK(LineFile(path, LineFile::Mode::go_on).before() == "one\ntwo\nthree\n");
        CHECK_THROWS_WITH_AS(LineFile(folder / "", LineFile::Mode::go_on), doctest::Contains("cannot be"), Error);
        CHECK_THROWS_WITH_AS(LineFile("/dev/null", LineFile::Mode::go_on), doctest::Contains("no ordinary file"),
                             Error);
    }
}
