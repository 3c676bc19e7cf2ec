// A model's tokens as its file lists them, and what every kind of tokenizer looks up in them.
#pragma once

#include "engine/model/gguf.h"

#include <string_view>
#include <unordered_map>
#include <vector>

namespace hearth {

using Token = uint32_t;

constexpr Token no_token = UINT32_MAX;

/// The tokens that a key names: a number or a list of them; none where there is no such key. Throws Error where one is not in the vocabulary.
std::vector<Token> tokens_of_key(const Gguf& file, std::string_view key);

struct Vocabulary {
    enum class Kind : uint8_t { normal = 1, unknown, control, user_defined, unused, byte };    // numbered as in the file
    struct Piece {
        std::string_view text;
        float score;    // 0 where the file has none
        Kind kind;
        uint8_t byte;    // of Kind::byte
    };

    /// `scored`: the file must have a score for every token. `unknown` may be no_token. The file must outlive this. Throws Error.
    Vocabulary(const Gguf& file, bool scored, Token unknown);

    /// The longest user-defined (or, if `special`, control) token that the text begins with; nullptr if there is none.
    const Token* longest_added(std::string_view text, bool special) const;

    /// Appends the piece's id, or its bytes'; a run of what has neither is one unknown token, or nothing where there is none.
    void push_piece(std::string_view piece, std::vector<Token>& out) const;
    void push_bytes(std::string_view piece, std::vector<Token>& out) const;

    const Piece& operator[](Token id) const { return pieces[id]; }

    std::vector<Piece> pieces;
    std::unordered_map<std::string_view, Token> ids;    // of what a text can become: not control, unknown or byte tokens
    size_t longest = 0;                                 // text in ids, in bytes
    std::vector<Token> added[256];                      // user-defined and control tokens by first byte, longest text first
    Token bytes[256];                                   // the unknown token where a byte has none
    Token unknown;
};

}    // namespace hearth
