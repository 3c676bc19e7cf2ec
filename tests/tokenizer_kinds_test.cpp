// Byte-level BPE and the unigram model on vocabularies small enough to see through. tests/tokenizers_test.py compares
// whole ones with their origins.
#include "engine/text/normal_form.h"
#include "engine/text/pretokenizer.h"
#include "engine/text/segmenter.h"
#include "tests/random_model.h"
#include "tests/tiny_tokenizer.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <ctime>

using namespace hearth;

TEST_SUITE_BEGIN("model");

namespace {

/// A byte-level vocabulary: <|end|>, the bytes (byte b is token 1 + b), then what merges make, then the rest.
struct ByteLevel : TokenList<ByteLevel> {
    std::vector<std::string> merges;
    std::string pre = "gpt-2";

    explicit ByteLevel(std::vector<std::string> list = {})
    {
        add("<|end|>", control);
        for (int b = 0, hidden = 256; b < 256; b++) {
            const int c = (b > 32 && b < 127) || (b > 160 && b != 173) ? b : hidden++;
            add(c < 128 ? std::string(1, char(c)) : std::string{char(0xc0 | c >> 6), char(0x80 | (c & 63))});
        }
        for (const std::string& merge : list) {
            merges.push_back(merge);
            std::string both = merge;
            both.erase(both.find(' '), 1);
            add(both);
        }
    }
    ByteLevel& cut_as(std::string name)
    {
        pre = std::move(name);
        return *this;
    }
    GgufWriter file() const
    {
        GgufWriter w = written("gpt2");
        w.key("tokenizer.ggml.pre", pre);
        w.key("tokenizer.ggml.merges", merges);
        w.key("tokenizer.ggml.eos_token_id", 0);
        return w;
    }
};

/// A unigram vocabulary: <pad> </s> <unk>, the bytes if asked for, then the list.
struct UnigramVocabulary : TokenList<UnigramVocabulary> {
    explicit UnigramVocabulary(bool with_bytes = false)
    {
        add("<pad>", control).add("</s>", control).add("<unk>", unknown);
        if (with_bytes) add_bytes();
    }
    GgufWriter file(bool space_prefix = false) const
    {
        GgufWriter w = written("t5");
        w.key("tokenizer.ggml.add_space_prefix", space_prefix);
        return w;
    }
};

std::vector<std::string> parts(const char* kind, std::string_view text)
{
    const auto views = Pretokenizer(*find_pretokenizer(kind)).parts(text);
    return {views.begin(), views.end()};
}

using Texts = std::vector<std::string>;

}    // namespace

TEST_CASE("byte-level merges go by their order in the list, the leftmost first, and stay inside words")
{
    const Owned t(ByteLevel({"a b", "b c", "a a", "aa aa", "\u0120 a"}).file());
    CHECK(t.cut("abc") == "ab|c");
    CHECK(t.cut("aaa") == "aa|a");
    CHECK(t.cut("aaaaa") == "aaaa|a");
    CHECK(t.cut("b c") == "b|\u0120|c");
    CHECK(t.cut("b a") == "b|\u0120a");
    CHECK(t.cut("") == "");
    CHECK(t.back(" a b  c\n") == " a b  c\n");    // no space is added or dropped
}

