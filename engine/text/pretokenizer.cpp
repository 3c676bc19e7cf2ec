#include "engine/text/pretokenizer.h"

#include "engine/error.h"
#include "engine/text/utf8.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>

namespace hearth {

namespace {

constexpr std::string_view gpt2 = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr std::string_view llama3 = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|)"
                                    R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view qwen2 = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|)"
                                   R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view qwen35 = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}|)"
                                    R"( ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
// The newer rules of OpenAI's (o200k) and Mistral's (tekken): capitals begin a word.
constexpr std::string_view o200k =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
    R"(\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view tekken = R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|)"
                                    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|)"
                                    R"(\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
// Kimi's is o200k with Chinese characters apart, which the original writes as an intersection of classes.
constexpr std::string_view kimi = R"([\p{sc:Han}]+|)"
                                  R"([^\r\n\p{L}\p{N}]?(?:(?!\p{sc:Han})[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}])*)"
                                  R"((?:(?!\p{sc:Han})[\p{Ll}\p{Lm}\p{Lo}\p{M}])+)"
                                  R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
                                  R"([^\r\n\p{L}\p{N}]?(?:(?!\p{sc:Han})[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}])+)"
                                  R"((?:(?!\p{sc:Han})[\p{Ll}\p{Lm}\p{Lo}\p{M}])*)"
                                  R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
                                  R"(\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view seed = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|)"
                                  R"( ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view bailing = R"('(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}|)"
                                     R"( ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+)";
constexpr std::string_view bloom = R"( ?[^(\s|.,!?\x{2026}\x{3002}\x{ff0c}\x{3001}\x{964}\x{6d4}\x{60c})]+)";
constexpr std::string_view digit = R"(\p{N})";
constexpr std::string_view three_digits = R"(\p{N}{1,3})";
// In some tokenizer.json the line ends of a class are written out, which is the same.
constexpr std::string_view deepseek3_words =
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|)"
    R"(\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view deepseek3_cjk = R"([\x{4e00}-\x{9fa5}\x{3040}-\x{309f}\x{30a0}-\x{30ff}]+)";
constexpr std::string_view deepseek_cjk = R"([\x{4e00}-\x{9fa5}\x{800}-\x{4e00}\x{ac00}-\x{d7ff}]+)";
/// Letters with case, of the alphabets of Unicode 11.
constexpr std::string_view deepseek_letters =
    R"(\s?[A-Za-z\x{b5}\x{c0}-\x{d6}\x{d8}-\x{f6}\x{f8}-\x{1ba}\x{1bc}-\x{1bf}\x{1c4}-\x{293}\x{295}-\x{2af})"
    R"(\x{370}-\x{373}\x{376}\x{377}\x{37b}-\x{37d}\x{37f}\x{386}\x{388}-\x{38a}\x{38c}\x{38e}-\x{3a1})"
    R"(\x{3a3}-\x{3f5}\x{3f7}-\x{481}\x{48a}-\x{52f}\x{531}-\x{556}\x{10a0}-\x{10c5}\x{13a0}-\x{13f5})"
    R"(\x{13f8}-\x{13fd}\x{1c90}-\x{1cba}\x{1cbd}-\x{1cbf}\x{1d00}-\x{1d2b}\x{1d6b}-\x{1d77}\x{1d79}-\x{1d9a})"
    R"(\x{1e00}-\x{1f15}\x{1f18}-\x{1f1d}\x{1f20}-\x{1f45}\x{1f48}-\x{1f4d}\x{1f50}-\x{1f57}\x{1f59}\x{1f5b})"
    R"(\x{1f5d}\x{1f5f}-\x{1f7d}\x{1f80}-\x{1fb4}\x{1fb6}-\x{1fbc}\x{1fbe}\x{1fc2}-\x{1fc4}\x{1fc6}-\x{1fcc})"
    R"(\x{1fd0}-\x{1fd3}\x{1fd6}-\x{1fdb}\x{1fe0}-\x{1fec}\x{1ff2}-\x{1ff4}\x{1ff6}-\x{1ffc}\x{2102}\x{2107})"
    R"(\x{210a}-\x{2113}\x{2115}\x{2119}-\x{211d}\x{2124}\x{2126}\x{2128}\x{212a}-\x{212d}\x{212f}-\x{2134}\x{2139})"
    R"(\x{213c}-\x{213f}\x{2145}-\x{2149}\x{214e}\x{2183}\x{2184}\x{2c00}-\x{2c7b}\x{2c7e}-\x{2ce4})"
    R"(\x{2ceb}-\x{2cee}\x{2cf2}\x{2cf3}\x{a640}-\x{a66d}\x{a680}-\x{a69b}\x{a722}-\x{a76f}\x{a771}-\x{a787})"
    R"(\x{a78b}-\x{a78e}\x{ab70}-\x{abbf}\x{fb00}-\x{fb06}\x{fb13}-\x{fb17}\x{ff21}-\x{ff3a}\x{ff41}-\x{ff5a})"
    R"(\x{10400}-\x{1044f}\x{104b0}-\x{104d3}\x{104d8}-\x{104fb}\x{10c80}-\x{10cb2}\x{10cc0}-\x{10cf2})"
    R"(\x{118a0}-\x{118df}\x{1e900}-\x{1e943}]+)";
