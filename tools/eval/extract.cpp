#include "tools/eval/extract.h"

#include "tools/eval/pattern.h"

#include <algorithm>
#include <cctype>
#include <map>

namespace hearth::eval {

namespace {

std::string stripped(std::string_view text)
{
    constexpr std::string_view white = " \t\n\r\f\v";
    const size_t begin = text.find_first_not_of(white);
    if (begin == text.npos) return "";
    return std::string(text.substr(begin, text.find_last_not_of(white) - begin + 1));
}

const Pattern& compiled(const std::string& expression)
{
    static std::map<std::string, Pattern> known;
    return known.try_emplace(expression, expression).first->second;
}

}    // namespace

std::string extract(const Extraction& how, std::string_view answer)
{
    const auto all = compiled(how.pattern).find_all(answer);
    if (all.empty()) return std::string(nothing_found);
    const std::vector<std::string>& groups = how.last ? all.back() : all.front();
    const auto found = std::ranges::find_if(groups, [](const std::string& g) { return !g.empty(); });
    if (found != groups.end()) return stripped(*found);
    return groups.size() > 1 ? std::string(nothing_found) : "";    // only of several groups is an empty one no result
}

std::string comparable(std::string_view result)
{
    std::string text(result);
    for (const char* ignored : {",", R"(\$)", "(?s).*#### ", R"(\.$)"}) text = compiled(ignored).without(text);
    std::ranges::transform(text, text.begin(), [](unsigned char c) { return char(std::tolower(c)); });
    return text;
}

}    // namespace hearth::eval
