// Text to ids and back.
#include "tests/random_model.h"
#include "tests/tiny_tokenizer.h"

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

using namespace hearth;

TEST_SUITE_BEGIN("model");

namespace {

/// A tokenizer made of a list of tokens. Token 0 is <unk>, 1 is <s>, 2 is </s>, then come the 256 bytes (from 3 on)
/// unless left out, then the list (from 259 on).
struct TinyVocabulary : TokenList<TinyVocabulary> {
    explicit TinyVocabulary(bool with_bytes = true)
    {
        add("<unk>", unknown).add("<s>", control).add("</s>", control);
        if (with_bytes) add_bytes();
    }
    GgufWriter file() const { return written("llama"); }
};

const Gguf& fairytale()
{
    static const Gguf file(std::filesystem::path(HEARTH_SOURCE) / "tests/data/fairytale-7m.gguf");
    return file;
}

}    // namespace

TEST_CASE("texts become the ids that SentencePiece gives, and come back")
{
    const Tokenizer tokenizer(fairytale());
    CHECK(tokenizer.size() == 4096);
    CHECK(tokenizer.bos() == 1);
    CHECK(tokenizer.add_bos());
    const auto cases =
        nlohmann::json::parse(std::ifstream(std::filesystem::path(HEARTH_SOURCE) / "tests/data/expected/tokens.json"));
    REQUIRE(cases.size() >= 20);
    for (const auto& entry : cases) {
        const std::string text = entry["text"];
        INFO(text);
        const std::vector<Token> ids = tokenizer.encode(text);
        CHECK(ids == entry["ids"].get<std::vector<Token>>());
        std::string expected = text;    // the mark of a space written out is a space ever after
        for (size_t at; (at = expected.find("\u2581")) != std::string::npos;) expected.replace(at, 3, 1, ' ');
        CHECK(tokenizer.decode(ids) == expected);

        Decoder streaming(tokenizer);
        std::string text_so_far;
        for (Token id : ids) text_so_far += streaming.push(id);
        CHECK(text_so_far + streaming.finish() == expected);
    }
}

TEST_CASE("any bytes become ids and come back, invalid UTF-8 as replacement characters")
{
    const Tokenizer tokenizer(fairytale());
    std::string text;
    RandomNormal normal(11);
    for (int i = 0; i < 20000; i++) text += char(int(100 * normal()) & 255);
    const std::vector<Token> ids = tokenizer.encode(text);
    const std::string decoded = tokenizer.decode(ids);
    CHECK(decoded.find("\uFFFD") != std::string::npos);
    CHECK_NOTHROW((void)nlohmann::json(decoded).dump());    // which throws where a text is not UTF-8
    CHECK(tokenizer.decode(tokenizer.encode(decoded)) == decoded);
}

TEST_CASE("a megabyte is tokenised as one text")
{
    const Tokenizer tokenizer(fairytale());
    std::string text;
    for (int i = 0; text.size() < 1 << 20; i++) text += i % 3 ? "once upon a time " : "there-was;a*queen\n";
    const std::vector<Token> ids = tokenizer.encode(text);
    CHECK(ids.size() < text.size() / 2);
    CHECK(tokenizer.decode(ids) == text);
    CHECK(tokenizer.decode(tokenizer.encode(std::string(1 << 19, ' '))) == std::string(1 << 19, ' '));
}

TEST_CASE("the best score merges first, and the leftmost among equals")
{
    TinyVocabulary v;
    for (const char* letter : {"\u2581", "a", "b", "c"}) v.add(letter, -10);
    v.add("ab", -2).add("bc", -1).add("aa", -4).add("aaaa", -5);
    const Owned t([&] {
        GgufWriter w = v.file();
        w.key("tokenizer.ggml.add_space_prefix", false);
        return w;
    }());
    CHECK(t.cut("abc") == "a|bc");
    CHECK(t.cut("aba") == "ab|a");
    CHECK(t.cut("aaa") == "aa|a");
    CHECK(t.cut("aaaaa") == "aaaa|a");
    CHECK(t.cut("cba") == "c|b|a");
    CHECK(t.cut("") == "");
    CHECK(t.tokenizer.decode(t.tokenizer.encode(" a")) == " a");
}