/// Its punctuation, and spaces at the end: of a run of them only the first can begin a match, which the original leaves
/// to be found out, in the square of its length.
constexpr std::string_view deepseek_marks =
    R"(\s?[!-/:-~\x{ff01}-\x{ff0f}\x{ff1a}-\x{ff5e}\x{2018}-\x{201f}\x{3000}-\x{3002}]+)";
constexpr std::string_view spaces_at_end = R"((?<!\s)\s++\z)";

// As the models' tokenizer.json have them, under the names that converters to GGUF use.
const PretokenizerKind kinds[] = {
    {.names = {"gpt-2", "opt", "phi-2", "jais", "jina-es", "jina-de", "jina-v2-es", "jina-v2-de", "gigachat", "a.x-4.0",
               "mellum", "modern-bert", "exaone4", "trillion", "granite-docling"},
     .patterns = {gpt2}},
    {.names = {"mpt", "olmo"}, .patterns = {gpt2}, .normal_form_c = true},
    {.names = {"llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2",
               "jina-v5-nano"},
     .patterns = {llama3},
     .whole_words = true,
     .add_bos = true},
    {.names = {"smaug-bpe", "dbrx", "glm4", "chatglm-bpe"}, .patterns = {llama3}},
    {.names = {"qwen2", "deepseek-r1-qwen", "stablelm2"}, .patterns = {qwen2}, .normal_form_c = true},
    {.names = {"megrez", "hunyuan", "solar-open", "grok-2", "kormo"}, .patterns = {qwen2}},
    {.names = {"qwen35"}, .patterns = {qwen35}, .normal_form_c = true},
    {.names = {"gpt-4o", "llama4", "kanana2", "minimax-m2"}, .patterns = {o200k}},
    {.names = {"tekken"}, .patterns = {tekken}, .whole_words = true, .add_bos = true},
    {.names = {"smollm", "refact", "starcoder", "codeshell", "exaone", "minerva-7b"}, .patterns = {digit, gpt2}},
    {.names = {"command-r"}, .patterns = {digit, gpt2}, .normal_form_c = true},
    // Its digits are cut in GPT-2's alphabet for bytes, in which these six stand for themselves and are numeric: the
    // bytes of ² ³ ¹ ¼ ½ ¾ in Latin-1.
    {.names = {"falcon"},
     .patterns = {R"([\p{P}$+<=>^`|~]+)", gpt2},
     .byte_patterns = {R"([0-9\xb2\xb3\xb9\xbc\xbd\xbe]+)", "[0-9][0-9][0-9]"}},
    {.names = {"deepseek-coder"}, .patterns = {R"([\r\n])", R"(\s?\p{L}+)", R"(\s?\p{P}+)", deepseek_cjk, digit}},
    {.names = {"deepseek-llm"},
     .patterns = {R"([\r\n])", deepseek_letters, deepseek_marks, spaces_at_end, deepseek_cjk, digit}},
    {.names = {"deepseek-v3", "hunyuan-dense", "joyai-llm", "hyv4"},
     .patterns = {three_digits, deepseek3_cjk, deepseek3_words}},
    {.names = {"seed-coder"}, .patterns = {seed}},
    {.names = {"bailingmoe", "bailingmoe2", "llada-moe"}, .patterns = {bailing}},
    {.names = {"kimi-k2"}, .patterns = {kimi}},
    {.names = {"bloom", "gpt3-finnish", "poro-chat"}, .patterns = {bloom}},
    {.names = {"viking"}, .patterns = {bloom, digit}},
};

}    // namespace

bool PretokenizerKind::cuts_like(const PretokenizerKind& other) const
{
    return std::ranges::equal(patterns, other.patterns) && std::ranges::equal(byte_patterns, other.byte_patterns);
}