TEST_CASE("words are cut as each model's regular expressions say")
{
    CHECK(parts("gpt-2", "I'm 12345 old  men\n\n x") == Texts{"I", "'m", " 12345", " old", " ", " men", "\n\n", " x"});
    CHECK(parts("llama-bpe", "I'M 12345 old--\n\n x") == Texts{"I", "'M", " ", "123", "45", " old", "--\n\n", " x"});
    CHECK(parts("qwen2", "a 12 b") == Texts{"a", " ", "1", "2", " b"});
    CHECK(parts("smollm", "a 12 b") == Texts{"a", " ", "1", "2", " b"});
    CHECK(parts("falcon", "a 1234=b") == Texts{"a", " ", "123", "4", "=", "b"});
    CHECK(parts("falcon", "\u00f2") == Texts{"\xc3", "\xb2"});    // the byte reads as a superscript two in the alphabet
    CHECK(parts("deepseek-coder", "a 12\r\n(b)") == Texts{"a", " ", "1", "2", "\r", "\n", "(", "b", ")"});
    CHECK(parts("deepseek-llm", "a 12\r\n(b)  \u4f60\u597d  ") ==
          Texts{"a", " ", "1", "2", "\r", "\n", "(", "b", ")", "  ", "\u4f60\u597d", "  "});
    CHECK(parts("deepseek-v3", "f(x) 1234 _id.\n\n\u4f60\u3042") ==
          Texts{"f", "(x", ")", " ", "123", "4", " _", "id", ".\n\n", "\u4f60\u3042"});
    CHECK(parts("gpt-4o", "JavaScript isn't DON'T 1234 //\n/") ==
          Texts{"Java", "Script", " isn't", " DON'T", " ", "123", "4", " //\n/"});
    CHECK(parts("tekken", "JavaScript isn't 12") == Texts{"Java", "Script", " isn", "'t", " ", "1", "2"});
    CHECK(parts("qwen35", "\u0915\u093e x\u0301") == Texts{"\u0915\u093e", " x\u0301"});
    CHECK(parts("qwen2", "\u0915\u093e") == Texts{"\u0915", "\u093e"});
    CHECK(parts("kimi-k2", "a\u6f22\u5b57b 1234") == Texts{"a", "\u6f22\u5b57", "b", " ", "123", "4"});
    CHECK(parts("seed-coder", "a.\n\n1") == Texts{"a", ".", "\n\n", "1"});
    CHECK(parts("bailingmoe", "I'M.\n\n 12") == Texts{"I", "'M", ".\n\n", " ", "1", "2"});
    CHECK(parts("viking", "a(b) c, 12") == Texts{"a", "(", "b", ")", " c", ",", " ", "1", "2"});
    CHECK(parts("gpt-2", "a\u180e \u0085b") ==
          Texts{"a", "\u180e", " ", "\u0085", "b"});    // U+180E is no space, U+0085 is one
    CHECK(parts("llama-bpe", "a\xff\xfe b\xc3") ==
          Texts{"a", "\xff\xfe", " b", "\xc3"});    // no UTF-8: parts of their own
}

TEST_CASE("a whole word in the vocabulary wins where the model ignores merges for it")
{
    ByteLevel v({"a b"});
    v.add("abc");
    CHECK(Owned(v.cut_as("llama-bpe").file()).cut("abc") == "abc");
    CHECK(Owned(v.cut_as("smaug-bpe").file()).cut("abc") == "ab|c");
    for (const bool whole : {false, true}) {
        GgufWriter w = v.cut_as(whole ? "qwen2" : "llama-bpe").file();
        w.key("hearth.tokenizer.whole_words", whole);
        CHECK(Owned(w).cut("abc") == (whole ? "abc" : "ab|c"));
    }
    CHECK(Owned(v.cut_as("llama-bpe").file()).tokenizer.add_bos());
    CHECK_FALSE(Owned(v.cut_as("qwen2").file()).tokenizer.add_bos());
}

TEST_CASE("letters and the marks on them become one character where the model normalises text, and bytes that are not "
          "UTF-8 stay")
{
    const std::string_view text = "\377e\u0301\314a\u0301\u0323 \u1112\u1161\u11ab\u212b",
                           composed = "\377\u00e9\314\u1ea1\u0301 \ud55c\u00c5";
    GgufWriter w = ByteLevel().cut_as("qwen2").file();
    CHECK(Owned(w).cut(text) == Owned(w).cut(composed));
    CHECK(Owned(w).cut(text).size() > composed.size());
    w.key("hearth.tokenizer.nfc", false);
    CHECK(Owned(w).cut(text) != Owned(w).cut(composed));
    w = ByteLevel().cut_as("gpt-2").file();
    CHECK(Owned(w).cut(text) != Owned(w).cut(composed));
    w.key("hearth.tokenizer.nfc", true);
    CHECK(Owned(w).cut(text) == Owned(w).cut(composed));
}

