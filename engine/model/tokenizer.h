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
    /// Throws Error if the file has no tokenizer, or one of a kind that this program does not know (named).
    explicit Tokenizer(const Gguf& file);

    /// Ids of a UTF-8 text, without BOS. Invalid UTF-8 bytes go through byte fallback. Control and user-defined tokens written out in the text are
    /// recognised only if `special`.
    std::vector<Token> encode(std::string_view text, bool special = false) const;

    /// The whole text of ids: what a Decoder gives, to the end.
    std::string decode(const std::vector<Token>& ids) const;

    /// The token as it stands in the vocabulary ("▁upon", "<0x0A>", "<s>").
    std::string_view piece(Token id) const { return pieces_[id].text; }

    uint32_t size() const { return uint32_t(pieces_.size()); }
    Token bos() const { return bos_; }
    Token eos() const { return eos_; }
    bool add_bos() const { return add_bos_; }

  private:
    friend class Decoder;
    enum class Kind : uint8_t { normal, unknown, control, user_defined, unused, byte };
    struct Piece {
        std::string_view text;
        float score;
        Kind kind;
        uint8_t byte;    // of Kind::byte
    };
    std::vector<Piece> pieces_;
    std::unordered_map<std::string_view, Token> ids_;
    Token bytes_[256] = {};
    std::vector<Token> added_;    // user-defined and control tokens, longest text first
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

}  // namespace hearth