std::span<const PretokenizerKind> pretokenizer_kinds() { return kinds; }

const PretokenizerKind* find_pretokenizer(std::string_view name)
{
    for (const PretokenizerKind& kind : kinds)
        for (const std::string_view known : kind.names)
            if (known == name) return &kind;
    return nullptr;
}

std::string pretokenizer_names()
{
    std::string names;
    for (const PretokenizerKind& kind : kinds)
        names += fmt::format("{}{}", names.empty() ? "" : ", ", *kind.names.begin());
    return names;
}

/// A compiled regular expression. Matching may use all the time and memory that it takes: the expressions are ours.
class Pretokenizer::Pattern {
  public:
    Pattern(std::string_view pattern, bool characters) : unicode_(characters)
    {
        // What \s matches differs between engines in U+180E. Here it is Unicode's White_Space, as in tokenizer.json.
        std::string exact;
        for (size_t i = 0; i < pattern.size(); i++) {
            const std::string_view two = pattern.substr(i, 2);
            if (characters && (two == R"(\s)" || two == R"(\S)"))
                exact += two == R"(\s)" ? R"(\p{White_Space})" : R"(\P{White_Space})", i++;
            else exact += pattern[i];
        }
        int error = 0;
        size_t at = 0;
        code_ = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(exact.data()), exact.size(),
                              characters ? PCRE2_UTF | PCRE2_UCP : 0, &error, &at, nullptr);
        HEARTH_CHECK(code_);
        pcre2_jit_compile(code_, PCRE2_JIT_COMPLETE);    // where it cannot, matching takes longer
        limits_ = pcre2_match_context_create(nullptr);
        HEARTH_CHECK(limits_);
        pcre2_set_match_limit(limits_, UINT32_MAX);
        pcre2_set_depth_limit(limits_, UINT32_MAX);
        pcre2_set_heap_limit(limits_, UINT32_MAX);
    }
    ~Pattern()
    {
        pcre2_match_context_free(limits_);
        pcre2_code_free(code_);
    }
    Pattern(const Pattern&) = delete;
    Pattern& operator=(const Pattern&) = delete;

    /// Appends the parts of a text, valid UTF-8 where the pattern is one of characters.
    void cut(std::string_view text, std::vector<std::string_view>& parts) const
    {
        const std::unique_ptr<pcre2_match_data, void (*)(pcre2_match_data*)> found(pcre2_match_data_create(1, nullptr),
                                                                                   pcre2_match_data_free);
        HEARTH_CHECK(found);
        const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
        const size_t* bounds = pcre2_get_ovector_pointer(found.get());
        for (size_t at = 0; at < text.size();) {
            int status = pcre2_match(code_, subject, text.size(), at, PCRE2_NO_UTF_CHECK, found.get(), limits_);
            if (status == PCRE2_ERROR_JIT_STACKLIMIT)
                status = pcre2_match(code_, subject, text.size(), at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, found.get(),
                                     limits_);
            if (status < 0 && status != PCRE2_ERROR_NOMATCH)
                throw Error("a text of {} bytes is too long to be tokenised at once; split it", text.size());
            const size_t begin = status < 0 ? text.size() : bounds[0];
            if (begin > at) parts.push_back(text.substr(at, begin - at));
            if (begin == text.size()) return;
            parts.push_back(text.substr(begin, bounds[1] - begin));
            at = bounds[1];
        }
    }

    bool unicode() const { return unicode_; }

  private:
    bool unicode_;
    pcre2_code* code_ = nullptr;
    pcre2_match_context* limits_ = nullptr;
};

Pretokenizer::Pretokenizer(const PretokenizerKind& kind)
{
    for (const std::string_view pattern : kind.patterns) patterns_.push_back(std::make_unique<Pattern>(pattern, true));
    for (const std::string_view pattern : kind.byte_patterns)
        patterns_.push_back(std::make_unique<Pattern>(pattern, false));
}

Pretokenizer::~Pretokenizer() = default;

std::vector<std::string_view> Pretokenizer::parts(std::string_view text) const
{
    std::vector<std::string_view> all, before, after;
    for (const Utf8Run& run : utf8_runs(text)) {
        before = {run.text};
        for (const auto& pattern : patterns_) {
            if (pattern->unicode() && !run.valid) continue;
            after.clear();
            for (const std::string_view part : before) pattern->cut(part, after);
            std::swap(before, after);
        }
        all.insert(all.end(), before.begin(), before.end());
    }
    return all;
}

}    // namespace hearth