TEST_CASE("added tokens cut a byte-level text and are spelled as they are")
{
    const Owned t(ByteLevel({"a b", "\u0120 a"})
                      .add("<|x|>", user_defined)
                      .add("<|x", user_defined)
                      .add("\u00e9 b", user_defined)
                      .file());
    CHECK(t.cut("ab<|x|>ab<|xab") == "ab|<|x|>|ab|<|x|ab");
    CHECK(t.cut("a\u00e9 b a") == "a|\u00e9 b|\u0120a");
    CHECK(t.back("a\u00e9 b a") == "a\u00e9 b a");
    CHECK(t.cut("a<|end|>").find("<|end|>") == std::string::npos);
    CHECK(t.cut("a<|end|>a", true) == "a|<|end|>|a");
    CHECK(t.tokenizer.decode(t.tokenizer.encode("a<|end|> a", true)) == "a a");
}

TEST_CASE("any bytes become byte-level tokens whose spelling gives them back, whatever cuts the words")
{
    std::string text;
    RandomNormal normal(12);
    for (int i = 0; i < 20000; i++) text += char(int(100 * normal()) & 255);
    for (const char* pre : {"gpt-2", "llama-bpe", "qwen2", "smollm", "falcon", "deepseek-coder"}) {
        INFO(pre);
        const Owned t(ByteLevel().cut_as(pre).file());
        const std::vector<Token> ids = t.tokenizer.encode(text);
        std::string bytes;
        for (const Token id : ids) bytes += char(id - 1);
        CHECK(bytes == (pre == std::string_view("qwen2") ? normal_form_c(text) : text));
        const std::string decoded = t.tokenizer.decode(ids);    // with replacement characters
        CHECK(t.back(decoded) == decoded);
    }
}

TEST_CASE("a megabyte without a space is tokenised as one word")
{
    for (const char* pre : {"gpt-2", "llama-bpe", "qwen2", "smollm", "falcon", "deepseek-coder"}) {
        INFO(pre);
        const Owned t(ByteLevel({"a b", "ab ab", "abab abab", "\u0120 \u0120", "1 1"}).cut_as(pre).file());
        for (const char* unit : {"ab", "  ", "11", "=-", "\r\n", " \t", "'s", "\u00e9"}) {
            std::string text;
            while (text.size() < 1 << 20) text += unit;
            CHECK(t.back(text) == text);
        }
    }
}

