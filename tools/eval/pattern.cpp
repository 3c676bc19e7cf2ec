#include "tools/eval/pattern.h"

#include "engine/error.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <cstdint>

namespace hearth::eval {

namespace {

std::string message(int error)
{
    PCRE2_UCHAR text[256] = {};
    pcre2_get_error_message(error, text, sizeof text);
    return reinterpret_cast<const char*>(text);
}

}    // namespace

struct Pattern::Code {
    pcre2_code* compiled = nullptr;
    uint32_t groups = 0;
    std::string expression;

    ~Code() { pcre2_code_free(compiled); }
};

/// Where a match lies, and its groups.
struct Pattern::Match {
    size_t begin, end;
    std::vector<std::string> groups;
};

Pattern::Pattern(std::string_view expression) : code_(std::make_unique<Code>())
{
    pcre2_compile_context* const context = pcre2_compile_context_create(nullptr);
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    int error = 0;
    PCRE2_SIZE at = 0;
    code_->compiled = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(expression.data()), expression.size(), PCRE2_UTF,
                                    &error, &at, context);
    pcre2_compile_context_free(context);
    if (!code_->compiled)
        throw Error("'{}' is no regular expression: {} at its byte {}", expression, message(error), at);
    pcre2_pattern_info(code_->compiled, PCRE2_INFO_CAPTURECOUNT, &code_->groups);
    code_->expression = expression;
}

Pattern::Pattern(Pattern&&) noexcept = default;
Pattern& Pattern::operator=(Pattern&&) noexcept = default;
Pattern::~Pattern() = default;

std::vector<Pattern::Match> Pattern::matches(std::string_view text) const
{
    const std::unique_ptr<pcre2_match_data, void (*)(pcre2_match_data*)> data(
        pcre2_match_data_create_from_pattern(code_->compiled, nullptr), pcre2_match_data_free);
    const PCRE2_SIZE* const ends = pcre2_get_ovector_pointer(data.get());
    std::vector<Match> all;
    uint32_t options = 0;
    for (size_t from = 0; from <= text.size();) {
        const int found = pcre2_match(code_->compiled, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from,
                                      options, data.get(), nullptr);
        if (found == PCRE2_ERROR_NOMATCH) break;
        if (found < 0)
            throw Error("the expression '{}' cannot be looked for in an answer: {}", code_->expression, message(found));
        Match match = {.begin = ends[0], .end = ends[1], .groups = {}};
        const uint32_t first = code_->groups > 0;
        for (uint32_t g = first; g <= code_->groups; ++g)
            match.groups.emplace_back(ends[2 * g] == PCRE2_UNSET
                                          ? std::string_view()
                                          : text.substr(ends[2 * g], ends[2 * g + 1] - ends[2 * g]));
        from = match.end;
        // Behind an empty match, one that is not empty may begin at the same place.
        options = match.begin == match.end ? PCRE2_NOTEMPTY_ATSTART : 0;
        all.push_back(std::move(match));
    }
    return all;
}

std::vector<std::vector<std::string>> Pattern::find_all(std::string_view text) const
{
    std::vector<std::vector<std::string>> all;
    for (Match& m : matches(text)) all.push_back(std::move(m.groups));
    return all;
}

std::string Pattern::without(std::string_view text) const
{
    std::string out;
    size_t from = 0;
    for (const Match& m : matches(text)) {
        out += text.substr(from, m.begin - from);
        from = m.end;
    }
    return out + std::string(text.substr(from));
}

}    // namespace hearth::eval
