#include "engine/model/vocabulary.h"

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
        if (id < 0 || uint64_t(id) >= tokens) throw Error("{}: {} is {}, expected less than {}", file.path().string(), key, id, tokens);
        ids.push_back(Token(id));
    }
    return ids;
}

Vocabulary::Vocabulary(const Gguf& file, bool scored, Token unknown) : unknown(unknown)
{
    const std::string path = file.path().string();
    const auto& texts = file.strings("tokenizer.ggml.tokens");
    const auto* scores = scored ? file.floats("tokenizer.ggml.scores") : nullptr;
    const auto* kinds = file.integers("tokenizer.ggml.token_type");
    if ((scored && (!scores || scores->size() != texts.size())) || !kinds || kinds->size() != texts.size())
        throw Error("{} has {} tokens, {}{} types of tokens, expected as many of each; convert the model again", path, texts.size(),
                    scored ? fmt::format("{} scores and ", scores ? scores->size() : 0) : "", kinds ? kinds->size() : 0);
    if (texts.empty() || texts.size() >= no_token) throw Error("{} has a vocabulary of {} tokens", path, texts.size());

    std::fill(std::begin(bytes), std::end(bytes), unknown);
    for (size_t i = 0; i < texts.size(); i++) {
        const double score = scores ? (*scores)[i] : 0;
        if (!(std::abs(score) <= FLT_MAX)) throw Error("{}: the score of token {} is {}, expected a finite number", path, i, score);
        if ((*kinds)[i] < int64_t(Kind::normal) || (*kinds)[i] > int64_t(Kind::byte))
            throw Error("{}: token {} is of the unknown type {}", path, i, (*kinds)[i]);
        Piece piece{texts[i], float(score), Kind((*kinds)[i]), 0};
        switch (piece.kind) {
        case Kind::normal:
        case Kind::user_defined:
        case Kind::unused:
            ids.emplace(piece.text, Token(i));    // of equal texts the first
            longest = std::max(longest, piece.text.size());
            break;
        case Kind::byte: {
            const bool framed = piece.text.size() == 6 && piece.text.starts_with("<0x") && piece.text.ends_with(">");
            const char* digits = piece.text.data() + 3;
            if (!framed || std::from_chars(digits, digits + 2, piece.byte, 16).ptr != digits + 2)
                throw Error("{}: token {} is a byte and reads {:.60}, expected <0x00> to <0xFF>", path, i, piece.text);
            bytes[piece.byte] = Token(i);
            break;
        }
        case Kind::unknown:
        case Kind::control: break;
        }
        if ((piece.kind == Kind::control || piece.kind == Kind::user_defined) && !piece.text.empty())
            added[uint8_t(piece.text[0])].push_back(Token(i));
        pieces.push_back(piece);
    }
    for (auto& tokens : added)
        std::stable_sort(tokens.begin(), tokens.end(), [&](Token a, Token b) { return pieces[a].text.size() > pieces[b].text.size(); });
}

const Token* Vocabulary::longest_added(std::string_view text, bool special) const
{
    for (const Token& token : added[uint8_t(text[0])])
        if ((special || pieces[token].kind == Kind::user_defined) && text.starts_with(pieces[token].text)) return &token;
    return nullptr;
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
