// How a byte-level tokenizer cuts a text into words before it merges: regular expressions, one after the other, by
// `tokenizer.ggml.pre`.
#pragma once

#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace hearth {

struct PretokenizerKind {
    std::initializer_list<std::string_view> names;    // in `tokenizer.ggml.pre`
    /// Each cuts the parts that the one before left; what lies between two matches is a part, too.
    std::initializer_list<std::string_view> patterns;
    /// The same afterwards, matched with bytes instead of characters.
    std::initializer_list<std::string_view> byte_patterns = {};
    bool whole_words = false;      // a part that is in the vocabulary is its token, whatever the merges say
                                   // (`ignore_merges` in tokenizer.json); where the file does not say
    bool add_bos = false;          // where the file does not say
    bool normal_form_c = false;    // a text is brought into it before it is cut; where the file does not say

    /// Whether both cut every text alike.
    bool cuts_like(const PretokenizerKind& other) const;
};

std::span<const PretokenizerKind> pretokenizer_kinds();

/// nullptr where no kind has that name.
const PretokenizerKind* find_pretokenizer(std::string_view name);

/// A name of each kind, for messages.
std::string pretokenizer_names();

class Pretokenizer {
  public:
    explicit Pretokenizer(const PretokenizerKind& kind);
    ~Pretokenizer();

    /// The parts of a text, in order; together they are the text. A run of bytes that are not UTF-8 is a part of its
    /// own.
    std::vector<std::string_view> parts(std::string_view text) const;

  private:
    class Pattern;
    std::vector<std::unique_ptr<Pattern>> patterns_;
};

}    // namespace hearth
