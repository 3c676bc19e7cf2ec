#include "engine/text/tokenizer_text.h"

#include "engine/text/utf8.h"

#include <cstring>

namespace hearth {

namespace {

/// One of a double array trie's numbers, as the darts-clone library packs it: the byte that leads here, where the next
/// ones are, and whether a key ends here, in which case the unit at the offset holds its value.
struct Unit {
    uint32_t bits;
    uint32_t label() const { return bits & 0x800000ffu; }
    uint32_t offset() const { return bits >> 10 << ((bits & 0x200u) >> 6); }
    bool ends_key() const { return bits >> 8 & 1u; }
    uint32_t value() const { return bits & 0x7fffffffu; }
};

}    // namespace

SentencePieceText::SentencePieceText(const Gguf& file, const Vocabulary& vocabulary) : vocabulary_(vocabulary)
{
    space_prefix_ = file.boolean("tokenizer.ggml.add_space_prefix", true);
    single_spaces_ = file.boolean("tokenizer.ggml.remove_extra_whitespaces", false);
    const auto* map = file.integers("tokenizer.ggml.precompiled_charsmap");
    if (!map || map->empty()) return;

    // The size of the trie, the trie, the replacements.
    const std::string bytes(map->begin(), map->end());
    uint32_t trie_bytes = 0;
    if (bytes.size() > sizeof trie_bytes) std::memcpy(&trie_bytes, bytes.data(), sizeof trie_bytes);
    if (!trie_bytes || trie_bytes % sizeof(uint32_t) || trie_bytes > bytes.size() - sizeof trie_bytes)
        throw Error("{}: tokenizer.ggml.precompiled_charsmap is not a map of characters; convert the model again",
                    file.path().string());
    trie_.resize(trie_bytes / sizeof(uint32_t));
    std::memcpy(trie_.data(), bytes.data() + sizeof trie_bytes, trie_bytes);
    replacements_ = bytes.substr(sizeof trie_bytes + trie_bytes);
}

Segmenter::Drop SentencePieceText::drop() const
{
    return single_spaces_ ? Segmenter::Drop::all : space_prefix_ ? Segmenter::Drop::one : Segmenter::Drop::nothing;
}

SentencePieceText::Step SentencePieceText::step(std::string_view rest) const
{
    if (const Token* token = vocabulary_.longest_added(rest, false))
        return {vocabulary_[*token].text, vocabulary_[*token].text.size(), true};
    Step longest{rest.substr(0, character_bytes(rest)), character_bytes(rest), false};
    if (trie_.empty()) return longest;
    size_t node = Unit{trie_[0]}.offset();
    for (size_t i = 0; i < rest.size(); i++) {
        node ^= uint8_t(rest[i]);
        if (node >= trie_.size() || Unit{trie_[node]}.label() != uint8_t(rest[i])) break;
        const Unit unit{trie_[node]};
        node ^= unit.offset();
        if (!unit.ends_key() || node >= trie_.size()) continue;
        const size_t begin = Unit{trie_[node]}.value(), end = replacements_.find('\0', begin);
        if (end != std::string::npos)
            longest = {std::string_view(replacements_).substr(begin, end - begin), i + 1, false};
    }
    return longest;
}

std::string SentencePieceText::marked(std::string_view text, bool begins) const
{
    std::string out;
    out.reserve(text.size() + text.size() / 2 + space_mark.size());
    size_t at = 0;
    if (single_spaces_) {
        while (at < text.size()) {
            const Step next = step(text.substr(at));
            if (next.text != " ") break;
            at += next.bytes;
        }
    }
    if (at == text.size()) return out;
    if (space_prefix_ && begins) out = space_mark;
    bool after_space = true;
    while (at < text.size()) {
        Step next = step(text.substr(at));
        at += next.bytes;
        while (single_spaces_ && after_space && next.text.starts_with(' ')) next.text.remove_prefix(1);
        if (next.text.empty()) continue;
        after_space = next.text.ends_with(' ');
        if (next.user_defined) out += next.text;    // with its spaces
        else
            for (const char c : next.text) c == ' ' ? out += space_mark : out += c;
    }
    while (single_spaces_ && out.ends_with(space_mark)) out.resize(out.size() - space_mark.size());
    return out;
}

void SentencePieceText::spell(std::string_view piece, std::string& bytes)
{
    for (size_t at = 0; at < piece.size();) {
        const bool space = piece.substr(at).starts_with(space_mark);
        bytes += space ? ' ' : piece[at];
        at += space ? space_mark.size() : 1;
    }
}

}    // namespace hearth
