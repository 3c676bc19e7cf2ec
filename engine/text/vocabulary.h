// A model's tokens as its file lists them, and what every kind of tokenizer looks up in them.
#pragma once

#include "engine/file/gguf.h"

#include <algorithm>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace hearth {

using Token = uint32_t;

constexpr Token no_token = UINT32_MAX;

/// Tokens from here on are no words: in a text that is fed they stand for rows of embeddings
/// (engine/run/embedded_rows.h). No vocabulary reaches so far.
constexpr Token first_row_token = 1u << 31;
constexpr bool is_row(Token token) { return token >= first_row_token; }

/// The tokens that a key names: a number or a list of them; none where there is no such key. Throws Error where one is
/// not in the vocabulary.
std::vector<Token> tokens_of_key(const Gguf& file, std::string_view key);

/// Texts, sorted, so that those with the same beginning lie side by side.
class PrefixIndex {
  public:
    void add(std::string_view text, Token id);    // not an empty text
    void sort();                                  // after all were added; of equal texts the lowest id is found

    /// Calls found(text, id) for every entry that the text begins with, the shortest first.
    template <class Found>
    void for_each_prefix(std::string_view text, const Found& found) const
    {
        if (text.empty() || !begins_[uint8_t(text[0])]) return;
        auto first = entries_.begin(), last = entries_.end();
        for (size_t i = 0; i < text.size(); i++) {
            const uint8_t byte = uint8_t(text[i]);
            first = std::partition_point(
                first, last, [&](const Entry& e) { return e.first.size() <= i || uint8_t(e.first[i]) < byte; });
            last = std::partition_point(first, last, [&](const Entry& e) { return uint8_t(e.first[i]) == byte; });
            if (first == last) return;
            if (first->first.size() == i + 1) found(first->first, first->second);
        }
    }

    /// The longest entry that the text begins with; nullptr where there is none.
    const Token* longest(std::string_view text) const;

  private:
    using Entry = std::pair<std::string_view, Token>;
    std::vector<Entry> entries_;
    bool begins_[256] = {};    // whether an entry begins with this byte
};

struct Vocabulary {
    enum class Kind : uint8_t {
        normal = 1,
        unknown,
        control,
        user_defined,
        unused,
        byte
    };    // numbered as in the file
    struct Piece {
        std::string_view text;
        float score;    // 0 where the file has none
        Kind kind;
        uint8_t byte;    // of Kind::byte
    };

    /// `scored`: it is SentencePiece's, and the file must have a score for every token. `unknown` counts only where
    /// that token is marked as the unknown one. Where the file has no types of tokens, their texts say what they are.
    /// The file must outlive this. Throws Error.
    Vocabulary(const Gguf& file, bool scored, Token unknown);

    /// The longest user-defined (or, if `special`, control) token that the text begins with; nullptr if there is none.
    const Token* longest_added(std::string_view text, bool special) const
    {
        return (special ? added : user_defined).longest(text);
    }

    /// Appends the piece's id, or its bytes'; a run of what has neither is one unknown token, or nothing where there is
    /// none.
    void push_piece(std::string_view piece, std::vector<Token>& out) const;
    void push_bytes(std::string_view piece, std::vector<Token>& out) const;

    const Piece& operator[](Token id) const { return pieces[id]; }

    std::vector<Piece> pieces;
    std::unordered_map<std::string_view, Token>
        ids;                            // of what a text can become: not control, unknown or byte tokens
    size_t longest = 0;                 // text in ids, in bytes
    PrefixIndex user_defined, added;    // tokens of that kind; the same and control tokens
    Token bytes[256];                   // the unknown token where a byte has none
    Token unknown;                      // no_token where there is none
};

}    // namespace hearth
