#include "engine/model/tokenizer.h"

#include <algorithm>
#include <cfloat>
#include <charconv>
#include <cmath>
#include <queue>

namespace hearth {

namespace {

constexpr std::string_view space_mark = "\u2581";        // how a space stands in the vocabulary
constexpr std::string_view replacement = "\uFFFD";       // for bytes that are not UTF-8
constexpr std::string_view unknown_mark = " \u2047 ";    // how SentencePiece shows its unknown token

enum class Utf8 { whole, unfinished, invalid };

struct Utf8Step {
    Utf8 state;
    size_t bytes;    // of the character; of the maximal subpart (Unicode 3.9, "U+FFFD substitution") where it is unfinished or invalid
};

/// The first character of a text that is not empty. Surrogates, overlong forms and what lies above U+10FFFF are invalid.
Utf8Step first_character(std::string_view text)
{
    const auto at = [&](size_t i) { return uint8_t(text[i]); };
    const uint8_t lead = at(0);
    if (lead < 0x80) return {Utf8::whole, 1};
    const size_t length = lead < 0xc2 ? 0 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : lead < 0xf5 ? 4 : 0;
    if (!length) return {Utf8::invalid, 1};
    // The second byte is bound more closely after these leads.
    const uint8_t low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80, high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
    for (size_t i = 1; i < length; i++) {
        if (i == text.size()) return {Utf8::unfinished, i};
        if (at(i) < (i == 1 ? low : 0x80) || at(i) > (i == 1 ? high : 0xbf)) return {Utf8::invalid, i};
    }
    return {Utf8::whole, length};
}

/// Two neighbours that may become one.
struct Merge {
    float score;
    uint32_t left, right;
    size_t bytes;    // of both; another number by the time it is looked at means that one of them has changed