TEST_CASE("a text is given one leading space where the model was trained so, and loses exactly one when it comes back")
{
    const Owned t(TinyVocabulary().add("\u2581", -2).add("a", -3).add("\u2581a", -1).add("\u2581\u2581", -4));
    CHECK(t.cut("a") == "\u2581a");
    CHECK(t.cut(" a") == "\u2581|\u2581a");
    CHECK(t.cut("") == "");
    for (const char* text : {"a", " a", "  a ", "", " ", "   "})
        CHECK(t.tokenizer.decode(t.tokenizer.encode(text)) == text);

    const std::vector<Token> ids = t.tokenizer.encode("a");
    Decoder continued(t.tokenizer, true);
    CHECK(continued.push(ids[0]) == " a");
    Decoder fresh(t.tokenizer);
    CHECK(fresh.push(t.tokenizer.bos()) == "");    // prints nothing, and what follows is still the start
    CHECK(fresh.push(ids[0]) == "a");
    CHECK(fresh.push(ids[0]) == " a");
}

TEST_CASE(
    "user-defined tokens are matched before anything merges, the longest first; control tokens only where asked for")
{
    TinyVocabulary v;
    for (const char* text : {"\u2581", "a", "b", "<", "s", ">", "\u2581a", "s>", "<s"}) v.add(text, -1);
    v.add("<|x|>", 0, user_defined)
        .add("<|x", 0, user_defined)
        .add("b b", 0, user_defined)
        .add("\u2581\u2581\u2581", 0, user_defined);
    const Owned t(v);
    CHECK(t.cut("a<|x|>a") == "\u2581a|<|x|>|a");
    CHECK(t.cut("<|xa") == "\u2581|<|x|a");
    CHECK(t.cut("ab b") == "\u2581a|b b");                      // as converters of added tokens write them: with spaces
    CHECK(t.cut("a   a") == "\u2581a|\u2581\u2581\u2581|a");    // as SentencePiece has them: with marks
    CHECK(t.cut("a<s>") == "\u2581a|<s|>");
    CHECK(t.cut("<s>a</s>b", true) == "<s>|\u2581a|</s>|\u2581|b");
    CHECK(t.cut("<s></s>", true) == "<s>|</s>");
    CHECK(t.tokenizer.decode(t.tokenizer.encode("a<|x|>b b   a")) == "a<|x|>b b   a");
    CHECK(t.tokenizer.decode(t.tokenizer.encode("<s>a</s>", true)) == "a");
}

TEST_CASE("unused tokens lead to longer ones and are taken apart where they stay")
{
    TinyVocabulary v;
    for (const char* letter : {"\u2581", "a", "b", "c"}) v.add(letter, -10);
    v.add("ab", -1, unused).add("abc", -2).add("cc", -3, unused);
    const Owned t(v);
    CHECK(t.cut("abc") == "\u2581|abc");
    CHECK(t.cut("ab") == "\u2581|a|b");
    CHECK(t.cut("cccc") == "\u2581|c|c|c|c");
}

TEST_CASE("what the vocabulary lacks becomes its bytes, or one unknown token where there are none")
{
    const Owned with(TinyVocabulary().add("\u2581", -1).add("a", -1));
    CHECK(with.cut("a\u2603") == "\u2581|a|<0xE2>|<0x98>|<0x83>");
    CHECK(with.tokenizer.encode("\xff") == std::vector<Token>{259, 3 + 255});
    CHECK(with.cut("<0x41>").find("<0x41>") == std::string::npos);    // a byte token written out is text

    const Owned without(TinyVocabulary(false).add("\u2581", -1).add("a", -1));
    CHECK(without.cut("a\u2603\u2603a\xff") == "\u2581|a|<unk>|a|<unk>");
    CHECK(without.tokenizer.decode({3, 0, 4}) == " \u2047 a");
}

TEST_CASE("a decoder holds back the bytes of an unfinished character")
{
    const Owned t(TinyVocabulary().add("\u2581a", -1).add("b", -1));
    const auto byte_token = [](int b) { return Token(3 + b); };
    Decoder d(t.tokenizer);
    CHECK(d.push(byte_token(0xf0)) == "");
    CHECK(d.push(byte_token(0x9f)) == "");
    CHECK(d.push(byte_token(0x99)) == "");
    CHECK(d.push(byte_token(0x82)) == "\U0001F642");
    CHECK(d.push(byte_token(0xe2)) == "");
    CHECK(d.push(260) == "\uFFFD"
                         "b");    // cut off by another character
    CHECK(d.push(259) == " a");
    CHECK(d.push(byte_token(0xe2)) == "");
    CHECK(d.push(byte_token(0x98)) == "");
    CHECK(d.finish() == "\uFFFD");
    CHECK(d.finish() == "");
    CHECK(d.push(byte_token(0x41)) == "A");
}

