// What the kinds of tokenizers have in common, behind Tokenizer: a text without control tokens becomes ids, and a token
// becomes text.
#pragma once

#include "engine/text/vocabulary.h"

#include <memory>
#include <string>

namespace hearth {

constexpr std::string_view space_mark = "\u2581";    // how a space stands in a SentencePiece vocabulary

class Segmenter {
  public:
    enum class Drop { nothing, one, all };    // of the spaces that a text begins with when it comes back

    virtual ~Segmenter() = default;

    /// Appends the ids of a text. User-defined tokens in it are recognised.
    virtual void encode(std::string_view text, std::vector<Token>& ids) const = 0;

    /// The same of a text that goes on, so that no space is put before it.
    virtual void encode_on(std::string_view text, std::vector<Token>& ids) const { encode(text, ids); }

    /// Appends the ids of a text's single bytes, whatever the text looks like.
    virtual void encode_bytes(std::string_view text, std::vector<Token>& ids) const = 0;

    /// Appends the bytes that (the rest of) a token's piece stands for. Not called for control, unknown and byte
    /// tokens.
    virtual void spell(std::string_view piece, Vocabulary::Kind kind, std::string& bytes) const = 0;

    Drop drop = Drop::nothing;
    bool add_bos = false;              // where the file does not say
    std::vector<std::string> notes;    // for the user: what had to be guessed
};

/// The vocabulary must outlive what these make. They throw Error where the file's keys do not fit.
std::unique_ptr<Segmenter> make_sentencepiece_bpe(const Gguf& file, const Vocabulary& vocabulary);
std::unique_ptr<Segmenter> make_unigram(const Gguf& file, const Vocabulary& vocabulary);
std::unique_ptr<Segmenter> make_byte_bpe(const Gguf& file, const Vocabulary& vocabulary);

}    // namespace hearth
