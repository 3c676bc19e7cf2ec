// What SentencePiece does to a text before it looks for pieces (sentencepiece/src/normalizer.cc): replacements of
// characters, spaces to marks.
#pragma once

#include "engine/text/segmenter.h"

namespace hearth {

class SentencePieceText {
  public:
    /// Reads `tokenizer.ggml.add_space_prefix`, `remove_extra_whitespaces` and `precompiled_charsmap`. The vocabulary
    /// must outlive this. Throws Error.
    SentencePieceText(const Gguf& file, const Vocabulary& vocabulary);

    /// The text as pieces spell it; `begins`: with the space before it that the model wants. User-defined tokens stay
    /// as they are, and so do bytes that are not UTF-8.
    std::string marked(std::string_view text, bool begins = true) const;

    Segmenter::Drop drop() const;    // of the leading spaces of a text that comes back

    /// What a piece stands for: its marks are spaces.
    static void spell(std::string_view piece, std::string& bytes);

  private:
    struct Step {
        std::string_view text;    // what stands there after replacement
        size_t bytes;             // of the source
        bool user_defined;
    };
    Step step(std::string_view rest) const;

    const Vocabulary& vocabulary_;
    bool space_prefix_, single_spaces_;
    std::vector<uint32_t> trie_;    // of the character map; empty where there is none
    std::string replacements_;      // texts that end with a zero byte
};

}    // namespace hearth
