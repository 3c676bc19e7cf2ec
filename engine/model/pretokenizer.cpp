#include "engine/model/pretokenizer.h"

#include "engine/error.h"
#include "engine/model/utf8.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

namespace hearth {

namespace {

constexpr std::string_view gpt2 = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr std::string_view llama3 = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|)"
                                    R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view qwen2 = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|)"
                                   R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

// As the models' tokenizer.json have them, under the names that converters to GGUF use.
const PretokenizerKind kinds[] = {
    {.names = {"default", "gpt-2", "opt", "phi-2", "mpt", "olmo"}, .patterns = {gpt2}},
    {.names = {"llama-bpe", "llama3", "llama-v3"}, .patterns = {llama3}, .whole_words = true, .add_bos = true},
    {.names = {"smaug-bpe", "dbrx"}, .patterns = {llama3}},
    {.names = {"qwen2"}, .patterns = {qwen2}, .normal_form_c = true},
    {.names = {"smollm", "refact", "starcoder"}, .patterns = {R"(\p{N})", gpt2}},
    // Its digits are cut in GPT-2's alphabet for bytes, in which these six stand for themselves and are numeric: the bytes of ² ³ ¹ ¼ ½ ¾ in Latin-1.
    {.names = {"falcon"}, .patterns = {R"([\p{P}$+<=>^`|~]+)", gpt2}, .byte_patterns = {R"([0-9\xb2\xb3\xb9\xbc\xbd\xbe]+)", "[0-9][0-9][0-9]"}},
    {.names = {"deepseek-coder"},
     .patterns = {R"([\r\n])", R"(\s?\p{L}+)", R"(\s?\p{P}+)", R"([\x{4e00}-\x{9fa5}\x{800}-\x{4e00}\x{ac00}-\x{d7ff}]+)", R"(\p{N})"}},
};

}    // namespace

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
        for (const std::string_view name : kind.names) names += fmt::format("{}{}", names.empty() ? "" : ", ", name);
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
            if (characters && (two == R"(\s)" || two == R"(\S)")) exact += two == R"(\s)" ? R"(\p{White_Space})" : R"(\P{White_Space})", i++;
            else exact += pattern[i];
        }
        int error = 0;
        size_t at = 0;
        code_ = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(exact.data()), exact.size(), characters ? PCRE2_UTF | PCRE2_UCP : 0, &error, &at, nullptr);
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
        const std::unique_ptr<pcre2_match_data, void (*)(pcre2_match_data*)> found(pcre2_match_data_create(1, nullptr), pcre2_match_data_free);
        HEARTH_CHECK(found);
        const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
        const size_t* bounds = pcre2_get_ovector_pointer(found.get());
        for (size_t at = 0; at < text.size();) {
            int status = pcre2_match(code_, subject, text.size(), at, PCRE2_NO_UTF_CHECK, found.get(), limits_);
            if (status == PCRE2_ERROR_JIT_STACKLIMIT)
                status = pcre2_match(code_, subject, text.size(), at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, found.get(), limits_);
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
    for (const std::string_view pattern : kind.byte_patterns) patterns_.push_back(std::make_unique<Pattern>(pattern, false));
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
