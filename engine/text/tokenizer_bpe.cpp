// Byte pair encoding as SentencePiece does it (sentencepiece/src/bpe_model.cc): the pair of neighbours whose union has
// the best score becomes one symbol, until no union is in the vocabulary.
#include "engine/text/tokenizer_merge.h"
#include "engine/text/tokenizer_text.h"
#include "engine/text/utf8.h"

namespace hearth {

namespace {

class SentencePieceBpe : public Segmenter {
  public:
    SentencePieceBpe(const Gguf& file, const Vocabulary& vocabulary) : vocabulary_(vocabulary), text_(file, vocabulary)
    {
        drop = text_.drop();
        add_bos = true;
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
        std::vector<Symbol> symbols;
        for (size_t at = 0; at < marked.size();) {
            const std::string_view rest = marked.substr(at);
            const Token* token = vocabulary_.longest_added(rest, false);
            const size_t length = token ? vocabulary_[*token].text.size() : character_bytes(rest);
            symbols.push_back({rest.substr(0, length), no_token, token != nullptr});
            at += length;
        }

        // Unused tokens merge on towards longer ones, but what ends as one is taken apart again; this is where.
        std::unordered_map<std::string_view, size_t> split;
        merge_neighbours(symbols, [&](const Symbol& left, const Symbol& right) -> std::optional<Union> {
            const std::string_view both(left.text.data(), left.text.size() + right.text.size());
            if (both.size() > vocabulary_.longest) return {};
            const auto found = vocabulary_.ids.find(both);
            if (found == vocabulary_.ids.end()) return {};
            const Vocabulary::Piece& piece = vocabulary_[found->second];
            if (piece.kind == Vocabulary::Kind::unused) split[both] = left.text.size();
            return Union{piece.score, found->second};
        });

        std::vector<std::string_view> whole;    // a stack: the text's next piece on top
        for (const Symbol& symbol : symbols) {
            if (symbol.text.empty()) continue;
            whole.push_back(symbol.text);
            while (!whole.empty()) {
                const std::string_view piece = whole.back();
                whole.pop_back();
                if (const auto cut = split.find(piece); cut != split.end()) {
                    whole.push_back(piece.substr(cut->second));
                    whole.push_back(piece.substr(0, cut->second));
                } else vocabulary_.push_piece(piece, ids);
            }
        }
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
    const Vocabulary& vocabulary_;
    SentencePieceText text_;
};

}    // namespace

std::unique_ptr<Segmenter> make_sentencepiece_bpe(const Gguf& file, const Vocabulary& vocabulary)
{
    return std::make_unique<SentencePieceBpe>(file, vocabulary);
}

}    // namespace hearth