TEST_CASE("the time for a text grows with its length, whatever it consists of")
{
    const auto filled = [](auto& v, Kind single) {
        v.add("<|x|>", user_defined).add("<|y|>", control);
        for (int i = 0; i < 3000; i++)
            v.add(fmt::format("<unused{}>", i), 0, i % 2 ? user_defined : single);    // as Gemma has them
    };
    std::vector<std::pair<std::string, GgufWriter>> files;
    std::vector<const PretokenizerKind*> kinds;
    for (const PretokenizerKind& kind : pretokenizer_kinds()) {
        if (std::ranges::any_of(kinds, [&](const PretokenizerKind* k) { return k->cuts_like(kind); })) continue;
        kinds.push_back(&kind);
        ByteLevel v({"a b", "ab ab", "abab abab", "\u0120 \u0120", "\u0120\u0120 \u0120\u0120", "1 1", "a a", "aa aa"});
        filled(v, control);
        files.emplace_back(*kind.names.begin(), v.cut_as(std::string(*kind.names.begin())).file());
        files.back().second.key("hearth.tokenizer.nfc", true);
    }
    UnigramVocabulary v(true);
    for (const char* text : {"\u2581", "a", "b", "ab", "abab", "aa", "\u2581a", "\u2581\u2581", "1", "11", "\u00e9"})
        v.add(text, -1);
    v.add("aab", -1, unused).add("aabb", -2, unused);
    filled(v, control);
    for (const char* model : {"llama", "t5"}) {
        for (const bool single : {false, true}) {
            files.emplace_back(fmt::format("{}{}", model, single ? " with single spaces" : ""), v.written(model));
            files.back().second.key("tokenizer.ggml.remove_extra_whitespaces", single);
        }
    }
    const auto seconds = [](const Owned& t, std::string_view unit, size_t bytes) {
        std::string text;
        while (text.size() < bytes) text += unit;
        text += "x";
        const std::clock_t begin = std::clock();    // of this process, whatever else the machine does
        (void)t.tokenizer.encode(text, true);
        return double(std::clock() - begin) / CLOCKS_PER_SEC;
    };
    for (const auto& [name, file] : files) {
        const Owned t(file);
        for (const char* unit : {"ab", " ", "  \u4e2d", "1", "=-", "\r\n", " \n", "'s", "\u00e9", "\u0301\u0323", "aB",
                                 "\u3042A", "<", "<|x|>", "<|y|>", "<unused7>", "\xff", "\u1112\u1161\u11ab", ".\n/"}) {
            INFO(name, ": ", unit);
            const double once = seconds(t, unit, 1 << 15);
            CHECK(seconds(t, unit, 1 << 17) < 10 * once + 0.05);    // in the square of the length it is 16 times
        }
    }
}

TEST_CASE("a byte without a token is the unknown token, or left out where there is none")
{
    GgufWriter w;
    w.key("tokenizer.ggml.model", "gpt2");
    w.key("tokenizer.ggml.tokens", Texts{"<unk>", "a", "b"});
    w.key("tokenizer.ggml.token_type", std::vector<int32_t>{unknown, normal, normal});
    w.key("tokenizer.ggml.merges", Texts{});
    w.key("tokenizer.ggml.bos_token_id", 1);
    CHECK(Owned(w).cut("axyb") == "a|b");
    CHECK(Owned(w).tokenizer.eos() == 1);    // as its beginning: it names no other
    w.key("tokenizer.ggml.unknown_token_id", 0);
    CHECK(Owned(w).cut("axyb") == "a|<unk>|b");
    // What is left out is no border, as in the tokenizers library; a byte that merges on (of a pruned vocabulary) is
    // one.
    GgufWriter merging;
    merging.key("tokenizer.ggml.model", "gpt2");
    merging.key("tokenizer.ggml.pre", "gpt-2");
    merging.key("tokenizer.ggml.tokens", Texts{"<|end|>", "a", "b", "ab", "zab"});
    merging.key("tokenizer.ggml.token_type", std::vector<int32_t>{control, normal, normal, normal, normal});
    merging.key("tokenizer.ggml.merges", Texts{"a b", "z ab"});
    merging.key("tokenizer.ggml.eos_token_id", 0);
    CHECK(Owned(merging).cut("axyb") == "ab");
    CHECK(Owned(merging).cut("azb") == "a|b");
    CHECK(Owned(merging).cut("zab") == "zab");

    // No other token stands for them: not a control token that a key calls the unknown one, and not whatever is the
    // first.
    std::vector<Token> ids;
    for (const Kind kind : {control, normal, user_defined}) {
        w.remove("tokenizer.ggml.token_type");
        w.key("tokenizer.ggml.token_type", std::vector<int32_t>{kind, normal, normal});
        CHECK(Owned(w).tokenizer.encode("axyb\x04") == std::vector<Token>{1, 2});
        Owned(w).tokenizer.encode_bytes("axb\x04", ids);
        CHECK(ids == std::vector<Token>{1, 2});
        ids.clear();
    }
    struct NoUnknown : TokenList<NoUnknown> {
    } list;
    list.add("<s>", control).add("</s>", control).add("x", -1).add("a", -1).add("b", -1).add("\u2581", -1);
    for (const char* model : {"llama", "t5"}) {
        w = list.written(model);
        w.key("tokenizer.ggml.add_space_prefix", false);
        w.key("tokenizer.ggml.eos_token_id", 1);
        CHECK(Owned(w).cut("a\u2603b\xff") == "a|b");
        Owned(w).tokenizer.encode_bytes("a\u2603", ids);
        CHECK(ids.empty());    // it has no bytes at all
        w.key("tokenizer.ggml.unknown_token_id", 0);
        CHECK(Owned(w).cut("a\u2603b") == "a|b");
    }
}

