// Byte pair encoding over bytes, as GPT-2 introduced it (Radford et al. 2019, section 2.2). Tokens stand in the
// vocabulary in an alphabet that gives every byte a visible character; merges are a list, the first the most wanted.
#include "engine/text/byte_alphabet.h"
#include "engine/text/normal_form.h"
#include "engine/text/pretokenizer_guess.h"
#include "engine/text/segmenter.h"
#include "engine/text/tokenizer_merge.h"
#include "engine/text/utf8.h"

#include <algorithm>

namespace hearth {

namespace {

class ByteBpe : public Segmenter {
  public:
    ByteBpe(const Gguf& file, const Vocabulary& vocabulary, const PretokenizerKind& kind)
        : vocabulary_(vocabulary), pretokenizer_(kind)
    {
        add_bos = kind.add_bos;
        normalised_ = file.boolean("hearth.tokenizer.nfc", kind.normal_form_c);
        for (int byte = 0; byte < 256; byte++) bytes_[byte] = id_of(character_of_byte(uint8_t(byte)));
        const auto& merges = file.strings("tokenizer.ggml.merges");
        unions_.reserve(merges.size());
        std::string both;
        for (size_t i = 0; i < merges.size(); i++) {
            const size_t space = merges[i].find(' ');
            const std::string_view left = merges[i].substr(0, space),
                                   right = space < merges[i].size() ? merges[i].substr(space + 1) : "";
            if (left.empty() || right.empty() || right.find(' ') != right.npos)
                throw Error(
                    "{}: merge {} is '{:.60}', expected two tokens with a space between; convert the model again",
                    file.path().string(), i, printable(merges[i]));
            both.assign(left).append(right);
            const Token a = id_of(left), b = id_of(right), ab = id_of(both);
            unions_.emplace(key(a, b), Union{-double(i), ab});    // of equal ones the first
            if (ab >= vocabulary.pieces.size()) {
                Half& half = halves_[ab - vocabulary.pieces.size()];
                if (half.left == no_token) half = {a, b};
            }
            for (const Token id : {a, b})
                if (id >= vocabulary.pieces.size()) halves_[id - vocabulary.pieces.size()].merges = true;
        }
        if (!file.boolean("hearth.tokenizer.whole_words", kind.whole_words)) return;
        for (Token id = 0; id < vocabulary.pieces.size(); id++)
            if (std::string bytes;
                vocabulary[id].kind == Vocabulary::Kind::normal && append_bytes(vocabulary[id].text, bytes))
                words_.emplace(std::move(bytes), id);
    }

    void encode(std::string_view text, std::vector<Token>& ids) const override
    {
        size_t begin = 0;
        for (size_t at = 0; at < text.size();) {
            const Token* token = vocabulary_.longest_added(text.substr(at), false);
            const size_t length = token ? vocabulary_[*token].text.size() : 1;
            if (token) {
                encode_plain(text.substr(begin, at - begin), ids);
                ids.push_back(*token);
                begin = at + length;
            }
            at += length;
        }
        encode_plain(text.substr(begin), ids);
    }

    void encode_bytes(std::string_view text, std::vector<Token>& ids) const override
    {
        for (const char byte : text) push(bytes_[uint8_t(byte)], ids);
    }

    void spell(std::string_view piece, Vocabulary::Kind kind, std::string& bytes) const override
    {
        if (kind == Vocabulary::Kind::user_defined || !append_bytes(piece, bytes)) bytes += piece;
    }

  private:
    static uint64_t key(Token left, Token right) { return uint64_t(left) << 32 | right; }