TEST_CASE("invalid UTF-8 is replaced by maximal subparts")
{
    const Owned t{TinyVocabulary()};
    const std::string r = "\uFFFD";
    const struct {
        std::string_view bytes;
        std::string expected;
    } cases[] = {
        {"\x80", r},
        {"\xff\xfe", r + r},
        {"\xc0\x80", r + r},                    // overlong
        {"\xe0\x80\x80", r + r + r},            // overlong
        {"\xed\xa0\x80", r + r + r},            // a surrogate
        {"\xf4\x90\x80\x80", r + r + r + r},    // above U+10FFFF
        {"\xf0\x9f\x99"
         "A",
         r + "A"},
        {"\xe2\x98"
         "\xe2\x98\x83",
         r + "\u2603"},
        // the Unicode standard's table 3-8
        {"\x61\xf1\x80\x80\xe1\x80\xc2\x62\x80\x63\x80\xbf\x64", "a" + r + r + r + "b" + r + "c" + r + r + "d"},
    };
    for (const auto& [bytes, expected] : cases) {
        std::vector<Token> ids;
        for (char b : bytes) ids.push_back(Token(3 + uint8_t(b)));
        CHECK(t.tokenizer.decode(ids) == expected);
    }
}

TEST_CASE("a tokenizer of another kind, or one that contradicts itself, is refused")
{
    const auto changed = [](std::string_view key, const auto& value) {
        GgufWriter w = TinyVocabulary().add("a", -1).file();
        w.remove(key);
        w.key(key, value);
        return refusal(w);
    };
    const auto with = [](std::string text, float score, int32_t kind) {
        return refusal(TinyVocabulary().add(text, score, Kind(kind)).file());
    };
    CHECK(refusal(GgufWriter()) == "model.gguf has no key tokenizer.ggml.model; convert the model again");
    CHECK(changed("tokenizer.ggml.model", "bert") ==
          "model.gguf has a tokenizer of the kind bert, which this version does not know; it knows llama, gpt2, t5");
    CHECK(changed("tokenizer.ggml.tokens", "a").find("tokenizer.ggml.tokens is not an array of texts") !=
          std::string::npos);
    CHECK(changed("tokenizer.ggml.scores", std::vector<float>{1}).find("260 tokens, 1 scores and 260 types") !=
          std::string::npos);
    CHECK(changed("tokenizer.ggml.scores", std::vector<int>{1}).find("tokenizer.ggml.scores is not") !=
          std::string::npos);
    CHECK(changed("tokenizer.ggml.token_type", std::vector<int32_t>{}).find("260 scores and 0 types") !=
          std::string::npos);
    CHECK(changed("tokenizer.ggml.bos_token_id", 260).find("bos_token_id is 260, expected less than 260") !=
          std::string::npos);
    CHECK(changed("tokenizer.ggml.eos_token_id", UINT32_MAX).find("eos_token_id") != std::string::npos);
    CHECK(changed("tokenizer.ggml.unknown_token_id", int32_t(-1)).find("unknown_token_id is -1") != std::string::npos);
    CHECK(changed("tokenizer.ggml.add_space_prefix", 1).find("add_space_prefix is not true or false") !=
          std::string::npos);
    CHECK(with("a", NAN, normal).find("score of token 259 is nan") != std::string::npos);
    CHECK(with("a", INFINITY, normal).find("score of token 259 is inf") != std::string::npos);
    CHECK(with("a", 0, 0).find("token 259 is of the unknown type 0") != std::string::npos);
    CHECK(with("a", 0, 7).find("token 259 is of the unknown type 7") != std::string::npos);
    for (const char* text : {"", "a", "<0x4>", "<0xG0>", "<0x-1>", "<0x411>"})
        CHECK(with(text, 0, byte).find("expected <0x00> to <0xFF>") != std::string::npos);
}

