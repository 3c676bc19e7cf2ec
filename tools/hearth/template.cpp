// hearth template: a chat template, or the text and tokens that it makes of a conversation. No model is run.
#include "tools/hearth/confine.h"
#include "tools/hearth/conversation.h"

#include <fstream>

namespace hearth::tools {

namespace {

struct TemplateOptions {
    std::string file, name;
    std::vector<Override> overrides;
    TextOptions text;
    bool json = false;
};

bool is_model(const std::string& path)
{
    char magic[4] = {};
    std::ifstream(std::filesystem::path(path), std::ios::binary).read(magic, sizeof magic);
    const std::string_view word(magic, sizeof magic);
    return word == "GGUF" || word == "PWRI";
}

nlohmann::ordered_json parsed(std::string_view text)
{
    try {
        return nlohmann::ordered_json::parse(text);
    } catch (const nlohmann::json::exception& e) {
        throw Error("a conversation is no JSON: {}", printable(e.what()));
    }
}

/// The conversations in a text: one, or one a line.
std::vector<nlohmann::ordered_json> conversations(const std::string& text)
{
    if (auto one = nlohmann::ordered_json::parse(text, nullptr, false); !one.is_discarded()) return {std::move(one)};
    std::vector<nlohmann::ordered_json> all;
    for (size_t begin = 0, end; begin < text.size(); begin = end + 1) {
        end = std::min(text.find('\n', begin), text.size());
        const std::string_view line = std::string_view(text).substr(begin, end - begin);
        if (line.find_first_not_of(" \t\r") != line.npos) all.push_back(parsed(line));
    }
    if (all.size() < 2) parsed(text);    // to say what is wrong with it
    return all;
}

void render(const TemplateOptions& o)
{
    confinement().all(true);
    std::shared_ptr<const Gguf> model;
    std::optional<Tokenizer> tokenizer;
    if (is_model(o.file)) {
        model = open_model({o.file, o.overrides});
        tokenizer.emplace(*model);
        for (const std::string& note : tokenizer->notes()) say("note: {}", note);
    }
    const ChatTemplate format = choose_template(o.name.empty() && !model ? o.file : o.name, model.get());
    if (o.text.text.empty() && o.text.file.empty()) return print_text(format.source());

    std::vector<nlohmann::ordered_json> all;
    if (o.text.file.empty()) all.push_back({{{"role", "user"}, {"content", o.text.text}}});
    else all = conversations(read_text(o.text));
    std::string out;
    for (nlohmann::ordered_json& json : all) {
        nlohmann::ordered_json result;
        try {
            // As transformers takes it, a conversation may bring its own.
            std::optional<ChatTemplate> brought;
            if (json.is_object() && json.contains("chat_template") && json["chat_template"].is_string()) {
                brought.emplace("chat_template", json["chat_template"].get<std::string>(), model.get());
                json.erase("chat_template");
            }
            const ChatTemplate& used = brought ? *brought : format;
            const std::vector<jinja::Piece> pieces = used.render(conversation(json));
            result["text"] = text_of(pieces);
            if (tokenizer) {
                ChatEncoder encoder(*tokenizer, used);
                const std::vector<Token> ids = encoder.encode(pieces);
                result["ids"] = ids;
                for (const Token id : ids) result["pieces"].push_back(tokenizer->piece(id));
                if (&json == &all[0]) say_loose_marks(encoder);
            }
        } catch (const jinja::TemplateRefusal& refusal) {
            if (all.size() == 1)
                throw Error("the chat template does not take this conversation: {}", printable(refusal.what_alone));
            result = {{"error", refusal.what_alone}, {"line", refusal.line}};
        } catch (const jinja::TemplateError& error) {
            if (all.size() == 1) throw not_rendered(format, error);
            result = {{"error", error.what_alone}, {"line", error.line}};
        }
        if (o.json) out += result.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
        else if (result.contains("text")) out += result["text"].get_ref<const std::string&>();
        else say("line {}: {}", result["line"].get<uint32_t>(), printable(result["error"].get<std::string>()));
    }
    print_text(out);
}

}    // namespace

Command add_template(CLI::App& app)
{
    auto o = std::make_shared<TemplateOptions>();
    group(app, "Model");
    app.add_option("-m,--model,FILE", o->file, "a model, or a file with a chat template")
        ->required()
        ->check(not_empty())
        ->type_name("FILE");
    add_override(app, o->overrides);
    group(app, "Text");
    auto* text = app.add_option("-p,--prompt", o->text.text, "a conversation of one question");
    app.add_option("-f,--file", o->text.file,
                   "conversations in JSON, one or one a line: a list of messages, or an object with `messages` and "
                   "further variables; - is standard input")
        ->check(not_empty())
        ->excludes(text);
    app.add_option("--template", o->name,
                   "one of the model's templates by name, a file with one, or one of " + template_names());
    group(app, "Output");
    app.add_flag("--json", o->json, "text, ids and pieces as JSON, a line for each conversation");
    confinement().add_option(app, true);
    return [o] { render(*o); };
}

}    // namespace hearth::tools
