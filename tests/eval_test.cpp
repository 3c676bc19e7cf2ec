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
