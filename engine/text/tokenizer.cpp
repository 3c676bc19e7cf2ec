#include "engine/text/tokenizer.h"

#include "engine/text/end_tokens.h"
#include "engine/text/segmenter.h"
#include "engine/text/utf8.h"

#include <algorithm>

namespace hearth {

namespace {

constexpr std::string_view white = " \t\r\n\v\f";
constexpr std::string_view replacement = "\uFFFD";       // for bytes that are not UTF-8
constexpr std::string_view unknown_mark = " \u2047 ";    // how SentencePiece shows its unknown token

/// A kind of tokenizer, and what holds where the file does not say.
struct TokenizerKind {
    std::string_view name;    // `tokenizer.ggml.model`
    std::unique_ptr<Segmenter> (*make)(const Gguf&, const Vocabulary&);
    bool scored;    // its tokens have scores
    Token bos, eos, unknown;
    bool add_eos;
};

constexpr TokenizerKind kinds[] = {
    {.name = "llama",
     .make = make_sentencepiece_bpe,
     .scored = true,
     .bos = 1,
     .eos = 2,
     .unknown = 0,
     .add_eos = false},
    {.name = "gpt2",
     .make = make_byte_bpe,
     .scored = false,
     .bos = no_token,
     .eos = no_token,
     .unknown = no_token,
     .add_eos = false},
    {.name = "t5", .make = make_unigram, .scored = true, .bos = no_token, .eos = 1, .unknown = 2, .add_eos = true},
};

const TokenizerKind& kind_of(const Gguf& file)
{
    const std::string_view model = file.string("tokenizer.ggml.model");
    std::string names;
    for (const TokenizerKind& kind : kinds) {
        if (kind.name == model) return kind;
        names += fmt::format("{}{}", names.empty() ? "" : ", ", kind.name);
    }
    throw Error("{} has a tokenizer of the kind {:.60}, which this version does not know; it knows {}",
                file.path().string(), model, names);
}

/// A key that names a token, the first where it names several.
Token token_key(const Gguf& file, const char* key, Token fallback)
{
    const std::vector<Token> ids = tokens_of_key(file, key);
    return ids.empty() ? fallback : ids[0];
}

}    // namespace

Tokenizer::Tokenizer(const Gguf& file)
{
    const TokenizerKind& kind = kind_of(file);
    vocabulary_ = std::make_shared<Vocabulary>(file, kind.scored,
                                               token_key(file, "tokenizer.ggml.unknown_token_id", kind.unknown));
    segmenter_ = kind.make(file, *vocabulary_);

    bos_ = token_key(file, "tokenizer.ggml.bos_token_id", kind.bos);
    eos_ = token_key(file, "tokenizer.ggml.eos_token_id", kind.eos);
    if (bos_ == no_token) bos_ = eos_;
    if (eos_ == no_token) eos_ = bos_;
    if (bos_ >= size() || eos_ >= size())
        throw Error("{} does not say which token begins or ends a text (tokenizer.ggml.bos_token_id, eos_token_id); "
                    "convert the model again",
                    file.path().string());
    ends_ = end_tokens(file, *vocabulary_, eos_);
    constexpr const char* prefix_key = "hearth.tokenizer.prefix_first";
    if (file.keys().contains(prefix_key)) prefix_first_ = file.boolean(prefix_key, false);
    strips_right_ = tokens_of_key(file, "hearth.tokenizer.rstrip");
    // A convention, for files of others, which do not say: the marks of Phi-3 have `rstrip` in its tokenizer.json. It
    // is the SentencePiece vocabulary with these marks.
    if (strips_right_.empty() && segmenter_->drop == Segmenter::Drop::one && added("<|end|>") && added("<|assistant|>"))
        for (Token id = 0; id < size(); id++)
            if (control(id) && piece(id).starts_with("<|") && piece(id) != "<|endoftext|>") strips_right_.push_back(id);
    std::ranges::sort(strips_right_);
    add_bos_ = file.boolean("tokenizer.ggml.add_bos_token", segmenter_->add_bos);
    add_eos_ = file.boolean("tokenizer.ggml.add_eos_token", kind.add_eos);
}

const std::vector<std::string>& Tokenizer::notes() const { return segmenter_->notes; }

std::vector<Token> Tokenizer::encode(std::string_view text, bool special) const
{
    std::vector<Token> ids;
    size_t begin = 0;
    for (size_t at = 0; special && at < text.size();) {
        const Token* token = vocabulary_->longest_added(text.substr(at), true);
        const size_t length = token ? piece(*token).size() : 1;
        if (token && vocabulary_->pieces[*token].kind == Vocabulary::Kind::control) {
            segmenter_->encode(text.substr(begin, at - begin), ids);
            ids.push_back(*token);
            begin = at + length;
        }
        at += length;
    }
    segmenter_->encode(text.substr(begin), ids);
    return ids;
}

std::vector<Token> Tokenizer::encode_prompt(std::string_view text) const
{
    std::vector<Token> ids = encode(text);
    if (add_bos() || ids.empty()) ids.insert(ids.begin(), bos());
    return ids;
}

void Tokenizer::encode_bytes(std::string_view text, std::vector<Token>& ids) const
{
    segmenter_->encode_bytes(text, ids);
}

std::optional<Token> Tokenizer::added_at(std::string_view text) const
{
    const Token* token = vocabulary_->longest_added(text, true);
    return token ? std::optional(*token) : std::nullopt;
}

std::optional<Token> Tokenizer::added(std::string_view text) const
{
    if (text.empty()) return {};
    const std::optional<Token> token = added_at(text);
    return token && piece(*token) == text ? token : std::nullopt;
}

std::optional<Token> Tokenizer::named(std::string_view text) const
{
    const auto found = vocabulary_->ids.find(text);
    if (found == vocabulary_->ids.end() || vocabulary_->pieces[found->second].kind == Vocabulary::Kind::user_defined)
        return {};
    return found->second;
}

void Tokenizer::encode_behind(Token mark, std::string_view text, std::vector<Token>& ids) const
{
    if (std::ranges::binary_search(strips_right_, mark))
        text.remove_prefix(std::min(text.find_first_not_of(white), text.size()));
    if (prefix_first_ == true) return segmenter_->encode_on(text, ids);
    // A convention: where a file does not say how it is, a space that a text has behind a mark is the one that
    // SentencePiece would put before it. So does Mistral's own tokenizer, whose templates write "[INST] ".
    const bool space_prefix = segmenter_->drop == Segmenter::Drop::one;
    if (!prefix_first_ && space_prefix && text.starts_with(' ')) text.remove_prefix(1);
    segmenter_->encode(text, ids);
}

std::string Tokenizer::decode(const std::vector<Token>& ids) const
{
    Decoder decoder(*this);
    std::string text;
    for (const Token id : ids) text += decoder.push(id);
    return text + decoder.finish();
}

Decoder::Decoder(const Tokenizer& tokenizer, bool continues)
    : tokenizer_(&tokenizer), at_start_(tokenizer.segmenter_->drop != Segmenter::Drop::nothing && !continues)
{
}

std::string Decoder::push(Token id)
{
    if (is_row(id)) return "";
    HEARTH_CHECK(id < tokenizer_->size());
    const Vocabulary::Piece& piece = (*tokenizer_->vocabulary_)[id];
    const Segmenter& segmenter = *tokenizer_->segmenter_;
    switch (piece.kind) {
    case Vocabulary::Kind::control: return "";
    case Vocabulary::Kind::byte: held_ += char(piece.byte); break;
    case Vocabulary::Kind::unknown: held_ += unknown_mark; break;
    default: {
        std::string_view text = piece.text;
        if (at_start_ && text.starts_with(space_mark)) text.remove_prefix(space_mark.size());
        segmenter.spell(text, piece.kind, held_);
    }
    }
    at_start_ = at_start_ && segmenter.drop == Segmenter::Drop::all && held_.empty();

    std::string out;
    size_t at = 0;
    while (at < held_.size()) {
        const std::string_view rest = std::string_view(held_).substr(at);
        const auto [state, bytes] = first_character(rest);
        if (state == Utf8::unfinished) break;
        out += state == Utf8::whole ? rest.substr(0, bytes) : replacement;
        at += bytes;
    }
    held_.erase(0, at);
    return out;
}

std::string Decoder::finish()
{
    // What is held is the beginning of one character: one maximal subpart.
    const bool unfinished = !held_.empty();
    held_.clear();
    return std::string(unfinished ? replacement : "");
}

}    // namespace hearth