TEST_CASE("every token that ends an answer is known: by the file's keys, whatever their form, and by its name")
{
    const auto ends = [](const auto& change) {
        TinyVocabulary v;    // whose </s> is EOS
        v.add("a", -1).add("<|x|>", control).add("<|y|>", control).add("<fim>", control);
        GgufWriter w = change(v);
        const Owned t(w);
        std::string s;
        for (const Token id : t.tokenizer.ends()) s += t.tokenizer.piece(id);
        CHECK(t.tokenizer.ends().front() == t.tokenizer.eos());
        return s;
    };
    const auto with = [&](const char* key, const auto& value) {
        return ends([&](const TinyVocabulary& v) {
            GgufWriter w = v.file();
            w.key(fmt::format("tokenizer.ggml.{}", key), value);
            return w;
        });
    };
    using Ids = std::vector<uint32_t>;
    CHECK(ends([](const TinyVocabulary& v) { return v.file(); }) == "</s>");
    CHECK(with("eot_token_id", 260) == "</s><|x|>");
    CHECK(with("eom_token_id", 261) == "</s><|y|>");
    CHECK(with("eot_token_id", 259) == "</s>a");    // whatever its type
    CHECK(with("eos_token_ids", Ids{2, 260, 261, 260}) == "</s><|x|><|y|>");
    CHECK(with("eos_token_ids", std::vector<int32_t>{261, 2}) == "</s><|y|>");
    CHECK(with("eos_token_ids", Ids{}) == "</s>");
    CHECK(with("eos_token_ids", 261) == "</s><|y|>");
    CHECK(with("eos_token_id", Ids{260, 2}) == "<|x|></s>");
    CHECK(with("eot_token_ids", Ids{260, 261}) == "</s><|x|><|y|>");
    CHECK(ends([](const TinyVocabulary& v) {
              GgufWriter w = v.file();
              w.key("tokenizer.ggml.fim_mid_token_id", 262);
              w.key("tokenizer.ggml.middle_token_id", 261);
              w.key("tokenizer.ggml.eot_token_id", 262);
              w.key("tokenizer.ggml.eom_token_id", 261);
              return w;
          }) == "</s>");    // filling in the middle is no end

    const auto named = [&](std::initializer_list<const char*> texts, Kind kind) {
        return ends([&](TinyVocabulary& v) {
            for (const char* text : texts) v.add(text, 0, kind);
            return v.file();
        });
    };
    const auto marks = {"<|eot_id|>", "<|im_end|>",    "<end_of_turn>", "<EOT>",
                        "</s>",       "<|endoftext|>", "<|eom_id|>",    "<|end|>"};
    std::string all = "</s>";
    for (const char* text : marks) all += text;
    CHECK(named(marks, control) == all);
    CHECK(named(marks, user_defined) == all);
    CHECK(named(marks, normal) == "</s><|eot_id|><|im_end|><end_of_turn><|endoftext|><|eom_id|><|end|>");
    CHECK(named(marks, unused) == "</s>");
    CHECK(named({"<|end|>", "<|return|>", "<|call|>"}, control) ==
          "</s><|return|><|call|>");    // gpt-oss: <|end|> ends a thought, too
    CHECK(named({"<|eot|>x", "<|im_start|>", "<|fim_pad|>", "<pad>", "<unk>"}, control) == "</s>");

    const auto refused = [](const char* key, const auto& value) {
        GgufWriter w = TinyVocabulary().file();
        w.key(fmt::format("tokenizer.ggml.{}", key), value);
        return refusal(w);
    };
    CHECK(refused("eot_token_id", 259) == "model.gguf: tokenizer.ggml.eot_token_id is 259, expected less than 259");
    CHECK(
        refused("eom_token_id", UINT32_MAX).find("tokenizer.ggml.eom_token_id is 4294967295, expected less than 259") !=
        std::string::npos);
    CHECK(refused("eot_token_id", int32_t(-1)).find("tokenizer.ggml.eot_token_id is -1") != std::string::npos);
    CHECK(refused("eos_token_ids", Ids{2, 300}).find("tokenizer.ggml.eos_token_ids is 300, expected less than 259") !=
          std::string::npos);
    CHECK(refused("eos_token_ids", std::vector<int32_t>{-5}).find("tokenizer.ggml.eos_token_ids is -5") !=
          std::string::npos);
    CHECK(refused("eot_token_id", "<s>").find("tokenizer.ggml.eot_token_id is not an integer") != std::string::npos);
    CHECK(refused("eos_token_ids", std::vector<float>{2}).find("tokenizer.ggml.eos_token_ids is not an integer") !=
          std::string::npos);
}

TEST_CASE("odd vocabularies work: empty, equal and non-UTF-8 pieces")
{
    const Owned t(TinyVocabulary()
                      .add("", 0)
                      .add("", 0, user_defined)
                      .add("a", -1)
                      .add("a", -2)
                      .add("\xff\xfe", -1)
                      .add("\u2581", -1)
                      .add("<s>", 0));
    CHECK(t.tokenizer.encode("a") == std::vector<Token>{264, 261});
    CHECK(t.tokenizer.decode({259, 260, 261, 262, 263}) == "aa\uFFFD\uFFFD");
    CHECK(t.cut("<s>", true) == "<s>");
    CHECK(t.tokenizer.encode("<s>", true) == std::vector<Token>{1});
}

TEST_SUITE_END();
