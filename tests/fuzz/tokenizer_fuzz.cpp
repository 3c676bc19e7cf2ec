// A vocabulary and a text, both of the fuzzer's bytes: kind, cuts and flags, a line for each token, a zero byte, the
// text.
#include "engine/text/pretokenizer.h"
#include "engine/text/tokenizer.h"
#include "engine/text/utf8.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/vocabulary.h"
#include "tests/gguf_writer.h"

#include <algorithm>

namespace hearth::fuzz {

const uint64_t base_memory = 4 << 20;    // 256 tokens for single bytes, and the regular expressions

namespace {

constexpr std::string_view kinds[] = {"llama", "gpt2", "t5"};
constexpr std::string_view cuts[] = {"gpt-2", "llama-bpe", "qwen2", "smollm", "falcon", "deepseek-coder"};

/// What the first character of a token's line makes it.
constexpr std::pair<char, int32_t> marks[] = {{'?', 2}, {'!', 3}, {'#', 4}, {'%', 5}};

enum Flag : uint8_t { with_bytes = 1, special = 2, add_bos = 4, no_space_prefix = 8, no_scores = 16 };

struct Choice {
    std::string_view kind, cut;
    uint8_t flags;
};

struct Words {
    std::vector<std::string> texts, merges;
    std::vector<float> scores;
    std::vector<int32_t> kinds;
    bool plain = true;    // all of them are normal ones

    void add(std::string text, int32_t kind)
    {
        texts.push_back(std::move(text));
        kinds.push_back(kind);
        scores.push_back(-float(texts.size() % 50));
    }
};

Words words_of(const Choice& choice, std::string_view lines)
{
    Words w;
    const bool byte_level = choice.kind == "gpt2";
    w.add("<unk>", 2);
    w.add("<s>", 3);
    w.add("</s>", 3);
    if (choice.flags & with_bytes)
        for (int b = 0; b < 256; b++)
            w.add(byte_level ? byte_letter(uint8_t(b)) : fmt::format("<0x{:02X}>", b), byte_level ? 1 : 6);
    while (!lines.empty()) {
        std::string_view line = lines.substr(0, lines.find('\n'));
        lines.remove_prefix(std::min(lines.size(), line.size() + 1));
        const auto* mark = std::ranges::find(marks, line.empty() ? '\0' : line[0], &std::pair<char, int32_t>::first);
        if (mark != std::end(marks)) {
            w.add(std::string(line.substr(1)), mark->second);
            w.plain = false;
        } else if (!byte_level) {
            w.add(std::string(line), 1);
        } else {
            std::string text;
            for (const char c : line) text += byte_letter(uint8_t(c));
            if (line.size() > 1) {
                const std::string last = byte_letter(uint8_t(line.back()));
                w.merges.push_back(text.substr(0, text.size() - last.size()) + " " + last);
            }
            w.add(std::move(text), 1);
        }
    }
    return w;
}

GgufWriter file_of(const Choice& choice, const Words& w)
{
    GgufWriter file;
    file.key("tokenizer.ggml.model", std::string(choice.kind));
    file.key("tokenizer.ggml.tokens", w.texts);
    file.key("tokenizer.ggml.token_type", w.kinds);
    if (!(choice.flags & no_scores)) file.key("tokenizer.ggml.scores", w.scores);
    if (choice.kind == "gpt2") {
        file.key("tokenizer.ggml.pre", std::string(choice.cut));
        file.key("tokenizer.ggml.merges", w.merges);
    }
    file.key("tokenizer.ggml.unknown_token_id", uint32_t(0));
    file.key("tokenizer.ggml.bos_token_id", uint32_t(1));
    file.key("tokenizer.ggml.eos_token_id", uint32_t(2));
    file.key("tokenizer.ggml.add_bos_token", bool(choice.flags & add_bos));
    if (choice.flags & no_space_prefix) file.key("tokenizer.ggml.add_space_prefix", false);
    return file;
}

}    // namespace

void read(std::string_view bytes)
{
    if (bytes.size() < 3) return;
    const Choice choice = {kinds[uint8_t(bytes[0]) % std::size(kinds)], cuts[uint8_t(bytes[1]) % std::size(cuts)],
                           uint8_t(bytes[2])};
    bytes.remove_prefix(3);
    const std::string_view lines = bytes.substr(0, bytes.find('\0')),
                           text = bytes.substr(std::min(bytes.size(), lines.size() + 1));
    const Words words = words_of(choice, lines);
    const std::string file_bytes = file_of(choice, words).bytes();
    const Gguf file("model.gguf", file_bytes);
    const Tokenizer tokenizer(file);
    const std::vector<Token> ids = tokenizer.encode(text, choice.flags & special);
    Decoder decoder(tokenizer);
    std::string together;
    for (const Token id : ids) {
        FUZZ_CHECK(id < tokenizer.size());
        together += decoder.push(id);
    }
    together += decoder.finish();
    FUZZ_CHECK(together == tokenizer.decode(ids));
    const std::vector<Utf8Run> runs = utf8_runs(text);
    const bool valid = std::ranges::all_of(runs, &Utf8Run::valid);
    if (choice.kind == "gpt2" && choice.flags & with_bytes && words.plain && valid && choice.cut != "qwen2" &&
        !(choice.flags & special))
        FUZZ_CHECK(together == text);
}

}    // namespace hearth::fuzz
