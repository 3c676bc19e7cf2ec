#include "engine/model/chat_template.h"

#include <algorithm>

namespace hearth {

namespace {

using System = ChatTemplate::System;

constexpr std::string_view bos_word = "{bos}", eos_word = "{eos}";

// The strings are those that the families' own templates write, held to them by tests/chat_test.py.
constexpr ChatTemplate templates[] = {
    {.name = "phi-4",
     .words = {"<|im_start|>", "<|im_sep|>"},
     .marks = {"<|im_start|>", "<|im_sep|>", "<|im_end|>"},
     .system = {"<|im_start|>system<|im_sep|>", "<|im_end|>"},
     .user = {"<|im_start|>user<|im_sep|>", "<|im_end|>"},
     .assistant = {"<|im_start|>assistant<|im_sep|>", "<|im_end|>"},
     .stops = {"<|im_end|>", "<|endoftext|>"}},
    {.name = "chatml",
     .words = {"<|im_start|>", "<|im_end|>"},
     .marks = {"<|im_start|>", "<|im_end|>"},
     .system = {"<|im_start|>system\n", "<|im_end|>\n"},
     .user = {"<|im_start|>user\n", "<|im_end|>\n"},
     .assistant = {"<|im_start|>assistant\n", "<|im_end|>\n"},
     .stops = {"<|im_end|>", "<|endoftext|>"}},
    {.name = "llama-3.1",    // 3.2 and 3.3, too; a date is part of what they were trained on, and this is the one that their templates fall back to
     .words = {"<|start_header_id|>", "<|eot_id|>", "Cutting Knowledge Date: December 2023"},
     .marks = {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"},
     .begin = "{bos}",
     .system_place = System::always,
     .system = {"<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n", "<|eot_id|>"},
     .user = {"<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>"},
     .assistant = {"<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"},
     .stops = {"<|eot_id|>", "<|end_of_text|>", "<|eom_id|>"},
     .trims = true},
    {.name = "llama-3",
     .words = {"<|start_header_id|>", "<|eot_id|>"},
     .marks = {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"},
     .begin = "{bos}",
     .system = {"<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>"},
     .user = {"<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>"},
     .assistant = {"<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"},
     .stops = {"<|eot_id|>", "<|end_of_text|>"},
     .trims = true},
    {.name = "gemma",
     .words = {"<start_of_turn>", "<end_of_turn>"},
     .marks = {"<start_of_turn>", "<end_of_turn>"},
     .begin = "{bos}",
     .system_place = System::in_user_turn,
     .system = {"", "\n\n"},
     .user = {"<start_of_turn>user\n", "<end_of_turn>\n"},
     .assistant = {"<start_of_turn>model\n", "<end_of_turn>\n"},
     .stops = {"<end_of_turn>"},
     .trims = true},
    {.name = "phi-3",
     .words = {"<|user|>", "<|end|>", "<|assistant|>"},
     .marks = {"<|system|>", "<|user|>", "<|assistant|>", "<|end|>"},
     .system = {"<|system|>\n", "<|end|>\n"},
     .user = {"<|user|>\n", "<|end|>\n"},
     .assistant = {"<|assistant|>\n", "<|end|>\n"},
     .stops = {"<|end|>", "<|endoftext|>"},
     .marks_eat_space = true},
    {.name = "zephyr",    // TinyLlama, too
     .words = {"<|user|>", "<|assistant|>", "eos_token"},
     .without = {"[gMASK]", "[INST]", "+ '\\n'", "+ \"\\n\""},    // of other families; with the last two, only answers end with EOS
     .marks = {"<|system|>", "<|user|>", "<|assistant|>"},        // in most vocabularies they are text
     .system = {"<|system|>\n", "{eos}\n"},
     .user = {"<|user|>\n", "{eos}\n"},
     .assistant = {"<|assistant|>\n", "{eos}\n"}},
    {.name = "llama-2",
     .words = {"[INST]", "<<SYS>>"},
     .system_place = System::in_user_turn,
     .system = {"<<SYS>>\n", "\n<</SYS>>\n\n"},
     .user = {"{bos}[INST] ", " [/INST]"},
     .assistant = {"", " {eos}"},
     .trims = true},
    {.name = "mistral-v3",    // its marks are tokens, and swallow the space that the template writes after them
     .words = {"[INST]", "[/INST]", "[AVAILABLE_TOOLS]"},
     .without = {"[SYSTEM_PROMPT]"},
     .marks = {"[INST]", "[/INST]"},
     .begin = "{bos}",
     .system_place = System::in_user_turn,
     .system = {"", "\n\n"},
     .user = {"[INST] ", "[/INST]"},
     .assistant = {"", "{eos}"},
     .marks_eat_space = true},
    {.name = "mistral",
     .words = {"[INST] ", " [/INST]"},
     .without = {"[SYSTEM_PROMPT]"},
     .begin = "{bos}",
     .system_place = System::in_user_turn,
     .system = {"", "\n\n"},
     .user = {"[INST] ", " [/INST]"},
     .assistant = {"", "{eos}"}},
    {.name = "deepseek-3",
     .words = {"<｜User｜>", "<｜Assistant｜>"},
     .marks = {"<｜User｜>", "<｜Assistant｜>"},
     .begin = "{bos}",
     .system = {"", ""},
     .user = {"<｜User｜>", ""},
     .assistant = {"<｜Assistant｜>", "{eos}"}},
    {.name = "deepseek",
     .words = {"'User: '", "'Assistant: '", "'Assistant:'", "eos_token"},
     .begin = "{bos}",
     .system = {"", "\n\n"},
     .user = {"User: ", "\n\n"},
     .assistant = {"Assistant:", "{eos}"}},
    {.name = "vicuna",
     .words = {"'USER: '", "'ASSISTANT:", "eos_token"},
     .without = {"\\n"},    // variants with lines
     .system = {"", " "},
     .user = {"USER: ", " "},
     .assistant = {"ASSISTANT:", "{eos}"},
     .default_system = "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite "
                       "answers to the user's questions."},
    {.name = "alpaca",
     .words = {"### Instruction:\\n", "### Response:\\n"},
     .without = {"<|EOT|>", "### Input"},
     .system = {"", "\n\n"},
     .user = {"### Instruction:\n", "\n\n"},
     .assistant = {"### Response:\n", "\n\n"},
     .default_system = "Below is an instruction that describes a task. Write a response that appropriately completes the request."},
    {.name = "none", .system = {"", "\n"}, .assistant = {"", "\n"}},
};

bool has_all(std::string_view text, const ChatTemplate::Words& words)
{
    return !words[0].empty() && std::all_of(std::begin(words), std::end(words), [&](std::string_view w) { return text.find(w) != text.npos; });
}

bool has_any(std::string_view text, const ChatTemplate::Words& words)
{
    return std::any_of(std::begin(words), std::end(words), [&](std::string_view w) { return !w.empty() && text.find(w) != text.npos; });
}

std::string with_replaced(std::string text, std::string_view from, std::string_view to)
{
    for (size_t at = 0; (at = text.find(from, at)) != text.npos; at += to.size()) text.replace(at, from.size(), to);
    return text;
}

constexpr std::string_view white = " \t\r\n";

std::string_view trimmed(std::string_view text)
{
    const size_t begin = text.find_first_not_of(white);
    return begin == text.npos ? std::string_view() : text.substr(begin, text.find_last_not_of(white) + 1 - begin);
}

void push_text(std::string_view text, std::vector<ChatPiece>& out)
{
    if (!text.empty()) out.push_back({ChatPiece::Kind::text, std::string(text)});
}

/// A frame's string, cut at its marks.
void push_frame(const ChatTemplate& family, std::string_view frame, std::vector<ChatPiece>& out)
{
    while (!frame.empty()) {
        size_t at = frame.size(), length = 0;
        ChatPiece::Kind kind = ChatPiece::Kind::text;
        const auto look_for = [&](std::string_view word, ChatPiece::Kind what) {
            const size_t found = word.empty() ? frame.npos : frame.find(word);
            if (found < at) at = found, length = word.size(), kind = what;
        };
        look_for(bos_word, ChatPiece::Kind::bos);
        look_for(eos_word, ChatPiece::Kind::eos);
        for (const std::string_view mark : family.marks) look_for(mark, ChatPiece::Kind::mark);
        push_text(frame.substr(0, at), out);
        if (length) out.push_back({kind, std::string(kind == ChatPiece::Kind::mark ? frame.substr(at, length) : "")});
        frame.remove_prefix(at + length);
    }
}

}    // namespace

std::span<const ChatTemplate> chat_templates() { return templates; }

const ChatTemplate* find_chat_template(std::string_view name)
{
    const auto found = std::find_if(std::begin(templates), std::end(templates), [&](const ChatTemplate& t) { return t.name == name; });
    return found == std::end(templates) ? nullptr : &*found;
}

const ChatTemplate* recognise_chat_template(std::string_view jinja)
{
    const auto found = std::find_if(std::begin(templates), std::end(templates),
                                    [&](const ChatTemplate& t) { return has_all(jinja, t.words) && !has_any(jinja, t.without); });
    return found == std::end(templates) ? nullptr : &*found;
}

std::string default_system(const ChatTemplate& family, std::string_view jinja)
{
    // Templates that have one write it out between the system role's frame: '<|im_start|>system\nYou are a helpful assistant<|im_end|>\n'.
    const std::string before = with_replaced(std::string(family.system.before), "\n", "\\n");
    const std::string_view after = family.system.after.substr(0, family.system.after.find('\n'));
    for (size_t at = 0; !before.empty() && !after.empty() && (at = jinja.find(before, at)) != jinja.npos;) {
        at += before.size();
        const size_t end = jinja.find(after, at);
        if (end == jinja.npos) break;
        const std::string_view text = jinja.substr(at, end - at);
        if (!text.empty() && text.find_first_of("'\"{}") == text.npos) return with_replaced(std::string(text), "\\n", "\n");
    }
    return std::string(family.default_system);
}

std::vector<ChatPiece> chat_pieces(const ChatTemplate& family, const ChatTurn& turn)
{
    const auto said = [&](std::string_view text) { return family.trims ? trimmed(text) : text; };
    std::vector<ChatPiece> pieces;
    const auto push_system = [&] {
        push_frame(family, family.system.before, pieces);
        push_text(said(turn.system), pieces);
        push_frame(family, family.system.after, pieces);
    };
    const bool has_system = turn.first && (!turn.system.empty() || family.system_place == System::always);
    const bool in_user_turn = family.system_place == System::in_user_turn;

    push_frame(family, turn.first ? family.begin : family.assistant.after, pieces);
    if (has_system && !in_user_turn) push_system();
    push_frame(family, family.user.before, pieces);
    if (has_system && in_user_turn) push_system();
    push_text(said(turn.user), pieces);
    push_frame(family, family.user.after, pieces);
    push_frame(family, family.assistant.before, pieces);
    return pieces;
}

std::vector<Token> encode(const Tokenizer& tokenizer, const ChatTemplate& family, std::span<const ChatPiece> pieces)
{
    std::vector<Token> marks = stop_tokens(tokenizer, family);    // what no text may become
    marks.push_back(tokenizer.bos());
    for (const std::string_view word : family.marks)
        if (const auto id = tokenizer.added(word)) marks.push_back(*id);

    std::vector<Token> ids;
    std::string run;    // text between two marks is tokenised as one
    bool after_mark = false;
    const auto end_run = [&] {
        std::string_view text = run;
        if (after_mark && family.marks_eat_space) text.remove_prefix(std::min(text.find_first_not_of(white), text.size()));
        // Some user-defined tokens are recognised in every text; a mark among them would be more than text.
        for (const Token id : tokenizer.encode(text)) {
            if (std::find(marks.begin(), marks.end(), id) == marks.end()) ids.push_back(id);
            else tokenizer.encode_bytes(tokenizer.piece(id), ids);
        }
        run.clear();
    };
    for (const ChatPiece& piece : pieces) {
        std::optional<Token> id;
        if (piece.kind == ChatPiece::Kind::mark) id = tokenizer.added(piece.text);
        if (piece.kind == ChatPiece::Kind::bos) id = tokenizer.bos();
        if (piece.kind == ChatPiece::Kind::eos) id = tokenizer.eos();
        if (!id) {
            run += piece.text;
            continue;
        }
        // White space between an answer and the token that ends it: models end answers without it.
        if (ids.empty() && run.find_first_not_of(white) == run.npos) run.clear();
        end_run();
        ids.push_back(*id);
        after_mark = true;
    }
    end_run();
    return ids;
}

std::vector<Token> stop_tokens(const Tokenizer& tokenizer, const ChatTemplate& family)
{
    std::vector<Token> stops = tokenizer.ends();
    for (const std::string_view word : family.stops)
        if (const auto id = tokenizer.added(word); id && std::ranges::find(stops, *id) == stops.end()) stops.push_back(*id);
    return stops;
}

}    // namespace hearth
