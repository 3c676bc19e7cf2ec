// A chat template and what a user says, a zero byte between: rendered, and cut into tokens. What was said stays text, whatever the template does with it.
#include "engine/model/chat_template.h"
#include "tests/fuzz/fuzz.h"
#include "tests/tiny_tokenizer.h"

namespace hearth::fuzz {

const uint64_t base_memory = 96 << 20;    // the interpreter's own limit is below, by its own counting

namespace {

constexpr jinja::Limits limits = {.steps = 100'000, .memory = 24 << 20, .output = 1 << 20, .now = 1'700'000'000};

/// Two characters of the private use area stand around what is said: no template makes them by itself, but by an escape.
constexpr std::string_view begin_said = "\ue123", end_said = "\ue124";

/// A tool as a template is given it.
jinja::Data tool()
{
    using jinja::Data;
    const Data place(Data::Dict{{"type", Data::text("string")}, {"description", Data::text("a \"place\"")}});
    const Data parameters(Data::Dict{{"type", Data::text("object")}, {"properties", Data(Data::Dict{{"place", place}})}, {"required", Data(Data::List{Data::text("place")})}});
    return Data(Data::Dict{{"type", Data::text("function")},
                           {"function", Data(Data::Dict{{"name", Data::text("f")}, {"description", Data::text("d")}, {"parameters", parameters}})}});
}

const Owned& model()
{
    static const Owned owned = [] {
        struct List : TokenList<List> {
        } list;
        list.add("<unk>", unknown).add("<s>", control).add("</s>", control);
        list.add_bytes();
        list.add("\u2581").add("<|im_start|>", control).add("<|im_end|>", user_defined).add("[INST]").add("<think>", user_defined);
        return Owned(list.written("llama"));
    }();
    return owned;
}

}    // namespace

void read(std::string_view bytes)
{
    using jinja::Data;
    const std::string_view source = bytes.substr(0, bytes.find('\0')), said = bytes.substr(std::min(bytes.size(), source.size() + 1));
    const ChatTemplate format("fuzz", source, &model().file);
    const std::string user = fmt::format("{}{}{}", begin_said, said, end_said);
    const Data::List messages = {chat_message("system", {{user, false}}), chat_message("user", {{"a", false}}),
                                 Data(Data::Dict{{"role", Data::text("assistant", true)}, {"content", Data()}, {"tool_calls", Data(Data::List{tool()})}}),
                                 chat_message("assistant", {{user, false}}), chat_message("user", {{user, false}})};
    const Data::Dict variables = {{"messages", Data(messages)}, {"tools", Data(Data::List{tool()})}, {"add_generation_prompt", Data(true)}};
    const std::vector<jinja::Piece> pieces = format.render(variables, limits);

    const bool escapes = source.find('\\') != source.npos || source.find("%c") != source.npos;
    if (!escapes && source.find("\xee\x84") == source.npos)
        for (const jinja::Piece& piece : pieces)
            FUZZ_CHECK(!piece.own || (piece.text.find(begin_said) == piece.text.npos && piece.text.find(end_said) == piece.text.npos));

    ChatEncoder encoder(model().tokenizer, format);
    const std::vector<Token> ids = encoder.encode(pieces);
    FUZZ_CHECK(!ids.empty());
    const bool writes_marks = escapes || source.find('<') != source.npos || source.find("_token") != source.npos;
    for (size_t i = 0; i < ids.size(); i++) {
        FUZZ_CHECK(ids[i] < model().tokenizer.size());
        FUZZ_CHECK(i == 0 || writes_marks || !model().tokenizer.control(ids[i]));
    }
    encoder.stops();
    opened_thought(pieces);
}

}    // namespace hearth::fuzz
