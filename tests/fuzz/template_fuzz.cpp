// A chat template and what a user says, a zero byte between them, rendered for a few conversations and cut into tokens.
// A template is foreign code: it ends within the limits that it is given, and nothing of what it writes counts as its
// own that was said by somebody.
#include "engine/text/chat_template.h"
#include "tests/fuzz/fuzz.h"
#include "tests/tiny_tokenizer.h"

namespace hearth::fuzz {

namespace {

using jinja::Data;

constexpr uint64_t most_memory = 4 << 20;
constexpr jinja::Limits limits = {.steps = 100'000, .memory = most_memory, .output = 1 << 20, .now = 0};

/// Characters of the private use area stand around what is said: no template makes them by itself, but by an escape.
constexpr std::string_view begin_said = "\ue123", end_said = "\ue124";

const Owned& model()
{
    static const Owned owned = [] {
        struct List : TokenList<List> {
        } list;
        list.add("<unk>", unknown).add("<s>", control).add("</s>", control);
        list.add_bytes();
        list.add("\u2581")
            .add("<|im_start|>", control)
            .add("<|im_end|>", user_defined)
            .add("[INST]")
            .add("<think>", user_defined);
        return Owned(list.written("llama"));
    }();
    return owned;
}

/// A mark can come of the template's own characters only.
void check_origins(std::string_view source, const std::vector<jinja::Piece>& pieces, const std::vector<Token>& ids)
{
    const bool escapes = source.find('\\') != source.npos || source.find('%') != source.npos;    // %c, too
    if (escapes) return;
    if (source.find("\xee\x84") == source.npos)
        for (const jinja::Piece& piece : pieces)
            FUZZ_CHECK(!piece.own || (piece.text.find(begin_said) == piece.text.npos &&
                                      piece.text.find(end_said) == piece.text.npos));
    if (source.find('<') != source.npos || source.find("_token") != source.npos) return;
    for (size_t i = 1; i < ids.size(); i++) FUZZ_CHECK(!model().tokenizer.control(ids[i]));    // the first is BOS
}

}    // namespace

const uint64_t base_memory = 4 * most_memory;    // values, the text that comes of them, and both as they grow

void read(std::string_view bytes)
{
    const std::string_view source = bytes.substr(0, bytes.find('\0')),
                           said = bytes.substr(std::min(bytes.size(), source.size() + 1));
    const ChatTemplate format("fuzz", source, &model().file);
    const auto message = [&](std::string_view role, std::string_view text) {
        return chat_message(role, Data::Text{{fmt::format("{}{}{}", begin_said, text, end_said), false}});
    };
    const Data::Dict function = {{"name", Data::text("f")},
                                 {"description", Data::text("\"d\"")},
                                 {"parameters", Data::Dict{{"type", Data::text("object")}}}};
    const Data::List tools = {Data::Dict{{"type", Data::text("function")}, {"function", function}}};
    const Data::List conversations[] = {
        {message("user", said)},
        {message("system", "You help."), message("user", said), message("assistant", "<think>\nhm\n</think>\n\nYes."),
         message("user", "")},
        {message("user", "a"),
         Data::Dict{{"role", Data::text("assistant", true)}, {"content", Data()}, {"tool_calls", tools}},
         message("tool", said)},
        {},
    };
    ChatEncoder encoder(model().tokenizer, format);
    for (const Data::List& messages : conversations)
        for (const bool answer : {false, true})
            try_to([&] {
                const Data::Dict variables = {
                    {"messages", messages}, {"add_generation_prompt", answer}, {"tools", answer ? tools : Data()}};
                const std::vector<jinja::Piece> pieces = format.render(variables, limits);
                for (size_t i = 0; i < pieces.size(); ++i)
                    FUZZ_CHECK(!pieces[i].text.empty() && (i == 0 || pieces[i].own != pieces[i - 1].own));
                FUZZ_CHECK(jinja::text_of(pieces).size() <= limits.output);
                opened_thought(pieces);
                if (jinja::text_of(pieces).size() > 1 << 14) return;    // what tokens take is no template's
                const std::vector<Token> ids = encoder.encode(pieces);
                FUZZ_CHECK(!ids.empty());
                for (const Token id : ids) FUZZ_CHECK(id < model().tokenizer.size());
                check_origins(source, pieces, ids);
            });
}

}    // namespace hearth::fuzz
