// Text to ids and back: SentencePiece BPE (GGUF `tokenizer.ggml.model` = "llama") with byte fallback and added tokens.
#pragma once

#include "engine/model/gguf.h"

#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace hearth {

using Token = uint32_t;

class Tokenizer {
  public:
    /// The file must outlive the tokenizer, which points into it.
    /// Throws Error if the file has no tokenizer, one of a kind that this program does not know (named), or one that contradicts itself.
    explicit Tokenizer(const Gguf& file);

    /// Ids of a UTF-8 text, without BOS, in n log n. Bytes of invalid UTF-8 and characters that the vocabulary lacks go through byte fallback.
    /// User-defined tokens written out in the text are always recognised, as SentencePiece does; control tokens ("<s>") only if `special`, and the
    /// text after one is tokenised on its own.
    std::vector<Token> encode(std::string_view text, bool special = false) const;

    /// The whole text of ids: what a Decoder gives, to the end. It is what `encode` was given, except that U+2581 ("▁") comes back as a space and
    /// invalid UTF-8 as U+FFFD.
    std::string decode(const std::vector<Token>& ids) const;

    /// The token as it stands in the vocabulary ("▁upon", "<0x0A>", "<s>"); id < size().
    std::string_view piece(Token id) const { return pieces_[id].text; }

    uint32_t size() const { return uint32_t(pieces_.size()); }
    Token bos() const { return bos_; }
    Token eos() const { return eos_; }
    bool add_bos() const { return add_bos_; }

  private:
    friend class Decoder;
    enum class Kind : uint8_t { normal = 1, unknown, control, user_defined, unused, byte };    // numbered as in the file
    struct Piece {
        std::string_view text;
        float score;
        Kind kind;
        uint8_t byte;    // of Kind::byte
    };

    const Token* longest_added(std::string_view text, bool special) const;
    void encode_part(std::string_view text, std::vector<Token>& ids) const;
    void push_piece(std::string_view piece, std::vector<Token>& ids) const;

    std::vector<Piece> pieces_;
    std::unordered_map<std::string_view, Token> ids_;    // of what can come out of merging: not control, unknown or byte tokens
    size_t longest_ = 0;                                 // text in ids_, in bytes
    std::vector<Token> added_[256];                      // user-defined and control tokens by first byte, longest text first
    Token bytes_[256] = {};                              // the unknown token where a byte has none
    Token bos_ = 0, eos_ = 0, unknown_ = 0;
    bool add_bos_ = true, space_prefix_ = true;
};

/// Text as tokens come: gives out whole UTF-8 characters only, holding back the bytes of an unfinished one.
class Decoder {
  public:
    /// `continues`: the text goes on from a prompt, so the first piece's leading space is kept.
    explicit Decoder(const Tokenizer& tokenizer, bool continues = false);

    /// The text that this token completes (may be empty).
    std::string push(Token id);

    /// What was held back, at the end of the text; invalid UTF-8 comes out as U+FFFD.
    std::string finish();

  private:
    const Tokenizer* tokenizer_;
    bool at_start_;
    std::string held_;
};

}    // namespace hearth
