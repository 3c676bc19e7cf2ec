// Text to ids and back, with added tokens. By GGUF's `tokenizer.ggml.model`: SentencePiece BPE ("llama"), byte-level
// BPE ("gpt2") and SentencePiece unigram ("t5").
#pragma once

#include "engine/text/vocabulary.h"

#include <memory>
#include <optional>
#include <string>

namespace hearth {

class Segmenter;

class Tokenizer {
  public:
    /// The file must outlive the tokenizer, which points into it.
    /// Throws Error if the file has no tokenizer, one of a kind that this program does not know (named), or one that
    /// contradicts itself.
    explicit Tokenizer(const Gguf& file);

    /// Ids of a UTF-8 text, without BOS, in n log n. Bytes of invalid UTF-8 and characters that the vocabulary lacks go
    /// through byte fallback (the tokens of single bytes in a byte-level vocabulary). User-defined tokens written out
    /// in the text are always recognised; control tokens ("<s>") only if `special`, and the text after one is tokenised
    /// on its own.
    std::vector<Token> encode(std::string_view text, bool special = false) const;

    /// The whole text of ids: what a Decoder gives, to the end. It is what `encode` was given, except that invalid
    /// UTF-8 comes back as U+FFFD and, with SentencePiece, U+2581 ("▁") as a space and characters that the model
    /// replaces as what it replaces them by.
    std::string decode(const std::vector<Token>& ids) const;

    /// The token as it stands in the vocabulary ("▁upon", "Ġupon", "<0x0A>", "<s>"); id < size().
    std::string_view piece(Token id) const { return vocabulary_->pieces[id].text; }

    /// Whether it is one that stands for no text ("<s>").
    bool control(Token id) const { return vocabulary_->pieces[id].kind == Vocabulary::Kind::control; }

    /// The control or user-defined token that reads so.
    std::optional<Token> added(std::string_view text) const;

    /// The longest control or user-defined token that a text, which is not empty, begins with.
    std::optional<Token> added_at(std::string_view text) const;

    /// The ordinary (normal or unused) token that reads so.
    std::optional<Token> named(std::string_view text) const;

    /// Appends the ids of a text that follows a control or user-defined token, as the model's own tokenizer cuts it:
    /// some take the white space behind them with them (`hearth.tokenizer.rstrip`), and SentencePiece puts a space
    /// before the text, or does not (`hearth.tokenizer.prefix_first`).
    void encode_behind(Token mark, std::string_view text, std::vector<Token>& ids) const;

    /// The ids of a text to go on from: behind BOS where the model wants one, or the text is empty.
    std::vector<Token> encode_prompt(std::string_view text) const;

    /// Appends the ids of a text's single bytes: no added token is recognised in it.
    void encode_bytes(std::string_view text, std::vector<Token>& ids) const;

    uint32_t size() const { return uint32_t(vocabulary_->pieces.size()); }
    Token bos() const { return bos_; }    // EOS where the model has no BOS
    Token eos() const { return eos_; }
    const std::vector<Token>& ends() const { return ends_; }    // every token that ends an answer, EOS first
    bool add_bos() const { return add_bos_; }
    bool add_eos() const { return add_eos_; }

    /// What the user should know: rules that had to be guessed.
    const std::vector<std::string>& notes() const;

  private:
    friend class Decoder;

    std::shared_ptr<const Vocabulary> vocabulary_;
    std::shared_ptr<const Segmenter> segmenter_;    // points into the vocabulary
    Token bos_, eos_;
    std::vector<Token> ends_;
    std::vector<Token> strips_right_;     // added tokens that take the white space behind them with them, ascending
    std::optional<bool> prefix_first_;    // a space is put before a whole text only, not before what follows a mark;
                                          // where the file says it
    bool add_bos_, add_eos_;
};

/// Text as tokens come: gives out whole UTF-8 characters only, holding back the bytes of an unfinished one.
class Decoder {
  public:
    /// `continues`: the text goes on from a prompt, so the first piece's leading space is kept.
    explicit Decoder(const Tokenizer& tokenizer, bool continues = false);

    /// The text that this token completes (may be empty); one that stands for a row of embeddings has none.
    std::string push(Token id);

    /// What was held back, at the end of the text; invalid UTF-8 comes out as U+FFFD.
    std::string finish();

  private:
    const Tokenizer* tokenizer_;
    bool at_start_;    // a space that the next piece begins with is dropped
    std::string held_;
};

}    // namespace hearth
