// Tokenizers made of a list of tokens, small enough to see through.
#pragma once

#include "engine/text/tokenizer.h"
#include "tests/gguf_writer.h"

namespace hearth {

enum Kind : int32_t { normal = 1, unknown, control, user_defined, unused, byte };    // as files number them

/// Tokens in the order of their ids. `Self` is the vocabulary that begins with it.
template <class Self>
struct TokenList {
    std::vector<std::string> texts;
    std::vector<float> scores;
    std::vector<int32_t> kinds;

    Self& add(std::string text, float score = 0, Kind kind = normal)
    {
        texts.push_back(std::move(text));
        scores.push_back(score);
        kinds.push_back(kind);
        return static_cast<Self&>(*this);
    }
    Self& add(std::string text, Kind kind) { return add(std::move(text), 0, kind); }

    /// The 256 single bytes.
    void add_bytes()
    {
        for (int b = 0; b < 256; b++) add(fmt::format("<0x{:02X}>", b), byte);
    }

    /// A file of this kind of tokenizer (`tokenizer.ggml.model`).
    GgufWriter written(const char* model) const
    {
        GgufWriter w;
        w.key("tokenizer.ggml.model", model);
        w.key("tokenizer.ggml.tokens", texts);
        w.key("tokenizer.ggml.scores", scores);
        w.key("tokenizer.ggml.token_type", kinds);
        return w;
    }
};

/// A tokenizer with the file it points into.
struct Owned {
    std::string bytes;
    Gguf file;
    Tokenizer tokenizer;

    explicit Owned(const GgufWriter& w) : bytes(w.bytes()), file("model.gguf", bytes), tokenizer(file) {}
    template <class Self>
    explicit Owned(const TokenList<Self>& list) : Owned(static_cast<const Self&>(list).file())
    {
    }

    /// The pieces that a text becomes, with a bar between.
    std::string cut(std::string_view text, bool special = false) const
    {
        std::string s;
        for (Token id : tokenizer.encode(text, special))
            s += fmt::format("{}{}", s.empty() ? "" : "|", tokenizer.piece(id));
        return s;
    }
    std::string back(std::string_view text) const { return tokenizer.decode(tokenizer.encode(text)); }
};

/// Why a file has no tokenizer that can be used; empty if it has.
inline std::string refusal(const GgufWriter& w)
{
    try {
        Owned owned(w);
        return "";
    } catch (const Error& error) {
        return error.what();
    }
}

}    // namespace hearth