TEST_CASE("a byte-level tokenizer that this program does not know, or that contradicts itself, is refused")
{
    CHECK(refusal(ByteLevel().cut_as("llama-v9").file())
              .find("rules 'llama-v9' (tokenizer.ggml.pre), which this version does not know: --override "
                    "tokenizer.ggml.pre=str:NAME names "
                    "others, of gpt-2, mpt, llama-bpe") != std::string::npos);
    const auto with_merge = [](std::string merge) {
        ByteLevel v;
        v.merges = {std::move(merge)};
        return refusal(v.file());
    };
    for (const char* merge : {"", " ", "a", "a ", " a", "a b c"}) {
        INFO(merge);
        CHECK(with_merge(merge).find(fmt::format("merge 0 is '{}', expected two tokens", merge)) != std::string::npos);
    }
    GgufWriter w = ByteLevel().file();
    w.remove("tokenizer.ggml.eos_token_id");
    CHECK(refusal(w).find("does not say which token begins or ends a text") != std::string::npos);
    w = ByteLevel().file();
    w.remove("tokenizer.ggml.merges");
    CHECK(refusal(w).find("tokenizer.ggml.merges") != std::string::npos);
    w = ByteLevel().file();
    w.remove("tokenizer.ggml.pre");
    CHECK(Owned(w).cut("1234") == "1|2|3|4");
}

TEST_CASE("merges lead through texts that no text may become, and are taken apart where they end there")
{
    // As a pruned vocabulary has them: merges of tokens that are gone, and of one that became a control token.
    ByteLevel v;
    v.merges = {"a b", "ab c", "f o", "fo x", "fox e", "x y", "xy z"};
    for (const char* text : {"abc", "fo", "foxe", "xyz"}) v.add(text);
    v.add("fox", control);
    const Owned t(v.file());
    CHECK(t.cut("ab") == "a|b");
    CHECK(t.cut("abc") == "abc");
    CHECK(t.cut("abab abc") == "a|b|a|b|\u0120|abc");
    CHECK(t.cut("fox") == "fo|x");
    CHECK(t.cut("foxe") == "foxe");
    CHECK(t.cut("fox", true) == "fox");
    CHECK(t.cut("xfox", true) == "x|fox");
    CHECK(t.cut("xyxyz") == "x|y|xyz");
    CHECK(t.back("fox abab xy") == "fox abab xy");

    // Where whole words go first, a control token is no word.
    CHECK(Owned(v.cut_as("llama-bpe").file()).cut("fox") == "fo|x");
    CHECK(Owned(v.cut_as("llama-bpe").file()).cut("foxe") == "foxe");

    // Holes, and the same text twice: the first that is used.
    ByteLevel holes({"a b"});
    holes.add("", unused).add("cd", unused).add("cd").add("cd").add("").add("[PAD7]", unused);
    holes.merges.push_back("c d");
    const Owned h(holes.file());
    CHECK(h.tokenizer.encode("cd") == std::vector<Token>{258 + 2});
    CHECK(h.cut("abcd") == "ab|cd");
}

