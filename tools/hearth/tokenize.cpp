// hearth tokenize: ids and pieces of a text, without BOS.
#include "engine/model/other_kinds.h"
#include "tools/hearth/cli.h"
#include "tools/hearth/confine.h"
#include "tools/hearth/text.h"

namespace hearth::tools {

Command add_tokenize(CLI::App& app)
{
    struct Options {
        ModelOptions model;
        TextOptions text;
        bool json = false, many = false, special = false;
    };
    auto o = std::make_shared<Options>();
    add_model_options(app, o->model);
    add_text_options(app, o->text);
    group(app, "Output");
    confinement().add_option(app, true);
    app.add_flag("--json", o->json, "ids, pieces and the text that they give back, as JSON");
    app.add_flag("-0,--null", o->many,
                 "many texts, each ended by a zero byte and taken byte for byte; a line of JSON for each");
    app.add_flag("--special", o->special,
                 "take control tokens that are written out (<s>) for what they are, not for text");
    return [o] {
        confinement().all(true);
        const auto file = open_model(o->model);
        if (!file->keys().contains("tokenizer.ggml.tokens")) refuse_other_kinds(*file);
        const Tokenizer tokenizer(*file);
        for (const std::string& note : tokenizer.notes()) say("note: {}", note);
        const std::string text = o->many && !o->text.file.empty() ? read_bytes(o->text.file) : read_text(o->text);
        const auto as_json = [&](const std::vector<Token>& ids) {
            nlohmann::json json = {{"ids", ids}, {"pieces", nlohmann::json::array()}, {"text", tokenizer.decode(ids)}};
            for (const Token id : ids) json["pieces"].push_back(tokenizer.piece(id));
            return json;
        };
        if (o->many) {
            std::string lines;
            for (size_t begin = 0, end; begin < text.size(); begin = end + 1) {
                end = std::min(text.find('\0', begin), text.size());
                const std::vector<Token> ids =
                    tokenizer.encode(std::string_view(text).substr(begin, end - begin), o->special);
                lines += dump(as_json(ids), -1);
            }
            return print(lines);
        }
        const std::vector<Token> ids = tokenizer.encode(text, o->special);
        if (o->json) return print(dump(as_json(ids)));
        std::string out;
        for (const Token id : ids) out += fmt::format("{:7} {}\n", id, visible(tokenizer.piece(id)));
        print(out);
    };
}

}    // namespace hearth::tools
