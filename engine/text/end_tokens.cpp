#include "engine/text/end_tokens.h"

#include <unordered_set>

namespace hearth {

namespace {

constexpr const char* end_keys[] = {"eos_token_id",  "eos_token_ids", "eot_token_id",
                                    "eot_token_ids", "eom_token_id",  "eom_token_ids"};

/// The marks of filling in the middle. Some writers gave one of them out as the end of a turn.
constexpr const char* fim_keys[] = {"prefix_token_id",  "suffix_token_id",  "middle_token_id",
                                    "fim_pre_token_id", "fim_suf_token_id", "fim_mid_token_id",
                                    "fim_pad_token_id", "fim_rep_token_id", "fim_sep_token_id"};

/// Lists of end tokens in checkpoints are often older than the frame that a model was tuned with, and older files have
/// no keys for them, so the names count whatever the keys say: a model that writes such a mark has ended.
struct EndName {
    std::string_view text;
    bool marks_only;                 // not as a token of the type normal, which may be text ("</s>" in HTML)
    std::string_view unless = {};    // no end where the vocabulary has this
};

constexpr EndName end_names[] = {
    {"<|eot_id|>", false},         // Llama 3
    {"<|eom_id|>", false},         // Llama 3.1, after a call of a tool
    {"<|end_of_text|>", false},    // Llama 3, Granite
    {"<|eot|>", true},             // Llama 4
    {"<|eom|>", true},
    {"<|im_end|>", false},               // ChatML
    {"<|end|>", false, "<|return|>"},    // Phi-3; with <|return|> (gpt-oss) it ends a message, and the answer may go on
    {"<|return|>", true},
    {"<|call|>", true},
    {"<|endoftext|>", false},            // GPT-2 and many after it
    {"<end_of_turn>", false},            // Gemma
    {"<|end_of_turn|>", false},          // OpenChat
    {"<|endofturn|>", true},             // HyperCLOVA X
    {"[|endofturn|]", true},             // EXAONE
    {"<|END_OF_TURN_TOKEN|>", false},    // Command R
    {"<end_of_utterance>", true},        // SmolVLM
    {"<｜end▁of▁sentence｜>", false},    // DeepSeek
    {"<|end▁of▁sentence|>", false},
    {"<|EOT|>", true},    // DeepSeek Coder
    {"<EOT>", true},      // Code Llama and Refact: of what was to be filled in
    {"▁<EOT>", true},
    {"[EOT]", true},    // Kimi
    {"[EOS]", true},
    {"<eos>", true},
    {"</s>", true},
};

}    // namespace

std::vector<Token> end_tokens(const Gguf& file, const Vocabulary& vocabulary, Token eos)
{
    std::vector<Token> ends;
    std::vector<bool> taken(vocabulary.pieces.size());    // or never to be
    const auto add = [&](Token id) {
        if (!taken[id]) ends.push_back(id);
        taken[id] = true;
    };
    add(eos);
    for (const char* key : fim_keys)
        for (const Token id : tokens_of_key(file, fmt::format("tokenizer.ggml.{}", key))) taken[id] = true;
    for (const char* key : end_keys)
        for (const Token id : tokens_of_key(file, fmt::format("tokenizer.ggml.{}", key))) add(id);

    std::unordered_map<std::string_view, const EndName*> names;
    for (const EndName& name : end_names) names.emplace(name.text, &name);
    std::vector<std::pair<Token, const EndName*>> named;    // from one walk through the vocabulary
    for (Token id = 0; id < vocabulary.pieces.size(); id++)
        if (const auto found = names.find(vocabulary[id].text); found != names.end())
            named.emplace_back(id, found->second);
    std::unordered_set<std::string_view> present;
    for (const auto& [id, name] : named) present.insert(name->text);
    for (const auto& [id, name] : named) {
        const Vocabulary::Kind kind = vocabulary[id].kind;
        const bool mark = kind == Vocabulary::Kind::control || kind == Vocabulary::Kind::user_defined;
        const bool sure = mark || (kind == Vocabulary::Kind::normal && !name->marks_only);
        if (sure && !present.contains(name->unless)) add(id);
    }
    return ends;
}

}    // namespace hearth