TEST_CASE("a byte-level vocabulary without a file's word for its rules shows by which it was made, or a note says what "
          "was taken")
{
    const auto vocabulary = [](const std::vector<std::string>& texts) {
        ByteLevel v;
        for (const std::string& text : texts) v.add(text);
        GgufWriter w = v.file();
        w.remove("tokenizer.ggml.pre");
        return w;
    };
    const auto cut = [&](const std::vector<std::string>& texts, std::string_view text) {
        const Owned t(vocabulary(texts));
        REQUIRE(t.tokenizer.notes().size() == 1);    // small vocabularies are never certain
        CHECK(t.tokenizer.notes()[0].find("--override tokenizer.ggml.pre=str:NAME") != std::string::npos);
        return t.tokenizer.notes()[0].substr(t.tokenizer.notes()[0].find("'") + 1, text.size()) == text;
    };
    const std::string newline = "\u010a", space = "\u0120";
    CHECK(cut({}, "gpt-2"));
    CHECK(cut({space + "1234", "the"}, "gpt-2"));
    CHECK(cut({"123", "." + newline + newline, "the"}, "llama-bpe"));
    std::vector<std::string> many = {"." + newline + newline};
    for (char a = 'a'; a <= 'z'; a++)
        for (char b = 'a'; b <= 'z'; b++) many.push_back(std::string{a, b});
    CHECK(cut(many, "qwen2"));    // of so many merges one would be of two digits
    many.push_back("12");
    many.push_back("123");
    CHECK(cut(many, "llama-bpe"));
    many[0] = space + "1234";
    CHECK(cut(many, "gpt-2"));
    for (const char* name : {"default", "gpt-2"}) {    // writers say "default" where they do not know
        GgufWriter w = vocabulary({"123", "." + newline + newline});
        w.key("tokenizer.ggml.pre", name);
        CHECK(Owned(w).tokenizer.notes().size() == (name == std::string_view("default")));
    }

    // A token of a published vocabulary at its place is certain.
    ByteLevel qwen;
    while (qwen.texts.size() < 151643) qwen.add("");
    qwen.add("<|endoftext|>", control).add("<|im_start|>", control);
    GgufWriter w = qwen.file();
    w.remove("tokenizer.ggml.pre");
    CHECK(Owned(w).tokenizer.notes().empty());
    CHECK(Owned(w).cut("e\u0301") == Owned(w).cut("\u00e9"));    // Qwen's normal form C comes with it
}

TEST_CASE("tokens whose file does not give their types are what they read like")
{
    GgufWriter w = ByteLevel({"a b"}).add("<|im_end|>").file();
    w.remove("tokenizer.ggml.token_type");
    const Owned t(w);
    CHECK(t.cut("ab<|im_end|>").find("<|im_end|>") == std::string::npos);
    CHECK(t.cut("ab<|im_end|>", true) == "ab|<|im_end|>");
    CHECK(t.tokenizer.control(0));
    CHECK(t.tokenizer.ends().size() == 2);

    UnigramVocabulary u(true);
    u.add("a", -1).add("\u2581", -2);
    w = u.file();
    w.remove("tokenizer.ggml.token_type");
    CHECK(Owned(w).cut("a\u2603") == "a|<0xE2>|<0x98>|<0x83>");
    CHECK(Owned(w).back("a\u2603") == "a\u2603");
    CHECK(Owned(w).cut("a</s>", true) == "a|</s>");
}

TEST_CASE("the pieces with the highest sum of scores are chosen")
{
    const Owned t(
        UnigramVocabulary().add("a", -2).add("b", -2).add("c", -2).add("ab", -3).add("bc", -2.5).add("abc", -5).file());
    CHECK(t.cut("abc") == "a|bc");
    CHECK(t.cut("ab") == "ab");
    CHECK(t.cut("abcab") == "a|bc|ab");
    CHECK(t.cut("") == "");
    CHECK(t.tokenizer.eos() == 1);
    CHECK_FALSE(t.tokenizer.add_bos());
    CHECK(t.tokenizer.add_eos());
}

