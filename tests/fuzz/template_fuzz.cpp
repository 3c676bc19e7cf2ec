// A chat template and what a user says, a zero byte between them, rendered for a few conversations. A template is foreign code: it ends within the limits that
// it is given, and nothing of what it writes counts as its own that was said by somebody.
#include "engine/model/chat_template.h"
#include "tests/fuzz/fuzz.h"

namespace hearth::fuzz {

namespace {

constexpr uint64_t most_memory = 4 << 20;

}    // namespace

const uint64_t base_memory = 4 * most_memory;    // values, the text that comes of them, and both as they grow

void read(std::string_view bytes)
{
    const std::string_view source = bytes.substr(0, bytes.find('\0')), said = bytes.substr(std::min(bytes.size(), source.size() + 1));
    const ChatTemplate format("fuzz", source, nullptr);
    const auto message = [&](std::string_view role, std::string_view text) { return chat_message(role, jinja::Data::Text{{std::string(text), false}}); };
    const jinja::Data::List conversations[] = {
        {message("user", said)},
        {message("system", "You help."), message("user", said), message("assistant", "<think>\nhm\n</think>\n\nYes."), message("user", "")},
        {message("user", "a"), message("user", "b"), message("tool", said)},
        {},
    };
    const jinja::Data::Dict function = {{"name", jinja::Data::text("f")}, {"parameters", jinja::Data::Dict{{"type", jinja::Data::text("object")}}}};
    const jinja::Data::List tools = {jinja::Data::Dict{{"type", jinja::Data::text("function")}, {"function", function}}};
    for (const jinja::Data::List& messages : conversations)
        for (const bool answer : {false, true})
            try_to([&] {
                const jinja::Data::Dict variables = {{"messages", messages},
                                                     {"add_generation_prompt", answer},
                                                     {"bos_token", jinja::Data::text("<s>", true)},
                                                     {"eos_token", jinja::Data::text("</s>", true)},
                                                     {"tools", answer ? tools : jinja::Data()}};
                const auto pieces = format.render(variables, {.steps = 100'000, .memory = most_memory, .output = 1 << 20, .now = 0});
                for (size_t i = 0; i < pieces.size(); ++i) FUZZ_CHECK(!pieces[i].text.empty() && (i == 0 || pieces[i].own != pieces[i - 1].own));
                FUZZ_CHECK(jinja::text_of(pieces).size() <= 1 << 20);
                opened_thought(pieces);
            });
}

}    // namespace hearth::fuzz
