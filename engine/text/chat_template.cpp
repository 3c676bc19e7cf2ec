#include "engine/text/chat_template.h"

#include <algorithm>

namespace hearth {

namespace {

using jinja::Data;
using jinja::Piece;

constexpr std::string_view white = " \t\r\n";

/// The marks around a model's thoughts, by families: Qwen, DeepSeek and most others; EXAONE; Magistral; Command A;
/// Kimi-VL.
constexpr std::pair<std::string_view, std::string_view> thoughts[] = {{"<think>", "</think>"},
                                                                      {"<thought>", "</thought>"},
                                                                      {"[THINK]", "[/THINK]"},
                                                                      {"<|START_THINKING|>", "<|END_THINKING|>"},
                                                                      {"◁think▷", "◁/think▷"}};

bool is_white(std::string_view text) { return text.find_first_not_of(white) == text.npos; }

/// What only a mark is written like, in all vocabularies: what others take from HTML (<b>, <table>) is not.
bool looks_like_mark(std::string_view text)
{
    return (text.starts_with("<|") && text.ends_with("|>")) || (text.starts_with("<｜") && text.ends_with("｜>"));
}

}    // namespace

std::vector<NamedTemplate> file_templates(const Gguf& file)
{
    constexpr std::string_view key = "tokenizer.chat_template";
    std::vector<NamedTemplate> found;
    if (file.keys().contains(key)) found.push_back({"default", file.string(key)});
    for (const auto& [name, _] : file.keys())
        if (name.starts_with(key) && name.substr(key.size()).starts_with('.'))
            found.push_back({name.substr(key.size() + 1), file.string(name)});
    return found;
}

size_t places_for_images(std::string_view text)
{
    size_t places = 0;
    for (size_t at = 0; (at = text.find(image_mark, at)) != text.npos; at += image_mark.size()) ++places;
    return places;
}

Data chat_message(std::string_view role, Data::Text content)
{
    return Data::Dict{{"role", Data::text(role, true)}, {"content", Data(std::move(content))}};
}

void own_roles(Data& messages)
{
    auto* list = std::get_if<Data::List>(&messages.value);
    if (!list) return;
    for (Data& message : *list) {
        auto* dict = std::get_if<Data::Dict>(&message.value);
        if (!dict) continue;
        for (auto& [key, value] : *dict) {
            auto* text = std::get_if<Data::Text>(&value.value);
            if (key != "role" || !text) continue;
            for (Piece& piece : *text)
                piece.own = piece.text.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_-") ==
                            piece.text.npos;
        }
    }
}

// ---- the template ---------------------------------------------------------------------------------------------------

ChatTemplate::ChatTemplate(std::string name, std::string_view jinja, const Gguf* file)
    : name_(std::move(name)), source_(jinja), template_(jinja)
{
    add_tokens(file);
    if (shows_question()) return;
    parts_ = true;
    parts_ = shows_question();
}

/// Whether a question is in what it makes of one.
bool ChatTemplate::shows_question() const
{
    constexpr std::string_view question = "a question";
    try {
        return text_of(render({message("user", {{std::string(question), false}})}, true, {.steps = 1'000'000}))
                   .find(question) != std::string::npos;
    } catch (const jinja::TemplateError&) {
        return false;
    }
}

void ChatTemplate::add_tokens(const Gguf* file)
{
    if (!file || !file->keys().contains("tokenizer.ggml.tokens")) return;
    const auto& texts = file->strings("tokenizer.ggml.tokens");
    const bool sentencepiece =
        file->string("tokenizer.ggml.model", "") == "llama";    // whose files need not say which its tokens are
    const struct {
        const char *variable, *key;
        Token otherwise;
    } tokens[] = {{"bos_token", "tokenizer.ggml.bos_token_id", 1},
                  {"eos_token", "tokenizer.ggml.eos_token_id", 2},
                  {"unk_token", "tokenizer.ggml.unknown_token_id", 0},
                  {"pad_token", "tokenizer.ggml.padding_token_id", no_token},
                  {"sep_token", "tokenizer.ggml.seperator_token_id", no_token},    // as the format spells it
                  {"cls_token", "tokenizer.ggml.cls_token_id", no_token},
                  {"mask_token", "tokenizer.ggml.mask_token_id", no_token}};
    for (const auto& token : tokens) {
        const std::vector<Token> ids = tokens_of_key(*file, token.key);
        const Token id = !ids.empty() ? ids[0] : sentencepiece ? token.otherwise : no_token;
        if (id < texts.size()) tokens_.emplace_back(token.variable, Data::text(texts[id], true));
    }
}

std::vector<Piece> ChatTemplate::render(Data::Dict variables, const jinja::Limits& limits) const
{
    const auto has = [&](std::string_view name) {
        return std::any_of(variables.begin(), variables.end(), [&](const auto& v) { return v.first == name; });
    };
    for (const auto& token : tokens_)
        if (!has(token.first)) variables.push_back(token);
    for (const char* name : {"tools", "documents"})    // transformers gives both, if only None
        if (!has(name)) variables.emplace_back(name, Data());
    return template_.render(variables, limits);
}

std::vector<Piece> ChatTemplate::render(const Data::List& messages, bool answer, const jinja::Limits& limits) const
{
    Data::Dict variables;
    variables.emplace_back("messages", Data(messages));
    variables.emplace_back("add_generation_prompt", Data(answer));
    return render(std::move(variables), limits);
}

Data ChatTemplate::message(std::string_view role, const Data::Text& content) const
{
    if (!parts_) return chat_message(role, content);
    const Data part = Data::Dict{{"type", Data::text("text", true)}, {"text", Data(content)}};
    return Data::Dict{{"role", Data::text(role, true)}, {"content", Data(Data::List{part})}};
}

Data ChatTemplate::user_message(std::string_view text, size_t images) const
{
    Data::List parts;
    Data::Text content;
    const auto add_text = [&](std::string_view some) {
        if (some.empty()) return;
        content.push_back({std::string(some), false});
        parts.emplace_back(Data::Dict{{"type", Data::text("text", true)}, {"text", Data(Data::Text{content.back()})}});
    };
    const auto add_image = [&] {
        content.push_back({std::string(image_mark), true});
        parts.emplace_back(Data::Dict{{"type", Data::text("image", true)}});
    };
    const size_t marks = places_for_images(text);
    for (size_t i = marks; i < images; ++i) {
        add_image();
        content.push_back({"\n", false});
    }
    for (size_t i = 0; i < std::min(marks, images); ++i) {
        const size_t at = text.find(image_mark);
        add_text(text.substr(0, at));
        add_image();
        text.remove_prefix(at + image_mark.size());
    }
    add_text(text);
    if (!parts_) return chat_message("user", std::move(content));
    return Data::Dict{{"role", Data::text("user", true)}, {"content", Data(std::move(parts))}};
}

// ---- tokens ---------------------------------------------------------------------------------------------------------

bool ChatEncoder::is_mark(Token id) const
{
    if (tokenizer_.control(id)) return true;
    const std::string_view piece = tokenizer_.piece(id);
    if (tokenizer_.added(piece) != id || is_white(piece)) return false;
    if (looks_like_mark(piece) || is_thought_mark(piece) || id == tokenizer_.bos() ||
        std::ranges::count(tokenizer_.ends(), id))
        return true;
    const auto written = [&](std::string_view word) { return format_.source().find(word) != std::string::npos; };
    return written(piece) || (piece.starts_with("</") && written(fmt::format("<{}", piece.substr(2))));
}

std::optional<ChatEncoder::Mark> ChatEncoder::mark_at(std::string_view text)
{
    if (const auto found = tokenizer_.added_at(text)) {
        const std::string_view piece = tokenizer_.piece(*found);
        if (tokenizer_.control(*found) || !is_white(piece))
            return Mark{*found, piece.size()};    // white space is found by the tokenizer itself
    }
    return loose_mark_at(text);
}

std::optional<ChatEncoder::Mark> ChatEncoder::loose_mark_at(std::string_view text)
{
    constexpr size_t longest = 64;
    if (text[0] != '<' && text[0] != '[') return {};
    const char end = text[0] == '<' ? '>' : ']';
    for (size_t i = 1; i < std::min(longest, text.size()) && white.find(text[i]) == white.npos; i++) {
        if (text[i] != end || i < 2) continue;
        const std::string_view word = text.substr(0, i + 1);
        auto known = candidates_.find(word);
        if (known == candidates_.end()) {
            // A token that the tokenizer never makes of its own text was meant to be found whole.
            std::optional<Token> id = tokenizer_.named(word);
            if (id) {
                const std::vector<Token> ids = tokenizer_.encode(word);
                if (std::find(ids.begin(), ids.end(), *id) != ids.end()) id.reset();
            }
            known = candidates_.emplace(std::string(word), id).first;
        }
        if (!known->second) continue;
        loose_marks_.emplace(word);
        return Mark{*known->second, word.size()};
    }
    return {};
}

void ChatEncoder::encode_text(std::string_view text, std::optional<Token> mark, std::vector<Token>& ids) const
{
    std::vector<Token> found;
    if (mark) tokenizer_.encode_behind(*mark, text, found);
    else found = tokenizer_.encode(text);
    // Some user-defined tokens are recognised in every text; a mark among them would be more than text.
    for (const Token id : found) {
        if (!is_mark(id)) ids.push_back(id);
        else tokenizer_.encode_bytes(tokenizer_.piece(id), ids);
    }
}

std::vector<Token> ChatEncoder::encode(std::span<const Piece> pieces, std::span<const std::span<const Token>> images)
{
    std::vector<Token> ids;
    size_t image = 0;
    const Token stands_for_image = tokenizer_.added(image_mark).value_or(tokenizer_.bos());
    std::string run;    // text between two marks is tokenised as one
    std::optional<Token> last;
    const auto end_run = [&] {
        if (!run.empty()) encode_text(run, last, ids);
        run.clear();
    };
    for (const Piece& piece : pieces) {
        if (!piece.own) {
            run += piece.text;
            continue;
        }
        for (std::string_view rest = piece.text; !rest.empty();) {
            if (image < images.size() && rest.starts_with(image_mark)) {
                end_run();
                ids.insert(ids.end(), images[image].begin(), images[image].end());
                ++image;
                last = stands_for_image;
                rest.remove_prefix(image_mark.size());
                continue;
            }
            const std::optional<Mark> mark = mark_at(rest);
            if (!mark) {
                run += rest[0];
                rest.remove_prefix(1);
                continue;
            }
            end_run();
            ids.push_back(mark->id);
            last = mark->id;
            rest.remove_prefix(mark->bytes);
        }
    }
    end_run();
    if (image < images.size())
        throw Error("the chat template '{}' has places for {} of {} images: choose another with --template",
                    printable(format_.name()), image, images.size());
    if (tokenizer_.add_bos() && (ids.empty() || ids[0] != tokenizer_.bos())) ids.insert(ids.begin(), tokenizer_.bos());
    if (ids.empty()) ids.push_back(tokenizer_.bos());
    return ids;
}

std::vector<Token> ChatEncoder::stops()
{
    std::vector<Token> stops = tokenizer_.ends();
    constexpr std::string_view answer = "an answer";
    std::vector<Piece> pieces;
    try {
        pieces = format_.render({format_.message("user", {{"a question", false}}),
                                 format_.message("assistant", {{std::string(answer), false}})},
                                false);
    } catch (const jinja::TemplateError&) {
        return stops;    // one that takes no such conversation does not tell
    }
    encode(pieces);    // so that all its loose marks are known from the beginning
    bool answered = false;
    for (const Piece& piece : pieces) {
        if (!piece.own) {
            answered |= piece.text.find(answer) != piece.text.npos;
            continue;
        }
        const std::string_view text = piece.text;
        for (size_t at = 0; answered && at < text.size(); at++) {
            const std::optional<Mark> mark = mark_at(text.substr(at));
            if (!mark) continue;
            if (std::find(stops.begin(), stops.end(), mark->id) == stops.end()) stops.push_back(mark->id);
            return stops;
        }
    }
    return stops;
}

// ---- thoughts -------------------------------------------------------------------------------------------------------

std::string opened_thought(std::span<const Piece> prompt)
{
    if (prompt.empty() || !prompt.back().own) return "";
    const std::string& text = prompt.back().text;
    for (const auto& [open, close] : thoughts) {
        const size_t begin = text.rfind(open);
        if (begin != text.npos && text.find(close, begin) == text.npos) return text.substr(begin);
    }
    return "";
}

bool is_thought_mark(std::string_view text)
{
    return std::any_of(std::begin(thoughts), std::end(thoughts),
                       [&](const auto& t) { return t.first == text || t.second == text; });
}

}    // namespace hearth
