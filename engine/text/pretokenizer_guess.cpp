#include "engine/text/pretokenizer_guess.h"

#include "engine/text/byte_alphabet.h"
#include "engine/text/utf8.h"

#include <algorithm>
#include <unordered_set>

namespace hearth {

namespace {

/// Tokens of published vocabularies that stand nowhere else: added ones, whose ids count what was trained before them.
struct Landmark {
    std::string_view text;
    Token id;
    std::string_view kind;
    size_t tokens = 0;    // of the whole vocabulary; 0: any number
};

constexpr Landmark landmarks[] = {
    {"<|begin_of_text|>", 128000, "llama-bpe"},
    {"<｜begin▁of▁sentence｜>", 151646, "deepseek-r1-qwen"},
    {"<|endoftext|>", 151643, "qwen2"},
    {"<|endoftext|>", 248044, "qwen35"},
    {"<｜begin▁of▁sentence｜>", 100000, "deepseek-llm"},
    {"<｜begin▁of▁sentence｜>", 32013, "deepseek-coder"},
    {"<｜begin▁of▁sentence｜>", 0, "deepseek-v3"},
    {"<|endoftext|>", 199999, "gpt-4o"},
    {"<|begin_of_text|>", 200000, "llama4"},
    {"<|endoftext|>", 151329, "glm4"},
    {"<|endoftext|>", 11, "falcon", 65024},
    {"<|endoftext|>", 11, "falcon3", 131072},
    {"<BOS_TOKEN>", 5, "command-r"},
    {"[INST]", 3, "tekken", 131072},
    {"<|im_start|>", 1, "smollm", 49152},
    {"<fim_prefix>", 1, "starcoder"},
    {"<|endoftext|>", 50256, "gpt-2"},
};

/// Texts of which a vocabulary with that many merges has at least one, unless its rules cut them all.
struct Common {
    size_t merges;
    std::initializer_list<std::string_view> texts;
};

const Common common[] = {
    {200, {"10", "11", "12", "15", "19", "20", "25", "50", "00", "99"}},
    {200, {"100", "200", "201", "199", "300", "500", "000", "123", "234"}},
    {200, {"1000", "2000", "2010", "2015", "2020", "2025", "1999", "1990", "0000", "1234"}},
    {1000, {" 1", " 2", " 3", " 10", " 20", " 19"}},
    {1000, {" (", " \"", " -", " =", " {", " '"}},
    {1000, {".\n", ",\n", ".\n\n", ";\n", "{\n", ")\n"}},
    {2000, {" don't", "don't", " it's", "It's", "n't", " I'm"}},
    {5000, {"(self", "_id", ".get", "_name", ".com", "(x", "\treturn", "-based"}},
    {20000,
     {" JavaScript", "JavaScript", " YouTube", "YouTube", " GitHub", " LinkedIn", " iPhone", " McDonald", "toString"}},
    {50000, {"का", "की", "के", "ने", " का", " की", " के", "ที่", " ที่"}},
};

constexpr size_t most_samples = 16384;     // tokens that are looked at
constexpr size_t enough_merges = 10000;    // for certainty
constexpr size_t tolerated = 1000;         // of so many tokens one may have been put in by hand
constexpr size_t hopeless = 50;            // of so many one too many

}    // namespace

PretokenizerGuess guess_pretokenizer(const Vocabulary& vocabulary)
{
    for (const Landmark& mark : landmarks)
        if (mark.id < vocabulary.pieces.size() && vocabulary[mark.id].text == mark.text &&
            (!mark.tokens || mark.tokens == vocabulary.pieces.size()))
            return {find_pretokenizer(mark.kind), true};

    // What merges made, as the text that it stands for.
    std::unordered_set<std::string> merged;
    std::vector<std::string_view> samples;
    for (const Vocabulary::Piece& piece : vocabulary.pieces) {
        std::string bytes;
        if (piece.kind != Vocabulary::Kind::normal || !append_bytes(piece.text, bytes) || bytes.empty()) continue;
        if (bytes.size() == character_bytes(bytes)) continue;
        const auto added = merged.insert(std::move(bytes));
        const std::vector<Utf8Run> runs = utf8_runs(*added.first);
        // Parts of contractions are cut otherwise when they stand alone.
        if (added.second && runs.size() == 1 && runs[0].valid && !runs[0].text.starts_with('\''))
            samples.push_back(*added.first);
    }
    const size_t stride = samples.size() / most_samples + 1;

    struct Candidate {
        const PretokenizerKind* kind;
        size_t cut;      // samples that its rules cut apart
        int unlikely;    // kinds of common texts that speak against it
    };
    std::vector<Candidate> candidates;    // in the table's order
    const size_t looked_at = samples.size() / stride;
    for (const PretokenizerKind& kind : pretokenizer_kinds()) {
        if (std::ranges::any_of(candidates, [&](const Candidate& c) { return c.kind->cuts_like(kind); })) continue;
        const Pretokenizer pretokenizer(kind);
        const auto whole = [&](std::string_view text) { return pretokenizer.parts(text).size() == 1; };
        Candidate candidate{&kind, 0, 0};
        for (size_t i = 0; i < samples.size() && candidate.cut <= looked_at / hopeless; i += stride)
            candidate.cut += !whole(samples[i]);
        for (const Common& texts : common) {
            if (merged.size() < texts.merges) continue;
            const auto has = [&](std::string_view text) { return merged.contains(std::string(text)); };
            const bool present = std::ranges::any_of(texts.texts, has);
            const bool expected = std::ranges::any_of(texts.texts, whole);
            candidate.unlikely += present != expected;
        }
        candidates.push_back(candidate);
    }
    const auto better = [&](const Candidate& a, const Candidate& b) {
        const auto possible = [&](const Candidate& c) { return c.cut <= looked_at / tolerated; };
        if (possible(a) != possible(b)) return possible(a);
        if (!possible(a) && a.cut != b.cut) return a.cut < b.cut;
        return a.unlikely < b.unlikely;
    };
    const auto best = std::ranges::min_element(candidates, better);
    // Published vocabularies have up to 2 % of tokens against their own rules (Qwen 2's, which was made of two).
    const auto rivals = [&](const Candidate& c) {
        return &c != &*best && c.cut <= looked_at / hopeless && c.unlikely <= best->unlikely + 1;
    };
    const bool alone = std::ranges::none_of(candidates, rivals) && best->cut <= looked_at / tolerated;
    return {best->kind, alone && merged.size() >= enough_merges};
}

}    // namespace hearth