TEST_CASE("what a unigram vocabulary lacks becomes its bytes, or one unknown token for a run")
{
    CHECK(Owned(UnigramVocabulary().add("a", -1).file()).cut("a\u2603\u2603a\xff") == "a|<unk>|a|<unk>");
    CHECK(Owned(UnigramVocabulary(true).add("a", -1).file()).cut("a\u2603\xff") == "a|<0xE2>|<0x98>|<0x83>|<0xFF>");
    CHECK(Owned(UnigramVocabulary().add("a", -1).add("b", -1, unused).file()).cut("ab") == "a|<unk>");
}

TEST_CASE(
    "user-defined tokens of a unigram vocabulary win over pieces, whatever their score, and long ones over short ones")
{
    const Owned t(
        UnigramVocabulary().add("a", -1).add("b", -0.01f).add("ab", -0.9f).add("ba", -9, user_defined).file());
    CHECK(t.cut("ba") == "ba");
    CHECK(t.cut("aba") == "a|ba");    // -0.9 against -1.9
    UnigramVocabulary spaces;
    std::string run;
    for (int n = 1; n <= 5; n++) spaces.add(run += space_mark, -0.001f, n > 1 ? user_defined : normal);
    const Owned runs(spaces.file());
    const auto lengths = [&](size_t n) {
        std::vector<size_t> tokens;
        for (const Token id : runs.tokenizer.encode(std::string(n, ' ')))
            tokens.push_back(runs.tokenizer.piece(id).size() / space_mark.size());
        return tokens;
    };
    CHECK(lengths(6) ==
          std::vector<size_t>{
              2, 4});    // as sentencepiece 0.2.3 has it: 3 + 3 and 4 + 2 have the same sum, 1 + 5 has less
    CHECK(lengths(7) == std::vector<size_t>{3, 4});    // and here rounding puts 3 + 4 above 2 + 5
}

TEST_CASE("extra spaces are removed where the model was trained so")
{
    GgufWriter w = UnigramVocabulary().add("\u2581", -2).add("a", -2).add("\u2581a", -1).file(true);
    CHECK(Owned(w).cut("  a   a ") == "\u2581|\u2581|\u2581a|\u2581|\u2581|\u2581a|\u2581");
    CHECK(Owned(w).back("  a   a ") == "  a   a ");
    w.key("tokenizer.ggml.remove_extra_whitespaces", true);
    CHECK(Owned(w).cut("  a   a ") == "\u2581a|\u2581a");
    CHECK(Owned(w).back("  a   a ") == "a a");
    CHECK(Owned(w).cut("   ") == "");
}

TEST_CASE("a map of characters that is damaged is refused or does no harm")
{
    const auto with = [](std::vector<uint8_t> map) {
        GgufWriter w = UnigramVocabulary(true).add("a", -1).file();
        w.key("tokenizer.ggml.precompiled_charsmap", map);
        return w;
    };
    CHECK(refusal(with({})) == "");
    for (const std::vector<uint8_t>& map : {std::vector<uint8_t>{1},
                                            {4, 0, 0, 0},
                                            {0, 0, 0, 0, 0},
                                            {3, 0, 0, 0, 0, 0, 0},
                                            {8, 0, 0, 0, 0, 0, 0, 0},
                                            {255, 255, 255, 255, 0}})
        CHECK(refusal(with(map)).find("is not a map of characters") != std::string::npos);
    RandomNormal normal(13);
    std::string text;
    for (int i = 0; i < 300; i++) text += char(int(100 * normal()) & 255);
    for (int round = 0; round < 200; round++) {
        std::vector<uint8_t> map{0, 4, 0, 0};
        for (int i = 0; i < 1024 + round; i++) map.push_back(uint8_t(int(60 * normal())));
        for (size_t i = 4; i < 1028; i += 4) map[i + 2] = map[i + 3] = 0;    // offsets that mostly stay inside
        CHECK_NOTHROW(Owned(with(map)).back(text));
    }
}

TEST_SUITE_END();