    /// Highest score first, leftmost among equals.
    bool operator<(const Merge& other) const { return score < other.score || (score == other.score && left > other.left); }
};

constexpr uint32_t nothing = UINT32_MAX;

/// A piece of the text on its way to a token; merged ones are empty.
struct Symbol {
    std::string_view text;
    uint32_t previous, next;
    bool fixed;    // a user-defined token, which does not merge
};

}    // namespace

Tokenizer::Tokenizer(const Gguf& file)
{
    const std::string path = file.path().string();
    const std::string_view model = file.string("tokenizer.ggml.model");
    if (model != "llama") throw Error("{} has a tokenizer of the kind {:.60}, which this version does not know; it knows llama", path, model);
    const auto& texts = file.strings("tokenizer.ggml.tokens");
    const auto* scores = file.floats("tokenizer.ggml.scores");
    const auto* kinds = file.integers("tokenizer.ggml.token_type");
    if (!scores || scores->size() != texts.size() || !kinds || kinds->size() != texts.size())
        throw Error("{} has {} tokens, {} scores and {} types of tokens, expected as many of each; convert the model again", path, texts.size(),
                    scores ? scores->size() : 0, kinds ? kinds->size() : 0);
    if (texts.empty() || texts.size() > UINT32_MAX) throw Error("{} has a vocabulary of {} tokens", path, texts.size());

    const auto id = [&](const char* key, uint32_t fallback) {
        const uint32_t n = file.u32(key, fallback);
        if (n >= texts.size()) throw Error("{}: {} is {}, expected less than {}", path, key, n, texts.size());
        return Token(n);
    };
    bos_ = id("tokenizer.ggml.bos_token_id", 1);
    eos_ = id("tokenizer.ggml.eos_token_id", 2);
    unknown_ = id("tokenizer.ggml.unknown_token_id", 0);
    add_bos_ = file.boolean("tokenizer.ggml.add_bos_token", true);
    space_prefix_ = file.boolean("tokenizer.ggml.add_space_prefix", true);

    std::fill(std::begin(bytes_), std::end(bytes_), unknown_);
    for (size_t i = 0; i < texts.size(); i++) {
        const double score = (*scores)[i];
        if (!(std::abs(score) <= FLT_MAX)) throw Error("{}: the score of token {} is {}, expected a finite number", path, i, score);
        if ((*kinds)[i] < int64_t(Kind::normal) || (*kinds)[i] > int64_t(Kind::byte))
            throw Error("{}: token {} is of the unknown type {}", path, i, (*kinds)[i]);
        Piece piece{texts[i], float(score), Kind((*kinds)[i]), 0};
        switch (piece.kind) {
        case Kind::normal:
        case Kind::user_defined:
        case Kind::unused:
            ids_.emplace(piece.text, Token(i));    // of equal texts the first
            longest_ = std::max(longest_, piece.text.size());
            break;
        case Kind::byte: {
            const bool framed = piece.text.size() == 6 && piece.text.starts_with("<0x") && piece.text.ends_with(">");
            const char* digits = piece.text.data() + 3;
            if (!framed || std::from_chars(digits, digits + 2, piece.byte, 16).ptr != digits + 2)
                throw Error("{}: token {} is a byte and reads {:.60}, expected <0x00> to <0xFF>", path, i, piece.text);
            bytes_[piece.byte] = Token(i);
            break;
        }
        case Kind::unknown:
        case Kind::control: break;
        }
        if ((piece.kind == Kind::control || piece.kind == Kind::user_defined) && !piece.text.empty())
            added_[uint8_t(piece.text[0])].push_back(Token(i));
        pieces_.push_back(piece);
    }
    for (auto& tokens : added_) std::stable_sort(tokens.begin(), tokens.end(), [&](Token a, Token b) { return piece(a).size() > piece(b).size(); });
}

/// The longest user-defined (or, if `special`, control) token that the text begins with; nullptr if there is none.
const Token* Tokenizer::longest_added(std::string_view text, bool special) const
{
    for (const Token& token : added_[uint8_t(text[0])])
        if ((special || pieces_[token].kind == Kind::user_defined) && text.starts_with(piece(token))) return &token;
    return nullptr;
}

std::vector<Token> Tokenizer::encode(std::string_view text, bool special) const
{
    std::vector<Token> ids;
    size_t begin = 0;
    for (size_t at = 0; special && at < text.size();) {
        const Token* token = longest_added(text.substr(at), true);
        const size_t length = token ? piece(*token).size() : 1;
        if (token && pieces_[*token].kind == Kind::control) {
            encode_part(text.substr(begin, at - begin), ids);
            ids.push_back(*token);
            begin = at + length;
        }
        at += length;
    }
    encode_part(text.substr(begin), ids);
    return ids;
}

/// Byte pair encoding as SentencePiece does it (sentencepiece/src/bpe_model.cc): the pair of neighbours whose union has the best score becomes one
/// symbol, until no union is in the vocabulary.
void Tokenizer::encode_part(std::string_view text, std::vector<Token>& ids) const
{
    if (text.empty()) return;
    std::string marked(space_prefix_ ? space_mark : "");
    marked.reserve(text.size() + text.size() / 2);
    for (size_t at = 0; at < text.size();) {    // user-defined tokens keep their spaces
        const Token* token = longest_added(text.substr(at), false);
        const std::string_view part = text.substr(at, token ? piece(*token).size() : 1);
        marked += part == " " && !token ? space_mark : part;
        at += part.size();
    }
    if (marked.size() >= nothing) throw Error("a text of {} bytes is too long to be tokenised at once; split it", text.size());

    std::vector<Symbol> symbols;
    for (size_t at = 0; at < marked.size();) {
        const std::string_view rest = std::string_view(marked).substr(at);
        const Token* token = longest_added(rest, false);
        const Utf8Step step = first_character(rest);
        const size_t length = token ? piece(*token).size() : step.state == Utf8::whole ? step.bytes : 1;
        const uint32_t i = uint32_t(symbols.size());
        at += length;
        symbols.push_back({rest.substr(0, length), i ? i - 1 : nothing, at < marked.size() ? i + 1 : nothing, token != nullptr});
    }

    std::priority_queue<Merge> merges;
    // Unused tokens merge on towards longer ones, but what ends as one is taken apart again; this is where.
    std::unordered_map<std::string_view, size_t> split;
    const auto propose = [&](uint32_t left, uint32_t right) {
        if (left == nothing || right == nothing || symbols[left].fixed || symbols[right].fixed) return;
        const size_t bytes = symbols[left].text.size() + symbols[right].text.size();
        if (bytes > longest_) return;
        const std::string_view both(symbols[left].text.data(), bytes);
        const auto found = ids_.find(both);
        if (found == ids_.end()) return;
        merges.push({pieces_[found->second].score, left, right, bytes});
        if (pieces_[found->second].kind == Kind::unused) split[both] = symbols[left].text.size();
    };
    for (uint32_t i = 1; i < symbols.size(); i++) propose(i - 1, i);
    while (!merges.empty()) {
        const Merge merge = merges.top();
        merges.pop();
        Symbol &left = symbols[merge.left], &right = symbols[merge.right];
        if (left.text.empty() || right.text.empty() || left.text.size() + right.text.size() != merge.bytes) continue;
        left.text = {left.text.data(), merge.bytes};
        left.next = right.next;
        if (right.next != nothing) symbols[right.next].previous = merge.left;
        right.text = {};
        propose(left.previous, merge.left);
        propose(merge.left, left.next);
    }

    std::vector<std::string_view> whole;    // a stack: the text's next piece on top
    for (const Symbol& symbol : symbols) {
        if (symbol.text.empty()) continue;
        whole.push_back(symbol.text);
        while (!whole.empty()) {
            const std::string_view piece = whole.back();
            whole.pop_back();
            if (const auto cut = split.find(piece); cut != split.end()) {
                whole.push_back(piece.substr(cut->second));
                whole.push_back(piece.substr(0, cut->second));
            } else push_piece(piece, ids);
        }
    }
}

/// The piece's id, or its bytes; a run of what has neither is one unknown token.
void Tokenizer::push_piece(std::string_view piece, std::vector<Token>& ids) const
{
    if (const auto found = ids_.find(piece); found != ids_.end()) {
        ids.push_back(found->second);
        return;
    }
    for (const char byte : piece) {
        const Token id = bytes_[uint8_t(byte)];
        if (id != unknown_ || ids.empty() || ids.back() != unknown_) ids.push_back(id);
    }
}

std::string Tokenizer::decode(const std::vector<Token>& ids) const
{
    Decoder decoder(*this);
    std::string text;
    for (const Token id : ids) text += decoder.push(id);
    return text + decoder.finish();
}

Decoder::Decoder(const Tokenizer& tokenizer, bool continues) : tokenizer_(&tokenizer), at_start_(tokenizer.space_prefix_ && !continues) {}

std::string Decoder::push(Token id)
{
    HEARTH_CHECK(id < tokenizer_->size());
    const Tokenizer::Piece& piece = tokenizer_->pieces_[id];
    switch (piece.kind) {
    case Tokenizer::Kind::control: return "";
    case Tokenizer::Kind::byte: held_ += char(piece.byte); break;
    case Tokenizer::Kind::unknown: held_ += unknown_mark; break;
    default: {
        std::string_view text = piece.text;
        if (at_start_ && text.starts_with(space_mark)) text.remove_prefix(space_mark.size());
        for (size_t at = 0; at < text.size();) {
            const bool space = text.substr(at).starts_with(space_mark);
            held_ += space ? ' ' : text[at];
            at += space ? space_mark.size() : 1;
        }
    }
    }
    at_start_ = false;

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
