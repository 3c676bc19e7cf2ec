#include "engine/text/vocabulary.h"

#include <algorithm>
#include <cfloat>
#include <charconv>
#include <cmath>

namespace hearth {

std::vector<Token> tokens_of_key(const Gguf& file, std::string_view key)
{
    const auto found = file.keys().find(key);
    if (found == file.keys().end()) return {};
    const auto* list = std::get_if<std::vector<int64_t>>(&found->second);
    const size_t tokens = file.strings("tokenizer.ggml.tokens").size();
    std::vector<Token> ids;
    for (const int64_t id : list ? *list : std::vector<int64_t>{file.u32(key)}) {
        if (id < 0 || uint64_t(id) >= tokens)
            throw Error("{}: {} is {}, expected less than {}", file.path().string(), key, id, tokens);
        ids.push_back(Token(id));
    }
    return ids;
}

void PrefixIndex::add(std::string_view text, Token id)
{
    entries_.emplace_back(text, id);
    begins_[uint8_t(text[0])] = true;
}

void PrefixIndex::sort() { std::ranges::sort(entries_); }

const Token* PrefixIndex::longest(std::string_view text) const
{
    const Token* longest = nullptr;
    for_each_prefix(text, [&](std::string_view, const Token& id) { longest = &id; });
    return longest;
}

namespace {

using Kind = Vocabulary::Kind;

/// <0x00> to <0xFF>; -1: it is another text.
int byte_of(std::string_view text)
{
    if (text.size() != 6 || !text.starts_with("<0x") || !text.ends_with(">")) return -1;
    uint8_t byte = 0;
    return std::from_chars(text.data() + 3, text.data() + 5, byte, 16).ptr == text.data() + 5 ? byte : -1;
}

/// What tokens are in a file that does not say it, as early ones do not: by how they read, and by the keys that name
/// some.
std::vector<int64_t> kinds_by_text(const Gguf& file, const std::vector<std::string_view>& texts, bool sentencepiece)
{
    std::vector<int64_t> kinds;
    for (const std::string_view text : texts) {
        const bool mark =
            text.size() > 4 && text.starts_with("<|") && text.ends_with("|>") && text.find(' ') == text.npos;
        const bool ends = sentencepiece && (text == "<s>" || text == "</s>" || text == "<pad>");
        const bool unknown = sentencepiece && text == "<unk>", byte = sentencepiece && byte_of(text) >= 0;
        kinds.push_back(int64_t(unknown        ? Kind::unknown
                                : byte         ? Kind::byte
                                : mark || ends ? Kind::control
                                               : Kind::normal));
    }
    for (const char* key : {"bos_token_id", "eos_token_id", "eot_token_id", "eom_token_id", "padding_token_id"})
        for (const Token id : tokens_of_key(file, fmt::format("tokenizer.ggml.{}", key)))
            kinds[id] = int64_t(Kind::control);
    return kinds;
}

}    // namespace

Vocabulary::Vocabulary(const Gguf& file, bool scored, Token unknown_id) : unknown(no_token)
{
    const std::string path = file.path().string();
    const auto& texts = file.strings("tokenizer.ggml.tokens");
    const auto* scores = scored ? file.floats("tokenizer.ggml.scores") : nullptr;
    const auto* given = file.integers("tokenizer.ggml.token_type");
    if ((scored && (!scores || scores->size() != texts.size())) || (given && given->size() != texts.size()))
        throw Error("{} has {} tokens, {}{} types of tokens, expected as many of each; convert the model again", path,
                    texts.size(), scored ? fmt::format("{} scores and ", scores ? scores->size() : 0) : "",
                    given ? given->size() : 0);
    if (texts.empty() || texts.size() >= first_row_token)
        throw Error("{} has a vocabulary of {} tokens", path, texts.size());
    const std::vector<int64_t> kinds = given ? *given : kinds_by_text(file, texts, scored);

    for (size_t i = 0; i < texts.size(); i++) {
        const double score = scores ? (*scores)[i] : 0;
        if (!(std::abs(score) <= FLT_MAX))
            throw Error("{}: the score of token {} is {}, expected a finite number", path, i, score);
        if (kinds[i] < int64_t(Kind::normal) || kinds[i] > int64_t(Kind::byte))
            throw Error("{}: token {} is of the unknown type {}", path, i, kinds[i]);
        pieces.push_back({texts[i], float(score), Kind(kinds[i]), 0});
    }
    if (unknown_id < pieces.size() && pieces[unknown_id].kind == Kind::unknown) unknown = unknown_id;
    std::fill(std::begin(bytes), std::end(bytes), unknown);
    for (Token id = 0; id < pieces.size(); id++) {
        Piece& piece = pieces[id];
        switch (piece.kind) {
        case Kind::normal:
        case Kind::user_defined:
        case Kind::unused: {
            const auto [entry, first] = ids.emplace(piece.text, id);    // of equal texts the first that is used
            if (!first && pieces[entry->second].kind == Kind::unused && piece.kind != Kind::unused) entry->second = id;
            longest = std::max(longest, piece.text.size());
            break;
        }
        case Kind::byte: {
            const int byte = byte_of(piece.text);
            if (byte < 0)
                throw Error("{}: token {} is a byte and reads {:.60}, expected <0x00> to <0xFF>", path, id,
                            printable(piece.text));
            piece.byte = uint8_t(byte);
            bytes[byte] = id;
            break;
        }
        case Kind::unknown:
        case Kind::control: break;
        }
        if (piece.text.empty()) continue;
        if (piece.kind == Kind::user_defined) user_defined.add(piece.text, id);
        if (piece.kind == Kind::user_defined || piece.kind == Kind::control) added.add(piece.text, id);
    }
    user_defined.sort();
    added.sort();
}

void Vocabulary::push_piece(std::string_view piece, std::vector<Token>& out) const
{
    if (const auto found = ids.find(piece); found != ids.end()) out.push_back(found->second);
    else push_bytes(piece, out);
}

void Vocabulary::push_bytes(std::string_view piece, std::vector<Token>& out) const
{
    for (const char byte : piece) {
        const Token id = bytes[uint8_t(byte)];
        if (id != no_token && (id != unknown || out.empty() || out.back() != unknown)) out.push_back(id);
    }
}

}    // namespace hearth
