// Byte pair encoding over bytes, as GPT-2 introduced it (Radford et al. 2019, section 2.2). Tokens stand in the vocabulary in an alphabet that gives
// every byte a visible character; merges are a list, the first the most wanted.
#include "engine/model/normal_form.h"
#include "engine/model/pretokenizer.h"
#include "engine/model/segmenter.h"
#include "engine/model/tokenizer_merge.h"
#include "engine/model/utf8.h"

#include <algorithm>

namespace hearth {

namespace {

/// Printable Latin-1 stands for itself; the others follow from U+0100 on, in order.
struct Alphabet {
    static constexpr size_t size = 324;
    int16_t byte_of[size];       // by character; -1 where it stands for none
    std::string text_of[256];    // UTF-8

    Alphabet()
    {
        std::fill(std::begin(byte_of), std::end(byte_of), int16_t(-1));
        for (int byte = 0, next = 256; byte < 256; byte++) {
            const bool visible = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte != 0xad);
            const int character = visible ? byte : next++;
            byte_of[character] = int16_t(byte);
            if (character < 0x80) text_of[byte] = char(character);
            else text_of[byte] = {char(0xc0 | character >> 6), char(0x80 | (character & 63))};
        }
    }
};

const Alphabet& alphabet()
{
    static const Alphabet a;
    return a;
}

/// Appends the bytes that a token's text stands for; false, with nothing appended, if it is not in the alphabet.
bool append_bytes(std::string_view text, std::string& bytes)
{
    const size_t before = bytes.size();
    for (size_t at = 0; at < text.size();) {
        const uint8_t lead = uint8_t(text[at]);
        const bool two = lead >= 0xc2 && lead <= 0xc5 && at + 1 < text.size() && uint8_t(text[at + 1]) >> 6 == 2;
        const size_t character = two ? size_t(lead & 31) << 6 | (uint8_t(text[at + 1]) & 63) : lead;
        if ((!two && lead >= 0x80) || character >= Alphabet::size || alphabet().byte_of[character] < 0) {
            bytes.resize(before);
            return false;
        }
        bytes += char(alphabet().byte_of[character]);
        at += two ? 2 : 1;
    }
    return true;
}

class ByteBpe : public Segmenter {
  public:
    ByteBpe(const Gguf& file, const Vocabulary& vocabulary, const PretokenizerKind& kind) : vocabulary_(vocabulary), pretokenizer_(kind)
    {
        add_bos = kind.add_bos;
        normalised_ = file.boolean("hearth.tokenizer.nfc", kind.normal_form_c);
        for (int byte = 0; byte < 256; byte++) {
            const auto found = vocabulary.ids.find(alphabet().text_of[byte]);
            bytes_[byte] = found == vocabulary.ids.end() ? no_token : found->second;
        }
        const auto& merges = file.strings("tokenizer.ggml.merges");
        unions_.reserve(merges.size());
        std::string both;
        for (size_t i = 0; i < merges.size(); i++) {
            const size_t space = merges[i].find(' ');
            const std::string_view left = merges[i].substr(0, space), right = space < merges[i].size() ? merges[i].substr(space + 1) : "";
            both.assign(left).append(right);
            const auto a = vocabulary.ids.find(left), b = vocabulary.ids.find(right), ab = vocabulary.ids.find(both);
            if (left.empty() || right.empty() || a == vocabulary.ids.end() || b == vocabulary.ids.end() || ab == vocabulary.ids.end())
                throw Error("{}: merge {} is '{:.60}', expected two tokens with a space between, which together are one; convert the model again",
                            file.path().string(), i, printable(merges[i]));
            unions_.emplace(key(a->second, b->second), Union{-double(i), ab->second});    // of equal ones the first
        }
        if (!kind.whole_words) return;
        for (Token id = 0; id < vocabulary.pieces.size(); id++)
            if (std::string bytes; vocabulary[id].kind == Vocabulary::Kind::normal && append_bytes(vocabulary[id].text, bytes))
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
        for (const char byte : text) {
            if (const Token id = bytes_[uint8_t(byte)]; id != no_token) ids.push_back(id);
            else vocabulary_.push_bytes({&byte, 1}, ids);
        }
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
            for (size_t i = 0; i < part.size(); i++) {
                const Token id = bytes_[uint8_t(part[i])];
                symbols.push_back({part.substr(i, 1), id, id == no_token});
            }
            merge_neighbours(symbols, [&](const Symbol& left, const Symbol& right) -> std::optional<Union> {
                const auto found = unions_.find(key(left.id, right.id));
                if (found == unions_.end()) return {};
                return found->second;
            });
            for (const Symbol& symbol : symbols) {
                if (symbol.text.empty()) continue;
                if (symbol.fixed) vocabulary_.push_bytes(symbol.text, ids);
                else ids.push_back(symbol.id);
            }
        }
    }

    const Vocabulary& vocabulary_;
    Pretokenizer pretokenizer_;
    bool normalised_;
    Token bytes_[256];
    std::unordered_map<uint64_t, Union> unions_;      // by the ids of both
    std::unordered_map<std::string, Token> words_;    // by their bytes, where whole words go first
};

}    // namespace

std::unique_ptr<Segmenter> make_byte_bpe(const Gguf& file, const Vocabulary& vocabulary)
{
    const bool falcon = file.string("general.architecture", "") == "falcon";    // whose older files do not name it
    const std::string_view name = file.string("tokenizer.ggml.pre", falcon ? "falcon" : "default");
    const PretokenizerKind* kind = find_pretokenizer(name);
    if (!kind)
        throw Error("{} cuts text into words by the rules '{:.60}' (tokenizer.ggml.pre), which this version does not know; it knows {}",
                    file.path().string(), printable(name), pretokenizer_names());
    return std::make_unique<ByteBpe>(file, vocabulary, *kind);
}

}    // namespace hearth
