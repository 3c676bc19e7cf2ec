// The unigram language model of SentencePiece (sentencepiece/src/unigram_model.cc; Kudo 2018,
// https://arxiv.org/abs/1804.10959): of all ways to cut a text into pieces the one with the highest sum of scores,
// found by Viterbi's algorithm.
#include "engine/text/tokenizer_text.h"
#include "engine/text/utf8.h"

#include <algorithm>
#include <cfloat>

namespace hearth {

namespace {

class Unigram : public Segmenter {
  public:
    Unigram(const Gguf& file, const Vocabulary& vocabulary) : vocabulary_(vocabulary), text_(file, vocabulary)
    {
        drop = text_.drop();
        float least = FLT_MAX;
        for (const Vocabulary::Piece& piece : vocabulary.pieces)
            if (piece.kind == Vocabulary::Kind::normal) least = std::min(least, piece.score);
        unknown_score_ = least - 10;    // SentencePiece's penalty
        for (const auto& [text, id] : vocabulary.ids)
            if (!text.empty()) sorted_.add(text, id);
        sorted_.sort();
    }

    void encode(std::string_view text, std::vector<Token>& ids) const override
    {
        encode_marked(text_.marked(text), ids);
    }
    void encode_on(std::string_view text, std::vector<Token>& ids) const override
    {
        encode_marked(text_.marked(text, false), ids);
    }

    void encode_marked(std::string_view marked, std::vector<Token>& ids) const
    {
        struct Best {
            float score = 0;    // of the text up to here
            size_t begin = SIZE_MAX;
        };
        std::vector<Best> best(marked.size() + 1);    // by where the last piece ends
        for (size_t at = 0; at < marked.size();) {
            const float before = best[at].score;
            const std::string_view rest = marked.substr(at);
            const size_t character = character_bytes(rest);
            const auto offer =
                [&](size_t bytes, float score) {    // in fp32, as SentencePiece does it, so that ties fall the same way
                    Best& end = best[at + bytes];
                    if (end.begin == SIZE_MAX || score + before > end.score) end = {score + before, at};
                };
            bool known = false;    // the first character is a piece
            sorted_.for_each_prefix(rest, [&](std::string_view piece, Token id) {
                if (vocabulary_[id].kind == Vocabulary::Kind::unused) return;
                const bool user_defined = vocabulary_[id].kind == Vocabulary::Kind::user_defined;
                offer(piece.size(), user_defined ? user_defined_score(piece.size()) : vocabulary_[id].score);
                known = known || piece.size() == character;
            });
            if (!known) offer(character, unknown_score_);
            at += character;
        }

        std::vector<std::string_view> pieces;    // from the end on
        for (size_t end = marked.size(); end; end = best[end].begin)
            pieces.push_back(marked.substr(best[end].begin, end - best[end].begin));
        for (auto piece = pieces.rbegin(); piece != pieces.rend(); ++piece) push(*piece, ids);
    }

    void encode_bytes(std::string_view text, std::vector<Token>& ids) const override
    {
        vocabulary_.push_bytes(text, ids);
    }

    void spell(std::string_view piece, Vocabulary::Kind, std::string& bytes) const override
    {
        SentencePieceText::spell(piece, bytes);
    }

  private:
    /// An unused token is no piece of a text, whatever it reads.
    void push(std::string_view piece, std::vector<Token>& ids) const
    {
        const auto found = vocabulary_.ids.find(piece);
        if (found == vocabulary_.ids.end() || vocabulary_[found->second].kind != Vocabulary::Kind::unused)
            vocabulary_.push_piece(piece, ids);
        else vocabulary_.push_bytes(piece, ids);
    }

    /// More than pieces of the same text have, whose scores are logarithms of probabilities; two short ones have less
    /// than a long one. Rounded where SentencePiece (from 0.2.2 on; before, all had the same) rounds it, which decides
    /// between cuts of a run into as many tokens of other lengths.
    static float user_defined_score(size_t bytes) { return float(double(bytes) * 0.1 - 0.1); }

    const Vocabulary& vocabulary_;
    SentencePieceText text_;
    PrefixIndex sorted_;
    float unknown_score_;
};

}    // namespace

std::unique_ptr<Segmenter> make_unigram(const Gguf& file, const Vocabulary& vocabulary)
{
    return std::make_unique<Unigram>(file, vocabulary);
}

}    // namespace hearth
