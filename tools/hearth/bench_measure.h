// The measurements that `hearth bench` and its report are made of.
#pragma once

#include "tools/hearth/bench_report.h"
#include "tools/hearth/cli.h"

#include <functional>

namespace hearth::tools {

/// What a session is to do, from nothing.
struct Test {
    const char* name;
    uint32_t tokens;
    std::function<void(Session&)> work;
};

/// Tests of an engine, which must outlive this, as this must outlive them. Prompts are random tokens; an answer is the
/// model's own, so that its neurons fire as they do in use.
class BenchTexts {
  public:
    BenchTexts(const Engine& engine, uint32_t longest, float temperature);
    const std::vector<Token>& prompt() const { return prompt_; }
    Test prefill(uint32_t tokens) const;
    Test decode(uint32_t tokens) const;

  private:
    std::vector<Token> prompt_;
    Token begin_;
    float temperature_;
};

/// How fast it is, run by run, without timing of its stages. Throws Error where it is interrupted.
Series measure_speed(Engine& engine, const Test& test, uint32_t repetitions);

/// What the timestamp of a device's stage takes, of software as much as a small step: `longer_us` is by how much timed
/// batches took longer than others do. It is a part of every stage, and so less than the shortest.
double stamp_us(const StatsTotals& timed, double longer_us);

/// Its stages, in a timed run, whose totals are returned; between the tokens, how fast the host reads.
StatsTotals measure_stages(Engine& engine, const Test& test, Series& series, std::vector<StageRow>& stages);

struct TogetherTest {
    std::vector<uint32_t> sequences;
    uint32_t count, repetitions;
    float temperature;
};

/// Texts of `count` tokens each, of prompts and seeds of their own, as many together as each of `sequences` says; in
/// turn, so that all meet the machine in the same state.
std::vector<TogetherRow> measure_together(Engine& engine, const TogetherTest& test,
                                          const std::function<void(double)>& progress);

}    // namespace hearth::tools