    /// A text without added tokens.
    void encode_plain(std::string_view text, std::vector<Token>& ids) const
    {
        std::string normal;
        if (normalised_) text = normal = normal_form_c(text);
        std::vector<Symbol> symbols;
        std::string word;
        for (const std::string_view part : pretokenizer_.parts(text)) {
            if (!words_.empty()) {
                word = part;
                if (const auto found = words_.find(word); found != words_.end()) {
                    ids.push_back(found->second);
                    continue;
                }
            }
            symbols.clear();
            for (size_t i = 0; i < part.size(); i++)
                if (const Token id = bytes_[uint8_t(part[i])]; !dropped(id))
                    symbols.push_back({part.substr(i, 1), id, false});
            merge_neighbours(symbols, [&](const Symbol& left, const Symbol& right) -> std::optional<Union> {
                const auto found = unions_.find(key(left.id, right.id));
                if (found == unions_.end()) return {};
                return found->second;
            });
            for (const Symbol& symbol : symbols)
                if (!symbol.text.empty()) push(symbol.id, ids);
        }
    }

    /// The id of a text in merges. What is no token, or none that a text may become (a control token, one that was
    /// pruned), has an id above the vocabulary's: merges lead through it.
    Token id_of(std::string_view text)
    {
        if (const auto found = vocabulary_.ids.find(text); found != vocabulary_.ids.end()) return found->second;
        const auto [entry, added] = beyond_.emplace(text, Token(vocabulary_.pieces.size() + halves_.size()));
        if (added) halves_.push_back({});
        return entry->second;
    }

    /// Appends a token; in place of one that is not in the vocabulary the two that it was merged from, and so on. A
    /// single byte that has none is the unknown token, or nothing.
    void push(Token id, std::vector<Token>& ids) const
    {
        const size_t size = vocabulary_.pieces.size();
        if (id < size) return ids.push_back(id);
        std::vector<Token> rest = {id};    // a stack
        while (!rest.empty()) {
            const Token next = rest.back();
            rest.pop_back();
            if (next < size) ids.push_back(next);
            else if (const Half& half = halves_[next - size]; half.left != no_token)
                rest.insert(rest.end(), {half.right, half.left});
            else if (vocabulary_.unknown != no_token && (ids.empty() || ids.back() != vocabulary_.unknown))
                ids.push_back(vocabulary_.unknown);
        }
    }

    /// Whether a byte is left out before anything merges, so that what is around it may merge, as the tokenizers
    /// library has it.
    bool dropped(Token id) const
    {
        const size_t size = vocabulary_.pieces.size();
        return id >= size && !halves_[id - size].merges && vocabulary_.unknown == no_token;
    }

    struct Half {    // what a text beyond the vocabulary was merged from; nothing where it is a single byte
        Token left = no_token, right = no_token;
        bool merges = false;    // on, into something else
    };

    const Vocabulary& vocabulary_;
    Pretokenizer pretokenizer_;
    bool normalised_;
    Token bytes_[256];
    std::unordered_map<uint64_t, Union> unions_;       // by the ids of both
    std::unordered_map<std::string, Token> beyond_;    // texts of merges that are not in the vocabulary
    std::vector<Half> halves_;                         // of them, in the order of their ids
    std::unordered_map<std::string, Token> words_;     // by their bytes, where whole words go first
};

}    // namespace

std::unique_ptr<Segmenter> make_byte_bpe(const Gguf& file, const Vocabulary& vocabulary)
{
    constexpr const char* pre_key = "tokenizer.ggml.pre";
    const bool falcon = file.string("general.architecture", "") == "falcon";    // whose older files do not name it
    const std::string_view name = file.string(pre_key, falcon ? "falcon" : "default");
    const std::string advice = fmt::format("--override {}=str:NAME names others, of {}", pre_key, pretokenizer_names());
    PretokenizerGuess found = {find_pretokenizer(name), true};
    if (!found.kind && name == "default")
        found = guess_pretokenizer(vocabulary);    // writers call rules so that they do not know
    if (!found.kind)
        throw Error("{} cuts text into words by the rules '{:.60}' ({}), which this version does not know: {}",
                    file.path().string(), printable(name), pre_key, advice);
    auto segmenter = std::make_unique<ByteBpe>(file, vocabulary, *found.kind);
    if (!found.certain)
        segmenter->notes.push_back(fmt::format("{} does not say by which rules text is cut into words ({}); '{}' fits "
                                               "its vocabulary best and is taken: {}",
                                               file.path().filename().string(), pre_key, *found.kind->names.begin(),
                                               advice));
    return segmenter;
}

}    // namespace hearth
