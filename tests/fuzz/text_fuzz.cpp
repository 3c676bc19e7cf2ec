// Any text, cut into words by every kind of pre-tokenizer (the first byte says which) and brought into normal form.
#include "engine/text/normal_form.h"
#include "engine/text/pretokenizer.h"
#include "tests/fuzz/fuzz.h"

#include <map>
#include <memory>
#include <sstream>

namespace hearth::fuzz {

const uint64_t base_memory = 1 << 20;

void read(std::string_view bytes)
{
    static const std::map<const PretokenizerKind*, std::unique_ptr<Pretokenizer>> kinds = [] {
        std::map<const PretokenizerKind*, std::unique_ptr<Pretokenizer>> all;
        std::istringstream names(pretokenizer_names());
        for (std::string name; names >> name;) {
            if (name.ends_with(',')) name.pop_back();
            const PretokenizerKind* const kind = find_pretokenizer(name);
            if (auto& one = all[kind]; !one) one = std::make_unique<Pretokenizer>(*kind);
        }
        return all;
    }();
    if (bytes.empty()) return;
    const Pretokenizer& kind = *std::next(kinds.begin(), uint8_t(bytes[0]) % kinds.size())->second;
    const std::string_view text = bytes.substr(1);
    size_t at = 0;
    for (const std::string_view part : kind.parts(text)) {
        FUZZ_CHECK(!part.empty() && part.data() == text.data() + at);
        at += part.size();
    }
    FUZZ_CHECK(at == text.size());
    const std::string normal = normal_form_c(text);
    FUZZ_CHECK(normal_form_c(normal) == normal);
    const std::string shown = printable(text);
    FUZZ_CHECK(printable(shown) == shown);
}

}    // namespace hearth::fuzz
