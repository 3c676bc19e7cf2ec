// Which rules a byte-level vocabulary was trained with, where its file does not name them.
#pragma once

#include "engine/text/pretokenizer.h"
#include "engine/text/vocabulary.h"

namespace hearth {

struct PretokenizerGuess {
    const PretokenizerKind* kind;
    bool certain;    // no other rules that are known come near to fitting this vocabulary
};

/// Three kinds of evidence, the first that decides:
/// - a token by which a published vocabulary is known stands at its place;
/// - merges never cross a cut, so rules that cut the vocabulary's own tokens apart are not those that it was made with;
/// - what rules leave whole and every text is full of (numbers of two digits, a line end after a full stop) is a token
/// of
///   every vocabulary that they make, so where it is missing, rules that cut it are likelier.
/// A small vocabulary, or one that several rules fit equally, is never certain: the kind is the best guess then.
PretokenizerGuess guess_pretokenizer(const Vocabulary& vocabulary);

}    // namespace hearth
